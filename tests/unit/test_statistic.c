#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/strbuf.h"
#include "model/statistic.h"

static struct tm_statistics statistics;

static void teardown(void)
{
	tm_statistics_deinit(&statistics);
}

TestSuite(statistic, .fini = teardown);

static void compute(const struct tm_trace *traces, size_t count, enum tm_group_by group_by, bool cumulative)
{
	tm_statistics_deinit(&statistics);
	cr_assert_null(tm_statistics_compute(traces, count, group_by, cumulative, &statistics));
}

static void expect(size_t i, const char *filename, uint32_t lineno, uint64_t size, uint64_t count)
{
	const struct tm_statistic *statistic = &statistics.items[i];

	cr_assert_lt(i, statistics.count);
	cr_assert_eq(statistic->frame_count, 1);
	cr_assert_str_eq(statistic->frames[0]->filename, filename);
	cr_assert_eq(statistic->frames[0]->lineno, lineno);
	cr_assert_eq(statistic->size, size, "%s: %lu bytes", filename, (unsigned long)statistic->size);
	cr_assert_eq(statistic->count, count);
}

static const struct tm_named_frame a1 = {.filename = "a.py", .lineno = 1, .function = "f", .module = "m1"},
				   a9 = {.filename = "a.py", .lineno = 9, .function = "g", .module = "m1"},
				   b2 = {.filename = "b.py", .lineno = 2, .function = "f", .module = "m2"},
				   new_operator = {.filename = "new_op.cc",
						   .lineno = 50,
						   .function = "operator new",
						   .module = "stdc++",
						   .skipped = true},
				   bare_x = {.filename = "/lib/x.so", .function = "x", .module = "/lib/x.so"},
				   bare_y = {.filename = "/lib/x.so", .function = "y", .module = "/lib/x.so"};

#define TRACE(bytes, blocks, ...)                                                                            \
	{                                                                                                    \
		.size = (bytes), .count = (blocks), .cut = "",                                               \
		.frames = (const struct tm_named_frame *const[]){__VA_ARGS__},                               \
		.frame_count = sizeof((const struct tm_named_frame *const[]){__VA_ARGS__}) /                 \
			       sizeof(struct tm_named_frame *),                                              \
	}

Test(statistic, nothing_has_no_groups)
{
	for (int group_by = TM_GROUP_LINENO; group_by <= TM_GROUP_THREAD; group_by++) {
		compute(NULL, 0, (enum tm_group_by)group_by, false);
		cr_assert_eq(statistics.count, 0);
	}
}

/* Independent samples: by each key, and for a frame that recurs once per occurrence, as the sizes. */
Test(statistic, variances_of_a_group_add_up)
{
	struct tm_trace traces[] = {TRACE(5, 1, &a1, &b2, &b2), TRACE(7, 1, &a1), TRACE(1, 1, &b2)};

	traces[0].size_variance = 4;
	traces[1].size_variance = 8.5;
	for (int group_by = TM_GROUP_LINENO; group_by <= TM_GROUP_THREAD; group_by++) {
		double sum = 0;

		compute(traces, 3, (enum tm_group_by)group_by, false);
		for (size_t i = 0; i < statistics.count; i++)
			sum += statistics.items[i].size_variance;
		cr_expect_eq(sum, 12.5);
	}
	compute(traces, 3, TM_GROUP_LINENO, false);
	cr_expect_eq(statistics.items[0].size_variance, 12.5);
	cr_expect_eq(statistics.items[1].size_variance, 0);
	compute(traces, 3, TM_GROUP_LINENO, true);
	expect(1, "b.py", 2, 11, 3);
	cr_expect_eq(statistics.items[1].size_variance, 8);
}

Test(statistic, groupings_have_names)
{
	static const char *const names[] = {"lineno",	"filename", "traceback",
					    "function", "module",   "thread"};
	enum tm_group_by group_by;

	for (size_t i = 0; i < TM_ARRAY_SIZE(names); i++) {
		cr_assert(tm_group_by_parse(names[i], &group_by));
		cr_assert_eq(group_by, (enum tm_group_by)i);
		cr_assert_str_eq(tm_group_by_name(group_by), names[i]);
	}
	cr_assert_not(tm_group_by_parse("line", &group_by));
	cr_assert_not(tm_group_by_parse("", &group_by));
}

