/* tmtrace --attach PID, tmtrace -- COMMAND: runs a session and shows what came of it. */
#include "cli/commands.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/log.h"
#include "base/vector.h"
#include "model/statistic.h"
#include "report/render.h"
#include "session/session.h"

struct trace {
	struct tm_session_config session;
	struct tm_vector(const char *) skip;
	size_t limit;
	bool quiet;
	bool status_line; /* stderr is a terminal */
	bool line_shown;
};

/* ---- signals ---- */

static volatile sig_atomic_t stop_requested;
static volatile sig_atomic_t snapshots_requested;
static volatile sig_atomic_t interrupts;
static volatile sig_atomic_t interrupts_to_stop = 1;

/* Ctrl-C reaches a launched command too, and it decides what that means; a second one is for us. */
static void on_interrupt(int signal)
{
	(void)signal;
	interrupts++;
	if (interrupts >= interrupts_to_stop)
		stop_requested = 1;
}

static void on_end(int signal)
{
	(void)signal;
	stop_requested = 1;
}

static void on_snapshot(int signal)
{
	(void)signal;
	snapshots_requested++;
}

/* A reader that went away must not end us with breakpoints in the target: the write fails, which is enough.
 * Caught, not ignored: a command that is started would ignore it too (execve(2)). */
static void on_broken_pipe(int signal)
{
	(void)signal;
}

/* Without SA_RESTART: the session's wait must come back. A signal that was ignored when we came (nohup) stays
 * so. */
static void catch_signal(int number, void (*handler)(int))
{
	struct sigaction before, action = {.sa_handler = handler};

	sigaction(number, NULL, &before);
	if (before.sa_handler != SIG_IGN)
		sigaction(number, &action, NULL);
}

static void catch_signals(void)
{
	catch_signal(SIGINT, on_interrupt);
	catch_signal(SIGTERM, on_end);
	catch_signal(SIGHUP, on_end);
	catch_signal(SIGQUIT, on_end);
	catch_signal(SIGUSR1, on_snapshot);
	catch_signal(SIGPIPE, on_broken_pipe);
}

/* ---- the command line ---- */

static int usage_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
static int usage_error(const char *format, ...)
{
	va_list args;

	fputs("tmtrace: ", stderr);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputs("\nTry `tmtrace --help`.\n", stderr);
	return TM_EXIT_ERROR;
}

static bool parse_number(const char *text, unsigned long low, unsigned long high, unsigned long *value)
{
	char *end;

	errno = 0;
	*value = strtoul(text, &end, 10);
	return text[0] >= '0' && text[0] <= '9' && !*end && !errno && *value >= low && *value <= high;
}

static bool parse_seconds(const char *text, uint64_t *ns)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end || !isfinite(seconds) || seconds <= 0 || seconds > 1e9)
		return false;
	*ns = (uint64_t)(seconds * 1e9);
	return true;
}

/* "524288", "512K": K, M and G are KiB, MiB and GiB. From 1 to INT64_MAX, as a report's numbers are. */
static bool parse_bytes(const char *text, uint64_t *bytes)
{
	static const char units[] = "KMG";
	const char *unit;
	unsigned shift;
	char *end;

	errno = 0;
	*bytes = strtoull(text, &end, 10);
	unit = *end ? strchr(units, *end) : NULL;
	shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;
	end += unit != NULL;
	if (text[0] < '0' || text[0] > '9' || *end || errno || !*bytes ||
	    *bytes > (uint64_t)INT64_MAX >> shift)
		return false;
	*bytes <<= shift;
	return true;
}

enum {
	OPTION_SKIP = 256,
	OPTION_LIMIT,
	OPTION_DOMAIN,
	OPTION_PROBE,
	OPTION_WITHIN,
	OPTION_EXACT,
	OPTION_SAMPLE
};

static const struct option options[] = {
	{"attach", required_argument, NULL, 'a'},
	{"duration", required_argument, NULL, 'd'},
	{"output", required_argument, NULL, 'o'},
	{"force", no_argument, NULL, 'f'},
	{"nframe", required_argument, NULL, 'n'},
	{"domain", required_argument, NULL, OPTION_DOMAIN},
	{"probe", required_argument, NULL, OPTION_PROBE},
	{"within", required_argument, NULL, OPTION_WITHIN},
	{"exact", no_argument, NULL, OPTION_EXACT},
	{"sample", required_argument, NULL, OPTION_SAMPLE},
	{"skip", required_argument, NULL, OPTION_SKIP},
	{"limit", required_argument, NULL, OPTION_LIMIT},
	{"quiet", no_argument, NULL, 'q'},
	{"verbose", no_argument, NULL, 'v'},
	{NULL, 0, NULL, 0},
};

