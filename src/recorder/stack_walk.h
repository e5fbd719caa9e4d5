/*
 * The calling thread's native stack: calls of an allocator that are going on, and the walk by the tracer's
 * rows up to the first frame that is where it was at the thread's last walk. Part of native.c, which says
 * why the walk is exact.
 */
#ifndef TM_RECORDER_STACK_WALK_H
#define TM_RECORDER_STACK_WALK_H

#include "recorder/writer.h"

/* ---- calls that are going on ---- */

/* The canonical frame address of the call that a pad's words belong to. */
static inline uint64_t cfa_of(const uint64_t *words)
{
	return (uint64_t)(words + TM_PAD_WORDS(words[0]) + 1);
}

static inline struct tm_recorder_call call_at(uint64_t cfa, uint64_t value, enum tm_told told)
{
	return (struct tm_recorder_call){cfa, word_at(cfa - 8), value, told};
}

/* Does the call stand on the thread's own stack, so that its return address can be read? */
static inline bool is_on_stack(const struct tm_recorder_stack *stack, const struct tm_recorder_call *call)
{
	return call->cfa - 8 >= stack->low && call->cfa <= stack->high;
}

static inline bool has_return_address(const struct tm_recorder_call *call)
{
	return word_at(call->cfa - 8) == call->return_address;
}

#define NEWS                                                                                                 \
	(sizeof(((struct tm_recorder_stack *)0)->news) / sizeof(((struct tm_recorder_stack *)0)->news[0]))

static inline uint32_t count_news(const struct tm_recorder_stack *stack)
{
	return stack->new_count <= NEWS ? stack->new_count : NEWS;
}

/* Is one of the calls of operator new that were seen going on above a frame? */
static inline bool is_in_new(const struct tm_recorder_stack *stack, uint64_t cfa)
{
	for (uint32_t i = count_news(stack); __builtin_expect(i-- > 0, 0);)
		if (stack->news[i].cfa > cfa && is_on_stack(stack, &stack->news[i]) &&
		    has_return_address(&stack->news[i]))
			return true;
	return false;
}

/* The call of operator new whose frame has this CFA; NULL: it is another function's. */
static inline const struct tm_recorder_call *find_new(const struct tm_recorder_stack *stack, uint64_t cfa)
{
	for (uint32_t i = count_news(stack); __builtin_expect(i-- > 0, 0);)
		if (stack->news[i].cfa == cfa && word_at(cfa - 8) == stack->news[i].return_address)
			return &stack->news[i];
	return NULL;
}

/* ---- the walk ---- */

static inline struct tm_ring_frames *frames_of(const struct writer *writer)
{
	return (struct tm_ring_frames *)writer->thread->frames;
}

/* The address is looked at twice, for the tracer may put another row in the place. */
static inline uint64_t find_in_set(const struct tm_recorder_row set[TM_ROW_WAYS], uint64_t return_address)
{
	for (unsigned i = 0; i < TM_ROW_WAYS; i++) {
		uint64_t rule;

		if (__builtin_expect(load(&set[i].return_address) != return_address, 0))
			continue;
		rule = load(&set[i].rule);
		return load(&set[i].return_address) == return_address ? rule : 0;
	}
	return 0;
}

/* The rule for a return address; 0: there is none yet. */
static inline uint64_t find_rule(uint64_t return_address)
{
	const struct tm_shared *shared = shared_words();
	uint64_t rule = find_in_set(shared->near_rows[tm_row_near_set(return_address)], return_address);

	return __builtin_expect(rule != 0, 1)
		       ? rule
		       : find_in_set(shared->far_rows[tm_row_far_set(return_address)], return_address);
}

struct walk {
	uint64_t pc, sp, fp; /* of the frame to be passed next */
	uint64_t high;	     /* end of the stack */
	uint32_t kept, fresh;
	const struct tm_recorder_call
		*wrapper; /* the outermost operator new that made the call; NULL: none */
	uint64_t wrapper_pc;
	uint32_t new_count; /* calls of operator new that made the call, */
	uint32_t news;	    /* a bit for each */
	bool news_use_fp;   /* frames of operator new that made the call are found by the frame pointer, or
			       change it */
};

enum walked {
	WALKED,
	INNER,	 /* the call was made by another call of an allocator */
	MISSING, /* a row is missing */
	LOOK,	 /* the tracer has to walk */
};

static inline bool has_fp_of(const struct tm_recorder_frame *frame, const struct tm_recorder_frame *above)
{
	return word_at(frame->cfa + (uint64_t)tm_row_fp_offset(frame->rule)) == above->fp;
}

/* NULL: all frames from this one up are where they were; else the first that leads elsewhere now. The end of
   the stack (known[0]) has the pc 0, which is what the outermost frame returns to where no row says that it
   is one. */
static inline const struct tm_recorder_frame *find_broken(const struct tm_recorder_frame *known,
							  const struct tm_recorder_frame *frame)
{
	const struct tm_recorder_frame *outermost =
		known + (tm_row_kind(known[1].rule) == TM_ROW_OUTERMOST ? 1 : 0);

	for (; frame > outermost; frame--)
		if (word_at(frame->cfa - 8) != frame[-1].pc ||
		    __builtin_expect((frame->rule & TM_FRAME_FP_RESTORED) && !has_fp_of(frame, &frame[-1]),
				     0))
			return frame;
	return NULL;
}

