/* x86-64 as data. The register numbers are those of the psABI, figure 3.36. */
#include "arch/arch.h"

#include <elf.h>

#include "arch/x86_64_insn.h"

enum { RAX, RDX, RCX, RBX, RSI, RDI, RBP, RSP, R8, R9, R10, R11, R12, R13, R14, R15, RIP, REGISTER_COUNT };

#define BIT(n) ((uint64_t)1 << (n))

static const char *const names[REGISTER_COUNT] = {
	"rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8",
	"r9",  "r10", "r11", "r12", "r13", "r14", "r15", "rip",
};

/* Byte offsets into struct user_regs_struct of <sys/user.h>, which other hosts do not have. */
enum {
	USER_RAX = 80,
	USER_RDX = 96,
	USER_RSI = 104,
	USER_RDI = 112,
	USER_R8 = 72,
	USER_R9 = 64,
	USER_R10 = 56,
	USER_ORIG_RAX = 120,
	USER_FS_BASE = 168,
	USER_REGS_SIZE = 216,
};

static const uint16_t regset_offsets[REGISTER_COUNT] = {
	[RAX] = USER_RAX, [RDX] = USER_RDX, [RCX] = 88,	 [RBX] = 40,	 [RSI] = USER_RSI,
	[RDI] = USER_RDI, [RBP] = 32,	    [RSP] = 152, [R8] = USER_R8, [R9] = USER_R9,
	[R10] = USER_R10, [R11] = 48,	    [R12] = 24,	 [R13] = 16,	 [R14] = 8,
	[R15] = 0,	  [RIP] = 128,
};

const struct tm_arch tm_arch_x86_64 = {
	.name = "x86_64",
	.elf_machine = EM_X86_64,

	.register_count = REGISTER_COUNT,
	.pc = RIP,
	.sp = RSP,
	.fp = RBP,
	.link = -1,
	.register_names = names,
	.callee_saved = BIT(RBX) | BIT(RBP) | BIT(R12) | BIT(R13) | BIT(R14) | BIT(R15),

	.argument_count = 6,
	.arguments = {RDI, RSI, RDX, RCX, R8, R9},
	.result = RAX,
	.entry_cfa_offset = 8,
	.return_cfa_offset = 8,

	.breakpoint_size = 1,
	.breakpoint = {0xcc}, /* int3 */
	.breakpoint_pc_after = 1,
	.insn_align = 1,
	.stop_point_size = 2,
	.stop_point = {0x66, 0x90}, /* xchg %ax,%ax */

	.regset_size = USER_REGS_SIZE,
	.regset_offsets = regset_offsets,
	.thread_pointer_offset = USER_FS_BASE, /* psABI 3.4.6 */

	.syscall_insn = {0x0f, 0x05}, /* syscall */
	.syscall_insn_size = 2,
	.syscall_number = USER_RAX,
	.syscall_result = USER_RAX,
	.syscall_arguments = {USER_RDI, USER_RSI, USER_RDX, USER_R10, USER_R8, USER_R9},
	.regset_thread_pointer = USER_FS_BASE,
	.syscall_restart = USER_ORIG_RAX,
	.syscall_mmap = 9,
	.syscall_munmap = 11,

	.default_pac_mask = 0,
	.near_reach = ((uint64_t)1 << 31) - 4096, /* disp32, rel32 */

	.relocate = tm_x86_64_relocate,
	.find_exits = tm_x86_64_find_exits,
};
