/* Jump patches: what is written, what is refused, threads that stand inside, and that everything is put back.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "arch/record_pad.h"
#include "support/fake_target.h"
#include "target/pad.h"
#include "target/patch.h"

#if defined(__x86_64__)
#define JUMP 5u

/* push %r12; push %rbp; push %rbx; mov %rdi,%rbx; ...: glibc's malloc */
static const uint8_t body[32] = {0x41, 0x54, 0x55, 0x53, 0x48, 0x89, 0xfb, 0x48, 0x83, 0xec, 0x10,
				 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xc3};
static uint8_t code[8192] __attribute__((aligned(4096)));
static uint64_t stack[1024];

static struct fake_target *fake;
static struct tm_pads *pads;
static struct tm_patches *patches;
static struct tm_thread *thread;

/* What the walks over the threads' stacks find. */
static uint64_t saved_pc;
static bool whole_stacks;

static void check(struct tm_error *err)
{
	cr_assert_null(err, "%s", err ? err->message : "");
}

static bool each_saved_pc(void *context, struct tm_thread *of, tm_visit_pc visit, void *visit_context)
{
	cr_assert_eq(context, &saved_pc);
	cr_assert_eq(of->state, TM_THREAD_STOPPED);
	if (saved_pc)
		visit(visit_context, saved_pc);
	return whole_stacks;
}

static void attach(void)
{
	const struct tm_patches_config config = {NULL, NULL, each_saved_pc, &saved_pc};
	struct tm_patches_config with_target = config;

	check(tm_pads_create(&fake->base, &pads));
	check(tm_pads_adopt(pads));
	with_target.target = &fake->base;
	with_target.pads = pads;
	check(tm_patches_create(&with_target, &patches));
	check(tm_patches_survey(patches));
}

static void detach(void)
{
	size_t foreign = 0;

	check(tm_patches_remove_all(patches, &foreign));
	cr_assert_eq(foreign, 0);
	tm_patches_destroy(patches);
	tm_pads_destroy(pads);
}

static void setup(void)
{
	memcpy(code, body, sizeof(body));
	memcpy(code + 64, body, sizeof(body));
	fake = fake_target_create();
	thread = fake_target_add_thread(fake, 1);
	thread->regs.value[fake->base.arch->sp] = (uint64_t)(uintptr_t)stack;
	saved_pc = 0;
	whole_stacks = true;
	attach();
}

static void teardown(void)
{
	tm_patches_destroy(patches);
	tm_pads_destroy(pads);
	fake_target_destroy(fake);
}

static uint64_t function(size_t at)
{
	return (uint64_t)(uintptr_t)(code + at);
}

static uint64_t copy, pad_address;
static struct tm_call_pad made;

static struct tm_error *make_pad(void *context, uint64_t address, uint64_t relocated, uint64_t *pad)
{
	struct tm_error *err;

	(void)context;
	copy = relocated;
	err = tm_call_pad_place(patches, address, relocated, (const uint8_t[]){0}, 1, &made, pad);
	pad_address = *pad;
	return err;
}

static struct tm_error *insert_at(size_t at)
{
	const struct tm_patch_request request = {
		function(at), body, sizeof(body), function(at) + sizeof(body), make_pad, NULL};

	return tm_patch_insert(patches, &request);
}

static void expect_refusal(struct tm_error *err, const char *why)
{
	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_UNSUPPORTED);
	cr_assert_not_null(strstr(err->message, why), "%s", err->message);
	tm_error_destroy(err);
	cr_assert_eq(fake_target_changed_bytes(fake, function(0), function(sizeof(code))), 0);
	cr_assert_eq(tm_patches_count(patches), 0);
}

static void set_pc(uint64_t pc)
{
	thread->regs.value[fake->base.arch->pc] = pc;
}

static uint64_t pc(void)
{
	return thread->regs.value[fake->base.arch->pc];
}

TestSuite(patch, .init = setup, .fini = teardown);

/* ---- inserting ---- */

