/*
 * Where the parts of an x86-64 instruction stand (Intel SDM volume 2, chapter 2 and appendix A). Lengths come
 * from here because breakpoints and jumps are planted on them: the disassembler's are a second opinion.
 * Internal to arch/.
 */
#ifndef TM_ARCH_X86_64_LAYOUT_H
#define TM_ARCH_X86_64_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TM_X86_INSN_SIZE_MAX 15

enum tm_x86_map {
	TM_X86_ONE_BYTE,
	TM_X86_0F,
	TM_X86_0F38,
	TM_X86_0F3A,
	TM_X86_VECTOR, /* any map of a VEX or EVEX prefix: never control flow, never privileged */
};

struct tm_x86_layout {
	uint8_t size;
	uint8_t repeat;			       /* last of the prefixes 0xf2, 0xf3; 0: none */
	uint8_t segment;		       /* last segment prefix (0x3e is also notrack); 0: none */
	bool lock, operand_size, address_size; /* prefixes 0xf0, 0x66, 0x67 */
	uint8_t rex;			       /* 0: none */
	enum tm_x86_map map;
	uint8_t opcode, opcode_at;
	uint8_t modrm, modrm_at;   /* modrm_at 0: there is none */
	uint8_t displacement_size; /* stands behind ModRM and SIB */
	uint8_t displacement_at;
	uint8_t immediate_size, immediate_at;
};

#define TM_X86_REX_W 8
#define TM_X86_REX_R 4
#define TM_X86_REX_B 1

/* False: cut off, not an instruction of 64-bit mode, one whose length depends on the vendor, or one that no
   compiler writes (REX not last, XOP, 3DNow!, APX). */
bool tm_x86_layout_parse(const uint8_t *bytes, size_t size, struct tm_x86_layout *layout);

static inline unsigned tm_x86_mod(const struct tm_x86_layout *layout)
{
	return layout->modrm >> 6;
}

static inline unsigned tm_x86_reg(const struct tm_x86_layout *layout)
{
	return layout->modrm >> 3 & 7;
}

static inline unsigned tm_x86_rm(const struct tm_x86_layout *layout)
{
	return layout->modrm & 7;
}

/* SDM volume 2, table 2-7: mod 0, rm 5 is disp32 from the next instruction. */
static inline bool tm_x86_rip_relative(const struct tm_x86_layout *layout)
{
	return layout->modrm_at && tm_x86_mod(layout) == 0 && tm_x86_rm(layout) == 5;
}

/* The operand in ModRM is a register. */
static inline bool tm_x86_register_form(const struct tm_x86_layout *layout)
{
	return layout->modrm_at && tm_x86_mod(layout) == 3;
}

#endif
