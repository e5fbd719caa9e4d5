#include "report/render.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "report/json_text.h"
#include "report/totals.h"

static void put_bool(FILE *out, bool value)
{
	fputs(value ? "true" : "false", out);
}

static void put_meta_string(FILE *out, const struct tm_report *report, const char *key)
{
	tm_json_put_string(out, tm_report_meta(report, key));
}

static void put_meta_number(FILE *out, const struct tm_report *report, const char *key)
{
	const char *value = tm_report_meta(report, key);

	if (value)
		fprintf(out, "%llu", strtoull(value, NULL, 10));
	else
		fputs("null", out);
}

static void put_meta_array(FILE *out, const struct tm_report *report, const char *key)
{
	const char *text = tm_report_meta(report, key);
	struct tm_strbuf json = {0};

	fputs(text && *text == '[' && tm_json_copy(&json, text) ? json.text : "[]", out);
	tm_strbuf_deinit(&json);
}

enum meta_kind { META_STRING, META_NUMBER, META_ARRAY };

struct meta_member {
	const char *key;
	enum meta_kind kind;
};

static const struct meta_member target_members[] = {
	{"pid", META_NUMBER},  {"exe", META_STRING},   {"command", META_ARRAY},
	{"arch", META_STRING}, {"ended", META_STRING}, {"images", META_ARRAY},
};

static const struct meta_member trace_members[] = {
	{"probe", META_STRING},	  {"nframe", META_NUMBER},	{"within", META_STRING},
	{"started", META_STRING}, {"duration_ns", META_NUMBER}, {"fp_frames", META_NUMBER},
};

static void put_meta(FILE *out, const struct tm_report *report, const struct meta_member *member)
{
	fprintf(out, "\"%s\": ", member->key);
	switch (member->kind) {
	case META_STRING:
		put_meta_string(out, report, member->key);
		break;
	case META_NUMBER:
		put_meta_number(out, report, member->key);
		break;
	case META_ARRAY:
		put_meta_array(out, report, member->key);
		break;
	}
}

static void put_target(FILE *out, const struct tm_report *report)
{
	fputs(" \"target\": {", out);
	for (size_t i = 0; i < TM_ARRAY_SIZE(target_members); i++) {
		fputs(i ? ", " : "", out);
		put_meta(out, report, &target_members[i]);
	}
	fputs("},\n", out);
}

/* One standard error of a sum of bytes; nothing where sums are exact. */
static void put_error(FILE *out, const struct tm_report_view *view, const char *key, double variance)
{
	if (view->sample)
		fprintf(out, ", \"%s\": %.0f", key, sqrt(variance));
}

static void put_trace(FILE *out, const struct tm_report *report, const struct tm_report_view *view,
		      const struct tm_render_options *options)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(trace_members); i++) {
		fputs(i ? ", " : " ", out);
		put_meta(out, report, &trace_members[i]);
	}
	if (view->sample)
		fprintf(out, ", \"sample\": %" PRIu64, view->sample);
	fputs(",\n \"snapshot\": ", out);
	tm_json_put_string(out, view->snapshot_name);
	fprintf(out, ", \"time\": %" PRIu64 ", \"group_by\": \"%s\", \"cumulative\": ", view->time,
		tm_group_by_name(options->group_by));
	put_bool(out, options->cumulative);
	fputs(",\n", out);
}

static void put_snapshots(FILE *out, const struct tm_report_view *view)
{
	fputs(" \"snapshots\": [", out);
	for (size_t i = 0; i < view->snapshot_count; i++) {
		fprintf(out, "%s{\"name\": ", i ? ", " : "");
		tm_json_put_string(out, view->snapshots[i].name);
		fprintf(out, ", \"time\": %" PRIu64 "}", view->snapshots[i].time);
	}
	fputs("],\n", out);
}

