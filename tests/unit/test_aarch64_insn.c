/* Moving aarch64 instructions, bytes to bytes, and finding the exits of small functions; on any host. */
#include <criterion/criterion.h>

#include <capstone/capstone.h>

#include "arch/aarch64_insn.h"
#include "base/hash.h"
#include "support/relocation_rows.h"

#define NEAR 0x20000u
#define FAR  0x8020000u

/* clang-format off */
static const struct tm_move_row moves[] = {
	{"malloc of glibc: a plain store", NEAR, 1,
	 "fd 7b bc a9", /* stp x29, x30, [sp, #-64]! */
	 "fd 7b bc a9 " /* stp x29, x30, [sp, #-64]! */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"malloc of jemalloc", NEAR, 1,
	 "1f 04 40 f1", /* cmp x0, #1, lsl #12 */
	 "1f 04 40 f1 " /* cmp x0, #1, lsl #12 */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"free of glibc: a branch", NEAR, 1,
	 "80 08 00 b4", /* cbz x0, 0x10110 */
	 "40 00 00 b4 " /* cbz x0, 0x20008 */
	 "00 c0 ff 17 " /* b 0x10004 */
	 "42 c0 ff 17", /* b 0x10110 */
	 4, "0=10000 4=10004 8=10110"},
	{"a branch backwards", NEAR, 1,
	 "03 fe ff 35", /* cbnz w3, 0xffc0 */
	 "43 00 00 35 " /* cbnz w3, 0x20008 */
	 "00 c0 ff 17 " /* b 0x10004 */
	 "ee bf ff 17", /* b 0xffc0 */
	 4, "0=10000 4=10004 8=ffc0"},
	{"a conditional branch", NEAR, 1,
	 "08 02 00 54", /* b.hi 0x10040 */
	 "48 00 00 54 " /* b.hi 0x20008 */
	 "00 c0 ff 17 " /* b 0x10004 */
	 "0e c0 ff 17", /* b 0x10040 */
	 4, "0=10000 4=10004 8=10040"},
	{"a branch on a bit", NEAR, 1,
	 "03 02 40 b6", /* tbz x3, #40, 0x10040 */
	 "43 00 40 b6 " /* tbz x3, #40, 0x20008 */
	 "00 c0 ff 17 " /* b 0x10004 */
	 "0e c0 ff 17", /* b 0x10040 */
	 4, "0=10000 4=10004 8=10040"},
	{"a branch on a bit, backwards", NEAR, 1,
	 "03 fe 27 37", /* tbnz w3, #4, 0xffc0 */
	 "43 00 20 37 " /* tbnz w3, #4, 0x20008 */
	 "00 c0 ff 17 " /* b 0x10004 */
	 "ee bf ff 17", /* b 0xffc0 */
	 4, "0=10000 4=10004 8=ffc0"},
	{"realloc of jemalloc: an address of a page", NEAR, 1,
	 "f0 11 00 b0",             /* adrp x16, 0x24d000 */
	 "50 00 00 58 "             /* ldr x16, 0x20008 */
	 "00 c0 ff 17 "             /* b 0x10004 */
	 "00 d0 24 00 00 00 00 00", /* .quad 0x24d000 */
	 4, "0=10000 4=10004"},
	{"an address", NEAR, 1,
	 "03 08 00 10",             /* adr x3, 0x10100 */
	 "43 00 00 58 "             /* ldr x3, 0x20008 */
	 "00 c0 ff 17 "             /* b 0x10004 */
	 "00 01 01 00 00 00 00 00", /* .quad 0x10100 */
	 4, "0=10000 4=10004"},
	{"an address backwards, odd", NEAR, 1,
	 "e3 ff ff 70",             /* adr x3, 0xffff */
	 "43 00 00 58 "             /* ldr x3, 0x20008 */
	 "00 c0 ff 17 "             /* b 0x10004 */
	 "ff ff 00 00 00 00 00 00", /* .quad 0xffff */
	 4, "0=10000 4=10004"},
	{"a literal", NEAR, 1,
	 "05 02 00 58",             /* ldr x5, 0x10040 */
	 "65 00 00 58 "             /* ldr x5, 0x2000c */
	 "a5 00 40 f9 "             /* ldr x5, [x5] */
	 "ff bf ff 17 "             /* b 0x10004 */
	 "40 00 01 00 00 00 00 00", /* .quad 0x10040 */
	 4, "0=10000 4=10000 8=10004"},
	{"a literal of 32 bits", NEAR, 1,
	 "05 02 00 18",             /* ldr w5, 0x10040 */
	 "65 00 00 58 "             /* ldr x5, 0x2000c */
	 "a5 00 40 b9 "             /* ldr w5, [x5] */
	 "ff bf ff 17 "             /* b 0x10004 */
	 "40 00 01 00 00 00 00 00", /* .quad 0x10040 */
	 4, "0=10000 4=10000 8=10004"},
	{"a signed literal", NEAR, 1,
	 "05 02 00 98",             /* ldrsw x5, 0x10040 */
	 "65 00 00 58 "             /* ldr x5, 0x2000c */
	 "a5 00 80 b9 "             /* ldrsw x5, [x5] */
	 "ff bf ff 17 "             /* b 0x10004 */
	 "40 00 01 00 00 00 00 00", /* .quad 0x10040 */
	 4, "0=10000 4=10000 8=10004"},
	{"a SIMD literal of 4 bytes", NEAR, 1,
	 "05 02 00 1c",             /* ldr s5, 0x10040 */
	 "f0 0f 1f f8 "             /* str x16, [sp, #-16]! */
	 "90 00 00 58 "             /* ldr x16, 0x20014 */
	 "05 02 40 bd "             /* ldr s5, [x16] */
	 "f0 07 41 f8 "             /* ldr x16, [sp], #16 */
	 "fd bf ff 17 "             /* b 0x10004 */
	 "40 00 01 00 00 00 00 00", /* .quad 0x10040 */
	 4, "0=10000 4=0 8=0 12=0 16=10004"},
	{"a SIMD literal of 8 bytes", NEAR, 1,
	 "05 02 00 5c",             /* ldr d5, 0x10040 */
	 "f0 0f 1f f8 "             /* str x16, [sp, #-16]! */
	 "90 00 00 58 "             /* ldr x16, 0x20014 */
	 "05 02 40 fd "             /* ldr d5, [x16] */
	 "f0 07 41 f8 "             /* ldr x16, [sp], #16 */
	 "fd bf ff 17 "             /* b 0x10004 */
	 "40 00 01 00 00 00 00 00", /* .quad 0x10040 */
	 4, "0=10000 4=0 8=0 12=0 16=10004"},
	{"a SIMD literal of 16 bytes", NEAR, 1,
	 "05 02 00 9c",             /* ldr q5, 0x10040 */
	 "f0 0f 1f f8 "             /* str x16, [sp, #-16]! */
	 "90 00 00 58 "             /* ldr x16, 0x20014 */
	 "05 02 c0 3d "             /* ldr q5, [x16] */
	 "f0 07 41 f8 "             /* ldr x16, [sp], #16 */
	 "fd bf ff 17 "             /* b 0x10004 */
	 "40 00 01 00 00 00 00 00", /* .quad 0x10040 */
	 4, "0=10000 4=0 8=0 12=0 16=10004"},
	{"a prefetch of a literal", NEAR, 1,
	 "00 02 00 d8", /* prfm pldl1keep, 0x10040 */
	 "1f 20 03 d5 " /* nop */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"a jump", NEAR, 1,
	 "00 04 00 14", /* b 0x11000 */
	 "00 c4 ff 17", /* b 0x11000 */
	 4, "0=10000"},
	{"a call", NEAR, 1,
	 "00 04 00 94",             /* bl 0x11000 */
	 "5e 00 00 58 "             /* ldr x30, 0x20008 */
	 "ff c3 ff 17 "             /* b 0x11000 */
	 "04 00 01 00 00 00 00 00", /* .quad 0x10004 */
	 4, "0=10000 4=11000"},
	{"an indirect call", NEAR, 1,
	 "00 01 3f d6",             /* blr x8 */
	 "5e 00 00 58 "             /* ldr x30, 0x20008 */
	 "00 01 1f d6 "             /* br x8 */
	 "04 00 01 00 00 00 00 00", /* .quad 0x10004 */
	 4, "0=10000 4=0"},
	{"an authenticated call", NEAR, 1,
	 "22 08 3f d7",             /* blraa x1, x2 */
	 "5e 00 00 58 "             /* ldr x30, 0x20008 */
	 "22 08 1f d7 "             /* braa x1, x2 */
	 "04 00 01 00 00 00 00 00", /* .quad 0x10004 */
	 4, "0=10000 4=0"},
	{"an authenticated call, modifier zero", NEAR, 1,
	 "ff 08 3f d6",             /* blraaz x7 */
	 "5e 00 00 58 "             /* ldr x30, 0x20008 */
	 "ff 08 1f d6 "             /* braaz x7 */
	 "04 00 01 00 00 00 00 00", /* .quad 0x10004 */
	 4, "0=10000 4=0"},
	{"an indirect jump", NEAR, 1,
	 "00 02 1f d6", /* br x16 */
	 "00 02 1f d6", /* br x16 */
	 4, "0=10000"},
	{"an authenticated jump", NEAR, 1,
	 "3f 08 1f d7", /* braa x1, sp */
	 "3f 08 1f d7", /* braa x1, sp */
	 4, "0=10000"},
	{"a return", NEAR, 1,
	 "c0 03 5f d6", /* ret */
	 "c0 03 5f d6", /* ret */
	 4, "0=10000"},
	{"a return through another register", NEAR, 1,
	 "a0 00 5f d6", /* ret x5 */
	 "a0 00 5f d6", /* ret x5 */
	 4, "0=10000"},
	{"an authenticated return", NEAR, 1,
	 "ff 0b 5f d6", /* retaa */
	 "ff 0b 5f d6", /* retaa */
	 4, "0=10000"},
	{"signing a return address", NEAR, 1,
	 "3f 23 03 d5", /* paciasp */
	 "3f 23 03 d5 " /* paciasp */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"checking one", NEAR, 1,
	 "bf 23 03 d5", /* autiasp */
	 "bf 23 03 d5 " /* autiasp */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"a landing place", NEAR, 1,
	 "5f 24 03 d5", /* bti c */
	 "5f 24 03 d5 " /* bti c */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"stripping one", NEAR, 1,
	 "fe 43 c1 da", /* xpaci x30 */
	 "fe 43 c1 da " /* xpaci x30 */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"nop, as code", NEAR, 1,
	 "1f 20 03 d5", /* nop */
	 "1f 20 03 d5 " /* nop */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"the thread pointer", NEAR, 1,
	 "40 d0 3b d5", /* mrs x0, tpidr_el0 */
	 "40 d0 3b d5 " /* mrs x0, tpidr_el0 */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"an atomic operation", NEAR, 1,
	 "41 00 e0 f8", /* ldaddal x0, x1, [x2] */
	 "41 00 e0 f8 " /* ldaddal x0, x1, [x2] */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"compare and swap", NEAR, 1,
	 "41 7c a0 c8", /* cas x0, x1, [x2] */
	 "41 7c a0 c8 " /* cas x0, x1, [x2] */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"compare and swap of a pair", NEAR, 1,
	 "82 7c 20 48", /* casp x0, x1, x2, x3, [x4] */
	 "82 7c 20 48 " /* casp x0, x1, x2, x3, [x4] */
	 "00 c0 ff 17", /* b 0x10004 */
	 4, "0=10000 4=10004"},
	{"two instructions", NEAR, 5,
	 "00 04 00 b4 " /* cbz x0, 0x10080 */
	 "fd 7b bc a9", /* stp x29, x30, [sp, #-64]! */
	 "60 00 00 b4 " /* cbz x0, 0x2000c */
	 "fd 7b bc a9 " /* stp x29, x30, [sp, #-64]! */
	 "00 c0 ff 17 " /* b 0x10008 */
	 "1d c0 ff 17", /* b 0x10080 */
	 8, "0=10000 4=10004 8=10008 12=10080"},
	{"a return and padding", NEAR, 5,
	 "c0 03 5f d6 " /* ret */
	 "1f 20 03 d5", /* nop */
	 "c0 03 5f d6", /* ret */
	 8, "0=10000"},
};
/* clang-format on */