Test(patch, is_a_jump_to_the_pad)
{
	uint8_t present[sizeof(body)];
	int32_t displacement;

	check(insert_at(0));
	check(tm_target_read(&fake->base, function(0), present, sizeof(present)));
	memcpy(&displacement, present + 1, sizeof(displacement));
	cr_assert_eq(present[0], 0xe9);
	cr_assert_eq(function(JUMP) + (uint64_t)(int64_t)displacement, pad_address);
	cr_assert_arr_eq(present + JUMP, body + JUMP, sizeof(body) - JUMP);
	cr_assert(tm_patch_at(patches, function(0)));
	cr_assert_not(tm_patches_cover(patches, function(0)));
	cr_assert(tm_patches_cover(patches, function(1)) && tm_patches_cover(patches, function(JUMP - 1)));
	cr_assert_not(tm_patches_cover(patches, function(JUMP)));
	cr_assert_not(tm_patch_at(patches, function(64)));
}

Test(patch, copy_holds_the_whole_instructions_and_goes_on_behind_them)
{
	uint8_t present[12];
	int32_t displacement;

	check(insert_at(0));
	check(tm_target_read(&fake->base, copy, present, sizeof(present)));
	memcpy(&displacement, present + 8, sizeof(displacement));
	cr_assert_arr_eq(present, body, 7);
	cr_assert_eq(present[7], 0xe9);
	cr_assert_eq(copy + 12 + (uint64_t)(int64_t)displacement, function(7));
}

Test(patch, a_thread_inside_is_moved_to_the_same_instruction)
{
	static const uint64_t inside[] = {2, 3, 4}; /* push %rbp, push %rbx, mov */

	for (size_t i = 0; i < TM_ARRAY_SIZE(inside); i++) {
		set_pc(function(inside[i]));
		check(insert_at(0));
		cr_assert_eq(pc(), copy + inside[i]);
		detach();
		attach();
	}
}

Test(patch, a_thread_at_the_first_byte_or_behind_stays)
{
	set_pc(function(0));
	check(insert_at(0));
	cr_assert_eq(pc(), function(0));
	set_pc(function(64 + JUMP));
	check(insert_at(64));
	cr_assert_eq(pc(), function(64 + JUMP));
}

/* ---- refusals ---- */

Test(patch, a_thread_that_stands_nowhere_sensible_is_refused)
{
	set_pc(function(1));
	expect_refusal(insert_at(0), "no counterpart");
}

Test(patch, a_thread_that_runs_is_refused)
{
	struct tm_thread *other = fake_target_add_thread(fake, 2);

	other->state = TM_THREAD_RUNNING;
	expect_refusal(insert_at(0), "thread 2");
	expect_refusal(tm_patches_survey(patches), "thread 2");
	other->state = TM_THREAD_STOPPED;
	expect_refusal(insert_at(0), "not been looked at");
	check(tm_patches_survey(patches));
	check(insert_at(0));
}

Test(patch, a_saved_pc_inside_is_refused)
{
	saved_pc = function(4);
	check(tm_patches_survey(patches));
	expect_refusal(insert_at(0), "signal handler");
	saved_pc = function(JUMP);
	check(tm_patches_survey(patches));
	check(insert_at(0));
}

Test(patch, a_stack_that_is_no_chain_of_frames_is_searched)
{
	whole_stacks = false;
	stack[1000] = function(1);
	check(tm_patches_survey(patches));
	expect_refusal(insert_at(0), "thread 1");
	stack[1000] = function(0);
	check(insert_at(0));
}

Test(patch, code_that_is_not_the_files_is_refused)
{
	code[7] = 0xcc; /* behind the jump, in what is looked at */
	expect_refusal(insert_at(0), "somebody has changed it");
	code[7] = body[7];
	code[0] = 0xcc;
	expect_refusal(insert_at(0), "somebody has changed it");
}

Test(patch, a_jump_into_the_bytes_is_refused)
{
	const struct tm_patch_request request = {function(0),	     body,     sizeof(body),
						 function(JUMP - 1), make_pad, NULL};

	expect_refusal(tm_patch_insert(patches, &request), "first 5 bytes");
}

Test(patch, a_short_body_is_refused)
{
	const struct tm_patch_request request = {function(0),	     body,     JUMP - 1,
						 function(JUMP - 1), make_pad, NULL};

	expect_refusal(tm_patch_insert(patches, &request), "first 5 bytes");
}

Test(patch, code_that_cannot_be_moved_is_refused_by_name)
{
	static const uint8_t system_call[16] = {0x0f, 0x05, 0x90, 0x90, 0x90, 0xc3};
	const struct tm_patch_request request = {
		function(128), system_call, sizeof(system_call), function(128) + sizeof(system_call),
		make_pad,      NULL};

	memcpy(code + 128, system_call, sizeof(system_call));
	expect_refusal(tm_patch_insert(patches, &request), "syscall");
}

