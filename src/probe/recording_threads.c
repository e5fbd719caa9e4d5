/*
 * Threads and the recorder: whose records a ring has, who is inside, and what is written into a thread's
 * entry of the control page.
 */
#include <limits.h>
#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/vector.h"
#include "probe/recording_internal.h"

/* ---- entries ---- */

static uint64_t entry_field(uint64_t region, unsigned entry, size_t offset)
{
	return tm_control_field(region, offsetof(struct tm_control, threads[entry]) + offset);
}

/* The thread's entry; UINT_MAX: it has none. */
static struct tm_error *find_entry(struct tm_recording *recording, uint64_t region, struct tm_thread *thread,
				   unsigned *entry)
{
	uint64_t pointer = 0, present = 1;
	struct tm_error *err = tm_target_thread_pointer(recording->target, thread, &pointer);

	*entry = UINT_MAX;
	for (unsigned i = 0, at = tm_thread_slot(pointer); !err && present && i < TM_RINGS;
	     i++, at = (at + 1) % TM_RINGS) {
		uint64_t place = entry_field(region, at, offsetof(struct tm_recorder_thread, thread_pointer));

		err = tm_target_read(recording->target, place, &present, sizeof(present));
		if (!err && present == pointer && pointer) {
			*entry = at;
			break;
		}
	}
	return err;
}

bool tm_recording_read_stack(const struct tm_recording *recording, unsigned ring,
			     struct tm_recorder_stack *stack)
{
	uint64_t place = entry_field(recording->region, ring, offsetof(struct tm_recorder_thread, stack));
	struct tm_error *err = tm_target_read(recording->target, place, stack, sizeof(*stack));
	bool read = !err;

	tm_error_destroy(err);
	return read;
}

/* ---- who is inside ---- */

/* Those that are inside have the processors for themselves at first: they need microseconds, but on busy
   processors they wait for their turn. Then all others run as well: one of them may hold what a signal
   handler waits for that has interrupted the recorder. Little is waited for threads alone that seem to have
   jumped out of the recorder: that they are in a handler on another stack cannot be told apart. */
#define ALONE_MS	  500u
#define ALONE_JUMPED_MS	  5u
#define LOOK_NS		  20000
#define TOGETHER_TRIES	  4u
#define TOGETHER_PAUSE_NS 50000000
#define RUN_OUT_NS	  5000000u /* at most: some dozens of instructions, for the recorder is off */

/* A thread that was inside, and where that is told (tm_recorder_thread.inside). */
struct insider {
	struct tm_thread *thread;
	uint64_t place;
};

struct insiders {
	struct tm_vector(struct insider) threads;
	bool unknown; /* of a thread that does not stand still it cannot be told who it is */
	bool surely;  /* not all have jumped out, as it seems */
};

/* *inside: the stack pointer of the recorder's outermost frame; 0: the thread is not inside. */
static struct tm_error *read_inside(struct tm_recording *recording, uint64_t place, uint64_t *inside)
{
	*inside = 0;
	return tm_target_read(recording->target, place, inside, sizeof(*inside));
}

/* Is the thread above its frame of the recorder (tm_writer_has_jumped)? */
static bool seems_to_have_jumped(struct tm_recording *recording, struct tm_thread *thread, uint64_t inside)
{
	struct tm_error *err = tm_target_fetch_regs(recording->target, thread);
	bool jumped = !err && thread->regs.value[recording->target->arch->sp] > inside;

	tm_error_destroy(err);
	return jumped;
}

static struct tm_error *look_at(struct tm_recording *recording, uint64_t region, struct tm_thread *thread,
				struct insiders *insiders)
{
	uint64_t place, inside;
	unsigned entry;
	struct tm_error *err;

	if (thread->state != TM_THREAD_STOPPED) {
		insiders->unknown = true;
		return NULL;
	}
	err = find_entry(recording, region, thread, &entry);
	if (err || entry == UINT_MAX)
		return err;
	place = entry_field(region, entry, offsetof(struct tm_recorder_thread, inside));
	err = read_inside(recording, place, &inside);
	if (err || !inside)
		return err;
	insiders->surely = insiders->surely || !seems_to_have_jumped(recording, thread, inside);
	return tm_vector_push(&insiders->threads, ((struct insider){thread, place}))
		       ? NULL
		       : tm_error_out_of_memory();
}