static const struct tm_refusal_row refusals[] = {
	{"svc #0", "01 00 00 d4", NEAR, 1,
	 "the kernel would see the pad's address (restarts, cancellation, seccomp filters)"},
	{"brk #1000", "00 7d 20 d4", NEAR, 1, "a breakpoint stands there already"},
	{"hlt #0", "00 00 40 d4", NEAR, 1, "it traps into the kernel or a debugger"},
	{"ldxr x0, [x1]", "20 7c 5f c8", NEAR, 1, "a trap would break its exclusive access for ever"},
	{"stlxr w3, x0, [x1]", "20 fc 03 c8", NEAR, 1, "a trap would break its exclusive access for ever"},
	{"ldxp x0, x2, [x1]", "20 08 7f c8", NEAR, 1, "a trap would break its exclusive access for ever"},
	{"blr x30", "c0 03 3f d6", NEAR, 1, "it calls through the link register"},
	{"blraa x1, x30", "3e 08 3f d7", NEAR, 1, "it calls through the link register"},
	{"paciasppc", "fe a3 c1 da", NEAR, 1, "it signs or checks a pointer against its own address"},
	{"autiasppc", "1f 02 80 f3", NEAR, 1, "it signs or checks a pointer against its own address"},
	{"retaasppc", "1f 00 00 55", NEAR, 1, "it is unknown or cut off"},
	{"retaasppcr x5", "e5 0b 5f d6", NEAR, 1, "it is unknown or cut off"},
	{"eret", "e0 03 9f d6", NEAR, 1, "it is unknown or cut off"},
	{"ldr xzr, literal", "1f 02 00 58", NEAR, 1, "it loads a literal into the zero register"},
	{"udf #0", "00 00 00 00", NEAR, 1, "it is unknown or cut off"},
	{"three bytes", "1f 20 03", NEAR, 1, "it is unknown or cut off"},
	{"nop, far", "1f 20 03 d5", FAR, 1, "a jump is out of reach (128 MB) of the pad"},
	{"b, far", "00 04 00 14", FAR, 1, "a jump is out of reach (128 MB) of the pad"},
	{"cbz, far", "00 04 00 b4", FAR, 1, "a jump is out of reach (128 MB) of the pad"},
	{"code behind a return", "c0 03 5f d6 fd 7b bc a9", NEAR, 5,
	 "the instruction before it never goes on to it"},
	{"blr that returns into the patch", "00 01 3f d6 1f 20 03 d5", NEAR, 8,
	 "it returns into the bytes that would be overwritten"},
	{"cbz into the patch", "20 00 00 b4 1f 20 03 d5", NEAR, 8,
	 "it jumps into the bytes that would be overwritten"},
	{"ldr that reads the patch", "20 00 00 58 1f 20 03 d5", NEAR, 8,
	 "it refers to the bytes that would be overwritten"},
};

