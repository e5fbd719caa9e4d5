/* The ptrace target, live: how a process begins, multiplies, changes and ends. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "support/live_child.h"

extern char **environ;

TestSuite(ptrace_follow, .init = live_setup, .fini = live_teardown, .timeout = 60);

/* The child waits for `go`; breakpoints stand on live_short. */
static void start_traced(void (*body)(void), bool with_pads)
{
	live_start(body);
	live_await(&live.shared->ready, 1);
	live_attach(with_pads);
	live_insert(live_code(live_short));
	live_resume_all();
	live.shared->go = 1;
}

static void ready(void)
{
	live.shared->ready = 1;
	live_await(&live.shared->go, 1);
}

static int await_child(pid_t pid)
{
	int status = -1;

	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status;
}

/* ---- fork ---- */

static void body_fork(void)
{
	ready();
	for (int i = 0; i < 20; i++) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(live_short(41) == 42 ? 0 : 1);
		live.shared->result |= await_child(pid);
	}
	live.shared->error = (int)live_short(41);
}

Test(ptrace_follow, forked_child_runs_on_without_breakpoints_and_without_us)
{
	start_traced(body_fork, true);
	live_run_to_end();
	cr_assert_eq(live.forks, 20);
	cr_assert_eq(live.shared->result, 0);
	cr_assert_eq(live.shared->error, 42);
	cr_assert_eq(live.hits, 1, "the parent's own");
	cr_assert_eq(live.wait_status, 0);
}

/* As daemon(3) does: the parent ends at once, perhaps before its child has been seen. */
static void body_daemon(void)
{
	ready();
	if (fork() == 0) {
		live.shared->result = (int)live_short(41);
		live.shared->done = 1;
	}
	_exit(0);
}

Test(ptrace_follow, child_of_a_parent_that_ends_at_once_is_cleaned)
{
	for (int i = 0; i < 50; i++) {
		live.shared->ready = live.shared->go = live.shared->done = live.shared->result = 0;
		live.ended = false;
		start_traced(body_daemon, true);
		live_run_to_end();
		live_forget_target();
		live_await(&live.shared->done, 1);
		cr_assert_eq(live.shared->result, 42);
	}
}

static void body_fork_and_exec(void)
{
	ready();
	if (fork() == 0) {
		live.shared->result = (int)live_short(41);
		live.shared->done = 1;
		_exit(0);
	}
	execl("/bin/true", "true", NULL);
}

Test(ptrace_follow, child_of_a_parent_that_executes_at_once_is_cleaned)
{
	for (int i = 0; i < 50; i++) {
		live.shared->ready = live.shared->go = live.shared->done = live.shared->result = 0;
		live.ended = false;
		start_traced(body_fork_and_exec, true);
		live_run_to_end();
		live_forget_target();
		live_await(&live.shared->done, 1);
		cr_assert_eq(live.shared->result, 42);
	}
	cr_assert_eq(live.execs, 50);
}

/* ---- children that share the memory ---- */

static void body_vfork(void)
{
	ready();
	pid_t pid = vfork();
	if (pid == 0) {
		if (live_short(41) != 42)
			_exit(1);
		execl("/bin/true", "true", NULL);
		_exit(2);
	}
	live.shared->result = await_child(pid);
	live.shared->error = (int)live_short(41);
}

Test(ptrace_follow, vfork_child_is_one_of_us_until_it_executes)
{
	start_traced(body_vfork, true);
	live_run_to_end();
	cr_assert_eq(live.forks, 0);
	cr_assert_eq(live.births, 1);
	cr_assert_eq(live.peer_hits, 1, "it keeps the breakpoints");
	cr_assert_eq(live.hits, 2, "and they stand after it");
	cr_assert_eq(live.shared->result, 0);
	cr_assert_eq(live.shared->error, 42);
	cr_assert_eq(live.execs, 0, "its new image is not ours");
}

static void body_spawn(void)
{
	char *const arguments[] = {"true", NULL};
	pid_t pid;

	ready();
	for (int i = 0; i < 10; i++) {
		live.shared->error |= posix_spawn(&pid, "/bin/true", NULL, NULL, arguments, environ);
		live.shared->result |= await_child(pid);
		live_short(1);
	}
}

Test(ptrace_follow, posix_spawn_works_and_leaves_the_breakpoints)
{
	start_traced(body_spawn, true);
	live_run_to_end();
	cr_assert_eq(live.shared->error, 0);
	cr_assert_eq(live.shared->result, 0);
	cr_assert_eq(live.hits, 10);
	cr_assert_eq(live.forks, 0);
}

static void body_slow_vfork(void)
{
	ready();
	if (vfork() == 0) {
		live.shared->pid = getpid();
		live_await(&live.shared->go, 2);
		_exit(0);
	}
	live.shared->result = (int)live_short(41);
	live.shared->done = 1;
	live_await(&live.shared->go, 3);
}

