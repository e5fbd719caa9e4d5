/*
 * The pad of a patched function whose calls are first told to somebody in the target: it calls `enter` with
 * the call's first three arguments and `guard` as the fourth. That answers for the function (rdx is not 0
 * then, rax is what the function returns), or the call goes on to the original function (its relocated
 * beginning). All general registers are kept for it; `enter` must leave the others alone. Where there is a
 * `leave`, the original is called, not jumped to, and leave(guard) behind it; that is for functions that are
 * called by their address alone.
 *
 *	pad:		push rax rdi rsi rdx rcx r8 r9, without a leave r10 r11	(an odd number of words)
 *			mov guard(%rip),%rcx
 *			call *enter(%rip)
 *			test %edx,%edx
 *			jne answer
 *			pop all of them
 *			jmp *original(%rip)
 *		or:	sub $8,%rsp ; call *original(%rip) ; mov %rax,(%rsp)
 *			mov guard(%rip),%rdi ; call *leave(%rip) ; pop %rax ; ret
 *	answer:		mov %rax,its word ; pop all of them ; ret
 *		or:	add $56,%rsp ; ret
 *	enter guard original leave:	.quad
 *
 * The bytes do not depend on where they stand, and change nothing but by what they call: they may stay for
 * ever.
 */
#ifndef TM_ARCH_GUARD_PAD_H
#define TM_ARCH_GUARD_PAD_H

#include "arch/arch.h"

#define TM_GUARD_PAD_SIZE_MAX 112

/* Addresses. */
struct tm_guard_pad {
	uint64_t enter, guard, original;
	uint64_t leave; /* 0: none */
};

/* TM_ERROR_UNSUPPORTED for an architecture that has none yet. */
struct tm_error *tm_guard_pad_make(const struct tm_arch *arch, const struct tm_guard_pad *pad,
				   uint8_t code[TM_GUARD_PAD_SIZE_MAX], size_t *size);

/* Is this the code of such a pad? Then *pad tells where it leads. */
bool tm_guard_pad_parse(const struct tm_arch *arch, const uint8_t *code, size_t size,
			struct tm_guard_pad *pad);

#endif
