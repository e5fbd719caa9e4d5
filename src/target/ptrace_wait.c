/*
 * What a wait status means: the one place where the kernel's stops (ptrace(2), "Stopped states") become ours.
 * Signals, group stops and births of processes that do not concern us are dealt with here and never reported.
 */
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "target/breakpoint.h"
#include "target/procfs.h"
#include "target/ptrace_internal.h"

/* How a status is read: while running, threads go on by themselves; while all are to stop, they stay. */
enum mode { MODE_RUN, MODE_STOP_ALL };

enum outcome {
	OUTCOME_NOTHING, /* dealt with */
	OUTCOME_REPORT,	 /* *stop is filled in */
};

bool tm_ptrace_is_stop_signal(int signal)
{
	return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

/* Notes one half of a birth. All threads stand still only when the other half has been seen too. */
static void note_birth(struct tm_ptrace *pt, pid_t tid, uint64_t half)
{
	const uint64_t *other = tm_map_get(&pt->unpaired, (uint64_t)tid);

	if (!other) {
		pt->expected += half == TM_BIRTH_EXPECTED;
		tm_map_put(&pt->unpaired, (uint64_t)tid, half);
	} else if (*other != half) {
		pt->expected -= *other == TM_BIRTH_EXPECTED;
		tm_map_remove(&pt->unpaired, (uint64_t)tid);
	}
}

/* A task that has ended will not be seen to begin. (If it was, its creator's event is still to come.) */
static void forget_birth(struct tm_ptrace *pt, pid_t tid)
{
	const uint64_t *half = tm_map_get(&pt->unpaired, (uint64_t)tid);

	if (!half || *half != TM_BIRTH_EXPECTED)
		return;
	pt->expected--;
	tm_map_remove(&pt->unpaired, (uint64_t)tid);
}

/* A task that was killed at birth may have been waited for before this: it is not there any more, and not to
 * be waited for again. */
static void birth_event(struct tm_ptrace *pt, const struct tm_thread *thread)
{
	unsigned long tid;

	if (ptrace(PTRACE_GETEVENTMSG, thread->tid, NULL, &tid) < 0 ||
	    !tm_procfs_state((pid_t)tid, (pid_t)tid))
		return;
	note_birth(pt, (pid_t)tid, TM_BIRTH_EXPECTED);
	tm_ptrace_widen_new_task(pt, thread, (pid_t)tid);
}

#define AWAKE_NS      200000u
#define LONG_YIELD_NS 200000u
#define CROWDED_NS    100000000u

/* A CPU that goes to sleep must be woken, which costs more than the stop that is waited for; so ours does not
   sleep. But where others want it, it would come back from a yield a time slice later. False: that was seen.
 */
static bool stay_awake(struct tm_ptrace *pt)
{
	uint64_t begin = tm_monotonic_ns(), now;

	if (begin < pt->crowded_until_ns)
		return false;
	sched_yield();
	now = tm_monotonic_ns();
	if (now - begin > LONG_YIELD_NS)
		pt->crowded_until_ns = now + CROWDED_NS;
	return true;
}

static pid_t wait_awake(struct tm_ptrace *pt, pid_t tid, int *status)
{
	uint64_t begin = tm_monotonic_ns();
	pid_t got;

	do
		got = waitpid(tid, status, __WALL | WNOHANG);
	while (got == 0 && tm_monotonic_ns() - begin < AWAKE_NS && stay_awake(pt));
	return got;
}

/* waitpid(2) for one task, whatever signals come to this program. */
/* Where the task runs on our CPU it needs it (ptrace_cpu.c). */
static pid_t wait_for(struct tm_ptrace *pt, pid_t tid, int *status)
{
	pid_t got = pt->cpu < 0 ? wait_awake(pt, tid, status) : 0;

	if (got)
		return got;

	do {
		got = waitpid(tid, status, __WALL);
	} while (got < 0 && errno == EINTR);
	return got;
}

/* Lets go of a stopped task of another process, without our breakpoints in its memory. */
static void release_cleaned(struct tm_ptrace *pt, pid_t tid)
{
	if (pt->base.breakpoints)
		tm_error_destroy(tm_breakpoints_scrub_child(pt->base.breakpoints, tid));
	ptrace(PTRACE_DETACH, tid, NULL, NULL);
}

/* Children that the target had just made when it went: they are born with our breakpoints (a daemon's start:
   fork, and the parent ends at once). */
static void release_unborn(struct tm_ptrace *pt)
{
	uint64_t tid, half;
	int status;

	for (size_t i = 0; pt->expected && tm_map_next(&pt->unpaired, &i, &tid, &half);) {
		if (half != TM_BIRTH_EXPECTED)
			continue;
		if (wait_for(pt, (pid_t)tid, &status) == (pid_t)tid && WIFSTOPPED(status))
			release_cleaned(pt, (pid_t)tid);
		forget_birth(pt, (pid_t)tid);
		i = 0;
	}
}

static void release_peers(struct tm_ptrace *pt);

static enum outcome thread_ended(struct tm_ptrace *pt, pid_t tid, int status, struct tm_stop *stop)
{
	struct tm_thread *thread = tm_target_thread(&pt->base, tid);

	if (thread)
		tm_target_remove_thread(&pt->base, thread);
	forget_birth(pt, tid);
	if (tid != pt->base.pid)
		return OUTCOME_NOTHING;
	/* A group's leader is reported last, when every thread of the group has ended. */
	pt->base.exited = true;
	release_unborn(pt);
	release_peers(pt);
	*stop = (struct tm_stop){.kind = TM_STOP_EXIT, .wait_status = status};
	return OUTCOME_REPORT;
}

/* Asked of a few threads, for a process may go on without its first one, and that has no memory any more. */
static bool shares_our_memory(const struct tm_ptrace *pt, pid_t tid)
{
	const struct tm_thread *thread;
	unsigned asked = 0;

	for (size_t i = 0; asked < 4 && (thread = tm_target_next_thread(&pt->base, &i)); asked++)
		if (tm_procfs_same_memory(thread->tid, tid))
			return true;
	return false;
}

/* The first stop of a task that a traced one created. */
static enum outcome task_born(struct tm_ptrace *pt, pid_t tid, int status, struct tm_stop *stop)
{
	struct tm_thread *thread;
	uint64_t tgid = (uint64_t)tid;

	note_birth(pt, tid, TM_BIRTH_EARLY);
	tm_procfs_status_number(tid, tid, "Tgid", 10, &tgid);
	if ((pid_t)tgid != pt->base.pid && !shares_our_memory(pt, tid)) {
		tm_vector_push(&pt->children, tid);
		*stop = (struct tm_stop){.kind = TM_STOP_FORK, .child = tid};
		return OUTCOME_REPORT;
	}
	thread = tm_target_add_thread(&pt->base, tid, (pid_t)tgid);
	if (!thread) {
		ptrace(PTRACE_DETACH, tid, NULL, NULL);
		return OUTCOME_NOTHING;
	}
	thread->state = TM_THREAD_STOPPED;
	if (status >> 16 == PTRACE_EVENT_STOP && tm_ptrace_is_stop_signal(WSTOPSIG(status)))
		thread->backend |= THREAD_GROUP_STOP;
	*stop = (struct tm_stop){.kind = TM_STOP_BIRTH, .thread = thread};
	return OUTCOME_REPORT;
}

static void remove_group(struct tm_ptrace *pt, pid_t tgid, const struct tm_thread *except)
{
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(&pt->base, &i));) {
		if (thread->tgid != tgid || thread == except)
			continue;
		tm_target_remove_thread(&pt->base, thread);
		i = 0;
	}
}

