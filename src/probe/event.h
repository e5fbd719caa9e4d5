/*
 * Events: what the rest of the program hears of an allocator call, however it was caught. One call is one
 * event (a resize: its begin and its end); nested calls are none.
 */
#ifndef TM_PROBE_EVENT_H
#define TM_PROBE_EVENT_H

#include "recorder/shared.h"
#include "target/capture.h"
#include "target/target.h"

#define TM_DOMAIN_NATIVE	0u
#define TM_DOMAIN_PYTHON	0u /* as in tracemalloc */
#define TM_DOMAIN_NATIVE_BESIDE 1u /* native, where python is traced too */
#define TM_EVENT_SCRATCH	64

enum tm_event_kind {
	TM_EVENT_ALLOCATE,	/* a block was returned: address, size, capture */
	TM_EVENT_FAIL,		/* no block was returned */
	TM_EVENT_FREE,		/* old_address is given back: before the allocator has it */
	TM_EVENT_RESIZE_BEGIN,	/* old_address may be given back from now on */
	TM_EVENT_RESIZE_END,	/* address, size, capture: replaces the block of the thread's RESIZE_BEGIN */
	TM_EVENT_RESIZE_CANCEL, /* the old block stays: the call failed or was abandoned */
	TM_EVENT_RESIZE_FREED,	/* the old block is gone and there is no new one */
	TM_EVENT_OBJECT, /* the memory at `address`, in a block that may be known, has become a new object of
			    the interpreter */
	TM_EVENT_LOST,	 /* a call was seen whose result cannot be: the numbers are not exact from here on */
};

struct tm_event {
	enum tm_event_kind kind;
	uint32_t domain;
	struct tm_thread *thread;
	uint64_t address, old_address, size; /* size in bytes, as requested; count * size saturates */
	void *scratch; /* RESIZE_*: TM_EVENT_SCRATCH bytes of the receiver's, which live from begin to end */
	bool nested;   /* FREE inside another allocator call: it concerns known blocks only */
	uint64_t thread_pointer; /* ALLOCATE, RESIZE_END, OBJECT of an interpreter's allocator: names the
				    thread whose Python frames own the block; 0: a native call */
	const struct tm_record_block *recorded; /* of such an event: its frames; NULL: the thread stands
						   still (in a stop, or waiting in a pad), read them there */
	const struct tm_record_native *native;	/* the record of a native call; whoever gave it to the probe
						   knows its  stack */
	/* As at a function's entry: the frame above it is the caller; NULL: there is none (events are small:
	   there are millions). A walk over a native call's tells whether it was made inside one of a patched
	   function, and is no event then. */
	const struct tm_capture *capture;
};

/*
 * What an event's receiver must provide. All are called while the thread stands still.
 */
struct tm_event_sink {
	void *context;
	struct tm_error *(*event)(void *context, const struct tm_event *event);
	/* Did a signal handler interrupt the code whose stack ends at `cfa` and is the thread, as it stands,
	   inside that handler? Asked only when a signal was delivered meanwhile. */
	bool (*in_signal_handler)(void *context, struct tm_thread *thread, uint64_t cfa);
	/* Something that a user should know: a function that cannot be traced, and why. */
	void (*warn)(void *context, const char *text);
};

#endif
