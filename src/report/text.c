#include "report/render.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "report/json_text.h"

#define SIZE_TEXT 32 /* tm_format_size */

/* C0, DEL, and C1 as UTF-8 writes it (U+0080..U+009F). */
static bool is_control(const char *text)
{
	unsigned char c = (unsigned char)text[0], next = c ? (unsigned char)text[1] : 0;

	return (c < 0x20 && c != '\t') || c == 0x7f || (c == 0xc2 && next >= 0x80 && next <= 0x9f);
}

/* Strings of a report come from elsewhere: control characters must not reach a terminal. */
static void put_text(FILE *out, const char *text)
{
	for (; *text; text++) {
		bool control = is_control(text);

		fputc(control ? '?' : *text, out);
		text += control && *text == '\xc2';
	}
}

static void put_size(FILE *out, uint64_t size)
{
	char text[SIZE_TEXT];

	fputs(tm_format_size((double)size, false, text), out);
}

/* A sum of bytes; a sampled one with its standard error. */
static void put_sum(FILE *out, const struct tm_report_view *view, uint64_t size, double variance)
{
	char text[SIZE_TEXT];

	put_size(out, size);
	if (view->sample)
		fprintf(out, " \xc2\xb1 %s", tm_format_size(sqrt(variance), false, text));
}

static const char *meta_or(const struct tm_report *report, const char *key, const char *otherwise)
{
	const char *value = tm_report_meta(report, key);

	return value ? value : otherwise;
}

/* A program that gives itself a title (setproctitle) leaves blanks or empty arguments behind it. */
static size_t length_without_blanks(const char *text)
{
	size_t length = strlen(text);

	while (length && text[length - 1] == ' ')
		length--;
	return length;
}

static void put_command(FILE *out, const struct tm_report *report)
{
	const char *cursor = tm_report_meta(report, "command");
	struct tm_strbuf word = {0}, line = {0};

	while (cursor && tm_json_next_string(&cursor, &word)) {
		tm_strbuf_puts(&line, line.length ? " " : "");
		tm_strbuf_puts(&line, word.text);
	}
	if (line.text)
		line.text[length_without_blanks(line.text)] = '\0';
	put_text(out, line.text && *line.text ? line.text : meta_or(report, "exe", "?"));
	tm_strbuf_deinit(&word);
	tm_strbuf_deinit(&line);
}

static double seconds(uint64_t nanoseconds)
{
	return (double)nanoseconds / 1e9;
}

/* The peak has no time of its own: its snapshot is made at the end, from what the tracer remembers. */
static void put_snapshot(FILE *out, const struct tm_report_view *view)
{
	if (strcmp(view->snapshot_name, "end") == 0)
		return;
	fputs("Snapshot ", out);
	put_text(out, view->snapshot_name);
	if (strcmp(view->snapshot_name, "peak") == 0)
		fputs(": what was live when the most bytes were\n", out);
	else
		fprintf(out, ", taken at %.1f s\n", seconds(view->time));
}

static bool is_at_every_end(const char *name)
{
	return strcmp(name, "end") == 0 || strcmp(name, "peak") == 0;
}

/* Those that not every report has. */
static void put_snapshot_names(FILE *out, const struct tm_report_view *view)
{
	const char *separator = "Snapshots (--at NAME): ";

	for (size_t i = 0; i < view->snapshot_count; i++) {
		if (is_at_every_end(view->snapshots[i].name))
			continue;
		fputs(separator, out);
		put_text(out, view->snapshots[i].name);
		fprintf(out, " at %.1f s", seconds(view->snapshots[i].time));
		separator = ", ";
	}
	if (*separator == ',')
		fputs(", peak, end\n", out);
}

static void put_sample(FILE *out, const struct tm_report_view *view)
{
	if (!view->sample)
		return;
	fputs("sampled: one in about ", out);
	put_size(out, view->sample);
	fputs("; numbers are estimates, \xc2\xb1 one standard error\n", out);
}

