/*
 * Records of native allocator calls: what the pads of arch/record_pad.h tell, with the calling thread's
 * stack.
 *
 * The stack is not copied. Most are the one that was guessed, and are told by their number (remembered.h).
 * The others are walked: the tracer turns the CFI of each return address that it comes to see into a row of a
 * shared table, and the recorder goes by these rows, up to the first frame that is as it was at the thread's
 * last walk: same return address, same CFA, and all return addresses above it where they were. Only the
 * frames below it are recorded, mostly none to four. Where a row is missing, or tells that CFI can
 * do what a row cannot, the thread waits and the tracer looks at its stack.
 *
 * A frame that is found so is the one that the tracer would find: what a row reads are return addresses and
 * saved frame pointers, and those that a frame depends on are compared, all the way to the outermost. Every
 * word that is read lies between the stack pointer and the upper end of the thread's own stack, so that no
 * CFI can lead the recorder to memory that is not there.
 */
#include "recorder/native.h"
#include "recorder/remembered.h"
#include "recorder/sample.h"
#include "recorder/stack_walk.h"
#include "recorder/writer.h"

/* ---- entries ---- */

/*
 * A pad calls an entry with the stack as in the pictures, and expects that no register has changed but rax,
 * if that is no result. The recorder is C: the registers that it may change are kept here.
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
	"	call tm_native_new\n" DROP_WORD TAKE_BACK END BEGIN("tm_native_new_ends_entry") KEEP MAKE_WORD
	"	lea " KEPT "+24(%rsp), %rsi\n"
	"	call tm_native_new_ends\n" DROP_WORD TAKE_BACK END BEGIN("tm_native_loader_entry")
		KEEP MAKE_WORD
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

/* ---- before a call ---- */

static __attribute__((noinline)) void drop_left_resize(struct writer writer, uint64_t cfa)
{
	struct tm_recorder_stack *stack = &writer.thread->stack;
	const struct tm_recorder_call *resize = &stack->resize;

	if (resize->cfa > cfa && (!is_on_stack(stack, resize) || has_return_address(resize)))
		return;
	stack->resize.cfa = 0;
	put_block_word(&writer, TM_RECORD_NATIVE_RESIZE_LEFT, 0, resize->value);
}

/* Has a jump left a resize? Where the stack is another one it cannot be told, and is left for later. */
static inline void check_resize(const struct writer *writer, uint64_t cfa)
{
	if (__builtin_expect(writer->thread->stack.resize.cfa != 0, 0))
		drop_left_resize(*writer, cfa);
}

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
	check_resize(&writer, cfa);
	nested = is_nested_free(stack, block, cfa);
	stack->freed = block;
	stack->freed_cfa = cfa;
	put_block_word(&writer, TM_RECORD_NATIVE_FREE, nested ? TM_RECORD_NESTED : 0, block);
	end(&writer);
}

/* A function that stops goes on by jumping to this one: the tracer will see the end. */
static inline bool has_stopped(const struct tm_recorder_stack *stack, uint64_t cfa)
{
	const struct tm_recorder_call *call = find_new(stack, cfa);

	return call && call->told == TM_TOLD_BY_STOP;
}

/* Those that were left by a jump go; or else the outermost, which is taken for another function then. False:
   that will be told at its end, and all that is inside it is not. */
static SELDOM bool make_place(struct tm_recorder_stack *stack, uint32_t *count)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < NEWS; i++)
		if (!is_on_stack(stack, &stack->news[i]) || has_return_address(&stack->news[i]))
			stack->news[kept++] = stack->news[i];
	stack->new_count = kept;
	if (kept == NEWS && stack->news[0].told == TM_TOLD_AT_END)
		return false;
	for (uint32_t i = 1; kept == NEWS && i < NEWS; i++)
		stack->news[i - 1] = stack->news[i];
	*count = kept < NEWS ? kept : NEWS - 1;
	return true;
}

static inline void note_new(struct tm_recorder_stack *stack, struct tm_recorder_call call)
{
	uint32_t count = count_news(stack);

	while (count && tm_call_is_over(stack, stack->news[count - 1].cfa, call.cfa))
		count--;
	if (__builtin_expect(count == NEWS, 0) && !make_place(stack, &count))
		return;
	stack->news[count] = call;
	stack->new_count = count + 1;
}

