/*
 * What the functions of the target's own tracemalloc do while the tracer uses its flag (guard.h): entries of
 * the recorder, called by the pads of patched functions with the arguments of the call, and the guard behind
 * them. They do their work whether anything is recorded or not.
 */
#include <stdbool.h>

#include "recorder/guard.h"
#include "recorder/shared.h"

#define ENTRY	    __attribute__((visibility("default"), used))
#define NOT_TRACING ((uint64_t)(uint32_t)-2) /* of Track and Untrack (Include/tracemalloc.h) */

extern struct tm_control tm_recorder_control __attribute__((visibility("hidden")));

void tm_slot_reference(uint64_t object);
void tm_told(uint64_t kind, uint64_t domain, uint64_t address, uint64_t size);

struct tm_guard_answer tm_guard_track(uint64_t domain, uint64_t address, uint64_t size,
				      struct tm_guard *guard);
struct tm_guard_answer tm_guard_untrack(uint64_t domain, uint64_t address, uint64_t size,
					struct tm_guard *guard);
struct tm_guard_answer tm_guard_new_reference(uint64_t object, uint64_t second, uint64_t third,
					      struct tm_guard *guard);
struct tm_guard_answer tm_guard_start(uint64_t first, uint64_t second, uint64_t third,
				      struct tm_guard *guard);
struct tm_guard_answer tm_guard_stop(uint64_t first, uint64_t second, uint64_t third, struct tm_guard *guard);
struct tm_guard_answer tm_guard_is_tracing(uint64_t first, uint64_t second, uint64_t third,
					   struct tm_guard *guard);
struct tm_guard_answer tm_guard_finalize(uint64_t first, uint64_t second, uint64_t third,
					 struct tm_guard *guard);
void tm_guard_switched(struct tm_guard *guard);

static const struct tm_guard_answer go_on = {0, 0};

static struct tm_guard_answer answer(uint64_t value)
{
	return (struct tm_guard_answer){value, 1};
}

/* ---- the flag ---- */

static int32_t *flag_of(const struct tm_guard *guard)
{
	return (int32_t *)guard->tracing;
}

static bool is_set(const struct tm_guard *guard)
{
	return __atomic_load_n(flag_of(guard), __ATOMIC_ACQUIRE) != 0;
}

static bool pretends(const struct tm_guard *guard)
{
	return __atomic_load_n(&guard->pretends, __ATOMIC_ACQUIRE) != 0;
}

/* Is the flag nothing that the function may go by? A thread that has come here for the sake of a trace that
   is over may see the flag of the next one. */
static bool is_no_flag(const struct tm_guard *guard)
{
	return pretends(guard) || __atomic_load_n(&guard->abandoned, __ATOMIC_ACQUIRE) != 0;
}

static bool is_recording(void)
{
	return __atomic_load_n(&tm_recorder_control.enabled, __ATOMIC_ACQUIRE) != 0;
}

/* Who has seen the flag set by us sees that we pretend: the flag is set last, and cleared first. */
static void pretend(struct tm_guard *guard)
{
	__atomic_store_n(&guard->pretends, 1, __ATOMIC_RELEASE);
	__atomic_store_n(flag_of(guard), 1, __ATOMIC_RELEASE);
}

static void stop_pretending(struct tm_guard *guard)
{
	if (!pretends(guard))
		return;
	__atomic_store_n(flag_of(guard), 0, __ATOMIC_RELEASE);
	__atomic_store_n(&guard->pretends, 0, __ATOMIC_RELEASE);
}

/* None or False, a reference to which is given away. The caller holds the interpreter's lock. */
static struct tm_guard_answer constant(const struct tm_guard *guard, uint64_t object)
{
	if (guard->counts_constants)
		++*(uint64_t *)object;
	return answer(object);
}

/* ---- entries ---- */

/* What a tracemalloc that is off answers; the thread need not hold the lock. */
static struct tm_guard_answer refuse_while_off(const struct tm_guard *guard)
{
	return guard->tracing && (!is_set(guard) || is_no_flag(guard)) ? answer(NOT_TRACING) : go_on;
}

ENTRY struct tm_guard_answer tm_guard_track(uint64_t domain, uint64_t address, uint64_t size,
					    struct tm_guard *guard)
{
	tm_told(TM_RECORD_TRACK, (uint32_t)domain, address, size);
	return refuse_while_off(guard);
}

ENTRY struct tm_guard_answer tm_guard_untrack(uint64_t domain, uint64_t address, uint64_t size,
					      struct tm_guard *guard)
{
	(void)size;
	tm_told(TM_RECORD_UNTRACK, (uint32_t)domain, address, 0);
	return refuse_while_off(guard);
}

/*
 * The hook is called where the flag was seen set, under the interpreter's lock. Nobody else can be on the way
 * to it then, so that a flag which nobody needs any more is cleared here.
 */
ENTRY struct tm_guard_answer tm_guard_new_reference(uint64_t object, uint64_t second, uint64_t third,
						    struct tm_guard *guard)
{
	(void)second, (void)third;
	tm_slot_reference(object);
	if (is_set(guard) && !is_no_flag(guard))
		return go_on; /* tracemalloc is on */
	if (!is_recording())
		stop_pretending(guard);
	return answer(0);
}

/* It would take a flag that is set for its own work done. */
ENTRY struct tm_guard_answer tm_guard_start(uint64_t first, uint64_t second, uint64_t third,
					    struct tm_guard *guard)
{
	(void)first, (void)second, (void)third;
	guard->switching++;
	stop_pretending(guard);
	return go_on;
}

/* It would put the allocators back that it has never saved. */
ENTRY struct tm_guard_answer tm_guard_stop(uint64_t first, uint64_t second, uint64_t third,
					   struct tm_guard *guard)
{
	(void)first, (void)second, (void)third;
	if (is_no_flag(guard))
		return constant(guard, guard->none);
	guard->switching++;
	return go_on;
}

/* Behind a call of start or stop that went on. */
ENTRY void tm_guard_switched(struct tm_guard *guard)
{
	guard->switching--;
	if (guard->armed && !guard->switching && !guard->finalizing && is_recording() && !is_set(guard))
		pretend(guard);
}

ENTRY struct tm_guard_answer tm_guard_is_tracing(uint64_t first, uint64_t second, uint64_t third,
						 struct tm_guard *guard)
{
	(void)first, (void)second, (void)third;
	return is_no_flag(guard) ? constant(guard, guard->false_) : go_on;
}

ENTRY struct tm_guard_answer tm_guard_finalize(uint64_t first, uint64_t second, uint64_t third,
					       struct tm_guard *guard)
{
	(void)first, (void)second, (void)third;
	guard->finalizing = 1;
	stop_pretending(guard);
	return go_on;
}
