/* The ptrace target, live: what a stopped process gives, and that being looked at changes nothing for it. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "support/live_child.h"
#include "target/procfs.h"

#if defined(__x86_64__)
#define MARKED_REGISTER 12
#define MARKED_NAME	"r12"
#else
#define MARKED_REGISTER 20
#define MARKED_NAME	"x20"
#endif

static uint64_t address_of(const void *object)
{
	return (uint64_t)(uintptr_t)object;
}

TestSuite(ptrace, .init = live_setup, .fini = live_teardown, .timeout = 60);

/* ---- threads ---- */

static void *count_for_ever(void *argument)
{
	atomic_long *count = argument;

	for (;;)
		++*count;
	return NULL;
}

static void start_counters(void)
{
	pthread_t threads[LIVE_THREADS];

	for (int i = 0; i < LIVE_THREADS; i++)
		pthread_create(&threads[i], NULL, count_for_ever, &live.shared->count[i]);
	live.shared->ready = 1;
}

static void body_counters(void)
{
	start_counters();
	for (;;)
		pause();
}

static void read_counters(long counts[LIVE_THREADS])
{
	for (int i = 0; i < LIVE_THREADS; i++)
		counts[i] = live.shared->count[i];
}

/* Every thread is given the CPU again and again: none that could run would stand still. */
static bool counters_rest(void)
{
	long before[LIVE_THREADS], after[LIVE_THREADS];

	read_counters(before);
	for (int i = 0; i < 2000; i++)
		sched_yield();
	read_counters(after);
	return memcmp(before, after, sizeof(before)) == 0;
}

static void await_counters(void)
{
	long before[LIVE_THREADS];

	read_counters(before);
	for (int i = 0; i < LIVE_THREADS; i++)
		while (live.shared->count[i] == before[i])
			sched_yield();
}

Test(ptrace, attach_stops_all_threads_and_detach_lets_them_run)
{
	live_start(body_counters);
	live_await(&live.shared->ready, 1);
	live_attach(true);
	cr_assert_eq(live.target->threads.count, LIVE_THREADS + 1);
	cr_assert(counters_rest());
	live_leave();
	await_counters();
}

Test(ptrace, stop_all_and_resume_all_reach_every_thread)
{
	live_start(body_counters);
	live_await(&live.shared->ready, 1);
	live_attach(true);
	for (int i = 0; i < 20; i++) {
		live_resume_all();
		await_counters();
		live_check(tm_target_stop_all(live.target, 5000));
		cr_assert(counters_rest());
		cr_assert_eq(sched_getscheduler(0), SCHED_OTHER, "it is so but for the moment");
	}
}

/* As they have it where tmtrace itself was started so: nothing is changed. */
Test(ptrace, a_policy_of_the_users_own_is_kept)
{
	const struct sched_param none = {0};

	live_start(body_counters);
	live_await(&live.shared->ready, 1);
	cr_assert_eq(sched_setscheduler(0, SCHED_BATCH, &none), 0);
	live_attach(true);
	live_resume_all();
	await_counters();
	cr_expect_eq(sched_getscheduler(0), SCHED_BATCH);
	live_leave();
	cr_expect_eq(sched_getscheduler(0), SCHED_BATCH);
}

static void *end_at_once(void *argument)
{
	return argument;
}

static void *bear_for_ever(void *argument)
{
	pthread_t thread;

	for (;;) {
		if (pthread_create(&thread, NULL, end_at_once, NULL) == 0)
			pthread_join(thread, NULL);
		++*(atomic_long *)argument;
	}
	return NULL;
}

static void body_births(void)
{
	pthread_t threads[LIVE_THREADS];

	for (int i = 0; i < LIVE_THREADS; i++)
		pthread_create(&threads[i], NULL, bear_for_ever, &live.shared->count[i]);
	live.shared->ready = 1;
	for (;;)
		pause();
}

/* On its way out of the kernel: it executes nothing of its own any more, whatever its state is. Flags are
   field 9 of stat (proc(5)), PF_EXITING is include/linux/sched.h's. */
