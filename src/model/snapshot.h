/*
 * A copy of the tables at one moment, that another thread may read while the tracer goes on: what was live in
 * each account, the totals, and (if asked for) every block. Refers to tracebacks by number: the snapshot also
 * holds the number of tracebacks that existed, and those never change or move.
 */
#ifndef TM_MODEL_SNAPSHOT_H
#define TM_MODEL_SNAPSHOT_H

#include "model/tracer.h"

struct tm_snapshot_row {
	uint32_t domain, tid, traceback;
	uint64_t size, count;
	double size_variance; /* of the estimate size; 0 if every call was an event */
};

struct tm_snapshot {
	char *name;    /* "end", "peak", "exec-1", or what the user gave */
	uint64_t time; /* nanoseconds since the trace began */
	uint32_t domain_count;
	struct tm_snapshot_domain {
		uint32_t domain;
		struct tm_totals totals;
	} domains[TM_DOMAINS_MAX];
	struct tm_snapshot_row *rows; /* rows with count 0 are left out */
	size_t row_count;
	struct tm_block *blocks; /* NULL unless asked for and LIVE; .account is the traceback's number, ... */
	uint32_t *block_tids;	 /* ... and the thread stands here */
	size_t block_count;
	uint32_t traceback_count; /* tracebacks [0, traceback_count) may be read */
};

enum tm_snapshot_what {
	TM_SNAPSHOT_LIVE,
	TM_SNAPSHOT_PEAK, /* rows of each domain's own peak; which blocks made it up is not known */
};

/* Bytes held by a call of realloc are in the rows, such blocks are not in the blocks. name is copied. */
struct tm_error *tm_snapshot_take(const struct tm_tracer *tracer, enum tm_snapshot_what what,
				  const char *name, uint64_t time, bool with_blocks,
				  struct tm_snapshot **out);
void tm_snapshot_destroy(struct tm_snapshot *snapshot);

#endif
