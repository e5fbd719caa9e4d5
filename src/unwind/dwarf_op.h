/*
 * The operations of DWARF expressions that CFI may use, by their codes (DWARF 5, table 7.9). A header of our
 * own, because <dwarf.h> comes with libdw, which this layer does not know.
 */
#ifndef TM_UNWIND_DWARF_OP_H
#define TM_UNWIND_DWARF_OP_H

enum tm_dwarf_op {
	TM_OP_DEREF = 0x06,
	TM_OP_CONST1U = 0x08,
	TM_OP_CONST1S = 0x09,
	TM_OP_CONST2U = 0x0a,
	TM_OP_CONST2S = 0x0b,
	TM_OP_CONST4U = 0x0c,
	TM_OP_CONST4S = 0x0d,
	TM_OP_CONST8U = 0x0e,
	TM_OP_CONST8S = 0x0f,
	TM_OP_CONSTU = 0x10,
	TM_OP_CONSTS = 0x11,
	TM_OP_DUP = 0x12,
	TM_OP_DROP = 0x13,
	TM_OP_OVER = 0x14,
	TM_OP_PICK = 0x15,
	TM_OP_SWAP = 0x16,
	TM_OP_ROT = 0x17,
	TM_OP_ABS = 0x19,
	TM_OP_AND = 0x1a,
	TM_OP_DIV = 0x1b,
	TM_OP_MINUS = 0x1c,
	TM_OP_MOD = 0x1d,
	TM_OP_MUL = 0x1e,
	TM_OP_NEG = 0x1f,
	TM_OP_NOT = 0x20,
	TM_OP_OR = 0x21,
	TM_OP_PLUS = 0x22,
	TM_OP_PLUS_UCONST = 0x23,
	TM_OP_SHL = 0x24,
	TM_OP_SHR = 0x25,
	TM_OP_SHRA = 0x26,
	TM_OP_XOR = 0x27,
	TM_OP_BRA = 0x28,
	TM_OP_EQ = 0x29,
	TM_OP_GE = 0x2a,
	TM_OP_GT = 0x2b,
	TM_OP_LE = 0x2c,
	TM_OP_LT = 0x2d,
	TM_OP_NE = 0x2e,
	TM_OP_SKIP = 0x2f,
	TM_OP_LIT0 = 0x30,
	TM_OP_LIT31 = 0x4f,
	TM_OP_BREG0 = 0x70,
	TM_OP_BREG31 = 0x8f,
	TM_OP_BREGX = 0x92,
	TM_OP_DEREF_SIZE = 0x94,
	TM_OP_NOP = 0x96,
	TM_OP_CALL_FRAME_CFA = 0x9c,
};

#endif
