/* From a thread at a breakpoint to an event: entry, pending call, return, and all the ways in which calls
 * nest and end. */
#include <criterion/criterion.h>

#include "support/event_recorder.h"
#include "support/probe_scene.h"

#define OLD   0x10000u
#define BLOCK 0x20000u
#define OTHER 0x30000u

static struct scene scene;
static struct tm_thread *thread;

static void setup(void)
{
	scene_open(&scene, &recorder_sink, true);
	thread = scene_add_thread(&scene, 1);
}

static void teardown(void)
{
	scene_close(&scene);
}

#define ENTER(function, from, ...) scene_enter(&scene, thread, function, from, __VA_ARGS__)
#define LEAVE(call, name, result)  SCENE_LEAVE(&scene, thread, &(call), name, result)

static void expect_nothing(void)
{
	cr_assert_eq(recorded.count, 0, "%zu events", recorded.count);
}

TestSuite(probe, .init = setup, .fini = teardown);

/* ---- one call ---- */

Test(probe, malloc_is_one_event_at_its_return)
{
	struct scene_call call = ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);

	expect_nothing();
	LEAVE(call, mi_malloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].address, BLOCK);
	cr_assert_eq(recorded.events[0].size, 10007);
	cr_assert_eq(recorded.events[0].tid, 1);
}

Test(probe, capture_is_of_the_entry)
{
	const struct tm_arch *arch = scene.fake->base.arch;
	struct scene_call call = ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);

	LEAVE(call, mi_malloc, BLOCK);
	cr_assert_eq(recorded.events[0].regs.value[arch->pc], scene_address(mi_malloc));
	cr_assert_eq(recorded.events[0].regs.value[arch->arguments[0]], 10007);
	cr_assert_eq(recorded.events[0].start, call.cfa - (uint64_t)arch->entry_cfa_offset);
	if (arch->link < 0)
		cr_assert_eq(recorded.events[0].first_word, scene_address(scene_caller_1));
}

Test(probe, null_result_is_a_failed_call)
{
	struct scene_call call = ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);

	LEAVE(call, mi_malloc, 0);
	EXPECT(TM_EVENT_FAIL);
}

Test(probe, free_is_an_event_at_its_entry)
{
	struct scene_call call = ENTER(mi_free, scene_caller_1, BLOCK, 0, 0);

	EXPECT(TM_EVENT_FREE);
	cr_assert_eq(recorded.events[0].old, BLOCK);
	cr_assert_not(recorded.events[0].nested);
	LEAVE(call, mi_free, 0);
	cr_assert_eq(recorded.count, 1);
}

Test(probe, free_of_null_is_nothing)
{
	ENTER(mi_free, scene_caller_1, 0, 0, 0);
	expect_nothing();
}

Test(probe, calloc_size_is_the_product)
{
	struct scene_call call = ENTER(mi_calloc, scene_caller_1, 10007, 10009, 0);

	LEAVE(call, mi_calloc, BLOCK);
	cr_assert_eq(recorded.events[0].size, UINT64_C(10007) * 10009);
}

Test(probe, calloc_size_saturates)
{
	struct scene_call call = ENTER(mi_calloc, scene_caller_1, UINT64_MAX / 2, 3, 0);

	LEAVE(call, mi_calloc, BLOCK);
	cr_assert_eq(recorded.events[0].size, UINT64_MAX);
}

Test(probe, posix_memalign_result_is_read_through_its_argument)
{
	static uint64_t place;
	struct scene_call call =
		ENTER(mi_posix_memalign, scene_caller_1, (uint64_t)(uintptr_t)&place, 64, 10007);

	place = BLOCK;
	LEAVE(call, mi_posix_memalign, 0xffffffff00000000); /* an int: the upper half says nothing */
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].address, BLOCK);
	cr_assert_eq(recorded.events[0].size, 10007);
}

Test(probe, failed_posix_memalign_leaves_its_argument_alone)
{
	static uint64_t place = BLOCK;
	struct scene_call call =
		ENTER(mi_posix_memalign, scene_caller_1, (uint64_t)(uintptr_t)&place, 64, 10007);

	LEAVE(call, mi_posix_memalign, 12 /* ENOMEM */);
	EXPECT(TM_EVENT_FAIL);
}