Test(statistic, ties_are_sorted_by_frame_descending)
{
	const struct tm_trace traces[] = {TRACE(5, 1, &a1), TRACE(5, 1, &b2), TRACE(5, 1, &a9),
					  TRACE(6, 1, &a1)};

	compute(traces, 3, TM_GROUP_LINENO, false);
	cr_assert_eq(statistics.count, 3);
	expect(0, "b.py", 2, 5, 1);
	expect(1, "a.py", 9, 5, 1);
	expect(2, "a.py", 1, 5, 1);
	compute(traces, 4, TM_GROUP_LINENO, false);
	expect(0, "a.py", 1, 11, 2);
}

Test(statistic, more_blocks_come_first_among_equal_sizes)
{
	const struct tm_trace traces[] = {TRACE(6, 1, &b2), TRACE(6, 2, &a1)};

	compute(traces, 2, TM_GROUP_LINENO, false);
	expect(0, "a.py", 1, 6, 2);
}

Test(statistic, most_recent_frame_owns_the_line)
{
	const struct tm_trace traces[] = {TRACE(5, 1, &a1, &b2)};

	compute(traces, 1, TM_GROUP_LINENO, false);
	cr_assert_eq(statistics.count, 1);
	expect(0, "a.py", 1, 5, 1);
}

Test(statistic, skipped_frame_owns_no_line)
{
	const struct tm_trace traces[] = {TRACE(5, 1, &new_operator, &new_operator, &a1, &b2)};

	compute(traces, 1, TM_GROUP_LINENO, false);
	expect(0, "a.py", 1, 5, 1);
	compute(traces, 1, TM_GROUP_MODULE, false);
	expect(0, "m1", 0, 5, 1);
	compute(traces, 1, TM_GROUP_TRACEBACK, false);
	cr_assert_eq(statistics.items[0].frame_count, 4);
	compute(traces, 1, TM_GROUP_LINENO, true);
	cr_assert_eq(statistics.count, 3);
	expect(0, "new_op.cc", 50, 10, 2);
}

Test(statistic, most_recent_frame_owns_the_line_if_all_are_skipped)
{
	const struct tm_trace traces[] = {TRACE(5, 1, &new_operator)};

	compute(traces, 1, TM_GROUP_LINENO, false);
	expect(0, "new_op.cc", 50, 5, 1);
}

Test(statistic, empty_traceback_is_one_unknown_frame)
{
	const struct tm_trace traces[] = {{.size = 5, .count = 1}};

	for (int group_by = TM_GROUP_LINENO; group_by < TM_GROUP_THREAD; group_by++) {
		compute(traces, 1, (enum tm_group_by)group_by, false);
		cr_assert_eq(statistics.count, 1);
		expect(0, "<unknown>", 0, 5, 1);
	}
}

Test(statistic, file_has_no_line_and_no_function)
{
	const struct tm_trace traces[] = {TRACE(5, 1, &a9), TRACE(6, 1, &a1), TRACE(1, 1, &b2)};

	compute(traces, 3, TM_GROUP_FILENAME, false);
	cr_assert_eq(statistics.count, 2);
	expect(0, "a.py", 0, 11, 2);
	expect(1, "b.py", 0, 1, 1);
	cr_assert_null(statistics.items[0].frames[0]->function);
}

Test(statistic, functions_of_two_files_are_two)
{
	const struct tm_trace traces[] = {TRACE(5, 1, &a1), TRACE(6, 1, &b2), TRACE(7, 1, &a9),
					  TRACE(8, 1, &bare_y)};

	compute(traces, 4, TM_GROUP_FUNCTION, false);
	cr_assert_eq(statistics.count, 4);
	expect(0, "/lib/x.so", 0, 8, 1);
	expect(3, "a.py", 0, 5, 1);
	cr_assert_str_eq(statistics.items[3].frames[0]->function, "f");
	cr_assert_str_eq(statistics.items[3].frames[0]->module, "m1");
}

Test(statistic, module_is_named_by_its_path)
{
	const struct tm_trace traces[] = {TRACE(5, 1, &a1), TRACE(6, 1, &a9), TRACE(7, 1, &b2)};

	compute(traces, 3, TM_GROUP_MODULE, false);
	cr_assert_eq(statistics.count, 2);
	expect(0, "m1", 0, 11, 2);
	cr_assert_str_eq(statistics.items[0].frames[0]->module, "m1");
}

