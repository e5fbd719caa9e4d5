/*
 * Recorder and reader against each other, as fast as they can: threads, signal handlers, threads that follow
 * each other, rings that are full. With the recorder as it is compiled into this test, and as a target is
 * given it.
 */
#include <criterion/criterion.h>

#ifdef __x86_64__
#include "recorder/stress.h"

static void expect_exact(enum plant_code code, const struct stress *stress, struct stress_result *result)
{
	struct plant plant;

	plant_open(&plant, code);
	stress_run(&plant, stress, result);
	cr_expect_eq(result->wrong, 0, "%llu wrong; %s", (unsigned long long)result->wrong,
		     result->first_wrong);
	cr_expect_eq(result->given, result->calls + result->handler_calls);
	cr_expect_eq(tm_ring_reader_abandoned(plant.reader), 0);
	cr_expect_eq(tm_ring_reader_broken(plant.reader), 0);
	cr_expect_eq(plant.shared->lost, 0);
	cr_expect_eq(plant.control->unringed, 0);
	plant_close(&plant);
}

static void expect_exact_with_both(const struct stress *stress)
{
	struct stress_result result;

	expect_exact(PLANT_COMPILED, stress, &result);
	expect_exact(PLANT_IMAGE, stress, &result);
}

Test(recorder_threads, one_thread)
{
	expect_exact_with_both(&(struct stress){
		.threads = 1, .generations = 1, .calls = 300000, .addresses = 64, .codes = 1});
}

Test(recorder_threads, several_threads_that_free_each_others_blocks)
{
	expect_exact_with_both(&(struct stress){
		.threads = 6, .generations = 1, .calls = 100000, .addresses = 16, .codes = 1});
}

Test(recorder_threads, signal_handlers_record_as_well)
{
	struct stress stress = {.threads = 3,
				.generations = 1,
				.calls = 200000,
				.addresses = 64,
				.codes = 1,
				.handler_us = 200};
	struct stress_result result;

	expect_exact(PLANT_COMPILED, &stress, &result);
	cr_expect_gt(result.handler_calls, 10);
	expect_exact(PLANT_IMAGE, &stress, &result);
	cr_expect_gt(result.handler_calls, 10);
}

Test(recorder_threads, signal_handlers_may_run_on_stacks_above_the_threads_stacks)
{
	expect_exact_with_both(&(struct stress){.threads = 3,
						.generations = 1,
						.calls = 200000,
						.addresses = 64,
						.codes = 1,
						.handler_us = 200,
						.signal_stacks = true});
}

Test(recorder_threads, threads_wait_while_their_rings_are_full)
{
	expect_exact_with_both(&(struct stress){.threads = 2,
						.generations = 1,
						.calls = 150000,
						.addresses = 64,
						.codes = 1,
						.slow_reader = true});
}

Test(recorder_threads, threads_wait_until_unknown_code_was_looked_at)
{
	struct stress stress = {.threads = 2,
				.generations = 1,
				.calls = 20000,
				.addresses = 64,
				.codes = 5000,
				.handler_us = 1000};
	struct stress_result result;

	expect_exact(PLANT_COMPILED, &stress, &result);
	cr_expect_gt(result.looks, 500);
	cr_expect_gt(result.told, 2000);
	expect_exact(PLANT_IMAGE, &stress, &result);
	cr_expect_gt(result.looks, 500);
	cr_expect_gt(result.told, 2000);
}

Test(recorder_threads, many_threads_one_after_the_other_use_few_rings)
{
	expect_exact_with_both(&(struct stress){.threads = 4,
						.generations = 300,
						.calls = 50,
						.addresses = 64,
						.codes = 1,
						.leave_rings = true});
}

/* ---- native calls, whose stacks are told by what has changed ---- */

Test(recorder_threads, native_stacks_of_several_threads)
{
	struct stress stress = {
		.threads = 6, .generations = 1, .calls = 100000, .addresses = 64, .codes = 1, .native = true};
	struct stress_result result;

	expect_exact(PLANT_COMPILED, &stress, &result);
	cr_expect_gt(result.asked, 10, "rows are forgotten and asked for: %llu",
		     (unsigned long long)result.asked);
	cr_expect_gt(result.kept, 1000);
	cr_expect_gt(result.fresh, 1000);
	cr_expect_gt(result.recalled, 10000, "%llu", (unsigned long long)result.recalled);
}

Test(recorder_threads, native_stacks_while_rings_are_full)
{
	struct stress stress = {.threads = 3,
				.generations = 1,
				.calls = 100000,
				.addresses = 64,
				.codes = 1,
				.slow_reader = true,
				.native = true};
	struct stress_result result;

	expect_exact(PLANT_COMPILED, &stress, &result);
}

Test(recorder_threads, native_calls_of_signal_handlers)
{
	struct stress stress = {.threads = 3,
				.generations = 1,
				.calls = 200000,
				.addresses = 64,
				.codes = 1,
				.handler_us = 200,
				.native = true};
	struct stress_result result;

	expect_exact(PLANT_COMPILED, &stress, &result);
	cr_expect_gt(result.handler_calls, 10);
}

Test(recorder_threads, native_stacks_of_threads_that_have_taken_over_a_ring)
{
	struct stress stress = {.threads = 4,
				.generations = 300,
				.calls = 50,
				.addresses = 64,
				.codes = 1,
				.leave_rings = true,
				.native = true};
	struct stress_result result;

	expect_exact(PLANT_COMPILED, &stress, &result);
}

Test(recorder_threads, native_stacks_after_jumps_out_of_calls)
{
	struct stress stress = {.threads = 3,
				.generations = 1,
				.calls = 100000,
				.addresses = 64,
				.codes = 1,
				.native = true,
				.jump_us = 100};
	struct stress_result result;
	struct plant plant;

	plant_open(&plant, PLANT_COMPILED);
	stress_run(&plant, &stress, &result);
	cr_expect_eq(result.wrong, 0, "%llu wrong; %s", (unsigned long long)result.wrong, result.first_wrong);
	cr_expect_eq(result.given + result.lost, result.calls);
	cr_expect_leq(result.lost, result.jumps, "%llu lost", (unsigned long long)result.lost);
	cr_expect_gt(result.jumps, 10);
	cr_expect_eq(tm_ring_reader_broken(plant.reader), 0);
	plant_close(&plant);
}
#endif
