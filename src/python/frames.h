/*
 * The Python stack of a thread, read from outside while it stands still: what tracemalloc's
 * traceback_get_frames (Modules/_tracemalloc.c) would see. Bounded whatever the target's memory holds. Never
 * allocates in the target, runs nothing there.
 */
#ifndef TM_PYTHON_FRAMES_H
#define TM_PYTHON_FRAMES_H

#include "base/vector.h"
#include "python/code.h"
#include "python/current_state.h"
#include "python/interpreter.h"
#include "python/memory_window.h"
#include "recorder/shared.h"

/* A call of the interpreter's evaluation function that goes on, and the Python frames that it runs. */
struct tm_python_entry {
	uint64_t local; /* address of a variable of it, in its C frame; 0: not told (up to 3.9) */
	uint32_t end;	/* its frames are those behind the entry's before, up to this number of frames (of
			 * `total`)
			 */
};

/* A cache of what was read of one interpreter. `interpreter`, `memory` and `places` are borrowed. */
struct tm_python_stacks {
	const struct tm_interpreter *interpreter;
	const struct tm_memory *memory;
	struct tm_codes codes;
	struct tm_map threads; /* thread pointer -> PyThreadState */
	struct tm_map states;  /* PyThreadState -> 1: those that `threads` names */
	struct tm_current_state current;
	struct tm_map variables; /* thread pointer -> address of its variable that `current` tells of */
	struct tm_memory_window window;
	/* The last walk's, most recent first. */
	struct tm_vector(struct tm_frame) frames; /* at most nframe */
	uint32_t total;				  /* frames on the stack; saturates at TM_NFRAME_MAX */
	enum tm_cut cut;
	bool with_places;				  /* set by the caller: the walk lists these too */
	struct tm_vector(uint32_t) places;		  /* of all frames on the stack, most recent first */
	bool with_entries;				  /* the same */
	struct tm_vector(struct tm_python_entry) entries; /* most recent first */
	uint64_t next_cframe;				  /* of the walk */
};

void tm_python_stacks_init(struct tm_python_stacks *stacks, const struct tm_interpreter *interpreter,
			   const struct tm_memory *memory, struct tm_places *places);
void tm_python_stacks_deinit(struct tm_python_stacks *stacks);

/* The stack of the thread with that thread pointer. A thread that the interpreter does not know has no
   frames. Fails only when out of memory. */
struct tm_error *tm_python_stacks_walk(struct tm_python_stacks *stacks, uint64_t thread_pointer,
				       uint32_t nframe);

/* The same of a stack that the recorder has read. */
struct tm_error *tm_python_stacks_take(struct tm_python_stacks *stacks, const struct tm_record_block *record,
				       uint32_t nframe);

/* The interpreter gives a block back: it may have been a code object (true), or a thread's state. Neither
 * changes its place while it lives. */
bool tm_python_stacks_freed(struct tm_python_stacks *stacks, uint64_t address);

#endif
