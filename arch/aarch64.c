/* aarch64 as data. Register numbers: aadwarf64, 4.1; 32 stands for pc, which has no number there for user
 * code. */
#include "arch/arch.h"

#include <elf.h>

#include "arch/aarch64_insn.h"

enum { X0 = 0, X19 = 19, X29 = 29, X30 = 30, SP = 31, PC = 32, REGISTER_COUNT };

#define BIT(n) ((uint64_t)1 << (n))

static const char *const names[REGISTER_COUNT] = {
	"x0",  "x1",  "x2",  "x3",  "x4",  "x5",  "x6",	 "x7",	"x8",  "x9",  "x10",
	"x11", "x12", "x13", "x14", "x15", "x16", "x17", "x18", "x19", "x20", "x21",
	"x22", "x23", "x24", "x25", "x26", "x27", "x28", "x29", "x30", "sp",  "pc",
};

/* struct user_pt_regs: regs[31], sp, pc, pstate. */
#define USER_X(n) (8 * (n))
enum { USER_PT_REGS_SIZE = 272 };

static const uint16_t regset_offsets[REGISTER_COUNT] = {
	USER_X(0),  USER_X(1),	USER_X(2),  USER_X(3),	USER_X(4),  USER_X(5),	USER_X(6),
	USER_X(7),  USER_X(8),	USER_X(9),  USER_X(10), USER_X(11), USER_X(12), USER_X(13),
	USER_X(14), USER_X(15), USER_X(16), USER_X(17), USER_X(18), USER_X(19), USER_X(20),
	USER_X(21), USER_X(22), USER_X(23), USER_X(24), USER_X(25), USER_X(26), USER_X(27),
	USER_X(28), USER_X(29), USER_X(30), USER_X(SP), USER_X(PC),
};

const struct tm_arch tm_arch_aarch64 = {
	.name = "aarch64",
	.elf_machine = EM_AARCH64,

	.register_count = REGISTER_COUNT,
	.pc = PC,
	.sp = SP,
	.fp = X29,
	.link = X30,
	.register_names = names,
	.callee_saved = BIT(X30 + 1) - BIT(X19), /* AAPCS64 6.1.1: x19..x29; and the link register */

	.argument_count = 8,
	.arguments = {0, 1, 2, 3, 4, 5, 6, 7},
	.result = X0,
	.entry_cfa_offset = 0,
	.return_cfa_offset = 0,

	.breakpoint_size = 4,
	.breakpoint = {0x00, 0x00, 0x20, 0xd4}, /* brk #0 */
	.breakpoint_pc_after = 0,
	.insn_align = 4,
	.stop_point_size = 4,
	.stop_point = {0x1f, 0x20, 0x03, 0xd5}, /* nop */

	.regset_size = USER_PT_REGS_SIZE,
	.regset_offsets = regset_offsets,

	.syscall_insn = {0x01, 0x00, 0x00, 0xd4}, /* svc #0 */
	.syscall_insn_size = 4,
	.syscall_number = USER_X(8),
	.syscall_result = USER_X(0),
	.syscall_arguments = {USER_X(0), USER_X(1), USER_X(2), USER_X(3), USER_X(4), USER_X(5)},
	.regset_thread_pointer = -1,
	.syscall_restart = -1,
	.syscall_mmap = 222,
	.syscall_munmap = 215,

	/* 48 bits of address, bit 55 chooses the kernel's half; above it tags (TBI), the rest is the PAC. */
	.default_pac_mask = 0xff7f000000000000u,
	.near_reach = ((uint64_t)1 << 27) - 4096, /* b */

	.relocate = tm_aarch64_relocate,
	.find_exits = tm_aarch64_find_exits,
};
