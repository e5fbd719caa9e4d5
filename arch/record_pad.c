/* Pads that record: so far for x86-64 alone (Intel SDM, volume 2: PUSH, CALL, JMP, TEST, Jcc, LEA, RET). */
#include "arch/record_pad.h"

#include <assert.h>
#include <string.h>

/* The instructions of a pad: what stands in its code is taken to pieces by the same table that it is made by.
 */
enum insn {
	PUSH_RDI,
	PUSH_RSI,
	PUSH_RDX,
	PUSH_RCX,
	PUSH_R8,
	PUSH_R9,
	PUSH_WHAT,
	LOAD,
	COMPARE,
	TEST,
	SKIP,
	CALL,
	JUMP,
	DROP,
	RET
};

static const struct encoding {
	uint8_t fixed, size; /* bytes that are always the same, and all */
	uint8_t bytes[4];
	uint8_t argument; /* DWARF number of the register that is pushed */
	bool pushes;	  /* a word */
} encodings[] = {
	[PUSH_RDI] = {1, 1, {0x57}, 5, true},
	[PUSH_RSI] = {1, 1, {0x56}, 4, true},
	[PUSH_RDX] = {1, 1, {0x52}, 1, true},
	[PUSH_RCX] = {1, 1, {0x51}, 2, true},
	[PUSH_R8] = {2, 2, {0x41, 0x50}, 8, true},
	[PUSH_R9] = {2, 2, {0x41, 0x51}, 9, true},
	[PUSH_WHAT] = {1, 5, {0x68}, 0, true},		     /* push $imm32 */
	[LOAD] = {3, 7, {0x4c, 0x8b, 0x1d}, 0, false},	     /* mov disp32(%rip),%r11 */
	[COMPARE] = {4, 4, {0x41, 0x83, 0x3b, 0}, 0, false}, /* cmpl $0,(%r11) */
	[TEST] = {3, 3, {0x48, 0x85, 0xff}, 0, false},	     /* test %rdi,%rdi */
	[SKIP] = {1, 2, {0x74}, 0, false},		     /* je rel8 */
	[CALL] = {2, 6, {0xff, 0x15}, 0, false},	     /* call *disp32(%rip) */
	[JUMP] = {2, 6, {0xff, 0x25}, 0, false},	     /* jmp *disp32(%rip) */
	[DROP] = {4, 5, {0x48, 0x8d, 0x64, 0x24}, 0, false}, /* lea disp8(%rsp),%rsp */
	[RET] = {1, 1, {0xc3}, 0, false},
};

/* The constants behind the code. */
enum constant { ORIGINAL, ENABLED, ENTRY, LEAVE, CONSTANTS };

struct draft {
	struct tm_record_pad *pad;
	struct {
		size_t field;		/* offset of a displacement, */
		enum constant constant; /* and what it leads to */
	} uses[CONSTANTS + 1];		/* the original twice */
	size_t use_count;
	size_t skips[2]; /* offsets behind jumps to the last instruction */
	size_t skip_count;
};

static void emit_bytes(struct draft *draft, const void *bytes, size_t size)
{
	assert(draft->pad->size + size <= sizeof(draft->pad->code));
	if (size) /* else there may be none */
		memcpy(draft->pad->code + draft->pad->size, bytes, size);
	draft->pad->size += size;
}

/* `operand` is what follows the bytes that are always the same. */
static void emit(struct draft *draft, enum insn insn, uint32_t operand)
{
	const struct encoding *encoding = &encodings[insn];

	emit_bytes(draft, encoding->bytes, encoding->fixed);
	emit_bytes(draft, &operand, encoding->size - encoding->fixed);
}

static void emit_use(struct draft *draft, enum insn insn, enum constant constant)
{
	emit(draft, insn, 0);
	draft->uses[draft->use_count].field = draft->pad->size - sizeof(uint32_t);
	draft->uses[draft->use_count++].constant = constant;
}

static void emit_skip(struct draft *draft)
{
	emit(draft, SKIP, 0);
	draft->skips[draft->skip_count++] = draft->pad->size;
}

static void land_skips(struct draft *draft)
{
	for (size_t i = 0; i < draft->skip_count; i++)
		draft->pad->code[draft->skips[i] - 1] = (uint8_t)(draft->pad->size - draft->skips[i]);
}

static void emit_constants(struct draft *draft, const struct tm_record_pad_plan *plan)
{
	const uint64_t values[] = {[ORIGINAL] = plan->original,
				   [ENABLED] = plan->enabled,
				   [ENTRY] = plan->entry,
				   [LEAVE] = plan->leave};
	size_t start = draft->pad->size;

	for (size_t i = 0; i < draft->use_count; i++) {
		size_t field = draft->uses[i].field,
		       place = start + draft->uses[i].constant * sizeof(uint64_t);
		uint32_t displacement = (uint32_t)(place - (field + sizeof(uint32_t)));

		memcpy(draft->pad->code + field, &displacement, sizeof(displacement));
	}
	emit_bytes(draft, values, sizeof(values));
}

static void emit_enter(struct draft *draft, const struct tm_record_pad_plan *plan)
{
	if (plan->needs_block) {
		emit(draft, TEST, 0);
		emit_skip(draft);
	}
	emit_use(draft, CALL, ENTRY);
}

static void emit_push(struct draft *draft, const struct tm_arch *arch, uint8_t argument)
{
	for (enum insn insn = PUSH_RDI; insn <= PUSH_R9; insn++)
		if (encodings[insn].argument == arch->arguments[argument])
			emit(draft, insn, 0);
}

