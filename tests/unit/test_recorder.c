/*
 * The recorder as a target is given it. What may come between any two of its instructions comes between all
 * of them, one after the other: a breakpoint stands at each in turn. A signal handler that records as well,
 * on the same stack and on one above it; a jump out; the end of recording. And looks, waiting, forks, threads
 * without a ring.
 */
#include <criterion/criterion.h>

#ifdef __x86_64__
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include "recorder/plant.h"

#define TRAP_FLAG  0x100
#define OUTER	   UINT64_C(0x1000000)
#define NESTED	   UINT64_C(0x2000000)
#define AFTERWARDS UINT64_C(0x3000000)
#define FLOOD	   UINT64_C(0xf000000)
#define FLOODED	   40000u /* records: three rings of them */
#define CODE(i)	   ((uint64_t)&scene.codes[i])
#define STACK	   (64u << 10)
#define SEEN	   4096u
#define INT3	   0xcc

/* What happens at an instruction. */
enum happening { HANDLER_RECORDS, HANDLER_FLOODS, JUMPS_OUT, IS_DISABLED, LOSES_ITS_RINGS };

static struct scene {
	struct plant plant;
	struct plant_frame frame;
	struct plant_code_object codes[3]; /* the last is unusual */
	size_t told;			   /* records of code */
	struct tm_record_sink sink;
	uint64_t seen[SEEN], kinds[SEEN];
	size_t seen_count, passed, flood;
	enum happening happening;
	uint64_t places[1024]; /* the instructions that a call executes, in the order of their first execution
				*/
	unsigned place_count, at;
	bool fresh; /* each call is the thread's first, which claims a ring */
	bool happened;
	unsigned taken;	  /* times that the rings were taken away */
	uint8_t replaced; /* by the breakpoint */
	sigjmp_buf outside;
} scene;

static struct tm_error *see(void *context, unsigned ring, const struct tm_record_header *record)
{
	(void)context, (void)ring;
	if (record->kind == TM_RECORD_CODE) {
		scene.told++;
		return NULL;
	}
	if (((const struct tm_record_free *)record)->block == FLOOD) {
		scene.flood++;
		return NULL;
	}
	cr_assert_lt(scene.seen_count, SEEN);
	scene.kinds[scene.seen_count] = record->kind;
	scene.seen[scene.seen_count++] = ((const struct tm_record_free *)record)->block;
	if (record->flags & TM_RECORD_LOOK && !(record->flags & TM_RECORD_NO_FRAMES))
		tm_shared_add_code(scene.plant.shared,
				   ((const struct tm_record_block *)record)->frames[0].code);
	return NULL;
}

static void pass(void)
{
	cr_assert_null(tm_ring_reader_pass(scene.plant.reader, &scene.sink, 0, &scene.passed));
}

/* What is ready now, and what is when the reader has waited long enough. */
static void drain(void)
{
	cr_assert_null(tm_ring_reader_drain(scene.plant.reader, &scene.sink, &scene.passed));
}

static size_t times_seen(uint64_t number)
{
	size_t count = 0;

	for (size_t i = 0; i < scene.seen_count; i++)
		count += scene.seen[i] == number;
	return count;
}

static uint64_t where_inside(void)
{
	struct tm_recorder_thread *thread = plant_thread(&scene.plant);

	return thread ? thread->inside : 0;
}

/* More than the ring holds, some times. */
static void flood(void)
{
	for (unsigned i = 0; i < FLOODED; i++) {
		scene.plant.leave(FLOOD, 1, 0, PLANT_MALLOC);
		if (i % 64 == 0)
			drain();
	}
}

