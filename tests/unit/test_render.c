#include <criterion/criterion.h>
#include <unistd.h>

#include "report/render.h"
#include "support/report_sample.h"

static struct sample_folder folder;

static void make_folder(void)
{
	folder = sample_folder_create();
}

static void remove_folder(void)
{
	sample_folder_remove(&folder);
}

TestSuite(render, .init = make_folder, .fini = remove_folder);

typedef struct tm_error *(*renderer)(struct tm_report *report, const struct tm_report_view *view,
				     const struct tm_render_options *options, FILE *out);

/* The caller frees the text. */
static char *render(renderer renderer, const char *snapshot, const struct tm_render_options *options)
{
	struct tm_report *report;
	struct tm_report_view view;
	char *text = NULL;
	size_t size = 0;
	FILE *out = open_memstream(&text, &size);

	must(tm_report_open(folder.file, &report));
	must(tm_report_load(report, snapshot, &view));
	must(renderer(report, &view, options, out));
	tm_report_close(report);
	fclose(out);
	return text;
}

static char *render_sample(struct sample sample, renderer renderer, const char *snapshot,
			   struct tm_render_options options)
{
	sample_write(&sample, folder.file);
	sample_destroy(&sample);
	return render(renderer, snapshot, &options);
}

static void expect_part(char *text, const char *part)
{
	cr_expect(strstr(text, part), "\n%s\nlacks\n%s", text, part);
	free(text);
}

Test(render, text_is_tracemallocs_top)
{
	char *text = render_sample(sample_typical(), tm_render_text, "end",
				   (struct tm_render_options){.limit = 10});

	cr_expect_str_eq(text, "app -x caf\xc3\xa9\xff (pid 4242), detached after 2.5 s\n"
			       "Top 10 lines\n"
			       "/src/make.c:3: size=1500 B, count=2, average=750 B\n"
			       "    return malloc(size);\n"
			       "/lib/libc.so.6:0: size=200 B, count=1, average=200 B\n"
			       "    no line information; in strdup 200 B\n"
			       "Total allocated size: 1700 B\n"
			       "current:      1700 B in 3 blocks\n"
			       "peak:         5700 B in 4 blocks\n"
			       "allocations:  4 (5700 B)\n"
			       "frees:        1, and 1 of blocks from before the trace\n"
			       "failed:       1\n"
			       "events lost:  0\n"
			       "cut short:    1 of the tracebacks (limit 1)\n");
	free(text);
}

Test(render, groups_behind_the_limit_are_summed)
{
	expect_part(render_sample(sample_typical(), tm_render_text, "end",
				  (struct tm_render_options){.limit = 1}),
		    "    return malloc(size);\n1 other: 200 B\nTotal allocated size: 1700 B\n");
}

Test(render, cumulative_text_gives_each_frame_its_share)
{
	expect_part(render_sample(sample_typical(), tm_render_text, "end",
				  (struct tm_render_options){.cumulative = true}),
		    "All lines (cumulative)\n"
		    "/src/app.c:20: size=1700 B, count=3, average=567 B\n"
		    "    buffer = make(size);\n"
		    "/src/app.c:10: size=1700 B, count=3, average=567 B\n"
		    "    run();\n"
		    "/src/make.c:33: size=1500 B, count=2, average=750 B\n");
}

Test(render, text_names_a_snapshot_other_than_the_end)
{
	struct sample sample = sample_typical();
	struct tm_render_options options = {.limit = 10};
	struct tm_report_writer *writer;

	must(tm_report_writer_create(folder.file, false, &writer));
	must(sample_save(&sample, writer, TM_SNAPSHOT_PEAK, "peak", true));
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "noon", true));
	must(tm_report_writer_close(writer));
	sample_destroy(&sample);
	expect_part(render(tm_render_text, "peak", &options),
		    "\nSnapshot peak: what was live when the most bytes were\nTop 10 lines\n"
		    "/lib/libc.so.6:0: size=4200 B, count=2");
	expect_part(render(tm_render_text, "noon", &options),
		    "\nSnapshot noon, taken at 0.0 s\nTop 10 lines\n");
}