Test(statistic, recursion_counts_each_time_in_cumulative_mode)
{
	const struct tm_trace traces[] = {TRACE(100, 1, &a1, &b2, &a1)};

	compute(traces, 1, TM_GROUP_LINENO, true);
	cr_assert_eq(statistics.count, 2);
	expect(0, "a.py", 1, 200, 2);
	expect(1, "b.py", 2, 100, 1);
}

Test(statistic, tracebacks_cannot_be_cumulated)
{
	static const enum tm_group_by without[] = {TM_GROUP_TRACEBACK, TM_GROUP_THREAD};

	for (size_t i = 0; i < TM_ARRAY_SIZE(without); i++) {
		_cleanup_error_ struct tm_error *err =
			tm_statistics_compute(NULL, 0, without[i], true, &statistics);
		char expected[100];

		snprintf(expected, sizeof(expected), "cumulative mode cannot by used with key type '%s'",
			 tm_group_by_name(without[i]));
		cr_assert_not_null(err);
		cr_assert_str_eq(err->message, expected);
	}
}

Test(statistic, tracebacks_without_lines_differ_by_function)
{
	const struct tm_trace traces[] = {TRACE(5, 1, &bare_x, &a1), TRACE(6, 1, &bare_y, &a1),
					  TRACE(7, 1, &bare_x, &a1)};

	compute(traces, 3, TM_GROUP_TRACEBACK, false);
	cr_assert_eq(statistics.count, 2);
	cr_assert_eq(statistics.items[0].size, 12);
	compute(traces, 3, TM_GROUP_LINENO, false);
	cr_assert_eq(statistics.count, 1);
}

Test(statistic, traceback_keeps_what_its_first_trace_says)
{
	struct tm_trace traces[] = {TRACE(5, 1, &a1, &b2), TRACE(6, 1, &a1, &b2), TRACE(100, 1, &a1)};

	traces[0].total_nframe = 9;
	traces[0].cut = "limit";
	traces[0].domain = 3;
	compute(traces, 3, TM_GROUP_TRACEBACK, false);
	cr_assert_eq(statistics.count, 2);
	cr_assert_eq(statistics.items[1].size, 11);
	cr_assert_eq(statistics.items[1].total_nframe, 9);
	cr_assert_eq(statistics.items[1].domain, 3);
	cr_assert_str_eq(statistics.items[1].cut, "limit");
	cr_assert_str_eq(statistics.items[0].cut, "");
}

Test(statistic, threads_are_groups_without_frames)
{
	struct tm_trace traces[] = {TRACE(5, 1, &a1), TRACE(5, 1, &b2), TRACE(3, 1, &a1), TRACE(3, 1, &a1)};

	traces[0].tid = traces[2].tid = 10;
	traces[1].tid = 11;
	traces[3].tid = 12;
	traces[0].thread_name = "worker";
	compute(traces, 4, TM_GROUP_THREAD, false);
	cr_assert_eq(statistics.count, 3);
	cr_assert_eq(statistics.items[0].tid, 10);
	cr_assert_eq(statistics.items[0].size, 8);
	cr_assert_str_eq(statistics.items[0].thread_name, "worker");
	cr_assert_eq(statistics.items[0].frame_count, 0);
	cr_assert_eq(statistics.items[1].tid, 11);
}

Test(statistic, sizes_print_as_tracemalloc_prints_them)
{
	static const struct {
		double size;
		bool sign;
		const char *expected;
	} table[] = {
		{0, false, "0 B"},
		{0, true, "+0 B"},
		{-50, true, "-50 B"},
		{99, false, "99 B"},
		{126.4, false, "126 B"},
		{0.5, false, "0 B"},
		{1.5, false, "2 B"},
		{10239, false, "10239 B"},
		{10240, false, "10.0 KiB"},
		{102399, false, "100.0 KiB"},
		{102400, false, "100 KiB"},
		{285696, false, "279 KiB"},
		{1048575, false, "1024 KiB"},
		{10485759, false, "10240 KiB"},
		{10485760, false, "10.0 MiB"},
		{-10485760, true, "-10.0 MiB"},
		{10737418240, false, "10.0 GiB"},
		{22517998136852480, false, "20480 TiB"},
	};
	char buffer[32];

	for (size_t i = 0; i < TM_ARRAY_SIZE(table); i++)
		cr_assert_str_eq(tm_format_size(table[i].size, table[i].sign, buffer), table[i].expected);
}