/* Stops that nobody has seen yet are void with the old image; forked children still have its breakpoints. */
static void settle_queue(struct tm_ptrace *pt)
{
	for (size_t i = 0; i < pt->queued.count; i++) {
		const struct tm_stop *stop = &pt->queued.items[i];

		if (stop->kind == TM_STOP_FORK)
			release_cleaned(pt, stop->child);
	}
	pt->queued.count = 0;
	pt->children.count = 0;
}

/* A task has a new image. A vfork child that execs leaves our memory and us; the target itself starts anew.
 */
static enum outcome image_replaced(struct tm_ptrace *pt, struct tm_thread *thread, pid_t tid,
				   struct tm_stop *stop)
{
	if (tid != pt->base.pid) {
		ptrace(PTRACE_DETACH, tid, NULL, NULL);
		remove_group(pt, tid, NULL);
		return OUTCOME_NOTHING;
	}
	/* Whichever thread called execve, it now has the leader's number (ptrace(2), "execve(2) under
	 * ptrace"). */
	release_unborn(pt);
	release_peers(pt);
	remove_group(pt, tid, thread);
	settle_queue(pt);
	pt->base.image++;
	tm_error_destroy(tm_ptrace_open_memory(pt));
	thread->backend = THREAD_IN_CALL;
	thread->signal = 0;
	*stop = (struct tm_stop){.kind = TM_STOP_EXEC, .thread = thread};
	return OUTCOME_REPORT;
}

