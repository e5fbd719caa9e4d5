/*
 * What an aarch64 instruction does to control flow, and which cannot run elsewhere, by word patterns (Arm
 * ARM, C4.1: the top-level groups say of whole ranges that they never read pc). No disassembler is asked:
 * capstone 4.0.2 does not know retaa, blraa, ldadd, cas.
 */
#include "arch/aarch64_insn.h"

#include <inttypes.h>
#include <stdio.h>

#define SYSTEM_CALL "the kernel would see the pad's address (restarts, cancellation, seccomp filters)"
#define EXCLUSIVE   "a trap would break its exclusive access for ever"
#define BREAKPOINT  "a breakpoint stands there already"
#define TRAP	    "it traps into the kernel or a debugger"
#define UNDEFINED   "it is an undefined instruction"
#define SIGNS_PC    "it signs or checks a pointer against its own address"

/* First match wins; what matches none is no known instruction. */
static const struct rule {
	uint32_t mask, value;
	enum tm_insn_kind kind;
	enum tm_a64_form form;
	const char *refusal;
} rules[] = {
	/* Branches to a register; all fixed fields are checked, because retaasppcr reads pc. */
	{0xfffffc1f, 0xd61f0000, TM_INSN_JUMP_INDIRECT, TM_A64_AS_IS, NULL},	 /* br */
	{0xfffffbff, 0xd65f0bff, TM_INSN_RETURN, TM_A64_AS_IS, NULL},		 /* retaa, retab */
	{0xfffffc1f, 0xd65f0000, TM_INSN_RETURN, TM_A64_AS_IS, NULL},		 /* ret */
	{0xfffff81f, 0xd61f081f, TM_INSN_JUMP_INDIRECT, TM_A64_AS_IS, NULL},	 /* braaz, brabz */
	{0xfffff800, 0xd71f0800, TM_INSN_JUMP_INDIRECT, TM_A64_AS_IS, NULL},	 /* braa, brab */
	{0xfffffc1f, 0xd63f0000, TM_INSN_CALL_INDIRECT, TM_A64_BLR, NULL},	 /* blr */
	{0xfffff81f, 0xd63f081f, TM_INSN_CALL_INDIRECT, TM_A64_BLR, NULL},	 /* blraaz, blrabz */
	{0xfffff800, 0xd73f0800, TM_INSN_CALL_INDIRECT, TM_A64_BLR_KEYED, NULL}, /* blraa, blrab */
	/* Direct branches. */
	{0xfc000000, 0x14000000, TM_INSN_JUMP, TM_A64_B, NULL},		  /* b */
	{0xfc000000, 0x94000000, TM_INSN_CALL, TM_A64_B, NULL},		  /* bl */
	{0xff000000, 0x54000000, TM_INSN_BRANCH, TM_A64_BRANCH_19, NULL}, /* b.cond, bc.cond */
	{0x7e000000, 0x34000000, TM_INSN_BRANCH, TM_A64_BRANCH_19, NULL}, /* cbz, cbnz */
	{0x7e000000, 0x36000000, TM_INSN_BRANCH, TM_A64_BRANCH_14, NULL}, /* tbz, tbnz */
	/* Exceptions, system instructions. */
	{0xffe0001f, 0xd4000001, TM_INSN_PLAIN, TM_A64_AS_IS, SYSTEM_CALL}, /* svc */
	{0xffe0001f, 0xd4200000, TM_INSN_TRAP, TM_A64_AS_IS, BREAKPOINT},   /* brk */
	{0xffe0001f, 0xd4400000, TM_INSN_TRAP, TM_A64_AS_IS, TRAP},	    /* hlt */
	{0xffffffff, 0xd503201f, TM_INSN_PADDING, TM_A64_AS_IS, NULL},	    /* nop */
	{0xffc00000, 0xd5000000, TM_INSN_PLAIN, TM_A64_AS_IS, NULL}, /* hints, barriers, msr, mrs, sys */
	/* Addresses. */
	{0x9f000000, 0x10000000, TM_INSN_PLAIN, TM_A64_ADR, NULL},		/* adr */
	{0x9f000000, 0x90000000, TM_INSN_PLAIN, TM_A64_ADRP, NULL},		/* adrp */
	{0xff000000, 0xd8000000, TM_INSN_PLAIN, TM_A64_PREFETCH_LITERAL, NULL}, /* prfm literal */
	{0xff000000, 0xdc000000, TM_INSN_TRAP, TM_A64_AS_IS, UNDEFINED},	/* a fourth SIMD size */
	{0x3f000000, 0x18000000, TM_INSN_PLAIN, TM_A64_LOAD_LITERAL, NULL},	/* ldr, ldrsw literal */
	{0x3f000000, 0x1c000000, TM_INSN_PLAIN, TM_A64_LOAD_LITERAL_V, NULL},	/* ldr s, d, q literal */
	/* Exclusives; casp lies between them. */
	{0xbfa00000, 0x08200000, TM_INSN_PLAIN, TM_A64_AS_IS, NULL},	  /* casp */
	{0x3f800000, 0x08000000, TM_INSN_PLAIN, TM_A64_AS_IS, EXCLUSIVE}, /* ldxr, stxr, ldxp, stxp */
	{0x3f800000, 0x09000000, TM_INSN_PLAIN, TM_A64_AS_IS, EXCLUSIVE}, /* ldtxr, sttxr */
	/* FEAT_PAuth_LR. */
	{0xff800000, 0xf3800000, TM_INSN_PLAIN, TM_A64_AS_IS, SIGNS_PC}, /* autiasppc, autibsppc */
	{0xffff8000, 0xdac18000, TM_INSN_PLAIN, TM_A64_AS_IS, SIGNS_PC}, /* paciasppc, autiasppcr, ... */
	/* Whole groups, which never read pc but for the above. */
	{0x1c000000, 0x10000000, TM_INSN_PLAIN, TM_A64_AS_IS, NULL}, /* data processing, immediate */
	{0x0a000000, 0x08000000, TM_INSN_PLAIN, TM_A64_AS_IS, NULL}, /* loads and stores */
	{0x0e000000, 0x0a000000, TM_INSN_PLAIN, TM_A64_AS_IS, NULL}, /* data processing, register */
	{0x0e000000, 0x0e000000, TM_INSN_PLAIN, TM_A64_AS_IS, NULL}, /* floating point, SIMD */
	{0x1e000000, 0x04000000, TM_INSN_PLAIN, TM_A64_AS_IS, NULL}, /* SVE */
};

