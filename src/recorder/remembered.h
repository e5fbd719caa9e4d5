/*
 * Stacks that a thread's calls were made from before. A program's allocations come in the same order again
 * and again: what stack followed which one tells mostly what stack this is. The guess is compared with the
 * memory, word by word: the return addresses (and saved frame pointers, where frames are found by them) that
 * were read when the stack was walked, at the places where they were found. If all are there, and the call
 * has the same return address at the same CFA, a walk by the same rows would read the same words and come to
 * the same frames: the stack is told by its number. Else it is walked, as every stack is that was not met
 * twice behind the same one. Part of native.c.
 *
 * A wrong guess costs a few loads. The words need not wait for each other, as those of a walk do.
 */
#ifndef TM_RECORDER_REMEMBERED_H
#define TM_RECORDER_REMEMBERED_H

#include "recorder/stack_walk.h"

#define HASH UINT64_C(0x9e3779b97f4a7c15)

/* Its upper bits are the good ones. */
static inline uint64_t hash_frame(uint64_t above, uint64_t pc, uint64_t cfa)
{
	return ((above ^ pc) * HASH + cfa) * HASH;
}

/* What came the last time behind the last stack; or behind the last two, where that is not enough. */
static inline struct tm_stack_guess *guess_for(struct tm_ring_frames *frames,
					       const struct tm_recorder_stack *stack, unsigned which,
					       uint64_t pc, uint64_t cfa)
{
	uint64_t last = which ? stack->last[0] ^ stack->last[1] * HASH : stack->last[0];

	_Static_assert(TM_GUESSES == 1u << 10, "so many bits of the hash");
	return &frames->guesses[which][hash_frame(last, pc, cfa) >> 54];
}

static inline void set_last(struct tm_recorder_stack *stack, uint64_t hash)
{
	stack->last[1] = stack->last[0];
	stack->last[0] = hash;
}

static inline struct tm_remembered_stack *stack_at(struct tm_ring_frames *frames, uint32_t place)
{
	return (struct tm_remembered_stack *)&frames->room[place];
}

/* ---- recalling ---- */

/* The same calls of operator new are going on, and no other. */
static inline bool has_same_news(const struct tm_remembered_stack *remembered,
				 const struct tm_recorder_stack *stack)
{
	if (remembered->new_count != stack->new_count)
		return false;
	for (uint32_t i = 0; i < remembered->new_count; i++) {
		const struct tm_recorder_call *call = &stack->news[i];

		if (remembered->news[i] != call->cfa || call->told || !has_return_address(call))
			return false;
	}
	return true;
}

static inline bool has_same_words(const struct tm_remembered_stack *remembered)
{
	const uint64_t *stack = (const uint64_t *)remembered->cfa, *word = remembered->words,
		       *end = word + remembered->count;
	const uint16_t *place = (const uint16_t *)end;

	_Static_assert(TM_REMEMBERED_STEP == 4, "as many at a time");
	for (; word < end; word += TM_REMEMBERED_STEP, place += TM_REMEMBERED_STEP) {
		uint64_t differs = (stack[place[0]] ^ word[0]) | (stack[place[1]] ^ word[1]) |
				   (stack[place[2]] ^ word[2]) | (stack[place[3]] ^ word[3]);

		if (__builtin_expect(differs != 0, 0))
			return false;
	}
	return true;
}

static inline bool is_same(const struct tm_remembered_stack *remembered,
			   const struct tm_recorder_stack *stack, uint64_t pc, uint64_t cfa, uint64_t fp)
{
	return remembered->pc == pc && remembered->cfa == cfa &&
	       !(remembered->fp_matters && remembered->fp != fp) && has_same_news(remembered, stack) &&
	       has_same_words(remembered);
}

/* The number of the stack of a call; 0: it is none that was guessed. Places of words are looked at only where
   the stack has the bounds that it had when they were found. */
static inline uint32_t recall(struct writer *writer, uint64_t cfa, uint64_t fp)
{
	struct tm_recorder_stack *stack = &writer->thread->stack;
	struct tm_ring_frames *frames = frames_of(writer);
	const struct tm_remembered_stack *remembered;
	uint64_t pc;

	check_known(writer);
	if (__builtin_expect(
		    cfa - 8 < stack->low || cfa > stack->high || frames->forgotten != stack->forgotten, 0))
		return 0;
	pc = word_at(cfa - 8);
	remembered = stack_at(frames, guess_for(frames, stack, 0, pc, cfa)->place);
	if (!is_same(remembered, stack, pc, cfa, fp)) {
		remembered = stack_at(frames, guess_for(frames, stack, 1, pc, cfa)->place);
		if (!is_same(remembered, stack, pc, cfa, fp))
			return 0;
	}
	set_last(stack, remembered->hash);
	return remembered->number;
}

/* ---- remembering ---- */

#define FIRST_PLACE (sizeof(struct tm_remembered_stack) / 8) /* at 0 stands none */

static SELDOM void forget_all(struct tm_ring_frames *frames, uint64_t forgotten)
{
	store(&frames->forgotten, 0); /* the thread may jump out of this */
	__asm__ volatile("" ::: "memory");
	frames->remembered = 0;
	for (uint32_t i = 0; frames->used && i < 2 * TM_GUESSES; i++)
		frames->guesses[i / TM_GUESSES][i % TM_GUESSES].place = 0;
	for (uint32_t i = 0; frames->used && i < TM_REMEMBERED_SETS * TM_REMEMBERED_WAYS; i++)
		frames->sets[i / TM_REMEMBERED_WAYS][i % TM_REMEMBERED_WAYS].place = 0;
	frames->used = FIRST_PLACE;
	store(&frames->forgotten, forgotten);
}