Test(aarch64_insn, moves_are_these_bytes)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(moves); i++) {
		_cleanup_free_ char *difference = tm_move_row_check(&tm_arch_aarch64, &moves[i]);

		cr_expect_null(difference, "%s", difference);
	}
}

Test(aarch64_insn, refusals_say_why)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(refusals); i++) {
		_cleanup_free_ char *difference = tm_refusal_row_check(&tm_arch_aarch64, &refusals[i]);

		cr_expect_null(difference, "%s", difference);
	}
}

Test(aarch64_insn, a_message_names_the_instruction_and_its_address)
{
	static const uint8_t svc[] = {0x01, 0x00, 0x00, 0xd4};
	struct tm_relocated moved;
	_cleanup_error_ struct tm_error *err = tm_arch_aarch64.relocate(svc, 4, 0x401000, NEAR, 1, &moved);

	cr_assert_not_null(err);
	cr_assert_str_eq(err->message,
			 "cannot move `word d4000001` at 0x401000: the kernel would see the pad's address "
			 "(restarts, cancellation, seccomp filters)");
}

Test(aarch64_insn, a_pad_is_aligned)
{
	static const uint8_t nop[] = {0x1f, 0x20, 0x03, 0xd5};
	struct tm_relocated moved;
	_cleanup_error_ struct tm_error *err =
		tm_arch_aarch64.relocate(nop, 4, 0x401000, NEAR + 2, 1, &moved);

	cr_assert_not_null(err);
}

