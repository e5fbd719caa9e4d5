/* Jumps and call-through pads: their bytes, what they are recognised by, and (on x86-64) that they do what
 * they should. */
#include <criterion/criterion.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "arch/call_pad.h"
#include "base/cleanup.h"

static const struct tm_arch *const arch = &tm_arch_x86_64;

static struct tm_call_pad make(size_t count, const uint8_t *arguments, uint64_t original)
{
	struct tm_call_pad pad;

	cr_assert_null(tm_call_pad_make(arch, arguments, count, original, &pad));
	return pad;
}

/* ---- bytes ---- */

Test(call_pad, of_one_argument)
{
	static const uint8_t expected[] = {
		0x57,						/* push %rdi */
		0xff, 0x15, 0x08, 0,	0,    0,		/* call *8(%rip) */
		0x66, 0x90,					/* xchg %ax,%ax */
		0x48, 0x8d, 0x64, 0x24, 0x08,			/* lea 8(%rsp),%rsp */
		0xc3,						/* ret */
		0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, /* .quad */
	};
	struct tm_call_pad pad = make(1, (const uint8_t[]){0}, 0x1122334455667788);

	cr_assert_eq(pad.size, sizeof(expected));
	cr_assert_arr_eq(pad.code, expected, sizeof(expected));
	cr_assert_eq(pad.stop, 7);
	cr_assert_eq(pad.words, 1);
}

Test(call_pad, keeps_the_stack_aligned_by_an_odd_number_of_words)
{
	struct tm_call_pad pad = make(2, (const uint8_t[]){2, 0}, 0);

	cr_assert_eq(pad.words, 3);
	cr_assert_arr_eq(pad.code, ((const uint8_t[]){0x57, 0x57, 0x52}), 3, "rdi twice, then rdx on top");
}

Test(call_pad, is_recognised_by_its_bytes)
{
	for (uint8_t argument = 0; argument < 6; argument++) {
		const uint8_t arguments[] = {argument, (uint8_t)((argument + 1) % 6),
					     (uint8_t)((argument + 2) % 6)};

		for (size_t count = 1; count <= TM_CALL_PAD_ARGUMENTS; count++) {
			struct tm_call_pad pad = make(count, arguments, 0x5000 + argument), parsed;

			memcpy(pad.code + pad.stop, arch->breakpoint, arch->breakpoint_size);
			cr_assert(tm_call_pad_parse(arch, pad.code, pad.size, &parsed));
			cr_assert_eq(parsed.stop, pad.stop);
			cr_assert_eq(parsed.words, pad.words);
			cr_assert_eq(parsed.original, pad.original);
			for (size_t size = 0; size < pad.size; size++)
				cr_assert_not(tm_call_pad_parse(arch, pad.code, size, &parsed), "cut to %zu",
					      size);
		}
	}
}

Test(call_pad, other_code_is_not_recognised)
{
	struct tm_call_pad pad = make(1, (const uint8_t[]){0}, 0x5000), parsed;

	for (size_t i = 1; i < pad.size - sizeof(uint64_t); i++) {
		uint8_t code[TM_CALL_PAD_SIZE_MAX];

		if (i == pad.stop || i == pad.stop + 1u)
			continue;
		memcpy(code, pad.code, pad.size);
		code[i] ^= 1;
		cr_assert_not(tm_call_pad_parse(arch, code, pad.size, &parsed), "byte %zu", i);
	}
}

Test(call_pad, depth_before_each_instruction)
{
	static const struct {
		size_t offset;
		int depth; /* -1: no instruction begins there */
	} rows[] = {{0, 0},   {1, 8},	{2, 16},  {3, 24}, {4, -1},  {8, -1}, {9, 24},
		    {10, -1}, {11, 24}, {12, -1}, {16, 0}, {17, -1}, {24, -1}};
	struct tm_call_pad pad = make(2, (const uint8_t[]){1, 0}, 0x5000);

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		uint64_t depth = 0;
		bool begins = tm_call_pad_depth(&pad, rows[i].offset, &depth);

		cr_assert_eq(begins, rows[i].depth >= 0, "offset %zu", rows[i].offset);
		if (begins)
			cr_assert_eq(depth, (uint64_t)rows[i].depth, "offset %zu", rows[i].offset);
	}
}

Test(call_pad, there_is_none_for_aarch64)
{
	uint8_t jump[TM_JUMP_SIZE_MAX];
	struct tm_call_pad pad;
	struct tm_error *err = tm_call_pad_make(&tm_arch_aarch64, (const uint8_t[]){0}, 1, 0, &pad);

	cr_assert_eq(err->code, TM_ERROR_UNSUPPORTED);
	tm_error_destroy(err);
	cr_assert_eq(tm_jump_size(&tm_arch_aarch64), 0);
	cr_assert_not(tm_jump_make(&tm_arch_aarch64, 0, 0, jump));
}

/* ---- jumps ---- */

Test(jump, reaches_two_gigabytes)
{
	static const struct {
		uint64_t from, to;
		bool reaches;
		int32_t displacement;
	} rows[] = {
		{0x1000, 0x1005, true, 0},
		{0x1000, 0x1000, true, -5},
		{0x1000, 0x1005 + UINT64_C(0x7fffffff), true, INT32_MAX},
		{0x1000, 0x1005 + UINT64_C(0x80000000), false, 0},
		{0x7f0080000000, 0x7f0000000005, true, INT32_MIN},
		{0x7f0080000000, 0x7f0000000004, false, 0},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		uint8_t code[TM_JUMP_SIZE_MAX];
		int32_t displacement;

		cr_assert_eq(tm_jump_make(arch, rows[i].from, rows[i].to, code), rows[i].reaches, "row %zu",
			     i);
		if (!rows[i].reaches)
			continue;
		memcpy(&displacement, code + 1, sizeof(displacement));
		cr_assert_eq(code[0], 0xe9);
		cr_assert_eq(displacement, rows[i].displacement, "row %zu", i);
	}
}

