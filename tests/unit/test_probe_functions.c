/* Which functions are traced and how their returns are seen; what disarming, fork, exec and unloading leave
 * of it. */
#include <criterion/criterion.h>
#include <string.h>

#include "debuginfo/symbol.h"
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

static void setup_in_place(void)
{
	scene_open(&scene, &recorder_sink, false);
	thread = scene_add_thread(&scene, 1);
}

static void teardown(void)
{
	scene_close(&scene);
}

#define ENTER(function, from, ...) scene_enter(&scene, thread, function, from, __VA_ARGS__)
#define LEAVE(call, name, result)  SCENE_LEAVE(&scene, thread, &(call), name, result)

TestSuite(probe_functions, .init = setup, .fini = teardown);
TestSuite(probe_in_place, .init = setup_in_place, .fini = teardown);

/* ---- callers in anonymous code ---- */

Test(probe_functions, return_address_in_anonymous_code_goes_through_the_trampoline)
{
	if (scene.fake->base.arch->link >= 0)
		cr_skip_test("a saved link register cannot be found again");
	struct scene_call call = ENTER(tc_malloc, scene_jit, 10007, 0, 0);
	uint64_t word = scene_return_word(&scene, &call);

	cr_assert_neq(word, scene_address(scene_jit));
	cr_assert(tm_pads_contain(scene.pads, word));
	cr_assert_not(fake_target_traps_at(scene.fake, scene_address(scene_jit)));
	LEAVE(call, tc_malloc, BLOCK); /* also looks that it came to the caller */
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].first_word, scene_address(scene_jit),
		     "the traceback knows no trampoline");
}

Test(probe_functions, trampolined_return_address_is_restored_at_disarm)
{
	if (scene.fake->base.arch->link >= 0)
		cr_skip_test("a saved link register cannot be found again");
	struct scene_call call = ENTER(tc_malloc, scene_jit, 10007, 0, 0);

	scene_check(tm_probe_disarm(scene.probe));
	cr_assert_eq(scene_return_word(&scene, &call), scene_address(scene_jit));
}

Test(probe_functions, thread_on_the_trampoline_is_sent_to_its_caller_at_disarm)
{
	const struct tm_arch *arch = scene.fake->base.arch;

	if (arch->link >= 0)
		cr_skip_test("a saved link register cannot be found again");
	struct scene_call call = ENTER(tc_malloc, scene_jit, 10007, 0, 0);
	thread->regs.value[arch->pc] = scene_return_word(&scene, &call);
	thread->regs.value[arch->sp] = call.cfa;
	thread->regs.value[arch->result] = BLOCK;
	scene_check(tm_probe_disarm(scene.probe));
	cr_assert_eq(thread->regs.value[arch->pc], scene_address(scene_jit));
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].address, BLOCK);
}

Test(probe_functions, trampolined_return_address_is_restored_in_a_forked_child)
{
	uint64_t word = 0;

	if (scene.fake->base.arch->link >= 0)
		cr_skip_test("a saved link register cannot be found again");
	struct scene_call call = ENTER(tc_malloc, scene_jit, 10007, 0, 0);
	pid_t child = fake_target_fork(scene.fake);
	tm_probe_scrub_child(scene.probe, child);
	struct tm_target *target = &scene.fake->base;
	scene_check(target->ops->read_child(target, child, call.cfa - sizeof(word), &word, sizeof(word)));
	cr_assert_eq(word, scene_address(scene_jit));
	cr_assert_neq(scene_return_word(&scene, &call), word, "the parent's is as it was");
}

Test(probe_functions, nested_call_from_anonymous_code_uses_the_same_trampoline)
{
	if (scene.fake->base.arch->link >= 0)
		cr_skip_test("a saved link register cannot be found again");
	struct scene_call interrupted = ENTER(tc_malloc, scene_jit, 10007, 0, 0);
	thread->signal_count++;
	recorded.in_handler = true;
	struct scene_call call = ENTER(tc_malloc, scene_jit, 10009, 0, 0);
	LEAVE(call, tc_malloc, OTHER);
	recorded.in_handler = false;
	LEAVE(interrupted, tc_malloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE, TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[1].address, BLOCK);
}

Test(probe_in_place, call_whose_return_cannot_be_seen_is_lost_and_said)
{
	ENTER(tc_malloc, scene_jit, 10007, 0, 0);
	EXPECT(TM_EVENT_LOST);
	cr_assert_not_null(strstr(recorded.warning, "tc_malloc"), "%s", recorded.warning);
}

