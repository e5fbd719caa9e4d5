/*
 * The tables that tracemalloc would keep, fed by events: which blocks are live, and per (domain, thread,
 * traceback) how many bytes in how many blocks, now and at the domain's peak. Semantics are those of
 * CPython's Python/tracemalloc.c, per domain: a block is (domain, address).
 *
 * Cost: O(1) an event, at most 64 bytes a live block, memory never grows with the number of events.
 * Not thread-safe; a snapshot (snapshot.h) is a copy that another thread may read.
 *
 * The peak keeps its tracebacks without copying a table. While each event of a domain makes a new peak, its
 * live numbers are the peak's. The first event that does not begins a new `peak_epoch`; from then on an
 * account about to change first saves its live numbers, once an epoch.
 *
 * Sampled, the tracer is told of some blocks only, and each counts for as many as it stands for (sampling.h):
 * all sums are estimates then, of blocks and bytes alike. A single block keeps its own size.
 */
#ifndef TM_MODEL_TRACER_H
#define TM_MODEL_TRACER_H

#include "model/traceback.h"

/* What DESIGN's JSON calls totals. Bytes are requested bytes. */
struct tm_totals {
	uint64_t current, peak;		 /* bytes */
	uint64_t blocks, peak_blocks;	 /* live blocks now, and at the moment of the peak in bytes */
	uint64_t allocations, allocated; /* calls that returned a block, and their bytes */
	uint64_t frees;			 /* of known blocks; a successful realloc of a known block is one */
	uint64_t unknown_frees;		 /* of blocks that were not known; sampled: 0 */
	uint64_t failed;		 /* calls that returned no block; those that were seen */
	double current_variance, peak_variance; /* of the estimates current and peak; not sampled: 0 */
};

#define TM_DOMAINS_MAX 16 /* distinct domains in one trace; more are an error of the caller */

struct tm_block {
	uint64_t address, size;
	uint64_t time; /* of the allocation; unit is the caller's */
	uint32_t account;
	uint32_t domain;
};

/* One row of statistics: who allocated (domain, thread, traceback), how much is live. A row that holds
   nothing, now and at the peak, may be given to another (domain, thread, traceback) later: threads come and
   go. */
struct tm_account {
	uint32_t domain, tid, traceback;
	uint32_t peak_stamp;		/* see above; not for readers */
	uint64_t size, count;		/* live */
	uint64_t peak_size, peak_count; /* at the last peak: read them with tm_account_at_peak */
};

struct tm_tracer;

struct tm_error *tm_tracer_create(struct tm_tracer **out);
void tm_tracer_destroy(struct tm_tracer *tracer);

/* To be told before the first event: they are a sample, with so many bytes between two of them in the mean,
   1..INT64_MAX; 0, as at first: every call. */
void tm_tracer_sample(struct tm_tracer *tracer, uint64_t mean_bytes);

/* The tracebacks of this tracer: the caller interns there, then tracks. */
struct tm_tracebacks *tm_tracer_tracebacks(const struct tm_tracer *tracer);

struct tm_allocation {
	uint32_t domain, tid, traceback;
	uint64_t address, size, time;
};

/* A call returned a block. Fails only for want of memory (nothing is counted then). A known address is
   replaced in one step, as tracemalloc does: its old size leaves current, and no free is counted. */
struct tm_error *tm_tracer_track(struct tm_tracer *tracer, const struct tm_allocation *allocation);

/* A block is freed: false if it was not known. Counts frees or unknown_frees accordingly. */
bool tm_tracer_untrack(struct tm_tracer *tracer, uint32_t domain, uint64_t address);

/* A hint without effect on any number: an event of this address will come within the next ten or so. At a
   million live blocks the table is far larger than the caches; who has many events at hand saves a third of
   their cost so. */
void tm_tracer_prefetch(const struct tm_tracer *tracer, uint32_t domain, uint64_t address);

/* Is the address a live block? */
bool tm_tracer_knows(const struct tm_tracer *tracer, uint32_t domain, uint64_t address);

/* The same; *size is its size. */
bool tm_tracer_find(const struct tm_tracer *tracer, uint32_t domain, uint64_t address, uint64_t *size);

