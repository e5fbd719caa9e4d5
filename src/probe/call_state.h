/*
 * What the breakpoint probe remembers of a thread: the allocator calls that it is in. calls.c and
 * trampoline.c share it.
 */
#ifndef TM_PROBE_CALL_STATE_H
#define TM_PROBE_CALL_STATE_H

#include "base/vector.h"
#include "probe/function.h"

struct tm_pending {
	const struct tm_allocator *row;
	uint64_t function; /* address; the function itself may be forgotten meanwhile */
	bool may_tail_jump;
	bool trampolined;      /* its return address was replaced by the probe's trampoline */
	bool begun;	       /* its RESIZE_BEGIN was sent */
	bool taken;	       /* from the recorder, which had seen its entry */
	bool watched;	       /* the breakpoint at its return address is lifted behind it */
	unsigned signal_count; /* of the thread, at entry */
	uint64_t cfa, return_address;
	uint64_t old, size, out;
	struct tm_regs regs; /* at entry */
	uint8_t *stack;	     /* the bytes from the stack pointer on, at entry; kept for the next call */
	size_t stack_size, stack_capacity;
	size_t stack_below; /* of them, below the stack pointer at entry: what the function's pad has there */
	_Alignas(16) uint8_t scratch[TM_EVENT_SCRATCH];
};

struct tm_call_state {
	/* The innermost signal level last. Objects beyond `count` are kept for calls to come. */
	struct tm_vector(struct tm_pending *) levels;
	size_t allocated;
	struct tm_pending passed; /* the call of a patched function that has just returned */
	struct {
		uint64_t address, cfa;
	} last_free; /* operator delete calls free: one free, not two */
	struct {
		const struct tm_allocator *row;
		uint64_t cfa;
	} resolver;			 /* an IFUNC's resolver that runs; row NULL: none */
	struct tm_call_state *next_gone; /* of a thread that is gone */
};

/* Frees the states of threads that are gone. */
void tm_calls_release_gone(struct tm_probe *probe);

static inline struct tm_pending *tm_call_top(const struct tm_call_state *state)
{
	return state->levels.count ? state->levels.items[state->levels.count - 1] : NULL;
}

enum tm_nesting { TM_OUTERMOST, TM_NESTED };

/* Is a call of the function at `entered`, with that CFA, inside a pending one? Pending calls that cannot be
 * alive any more are dropped on the way. */
struct tm_error *tm_call_find_nesting(struct tm_probe *probe, struct tm_thread *thread,
				      struct tm_call_state *state, uint64_t entered, uint64_t cfa,
				      enum tm_nesting *nesting);

/* A call that is no longer pending has returned, and its result register says what. */
struct tm_error *tm_call_finish(struct tm_probe *probe, struct tm_thread *thread, struct tm_call_state *state,
				struct tm_pending *call);

/* A call whose result cannot be seen: counted, and said. */
struct tm_error *tm_call_lose(struct tm_probe *probe, struct tm_thread *thread,
			      const struct tm_allocator *row, struct tm_error *err);

/* A thread stands in the pad of a patched function, behind the call. */
struct tm_error *tm_call_passed(struct tm_probe *probe, struct tm_thread *thread, struct tm_call_state *state,
				const struct tm_function *function);

/* The call returns to the trampoline instead of its caller, whose code is a JIT's or cannot hold a
 * breakpoint. */
struct tm_error *tm_trampoline_redirect(struct tm_probe *probe, struct tm_thread *thread,
					struct tm_pending *call);

/* Before a detach: the return addresses of all calls that are still to come back are put back. */
struct tm_error *tm_trampolines_restore(struct tm_probe *probe);

#endif
