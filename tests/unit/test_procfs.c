/* What /proc tells, of processes that the test makes: names that confuse, ends at every moment, and why one
 * may not be traced. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "target/procfs.h"

static pid_t child;

static void teardown(void)
{
	if (!child)
		return;
	kill(child, SIGKILL);
	waitpid(child, NULL, __WALL);
}

static void check(struct tm_error *err)
{
	cr_assert_null(err, "%s", err ? err->message : "");
}

/* A child that has done what body does, and waits. */
static void start(void (*body)(void))
{
	int ends[2];
	char byte;

	cr_assert_eq(pipe(ends), 0);
	child = fork();
	cr_assert_geq(child, 0);
	if (child) {
		cr_assert_eq(read(ends[0], &byte, 1), 1);
		return;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	body();
	if (write(ends[1], "r", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

static void body_nothing(void)
{
}

static void await_state(char state)
{
	while (tm_procfs_state(child, child) != state)
		sched_yield();
}

TestSuite(procfs, .fini = teardown, .timeout = 30);

/* ---- single facts ---- */

static void body_odd_name(void)
{
	prctl(PR_SET_NAME, ") R 1 (\n x");
}

Test(procfs, name_with_brackets_does_not_confuse_the_fields)
{
	char comm[32];

	start(body_odd_name);
	await_state('S');
	cr_assert_geq(tm_procfs_cpu(child, child), 0);
	tm_procfs_comm(child, child, comm);
	cr_assert_eq(strncmp(comm, ") R 1 (", 7), 0, "%s", comm);
}

Test(procfs, state_is_told_from_running_to_gone)
{
	start(body_nothing);
	await_state('S');
	kill(child, SIGSTOP);
	await_state('T');
	kill(child, SIGKILL);
	await_state('Z');
	waitpid(child, NULL, 0);
	cr_assert_eq(tm_procfs_state(child, child), 0);
	cr_assert_eq(tm_procfs_cpu(child, child), -1);
	cr_assert_eq(tm_procfs_rss(child), 0);
	child = 0;
}

Test(procfs, name_of_a_thread_that_is_gone_is_a_question_mark)
{
	char comm[32];

	tm_procfs_comm(getpid(), 0x7fffffff, comm);
	cr_assert_str_eq(comm, "?");
}

Test(procfs, status_field_is_found_by_its_whole_name)
{
	uint64_t value = 77;

	cr_assert(tm_procfs_status_number(getpid(), getpid(), "Tgid", 10, &value));
	cr_assert_eq(value, (uint64_t)getpid());
	cr_assert(tm_procfs_status_number(getpid(), getpid(), "Seccomp", 10, &value), "not Seccomp_filters");
	cr_assert_leq(value, 2);
	cr_assert_not(tm_procfs_status_number(getpid(), getpid(), "Tgi", 10, &value));
	cr_assert_not(tm_procfs_status_number(getpid(), getpid(), "gid", 10, &value));
}

static void body_blocked(void)
{
	sigset_t all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
}

Test(procfs, signal_masks_are_read_as_hexadecimal)
{
	uint64_t mask = 0;

	start(body_blocked);
	cr_assert(tm_procfs_status_number(child, child, "SigBlk", 16, &mask));
	cr_assert(mask & (UINT64_C(1) << (SIGUSR1 - 1)));
	cr_assert_not(mask & (UINT64_C(1) << (SIGKILL - 1)));
}

Test(procfs, resident_memory_is_in_bytes)
{
	size_t size = 32u << 20;
	uint64_t before = tm_procfs_rss(getpid());
	char *pages =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	cr_assert_neq(pages, MAP_FAILED);
	uint64_t grown = tm_procfs_rss(getpid()) - before;
	cr_assert_geq(grown, size / 4 * 3);
	cr_assert_leq(grown, size * 2);
}

Test(procfs, mappings_hold_the_program)
{
	struct tm_mappings mappings = {0};

	check(tm_procfs_mappings(getpid(), &mappings));
	const struct tm_mapping *mapping =
		tm_mappings_find(&mappings, (uint64_t)(uintptr_t)tm_procfs_mappings);
	cr_assert_not_null(mapping);
	cr_assert(mapping->executable);
	cr_assert_eq(mapping->path[0], '/');
	tm_mappings_deinit(&mappings);
}

/* ---- tasks ---- */

static void *sleep_for_ever(void *argument)
{
	for (;;)
		pause();
	return argument;
}

static void body_threads(void)
{
	pthread_t thread;

	for (int i = 0; i < 5; i++)
		pthread_create(&thread, NULL, sleep_for_ever, NULL);
}

static bool count_task(pid_t tid, void *context)
{
	cr_assert_gt(tid, 0);
	return ++*(int *)context < 100;
}

static bool count_two(pid_t tid, void *context)
{
	(void)tid;
	return ++*(int *)context < 2;
}

Test(procfs, every_task_is_visited_until_told_to_stop)
{
	int tasks = 0, two = 0;

	start(body_threads);
	cr_assert(tm_procfs_each_task(child, count_task, &tasks));
	cr_assert_eq(tasks, 6);
	cr_assert(tm_procfs_each_task(child, count_two, &two));
	cr_assert_eq(two, 2);
	cr_assert_not(tm_procfs_each_task(0x7fffffff, count_task, &tasks));
}

static bool look_for_child(pid_t pid, void *context)
{
	*(bool *)context = *(bool *)context || pid == child;
	return true;
}

Test(procfs, every_process_is_visited)
{
	bool found = false;

	start(body_nothing);
	cr_assert(tm_procfs_each_process(look_for_child, &found));
	cr_assert(found);
}

Test(procfs, forked_child_has_a_memory_of_its_own)
{
	start(body_nothing);
	cr_assert(tm_procfs_same_memory(getpid(), getpid()));
	cr_assert_not(tm_procfs_same_memory(getpid(), child));
	cr_assert_not(tm_procfs_same_memory(getpid(), 0x7fffffff));
}

Test(procfs, vfork_child_shares_the_memory)
{
	static volatile bool same;
	pid_t parent = getpid(), pid = vfork();

	if (pid == 0) {
		same = tm_procfs_same_memory(parent, getpid());
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	cr_assert(same);
}

/* ---- may it be traced? ---- */

static void expect_refused(pid_t pid, enum tm_error_code code, const char *reason)
{
	struct tm_process_info info;
	struct tm_error *err = tm_procfs_inspect(pid, &info);

	cr_assert_not_null(err, "%d may be traced", pid);
	cr_assert_eq(err->code, code, "%s", err->message);
	cr_assert_not_null(strstr(err->message, reason), "%s", err->message);
	tm_error_destroy(err);
}

Test(procfs, number_that_no_process_has_is_refused)
{
	expect_refused(0x7fffffff, TM_ERROR_NO_PROCESS, "no process");
	expect_refused(0, TM_ERROR_NO_PROCESS, "no process");
	expect_refused(-1, TM_ERROR_NO_PROCESS, "no process");
}

Test(procfs, tmtrace_itself_is_refused)
{
	expect_refused(getpid(), TM_ERROR_UNSUPPORTED, "itself");
}

Test(procfs, kernel_thread_is_refused)
{
	char comm[32];

	tm_procfs_comm(2, 2, comm);
	if (strcmp(comm, "kthreadd") != 0)
		cr_skip_test("no kernel thread in this namespace");
	expect_refused(2, TM_ERROR_UNSUPPORTED, "kernel thread");
}

Test(procfs, zombie_is_refused)
{
	start(body_nothing);
	kill(child, SIGKILL);
	await_state('Z');
	expect_refused(child, TM_ERROR_NO_PROCESS, "zombie");
}

static void *wait_for_good(void *unused)
{
	pause();
	return unused;
}

static void body_of_which_the_first_thread_ends(void)
{
	pthread_t thread;

	pthread_create(&thread, NULL, wait_for_good, NULL);
	syscall(SYS_exit, 0); /* of this thread alone */
}

Test(procfs, process_whose_first_thread_has_ended_is_no_zombie)
{
	child = fork();
	if (child == 0)
		body_of_which_the_first_thread_ends();
	await_state('Z');
	expect_refused(child, TM_ERROR_UNSUPPORTED, "first thread");
}

Test(procfs, tasks_without_memory_share_none)
{
	char comm[32];

	tm_procfs_comm(2, 2, comm);
	if (strcmp(comm, "kthreadd") != 0)
		cr_skip_test("no kernel thread in this namespace");
	start(body_nothing);
	kill(child, SIGKILL);
	await_state('Z');
	cr_assert_not(tm_procfs_same_memory(child, 2));
}

Test(procfs, traced_process_is_refused_and_its_tracer_named)
{
	char mine[32], text[64];

	start(body_nothing);
	if (ptrace(PTRACE_SEIZE, child, NULL, NULL) < 0)
		cr_skip_test("ptrace is not permitted here");
	tm_procfs_comm(getpid(), getpid(), mine);
	snprintf(text, sizeof(text), "by process %d (%s)", getpid(), mine);
	expect_refused(child, TM_ERROR_PERMISSION, text);
}

Test(procfs, process_is_described)
{
	struct tm_process_info info;
	char exe[4096] = "";

	start(body_nothing);
	check(tm_procfs_inspect(child, &info));
	cr_assert_eq(info.pid, child);
	cr_assert_eq(info.arch, tm_arch_host());
	cr_assert_gt(readlink("/proc/self/exe", exe, sizeof(exe) - 1), 0);
	cr_assert_str_eq(info.exe, exe);
	cr_assert_eq(info.command[0], '[');
	cr_assert_eq(info.command[1], '"');
	tm_process_info_deinit(&info);
	cr_assert_null(info.exe);
}

static bool take_other_task(pid_t tid, void *context)
{
	if (tid != child)
		*(pid_t *)context = tid;
	return true;
}

Test(procfs, number_of_a_thread_stands_for_its_process)
{
	struct tm_process_info info;
	pid_t tid = 0;

	start(body_threads);
	tm_procfs_each_task(child, take_other_task, &tid);
	check(tm_procfs_inspect(tid, &info));
	cr_assert_eq(info.pid, child);
	tm_process_info_deinit(&info);
}

Test(procfs, command_is_a_json_array_of_the_arguments)
{
	struct tm_process_info info;
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	child = fork();
	if (child == 0) {
		dup2(ends[0], 0);
		close(ends[1]);
		execl("/bin/cat", "cat", "-", "", "a \"quoted\" one", NULL);
		_exit(1);
	}
	char comm[32];
	do {
		sched_yield();
		tm_procfs_comm(child, child, comm);
	} while (strcmp(comm, "cat") != 0);
	await_state('S');
	check(tm_procfs_inspect(child, &info));
	cr_assert_str_eq(info.command, "[\"cat\", \"-\", \"\", \"a \\\"quoted\\\" one\"]");
	cr_assert_str_eq(info.comm, "cat");
	tm_process_info_deinit(&info);
}

Test(procfs, refusal_names_the_process_and_a_reason)
{
	start(body_nothing);
	struct tm_error *err = tm_procfs_explain_refusal(child);
	char number[32];

	snprintf(number, sizeof(number), "process %d", child);
	cr_assert_eq(err->code, TM_ERROR_PERMISSION);
	cr_assert_not_null(strstr(err->message, number), "%s", err->message);
	tm_error_destroy(err);
}

/* Run as somebody else than root's child: the reason is the user. */
Test(procfs, refusal_of_another_users_process_names_both_users)
{
	if (geteuid() != 0)
		cr_skip_test("only root can become somebody else");
	pid_t pid = getppid();
	int status;
	pid_t user = fork();
	if (user == 0) {
		if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
			_exit(2);
		struct tm_error *err = tm_procfs_explain_refusal(pid);
		_exit(strstr(err->message, "user 0") && strstr(err->message, "user 65534") ? 0 : 1);
	}
	waitpid(user, &status, 0);
	cr_assert_eq(status, 0);
}
