/* From a thread at a breakpoint to the model's numbers: the probe's events as the session takes them. */
#include <criterion/criterion.h>
#include <inttypes.h>

#include "session/session_internal.h"
#include "support/probe_scene.h"

#define OLD   0x10000u
#define BLOCK 0x20000u
#define OTHER 0x30000u

static struct scene scene;
static struct tm_session session;
static struct tm_session_config config;
static struct tm_thread *thread;

static void setup(void)
{
	const struct tm_event_sink sink = {&session, tm_events_take, tm_stacks_in_signal_handler,
					   tm_session_warn};

	config.nframe = 64;
	session.config = &config;
	scene_open(&scene, &sink, true);
	session.target = &scene.fake->base;
	session.modules = scene.modules;
	session.breakpoints = scene.breakpoints;
	session.patches = scene.patches;
	session.walk.pad_state = tm_stacks_pad_state;
	session.walk.pad_state_context = &session;
	session.probe = scene.probe;
	scene_check(tm_tracer_create(&session.tracer));
	scene_check(tm_cfi_create(session.target->arch, session.modules, &session.cfi));
	thread = scene_add_thread(&scene, 1);
}

static void teardown(void)
{
	scene_close(&scene);
	tm_cfi_destroy(session.cfi);
	tm_tracer_destroy(session.tracer);
	tm_walk_deinit(&session.walk);
	tm_vector_deinit(&session.frames);
}

static struct tm_totals totals(void)
{
	return tm_tracer_totals(session.tracer, TM_DOMAIN_NATIVE);
}

static void allocate(struct tm_thread *of, uint64_t size, uint64_t address)
{
	struct scene_call call = scene_enter(&scene, of, mi_malloc, scene_caller_1, size, 0, 0);

	SCENE_LEAVE(&scene, of, &call, mi_malloc, address);
}

static void give_back(struct tm_thread *of, uint64_t address)
{
	struct scene_call call = scene_enter(&scene, of, mi_free, scene_caller_1, address, 0, 0);

	SCENE_LEAVE(&scene, of, &call, mi_free, 0);
}

static struct scene_call resize_begin(struct tm_thread *of, uint64_t old, uint64_t size)
{
	return scene_enter(&scene, of, tc_realloc, scene_caller_2, old, size, 0);
}

static void resize_end(struct tm_thread *of, const struct scene_call *call, uint64_t address)
{
	SCENE_LEAVE(&scene, of, call, tc_realloc, address);
}

TestSuite(events, .init = setup, .fini = teardown);

Test(events, malloc_and_free_leave_nothing)
{
	allocate(thread, 10007, BLOCK);
	cr_assert_eq(totals().current, 10007);
	cr_assert_eq(totals().blocks, 1);
	give_back(thread, BLOCK);
	cr_assert_eq(totals().current, 0);
	cr_assert_eq(totals().blocks, 0);
	cr_assert_eq(totals().allocations, 1);
	cr_assert_eq(totals().allocated, 10007);
	cr_assert_eq(totals().frees, 1);
	cr_assert_eq(totals().peak, 10007);
}

Test(events, traceback_begins_with_the_caller)
{
	allocate(thread, 10007, BLOCK);
	const struct tm_account *account = tm_tracer_account(session.tracer, 0);
	struct tm_tracebacks *tracebacks = tm_tracer_tracebacks(session.tracer);
	const struct tm_traceback *traceback = tm_tracebacks_get(tracebacks, account->traceback);

	cr_assert_geq(traceback->frame_count, 1);
	struct tm_frame frame = tm_tracebacks_get_frame(tracebacks, traceback->frames[0]);
	cr_assert_eq(frame.module, scene.program->number);
	cr_assert_eq(frame.offset + scene.program->bias, scene_address(scene_caller_1) - 1);
	cr_assert_eq(account->tid, 1);
}

Test(events, free_of_a_block_from_before_is_unknown)
{
	give_back(thread, OLD);
	cr_assert_eq(totals().frees, 0);
	cr_assert_eq(totals().unknown_frees, 1);
}

