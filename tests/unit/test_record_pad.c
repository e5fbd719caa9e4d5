/*
 * Pads that record: their bytes, what they are recognised by, and (on x86-64) what the code that they call
 * sees, in this process: every register and the words on the stack, before, in and behind the original
 * function.
 */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>

#include "arch/call_pad.h"
#include "arch/guard_pad.h"
#include "arch/record_pad.h"
#include "base/cleanup.h"
#include "support/guarded_bytes.h"

#define PAGE	 4096u
#define ORIGINAL UINT64_C(0x1122334455667788)
#define ENTRY	 UINT64_C(0x2122232425262728)
#define LEAVE	 UINT64_C(0x3132333435363738)
#define ENABLED	 UINT64_C(0x4142434445464748)
#define WHAT	 0x12340500u

static const struct tm_arch *const arch = &tm_arch_x86_64;

static struct tm_record_pad make(const struct tm_record_pad_plan *plan)
{
	struct tm_record_pad pad;
	_cleanup_error_ struct tm_error *err = tm_record_pad_make(arch, plan, &pad);

	cr_assert_null(err);
	return pad;
}

#define WORD_OF_ORIGINAL 0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11
#define WORD_OF_ENABLED	 0x48, 0x47, 0x46, 0x45, 0x44, 0x43, 0x42, 0x41
#define WORD_OF_ENTRY	 0x28, 0x27, 0x26, 0x25, 0x24, 0x23, 0x22, 0x21
#define WORD_OF_LEAVE	 0x38, 0x37, 0x36, 0x35, 0x34, 0x33, 0x32, 0x31
#define NO_WORD		 0, 0, 0, 0, 0, 0, 0, 0

/* mov enabled(%rip),%r11; cmpl $0,(%r11); je to the last instruction */
#define BEGIN(displacement, distance)                                                                        \
	0x4c, 0x8b, 0x1d, displacement, 0, 0, 0, 0x41, 0x83, 0x3b, 0, 0x74, distance
#define END 0xff, 0x25, 0x00, 0, 0, 0 /* jmp *original(%rip) */