static void happen(void)
{
	uint64_t inside;

	switch (scene.happening) {

	case HANDLER_RECORDS:
		inside = where_inside();
		scene.plant.leave(NESTED + scene.at * 16, 1, 0, PLANT_MALLOC);
		cr_expect(!inside || where_inside() == inside, "the outer call is still inside");
		pass(); /* while the outer call stands still */
		break;
	case HANDLER_FLOODS:
		flood();
		break;
	case JUMPS_OUT:
		siglongjmp(scene.outside, 1);
	case IS_DISABLED:
		scene.plant.control->enabled = 0;
		break;
	case LOSES_ITS_RINGS:
		scene.plant.control->enabled = 0;
		if (where_inside())
			break;
		scene.taken++;
		cr_assert_eq(mprotect(scene.plant.target, TM_SHARED_SIZE, PROT_NONE), 0);
		break;
	}
}

static void on_breakpoint(int signal, siginfo_t *info, void *context)
{
	greg_t *pc = &((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];

	(void)signal, (void)info;
	*(uint8_t *)--*pc = scene.replaced;
	scene.happened = true;
	happen();
}

static void on_step(int signal, siginfo_t *info, void *context)
{
	uint64_t pc = (uint64_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];

	(void)signal, (void)info;
	if (pc - (uint64_t)scene.plant.image >= TM_RECORDER_CODE_SIZE)
		return;
	for (unsigned i = 0; i < scene.place_count; i++)
		if (scene.places[i] == pc)
			return;
	cr_assert_lt(scene.place_count, TM_ARRAY_SIZE(scene.places));
	scene.places[scene.place_count++] = pc;
}

static void set_trap_flag(void)
{
	__asm__ volatile("pushf; orl %0, (%%rsp); popf" ::"i"(TRAP_FLAG) : "memory", "cc");
}

static void clear_trap_flag(void)
{
	__asm__ volatile("pushf; andl %0, (%%rsp); popf" ::"i"(~TRAP_FLAG) : "memory", "cc");
}

static void begin_scene(void)
{
	plant_open(&scene.plant, PLANT_IMAGE);
	for (unsigned i = 0; i < 3; i++)
		plant_make_code(&scene.codes[i], i == 2);
	scene.frame.code = CODE(0);
	plant_enter_interpreter(&scene.frame);
	tm_shared_add_code(scene.plant.shared, CODE(0));
	scene.sink.record = see;
	scene.seen_count = 0;
}

static void trap(void (*handler)(int, siginfo_t *, void *), int flags)
{
	struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | flags};

	cr_assert_eq(sigaction(SIGTRAP, &action, NULL), 0);
}

static void call(uint64_t block)
{
	if (scene.fresh) {
		memset(scene.plant.control->threads, 0, sizeof(scene.plant.control->threads));
		memset(scene.plant.shared->used, 0, sizeof(scene.plant.shared->used));
	}
	scene.plant.leave(block, 1, 0, PLANT_MALLOC);
}

/* A scene in which breakpoints can be set; finds out what a call executes. */
static void begin_at_places(bool fresh)
{
	begin_scene();
	scene.fresh = fresh;
	scene.place_count = 0;
	cr_assert_eq(mprotect(scene.plant.image, TM_RECORDER_CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC),
		     0);
	call(OUTER - 16);
	trap(on_step, 0);
	set_trap_flag();
	call(OUTER - 32);
	clear_trap_flag();
	cr_assert_gt(scene.place_count, 50);
}

/* One call; it happens at the place `at`. */
static void call_through(enum happening happening, unsigned at)
{
	uint8_t *place = (uint8_t *)scene.places[at];

	scene.happening = happening;
	scene.at = at;
	scene.happened = false;
	scene.replaced = *place;
	*place = INT3;
	if (!sigsetjmp(scene.outside, 1))
		call(OUTER + at * 16);
	cr_expect(scene.happened);
}

static void expect_once(const char *what, uint64_t base)
{
	for (unsigned i = 0; i < scene.place_count; i++)
		cr_expect_eq(times_seen(base + i * 16), 1, "%s at instruction %u: seen %zu times", what, i,
			     times_seen(base + i * 16));
}

