/* What the ways of all records seldom come by: waiting for the tracer, a thread's first event, a jump out. */
#include "recorder/writer.h"

/* recorder.ld puts the entries' offsets behind it. */
__attribute__((section(".magic"), used)) static const char magic[16] = TM_RECORDER_MAGIC;

/* ---- waiting ---- */

static void give_up(void)
{
	struct tm_shared *shared = shared_words();
	uint64_t never = 0; /* of threads that give up together, the first one says when */

	__atomic_compare_exchange_n(&shared->lost_time, &never, time_stamp(), false, __ATOMIC_RELEASE,
				    __ATOMIC_RELAXED);
	__atomic_store_n(&shared->lost, 1, __ATOMIC_RELEASE);
	__atomic_store_n(&shared->enabled, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&control->enabled, 0, __ATOMIC_RELEASE);
}

/* Fractions of the patience, which is some seconds. */
#define SPINNING   400000u /* 25 us: longer than the tracer needs for most answers; a sleep is longer */
#define YIELDING   100000u /* 100 us */
#define LONG_YIELD 50000u  /* 200 us */
#define CROWDED	   100u	   /* 100 ms */

/* ns; doubled every SLEEPS times, up to SLEEP << DOUBLINGS: hundreds of threads may wait */
#define SLEEP	  50000u
#define SLEEPS	  32u
#define DOUBLINGS 5u

/* Whoever yields where others want the processor gets it back milliseconds later, and the tracer answers in
   microseconds: once that was seen, nobody yields for a while. */
static void yield(void)
{
	uint64_t begin = time_stamp(), now;

	system_call(SYS_sched_yield, NULL, 0, 0);
	now = time_stamp();
	if (now - begin > control->patience / LONG_YIELD)
		store(&control->crowded_until, now + control->patience / CROWDED);
}

static void sleep(unsigned turn)
{
	unsigned doublings = turn / SLEEPS < DOUBLINGS ? turn / SLEEPS : DOUBLINGS;
	uint64_t pause[2] = {0, (uint64_t)SLEEP << doublings}; /* timespec */

	system_call(SYS_nanosleep, pause, 0, 0);
}

#define FUTEX_WAKE 1 /* <linux/futex.h> */

/* Between two looks at what is waited for; `sleeps` counts the times that it slept. */
static void rest(uint64_t spent, unsigned *sleeps)
{
	if (spent < control->patience / SPINNING || !control->may_sleep)
		relax();
	else if (spent < control->patience / YIELDING && time_stamp() > load(&control->crowded_until))
		yield();
	else
		sleep((*sleeps)++);
}

/*
 * What is waited for counts only while this thread runs: where both sides were stopped together (a job, a
 * machine that slept), the tracer gets its time. Counters of two processors may differ by a little.
 */
static uint64_t spent_since(uint64_t *last)
{
	uint64_t now = time_stamp(), longest = control->patience / 16;
	int64_t spent = (int64_t)(now - *last);

	*last = now;
	return spent < 0 ? 0 : (uint64_t)spent > longest ? longest : (uint64_t)spent;
}

/* What a thread waits for: that the tail is there, or its record's answer. */
struct wait {
	const struct tm_ring_head *ring;
	uint64_t tail;
	const struct tm_record_header *asked; /* NULL: no record */
};

static bool is_left_out(const struct tm_ring_head *ring, uint64_t position)
{
	for (unsigned i = 0; i < TM_LEFT_OUT; i++)
		if (tm_left_out_covers(load(&ring->left_out[i]), position))
			return true;
	return false;
}

/* The record stands where it was until the tail has passed it, or it is left out no more. */
static bool is_over(const struct wait *wait)
{
	bool passed = load(&wait->ring->tail) >= wait->tail;

	if (!wait->asked)
		return passed;
	return __atomic_load_n(&wait->asked->flags, __ATOMIC_ACQUIRE) & TM_RECORD_ANSWERED ||
	       (passed && !is_left_out(wait->ring, wait->tail - TM_RECORD_UNIT));
}

