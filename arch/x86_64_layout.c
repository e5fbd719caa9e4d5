#include "arch/x86_64_layout.h"

#include <string.h>

/*
 * What follows an opcode, one letter each:
 *	.  nothing          m  ModRM                   ?  not an instruction of 64-bit mode, or not for us
 *	b  imm8             B  ModRM, imm8             p  prefix or escape, handled before the table is read
 *	z  imm16 or imm32   Z  ModRM, imm16 or imm32   r  rel32 (imm16 with a lone 0x66 on some CPUs: refused)
 *	w  imm16            e  imm16, imm8 (enter)     v  imm16, imm32 or imm64
 *	o  address          t  ModRM, imm8 if reg is 0, 1      T  ModRM, imm16 or imm32 if reg is 0, 1
 */
static const char one_byte_map[] = "mmmmbz??mmmmbz?p" /* 00 */
				   "mmmmbz??mmmmbz??" /* 10 */
				   "mmmmbzp?mmmmbzp?" /* 20 */
				   "mmmmbzp?mmmmbzp?" /* 30 */
				   "pppppppppppppppp" /* 40: REX */
				   "................" /* 50 */
				   "??pmppppzZbB...." /* 60: 62 EVEX */
				   "bbbbbbbbbbbbbbbb" /* 70 */
				   "BZ?Bmmmmmmmmmmmm" /* 80 */
				   "..........?....." /* 90 */
				   "oooo....bz......" /* a0 */
				   "bbbbbbbbvvvvvvvv" /* b0 */
				   "BBw.ppBZe.w..b?." /* c0: c4, c5 VEX */
				   "mmmm???.mmmmmmmm" /* d0 */
				   "bbbbbbbbrr?b...." /* e0 */
				   "p.pp..tT......mm" /* f0 */;

static const char map_0f[] = "mmmm?.....?.?m.?" /* 00: 0f 3DNow! */
			     "mmmmmmmmmmmmmmmm" /* 10 */
			     "mmmm????mmmmmmmm" /* 20 */
			     "......?.p?p?????" /* 30 */
			     "mmmmmmmmmmmmmmmm" /* 40 */
			     "mmmmmmmmmmmmmmmm" /* 50 */
			     "mmmmmmmmmmmmmmmm" /* 60 */
			     "BBBBmmm.????mmmm" /* 70: 78, 79 have immediates on AMD */
			     "rrrrrrrrrrrrrrrr" /* 80 */
			     "mmmmmmmmmmmmmmmm" /* 90 */
			     "...mBm??...mBmmm" /* a0 */
			     "mmmmmmmmmmBmmmmm" /* b0 */
			     "mmBmBBBm........" /* c0 */
			     "mmmmmmmmmmmmmmmm" /* d0 */
			     "mmmmmmmmmmmmmmmm" /* e0 */
			     "mmmmmmmmmmmmmmmm" /* f0 */;

static uint8_t byte_at(const uint8_t *bytes, size_t size, size_t at)
{
	return at < size ? bytes[at] : 0;
}

static bool take_prefix(struct tm_x86_layout *layout, uint8_t byte)
{
	switch (byte) {
	case 0xf0:
		layout->lock = true;
		return true;
	case 0xf2:
	case 0xf3:
		layout->repeat = byte;
		return true;
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x64:
	case 0x65:
		layout->segment = byte;
		return true;
	case 0x66:
		layout->operand_size = true;
		return true;
	case 0x67:
		layout->address_size = true;
		return true;
	}
	return false;
}

/* SDM volume 2, 2.3.2: with a VEX prefix, lock, 66, F2, F3 and REX are errors. */
static bool vector_prefix_allowed(const struct tm_x86_layout *layout)
{
	return !layout->lock && !layout->operand_size && !layout->repeat && !layout->rex;
}

/* The operand form in a VEX or EVEX map; '?' for maps that are not known to have only such instructions. */
static char vector_form(unsigned map, uint8_t opcode)
{
	switch (map) {
	case 1:
		if (opcode == 0x77)
			return '.';
		return (opcode >= 0x70 && opcode <= 0x73) || opcode == 0xc2 ||
				       (opcode >= 0xc4 && opcode <= 0xc6)
			       ? 'B'
			       : 'm';
	case 2:
	case 5:
	case 6:
		return 'm';
	case 3:
		return 'B';
	}
	return '?';
}

/* The prefix at `at` has `length` bytes, map and opcode behind it are known then. */
static char parse_vector(const uint8_t *bytes, size_t size, size_t at, struct tm_x86_layout *layout)
{
	uint8_t first = bytes[at], second = byte_at(bytes, size, at + 1);
	unsigned length = first == 0xc5 ? 2 : first == 0xc4 ? 3 : 4;
	unsigned map = first == 0xc5 ? 1 : first == 0xc4 ? second & 0x1f : second & 7;

	if (!vector_prefix_allowed(layout) || at + length >= size)
		return '?';
	/* EVEX: bit 3 of the first payload byte is 0 and bit 2 of the second is 1, but for APX. */
	if (first == 0x62 && ((second & 8) || !(bytes[at + 2] & 4) || map == 0 || map == 4))
		return '?';
	if (first != 0x62 && map > 3)
		return '?';
	layout->map = TM_X86_VECTOR;
	layout->opcode_at = (uint8_t)(at + length);
	layout->opcode = bytes[layout->opcode_at];
	return vector_form(map, layout->opcode);
}

