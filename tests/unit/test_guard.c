/* The guard of a target's tracemalloc: what its functions do while the flag is the tracer's, when recording
 * is over (as it is in a forked child, whose control page is wiped). */
#include <criterion/criterion.h>

#ifdef __x86_64__
#include <string.h>

#include "recorder/guard.h"
#include "recorder/plant.h"

struct tm_guard_answer tm_guard_track(uint64_t, uint64_t, uint64_t, struct tm_guard *);
struct tm_guard_answer tm_guard_untrack(uint64_t, uint64_t, uint64_t, struct tm_guard *);
struct tm_guard_answer tm_guard_new_reference(uint64_t, uint64_t, uint64_t, struct tm_guard *);
struct tm_guard_answer tm_guard_start(uint64_t, uint64_t, uint64_t, struct tm_guard *);
struct tm_guard_answer tm_guard_stop(uint64_t, uint64_t, uint64_t, struct tm_guard *);
struct tm_guard_answer tm_guard_is_tracing(uint64_t, uint64_t, uint64_t, struct tm_guard *);
struct tm_guard_answer tm_guard_finalize(uint64_t, uint64_t, uint64_t, struct tm_guard *);
void tm_guard_switched(struct tm_guard *);

#define NOT_TRACING	      0xfffffffeu
#define CALL(function, guard) tm_guard_##function(0x5000, 0, 0, (guard))

static struct scene {
	struct plant plant;
	struct plant_frame frame;
	struct plant_code_object code;
	int32_t flag;
	uint64_t none, false_;
	struct tm_guard guard;
	struct tm_record_header last;
	uint64_t block, domain, size;
	uint32_t frames;
} scene;

static void setup(void)
{
	plant_open(&scene.plant, PLANT_COMPILED);
	plant_make_code(&scene.code, false);
	scene.frame.code = (uint64_t)&scene.code;
	plant_enter_interpreter(&scene.frame);
	scene.flag = 1;
	scene.none = 1000;
	scene.false_ = 2000;
	scene.guard = (struct tm_guard){.armed = 1,
					.pretends = 1,
					.counts_constants = 1,
					.tracing = (uintptr_t)&scene.flag,
					.none = (uintptr_t)&scene.none,
					.false_ = (uintptr_t)&scene.false_};
}

static void teardown(void)
{
	plant_close(&scene.plant);
}

TestSuite(guard, .init = setup, .fini = teardown);

static struct tm_error *see(void *context, unsigned ring, const struct tm_record_header *record)
{
	const struct tm_record_block *block = (const struct tm_record_block *)record;

	(void)context, (void)ring;
	if (record->kind == TM_RECORD_CODE)
		return NULL;
	scene.last = *record;
	scene.block = block->block;
	scene.domain = record->kind == TM_RECORD_UNTRACK ? ((const struct tm_record_free *)record)->domain
							 : block->old;
	scene.size = record->kind == TM_RECORD_TRACK ? block->size : 0;
	scene.frames = record->kind == TM_RECORD_TRACK ? block->frame_count : 0;
	return NULL;
}

static size_t drain(void)
{
	const struct tm_record_sink sink = {.record = see};
	size_t count;

	cr_assert_null(tm_ring_reader_drain(scene.plant.reader, &sink, &count));
	return count;
}

static void expect_given(struct tm_guard_answer answer, uint64_t value)
{
	cr_expect(answer.given && answer.value == value, "%lu, given %lu", answer.value, answer.given);
}

static void expect_going_on(struct tm_guard_answer answer)
{
	cr_expect_eq(answer.given, 0);
}

Test(guard, memory_of_others_is_recorded_and_refused)
{
	expect_given(tm_guard_track(42, 0x1000, 77, &scene.guard), NOT_TRACING);
	drain();
	cr_expect(scene.last.kind == TM_RECORD_TRACK && scene.domain == 42 && scene.block == 0x1000 &&
		  scene.size == 77 && scene.frames == 1);
	expect_given(tm_guard_untrack(42, 0x1000, 0, &scene.guard), NOT_TRACING);
	drain();
	cr_expect(scene.last.kind == TM_RECORD_UNTRACK && scene.domain == 42 && scene.block == 0x1000);
}

/* What is given to it as an int may have anything in the register's upper half. */
Test(guard, a_domain_has_32_bits)
{
	tm_guard_track(UINT64_C(0xdead00000007), 0x1000, 77, &scene.guard);
	drain();
	cr_expect_eq(scene.domain, 7);
}

Test(guard, without_a_hook_tracemalloc_decides)
{
	scene.guard = (struct tm_guard){0};
	expect_going_on(CALL(track, &scene.guard));
	expect_going_on(CALL(untrack, &scene.guard));
	cr_expect_geq(drain(), 2);
}

