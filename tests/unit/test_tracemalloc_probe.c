/* The probe at CPython's own tracemalloc, on a fake target: what it sets, what it answers, and what it lets
 * be. */
#include <criterion/criterion.h>
#include <string.h>

#include "probe/tracemalloc_probe.h"
#include "support/fake_target.h"

enum { RAX = 0, RDX = 1, RSI = 4, RDI = 5, RSP = 7, RIP = 16 }; /* DWARF numbers */

#define STACK 64

static struct {
	struct fake_target *fake;
	struct tm_breakpoints *breakpoints;
	struct tm_tracemalloc_probe *probe;
	struct tm_thread *thread;
	struct tm_python_tracemalloc places;
} scene;

/* What the places name: memory of the test itself. */
static int32_t config[3];
static uint64_t none = 1000, false_ = 2000;
static uint64_t stack[STACK];
static uint8_t functions[8][16]; /* nops */

static uint64_t place_of(const void *object)
{
	return (uintptr_t)object;
}

static struct tm_error *take(void *context, const struct tm_event *event)
{
	struct tm_event *last = context;

	*last = *event;
	return NULL;
}

static struct tm_event last;

static void setup(void)
{
	memset(functions, 0x90, sizeof(functions));
	config[2] = 1;
	stack[STACK - 1] = 0x4711; /* where the caller goes on */
	scene.fake = fake_target_create();
	scene.thread = fake_target_add_thread(scene.fake, 100);
	scene.thread->regs.value[RSP] = place_of(&stack[STACK - 1]);
	scene.thread->regs.thread_pointer = 0x7777;
	cr_assert_null(tm_breakpoints_create(&scene.fake->base, NULL, &scene.breakpoints));
	scene.places = (struct tm_python_tracemalloc){
		.track = place_of(functions[0]),
		.untrack = place_of(functions[1]),
		.tracing = place_of(&config[1]),
		.new_reference = place_of(functions[2]),
		.start = place_of(functions[3]),
		.stop = place_of(functions[4]),
		.is_tracing = place_of(functions[5]),
		.finalize = place_of(functions[6]),
		.none = place_of(&none),
		.false_ = place_of(&false_),
		.counts_constants = true,
	};
}

static void create(bool exact)
{
	const struct tm_tracemalloc_probe_config probe_config = {
		.target = &scene.fake->base,
		.breakpoints = scene.breakpoints,
		.places = scene.places,
		.exact = exact,
		.sink = {&last, take, NULL, NULL},
	};

	cr_assert_null(tm_tracemalloc_probe_create(&probe_config, &scene.probe));
	cr_assert_null(tm_tracemalloc_probe_arm(scene.probe));
}

static void teardown(void)
{
	tm_tracemalloc_probe_destroy(scene.probe);
	tm_breakpoints_destroy(scene.breakpoints);
	fake_target_destroy(scene.fake);
}

TestSuite(tracemalloc_probe, .init = setup, .fini = teardown);

static int32_t flag(void)
{
	int32_t value;

	cr_assert_null(tm_target_read(&scene.fake->base, scene.places.tracing, &value, sizeof(value)));
	return value;
}

static void set_flag(int32_t value)
{
	cr_assert_null(tm_target_write(&scene.fake->base, scene.places.tracing, &value, sizeof(value)));
}

static uint64_t word(const uint64_t *place)
{
	uint64_t value;

	cr_assert_null(tm_target_read(&scene.fake->base, place_of(place), &value, sizeof(value)));
	return value;
}

/* The thread calls a function; where it stands afterwards. */
static uint64_t call(uint64_t function, uint64_t first, uint64_t second, uint64_t third)
{
	bool ours = false;
	uint64_t *regs = scene.thread->regs.value;

	regs[RSP] = place_of(&stack[STACK - 1]);
	regs[RDI] = first;
	regs[RSI] = second;
	regs[RDX] = third;
	regs[RIP] = function;
	scene.thread->regs_valid = true;
	cr_assert_null(tm_tracemalloc_probe_hit(scene.probe, scene.thread, function, &ours));
	cr_expect(ours);
	return regs[RIP];
}

/* The thread has returned from everything, and stops somewhere else. */
static void stop_elsewhere(void)
{
	bool ours = true;

	scene.thread->regs.value[RSP] = place_of(&stack[STACK - 1]) + 8;
	cr_assert_null(tm_tracemalloc_probe_hit(scene.probe, scene.thread, 0x1234, &ours));
	cr_expect_not(ours);
}

static void expect_answered(uint64_t value)
{
	cr_expect_eq(scene.thread->regs.value[RIP], 0x4711);
	cr_expect_eq(scene.thread->regs.value[RSP], place_of(&stack[STACK - 1]) + 8);
	cr_expect_eq(scene.thread->regs.value[RAX], value);
}

Test(tracemalloc_probe, without_exact_the_flag_is_let_be)
{
	create(false);
	cr_expect_eq(flag(), 0);
	cr_expect_null(tm_breakpoint_find(scene.breakpoints, scene.places.new_reference));
	cr_expect_not_null(tm_breakpoint_find(scene.breakpoints, scene.places.track));
}

Test(tracemalloc_probe, memory_of_others_is_an_event_in_its_domain)
{
	create(false);
	cr_expect_eq(call(scene.places.track, 42, 0x1000, 77), scene.places.track,
		     "tracemalloc decides itself");
	cr_expect_eq(last.kind, TM_EVENT_ALLOCATE);
	cr_expect(last.domain == 42 && last.address == 0x1000 && last.size == 77);
	cr_expect_eq(last.thread_pointer, 0x7777);
	call(scene.places.untrack, 42, 0x1000, 0);
	cr_expect(last.kind == TM_EVENT_FREE && last.domain == 42 && last.old_address == 0x1000);
}