static void expect_at_most_once(uint64_t base)
{
	for (unsigned i = 0; i < scene.place_count; i++)
		cr_expect_leq(times_seen(base + i * 16), 1);
}

static void expect_handlers_to_be_nested(bool fresh, int flags)
{
	begin_at_places(fresh);
	trap(on_breakpoint, flags);
	for (unsigned at = 0; at < scene.place_count; at++)
		call_through(HANDLER_RECORDS, at);
	drain();
	expect_once("the interrupted call", OUTER);
	expect_once("the handler's", NESTED);
	cr_expect_eq(tm_ring_reader_abandoned(scene.plant.reader), 0);
	cr_expect_eq(where_inside(), 0);
	plant_close(&scene.plant);
}

Test(recorder, a_handler_may_come_between_any_two_instructions)
{
	expect_handlers_to_be_nested(false, 0);
	expect_handlers_to_be_nested(true, 0);
}

/* However long it does not come on, an interrupted record has its place. */
static void expect_floods_to_lose_nothing(bool fresh)
{
	begin_at_places(fresh);
	scene.flood = 0;
	trap(on_breakpoint, 0);
	for (unsigned at = 0; at < scene.place_count; at++)
		call_through(HANDLER_FLOODS, at);
	drain();
	expect_once("the interrupted call", OUTER);
	cr_expect_eq(scene.flood, scene.place_count * FLOODED);
	cr_expect_eq(tm_ring_reader_abandoned(scene.plant.reader), 0);
	cr_expect_eq(tm_ring_reader_broken(scene.plant.reader), 0);
	cr_expect_eq(scene.plant.shared->lost, 0);
	plant_close(&scene.plant);
}

Test(recorder, a_handler_may_record_more_than_the_ring_holds)
{
	expect_floods_to_lose_nothing(false);
	expect_floods_to_lose_nothing(true);
}

static void *on_a_stack_below_the_signal_stack(void *memory)
{
	stack_t stack = {.ss_sp = (uint8_t *)memory + STACK, .ss_size = STACK};

	cr_assert_eq(sigaltstack(&stack, NULL), 0);
	expect_handlers_to_be_nested(false, SA_ONSTACK);
	expect_handlers_to_be_nested(true, SA_ONSTACK);
	return NULL;
}

