/*
 * One trace, from attach to the saved report: the event loop, and the only place where target, probe,
 * unwinder, model and report meet. It prints nothing: what a user should see goes through the callbacks.
 */
#ifndef TM_SESSION_SESSION_H
#define TM_SESSION_SESSION_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define TM_SESSION_DOMAINS_MAX 2

struct tm_session_status {
	uint64_t elapsed_ns;
	struct tm_session_amount {
		const char *domain;		/* its name */
		uint64_t current, peak, blocks; /* bytes, bytes, number */
	} amounts[TM_SESSION_DOMAINS_MAX];	/* of each domain that is traced; never to be summed */
	size_t amount_count;
	uint64_t events;	    /* allocations and frees so far, of all domains */
	uint64_t events_per_second; /* since the status before */
};

enum tm_session_domain {
	TM_SESSION_RECOGNISE, /* PYTHON where the program is a CPython that can be traced, else NATIVE */
	TM_SESSION_NATIVE,    /* malloc and its kin, in every module */
	TM_SESSION_PYTHON,    /* the allocators of a CPython interpreter, as tracemalloc sees them */
	TM_SESSION_BOTH,      /* both, as domains of their own */
};

/* How a call is caught. */
enum tm_session_probe {
	TM_SESSION_PROBE_AUTO,	     /* pads that record where they can be, else breakpoints */
	TM_SESSION_PROBE_PAD,	     /* an error where they cannot be */
	TM_SESSION_PROBE_BREAKPOINT, /* every call stops its thread: the reference */
};

struct tm_session_config {
	enum tm_session_domain domain;
	enum tm_session_probe probe;
	bool exact;	      /* python: recycled blocks go to their new line also up to 3.12 */
	pid_t attach_pid;     /* 0: start `argv` */
	char *const *argv;    /* NULL-terminated */
	const char *output;   /* NULL: tmtrace.COMM.PID.tmt in the current folder */
	bool force;	      /* overwrite an existing file */
	uint64_t duration_ns; /* 0: until it ends */
	unsigned nframe;      /* 1..65535; 0: 1 for the python domain, 64 for the native one */
	const char *within; /* count only while this Python function is on the stack: [FILE:]FUNCTION, globs;
			       NULL: always */
	uint64_t sample;    /* mean bytes between samples of native calls, up to INT64_MAX; 0: every call */
	const char *const *skip; /* globs of function names that own no line */
	size_t skip_count;
	volatile sig_atomic_t *stop;	  /* set by a signal handler: end the trace */
	volatile sig_atomic_t *snapshots; /* how many a signal handler has asked for so far; may be NULL */

	void *context; /* of the callbacks; each may be NULL */
	/* what: "N functions in M modules", "CPython 3.11.2 in /usr/bin/python3.11" */
	void (*started)(void *context, pid_t pid, const char *comm, const char *what);
	void (*status)(void *context, const struct tm_session_status *status); /* about twice a second */
	/* A snapshot that was asked for is taken. */
	void (*snapshot)(void *context, const char *name, const struct tm_session_status *status);
	void (*warning)(void *context, const char *text);
	void (*saving)(void *context, size_t done,
		       size_t total); /* frames named, while the report is written */
};

struct tm_session_result {
	char *path;  /* of the report; the caller frees */
	bool exited; /* the target ended: wait_status as wait(2) gives it */
	int wait_status;
	size_t foreign; /* places of code, and slots of tables, that somebody else had changed meanwhile, left
			   as they were */
};

/* Runs a whole trace. An error means that nothing was traced, or that the report could not be saved; the
   target was let go in either case, unharmed. */
struct tm_error *tm_session_run(const struct tm_session_config *config, struct tm_session_result *result);

#endif