/*
 * From here on CPython's own tracemalloc is the oracle: the same question is put to it in a script, and its
 * answer must be ours, byte for byte.
 */
static bool python_is_there(void)
{
	return system("python3 -c 'import tracemalloc' >/dev/null 2>&1") == 0;
}

#define require_python()                                                                                     \
	do {                                                                                                 \
		if (!python_is_there())                                                                      \
			cr_skip_test("there is no python3 with tracemalloc to ask");                         \
	} while (0)

static void ask_python(struct tm_strbuf *script, struct tm_strbuf *answer)
{
	char path[] = "/tmp/tmtrace-oracle-XXXXXX", command[100], chunk[4096];
	int fd = mkstemp(path);
	FILE *pipe;
	size_t n;

	cr_assert_not(script->failed);
	cr_assert_geq(fd, 0);
	cr_assert_eq(write(fd, script->text, script->length), (ssize_t)script->length);
	close(fd);
	snprintf(command, sizeof(command), "PYTHONIOENCODING=utf-8 python3 %s", path);
	pipe = popen(command, "r");
	cr_assert_not_null(pipe);
	while ((n = fread(chunk, 1, sizeof(chunk), pipe)) > 0)
		tm_strbuf_append(answer, chunk, n);
	cr_assert_eq(pclose(pipe), 0, "the script failed");
	unlink(path);
}

/* The first line that differs, rather than two texts of a thousand. */
static void expect_same_text(const struct tm_strbuf *ours, const struct tm_strbuf *theirs)
{
	const char *a = ours->text, *b = theirs->text;

	for (int line = 1; *a || *b; line++) {
		size_t length_a = strcspn(a, "\n"), length_b = strcspn(b, "\n");

		cr_assert(length_a == length_b && memcmp(a, b, length_a) == 0,
			  "line %d: ours %.*s, tracemalloc %.*s", line, (int)length_a, a, (int)length_b, b);
		a += length_a + (a[length_a] == '\n');
		b += length_b + (b[length_b] == '\n');
	}
}

static void add_size(struct tm_strbuf *script, struct tm_strbuf *ours, double size)
{
	char plain[32], with_sign[32];

	tm_strbuf_printf(script, "%.0f,\n", size);
	tm_strbuf_printf(ours, "%s %s\n", tm_format_size(size, false, plain),
			 tm_format_size(size, true, with_sign));
}

Test(statistic, format_size_agrees_with_cpython)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf script = {0}, ours = {0}, theirs = {0};

	require_python();
	tm_strbuf_puts(&script, "import tracemalloc\nfor size in (\n");
	for (double unit = 1; unit < 0x1p60; unit *= 1024) {
		static const double borders[] = {0,    0.5,   1,   1.05,  1.25,	  2.5,	9.95,	 10,
						 99.5, 99.95, 100, 100.5, 1023.5, 1024, 10239.5, 10240};

		for (size_t i = 0; i < TM_ARRAY_SIZE(borders) && unit * borders[i] < 0x1p62; i++) {
			for (int64_t off = -2; off <= 2; off++) {
				double size = (double)(int64_t)(unit * borders[i] + (double)off);

				add_size(&script, &ours, size);
				add_size(&script, &ours, -size - 1);
			}
		}
	}
	for (uint64_t i = 0; i < 20000; i++)
		add_size(&script, &ours, (double)(tm_hash_u64(i) >> (11 + i % 53)));
	tm_strbuf_puts(
		&script,
		"):\n\tprint(tracemalloc._format_size(size, False), tracemalloc._format_size(size, True))\n");
	ask_python(&script, &theirs);
	expect_same_text(&ours, &theirs);
}

enum { FRAMES = 60, TRACES = 400, DEPTH = 6 };

/* Random frames over few files and lines: keys repeat, in frames of different addresses. */
struct random_traces {
	uint64_t state;
	struct tm_named_frame frames[FRAMES];
	const struct tm_named_frame *stacks[TRACES][DEPTH];
	struct tm_trace traces[TRACES];
};

static uint32_t choose(struct random_traces *random, uint32_t below)
{
	return (uint32_t)(tm_hash_u64(++random->state) % below);
}

