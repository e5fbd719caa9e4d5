/* Breakpoints that no thread runs past: it goes on in a pad, or is stepped in place with all others held.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "support/fake_target.h"
#include "target/pad.h"

#if defined(__x86_64__)
#define SECOND 1
static uint8_t code[4096] __attribute__((aligned(4096))) = {
	0x55,		  /* push %rbp */
	0x48, 0x89, 0xe5, /* mov %rsp,%rbp */
	0xc3,		  /* ret */
};
#else
#define SECOND 4
static uint8_t code[4096] __attribute__((aligned(4096))) = {
	0xfd, 0x7b, 0xbf, 0xa9, /* stp x29, x30, [sp, #-16]! */
	0xfd, 0x03, 0x00, 0x91, /* mov x29, sp */
	0xc0, 0x03, 0x5f, 0xd6, /* ret */
};
#endif

static struct fake_target *fake;
static struct tm_pads *pads;
static struct tm_breakpoints *breakpoints;
static struct tm_thread *thread, *other;
static uint64_t start;

static void check(struct tm_error *err)
{
	cr_assert_null(err, "%s", err ? err->message : "");
}

static void setup(void)
{
	start = (uint64_t)(uintptr_t)code;
	fake = fake_target_create();
	check(tm_pads_create(&fake->base, &pads));
	check(tm_breakpoints_create(&fake->base, pads, &breakpoints));
	fake->base.breakpoints = breakpoints;
	thread = fake_target_add_thread(fake, 1);
	other = fake_target_add_thread(fake, 2);
	other->state = TM_THREAD_RUNNING;
}

static void teardown(void)
{
	tm_breakpoints_destroy(breakpoints);
	tm_pads_destroy(pads);
	fake_target_destroy(fake);
}

static void without_pads(void)
{
	tm_breakpoints_destroy(breakpoints);
	check(tm_breakpoints_create(&fake->base, NULL, &breakpoints));
}

static uint64_t pc_of(const struct tm_thread *of)
{
	return of->regs.value[fake->base.arch->pc];
}

static void stand_at(struct tm_thread *who, uint64_t pc)
{
	who->state = TM_THREAD_STOPPED;
	who->regs.value[fake->base.arch->pc] = pc;
}

static size_t changed(void)
{
	return fake_target_changed_bytes(fake, start, start + sizeof(code));
}

static size_t remove_all(void)
{
	size_t foreign = 77;

	check(tm_breakpoints_remove_all(breakpoints, &foreign));
	return foreign;
}

TestSuite(breakpoint, .init = setup, .fini = teardown);

Test(breakpoint, thread_goes_on_in_the_pad)
{
	check(tm_breakpoint_insert(breakpoints, start));
	cr_assert(fake_target_traps_at(fake, start));
	stand_at(thread, start);
	check(tm_breakpoint_resume(breakpoints, thread));
	cr_assert_eq(pc_of(thread), tm_breakpoint_find(breakpoints, start)->pad);
	cr_assert_eq(thread->state, TM_THREAD_RUNNING);
	cr_assert(fake_target_traps_at(fake, start), "it is never lifted");
	cr_assert_eq(fake->steps.count, 0);
	cr_assert_eq(fake->stop_alls, 0);
	cr_assert_eq(tm_breakpoints_count_in_place(breakpoints), 0);
}

Test(breakpoint, thread_elsewhere_just_runs_on)
{
	check(tm_breakpoint_insert(breakpoints, start));
	stand_at(thread, start + SECOND);
	check(tm_breakpoint_resume(breakpoints, thread));
	cr_assert_eq(pc_of(thread), start + SECOND);
	cr_assert_eq(thread->state, TM_THREAD_RUNNING);
}

Test(breakpoint, in_place_is_stepped_with_all_others_held)
{
	without_pads();
	check(tm_breakpoint_insert(breakpoints, start));
	stand_at(thread, start);
	check(tm_breakpoint_resume(breakpoints, thread));
	cr_assert_eq(fake->steps.count, 1);
	cr_assert_eq(fake->steps.items[0].pc, start);
	cr_assert_eq(fake->steps.items[0].byte, code[0], "the original instruction is what was executed");
	cr_assert_eq(fake->steps.items[0].running, 0);
	cr_assert(fake_target_traps_at(fake, start));
	cr_assert_eq(thread->state, TM_THREAD_RUNNING);
	cr_assert_eq(other->state, TM_THREAD_RUNNING);
	cr_assert_eq(tm_breakpoints_count_in_place(breakpoints), 1);
}

