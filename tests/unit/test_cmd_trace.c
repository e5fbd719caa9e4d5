#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* The command itself, in this source: cli is no layer that others, or tests, link. */
#include "cli/cmd_trace.c"

static const struct {
	const char *text;
	uint64_t bytes; /* 0: an error */
} sizes[] = {
	{"1", 1},
	{"524288", 524288},
	{"512K", 524288},
	{"1M", 1 << 20},
	{"2G", UINT64_C(2) << 30},
	{"9223372036854775807", INT64_MAX},
	{"8589934591G", UINT64_C(8589934591) << 30},
	{"8589934592G", 0},
	{"9223372036854775808", 0},
	{"99999999999999999999", 0},
	{"0", 0},
	{"0K", 0},
	{"", 0},
	{"K", 0},
	{"-1", 0},
	{"+1", 0},
	{" 1", 0},
	{"1k", 0},
	{"1KB", 0},
	{"1KK", 0},
	{"1KM", 0},
	{"1.5M", 0},
};

Test(cmd_trace, bytes_may_have_a_unit)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(sizes); i++) {
		uint64_t bytes = 0;
		bool valid = parse_bytes(sizes[i].text, &bytes);

		cr_expect_eq(valid, sizes[i].bytes != 0, "%s", sizes[i].text);
		if (valid)
			cr_expect_eq(bytes, sizes[i].bytes, "%s", sizes[i].text);
	}
}

enum { WORDS_MAX = 8 };

static int parse_words(struct trace *trace, const char *const *words)
{
	char *argv[WORDS_MAX + 2] = {"tmtrace"};
	int argc = 1;

	for (; *words; words++)
		argv[argc++] = (char *)*words;
	optind = 0; /* glibc: begin anew */
	return parse(trace, argc, argv);
}

Test(cmd_trace, sample_is_of_native_allocations)
{
	struct trace trace = {0}, other = {0};

	cr_assert_eq(parse_words(&trace, (const char *[]){"--sample", "512K", "-a", "1", NULL}), 0);
	cr_expect_eq(trace.session.sample, 524288);
	cr_expect_eq(trace.session.domain, TM_SESSION_NATIVE);
	cr_assert_eq(parse_words(&other, (const char *[]){"--sample=1", "--domain", "native", "--probe",
							  "pad", "true", NULL}),
		     0);
	cr_expect_eq(other.session.sample, 1);
}

Test(cmd_trace, without_sample_the_program_is_recognised)
{
	struct trace trace = {0};

	cr_assert_eq(parse_words(&trace, (const char *[]){"true", NULL}), 0);
	cr_expect_eq(trace.session.sample, 0);
	cr_expect_eq(trace.session.domain, TM_SESSION_RECOGNISE);
}

static const struct {
	const char *words[WORDS_MAX];
	const char *cure;
} mistakes[] = {
	{{"--sample", "0", "true"}, "tmtrace: --sample wants a number of bytes, 1 or more"},
	{{"--sample", "many", "true"}, "not \"many\"\nTry `tmtrace --help`.\n"},
	{{"--sample", "1M", "--domain", "python", "true"}, "--sample needs pads that record"},
	{{"--domain", "both", "--sample", "1M", "true"}, "--sample needs pads that record"},
	{{"--sample", "1M", "--within", "f", "true"}, "--sample needs pads that record"},
	{{"--sample", "1M", "--exact", "true"}, "--sample needs pads that record"},
	{{"--sample", "1M", "--probe", "breakpoint", "true"}, "--sample needs pads that record"},
};

/* What parse says on standard error. */
static void expect_mistake(const char *const *words, const char *cure)
{
	char said[1024] = "", path[] = "/tmp/tm_trace_XXXXXX";
	int file = mkstemp(path), before = dup(STDERR_FILENO), status;
	struct trace trace = {0};

	cr_assert(file >= 0 && before >= 0);
	dup2(file, STDERR_FILENO);
	status = parse_words(&trace, words);
	fflush(stderr);
	dup2(before, STDERR_FILENO);
	cr_assert_geq(pread(file, said, sizeof(said) - 1, 0), 0);
	cr_expect_eq(status, TM_EXIT_ERROR, "%s", said);
	cr_expect(strstr(said, cure), "%s", said);
	unlink(path);
	close(file);
	close(before);
}

Test(cmd_trace, mistakes_name_the_cure)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(mistakes); i++)
		expect_mistake(mistakes[i].words, mistakes[i].cure);
}
