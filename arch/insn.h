/*
 * One decoded instruction, as far as moving it and following control flow need it. Internal to arch/.
 */
#ifndef TM_ARCH_INSN_H
#define TM_ARCH_INSN_H

#include "arch/arch.h"

enum tm_insn_kind {
	TM_INSN_PLAIN,	 /* goes on behind itself */
	TM_INSN_PADDING, /* nop, and int3 as linkers and compilers fill gaps with it */
	TM_INSN_BRANCH,	 /* conditional jump to `target` */
	TM_INSN_JUMP,	 /* jump to `target` */
	TM_INSN_JUMP_INDIRECT,
	TM_INSN_CALL, /* call of `target` */
	TM_INSN_CALL_INDIRECT,
	TM_INSN_RETURN,
	TM_INSN_TRAP, /* never goes on: ud2, hlt, brk */
};

struct tm_insn {
	enum tm_insn_kind kind;
	uint64_t address;
	uint8_t size;
	bool lock_prefix;    /* x86: `lock` is first; glibc jumps over it where one thread runs */
	bool refers;	     /* has a pc-relative operand other than a jump's target */
	uint64_t target;     /* of a direct jump, branch, call */
	uint64_t reference;  /* the address that the pc-relative operand names */
	const char *refusal; /* why it cannot be moved; NULL: it can */
};

/* Decodes the instruction at `address`, of which `size` bytes are at hand; false: none that is known. */
typedef bool (*tm_insn_decode_fn)(const uint8_t *bytes, size_t size, uint64_t address, struct tm_insn *insn);

/* The sweep behind tm_arch.find_exits. */
struct tm_error *tm_exits_find(tm_insn_decode_fn decode, const uint8_t *bytes, size_t size, uint64_t address,
			       struct tm_exits *exits);

/* Whether control may pass to the instruction behind. A call's return is not that: it is the callee's doing.
 */
static inline bool tm_insn_goes_on(enum tm_insn_kind kind)
{
	switch (kind) {
	case TM_INSN_PLAIN:
	case TM_INSN_PADDING:
	case TM_INSN_BRANCH:
		return true;
	case TM_INSN_JUMP:
	case TM_INSN_JUMP_INDIRECT:
	case TM_INSN_CALL:
	case TM_INSN_CALL_INDIRECT:
	case TM_INSN_RETURN:
	case TM_INSN_TRAP:
		return false;
	}
	return false;
}

#endif
