/*
 * What an x86-64 instruction does to control flow, and which instructions cannot run elsewhere. Own tables
 * decide; the disassembler (capstone) must agree on an instruction before it is moved, and gives its text. It
 * alone would not do: version 4.0.2 takes incsspq, umonitor and tpause for fences, does not know rdsspq and
 * many of AVX-512, and reports wrong displacement sizes.
 */
#include "arch/x86_64_insn.h"

#include <capstone/capstone.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "arch/x86_64_layout.h"

/* Conditions of a rule on an instruction's prefixes and operand. */
enum {
	IF_F3 = 1,
	IF_PREFIX = 2,	 /* one of 66, f2, f3 */
	IF_REGISTER = 4, /* ModRM names a register */
	IF_MEMORY = 8,
	IF_NO_REX_B = 16,
	IF_LEGACY = 32, /* no f3: the opcode's plain meaning */
};

#define SYSTEM_CALL "the kernel would see the pad's address (rcx, restarts, cancellation, seccomp filters)"
#define INTERRUPT   "it traps into the kernel, which would see the pad's address"
#define PRIVILEGED  "it is privileged"
#define FAR	    "it is a far transfer of control"
#define UNDEFINED   "it is an undefined instruction"
#define SHADOW	    "it may be a shadow stack or a wait instruction, which disassemblers mistake for others"
#define RARE	    "it is a system instruction whose meaning depends on the CPU"

