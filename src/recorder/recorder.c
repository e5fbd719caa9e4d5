/*
 * The recorder: the only code of tmtrace that runs inside the target. Pads call it before and behind the
 * allocator's functions, and it writes what it is told, with the Python frames of the calling thread, to the
 * thread's ring (shared.h has the protocol).
 *
 * It is compiled to one position-independent piece without a library, without data of its own but the control
 * page behind its code, and without vector registers. It allocates nothing, takes no lock, and makes no
 * system call but to sleep while the tracer is behind, and to ask for the signal stack. It may be interrupted
 * at any instruction by a signal whose handler comes here again, and left at any by siglongjmp.
 */
#include "recorder/shared.h"

#include <stdbool.h>
#include <stddef.h>

#define ENTRY __attribute__((visibility("default"), used))

/* recorder.ld puts the entries' offsets behind it. */
__attribute__((section(".magic"), used)) static const char magic[16] = TM_RECORDER_MAGIC;

extern struct tm_control tm_recorder_control __attribute__((visibility("hidden")));

#define control (&tm_recorder_control)

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

static inline long system_call(long number, const void *first, void *second)
{
	long result = number;

	__asm__ volatile("syscall" : "+a"(result), "+D"(first), "+S"(second)::"rcx", "r11", "memory");
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

/* ---- waiting ---- */

static struct tm_shared *shared_words(void)
{
	return (struct tm_shared *)control->shared;
}

static __attribute__((noinline, cold)) void give_up(void)
{
	struct tm_shared *shared = shared_words();
	uint64_t never = 0; /* of threads that give up together, the first one says when */

	__atomic_compare_exchange_n(&shared->lost_time, &never, time_stamp(), false, __ATOMIC_RELEASE,
				    __ATOMIC_RELAXED);
	__atomic_store_n(&shared->lost, 1, __ATOMIC_RELEASE);
	__atomic_store_n(&shared->enabled, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&control->enabled, 0, __ATOMIC_RELEASE);
}

static void rest(unsigned turn)
{
	uint64_t pause[2] = {0, 50000}; /* struct timespec */

	if (turn < 500 || !control->may_sleep)
		relax();
	else if (turn < 1000)
		system_call(SYS_sched_yield, NULL, NULL);
	else
		system_call(SYS_nanosleep, pause, NULL);
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

/* Until the tracer has brought the word to `at_least`. False: recording is over (also in a child that was
   forked in the midst of it, whose control page was wiped). */
static __attribute__((noinline, cold)) bool wait_for(const uint64_t *word, uint64_t at_least)
{
	uint64_t last = time_stamp(), spent = 0;

	for (unsigned turn = 0;; turn++) {
		if (!__atomic_load_n(&control->enabled, __ATOMIC_ACQUIRE))
			return false;
		if (load(word) >= at_least)
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
		rest(turn);
	}
}

/* ---- the thread's ring ---- */

struct writer {
	struct tm_recorder_thread *thread;
	struct tm_ring_head *ring;
	uint8_t *bytes;
	uint64_t sp;
};

static inline struct tm_ring_head *head_of(unsigned index)
{
	return (struct tm_ring_head *)(control->shared + TM_SHARED_HEADS) + index;
}

static inline unsigned slot_of(uint64_t pointer)
{
	return (unsigned)((pointer >> 6) * UINT64_C(0x9e3779b97f4a7c15) >> 40) % TM_RINGS;
}

/* Only the thread itself claims for itself; a handler that comes between may have been quicker. */
static __attribute__((noinline, cold)) struct tm_recorder_thread *claim(uint64_t pointer)
{
	for (unsigned i = 0, at = slot_of(pointer); i < TM_RINGS; i++, at = (at + 1) % TM_RINGS) {
		struct tm_recorder_thread *thread = &control->threads[at];
		uint64_t present = load(&thread->thread_pointer);

		while (present == 0 || present == TM_THREAD_GONE) {
			if (!__atomic_compare_exchange_n(&thread->thread_pointer, &present, pointer, false,
							 __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
				continue;
			store(&thread->inside, 0);
			thread->state = thread->tail = thread->has_ring = 0;
			return thread;
		}
		if (present == pointer)
			return thread;
	}
	__atomic_fetch_add(&control->unringed, 1, __ATOMIC_RELAXED);
	return NULL;
}

static __attribute__((noinline)) struct tm_recorder_thread *search_thread(uint64_t pointer)
{
	for (unsigned i = 0, at = slot_of(pointer); i < TM_RINGS; i++, at = (at + 1) % TM_RINGS) {
		struct tm_recorder_thread *thread = &control->threads[at];
		uint64_t present = load(&thread->thread_pointer);

		if (present == pointer)
			return thread;
		if (!present)
			break;
	}
	return claim(pointer);
}

static inline struct tm_recorder_thread *find_thread(uint64_t pointer)
{
	struct tm_recorder_thread *likely = &control->threads[slot_of(pointer)];

	return __builtin_expect(load(&likely->thread_pointer) == pointer, 1) ? likely
									     : search_thread(pointer);
}

/* The tracer looks at a ring when its bit is there: it is, before anything is stamped that goes into the
   ring. What was reserved in it before, and is not committed, never will be. */
static __attribute__((noinline, cold)) void take_ring(struct tm_recorder_thread *thread,
						      struct tm_ring_head *ring)
{
	unsigned index = (unsigned)(thread - control->threads);

	__atomic_fetch_or(&shared_words()->used[index / 64], UINT64_C(1) << index % 64, __ATOMIC_SEQ_CST);
	__asm__ volatile("lfence" ::: "memory"); /* the stamp is read behind it */
	store(&ring->abandoned, ring->head);
	store(&ring->thread_pointer, thread->thread_pointer);
	thread->has_ring = 1;
}

/* Is this a signal handler on a stack of its own? Where it may not be asked: it could be. */
static bool is_on_signal_stack(void)
{
	struct {
		void *start;
		int flags;
		uint64_t size;
	} stack; /* stack_t of sigaltstack(2) */

	return !control->may_sleep || system_call(SYS_sigaltstack, NULL, &stack) ||
	       stack.flags & 1; /* SS_ONSTACK */
}

/*
 * The thread is inside already. A handler that interrupted it is farther down, or on a stack of its own: its
 * outer frame will go on. Else the thread has jumped out.
 */
static __attribute__((noinline, cold)) bool has_jumped(uint64_t inside, uint64_t sp)
{
	return inside <= sp && !is_on_signal_stack();
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
	unsigned index;
	bool jumped;

	if (__builtin_expect(!__atomic_load_n(&control->enabled, __ATOMIC_ACQUIRE), 0))
		return false;
	thread = find_thread(thread_pointer());
	if (!thread)
		return false;
	writer->thread = thread;
	writer->sp = sp;
	jumped = __builtin_expect(thread->inside != 0, 0) && has_jumped(thread->inside, sp);
	if (!thread->inside || jumped)
		store(&thread->inside, sp);
	__asm__ volatile("" ::: "memory");
	if (__builtin_expect(__atomic_load_n(&control->enabled, __ATOMIC_ACQUIRE) != 0, 1)) {
		index = (unsigned)(thread - control->threads);
		writer->ring = head_of(index);
		writer->bytes = (uint8_t *)(control->shared + TM_SHARED_RINGS) + index * TM_RING_SIZE;
		if (__builtin_expect(!thread->has_ring || jumped, 0))
			take_ring(thread, writer->ring);
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
	uint64_t wanted = writer->ring->head + size + TM_RING_SLACK;

	if (__builtin_expect(wanted <= writer->thread->tail + TM_RING_SIZE, 1))
		return true;
	if (wanted > load(&writer->ring->tail) + TM_RING_SIZE &&
	    !wait_for(&writer->ring->tail, wanted - TM_RING_SIZE))
		return false;
	writer->thread->tail = load(&writer->ring->tail);
	return true;
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
			header->time = time_stamp();
			return header;
		}
		header->time = 0;
		commit(header, *position, TM_RECORD_FILLER, 0, size);
	}
}

/* ---- the interpreter ---- */

#define python (&control->python)

static inline uint64_t module_variable(void)
{
	/* glibc, nptl/dtv: fs:8 is the vector; the word below its first pair is its length, -1 a block that
	   is not there yet. */
	const uint64_t *vector = (const uint64_t *)word_at(thread_pointer() + 8);
	uint64_t block;

	if (vector[-2] < python->state_module)
		return 0;
	block = vector[2 * python->state_module];
	return block == UINT64_MAX || !block ? 0 : word_at(block + python->state_place);
}

static inline uint64_t current_state(void)
{
	switch (python->state_kind) {
	case TM_STATE_GLOBAL:
		return word_at(python->state_place);
	case TM_STATE_THREAD:
		return word_at(thread_pointer() + python->state_place);
	case TM_STATE_MODULE:
		return module_variable();
	}
	return 0;
}

/*
 * The state of this thread, if it certainly holds the interpreter's lock; else 0. The raw allocator may be
 * called without it. Up to 3.11 the lock's owner is then somebody else, or nobody: only the state that this
 * thread was seen with under the lock is believed, and not looked into before.
 */
static inline uint64_t own_state(struct tm_recorder_thread *thread, bool raw)
{
	uint64_t state = current_state();

	if (python->state_kind == TM_STATE_GLOBAL && raw && state != thread->state)
		return 0;
	if (!state || word_at(state + python->thread_id) != thread->thread_pointer)
		return 0;
	thread->state = state;
	return state;
}

static inline int32_t int_at(uint64_t address)
{
	return *(const int32_t *)address;
}

enum { OWNED_BY_GENERATOR = 1, OWNED_BY_C_STACK = 3 }; /* CPython, Include/internal/pycore_frame.h */

/* Has the frame begun, and is it one of a Python function? (python/frames.c has the same rules.) */
static inline bool is_shown(uint64_t frame, uint64_t code, uint64_t instruction)
{
	uint8_t owner;
	int64_t first;

	if (!python->frame_owner)
		return true;
	owner = *(const uint8_t *)(frame + python->frame_owner);
	if (python->minor >= 12 && owner == OWNED_BY_C_STACK)
		return false;
	if (owner == OWNED_BY_GENERATOR)
		return true;
	first = 2 * (int64_t)int_at(code + python->code_first_traceable);
	return (int64_t)(instruction - code - python->code_instructions) >= first;
}

/* Where a frame stands: up to 3.10 it may know its line itself, while it is traced. */
static inline uint64_t instruction_of(uint64_t frame)
{
	if (python->code_instructions)
		return word_at(frame + python->frame_instruction);
	if (python->frame_trace ? word_at(frame + python->frame_trace) != 0
				: int_at(frame + python->frame_lineno) != 0)
		return TM_RECORD_LINE | (uint32_t)int_at(frame + python->frame_lineno);
	return (uint32_t)int_at(frame + python->frame_instruction);
}

static inline uint64_t newest_frame(uint64_t state)
{
	uint64_t frame = word_at(state + python->thread_frame);

	return frame && python->has_cframe ? word_at(frame + python->cframe_frame) : frame;
}

static inline bool next_frame(uint64_t *address, struct tm_record_frame *frame)
{
	while (*address) {
		uint64_t at = *address;

		*address = word_at(at + python->frame_back);
		frame->code = word_at(at + python->frame_code);
		frame->instruction = instruction_of(at);
		if (is_shown(at, frame->code, frame->instruction))
			return true;
	}
	return false;
}

/* What is known of the calling thread's Python stack. */
struct stack {
	bool known; /* it may be read; else the tracer does */
	uint64_t newest;
	struct tm_record_frame top;
	uint32_t total, stored;
};

#define TOTAL_MAX 65535u /* as tracemalloc counts them */

/* How many frames there are, and the newest. */
static inline void measure(struct stack *stack, uint64_t state)
{
	uint64_t address = newest_frame(state);
	struct tm_record_frame frame;

	stack->newest = address;
	if (!next_frame(&address, &stack->top))
		return;
	for (stack->total = 1; stack->total < TOTAL_MAX && next_frame(&address, &frame);)
		stack->total++;
}

static inline bool is_known_code(uint64_t code)
{
	const uint64_t *set = shared_words()->codes[tm_code_set(code)];

	for (unsigned i = 0; i < TM_CODE_WAYS; i++)
		if (load(&set[i]) == code)
			return true;
	return false;
}

/* A block is given back: if it was a code object, the next one at its address is unknown. */
static inline void forget_code(uint64_t block)
{
	struct tm_shared *shared = shared_words();
	uint32_t bit = tm_code_bit(block);

	if (__builtin_expect(!(load(&shared->code_filter[bit / 64]) >> bit % 64 & 1), 1))
		return;
	for (unsigned i = 0; i < TM_CODE_WAYS; i++) {
		uint64_t *way = &shared->codes[tm_code_set(block)][i];

		if (load(way) == block)
			store(way, 0);
	}
}

/* ---- records ---- */

static inline uint64_t rounded(uint64_t size)
{
	return (size + TM_RECORD_UNIT - 1) & ~(uint64_t)(TM_RECORD_UNIT - 1);
}

static inline void fill_frames(struct tm_record_block *record, const struct stack *stack)
{
	uint64_t address = stack->newest;

	if (stack->stored == 1)
		record->frames[0] = stack->top;
	for (uint32_t i = 0; stack->stored > 1 && i < stack->stored; i++)
		next_frame(&address, &record->frames[i]);
}

static __attribute__((noinline, cold)) void wait_for_look(struct writer *writer, uint64_t behind)
{
	__atomic_fetch_add(&shared_words()->doorbell, 1, __ATOMIC_RELEASE);
	wait_for(&writer->ring->looked, behind);
}

/* ---- code objects ---- */

struct extent {
	uint64_t address, size;
};

#define PIECES 4u /* code object, file name, name, line table */

/* A str: bits of PyASCIIObject.state are interned 2, kind 3, compact 1, ascii 1 (python/unicode.c). */
static inline bool text_extent(uint64_t object, struct extent *extent)
{
	uint64_t length = word_at(object + python->unicode_length);
	uint32_t state = (uint32_t)int_at(object + python->unicode_state), kind = state >> 2 & 7;

	extent->address = object;
	extent->size = (state >> 6 & 1 ? python->unicode_ascii : python->unicode_compact) + length * kind;
	return (state >> 5 & 1) && kind && length < TM_RECORD_MAX;
}

static inline bool code_extents(uint64_t code, struct extent extents[PIECES])
{
	uint64_t lines = word_at(code + python->code_lines);

	extents[0] = (struct extent){code, python->code_size};
	extents[3] = (struct extent){lines, python->bytes_data + word_at(lines + python->bytes_size)};
	return text_extent(word_at(code + python->code_filename), &extents[1]) &&
	       text_extent(word_at(code + python->code_name), &extents[2]) && extents[3].size < TM_RECORD_MAX;
}

static inline void copy(void *to, uint64_t from, uint64_t size)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size)::"memory");
}

