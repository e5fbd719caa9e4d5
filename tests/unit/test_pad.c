/* Slots of relocated code, mapped near the original and found again by a later trace. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "support/fake_target.h"
#include "target/pad.h"

/* Many instructions that may stand anywhere. */
#if defined(__x86_64__)
#define INSN 4
static const uint8_t insn[INSN] = {0x48, 0x83, 0xec, 0x18}; /* sub $0x18,%rsp */
#else
#define INSN 4
static const uint8_t insn[INSN] = {0xfd, 0x7b, 0xbf, 0xa9}; /* stp x29, x30, [sp, #-16]! */
#endif
static uint8_t code[16384] __attribute__((aligned(4096)));

static struct fake_target *fake;
static struct tm_pads *pads;

static void check(struct tm_error *err)
{
	cr_assert_null(err, "%s", err ? err->message : "");
}

static void attach(void)
{
	check(tm_pads_create(&fake->base, &pads));
	check(tm_pads_adopt(pads));
}

static void setup(void)
{
	for (size_t i = 0; i < sizeof(code); i += INSN)
		memcpy(code + i, insn, INSN);
	fake = fake_target_create();
	attach();
}

static void teardown(void)
{
	tm_pads_destroy(pads);
	fake_target_destroy(fake);
}

static void attach_again(void)
{
	tm_pads_destroy(pads);
	attach();
}

static uint64_t relocate(size_t at)
{
	struct tm_relocated relocated;
	uint64_t pad = 0;

	check(tm_pads_relocate(pads, NULL, (uint64_t)(uintptr_t)(code + at), code + at, TM_INSN_BYTES_MAX, 1,
			       &pad, &relocated));
	return pad;
}

TestSuite(pad, .init = setup, .fini = teardown);

Test(pad, holds_the_relocated_instruction)
{
	struct tm_relocated relocated;
	uint8_t present[TM_PAD_CODE_MAX];
	uint64_t pad;

	check(tm_pads_relocate(pads, NULL, (uint64_t)(uintptr_t)code, code, TM_INSN_BYTES_MAX, 1, &pad,
			       &relocated));
	check(tm_target_read(&fake->base, pad, present, relocated.size));
	cr_assert_arr_eq(present, relocated.code, relocated.size);
	cr_assert_arr_eq(present, insn, INSN);
	cr_assert_eq(relocated.consumed, INSN);
}

Test(pad, is_within_reach_of_its_code)
{
	uint64_t pad = relocate(0), original = (uint64_t)(uintptr_t)code;
	uint64_t distance = pad > original ? pad - original : original - pad;

	cr_assert_lt(distance, fake->base.arch->near_reach);
}

Test(pad, two_codes_share_a_region)
{
	uint64_t first = relocate(0), second = relocate(INSN);

	cr_assert_neq(first, second);
	cr_assert_eq(fake->system_calls, 1);
}

static size_t plan(const uint64_t *addresses, size_t count, uint64_t *places)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};

	check(tm_target_mappings(&fake->base, &mappings));
	return tm_pads_plan(pads, &mappings, addresses, count, places);
}

Test(pad, a_planned_region_that_somebody_has_mapped_is_used)
{
	const uint64_t addresses[] = {(uint64_t)(uintptr_t)code, (uint64_t)(uintptr_t)code + 4096};
	uint64_t places[2], pad;

	cr_assert_eq(plan(addresses, 2, places), 1, "one serves both");
	cr_assert_eq(mmap((void *)(uintptr_t)places[0], TM_PAD_REGION_SIZE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0),
		     (void *)(uintptr_t)places[0], "nothing is there");
	check(tm_pads_take(pads, places[0]));
	cr_assert_eq(plan(addresses, 2, places + 1), 0);
	pad = relocate(0);
	cr_assert_lt(pad - places[0], TM_PAD_REGION_SIZE);
	cr_assert_eq(fake->system_calls, 0);
	munmap((void *)(uintptr_t)places[0], TM_PAD_REGION_SIZE);
}

Test(pad, addresses_far_apart_have_regions_of_their_own)
{
	const uint64_t addresses[] = {0x7000000, (uint64_t)(uintptr_t)code, 0x7001000};
	uint64_t places[3];

	cr_assert_eq(plan(addresses, 3, places), 2);
	cr_assert_lt(places[0], UINT64_C(0x7000000) + fake->base.arch->near_reach);
	cr_assert_gt(places[1], UINT64_C(0x7001000) + fake->base.arch->near_reach);
}

Test(pad, origin_is_told_for_the_code_only)
{
	uint64_t pad = relocate(8), original = 0, start = 0;

	cr_assert(tm_pads_origin(pads, pad + 1, &original, &start));
	cr_assert_eq(original, (uint64_t)(uintptr_t)(code + 8));
	cr_assert_eq(start, pad);
	cr_assert_not(tm_pads_origin(pads, pad - 1, &original, &start), "the slot's head is no code");
	cr_assert_not(tm_pads_origin(pads, pad + 128, &original, &start), "the next slot is free");
	cr_assert_not(tm_pads_origin(pads, (uint64_t)(uintptr_t)code, &original, &start));
	cr_assert(tm_pads_contain(pads, pad));
	cr_assert_not(tm_pads_contain(pads, (uint64_t)(uintptr_t)code));
}