/* Any entry, whoever had it. */
static struct tm_error *is_any_inside(struct tm_recording *recording, uint64_t region, bool *inside)
{
	_cleanup_free_ struct tm_recorder_thread *threads = calloc(TM_RINGS, sizeof(*threads));
	struct tm_error *err;

	*inside = false;
	if (!threads)
		return tm_error_out_of_memory();
	err = tm_target_read(recording->target, entry_field(region, 0, 0), threads,
			     TM_RINGS * sizeof(*threads));
	for (unsigned i = 0; !err && i < TM_RINGS; i++)
		*inside = *inside || threads[i].inside;
	return err;
}

/* Of the living threads: one that ended inside, in a signal handler, left its word behind. */
static struct tm_error *find_insiders(struct tm_recording *recording, uint64_t region,
				      struct insiders *insiders, bool *inside)
{
	struct tm_error *err = NULL;
	struct tm_thread *thread;

	insiders->threads.count = 0;
	insiders->unknown = insiders->surely = false;
	for (size_t i = 0; !err && (thread = tm_target_next_thread(recording->target, &i));)
		err = look_at(recording, region, thread, insiders);
	*inside = insiders->threads.count != 0;
	return err || *inside || !insiders->unknown ? err : is_any_inside(recording, region, inside);
}

static bool stands_in(struct tm_recording *recording, struct tm_thread *thread, uint64_t region)
{
	struct tm_error *err = tm_target_fetch_regs(recording->target, thread);
	bool in = err || thread->regs.value[recording->target->arch->pc] - region < TM_RECORDER_CODE_SIZE;

	tm_error_destroy(err);
	return in;
}

/* Until none of them is inside any more, or the time is over. What they hold stays as it is told: who leaves
   finds the recorder switched off, and does not come back. */
static struct tm_error *watch_leaving(struct tm_recording *recording, const struct insiders *insiders)
{
	const struct timespec pause = {0, LOOK_NS};
	uint64_t limit = (insiders->surely ? ALONE_MS : ALONE_JUMPED_MS) * UINT64_C(1000000);
	uint64_t begin = tm_monotonic_ns(), inside = 1;
	struct tm_error *err = NULL;

	while (!err && inside && tm_monotonic_ns() - begin < limit) {
		nanosleep(&pause, NULL);
		inside = 0;
		for (size_t i = 0; !err && !inside && i < insiders->threads.count; i++)
			err = read_inside(recording, insiders->threads.items[i].place, &inside);
	}
	return err;
}

static struct tm_error *let_out_alone(struct tm_recording *recording, const struct insiders *insiders)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i < insiders->threads.count; i++)
		err = tm_target_resume(recording->target, insiders->threads.items[i].thread);
	if (!err)
		err = watch_leaving(recording, insiders);
	return tm_error_first(err, tm_target_stop_all(recording->target, TM_STOP_TIMEOUT_MS));
}

static struct tm_error *let_out_together(struct tm_recording *recording)
{
	const struct timespec pause = {0, TOGETHER_PAUSE_NS};
	struct tm_error *err = tm_target_resume_all(recording->target, NULL);

	nanosleep(&pause, NULL);
	return tm_error_first(err, tm_target_stop_all(recording->target, TM_STOP_TIMEOUT_MS));
}

struct tm_error *tm_recording_let_out(struct tm_recording *recording, uint64_t region, bool *inside)
{
	struct insiders insiders = {0};
	struct tm_error *err = find_insiders(recording, region, &insiders, inside);

	if (!err && insiders.threads.count) {
		err = let_out_alone(recording, &insiders);
		err = err ? err : find_insiders(recording, region, &insiders, inside);
	}
	for (unsigned i = 0; !err && *inside && i < TOGETHER_TRIES; i++) {
		err = let_out_together(recording);
		err = err ? err : find_insiders(recording, region, &insiders, inside);
	}
	tm_vector_deinit(&insiders.threads);
	return err;
}

/* It runs for a moment, and for a longer one where it gets no processor. It is not stepped: a tracer that
   dies leaves a step's SIGTRAP behind, which kills. *in: one that does not stand still may be anywhere. */