/* In the filter first: who looks there decides whether to look in the sets. */
static void add_code(uint64_t code)
{
	struct tm_shared *shared = shared_words();
	uint64_t *set = shared->codes[tm_code_set(code)];
	uint32_t bit = tm_code_bit(code);
	unsigned way = 0;

	__atomic_fetch_or(&shared->code_filter[bit / 64], UINT64_C(1) << bit % 64, __ATOMIC_SEQ_CST);
	while (way < TM_CODE_WAYS && load(&set[way]))
		way++;
	store(&set[way < TM_CODE_WAYS ? way : time_stamp() % TM_CODE_WAYS], code);
}

/* False: it is too large for a record, or of a form that is not known; the tracer has to look. */
static __attribute__((noinline, cold)) bool put_code(struct writer *writer, uint64_t code)
{
	struct tm_record_code *record;
	struct extent extents[PIECES];
	uint64_t bytes = sizeof(*record), position;
	uint8_t *place;

	if (!code_extents(code, extents))
		return false;
	for (unsigned i = 0; i < PIECES; i++)
		bytes += sizeof(struct tm_record_piece) + ((extents[i].size + 7) & ~UINT64_C(7));
	bytes = rounded(bytes);
	if (bytes > TM_RECORD_MAX)
		return false;
	record = (struct tm_record_code *)reserve(writer, bytes, &position);
	if (!record)
		return true;
	record->code = code;
	record->piece_count = PIECES;
	place = record->pieces;
	for (unsigned i = 0; i < PIECES; i++) {
		struct tm_record_piece *piece = (struct tm_record_piece *)place;

		piece->address = extents[i].address;
		piece->size = extents[i].size;
		copy(piece->bytes, extents[i].address, extents[i].size);
		place += sizeof(*piece) + ((extents[i].size + 7) & ~UINT64_C(7));
	}
	commit(&record->header, position, TM_RECORD_CODE, 0, bytes);
	add_code(code);
	return true;
}

