/* Breakpoints in a live process: every pass is counted, and it survives every moment at which it is let go.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "support/live_child.h"

#define CALLS 300

TestSuite(ptrace_breakpoint, .init = live_setup, .fini = live_teardown, .timeout = 100);

/* ---- counted calls ---- */

static void *call_counted(void *argument)
{
	long x = 0;

	(void)argument;
	while (x < 2 * CALLS)
		x = live_long(live_short(x));
	live.shared->result += x == 2 * CALLS;
	return NULL;
}

static void body_counted(void)
{
	pthread_t threads[LIVE_THREADS];

	live.shared->ready = 1;
	live_await(&live.shared->go, 1);
	for (int i = 0; i < LIVE_THREADS; i++)
		pthread_create(&threads[i], NULL, call_counted, NULL);
	for (int i = 0; i < LIVE_THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void expect_all_calls_counted(bool with_pads)
{
	live_start(body_counted);
	live_await(&live.shared->ready, 1);
	live_attach(with_pads);
	live_insert(live_code(live_short));
	live_insert((uint64_t)(uintptr_t)live_short_return);
	live_insert(live_code(live_long));
	cr_assert_eq(tm_breakpoints_count_in_place(live.breakpoints), with_pads ? 0 : 3);
	live_resume_all();
	live.shared->go = 1;
	live_run_to_end();
	cr_assert_eq(live.wait_status, 0);
	cr_assert_eq(live.shared->result, LIVE_THREADS);
	cr_assert_eq(live.hits, 3 * CALLS * LIVE_THREADS);
}

Test(ptrace_breakpoint, no_pass_of_any_thread_is_missed)
{
	expect_all_calls_counted(true);
}

Test(ptrace_breakpoint, no_pass_is_missed_when_stepping_in_place)
{
	expect_all_calls_counted(false);
}

/* ---- coming and going ---- */

static void *call_for_ever(void *argument)
{
	atomic_long *count = argument;
	long x = 0;

	for (;;) {
		if (live_long(live_short(x)) != x + 2)
			_exit(3);
		x++;
		++*count;
	}
	return NULL;
}

static void start_callers(void)
{
	pthread_t threads[LIVE_THREADS];

	for (int i = 0; i < LIVE_THREADS; i++)
		pthread_create(&threads[i], NULL, call_for_ever, &live.shared->count[i]);
	live.shared->ready = 1;
}

static void body_callers(void)
{
	start_callers();
	for (;;)
		pause();
}

static void await_calls(void)
{
	for (int i = 0; i < LIVE_THREADS; i++) {
		long before = live.shared->count[i];

		while (live.shared->count[i] == before)
			sched_yield();
	}
}

static void handle_stops(int count)
{
	struct tm_stop stop;

	for (int i = 0; i < count && !live.ended; i++) {
		live_check(tm_target_wait(live.target, &stop));
		live_handle(&stop);
	}
}

static void insert_all(void)
{
	live_insert(live_code(live_short));
	live_insert((uint64_t)(uintptr_t)live_short_return);
	live_insert(live_code(live_long));
}

/* Threads run onto breakpoints while they are being stopped: their traps are pending at the detach. */
static void come_and_go(int cycles, bool with_pads)
{
	live_start(body_callers);
	live_await(&live.shared->ready, 1);
	for (int i = 0; i < cycles; i++) {
		live_attach(with_pads);
		insert_all();
		live_resume_all();
		handle_stops(i % 13);
		live_leave();
		if (i % 10 == 0)
			await_calls();
	}
	await_calls();
	cr_assert_gt(live.hits, (size_t)cycles);
}

Test(ptrace_breakpoint, detach_with_pending_traps)
{
	come_and_go(300, true);
}

Test(ptrace_breakpoint, detach_with_pending_traps_of_breakpoints_in_place)
{
	come_and_go(100, false);
}

Test(ptrace_breakpoint, thread_whose_stop_was_not_handled_can_be_let_go)
{
	struct tm_stop stop;

	live_start(body_callers);
	live_await(&live.shared->ready, 1);
	for (int i = 0; i < 50; i++) {
		live_attach(true);
		insert_all();
		live_resume_all();
		do {
			live_check(tm_target_wait(live.target, &stop));
		} while (stop.kind != TM_STOP_BREAKPOINT);
		live_leave();
	}
	await_calls();
}

Test(ptrace_breakpoint, page_can_be_mapped_while_a_thread_stands_at_one)
{
	struct tm_stop stop;

	live_start(body_callers);
	live_await(&live.shared->ready, 1);
	live_attach(true);
	insert_all();
	live_resume_all();
	for (int i = 0; i < 20; i++) {
		do {
			live_check(tm_target_wait(live.target, &stop));
		} while (stop.kind != TM_STOP_BREAKPOINT);
		cr_assert_eq(live_system_call(39 /* any number does */, 0, 0, 0) >= -4095, true);
		live_handle(&stop);
	}
	live_leave();
	await_calls();
}

Test(ptrace_breakpoint, stop_all_takes_hits_back_and_they_come_again)
{
	live_start(body_counted);
	live_await(&live.shared->ready, 1);
	live_attach(true);
	insert_all();
	live_resume_all();
	live.shared->go = 1;
	while (!live.ended) {
		struct tm_stop stop;

		live_check(tm_target_wait(live.target, &stop));
		live_handle(&stop);
		if (live.ended || live.hits % 7)
			continue;
		live_check(tm_target_stop_all(live.target, 5000));
		live_resume_all();
	}
	cr_assert_eq(live.wait_status, 0);
	cr_assert_eq(live.hits, 3 * CALLS * LIVE_THREADS);
}

/* Until nothing happens any more: heartbeats alone end several waits. */
static void handle_until_quiet(void)
{
	struct tm_stop stop;

	for (int quiet = 0, stops = 0; quiet < 4; stops++) {
		cr_assert_lt(stops, 20000, "some thread runs on");
		live_check(tm_target_wait(live.target, &stop));
		live_handle(&stop);
		quiet = stop.kind == TM_STOP_NONE ? quiet + 1 : 0;
	}
}

static void stop_and_continue(bool with_pads)
{
	live_start(body_callers);
	live_await(&live.shared->ready, 1);
	live_attach(with_pads);
	insert_all();
	live_resume_all();
	for (int i = 0; i < 100; i++) {
		kill(live.pid, SIGSTOP);
		handle_until_quiet();
		kill(live.pid, SIGCONT);
		handle_stops(20 + i);
	}
	live_leave();
	await_calls();
}

Test(ptrace_breakpoint, group_stop_holds_all_threads)
{
	stop_and_continue(true);
}

Test(ptrace_breakpoint, group_stop_holds_all_threads_that_are_stepped_in_place)
{
	stop_and_continue(false);
}