static void put_header(FILE *out, const struct tm_report *report, const struct tm_report_view *view)
{
	const char *duration = tm_report_meta(report, "duration_ns");

	put_command(out, report);
	fputs(" (pid ", out);
	put_text(out, meta_or(report, "pid", "?"));
	fputs("), ", out);
	if (*meta_or(report, "within", "")) {
		fputs("within ", out);
		put_text(out, meta_or(report, "within", ""));
		fputs(", ", out);
	}
	put_text(out, meta_or(report, "ended", "still traced, or the tracer was killed"));
	if (duration)
		fprintf(out, " after %.1f s", seconds(strtoull(duration, NULL, 10)));
	fputc('\n', out);
	put_sample(out, view);
	put_snapshot_names(out, view);
	put_snapshot(out, view);
}

/* The groups of one domain, as they are listed. */
struct listing {
	const struct tm_report_view *view;
	const struct tm_render_options *options;
	struct tm_statistics statistics;
	struct tm_statistics functions; /* to tell what a module without lines is made of */
};

static const char *const group_titles[] = {
	[TM_GROUP_LINENO] = "lines",	   [TM_GROUP_FILENAME] = "files", [TM_GROUP_TRACEBACK] = "tracebacks",
	[TM_GROUP_FUNCTION] = "functions", [TM_GROUP_MODULE] = "modules", [TM_GROUP_THREAD] = "threads",
};

static void put_title(FILE *out, const struct tm_render_options *options)
{
	if (options->limit)
		fprintf(out, "Top %zu %s", options->limit, group_titles[options->group_by]);
	else
		fprintf(out, "All %s", group_titles[options->group_by]);
	fputs(options->cumulative ? " (cumulative)\n" : "\n", out);
}

/* Statistic.__str__ behind the traceback. */
static void put_numbers(FILE *out, const struct tm_report_view *view, const struct tm_statistic *statistic)
{
	char text[SIZE_TEXT];

	fputs("size=", out);
	put_sum(out, view, statistic->size, statistic->size_variance);
	fprintf(out, ", count=%" PRIu64, statistic->count);
	if (statistic->count)
		fprintf(out, ", average=%s",
			tm_format_size((double)statistic->size / (double)statistic->count, false, text));
	fputc('\n', out);
}

static void put_source(FILE *out, const struct tm_named_frame *frame)
{
	if (!frame->source || !*frame->source)
		return;
	fputs("    ", out);
	put_text(out, frame->source);
	fputc('\n', out);
}

/* Traceback.format's lines, with the function; a place without line information as module+offset. */
static void put_traceback_frame(FILE *out, const struct tm_named_frame *frame)
{
	const char *in = ", in ";

	if (frame->lineno) {
		fputs("  File \"", out);
		put_text(out, frame->filename);
		fprintf(out, "\", line %" PRIu32, frame->lineno);
	} else {
		fputs("  ", out);
		put_text(out, frame->module);
		fprintf(out, "+0x%" PRIx64, frame->offset);
		in = " in ";
	}
	if (frame->function) {
		fputs(in, out);
		put_text(out, frame->function);
	}
	fputc('\n', out);
	put_source(out, frame);
}

static void put_traceback(FILE *out, const struct tm_statistic *statistic)
{
	for (uint32_t i = 0; i < statistic->frame_count; i++)
		put_traceback_frame(out, statistic->frames[i]);
	if (!statistic->cut || !*statistic->cut)
		return;
	if (strcmp(statistic->cut, tm_cut_name(TM_CUT_LIMIT)) == 0)
		fprintf(out, "  ... cut at the limit of --nframe; %" PRIu32 " frames were on the stack\n",
			statistic->total_nframe);
	else
		fprintf(out, "  ... the stack could not be walked further (%s)\n", statistic->cut);
}