static bool is_exiting(pid_t tid)
{
	char path[64], line[512] = "", *behind_name;
	unsigned flags = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", live.pid, tid);
	file = fopen(path, "re");
	if (!file)
		return true;
	if (!fgets(line, sizeof(line), file))
		line[0] = '\0';
	fclose(file);
	behind_name = strrchr(line, ')');
	if (!behind_name || sscanf(behind_name, ") %*c %*d %*d %*d %*d %*d %u", &flags) != 1)
		return true;
	return flags & 0x4;
}

static bool is_known_and_stopped(pid_t tid, void *context)
{
	struct tm_thread *thread = tm_target_thread(live.target, tid);
	char state = tm_procfs_state(live.pid, tid);

	(void)context;
	if (!state || strchr("ZX", state) || is_exiting(tid))
		return true;
	cr_assert_not_null(thread, "task %d (%c) is not known", tid, state);
	cr_assert_eq(state, 't', "task %d is in state %c", tid, state);
	return true;
}

Test(ptrace, threads_that_are_born_and_die_meanwhile_are_stopped_too)
{
	struct tm_stop stop;

	live_start(body_births);
	live_await(&live.shared->ready, 1);
	live_attach(true);
	for (int i = 0; i < 200; i++) {
		tm_procfs_each_task(live.pid, is_known_and_stopped, NULL);
		live_resume_all();
		for (int j = 0; j < 20; j++) {
			live_check(tm_target_wait(live.target, &stop));
			live_handle(&stop);
		}
		live_check(tm_target_stop_all(live.target, 5000));
	}
	cr_assert_gt(live.births, 100);
	live_leave();
	await_counters();
}

Test(ptrace, attach_to_a_process_that_bears_threads_all_the_time)
{
	live_start(body_births);
	live_await(&live.shared->ready, 1);
	for (int i = 0; i < 100; i++) {
		live_attach(false);
		tm_procfs_each_task(live.pid, is_known_and_stopped, NULL);
		live_leave();
	}
	await_counters();
}

static void *outlive_the_leader(void *argument)
{
	pthread_join(*(pthread_t *)argument, NULL);
	live.shared->ready = 1;
	live_await(&live.shared->go, 1);
	live.shared->result = (int)live_short(41);
	live.shared->done = 1;
	live_await(&live.shared->go, 2);
	_exit(7);
}

static void body_without_leader(void)
{
	static pthread_t leader;
	pthread_t thread;

	leader = pthread_self();
	pthread_create(&thread, NULL, outlive_the_leader, &leader);
	live.shared->pid = getpid();
	live_await(&live.shared->signals, 1);
	pthread_exit(NULL);
}

Test(ptrace, process_whose_leader_has_ended_is_still_all_there)
{
	struct tm_mappings mappings = {0};
	const atomic_int *ready = &live.shared->ready;

	live_start(body_without_leader);
	live_await(&live.shared->pid, 1);
	live_attach(true);
	live_resume_all();
	live.shared->signals = 1;
	live_run_until(ready, 1);
	live_check(tm_target_stop_all(live.target, 5000));
	cr_assert_eq(tm_procfs_state(live.pid, live.pid), 'Z');
	live_check(tm_target_mappings(live.target, &mappings));
	cr_assert_not_null(tm_mappings_find(&mappings, live_code(live_short)));
	tm_mappings_deinit(&mappings);
	live_insert(live_code(live_short)); /* maps a pad: by the thread that is left */
	cr_assert_eq(tm_breakpoints_count_in_place(live.breakpoints), 0);
	live_resume_all();
	live.shared->go = 1;
	live_run_until(&live.shared->done, 1);
	cr_assert_eq(live.shared->result, 42);
	cr_assert_eq(live.hits, 1);
	live.shared->go = 2;
	live_run_to_end();
	cr_assert_eq(WEXITSTATUS(live.wait_status), 7);
}

/* ---- registers and memory ---- */

