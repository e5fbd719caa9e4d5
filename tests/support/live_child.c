#include "support/live_child.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "target/procfs.h"

#define STOP_TIMEOUT_MS 5000

struct live live;

/* clang-format off */
#define LABEL(name) "\t.globl " name "\n\t.type " name ", %function\n" name ":\n"
#if defined(__x86_64__)
__asm__("\t.text\n"
	LABEL("live_short") "\tpush %rbp\n\tmov %rsp, %rbp\n\tlea 1(%rdi), %rax\n\tpop %rbp\n"
	LABEL("live_short_return") "\tret\n"
	LABEL("live_long") "\tlea 1(%rdi), %rax\n\tret\n");
#else
__asm__("\t.text\n"
	LABEL("live_short") "\tadd x0, x0, #1\n"
	LABEL("live_short_return") "\tret\n"
	LABEL("live_long") "\tadd x0, x0, #1\n\tret\n");
#endif
/* clang-format on */

void live_check(struct tm_error *err)
{
	cr_assert_null(err, "%s", err ? err->message : "");
}

/* ---- the suite ---- */

static void skip_without_ptrace(void)
{
	pid_t pid = fork();

	if (pid == 0)
		for (;;)
			pause();
	long seized = ptrace(PTRACE_SEIZE, pid, NULL, NULL);
	int reason = errno;

	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (seized < 0)
		cr_skip_test("ptrace is not permitted here: %s", strerror(reason));
}

static void wake_up(int signal)
{
	(void)signal;
}

/* tm_target_wait returns now and then, so that what the child says is seen. */
static void set_heartbeat(void)
{
	struct itimerval interval = {{0, 5000}, {0, 5000}};
	struct sigaction action = {.sa_handler = wake_up};

	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &interval, NULL);
}

void live_setup(void)
{
	skip_without_ptrace();
	live = (struct live){.shared = mmap(NULL, sizeof(*live.shared), PROT_READ | PROT_WRITE,
					    MAP_SHARED | MAP_ANONYMOUS, -1, 0)};
	cr_assert_neq(live.shared, MAP_FAILED);
	live.shared->tester = getpid();
	set_heartbeat();
}

void live_forget_target(void)
{
	tm_target_destroy(live.target);
	tm_breakpoints_destroy(live.breakpoints);
	tm_pads_destroy(live.pads);
	live.target = NULL;
	live.breakpoints = NULL;
	live.pads = NULL;
}

void live_teardown(void)
{
	live_forget_target();
	if (live.pid && !live.ended) {
		kill(live.pid, SIGKILL);
		waitpid(live.pid, NULL, __WALL);
	}
	munmap(live.shared, sizeof(*live.shared));
}

/* ---- the child ---- */

void live_start(void (*body)(void))
{
	live.pid = fork();
	cr_assert_geq(live.pid, 0);
	if (live.pid)
		return;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	body();
	_exit(0);
}

void live_await(const atomic_int *word, int at_least)
{
	while (*word < at_least)
		sched_yield();
}

void live_await_state(char state)
{
	while (tm_procfs_state(live.pid, live.pid) != state)
		sched_yield();
}

int live_await_end(void)
{
	int status = -1;

	while (waitpid(live.pid, &status, 0) < 0 && errno == EINTR)
		;
	live.pid = 0;
	return status;
}

/* ---- under trace ---- */

void live_assemble(bool with_pads)
{
	if (with_pads) {
		live_check(tm_pads_create(live.target, &live.pads));
		live_check(tm_pads_adopt(live.pads));
	}
	live_check(tm_breakpoints_create(live.target, live.pads, &live.breakpoints));
	live.target->breakpoints = live.breakpoints;
}

void live_attach(bool with_pads)
{
	bool replaced;

	live_check(tm_ptrace_attach(live.pid, tm_arch_host(), &live.target));
	live_check(tm_ptrace_begin(live.target, &replaced));
	cr_assert_not(replaced);
	live_assemble(with_pads);
}

void live_insert(uint64_t address)
{
	live_check(tm_breakpoint_insert(live.breakpoints, address));
}

void live_resume_all(void)
{
	live_check(tm_target_resume_all(live.target, NULL));
}

static void handle_fork(pid_t child)
{
	live.forks++;
	live_check(tm_breakpoints_scrub_child(live.breakpoints, child));
	live_check(live.target->ops->release_child(live.target, child));
}

static void handle_exec(struct tm_thread *thread)
{
	live.execs++;
	tm_breakpoints_forget_all(live.breakpoints);
	if (live.pads)
		tm_pads_forget_all(live.pads);
	live_check(tm_target_resume(live.target, thread));
}

void live_handle(const struct tm_stop *stop)
{
	switch (stop->kind) {
	case TM_STOP_NONE:
		break;
	case TM_STOP_BREAKPOINT:
		live.hits++;
		live.peer_hits += stop->thread->tgid != live.target->pid;
		live_check(tm_breakpoint_resume(live.breakpoints, stop->thread));
		break;
	case TM_STOP_BIRTH:
		live.births++;
		live_check(tm_target_resume(live.target, stop->thread));
		break;
	case TM_STOP_FORK:
		handle_fork(stop->child);
		break;
	case TM_STOP_EXEC:
		handle_exec(stop->thread);
		break;
	case TM_STOP_EXIT:
		live.ended = true;
		live.wait_status = stop->wait_status;
		break;
	}
}

void live_run_until(const atomic_int *word, int at_least)
{
	struct tm_stop stop;

	while (!live.ended && *word < at_least) {
		live_check(tm_target_wait(live.target, &stop));
		live_handle(&stop);
	}
}

void live_run_to_end(void)
{
	const atomic_int never = 0;

	live_run_until(&never, 1);
}

void live_leave(void)
{
	struct tm_stop stop;
	size_t foreign;

	live_check(tm_target_stop_all(live.target, STOP_TIMEOUT_MS));
	while (tm_target_next_queued(live.target, &stop))
		if (stop.kind == TM_STOP_FORK || stop.kind == TM_STOP_EXIT)
			live_handle(&stop);
	live_check(tm_breakpoints_remove_all(live.breakpoints, &foreign));
	cr_assert_eq(foreign, 0);
	live_check(tm_target_detach(live.target));
	live_forget_target();
}

int64_t live_system_call(long number, uint64_t a, uint64_t b, uint64_t c)
{
	const uint64_t arguments[6] = {a, b, c};
	int64_t result = -1;

	live_check(tm_target_system_call(live.target, NULL, number, arguments, &result));
	return result;
}
