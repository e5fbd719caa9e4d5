/* Functions that are patched, on the fake target: what the one stop tells, and which keep their breakpoints.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "support/event_recorder.h"
#include "support/probe_scene.h"

#define OLD   0x10000u
#define BLOCK 0x20000u
#define OTHER 0x30000u

#if defined(__x86_64__)
/* A function with a second entry inside what a jump would replace. */
extern const char mi_calloc_aligned[], mi_zalloc_small[];
__asm__("\t.text\n\t.balign 16\n"
	"\t.globl mi_calloc_aligned\n\t.type mi_calloc_aligned, %function\nmi_calloc_aligned:\n"
	"\t.cfi_startproc\n\t.rept 16\n\tnop\n\t.endr\n\tret\n\t.cfi_endproc\n"
	"\t.size mi_calloc_aligned, .-mi_calloc_aligned\n"
	"\t.globl mi_zalloc_small\n\t.type mi_zalloc_small, %function\n"
	"\t.set mi_zalloc_small, mi_calloc_aligned+2\n\t.size mi_zalloc_small, 4\n");

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

#define PASS(function, from, ...)  scene_pass(&scene, thread, function, from, __VA_ARGS__)
#define BACK(call, result)	   scene_pass_back(&scene, thread, &(call), result)
#define ENTER(function, from, ...) scene_enter(&scene, thread, function, from, __VA_ARGS__)
#define LEAVE(call, name, result)  SCENE_LEAVE(&scene, thread, &(call), name, result)

static bool is_patched(const char *function)
{
	return tm_patch_at(scene.patches, scene_address(function));
}

TestSuite(patched, .init = setup, .fini = teardown);

Test(patched, are_functions_that_allocate_and_do_not_throw)
{
	cr_assert(is_patched(mi_valloc));
	cr_assert(is_patched(mi_mallocn));
	cr_assert(is_patched(tc_posix_memalign));
	cr_assert_not(is_patched(mi_malloc), "too short");
	cr_assert_not(is_patched(mi_free));
	cr_assert_not(is_patched(mi_realloc));
	cr_assert_not(is_patched(tc_new));
}

Test(patched, are_not_those_without_cfi_nor_those_that_are_jumped_into)
{
	cr_assert_not(is_patched(mi_pvalloc));
	cr_assert(fake_target_traps_at(scene.fake, scene_address(mi_pvalloc)));
	cr_assert_not(is_patched(mi_memalign));
	cr_assert(fake_target_traps_at(scene.fake, scene_address(mi_memalign)));
}

Test(patched, no_breakpoint_stands_inside_a_jump)
{
	bool patched = is_patched(mi_calloc_aligned);

	/* Whichever of the two was found first has its way. */
	cr_assert_eq(tm_breakpoint_find(scene.breakpoints, scene_address(mi_zalloc_small)) == NULL, patched);
	cr_assert_eq(tm_breakpoint_find(scene.breakpoints, scene_address(mi_calloc_aligned)) == NULL,
		     patched);
	cr_assert_eq(strstr(recorded.warning, "inside the jump") != NULL, patched, "%s", recorded.warning);
}

Test(patched, a_call_is_one_stop_and_one_event)
{
	struct scene_call call = PASS(mi_valloc, scene_caller_1, 10007, 0, 0);

	cr_assert_eq(scene.stops, 0);
	BACK(call, BLOCK);
	cr_assert_eq(scene.stops, 1);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].address, BLOCK);
	cr_assert_eq(recorded.events[0].size, 10007);
}

Test(patched, capture_is_of_the_entry)
{
	const struct tm_arch *arch = scene.fake->base.arch;
	struct scene_call call = PASS(mi_mallocn, scene_caller_2, 3, 7, 0);

	thread->regs.value[arch->fp] = 0x1234;
	BACK(call, BLOCK);
	cr_assert_eq(recorded.events[0].regs.value[arch->pc], scene_address(mi_mallocn));
	cr_assert_eq(recorded.events[0].regs.value[arch->sp], call.cfa - 8);
	cr_assert_eq(recorded.events[0].regs.value[arch->fp], 0x1234);
	cr_assert_eq(recorded.events[0].start, call.cfa - 8);
	cr_assert_eq(recorded.events[0].first_word, scene_address(scene_caller_2));
}

Test(patched, count_times_size)
{
	struct scene_call call = PASS(mi_mallocn, scene_caller_1, 3, 10007, 0);

	BACK(call, BLOCK);
	cr_assert_eq(recorded.events[0].size, 30021);
	call = PASS(mi_mallocn, scene_caller_1, UINT64_MAX, 2, 0);
	BACK(call, 0);
	EXPECT(TM_EVENT_ALLOCATE, TM_EVENT_FAIL);
	cr_assert_eq(recorded.events[1].size, UINT64_MAX);
}