Test(pad, of_an_earlier_trace_is_used_again)
{
	uint64_t first = relocate(0), second = relocate(INSN);

	attach_again();
	cr_assert_eq(relocate(INSN), second);
	cr_assert_eq(relocate(0), first);
	cr_assert_eq(fake->system_calls, 1);
	cr_assert_eq(fake->mapped.count, 1);
}

Test(pad, of_code_that_changed_is_a_new_one)
{
	uint64_t before = relocate(0);
	uint8_t present[INSN];

	memset(code, 0, INSN);
	memcpy(code, "\x90\x90\x90\x90", INSN);
#if defined(__aarch64__)
	memcpy(code, "\x1f\x20\x03\xd5", INSN); /* nop */
#endif
	attach_again();
	cr_assert_neq(relocate(0), before);
	check(tm_target_read(&fake->base, before, present, INSN));
	cr_assert_arr_eq(present, insn, INSN, "an address in it may be live");
	attach_again();
	cr_assert_neq(relocate(0), before);
}

Test(pad, thousand_traces_leave_one_region)
{
	const uint8_t placed[] = {1, 2, 3, 4};
	uint64_t pad, first;

	check(tm_pads_place(pads, NULL, (uint64_t)(uintptr_t)code, placed, sizeof(placed), &first));
	for (int i = 0; i < 1000; i++) {
		attach_again();
		relocate(0);
		check(tm_pads_place(pads, NULL, (uint64_t)(uintptr_t)code, placed, sizeof(placed), &pad));
		cr_assert_eq(pad, first);
	}
	cr_assert_eq(fake->system_calls, 1);
}

Test(pad, placed_code_that_differs_has_another_slot)
{
	uint64_t first, second;

	check(tm_pads_place(pads, NULL, (uint64_t)(uintptr_t)code, insn, INSN, &first));
	check(tm_pads_place(pads, NULL, (uint64_t)(uintptr_t)code, insn, INSN - 1, &second));
	cr_assert_neq(first, second);
}

Test(pad, placed_code_is_not_taken_for_code_relocated_to_its_place)
{
	struct tm_relocated relocated;
	uint64_t placed, pad;

	check(tm_pads_place(pads, NULL, (uint64_t)(uintptr_t)code, insn, INSN, &placed));
	check(tm_pads_relocate(pads, NULL, placed, insn, INSN, 1, &pad, &relocated));
	cr_assert_neq(pad, placed);
}

Test(pad, full_region_is_followed_by_another)
{
	size_t slots = TM_PAD_REGION_SIZE / 128 - 1;

	for (size_t i = 0; i < slots; i++)
		relocate(i * INSN);
	cr_assert_eq(fake->mapped.count, 1);
	relocate(slots * INSN);
	cr_assert_eq(fake->mapped.count, 2);
	attach_again();
	for (size_t i = 0; i <= slots; i++)
		relocate(i * INSN);
	cr_assert_eq(fake->mapped.count, 2);
}

Test(pad, refused_page_is_an_error_that_says_why)
{
	struct tm_relocated relocated;
	uint64_t pad;

	fake->refuse_mmap = EPERM;
	struct tm_error *err = tm_pads_relocate(pads, NULL, (uint64_t)(uintptr_t)code, code,
						TM_INSN_BYTES_MAX, 1, &pad, &relocated);
	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_PERMISSION);
	cr_assert_not_null(strstr(err->message, "cannot map a pad"));
	tm_error_destroy(err);
}

Test(pad, somebody_elses_anonymous_code_is_not_adopted)
{
	uint64_t start = 0x10000000, original, at;

	check(fake->base.ops->system_call(&fake->base, NULL, fake->base.arch->syscall_mmap,
					  (uint64_t[6]){start, TM_PAD_REGION_SIZE}, &(int64_t){0}));
	attach_again();
	cr_assert_not(tm_pads_contain(pads, start));
	cr_assert_not(tm_pads_origin(pads, start + 200, &original, &at));
}

Test(pad, damaged_slot_ends_what_is_adopted)
{
	uint64_t first = relocate(0), second = relocate(INSN), absurd = UINT64_MAX, original, at;

	check(tm_target_write(&fake->base, second - 8, &absurd, sizeof(absurd)));
	attach_again();
	cr_assert(tm_pads_origin(pads, first, &original, &at));
	cr_assert_not(tm_pads_origin(pads, second, &original, &at));
	cr_assert_eq(relocate(0), first);
}

Test(pad, exec_forgets_all)
{
	uint64_t pad = relocate(0);

	tm_pads_forget_all(pads);
	cr_assert_not(tm_pads_contain(pads, pad));
}