static const struct shape {
	const char *name;
	struct tm_record_pad_plan plan;
	uint8_t code[TM_RECORD_PAD_SIZE_MAX];
	size_t size;
	uint16_t words, call_size;
	int depths[16]; /* before the instructions, in their order; -1: the end */
	uint8_t lengths[16];
} shapes[] = {
	{"enter",
	 {.original = ORIGINAL, .enabled = ENABLED, .entry = ENTRY},
	 {
		 BEGIN(0x1a, 0x06),
		 0xff,
		 0x15,
		 0x16,
		 0,
		 0,
		 0, /* call *entry(%rip) */
		 END,
		 WORD_OF_ORIGINAL,
		 WORD_OF_ENABLED,
		 WORD_OF_ENTRY,
		 NO_WORD,
	 },
	 57,
	 0,
	 0,
	 {0, 0, 0, 0, 0, -1},
	 {7, 4, 2, 6, 6}},
	{"enter with a block",
	 {.original = ORIGINAL, .enabled = ENABLED, .entry = ENTRY, .needs_block = true},
	 {
		 BEGIN(0x1f, 0x0b),
		 0x48,
		 0x85,
		 0xff, /* test %rdi,%rdi */
		 0x74,
		 0x06, /* je to the last instruction */
		 0xff,
		 0x15,
		 0x16,
		 0,
		 0,
		 0, /* call *entry(%rip) */
		 END,
		 WORD_OF_ORIGINAL,
		 WORD_OF_ENABLED,
		 WORD_OF_ENTRY,
		 NO_WORD,
	 },
	 62,
	 0,
	 0,
	 {0, 0, 0, 0, 0, 0, 0, -1},
	 {7, 4, 2, 3, 2, 6, 6}},
	{"one argument",
	 {.original = ORIGINAL,
	  .enabled = ENABLED,
	  .leave = LEAVE,
	  .what = WHAT,
	  .argument_count = 1,
	  .arguments = {0}},
	 {
		 BEGIN(0x2d, 0x19),
		 0x57,
		 0x57, /* push %rdi, twice */
		 0x68,
		 0x03,
		 0x05,
		 0x34,
		 0x12, /* push $0x12340503 */
		 0xff,
		 0x15,
		 0x12,
		 0,
		 0,
		 0, /* call *original(%rip) */
		 0xff,
		 0x15,
		 0x24,
		 0,
		 0,
		 0, /* call *leave(%rip) */
		 0x48,
		 0x8d,
		 0x64,
		 0x24,
		 0x18, /* lea 24(%rsp),%rsp */
		 0xc3, /* ret */
		 END,
		 WORD_OF_ORIGINAL,
		 WORD_OF_ENABLED,
		 NO_WORD,
		 WORD_OF_LEAVE,
	 },
	 76,
	 3,
	 26,
	 {0, 0, 0, 0, 8, 16, 24, 24, 24, 0, 0, -1},
	 {7, 4, 2, 1, 1, 5, 6, 6, 5, 1, 6}},
	{"two arguments",
	 {.original = ORIGINAL,
	  .enabled = ENABLED,
	  .leave = LEAVE,
	  .what = WHAT,
	  .argument_count = 2,
	  .arguments = {2, 1}},
	 {
		 BEGIN(0x2d, 0x19),
		 0x56,
		 0x52, /* push %rsi; push %rdx */
		 0x68,
		 0x03,
		 0x05,
		 0x34,
		 0x12, /* push $0x12340503 */
		 0xff,
		 0x15,
		 0x12,
		 0,
		 0,
		 0, /* call *original(%rip) */
		 0xff,
		 0x15,
		 0x24,
		 0,
		 0,
		 0, /* call *leave(%rip) */
		 0x48,
		 0x8d,
		 0x64,
		 0x24,
		 0x18, /* lea 24(%rsp),%rsp */
		 0xc3, /* ret */
		 END,
		 WORD_OF_ORIGINAL,
		 WORD_OF_ENABLED,
		 NO_WORD,
		 WORD_OF_LEAVE,
	 },
	 76,
	 3,
	 26,
	 {0, 0, 0, 0, 8, 16, 24, 24, 24, 0, 0, -1},
	 {7, 4, 2, 1, 1, 5, 6, 6, 5, 1, 6}},
	{"two arguments and an entry",
	 {.original = ORIGINAL,
	  .enabled = ENABLED,
	  .entry = ENTRY,
	  .leave = LEAVE,
	  .what = WHAT,
	  .argument_count = 2,
	  .arguments = {0, 1}},
	 {
		 BEGIN(0x33, 0x1f),
		 0x56,
		 0x57, /* push %rsi; push %rdi */
		 0x68,
		 0x03,
		 0x05,
		 0x34,
		 0x12, /* push $0x12340503 */
		 0xff,
		 0x15,
		 0x28,
		 0,
		 0,
		 0, /* call *entry(%rip) */
		 0xff,
		 0x15,
		 0x12,
		 0,
		 0,
		 0, /* call *original(%rip) */
		 0xff,
		 0x15,
		 0x24,
		 0,
		 0,
		 0, /* call *leave(%rip) */
		 0x48,
		 0x8d,
		 0x64,
		 0x24,
		 0x18, /* lea 24(%rsp),%rsp */
		 0xc3, /* ret */
		 END,
		 WORD_OF_ORIGINAL,
		 WORD_OF_ENABLED,
		 WORD_OF_ENTRY,
		 WORD_OF_LEAVE,
	 },
	 82,
	 3,
	 32,
	 {0, 0, 0, 0, 8, 16, 24, 24, 24, 24, 0, 0, -1},
	 {7, 4, 2, 1, 1, 5, 6, 6, 6, 5, 1, 6}},
	{"three arguments and an entry",
	 {.original = ORIGINAL,
	  .enabled = ENABLED,
	  .entry = ENTRY,
	  .leave = LEAVE,
	  .what = WHAT,
	  .argument_count = 3,
	  .arguments = {3, 4, 5}},
	 {
		 BEGIN(0x38, 0x24),
		 0x41,
		 0x51,
		 0x41,
		 0x51, /* push %r9, twice */
		 0x41,
		 0x50,
		 0x51, /* push %r8; push %rcx */
		 0x68,
		 0x05,
		 0x05,
		 0x34,
		 0x12, /* push $0x12340505 */
		 0xff,
		 0x15,
		 0x28,
		 0,
		 0,
		 0, /* call *entry(%rip) */
		 0xff,
		 0x15,
		 0x12,
		 0,
		 0,
		 0, /* call *original(%rip) */
		 0xff,
		 0x15,
		 0x24,
		 0,
		 0,
		 0, /* call *leave(%rip) */
		 0x48,
		 0x8d,
		 0x64,
		 0x24,
		 0x28, /* lea 40(%rsp),%rsp */
		 0xc3, /* ret */
		 END,
		 WORD_OF_ORIGINAL,
		 WORD_OF_ENABLED,
		 WORD_OF_ENTRY,
		 WORD_OF_LEAVE,
	 },
	 87,
	 5,
	 37,
	 {0, 0, 0, 0, 8, 16, 24, 32, 40, 40, 40, 40, 0, 0, -1},
	 {7, 4, 2, 2, 2, 2, 1, 5, 6, 6, 6, 5, 1, 6}},
};

