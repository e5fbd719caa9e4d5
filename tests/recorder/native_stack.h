/*
 * Native stacks for threads that record: a made-up program's, built in memory of the test's own, and what the
 * tracer does with the records of them. A stack is known by the number that it is made from, so that whoever
 * reads a record can tell whether its stack is right.
 */
#ifndef TM_TESTS_NATIVE_STACK_H
#define TM_TESTS_NATIVE_STACK_H

#include "recorder/plant.h"
#include "recorder/row_table.h"

#define NATIVE_WORDS  1024u		  /* of one stack; a signal handler has another, below it */
#define NATIVE_DEPTH  40u		  /* frames at most */
#define NATIVE_BY_NEW (UINT64_C(1) << 63) /* bit of a stack's number: operator new is called from there */

/* ---- a thread's ---- */

struct native_stack {
	uint64_t memory[2 * NATIVE_WORDS];
};

/* A stack that a call is made from; returns its canonical frame address. */
uint64_t native_stack_set(struct native_stack *stack, bool in_handler, uint64_t number);

/* The call of a function there, as the recorder's entries tell it. `old`: of a resize, which has begun with
   native_resize; else 0. */
void native_resize(uint64_t cfa, uint64_t old, uint64_t size);
void native_leave(uint64_t cfa, uint64_t block, uint64_t size, uint64_t old);
/* The same by operator new. */
void native_leave_new(uint64_t cfa, uint64_t block, uint64_t size);
/* By a function of the allocator: that is no record. */
void native_leave_inner(uint64_t cfa, uint64_t block, uint64_t size);

/* ---- the tracer's ---- */

struct native_reader {
	struct plant *plant;
	struct tm_row_table rows;
	struct native_frames {
		uint64_t frames[NATIVE_DEPTH];
		size_t count;
	} stacks[TM_RINGS];
	struct native_frames *remembered[TM_RINGS]; /* by number; NULL: none yet */
	uint64_t asked, walked;			    /* looks, for rows and instead of the recorder's walk */
	uint64_t kept, fresh;			    /* frames of all records */
	uint64_t recalled;			    /* stacks that were told by their number */
	uint64_t turn;
};

/* Takes a record with a stack in; answers what it asks for. Now and then a row is forgotten, as if code was
   unmapped. Returns whether the record is a call's; *right: its stack is that of `number`. */
bool native_reader_take(struct native_reader *reader, unsigned ring, const struct tm_record_native *record,
			uint64_t number, bool *right);
/* Is this the stack of `number`? */
bool native_reader_recall(struct native_reader *reader, unsigned ring,
			  const struct tm_record_remembered *record, uint64_t number);
void native_reader_deinit(struct native_reader *reader);

#endif
