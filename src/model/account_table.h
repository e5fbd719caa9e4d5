/*
 * The rows of statistics: (domain, thread, traceback) -> what is live, and what was at the peak. Found by
 * hash, named by number. A row that holds nothing is given to the next new key that comes along, so that a
 * program which starts a thread for each request does not grow the table for ever.
 */
#ifndef TM_MODEL_ACCOUNT_TABLE_H
#define TM_MODEL_ACCOUNT_TABLE_H

#include "model/chains.h"
#include "model/tracer.h"

/* Of a row's bytes, live and at the last peak (as size and peak_size are), in units of sampling.h. */
struct tm_account_variance {
	uint64_t live, peak;
};

/* All zero is an empty table. */
struct tm_account_table {
	struct tm_chunks rows;
	struct tm_chunks variances; /* by the row's number, apart: a row fills its cache line without them */
	struct tm_chains chains;
	bool has_variances; /* to be set while the table is empty */
	uint32_t count;	    /* rows, used or not */
	uint32_t hand;	    /* the row to be looked at next for being idle */
};

/* Does nobody need the row's numbers? */
typedef bool tm_account_is_idle(const void *context, const struct tm_account *account);

/* The row of a key, made if need be; UINT32_MAX: out of memory. Before a row is added a few others are looked
   at: an idle one is reused instead. */
uint32_t tm_account_table_claim(struct tm_account_table *table, const struct tm_allocation *key,
				tm_account_is_idle *is_idle, const void *context);

struct tm_account *tm_account_table_get(const struct tm_account_table *table, uint32_t number);
/* Of a table that has variances. */
struct tm_account_variance *tm_account_table_variance(const struct tm_account_table *table, uint32_t number);
void tm_account_table_deinit(struct tm_account_table *table);
size_t tm_account_table_memory(const struct tm_account_table *table);

#endif
