#include "cli/cmd_report.h"

#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/commands.h"
#include "report/render.h"

#define DEFAULT_LIMIT 10 /* display_top of tracemalloc's documentation */

static const char usage[] =
	"Usage: tmtrace report [OPTION...] FILE\n"
	"Shows which code held how much memory, from a report file. A file that is still being written is "
	"fine.\n"
	"\n"
	"  --group-by KEY    lineno (default), filename, traceback, function, module or thread\n"
	"  --cumulative      give each frame of a traceback its share, not only the most recent one\n"
	"                    (as tracemalloc does: once per occurrence, so recursion counts again)\n"
	"  --at NAME         snapshot: end (default), peak, or another one that the report lists\n"
	"  --domain NAME     only this domain: python, native, or its number\n"
	"  --limit N         show N groups; 0 shows all (default: 10 as text, all as JSON)\n"
	"  --format FORMAT   text (default) or json\n"
	"  --help            this text\n";

struct arguments {
	const char *file;
	const char *snapshot;
	const char *domain; /* NULL: all */
	bool json, help, limited;
	struct tm_render_options render;
};

__attribute__((format(printf, 1, 2))) static int complain(const char *format, ...)
{
	va_list args;

	fputs("tmtrace: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	return TM_EXIT_ERROR;
}

static int parse_group_by(const char *text, struct arguments *arguments)
{
	if (tm_group_by_parse(text, &arguments->render.group_by))
		return 0;
	return complain(
		"unknown key '%s': --group-by takes lineno, filename, traceback, function, module or thread",
		text);
}

static int parse_limit(const char *text, struct arguments *arguments)
{
	char *end;
	unsigned long limit;

	errno = 0;
	limit = strtoul(text, &end, 10);
	if (*text < '0' || *text > '9' || *end || errno)
		return complain("'%s' is no number of groups: --limit takes 0 (all) or more", text);
	arguments->render.limit = limit;
	arguments->limited = true;
	return 0;
}

static int parse_format(const char *text, struct arguments *arguments)
{
	arguments->json = strcmp(text, "json") == 0;
	if (arguments->json || strcmp(text, "text") == 0)
		return 0;
	return complain("unknown format '%s': --format takes text or json", text);
}

static const struct option long_options[] = {
	{"group-by", required_argument, NULL, 'g'}, {"cumulative", no_argument, NULL, 'c'},
	{"at", required_argument, NULL, 'a'},	    {"domain", required_argument, NULL, 'd'},
	{"limit", required_argument, NULL, 'l'},    {"format", required_argument, NULL, 'f'},
	{"help", no_argument, NULL, 'h'},	    {NULL, 0, NULL, 0},
};

static int apply_option(int option, struct arguments *arguments, char **argv)
{
	switch (option) {
	case 'g':
		return parse_group_by(optarg, arguments);
	case 'c':
		arguments->render.cumulative = true;
		return 0;
	case 'a':
		arguments->snapshot = optarg;
		return 0;
	case 'd':
		arguments->domain = optarg;
		return 0;
	case 'l':
		return parse_limit(optarg, arguments);
	case 'f':
		return parse_format(optarg, arguments);
	case 'h':
		arguments->help = true;
		return 0;
	case ':':
		return complain("%s needs a value: see tmtrace report --help", argv[optind - 1]);
	default:
		if (optopt) /* a short option: there are none */
			return complain("unknown option -%c: see tmtrace report --help", optopt);
		return complain("unknown option %s: see tmtrace report --help", argv[optind - 1]);
	}
}

/* What options say together. */
static int check_arguments(int argc, char **argv, struct arguments *arguments)
{
	enum tm_group_by group_by = arguments->render.group_by;

	if (arguments->help)
		return 0;
	if (optind == argc)
		return complain("which report? tmtrace report FILE");
	if (optind + 1 < argc)
		return complain("one report at a time: '%s' is one too many", argv[optind + 1]);
	if (arguments->render.cumulative && (group_by == TM_GROUP_TRACEBACK || group_by == TM_GROUP_THREAD))
		return complain(
			"cumulative mode cannot be used with key type '%s': group by lineno, filename, "
			"function or module",
			tm_group_by_name(group_by));
	if (!arguments->limited)
		arguments->render.limit = arguments->json ? 0 : DEFAULT_LIMIT;
	arguments->file = argv[optind];
	return 0;
}

static int parse_arguments(int argc, char **argv, struct arguments *arguments)
{
	int option, status = 0;

	optind = 0; /* glibc: begin anew, whatever was parsed before */
	while (!status && (option = getopt_long(argc, argv, ":", long_options, NULL)) != -1)
		status = apply_option(option, arguments, argv);
	return status ? status : check_arguments(argc, argv, arguments);
}

static struct tm_error *show(const struct arguments *arguments)
{
	struct tm_report *report;
	struct tm_report_view view;
	struct tm_error *err = tm_report_open(arguments->file, &report);

	if (err)
		return err;
	if (arguments->domain)
		err = tm_report_select_domain(report, arguments->domain);
	if (!err)
		err = tm_report_load(report, arguments->snapshot, &view);
	if (!err)
		err = (arguments->json ? tm_render_json : tm_render_text)(report, &view, &arguments->render,
									  stdout);
	tm_report_close(report);
	return err;
}

/* A full disk or a closed pipe shows at the latest when the last bytes go out. */
static int finish_output(void)
{
	bool failed = ferror(stdout);

	if (fflush(stdout) == 0 && !failed)
		return 0;
	return complain("cannot write to standard output: %s",
			errno ? strerror(errno) : "some of it was lost");
}

int tm_cmd_report(int argc, char **argv)
{
	struct arguments arguments = {.snapshot = "end", .render = {.group_by = TM_GROUP_LINENO}};
	_cleanup_error_ struct tm_error *err = NULL;
	int status = parse_arguments(argc, argv, &arguments);

	if (status)
		return status;
	errno = 0;
	if (arguments.help)
		fputs(usage, stdout);
	else
		err = show(&arguments);
	if (err)
		return complain("%s", err->message);
	return finish_output();
}