static inline struct tm_stack_guess *set_of(struct tm_ring_frames *frames, uint64_t hash)
{
	_Static_assert(TM_REMEMBERED_SETS == 1u << 10, "so many bits of the hash");
	return frames->sets[hash >> 54];
}

/* Where the stack with this hash is remembered; 0: it is not. */
static inline uint32_t find_place(struct tm_ring_frames *frames, uint64_t hash)
{
	const struct tm_stack_guess *set = set_of(frames, hash);

	for (uint32_t i = 0; i < TM_REMEMBERED_WAYS && set[i].place; i++)
		if (set[i].hash == hash >> 32 && stack_at(frames, set[i].place)->hash == hash)
			return set[i].place;
	return 0;
}

/* A word that must be the same the next time. False: it is none that can be kept. */
static inline bool put_word(struct tm_ring_frames *frames, struct tm_remembered_stack *remembered,
			    uint64_t address, uint64_t value)
{
	uint64_t distance = address - remembered->cfa;

	if (remembered->count == TM_REMEMBERED_WORDS || distance % 8 || distance / 8 > UINT16_MAX)
		return false;
	frames->places[remembered->count] = (uint16_t)(distance / 8);
	remembered->words[remembered->count++] = value;
	return true;
}

/* What the frames of operator new and the known frames have been found by. */
static inline bool put_words(struct tm_ring_frames *frames, struct tm_remembered_stack *remembered,
			     const struct tm_recorder_stack *stack)
{
	const struct tm_recorder_frame *known = frames->known;
	uint32_t outermost = tm_row_kind(known[1].rule) == TM_ROW_OUTERMOST ? 1 : 0;
	bool fits = true;

	remembered->count = 0;
	for (uint32_t i = stack->new_count; fits && i-- > 0;) {
		remembered->news[i] = stack->news[i].cfa;
		fits = put_word(frames, remembered, stack->news[i].cfa - 8, stack->news[i].return_address);
	}
	for (uint32_t i = stack->count; fits && i > outermost; i--) {
		const struct tm_recorder_frame *frame = &known[i];

		fits = put_word(frames, remembered, frame->cfa - 8, frame[-1].pc);
		if (fits && frame->rule & TM_FRAME_FP_RESTORED)
			fits = put_word(frames, remembered,
					frame->cfa + (uint64_t)tm_row_fp_offset(frame->rule), frame[-1].fp);
	}
	return fits;
}

/* Makes the number of words a multiple of the step, and puts their places behind them. */
static inline void put_places(const struct tm_ring_frames *frames, struct tm_remembered_stack *remembered)
{
	uint32_t count =
		(remembered->count + TM_REMEMBERED_STEP - 1) / TM_REMEMBERED_STEP * TM_REMEMBERED_STEP;
	uint16_t *places = (uint16_t *)(remembered->words + count);

	for (uint32_t i = 0; i < count; i++) { /* the last one more than once */
		uint32_t from = i < remembered->count ? i : remembered->count - 1u;

		remembered->words[i] = remembered->words[from];
		places[i] = frames->places[from];
	}
	remembered->count = (uint16_t)count;
}

/* Can a stack that was walked be remembered? Not where operator new has a frame pointer, which then is not
   the call's, or is going on on another stack. */
static inline bool is_worth(const struct tm_recorder_stack *stack, const struct walk *walk)
{
	return !walk->news_use_fp && stack->new_count == walk->new_count &&
	       walk->new_count <= TM_REMEMBERED_NEWS;
}

/* The stack that was walked, written down; nothing leads to it yet. NULL: it cannot be. */
static SELDOM struct tm_remembered_stack *remember(struct writer *writer, uint64_t hash, uint64_t cfa)
{
	const struct tm_recorder_stack *stack = &writer->thread->stack;
	struct tm_ring_frames *frames = frames_of(writer);
	const struct tm_recorder_frame *innermost = &frames->known[stack->count];
	struct tm_remembered_stack *remembered;
	bool is_full = frames->remembered == TM_REMEMBERED ||
		       frames->used + FIRST_PLACE + TM_REMEMBERED_WORDS * 5 / 4 > TM_REMEMBERED_ROOM;

	if (frames->forgotten != stack->forgotten || is_full)
		forget_all(frames, stack->forgotten);
	frames->crowded |= is_full;
	remembered = stack_at(frames, frames->used);
	remembered->hash = hash;
	remembered->pc = word_at(cfa - 8);
	remembered->cfa = cfa;
	remembered->fp = innermost->fp;
	remembered->fp_matters = (innermost->rule & TM_FRAME_FP_MATTERS) != 0;
	remembered->new_count = (uint8_t)stack->new_count;
	if (!put_words(frames, remembered, stack))
		return NULL;
	put_places(frames, remembered);
	remembered->number = (uint16_t)++frames->remembered;
	frames->used += (uint32_t)FIRST_PLACE + remembered->count + remembered->count / 4u;
	return remembered;
}

/* It can be recalled from now on: the tracer knows the number. */
static SELDOM void let_recall(struct tm_ring_frames *frames, const struct tm_remembered_stack *remembered,
			      struct tm_stack_guess *const guesses[2])
{
	struct tm_stack_guess *set = set_of(frames, remembered->hash);
	uint32_t way = 0;

	while (way < TM_REMEMBERED_WAYS && set[way].place)
		way++;
	guesses[0]->place = guesses[1]->place = (uint32_t)((const uint64_t *)remembered - frames->room);
	set[way < TM_REMEMBERED_WAYS ? way : remembered->number % TM_REMEMBERED_WAYS] = *guesses[0];
}

#endif