Test(guard, one_that_is_on_is_chained)
{
	scene.guard.pretends = 0;
	expect_going_on(CALL(track, &scene.guard));
	expect_going_on(CALL(new_reference, &scene.guard));
	expect_going_on(CALL(is_tracing, &scene.guard));
	expect_going_on(CALL(stop, &scene.guard));
	cr_expect_eq(scene.flag, 1);
	scene.plant.control->enabled = 0;
	expect_going_on(CALL(new_reference, &scene.guard));
	cr_expect_eq(scene.flag, 1, "it is not ours to clear");
}

Test(guard, objects_are_recorded_and_the_hook_is_answered)
{
	expect_given(CALL(new_reference, &scene.guard), 0);
	drain();
	cr_expect(scene.last.kind == TM_RECORD_OBJECT && scene.block == 0x5000);
	cr_expect_eq(scene.flag, 1);
}

Test(guard, a_late_caller_of_the_hook_never_gets_there)
{
	scene.flag = 0;
	scene.guard.pretends = 0;
	expect_given(CALL(new_reference, &scene.guard), 0);
}

/* It has come for a trace that is over, and the next one, with a guard of its own, has set the flag again. */
Test(guard, nobody_goes_by_the_flag_of_the_next_trace)
{
	scene.guard.pretends = scene.guard.armed = 0;
	scene.guard.abandoned = 1;
	expect_given(CALL(new_reference, &scene.guard), 0);
	expect_given(CALL(stop, &scene.guard), scene.guard.none);
	expect_given(CALL(is_tracing, &scene.guard), scene.guard.false_);
	expect_given(CALL(track, &scene.guard), NOT_TRACING);
	cr_expect_eq(scene.flag, 1);
}

Test(guard, asked_it_is_off)
{
	expect_given(CALL(is_tracing, &scene.guard), scene.guard.false_);
	expect_given(CALL(stop, &scene.guard), scene.guard.none);
	cr_expect(scene.false_ == 2001 && scene.none == 1001);
	scene.guard.counts_constants = 0;
	expect_given(CALL(is_tracing, &scene.guard), scene.guard.false_);
	cr_expect_eq(scene.false_, 2001);
	cr_expect_eq(scene.flag, 1);
}

Test(guard, start_runs_with_the_flag_cleared)
{
	expect_going_on(CALL(start, &scene.guard));
	cr_expect(scene.flag == 0 && !scene.guard.pretends);
	scene.flag = 1; /* as start does */
	tm_guard_switched(&scene.guard);
	cr_expect(scene.flag == 1 && !scene.guard.pretends);
}

Test(guard, a_start_that_failed_is_forgotten)
{
	CALL(start, &scene.guard);
	CALL(start, &scene.guard); /* within the first */
	tm_guard_switched(&scene.guard);
	cr_expect_eq(scene.flag, 0);
	tm_guard_switched(&scene.guard);
	cr_expect(scene.flag == 1 && scene.guard.pretends);
}

Test(guard, after_a_stop_of_the_target_s_it_pretends)
{
	scene.guard.pretends = 0;
	expect_going_on(CALL(stop, &scene.guard));
	scene.flag = 0;
	tm_guard_switched(&scene.guard);
	cr_expect(scene.flag == 1 && scene.guard.pretends);
}

static void expect_no_new_pretence(void)
{
	CALL(start, &scene.guard);
	tm_guard_switched(&scene.guard);
	cr_expect(scene.flag == 0 && !scene.guard.pretends);
}

Test(guard, disarmed_it_never_pretends_again)
{
	scene.guard.armed = 0;
	expect_no_new_pretence();
}

Test(guard, at_the_interpreter_s_end_the_flag_is_cleared_for_good)
{
	expect_going_on(CALL(finalize, &scene.guard));
	cr_expect_eq(scene.flag, 0);
	expect_no_new_pretence();
}

Test(guard, when_recording_is_over_it_holds_and_the_next_object_ends_it)
{
	scene.plant.control->enabled = 0;
	expect_given(CALL(stop, &scene.guard), scene.guard.none);
	expect_given(CALL(is_tracing, &scene.guard), scene.guard.false_);
	expect_given(CALL(track, &scene.guard), NOT_TRACING);
	expect_given(CALL(new_reference, &scene.guard), 0);
	cr_expect(scene.flag == 0 && !scene.guard.pretends);
	expect_no_new_pretence();
	expect_going_on(CALL(stop, &scene.guard));
	cr_expect_eq(drain(), 0);
}
#endif