Test(events, delete_that_calls_free_is_one_free_of_known_and_of_unknown_blocks)
{
	allocate(thread, 10007, BLOCK);
	const uint64_t blocks[] = {BLOCK, OLD};
	for (size_t i = 0; i < 2; i++) {
		struct scene_call outer =
			scene_enter(&scene, thread, tc_delete, scene_caller_1, blocks[i], 0, 0);
		struct scene_call inner =
			scene_enter(&scene, thread, mi_free, scene_caller_2, blocks[i], 0, 0);

		SCENE_LEAVE(&scene, thread, &inner, mi_free, 0);
		SCENE_LEAVE(&scene, thread, &outer, tc_delete, 0);
	}
	cr_assert_eq(totals().frees, 1);
	cr_assert_eq(totals().unknown_frees, 1);
}

Test(events, nested_free_of_a_known_block_counts)
{
	allocate(thread, 10007, OTHER);
	struct scene_call outer = scene_enter(&scene, thread, mi_malloc, scene_caller_1, 10009, 0, 0);
	struct scene_call inner = scene_enter(&scene, thread, mi_free, scene_caller_2, OTHER, 0, 0);
	SCENE_LEAVE(&scene, thread, &inner, mi_free, 0);
	inner = scene_enter(&scene, thread, mi_free, scene_caller_2, OLD, 0, 0);
	SCENE_LEAVE(&scene, thread, &inner, mi_free, 0);
	SCENE_LEAVE(&scene, thread, &outer, mi_malloc, BLOCK);
	cr_assert_eq(totals().current, 10009);
	cr_assert_eq(totals().frees, 1);
	cr_assert_eq(totals().unknown_frees, 0, "the allocator's own affair");
}

Test(events, realloc_holds_the_old_bytes_until_it_returns)
{
	allocate(thread, 10007, OLD);
	struct scene_call call = resize_begin(thread, OLD, 10009);
	cr_assert_eq(totals().current, 10007);
	cr_assert_not(tm_tracer_knows(session.tracer, TM_DOMAIN_NATIVE, OLD));
	resize_end(thread, &call, BLOCK);
	cr_assert_eq(totals().current, 10009);
	cr_assert_eq(totals().peak, 10009, "never both");
	cr_assert_eq(totals().allocations, 2);
	cr_assert_eq(totals().frees, 1);
}

Test(events, address_that_a_realloc_gave_back_may_be_another_threads_before_it_returns)
{
	struct tm_thread *second = scene_add_thread(&scene, 2);

	allocate(thread, 10007, OLD);
	struct scene_call call = resize_begin(thread, OLD, 20011);
	allocate(second, 10009, OLD);
	resize_end(thread, &call, BLOCK);
	cr_assert_eq(totals().current, 10009 + 20011);
	cr_assert_eq(totals().blocks, 2);
	give_back(second, OLD);
	give_back(thread, BLOCK);
	cr_assert_eq(totals().current, 0);
	cr_assert_eq(totals().unknown_frees, 0);
}

Test(events, failed_realloc_keeps_the_old_block)
{
	allocate(thread, 10007, OLD);
	struct scene_call call = resize_begin(thread, OLD, 1u << 30);
	resize_end(thread, &call, 0);
	cr_assert_eq(totals().current, 10007);
	cr_assert_eq(totals().failed, 1);
	give_back(thread, OLD);
	cr_assert_eq(totals().current, 0);
	cr_assert_eq(totals().frees, 1);
}

Test(events, realloc_to_zero_frees_the_block)
{
	allocate(thread, 10007, OLD);
	struct scene_call call = resize_begin(thread, OLD, 0);
	resize_end(thread, &call, 0);
	cr_assert_eq(totals().current, 0);
	cr_assert_eq(totals().blocks, 0);
	cr_assert_eq(totals().frees, 1);
	cr_assert_eq(totals().failed, 0);
	call = resize_begin(thread, OLD, 0);
	resize_end(thread, &call, 0);
	cr_assert_eq(totals().unknown_frees, 1);
}