static void emit_call_through(struct draft *draft, const struct tm_arch *arch,
			      const struct tm_record_pad_plan *plan)
{
	size_t count = plan->argument_count;

	draft->pad->words = (uint16_t)((count + 1) | 1);
	if (draft->pad->words > count + 1)
		emit_push(draft, arch, plan->arguments[count - 1]);
	while (count-- > 0)
		emit_push(draft, arch, plan->arguments[count]);
	emit(draft, PUSH_WHAT, plan->what | draft->pad->words);
	if (plan->entry)
		emit_use(draft, CALL, ENTRY);
	if (!plan->way_out) {
		emit_use(draft, CALL, ORIGINAL);
		draft->pad->call_size = (uint16_t)draft->pad->size;
	}
	emit_use(draft, CALL, LEAVE);
	emit(draft, DROP, draft->pad->words * 8u);
	if (!plan->way_out)
		emit(draft, RET, 0);
}

struct tm_error *tm_record_pad_make(const struct tm_arch *arch, const struct tm_record_pad_plan *plan,
				    struct tm_record_pad *pad)
{
	struct draft draft = {.pad = pad};

	if (arch != &tm_arch_x86_64)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "there are no pads that record for %s yet",
				       arch->name);
	assert(plan->leave ? plan->argument_count >= 1 && plan->argument_count <= TM_RECORD_PAD_ARGUMENTS
			   : plan->entry != 0);
	assert(plan->before_size <= TM_RECORD_PAD_BEFORE);
	*pad = (struct tm_record_pad){.original = plan->original, .before = (uint16_t)plan->before_size};
	emit_bytes(&draft, plan->before, plan->before_size);
	emit_use(&draft, LOAD, ENABLED);
	emit(&draft, COMPARE, 0);
	emit_skip(&draft);
	if (plan->leave)
		emit_call_through(&draft, arch, plan);
	else
		emit_enter(&draft, plan);
	land_skips(&draft);
	emit_use(&draft, JUMP, ORIGINAL);
	emit_constants(&draft, plan);
	return NULL;
}

/* ---- reading ---- */

static const struct encoding *decode(const uint8_t *code, size_t size, size_t at)
{
	for (size_t i = 0; i < sizeof(encodings) / sizeof(encodings[0]); i++) {
		const struct encoding *encoding = &encodings[i];

		if (at <= size && size - at >= encoding->size &&
		    memcmp(code + at, encoding->bytes, encoding->fixed) == 0)
			return encoding;
	}
	return NULL;
}

/* The offset of what an instruction at an offset reads, if its displacement is its last part. */
static size_t place_of(const uint8_t *code, size_t at, const struct encoding *encoding)
{
	uint32_t displacement;

	memcpy(&displacement, code + at + encoding->fixed, sizeof(displacement));
	return at + encoding->size + displacement;
}

/* Where the instructions from `at` on end: behind the jump to the original. 0: this is something else. */
static size_t find_end(const uint8_t *code, size_t size, size_t at)
{
	const struct encoding *encoding;

	for (; (encoding = decode(code, size, at)); at += encoding->size)
		if (encoding == &encodings[JUMP])
			return at + encoding->size;
	return 0;
}

static bool reads_constants(const uint8_t *code, size_t end, struct tm_record_pad *pad)
{
	const struct encoding *encoding;
	size_t constants = CONSTANTS * sizeof(uint64_t);

	for (size_t at = pad->before; at < end; at += encoding->size) {
		size_t place;

		encoding = decode(code, end, at);
		pad->words = (uint16_t)(pad->words + encoding->pushes);
		if (encoding != &encodings[CALL] && encoding != &encodings[JUMP] &&
		    encoding != &encodings[LOAD])
			continue;
		place = place_of(code, at, encoding) - end;
		if (place >= constants || place % sizeof(uint64_t))
			return false;
		if (encoding == &encodings[CALL] && place == ORIGINAL)
			pad->call_size = (uint16_t)(at + encoding->size);
	}
	return true;
}

static bool parse(const uint8_t *code, size_t size, size_t before, struct tm_record_pad *pad)
{
	size_t end = find_end(code, size, before), whole = end + CONSTANTS * sizeof(uint64_t);

	*pad = (struct tm_record_pad){.before = (uint16_t)before};
	if (!end || whole > size || whole > sizeof(pad->code) || !reads_constants(code, end, pad) ||
	    (pad->call_size && (!pad->words || before)) || (before && !pad->words))
		return false;
	memcpy(pad->code, code, whole);
	pad->size = whole;
	memcpy(&pad->original, code + end, sizeof(pad->original));
	return true;
}

bool tm_record_pad_parse(const struct tm_arch *arch, const uint8_t *code, size_t size,
			 struct tm_record_pad *pad)
{
	for (size_t before = 0; arch == &tm_arch_x86_64 && before <= TM_RECORD_PAD_BEFORE; before++)
		if (decode(code, size, before) == &encodings[LOAD] && parse(code, size, before, pad))
			return true;
	return false;
}

bool tm_record_pad_depth(const struct tm_record_pad *pad, size_t offset, uint64_t *depth)
{
	size_t end = pad->size - CONSTANTS * sizeof(uint64_t);
	const struct encoding *encoding;

	*depth = 0;
	if (offset < pad->before)
		return true;
	for (size_t at = pad->before; at < end; at += encoding->size) {
		encoding = decode(pad->code, end, at);
		if (at == offset)
			return true;
		*depth += encoding->pushes ? 8 : 0;
		if (encoding == &encodings[DROP])
			*depth -= pad->code[at + encoding->size - 1];
	}
	return false;
}
