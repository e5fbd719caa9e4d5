/*
 * The allocator functions that are armed: found in the symbol tables of the modules, folded by address, each
 * with the ways by which it is left. Part of the breakpoint probe; calls.c has what happens when a thread
 * comes by.
 */
#ifndef TM_PROBE_FUNCTION_H
#define TM_PROBE_FUNCTION_H

#include "base/vector.h"
#include "probe/breakpoint_probe.h"

struct tm_function {
	const struct tm_allocator *row;
	uint64_t address, size; /* run-time; bytes of its body, 0: unknown */
	uint32_t module;	/* number */
	bool jumped_into;	/* other code may jump into its first bytes */
	bool is_resolver;	/* of an IFUNC: what it returns is to be armed as `row` */
	bool by_return_address; /* its returns are caught at the caller */
	bool may_tail_jump;	/* another function's return may be this one's */
	bool reaches;		/* always comes to a function that is recorded */
	bool recorded;		/* its pad records, */
	bool ends;		/* and so do those at its ways out; others of these stop (`ways`, `exits`) */
	uint32_t number;	/* of a recorded one */
	uint64_t stop;		/* in its call-through pad; 0: it has breakpoints */
	uint64_t stop_depth;	/* of the stack pointer there below the call's return address */
};

struct tm_call_state;
struct tm_resize;

/* A wrapper that is looked at when the functions that it may call are armed. */
struct tm_deferred {
	const struct tm_allocator *row;
	uint64_t address;
	const struct tm_indexed_function *indexed;
};

struct tm_probe {
	struct tm_probe_config config;
	struct tm_map entries; /* address of first instruction -> struct tm_function * */
	struct tm_map exits;   /* address of a return instruction -> struct tm_function * */
	struct tm_map returns; /* return address in a caller -> how many calls wait for the breakpoint there,
				  or TM_RETURN_STAYS */
	struct tm_map stops;   /* stop in a call-through pad -> struct tm_function * */
	struct tm_map ways;    /* a jump that leaves a function which is told at its end -> it */
	struct tm_map passed;  /* address of a function that is told by what it calls -> 1 */
	struct tm_vector(struct tm_deferred) deferred;
	struct tm_vector(struct tm_deferred) names; /* every function by every name that it has */
	struct tm_vector(const struct tm_allocator *)
		recorded_rows; /* by number, also of functions that are gone */
	bool only_records;     /* no function stops */
	size_t recorded_count;
	size_t unrecorded; /* functions that stop, always or at times, where others record */
	struct tm_resize *resizes[TM_RINGS]; /* that have begun in a ring, the last one first */
	bool surveyed; /* the patches know where the threads stand, for the module that is being armed */
	struct tm_call_state *gone;  /* of threads that are gone: freed before the next hit */
	struct tm_map armed_modules; /* module number -> functions in it */
	uint64_t trampoline; /* where calls return to whose caller's code must not be touched; 0: not made yet
			      */
};

#define TM_RETURN_STAYS UINT64_MAX

enum tm_arming {
	TM_ARM_PLAIN,
	TM_ARM_RESOLVER, /* of an IFUNC: what it returns is to be armed */
	TM_ARM_WRAPPER,	 /* always comes to a function that is recorded */
};

/* Arms a function of a loaded module at a run-time address: also those that an IFUNC's resolver has just
 * chosen, which are not indexed (NULL). */
struct tm_error *tm_function_arm(struct tm_probe *probe, const struct tm_allocator *row, uint64_t address,
				 const struct tm_indexed_function *indexed, enum tm_arming arming);

/* Where the threads stand is known to the patches, for the module that is being armed. */
struct tm_error *tm_probe_survey(struct tm_probe *probe);

/* recorded.c: the function gets a pad that records. On failure nothing is changed. */
struct tm_error *tm_function_record(struct tm_probe *probe, struct tm_function *function,
				    const uint8_t *bytes, size_t size, const struct tm_exits *exits);
/* Of one that throws: can pads at its ways out tell of it? */
bool tm_function_can_end(const struct tm_probe *probe, const struct tm_function *function,
			 const struct tm_exits *exits);
bool tm_function_is_deferred(const struct tm_probe *probe, const struct tm_allocator *row);
struct tm_error *tm_function_defer(struct tm_probe *probe, const struct tm_indexed_function *indexed,
				   uint64_t address);

/* native_records.c */
void tm_resizes_forget(struct tm_probe *probe); /* nothing is told */

/* Replaces the beginning of a function whose exits are known by a jump into a pad: one that records where
 * there is a recording, else a call-through pad that stops. false: it cannot be; nothing is changed then. */
bool tm_function_patch(struct tm_probe *probe, struct tm_function *function, const uint8_t *bytes,
		       size_t size, const struct tm_exits *exits);

/* Far jumps into [start, end) from any part of the module. True also where that cannot be told. */
bool tm_code_is_jumped_into(const struct tm_arch *arch, const struct tm_module *module, uint64_t start,
			    uint64_t end);

static inline struct tm_function *tm_function_at(const struct tm_map *map, uint64_t address)
{
	const uint64_t *place = tm_map_get(map, address);

	return place ? (struct tm_function *)(uintptr_t)*place : NULL;
}

void tm_probe_warn(struct tm_probe *probe, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
