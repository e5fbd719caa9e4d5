/*
 * Breakpoints that no thread runs past unseen. Inserting one writes the architecture's breakpoint instruction
 * and moves the overwritten instruction to a pad (pad.h): a thread that has hit it goes on in the pad, so no
 * other thread can run past it unseen and nothing is single-stepped. Where there is no pad (a seccomp filter
 * forbids mapping one, or the instruction cannot be moved) the instruction is stepped in place with all other
 * threads held.
 *
 * Several users may want the same address: insertions are counted. Invariant: the memory at each address in
 * the table holds the breakpoint instruction, and `shadow` is what was there; where it is lifted, that is
 * there.
 */
#ifndef TM_TARGET_BREAKPOINT_H
#define TM_TARGET_BREAKPOINT_H

#include "target/target.h"

struct tm_pads;

struct tm_breakpoint {
	uint64_t address;
	unsigned users;
	bool lifted;
	uint8_t shadow[4]; /* the bytes it overwrote: arch->breakpoint_size of them */
	uint64_t pad;	   /* where a thread goes on; 0: it is stepped in place */
	struct tm_relocated relocated;
};

struct tm_breakpoints;

/* pads may be NULL: every breakpoint steps in place. */
struct tm_error *tm_breakpoints_create(struct tm_target *target, struct tm_pads *pads,
				       struct tm_breakpoints **out);
void tm_breakpoints_destroy(struct tm_breakpoints *breakpoints); /* forgets; does not touch the target */

/* Inserts, or adds a user. Code that already holds a foreign breakpoint instruction is refused
 * (TM_ERROR_UNSUPPORTED). */
struct tm_error *tm_breakpoint_insert(struct tm_breakpoints *breakpoints, uint64_t address);

/*
 * Takes a user away; with the last one the bytes are put back, while threads run. A thread that has hit it by
 * then still stands at a breakpoint, so it stays in the table, to be inserted again or not. One that is
 * stepped in place stays where it is.
 */
struct tm_error *tm_breakpoint_lift(struct tm_breakpoints *breakpoints, uint64_t address);

/* The breakpoint at an address, or NULL. */
const struct tm_breakpoint *tm_breakpoint_find(const struct tm_breakpoints *breakpoints, uint64_t address);

size_t tm_breakpoints_count(const struct tm_breakpoints *breakpoints);
size_t tm_breakpoints_count_in_place(const struct tm_breakpoints *breakpoints); /* how many step in place */

/* Lets a thread that stands at a breakpoint (regs.pc is its address) execute what was there and run on. Also
   right for a thread that stands anywhere else. */
struct tm_error *tm_breakpoint_resume(struct tm_breakpoints *breakpoints, struct tm_thread *thread);

/* The pc of the program that a pc in a pad stands for; 0: it lies in no pad, or the state there has none (a
   return address already pushed). */
uint64_t tm_breakpoints_original_pc(const struct tm_breakpoints *breakpoints, uint64_t pc);

/* Code in [start, end) was unmapped: its breakpoints are forgotten, nothing is written. */
void tm_breakpoints_forget(struct tm_breakpoints *breakpoints, uint64_t start, uint64_t end);
void tm_breakpoints_forget_all(struct tm_breakpoints *breakpoints); /* exec */

/* Restores the original bytes in a forked child's own copy of the memory. */
struct tm_error *tm_breakpoints_scrub_child(struct tm_breakpoints *breakpoints, pid_t child);

/* Takes one away, whoever its users are, with all threads stopped: its bytes are restored, and threads that
 * stand in pads are moved to the original code. Nothing happens where there is none. */
struct tm_error *tm_breakpoint_remove(struct tm_breakpoints *breakpoints, uint64_t address, size_t *foreign);

/*
 * Restores every byte and reads it back, with all threads stopped; threads that stand in a pad are moved to
 * the original code. Places that hold foreign bytes by now are left and counted in *foreign. The table is
 * empty afterwards.
 */
struct tm_error *tm_breakpoints_remove_all(struct tm_breakpoints *breakpoints, size_t *foreign);

#endif