static const struct rule *find_rule(uint32_t word)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(rules); i++)
		if ((word & rules[i].mask) == rules[i].value)
			return &rules[i];
	return NULL;
}

/* `count` bits from bit `low` up, as a signed number. */
static int64_t signed_bits(uint32_t word, unsigned low, unsigned count)
{
	return (int64_t)((uint64_t)word << (64 - low - count)) >> (64 - count);
}

static void decode_addresses(uint32_t word, enum tm_a64_form form, struct tm_insn *insn)
{
	uint64_t adr = (uint64_t)signed_bits(word, 5, 19) * 4 + (word >> 29 & 3);

	switch (form) {
	case TM_A64_B:
		insn->target = insn->address + (uint64_t)signed_bits(word, 0, 26) * 4;
		break;
	case TM_A64_BRANCH_19:
		insn->target = insn->address + (uint64_t)signed_bits(word, 5, 19) * 4;
		break;
	case TM_A64_BRANCH_14:
		insn->target = insn->address + (uint64_t)signed_bits(word, 5, 14) * 4;
		break;
	case TM_A64_ADR:
		insn->reference = insn->address + adr;
		insn->refers = true;
		break;
	case TM_A64_ADRP: /* names a page, not a place in it: no reference */
		insn->reference = (insn->address & ~(uint64_t)0xfff) + (adr << 12);
		break;
	case TM_A64_LOAD_LITERAL:
	case TM_A64_LOAD_LITERAL_V:
	case TM_A64_PREFETCH_LITERAL:
		insn->reference = insn->address + (uint64_t)signed_bits(word, 5, 19) * 4;
		insn->refers = true;
		break;
	case TM_A64_AS_IS:
	case TM_A64_BLR:
	case TM_A64_BLR_KEYED:
		break;
	}
}

enum tm_a64_form tm_a64_form(uint32_t word)
{
	const struct rule *rule = find_rule(word);

	return rule ? rule->form : TM_A64_AS_IS;
}

bool tm_aarch64_decode(const uint8_t *bytes, size_t size, uint64_t address, struct tm_insn *insn)
{
	const struct rule *rule = size >= 4 && address % 4 == 0 ? find_rule(tm_a64_word(bytes)) : NULL;

	if (!rule)
		return false;
	*insn = (struct tm_insn){.kind = rule->kind, .address = address, .size = 4, .refusal = rule->refusal};
	decode_addresses(tm_a64_word(bytes), rule->form, insn);
	return true;
}

void tm_aarch64_describe(const uint8_t *bytes, size_t size, uint64_t address, char *text, size_t text_size)
{
	(void)address;
	if (size >= 4)
		snprintf(text, text_size, "word %08" PRIx32, tm_a64_word(bytes));
	else
		snprintf(text, text_size, "%zu bytes", size);
}

struct tm_error *tm_aarch64_find_exits(const uint8_t *bytes, size_t size, uint64_t address,
				       struct tm_exits *exits)
{
	return tm_exits_find(tm_aarch64_decode, bytes, size, address, exits);
}
