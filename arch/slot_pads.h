/*
 * The pads of function pointers in data: a page of code, and a page of data behind it, mapped anywhere. A
 * slot of a CPython allocator table is pointed at a pad, which calls the function that stood there before.
 *Two kinds of the same pads: those that stop have places where a breakpoint may be inserted, those that
 *record call the recorder (src/recorder). Without breakpoints, and while the recorder is off, they are inert
 *and may stay for ever. The code is the same bytes wherever it stands, and in every trace.
 *
 *	code page: magic[16] | pad | pad | ...                     r-x
 *	data page: magic[16] | outer | original[13] | in_use | recorder's entries | ... rw-
 *
 * `outer` is the stack pointer in a pad of the tables mem and obj, 0 if no thread is in one: their callers
 * hold the interpreter's lock. A call through the raw table from a frame less than 8 KiB below it is made by
 * the allocator itself (pymalloc has blocks over 512 bytes from raw): such a nested call is not told.
 *
 * Every pad of a call that is told has a frame on the stack while the original function runs: whoever walks
 *the stack there meets an address of the page, and knows that an allocator of the interpreter is at work.
 */
#ifndef TM_ARCH_SLOT_PADS_H
#define TM_ARCH_SLOT_PADS_H

#include "arch/arch.h"

#define TM_SLOT_PAGE	    4096u
#define TM_SLOT_MAGIC_SIZE  16u
#define TM_SLOT_PADS_STOP   "tmtrace slots 1" /* with its NUL the first 16 bytes of either page */
#define TM_SLOT_PADS_RECORD "tmtrace slots 2"

enum tm_slot_table { TM_SLOT_RAW, TM_SLOT_MEM, TM_SLOT_OBJ, TM_SLOT_TABLES };
enum tm_slot_function { TM_SLOT_MALLOC, TM_SLOT_CALLOC, TM_SLOT_REALLOC, TM_SLOT_FREE, TM_SLOT_FUNCTIONS };

/* One more slot behind those of the tables: CPython 3.13's reference tracer, called when memory becomes a new
 * object. */
#define TM_SLOT_REFERENCE (TM_SLOT_TABLES * TM_SLOT_FUNCTIONS)
#define TM_SLOT_COUNT	  (TM_SLOT_REFERENCE + 1)
#define TM_SLOT_STOPS	  (TM_SLOT_TABLES * (TM_SLOT_FUNCTIONS + 1) + 1) /* a realloc has two */

/* Where the data page has what. */
#define TM_SLOT_ORIGINAL(slot) (24u + 8u * (slot))
#define TM_SLOT_IN_USE	       TM_SLOT_ORIGINAL(TM_SLOT_COUNT) /* not 0: somebody may have a pad's address */
#define TM_SLOT_ENTRY(entry)   (TM_SLOT_IN_USE + 8u + 8u * (entry)) /* addresses of the recorder's entries */

/* What the recorder must provide, with x86-64's C calling convention (psABI 3.2). */
enum tm_slot_entry {
	TM_SLOT_ENTRY_ENTER,	 /* void (block, slot): before a free or a resize */
	TM_SLOT_ENTRY_LEAVE,	 /* block (block, size, old, slot): behind a call */
	TM_SLOT_ENTRY_REFERENCE, /* void (object, slot) */
	TM_SLOT_ENTRIES,
};

/* A place where a breakpoint may stand. */
struct tm_slot_stop {
	uint16_t offset; /* in the code page */
	uint16_t slot;	 /* table * TM_SLOT_FUNCTIONS + function, or TM_SLOT_REFERENCE */
	bool is_entry;	 /* free, and the begin of a realloc: `entry_old` is given back from now on */
};

struct tm_slot_pads {
	bool records;
	char magic[TM_SLOT_MAGIC_SIZE];
	uint8_t code[TM_SLOT_PAGE];
	size_t size;
	uint16_t entries[TM_SLOT_COUNT]; /* offset of each slot's pad: table * TM_SLOT_FUNCTIONS + function */
	struct tm_slot_stop stops[TM_SLOT_STOPS]; /* none in pads that record */
	size_t stop_count;

	/* Registers (DWARF numbers) at a stop behind the call: the block or 0, the size asked for, the block
	   that was resized, the thread pointer. At an entry: the block in `entry_old`. */
	unsigned block, size_asked, old, thread_pointer, entry_old;
	/* At the stop of TM_SLOT_REFERENCE: the object, and the thread pointer. */
	unsigned object, object_thread_pointer;
};

/* TM_ERROR_UNSUPPORTED for an architecture that has none yet. */
struct tm_error *tm_slot_pads_make(const struct tm_arch *arch, bool records, struct tm_slot_pads *pads);

void tm_x86_64_slot_pads(struct tm_slot_pads *pads);

#endif
