/*
 * A target without a process, for tests. Its memory is that of the test program itself under an overlay:
 * reads see the real bytes (so real modules, their symbols and code are found), writes go into the overlay
 * alone, and nothing is ever patched. Pages that it is made to map are zero and exist only here.
 *
 * Threads do what the test says: it sets their registers, lets them arrive somewhere, and looks where they
 * were sent on to. A stopped thread's registers are those in tm_thread.regs.
 */
#ifndef TESTS_FAKE_TARGET_H
#define TESTS_FAKE_TARGET_H

#include "target/breakpoint.h"
#include "target/target.h"

/* Bytes over a memory. */
struct fake_overlay {
	struct tm_map bytes; /* address -> byte */
};

struct fake_child {
	pid_t pid;
	bool released;
	struct fake_overlay memory; /* over the same real bytes */
};

struct fake_range {
	uint64_t start, end;
};

struct fake_step {
	uint64_t pc;
	uint8_t byte;	/* what stood there */
	size_t running; /* threads that ran meanwhile */
};

struct fake_target {
	struct tm_target base;
	struct fake_overlay memory;
	struct tm_vector(struct fake_range) mapped;   /* by system calls of the target */
	struct tm_vector(struct fake_range) unmapped; /* reads and writes fail there */
	struct tm_vector(struct fake_child) children;
	struct tm_vector(struct tm_stop) script; /* what wait returns, first one first; then nothing */
	struct tm_vector(struct fake_step) steps;
	size_t writes;	     /* to memory, of any size */
	size_t system_calls; /* that were run */
	int refuse_mmap;     /* errno that mmap fails with; 0: it does as asked */
	size_t stop_alls, resume_alls;
};

struct fake_target *fake_target_create(void);
void fake_target_destroy(struct fake_target *fake); /* NULL is fine */

/* A new thread, stopped, all registers zero. */
struct tm_thread *fake_target_add_thread(struct fake_target *fake, pid_t tid);

/* Does a stopped thread that runs on at pc execute a breakpoint instruction there? */
bool fake_target_traps_at(struct fake_target *fake, uint64_t pc);

/* From now on there is nothing at [start, end). */
void fake_target_unmap(struct fake_target *fake, uint64_t start, uint64_t end);

/* A child with a copy of the present memory. */
pid_t fake_target_fork(struct fake_target *fake);
/* One byte as the child has it. */
uint8_t fake_target_child_byte(struct fake_target *fake, pid_t child, uint64_t address);

/* Bytes that differ from the real ones: none after everything was restored. */
size_t fake_target_changed_bytes(struct fake_target *fake, uint64_t start, uint64_t end);

#endif