/* ---- bytes ---- */

Test(record_pad, bytes_of_each_shape)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		struct tm_record_pad pad = make(&shapes[i].plan);

		cr_expect_eq(pad.size, shapes[i].size, "%s: %zu bytes", shapes[i].name, pad.size);
		cr_expect_arr_eq(pad.code, shapes[i].code, shapes[i].size, "%s", shapes[i].name);
		cr_expect_eq(pad.original, ORIGINAL, "%s", shapes[i].name);
		cr_expect_eq(pad.words, shapes[i].words, "%s", shapes[i].name);
		cr_expect_eq(pad.call_size, shapes[i].call_size, "%s", shapes[i].name);
	}
}

Test(record_pad, the_largest_fits_into_a_slot)
{
	struct tm_record_pad pad = make(&shapes[TM_ARRAY_SIZE(shapes) - 1].plan);

	cr_assert_leq(pad.size, TM_RECORD_PAD_SIZE_MAX);
}

Test(record_pad, there_is_none_for_aarch64)
{
	struct tm_record_pad pad, parsed;
	_cleanup_error_ struct tm_error *err = tm_record_pad_make(&tm_arch_aarch64, &shapes[0].plan, &pad);

	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_UNSUPPORTED);
	cr_assert_not(tm_record_pad_parse(&tm_arch_aarch64, shapes[0].code, shapes[0].size, &parsed));
}

/* ---- depths ---- */

Test(record_pad, depth_before_each_instruction_and_nowhere_else)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		struct tm_record_pad pad = make(&shapes[i].plan);
		size_t at = 0, insn = 0;

		for (size_t offset = 0; offset <= pad.size + 8; offset++) {
			uint64_t depth;
			bool begins = shapes[i].depths[insn] >= 0 && offset == at;

			cr_expect_eq(tm_record_pad_depth(&pad, offset, &depth), begins, "%s, offset %zu",
				     shapes[i].name, offset);
			if (!begins)
				continue;
			cr_expect_eq(depth, (uint64_t)shapes[i].depths[insn], "%s, offset %zu: %lu",
				     shapes[i].name, offset, (unsigned long)depth);
			at += shapes[i].lengths[insn++];
		}
		cr_expect_eq(shapes[i].depths[insn], -1, "%s: all were seen", shapes[i].name);
	}
}

/* ---- ways out ---- */

static const uint8_t pops[] = {0x5b, 0x5d}; /* pop %rbx; pop %rbp */

static const struct tm_record_pad_plan way_out = {
	.original = ORIGINAL,
	.enabled = ENABLED,
	.leave = LEAVE,
	.way_out = true,
	.before = pops,
	.before_size = sizeof(pops),
	.what = WHAT,
	.argument_count = 1,
};

Test(record_pad, a_way_out_has_the_function_s_instructions_first)
{
	static const uint8_t code[] = {0x5b,
				       0x5d,
				       BEGIN(0x26, 0x12),
				       0x57,
				       0x57,
				       0x68,
				       0x03,
				       0x05,
				       0x34,
				       0x12, /* push $0x12340503 */
				       0xff,
				       0x15,
				       0x23,
				       0,
				       0,
				       0, /* call *leave(%rip) */
				       0x48,
				       0x8d,
				       0x64,
				       0x24,
				       0x18, /* lea 24(%rsp),%rsp */
				       END,
				       WORD_OF_ORIGINAL,
				       WORD_OF_ENABLED,
				       NO_WORD,
				       WORD_OF_LEAVE};
	static const int depths[] = {[0] = 0,  [1] = 0,	  [2] = 0,   [9] = 0,	[13] = 0, [15] = 0,
				     [16] = 8, [17] = 16, [22] = 24, [28] = 24, [33] = 0};
	struct tm_record_pad pad = make(&way_out), parsed;

	cr_assert_eq(pad.size, sizeof(code));
	cr_assert_arr_eq(pad.code, code, sizeof(code));
	cr_expect_eq(pad.words, 3);
	cr_expect_eq(pad.call_size, 0);
	cr_expect_eq(pad.before, 2);
	for (size_t offset = 0; offset < TM_ARRAY_SIZE(depths); offset++) {
		bool begins = offset < 3 || depths[offset] || offset == 9 || offset == 13 || offset == 15 ||
			      offset == 33;
		uint64_t depth;

		cr_expect_eq(tm_record_pad_depth(&pad, offset, &depth), begins, "offset %zu", offset);
		if (begins)
			cr_expect_eq(depth, (uint64_t)depths[offset], "offset %zu", offset);
	}
	cr_assert(tm_record_pad_parse(arch, pad.code, pad.size, &parsed));
	cr_expect_eq(parsed.before, 2);
	cr_expect_eq(parsed.words, 3);
	cr_expect_eq(parsed.call_size, 0);
	cr_expect_eq(parsed.original, ORIGINAL);
	cr_expect_eq(parsed.size, pad.size);
}