/* A live block, of allocation->size, was used again without a call of the allocator (a free list): from now
   on it belongs to another traceback and thread. No event is counted, and no number of the domain changes
   (so a sampled block, whose weight hangs on its time, keeps that). */
struct tm_error *tm_tracer_move(struct tm_tracer *tracer, const struct tm_allocation *allocation);

/* A call returned no block. */
void tm_tracer_failed(struct tm_tracer *tracer, uint32_t domain);

/* A nested free of a block that was never known may be counted afterwards. */
void tm_tracer_unknown_free(struct tm_tracer *tracer, uint32_t domain);

/*
 * realloc in two steps. `begin`, at the call's entry, takes the ADDRESS out of the table (another thread may
 * be given it before the call returns); its bytes stay in current and in its account, and it counts in
 * totals.blocks. Exactly one of the ends follows:
 *
 * - resize_end: the call returned a block. Minus old and plus new in one step, so the peak never holds both;
 *   counts one allocation, and one free if the old block was known.
 * - resize_cancel: the call failed, or was abandoned (longjmp). The old block is live again, unless its
 *   address was tracked meanwhile: then the newer block stays, and the old one is dropped without a free.
 * - resize_freed: the call freed the old block and returned none (realloc(p, 0) of glibc).
 *
 * Each end sets held->known to false. One that fails, for want of memory, has dropped the held block.
 */
struct tm_held {
	bool known;
	uint32_t image; /* the tracer's count of new_epoch calls: a block held across an exec is gone */
	struct tm_block block;
};
struct tm_held tm_tracer_resize_begin(struct tm_tracer *tracer, uint32_t domain, uint64_t old_address);
struct tm_error *tm_tracer_resize_end(struct tm_tracer *tracer, struct tm_held *held,
				      const struct tm_allocation *allocation);
struct tm_error *tm_tracer_resize_cancel(struct tm_tracer *tracer, struct tm_held *held);
void tm_tracer_resize_freed(struct tm_tracer *tracer, struct tm_held *held, uint32_t domain);

/* exec: all blocks, held ones too, are gone and so are live sizes. Totals of events go on; the peak begins
   anew, in bytes, blocks and accounts: it is the peak of the new image. */
void tm_tracer_new_epoch(struct tm_tracer *tracer);

/* The totals of all domains begin anew, those of events too. Only where no block is live (behind new_epoch).
 */
void tm_tracer_forget_totals(struct tm_tracer *tracer);

/* Makes a domain appear, before its first event. */
void tm_tracer_claim_domain(struct tm_tracer *tracer, uint32_t domain);

/* The domains that events named, in order of appearance; totals of one (all zero if it never appeared). */
uint32_t tm_tracer_domain_count(const struct tm_tracer *tracer);
uint32_t tm_tracer_domain(const struct tm_tracer *tracer, uint32_t index);
struct tm_totals tm_tracer_totals(const struct tm_tracer *tracer, uint32_t domain);

/* The live numbers of every account. Rows with count 0 hold nothing now. */
uint32_t tm_tracer_account_count(const struct tm_tracer *tracer);
const struct tm_account *tm_tracer_account(const struct tm_tracer *tracer, uint32_t account);
/* What the account held when totals.peak of its domain was reached. */
void tm_account_at_peak(const struct tm_tracer *tracer, const struct tm_account *account, uint64_t *size,
			uint64_t *count);
/* The variance of a row's bytes, live ones and at_peak's; 0 if not sampled. Rows are independent of each
   other: variances of sums are sums of variances. */
double tm_account_variance(const struct tm_tracer *tracer, uint32_t account);
double tm_account_variance_at_peak(const struct tm_tracer *tracer, uint32_t account);

/* Calls visit for every live block, in no order, until it returns false. Held blocks are not visited. */
void tm_tracer_each_block(const struct tm_tracer *tracer,
			  bool (*visit)(const struct tm_block *block, void *context), void *context);
/* How many those are: sampled, fewer than totals tell. */
uint64_t tm_tracer_block_count(const struct tm_tracer *tracer);

/* Bytes that the tables hold, those of the tracebacks included (get_tracemalloc_memory of tracemalloc). */
size_t tm_tracer_memory(const struct tm_tracer *tracer);

#endif