static void make_traces(struct random_traces *random)
{
	static const char *const files[] = {"a.py",  "/x/a.py", "/x/b c.py",   "<string>",
					    "b.pyc", "z.py",	"\xc3\xa9.py", "a"};

	for (size_t i = 0; i < FRAMES; i++) {
		random->frames[i] = (struct tm_named_frame){
			.filename = files[choose(random, TM_ARRAY_SIZE(files))],
			.lineno = choose(random, 4),
			.function = "f", /* code without names is told apart by place */
			.module = "m",
			.offset = i};
	}
	for (size_t i = 0; i < TRACES; i++) {
		struct tm_trace *trace = &random->traces[i];

		trace->count = 1 + choose(random, 3);
		trace->size = trace->count * choose(random, choose(random, 3) ? 4 : 2000000);
		trace->frame_count = 1 + choose(random, DEPTH);
		trace->frames = random->stacks[i];
		trace->cut = "";
		for (uint32_t j = 0; j < trace->frame_count; j++)
			random->stacks[i][j] =
				&random->frames[choose(random, choose(random, 2) ? 6 : FRAMES)];
	}
}

static void write_script(const struct random_traces *random, struct tm_strbuf *script)
{
	tm_strbuf_puts(script, "import tracemalloc\ntraces = []\n");
	for (size_t i = 0; i < TRACES; i++) {
		const struct tm_trace *trace = &random->traces[i];

		tm_strbuf_printf(script, "traces += [(0, %" PRIu64 ", (", trace->size / trace->count);
		for (uint32_t j = 0; j < trace->frame_count; j++)
			tm_strbuf_printf(script, "('%s', %u), ", trace->frames[j]->filename,
					 trace->frames[j]->lineno);
		tm_strbuf_printf(script, "), %u)] * %" PRIu64 "\n", trace->frame_count, trace->count);
	}
	tm_strbuf_puts(
		script,
		"snapshot = tracemalloc.Snapshot(traces, 6)\n"
		"for key, cumulative in (('lineno', False), ('filename', False), ('traceback', False),\n"
		"                        ('lineno', True), ('filename', True)):\n"
		"\tprint(key)\n"
		"\tfor stat in snapshot.statistics(key, cumulative):\n"
		"\t\tprint(stat, *stat.traceback, sep=' | ')\n");
}

/* str(Statistic), then str(Frame) of each frame, oldest first. */
static void print_statistic(const struct tm_statistic *statistic, struct tm_strbuf *out)
{
	char size[32], average[32];
	uint32_t oldest = statistic->frame_count - 1;

	tm_strbuf_printf(out, "%s:%u: size=%s, count=%" PRIu64, statistic->frames[oldest]->filename,
			 statistic->frames[oldest]->lineno,
			 tm_format_size((double)statistic->size, false, size), statistic->count);
	tm_strbuf_printf(out, ", average=%s",
			 tm_format_size((double)statistic->size / (double)statistic->count, false, average));
	for (uint32_t i = statistic->frame_count; i-- > 0;)
		tm_strbuf_printf(out, " | %s:%u", statistic->frames[i]->filename,
				 statistic->frames[i]->lineno);
	tm_strbuf_puts(out, "\n");
}

static void print_all(const struct random_traces *random, struct tm_strbuf *out)
{
	static const struct {
		enum tm_group_by group_by;
		bool cumulative;
	} questions[] = {
		{TM_GROUP_LINENO, false}, {TM_GROUP_FILENAME, false}, {TM_GROUP_TRACEBACK, false},
		{TM_GROUP_LINENO, true},  {TM_GROUP_FILENAME, true},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(questions); i++) {
		compute(random->traces, TRACES, questions[i].group_by, questions[i].cumulative);
		tm_strbuf_printf(out, "%s\n", tm_group_by_name(questions[i].group_by));
		for (size_t j = 0; j < statistics.count; j++)
			print_statistic(&statistics.items[j], out);
	}
}

Test(statistic, statistics_agree_with_cpython)
{
	static struct random_traces random;

	require_python();
	for (uint64_t seed = 1; seed <= 10; seed++) {
		_cleanup_(tm_strbuf_deinit) struct tm_strbuf script = {0}, ours = {0}, theirs = {0};

		random.state = seed << 32;
		make_traces(&random);
		write_script(&random, &script);
		ask_python(&script, &theirs);
		print_all(&random, &ours);
		expect_same_text(&ours, &theirs);
	}
}