Test(recorder, a_handler_on_a_stack_above_is_no_jump)
{
	void *memory = mmap(NULL, 2 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_attr_t attributes;
	pthread_t thread;

	cr_assert_neq(memory, MAP_FAILED);
	pthread_attr_init(&attributes);
	cr_assert_eq(pthread_attr_setstack(&attributes, memory, STACK), 0);
	cr_assert_eq(pthread_create(&thread, &attributes, on_a_stack_below_the_signal_stack, memory), 0);
	cr_assert_eq(pthread_join(thread, NULL), 0);
}

/* A call from farther down. */
static __attribute__((noinline)) void call_below(uint64_t block)
{
	char deep[4096];

	__asm__ volatile("" ::"r"(deep) : "memory");
	scene.plant.leave(block, 1, 0, PLANT_MALLOC);
	__asm__ volatile("" ::"r"(deep) : "memory");
}

/* The record of the next call is there at once, and what was reserved is not waited for. */
Test(recorder, a_jump_out_is_noticed_by_a_call_from_the_same_depth)
{
	begin_at_places(false);
	trap(on_breakpoint, 0);
	for (unsigned at = 0; at < scene.place_count; at++) {
		call_through(JUMPS_OUT, at);
		call(AFTERWARDS + at * 16);
		pass();
		cr_expect_eq(times_seen(AFTERWARDS + at * 16), 1, "behind a jump out at %u", at);
		cr_expect_eq(where_inside(), 0, "behind a jump out at %u", at);
	}
	expect_at_most_once(OUTER);
	cr_expect_gt(tm_ring_reader_abandoned(scene.plant.reader), 0);
	plant_close(&scene.plant);
}

static bool is_announced(void)
{
	unsigned ring = (unsigned)(plant_thread(&scene.plant) - scene.plant.control->threads);

	return scene.plant.shared->used[ring / 64] >> ring % 64 & 1;
}

static void expect_jumps_to_be_survived(bool fresh, bool may_sleep, void (*next_call)(uint64_t))
{
	begin_at_places(fresh);
	scene.plant.control->may_sleep = may_sleep;
	trap(on_breakpoint, 0);
	for (unsigned at = 0; at < scene.place_count; at++) {
		call_through(JUMPS_OUT, at);
		next_call(AFTERWARDS + at * 16);
		cr_expect(is_announced(), "behind a jump out at %u", at);
	}
	drain();
	expect_once("the next call", AFTERWARDS);
	expect_at_most_once(OUTER);
	plant_close(&scene.plant);
}

static void next_call(uint64_t block)
{
	scene.plant.leave(block, 1, 0, PLANT_MALLOC);
}

Test(recorder, a_jump_out_loses_nothing_of_later_calls)
{
	expect_jumps_to_be_survived(false, true, call_below);
	expect_jumps_to_be_survived(true, true, next_call);
	expect_jumps_to_be_survived(true, true, call_below);
}

/* Where system calls are forbidden it cannot be told from a handler on another stack. */
Test(recorder, a_jump_out_is_survived_without_system_calls)
{
	expect_jumps_to_be_survived(false, false, next_call);
	expect_jumps_to_be_survived(true, false, next_call);
}

static uint64_t heads(void)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < TM_RINGS; i++)
		sum += __atomic_load_n(&plant_ring(&scene.plant, i)->head, __ATOMIC_ACQUIRE);
	return sum;
}

static void expect_the_end_to_be_noticed(bool fresh)
{
	begin_at_places(fresh);
	trap(on_breakpoint, 0);
	for (unsigned at = 0; at < scene.place_count; at++) {
		uint64_t recorded;

		call_through(IS_DISABLED, at);
		drain();
		recorded = heads();
		for (unsigned i = 0; i < TM_RINGS; i++)
			cr_expect_eq(scene.plant.control->threads[i].inside, 0);
		call(AFTERWARDS);
		cr_expect_eq(heads(), recorded);
		scene.plant.control->enabled = 1;
	}
	expect_at_most_once(OUTER);
	cr_expect_eq(tm_ring_reader_abandoned(scene.plant.reader), 0);
	cr_expect_gt(scene.seen_count, 10);
	plant_close(&scene.plant);
}

Test(recorder, the_end_of_recording_may_come_between_any_two_instructions)
{
	expect_the_end_to_be_noticed(false);
	expect_the_end_to_be_noticed(true);
}

/* The rings are taken away as soon as `inside` says that nobody is in them: with every thread stopped, as
 * here. */
Test(recorder, nothing_is_touched_while_the_thread_is_not_inside)
{
	for (unsigned fresh = 0; fresh < 2; fresh++) {
		begin_at_places(fresh);
		trap(on_breakpoint, 0);
		scene.taken = 0;
		for (unsigned at = 0; at < scene.place_count; at++) {
			call_through(LOSES_ITS_RINGS, at);
			cr_assert_eq(mprotect(scene.plant.target, TM_SHARED_SIZE, PROT_READ | PROT_WRITE), 0);
			scene.plant.control->enabled = 1;
		}
		cr_expect_gt(scene.taken, 10);
		plant_close(&scene.plant);
	}
}

/* ---- records ---- */

