/*
 * Grouping, sorting and printing as Lib/tracemalloc.py does (Snapshot.statistics, Statistic.__str__,
 * _format_size), over traces whose frames have names. Works on a report file as well as on a live trace: its
 * input is a plain array. Strings are borrowed from the caller and must outlive the result.
 */
#ifndef TM_MODEL_STATISTIC_H
#define TM_MODEL_STATISTIC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* A frame as it is shown. An inlined call is a frame of its own. */
struct tm_named_frame {
	const char *filename; /* source file; the module's path where there is no line information */
	uint32_t lineno;      /* 0: unknown */
	const char *function; /* NULL: no symbol covers it */
	const char *module;   /* path of the module */
	uint64_t offset;      /* in the module */
	const char *source;   /* text of the source line, stripped, or NULL */
	bool skipped;	      /* an allocator's wrapper: does not own a line */
};

struct tm_trace {
	uint32_t domain, tid;
	const char *thread_name; /* may be NULL */
	uint64_t size, count;
	double size_variance;			    /* of size, where it is an estimate; else 0 */
	const struct tm_named_frame *const *frames; /* most recent first */
	uint32_t frame_count;
	uint32_t total_nframe;
	const char *cut; /* why the traceback ends early, "" if it does not */
};

enum tm_group_by {
	TM_GROUP_LINENO,
	TM_GROUP_FILENAME,
	TM_GROUP_TRACEBACK,
	TM_GROUP_FUNCTION,
	TM_GROUP_MODULE,
	TM_GROUP_THREAD,
};
/* By name ("lineno", ...); false if there is no such grouping. */
bool tm_group_by_parse(const char *name, enum tm_group_by *group_by);
const char *tm_group_by_name(enum tm_group_by group_by);

struct tm_statistic {
	uint64_t size, count;
	double size_variance; /* of size */
	uint32_t domain;      /* of the first trace of the group */
	uint32_t tid;	      /* TM_GROUP_THREAD: the thread */
	const char *thread_name;
	const struct tm_named_frame *const *frames; /* the group's key: one frame, or all of a traceback */
	uint32_t frame_count;
	uint32_t total_nframe; /* TM_GROUP_TRACEBACK: of the first trace; else 0 */
	const char *cut;
};

struct tm_statistics {
	struct tm_statistic *items;
	size_t count;
	void *storage; /* keys made for grouping; owned */
};

/*
 * Groups and sorts: descending by (size, count, key), where tracebacks are compared oldest frame first.
 * `lineno`, `filename`, `function` and `module` take the most recent frame that is not skipped (the most
 * recent one if all are). With cumulative every frame of a trace, skipped or not, adds once per occurrence,
 * as in tracemalloc, which allows it for lineno and filename only (here: function and module too); asking for
 * it with traceback or thread is an error with tracemalloc's words. A trace without frames has one:
 * <unknown>:0.
 *
 * Traces are independent samples, so that the variance of a group is the sum of theirs, with cumulative once
 * per occurrence too: of a frame that a traceback holds twice (recursion) it is too low then, as the size is
 * too high.
 *
 * The key, and what the group's one frame is:
 *
 * - lineno: (filename, lineno); the first frame of the group, whole
 * - filename: that, and lineno 0
 * - function: (filename, function), and lineno 0
 * - module: its path, as filename too, and lineno 0
 * - traceback: (filename, lineno) of each frame, and where lineno is 0 the function, or the offset if it has
 * none; the first trace's frames
 * - thread: tid; no frame
 */
struct tm_error *tm_statistics_compute(const struct tm_trace *traces, size_t trace_count,
				       enum tm_group_by group_by, bool cumulative, struct tm_statistics *out);
void tm_statistics_deinit(struct tm_statistics *statistics);

/* _format_size of Lib/tracemalloc.py: "279 KiB". buffer holds at least 32 bytes; returns it. */
char *tm_format_size(double size, bool sign, char *buffer);

#endif