/* First match wins; what matches no rule is plain. */
static const struct rule {
	enum tm_x86_map map;
	uint8_t first, last;		 /* opcodes */
	uint8_t modrm_mask, modrm_value; /* 0, 0: any */
	uint8_t conditions;
	enum tm_insn_kind kind;
	const char *refusal;
} rules[] = {
	{TM_X86_ONE_BYTE, 0x6c, 0x6f, 0, 0, 0, TM_INSN_PLAIN, PRIVILEGED},		     /* ins, outs */
	{TM_X86_ONE_BYTE, 0x70, 0x7f, 0, 0, 0, TM_INSN_BRANCH, NULL},			     /* jcc rel8 */
	{TM_X86_ONE_BYTE, 0x90, 0x90, 0, 0, IF_NO_REX_B | IF_LEGACY, TM_INSN_PADDING, NULL}, /* nop */
	{TM_X86_ONE_BYTE, 0xc2, 0xc3, 0, 0, 0, TM_INSN_RETURN, NULL},
	{TM_X86_ONE_BYTE, 0xc7, 0xc7, 0xff, 0xf8, 0, TM_INSN_BRANCH,
	 "a transaction's abort would go to the pad"},
	{TM_X86_ONE_BYTE, 0xca, 0xcb, 0, 0, 0, TM_INSN_JUMP_INDIRECT, FAR}, /* retf */
	{TM_X86_ONE_BYTE, 0xcc, 0xcc, 0, 0, 0, TM_INSN_PADDING, "a breakpoint stands there already"},
	{TM_X86_ONE_BYTE, 0xcd, 0xcd, 0, 0, 0, TM_INSN_PLAIN, INTERRUPT},   /* int n */
	{TM_X86_ONE_BYTE, 0xcf, 0xcf, 0, 0, 0, TM_INSN_JUMP_INDIRECT, FAR}, /* iret */
	{TM_X86_ONE_BYTE, 0xe0, 0xe3, 0, 0, 0, TM_INSN_BRANCH, NULL},	    /* loop, jrcxz */
	{TM_X86_ONE_BYTE, 0xe4, 0xe7, 0, 0, 0, TM_INSN_PLAIN, PRIVILEGED},  /* in, out */
	{TM_X86_ONE_BYTE, 0xe8, 0xe8, 0, 0, 0, TM_INSN_CALL, NULL},
	{TM_X86_ONE_BYTE, 0xe9, 0xe9, 0, 0, 0, TM_INSN_JUMP, NULL},
	{TM_X86_ONE_BYTE, 0xeb, 0xeb, 0, 0, 0, TM_INSN_JUMP, NULL},
	{TM_X86_ONE_BYTE, 0xec, 0xef, 0, 0, 0, TM_INSN_PLAIN, PRIVILEGED}, /* in, out */
	{TM_X86_ONE_BYTE, 0xf1, 0xf1, 0, 0, 0, TM_INSN_PLAIN, INTERRUPT},  /* int1 */
	{TM_X86_ONE_BYTE, 0xf4, 0xf4, 0, 0, 0, TM_INSN_TRAP, PRIVILEGED},  /* hlt */
	{TM_X86_ONE_BYTE, 0xfa, 0xfb, 0, 0, 0, TM_INSN_PLAIN, PRIVILEGED}, /* cli, sti */
	{TM_X86_ONE_BYTE, 0xff, 0xff, 0x38, 2 << 3, 0, TM_INSN_CALL_INDIRECT, NULL},
	{TM_X86_ONE_BYTE, 0xff, 0xff, 0x38, 3 << 3, 0, TM_INSN_CALL_INDIRECT, FAR},
	{TM_X86_ONE_BYTE, 0xff, 0xff, 0x38, 4 << 3, 0, TM_INSN_JUMP_INDIRECT, NULL},
	{TM_X86_ONE_BYTE, 0xff, 0xff, 0x38, 5 << 3, 0, TM_INSN_JUMP_INDIRECT, FAR},
	{TM_X86_0F, 0x00, 0x00, 0, 0, 0, TM_INSN_PLAIN, PRIVILEGED},	     /* sldt, ltr, ... */
	{TM_X86_0F, 0x01, 0x01, 0, 0, IF_F3, TM_INSN_PLAIN, SHADOW},	     /* saveprevssp, rstorssp */
	{TM_X86_0F, 0x01, 0x01, 0, 0, IF_MEMORY, TM_INSN_PLAIN, PRIVILEGED}, /* sgdt, lidt, ... */
	{TM_X86_0F, 0x01, 0x01, 0xff, 0xd0, 0, TM_INSN_PLAIN, NULL},	     /* xgetbv */
	{TM_X86_0F, 0x01, 0x01, 0xff, 0xd5, 0, TM_INSN_PLAIN, NULL},	     /* xend */
	{TM_X86_0F, 0x01, 0x01, 0xff, 0xd6, 0, TM_INSN_PLAIN, NULL},	     /* xtest */
	{TM_X86_0F, 0x01, 0x01, 0xfe, 0xee, 0, TM_INSN_PLAIN, NULL},	     /* rdpkru, wrpkru */
	{TM_X86_0F, 0x01, 0x01, 0xff, 0xf9, 0, TM_INSN_PLAIN, NULL},	     /* rdtscp */
	{TM_X86_0F, 0x01, 0x01, 0, 0, 0, TM_INSN_PLAIN, RARE},
	{TM_X86_0F, 0x05, 0x05, 0, 0, 0, TM_INSN_PLAIN, SYSTEM_CALL},		   /* syscall */
	{TM_X86_0F, 0x06, 0x06, 0, 0, 0, TM_INSN_PLAIN, PRIVILEGED},		   /* clts */
	{TM_X86_0F, 0x07, 0x07, 0, 0, 0, TM_INSN_JUMP_INDIRECT, PRIVILEGED},	   /* sysret */
	{TM_X86_0F, 0x08, 0x09, 0, 0, 0, TM_INSN_PLAIN, PRIVILEGED},		   /* invd, wbinvd */
	{TM_X86_0F, 0x0b, 0x0b, 0, 0, 0, TM_INSN_TRAP, UNDEFINED},		   /* ud2 */
	{TM_X86_0F, 0x1e, 0x1e, 0xfe, 0xfa, IF_F3, TM_INSN_PLAIN, NULL},	   /* endbr64, endbr32 */
	{TM_X86_0F, 0x1e, 0x1e, 0, 0, IF_F3 | IF_REGISTER, TM_INSN_PLAIN, SHADOW}, /* rdsspq */
	{TM_X86_0F, 0x1f, 0x1f, 0, 0, 0, TM_INSN_PADDING, NULL},		   /* nop m */
	{TM_X86_0F, 0x20, 0x23, 0, 0, 0, TM_INSN_PLAIN, PRIVILEGED},		   /* mov cr, dr */
	{TM_X86_0F, 0x30, 0x30, 0, 0, 0, TM_INSN_PLAIN, PRIVILEGED},		   /* wrmsr */
	{TM_X86_0F, 0x32, 0x32, 0, 0, 0, TM_INSN_PLAIN, PRIVILEGED},		   /* rdmsr */
	{TM_X86_0F, 0x34, 0x34, 0, 0, 0, TM_INSN_PLAIN, SYSTEM_CALL},		   /* sysenter */
	{TM_X86_0F, 0x35, 0x35, 0, 0, 0, TM_INSN_JUMP_INDIRECT, PRIVILEGED},	   /* sysexit */
	{TM_X86_0F, 0x37, 0x37, 0, 0, 0, TM_INSN_PLAIN, RARE},			   /* getsec */
	{TM_X86_0F, 0x80, 0x8f, 0, 0, 0, TM_INSN_BRANCH, NULL},			   /* jcc rel32 */
	{TM_X86_0F, 0xaa, 0xaa, 0, 0, 0, TM_INSN_TRAP, PRIVILEGED},		   /* rsm */
	{TM_X86_0F, 0xae, 0xae, 0xe0, 0xe0, IF_PREFIX, TM_INSN_PLAIN, SHADOW}, /* incsspq, umwait, ptwrite */
	{TM_X86_0F, 0xae, 0xae, 0x38, 6 << 3, IF_F3, TM_INSN_PLAIN, SHADOW},   /* clrssbsy, umonitor */
	{TM_X86_0F, 0xb9, 0xb9, 0, 0, 0, TM_INSN_TRAP, UNDEFINED},	       /* ud1 */
	{TM_X86_0F, 0xff, 0xff, 0, 0, 0, TM_INSN_TRAP, UNDEFINED},	       /* ud0 */
};