static void body_pause(void)
{
	live.shared->ready = 1;
	for (;;)
		pause();
}

static struct tm_thread *attach_to_sleeper(void (*body)(void))
{
	live_start(body);
	live_await(&live.shared->ready, 1);
	live_await_state('S');
	live_attach(true);
	return tm_target_thread(live.target, live.pid);
}

static void body_marked_register(void)
{
	register uint64_t mark __asm__(MARKED_NAME) = 0x123456789;

	live.shared->ready = 1;
	do
		__asm__ volatile("" : "+r"(mark));
	while (mark == 0x123456789);
	live.shared->result = (int)(mark & 0xffff);
	live.shared->done = 1;
}

Test(ptrace, registers_are_read_and_written)
{
	live_start(body_marked_register);
	live_await(&live.shared->ready, 1);
	live_attach(false);
	struct tm_thread *thread = tm_target_thread(live.target, live.pid);
	live_check(tm_target_fetch_regs(live.target, thread));
	cr_assert_eq(thread->regs.value[MARKED_REGISTER], 0x123456789);
	thread->regs.value[MARKED_REGISTER] = 10007;
	live_check(tm_target_store_regs(live.target, thread));
	live_leave();
	cr_assert_eq(live_await_end(), 0);
	cr_assert_eq(live.shared->result, 10007);
}

Test(ptrace, memory_is_read_and_written_whatever_its_protection)
{
	static const char constant[] = "constant";
	char bytes[sizeof(constant)];

	attach_to_sleeper(body_pause);
	live_check(tm_target_read(live.target, address_of(constant), bytes, sizeof(bytes)));
	cr_assert_str_eq(bytes, "constant");
	live_check(tm_target_write(live.target, address_of(constant), "Changed!", 8));
	live_check(tm_target_read(live.target, address_of(constant), bytes, sizeof(bytes)));
	cr_assert_str_eq(bytes, "Changed!");
	cr_assert_str_eq(constant, "constant", "the test has its own copy");
}

Test(ptrace, memory_that_is_not_there_is_an_error_that_names_it)
{
	char byte;

	attach_to_sleeper(body_pause);
	struct tm_error *err = tm_target_read(live.target, 0x40, &byte, 1);
	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_NO_MEMORY);
	cr_assert_not_null(strstr(err->message, "0x40"), "%s", err->message);
	tm_error_destroy(err);
	err = tm_target_write(live.target, 0x40, "x", 1);
	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_NO_MEMORY);
	tm_error_destroy(err);
}