static int take_domain(struct trace *trace, const char *name)
{
	static const char *const names[] = {
		[TM_SESSION_NATIVE] = "native", [TM_SESSION_PYTHON] = "python", [TM_SESSION_BOTH] = "both"};

	for (size_t i = TM_SESSION_NATIVE; i < TM_ARRAY_SIZE(names); i++) {
		if (strcmp(name, names[i]) != 0)
			continue;
		trace->session.domain = (enum tm_session_domain)i;
		return 0;
	}
	return usage_error("--domain: \"%s\" is not known; there are native, python and both", name);
}

static int take_probe(struct trace *trace, const char *name)
{
	static const struct {
		const char *name;
		enum tm_session_probe probe;
	} probes[] = {{"auto", TM_SESSION_PROBE_AUTO},
		      {"pad", TM_SESSION_PROBE_PAD},
		      {"breakpoint", TM_SESSION_PROBE_BREAKPOINT}};

	for (size_t i = 0; i < TM_ARRAY_SIZE(probes); i++)
		if (strcmp(name, probes[i].name) == 0) {
			trace->session.probe = probes[i].probe;
			return 0;
		}
	return usage_error("--probe: \"%s\" is not known; there are auto, pad and breakpoint", name);
}

/* 0, or the exit status of a usage error. */
static int take_option(struct trace *trace, int option)
{
	unsigned long number;

	switch (option) {
	case 'a':
		if (!parse_number(optarg, 1, INT32_MAX, &number))
			return usage_error("--attach wants a process number, not \"%s\"", optarg);
		trace->session.attach_pid = (pid_t)number;
		return 0;
	case 'd':
		if (!parse_seconds(optarg, &trace->session.duration_ns))
			return usage_error("--duration wants a number of seconds, not \"%s\"", optarg);
		return 0;
	case 'o':
		trace->session.output = optarg;
		return 0;
	case 'f':
		trace->session.force = true;
		return 0;
	case 'n':
		if (!parse_number(optarg, 1, 65535, &number))
			return usage_error(
				"--nframe: the number of frames must be in range [1; 65535], not \"%s\"",
				optarg);
		trace->session.nframe = (unsigned)number;
		return 0;
	case OPTION_DOMAIN:
		return take_domain(trace, optarg);
	case OPTION_PROBE:
		return take_probe(trace, optarg);
	case OPTION_WITHIN:
		trace->session.within = optarg;
		return 0;
	case OPTION_EXACT:
		trace->session.exact = true;
		return 0;
	case OPTION_SAMPLE:
		if (!parse_bytes(optarg, &trace->session.sample))
			return usage_error(
				"--sample wants a number of bytes, 1 or more (K, M, G: KiB, MiB, GiB), not "
				"\"%s\"",
				optarg);
		return 0;
	case OPTION_SKIP:
		return tm_vector_push(&trace->skip, optarg) ? 0 : usage_error("out of memory");
	case OPTION_LIMIT:
		if (!parse_number(optarg, 0, UINT32_MAX, &number))
			return usage_error("--limit wants a number, not \"%s\"", optarg);
		trace->limit = number;
		return 0;
	case 'q':
		trace->quiet = true;
		return 0;
	case 'v':
		tm_log_level = tm_log_level == TM_LOG_NONE ? TM_LOG_INFO : TM_LOG_DEBUG;
		return 0;
	default:
		fputs("Try `tmtrace --help`.\n", stderr); /* getopt has said what is wrong */
		return TM_EXIT_ERROR;
	}
}

/* Only the recorder of native pads draws samples. Goes behind what else decides on the domain. */
static int check_sample(struct trace *trace)
{
	if (!trace->session.sample)
		return 0;
	if (trace->session.domain == TM_SESSION_PYTHON || trace->session.domain == TM_SESSION_BOTH)
		return usage_error("--sample needs pads that record native allocations: --domain python or "
				   "both has none");
	if (trace->session.probe == TM_SESSION_PROBE_BREAKPOINT)
		return usage_error("--sample needs pads that record: it does not go with --probe breakpoint");
	trace->session.domain = TM_SESSION_NATIVE;
	return 0;
}