/* The breakpoint of ours that the thread stands right behind, and its address; NULL: none. */
static const struct tm_breakpoint *breakpoint_behind(struct tm_ptrace *pt, struct tm_thread *thread,
						     uint64_t *address)
{
	const struct tm_arch *arch = pt->base.arch;
	struct tm_error *err;

	if (!pt->base.breakpoints)
		return NULL;
	err = tm_ptrace_fetch_regs(&pt->base, thread);
	if (err) {
		tm_error_destroy(err);
		return NULL;
	}
	*address = thread->regs.value[arch->pc] - arch->breakpoint_pc_after;
	return tm_breakpoint_find(pt->base.breakpoints, *address);
}

/* Does the thread stand there because of it? */
static bool at_breakpoint(struct tm_ptrace *pt, struct tm_thread *thread, uint64_t *address)
{
	const struct tm_arch *arch = pt->base.arch;
	const struct tm_breakpoint *breakpoint = breakpoint_behind(pt, thread, address);

	if (!breakpoint)
		return false;
	/* Somebody's own SIGTRAP while pc happens to stand there: possible only where an instruction begins
	   right behind the breakpoint instruction. Else the question can be spared. */
	if (arch->breakpoint_pc_after && breakpoint->pad &&
	    breakpoint->relocated.consumed > arch->breakpoint_size)
		return true;
	return tm_ptrace_trap_is_breakpoint(thread->tid);
}

static enum outcome trapped(struct tm_ptrace *pt, struct tm_thread *thread, enum mode mode,
			    struct tm_stop *stop)
{
	uint64_t address;

	if (!at_breakpoint(pt, thread, &address)) {
		thread->signal = SIGTRAP;
		return OUTCOME_NOTHING;
	}
	if (mode == MODE_STOP_ALL) {
		/* Taken back: it hits the breakpoint again when it runs on, or finds the original instruction
		 * there. */
		tm_error_destroy(tm_ptrace_store_pc(&pt->base, thread, address));
		return OUTCOME_NOTHING;
	}
	thread->regs.value[pt->base.arch->pc] = address;
	if (pt->base.arch->breakpoint_pc_after)
		thread->backend |= THREAD_PC_AHEAD;
	*stop = (struct tm_stop){.kind = TM_STOP_BREAKPOINT, .thread = thread, .address = address};
	return OUTCOME_REPORT;
}

/* A SIGTRAP of ours may still be queued behind the stop that we asked for (the kernel looks at our request
   first): let it come out, or it would kill the target once nobody traces it. */
static bool has_pending_trap(struct tm_ptrace *pt, struct tm_thread *thread)
{
	uint64_t address, pending;

	if (!breakpoint_behind(pt, thread, &address))
		return false;
	return tm_procfs_status_number(thread->tgid, thread->tid, "SigPnd", 16, &pending) &&
	       (pending & (UINT64_C(1) << (SIGTRAP - 1)));
}