Test(probe, own_returns_need_no_breakpoint_in_the_caller)
{
	struct scene_call call = ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);

	cr_assert_not(fake_target_traps_at(scene.fake, scene_address(scene_caller_1)));
	cr_assert(fake_target_traps_at(scene.fake, scene_address(mi_malloc_return)));
	LEAVE(call, mi_malloc, BLOCK);
	cr_assert_eq(scene.stops, 2);
}

Test(probe, a_function_with_tail_jump_is_watched_at_the_return_address)
{
	struct scene_call call = ENTER(tc_malloc, scene_caller_1, 10007, 0, 0);

	cr_assert(fake_target_traps_at(scene.fake, scene_address(scene_caller_1)));
	cr_assert_not(fake_target_traps_at(scene.fake, scene_address(tc_malloc_return)));
	LEAVE(call, tc_malloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].address, BLOCK);
}

Test(probe, return_address_met_by_another_way_is_no_return)
{
	const struct tm_arch *arch = scene.fake->base.arch;
	struct scene_call call = ENTER(tc_malloc, scene_caller_1, 10007, 0, 0);
	uint64_t sp = thread->regs.value[arch->sp];
	bool ours;

	/* deeper recursion of the caller comes by there first */
	thread->regs.value[arch->sp] -= 256;
	thread->regs.value[arch->pc] = scene_address(scene_caller_1);
	thread->regs.value[arch->result] = OTHER;
	scene_check(tm_probe_hit(scene.probe, thread, scene_address(scene_caller_1), &ours));
	cr_assert(ours);
	expect_nothing();
	thread->regs.value[arch->sp] = sp;
	LEAVE(call, tc_malloc, BLOCK);
	cr_assert_eq(recorded.events[0].address, BLOCK);
}

Test(probe, breakpoint_of_somebody_else_is_not_ours)
{
	bool ours = true;

	scene_check(tm_probe_hit(scene.probe, thread, scene_address(scene_caller_3), &ours));
	cr_assert_not(ours);
}

/* ---- calls inside calls ---- */

Test(probe, malloc_inside_calloc_is_not_an_event)
{
	struct scene_call outer = ENTER(mi_calloc, scene_caller_1, 1, 10007, 0);
	struct scene_call inner = ENTER(mi_malloc, scene_caller_2, 10009, 0, 0);

	LEAVE(inner, mi_malloc, BLOCK);
	expect_nothing();
	LEAVE(outer, mi_calloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10007);
	if (scene.fake->base.arch->link < 0)
		cr_assert_eq(recorded.events[0].first_word, scene_address(scene_caller_1),
			     "frame 0 is the outermost call's caller");
}

Test(probe, realloc_null_that_jumps_into_malloc_is_one_event)
{
	struct scene_call call = ENTER(mi_realloc, scene_caller_1, 0, 10007, 0);

	scene_jump(&scene, thread, &call, mi_malloc, 10007, 0);
	LEAVE(call, mi_malloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10007);
	cr_assert_eq(recorded.events[0].address, BLOCK);
}

Test(probe, free_in_realloc_of_the_old_block_is_not_a_free)
{
	struct scene_call outer = ENTER(tc_realloc, scene_caller_1, OLD, 10007, 0);
	struct scene_call inner = ENTER(mi_free, scene_caller_2, OLD, 0, 0);

	LEAVE(inner, mi_free, 0);
	LEAVE(outer, tc_realloc, BLOCK);
	EXPECT(TM_EVENT_RESIZE_BEGIN, TM_EVENT_RESIZE_END);
}

Test(probe, nested_free_of_another_block_is_told_as_nested)
{
	struct scene_call outer = ENTER(tc_realloc, scene_caller_1, OLD, 10007, 0);
	struct scene_call inner = ENTER(mi_free, scene_caller_2, OTHER, 0, 0);

	LEAVE(inner, mi_free, 0);
	LEAVE(outer, tc_realloc, BLOCK);
	EXPECT(TM_EVENT_RESIZE_BEGIN, TM_EVENT_FREE, TM_EVENT_RESIZE_END);
	cr_assert(recorded.events[1].nested);
	cr_assert_eq(recorded.events[1].old, OTHER);
}

Test(probe, delete_that_calls_free_is_one_free)
{
	struct scene_call outer = ENTER(tc_delete, scene_caller_1, BLOCK, 0, 0);
	struct scene_call inner = ENTER(mi_free, scene_caller_2, BLOCK, 0, 0);

	LEAVE(inner, mi_free, 0);
	LEAVE(outer, tc_delete, 0);
	EXPECT(TM_EVENT_FREE, TM_EVENT_FREE);
	cr_assert_not(recorded.events[0].nested);
	cr_assert(recorded.events[1].nested,
		  "concerns known blocks only, and this one is not known any more");
}