Test(recorder, what_a_record_says)
{
	struct plant_frame older = {.code = CODE(1), .instruction = 9};
	const struct tm_record_block *record;
	struct tm_ring_head *head;
	unsigned ring;

	begin_scene();
	scene.frame = (struct plant_frame){.code = CODE(0), .instruction = 7, .back = (uint64_t)&older};
	scene.plant.control->python.nframe = 8;
	tm_shared_add_code(scene.plant.shared, CODE(1));
	cr_expect_eq(scene.plant.leave(OUTER, 10007, NESTED, PLANT_REALLOC), OUTER, "the block is passed on");
	ring = (unsigned)(plant_thread(&scene.plant) - scene.plant.control->threads);
	head = plant_ring(&scene.plant, ring);
	record = (const struct tm_record_block *)((uint8_t *)scene.plant.shared + TM_SHARED_RINGS +
						  ring * TM_RING_SIZE);
	cr_expect_eq(record->header.kind, TM_RECORD_RESIZE_END);
	cr_expect_eq(record->header.flags, 0);
	cr_expect_eq(head->head, record->header.units * TM_RECORD_UNIT);
	cr_expect_eq(record->block, OUTER);
	cr_expect_eq(record->size, 10007);
	cr_expect_eq(record->old, NESTED);
	cr_expect_eq(record->frame_count, 2);
	cr_expect_eq(record->frame_total, 2);
	cr_expect_eq(record->frames[0].code, CODE(0));
	cr_expect_eq(record->frames[0].instruction, 7);
	cr_expect_eq(record->frames[1].code, CODE(1));
	cr_expect_eq(record->frames[1].instruction, 9);
	plant_close(&scene.plant);
}

static void *look(void *stop)
{
	do
		pass();
	while (!__atomic_load_n((bool *)stop, __ATOMIC_ACQUIRE));
	return NULL;
}

static void expect_told(size_t told, uint64_t looks)
{
	drain();
	cr_expect_eq(scene.told, told);
	cr_expect_eq(scene.plant.shared->doorbell, looks);
}

/* Freed code is unknown again. */
Test(recorder, code_is_told_once_until_it_is_freed)
{
	begin_scene();
	scene.frame.code = CODE(1);
	for (unsigned i = 0; i < 3; i++)
		scene.plant.leave(OUTER, 1, 0, PLANT_MALLOC);
	expect_told(1, 0);
	scene.plant.enter(CODE(1), PLANT_FREE);
	for (unsigned i = 0; i < 3; i++)
		scene.plant.leave(OUTER, 1, 0, PLANT_MALLOC);
	expect_told(2, 0);
	plant_close(&scene.plant);
}

Test(recorder, the_tracer_looks_at_unusual_code_and_at_threads_without_a_state)
{
	bool stop = false;
	pthread_t reader;

	begin_scene();
	scene.frame.code = CODE(2);
	cr_assert_eq(pthread_create(&reader, NULL, look, &stop), 0);
	for (unsigned i = 0; i < 3; i++)
		scene.plant.leave(OUTER, 1, 0, PLANT_MALLOC);
	cr_expect_eq(scene.plant.shared->doorbell, 1, "the sink makes it known");
	plant_leave_interpreter();
	for (unsigned i = 0; i < 3; i++)
		scene.plant.leave(OUTER, 1, 0, PLANT_MALLOC);
	cr_expect_eq(scene.plant.shared->doorbell, 4);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	pthread_join(reader, NULL);
	plant_close(&scene.plant);
}

static long futex(uint32_t *word, int operation, uint32_t value)
{
	return syscall(SYS_futex, word, operation, value, NULL);
}

/* Sleeps without end between its looks. */
static void *look_when_woken(void *stop)
{
	uint32_t *asleep = &scene.plant.shared->asleep;

	while (!__atomic_load_n((bool *)stop, __ATOMIC_ACQUIRE)) {
		__atomic_store_n(asleep, 1, __ATOMIC_SEQ_CST);
		futex(asleep, FUTEX_WAIT, 1);
		pass();
	}
	return NULL;
}