Test(record_pad, a_way_out_may_begin_with_as_much_as_there_is_room_for)
{
	uint8_t nops[TM_RECORD_PAD_BEFORE];
	struct tm_record_pad_plan plan = way_out;
	struct tm_record_pad parsed;

	memset(nops, 0x90, sizeof(nops));
	plan.before = nops;
	for (plan.before_size = 0; plan.before_size <= sizeof(nops); plan.before_size++) {
		struct tm_record_pad pad = make(&plan);

		cr_expect_leq(pad.size, TM_RECORD_PAD_SIZE_MAX);
		cr_expect(tm_record_pad_parse(arch, pad.code, pad.size, &parsed), "%zu", plan.before_size);
		cr_expect_eq(parsed.before, plan.before_size);
		cr_expect_eq(parsed.original, ORIGINAL);
	}
}

/* ---- what they are recognised by ---- */

static bool parses(const uint8_t *bytes, size_t size, struct tm_record_pad *parsed)
{
	return tm_record_pad_parse(arch, tm_before_the_guard(bytes, size), size, parsed);
}

Test(record_pad, parsing_gives_back_what_was_made)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		struct tm_record_pad pad = make(&shapes[i].plan), parsed;

		cr_assert(parses(pad.code, pad.size, &parsed), "%s", shapes[i].name);
		cr_expect_eq(parsed.size, pad.size, "%s", shapes[i].name);
		cr_expect_arr_eq(parsed.code, pad.code, pad.size, "%s", shapes[i].name);
		cr_expect_eq(parsed.original, ORIGINAL, "%s", shapes[i].name);
		cr_expect_eq(parsed.words, pad.words, "%s: %u words", shapes[i].name, parsed.words);
		cr_expect_eq(parsed.call_size, pad.call_size, "%s: call_size %u", shapes[i].name,
			     parsed.call_size);
	}
}

Test(record_pad, every_argument_parses_at_every_place)
{
	for (uint8_t first = 0; first < 6; first++)
		for (size_t count = 1; count <= TM_RECORD_PAD_ARGUMENTS; count++) {
			const struct tm_record_pad_plan plan = {
				.original = ORIGINAL,
				.entry = first % 2 ? ENTRY : 0,
				.leave = LEAVE,
				.what = UINT32_C(0x80000000) | (uint32_t)first << 16,
				.argument_count = count,
				.arguments = {first, (uint8_t)((first + 1) % 6), (uint8_t)((first + 2) % 6)},
			};
			struct tm_record_pad pad = make(&plan), parsed;

			cr_expect(parses(pad.code, pad.size, &parsed), "argument %u, %zu", first, count);
			cr_expect_eq(parsed.words, pad.words);
			cr_expect_eq(parsed.call_size, pad.call_size);
		}
}

Test(record_pad, what_stands_behind_does_not_matter)
{
	uint8_t bytes[TM_RECORD_PAD_SIZE_MAX];

	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		struct tm_record_pad pad = make(&shapes[i].plan), parsed;

		memset(bytes, 0xc3, sizeof(bytes));
		memcpy(bytes, pad.code, pad.size);
		cr_expect(parses(bytes, sizeof(bytes), &parsed), "%s", shapes[i].name);
		cr_expect_eq(parsed.size, pad.size, "%s", shapes[i].name);
	}
}

Test(record_pad, cut_off_bytes_are_refused)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		struct tm_record_pad pad = make(&shapes[i].plan), parsed;

		for (size_t size = 0; size < pad.size; size++)
			cr_expect_not(parses(pad.code, size, &parsed), "%s, cut to %zu", shapes[i].name,
				      size);
	}
}

Test(record_pad, changed_instructions_are_refused)
{
	/* Of "three arguments and an entry": bytes of opcodes, but for the pushes, and of displacements. */
	static const uint8_t bytes[] = {0,  1,	2,  3,	7,  8,	11, 25, 26, 27, 31,
					32, 33, 37, 38, 39, 43, 44, 45, 46, 48};
	struct tm_record_pad pad = make(&shapes[5].plan), parsed;

	for (size_t i = 0; i < TM_ARRAY_SIZE(bytes); i++) {
		pad.code[bytes[i]] ^= 1;
		cr_expect_not(parses(pad.code, pad.size, &parsed), "byte %u", bytes[i]);
		pad.code[bytes[i]] ^= 1;
	}
	cr_expect(parses(pad.code, pad.size, &parsed));
}