Test(patch, without_pads_nothing_is_changed)
{
	struct tm_error *err;

	fake->refuse_mmap = 13; /* EACCES */
	err = insert_at(0);
	cr_assert_not_null(err);
	tm_error_destroy(err);
	cr_assert_eq(fake_target_changed_bytes(fake, function(0), function(sizeof(code))), 0);
}

static struct tm_error *make_far_pad(void *context, uint64_t address, uint64_t relocated, uint64_t *pad)
{
	(void)context;
	(void)relocated;
	*pad = address + (UINT64_C(1) << 32);
	return NULL;
}

Test(patch, a_pad_out_of_reach_is_refused)
{
	const struct tm_patch_request request = {function(0),  body, sizeof(body), function(sizeof(body)),
						 make_far_pad, NULL};

	expect_refusal(tm_patch_insert(patches, &request), "out of reach");
}

/* ---- letting go ---- */

Test(patch, remove_restores_every_byte)
{
	size_t foreign = 0;

	check(insert_at(0));
	check(insert_at(64));
	cr_assert_gt(fake_target_changed_bytes(fake, function(0), function(sizeof(code))), 0);
	check(tm_patches_remove_all(patches, &foreign));
	cr_assert_eq(foreign, 0);
	cr_assert_eq(fake_target_changed_bytes(fake, function(0), function(sizeof(code))), 0);
	cr_assert_eq(tm_patches_count(patches), 0);
}

Test(patch, foreign_bytes_are_left_and_counted)
{
	uint8_t present, int3 = 0xcc;
	size_t foreign = 0;

	check(insert_at(0));
	check(insert_at(64));
	check(tm_target_write(&fake->base, function(0), &int3, 1));
	check(tm_patches_remove_all(patches, &foreign));
	cr_assert_eq(foreign, 1);
	check(tm_target_read(&fake->base, function(0), &present, 1));
	cr_assert_eq(present, int3);
	cr_assert_eq(fake_target_changed_bytes(fake, function(64), function(96)), 0);
}

Test(patch, the_next_attach_uses_the_same_pads)
{
	uint64_t first_copy, first_pad;

	check(insert_at(0));
	first_copy = copy;
	first_pad = pad_address;
	for (int i = 0; i < 3; i++) {
		detach();
		attach();
		check(insert_at(0));
		cr_assert_eq(copy, first_copy);
		cr_assert_eq(pad_address, first_pad);
	}
	cr_assert_eq(fake->mapped.count, 1);
}

Test(patch, alternating_with_a_breakpoint_leaks_no_slots)
{
	struct tm_relocated relocated;
	uint64_t single[3], whole[3];

	for (int i = 0; i < 3; i++) {
		check(tm_pads_relocate(pads, NULL, function(0), body, sizeof(body), 1, &single[i],
				       &relocated));
		check(insert_at(0));
		whole[i] = copy;
		detach();
		attach();
	}
	cr_assert_neq(single[0], whole[0]);
	cr_assert(single[0] == single[1] && single[1] == single[2]);
	cr_assert(whole[0] == whole[1] && whole[1] == whole[2]);
}

Test(patch, childs_own_copy_is_scrubbed)
{
	pid_t child;

	check(insert_at(0));
	child = fake_target_fork(fake);
	check(tm_patches_scrub_child(patches, child));
	for (size_t i = 0; i < sizeof(body); i++)
		cr_assert_eq(fake_target_child_byte(fake, child, function(i)), body[i]);
	cr_assert_gt(fake_target_changed_bytes(fake, function(0), function(sizeof(code))), 0,
		     "the target keeps it");
}

Test(patch, unmapped_code_is_forgotten)
{
	size_t foreign = 0, writes;

	check(insert_at(0));
	check(insert_at(64));
	writes = fake->writes;
	tm_patches_forget(patches, function(0), function(64));
	cr_assert_eq(tm_patches_count(patches), 1);
	cr_assert_eq(fake->writes, writes);
	tm_patches_forget_all(patches);
	check(tm_patches_remove_all(patches, &foreign));
	cr_assert_eq(foreign, 0);
	cr_assert_eq(fake->writes, writes);
}

Test(patch, memory_that_is_gone_needs_no_restoring)
{
	size_t foreign = 0;

	check(insert_at(0));
	fake_target_unmap(fake, function(0), function(4096));
	check(tm_patches_remove_all(patches, &foreign));
	cr_assert_eq(foreign, 0);
}