static void event_stop(struct tm_ptrace *pt, struct tm_thread *thread, int signal, enum mode mode)
{
	if (tm_ptrace_is_stop_signal(signal))
		thread->backend |= THREAD_GROUP_STOP;
	if (mode == MODE_STOP_ALL && has_pending_trap(pt, thread)) {
		if (thread->backend & THREAD_GROUP_STOP)
			thread->backend ^= THREAD_GROUP_STOP | THREAD_PASSED_OVER;
		tm_error_destroy(tm_ptrace_resume(&pt->base, thread));
	}
}

static enum outcome thread_stopped(struct tm_ptrace *pt, struct tm_thread *thread, int status, enum mode mode,
				   struct tm_stop *stop)
{
	int event = status >> 16, signal = WSTOPSIG(status);
	enum outcome outcome = OUTCOME_NOTHING;

	thread->state = TM_THREAD_STOPPED;
	thread->regs_valid = false;
	if ((thread->backend & THREAD_PASSED_OVER) && event != PTRACE_EVENT_STOP)
		ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL);
	thread->backend &= ~(uint64_t)(THREAD_GROUP_STOP | THREAD_LISTENING | THREAD_IN_CALL |
				       THREAD_IN_VFORK | THREAD_PC_AHEAD | THREAD_PASSED_OVER);
	if (event == PTRACE_EVENT_EXEC)
		return image_replaced(pt, thread, thread->tid, stop);
	if (event == PTRACE_EVENT_CLONE || event == PTRACE_EVENT_FORK || event == PTRACE_EVENT_VFORK)
		birth_event(pt, thread);
	if (event && event != PTRACE_EVENT_STOP)
		thread->backend |= event == PTRACE_EVENT_VFORK ? THREAD_IN_VFORK : THREAD_IN_CALL;
	if (event == PTRACE_EVENT_STOP)
		event_stop(pt, thread, signal, mode);
	else if (event == 0 && signal == SIGTRAP)
		outcome = trapped(pt, thread, mode, stop);
	else if (event == 0 && signal != (SIGTRAP | 0x80))
		thread->signal = signal;
	if (outcome == OUTCOME_NOTHING && mode == MODE_RUN)
		tm_error_destroy(tm_ptrace_resume(&pt->base, thread));
	return outcome;
}

static enum outcome understand(struct tm_ptrace *pt, pid_t tid, int status, enum mode mode,
			       struct tm_stop *stop)
{
	struct tm_thread *thread;

	if (WIFEXITED(status) || WIFSIGNALED(status))
		return thread_ended(pt, tid, status, stop);
	thread = tm_target_thread(&pt->base, tid);
	if (!thread && tid == pt->base.pid) /* the leader had ended, and another thread called execve */
		thread = tm_target_add_thread(&pt->base, tid, tid);
	if (!thread)
		return task_born(pt, tid, status, stop);
	return thread_stopped(pt, thread, status, mode, stop);
}

/* Waits until a task stands still at a place from which it may run on alone. A breakpoint that it has just
   hit is taken back. false: it is gone, or has a memory of its own by now. */
static bool halt(struct tm_ptrace *pt, pid_t tid)
{
	struct tm_thread *thread = tm_target_thread(&pt->base, tid);
	struct tm_stop stop;
	int status;

	if (thread->state != TM_THREAD_STOPPED)
		ptrace(PTRACE_INTERRUPT, tid, NULL, NULL);
	while (thread && thread->state != TM_THREAD_STOPPED) {
		if (wait_for(pt, tid, &status) != tid)
			return false;
		understand(pt, tid, status, MODE_STOP_ALL, &stop);
		thread = tm_target_thread(&pt->base, tid);
	}
	return thread;
}

/* Tasks of other groups (a vfork child) that keep the memory which the target has just left. */
static void release_peers(struct tm_ptrace *pt)
{
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(&pt->base, &i));) {
		pid_t tid = thread->tid;

		if (thread->tgid == pt->base.pid)
			continue;
		if (halt(pt, tid))
			release_cleaned(pt, tid);
		thread = tm_target_thread(&pt->base, tid);
		if (thread)
			tm_target_remove_thread(&pt->base, thread);
		i = 0;
	}
}