static void put_key(FILE *out, const struct tm_statistic *statistic, enum tm_group_by group_by, size_t rank)
{
	const struct tm_named_frame *frame = statistic->frame_count ? statistic->frames[0] : NULL;

	switch (group_by) {
	case TM_GROUP_LINENO:
	case TM_GROUP_FILENAME:
		put_text(out, frame->filename);
		fprintf(out, ":%" PRIu32 ": ", group_by == TM_GROUP_LINENO ? frame->lineno : 0);
		break;
	case TM_GROUP_TRACEBACK:
		fprintf(out, "#%zu: ", rank);
		break;
	case TM_GROUP_FUNCTION:
		put_text(out, frame->function ? frame->function : "<unknown>");
		fputs(" (", out);
		put_text(out, frame->module);
		fputs("): ", out);
		break;
	case TM_GROUP_MODULE:
		put_text(out, frame->module);
		fputs(": ", out);
		break;
	case TM_GROUP_THREAD:
		fputs("thread ", out);
		put_text(out, statistic->thread_name ? statistic->thread_name : "?");
		fprintf(out, " (%" PRIu32 "): ", statistic->tid);
		break;
	}
}

/* tracemalloc's key (filename, lineno) puts all of a module without line information on one line: tell the
   functions. */
static void put_functions_of(FILE *out, const struct tm_statistics *functions, const char *filename)
{
	enum { SHOWN = 3 };
	size_t count = 0;

	for (size_t i = 0; i < functions->count; i++) {
		const struct tm_statistic *function = &functions->items[i];
		const struct tm_named_frame *frame = function->frames[0];

		if (frame->lineno || strcmp(frame->filename, filename) != 0 || count++ >= SHOWN)
			continue;
		fputs(count == 1 ? "    no line information; in " : ", ", out);
		put_text(out, frame->function ? frame->function : "<unknown>");
		fputc(' ', out);
		put_size(out, function->size);
	}
	if (count > SHOWN)
		fprintf(out, ", %zu more", count - SHOWN);
	fputs(count ? "\n" : "", out);
}

static void put_statistic(FILE *out, const struct listing *listing, size_t index)
{
	const struct tm_statistic *statistic = &listing->statistics.items[index];
	enum tm_group_by group_by = listing->options->group_by;

	put_key(out, statistic, group_by, index + 1);
	put_numbers(out, listing->view, statistic);
	if (group_by == TM_GROUP_TRACEBACK)
		put_traceback(out, statistic);
	if (group_by != TM_GROUP_LINENO)
		return;
	if (statistic->frames[0]->lineno)
		put_source(out, statistic->frames[0]);
	else
		put_functions_of(out, &listing->functions, statistic->frames[0]->filename);
}

static void put_other(FILE *out, const struct listing *listing, size_t shown)
{
	const struct tm_statistics *statistics = &listing->statistics;
	uint64_t size = 0;
	double variance = 0;

	if (statistics->count <= shown)
		return;
	for (size_t i = shown; i < statistics->count; i++) {
		size += statistics->items[i].size;
		variance += statistics->items[i].size_variance;
	}
	fprintf(out, "%zu other: ", statistics->count - shown);
	put_sum(out, listing->view, size, variance);
	fputc('\n', out);
}

static void put_sum_of_traces(FILE *out, const struct tm_report_view *view)
{
	uint64_t size = 0;
	double variance = 0;

	for (size_t i = 0; i < view->trace_count; i++) {
		size += view->traces[i].size;
		variance += view->traces[i].size_variance;
	}
	fputs("Total allocated size: ", out);
	put_sum(out, view, size, variance);
	fputc('\n', out);
}

static void put_frees(FILE *out, const struct tm_report_view *view)
{
	const struct tm_totals *totals = &view->totals.totals;

	fprintf(out, "frees:        %" PRIu64, totals->frees);
	if (!view->sample) /* a sample does not tell them */
		fprintf(out, ", and %" PRIu64 " of blocks from before the trace", totals->unknown_frees);
	fputc('\n', out);
}

static void put_totals(FILE *out, const struct tm_report_view *view)
{
	const struct tm_totals *totals = &view->totals.totals;

	fputs("current:      ", out);
	put_sum(out, view, totals->current, totals->current_variance);
	fprintf(out, " in %" PRIu64 " blocks\npeak:         ", totals->blocks);
	put_sum(out, view, totals->peak, totals->peak_variance);
	fprintf(out, " in %" PRIu64 " blocks\n", totals->peak_blocks);
	fprintf(out, "allocations:  %" PRIu64 " (", totals->allocations);
	put_size(out, totals->allocated);
	fputs(")\n", out);
	put_frees(out, view);
	fprintf(out, "failed:       %" PRIu64 "\n", totals->failed);
}