Test(tracemalloc_probe, exact_sets_the_flag_and_answers_the_hook)
{
	create(true);
	cr_expect_eq(flag(), 1);
	call(scene.places.new_reference, 0x5000, 0, 0);
	cr_expect(last.kind == TM_EVENT_OBJECT && last.address == 0x5000 && last.thread_pointer == 0x7777);
	expect_answered(0);
}

Test(tracemalloc_probe, while_it_pretends_memory_of_others_is_refused_as_by_one_that_is_off)
{
	create(true);
	call(scene.places.track, 42, 0x1000, 77);
	expect_answered(0xfffffffe);
	cr_expect_eq(last.kind, TM_EVENT_ALLOCATE);
	call(scene.places.untrack, 42, 0x1000, 0);
	expect_answered(0xfffffffe);
}

Test(tracemalloc_probe, one_that_is_on_is_chained)
{
	set_flag(1);
	create(true);
	cr_expect_eq(call(scene.places.new_reference, 0x5000, 0, 0), scene.places.new_reference);
	cr_expect_eq(call(scene.places.is_tracing, 0, 0, 0), scene.places.is_tracing);
	cr_expect_eq(call(scene.places.stop, 0, 0, 0), scene.places.stop);
	cr_assert_null(tm_tracemalloc_probe_disarm(scene.probe));
	cr_expect_eq(flag(), 1, "it is not ours to clear");
}

Test(tracemalloc_probe, asked_it_is_off)
{
	create(true);
	call(scene.places.is_tracing, 0, 0, 0);
	expect_answered(place_of(&false_));
	cr_expect_eq(word(&false_), 2001);
	call(scene.places.stop, 0, 0, 0);
	expect_answered(place_of(&none));
	cr_expect_eq(word(&none), 1001);
	cr_expect_eq(flag(), 1);
}

Test(tracemalloc_probe, immortal_constants_are_not_counted)
{
	scene.places.counts_constants = false;
	create(true);
	call(scene.places.is_tracing, 0, 0, 0);
	cr_expect_eq(word(&false_), 2000);
}

Test(tracemalloc_probe, start_runs_with_the_flag_cleared)
{
	create(true);
	cr_expect_eq(call(scene.places.start, 0, 0, 0), scene.places.start);
	cr_expect_eq(flag(), 0);
	set_flag(1); /* as start does */
	stop_elsewhere();
	cr_expect_eq(call(scene.places.new_reference, 0x5000, 0, 0), scene.places.new_reference, "chained");
}

Test(tracemalloc_probe, a_start_that_failed_is_forgotten)
{
	create(true);
	call(scene.places.start, 0, 0, 0);
	scene.thread->regs.value[RSP] -= 64; /* still inside */
	cr_assert_null(tm_tracemalloc_probe_hit(scene.probe, scene.thread, 0x1234, &(bool){false}));
	cr_expect_eq(flag(), 0);
	stop_elsewhere();
	cr_expect_eq(flag(), 1);
	call(scene.places.new_reference, 0x5000, 0, 0);
	expect_answered(0);
}

Test(tracemalloc_probe, after_a_stop_of_the_target_s_it_pretends)
{
	set_flag(1);
	create(true);
	call(scene.places.stop, 0, 0, 0);
	set_flag(0);
	stop_elsewhere();
	cr_expect_eq(flag(), 1);
	call(scene.places.stop, 0, 0, 0);
	expect_answered(place_of(&none));
}

Test(tracemalloc_probe, at_the_interpreter_s_end_the_flag_is_cleared_for_good)
{
	create(true);
	cr_expect_eq(call(scene.places.finalize, 0, 0, 0), scene.places.finalize);
	cr_expect_eq(flag(), 0);
	call(scene.places.start, 0, 0, 0);
	stop_elsewhere();
	cr_expect_eq(flag(), 0);
}

Test(tracemalloc_probe, disarm_clears_the_flag_and_takes_threads_away_from_the_hook)
{
	struct tm_thread *second;

	create(true);
	second = fake_target_add_thread(scene.fake, 101);
	second->regs.value[RSP] = place_of(&stack[STACK - 1]);
	second->regs.value[RIP] = scene.places.new_reference - 3; /* has seen the flag, will call */
	second->regs_valid = true;
	scene.thread->regs.value[RIP] = scene.places.new_reference;
	cr_assert_null(tm_tracemalloc_probe_disarm(scene.probe));
	cr_expect_eq(flag(), 0);
	expect_answered(0);
	cr_expect_eq(second->regs.value[RIP], 0x4711);
}

Test(tracemalloc_probe, disarm_steps_no_thread_into_or_out_of_a_system_call)
{
	static uint8_t code[16] = {0x0f, 0x05, 0x90, 0x90};
	struct tm_thread *second = fake_target_add_thread(scene.fake, 101);

	create(true);
	scene.thread->regs.value[RIP] = place_of(code);
	second->regs.value[RIP] = place_of(code) + 2;
	cr_assert_null(tm_tracemalloc_probe_disarm(scene.probe));
	cr_expect_eq(scene.thread->regs.value[RIP], place_of(code));
	cr_expect_eq(second->regs.value[RIP], place_of(code) + 2);
	cr_expect_eq(scene.fake->steps.count, 0);
}

Test(tracemalloc_probe, a_forked_child_has_the_flag_cleared)
{
	pid_t child;

	create(true);
	child = fake_target_fork(scene.fake);
	tm_tracemalloc_probe_scrub_child(scene.probe, child);
	cr_expect_eq(fake_target_child_byte(scene.fake, child, scene.places.tracing), 0);
	cr_expect_eq(flag(), 1);
}