Test(events, realloc_of_an_unknown_block_is_an_allocation)
{
	struct scene_call call = resize_begin(thread, OLD, 10009);

	resize_end(thread, &call, BLOCK);
	cr_assert_eq(totals().current, 10009);
	cr_assert_eq(totals().allocations, 1);
	cr_assert_eq(totals().frees, 0);
}

Test(events, realloc_that_was_left_keeps_the_old_block)
{
	allocate(thread, 10007, OLD);
	struct scene_call call = resize_begin(thread, OLD, 20011);
	scene_drop(&scene, thread, &call);
	allocate(thread, 10009, BLOCK);
	cr_assert_eq(totals().current, 10007 + 10009);
	cr_assert_eq(totals().blocks, 2);
	cr_assert(tm_tracer_knows(session.tracer, TM_DOMAIN_NATIVE, OLD));
}

Test(events, thread_that_dies_in_realloc_keeps_the_old_block)
{
	allocate(thread, 10007, OLD);
	resize_begin(thread, OLD, 20011);
	tm_probe_thread_gone(scene.probe, thread);
	cr_assert_eq(totals().current, 10007);
	cr_assert(tm_tracer_knows(session.tracer, TM_DOMAIN_NATIVE, OLD));
}

Test(events, failed_calls_are_counted)
{
	allocate(thread, 10007, 0);
	cr_assert_eq(totals().failed, 1);
	cr_assert_eq(totals().allocations, 0);
}

Test(events, blocks_that_are_still_there_hold_the_sum_of_their_sizes)
{
	uint64_t live = 0;

	for (uint64_t i = 1; i <= 1000; i++) {
		allocate(thread, i, BLOCK + 64 * i);
		live += i;
		if (i % 3)
			continue;
		give_back(thread, BLOCK + 64 * (i - 1));
		live -= i - 1;
	}
	cr_assert_eq(totals().current, live);
	cr_assert_eq(totals().allocations, 1000);
	cr_assert_eq(totals().frees, 333);
	cr_assert_eq(totals().blocks, 667);
}

#if defined(__x86_64__)
/* Functions that are patched: their entries are not seen. */

static void give_back_from(const char *caller, uint64_t address)
{
	struct scene_call call = scene_enter(&scene, thread, mi_free, caller, address, 0, 0);

	SCENE_LEAVE(&scene, thread, &call, mi_free, 0);
}

Test(events, call_of_a_patched_function_is_one_stop_and_one_block)
{
	struct scene_call call = scene_pass(&scene, thread, mi_valloc, scene_caller_1, 10007, 0, 0);

	cr_assert_eq(scene.stops, 0);
	scene_pass_back(&scene, thread, &call, BLOCK);
	cr_assert_eq(scene.stops, 1);
	cr_assert_eq(totals().current, 10007);
	cr_assert_eq(totals().allocations, 1);
}

Test(events, calls_inside_a_patched_function_are_none)
{
	struct scene_call outer = scene_pass(&scene, thread, mi_valloc, scene_caller_1, 10007, 0, 0);
	struct scene_call inner = scene_pass(&scene, thread, mi_mallocn, mi_valloc + 8, 2, 10009, 0);

	scene_pass_back(&scene, thread, &inner, OTHER);
	inner = scene_enter(&scene, thread, mi_malloc, mi_valloc + 8, 10037, 0, 0);
	SCENE_LEAVE(&scene, thread, &inner, mi_malloc, OLD);
	cr_assert_eq(totals().allocations, 0, "neither at a stop nor at breakpoints");
	scene_pass_back(&scene, thread, &outer, BLOCK);
	cr_assert_eq(totals().allocations, 1);
	cr_assert_eq(totals().allocated, 10007);
}