/* ---- exits ---- */

/* clang-format off */
static const struct {
	const char *what, *body;
	bool only_returns, tail_jumps;
	size_t return_count;
	uint64_t lowest_target; /* all addresses are offsets from the body's first byte */
	uint64_t returns[3];
} exit_rows[] = {
	{"a return", "c0 03 5f d6", true, false, 1, 4, {0}},
	{"an authenticated return", "bf 23 03 d5 ff 0b 5f d6", true, false, 1, 8, {4}},
	{"two returns and a branch between",
	 "40 00 00 b4 " /* cbz x0, 8 */
	 "c0 03 5f d6 " /* ret */
	 "a0 00 5f d6", /* ret x5 */
	 true, false, 2, 8, {4, 8}},
	{"a tail jump",
	 "00 04 00 14", /* b out */
	 false, true, 0, 4, {0}},
	{"a branch out and a return",
	 "80 08 00 b4 " /* cbz x0, out */
	 "c0 03 5f d6", /* ret */
	 false, true, 1, 8, {4}},
	{"an indirect jump",
	 "00 02 1f d6 " /* br x16 */
	 "c0 03 5f d6", /* ret */
	 false, true, 1, 8, {4}},
	{"an authenticated jump",
	 "3f 08 1f d7", /* braa x1, sp */
	 false, true, 0, 4, {0}},
	{"a call that does not return",
	 "c0 03 5f d6 " /* ret */
	 "00 04 00 94", /* bl abort */
	 true, false, 1, 8, {0}},
	{"a trap at the end",
	 "c0 03 5f d6 " /* ret */
	 "00 7d 20 d4", /* brk #1000 */
	 true, false, 1, 8, {0}},
	{"an end that is run over",
	 "c0 03 5f d6 " /* ret */
	 "fd 7b bc a9", /* stp x29, x30, [sp, #-64]! */
	 false, true, 1, 8, {0}},
	{"exclusive accesses",
	 "20 7c 5f c8 " /* ldxr x0, [x1] */
	 "20 fc 03 c8 " /* stlxr w3, x0, [x1] */
	 "c3 ff ff 35 " /* cbnz w3, 0 */
	 "c0 03 5f d6", /* ret */
	 true, false, 1, 16, {12}},
	/* What is not believed: nothing is reported but that anything may happen. */
	{"a literal in the body",
	 "40 00 00 58 " /* ldr x0, 8 */
	 "c0 03 5f d6 " /* ret */
	 "c0 03 5f d6 " /* .quad */
	 "c0 03 5f d6",
	 false, true, 0, 0, {0}},
	{"zeroes", "c0 03 5f d6 00 00 00 00", false, true, 0, 0, {0}},
	{"half an instruction", "c0 03 5f d6 1f 20", false, true, 0, 0, {0}},
};
/* clang-format on */