bool tm_ptrace_next_queued(struct tm_target *target, struct tm_stop *stop)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);

	if (!pt->queued.count)
		return false;
	*stop = pt->queued.items[0];
	pt->queued.count--;
	memmove(pt->queued.items, pt->queued.items + 1, pt->queued.count * sizeof(*stop));
	return true;
}

static struct tm_error *wait_for_stop(struct tm_target *target, int options, struct tm_stop *stop)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);
	int status;
	pid_t tid;

	/* Taking in one status may queue another: the end of a thread that was worked on. */
	while (!tm_ptrace_next_queued(target, stop)) {
		tid = waitpid(-1, &status, __WALL | options);
		if (tid == 0 || (tid < 0 && errno == EINTR))
			return NULL;
		if (tid < 0)
			return tm_error_errno(errno, "cannot wait for process %d", target->pid);
		if (understand(pt, tid, status, MODE_RUN, stop) == OUTCOME_REPORT)
			return NULL;
	}
	return NULL;
}

struct tm_error *tm_ptrace_wait(struct tm_target *target, struct tm_stop *stop)
{
	return wait_for_stop(target, 0, stop);
}

struct tm_error *tm_ptrace_poll(struct tm_target *target, struct tm_stop *stop)
{
	return wait_for_stop(target, WNOHANG, stop);
}

#define PAUSE_SLACK_NS 1000 /* a pause may be longer by so much */

static sigset_t signal_of_stops(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGCHLD);
	return set;
}

static uint32_t *sleeping_on; /* the word of the pause that is going on; for the handler */

static void end_pause(int signal)
{
	uint32_t *word = __atomic_load_n(&sleeping_on, __ATOMIC_ACQUIRE);

	(void)signal;
	if (!word)
		return;
	__atomic_store_n(word, 0, __ATOMIC_RELEASE);
	syscall(SYS_futex, word, FUTEX_WAKE, 1); /* where another thread was given the signal */
}

/*
 * Each stop sends SIGCHLD, which is blocked but in pauses, and so stays pending, that none is slept over: one
 * that comes between the look and the pause ends the pause.
 * Called when the target exists: a program that is started inherits neither the mask nor the slack.
 */
void tm_ptrace_prepare_pauses(struct tm_ptrace *pt)
{
	const sigset_t stops = signal_of_stops();
	const struct sigaction action = {.sa_handler = end_pause};

	pthread_sigmask(SIG_BLOCK, &stops, &pt->original_mask);
	sigaction(SIGCHLD, &action, &pt->original_action);
	prctl(PR_SET_TIMERSLACK, PAUSE_SLACK_NS);
}

/* futex(2) has no mask of its own as ppoll(2) has. A signal that comes before it sleeps changes the word, and
   it does not sleep. */
static void sleep_on(uint32_t *asleep, const sigset_t *stops, const struct timespec *pause)
{
	__atomic_store_n(asleep, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&sleeping_on, asleep, __ATOMIC_RELEASE);
	pthread_sigmask(SIG_UNBLOCK, stops, NULL);
	syscall(SYS_futex, asleep, FUTEX_WAIT, 1, pause);
	pthread_sigmask(SIG_BLOCK, stops, NULL);
	__atomic_store_n(&sleeping_on, NULL, __ATOMIC_RELEASE);
	__atomic_store_n(asleep, 0, __ATOMIC_RELEASE);
}

void tm_ptrace_pause(struct tm_target *target, uint64_t duration_ns, uint32_t *asleep)
{
	const struct timespec pause = {0, (long)duration_ns};
	const sigset_t stops = signal_of_stops();

	(void)target;
	if (asleep)
		sleep_on(asleep, &stops, &pause);
	else
		sigtimedwait(&stops, NULL, &pause);
}

/* The stop is reported by a later wait. */
static void queue(struct tm_ptrace *pt, const struct tm_stop *stop)
{
	if (stop->thread)
		stop->thread->backend |= THREAD_REPORTING;
	tm_vector_push(&pt->queued, *stop);
}