Test(probe, delete_that_jumps_to_free_is_one_free)
{
	struct scene_call call = ENTER(tc_delete, scene_caller_1, BLOCK, 0, 0);

	scene_jump(&scene, thread, &call, mi_free, BLOCK, 0);
	cr_assert_not(recorded.events[0].nested);
	cr_assert(recorded.events[1].nested);
}

Test(probe, block_that_is_freed_allocated_and_freed_again_is_two_frees)
{
	struct scene_call call = ENTER(mi_free, scene_caller_1, BLOCK, 0, 0);

	LEAVE(call, mi_free, 0);
	call = ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);
	LEAVE(call, mi_malloc, BLOCK);
	call = ENTER(mi_free, scene_caller_1, BLOCK, 0, 0);
	EXPECT(TM_EVENT_FREE, TM_EVENT_ALLOCATE, TM_EVENT_FREE);
	cr_assert_not(recorded.events[2].nested);
}

/* ---- resizes ---- */

Test(probe, realloc_releases_only_the_address_until_it_returns)
{
	struct scene_call call = ENTER(tc_realloc, scene_caller_1, OLD, 10009, 0);

	EXPECT(TM_EVENT_RESIZE_BEGIN);
	cr_assert_eq(recorded.events[0].old, OLD);
	LEAVE(call, tc_realloc, BLOCK);
	EXPECT(TM_EVENT_RESIZE_BEGIN, TM_EVENT_RESIZE_END);
	cr_assert_eq(recorded.events[1].address, BLOCK);
	cr_assert_eq(recorded.events[1].old, OLD);
	cr_assert_eq(recorded.events[1].size, 10009);
	cr_assert(recorded.events[1].scratch_kept);
}

Test(probe, failed_realloc_keeps_the_old_block)
{
	struct scene_call call = ENTER(tc_realloc, scene_caller_1, OLD, 10009, 0);

	LEAVE(call, tc_realloc, 0);
	EXPECT(TM_EVENT_RESIZE_BEGIN, TM_EVENT_RESIZE_CANCEL, TM_EVENT_FAIL);
	cr_assert(recorded.events[1].scratch_kept);
}

Test(probe, realloc_of_null_is_an_allocation)
{
	struct scene_call call = ENTER(tc_realloc, scene_caller_1, 0, 10009, 0);

	LEAVE(call, tc_realloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10009);
}

Test(probe, realloc_to_zero_frees_where_the_row_says_so)
{
	struct scene_call call = ENTER(tc_realloc, scene_caller_1, OLD, 0, 0);

	LEAVE(call, tc_realloc, 0);
	EXPECT(TM_EVENT_RESIZE_BEGIN, TM_EVENT_RESIZE_FREED);
	recorded.count = 0;
	call = ENTER(rallocx, scene_caller_1, OLD, 0, 0);
	LEAVE(call, rallocx, 0);
	EXPECT(TM_EVENT_RESIZE_BEGIN, TM_EVENT_RESIZE_CANCEL, TM_EVENT_FAIL);
}

Test(probe, realloc_of_null_to_zero_that_gives_nothing_is_a_failed_call)
{
	struct scene_call call = ENTER(tc_realloc, scene_caller_1, 0, 0, 0);

	LEAVE(call, tc_realloc, 0);
	EXPECT(TM_EVENT_FAIL);
}

/* ---- calls that do not return ---- */

Test(probe, longjmp_out_of_malloc_drops_the_pending_call)
{
	struct scene_call call = ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);

	scene_drop(&scene, thread, &call);
	call = ENTER(mi_calloc, scene_caller_2, 1, 10009, 0);
	LEAVE(call, mi_calloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10009);
}

Test(probe, call_from_a_shallower_frame_drops_the_pending_call)
{
	struct scene_call frame = ENTER(scene_chosen, scene_caller_1, 0, 0, 0);

	ENTER(tc_realloc, scene_caller_2, OLD, 10007, 0);
	scene_drop(&scene, thread, &frame);
	struct scene_call call = ENTER(mi_malloc, scene_caller_3, 10009, 0, 0);
	EXPECT(TM_EVENT_RESIZE_BEGIN, TM_EVENT_RESIZE_CANCEL);
	LEAVE(call, mi_malloc, BLOCK);
	EXPECT(TM_EVENT_RESIZE_BEGIN, TM_EVENT_RESIZE_CANCEL, TM_EVENT_ALLOCATE);
}