static int parse(struct trace *trace, int argc, char **argv)
{
	int option, status;

	while ((option = getopt_long(argc, argv, "+a:d:o:fn:qv", options, NULL)) != -1) {
		status = take_option(trace, option);
		if (status)
			return status;
	}
	if (trace->session.attach_pid && optind < argc)
		return usage_error("either --attach PID or a command, not both (\"%s\")", argv[optind]);
	if (!trace->session.attach_pid && optind == argc)
		return usage_error("what is to be traced: --attach PID, or a command");
	if (trace->session.domain == TM_SESSION_BOTH && trace->session.probe == TM_SESSION_PROBE_PAD)
		return usage_error("--probe pad: with --domain both every call stops its thread");
	if (trace->session.within && trace->session.domain == TM_SESSION_NATIVE)
		return usage_error("--within names a Python function: it goes with --domain python or both");
	if (trace->session.within && trace->session.domain == TM_SESSION_RECOGNISE)
		trace->session.domain = TM_SESSION_PYTHON;
	if (trace->session.exact && trace->session.domain == TM_SESSION_NATIVE)
		return usage_error("--exact is about Python objects: it goes with --domain python or both");
	if (trace->session.exact && trace->session.domain == TM_SESSION_RECOGNISE)
		trace->session.domain = TM_SESSION_PYTHON;
	status = check_sample(trace);
	if (status)
		return status;
	trace->session.argv = argv + optind;
	trace->session.skip = trace->skip.items;
	trace->session.skip_count = trace->skip.count;
	return 0;
}

/* ---- what is shown meanwhile ---- */

static void clear_line(struct trace *trace)
{
	if (trace->line_shown)
		fputs("\r\033[K", stderr);
	trace->line_shown = false;
}

static void show_started(void *context, pid_t pid, const char *comm, const char *what)
{
	struct trace *trace = context;

	if (trace->quiet)
		return;
	fprintf(stderr, "tmtrace: tracing %d (%s): %s; end with Ctrl-C\n", pid, comm, what);
}

/* "current 1 KiB  peak 2 KiB  blocks 3", where there is one domain; else each with its name, and shorter. */
static void put_amounts(const struct tm_session_status *status)
{
	for (size_t i = 0; i < status->amount_count; i++) {
		const struct tm_session_amount *amount = &status->amounts[i];
		char current[32], peak[32];

		tm_format_size((double)amount->current, false, current);
		tm_format_size((double)amount->peak, false, peak);
		if (status->amount_count == 1)
			fprintf(stderr, "  current %s  peak %s  blocks %" PRIu64, current, peak,
				amount->blocks);
		else
			fprintf(stderr, "  %s %s, peak %s", amount->domain, current, peak);
	}
}

static void show_status(void *context, const struct tm_session_status *status)
{
	struct trace *trace = context;

	if (!trace->status_line)
		return;
	fprintf(stderr, "\r\033[K%.1f s", (double)status->elapsed_ns / 1e9);
	put_amounts(status);
	fprintf(stderr, "  %" PRIu64 " events/s", status->events_per_second);
	fflush(stderr);
	trace->line_shown = true;
}

static void show_snapshot(void *context, const char *name, const struct tm_session_status *status)
{
	struct trace *trace = context;
	bool several = status->amount_count > 1;
	char current[32];

	if (trace->quiet)
		return;
	clear_line(trace);
	fprintf(stderr, "tmtrace: snapshot %s taken at %.1f s:", name, (double)status->elapsed_ns / 1e9);
	for (size_t i = 0; i < status->amount_count; i++) {
		const struct tm_session_amount *amount = &status->amounts[i];

		fprintf(stderr, "%s %s%s%s in %" PRIu64 " blocks", i ? "," : "",
			several ? amount->domain : "", several ? " " : "",
			tm_format_size((double)amount->current, false, current), amount->blocks);
	}
	fputc('\n', stderr);
}