/* operator new is not called through, for an exception may pass it: whether it is going on the walk of the
   call of malloc tells that it makes. */
ENTRY void tm_native_new(uint64_t size, uint64_t cfa)
{
	struct writer writer;

	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return;
	note_new(&writer.thread->stack, call_at(cfa, size, TM_TOLD_INSIDE));
	end(&writer);
}

/* One that makes no such call: what it was asked for is known by the time that it returns. */
ENTRY void tm_native_new_ends(uint64_t size, uint64_t cfa)
{
	struct tm_recorder_stack *stack;
	struct writer writer;

	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return;
	stack = &writer.thread->stack;
	if (!has_stopped(stack, cfa))
		note_new(stack, call_at(cfa, size, TM_TOLD_AT_END));
	end(&writer);
}

ENTRY void tm_native_loader(void)
{
	struct tm_record_header *header;
	struct writer writer;
	uint64_t position;

	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return;
	header = reserve(&writer, sizeof(*header), &position);
	if (header) {
		commit(header, position, TM_RECORD_LOADER, TM_RECORD_LOOK, sizeof(*header));
		tm_writer_wait_for_look(&writer, header, position + sizeof(*header));
	}
	end(&writer);
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
	check_resize(&writer, cfa);
	if (!stack->resize.cfa) {
		stack->resize.return_address = word_at(cfa - 8);
		stack->resize.value = old;
		stack->resize.told = 0;
		store(&stack->resize.cfa,
		      cfa); /* last: a signal handler looks at the others where it is there */
	}
	put_block_word(&writer, TM_RECORD_NATIVE_RESIZE_BEGIN, 0, old);
	end(&writer);
}

/* ---- records behind a call ---- */

/* What was recorded is what the thread's next walk may rely on: of the frames that were walked those from
   `first` on. */
