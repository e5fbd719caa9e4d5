/*
 * A small child process of the test under the ptrace target, and what the session would do with its stops,
 * reduced to counting. Child and test talk through a page of shared memory; nothing is synchronised by time.
 */
#ifndef TESTS_LIVE_CHILD_H
#define TESTS_LIVE_CHILD_H

#include <stdatomic.h>

#include "target/breakpoint.h"
#include "target/pad.h"
#include "target/ptrace.h"

#define LIVE_THREADS 3

/* Words of the protocol; each child gives them a meaning. */
struct live_shared {
	atomic_int ready, go, done;
	atomic_int result, error, signals, pid;
	pid_t tester;	 /* for those who would outlive it */
	uint32_t asleep; /* of a pause */
	atomic_long count[LIVE_THREADS];
};

struct live {
	struct live_shared *shared;
	pid_t pid; /* 0: none, or waited for */
	struct tm_target *target;
	struct tm_pads *pads;
	struct tm_breakpoints *breakpoints;

	size_t births, forks, execs;
	size_t hits, peer_hits; /* breakpoints; by tasks of another process that shares the memory */
	bool ended;
	int wait_status;
};

extern struct live live;

/* Of a test suite. Skips the test, with the reason, where ptrace is not permitted. */
void live_setup(void);
void live_teardown(void);

/* The child runs body and exits with 0. */
void live_start(void (*body)(void));
void live_await(const atomic_int *word, int at_least); /* a word of the protocol */
void live_await_state(char state);		       /* of the child's first thread, as /proc tells it */
int live_await_end(void);			       /* untraced: its wait status */

/* All threads stand still after it. */
void live_attach(bool with_pads);
void live_assemble(bool with_pads); /* breakpoints for a target that was made otherwise */
void live_insert(uint64_t address);
void live_resume_all(void);

/* Handles stops until a word has a value, or the child has ended. */
void live_run_until(const atomic_int *word, int at_least);
void live_run_to_end(void);
void live_handle(const struct tm_stop *stop);

/* Everything as it was, and lets go. */
void live_leave(void);

/* Forgets the target, as it is. */
void live_forget_target(void);

/* A system call in the stopped child. */
int64_t live_system_call(long number, uint64_t a, uint64_t b, uint64_t c);

void live_check(struct tm_error *err); /* aborts the test with the error's message */

/* Functions to put breakpoints on: one whose first instruction is as long as a breakpoint instruction, one
   where it is longer (where the architecture has such). Both return x + 1. */
long live_short(long x), live_long(long x);
extern const char live_short_return[]; /* its return instruction */

static inline uint64_t live_code(long (*function)(long))
{
	return (uint64_t)(uintptr_t)function;
}

#endif