Test(ptrace, read_some_stops_where_memory_ends)
{
	static char buffer[3 * 4096];
	char *pages = mmap(NULL, sizeof(buffer), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(pages, MAP_FAILED);
	munmap(pages + 8192, 4096);
	memset(pages, 'p', 8192);
	attach_to_sleeper(body_pause);
	cr_assert_eq(tm_target_read_some(live.target, address_of(pages) + 100, buffer, sizeof(buffer)),
		     8192 - 100);
	cr_assert_eq(buffer[8091], 'p');
	cr_assert_eq(tm_target_read_some(live.target, address_of(pages) + 8192, buffer, 100), 0);
}

/* ---- system calls in the target ---- */

Test(ptrace, injected_system_call_returns_its_result_and_leaves_the_registers)
{
	struct tm_thread *thread = attach_to_sleeper(body_pause);

	live_check(tm_target_fetch_regs(live.target, thread));
	struct tm_regs before = thread->regs;
	cr_assert_eq(live_system_call(SYS_getpid, 0, 0, 0), live.pid);
	cr_assert_eq(live_system_call(SYS_close, 12345, 0, 0), -EBADF);
	thread->regs_valid = false;
	live_check(tm_target_fetch_regs(live.target, thread));
	cr_assert_arr_eq(&thread->regs, &before, sizeof(before));
}

/* ---- the memory map, which is kept while all stand still ---- */

/* Maps a page, and unmaps it when told to. */
static void body_maps(void)
{
	void *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	live.shared->count[0] = (long)address_of(page);
	live.shared->ready = 1;
	live_await(&live.shared->go, 1);
	munmap(page, 4096);
	live.shared->done = 1;
	live_await(&live.shared->go, 2);
}

static uint64_t attach_to_mapper(void)
{
	live_start(body_maps);
	live_await(&live.shared->ready, 1);
	live_attach(false);
	return (uint64_t)live.shared->count[0];
}

static bool is_mapped(uint64_t address)
{
	struct tm_mappings mappings = {0};
	bool found;

	live_check(tm_target_mappings(live.target, &mappings));
	found = tm_mappings_find(&mappings, address);
	tm_mappings_deinit(&mappings);
	return found;
}

Test(ptrace, the_memory_map_shows_what_a_call_of_ours_has_changed)
{
	uint64_t page = attach_to_mapper();

	for (int i = 0; i < 2; i++)
		cr_assert(is_mapped(page));
	cr_assert_eq(live_system_call(SYS_munmap, page, 4096, 0), 0);
	for (int i = 0; i < 2; i++)
		cr_assert_not(is_mapped(page));
}

Test(ptrace, the_memory_map_shows_what_the_process_has_changed)
{
	uint64_t page = attach_to_mapper();

	cr_assert(is_mapped(page));
	live_resume_all();
	cr_assert(is_mapped(page));
	live.shared->go = 1;
	live_run_until(&live.shared->done, 1);
	cr_assert_not(is_mapped(page), "while it runs");
	live_check(tm_target_stop_all(live.target, 3000));
	cr_assert_not(is_mapped(page), "and while it stands still");
	live_resume_all();
	live.shared->go = 2;
	live_run_to_end();
}

Test(ptrace, injected_system_calls_leave_running_code_alone)
{
	live_start(body_counters);
	live_await(&live.shared->ready, 1);
	live_attach(false);
	for (int i = 0; i < 100; i++) {
		cr_assert_eq(live_system_call(SYS_getpid, 0, 0, 0), live.pid);
		live_resume_all();
		await_counters();
		live_check(tm_target_stop_all(live.target, 5000));
	}
	live_leave();
	await_counters();
}

static void disturb(void)
{
	cr_assert_eq(live_system_call(SYS_getpid, 0, 0, 0), live.pid);
	cr_assert_eq(live_system_call(SYS_getpid, 0, 0, 0), live.pid);
	live_leave();
}

static void body_sleep(void)
{
	struct timespec wanted = {0, 300000000}, begin, end;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	live.shared->ready = 1;
	live.shared->result = nanosleep(&wanted, NULL);
	clock_gettime(CLOCK_MONOTONIC, &end);
	live.shared->count[0] = (end.tv_sec - begin.tv_sec) * 1000000000L + end.tv_nsec - begin.tv_nsec;
}

Test(ptrace, nanosleep_that_was_interrupted_sleeps_its_whole_time)
{
	live.shared->result = -1;
	attach_to_sleeper(body_sleep);
	disturb();
	cr_assert_eq(live_await_end(), 0);
	cr_assert_eq(live.shared->result, 0);
	cr_assert_geq(live.shared->count[0], 300000000);
}

static int ends[2];

static void body_read(void)
{
	char byte;

	live.shared->ready = 1;
	live.shared->result = (int)read(ends[0], &byte, 1);
	live.shared->error = errno;
}

Test(ptrace, read_that_was_interrupted_goes_on)
{
	cr_assert_eq(pipe(ends), 0);
	live.shared->result = -1;
	attach_to_sleeper(body_read);
	disturb();
	cr_assert_eq(write(ends[1], "x", 1), 1);
	cr_assert_eq(live_await_end(), 0);
	cr_assert_eq(live.shared->result, 1, "errno %d", live.shared->error);
}

static void note_signal(int signal)
{
	(void)signal;
	live.shared->signals++;
}

/* The mask that ppoll(2) lifts for its time is in the kernel's hands. */
static void body_ppoll(void)
{
	struct pollfd fd = {.fd = ends[0], .events = POLLIN};
	sigset_t blocked, none;

	signal(SIGUSR1, note_signal);
	sigemptyset(&none);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR1);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	live.shared->ready = 1;
	live.shared->result = ppoll(&fd, 1, NULL, &none);
	live.shared->error = errno;
	sigprocmask(SIG_BLOCK, NULL, &none);
	live.shared->done = sigismember(&none, SIGUSR1);
}

