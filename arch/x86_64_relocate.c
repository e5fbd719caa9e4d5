/*
 * Moving x86-64 instructions to a pad. Rip-relative operands get a new displacement, short branches are
 * widened, and a call becomes `push` of the original return address and a jump. Where 32 bits do not reach,
 * jumps go through `jmp [rip+0]; .quad target`, and lea and mov take the absolute address.
 */
#include <string.h>

#include "arch/x86_64_insn.h"
#include "arch/x86_64_layout.h"

enum field_kind { FIELD_REL8, FIELD_REL32 }; /* at the end of its instruction */

#define OUT_OF_REACH "its operand is out of reach (2 GB) of the pad"

static bool reaches(uint64_t next_pc, uint64_t target)
{
	int64_t distance = (int64_t)(target - next_pc);

	return distance == (int32_t)distance;
}

static const char *emit_jump(struct tm_emit *emit, uint64_t target)
{
	static const uint8_t absolute[] = {0xff, 0x25, 0, 0, 0, 0}; /* jmp qword ptr [rip + 0] */
	uint64_t next_pc = tm_emit_here(emit) + 5;

	if (reaches(next_pc, target)) {
		tm_emit_u8(emit, 0xe9); /* jmp rel32 */
		tm_emit_u32(emit, (uint32_t)(target - next_pc));
	} else {
		tm_emit_bytes(emit, absolute, sizeof(absolute));
		tm_emit_u64(emit, target);
	}
	return NULL;
}

static const char *fill_field(struct tm_emit *emit, const struct tm_later *later)
{
	size_t field_size = later->field_kind == FIELD_REL8 ? 1 : 4;
	uint32_t distance = (uint32_t)(emit->out.size - later->field_at - field_size);

	if (emit->full)
		return NULL;
	/* A pad is smaller than the reach of rel8. */
	_Static_assert(TM_PAD_CODE_MAX <= INT8_MAX, "rel8 must reach all of a pad");
	memcpy(emit->out.code + later->field_at, &distance, field_size);
	return NULL;
}

static void emit_later_field(struct tm_emit *emit, enum tm_later_kind kind, enum field_kind field,
			     uint64_t value)
{
	size_t field_at = emit->out.size;

	tm_emit_bytes(emit, (const uint8_t[4]){0}, field == FIELD_REL8 ? 1 : 4);
	tm_emit_later(emit, kind, field_at, field, value);
}

/* lea reg, [rip + x]: the address is known, so it is a constant. */
static const char *move_far_lea(struct tm_emit *emit, const struct tm_insn *insn,
				const struct tm_x86_layout *layout)
{
	bool wide = layout->rex & TM_X86_REX_W;

	if (layout->operand_size)
		return OUT_OF_REACH;
	/* movabs reg, imm64 */
	tm_emit_u8(emit, (uint8_t)(0x48 | (layout->rex & TM_X86_REX_R ? TM_X86_REX_B : 0)));
	tm_emit_u8(emit, (uint8_t)(0xb8 | tm_x86_reg(layout)));
	tm_emit_u64(emit, wide ? insn->reference : (uint32_t)insn->reference);
	return NULL;
}

/* mov reg, [rip + x]: the register is about to be overwritten and can hold the address meanwhile; before the
   second instruction the first may be done again, so the state still stands for the original instruction. */
static const char *move_far_load(struct tm_emit *emit, const struct tm_insn *insn,
				 const struct tm_x86_layout *layout)
{
	unsigned reg = tm_x86_reg(layout);
	bool high = layout->rex & TM_X86_REX_R;
	bool is_sp = reg == 4 && !high;

	if (layout->operand_size || layout->segment || layout->repeat || is_sp)
		return OUT_OF_REACH;
	/* movabs reg, imm64 */
	tm_emit_u8(emit, (uint8_t)(0x48 | (high ? TM_X86_REX_B : 0)));
	tm_emit_u8(emit, (uint8_t)(0xb8 | reg));
	tm_emit_u64(emit, insn->reference);
	/* mov reg, [reg]; rsp, r12 need a SIB byte, rbp, r13 a displacement (SDM volume 2, table 2-2) */
	tm_emit_point(emit, insn->address);
	tm_emit_u8(emit,
		   (uint8_t)(0x40 | (layout->rex & TM_X86_REX_W) | (high ? TM_X86_REX_R | TM_X86_REX_B : 0)));
	tm_emit_u8(emit, 0x8b);
	tm_emit_u8(emit, (uint8_t)((reg == 5 ? 0x40 : 0) | reg << 3 | reg));
	if (reg == 4)
		tm_emit_u8(emit, 0x24);
	if (reg == 5)
		tm_emit_u8(emit, 0);
	return NULL;
}

static const char *move_far_operand(struct tm_emit *emit, const struct tm_insn *insn,
				    const struct tm_x86_layout *layout)
{
	if (layout->map == TM_X86_ONE_BYTE && layout->opcode == 0x8d)
		return move_far_lea(emit, insn, layout);
	if (layout->map == TM_X86_ONE_BYTE && layout->opcode == 0x8b)
		return move_far_load(emit, insn, layout);
	return OUT_OF_REACH;
}

/* The bytes as they are, with the displacement that names the same address from here. */
static const char *copy(struct tm_emit *emit, const struct tm_insn *insn, const struct tm_x86_layout *layout,
			const uint8_t *bytes)
{
	uint8_t moved[TM_INSN_BYTES_MAX];
	uint64_t next_pc = tm_emit_here(emit) + insn->size;
	uint32_t displacement = (uint32_t)(insn->reference - next_pc);

	if (insn->refers && !reaches(next_pc, insn->reference))
		return move_far_operand(emit, insn, layout);
	memcpy(moved, bytes, insn->size);
	if (insn->refers)
		memcpy(moved + layout->displacement_at, &displacement, sizeof(displacement));
	tm_emit_bytes(emit, moved, insn->size);
	return NULL;
}