static inline bool tell_code(struct writer *writer, uint64_t code)
{
	return __builtin_expect(is_known_code(code), 1) || put_code(writer, code);
}

/* Does the tracer know all code that the record will name? */
static inline bool tell_codes(struct writer *writer, const struct stack *stack)
{
	uint64_t address = stack->newest;
	struct tm_record_frame frame;
	bool known = true;

	if (stack->stored == 1)
		return tell_code(writer, stack->top.code);
	for (uint32_t i = 0; i < stack->stored && next_frame(&address, &frame); i++)
		known = tell_code(writer, frame.code) && known;
	return known;
}

static inline void put_block(struct writer *writer, unsigned kind, uint64_t block, uint64_t size,
			     uint64_t old, struct stack *stack)
{
	struct tm_record_block *record;
	uint64_t position, bytes;
	unsigned flags = stack->known ? 0 : TM_RECORD_LOOK | TM_RECORD_NO_FRAMES;

	stack->stored = stack->total < python->nframe ? stack->total : python->nframe;
	if (!tell_codes(writer, stack))
		flags |= TM_RECORD_LOOK;
	bytes = rounded(sizeof(*record) + stack->stored * sizeof(struct tm_record_frame));
	record = (struct tm_record_block *)reserve(writer, bytes, &position);
	if (!record)
		return;
	record->block = block;
	record->size = size;
	record->old = old;
	record->frame_count = stack->stored;
	record->frame_total = stack->total;
	fill_frames(record, stack);
	commit(&record->header, position, kind, flags, bytes);
	if (__builtin_expect(flags, 0))
		wait_for_look(writer, position + bytes);
}