static char legacy_form(enum tm_x86_map map, uint8_t opcode)
{
	switch (map) {
	case TM_X86_ONE_BYTE:
		return one_byte_map[opcode];
	case TM_X86_0F:
		return map_0f[opcode];
	case TM_X86_0F38:
		return 'm';
	case TM_X86_0F3A:
		return 'B';
	case TM_X86_VECTOR:
		break;
	}
	return '?';
}

static char parse_legacy(const uint8_t *bytes, size_t size, size_t at, struct tm_x86_layout *layout)
{
	layout->map = TM_X86_ONE_BYTE;
	if (bytes[at] == 0x0f) {
		uint8_t next = byte_at(bytes, size, ++at);

		layout->map = next == 0x38 ? TM_X86_0F38 : next == 0x3a ? TM_X86_0F3A : TM_X86_0F;
		at += layout->map != TM_X86_0F;
	}
	if (at >= size)
		return '?';
	layout->opcode_at = (uint8_t)at;
	layout->opcode = bytes[at];
	return legacy_form(layout->map, layout->opcode);
}

/* Prefixes and opcode. Returns the operand form. */
static char parse_opcode(const uint8_t *bytes, size_t size, struct tm_x86_layout *layout)
{
	size_t at = 0;

	while (at < size && take_prefix(layout, bytes[at]))
		at++;
	if (at < size && (bytes[at] & 0xf0) == 0x40)
		layout->rex = bytes[at++];
	if (at >= size || at >= TM_X86_INSN_SIZE_MAX)
		return '?';
	if (bytes[at] == 0x62 || bytes[at] == 0xc4 || bytes[at] == 0xc5)
		return parse_vector(bytes, size, at, layout);
	return parse_legacy(bytes, size, at, layout);
}

/* ModRM, SIB and displacement (SDM volume 2, tables 2-2 and 2-3). Returns the offset behind them, 0: cut off.
 */
static size_t parse_modrm(const uint8_t *bytes, size_t size, struct tm_x86_layout *layout)
{
	size_t at = layout->opcode_at + 1u;
	bool has_sib;

	if (at >= size)
		return 0;
	layout->modrm_at = (uint8_t)at;
	layout->modrm = bytes[at++];
	has_sib = tm_x86_mod(layout) != 3 && tm_x86_rm(layout) == 4;
	if (has_sib && at >= size)
		return 0;
	if (tm_x86_mod(layout) == 1)
		layout->displacement_size = 1;
	else if (tm_x86_mod(layout) == 2 || tm_x86_rip_relative(layout) ||
		 (tm_x86_mod(layout) == 0 && has_sib && (bytes[at] & 7) == 5))
		layout->displacement_size = 4;
	at += has_sib;
	layout->displacement_at = (uint8_t)at;
	return at + layout->displacement_size;
}

static uint8_t immediate_size(const struct tm_x86_layout *layout, char form)
{
	bool wide = layout->rex & TM_X86_REX_W;
	uint8_t z = layout->operand_size && !wide ? 2 : 4;
	bool is_test = tm_x86_reg(layout) <= 1;

	switch (form) {
	case 'b':
	case 'B':
		return 1;
	case 'z':
	case 'Z':
		return z;
	case 'r':
		return 4;
	case 'w':
		return 2;
	case 'e':
		return 3;
	case 'v':
		return wide ? 8 : z;
	case 'o':
		return layout->address_size ? 4 : 8;
	case 't':
		return is_test;
	case 'T':
		return is_test ? z : 0;
	}
	return 0;
}

bool tm_x86_layout_parse(const uint8_t *bytes, size_t size, struct tm_x86_layout *layout)
{
	size_t at;
	char form;

	memset(layout, 0, sizeof(*layout));
	form = parse_opcode(bytes, size, layout);
	if (form == '?' || form == 'p')
		return false;
	at = strchr("mBZtT", form) ? parse_modrm(bytes, size, layout) : layout->opcode_at + 1u;
	if (!at)
		return false;
	/* 8f is pop; with another reg field it is AMD's XOP prefix. */
	if (layout->map == TM_X86_ONE_BYTE && layout->opcode == 0x8f && tm_x86_reg(layout) != 0)
		return false;
	layout->immediate_at = (uint8_t)at;
	layout->immediate_size = immediate_size(layout, form);
	at += layout->immediate_size;
	if (at > size || at > TM_X86_INSN_SIZE_MAX)
		return false;
	layout->size = (uint8_t)at;
	return true;
}