Test(record_pad, a_call_that_reads_no_constant_is_refused)
{
	static const int32_t displacements[] = {-1, -6, 32, 0x7fffffff, -0x7fffffff - 1};
	struct tm_record_pad pad = make(&shapes[0].plan), parsed;

	for (size_t i = 0; i < TM_ARRAY_SIZE(displacements); i++) {
		memcpy(pad.code + 21, &displacements[i], sizeof(displacements[i]));
		cr_expect_not(parses(pad.code, pad.size, &parsed), "%d", displacements[i]);
	}
}

Test(record_pad, other_pads_are_refused)
{
	const struct tm_guard_pad guards[] = {{1, 2, 3, 0}, {1, 2, 3, 4}};
	struct tm_record_pad parsed;
	uint8_t bytes[256] = {0};
	size_t size;

	for (size_t count = 1; count <= TM_CALL_PAD_ARGUMENTS; count++) {
		struct tm_call_pad pad;

		cr_assert_null(tm_call_pad_make(arch, (const uint8_t[]){0, 1, 2}, count, ORIGINAL, &pad));
		memcpy(bytes, pad.code, pad.size);
		cr_expect_not(parses(bytes, sizeof(bytes), &parsed), "of %zu arguments", count);
	}
	for (size_t i = 0; i < TM_ARRAY_SIZE(guards); i++) {
		cr_assert_null(tm_guard_pad_make(arch, &guards[i], bytes, &size));
		cr_expect_not(parses(bytes, sizeof(bytes), &parsed), "guard pad %zu", i);
	}
}

Test(record_pad, is_no_call_pad_and_no_guard_pad)
{
	uint8_t bytes[256] = {0};
	struct tm_guard_pad guard;
	struct tm_call_pad call;

	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		memcpy(bytes, shapes[i].code, shapes[i].size);
		cr_expect_not(tm_call_pad_parse(arch, bytes, sizeof(bytes), &call), "%s", shapes[i].name);
		cr_expect_not(tm_guard_pad_parse(arch, bytes, sizeof(bytes), &guard), "%s", shapes[i].name);
	}
}

Test(record_pad, garbage_is_refused)
{
	static const struct {
		const char *what;
		uint8_t bytes[TM_RECORD_PAD_SIZE_MAX];
	} rows[] = {
		{"zeros", {0}},
		{"a return", {0xc3}},
		{"a jump, as the relocator makes them", {0xff, 0x25, 0, 0, 0, 0, 0x88, 0x77, 0x66, 0x55}},
		{"traps", {0xcc, 0xcc, 0xcc, 0xcc}},
		{"pushes without a call", {0x57, 0x57, 0x68, 3, 0, 0, 0, 0x48, 0x8d, 0x64, 0x24, 0x18, 0xc3}},
		{"a function", {0xf3, 0x0f, 0x1e, 0xfa, 0x55, 0x48, 0x89, 0xe5, 0x5d, 0xc3}},
		{"a call of the original that is not called through",
		 {0xff, 0x15, 0x06, 0, 0, 0, 0xff, 0x25, 0x08, 0, 0, 0}},
	};
	struct tm_record_pad parsed;
	uint8_t bytes[512];

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++)
		cr_expect_not(parses(rows[i].bytes, sizeof(rows[i].bytes), &parsed), "%s", rows[i].what);
	memset(bytes, 0x57, sizeof(bytes)); /* more pushes than a pad is long, and an end */
	bytes[sizeof(bytes) - 30] = 0xc3;
	cr_expect_not(parses(bytes, sizeof(bytes), &parsed));
}

/* ---- on this machine ---- */

#ifdef __x86_64__

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15 };

/* What a function has found when it was called. The assembly below knows the offsets. */
struct seen {
	uint64_t reg[16];
	uint64_t words[10]; /* 128: from the stack pointer up */
	uint64_t order;	    /* 208: which of the calls it was, from 1 */
};

struct call {
	uint64_t reg[16]; /* what the call is made with, and what it leaves */
	uint64_t pc;	  /* 128 */
	uint64_t sp;	  /* 136: before the call */
};

struct seen pad_entry_seen, pad_original_seen, pad_leave_seen;
uint64_t pad_calls;
struct call *pad_call;
extern const char pad_returned[];
void pad_entry(void), pad_original(void), pad_leave(void), pad_make_call(struct call *call);