/* got: what waitpid(2) gave for the task. */
static enum tm_ptrace_now take_status(struct tm_ptrace *pt, pid_t tid, pid_t got, const int *status)
{
	struct tm_stop stop;

	if (got != tid)
		return TM_PTRACE_RUNS;
	if (WIFSTOPPED(*status))
		return TM_PTRACE_STANDS;
	if (thread_ended(pt, tid, *status, &stop) == OUTCOME_REPORT)
		queue(pt, &stop);
	return TM_PTRACE_ENDED;
}

bool tm_ptrace_wait_thread(struct tm_ptrace *pt, struct tm_thread *thread, int *status)
{
	pid_t tid = thread->tid, got = wait_for(pt, tid, status);

	return take_status(pt, tid, got, status) == TM_PTRACE_STANDS;
}

enum tm_ptrace_now tm_ptrace_look_at_thread(struct tm_ptrace *pt, struct tm_thread *thread, int *status)
{
	pid_t tid = thread->tid, got = waitpid(tid, status, __WALL | WNOHANG);

	return take_status(pt, tid, got, status);
}

/* ---- a thread that runs a routine ---- */

#define ROUTINE_TIMEOUT_MS 5000u

/* Runs it on where it has stopped: its signals are blocked, and a group stop is asked for again. */
static struct tm_error *keep_running(struct tm_ptrace *pt, struct tm_thread *thread)
{
	int status;

	switch (tm_ptrace_look_at_thread(pt, thread, &status)) {
	case TM_PTRACE_RUNS:
		return NULL;
	case TM_PTRACE_ENDED:
		return tm_error_create(TM_ERROR_NO_PROCESS, "a thread ended while it was worked on");
	case TM_PTRACE_STANDS:
		break;
	}
	if (status >> 16 == 0)
		thread->signal = WSTOPSIG(status);
	return tm_ptrace_restart(pt, thread, PTRACE_CONT, 0);
}

static void wait_for_look(struct tm_ptrace *pt, uint64_t until_ns)
{
	uint64_t begin = tm_monotonic_ns(), now = begin;

	while (now < until_ns) {
		if (now - begin > AWAKE_NS || !stay_awake(pt))
			tm_ptrace_pause(&pt->base, until_ns - now, NULL);
		now = tm_monotonic_ns();
	}
}

struct tm_error *tm_ptrace_await_word_of(struct tm_ptrace *pt, struct tm_thread *thread, uint64_t address,
					 uint32_t value, uint64_t expected_ns)
{
	uint64_t begin = tm_monotonic_ns(), look = begin + expected_ns;
	uint32_t present = !value;
	struct tm_error *err;

	for (;;) {
		wait_for_look(pt, look);
		err = tm_target_read(&pt->base, address, &present, sizeof(present));
		if (err || present == value)
			return err;
		if (present > value)
			return tm_error_create(TM_ERROR_TIMEOUT,
					       "thread %d of process %d has waited for long enough",
					       thread->tid, pt->base.pid);
		if (look - begin > ROUTINE_TIMEOUT_MS * UINT64_C(1000000))
			return tm_error_create(TM_ERROR_TIMEOUT,
					       "thread %d of process %d has not come far enough within %u ms "
					       "(%" PRIu32 ", not %" PRIu32 ")",
					       thread->tid, pt->base.pid, ROUTINE_TIMEOUT_MS, present, value);
		err = keep_running(pt, thread);
		if (err)
			return err;
		look = tm_monotonic_ns() + expected_ns / 2;
	}
}

/* ---- all threads ---- */

static void interrupt_all(struct tm_ptrace *pt)
{
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(&pt->base, &i));)
		if (thread->state != TM_THREAD_STOPPED)
			ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL);
}

static uint64_t now_ms(void)
{
	return tm_monotonic_ns() / 1000000;
}

/* A thread that still runs and may execute code of its own; NULL if none. One that sleeps uninterruptibly (a
   parent in vfork waits so for its child, which we hold) stops before it returns to user mode: our request is
   pending. */