Test(aarch64_insn, exits_are_found)
{
	const uint64_t address = 0xffff80401000;

	for (size_t i = 0; i < TM_ARRAY_SIZE(exit_rows); i++) {
		uint8_t bytes[64];
		size_t size = tm_row_bytes(exit_rows[i].body, bytes, sizeof(bytes));
		const char *what = exit_rows[i].what;
		struct tm_exits exits;

		cr_assert_null(tm_arch_aarch64.find_exits(bytes, size, address, &exits));
		cr_expect_eq(exits.only_returns, exit_rows[i].only_returns, "%s: only_returns", what);
		cr_expect_eq(exits.tail_jumps, exit_rows[i].tail_jumps, "%s: tail_jumps", what);
		cr_expect_eq(exits.lowest_target, address + exit_rows[i].lowest_target, "%s: lowest_target",
			     what);
		cr_assert_eq(exits.return_count, exit_rows[i].return_count, "%s: return_count", what);
		for (size_t k = 0; k < exits.return_count; k++)
			cr_expect_eq(exits.returns[k], address + exit_rows[i].returns[k], "%s: returns",
				     what);
		tm_exits_deinit(&exits);
	}
}

/* ---- against the disassembler ---- */

static bool has_immediate(const cs_arm64 *detail)
{
	for (unsigned i = 0; i < detail->op_count; i++)
		if (detail->operands[i].type == ARM64_OP_IMM)
			return true;
	return false;
}