/* Changes nothing but flags. */
#define SPY(name)                                                                                            \
	"	.globl " name "\n" name ":\n"                                                                \
	"	push %rax\n	push %rbx\n	lea " name "_seen(%rip), %rbx\n"                             \
	"	mov %rax, 0(%rbx)\n	mov %rcx, 8(%rbx)\n	mov %rdx, 16(%rbx)\n"                                      \
	"	mov (%rsp), %rax\n	mov %rax, 24(%rbx)\n	lea 16(%rsp), %rax\n	mov %rax, "                           \
	"32(%rbx)\n"                                                                                         \
	"	mov %rbp, 40(%rbx)\n	mov %rsi, 48(%rbx)\n	mov %rdi, 56(%rbx)\n"                                    \
	"	mov %r8, 64(%rbx)\n	mov %r9, 72(%rbx)\n	mov %r10, 80(%rbx)\n	mov %r11, "                           \
	"88(%rbx)\n"                                                                                         \
	"	mov %r12, 96(%rbx)\n	mov %r13, 104(%rbx)\n	mov %r14, 112(%rbx)\n	mov %r15, "                       \
	"120(%rbx)\n"                                                                                        \
	"	.irp k, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n"                                                            \
	"	mov 16 + 8 * \\k(%rsp), %rax\n	mov %rax, 128 + 8 * \\k(%rbx)\n	.endr\n"                            \
	"	incq pad_calls(%rip)\n	mov pad_calls(%rip), %rax\n	mov %rax, 208(%rbx)\n"                          \
	"	pop %rbx\n	pop %rax\n"

/* What the original function leaves: the number of the register and these bits. */
#define LEFT(number) (UINT64_C(0xabcdef0000000000) + (number))

__asm__("	.text\n" SPY("pad_entry") "	ret\n" SPY("pad_leave") "	ret\n" SPY(
	"pad_original") "	mov $0xabcdef0000000000, %rax\n"
			"	lea 1(%rax), %rcx\n	lea 2(%rax), %rdx\n	lea 6(%rax), %rsi\n	lea "
			"7(%rax), %rdi\n"
			"	lea 8(%rax), %r8\n	lea 9(%rax), %r9\n	lea 10(%rax), %r10\n	lea "
			"11(%rax), %r11\n"
			"	ret\n"
			"	.globl pad_make_call\npad_make_call:\n"
			"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push "
			"%r14\n	push %r15\n	sub $8, %rsp\n"
			"	mov %rdi, pad_call(%rip)\n	mov %rsp, 136(%rdi)\n"
			"	mov 0(%rdi), %rax\n	mov 8(%rdi), %rcx\n	mov 16(%rdi), %rdx\n	mov "
			"24(%rdi), %rbx\n"
			"	mov 40(%rdi), %rbp\n	mov 48(%rdi), %rsi\n"
			"	mov 64(%rdi), %r8\n	mov 72(%rdi), %r9\n	mov 80(%rdi), %r10\n	mov "
			"88(%rdi), %r11\n"
			"	mov 96(%rdi), %r12\n	mov 104(%rdi), %r13\n	mov 112(%rdi), %r14\n	mov "
			"120(%rdi), %r15\n"
			"	push 128(%rdi)\n	mov 56(%rdi), %rdi\n	pop -16(%rsp)\n"
			"	call *-16(%rsp)\n	.globl pad_returned\npad_returned:\n"
			"	push %rdi\n	mov pad_call(%rip), %rdi\n"
			"	mov %rax, 0(%rdi)\n	mov %rcx, 8(%rdi)\n	mov %rdx, 16(%rdi)\n	mov "
			"%rbx, 24(%rdi)\n"
			"	pop 56(%rdi)\n	mov %rsp, 32(%rdi)\n	mov %rbp, 40(%rdi)\n	mov %rsi, "
			"48(%rdi)\n"
			"	mov %r8, 64(%rdi)\n	mov %r9, 72(%rdi)\n	mov %r10, 80(%rdi)\n	mov "
			"%r11, 88(%rdi)\n"
			"	mov %r12, 96(%rdi)\n	mov %r13, 104(%rdi)\n	mov %r14, 112(%rdi)\n	mov "
			"%r15, 120(%rdi)\n"
			"	mov 136(%rdi), %rsp\n	add $8, %rsp\n"
			"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop "
			"%rbp\n	pop %rbx\n	ret\n");

static const uint8_t by_number[] = {RDI, RSI, RDX, RCX, R8, R9}; /* psABI x86-64, 3.2.3 */

static struct tm_record_pad planted;
static uint32_t enabled;
static uint8_t *place;
static struct call call;
static uint64_t given[16], cfa;

static void plant(const struct tm_record_pad_plan *shape)
{
	struct tm_record_pad_plan plan = *shape;

	enabled = 1;
	plan.enabled = (uint64_t)(uintptr_t)&enabled;
	plan.original = (uint64_t)(uintptr_t)pad_original;
	plan.entry = plan.entry ? (uint64_t)(uintptr_t)pad_entry : 0;
	plan.leave = plan.leave ? (uint64_t)(uintptr_t)pad_leave : 0;
	planted = make(&plan);
	place = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(place, MAP_FAILED);
	memset(place, 0xcc, PAGE);
	memcpy(place, planted.code, planted.size);
	cr_assert_eq(mprotect(place, PAGE, PROT_READ | PROT_EXEC), 0);
}