static inline void put_free(struct writer *writer, unsigned kind, uint64_t block)
{
	uint64_t position;
	struct tm_record_free *record = (struct tm_record_free *)reserve(writer, sizeof(*record), &position);

	if (!record)
		return;
	record->block = block;
	commit(&record->header, position, kind, 0, sizeof(*record));
}

static inline void put_fail(struct writer *writer)
{
	uint64_t position;
	struct tm_record_header *header = reserve(writer, sizeof(*header), &position);

	if (header)
		commit(header, position, TM_RECORD_FAIL, 0, sizeof(*header));
}

/* ---- entries: the pads of arch/slot_pads.h call these ---- */

#define RAW_SLOTS 4u /* the raw table's come first */
#define FUNCTIONS 4u
#define REALLOC	  2u

/* The frame of the entry itself: deeper for a handler that interrupted one, shallower after a jump out. */
#define STACK_POINTER ((uint64_t)__builtin_frame_address(0))

void tm_slot_enter(uint64_t block, uint64_t slot);
uint64_t tm_slot_leave(uint64_t block, uint64_t size, uint64_t old, uint64_t slot);
void tm_slot_reference(uint64_t object);
void tm_told(uint64_t kind, uint64_t domain, uint64_t address, uint64_t size); /* for guard.c */