/* ---- a pc in a pad ---- */

Test(patch, pc_in_a_pad_stands_for_the_function)
{
	struct tm_pad_state state;

	check(insert_at(0));
	cr_assert(tm_patches_pad_state(patches, pad_address, false, &state));
	cr_assert_eq(state.original, function(0));
	cr_assert_eq(state.depth, 0);
	cr_assert(tm_patches_pad_state(patches, pad_address + made.stop, false, &state));
	cr_assert_eq(state.original, function(0));
	cr_assert_eq(state.depth, 8);
	cr_assert(tm_patches_pad_state(patches, copy + 3, false, &state));
	cr_assert_eq(state.original, function(3));
	cr_assert_eq(state.depth, 0);
	cr_assert_not(tm_patches_pad_state(patches, copy + 1, false, &state), "no instruction begins there");
	cr_assert_not(tm_patches_pad_state(patches, function(0), false, &state));
}

#define RETURN 21u /* of the body; nops before it */

static struct tm_error *make_way_pad(void *context, uint64_t address, uint64_t relocated, uint64_t *pad)
{
	const struct tm_record_pad_plan plan = {.original = relocated + 4,
						.enabled = function(0),
						.leave = function(64),
						.way_out = true,
						.before = body + RETURN - 4,
						.before_size = 4,
						.argument_count = 1};
	struct tm_record_pad way;
	struct tm_error *err = tm_record_pad_make(fake->base.arch, &plan, &way);

	(void)context;
	if (!err)
		err = tm_pads_place(pads, NULL, address, way.code, way.size, &pad_address);
	*pad = pad_address;
	return err;
}

Test(patch, pc_in_a_pad_at_a_return_stands_for_what_is_there)
{
	const uint8_t *start = body + RETURN - 4;
	const struct tm_patch_request request = {function(RETURN - 4), start,	     5,
						 function(RETURN + 1), make_way_pad, NULL};
	struct tm_pad_state state;

	check(tm_patch_insert(patches, &request));
	for (unsigned at = 0; at < 4; at++) {
		cr_assert(tm_patches_pad_state(patches, pad_address + at, false, &state));
		cr_expect_eq(state.original, function(RETURN - 4 + at));
		cr_expect_eq(state.depth, 0);
	}
	cr_assert(tm_patches_pad_state(patches, pad_address + 4, false, &state));
	cr_expect_eq(state.original, function(RETURN));
	cr_expect_eq(state.depth, 0);
	cr_assert(tm_patches_pad_state(patches, pad_address + 4 + 13 + 1, false, &state));
	cr_expect_eq(state.original, function(RETURN), "behind a push");
	cr_expect_eq(state.depth, 8);
	detach();
	attach();
	cr_assert(tm_patches_pad_state(patches, pad_address + 4, false, &state));
	cr_expect_eq(state.original, function(RETURN), "of an earlier trace");
}

Test(patch, return_address_into_a_pad_is_the_pads_frame)
{
	struct tm_pad_state state;

	check(insert_at(0));
	cr_assert(tm_patches_pad_state(patches, pad_address + made.stop, true, &state));
	cr_assert_eq(state.original, 0);
	cr_assert_eq(state.depth, 8);
	cr_assert_not(tm_patches_pad_state(patches, pad_address, true, &state));
	cr_assert_not(tm_patches_pad_state(patches, copy, true, &state));
}

Test(patch, pads_of_an_earlier_trace_are_still_known)
{
	struct tm_pad_state state;

	check(insert_at(0));
	detach();
	attach();
	cr_assert(tm_patches_pad_state(patches, pad_address + made.stop, true, &state));
	cr_assert_eq(state.depth, 8);
	cr_assert(tm_patches_pad_state(patches, pad_address, false, &state));
	cr_assert_eq(state.original, function(0));
}
#else
Test(patch, there_are_none_yet)
{
	struct fake_target *fake = fake_target_create();
	const struct tm_patches_config config = {.target = &fake->base};
	const struct tm_patch_request request = {.address = 4096};
	struct tm_patches *patches;
	struct tm_error *err;

	cr_assert_null(tm_patches_create(&config, &patches));
	err = tm_patch_insert(patches, &request);
	cr_assert_eq(err->code, TM_ERROR_UNSUPPORTED);
	tm_error_destroy(err);
	tm_patches_destroy(patches);
	fake_target_destroy(fake);
}
#endif