Test(ptrace, ppoll_that_was_interrupted_keeps_both_signal_masks)
{
	cr_assert_eq(pipe(ends), 0);
	attach_to_sleeper(body_ppoll);
	disturb();
	live_await_state('S');
	kill(live.pid, SIGUSR1); /* lifted meanwhile */
	cr_assert_eq(live_await_end(), 0);
	cr_assert_eq(live.shared->result, -1);
	cr_assert_eq(live.shared->error, EINTR);
	cr_assert_eq(live.shared->signals, 1);
	cr_assert_eq(live.shared->done, 1, "blocked again after it");
}

static void body_filtered(void)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = {1, &allow};

	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	live.shared->result = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
	body_pause();
}

Test(ptrace, thread_with_a_seccomp_filter_runs_no_system_call_of_ours)
{
	const uint64_t arguments[6] = {0};
	int64_t result;

	live_start(body_filtered);
	live_await(&live.shared->ready, 1);
	if (live.shared->result < 0)
		cr_skip_test("no seccomp filters here");
	live_attach(true);
	struct tm_error *err = tm_target_system_call(live.target, NULL, SYS_getpid, arguments, &result);
	cr_assert_not_null(err);
	cr_assert_eq(err->code, TM_ERROR_UNSUPPORTED);
	cr_assert_not_null(strstr(err->message, "seccomp"), "%s", err->message);
	tm_error_destroy(err);
	live_insert(live_code(live_short));
	cr_assert_eq(tm_breakpoints_count_in_place(live.breakpoints), 1);
}

/* ---- signals ---- */

Test(ptrace, group_stop_is_kept_under_trace_and_after_it)
{
	live_start(body_counters);
	live_await(&live.shared->ready, 1);
	kill(live.pid, SIGSTOP);
	live_await_state('T');
	live_attach(true);
	cr_assert_eq(live_system_call(SYS_getpid, 0, 0, 0), live.pid);
	live_resume_all();
	cr_assert(counters_rest());
	live_check(tm_target_stop_all(live.target, 5000));
	live_resume_all();
	cr_assert(counters_rest());
	live_leave();
	live_await_state('T');
	cr_assert(counters_rest());
	kill(live.pid, SIGCONT);
	await_counters();
}

/* One wait: a stop, or a beat of the heart that ends it. */
static void handle_once(void)
{
	struct tm_stop stop;

	live_check(tm_target_wait(live.target, &stop));
	live_handle(&stop);
}

static bool all_counted_on(const long *before)
{
	for (int i = 0; i < LIVE_THREADS; i++)
		if (live.shared->count[i] == before[i])
			return false;
	return true;
}

/* However late the stops come on a busy machine: what is waited for is what the threads do. */
Test(ptrace, stop_and_continue_work_under_trace)
{
	long before[LIVE_THREADS];

	live_start(body_counters);
	live_await(&live.shared->ready, 1);
	live_attach(true);
	live_resume_all();
	for (int i = 0; i < 10; i++) {
		kill(live.pid, SIGSTOP);
		do {
			handle_once();
		} while (!counters_rest());
		read_counters(before);
		kill(live.pid, SIGCONT);
		do {
			handle_once();
		} while (!all_counted_on(before));
	}
}

static void body_signals(void)
{
	signal(SIGTRAP, note_signal);
	signal(SIGUSR1, note_signal);
	live.shared->ready = 1;
	live_await(&live.shared->go, 1);
#if defined(__x86_64__)
	__asm__ volatile("int3");
#else
	__asm__ volatile("brk #0");
#endif
	live.shared->done = 1;
	live_await(&live.shared->go, 2);
}

