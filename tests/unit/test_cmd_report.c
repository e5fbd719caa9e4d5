#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/report_sample.h"

/* The command itself, in this source: cli is no layer that others, or tests, link. */
#include "cli/cmd_report.c"

static struct sample_folder folder;

static void make_report(void)
{
	struct sample sample = sample_typical();

	folder = sample_folder_create();
	sample_write(&sample, folder.file);
	sample_destroy(&sample);
}

static void remove_folder(void)
{
	sample_folder_remove(&folder);
}

TestSuite(cmd_report, .init = make_report, .fini = remove_folder);

struct outcome {
	int status;
	char out[4096], err[1024];
};

static void read_to_end(int fd, char *text, size_t size)
{
	size_t length = 0;
	ssize_t n;

	while (length + 1 < size && (n = read(fd, text + length, size - 1 - length)) > 0)
		length += (size_t)n;
	text[length] = '\0';
	close(fd);
}

/* In a child, with its standard output in a pipe, or in the file `output`. */
static struct outcome run(const char *output, char *const *words)
{
	struct outcome outcome;
	int out[2], err[2], argc = 0, status;
	pid_t pid;

	while (words[argc])
		argc++;
	cr_assert(pipe(out) == 0 && pipe(err) == 0);
	fflush(stdout);
	fflush(stderr);
	pid = fork();
	if (pid == 0) {
		dup2(output ? open(output, O_WRONLY) : out[1], STDOUT_FILENO);
		dup2(err[1], STDERR_FILENO);
		status = tm_cmd_report(argc, (char **)words);
		_exit(status);
	}
	close(out[1]);
	close(err[1]);
	read_to_end(out[0], outcome.out, sizeof(outcome.out));
	read_to_end(err[0], outcome.err, sizeof(outcome.err));
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFEXITED(status));
	outcome.status = WEXITSTATUS(status);
	return outcome;
}

#define report(...) run(NULL, (char *[]){"report", __VA_ARGS__, NULL})

Test(cmd_report, ten_lines_of_the_end_are_the_default)
{
	struct outcome outcome = report(folder.file);

	cr_expect_eq(outcome.status, 0);
	cr_expect(strstr(outcome.out, "Top 10 lines\n/src/make.c:3: size=1500 B"), "%s", outcome.out);
	cr_expect_str_eq(outcome.err, "");
}

Test(cmd_report, options_stand_before_or_behind_the_file)
{
	struct outcome outcome = report(folder.file, "--group-by", "thread", "--at", "peak", "--limit=1");

	cr_expect_eq(outcome.status, 0);
	cr_expect(strstr(outcome.out, "Top 1 threads\nthread main (100): size=5200 B"), "%s", outcome.out);
	outcome = report("--cumulative", "--group-by=function", folder.file);
	cr_expect(strstr(outcome.out, "Top 10 functions (cumulative)\nrun (/bin/app): size=1700 B"), "%s",
		  outcome.out);
}

Test(cmd_report, json_has_all_groups_unless_limited)
{
	struct outcome outcome = report("--format", "json", folder.file);

	cr_expect_eq(outcome.status, 0);
	cr_expect_eq(outcome.out[0], '{');
	cr_expect(strstr(outcome.out, "strdup"));
	outcome = report("--format", "json", "--limit", "1", folder.file);
	cr_expect_not(strstr(outcome.out, "strdup"));
}

Test(cmd_report, help_goes_to_standard_output)
{
	struct outcome outcome = report("--help");

	cr_expect_eq(outcome.status, 0);
	cr_expect(strstr(outcome.out, "--group-by"));
}

static const struct {
	const char *words[4];
	const char *cure;
} mistakes[] = {
	{{NULL}, "tmtrace: which report? tmtrace report FILE\n"},
	{{"/nonexistent.tmt"}, "tmtrace: cannot open /nonexistent.tmt: No such file or directory\n"},
	{{"/dev/null"}, "tmtrace: /dev/null is not a regular file"},
	{{"--group-by", "colour", "x"}, "takes lineno, filename,"},
	{{"--group-by"}, "tmtrace: --group-by needs a value: see tmtrace report --help\n"},
	{{"--limit", "-1", "x"}, "tmtrace: '-1' is no number of groups"},
	{{"--limit", "1x", "x"}, "--limit takes"},
	{{"--limit", "99999999999999999999", "x"}, "--limit takes"},
	{{"--format", "xml", "x"}, "--format takes text or json"},
	{{"--bogus", "x"}, "tmtrace: unknown option --bogus: see tmtrace report --help\n"},
	{{"-q", "x"}, "tmtrace: unknown option -q: see"},
	{{"a", "b"}, "'b' is one too many"},
	{{"--cumulative", "--group-by=traceback", "x"}, "key type 'traceback': group by lineno,"},
};

Test(cmd_report, mistakes_are_one_line_with_the_cure)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(mistakes); i++) {
		const char *const *words = mistakes[i].words;
		char *argv[] = {"report",	  (char *)words[0], (char *)words[1],
				(char *)words[2], (char *)words[3], NULL};
		struct outcome outcome = run(NULL, argv);

		cr_expect_eq(outcome.status, TM_EXIT_ERROR, "%s", outcome.err);
		cr_expect(strstr(outcome.err, mistakes[i].cure), "'%s' lacks '%s'", outcome.err,
			  mistakes[i].cure);
		cr_expect_eq(strchr(outcome.err, '\n'), outcome.err + strlen(outcome.err) - 1);
		cr_expect_str_eq(outcome.out, "");
	}
}

Test(cmd_report, unknown_snapshot_names_the_others)
{
	struct outcome outcome = report("--at", "noon", folder.file);

	cr_expect_eq(outcome.status, TM_EXIT_ERROR);
	cr_expect(strstr(outcome.err, "no snapshot 'noon': it has peak, end"), "%s", outcome.err);
}

Test(cmd_report, full_disk_is_told)
{
	struct outcome outcome = run("/dev/full", (char *[]){"report", folder.file, NULL});

	cr_expect_eq(outcome.status, TM_EXIT_ERROR);
	cr_expect_str_eq(outcome.err, "tmtrace: cannot write to standard output: No space left on device\n");
}

Test(cmd_report, closed_pipe_is_told)
{
	char *words[] = {"report", folder.file, NULL};
	int out[2], status;
	pid_t pid;

	cr_assert_eq(pipe(out), 0);
	close(out[0]); /* before anybody writes */
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		signal(SIGPIPE, SIG_IGN);
		dup2(out[1], STDOUT_FILENO);
		dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
		close(out[1]);
		_exit(tm_cmd_report(2, words));
	}
	close(out[1]);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == TM_EXIT_ERROR);
}
