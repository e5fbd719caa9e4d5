/*
 * Moving aarch64 instructions to a pad. An address that was computed from pc becomes a constant behind the
 * code, a literal is loaded through its absolute address, a conditional branch goes to a `b` in the pad, and
 * a call loads the original return address into x30 and jumps. A jump that `b` (128 MB) does not reach would
 * need a scratch register, which only a function's entry has: it is refused.
 */
#include "arch/aarch64_insn.h"

enum field_kind { FIELD_19, FIELD_14 }; /* imm19 or imm14 of the instruction word at field_at */

#define LINK 30
#define SP   31

/* The instructions that are written here. */
#define A64_NOP		  0xd503201fu /* nop */
#define A64_B		  0x14000000u /* b imm26 */
#define A64_LDR_X_LITERAL 0x58000000u /* ldr Xt, imm19 */
#define A64_LDR_W	  0xb9400000u /* ldr Wt, [Xn] */
#define A64_LDR_X	  0xf9400000u /* ldr Xt, [Xn] */
#define A64_LDRSW	  0xb9800000u /* ldrsw Xt, [Xn] */
#define A64_LDR_S	  0xbd400000u /* ldr St, [Xn] */
#define A64_LDR_D	  0xfd400000u /* ldr Dt, [Xn] */
#define A64_LDR_Q	  0x3dc00000u /* ldr Qt, [Xn] */
#define A64_PUSH_X16	  0xf81f0ff0u /* str x16, [sp, #-16]! */
#define A64_POP_X16	  0xf84107f0u /* ldr x16, [sp], #16 */
#define A64_BLR_TO_BR	  (1u << 21)  /* set in blr and its keyed forms, clear in br */

static uint32_t rd(uint32_t word)
{
	return word & 31;
}

static uint32_t rn(uint32_t word)
{
	return word >> 5 & 31;
}

static bool fits(int64_t distance, unsigned bits)
{
	return distance >= -((int64_t)1 << (bits - 1)) && distance < (int64_t)1 << (bits - 1);
}

static const char *emit_jump(struct tm_emit *emit, uint64_t target)
{
	int64_t distance = (int64_t)(target - tm_emit_here(emit)) / 4;

	if (target % 4 || !fits(distance, 26))
		return "a jump is out of reach (128 MB) of the pad";
	tm_emit_u32(emit, A64_B | ((uint32_t)distance & 0x3ffffff));
	return NULL;
}

static const char *fill_field(struct tm_emit *emit, const struct tm_later *later)
{
	uint32_t words = (uint32_t)(emit->out.size - later->field_at) / 4;
	uint8_t *bytes = emit->out.code + later->field_at;
	uint32_t mask = later->field_kind == FIELD_14 ? 0x3fff : 0x7ffff;
	uint32_t word;

	if (emit->full)
		return NULL;
	word = (tm_a64_word(bytes) & ~(mask << 5)) | words << 5;
	for (unsigned i = 0; i < 4; i++)
		bytes[i] = (uint8_t)(word >> 8 * i);
	return NULL;
}

static void emit_load_constant(struct tm_emit *emit, uint32_t reg, uint64_t value)
{
	tm_emit_later(emit, TM_LATER_CONSTANT, emit->out.size, FIELD_19, value);
	tm_emit_u32(emit, A64_LDR_X_LITERAL | reg); /* ldr reg, =value */
}

/* The load through a register that is the form of a literal load, by its opc and V fields (bits 31:30, 26).
 */
static uint32_t register_load(uint32_t word)
{
	static const uint32_t general[] = {A64_LDR_W, A64_LDR_X, A64_LDRSW};
	static const uint32_t simd[] = {A64_LDR_S, A64_LDR_D, A64_LDR_Q};

	return word & 1 << 26 ? simd[word >> 30 & 3] : general[word >> 30 & 3];
}

/* The register is about to be overwritten and can hold the address meanwhile; before the second instruction
   the first may be done again. Register 31 is xzr as a target and sp as an address: such a load only touches
   memory. */
