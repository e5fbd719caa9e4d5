/*
 * Records of native allocator calls: what the pads of arch/record_pad.h tell, with the calling thread's
 * stack.
 *
 * The stack is not copied. The tracer turns the CFI of each return address that it comes to see into a row of
 * a shared table, and the recorder walks by these rows, up to the first frame that is as it was at the
 * thread's last record: same return address, same CFA, and all return addresses above it where they were.
 * Only the frames below it are recorded, mostly none to four. Where a row is missing, or tells that CFI can
 * do what a row cannot, the thread waits and the tracer looks at its stack.
 *
 * A frame that is found so is the one that the tracer would find: what a row reads are return addresses and
 * saved frame pointers, and those that a frame depends on are compared, all the way to the outermost. Every
 * word that is read lies between the stack pointer and the upper end of the thread's own stack, so that no
 * CFI can lead the recorder to memory that is not there.
 */
#include "recorder/writer.h"

/* ---- entries ---- */

/*
 * A pad calls an entry with the stack as in the pictures, and expects that no register has changed but rax,
 *if that is no result. The recorder is C: the registers that it may change are kept here.
 *
 *	resize, leave:	rsp -> | back to the pad | what | arguments ... | return address of the call |
 *	others:		rsp -> | back to the pad | return address of the call |
 *
 * The stack is aligned for a call where TM_PAD_WORDS is odd (psABI 3.2.2).
 */
#define PUSH(reg) "	push %" reg "\n	.cfi_adjust_cfa_offset 8\n"
#define POP(reg)  "	pop %" reg "\n	.cfi_adjust_cfa_offset -8\n"
#define KEEP                                                                                                 \
	PUSH("rdi")                                                                                          \
	PUSH("rsi") PUSH("rdx") PUSH("rcx") PUSH("r8") PUSH("r9") PUSH("r10") PUSH("r11") PUSH("rax")
#define TAKE_BACK                                                                                            \
	POP("rax") POP("r11") POP("r10") POP("r9") POP("r8") POP("rcx") POP("rdx") POP("rsi") POP("rdi")
#define KEPT	  "72"
#define MAKE_WORD "	sub $8, %rsp\n	.cfi_adjust_cfa_offset 8\n"
#define DROP_WORD "	add $8, %rsp\n	.cfi_adjust_cfa_offset -8\n"
#define BEGIN(name)                                                                                          \
	"	.globl " name "\n	.type " name ", @function\n" name ":\n	.cfi_startproc\n"             \
	"	cmpl $0, tm_recorder_control+16(%rip)\n" /* enabled */                                       \
	"	jne 1f\n	ret\n1:\n"
#define END "	ret\n	.cfi_endproc\n"

_Static_assert(offsetof(struct tm_control, enabled) == 16, "the entries look at it");

__asm__(".pushsection .text\n"
	/* Before a call: rdi is its first argument; its CFA is two words above ours. */
	BEGIN("tm_native_free_entry") KEEP MAKE_WORD
	"	lea " KEPT "+24(%rsp), %rsi\n"
	"	call tm_native_free\n" DROP_WORD TAKE_BACK END BEGIN("tm_native_new_entry") KEEP MAKE_WORD
	"	lea " KEPT "+24(%rsp), %rsi\n"
	"	call tm_native_new\n" DROP_WORD TAKE_BACK END BEGIN("tm_native_loader_entry") KEEP MAKE_WORD
	"	call tm_native_loader\n" DROP_WORD TAKE_BACK END BEGIN("tm_native_resize_entry") KEEP
	"	lea " KEPT "+8(%rsp), %rdi\n"
	"	call tm_native_resize\n" TAKE_BACK END
		/* Where the tracer has to look, the registers that the call and the recorder have kept are
		   given to it. */
			BEGIN("tm_native_leave_entry") KEEP
	"	mov %rax, %rdi\n	lea " KEPT "+8(%rsp), %rsi\n"
	"	mov %rbp, %rdx\n"
	"	call tm_native_leave\n"
	"	test %al, %al\n	jnz 2f\n" PUSH("r15") PUSH("r14") PUSH("r13") PUSH("r12") PUSH("rbx")
		PUSH("rbp") "	mov 48(%rsp), %rdi\n	lea 48+" KEPT "+8(%rsp), %rsi\n	mov %rsp, %rdx\n"
			    "	call tm_native_leave_looked_at\n"
			    "	add $48, %rsp\n	.cfi_adjust_cfa_offset -48\n"
			    "2:\n" TAKE_BACK END ".popsection\n");