static struct tm_thread *find_running(struct tm_ptrace *pt, bool forgive_sleepers)
{
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(&pt->base, &i));) {
		if (thread->state == TM_THREAD_STOPPED)
			continue;
		if (forgive_sleepers && strchr("DZX", tm_procfs_state(thread->tgid, thread->tid)))
			continue;
		return thread;
	}
	return NULL;
}

#define STOP_PAUSE_NS 1000000 /* after so long it is looked whether a thread sleeps uninterruptibly */

/* Takes in one status while all are to stop; waits for it at most `pause_ns`, or for a moment, `awake`. */
static struct tm_error *take_one(struct tm_ptrace *pt, uint64_t pause_ns, bool awake)
{
	struct tm_stop stop;
	int status;
	pid_t tid = waitpid(-1, &status, __WALL | WNOHANG);

	if (tid < 0 && errno != EINTR && !pt->base.exited)
		return tm_error_errno(errno, "cannot wait for process %d", pt->base.pid);
	if (tid > 0 && understand(pt, tid, status, MODE_STOP_ALL, &stop) == OUTCOME_REPORT)
		queue(pt, &stop);
	if (tid <= 0 && (!awake || !stay_awake(pt)))
		tm_ptrace_pause(&pt->base, pause_ns, NULL);
	return NULL;
}

/* held: nobody else runs on our CPU unless we sleep. */
static struct tm_error *await_all(struct tm_ptrace *pt, unsigned timeout_ms, bool held)
{
	uint64_t begin = tm_monotonic_ns(), passed_ns = 0, passed = 0;
	struct tm_thread *running;
	struct tm_error *err;

	while ((running = find_running(pt, passed >= TM_SLEEPER_PATIENCE_MS)) ||
	       (pt->expected && !pt->base.exited)) {
		if (passed > timeout_ms && !running)
			return tm_error_create(TM_ERROR_TIMEOUT,
					       "a new task of process %d did not stop within %u ms",
					       pt->base.pid, timeout_ms);
		if (passed > timeout_ms)
			return tm_error_create(TM_ERROR_TIMEOUT,
					       "thread %d of process %d did not stop within %u ms (state %c)",
					       running->tid, pt->base.pid, timeout_ms,
					       tm_procfs_state(running->tgid, running->tid));
		err = take_one(pt, STOP_PAUSE_NS, !held && passed_ns < AWAKE_NS);
		if (err)
			return err;
		passed_ns = tm_monotonic_ns() - begin;
		passed = passed_ns / 1000000;
	}
	pt->still = !find_running(pt, false);
	return NULL;
}

struct tm_error *tm_ptrace_stop_all(struct tm_target *target, unsigned timeout_ms)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);
	bool held = tm_ptrace_hold_cpu(pt);
	struct tm_error *err;

	interrupt_all(pt);
	err = await_all(pt, timeout_ms, held);
	tm_ptrace_share_cpu(pt, held);
	return err;
}

void tm_ptrace_await_any(struct tm_ptrace *pt, unsigned timeout_ms)
{
	uint64_t begin = now_ms();
	struct tm_thread *thread;

	while (now_ms() - begin < timeout_ms && !pt->base.exited) {
		tm_error_destroy(take_one(pt, STOP_PAUSE_NS, false));
		for (size_t i = 0; (thread = tm_target_next_thread(&pt->base, &i));)
			if (thread->state == TM_THREAD_STOPPED)
				return;
	}
}

struct tm_error *tm_ptrace_resume_all(struct tm_target *target, const struct tm_thread *except)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);
	bool held = tm_ptrace_hold_cpu(pt);
	struct tm_error *err = NULL;
	struct tm_thread *thread;

	for (size_t i = 0; !err && (thread = tm_target_next_thread(target, &i));)
		if (thread != except && thread->state == TM_THREAD_STOPPED &&
		    !(thread->backend & THREAD_REPORTING))
			err = tm_ptrace_resume(target, thread);
	tm_ptrace_share_cpu(pt, held);
	return err;
}