static void run(uint64_t rdi)
{
	memset(&pad_entry_seen, 0, sizeof(pad_entry_seen));
	memset(&pad_original_seen, 0, sizeof(pad_original_seen));
	memset(&pad_leave_seen, 0, sizeof(pad_leave_seen));
	pad_calls = 0;
	for (uint64_t i = 0; i < 16; i++)
		call.reg[i] = given[i] = i == RDI ? rdi : UINT64_C(0x5500000000000000) + i;
	call.pc = (uint64_t)(uintptr_t)place;
	pad_make_call(&call);
	cfa = call.sp;
}

static bool is_scratch(unsigned reg)
{
	return reg != RBX && reg != RSP && reg != RBP && reg < R12;
}

/* r11 is nobody's at a function's entry. */
static void expect_given(const char *name, const struct seen *seen)
{
	for (unsigned i = 0; i < 16; i++)
		if (i != RSP && i != R11)
			cr_expect_eq(seen->reg[i], given[i], "%s: register %u is 0x%lx", name, i,
				     (unsigned long)seen->reg[i]);
}

/* As the original function has left them. */
static void expect_left(const char *name, const uint64_t *regs)
{
	for (unsigned i = 0; i < 16; i++)
		if (i != RSP)
			cr_expect_eq(regs[i], is_scratch(i) ? LEFT(i) : given[i], "%s: register %u is 0x%lx",
				     name, i, (unsigned long)regs[i]);
}

/* Its return address, and how deep in the pad it was called. */
static void expect_depth(const char *name, const struct seen *seen)
{
	uint64_t depth;

	cr_expect(tm_record_pad_depth(&planted, seen->words[0] - (uint64_t)(uintptr_t)place, &depth), "%s",
		  name);
	cr_expect_eq(seen->reg[RSP] + 8, cfa - 8 - depth, "%s", name);
}

static void expect_words(const char *name, const struct seen *seen, const struct tm_record_pad_plan *plan)
{
	const uint64_t *words = seen->words + 1;

	cr_expect_eq(seen->reg[RSP] % 16, 8, "%s: the stack is aligned for a call", name);
	cr_expect_eq(seen->reg[RSP], cfa - 8 - 8 * planted.words - 8, "%s", name);
	cr_expect_eq(words[0], WHAT | planted.words, "%s: 0x%lx", name, (unsigned long)words[0]);
	for (size_t i = 0; i < plan->argument_count; i++)
		cr_expect_eq(words[1 + i], given[by_number[plan->arguments[i]]], "%s: argument %zu", name, i);
	cr_expect_eq(words[planted.words], (uint64_t)(uintptr_t)pad_returned,
		     "%s: the return address of the call", name);
}

#define IS_THROUGH(shape) ((shape)->plan.leave != 0)

Test(record_pad_run, the_original_gets_the_call_as_it_was_made)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		plant(&shapes[i].plan);
		run(0x5511);
		cr_expect_neq(pad_original_seen.order, 0, "%s", shapes[i].name);
		expect_given(shapes[i].name, &pad_original_seen);
		cr_expect_eq(pad_original_seen.reg[RSP] % 16, 8, "%s", shapes[i].name);
	}
}

Test(record_pad_run, the_caller_gets_all_registers_as_the_original_left_them)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		plant(&shapes[i].plan);
		run(0x5511);
		expect_left(shapes[i].name, call.reg);
		cr_expect_eq(call.reg[RSP], call.sp, "%s: the stack pointer", shapes[i].name);
	}
}

Test(record_pad_run, calls_come_one_after_the_other)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		uint64_t before = shapes[i].plan.entry != 0;

		plant(&shapes[i].plan);
		run(0x5511);
		cr_expect_eq(pad_entry_seen.order, before, "%s", shapes[i].name);
		cr_expect_eq(pad_original_seen.order, before + 1, "%s", shapes[i].name);
		cr_expect_eq(pad_leave_seen.order, IS_THROUGH(&shapes[i]) ? before + 2 : 0, "%s",
			     shapes[i].name);
		cr_expect_eq(pad_calls, before + 1 + IS_THROUGH(&shapes[i]), "%s: and once", shapes[i].name);
	}
}

Test(record_pad_run, entries_find_the_call_s_registers_and_its_place)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		if (!shapes[i].plan.entry)
			continue;
		plant(&shapes[i].plan);
		run(0x5511);
		expect_given(shapes[i].name, &pad_entry_seen);
		expect_depth(shapes[i].name, &pad_entry_seen);
	}
}