static struct tm_error *run_out(struct tm_recording *recording, struct tm_thread *thread, uint64_t region,
				bool *in)
{
	struct tm_error *err = NULL;

	*in = stands_in(recording, thread, region);
	for (unsigned ns = LOOK_NS; !err && *in && ns <= RUN_OUT_NS; ns *= 2) {
		err = tm_target_run_briefly(recording->target, thread, ns);
		*in = err || stands_in(recording, thread, region);
	}
	return err;
}

struct tm_error *tm_recording_clear(struct tm_recording *recording, uint64_t region, bool *entered)
{
	struct tm_error *err = tm_recording_let_out(recording, region, entered);
	struct tm_thread *thread;

	for (size_t i = 0; !err && !*entered && (thread = tm_target_next_thread(recording->target, &i));)
		err = run_out(recording, thread, region, entered);
	return err;
}

/* ---- whose records a ring has ---- */

/* Before its first record: the target may be gone already. */
static void look_up_writer(struct tm_recording *recording, unsigned ring)
{
	struct tm_writer *writer = &recording->writers[ring];
	const uint64_t *tid;

	writer->pointer =
		__atomic_load_n(&tm_recording_head(recording, ring)->thread_pointer, __ATOMIC_ACQUIRE);
	tid = tm_map_get(&recording->tids, writer->pointer);
	writer->tid = tid ? (pid_t)*tid : recording->target->pid;
	writer->gone = tid && !tm_target_thread(recording->target, (pid_t)*tid);
}

const struct tm_thread *tm_recording_thread(struct tm_recording *recording, unsigned ring,
					    uint64_t *thread_pointer)
{
	struct tm_writer *writer = &recording->writers[ring];

	if (!writer->pointer)
		look_up_writer(recording, ring);
	*thread_pointer = writer->pointer;
	recording->thread.tid = writer->tid;
	return &recording->thread;
}

/* ---- birth and end ---- */

bool tm_recording_runs_alone(const struct tm_recording *recording)
{
	size_t i = 0;

	return tm_target_next_thread(recording->target, &i) && !tm_target_next_thread(recording->target, &i);
}

/* It has not run yet: what depends on it will be recorded by threads that see the word. */
static struct tm_error *begin_stamps(struct tm_recording *recording)
{
	const uint32_t on = 1;

	if (recording->stamps || tm_recording_runs_alone(recording))
		return NULL;
	recording->stamps = true;
	return tm_target_write(recording->target, CONTROL(recording, stamps), &on, sizeof(on));
}

struct tm_error *tm_recording_thread_born(struct tm_recording *recording, struct tm_thread *thread)
{
	uint64_t pointer = 0;
	struct tm_error *err = begin_stamps(recording);

	if (!err)
		err = tm_target_thread_pointer(recording->target, thread, &pointer);
	if (err || !pointer)
		return err;
	for (unsigned i = 0; i < TM_RINGS; i++)
		if (recording->writers[i].pointer == pointer) {
			recording->writers[i].tid = thread->tid;
			recording->writers[i].gone = false;
		}
	return tm_map_put(&recording->tids, pointer, (uint64_t)thread->tid) ? NULL : tm_error_out_of_memory();
}

void tm_recording_thread_gone(struct tm_recording *recording, pid_t tid)
{
	for (unsigned i = 0; i < TM_RINGS; i++)
		if (recording->writers[i].pointer && recording->writers[i].tid == tid)
			recording->writers[i].gone = true;
}

/* Another thread may claim it from now on. */
static void release_ring(struct tm_recording *recording, unsigned ring)
{
	const uint64_t gone = TM_THREAD_GONE;
	uint64_t place =
		entry_field(recording->region, ring, offsetof(struct tm_recorder_thread, thread_pointer));

	tm_error_destroy(tm_target_write(recording->target, place, &gone, sizeof(gone)));
	recording->writers[ring] = (struct tm_writer){0};
}

void tm_recording_release_rings(struct tm_recording *recording)
{
	for (unsigned i = 0; i < TM_RINGS; i++)
		if (recording->writers[i].gone &&
		    tm_recording_head(recording, i)->head == tm_recording_head(recording, i)->tail)
			release_ring(recording, i);
}