/* It may have fallen asleep since it was looked at last: this is seen to again and again. */
static void wake_tracer(void)
{
	uint32_t *asleep = &shared_words()->asleep;

	if (!__atomic_load_n(asleep, __ATOMIC_ACQUIRE) || !control->may_sleep)
		return;
	__atomic_store_n(asleep, 0, __ATOMIC_RELEASE);
	system_call(SYS_futex, asleep, FUTEX_WAKE, 1);
}

static bool wait_until_over(const struct wait *wait)
{
	uint64_t last = time_stamp(), spent = 0;
	unsigned sleeps = 0;

	for (;;) {
		if (!__atomic_load_n(&control->enabled, __ATOMIC_ACQUIRE))
			return false;
		if (is_over(wait))
			return true;
		if (!__atomic_load_n(&shared_words()->enabled, __ATOMIC_ACQUIRE)) {
			__atomic_store_n(&control->enabled, 0, __ATOMIC_RELEASE);
			return false;
		}
		spent += spent_since(&last);
		if (spent > control->patience) {
			give_up();
			return false;
		}
		wake_tracer();
		rest(spent, &sleeps);
	}
}

void tm_writer_wait_for_look(struct writer *writer, const struct tm_record_header *asked, uint64_t behind)
{
	__atomic_fetch_add(&shared_words()->doorbell, 1, __ATOMIC_RELEASE);
	wait_until_over(&(struct wait){writer->ring, behind, asked});
}

/* ---- room ---- */

/* Where a place that is left out comes next, from `position` on. */
static uint64_t next_lap(uint64_t left_out, uint64_t position)
{
	uint64_t start = tm_left_out_start(left_out);

	return position + (start - position) % TM_RING_SIZE;
}

/* The first one from `position` on; UINT64_MAX: none. */
static uint64_t find_left_out(const struct tm_ring_head *ring, uint64_t position, uint64_t *behind)
{
	uint64_t first = UINT64_MAX;

	for (unsigned i = 0; i < TM_LEFT_OUT; i++) {
		uint64_t left_out = load(&ring->left_out[i]), start = next_lap(left_out, position);

		if (!left_out || start >= first)
			continue;
		first = start;
		*behind = start + tm_left_out_size(left_out);
	}
	return first;
}

/* The head goes behind a place that is left out, unless a handler was quicker. */
static void fill(struct tm_recorder_thread *thread, uint64_t head, uint64_t behind)
{
	struct tm_ring_head *ring = (struct tm_ring_head *)thread->ring;
	struct tm_record_header *header = (struct tm_record_header *)(thread->bytes + head % TM_RING_SIZE);
	uint64_t present = head;

	if (!__atomic_compare_exchange_n(&ring->head, &present, behind, false, __ATOMIC_ACQ_REL,
					 __ATOMIC_ACQUIRE))
		return;
	header->time = 0;
	commit(header, head, TM_RECORD_FILLER, 0, behind - head);
}

/*
 * What is free reaches from the head to the tail's next lap, or to a place that is left out. The places are
 * loaded behind the tail: it has not passed one that is not seen. TM_RING_SLACK keeps the head before a
 * place, so that a filler's header has room.
 */
bool tm_writer_make_room(struct tm_recorder_thread *thread, uint64_t size)
{
	const struct tm_ring_head *ring = (const struct tm_ring_head *)thread->ring;

	for (;;) {
		uint64_t head = load(&ring->head), end = load(&ring->tail) + TM_RING_SIZE, behind = head;
		uint64_t left_out = find_left_out(ring, head, &behind);
		bool in_the_way = left_out < head + size + TM_RING_SLACK;
		uint64_t wanted = (in_the_way ? behind : head) + size + TM_RING_SLACK;

		if (wanted > end) {
			if (!wait_until_over(&(struct wait){ring, wanted - TM_RING_SIZE, NULL}))
				return false;
		} else if (in_the_way) {
			fill(thread, head, behind);
		} else {
			thread->room = left_out < end ? left_out : end;
			return true;
		}
	}
}

