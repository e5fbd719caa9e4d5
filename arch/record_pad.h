/*
 * Pads that record: what the jump at the beginning of a native allocator function leads to. They call entries
 *of the recorder (src/recorder/native.c), which keep all registers, and go on to the function's relocated
 *beginning. No register that a caller may rely on is changed: nothing but flags and r11. While the recorder
 *is off they are inert, and may stay for ever.
 *
 *	all:		mov enabled(%rip),%r11	the address of the recorder's word: 0 is off
 *			cmpl $0,(%r11); je 1f
 *
 *	enter:		test %rdi,%rdi; je 1f	where a call without a block (free of NULL) is none
 *			call *entry(%rip)	before the call
 *
 *	call through:	push argument ...	the last one first; with `what` an odd number of words
 *			push $what		its lowest byte is the number of words
 *			call *entry(%rip)	only where there is something to tell before the call
 *			call *original(%rip)
 *			call *leave(%rip)	behind the call, with its result in rax
 *			lea 8*words(%rsp),%rsp
 *			ret
 *
 *	way out:	push, push $what, call *leave(%rip), lea	as above. It stands before a return of
 *the function: first are the instructions before that, and `original` is the return
 *
 *	all:	1:	jmp *original(%rip)
 *
 * r11 is nobody's at a function's entry (psABI 3.2.3). The constants stand behind the code: the bytes do not
 *depend on where they stand.
 */
#ifndef TM_ARCH_RECORD_PAD_H
#define TM_ARCH_RECORD_PAD_H

#include "arch/arch.h"

#define TM_RECORD_PAD_SIZE_MAX	112 /* what a slot of target/pad.h holds */
#define TM_RECORD_PAD_ARGUMENTS 3
#define TM_RECORD_PAD_BEFORE	24

struct tm_record_pad_plan {
	uint64_t enabled;      /* address of the recorder's word (uint32_t) */
	uint64_t original;     /* the function's relocated beginning */
	uint64_t entry;	       /* of the recorder, before the call; 0: none */
	uint64_t leave;	       /* behind it; 0: the function is not called through */
	bool needs_block;      /* not called through: only calls with a first argument are told */
	bool way_out;	       /* not called through, but told behind the call */
	const uint8_t *before; /* of a way out: instructions that can stand anywhere, */
	size_t before_size;    /* at most TM_RECORD_PAD_BEFORE bytes */
	/* Of a call-through pad, and of a way out. */
	uint32_t what; /* for the recorder (src/recorder/shared.h), without the number of words */
	size_t argument_count;
	uint8_t arguments[TM_RECORD_PAD_ARGUMENTS]; /* numbers of arch->arguments */
};

struct tm_record_pad {
	uint8_t code[TM_RECORD_PAD_SIZE_MAX];
	size_t size;
	uint64_t original;
	uint16_t before;    /* bytes of the function's that are first */
	uint16_t words;	    /* on the stack during the calls; 0: none */
	uint16_t call_size; /* offset behind the call of the original function; 0: there is none */
};

/* TM_ERROR_UNSUPPORTED for an architecture that has none yet. */
struct tm_error *tm_record_pad_make(const struct tm_arch *arch, const struct tm_record_pad_plan *plan,
				    struct tm_record_pad *pad);

/* Is this the code of such a pad? Then *pad tells how it is built. */
bool tm_record_pad_parse(const struct tm_arch *arch, const uint8_t *code, size_t size,
			 struct tm_record_pad *pad);

/* How many bytes below the return address of the call the stack pointer stands before the instruction at this
 * offset, which is also where a call of the pad's returns to; false if none begins there. */
bool tm_record_pad_depth(const struct tm_record_pad *pad, size_t offset, uint64_t *depth);

#endif