static void put_lost(FILE *out, const struct tm_report_view *view)
{
	fprintf(out, "events lost:  %" PRIu64 "%s\n", view->totals.lost,
		view->totals.lost ? ": the numbers above are incomplete" : "");
}

static void put_cuts(FILE *out, const struct tm_report_view *view)
{
	uint64_t total = 0;

	for (size_t i = 0; i < view->cut_count; i++)
		total += view->cuts[i].tracebacks;
	if (!total)
		return;
	fprintf(out, "cut short:    %" PRIu64 " of the tracebacks (", total);
	for (size_t i = 0; i < view->cut_count; i++)
		fprintf(out, "%s%s %" PRIu64, i ? ", " : "", view->cuts[i].cut, view->cuts[i].tracebacks);
	fputs(")\n", out);
}

/* Frames of code without CFI (a JIT's), which only their frame pointers led through. */
static void put_fp_frames(FILE *out, const struct tm_report *report)
{
	const char *count = tm_report_meta(report, "fp_frames");

	if (count && strcmp(count, "0") != 0)
		fprintf(out, "no CFI:       %s frames passed by the frame pointer\n", count);
}

static void put_groups(FILE *out, const struct listing *listing)
{
	size_t limit = listing->options->limit, count = listing->statistics.count;
	size_t shown = limit && limit < count ? limit : count;

	put_title(out, listing->options);
	for (size_t i = 0; i < shown; i++)
		put_statistic(out, listing, i);
	put_other(out, listing, shown);
	put_sum_of_traces(out, listing->view);
}

static void put_domain_name(FILE *out, const struct tm_report *report, uint32_t domain)
{
	const char *name = tm_report_domain_name(report, domain);

	fprintf(out, "\nDomain %" PRIu32, domain);
	if (name) {
		fputs(", ", out);
		put_text(out, name);
	}
	fputc('\n', out);
}

/* Groups and totals of one domain. */
static struct tm_error *put_domain(FILE *out, const struct tm_report_view *view,
				   const struct tm_render_options *options)
{
	struct listing listing = {.view = view, .options = options};
	struct tm_error *err = tm_statistics_compute(view->traces, view->trace_count, options->group_by,
						     options->cumulative, &listing.statistics);

	if (err)
		return err;
	if (options->group_by == TM_GROUP_LINENO)
		err = tm_statistics_compute(view->traces, view->trace_count, TM_GROUP_FUNCTION,
					    options->cumulative, &listing.functions);
	if (!err) {
		put_groups(out, &listing);
		put_totals(out, view);
		tm_statistics_deinit(&listing.functions);
	}
	tm_statistics_deinit(&listing.statistics);
	return err;
}

/* One after the other: their bytes may be the same ones, seen at two levels, and are never summed. */
static struct tm_error *put_domains(FILE *out, const struct tm_report *report,
				    const struct tm_report_view *view,
				    const struct tm_render_options *options)
{
	struct tm_error *err = NULL;

	if (view->domain_count < 2)
		return put_domain(out, view, options);
	for (size_t i = 0; !err && i < view->domain_count; i++) {
		struct tm_report_view part = tm_report_view_of_domain(view, i);

		put_domain_name(out, report, view->domains[i].domain);
		err = put_domain(out, &part, options);
	}
	fputs(err ? "" : "\n", out);
	return err;
}

struct tm_error *tm_render_text(struct tm_report *report, const struct tm_report_view *view,
				const struct tm_render_options *options, FILE *out)
{
	struct tm_error *err;

	put_header(out, report, view);
	err = put_domains(out, report, view, options);
	if (err)
		return err;
	put_lost(out, view);
	put_cuts(out, view);
	put_fp_frames(out, report);
	return NULL;
}
