/*
 * The guard of a target's own tracemalloc, while the tracer sets its flag `tracing` to be told of new objects
 * (CPython up to 3.12). The functions that act on the flag are patched: their pads (arch/guard_pad.h) ask the
 * recorder's entries, which know from this page what to do. A flag that the tracer has set must never be
 * acted on, for tracemalloc has not saved the allocators that it would put back.
 *
 * Unlike the control page it is neither wiped on fork nor unmapped: the guard holds after the death of the
 * tracer, and in a forked child, as long as the code there is patched. Once recording is off for good, the
 * next object that is made clears the flag.
 *
 * All words but `tracing` change only while the interpreter's lock is held, or with all threads stopped.
 * Invariant: where `pretends` is set, so is the flag, and it is the tracer's.
 */
#ifndef TM_RECORDER_GUARD_H
#define TM_RECORDER_GUARD_H

#include <stdint.h>

#define TM_GUARD_MAGIC "tmtrace guard 1"
#define TM_GUARD_SIZE  4096u

struct tm_guard {
	char magic[16];
	uint32_t armed;		   /* a trace is on that wants the flag set */
	uint32_t pretends;	   /* the flag is set, by the tracer */
	uint32_t finalizing;	   /* the interpreter ends: the flag is never set again */
	uint32_t switching;	   /* calls of the target's start and stop that are going on */
	uint32_t counts_constants; /* None and False have reference counts (up to 3.11) */
	uint32_t abandoned;	   /* a trace that pretended is over; another may have a guard of its own */
	uint64_t tracing;	   /* address of the int; 0: the flag is let be */
	uint64_t new_reference;	   /* of the hook */
	uint64_t none, false_;	   /* of the objects */
};

/* What an entry tells its pad, in rax and rdx (psABI 3.2.3). */
struct tm_guard_answer {
	uint64_t value; /* what the function returns, */
	uint64_t given; /* unless this is 0: the call goes on */
};

#endif
