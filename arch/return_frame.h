/*
 * A frame by which a thread takes its registers back without anybody's help: what the kernel puts on a stack
 * before a signal handler, and takes from it at rt_sigreturn(2) (Linux, arch/x86/kernel/signal_64.c and
 * fpu/signal.c). A thread whose stack pointer is the frame's address, and which executes a return
 * instruction, goes on as it was when the frame was made. Data and a pure function; writing the frame and
 * finding the code is the caller's.
 */
#ifndef TM_ARCH_RETURN_FRAME_H
#define TM_ARCH_RETURN_FRAME_H

#include "arch/arch.h"

#define TM_RETURN_FRAME_MAX 16384u

struct tm_return_frame {
	_Alignas(64) uint8_t bytes[TM_RETURN_FRAME_MAX];
	size_t size;
	uint64_t address; /* in the target: where the bytes go, and the stack pointer */
};

/* What a thread stands in. */
struct tm_return_state {
	const uint64_t *regset; /* NT_PRSTATUS: struct user_regs_struct */
	uint64_t signal_mask;
	const uint8_t *extended; /* NT_X86_XSTATE: the floating point and vector registers */
	size_t extended_size;
	uint64_t restorer; /* address of code that calls rt_sigreturn */
	uint64_t stack;	   /* upper end of the memory that the frame goes to; 0: the thread's own stack */
};

/* False: not for this architecture, or these registers. A system call that the stop has interrupted is begun
 * again, as the kernel would; one that goes on by restart_syscall(2) returns EINTR. */
bool tm_return_frame_make(const struct tm_arch *arch, const struct tm_return_state *state,
			  struct tm_return_frame *frame);

/* Makes of a thread's NT_PRSTATUS what it enters a function with, of one argument, whose stack pointer is
 * `sp`: the function returns to the address that is there (psABI x86-64 3.2.3). False as above. */
bool tm_return_frame_enter(const struct tm_arch *arch, uint64_t *regset, uint64_t function, uint64_t argument,
			   uint64_t sp);

/* The code that is looked for in the target: a system call and a return behind it, and what calls
 * rt_sigreturn. NULL at the end of each list. */
struct tm_code_bytes {
	uint8_t bytes[12], size;
};
const struct tm_code_bytes *tm_call_and_return_code(const struct tm_arch *arch);
const struct tm_code_bytes *tm_restorer_code(const struct tm_arch *arch);

#endif
