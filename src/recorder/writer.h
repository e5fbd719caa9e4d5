/*
 * What all parts of the recorder share: the machine, the calling thread's ring, and records in it. Hot paths
 * stand here, to be inlined into each entry; writer.c has what is seldom needed.
 *
 * The recorder is the only code of tmtrace that runs inside the target. Pads call it before and behind the
 * allocator's functions, and it writes what it is told, with the stack of the calling thread, to the thread's
 * ring (shared.h has the protocol). It is compiled to one position-independent piece without a library,
 * without data of its own but the control page behind its code, and without vector registers. It allocates
 * nothing, takes no lock, and makes no system call but to sleep while the tracer is behind, and to ask for
 * the signal stack. It may be interrupted at any instruction by a signal whose handler comes here again, and
 * left at any by siglongjmp.
 */
#ifndef TM_RECORDER_WRITER_H
#define TM_RECORDER_WRITER_H

#include <stdbool.h>
#include <stddef.h>

#include "recorder/shared.h"

#define ENTRY  __attribute__((visibility("default"), used))
#define SELDOM __attribute__((noinline, cold))

extern struct tm_control tm_recorder_control __attribute__((visibility("hidden")));

#define control (&tm_recorder_control)

/* The frame of the entry itself: deeper for a handler that interrupted one, shallower after a jump out. */
#define STACK_POINTER ((uint64_t)__builtin_frame_address(0))

/* ---- the machine ---- */

static inline uint64_t time_stamp(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high)::"memory");
	return (uint64_t)high << 32 | low;
}

/* psABI x86-64 3.4.6: fs:0 holds the thread pointer itself. */
static inline uint64_t thread_pointer(void)
{
	uint64_t pointer;

	__asm__ volatile("mov %%fs:0, %0" : "=r"(pointer));
	return pointer;
}

#if defined(__SANITIZE_THREAD__)
#define TM_SEEN_BY_TSAN
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define TM_SEEN_BY_TSAN
#endif
#endif

/* One instruction: a signal handler comes before it or behind it. No other thread writes the word. */
static inline uint64_t fetch_add(uint64_t *word, uint64_t add)
{
#ifdef TM_SEEN_BY_TSAN /* it does not look into assembly */
	return __atomic_fetch_add(word, add, __ATOMIC_ACQ_REL);
#else
	__asm__ volatile("xadd %0, %1" : "+r"(add), "+m"(*word)::"memory", "cc");
	return add;
#endif
}

static inline void relax(void)
{
	__asm__ volatile("pause");
}

#define SYS_sched_yield 24
#define SYS_nanosleep	35
#define SYS_sigaltstack 131
#define SYS_futex	202

static inline long system_call(long number, const void *first, uint64_t second, uint64_t third)
{
	long result = number;

	__asm__ volatile("syscall"
			 : "+a"(result), "+D"(first), "+S"(second), "+d"(third)::"rcx", "r11", "memory");
	return result;
}