Test(patched, result_by_pointer)
{
	static uint64_t out;
	uint64_t block = BLOCK;
	struct scene_call call =
		PASS(tc_posix_memalign, scene_caller_1, (uint64_t)(uintptr_t)&out, 64, 10007);

	scene_check(tm_target_write(&scene.fake->base, (uint64_t)(uintptr_t)&out, &block, sizeof(block)));
	BACK(call, 0);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].address, BLOCK);
	cr_assert_eq(recorded.events[0].size, 10007);
	call = PASS(tc_posix_memalign, scene_caller_1, (uint64_t)(uintptr_t)&out, 3, 10007);
	BACK(call, 22); /* EINVAL */
	EXPECT(TM_EVENT_ALLOCATE, TM_EVENT_FAIL);
}

Test(patched, inside_a_pending_call_it_is_nested)
{
	struct scene_call outer = ENTER(tc_new, scene_caller_1, 10007, 0, 0);
	struct scene_call inner = PASS(mi_valloc, scene_caller_2, 10009, 0, 0);

	BACK(inner, BLOCK);
	cr_assert_eq(recorded.count, 0);
	LEAVE(outer, tc_new, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10007);
}

Test(patched, a_tail_jump_to_it_is_the_pending_calls)
{
	struct scene_call outer = ENTER(mi_realloc, scene_caller_1, 0, 10007, 0);
	struct scene_call inner;

	/* mi_realloc jumps: same frame, same return address. */
	scene_drop(&scene, thread, &outer);
	inner = PASS(mi_valloc, scene_caller_1, 10007, 0, 0);
	scene_pass_back(&scene, thread, &inner, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10007);
}

Test(patched, a_pending_call_that_it_jumped_to_returns_at_the_stop)
{
	struct scene_call outer = PASS(mi_valloc, scene_caller_1, 10007, 0, 0), inner;

	/* mi_valloc jumps: what it jumps to returns to the pad. */
	thread->regs.value[scene.fake->base.arch->sp] = outer.stop_sp;
	inner = ENTER(tc_malloc, (const char *)(uintptr_t)outer.stop, 10009, 0, 0);
	cr_assert_eq(scene_return_word(&scene, &inner), outer.stop);
	scene.stops = 0;
	LEAVE(inner, tc_malloc, BLOCK);
	cr_assert_eq(scene.stops, 1);
	EXPECT(TM_EVENT_ALLOCATE, TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10009, "which a walk will know as nested");
	cr_assert_eq(recorded.events[1].size, 10007);
	cr_assert_eq(recorded.events[1].first_word, scene_address(scene_caller_1));
}

Test(patched, in_a_handler_that_interrupted_a_pending_call_it_counts)
{
	struct scene_call outer = ENTER(tc_new, scene_caller_1, 10007, 0, 0), inner;

	thread->signal_count++;
	recorded.in_handler = true;
	inner = PASS(mi_valloc, scene_caller_2, 10009, 0, 0);
	BACK(inner, OTHER);
	recorded.in_handler = false;
	LEAVE(outer, tc_new, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE, TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10009);
	cr_assert_eq(recorded.events[1].size, 10007);
}

Test(patched, a_pending_call_that_was_left_is_dropped)
{
	struct scene_call left = ENTER(tc_realloc, scene_caller_1, OLD, 10007, 0), call;

	scene_drop(&scene, thread, &left);
	thread->regs.value[scene.fake->base.arch->sp] += 64;
	call = PASS(mi_valloc, scene_caller_2, 10009, 0, 0);
	BACK(call, BLOCK);
	EXPECT(TM_EVENT_RESIZE_BEGIN, TM_EVENT_RESIZE_CANCEL, TM_EVENT_ALLOCATE);
}

Test(patched, abandoned_calls_leave_nothing)
{
	for (int i = 0; i < 100; i++) {
		struct scene_call left = PASS(mi_valloc, scene_caller_1, 10007, 0, 0);

		scene_drop(&scene, thread, &left);
	}
	cr_assert_eq(recorded.count, 0);
	cr_assert_eq(scene.stops, 0);
}

Test(patched, functions_of_an_unloaded_module_are_forgotten)
{
	size_t before = tm_probe_function_count(scene.probe);

	cr_assert_gt(before, 0);
	tm_probe_forget_range(scene.probe, scene.program->number, scene.program->start, scene.program->end);
	cr_assert_eq(tm_probe_function_count(scene.probe), 0);
}

Test(patched, without_patches_all_have_breakpoints)
{
	scene_close(&scene);
	scene_open(&scene, &recorder_sink, false);
	thread = scene_add_thread(&scene, 1);
	cr_assert(fake_target_traps_at(scene.fake, scene_address(mi_valloc)));
}
#else
Test(patched, there_are_none_yet)
{
	struct scene scene;

	scene_open(&scene, &recorder_sink, true);
	cr_assert(fake_target_traps_at(scene.fake, scene_address(mi_valloc)));
	scene_close(&scene);
}
#endif