static bool conditions_hold(const struct rule *rule, const struct tm_x86_layout *layout)
{
	uint8_t c = rule->conditions;

	return (!(c & IF_F3) || layout->repeat == 0xf3) &&
	       (!(c & IF_PREFIX) || layout->repeat || layout->operand_size) &&
	       (!(c & IF_REGISTER) || tm_x86_register_form(layout)) &&
	       (!(c & IF_MEMORY) || !tm_x86_register_form(layout)) &&
	       (!(c & IF_NO_REX_B) || !(layout->rex & TM_X86_REX_B)) &&
	       (!(c & IF_LEGACY) || layout->repeat != 0xf3);
}

static const struct rule *find_rule(const struct tm_x86_layout *layout)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(rules); i++) {
		const struct rule *rule = &rules[i];

		if (rule->map == layout->map && layout->opcode >= rule->first &&
		    layout->opcode <= rule->last && (layout->modrm & rule->modrm_mask) == rule->modrm_value &&
		    conditions_hold(rule, layout))
			return rule;
	}
	return NULL;
}

static int64_t signed_field(const uint8_t *bytes, size_t size)
{
	int32_t wide;

	if (size == 1)
		return (int8_t)bytes[0];
	memcpy(&wide, bytes, sizeof(wide));
	return wide;
}

static bool transfers_control(enum tm_insn_kind kind)
{
	return kind != TM_INSN_PLAIN && kind != TM_INSN_PADDING && kind != TM_INSN_TRAP;
}