static bool leads_into(const uint8_t *code, size_t size, uint64_t address, uint64_t start, uint64_t end)
{
	/* Neighbours that are not meant. */
	struct tm_jump_range ranges[] = {{end, end + 4, false}, {start, end, false}, {0x20, 0x24, false}};

	tm_jumps_find(arch, code, size, address, ranges, TM_ARRAY_SIZE(ranges));
	cr_assert_not(ranges[2].found);
	return ranges[1].found;
}

Test(jump, into_a_range_is_found_wherever_it_stands)
{
	static const struct {
		uint8_t code[12];
		bool found;
	} rows[] = {
		{{0xe9, 0x0c, 0, 0, 0}, true},				     /* jmp 0x1011 */
		{{0xe8, 0x0c, 0, 0, 0}, true},				     /* call 0x1011 */
		{{0x90, 0x0f, 0x84, 0x0d, 0, 0, 0}, true},		     /* je 0x1014 */
		{{0x90, 0x90, 0x90, 0x90, 0x90, 0xe9, 0x07, 0, 0, 0}, true}, /* jmp 0x1011 */
		{{0xe9, 0x0b, 0, 0, 0}, false},				     /* jmp 0x1010 */
		{{0xe9, 0x10, 0, 0, 0}, false},				     /* jmp 0x1015 */
		{{0xb8, 0x0c, 0, 0, 0}, false},				     /* mov $12,%eax */
		{{0x0f, 0x94, 0x0d, 0, 0, 0, 0}, false},		     /* sete 13(%rip) */
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++)
		cr_assert_eq(leads_into(rows[i].code, sizeof(rows[i].code), 0x1000, 0x1011, 0x1015),
			     rows[i].found, "row %zu", i);
}

/* In code that is longer than what is looked at in one go; up and down. */
Test(jump, into_a_range_is_found_at_every_place_of_long_code)
{
	static const uint64_t targets[] = {0x1011, 0x9014, 0x5013};
	uint8_t code[100];

	for (size_t i = 0; i < TM_ARRAY_SIZE(targets); i++) {
		for (size_t at = 0; at + 5 <= sizeof(code); at++) {
			uint64_t address = 0x5000;
			int32_t distance = (int32_t)(targets[i] - (address + at + 5));

			memset(code, 0x90, sizeof(code));
			code[at] = 0xe8;
			memcpy(code + at + 1, &distance, sizeof(distance));
			cr_assert(leads_into(code, sizeof(code), address, targets[i], targets[i] + 1),
				  "to 0x%" PRIx64 " from byte %zu", targets[i], at);
			cr_assert_not(
				leads_into(code, sizeof(code), address, targets[i] + 1, targets[i] + 2));
			cr_assert_not(leads_into(code, sizeof(code), address + (UINT64_C(1) << 32),
						 targets[i], targets[i] + 1),
				      "4 GB beside it");
			code[at] = 0xb8;
			cr_assert_not(leads_into(code, sizeof(code), address, targets[i], targets[i] + 1));
		}
	}
}

Test(jump, from_behind_is_found)
{
	static const uint8_t code[] = {0xe9, 0xf8, 0xff, 0xff, 0xff}; /* jmp 0xffd */

	cr_assert(leads_into(code, sizeof(code), 0x1000, 0xffd, 0x1000));
	cr_assert_not(leads_into(code, 4, 0x1000, 0xffd, 0x1000), "cut off");
}

/* ---- on this machine ---- */

#if defined(__x86_64__)
static uint64_t seen[6];
static uint64_t misaligned;

static uint64_t original(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	const uint64_t arguments[] = {a, b, c, d, e, f};

	/* psABI 3.2.2: the frame pointer stands at 16n behind the two words pushed. */
	misaligned = (uint64_t)(uintptr_t)__builtin_frame_address(0) % 16;
	memcpy(seen, arguments, sizeof(seen));
	return 0xfeed;
}

Test(call_pad, passes_the_call_through)
{
	static const uint8_t arguments[] = {5, 0, 3};
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t (*call)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

	cr_assert_neq(page, MAP_FAILED);
	for (size_t count = 1; count <= TM_ARRAY_SIZE(arguments); count++) {
		struct tm_call_pad pad = make(count, arguments, (uint64_t)(uintptr_t)original);

		memcpy(page + 64 * count, pad.code, pad.size);
	}
	cr_assert_eq(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0);
	for (size_t count = 1; count <= TM_ARRAY_SIZE(arguments); count++) {
		void *entry = page + 64 * count;

		memcpy(&call, &entry, sizeof(call));
		memset(seen, 0, sizeof(seen));
		cr_assert_eq(call(11, 12, 13, 14, 15, 16), 0xfeed);
		cr_assert_arr_eq(seen, ((const uint64_t[]){11, 12, 13, 14, 15, 16}), sizeof(seen));
		cr_assert_eq(misaligned, 0);
	}
	munmap(page, 4096);
}
#endif