static inline uint64_t load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void store(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

static inline uint64_t word_at(uint64_t address)
{
	return *(const uint64_t *)address;
}

/* ---- the shared words ---- */

static inline struct tm_shared *shared_words(void)
{
	return (struct tm_shared *)control->shared;
}

/* ---- the thread's ring ---- */

struct writer {
	struct tm_recorder_thread *thread;
	struct tm_ring_head *ring;
	uint8_t *bytes;
	uint64_t sp;
};

/* ---- writer.c ---- */

/* Rings the doorbell and waits until the tracer has answered the record, which ends at `behind`. */
void tm_writer_wait_for_look(struct writer *writer, const struct tm_record_header *asked, uint64_t behind);
/* Until the thread's ring has room for `size` bytes, and TM_RING_SLACK, behind its head. False: recording is
   over (also in a child that was forked in the midst of it, whose control page was wiped). */
bool tm_writer_make_room(struct tm_recorder_thread *thread, uint64_t size);
/* The calling thread's entry, claimed if it has none; NULL: no ring is left for it. */
struct tm_recorder_thread *tm_writer_search_thread(uint64_t pointer);
void tm_writer_take_ring(struct tm_recorder_thread *thread);
/* The thread is inside already. A handler that interrupted it is farther down, or on a stack of its own: its
   outer frame will go on. Else the thread has jumped out. */
bool tm_writer_has_jumped(uint64_t inside, uint64_t sp);

/* What the thread's frames were is not known any more. */
static inline void tm_writer_forget_frames(struct tm_recorder_stack *stack)
{
	stack->count = 0;
	stack->forgotten++;
}

/* ---- the way in and out ---- */

static inline struct tm_recorder_thread *find_thread(uint64_t pointer)
{
	struct tm_recorder_thread *likely = &control->threads[tm_thread_slot(pointer)];

	return __builtin_expect(load(&likely->thread_pointer) == pointer, 1)
		       ? likely
		       : tm_writer_search_thread(pointer);
}

/*
 * `inside` is set before `enabled` is looked at, and nothing of the memory file is touched before that, so
 * that whoever has cleared `enabled` knows from `inside` when the thread has left the file alone. (Not at
 * once: the store may be visible later than the load was made. shared.h) It is part of each entry: as a
 * function it would keep the writer in memory.
 */
static inline __attribute__((always_inline)) bool begin(struct writer *writer, uint64_t sp)
{
	struct tm_recorder_thread *thread;
	bool jumped;

	if (__builtin_expect(!__atomic_load_n(&control->enabled, __ATOMIC_ACQUIRE), 0))
		return false;
	thread = find_thread(thread_pointer());
	if (!thread)
		return false;
	writer->thread = thread;
	writer->sp = sp;
	jumped = __builtin_expect(thread->inside != 0, 0) && tm_writer_has_jumped(thread->inside, sp);
	if (!thread->inside || jumped)
		store(&thread->inside, sp);
	__asm__ volatile("" ::: "memory");
	if (__builtin_expect(__atomic_load_n(&control->enabled, __ATOMIC_ACQUIRE) != 0, 1)) {
		if (__builtin_expect(!thread->ring || jumped, 0))
			tm_writer_take_ring(thread);
		writer->ring = (struct tm_ring_head *)thread->ring;
		writer->bytes = (uint8_t *)thread->bytes;
		return true;
	}
	if (thread->inside == sp)
		store(&thread->inside, 0);
	return false;
}

/* The outermost frame leaves. */
static inline void end(const struct writer *writer)
{
	if (__builtin_expect(writer->thread->inside == writer->sp, 1))
		store(&writer->thread->inside, 0);
}

static inline void commit(struct tm_record_header *header, uint64_t position, unsigned kind, unsigned flags,
			  uint64_t size)
{
	uint64_t mark = (uint32_t)(position / TM_RECORD_UNIT) | (uint64_t)kind << 32 | (uint64_t)flags << 40 |
			(uint64_t)(size / TM_RECORD_UNIT) << 48;

	store((uint64_t *)header, mark);
}

static inline bool has_room(struct writer *writer, uint64_t size)
{
	return __builtin_expect(writer->ring->head + size + TM_RING_SLACK <= writer->thread->room, 1) ||
	       tm_writer_make_room(writer->thread, size);
}

/* A place for a record of `size` bytes (a multiple of TM_RECORD_UNIT); NULL: recording is over. */
static inline struct tm_record_header *reserve(struct writer *writer, uint64_t size, uint64_t *position)
{
	for (;;) {
		struct tm_record_header *header;
		uint64_t offset;

		if (!has_room(writer, size))
			return NULL;
		*position = fetch_add(&writer->ring->head, size);
		offset = *position % TM_RING_SIZE;
		header = (struct tm_record_header *)(writer->bytes + offset);
		if (__builtin_expect(offset + size <= TM_RING_SIZE, 1)) {
			header->time = control->stamps ? time_stamp() : 0;
			return header;
		}
		header->time = 0;
		commit(header, *position, TM_RECORD_FILLER, 0, size);
	}
}

/* ---- records ---- */

static inline uint64_t rounded(uint64_t size)
{
	return (size + TM_RECORD_UNIT - 1) & ~(uint64_t)(TM_RECORD_UNIT - 1);
}

#endif
