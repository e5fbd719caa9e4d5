/*
 * Threads that record as fast as they can, and a reader that checks what it is given.
 *
 * The threads share addresses, as the callers of an allocator do: who holds an address allocates, resizes or
 * frees it, and lets it go. So at each address the records must alternate as the calls did, whoever made
 * them, each call exactly once: a record that is lost, doubled or given before one that it follows from is
 * wrong. Signal handlers record numbers of their own, which must come one after the other.
 */
#ifndef TM_TESTS_STRESS_H
#define TM_TESTS_STRESS_H

#include "recorder/plant.h"

struct stress {
	unsigned threads;     /* at a time, at most 512 */
	unsigned generations; /* as many threads follow each other */
	unsigned calls;	      /* of each, at least */
	unsigned addresses;   /* at most 4096 */
	unsigned handler_us;  /* a timer of each thread, whose handler records too; 0: none */
	unsigned codes; /* so many code objects are met, at least 1; a quarter of them has to be looked at */
	bool signal_stacks; /* handlers run on stacks of their own, above the threads' */
	bool slow_reader;   /* gives room back in small pieces, so that threads wait */
	bool leave_rings;   /* between generations the rings of gone threads are let go */
	bool native; /* calls of native allocators, with stacks of native_stack.h; needs the compiled recorder
		      */
	unsigned jump_us; /* native: a timer whose handler jumps out of the calls that a thread makes on the
			     side; 0: none */
};

struct stress_result {
	uint64_t calls, handler_calls; /* that were made */
	uint64_t given;		       /* records of calls */
	uint64_t looks, told;	       /* told: records of code */
	uint64_t jumps, lost;	       /* calls that were left; numbers on the side that were not given */
	uint64_t asked, walked;	       /* native: looks for rows, and instead of the recorder's walk */
	uint64_t kept, fresh;	       /* native: frames of all records, */
	uint64_t recalled;	       /* and stacks that were told by their numbers */
	/* Native: stacks that had changed before the tracer looked, by jumps out. */
	uint64_t unseen;
	uint64_t wrong; /* records that should not have come when they came */
	char first_wrong[160];
};

void stress_run(struct plant *plant, const struct stress *stress, struct stress_result *result);

#endif
