/*
 * Records of CPython's allocator calls: what the pads of arch/slot_pads.h tell, with the newest Python frames
 * of the calling thread, read from the interpreter's own structures.
 */
#include "recorder/writer.h"

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

static inline void fill_frames(struct tm_record_block *record, const struct stack *stack)
{
	uint64_t address = stack->newest;

	if (stack->stored == 1)
		record->frames[0] = stack->top;
	for (uint32_t i = 0; stack->stored > 1 && i < stack->stored; i++)
		next_frame(&address, &record->frames[i]);
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
static SELDOM bool put_code(struct writer *writer, uint64_t code)
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
		tm_writer_wait_for_look(writer, &record->header, position + bytes);
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