Test(ptrace, signals_of_others_are_delivered_and_counted)
{
	live_start(body_signals);
	live_await(&live.shared->ready, 1);
	live_attach(true);
	live_insert(live_code(live_short));
	live_resume_all();
	struct tm_thread *thread = tm_target_thread(live.target, live.pid);
	kill(live.pid, SIGUSR1);
	live_run_until(&live.shared->signals, 1);
	kill(live.pid, SIGTRAP);
	live_run_until(&live.shared->signals, 2);
	cr_assert_eq(thread->signal_count, 2);
	cr_assert_eq(live.hits, 0);
}

static bool a_stop_is_pending(void)
{
	sigset_t pending;

	sigpending(&pending);
	return sigismember(&pending, SIGCHLD);
}

/* A signal of the program's own, which stands still for us meanwhile. */
static void expect_stops_to_end_pauses(uint32_t *asleep)
{
	live_start(body_signals);
	live_await(&live.shared->ready, 1);
	live_attach(true);
	live_resume_all();
	while (a_stop_is_pending())
		tm_target_pause(live.target, 1, asleep);
	kill(live.pid, SIGUSR1);
	live_await_state('t');
	while (!a_stop_is_pending()) /* so that none is slept over; it stands before it tells */
		sched_yield();
	tm_target_pause(live.target, 999999999, asleep);
	cr_assert_not(a_stop_is_pending());
	cr_assert_eq(live.shared->signals, 0);
	live_run_until(&live.shared->signals, 1);
}

Test(ptrace, a_pause_ends_where_a_thread_stops)
{
	expect_stops_to_end_pauses(NULL);
}

Test(ptrace, a_pause_that_others_may_end_ends_where_a_thread_stops)
{
	expect_stops_to_end_pauses(&live.shared->asleep);
	cr_assert_eq(live.shared->asleep, 0);
}

#define ROUNDS 200

static void body_stops_and_wakes(void)
{
	for (int round = 1; round <= ROUNDS; round++) {
		live_await(&live.shared->go, round);
		while (!__atomic_exchange_n(&live.shared->asleep, 0, __ATOMIC_SEQ_CST))
			sched_yield();
		if (round % 2)
			raise(SIGURG);
		syscall(SYS_futex, &live.shared->asleep, FUTEX_WAKE, 1);
		live.shared->done = round;
	}
}

#define LONG_PAUSE_NS 999999999

static void poll_and_handle(void)
{
	struct tm_stop stop;

	live_check(tm_target_poll(live.target, &stop));
	live_handle(&stop);
}

/* Or a thread stops just then. A pause that nobody ends is so long that it is seen. */
Test(ptrace, a_pause_ends_where_somebody_makes_its_word_0)
{
	unsigned slept_over = 0;

	live_start(body_stops_and_wakes);
	live_attach(true);
	live_resume_all();
	for (int round = 1; round <= ROUNDS; round++) {
		live.shared->go = round;
		while (live.shared->done < round) {
			uint64_t begin = tm_monotonic_ns();

			tm_target_pause(live.target, LONG_PAUSE_NS, &live.shared->asleep);
			slept_over += tm_monotonic_ns() - begin >= LONG_PAUSE_NS;
			poll_and_handle();
		}
	}
	cr_expect_lt(slept_over, ROUNDS / 20);
}

#if defined(__x86_64__)
Test(ptrace, breakpoint_instruction_of_the_programs_own_is_its_own)
{
	live_start(body_signals);
	live_await(&live.shared->ready, 1);
	live_attach(true);
	live_insert(live_code(live_short));
	live_resume_all();
	live.shared->go = 1;
	live_run_until(&live.shared->done, 1);
	cr_assert_eq(live.shared->signals, 1);
	cr_assert_eq(live.hits, 0);
	live.shared->go = 2;
	live_run_to_end();
	cr_assert_eq(live.wait_status, 0);
}
#endif