Test(ptrace_follow, parent_that_sleeps_in_vfork_does_not_hold_up_the_others)
{
	start_traced(body_slow_vfork, true);
	live_run_until(&live.shared->pid, 1);
	for (int i = 0; i < 5; i++) {
		live_check(tm_target_stop_all(live.target, 3000));
		live_insert(live_code(live_long));
		live_resume_all();
	}
	live.shared->go = 2;
	live_run_until(&live.shared->done, 1);
	cr_assert_eq(live.shared->result, 42);
	live.shared->go = 3;
	live_run_to_end();
	cr_assert_eq(live.wait_status, 0);
}

Test(ptrace_follow, detach_in_the_middle_of_a_vfork)
{
	start_traced(body_slow_vfork, true);
	live_run_until(&live.shared->pid, 1);
	live.shared->go = 2; /* it may run on from the moment it is let go */
	live_leave();
	live_await(&live.shared->done, 1);
	cr_assert_eq(live.shared->result, 42);
	live.shared->go = 3;
	cr_assert_eq(live_await_end(), 0);
}

#define STACK_SIZE 65536
static char peer_stack[STACK_SIZE] __attribute__((aligned(16)));

static int call_in_peer(void *argument)
{
	(void)argument;
	while (live.shared->go < 2 && kill(live.shared->tester, 0) == 0) {
		if (live_short(41) != 42)
			return 1;
		live.shared->pid = getpid();
	}
	live.shared->result = (int)live_short(41);
	live.shared->done = 1;
	return 0;
}

/* A process of its own that shares the memory and outlives who made it. */
static void make_peer(void)
{
	ready();
	clone(call_in_peer, peer_stack + STACK_SIZE, CLONE_VM | SIGCHLD, NULL);
	live_await(&live.shared->pid, 1);
}

static void body_leave_peer(void)
{
	make_peer();
	_exit(5);
}

Test(ptrace_follow, peer_that_outlives_the_process_is_cleaned_and_let_go)
{
	start_traced(body_leave_peer, true);
	live_run_to_end();
	cr_assert_eq(WEXITSTATUS(live.wait_status), 5);
	cr_assert_gt(live.peer_hits, 0);
	live.shared->go = 2;
	live_await(&live.shared->done, 1);
	cr_assert_eq(live.shared->result, 42);
}

static void body_leave_peer_by_exec(void)
{
	make_peer();
	execl("/bin/true", "true", NULL);
}

Test(ptrace_follow, peer_that_keeps_the_memory_which_an_exec_left_is_cleaned)
{
	start_traced(body_leave_peer_by_exec, true);
	live_run_to_end();
	cr_assert_eq(live.execs, 1);
	cr_assert_eq(live.wait_status, 0);
	live.shared->go = 2;
	live_await(&live.shared->done, 1);
	cr_assert_eq(live.shared->result, 42);
}

static void body_with_peer(void)
{
	make_peer();
	live.shared->ready = 2;
	for (;;)
		pause();
}

Test(ptrace_follow, attach_takes_peers_too)
{
	live_start(body_with_peer);
	live_await(&live.shared->ready, 1);
	live.shared->go = 1;
	live_await(&live.shared->ready, 2);
	live_attach(true);
	cr_assert_eq(live.target->threads.count, 2);
	cr_assert_not_null(tm_target_thread(live.target, live.shared->pid));
	live_insert(live_code(live_short));
	live_resume_all();
	struct tm_stop stop;
	while (live.peer_hits < 10) {
		live_check(tm_target_wait(live.target, &stop));
		live_handle(&stop);
	}
	live_leave();
	live.shared->go = 2;
	live_await(&live.shared->done, 1);
	cr_assert_eq(live.shared->result, 42);
}

/* ---- exec ---- */

static void body_exec(void)
{
	ready();
	live_short(1);
	execl("/bin/true", "true", NULL);
}

Test(ptrace_follow, exec_is_told_before_the_first_instruction_of_the_new_image)
{
	struct tm_mappings mappings = {0};
	struct tm_stop stop;

	start_traced(body_exec, true);
	uint64_t image = live.target->image;
	do {
		live_check(tm_target_wait(live.target, &stop));
		if (stop.kind != TM_STOP_EXEC)
			live_handle(&stop);
	} while (stop.kind != TM_STOP_EXEC && !live.ended);
	cr_assert_eq(live.hits, 1);
	cr_assert_neq(live.target->image, image);
	cr_assert_eq(stop.thread->tid, live.pid);
	cr_assert_eq(live_system_call(SYS_getpid, 0, 0, 0), live.pid, "also there");
	live_check(tm_target_mappings(live.target, &mappings));
	bool found = false;
	for (size_t i = 0; i < mappings.count; i++)
		found = found || strstr(mappings.items[i].path, "/true");
	cr_assert(found);
	tm_mappings_deinit(&mappings);
	live_handle(&stop);
	live_run_to_end();
	cr_assert_eq(live.wait_status, 0);
}