Test(events, a_call_that_a_patched_function_jumps_to_is_none)
{
	struct scene_call outer = scene_pass(&scene, thread, mi_valloc, scene_caller_1, 10007, 0, 0), inner;

	thread->regs.value[scene.fake->base.arch->sp] = outer.stop_sp;
	inner = scene_enter(&scene, thread, tc_malloc, (const char *)(uintptr_t)outer.stop, 10009, 0, 0);
	SCENE_LEAVE(&scene, thread, &inner, tc_malloc, BLOCK);
	cr_assert_eq(totals().allocations, 1);
	cr_assert_eq(totals().allocated, 10007);
}

Test(events, failure_inside_a_patched_function_is_none)
{
	struct scene_call outer = scene_pass(&scene, thread, mi_valloc, scene_caller_1, 10007, 0, 0);
	struct scene_call inner = scene_pass(&scene, thread, mi_mallocn, mi_valloc + 8, 2, 10009, 0);

	scene_pass_back(&scene, thread, &inner, 0);
	cr_assert_eq(totals().failed, 0);
	scene_pass_back(&scene, thread, &outer, 0);
	cr_assert_eq(totals().failed, 1);
}

Test(events, resize_inside_a_patched_function_keeps_the_old_block)
{
	struct scene_call outer, inner;

	allocate(thread, 10007, OLD);
	outer = scene_pass(&scene, thread, mi_valloc, scene_caller_1, 10009, 0, 0);
	inner = scene_enter(&scene, thread, tc_realloc, mi_valloc + 8, OLD, 10037, 0);
	SCENE_LEAVE(&scene, thread, &inner, tc_realloc, OTHER);
	cr_assert_eq(totals().current, 10007);
	cr_assert_eq(totals().allocations, 1);
	scene_pass_back(&scene, thread, &outer, BLOCK);
	cr_assert_eq(totals().current, 20016);
}

Test(events, free_inside_a_patched_function_concerns_known_blocks_only)
{
	struct scene_call outer;

	allocate(thread, 10007, OLD);
	outer = scene_pass(&scene, thread, mi_valloc, scene_caller_1, 10009, 0, 0);
	give_back_from(mi_valloc + 8, OTHER);
	cr_assert_eq(totals().unknown_frees, 0);
	give_back_from(mi_valloc + 8, OLD);
	cr_assert_eq(totals().frees, 1);
	scene_pass_back(&scene, thread, &outer, BLOCK);
	give_back(thread, OTHER);
	cr_assert_eq(totals().unknown_frees, 1, "outside it counts");
}
#endif

/* ---- snapshots that the user asks for ---- */

static char told[200];

static void tell(void *context, const char *name, const struct tm_session_status *status)
{
	size_t length = strlen(told);

	(void)context;
	snprintf(told + length, sizeof(told) - length, "%s:%" PRIu64 " ", name, status->amounts[0].current);
}

Test(events, each_request_is_a_snapshot_of_its_own)
{
	volatile sig_atomic_t requests = 0;

	config.snapshots = &requests;
	config.snapshot = tell;
	scene_check(tm_snapshots_take_requested(&session));
	cr_assert_eq(session.snapshots.count, 0);
	allocate(thread, 10007, BLOCK);
	requests = 3;
	scene_check(tm_snapshots_take_requested(&session));
	scene_check(tm_snapshots_take_requested(&session));
	give_back(thread, BLOCK);
	requests = 4;
	scene_check(tm_snapshots_take_requested(&session));
	cr_assert_str_eq(told, "1:10007 2:10007 3:10007 4:0 ");
	cr_assert_eq(session.snapshots.count, 4);
	cr_assert_str_eq(session.snapshots.items[3]->name, "4");
	cr_assert_eq(session.snapshots.items[2]->domains[0].totals.current, 10007);
	cr_assert_eq(session.snapshots.items[3]->domains[0].totals.current, 0);
	for (size_t i = 0; i < session.snapshots.count; i++)
		tm_snapshot_destroy(session.snapshots.items[i]);
	tm_vector_deinit(&session.snapshots);
}