Test(probe_in_place, works_without_pads)
{
	struct scene_call call = ENTER(mi_malloc, scene_caller_1, 10007, 0, 0);

	LEAVE(call, mi_malloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(scene.fake->steps.count, 2);
}

/* ---- which functions ---- */

Test(probe_functions, aliases_are_one_function)
{
	size_t armed = 77, count = tm_probe_function_count(scene.probe);
	const struct tm_breakpoint *breakpoint =
		tm_breakpoint_find(scene.breakpoints, scene_address(mi_malloc));

	cr_assert_eq(breakpoint->users, 1, "mi_malloc and mi_zalloc");
	scene_check(tm_probe_arm_module(scene.probe, scene.program, &armed));
	cr_assert_eq(armed, 0);
	cr_assert_eq(tm_probe_function_count(scene.probe), count);
	cr_assert_eq(breakpoint->users, 1);
	cr_assert_eq(tm_probe_module_count(scene.probe), 1);
}

Test(probe_functions, what_a_resolver_chooses_is_armed)
{
	cr_assert_not(fake_target_traps_at(scene.fake, scene_address(scene_chosen)));
	struct scene_call call = ENTER(scene_resolver, scene_caller_1, 0, 0, 0);
	LEAVE(call, scene_resolver, scene_address(scene_chosen));
	cr_assert_eq(recorded.count, 0);
	call = ENTER(scene_chosen, scene_caller_2, 10007, 0, 0);
	LEAVE(call, scene_chosen, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
	cr_assert_eq(recorded.events[0].size, 10007);
}

Test(probe_functions, somebody_elses_breakpoint_on_a_function_is_said_and_the_rest_is_traced)
{
	const struct tm_arch *arch = scene.fake->base.arch;
	size_t armed;

	scene_restore(&scene);
	tm_probe_reset(scene.probe);
	scene_check(tm_target_write(&scene.fake->base, scene_address(mi_malloc), arch->breakpoint,
				    arch->breakpoint_size));
	scene_check(tm_probe_arm_module(scene.probe, scene.program, &armed));
	cr_assert_gt(armed, 5);
	cr_assert_not_null(strstr(recorded.warning, "alloc in "), "%s", recorded.warning);
	cr_assert_null(tm_breakpoint_find(scene.breakpoints, scene_address(mi_malloc)));
}

Test(probe_functions, a_forgotten_module_is_not_written_to)
{
	const struct tm_module *module = scene.program;
	size_t changed = fake_target_changed_bytes(scene.fake, module->start, module->end);

	tm_probe_forget_range(scene.probe, module->number, module->start, module->end);
	tm_breakpoints_forget(scene.breakpoints, module->start, module->end);
	tm_patches_forget(scene.patches, module->start, module->end);
	cr_assert_eq(tm_probe_function_count(scene.probe), 0);
	cr_assert_eq(tm_probe_module_count(scene.probe), 0);
	scene_restore(&scene);
	cr_assert_gt(changed, 0);
	cr_assert_eq(fake_target_changed_bytes(scene.fake, module->start, module->end), changed);
}

Test(probe_functions, module_that_comes_back_is_armed_again)
{
	const struct tm_module *module = scene.program;
	size_t armed;

	scene_restore(&scene);
	tm_probe_forget_range(scene.probe, module->number, module->start, module->end);
	scene_check(tm_probe_arm_module(scene.probe, scene.program, &armed));
	cr_assert_gt(armed, 5);
	cr_assert_eq(fake_target_traps_at(scene.fake, scene_address(mi_malloc)), true);
}

Test(probe_functions, exec_forgets_functions_and_pending_calls)
{
	size_t armed;

	ENTER(tc_realloc, scene_caller_1, OLD, 10007, 0);
	tm_breakpoints_forget_all(scene.breakpoints);
	tm_patches_forget_all(scene.patches);
	tm_pads_forget_all(scene.pads);
	tm_map_clear(&scene.fake->memory.bytes);
	tm_probe_reset(scene.probe);
	cr_assert_eq(tm_probe_function_count(scene.probe), 0);
	recorded.count = 0;
	scene_check(tm_probe_arm_module(scene.probe, scene.program, &armed));
	struct scene_call call = ENTER(mi_malloc, scene_caller_2, 10009, 0, 0);
	LEAVE(call, mi_malloc, BLOCK);
	EXPECT(TM_EVENT_ALLOCATE);
}

Test(probe_functions, disarmed_program_is_as_it_was)
{
	cr_assert_gt(fake_target_changed_bytes(scene.fake, scene.program->start, scene.program->end), 5);
	scene_check(tm_probe_disarm(scene.probe));
	scene_restore(&scene);
	cr_assert_eq(fake_target_changed_bytes(scene.fake, scene.program->start, scene.program->end), 0);
}

/* A loaded module by the beginning of its DT_SONAME. */
static struct tm_module *module_named(const char *beginning)
{
	for (uint32_t i = 1; i < tm_module_map_count(scene.modules); i++) {
		const char *soname = tm_module_soname(tm_module_map_get(scene.modules, i));

		if (soname && strncmp(soname, beginning, strlen(beginning)) == 0)
			return tm_module_map_get(scene.modules, i);
	}
	cr_skip_test("%s is not loaded: another C library", beginning);
}

Test(probe_functions, c_library_is_traced)
{
	struct tm_module *libc = module_named("libc.so.6");
	struct tm_symbol malloc_symbol;
	size_t armed;

	scene_check(tm_probe_arm_module(scene.probe, libc, &armed));
	cr_assert_geq(armed, 9);
	cr_assert(tm_module_find_dynamic_symbol(libc, "malloc", &malloc_symbol));
	uint64_t address = libc->bias + malloc_symbol.vaddr;
	cr_assert(tm_breakpoint_find(scene.breakpoints, address) || tm_patch_at(scene.patches, address));
	cr_assert_eq(tm_breakpoints_count_in_place(scene.breakpoints), 0);
}