static void decode_addresses(const uint8_t *bytes, const struct tm_x86_layout *layout, struct tm_insn *insn)
{
	uint64_t next = insn->address + layout->size;

	if (insn->kind == TM_INSN_BRANCH || insn->kind == TM_INSN_JUMP || insn->kind == TM_INSN_CALL)
		insn->target =
			next + (uint64_t)signed_field(bytes + layout->immediate_at, layout->immediate_size);
	insn->refers = tm_x86_rip_relative(layout);
	if (insn->refers)
		insn->reference = next + (uint64_t)signed_field(bytes + layout->displacement_at, 4);
	if (insn->refers && layout->address_size)
		insn->refusal = "its operand is relative to eip";
}

bool tm_x86_64_decode(const uint8_t *bytes, size_t size, uint64_t address, struct tm_insn *insn)
{
	struct tm_x86_layout layout;
	const struct rule *rule;

	if (!tm_x86_layout_parse(bytes, size, &layout))
		return false;
	rule = find_rule(&layout);
	*insn = (struct tm_insn){
		.kind = rule ? rule->kind : TM_INSN_PLAIN,
		.address = address,
		.size = layout.size,
		.lock_prefix = bytes[0] == 0xf0,
		.refusal = rule ? rule->refusal : NULL,
	};
	/* 66 without REX.W: 16 bits of rip on AMD, ignored by Intel, so that even the length differs (SDM
	   volume 2, JMP; AMD APM volume 3, 1.2.4). No compiler writes it. */
	if (transfers_control(insn->kind) && layout.operand_size && !(layout.rex & TM_X86_REX_W))
		return false;
	decode_addresses(bytes, &layout, insn);
	return true;
}

/* The disassembler, opened once in each thread that asks: that costs 5 us, and its first use half a
   millisecond. 0: it cannot be. It lives as long as the thread. */
static csh disassembler(void)
{
	static _Thread_local csh handle;

	if (!handle && cs_open(CS_ARCH_X86, CS_MODE_64, &handle) != CS_ERR_OK)
		handle = 0;
	return handle;
}

/* One instruction; NULL: unknown. The caller frees it (cs_free, 1). */
static cs_insn *disassemble(const uint8_t *bytes, size_t size, uint64_t address)
{
	csh handle = disassembler();
	cs_insn *insn = NULL;

	return handle && cs_disasm(handle, bytes, size, address, 1, &insn) == 1 ? insn : NULL;
}

/* All instructions of a VEX or EVEX map have one layout, so that one of them may be newer than the
 * disassembler. */
static bool is_vector(const uint8_t *bytes, size_t size)
{
	struct tm_x86_layout layout;

	return tm_x86_layout_parse(bytes, size, &layout) && layout.map == TM_X86_VECTOR;
}

const char *tm_x86_64_confirm(const uint8_t *bytes, size_t size, const struct tm_insn *insn)
{
	cs_insn *other = disassemble(bytes, size, insn->address);
	bool same_size = other && other->size == insn->size;

	if (!other)
		return is_vector(bytes, size) ? NULL : "the disassembler does not know it";
	cs_free(other, 1);
	return same_size ? NULL : "two decoders do not agree on its length";
}

void tm_x86_64_describe(const uint8_t *bytes, size_t size, uint64_t address, char *text, size_t text_size)
{
	cs_insn *insn = disassemble(bytes, size, address);
	size_t length = 0;

	if (insn) {
		snprintf(text, text_size, "%s%s%s", insn->mnemonic, insn->op_str[0] ? " " : "", insn->op_str);
		cs_free(insn, 1);
		return;
	}
	snprintf(text, text_size, "no bytes");
	for (size_t i = 0; i < size && i < TM_INSN_BYTES_MAX && length + 4 < text_size; i++)
		length += (size_t)snprintf(text + length, text_size - length, i ? " %02x" : "%02x", bytes[i]);
}

struct tm_error *tm_x86_64_find_exits(const uint8_t *bytes, size_t size, uint64_t address,
				      struct tm_exits *exits)
{
	return tm_exits_find(tm_x86_64_decode, bytes, size, address, exits);
}