struct tm_error *tm_recording_know_threads(struct tm_recording *recording)
{
	struct tm_error *err = NULL;
	struct tm_thread *thread;

	for (size_t i = 0; !err && (thread = tm_target_next_thread(recording->target, &i));)
		if (thread->state == TM_THREAD_STOPPED)
			err = tm_recording_thread_born(recording, thread);
	return err;
}

/* ---- calls of operator new that stop ---- */

static struct tm_error *write_stack(struct tm_recording *recording, unsigned entry,
				    const struct tm_recorder_stack *stack)
{
	uint64_t place = entry_field(recording->region, entry, offsetof(struct tm_recorder_thread, stack));

	return tm_target_write(recording->target, place, stack, sizeof(*stack));
}

/* Those that are over where a call with this CFA begins, or has ended. */
static void drop_news(struct tm_recorder_stack *stack, uint64_t cfa)
{
	if (stack->new_count > TM_ARRAY_SIZE(stack->news))
		stack->new_count = 0;
	while (stack->new_count && tm_call_is_over(stack, stack->news[stack->new_count - 1].cfa, cfa))
		stack->new_count--;
}

/* What the recorder knows of a thread's stack, and in which entry; UINT_MAX: nothing. */
static struct tm_error *read_stack_of(struct tm_recording *recording, struct tm_thread *thread,
				      unsigned *entry, struct tm_recorder_stack *stack)
{
	struct tm_error *err = find_entry(recording, recording->region, thread, entry);

	if (err || (*entry != UINT_MAX && !tm_recording_read_stack(recording, *entry, stack)))
		*entry = UINT_MAX;
	return err;
}

/* The call with this CFA that is told so; NULL: there is none. */
static struct tm_recorder_call *find_new(struct tm_recorder_stack *stack, uint64_t cfa, enum tm_told told)
{
	for (size_t i = 0; i < stack->new_count && i < TM_ARRAY_SIZE(stack->news); i++)
		if (stack->news[i].cfa == cfa && stack->news[i].told == told)
			return &stack->news[i];
	return NULL;
}

struct tm_error *tm_recording_enter_new(struct tm_recording *recording, struct tm_thread *thread,
					const struct tm_recorder_call *call)
{
	struct tm_recorder_stack stack;
	unsigned entry;
	struct tm_error *err = read_stack_of(recording, thread, &entry, &stack);

	if (entry == UINT_MAX)
		return err;
	drop_news(&stack, call->cfa);
	if (stack.new_count == TM_ARRAY_SIZE(stack.news))
		return NULL;
	stack.news[stack.new_count++] = *call;
	return write_stack(recording, entry, &stack);
}

struct tm_error *tm_recording_take_new(struct tm_recording *recording, struct tm_thread *thread, uint64_t cfa,
				       struct tm_recorder_call *call)
{
	struct tm_recorder_stack stack;
	struct tm_recorder_call *found;
	unsigned entry;
	struct tm_error *err = read_stack_of(recording, thread, &entry, &stack);

	call->cfa = 0;
	if (entry == UINT_MAX)
		return err;
	found = find_new(&stack, cfa, TM_TOLD_AT_END);
	if (!found)
		return NULL;
	found->told = TM_TOLD_BY_RETURN;
	*call = *found;
	return write_stack(recording, entry, &stack);
}

struct tm_error *tm_recording_has_taken(struct tm_recording *recording, struct tm_thread *thread,
					uint64_t cfa, bool *taken)
{
	struct tm_recorder_stack stack;
	unsigned entry;
	struct tm_error *err = read_stack_of(recording, thread, &entry, &stack);

	*taken = entry != UINT_MAX && find_new(&stack, cfa, TM_TOLD_BY_RETURN);
	return err;
}

struct tm_error *tm_recording_leave_new(struct tm_recording *recording, struct tm_thread *thread,
					uint64_t cfa)
{
	struct tm_recorder_stack stack;
	unsigned entry;
	struct tm_error *err = read_stack_of(recording, thread, &entry, &stack);

	if (entry == UINT_MAX)
		return err;
	drop_news(&stack, cfa);
	return write_stack(recording, entry, &stack);
}