static void put_totals_members(FILE *out, const struct tm_report_view *view, const struct tm_totals *totals)
{
	const char *separator = "";

#define PUT(field)                                                                                           \
	fprintf(out, "%s\"" #field "\": %" PRIu64, separator, totals->field);                                \
	separator = ", ";
	TM_TOTALS_FIELDS(PUT)
#undef PUT
	put_error(out, view, "size_error", totals->current_variance);
	put_error(out, view, "peak_error", totals->peak_variance);
}

/* Of each domain; they are never summed. `totals` is the lowest one's. */
static void put_totals(FILE *out, const struct tm_report *report, const struct tm_report_view *view)
{
	fputs(" \"totals\": {", out);
	put_totals_members(out, view, &view->totals.totals);
	fprintf(out, ", \"lost\": %" PRIu64 "},\n \"domains\": [", view->totals.lost);
	for (size_t i = 0; i < view->domain_count; i++) {
		fprintf(out, "%s{\"domain\": %" PRIu32 ", \"name\": ", i ? ",\n  " : "\n  ",
			view->domains[i].domain);
		tm_json_put_string(out, tm_report_domain_name(report, view->domains[i].domain));
		fputs(", ", out);
		put_totals_members(out, view, &view->domains[i].totals);
		fputc('}', out);
	}
	fputs("],\n", out);
}

static void put_cuts(FILE *out, const struct tm_report_view *view)
{
	fputs(" \"cuts\": [", out);
	for (size_t i = 0; i < view->cut_count; i++) {
		fprintf(out, "%s{\"cut\": ", i ? ", " : "");
		tm_json_put_string(out, view->cuts[i].cut);
		fprintf(out, ", \"tracebacks\": %" PRIu64 "}", view->cuts[i].tracebacks);
	}
	fputs("],\n", out);
}

static void put_frame(FILE *out, const struct tm_named_frame *frame)
{
	fputs("{\"filename\": ", out);
	tm_json_put_string(out, frame->filename);
	fprintf(out, ", \"lineno\": %" PRIu32 ", \"function\": ", frame->lineno);
	tm_json_put_string(out, frame->function);
	fputs(", \"module\": ", out);
	tm_json_put_string(out, frame->module);
	fprintf(out, ", \"offset\": %" PRIu64, frame->offset);
	if (frame->source) {
		fputs(", \"source\": ", out);
		tm_json_put_string(out, frame->source);
	}
	fputc('}', out);
}

/* The group's own key, where the frame does not tell it. */
static void put_key(FILE *out, const struct tm_statistic *statistic, enum tm_group_by group_by)
{
	switch (group_by) {
	case TM_GROUP_LINENO:
	case TM_GROUP_FILENAME:
	case TM_GROUP_FUNCTION:
		break;
	case TM_GROUP_TRACEBACK:
		fprintf(out, ", \"total_nframe\": %" PRIu32 ", \"cut\": ", statistic->total_nframe);
		tm_json_put_string(out, statistic->cut ? statistic->cut : "");
		break;
	case TM_GROUP_MODULE:
		fputs(", \"module\": ", out);
		tm_json_put_string(out, statistic->frame_count ? statistic->frames[0]->module : NULL);
		break;
	case TM_GROUP_THREAD:
		fprintf(out, ", \"thread\": {\"tid\": %" PRIu32 ", \"name\": ", statistic->tid);
		tm_json_put_string(out, statistic->thread_name);
		fputc('}', out);
		break;
	}
}

static void put_statistic(FILE *out, const struct tm_report_view *view, const struct tm_statistic *statistic,
			  enum tm_group_by group_by)
{
	fprintf(out, "\n  {\"size\": %" PRIu64 ", \"count\": %" PRIu64 ", \"domain\": %" PRIu32,
		statistic->size, statistic->count, statistic->domain);
	put_error(out, view, "size_error", statistic->size_variance);
	put_key(out, statistic, group_by);
	fputs(", \"traceback\": [", out);
	for (uint32_t i = 0; i < statistic->frame_count; i++) {
		fputs(i ? ", " : "", out);
		put_frame(out, statistic->frames[i]);
	}
	fputs("]}", out);
}

static void put_statistics(FILE *out, const struct tm_report_view *view,
			   const struct tm_statistics *statistics, const struct tm_render_options *options,
			   const char *separator)
{
	for (size_t i = 0; i < statistics->count && (!options->limit || i < options->limit); i++) {
		fputs(i ? "," : separator, out);
		put_statistic(out, view, &statistics->items[i], options->group_by);
	}
}

static void put_all(FILE *out, struct tm_report *report, const struct tm_report_view *view,
		    const struct tm_render_options *options, const struct tm_statistics *statistics)
{
	size_t groups = 0;

	fputs("{\"version\": 1,\n", out);
	put_target(out, report);
	put_trace(out, report, view, options);
	put_snapshots(out, view);
	put_totals(out, report, view);
	put_cuts(out, view);
	fputs(" \"statistics\": [", out);
	for (size_t i = 0; i < view->domain_count; i++) {
		put_statistics(out, view, &statistics[i], options, groups ? "," : "");
		groups += statistics[i].count;
	}
	fprintf(out, "],\n \"groups\": %zu}\n", groups);
}

/* The groups of one domain, then those of the next. */
struct tm_error *tm_render_json(struct tm_report *report, const struct tm_report_view *view,
				const struct tm_render_options *options, FILE *out)
{
	struct tm_statistics *statistics = calloc(view->domain_count + 1, sizeof(*statistics));
	struct tm_error *err = statistics ? NULL : tm_error_out_of_memory();
	size_t count = 0;

	for (; !err && count < view->domain_count; count++) {
		struct tm_report_view part = tm_report_view_of_domain(view, count);

		err = tm_statistics_compute(part.traces, part.trace_count, options->group_by,
					    options->cumulative, &statistics[count]);
		if (err)
			break;
	}
	if (!err)
		put_all(out, report, view, options, statistics);
	while (count-- > 0)
		tm_statistics_deinit(&statistics[count]);
	free(statistics);
	return err;
}