Test(render, traceback_text_is_most_recent_first)
{
	expect_part(render_sample(sample_typical(), tm_render_text, "end",
				  (struct tm_render_options){.group_by = TM_GROUP_TRACEBACK, .limit = 10}),
		    "Top 10 tracebacks\n"
		    "#1: size=1500 B, count=2, average=750 B\n"
		    "  File \"/src/make.c\", line 3, in make\n"
		    "    return malloc(size);\n"
		    "  File \"/src/make.c\", line 33, in make_all\n"
		    "    make(1);\n"
		    "  File \"/src/app.c\", line 20, in run\n"
		    "    buffer = make(size);\n"
		    "  File \"/src/app.c\", line 10, in main\n"
		    "    run();\n"
		    "#2: size=200 B, count=1, average=200 B\n"
		    "  /lib/libc.so.6+0x100 in strdup\n"
		    "  File \"/src/app.c\", line 20, in run\n"
		    "    buffer = make(size);\n"
		    "  File \"/src/app.c\", line 10, in main\n"
		    "    run();\n"
		    "  ... cut at the limit of --nframe; 9 frames were on the stack\n"
		    "Total");
}

/* One in about 1000 bytes: make's two blocks of 1000 bytes stand for 1582 each, strdup's 200 for 1103. */
static void write_sampled(void)
{
	struct sample sample = sample_create();
	uint32_t make = sample_traceback(&sample, make_frames, 3, 3, TM_CUT_NONE);
	uint32_t copy = sample_traceback(&sample, strdup_frames, 3, 3, TM_CUT_NONE);
	struct tm_report_writer *writer;

	tm_tracer_sample(sample.tracer, 1000);
	sample_allocate(&sample, 100, make, 1000);
	sample_allocate(&sample, 100, make, 1000);
	sample_allocate(&sample, 100, copy, 200);
	must(tm_report_writer_create(folder.file, true, &writer));
	must(tm_report_writer_meta_u64(writer, "sample", 1000));
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(tm_report_writer_close(writer));
	sample_destroy(&sample);
}

Test(render, sampled_text_tells_the_standard_error)
{
	struct tm_render_options options = {.limit = 1};

	write_sampled();
	expect_part(
		render(tm_render_text, "end", &options),
		"\nsampled: one in about 1000 B; numbers are estimates, \xc2\xb1 one standard error\nTop 1");
	expect_part(render(tm_render_text, "end", &options),
		    "/src/make.c:3: size=3164 B \xc2\xb1 1357 B, count=");
	expect_part(render(tm_render_text, "end", &options),
		    "\n1 other: 1103 B \xc2\xb1 998 B\nTotal allocated size: 4267 B \xc2\xb1 1685 B\n"
		    "current:      4267 B \xc2\xb1 1685 B in ");
	expect_part(render(tm_render_text, "end", &options), "\npeak:         4267 B \xc2\xb1 1685 B in ");
	expect_part(render(tm_render_text, "end", &options), "\nfrees:        0\nfailed:");
}

static const struct {
	enum tm_group_by group_by;
	const char *part;
} groupings[] = {
	{TM_GROUP_FILENAME, "Top 9 files\n/src/make.c:0: size=1500 B, count=2, average=750 B\n"},
	{TM_GROUP_FUNCTION, "Top 9 functions\nmake (/bin/app): size=1500 B, count=2, average=750 B\n"
			    "strdup (/lib/libc.so.6): size=200 B"},
	{TM_GROUP_MODULE,
	 "Top 9 modules\n/bin/app: size=1500 B, count=2, average=750 B\n/lib/libc.so.6: size=200 B"},
	{TM_GROUP_THREAD, "Top 9 threads\nthread main (100): size=1200 B, count=2, average=600 B\n"
			  "thread worker (200): size=500 B"},
};

Test(render, each_grouping_has_its_key)
{
	struct sample sample = sample_typical();

	sample_write(&sample, folder.file);
	sample_destroy(&sample);
	for (size_t i = 0; i < TM_ARRAY_SIZE(groupings); i++)
		expect_part(
			render(tm_render_text, "end",
			       &(struct tm_render_options){.group_by = groupings[i].group_by, .limit = 9}),
			groupings[i].part);
}

