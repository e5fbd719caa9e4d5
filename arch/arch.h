/*
 * What the rest of the program must know about a CPU, as data and pure functions. Every architecture is
 * compiled on every host; nothing here touches a process or includes a ptrace header. Registers are indexed
 * by their DWARF numbers. The disassembler is used in x86_64_insn.c alone.
 *
 * Sources: System V psABI x86-64 1.0 (3.2.1 registers, 3.2.2 stack frame, 3.6.2 DWARF numbers); AAPCS64 and
 * "DWARF for the Arm 64-bit Architecture" (aadwarf64, 4.1); user_regs_struct of <sys/user.h>;
 * user_pt_regs of <asm/ptrace.h> (aarch64).
 */
#ifndef TM_ARCH_ARCH_H
#define TM_ARCH_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define TM_REGISTERS_MAX  33 /* aarch64: x0..x30, sp, pc */
#define TM_REGSET_MAX	  512
#define TM_PAD_CODE_MAX	  96 /* bytes: what five bytes of code can become, with the jumps back */
#define TM_PAD_POINTS_MAX 16
#define TM_INSN_BYTES_MAX 16

/* The general registers of a stopped thread, by DWARF number. */
struct tm_regs {
	uint64_t value[TM_REGISTERS_MAX];
	uint64_t
		thread_pointer; /* 0 where the register set does not have it; only read, never written back */
};

/*
 * Instructions moved to a pad: `code`, to be written at the address that it was made for. Executed from its
 * first byte it does what the instructions did at their own address, and then goes on behind them there. No
 * register, flag or byte of live memory gets another value than there (the bytes below the stack pointer are
 * not live on aarch64, which has no red zone). A call leaves the ORIGINAL return address.
 *
 * `points`, ascending by pad_offset, tells for each instruction boundary in the pad which pc of the original
 * program the thread's state stands for; 0 where there is none (a pushed return address, a scratch register):
 * such a thread must run on until it has left the pad. An address that is no boundary has no point: it is
 * data.
 *
 * Not kept: hardware shadow stacks (CET SHSTK, arm64 GCS). A relocated call is a push (a load of the link
 * register) and a jump, which a shadow stack does not see: on such a thread the callee's return would fault.
 */
struct tm_relocated {
	uint8_t code[TM_PAD_CODE_MAX];
	size_t size;	 /* bytes of code */
	size_t consumed; /* bytes of original instructions that were moved */
	struct {
		uint16_t pad_offset;
		uint64_t original_pc;
	} points[TM_PAD_POINTS_MAX];
	size_t point_count;
};

/* A way out of a function's body, at which the stack pointer and the registers that a callee keeps are what
   they were at its beginning: a return instruction, or a jump to another function. */
struct tm_way_out {
	uint64_t address;
	/* Of a return: [start, end) holds it, instructions before it that can stand anywhere, and padding
	   behind it. No jump of the body leads there but to the start, so that it may be replaced as one, if
	   it is large enough for a jump; else start is the address. */
	uint64_t start, end;
	bool returns;
	bool jumped_into; /* other code may jump behind the start; whoever knows that sets it */
};

/* The ways by which a function's body leaves it. */
struct tm_exits {
	uint64_t *returns; /* addresses of its return instructions, ascending; the caller frees */
	size_t return_count;
	bool only_returns; /* no tail jump, no indirect jump that is not a proven local table, no code
			      that does not decode: every normal exit is one of `returns` */
	bool tail_jumps;   /* some direct or indirect jump leaves (or may leave) the body, or it runs on */
	/* The lowest address above the body's first that a direct jump of the body goes to, the body's end if
	   none does: the bytes below may be replaced as one. A body that does not decode has its first
	   address here, and no `returns`. */
	uint64_t lowest_target;
	/* All of them, ascending, the caller frees; NULL: there may be others (a branch that leaves, a jump
	   through a register, a body that runs on). */
	struct tm_way_out *ways;
	size_t way_count;
};

struct tm_arch {
	const char *name;     /* "x86_64", "aarch64" (uname -m) */
	uint16_t elf_machine; /* EM_X86_64, EM_AARCH64 */

	unsigned register_count; /* of struct tm_regs */
	unsigned pc, sp, fp;	 /* DWARF numbers; aarch64 gives pc number 32 */
	int link;		 /* link register, or -1 where a call pushes the return address */
	const char *const *register_names;
	/* Bit n: register n keeps its value across a call (default CFI rule "same"). The link register is
	   among them: code without a rule for it has not saved it yet. */
	uint64_t callee_saved;