Test(record_pad_run, an_entry_before_a_jump_stands_directly_below_the_return_address)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		if (IS_THROUGH(&shapes[i]))
			continue;
		plant(&shapes[i].plan);
		run(0x5511);
		cr_expect_eq(pad_entry_seen.reg[RSP], cfa - 16, "%s", shapes[i].name);
		cr_expect_eq(pad_original_seen.reg[RSP], cfa - 8, "%s: nothing is left on the stack",
			     shapes[i].name);
		cr_expect_eq(pad_entry_seen.words[1], (uint64_t)(uintptr_t)pad_returned, "%s",
			     shapes[i].name);
		cr_expect_eq(pad_original_seen.words[0], (uint64_t)(uintptr_t)pad_returned, "%s",
			     shapes[i].name);
	}
}

Test(record_pad_run, what_and_arguments_are_on_the_stack_for_all_that_a_pad_calls)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		if (!IS_THROUGH(&shapes[i]))
			continue;
		plant(&shapes[i].plan);
		run(0x5511);
		if (shapes[i].plan.entry)
			expect_words("entry", &pad_entry_seen, &shapes[i].plan);
		expect_words("original", &pad_original_seen, &shapes[i].plan);
		expect_words("leave", &pad_leave_seen, &shapes[i].plan);
	}
}

Test(record_pad_run, the_original_s_return_address_is_behind_its_call)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		if (!IS_THROUGH(&shapes[i]))
			continue;
		plant(&shapes[i].plan);
		run(0x5511);
		cr_expect_eq(pad_original_seen.words[0], (uint64_t)(uintptr_t)place + planted.call_size, "%s",
			     shapes[i].name);
		expect_depth(shapes[i].name, &pad_original_seen);
	}
}

Test(record_pad_run, leave_finds_the_result_and_all_that_the_original_left)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		if (!IS_THROUGH(&shapes[i]))
			continue;
		plant(&shapes[i].plan);
		run(0x5511);
		expect_left(shapes[i].name, pad_leave_seen.reg);
		expect_depth(shapes[i].name, &pad_leave_seen);
	}
}

Test(record_pad_run, a_call_without_a_block_is_told_only_where_none_is_needed)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		bool told = shapes[i].plan.entry && !shapes[i].plan.needs_block;

		plant(&shapes[i].plan);
		run(0);
		cr_expect_eq(pad_entry_seen.order != 0, told, "%s", shapes[i].name);
		cr_expect_neq(pad_original_seen.order, 0, "%s", shapes[i].name);
		expect_given(shapes[i].name, &pad_original_seen);
		expect_left(shapes[i].name, call.reg);
	}
}

/* The result is there, and the stack is as the return finds it, which is what the original stands for here.
 */
Test(record_pad_run, a_way_out_is_told_behind_what_the_function_does_last)
{
	static const uint8_t move[] = {0x48, 0x89, 0xf8}; /* mov %rdi,%rax */
	struct tm_record_pad_plan plan = way_out;

	plan.before = move;
	plan.before_size = sizeof(move);
	plant(&plan);
	run(0x5511);
	cr_expect_eq(pad_leave_seen.order, 1);
	cr_expect_eq(pad_leave_seen.reg[RAX], 0x5511);
	expect_depth("leave", &pad_leave_seen);
	cr_expect_eq(pad_leave_seen.words[1], WHAT | 3);
	cr_expect_eq(pad_leave_seen.words[4], (uint64_t)(uintptr_t)pad_returned);
	cr_expect_eq(pad_original_seen.order, 2);
	cr_expect_eq(pad_original_seen.reg[RAX], 0x5511);
	cr_expect_eq(pad_original_seen.reg[RSP], cfa - 8);
	enabled = 0;
	run(0x5522);
	cr_expect_eq(pad_calls, 1);
	cr_expect_eq(pad_original_seen.reg[RAX], 0x5522);
}

Test(record_pad_run, nothing_but_the_original_is_called_while_nothing_records)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(shapes); i++) {
		plant(&shapes[i].plan);
		enabled = 0;
		run(0x5511);
		cr_expect_eq(pad_calls, 1, "%s", shapes[i].name);
		expect_given(shapes[i].name, &pad_original_seen);
		cr_expect_eq(pad_original_seen.reg[RSP], cfa - 8, "%s", shapes[i].name);
		cr_expect_eq(pad_original_seen.words[0], (uint64_t)(uintptr_t)pad_returned, "%s",
			     shapes[i].name);
		expect_left(shapes[i].name, call.reg);
	}
}
#endif