Test(render, functions_of_a_module_without_lines_are_told)
{
	struct sample sample = sample_create();

	for (uint64_t i = 0; i < 5; i++) {
		struct tm_frame frame = {i < 2 ? 0x100 + i * 0x100 : 0x1000 + i, 2};

		sample_allocate(&sample, 1, sample_traceback(&sample, &frame, 1, 1, TM_CUT_NONE), 100 - i);
	}
	expect_part(render_sample(sample, tm_render_text, "end", (struct tm_render_options){.limit = 9}),
		    "/lib/libc.so.6:0: size=490 B, count=5, average=98 B\n"
		    "    no line information; in <unknown> 291 B, strdup 100 B, getline 99 B\n");
}

Test(render, control_characters_reach_no_terminal)
{
	static const struct tm_frame odd[] = {{0x60, 1}};
	struct sample sample = sample_create();

	sample_allocate(&sample, 1, sample_traceback(&sample, odd, 1, 1, TM_CUT_NONE), 10);
	expect_part(render_sample(sample, tm_render_text, "end", (struct tm_render_options){.limit = 9}),
		    "/src/\xff\"odd\\?\xe2\x82\xac?.c:6: size=10 B");
}

Test(render, empty_report_is_a_report)
{
	expect_part(
		render_sample(sample_create(), tm_render_text, "end", (struct tm_render_options){.limit = 9}),
		"Top 9 lines\nTotal allocated size: 0 B\ncurrent:      0 B in 0 blocks\n");
}

/* python3's json is the judge: `check` is an expression over d, the decoded object. */
static void expect_json(const char *text, const char *check)
{
	char path[128], command[2048];
	FILE *file;
	int status;

	snprintf(path, sizeof(path), "%s/out.json", folder.path);
	file = fopen(path, "w");
	fputs(text, file);
	fclose(file);
	snprintf(command, sizeof(command),
		 "command -v python3 >/dev/null || exit 99; python3 -c \"import json; d = "
		 "json.load(open('%s', "
		 "encoding='utf-8')); assert %s, d\"",
		 path, check);
	status = system(command);
	if (status == 99 << 8)
		cr_skip_test("python3 is not installed");
	cr_expect_eq(status, 0, "%s", text);
}

static void expect_json_of(struct sample sample, const char *snapshot, struct tm_render_options options,
			   const char *check)
{
	char *text = render_sample(sample, tm_render_json, snapshot, options);

	expect_json(text, check);
	free(text);
}

Test(render, json_has_designs_members)
{
	expect_json_of(
		sample_typical(), "end", (struct tm_render_options){0},
		"(d['version'], d['probe'], d['snapshot'], d['group_by'], d['cumulative'], d['groups']) == "
		"(1, 'breakpoint', 'end', 'lineno', False, 2) and "
		"d['target'] == {'pid': 4242, 'exe': '/bin/app', 'command': ['app', '-x', "
		"'caf\\u00e9\\udcff  ', ''], "
		"'arch': 'x86_64', 'ended': 'detached', 'images': [{'exe': '/bin/app', 'time': 0}]} and "
		"d['totals'] == {'current': 1700, 'peak': 5700, 'blocks': 3, 'peak_blocks': 4, "
		"'allocations': 4, "
		"'allocated': 5700, 'frees': 1, 'unknown_frees': 1, 'failed': 1, 'lost': 0} and "
		"d['cuts'] == [{'cut': 'limit', 'tracebacks': 1}] and "
		"d['statistics'][0] == {'size': 1500, 'count': 2, 'domain': 0, 'traceback': [{'filename': "
		"'/src/make.c', 'lineno': 3, 'function': 'make', 'module': '/bin/app', 'offset': 0x30, "
		"'source': "
		"'return malloc(size);'}]}");
}

Test(render, sampled_json_has_standard_errors)
{
	char *text;

	write_sampled();
	text = render(tm_render_json, "end", &(struct tm_render_options){0});
	expect_json(text,
		    "d['sample'] == 1000 and [(s['size'], s['size_error']) for s in d['statistics']] == "
		    "[(3164, 1357), (1103, 998)] and all((t['current'], t['size_error'], "
		    "t['peak_error']) == (4267, 1685, 1685) for t in [d['totals']] + d['domains'])");
	free(text);
}