static void *execute(void *argument)
{
	(void)argument;
	execl("/bin/true", "true", NULL);
	return NULL;
}

static void *sleep_for_ever(void *argument)
{
	for (;;)
		pause();
	return argument;
}

static void body_exec_by_thread(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, sleep_for_ever, NULL);
	ready();
	pthread_create(&thread, NULL, execute, NULL);
	for (;;)
		pause();
}

Test(ptrace_follow, exec_by_another_thread_leaves_one_thread_with_the_leaders_number)
{
	start_traced(body_exec_by_thread, true);
	struct tm_stop stop;
	do {
		live_check(tm_target_wait(live.target, &stop));
		if (stop.kind != TM_STOP_EXEC)
			live_handle(&stop);
	} while (stop.kind != TM_STOP_EXEC && !live.ended);
	cr_assert_eq(stop.thread->tid, live.pid);
	cr_assert_eq(live.target->threads.count, 1);
	live_handle(&stop);
	live_run_to_end();
	cr_assert_eq(live.wait_status, 0);
}

/* ---- the end ---- */

static void body_exit(void)
{
	ready();
	_exit(7);
}

Test(ptrace_follow, exit_status_is_told)
{
	start_traced(body_exit, true);
	live_run_to_end();
	cr_assert(WIFEXITED(live.wait_status));
	cr_assert_eq(WEXITSTATUS(live.wait_status), 7);
	cr_assert(live.target->exited);
}

static void body_wait(void)
{
	ready();
	for (;;)
		pause();
}

Test(ptrace_follow, signal_that_killed_is_told)
{
	start_traced(body_wait, true);
	kill(live.pid, SIGKILL);
	live_run_to_end();
	cr_assert(WIFSIGNALED(live.wait_status));
	cr_assert_eq(WTERMSIG(live.wait_status), SIGKILL);
}

Test(ptrace_follow, process_that_is_killed_while_it_stands_still_ends)
{
	start_traced(body_wait, true);
	live_check(tm_target_stop_all(live.target, 3000));
	kill(live.pid, SIGKILL);
	live_run_to_end();
	cr_assert_eq(WTERMSIG(live.wait_status), SIGKILL);
	live_check(tm_target_stop_all(live.target, 3000));
}

/* ---- the beginning ---- */

static struct tm_error *launch(char *program, char *argument)
{
	char *const argv[] = {program, argument, NULL};
	struct tm_error *err = tm_ptrace_launch(argv, &live.target);

	if (!err)
		live.pid = live.target->pid;
	return err;
}

Test(ptrace_follow, launched_program_stands_at_its_first_instruction)
{
	struct tm_stop stop;

	live_check(launch("true", NULL));
	live_assemble(true);
	live_check(tm_target_wait(live.target, &stop));
	cr_assert_eq(stop.kind, TM_STOP_EXEC);
	cr_assert_eq(stop.thread->state, TM_THREAD_STOPPED);
	cr_assert_eq(live_system_call(SYS_getpid, 0, 0, 0), live.pid);
	live_handle(&stop);
	live_run_to_end();
	cr_assert_eq(live.wait_status, 0);
}

Test(ptrace_follow, program_that_is_not_there_is_an_error_that_says_so)
{
	struct tm_error *err = launch("/nonexistent/program", NULL);

	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_NOT_FOUND);
	cr_assert_not_null(strstr(err->message, "/nonexistent/program"), "%s", err->message);
	tm_error_destroy(err);
	err = launch("/dev/null", NULL);
	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_PERMISSION);
	tm_error_destroy(err);
	cr_assert_eq(waitpid(-1, NULL, __WALL), -1, "nothing is left behind");
}

static void body_nothing(void)
{
}

Test(ptrace_follow, attach_to_a_process_that_has_ended_is_an_error)
{
	live_start(body_nothing);
	pid_t pid = live.pid;
	live_await_end();
	struct tm_error *err = tm_ptrace_attach(pid, tm_arch_host(), &live.target);
	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_NO_PROCESS);
	tm_error_destroy(err);
}

static void body_execs_when_told(void)
{
	live.shared->ready = 1;
	live_await(&live.shared->go, 1);
	execl("/bin/sleep", "sleep", "60", (char *)NULL);
	_exit(1);
}

Test(ptrace_follow, an_exec_before_all_stand_still_is_told_and_no_stop_of_the_trace)
{
	struct tm_stop stop;
	bool replaced = false;

	live_start(body_execs_when_told);
	live_await(&live.shared->ready, 1);
	live_check(tm_ptrace_attach(live.pid, tm_arch_host(), &live.target));
	live.shared->go = 1;
	live_await_state('t');
	live_check(tm_ptrace_begin(live.target, &replaced));
	cr_expect(replaced);
	cr_expect_not(tm_target_next_queued(live.target, &stop));
}
