#include "debuginfo/sigreturn.h"

#include <elf.h>
#include <string.h>

/* One trampoline: its code, and where the interrupted registers lie from the stack pointer in it. */
struct trampoline {
	uint16_t machine;
	uint8_t size;
	uint8_t code[TM_SIGRETURN_SIZE_MAX];
	uint8_t register_count;
	uint16_t places[TM_REGISTERS_MAX]; /* by DWARF number */
};

/*
 * x86-64: the handler's `ret` took the restorer's address off, so SP is at struct ucontext. Its mcontext lies
 * at 40 (after uc_flags, uc_link, uc_stack) and holds r8..r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip
 * (<asm/sigcontext.h>). aarch64: SP is at struct rt_sigframe: siginfo (128), then ucontext with its mcontext
 * at 176 (16-aligned behind a sigset padded to 128), which holds fault_address, x0..x30, sp, pc
 * (<asm/sigcontext.h>): x0 is at 312.
 */
#define UC(n) (40 + 8 * (n))
#define X(n)  (312 + 8 * (n))
#define X4(n) X(n), X((n) + 1), X((n) + 2), X((n) + 3)
/* rax rdx rcx rbx rsi rdi rbp rsp r8..r15 rip */
#define X86_64_PLACES                                                                                        \
	{                                                                                                    \
		UC(13), UC(12), UC(14), UC(11), UC(9), UC(8), UC(10), UC(15), UC(0), UC(1), UC(2), UC(3),    \
			UC(4), UC(5), UC(6), UC(7), UC(16)                                                   \
	}
#define AARCH64_PLACES                                                                                       \
	{                                                                                                    \
		X4(0), X4(4), X4(8), X4(12), X4(16), X4(20), X4(24), X4(28), X(32)                           \
	}

/* clang-format off */
static const struct trampoline trampolines[] = {
	/* mov $15,%rax; syscall */
	{EM_X86_64, 9, {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05}, 17, X86_64_PLACES},
	/* mov $15,%eax; syscall */
	{EM_X86_64, 7, {0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05}, 17, X86_64_PLACES},
	/* mov x8,#139; svc #0 */
	{EM_AARCH64, 8, {0x68, 0x11, 0x80, 0xd2, 0x01, 0, 0, 0xd4}, 33, AARCH64_PLACES},
};
/* clang-format on */

static bool stands_in(const struct trampoline *trampoline, const uint8_t *bytes, size_t size, size_t at,
		      size_t *start)
{
	for (size_t first = at + 1 > trampoline->size ? at + 1 - trampoline->size : 0;
	     first <= at + 1 && first + trampoline->size <= size; first++) {
		if (memcmp(bytes + first, trampoline->code, trampoline->size) == 0) {
			*start = first;
			return true;
		}
	}
	return false;
}

static void fill(const struct tm_arch *arch, const struct trampoline *trampoline, struct tm_rule *rules,
		 struct tm_row *row)
{
	row->cfa_register = (uint8_t)arch->sp;
	row->return_register = (uint8_t)arch->pc;
	row->is_signal = true;
	row->rules = rules;
	for (unsigned reg = 0; reg < trampoline->register_count; reg++)
		rules[row->rule_count++] = (struct tm_rule){
			.kind = TM_RULE_AT_CFA, .reg = (uint8_t)reg, .offset = trampoline->places[reg]};
}

bool tm_sigreturn_row(const struct tm_arch *arch, const uint8_t *bytes, size_t size, size_t at,
		      uint64_t vaddr, struct tm_rule *rules, struct tm_row *row)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(trampolines); i++) {
		const struct trampoline *trampoline = &trampolines[i];
		size_t first;

		if (trampoline->machine != arch->elf_machine ||
		    !stands_in(trampoline, bytes, size, at, &first))
			continue;
		memset(row, 0, sizeof(*row));
		fill(arch, trampoline, rules, row);
		row->start = vaddr - at + first - 1;
		row->end = row->start + 1 + trampoline->size;
		return true;
	}
	return false;
}