ENTRY void tm_slot_enter(uint64_t block, uint64_t slot)
{
	struct writer writer;

	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return;
	if (block == load(&control->last_block)) /* a raw block's thread need not hold the lock */
		store(&control->last_block, 0);
	forget_code(block);
	put_free(&writer, slot % FUNCTIONS == REALLOC ? TM_RECORD_RESIZE_BEGIN : TM_RECORD_FREE, block);
	end(&writer);
}

static inline void find_stack(struct writer *writer, bool raw, struct stack *stack)
{
	uint64_t state = own_state(writer->thread, raw);

	*stack = (struct stack){.known = state != 0};
	if (state)
		measure(stack, state);
}

/* The callers hold the interpreter's lock. */
static inline void remember_block(uint64_t block, uint64_t size, const struct stack *stack)
{
	control->last_size = size;
	control->last_code = stack->top.code;
	control->last_instruction = stack->top.instruction;
	control->last_total = stack->total;
	store(&control->last_block, stack->known ? block : 0);
}

ENTRY uint64_t tm_slot_leave(uint64_t block, uint64_t size, uint64_t old, uint64_t slot)
{
	struct writer writer;
	struct stack stack;

	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return block;
	if (!block && !old) {
		put_fail(&writer);
	} else {
		find_stack(&writer, slot < RAW_SLOTS, &stack);
		if (slot >= RAW_SLOTS)
			remember_block(block, size, &stack);
		put_block(&writer, old ? TM_RECORD_RESIZE_END : TM_RECORD_ALLOCATE, block, size, old, &stack);
	}
	end(&writer);
	return block;
}

