/* Guard pads: what they are recognised by, and (on x86-64) that they do what they should, in this process. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>

#include "arch/guard_pad.h"
#include "base/cleanup.h"

static const struct tm_arch *const arch = &tm_arch_x86_64;

Test(guard_pad, is_recognised_by_its_bytes)
{
	for (uint64_t leave = 0; leave < 2; leave++) {
		const struct tm_guard_pad pad = {0x1111, 0x2222, 0x3333, leave * 0x4444};
		uint8_t code[TM_GUARD_PAD_SIZE_MAX];
		struct tm_guard_pad parsed;
		size_t size;

		cr_assert_null(tm_guard_pad_make(arch, &pad, code, &size));
		cr_assert(tm_guard_pad_parse(arch, code, size, &parsed));
		cr_expect(parsed.enter == 0x1111 && parsed.guard == 0x2222 && parsed.original == 0x3333 &&
			  parsed.leave == pad.leave);
		for (size_t i = 0; i < size; i++)
			cr_expect_not(tm_guard_pad_parse(arch, code, i, &parsed), "cut to %zu", i);
		for (size_t i = 0; i < size - 4 * sizeof(uint64_t); i++) {
			code[i] ^= 1;
			cr_expect_not(tm_guard_pad_parse(arch, code, size, &parsed), "byte %zu", i);
			code[i] ^= 1;
		}
	}
}

Test(guard_pad, is_there_for_x86_64_alone)
{
	const struct tm_guard_pad pad = {1, 2, 3, 0};
	uint8_t code[TM_GUARD_PAD_SIZE_MAX];
	size_t size;
	_cleanup_error_ struct tm_error *err = tm_guard_pad_make(&tm_arch_aarch64, &pad, code, &size);

	cr_assert_not_null(err);
	cr_expect_eq(err->code, TM_ERROR_UNSUPPORTED);
	cr_expect_not(tm_guard_pad_parse(&tm_arch_aarch64, code, sizeof(code), &(struct tm_guard_pad){0}));
}

#ifdef __x86_64__

struct answer {
	uint64_t value, given;
};

static struct scene {
	struct answer answer;
	uint64_t entered[4], left, misaligned;
	unsigned calls;
} scene;

static void note_alignment(uint64_t frame)
{
	scene.misaligned += frame % 16 != 0;
}

/* It changes all registers that a function may change. */
static struct answer enter(uint64_t first, uint64_t second, uint64_t third, uint64_t guard)
{
	note_alignment((uint64_t)__builtin_frame_address(0));
	memcpy(scene.entered, (const uint64_t[]){first, second, third, guard}, sizeof(scene.entered));
	__asm__ volatile("xor %%edi,%%edi; xor %%esi,%%esi; xor %%r8d,%%r8d; xor %%r9d,%%r9d; xor "
			 "%%r10d,%%r10d; xor %%r11d,%%r11d" ::
				 : "rdi", "rsi", "r8", "r9", "r10", "r11");
	return scene.answer;
}

static void leave(uint64_t guard)
{
	note_alignment((uint64_t)__builtin_frame_address(0));
	scene.left = guard;
}

static uint64_t original(uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f)
{
	note_alignment((uint64_t)__builtin_frame_address(0));
	scene.calls++;
	return a + 10 * b + 100 * c + 1000 * d + 10000 * e + 100000 * f;
}

static uint8_t *plant(bool leaves)
{
	const struct tm_guard_pad pad = {(uintptr_t)enter, 0x7777, (uintptr_t)original,
					 leaves ? (uintptr_t)leave : 0};
	uint8_t *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t size;

	cr_assert_neq(code, MAP_FAILED);
	cr_assert_null(tm_guard_pad_make(arch, &pad, code, &size));
	cr_assert_eq(mprotect(code, 4096, PROT_READ | PROT_EXEC), 0);
	memset(&scene, 0, sizeof(scene));
	return code;
}

static uint64_t call(const uint8_t *code)
{
	uint64_t result = ((uint64_t(*)(uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t))code)(
		1, 2, 3, 4, 5, 6);

	cr_expect_eq(scene.misaligned, 0);
	cr_expect_arr_eq(scene.entered, ((const uint64_t[]){1, 2, 3, 0x7777}), sizeof(scene.entered));
	return result;
}

Test(guard_pad, goes_on_with_all_arguments)
{
	cr_expect_eq(call(plant(false)), 654321);
	cr_expect_eq(scene.calls, 1);
	cr_expect_eq(call(plant(true)), 654321);
	cr_expect_eq(scene.left, 0x7777);
}

Test(guard_pad, answers_for_the_function)
{
	for (unsigned leaves = 0; leaves < 2; leaves++) {
		uint8_t *code = plant(leaves);

		scene.answer = (struct answer){0xfffffffffffffffe, 1};
		cr_expect_eq(call(code), 0xfffffffffffffffe);
		cr_expect(scene.calls == 0 && scene.left == 0);
	}
}

/* A compiler that sees both sides may keep values in registers that a call could change. */
Test(guard_pad, answering_changes_no_register_but_the_result)
{
	uint8_t *code = plant(false);
	uint64_t result, sum;

	scene.answer = (struct answer){5, 1};
	__asm__ volatile("mov $1,%%edi; mov $2,%%esi; mov $4,%%edx; mov $8,%%ecx; mov $16,%%r8d; mov "
			 "$32,%%r9d; mov $64,%%r10d; mov $128,%%r11d; call *%2\n"
			 "lea (%%rdi,%%rsi),%1; add %%rdx,%1; add %%rcx,%1; add %%r8,%1; add %%r9,%1; add "
			 "%%r10,%1; add %%r11,%1"
			 : "=a"(result), "=&b"(sum)
			 : "r"((uint64_t)code)
			 : "rdi", "rsi", "rdx", "rcx", "r8", "r9", "r10", "r11", "memory", "cc");
	cr_expect_eq(result, 5);
	cr_expect_eq(sum, 255);
}
#endif