static void end_sleeper(pthread_t sleeper, bool *stop)
{
	__atomic_store_n(stop, true, __ATOMIC_SEQ_CST);
	while (pthread_tryjoin_np(sleeper, NULL)) {
		__atomic_store_n(&scene.plant.shared->asleep, 0, __ATOMIC_SEQ_CST);
		futex(&scene.plant.shared->asleep, FUTEX_WAKE, 1);
		sched_yield();
	}
}

Test(recorder, who_waits_for_a_sleeping_tracer_wakes_it)
{
	bool stop = false;
	pthread_t sleeper;

	begin_scene();
	scene.frame.code = CODE(2);
	plant_leave_interpreter();
	cr_assert_eq(pthread_create(&sleeper, NULL, look_when_woken, &stop), 0);
	for (unsigned i = 0; i < 1000; i++)
		scene.plant.leave(OUTER, 1, 0, PLANT_MALLOC);
	cr_expect_eq(scene.plant.shared->doorbell, 1000);
	for (unsigned i = 0; i < 3 * TM_RING_SIZE / sizeof(struct tm_record_free); i++) /* a ring runs full */
		scene.plant.enter(FLOOD, PLANT_FREE);
	end_sleeper(sleeper, &stop);
	drain();
	cr_expect(scene.plant.control->enabled);
	plant_close(&scene.plant);
}

/* A filter might kill it. */
Test(recorder, nobody_is_woken_where_system_calls_are_forbidden)
{
	bool stop = false;
	pthread_t reader;

	begin_scene();
	scene.plant.control->may_sleep = 0;
	scene.plant.shared->asleep = 1;
	scene.frame.code = CODE(2);
	cr_assert_eq(pthread_create(&reader, NULL, look, &stop), 0);
	scene.plant.leave(OUTER, 1, 0, PLANT_MALLOC);
	cr_expect_eq(scene.plant.shared->doorbell, 1);
	cr_expect_eq(scene.plant.shared->asleep, 1);
	__atomic_store_n(&stop, true, __ATOMIC_RELEASE);
	pthread_join(reader, NULL);
	plant_close(&scene.plant);
}

Test(recorder, more_code_than_a_set_holds_takes_others_places)
{
	struct tm_shared *shared;
	unsigned known = 0;

	begin_scene();
	shared = scene.plant.shared;
	for (uint64_t code = 16, count = 0; count < 100; code += 16) {
		if (tm_code_set(code) != tm_code_set(CODE(0)))
			continue;
		tm_shared_add_code(shared, code);
		tm_shared_add_code(shared, code);
		count++;
		known = 0;
		for (unsigned i = 0; i < TM_CODE_WAYS; i++)
			known += shared->codes[tm_code_set(code)][i] == code;
		cr_assert_eq(known, 1);
	}
	for (unsigned i = 0; i < TM_CODE_WAYS; i++)
		cr_expect_neq(shared->codes[tm_code_set(CODE(0))][i], 0);
	plant_close(&scene.plant);
}

/* ---- ends ---- */

static bool returned[8];

static void *fill(void *index)
{
	static const uint64_t calls = 3 * TM_RING_SIZE / sizeof(struct tm_record_free);

	plant_enter_interpreter(&scene.frame);
	for (uint64_t i = 0; i < calls; i++)
		scene.plant.enter(OUTER * ((uintptr_t)index + 1) + i * 16, PLANT_FREE);
	returned[(uintptr_t)index] = true;
	return NULL;
}

static void expect_the_beginning(unsigned threads)
{
	uint64_t next[8] = {0};
	size_t total = 0;

	for (unsigned i = 0; i < threads; i++)
		next[i] = OUTER * (i + 1);
	/* Until nothing comes: more than `seen` holds was recorded. */
	do {
		cr_assert_null(tm_ring_reader_pass(scene.plant.reader, &scene.sink, SEEN, &scene.passed));
		for (size_t i = 0; i < scene.seen_count; i++) {
			uint64_t thread = scene.seen[i] / OUTER - 1;

			cr_assert_eq(scene.seen[i], next[thread]);
			next[thread] += 16;
		}
		total += scene.passed;
		scene.seen_count = 0;
	} while (scene.passed);
	cr_expect_gt(total, threads * (TM_RING_SIZE - 2 * TM_RING_SLACK) / sizeof(struct tm_record_free));
}