/* ---- the thread's ring ---- */

/* Of another thread; word by word, for there is no library here that could do it at once. */
static void forget_stack(struct tm_recorder_stack *stack)
{
	tm_writer_forget_frames(stack);
	stack->new_count = 0;
	stack->low = stack->high = 0;
	stack->freed = stack->resize.cfa = 0;
}

/* Only the thread itself claims for itself; a handler that comes between may have been quicker. */
static struct tm_recorder_thread *claim(uint64_t pointer)
{
	for (unsigned i = 0, at = tm_thread_slot(pointer); i < TM_RINGS; i++, at = (at + 1) % TM_RINGS) {
		struct tm_recorder_thread *thread = &control->threads[at];
		uint64_t present = load(&thread->thread_pointer);

		while (present == 0 || present == TM_THREAD_GONE) {
			if (!__atomic_compare_exchange_n(&thread->thread_pointer, &present, pointer, false,
							 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
				continue;
			store(&thread->inside, 0);
			thread->state = thread->room = thread->ring = 0;
			forget_stack(&thread->stack);
			thread->random = 0;
			return thread;
		}
		if (present == pointer)
			return thread;
	}
	__atomic_fetch_add(&control->unringed, 1, __ATOMIC_RELAXED);
	return NULL;
}

struct tm_recorder_thread *tm_writer_search_thread(uint64_t pointer)
{
	for (unsigned i = 0, at = tm_thread_slot(pointer); i < TM_RINGS; i++, at = (at + 1) % TM_RINGS) {
		struct tm_recorder_thread *thread = &control->threads[at];
		uint64_t present = load(&thread->thread_pointer);

		if (present == pointer)
			return thread;
		if (!present)
			break;
	}
	return claim(pointer);
}

/* The tracer looks at a ring when its bit is there: it is, before anything is stamped that goes into the
   ring. What was reserved in it before, and is not committed, never will be: what the tracer knows of the
   stack is not known. */
void tm_writer_take_ring(struct tm_recorder_thread *thread)
{
	unsigned index = (unsigned)(thread - control->threads);
	struct tm_ring_head *ring = (struct tm_ring_head *)(control->shared + TM_SHARED_HEADS) + index;

	__atomic_fetch_or(&shared_words()->used[index / 64], UINT64_C(1) << index % 64, __ATOMIC_SEQ_CST);
	__asm__ volatile("lfence" ::: "memory"); /* the stamp is read behind it */
	store(&ring->abandoned, ring->head);
	store(&ring->thread_pointer, thread->thread_pointer);
	tm_writer_forget_frames(&thread->stack);
	store(&ring->stack_high, 0); /* of a thread before: until the tracer has looked there are no bounds */
	store(&ring->stack_low, 0);
	thread->bytes = control->shared + TM_SHARED_RINGS + index * TM_RING_SIZE;
	thread->frames = control->shared + TM_SHARED_FRAMES + index * sizeof(struct tm_ring_frames);
	store(&thread->ring, (uint64_t)ring);
}

/* Is this a signal handler on a stack of its own? Where it may not be asked: it could be. */
static bool is_on_signal_stack(void)
{
	struct {
		void *start;
		int flags;
		uint64_t size;
	} stack; /* stack_t of sigaltstack(2) */

	return !control->may_sleep || system_call(SYS_sigaltstack, NULL, (uint64_t)&stack, 0) ||
	       stack.flags & 1; /* SS_ONSTACK */
}

/*
 * The thread is inside already. A handler that interrupted it is farther down, or on a stack of its own: its
 * outer frame will go on. Else the thread has jumped out.
 */
bool tm_writer_has_jumped(uint64_t inside, uint64_t sp)
{
	return inside <= sp && !is_on_signal_stack();
}
