/*
 * The code of a jump patch, and of a call-through pad that it may lead to: keep arguments of the call on the
 *stack, call the original function (its relocated beginning), have a place for a breakpoint behind it,
 *return. Without the breakpoint the pad is inert and may stay for ever. It changes no register and no flag.
 *
 *	function:	jmp pad
 *	pad:		push argument, last one first; an odd number of words, so that the stack stays aligned
 *			call *original(%rip)
 *	stop:		xchg %ax,%ax		where the function returns to, and where a breakpoint may
 *stand lea 8*words(%rsp),%rsp ret original:	.quad
 *
 * The bytes do not depend on where they stand. At the stop:
 *
 *	sp -> | argument 0 | argument 1 | ... | return address of the call | the caller's frame
 */
#ifndef TM_ARCH_CALL_PAD_H
#define TM_ARCH_CALL_PAD_H

#include "arch/arch.h"

#define TM_JUMP_SIZE_MAX      8
#define TM_CALL_PAD_ARGUMENTS 3
#define TM_CALL_PAD_SIZE_MAX  40

struct tm_call_pad {
	uint8_t code[TM_CALL_PAD_SIZE_MAX];
	size_t size;
	uint16_t stop;	   /* offset of the stop point */
	uint16_t words;	   /* on the stack there, below the call's return address */
	uint64_t original; /* what it calls */
};

/* Bytes that a jump patch takes; 0: the architecture has none yet. */
size_t tm_jump_size(const struct tm_arch *arch);

/* A jump from one address to another; false where it does not reach. */
bool tm_jump_make(const struct tm_arch *arch, uint64_t from, uint64_t to, uint8_t code[TM_JUMP_SIZE_MAX]);

/* Is it such a jump, and where to? `code` has tm_jump_size bytes. */
bool tm_jump_parse(const struct tm_arch *arch, const uint8_t *code, uint64_t from, uint64_t *to);

/* Where jumps must not lead: [start, end). */
struct tm_jump_range {
	uint64_t start, end;
	bool found; /* one leads there */
};

/* Does any jump or call with a displacement of 32 bits, at whatever byte of `code` (which stands at
 * `address`), lead into one of the ranges? Sets `found` of those, and leaves the others as they are. Bytes
 * that only look like a jump count as well. Jumps with 8 bits are not looked at. Where that cannot be told
 * all are found. */
void tm_jumps_find(const struct tm_arch *arch, const uint8_t *code, size_t size, uint64_t address,
		   struct tm_jump_range *ranges, size_t count);

/* A pad that keeps `count` of the call's arguments (numbers of arch->arguments, 1..TM_CALL_PAD_ARGUMENTS of
 * them). TM_ERROR_UNSUPPORTED for an architecture that has none yet. */
struct tm_error *tm_call_pad_make(const struct tm_arch *arch, const uint8_t *arguments, size_t count,
				  uint64_t original, struct tm_call_pad *pad);

/* Is this the code of a call-through pad? Then *pad tells how it is built. */
bool tm_call_pad_parse(const struct tm_arch *arch, const uint8_t *code, size_t size, struct tm_call_pad *pad);

/* How many bytes below the return address of the call the stack pointer stands before the instruction at this
 * offset; false if none begins there. */
bool tm_call_pad_depth(const struct tm_call_pad *pad, size_t offset, uint64_t *depth);

#endif