Test(recorder, a_tracer_that_does_not_read_ends_the_recording_and_hangs_nobody)
{
	pthread_t threads[4];

	begin_scene();
	scene.plant.control->patience = plant_ticks(50);
	for (uintptr_t i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, fill, (void *)i), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	cr_expect_eq(scene.plant.shared->lost, 1);
	cr_expect_neq(scene.plant.shared->lost_time, 0);
	cr_expect_eq(scene.plant.shared->enabled, 0);
	cr_expect_eq(scene.plant.control->enabled, 0);
	for (unsigned i = 0; i < TM_RINGS; i++)
		cr_expect_eq(scene.plant.control->threads[i].inside, 0);
	expect_the_beginning(4);
	plant_close(&scene.plant);
}

/* A thread that waits for room goes on when the word is cleared. */
static void let_go_of_a_full_ring(void)
{
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, fill, NULL), 0);
	while (heads() < TM_RING_SIZE - TM_RING_SLACK) /* it waits there */
		sched_yield();
	__atomic_store_n(&scene.plant.shared->enabled, 0, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	cr_expect_eq(scene.plant.control->enabled, 0);
}

Test(recorder, the_watchdog_s_word_lets_waiting_threads_go)
{
	begin_scene();
	let_go_of_a_full_ring();
	cr_expect_eq(scene.plant.shared->lost, 0);
	plant_close(&scene.plant);
}

/* Where others want the processor: the thread sleeps between its looks at the word. */
Test(recorder, who_may_not_yield_comes_on_as_well)
{
	uint64_t never = UINT64_MAX;

	begin_scene();
	scene.plant.control->crowded_until = never;
	let_go_of_a_full_ring();
	cr_expect_eq(scene.plant.control->crowded_until, never, "nobody has yielded");
	plant_close(&scene.plant);
}

Test(recorder, a_forked_child_records_nothing)
{
	struct tm_ring_head *head;
	uint64_t before;
	int status = -1;
	pid_t pid;

	begin_scene();
	scene.plant.enter(OUTER, PLANT_FREE);
	head = plant_ring(&scene.plant,
			  (unsigned)(plant_thread(&scene.plant) - scene.plant.control->threads));
	before = head->head;
	pid = fork();
	if (pid == 0) {
		scene.plant.enter(OUTER, PLANT_FREE);
		_exit(scene.plant.leave(NESTED, 1, 0, PLANT_MALLOC) == NESTED ? 0 : 1);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect_eq(status, 0);
	cr_expect_eq(head->head, before);
	plant_close(&scene.plant);
}

static unsigned arrived;

static void *record_beside_many(void *unused)
{
	(void)unused;
	scene.plant.enter(plant_thread_pointer(), PLANT_FREE);
	__atomic_fetch_add(&arrived, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(&arrived, __ATOMIC_ACQUIRE) < TM_RINGS + 20)
		sched_yield();
	return NULL;
}

Test(recorder, events_of_threads_without_a_ring_are_counted)
{
	pthread_t threads[TM_RINGS + 20];
	pthread_attr_t attributes;

	begin_scene();
	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, STACK);
	for (unsigned i = 0; i < TM_RINGS + 20; i++)
		cr_assert_eq(pthread_create(&threads[i], &attributes, record_beside_many, NULL), 0);
	for (unsigned i = 0; i < TM_RINGS + 20; i++)
		pthread_join(threads[i], NULL);
	drain();
	cr_expect_eq(scene.seen_count, TM_RINGS);
	cr_expect_eq(scene.plant.control->unringed, 20);
	plant_close(&scene.plant);
}
#endif