static inline void keep_walked(struct writer *writer, const struct walk *walk, uint32_t first)
{
	struct tm_ring_frames *frames = frames_of(writer);
	struct tm_recorder_frame *frame = &frames->known[walk->kept];
	uint64_t *hash = &frames->hashes[walk->kept];

	for (uint32_t i = walk->fresh; i-- > first;) {
		uint64_t rule = frames->walked[i].rule, above = frame->rule & TM_FRAME_FP_MATTERS;

		*++frame = frames->walked[i];
		hash[1] = hash_frame(hash[0], frame->pc, frame->cfa);
		hash++;
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
	record->function = (uint16_t)TM_PAD_FUNCTION(call->words[0]);
	record->number = 0;
	return record;
}

/* A record with the walked frames from `first` on, but for the commit. */
static inline struct tm_record_native *put_frames(struct writer *writer, const struct returned *call,
						  const struct walk *walk, uint32_t first, uint64_t *position,
						  uint64_t *bytes)
{
	const struct tm_recorder_frame *walked = frames_of(writer)->walked;
	uint32_t count = walk->fresh - first;
	struct tm_record_native *record = put_call(writer, call, count, position, bytes);

	if (!record)
		return NULL;
	record->kept = (uint16_t)walk->kept;
	record->fresh = (uint16_t)count;
	for (uint32_t i = 0; i < count; i++)
		record->words[i] = walked[first + i].pc;
	keep_walked(writer, walk, first);
	return record;
}

/* What does not fit into the call's own record goes before it, from the outermost frame on. */
static SELDOM void put_outer_frames(struct writer *writer, const struct returned *call, struct walk *walk)
{
	while (walk->fresh > TM_FRESH_MAX) {
		uint64_t position, bytes;
		struct tm_record_native *record =
			put_frames(writer, call, walk, walk->fresh - TM_FRESH_MAX, &position, &bytes);

		if (record)
			commit(&record->header, position, TM_RECORD_NATIVE_FRAMES, 0, bytes);
		walk->kept += TM_FRESH_MAX;
		walk->fresh -= TM_FRESH_MAX;
	}
}

/* Calls of operator new below the end of the walked stack that did not make the call are over: the walk would
   have met them. */
static SELDOM void drop_dead_news(const struct writer *writer, struct walk *walk, uint64_t cfa)
{
	struct tm_recorder_stack *stack = &writer->thread->stack;
	uint64_t end = stack->count > 1 ? frames_of(writer)->known[2].cfa : cfa;
	uint32_t count = 0;

	for (uint32_t i = 0; i < count_news(stack); i++) {
		const struct tm_recorder_call *call = &stack->news[i];

		if (!(walk->news >> i & 1) && call->cfa <= end && is_on_stack(stack, call))
			continue;
		if (call == walk->wrapper)
			walk->wrapper = &stack->news[count];
		stack->news[count++] = *call;
	}
	stack->new_count = count;
}

/* The stack that was walked, whose record is being written: the next time it is guessed. Of what was met at
   this place before the record says the number. (To look for each one, whether it was met here before or not,
   is worth it only where there are few.) */
static inline void note_stack(struct writer *writer, const struct returned *call, const struct walk *walk,
			      struct tm_record_native *record, uint64_t position, uint64_t bytes)
{
	struct tm_recorder_stack *stack = &writer->thread->stack;
	struct tm_ring_frames *frames = frames_of(writer);
	uint64_t cfa = cfa_of(call->words), pc = word_at(cfa - 8),
		 hash = hash_frame(frames->hashes[stack->count], pc, cfa);
	struct tm_stack_guess *const guesses[2] = {guess_for(frames, stack, 0, pc, cfa),
						   guess_for(frames, stack, 1, pc, cfa)};
	struct tm_remembered_stack *remembered = NULL;
	uint32_t place = 0;

	set_last(stack, hash);
	if (call->block && is_worth(stack, walk)) {
		bool again = guesses[0]->hash == hash >> 32 || guesses[1]->hash == hash >> 32;

		if (frames->forgotten == stack->forgotten && (again || !frames->crowded))
			place = find_place(frames, hash);
		if (!place && again)
			remembered = remember(writer, hash, cfa);
	}
	*guesses[0] = *guesses[1] = (struct tm_stack_guess){(uint32_t)(hash >> 32), place};
	if (remembered)
		record->number = remembered->number;
	commit(&record->header, position, call->kind, 0, bytes);
	if (remembered)
		let_recall(frames, remembered, guesses);
}

static inline void put_walked(struct writer *writer, const struct returned *call, struct walk *walk)
{
	uint64_t position, bytes;
	struct tm_record_native *record;

	if (__builtin_expect(walk->fresh > TM_FRESH_MAX, 0))
		put_outer_frames(writer, call, walk);
	record = put_frames(writer, call, walk, 0, &position, &bytes);
	if (!record)
		return;
	if (__builtin_expect(writer->thread->stack.new_count != walk->new_count, 0))
		drop_dead_news(writer, walk, cfa_of(call->words));
	note_stack(writer, call, walk, record, position, bytes);
}

/* The call is over, whatever it was. */
static inline void note_return(const struct writer *writer, const uint64_t *words)
{
	struct tm_recorder_stack *stack = &writer->thread->stack;

	stack->freed = 0; /* what is freed from now on is freed by another call */
	if (words[0] & TM_PAD_RESIZES && stack->resize.cfa == cfa_of(words))
		stack->resize.cfa = 0;
	check_resize(writer, cfa_of(words));
}

/* A handler that interrupted the recorder must not touch what that is at work on. */
static inline bool is_interrupting(const struct writer *writer)
{
	return writer->thread->inside != writer->sp;
}

/* With a block operator new returns, and those that it was called by. */
static inline void drop_news(struct tm_recorder_stack *stack, const struct tm_recorder_call *outermost)
{
	stack->new_count = (uint32_t)(outermost - stack->news);
}

/* The whole record, where the stack is the one that was guessed. */
static inline bool put_remembered(struct writer *writer, const struct returned *call, uint64_t fp)
{
	struct tm_recorder_stack *stack = &writer->thread->stack;
	uint64_t size = stack->new_count ? stack->news[0].value : call->size, position,
		 bytes = call->old ? rounded(sizeof(struct tm_record_remembered))
				   : offsetof(struct tm_record_remembered, old);
	struct tm_record_remembered *record;
	uint32_t number;

	if (!call->block || size > UINT32_MAX)
		return false;
	number = recall(writer, cfa_of(call->words), fp);
	if (!number)
		return false;
	record = (struct tm_record_remembered *)reserve(writer, bytes, &position);
	if (record) {
		record->block = call->block;
		record->size = (uint32_t)size;
		record->number = number;
		if (call->old)
			record->old = call->old;
		commit(&record->header, position,
		       call->old ? TM_RECORD_NATIVE_RESIZE_REMEMBERED : TM_RECORD_NATIVE_REMEMBERED, 0,
		       bytes);
	}
	drop_news(stack, stack->news);
	note_return(writer, call->words);
	return true;
}

static inline void put_outcome(struct writer *writer, struct returned *call, enum walked walked,
			       struct walk *walk)
{
	if (walked == INNER) {
		if (call->old)
			put_block_word(writer, TM_RECORD_NATIVE_RESIZE_LEFT, 0, call->old);
	} else {
		if (walk->wrapper) {
			call->size = walk->wrapper->value;
			call->old = walk->wrapper_pc;
		}
		put_walked(writer, call, walk);
		if (walk->wrapper && call->block)
			drop_news(&writer->thread->stack, walk->wrapper);
	}
	note_return(writer, call->words);
}

/* Not the stack that was guessed. Arguments are values, so that they are in registers where it was. */
static __attribute__((noinline)) bool put_by_walk(struct writer writer, struct returned call, uint64_t fp)
{
	enum walked walked = LOOK;
	struct walk walk;

	if (__builtin_expect(!is_interrupting(&writer), 1))
		walked = walk_stack(&writer, &walk, call.words, fp);
	if (__builtin_expect(walked != WALKED && walked != INNER, 0))
		return false;
	put_outcome(&writer, &call, walked, &walk);
	return true;
}

/* Its beginning was recorded, so its end must be. */
static SELDOM void end_unsampled_resize(const struct returned *call)
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

/* At a way out of operator new: from now on as behind any other call. False: its entry was not seen, or the
   function was come to in another way. */
static inline bool end_new(uint64_t *words)
{
	uint64_t cfa = cfa_of(words);
	const struct tm_recorder_call *call;
	struct tm_recorder_stack *stack;
	struct writer writer;

	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return false;
	stack = &writer.thread->stack;
	call = find_new(stack, cfa);
	if (call && call->told == TM_TOLD_AT_END) {
		words[0] &= ~(uint64_t)TM_PAD_WAY_OUT;
		words[1] = call->value;
		stack->new_count = (uint32_t)(call - stack->news);
	}
	end(&writer);
	return !(words[0] & TM_PAD_WAY_OUT);
}

/* False: nothing is recorded yet, for the tracer has to look. */
ENTRY bool tm_native_leave(uint64_t result, uint64_t *words, uint64_t fp)
{
	struct returned call;
	struct writer writer;
	bool done;

	if (words[0] & TM_PAD_WAY_OUT && !end_new(words))
		return true;
	read_call(&call, words, result);
	if (control->sample) {
		struct tm_recorder_thread *thread = find_thread(thread_pointer());

		if (!thread || !is_told(thread, &call))
			return true;
	}
	if (!__builtin_expect(begin(&writer, STACK_POINTER), 1))
		return true;
	if (__builtin_expect(!is_interrupting(&writer) && put_remembered(&writer, &call, fp), 1))
		done = true;
	else
		done = put_by_walk(writer, call, fp);
	end(&writer);
	return done;
}

static void fill_registers(struct tm_record_native *record, const struct tm_native_registers *kept,
			   uint64_t cfa)
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
			  const struct tm_native_registers *kept)
{
	uint64_t position, bytes, cfa = cfa_of(call->words);
	struct tm_record_native *record;

	record = put_call(writer, call, TM_RECORD_REGISTERS, &position, &bytes);
	if (!record)
		return;
	fill_registers(record, kept, cfa);
	commit(&record->header, position, kind, TM_RECORD_LOOK | TM_RECORD_NO_FRAMES, bytes);
	tm_writer_wait_for_look(writer, &record->header, position + bytes);
}

/* The same for a call whose stack the recorder could not walk: where rows were missing it tries once more
   when the tracer has provided them. */
ENTRY void tm_native_leave_looked_at(uint64_t result, const uint64_t *words,
				     const struct tm_native_registers *kept)
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