/* What the last entry pushes, from the stack pointer up. */
struct kept_registers {
	uint64_t rbp, rbx, r12, r13, r14, r15;
};

void tm_native_free(uint64_t block, uint64_t cfa);
void tm_native_new(uint64_t size, uint64_t cfa);
void tm_native_loader(void);
void tm_native_resize(const uint64_t *words);
bool tm_native_leave(uint64_t result, const uint64_t *words, uint64_t fp);
void tm_native_leave_looked_at(uint64_t result, const uint64_t *words, const struct kept_registers *kept);

/* ---- records of a block ---- */

static inline void put_block_word(struct writer *writer, unsigned kind, unsigned flags, uint64_t block)
{
	uint64_t position;
	struct tm_record_free *record = (struct tm_record_free *)reserve(writer, sizeof(*record), &position);

	if (!record)
		return;
	record->block = block;
	commit(&record->header, position, kind, flags, sizeof(*record));
}

/* ---- calls that are going on ---- */

static inline struct tm_recorder_call call_at(uint64_t cfa, uint64_t value)
{
	return (struct tm_recorder_call){cfa, word_at(cfa - 8), value, 0};
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

/* A resize that a jump has left. Where the stack is another one it cannot be told, and is left for later. */
static inline void drop_left_resize(struct writer *writer, uint64_t cfa)
{
	struct tm_recorder_stack *stack = &writer->thread->stack;
	const struct tm_recorder_call *resize = &stack->resize;

	if (__builtin_expect(!resize->cfa, 1) ||
	    (resize->cfa > cfa && (!is_on_stack(stack, resize) || has_return_address(resize))))
		return;
	stack->resize.cfa = 0;
	put_block_word(writer, TM_RECORD_NATIVE_RESIZE_LEFT, 0, resize->value);
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

/* ---- the sample ---- */

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled". */
static uint64_t next_random(struct tm_recorder_thread *thread)
{
	uint64_t x = thread->random ? thread->random : time_stamp() ^ thread->thread_pointer << 16 ^ 1;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	thread->random = x;
	return x * UINT64_C(0x2545f4914f6cdd1d);
}

#define FRACTION_BITS 24u
#define LN2	      UINT64_C(11629080) /* ln 2, with as many bits of fraction */

/* -log2(u / 2^64), with FRACTION_BITS bits of fraction, bit by bit: squaring doubles a logarithm. */
static uint64_t negative_log2(uint64_t u)
{
	unsigned zeros = (unsigned)__builtin_clzll(u | 1);
	uint64_t mantissa = (u | 1) << zeros, fraction = 0; /* in [2^63, 2^64): 1 to 2 */

	for (unsigned i = 0; i < FRACTION_BITS; i++) {
		unsigned __int128 square = (unsigned __int128)mantissa * mantissa;
		bool carries = square >> 127;

		mantissa = (uint64_t)(square >> (carries ? 64 : 63));
		fraction = fraction << 1 | carries;
	}
	return ((uint64_t)(zeros + 1) << FRACTION_BITS) - fraction;
}

/* Bytes to the next point of the process: exponentially distributed. */
static __attribute__((noinline, cold)) void draw_interval(struct tm_recorder_thread *thread)
{
	unsigned __int128 nats = (unsigned __int128)negative_log2(next_random(thread)) * LN2;
	uint64_t bytes = (uint64_t)(nats * control->sample >> 2 * FRACTION_BITS);

	thread->sample_left = (int64_t)(bytes >> 62 ? INT64_MAX / 2 : bytes) + 1;
}

/* Does a point of the process lie in the call's bytes? What comes behind it does not depend on how far behind
   it the call ends. */
static inline bool is_in_sample(struct tm_recorder_thread *thread, uint64_t size)
{
	if (__builtin_expect(!thread->random, 0))
		draw_interval(thread);
	size = size ? size : 1;
	if (__builtin_expect(size < (uint64_t)thread->sample_left, 1)) {
		thread->sample_left -= (int64_t)size;
		return false;
	}
	draw_interval(thread);
	return true;
}

static inline bool replace_way(uint64_t *way, uint64_t present, uint64_t by)
{
	return __atomic_compare_exchange_n(way, &present, by, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static void remember_sampled(uint64_t block)
{
	struct tm_sampled_set *set = &control->sampled[tm_sampled_set(block)];

	for (unsigned i = 0; i < TM_SAMPLED_WAYS; i++)
		if (load(&set->blocks[i]) == block)
			return;
	for (unsigned i = 0; i < TM_SAMPLED_WAYS; i++)
		if (replace_way(&set->blocks[i], 0, block))
			return;
	store(&set->overflowed, 1);
}

/* Was the block in the sample, or may it have been? It is given back, and so is forgotten. */
static inline bool take_sampled(uint64_t block)
{
	struct tm_sampled_set *set = &control->sampled[tm_sampled_set(block)];

	for (unsigned i = 0; i < TM_SAMPLED_WAYS; i++)
		if (__builtin_expect(load(&set->blocks[i]) == block, 0) &&
		    replace_way(&set->blocks[i], block, 0))
			return true;
	return __builtin_expect(load(&set->overflowed) != 0, 0);
}

/* ---- before a call ---- */

/* Called by another function of an allocator, which is told by itself? Then it concerns known blocks only, as
   a free that stands where nothing but the last one can have called it. */
static inline bool is_nested_free(const struct tm_recorder_stack *stack, uint64_t block, uint64_t cfa)
{
	return stack->resize.cfa || is_in_new(stack, cfa) ||
	       (block == stack->freed && cfa <= stack->freed_cfa);
}

ENTRY void tm_native_free(uint64_t block, uint64_t cfa)
{
	struct tm_recorder_stack *stack;
	struct writer writer;
	bool nested;

	if (control->sample && !take_sampled(block))
		return;
	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return;
	stack = &writer.thread->stack;
	drop_left_resize(&writer, cfa);
	nested = is_nested_free(stack, block, cfa);
	stack->freed = block;
	stack->freed_cfa = cfa;
	put_block_word(&writer, TM_RECORD_NATIVE_FREE, nested ? TM_RECORD_NESTED : 0, block);
	end(&writer);
}

/* operator new is not called through, for an exception may pass it: whether it is going on the walk of the
   call of malloc tells that it makes. */
ENTRY void tm_native_new(uint64_t size, uint64_t cfa)
{
	struct tm_recorder_stack *stack;
	struct writer writer;
	uint32_t count;

	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return;
	stack = &writer.thread->stack;
	count = count_news(stack);
	while (count && stack->news[count - 1].cfa <= cfa)
		count--;
	if (count == NEWS) { /* the oldest is over, or will be taken for what malloc was asked for */
		for (count = 1; count < NEWS; count++)
			stack->news[count - 1] = stack->news[count];
		count--;
	}
	stack->news[count] = call_at(cfa, size);
	stack->new_count = count + 1;
	end(&writer);
}

/* The call of operator new whose frame has this CFA; NULL: it is another function's. */
static inline const struct tm_recorder_call *find_new(const struct tm_recorder_stack *stack, uint64_t cfa)
{
	for (uint32_t i = count_news(stack); __builtin_expect(i-- > 0, 0);)
		if (stack->news[i].cfa == cfa && word_at(cfa - 8) == stack->news[i].return_address)
			return &stack->news[i];
	return NULL;
}

ENTRY void tm_native_loader(void)
{
	struct tm_record_header *header;
	struct writer writer;
	uint64_t position;

	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return;
	do
		header = reserve(&writer, sizeof(*header), &position);
	while (header && is_overtaken(&writer, header, position, sizeof(*header)));
	if (header) {
		commit(header, position, TM_RECORD_LOADER, TM_RECORD_LOOK, sizeof(*header));
		tm_writer_wait_for_look(&writer, position + sizeof(*header));
	}
	end(&writer);
}

/* The canonical frame address of the call that a pad's words belong to. */
static inline uint64_t cfa_of(const uint64_t *words)
{
	return (uint64_t)(words + TM_PAD_WORDS(words[0]) + 1);
}

ENTRY void tm_native_resize(const uint64_t *words)
{
	struct tm_recorder_stack *stack;
	uint64_t old = words[1], cfa = cfa_of(words);
	struct writer writer;

	if (!old || (control->sample && !take_sampled(old)) ||
	    !__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return;
	stack = &writer.thread->stack;
	drop_left_resize(&writer, cfa);
	if (!stack->resize.cfa) {
		stack->resize.return_address = word_at(cfa - 8);
		stack->resize.value = old;
		stack->resize.stops = 0;
		store(&stack->resize.cfa,
		      cfa); /* last: a signal handler looks at the others where it is there */
	}
	put_block_word(&writer, TM_RECORD_NATIVE_RESIZE_BEGIN, 0, old);
	end(&writer);
}

/* ---- the walk ---- */

static inline struct tm_ring_frames *frames_of(const struct writer *writer)
{
	return (struct tm_ring_frames *)(control->shared + TM_SHARED_FRAMES) +
	       (writer->thread - control->threads);
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

/* The frame at walk->pc by its row; goes on to its caller. */
static inline enum walked pass(struct walk *walk, struct tm_recorder_frame *frame)
{
	uint64_t rule = find_rule(walk->pc), cfa;

	if (__builtin_expect(!rule, 0))
		return MISSING;
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
		if (wrapper->stops)
			return INNER;
		walk->wrapper = wrapper;
		walk->wrapper_pc = frame->pc;
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

	if (__builtin_expect(stack->low == ring->stack_low && stack->high == ring->stack_high &&
				     stack->generation == generation,
			     1))
		return;
	stack->low = ring->stack_low;
	stack->high = ring->stack_high;
	stack->generation = generation;
	stack->count = 0;
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

/* ---- records behind a call ---- */

/* What was recorded is what the thread's next walk may rely on: of the frames that were walked those from
   `first` on. */
static inline void keep_walked(struct writer *writer, const struct walk *walk, uint32_t first)
{
	struct tm_ring_frames *frames = frames_of(writer);
	struct tm_recorder_frame *frame = &frames->known[walk->kept];

	for (uint32_t i = walk->fresh; i-- > first;) {
		uint64_t rule = frames->walked[i].rule, above = frame->rule & TM_FRAME_FP_MATTERS;

		*++frame = frames->walked[i];
		if ((rule & TM_ROW_CFA_FROM_FP) || (above && !(rule & TM_ROW_FP_SAVED)))
			frame->rule |= TM_FRAME_FP_MATTERS;
		if (above && (rule & TM_ROW_FP_SAVED))
			frame->rule |= TM_FRAME_FP_RESTORED;
	}
	writer->thread->stack.count = walk->kept + walk->fresh - first;
}

/* A call that has returned. */
struct returned {
	const uint64_t *words;
	uint64_t block, size, old;
	unsigned kind;
};

static inline void read_call(struct returned *call, const uint64_t *words, uint64_t result)
{
	uint64_t what = words[0];
	const uint64_t *arguments = what & TM_PAD_RESIZES ? words + 2 : words + 1;

	call->words = words;
	call->old = what & TM_PAD_RESIZES ? words[1] : 0;
	call->block = result;
	call->size = arguments[0];
	if (what & TM_PAD_COUNTED && __builtin_mul_overflow(arguments[0], arguments[1], &call->size))
		call->size = UINT64_MAX; /* such a call fails */
	if (what & TM_PAD_OUT)
		call->block = (uint32_t)result ? 0 : word_at(arguments[1]);
	call->kind = call->old	   ? TM_RECORD_NATIVE_RESIZE_END
		     : call->block ? TM_RECORD_NATIVE_ALLOCATE
				   : TM_RECORD_NATIVE_FAIL;
}

static inline struct tm_record_native *put_call(struct writer *writer, const struct returned *call,
						unsigned words, uint64_t *position, uint64_t *bytes)
{
	struct tm_record_native *record;

	*bytes = rounded(sizeof(*record) + words * sizeof(uint64_t));
	record = (struct tm_record_native *)reserve(writer, *bytes, position);
	if (!record)
		return NULL;
	record->block = call->block;
	record->size = call->size;
	record->old = call->old;
	record->function = TM_PAD_FUNCTION(call->words[0]);
	return record;
}

/* A record with the walked frames from `first` on. */
static inline void put_frames(struct writer *writer, const struct returned *call, unsigned kind,
			      const struct walk *walk, uint32_t first)
{
	const struct tm_recorder_frame *walked = frames_of(writer)->walked;
	uint32_t count = walk->fresh - first;
	uint64_t position, bytes;
	struct tm_record_native *record = put_call(writer, call, count, &position, &bytes);

	if (!record)
		return;
	record->kept = (uint16_t)walk->kept;
	record->fresh = (uint16_t)count;
	for (uint32_t i = 0; i < count; i++)
		record->words[i] = walked[first + i].pc;
	keep_walked(writer, walk, first);
	commit(&record->header, position, kind, 0, bytes);
}

/* What does not fit into the call's own record goes before it, from the outermost frame on. */
static __attribute__((noinline, cold)) void put_outer_frames(struct writer *writer,
							     const struct returned *call, struct walk *walk)
{
	while (walk->fresh > TM_FRESH_MAX) {
		put_frames(writer, call, TM_RECORD_NATIVE_FRAMES, walk, walk->fresh - TM_FRESH_MAX);
		walk->kept += TM_FRESH_MAX;
		walk->fresh -= TM_FRESH_MAX;
	}
}

static inline void put_walked(struct writer *writer, const struct returned *call, struct walk *walk)
{
	if (__builtin_expect(walk->fresh > TM_FRESH_MAX, 0))
		put_outer_frames(writer, call, walk);
	put_frames(writer, call, call->kind, walk, 0);
}

/* The call is over, whatever it was. */
static inline void note_return(struct writer *writer, const uint64_t *words)
{
	struct tm_recorder_stack *stack = &writer->thread->stack;

	stack->freed = 0; /* what is freed from now on is freed by another call */
	if (words[0] & TM_PAD_RESIZES && stack->resize.cfa == cfa_of(words))
		stack->resize.cfa = 0;
	drop_left_resize(writer, cfa_of(words));
}

/* A handler that interrupted the recorder must not touch what that is at work on. */
static inline bool is_interrupting(const struct writer *writer)
{
	return writer->thread->inside != writer->sp;
}

/* With a block operator new returns, and those that it was called by. */
static inline void take_new(struct tm_recorder_stack *stack, struct returned *call, const struct walk *walk)
{
	call->size = walk->wrapper->value;
	call->old = walk->wrapper_pc;
	if (call->block)
		stack->new_count = (uint32_t)(walk->wrapper - stack->news);
}

static inline void put_outcome(struct writer *writer, struct returned *call, enum walked walked,
			       struct walk *walk)
{
	if (walked == INNER) {
		if (call->old)
			put_block_word(writer, TM_RECORD_NATIVE_RESIZE_LEFT, 0, call->old);
	} else {
		if (walk->wrapper)
			take_new(&writer->thread->stack, call, walk);
		put_walked(writer, call, walk);
	}
	note_return(writer, call->words);
}

/* Its beginning was recorded, so its end must be. */
static __attribute__((noinline, cold)) void end_unsampled_resize(const struct returned *call)
{
	struct writer writer;

	if (!begin(&writer, STACK_POINTER))
		return;
	put_block_word(&writer, TM_RECORD_NATIVE_RESIZE_GONE, 0, call->old);
	note_return(&writer, call->words);
	end(&writer);
}

/* Of a call that has returned a block, or nothing: is it told? */
static inline bool is_told(struct tm_recorder_thread *thread, const struct returned *call)
{
	bool begun = thread->stack.resize.cfa == cfa_of(call->words);

	if (!call->block) { /* every failure is; the old block is what it was */
		if (begun)
			remember_sampled(call->old);
		return true;
	}
	if (is_in_sample(thread, call->size)) {
		remember_sampled(call->block);
		return true;
	}
	if (begun)
		end_unsampled_resize(call);
	return false;
}

/* False: nothing is recorded yet, for the tracer has to look. */
ENTRY bool tm_native_leave(uint64_t result, const uint64_t *words, uint64_t fp)
{
	enum walked walked = LOOK;
	struct returned call;
	struct writer writer;
	struct walk walk;

	read_call(&call, words, result);
	if (control->sample) {
		struct tm_recorder_thread *thread = find_thread(thread_pointer());

		if (!thread || !is_told(thread, &call))
			return true;
	}
	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return true;
	if (__builtin_expect(!is_interrupting(&writer), 1))
		walked = walk_stack(&writer, &walk, words, fp);
	if (__builtin_expect(walked == WALKED || walked == INNER, 1))
		put_outcome(&writer, &call, walked, &walk);
	end(&writer);
	return walked == WALKED || walked == INNER;
}

static void fill_registers(struct tm_record_native *record, const struct kept_registers *kept, uint64_t cfa)
{
	record->kept = 0;
	record->fresh = TM_RECORD_REGISTERS;
	record->words[TM_RECORD_PC] = word_at(cfa - 8);
	record->words[TM_RECORD_SP] = cfa;
	record->words[TM_RECORD_RBP] = kept->rbp;
	record->words[TM_RECORD_RBX] = kept->rbx;
	record->words[TM_RECORD_R12] = kept->r12;
	record->words[TM_RECORD_R13] = kept->r13;
	record->words[TM_RECORD_R14] = kept->r14;
	record->words[TM_RECORD_R15] = kept->r15;
}

/* The tracer gets the caller's registers, and looks while the thread waits. */
static void put_registers(struct writer *writer, const struct returned *call, unsigned kind,
			  const struct kept_registers *kept)
{
	uint64_t position, bytes, cfa = cfa_of(call->words);
	struct tm_record_native *record;

	do {
		record = put_call(writer, call, TM_RECORD_REGISTERS, &position, &bytes);
		if (!record)
			return;
		fill_registers(record, kept, cfa);
	} while (is_overtaken(writer, &record->header, position, bytes));
	commit(&record->header, position, kind, TM_RECORD_LOOK | TM_RECORD_NO_FRAMES, bytes);
	tm_writer_wait_for_look(writer, position + bytes);
}

/* The same for a call whose stack the recorder could not walk: where rows were missing it tries once more
   when the tracer has provided them. */
ENTRY void tm_native_leave_looked_at(uint64_t result, const uint64_t *words,
				     const struct kept_registers *kept)
{
	enum walked walked = LOOK;
	struct returned call;
	struct writer writer;
	struct walk walk;

	if (!begin(&writer, STACK_POINTER))
		return;
	read_call(&call, words, result);
	if (!is_interrupting(&writer))
		walked = walk_stack(&writer, &walk, words, kept->rbp);
	if (walked == MISSING) {
		put_registers(&writer, &call, TM_RECORD_NATIVE_STACK, kept);
		walked = walk_stack(&writer, &walk, words, kept->rbp);
	}
	if (walked == WALKED || walked == INNER) {
		put_outcome(&writer, &call, walked, &walk);
	} else {
		put_registers(&writer, &call, call.kind, kept);
		note_return(&writer, words);
	}
	end(&writer);
}