static const char *move_load(struct tm_emit *emit, const struct tm_insn *insn, uint32_t word)
{
	uint32_t reg = rd(word);

	if (reg == SP)
		return "it loads a literal into the zero register";
	emit_load_constant(emit, reg, insn->reference);
	tm_emit_point(emit, insn->address);
	tm_emit_u32(emit, register_load(word) | reg << 5 | reg);
	return NULL;
}

/* A SIMD register cannot hold the address: x16 does, saved below the stack pointer. AAPCS64 6.2.5 has no red
 * zone. */
static void move_simd_load(struct tm_emit *emit, const struct tm_insn *insn, uint32_t word)
{
	tm_emit_u32(emit, A64_PUSH_X16);
	tm_emit_point(emit, 0);
	emit_load_constant(emit, 16, insn->reference);
	tm_emit_point(emit, 0);
	tm_emit_u32(emit, register_load(word) | 16 << 5 | rd(word));
	tm_emit_point(emit, 0);
	tm_emit_u32(emit, A64_POP_X16);
}

/* A call is its return address in x30 and a jump: after the load the state is that of the callee's entry.
   Also for BTI: from a page without PROT_BTI a br is taken by `bti c` (Arm ARM, PSTATE.BTYPE). */
static const char *move_call(struct tm_emit *emit, const struct tm_insn *insn)
{
	emit_load_constant(emit, LINK, insn->address + 4);
	tm_emit_point(emit, insn->target);
	return emit_jump(emit, insn->target);
}

static const char *move_indirect_call(struct tm_emit *emit, const struct tm_insn *insn, uint32_t word,
				      bool keyed)
{
	if (rn(word) == LINK || (keyed && rd(word) == LINK))
		return "it calls through the link register";
	emit_load_constant(emit, LINK, insn->address + 4);
	tm_emit_point(emit, 0);
	tm_emit_u32(emit, word & ~A64_BLR_TO_BR);
	return NULL;
}

static void move_branch(struct tm_emit *emit, const struct tm_insn *insn, uint32_t word,
			enum field_kind field)
{
	tm_emit_later(emit, TM_LATER_JUMP, emit->out.size, field, insn->target);
	tm_emit_u32(emit, word);
}

static const char *move(struct tm_emit *emit, const struct tm_insn *insn, const uint8_t *bytes)
{
	uint32_t word = tm_a64_word(bytes);

	tm_emit_point(emit, insn->address);
	switch (tm_a64_form(word)) {
	case TM_A64_AS_IS:
		tm_emit_u32(emit, word);
		return NULL;
	case TM_A64_B:
		return insn->kind == TM_INSN_CALL ? move_call(emit, insn) : emit_jump(emit, insn->target);
	case TM_A64_BRANCH_19:
		move_branch(emit, insn, word, FIELD_19);
		return NULL;
	case TM_A64_BRANCH_14:
		move_branch(emit, insn, word, FIELD_14);
		return NULL;
	case TM_A64_BLR:
		return move_indirect_call(emit, insn, word, false);
	case TM_A64_BLR_KEYED:
		return move_indirect_call(emit, insn, word, true);
	case TM_A64_ADR:
	case TM_A64_ADRP:
		emit_load_constant(emit, rd(word), insn->reference);
		return NULL;
	case TM_A64_LOAD_LITERAL:
		return move_load(emit, insn, word);
	case TM_A64_LOAD_LITERAL_V:
		move_simd_load(emit, insn, word);
		return NULL;
	case TM_A64_PREFETCH_LITERAL: /* a hint */
		tm_emit_u32(emit, A64_NOP);
		return NULL;
	}
	return "it is unknown";
}

static const struct tm_relocator relocator = {
	.decode = tm_aarch64_decode,
	.move = move,
	.jump = emit_jump,
	.fill_field = fill_field,
	.describe = tm_aarch64_describe,
};

struct tm_error *tm_aarch64_relocate(const uint8_t *bytes, size_t size, uint64_t from, uint64_t to,
				     size_t min_bytes, struct tm_relocated *out)
{
	if (to % 4)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "a pad at 0x%llx is not aligned",
				       (unsigned long long)to);
	return tm_relocate(&relocator, bytes, size, from, to, min_bytes, out);
}