Test(probe, exception_out_of_new_that_is_caught_does_not_hide_deeper_calls)
{
	/* With a link register the place of a return address is known to the function alone. */
	if (scene.fake->base.arch->link >= 0)
		cr_skip_test("no return address on the stack at entry");
	struct scene_call failed = ENTER(tc_new, scene_caller_1, 10007, 0, 0);
	scene_drop(&scene, thread, &failed);
	ENTER(scene_chosen, scene_caller_2, 0, 0, 0); /* from the frame that caught it */
	struct scene_call call = ENTER(mi_malloc, scene_caller_3, 10009, 0, 0);
	LEAVE(call, mi_malloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10009);
}

Test(probe, same_function_called_again_from_the_same_frame_is_another_call)
{
	struct scene_call call = ENTER(tc_malloc, scene_caller_1, 10007, 0, 0);

	scene_drop(&scene, thread, &call);
	call = ENTER(tc_malloc, scene_caller_1, 10009, 0, 0);
	LEAVE(call, tc_malloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10009);
}

Test(probe, thread_that_dies_in_a_call_leaves_nothing)
{
	ENTER(tc_realloc, scene_caller_1, OLD, 10007, 0);
	tm_probe_thread_gone(scene.probe, thread);
	EXPECT(TM_EVENT_RESIZE_BEGIN, TM_EVENT_RESIZE_CANCEL);
	cr_assert_null(thread->probe);
	tm_probe_thread_gone(scene.probe, thread);
	cr_assert_eq(recorded.count, 2);
}

/* ---- signal handlers ---- */

static void deliver_signal(void)
{
	thread->signal_count++;
	recorded.in_handler = true;
}

Test(probe, handler_that_interrupted_malloc_has_its_own_level)
{
	struct scene_call interrupted = ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);

	deliver_signal();
	struct scene_call call = ENTER(mi_malloc, scene_caller_2, 10009, 0, 0);
	LEAVE(call, mi_malloc, OTHER);
	recorded.in_handler = false;
	LEAVE(interrupted, mi_malloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE, TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10009);
	cr_assert_eq(recorded.events[0].address, OTHER);
	cr_assert_eq(recorded.events[1].size, 10007);
	cr_assert_eq(recorded.events[1].address, BLOCK);
}

Test(probe, free_in_a_handler_is_not_nested)
{
	ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);
	deliver_signal();
	ENTER(mi_free, scene_caller_2, OTHER, 0, 0);
	EXPECT(TM_EVENT_FREE);
	cr_assert_not(recorded.events[0].nested);
}

Test(probe, signal_that_came_and_went_does_not_end_the_nesting)
{
	struct scene_call outer = ENTER(mi_calloc, scene_caller_1, 1, 10007, 0);

	thread->signal_count++;
	struct scene_call inner = ENTER(mi_malloc, scene_caller_2, 10009, 0, 0);
	LEAVE(inner, mi_malloc, BLOCK);
	LEAVE(outer, mi_calloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10007);
}

Test(probe, call_left_inside_a_handler_does_not_hide_the_interrupted_one)
{
	struct scene_call interrupted = ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);

	deliver_signal();
	struct scene_call left = ENTER(mi_calloc, scene_caller_2, 1, 10009, 0);
	scene_drop(&scene, thread, &left);
	recorded.in_handler = false;
	LEAVE(interrupted, mi_malloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10007);
}

/* ---- threads ---- */

Test(probe, two_threads_in_malloc_are_independent)
{
	struct tm_thread *second = scene_add_thread(&scene, 2);
	struct scene_call a = ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);
	struct scene_call b = scene_enter(&scene, second, mi_malloc, scene_caller_1, 10009, 0, 0);

	LEAVE(a, mi_malloc, BLOCK);
	SCENE_LEAVE(&scene, second, &b, mi_malloc, OTHER);
	EXPECT(TM_EVENT_ALLOCATE, TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].tid, 1);
	cr_assert_eq(recorded.events[0].size, 10007);
	cr_assert_eq(recorded.events[1].tid, 2);
	cr_assert_eq(recorded.events[1].size, 10009);
}