Test(breakpoint, refused_pages_are_asked_for_once)
{
	fake->refuse_mmap = EPERM;
	check(tm_breakpoint_insert(breakpoints, start));
	check(tm_breakpoint_insert(breakpoints, start + SECOND));
	cr_assert_eq(tm_breakpoints_count_in_place(breakpoints), 2);
	cr_assert_eq(fake->system_calls, 1);
}

Test(breakpoint, second_user_writes_nothing)
{
	check(tm_breakpoint_insert(breakpoints, start));
	size_t writes = fake->writes;
	check(tm_breakpoint_insert(breakpoints, start));
	cr_assert_eq(fake->writes, writes);
	cr_assert_eq(tm_breakpoints_count(breakpoints), 1);
}

Test(breakpoint, lifted_is_gone_from_the_code_but_known)
{
	check(tm_breakpoint_insert(breakpoints, start));
	check(tm_breakpoint_insert(breakpoints, start));
	check(tm_breakpoint_lift(breakpoints, start));
	cr_assert(fake_target_traps_at(fake, start), "somebody else needs it");
	check(tm_breakpoint_lift(breakpoints, start));
	cr_assert_eq(changed(), 0);
	check(tm_breakpoint_lift(breakpoints, start));
	stand_at(thread, start); /* had hit it before */
	check(tm_breakpoint_resume(breakpoints, thread));
	cr_assert(tm_pads_contain(pads, pc_of(thread)));
	check(tm_breakpoint_insert(breakpoints, start));
	cr_assert(fake_target_traps_at(fake, start), "again");
	cr_assert_eq(tm_breakpoints_count(breakpoints), 1);
	check(tm_breakpoint_lift(breakpoints, start));
	cr_assert_eq(changed(), 0);
}

Test(breakpoint, lifted_needs_no_restoring)
{
	check(tm_breakpoint_insert(breakpoints, start));
	check(tm_breakpoint_lift(breakpoints, start));
	cr_assert_eq(remove_all(), 0, "nothing of others is found there");
	cr_assert_eq(changed(), 0);
}

Test(breakpoint, lifted_code_that_somebody_has_changed_is_left)
{
	const uint8_t others = 0x90;
	struct tm_error *err;

	check(tm_breakpoint_insert(breakpoints, start));
	check(tm_breakpoint_lift(breakpoints, start));
	check(tm_target_write(&fake->base, start, &others, 1));
	err = tm_breakpoint_insert(breakpoints, start);
	cr_assert_not_null(err);
	cr_expect_eq(err->code, TM_ERROR_UNSUPPORTED);
	tm_error_destroy(err);
	check(tm_target_write(&fake->base, start, code, 1));
	check(tm_breakpoint_insert(breakpoints, start));
	cr_assert(fake_target_traps_at(fake, start));
}

Test(breakpoint, in_place_is_not_lifted)
{
	without_pads();
	check(tm_breakpoint_insert(breakpoints, start));
	check(tm_breakpoint_lift(breakpoints, start));
	cr_assert(fake_target_traps_at(fake, start));
}

Test(breakpoint, somebody_elses_is_refused_and_left)
{
	const struct tm_arch *arch = fake->base.arch;

	check(tm_target_write(&fake->base, start, arch->breakpoint, arch->breakpoint_size));
	size_t writes = fake->writes;
	struct tm_error *err = tm_breakpoint_insert(breakpoints, start);
	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_UNSUPPORTED);
	tm_error_destroy(err);
	cr_assert_eq(fake->writes, writes);
	cr_assert_null(tm_breakpoint_find(breakpoints, start));
	cr_assert_eq(remove_all(), 0);
	cr_assert(fake_target_traps_at(fake, start));
}

Test(breakpoint, neighbour_is_seen_through)
{
	check(tm_breakpoint_insert(breakpoints, start + SECOND));
	check(tm_breakpoint_insert(breakpoints, start));
	const struct tm_breakpoint *first = tm_breakpoint_find(breakpoints, start);
	const struct tm_breakpoint *second = tm_breakpoint_find(breakpoints, start + SECOND);
	cr_assert_eq(first->shadow[0], code[0]);
	cr_assert_eq(second->shadow[0], code[SECOND]);
	cr_assert_eq(first->relocated.consumed, SECOND, "a pad must not run past the next breakpoint");
	remove_all();
	cr_assert_eq(changed(), 0);
}