/* An object stands at its block's beginning, or behind what CPython puts before it: 16 or 32 bytes. */
static inline bool is_in_last_block(uint64_t object, const struct stack *stack)
{
	uint64_t last = load(&control->last_block), before = object - last;

	return (before == 0 || before == 16 || before == 32) && before < control->last_size && last &&
	       stack->known && stack->top.code == control->last_code &&
	       stack->top.instruction == control->last_instruction && stack->total == control->last_total &&
	       python->nframe == 1;
}

ENTRY void tm_slot_reference(uint64_t object)
{
	struct writer writer;
	struct stack stack;

	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return;
	find_stack(&writer, false, &stack);
	if (!is_in_last_block(object, &stack))
		put_block(&writer, TM_RECORD_OBJECT, object, 0, 0, &stack);
	end(&writer);
}

static inline void put_untrack(struct writer *writer, uint64_t domain, uint64_t address)
{
	uint64_t position;
	struct tm_record_free *record = (struct tm_record_free *)reserve(writer, sizeof(*record), &position);

	if (!record)
		return;
	record->block = address;
	record->domain = domain;
	commit(&record->header, position, TM_RECORD_UNTRACK, 0, sizeof(*record));
}

/* TM_RECORD_TRACK or _UNTRACK. The thread need not hold the interpreter's lock. */
void tm_told(uint64_t kind, uint64_t domain, uint64_t address, uint64_t size)
{
	struct writer writer;
	struct stack stack;

	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return;
	if (kind == TM_RECORD_TRACK) {
		find_stack(&writer, true, &stack);
		put_block(&writer, TM_RECORD_TRACK, address, size, domain, &stack);
	} else {
		put_untrack(&writer, domain, address);
	}
	end(&writer);
}