static void emit_push(struct tm_emit *emit, uint64_t return_address)
{
	tm_emit_bytes(emit, (const uint8_t[]){0xff, 0x35}, 2); /* push qword ptr [rip + constant] */
	emit_later_field(emit, TM_LATER_CONSTANT, FIELD_REL32, return_address);
}

/* After the push the state is that of the called function's first instruction. */
static const char *move_call(struct tm_emit *emit, const struct tm_insn *insn)
{
	emit_push(emit, insn->address + insn->size);
	tm_emit_point(emit, insn->target);
	return emit_jump(emit, insn->target);
}

/* jmp [rsp + x] after a push means [rsp + x + 8]; written with a displacement of 32 bits. Below rsp the push
   would overwrite what the call read before it. */
static const char *emit_stack_jump(struct tm_emit *emit, const struct tm_x86_layout *layout,
				   const uint8_t *bytes)
{
	uint8_t jump[TM_INSN_BYTES_MAX];
	size_t at = layout->displacement_at; /* prefixes, opcode, ModRM and SIB stay */
	int32_t displacement = 0;

	memcpy(jump, bytes, at);
	if (layout->displacement_size == 1)
		displacement = (int8_t)bytes[at];
	else if (layout->displacement_size == 4)
		memcpy(&displacement, bytes + at, sizeof(displacement));
	if (displacement < 0 || displacement > INT32_MAX - 8)
		return "its operand may stand where the return address goes";
	if (at + sizeof(displacement) > TM_X86_INSN_SIZE_MAX)
		return "it has so many prefixes that it cannot be written with a longer displacement";
	displacement += 8;
	jump[layout->modrm_at] = 0x84 | 4 << 3; /* mod 2, reg 4 (jmp), rm 4 (SIB) */
	tm_emit_bytes(emit, jump, at);
	tm_emit_u32(emit, (uint32_t)displacement);
	return NULL;
}

/* The callee is not known here, so that the state between push and jump stands for nothing. An operand that
   cannot be read faults after the push instead of before it. */
static const char *move_indirect_call(struct tm_emit *emit, const struct tm_insn *insn,
				      const struct tm_x86_layout *layout, const uint8_t *bytes)
{
	bool low_rm4 = tm_x86_rm(layout) == 4 && !(layout->rex & TM_X86_REX_B);
	bool sp_based = low_rm4 && tm_x86_mod(layout) != 3 && (bytes[layout->modrm_at + 1] & 7) == 4;
	uint8_t jump[TM_INSN_BYTES_MAX];

	if (low_rm4 && tm_x86_mod(layout) == 3)
		return "it calls to the stack pointer";
	if (layout->address_size)
		return "its operand has an address of 32 bits";
	emit_push(emit, insn->address + insn->size);
	tm_emit_point(emit, 0);
	if (sp_based)
		return emit_stack_jump(emit, layout, bytes);
	memcpy(jump, bytes, insn->size);
	jump[layout->modrm_at] = (uint8_t)((layout->modrm & ~0x38) | 4 << 3); /* jmp */
	return copy(emit, insn, layout, jump);
}

static const char *move_branch(struct tm_emit *emit, const struct tm_insn *insn,
			       const struct tm_x86_layout *layout)
{
	uint64_t next_pc = tm_emit_here(emit) + 6;

	if (layout->map == TM_X86_ONE_BYTE && layout->opcode >= 0xe0) { /* loop, jrcxz: only rel8 exists */
		if (layout->address_size)
			tm_emit_u8(emit, 0x67);
		tm_emit_u8(emit, layout->opcode);
		emit_later_field(emit, TM_LATER_JUMP, FIELD_REL8, insn->target);
		return NULL;
	}
	tm_emit_u8(emit, 0x0f); /* jcc rel32 */
	tm_emit_u8(emit, 0x80 | (layout->opcode & 0x0f));
	if (reaches(next_pc, insn->target))
		tm_emit_u32(emit, (uint32_t)(insn->target - next_pc));
	else
		emit_later_field(emit, TM_LATER_JUMP, FIELD_REL32, insn->target);
	return NULL;
}

static const char *move(struct tm_emit *emit, const struct tm_insn *insn, const uint8_t *bytes)
{
	struct tm_x86_layout layout;

	if (!tm_x86_layout_parse(bytes, insn->size, &layout))
		return "it is unknown";
	tm_emit_point(emit, insn->address);
	switch (insn->kind) {
	case TM_INSN_PLAIN:
	case TM_INSN_PADDING:
	case TM_INSN_JUMP_INDIRECT:
	case TM_INSN_RETURN:
	case TM_INSN_TRAP:
		return copy(emit, insn, &layout, bytes);
	case TM_INSN_BRANCH:
		return move_branch(emit, insn, &layout);
	case TM_INSN_JUMP:
		return emit_jump(emit, insn->target);
	case TM_INSN_CALL:
		return move_call(emit, insn);
	case TM_INSN_CALL_INDIRECT:
		return move_indirect_call(emit, insn, &layout, bytes);
	}
	return "it is unknown";
}

static const struct tm_relocator relocator = {
	.decode = tm_x86_64_decode,
	.confirm = tm_x86_64_confirm,
	.move = move,
	.jump = emit_jump,
	.fill_field = fill_field,
	.describe = tm_x86_64_describe,
};

struct tm_error *tm_x86_64_relocate(const uint8_t *bytes, size_t size, uint64_t from, uint64_t to,
				    size_t min_bytes, struct tm_relocated *out)
{
	return tm_relocate(&relocator, bytes, size, from, to, min_bytes, out);
}