/* Whether an instruction reads pc, as the disassembler sees it. */
static bool depends_on_pc(csh handle, const cs_insn *insn)
{
	switch (insn->id) {
	case ARM64_INS_ADR:
	case ARM64_INS_ADRP:
		return true;
	case ARM64_INS_LDR:
	case ARM64_INS_LDRSW:
	case ARM64_INS_PRFM: {
		const cs_arm64 *detail = &insn->detail->arm64;

		return has_immediate(detail) && detail->operands[detail->op_count - 1].type == ARM64_OP_IMM &&
		       !detail->writeback && detail->op_count == 2;
	}
	}
	return cs_insn_group(handle, insn, CS_GRP_BRANCH_RELATIVE) ||
	       cs_insn_group(handle, insn, CS_GRP_CALL) || insn->id == ARM64_INS_BLR;
}

static bool is_copied(const struct tm_insn *decoded, uint32_t word)
{
	return !decoded->refusal && tm_a64_form(word) == TM_A64_AS_IS;
}

/* Pseudo-random words that the disassembler knows. */
struct sample {
	csh handle;
	cs_insn *insn;
	uint64_t seed, end;
	uint8_t bytes[4];
	uint32_t word;
};

static struct sample sample_start(void)
{
	struct sample sample = {.end = 400000};

	cr_assert_eq(cs_open(CS_ARCH_ARM64, CS_MODE_ARM, &sample.handle), CS_ERR_OK);
	cs_option(sample.handle, CS_OPT_DETAIL, CS_OPT_ON);
	sample.insn = cs_malloc(sample.handle);
	return sample;
}

static bool sample_next(struct sample *sample)
{
	while (sample->seed < sample->end) {
		const uint8_t *code = sample->bytes;
		size_t size = sizeof(sample->bytes);
		uint64_t address = TM_ROW_FROM;

		sample->word = (uint32_t)tm_hash_u64(++sample->seed);
		for (unsigned i = 0; i < 4; i++)
			sample->bytes[i] = (uint8_t)(sample->word >> 8 * i);
		if (cs_disasm_iter(sample->handle, &code, &size, &address, sample->insn))
			return true;
	}
	cs_free(sample->insn, 1);
	cs_close(&sample->handle);
	return false;
}

Test(aarch64_insn, nothing_that_reads_pc_is_copied)
{
	struct sample sample = sample_start();
	unsigned dependent = 0;
	struct tm_insn decoded;

	while (sample_next(&sample)) {
		if (!depends_on_pc(sample.handle, sample.insn))
			continue;
		dependent++;
		cr_expect(!tm_aarch64_decode(sample.bytes, 4, TM_ROW_FROM, &decoded) ||
				  !is_copied(&decoded, sample.word),
			  "%08x: %s %s", sample.word, sample.insn->mnemonic, sample.insn->op_str);
	}
	cr_assert_gt(dependent, 20000);
}

Test(aarch64_insn, instructions_of_the_disassembler_are_known)
{
	struct sample sample = sample_start();
	unsigned known = 0, unknown = 0;
	struct tm_insn decoded;

	while (sample_next(&sample)) {
		known++;
		unknown += !tm_aarch64_decode(sample.bytes, 4, TM_ROW_FROM, &decoded);
	}
	cr_assert_gt(known, 100000);
	cr_assert_lt(unknown * 1000, known, "%u of %u", unknown, known);
}