Test(breakpoint, at_the_end_of_a_mapping_can_be_had)
{
	uint64_t last = start + sizeof(code) - SECOND;

	memcpy(code + sizeof(code) - SECOND, code + (SECOND == 1 ? 4 : 8), SECOND); /* ret */
	fake_target_unmap(fake, last + SECOND, last + SECOND + 4096);
	check(tm_breakpoint_insert(breakpoints, last));
	cr_assert(fake_target_traps_at(fake, last));
}

Test(breakpoint, code_that_is_not_there_is_an_error)
{
	struct tm_error *err = tm_breakpoint_insert(breakpoints, 64);

	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_NO_MEMORY);
	tm_error_destroy(err);
	cr_assert_eq(tm_breakpoints_count(breakpoints), 0);
}

Test(breakpoint, remove_all_restores_every_byte)
{
	check(tm_breakpoint_insert(breakpoints, start));
	check(tm_breakpoint_insert(breakpoints, start + SECOND));
	cr_assert_neq(changed(), 0);
	cr_assert_eq(remove_all(), 0);
	cr_assert_eq(changed(), 0);
	cr_assert_eq(tm_breakpoints_count(breakpoints), 0);
}

Test(breakpoint, foreign_bytes_are_left_and_counted)
{
	uint8_t foreign[4] = {0x90, 0x90, 0x90, 0x90}, present[4];

	check(tm_breakpoint_insert(breakpoints, start));
	check(tm_breakpoint_insert(breakpoints, start + SECOND));
	check(tm_target_write(&fake->base, start, foreign, fake->base.arch->breakpoint_size));
	cr_assert_eq(remove_all(), 1);
	check(tm_target_read(&fake->base, start, present, fake->base.arch->breakpoint_size));
	cr_assert_arr_eq(present, foreign, fake->base.arch->breakpoint_size);
	cr_assert_not(fake_target_traps_at(fake, start + SECOND));
}

Test(breakpoint, unmapped_code_needs_no_restoring)
{
	check(tm_breakpoint_insert(breakpoints, start));
	fake_target_unmap(fake, start, start + sizeof(code));
	cr_assert_eq(remove_all(), 0);
}

Test(breakpoint, thread_in_a_pad_goes_back_to_the_original)
{
	check(tm_breakpoint_insert(breakpoints, start));
	const struct tm_breakpoint *breakpoint = tm_breakpoint_find(breakpoints, start);
	stand_at(thread, breakpoint->pad);
	stand_at(other, breakpoint->pad + breakpoint->relocated.points[1].pad_offset);
	remove_all();
	cr_assert_eq(pc_of(thread), start);
	cr_assert_eq(pc_of(other), start + SECOND, "the instruction has been executed");
}

Test(breakpoint, forgotten_code_is_not_written_to)
{
	check(tm_breakpoint_insert(breakpoints, start));
	check(tm_breakpoint_insert(breakpoints, start + SECOND));
	size_t writes = fake->writes;
	tm_breakpoints_forget(breakpoints, start, start + SECOND);
	cr_assert_null(tm_breakpoint_find(breakpoints, start));
	cr_assert_not_null(tm_breakpoint_find(breakpoints, start + SECOND));
	tm_breakpoints_forget_all(breakpoints);
	cr_assert_eq(remove_all(), 0);
	cr_assert_eq(fake->writes, writes);
}

Test(breakpoint, forked_child_is_cleaned_and_the_parent_is_not)
{
	check(tm_breakpoint_insert(breakpoints, start));
	pid_t child = fake_target_fork(fake);
	check(tm_breakpoint_insert(breakpoints, start + SECOND));
	check(tm_breakpoints_scrub_child(breakpoints, child));
	cr_assert_eq(fake_target_child_byte(fake, child, start), code[0]);
	cr_assert_eq(fake_target_child_byte(fake, child, start + SECOND), code[SECOND]);
	cr_assert(fake_target_traps_at(fake, start));
}

Test(breakpoint, child_without_the_mapping_needs_no_cleaning)
{
	check(tm_breakpoint_insert(breakpoints, start));
	pid_t child = fake_target_fork(fake);
	fake_target_unmap(fake, start, start + sizeof(code));
	check(tm_breakpoints_scrub_child(breakpoints, child));
}
