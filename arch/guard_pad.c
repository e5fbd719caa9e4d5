/* Guard pads: so far for x86-64 alone (psABI 3.2; Intel SDM, volume 2: PUSH, POP, CALL, JMP, TEST, Jcc). */
#include "arch/guard_pad.h"

#include <assert.h>
#include <string.h>

enum { ENTER, GUARD, ORIGINAL, LEAVE, WORDS };

static const uint8_t push_arguments[] = {
	0x50, 0x57, 0x56, 0x52, 0x51, /* push %rax; push %rdi; push %rsi; push %rdx; push %rcx */
	0x41, 0x50, 0x41, 0x51,	      /* push %r8; push %r9 */
};
static const uint8_t push_rest[] = {0x41, 0x52, 0x41, 0x53}; /* push %r10; push %r11 */
static const uint8_t pop_rest[] = {0x41, 0x5b, 0x41, 0x5a};  /* pop %r11; pop %r10 */
static const uint8_t pop_arguments[] = {
	0x41, 0x59, 0x41, 0x58,	      /* pop %r9; pop %r8 */
	0x59, 0x5a, 0x5e, 0x5f, 0x58, /* pop %rcx; pop %rdx; pop %rsi; pop %rdi; pop %rax */
};
static const uint8_t load_rcx[] = {0x48, 0x8b, 0x0d};		     /* mov disp32(%rip),%rcx */
static const uint8_t load_rdi[] = {0x48, 0x8b, 0x3d};		     /* mov disp32(%rip),%rdi */
static const uint8_t call[] = {0xff, 0x15};			     /* call *disp32(%rip) */
static const uint8_t jump[] = {0xff, 0x25};			     /* jmp *disp32(%rip) */
static const uint8_t test_given[] = {0x85, 0xd2};		     /* test %edx,%edx */
static const uint8_t if_given[] = {0x75, 0};			     /* jne answer */
static const uint8_t make_word[] = {0x48, 0x83, 0xec, 0x08};	     /* sub $8,%rsp */
static const uint8_t keep_result[] = {0x48, 0x89, 0x04, 0x24};	     /* mov %rax,(%rsp) */
static const uint8_t result_and_return[] = {0x58, 0xc3};	     /* pop %rax; ret */
static const uint8_t put_result[] = {0x48, 0x89, 0x44, 0x24, 8 * 8}; /* mov %rax,64(%rsp) */
static const uint8_t drop_words[] = {0x48, 0x83, 0xc4, 7 * 8, 0xc3}; /* add $56,%rsp; ret */
static const uint8_t ret[] = {0xc3};

struct draft {
	uint8_t *code;
	size_t size;
	size_t fields[8]; /* offsets of the displacements of words, */
	uint8_t words[8]; /* and which words */
	size_t field_count;
};

static void emit(struct draft *draft, const void *bytes, size_t size)
{
	assert(draft->size + size <= TM_GUARD_PAD_SIZE_MAX);
	memcpy(draft->code + draft->size, bytes, size);
	draft->size += size;
}

#define EMIT(draft, bytes) emit((draft), (bytes), sizeof(bytes))

/* The displacement of an operand that is one of the words. */
static void emit_field(struct draft *draft, unsigned word)
{
	static const uint8_t later[4] = {0};

	draft->fields[draft->field_count] = draft->size;
	draft->words[draft->field_count++] = (uint8_t)word;
	EMIT(draft, later);
}

static void emit_call(struct draft *draft, unsigned word)
{
	EMIT(draft, call);
	emit_field(draft, word);
}

static void emit_going_on(struct draft *draft, bool leaves)
{
	if (!leaves) {
		EMIT(draft, jump);
		emit_field(draft, ORIGINAL);
		return;
	}
	EMIT(draft, make_word);
	emit_call(draft, ORIGINAL);
	EMIT(draft, keep_result);
	EMIT(draft, load_rdi);
	emit_field(draft, GUARD);
	emit_call(draft, LEAVE);
	EMIT(draft, result_and_return);
}

static void emit_pops(struct draft *draft, bool leaves)
{
	if (!leaves)
		EMIT(draft, pop_rest);
	EMIT(draft, pop_arguments);
}

static void emit_answer(struct draft *draft, bool leaves)
{
	if (leaves) {
		EMIT(draft, drop_words);
		return;
	}
	EMIT(draft, put_result);
	emit_pops(draft, leaves);
	EMIT(draft, ret);
}

static void emit_words(struct draft *draft, const uint64_t *words, size_t count)
{
	size_t start = draft->size;

	for (size_t i = 0; i < draft->field_count; i++) {
		uint32_t displacement =
			(uint32_t)(start + 8u * draft->words[i] - draft->fields[i] - sizeof(uint32_t));

		memcpy(draft->code + draft->fields[i], &displacement, sizeof(displacement));
	}
	emit(draft, words, count * sizeof(*words));
}

static size_t word_count(const struct tm_guard_pad *pad)
{
	return pad->leave ? WORDS : WORDS - 1;
}

struct tm_error *tm_guard_pad_make(const struct tm_arch *arch, const struct tm_guard_pad *pad,
				   uint8_t code[TM_GUARD_PAD_SIZE_MAX], size_t *size)
{
	const uint64_t words[WORDS] = {pad->enter, pad->guard, pad->original, pad->leave};
	struct draft draft = {.code = code};
	size_t branch;

	if (arch != &tm_arch_x86_64)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "there are no guard pads for %s yet",
				       arch->name);
	EMIT(&draft, push_arguments);
	if (!pad->leave)
		EMIT(&draft, push_rest);
	EMIT(&draft, load_rcx);
	emit_field(&draft, GUARD);
	emit_call(&draft, ENTER);
	EMIT(&draft, test_given);
	EMIT(&draft, if_given);
	branch = draft.size;
	emit_pops(&draft, pad->leave);
	emit_going_on(&draft, pad->leave);
	code[branch - 1] = (uint8_t)(draft.size - branch);
	emit_answer(&draft, pad->leave);
	emit_words(&draft, words, word_count(pad));
	*size = draft.size;
	return NULL;
}

/* The words stand at its end: the code is what would be made of them. */
static bool is_pad(const struct tm_arch *arch, const uint8_t *code, size_t size, bool leaves,
		   struct tm_guard_pad *pad)
{
	uint64_t words[WORDS] = {0};
	size_t count = leaves ? WORDS : WORDS - 1, made_size;
	uint8_t made[TM_GUARD_PAD_SIZE_MAX];
	struct tm_error *err;

	if (size < count * sizeof(*words))
		return false;
	memcpy(words, code + size - count * sizeof(*words), count * sizeof(*words));
	*pad = (struct tm_guard_pad){words[ENTER], words[GUARD], words[ORIGINAL], words[LEAVE]};
	if (leaves != (pad->leave != 0))
		return false;
	err = tm_guard_pad_make(arch, pad, made, &made_size);
	if (err) {
		tm_error_destroy(err);
		return false;
	}
	return made_size == size && memcmp(made, code, size) == 0;
}

bool tm_guard_pad_parse(const struct tm_arch *arch, const uint8_t *code, size_t size,
			struct tm_guard_pad *pad)
{
	return is_pad(arch, code, size, false, pad) || is_pad(arch, code, size, true, pad);
}