Test(render, exact_numbers_have_no_error)
{
	expect_json_of(sample_typical(), "end", (struct tm_render_options){0},
		       "'sample' not in d and not any('error' in key for o in [d['totals'], *d['domains'], "
		       "*d['statistics']] for key in o)");
}

Test(render, json_tracebacks_tell_why_they_end)
{
	expect_json_of(
		sample_typical(), "end", (struct tm_render_options){.group_by = TM_GROUP_TRACEBACK},
		"[(s['total_nframe'], s['cut'], [f['function'] for f in s['traceback']]) for s in "
		"d['statistics']] == "
		"[(3, '', ['make', 'make_all', 'run', 'main']), (9, 'limit', ['strdup', 'run', 'main'])]");
}

Test(render, json_threads_and_modules_are_keys)
{
	struct tm_render_options by_module = {.group_by = TM_GROUP_MODULE};
	char *text;

	expect_json_of(sample_typical(), "peak", (struct tm_render_options){.group_by = TM_GROUP_THREAD},
		       "[(s['thread'], s['size']) for s in d['statistics']] == "
		       "[({'tid': 100, 'name': 'main'}, 5200), ({'tid': 200, 'name': 'worker'}, 500)]");
	text = render(tm_render_json, "end", &by_module);
	expect_json(text, "[(s['module'], s['size']) for s in d['statistics']] == "
			  "[('/bin/app', 1500), ('/lib/libc.so.6', 200)]");
	free(text);
}

Test(render, json_limit_keeps_the_number_of_groups)
{
	expect_json_of(sample_typical(), "end", (struct tm_render_options){.limit = 1},
		       "len(d['statistics']) == 1 and d['groups'] == 2");
}

Test(render, json_of_odd_bytes_is_valid_and_loses_none)
{
	static const struct tm_frame odd[] = {{0x60, 1}};
	struct sample sample = sample_create();

	sample_allocate(&sample, 1, sample_traceback(&sample, odd, 1, 1, TM_CUT_NONE), 10);
	expect_json_of(sample, "end", (struct tm_render_options){0},
		       "[(f['filename'].encode('utf-8', 'surrogateescape'), f['source'].encode('utf-8', "
		       "'surrogateescape')) for f in d['statistics'][0]['traceback']] == "
		       "[(b'/src/\\xff\\x22odd\\x5c\\x0a\\xe2\\x82\\xac\\xc2\\x9b.c', b'\\x09x = "
		       "\\x22\\x80\\x22;')]");
}

Test(render, json_numbers_are_whole)
{
	static const struct tm_frame frame = {0xffffffffff600123, 0};
	struct sample sample = sample_create();

	sample_allocate(&sample, 1, sample_traceback(&sample, &frame, 1, 1, TM_CUT_NONE), (1ull << 53) + 1);
	expect_json_of(sample, "end", (struct tm_render_options){0},
		       "d['statistics'][0]['size'] == 2**53 + 1 and "
		       "d['statistics'][0]['traceback'][0]['offset'] == 0xffffffffff600123 and "
		       "d['statistics'][0]['traceback'][0]['function'] is None");
}

Test(render, json_domains_stand_beside_the_totals)
{
	struct sample sample = sample_typical();
	struct tm_allocation other = {.domain = 1, .tid = 100, .traceback = 1, .address = 0x1000, .size = 77};

	must(tm_tracer_track(sample.tracer, &other));
	expect_json_of(sample, "end", (struct tm_render_options){0},
		       "d['totals']['current'] == 1700 and "
		       "[(t['domain'], t['current']) for t in d['domains']] == [(0, 1700), (1, 77)]");
}

Test(render, cumulative_tracebacks_are_refused)
{
	struct sample sample = sample_typical();
	struct tm_render_options options = {.group_by = TM_GROUP_TRACEBACK, .cumulative = true};
	struct tm_report *report;
	struct tm_report_view view;

	sample_write(&sample, folder.file);
	sample_destroy(&sample);
	must(tm_report_open(folder.file, &report));
	must(tm_report_load(report, "end", &view));
	expect_error(tm_render_text(report, &view, &options, stdout), TM_ERROR_UNSUPPORTED,
		     "cumulative mode");
	expect_error(tm_render_json(report, &view, &options, stdout), TM_ERROR_UNSUPPORTED,
		     "cumulative mode");
	tm_report_close(report);
}