/* Is this frame among the known ones, and all above it? *candidates: those that may be. */
static inline bool is_known(struct tm_ring_frames *frames, const struct tm_recorder_frame *frame,
			    uint32_t *candidates)
{
	const struct tm_recorder_frame *known = frames->known, *broken;
	uint32_t at = *candidates;

	while (known[at].cfa < frame->cfa) /* known[0] has the highest of all */
		at--;
	*candidates = at;
	if (!at || known[at].cfa != frame->cfa || known[at].pc != frame->pc ||
	    ((known[at].rule & TM_FRAME_FP_MATTERS) && known[at].fp != frame->fp))
		return false;
	broken = find_broken(known, &known[at]);
	if (__builtin_expect(!broken, 1))
		return true;
	*candidates = (uint32_t)(broken - known) - 1;
	return false;
}

/* A frame record is what the unwinder takes for one (unwind.c, read_record). That the chain of them comes to
   known code in the end is seen as it is walked. */
static inline bool may_be_record(const struct walk *walk)
{
	return walk->fp % 8 == 0 && walk->fp - walk->sp <= TM_ROW_RECORD_MAX && word_at(walk->fp + 8);
}

/* The frame at walk->pc by its row; goes on to its caller. */
static inline enum walked pass(struct walk *walk, struct tm_recorder_frame *frame)
{
	uint64_t rule = find_rule(walk->pc), cfa;

	if (__builtin_expect(!rule, 0))
		return MISSING;
	if (__builtin_expect((rule & TM_ROW_BY_FP) && !walk->fp, 0)) /* ld.so's _start (unwind.c) */
		rule = tm_row_rule(TM_ROW_OUTERMOST, TM_ROW_CFA_FROM_FP | (rule & TM_ROW_IN_CALL), 0, 0);
	*frame = (struct tm_recorder_frame){walk->pc, UINT64_MAX - 1, walk->fp, rule};
	if (tm_row_kind(rule) == TM_ROW_OUTERMOST) {
		walk->pc = 0;
		return WALKED;
	}
	cfa = (rule & TM_ROW_CFA_FROM_FP ? walk->fp : walk->sp) + (uint64_t)tm_row_cfa_offset(rule);
	if (__builtin_expect(tm_row_kind(rule) != TM_ROW_STEP || cfa <= walk->sp || cfa > walk->high, 0))
		return LOOK;
	if (rule & TM_ROW_FP_SAVED) {
		uint64_t place = cfa + (uint64_t)tm_row_fp_offset(rule);

		if (__builtin_expect(place < walk->sp || place > walk->high - 8, 0))
			return LOOK;
		if (__builtin_expect((rule & TM_ROW_BY_FP) && !may_be_record(walk), 0))
			return LOOK;
		walk->fp = word_at(place);
	}
	frame->cfa = cfa;
	walk->sp = cfa;
	walk->pc = word_at(cfa - 8);
	return WALKED;
}

/* Frames of operator new that made the call own no line. */
static inline enum walked pass_wrappers(struct walk *walk, const struct tm_recorder_stack *stack,
					struct tm_recorder_frame *frame)
{
	for (;;) {
		enum walked walked = pass(walk, frame);
		const struct tm_recorder_call *wrapper =
			walked == WALKED ? find_new(stack, frame->cfa) : NULL;

		if (!wrapper)
			return walked;
		if (wrapper->told)
			return INNER;
		walk->wrapper = wrapper;
		walk->wrapper_pc = frame->pc;
		walk->news |= 1u << (wrapper - stack->news);
		walk->new_count++;
		if (frame->rule & (TM_ROW_CFA_FROM_FP | TM_ROW_FP_SAVED))
			walk->news_use_fp = true;
		if (!walk->pc)
			return LOOK;
	}
}

static inline enum walked climb(struct walk *walk, const struct tm_recorder_stack *stack,
				struct tm_ring_frames *frames)
{
	struct tm_recorder_frame *frame = frames->walked;
	uint32_t candidates = stack->count;
	enum walked walked = pass_wrappers(walk, stack, frame);

	walk->kept = walk->fresh = 0;
	for (; walked == WALKED; walked = pass(walk, frame)) {
		if (__builtin_expect((frame->rule & TM_ROW_IN_CALL) ||
					     (walk->fresh && find_new(stack, frame->cfa)),
				     0))
			return INNER;
		if (is_known(frames, frame, &candidates)) {
			walk->kept = candidates;
			return WALKED;
		}
		if (++walk->fresh + candidates > TM_FRAMES_MAX)
			return LOOK;
		frame++;
		if (!walk->pc)
			return WALKED;
	}
	return walked;
}

/* Frames of another stack, or of code that may have been replaced, are not known any more. */
static inline void check_known(struct writer *writer)
{
	struct tm_recorder_stack *stack = &writer->thread->stack;
	const struct tm_ring_head *ring = writer->ring;
	uint64_t generation = load(&shared_words()->generation);
	uint64_t high = load(&ring->stack_high), low = load(&ring->stack_low);

	if (__builtin_expect(stack->low == low && stack->high == high && stack->generation == generation, 1))
		return;
	if (load(&ring->stack_high) != high)
		low = high = 0; /* they change at this moment: a look */
	stack->low = low;
	stack->high = high;
	stack->generation = generation;
	tm_writer_forget_frames(stack);
}

/* The stack of a call whose pad has these words, from the frame that made it up. */
static inline enum walked walk_stack(struct writer *writer, struct walk *walk, const uint64_t *words,
				     uint64_t fp)
{
	const struct tm_recorder_stack *stack = &writer->thread->stack;
	struct tm_ring_frames *frames = frames_of(writer);
	uint64_t cfa = cfa_of(words);

	check_known(writer);
	if (__builtin_expect(cfa - 8 < stack->low || cfa > stack->high, 0))
		return stack->high ? LOOK : MISSING;
	frames->known[0].cfa = UINT64_MAX;
	*walk = (struct walk){.pc = word_at(cfa - 8), .sp = cfa, .fp = fp, .high = stack->high};
	return climb(walk, stack, frames);
}

#endif