static void show_warning(void *context, const char *text)
{
	struct trace *trace = context;

	if (trace->quiet)
		return;
	clear_line(trace);
	fprintf(stderr, "tmtrace: warning: %s\n", text);
}

static void show_saving(void *context, size_t done, size_t total)
{
	struct trace *trace = context;

	if (!trace->status_line)
		return;
	fprintf(stderr, "\r\033[Knaming frames: %zu of %zu", done, total);
	fflush(stderr);
	trace->line_shown = true;
}

/* ---- the end ---- */

static int fail(struct tm_error *err, int status)
{
	fprintf(stderr, "tmtrace: %s\n", err->message);
	tm_error_destroy(err);
	return status;
}

static struct tm_error *show_report(const struct trace *trace, const char *path, FILE *out)
{
	const struct tm_render_options render = {.group_by = TM_GROUP_LINENO, .limit = trace->limit};
	struct tm_report_view view;
	struct tm_report *report = NULL;
	struct tm_error *err = tm_report_open(path, &report);

	if (!err)
		err = tm_report_load(report, "end", &view);
	if (!err)
		err = tm_render_text(report, &view, &render, out);
	tm_report_close(report);
	return err;
}

/* The command's standard output is its own; what tmtrace has to say of it goes to standard error. */
static struct tm_error *show_result(const struct trace *trace, const struct tm_session_result *result)
{
	FILE *out = trace->session.attach_pid ? stdout : stderr;
	struct tm_error *err = trace->quiet ? NULL : show_report(trace, result->path, out);

	if (!err && result->foreign && !trace->quiet)
		fprintf(stderr,
			"tmtrace: warning: %zu places of code had been changed by somebody else meanwhile "
			"and were left so\n",
			result->foreign);
	if (!err && !trace->quiet)
		fprintf(stderr, "tmtrace: report saved in %s\n", result->path);
	if (!err && fflush(out) != 0)
		err = tm_error_errno(errno, "cannot write the report to standard output");
	return err;
}

static int status_of(const struct trace *trace, const struct tm_session_result *result)
{
	if (trace->session.attach_pid || !result->exited)
		return 0;
	return WIFSIGNALED(result->wait_status) ? 128 + WTERMSIG(result->wait_status)
						: WEXITSTATUS(result->wait_status);
}

/* As a shell says it: sh(1), "Exit status". */
static int status_of_error(const struct trace *trace, const struct tm_error *err)
{
	if (trace->session.attach_pid || strncmp(err->message, "cannot execute", 14) != 0)
		return TM_EXIT_ERROR;
	return err->code == TM_ERROR_NOT_FOUND ? 127 : 126;
}

static bool loses_privilege(const char *program)
{
	struct stat info;

	return strchr(program, '/') ? stat(program, &info) == 0 && (info.st_mode & (S_ISUID | S_ISGID))
				    : strcmp(program, "sudo") == 0 || strcmp(program, "su") == 0;
}

static int run(struct trace *trace)
{
	struct tm_session_result result = {0};
	struct tm_error *err;
	int status;

	if (!trace->session.attach_pid) {
		interrupts_to_stop = 2;
		if (geteuid() != 0 && loses_privilege(trace->session.argv[0]))
			show_warning(trace, "a traced program does not gain privileges by its setuid bit "
					    "(execve(2)): start it "
					    "untraced and attach to it as root");
	}
	catch_signals();
	err = tm_session_run(&trace->session, &result);
	clear_line(trace);
	if (err) {
		status = status_of_error(trace, err);
	} else {
		err = show_result(trace, &result);
		status = err ? TM_EXIT_ERROR : status_of(trace, &result);
	}
	free(result.path);
	return err ? fail(err, status) : status;
}

int tm_cmd_trace(int argc, char **argv)
{
	struct trace trace = {.limit = 10,
			      .session = {.stop = &stop_requested, .snapshots = &snapshots_requested}};
	int status = parse(&trace, argc, argv);

	trace.status_line = !trace.quiet && isatty(STDERR_FILENO);
	trace.session.context = &trace;
	trace.session.started = show_started;
	trace.session.status = show_status;
	trace.session.snapshot = show_snapshot;
	trace.session.warning = show_warning;
	trace.session.saving = show_saving;
	if (!status)
		status = run(&trace);
	tm_vector_deinit(&trace.skip);
	return status;
}