	/* Calls: integer arguments and result in registers. */
	unsigned argument_count;
	uint8_t arguments[8]; /* DWARF numbers */
	uint8_t result;
	/* At a function's first instruction CFA = SP + entry_cfa_offset; the return address is at CFA - 8
	   where link < 0, else in the link register. */
	int64_t entry_cfa_offset;
	/* At a return instruction CFA = SP + return_cfa_offset; behind the call, in the caller, CFA = SP. */
	int64_t return_cfa_offset;

	/* Breakpoint instruction, and where pc stands after it trapped. */
	uint8_t breakpoint_size;
	uint8_t breakpoint[4];
	unsigned breakpoint_pc_after; /* bytes to subtract from the trapped pc: 1 on x86-64, 0 on aarch64 */
	unsigned insn_align;	      /* every instruction starts at a multiple of this: 1, 4 */
	/* An instruction that does nothing, longer than a breakpoint where those may be shorter than one:
	   what pads have where a breakpoint may be inserted. */
	uint8_t stop_point_size;
	uint8_t stop_point[4];

	/* The NT_PRSTATUS register set (PTRACE_GETREGSET): byte offset of each register. */
	size_t regset_size;
	const uint16_t *regset_offsets;
	uint16_t thread_pointer_offset; /* there too; 0: it is in another set */

	/* System calls: the instruction's bytes; registers as byte offsets into the register set. */
	uint8_t syscall_insn[4], syscall_insn_size;
	uint16_t syscall_number, syscall_result, syscall_arguments[6];
	int regset_thread_pointer; /* offset of the thread pointer (fs's base), or -1: it is in another set */
	int syscall_restart; /* offset of orig_rax, to be -1 to suppress a restart; -1: no such register */
	long syscall_mmap, syscall_munmap;

	/* Addresses as CFI and return addresses give them, without pointer authentication or tag bits:
	   (address & ~mask) where the kernel reports a mask (NT_ARM_PAC_MASK); 0 on x86-64. */
	uint64_t default_pac_mask;

	/* Reach of a direct jump and of pc-relative operands, in bytes either way: how near a pad must stand
	   to the code and (x86-64) to the data of its module, measured to the farthest byte. A page of slack
	   is taken off. */
	uint64_t near_reach;

	/*
	 * Moves whole instructions from `bytes` (original address `from`, `size` bytes at hand) to a pad at
	 * address `to`, until at least min_bytes (1 for a breakpoint) were moved. The caller may then
	 * overwrite [from, from + min_bytes): nothing in the moved instructions jumps, returns or refers into
	 * it, but for jumps to `from` itself, which meet what stands there. Jumps from elsewhere are the
	 * caller's care (lowest_target). Behind an instruction that never goes on, only padding may follow.
	 * Fails with TM_ERROR_UNSUPPORTED, naming the instruction and why, where it cannot be moved exactly
	 * (unknown, suspicious, out of reach; a system call, because the kernel shows its address). On
	 * failure *out is not changed. Costs 5 us an instruction on x86-64, much less on aarch64.
	 */
	struct tm_error *(*relocate)(const uint8_t *bytes, size_t size, uint64_t from, uint64_t to,
				     size_t min_bytes, struct tm_relocated *out);

	/* Finds the exits of the function body `bytes`, which stands at `address`. A body that does not
	   decode to its end has only_returns = false. */
	struct tm_error *(*find_exits)(const uint8_t *bytes, size_t size, uint64_t address,
				       struct tm_exits *exits);
};

extern const struct tm_arch tm_arch_x86_64, tm_arch_aarch64;

/* By e_machine of an ELF file, or NULL. */
const struct tm_arch *tm_arch_by_machine(uint16_t elf_machine);

/* The architecture of this very program. */
const struct tm_arch *tm_arch_host(void);

/* From and to the raw register set of the kernel; `regset` holds at least arch->regset_size bytes. */
void tm_arch_regs_from_regset(const struct tm_arch *arch, const void *regset, struct tm_regs *regs);
void tm_arch_regs_to_regset(const struct tm_arch *arch, const struct tm_regs *regs, void *regset);

/* The address without its pointer authentication bits. */
static inline uint64_t tm_arch_strip(const struct tm_arch *arch, uint64_t pac_mask, uint64_t address)
{
	(void)arch;
	return address & ~pac_mask;
}

void tm_exits_deinit(struct tm_exits *exits);

#endif
