/* Coming and going: all threads or none, within a bounded time; the start of a program; the way out. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include "base/log.h"
#include "target/breakpoint.h"
#include "target/procfs.h"
#include "target/ptrace.h"
#include "target/ptrace_internal.h"

#define ATTACH_TIMEOUT_MS  3000
#define DETACH_PATIENCE_MS 2000

static struct tm_error *create(pid_t pid, const struct tm_arch *arch, struct tm_ptrace **out)
{
	struct tm_ptrace *pt;

	if (!tm_procfs_same_memory(getpid(), getpid()))
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "this kernel has no kcmp(2) (CONFIG_KCMP, or a seccomp filter): "
				       "tmtrace could not tell a child "
				       "that shares the target's memory from one that has its own");
	pt = calloc(1, sizeof(*pt));
	if (!pt)
		return tm_error_out_of_memory();
	pt->base.ops = &tm_ptrace_ops;
	pt->base.arch = arch;
	pt->base.pid = pid;
	pt->base.pac_mask = arch->default_pac_mask;
	pt->mem_fd = -1;
	pt->cpu = -1;
	sched_getaffinity(0, sizeof(pt->original_affinity), &pt->original_affinity);
	pt->original_policy = sched_getscheduler(0);
	sched_getparam(0, &pt->original_priority);
	tm_ptrace_prepare_pauses(pt);
	*out = pt;
	return NULL;
}

static void release(struct tm_ptrace *pt)
{
	tm_target_deinit(&pt->base);
	tm_vector_deinit(&pt->queued);
	tm_vector_deinit(&pt->children);
	tm_mappings_deinit(&pt->mappings);
	tm_map_deinit(&pt->unpaired);
	if (pt->mem_fd >= 0)
		close(pt->mem_fd);
	tm_ptrace_unbind_cpu(pt);
	sigaction(SIGCHLD, &pt->original_action, NULL);
	pthread_sigmask(SIG_SETMASK, &pt->original_mask, NULL);
	free(pt);
}

void tm_ptrace_destroy(struct tm_target *target)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);

	if (pt->attached && !target->exited)
		tm_error_destroy(tm_ptrace_detach(target));
	release(pt);
}

/* ---- attach ---- */

struct seizing {
	struct tm_ptrace *pt;
	pid_t tgid;
	size_t seized; /* in this pass over the directory */
	int errno_value;
	pid_t failed;
	struct tm_error *err;
};

/* A thread that a seized one created is traced from birth, and reports by itself. */
static bool is_ours(pid_t tgid, pid_t tid)
{
	uint64_t tracer;

	return tm_procfs_status_number(tgid, tid, "TracerPid", 10, &tracer) && (pid_t)tracer == getpid();
}

static bool seize_task(pid_t tid, void *context)
{
	struct seizing *seizing = context;

	if (tm_target_thread(&seizing->pt->base, tid))
		return true;
	if (ptrace(PTRACE_SEIZE, tid, NULL, (void *)(uintptr_t)TM_PTRACE_OPTIONS) < 0) {
		int reason = errno;

		/* It ended, or was born, between the listing and now. */
		if (reason == ESRCH || strchr("ZX", tm_procfs_state(seizing->tgid, tid)) ||
		    is_ours(seizing->tgid, tid))
			return true;
		seizing->errno_value = reason;
		seizing->failed = tid;
		return false;
	}
	if (!tm_target_add_thread(&seizing->pt->base, tid, seizing->tgid)) {
		seizing->err = tm_error_out_of_memory();
		return false;
	}
	seizing->seized++;
	return true;
}

/* Threads that a seized one creates come by themselves; those that an unseized one created meanwhile are in
   the next listing. So the group is complete when a whole pass finds nothing new. */
static struct tm_error *seize_group(struct tm_ptrace *pt, pid_t tgid)
{
	struct seizing seizing = {.pt = pt, .tgid = tgid};

	do {
		seizing.seized = 0;
		if (!tm_procfs_each_task(tgid, seize_task, &seizing))
			return tm_error_create(TM_ERROR_NO_PROCESS, "process %d has ended", tgid);
		if (seizing.err)
			return seizing.err;
		if (seizing.errno_value == EPERM || seizing.errno_value == EACCES)
			return tm_procfs_explain_refusal(tgid);
		if (seizing.errno_value)
			return tm_error_errno(seizing.errno_value, "cannot trace thread %d of process %d",
					      seizing.failed, tgid);
	} while (seizing.seized);
	return NULL;
}

/* A vfork or clone(CLONE_VM) child that already lives would run onto our breakpoints with nobody to catch it.
 */
static bool seize_if_peer(pid_t pid, void *context)
{
	struct seizing *seizing = context;

	if (pid == seizing->pt->base.pid || !tm_procfs_same_memory(seizing->pt->base.pid, pid))
		return true;
	seizing->err = seize_group(seizing->pt, pid);
	if (seizing->err && seizing->err->code == TM_ERROR_NO_PROCESS) {
		tm_error_destroy(seizing->err);
		seizing->err = NULL;
	}
	return !seizing->err;
}

struct tm_error *tm_ptrace_attach(pid_t pid, const struct tm_arch *arch, struct tm_target **out)
{
	struct seizing peers = {0};
	struct tm_ptrace *pt = NULL;
	struct tm_error *err = create(pid, arch, &pt);

	if (err)
		return err;
	pt->attached = true;
	err = seize_group(pt, pid);
	peers.pt = pt;
	if (!err) {
		tm_procfs_each_process(seize_if_peer, &peers);
		err = peers.err;
	}
	if (!err && !pt->base.threads.count)
		err = tm_error_create(TM_ERROR_NO_PROCESS, "process %d has ended", pid);
	if (!err)
		err = tm_ptrace_open_memory(pt);
	if (!err) /* whoever needs it learns why there is none */
		tm_error_destroy(tm_ptrace_find_code(pt));
	if (err) {
		tm_ptrace_destroy(&pt->base);
		return tm_error_prefix(err, "nothing was changed");
	}
	*out = &pt->base;
	return NULL;
}

/* An exec that came before the threads stood still: what is attached to is the new image, and nothing was
 * done to the old. */
static bool forget_exec(struct tm_ptrace *pt)
{
	bool any = false;

	for (size_t i = 0; i < pt->queued.count; i++) {
		if (pt->queued.items[i].kind != TM_STOP_EXEC)
			continue;
		pt->queued.items[i].thread->backend &= ~(uint64_t)THREAD_REPORTING;
		memmove(pt->queued.items + i, pt->queued.items + i + 1,
			(--pt->queued.count - i) * sizeof(*pt->queued.items));
		i--;
		any = true;
	}
	return any;
}

struct tm_error *tm_ptrace_begin(struct tm_target *target, bool *replaced)
{
	struct tm_error *err = tm_ptrace_stop_all(target, ATTACH_TIMEOUT_MS);

	*replaced = !err && forget_exec(tm_ptrace_of(target));
	if (!err && target->exited)
		err = tm_error_create(TM_ERROR_NO_PROCESS, "process %d ended while tmtrace attached to it",
				      target->pid);
	return err ? tm_error_prefix(err, "nothing was changed") : NULL;
}

/* ---- launch ---- */

/* go: a pipe that says when; its other end is closed here, so that an end of tmtrace is an end of file. */
static void become_program(char *const argv[], const int go[2], int result_fd)
{
	char word;
	int reason;

	close(go[1]);
	if (read(go[0], &word, 1) != 1)
		_exit(127);
	execvp(argv[0], argv);
	reason = errno;
	if (write(result_fd, &reason, sizeof(reason)) != sizeof(reason))
		_exit(126);
	_exit(127);
}

static struct tm_error *start(struct tm_ptrace *pt, int go_fd)
{
	pid_t pid = pt->base.pid;

	if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)(uintptr_t)TM_PTRACE_OPTIONS) < 0)
		return errno == EPERM ? tm_procfs_explain_refusal(pid)
				      : tm_error_errno(errno, "cannot trace the new process %d", pid);
	pt->attached = true;
	if (!tm_target_add_thread(&pt->base, pid, pid))
		return tm_error_out_of_memory();
	if (write(go_fd, "g", 1) != 1)
		return tm_error_errno(errno, "cannot start the new process %d", pid);
	return NULL;
}

/* Waits until the program stands at its first instruction; the stop is left for the first tm_target_wait. */
static struct tm_error *await_exec(struct tm_ptrace *pt, const char *program, int result_fd)
{
	struct tm_stop stop = {0};
	struct tm_error *err;
	int reason = 0;

	do {
		err = tm_target_wait(&pt->base, &stop);
	} while (!err && stop.kind == TM_STOP_NONE);
	if (err)
		return err;
	if (stop.kind == TM_STOP_EXEC) {
		stop.thread->backend |= THREAD_REPORTING;
		return tm_vector_push(&pt->queued, stop) ? NULL : tm_error_out_of_memory();
	}
	if (read(result_fd, &reason, sizeof(reason)) == sizeof(reason))
		return tm_error_errno(reason, "cannot execute %s", program);
	return tm_error_create(TM_ERROR_OTHER, "cannot execute %s: it ended before it began", program);
}

struct tm_error *tm_ptrace_launch(char *const argv[], struct tm_target **out)
{
	struct tm_ptrace *pt = NULL;
	struct tm_error *err;
	int go[2], result[2];
	pid_t pid;

	if (pipe2(go, O_CLOEXEC) < 0)
		return tm_error_errno(errno, "cannot make a pipe");
	_cleanup_close_ int go_read = go[0], go_write = go[1];
	if (pipe2(result, O_CLOEXEC) < 0)
		return tm_error_errno(errno, "cannot make a pipe");
	_cleanup_close_ int result_read = result[0], result_write = result[1];
	pid = fork();
	if (pid < 0)
		return tm_error_errno(errno, "cannot start a process");
	if (pid == 0)
		become_program(argv, (int[2]){go_read, go_write}, result_write);
	err = create(pid, tm_arch_host(), &pt);
	if (!err)
		err = start(pt, go_write);
	close(result_write);
	result_write = -1;
	if (!err)
		err = await_exec(pt, argv[0], result_read);
	if (err) {
		if (!pt || !pt->base.exited) {
			kill(pid, SIGKILL);
			waitpid(pid, NULL, __WALL);
		}
		if (pt)
			release(pt);
		return err;
	}
	*out = &pt->base;
	return NULL;
}

/* ---- detach ---- */

static void detach_thread(const struct tm_thread *thread)
{
	ptrace(PTRACE_DETACH, thread->tid, NULL, (void *)(uintptr_t)thread->signal);
}

static void release_children(struct tm_ptrace *pt)
{
	while (pt->children.count)
		tm_error_destroy(pt->base.ops->release_child(&pt->base, pt->children.items[0]));
}

static void detach_stopped(struct tm_ptrace *pt)
{
	bool held = tm_ptrace_hold_cpu(pt);
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(&pt->base, &i));) {
		if (thread->state != TM_THREAD_STOPPED)
			continue;
		tm_error_destroy(tm_ptrace_flush_pc(&pt->base, thread));
		detach_thread(thread);
		tm_target_remove_thread(&pt->base, thread);
		i = 0;
	}
	tm_ptrace_share_cpu(pt, held);
}

/*
 * Threads that were asked to stop while they slept uninterruptibly (a parent in vfork) can be let go only
 * when they do stop; with the child running again that is soon. What remains after that is let go by the
 * kernel when tmtrace ends.
 */
struct tm_error *tm_ptrace_detach(struct tm_target *target)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);
	struct tm_error *err = target->exited ? NULL : tm_ptrace_stop_all(target, ATTACH_TIMEOUT_MS);

	for (unsigned waited = 0;; waited++) {
		detach_stopped(pt);
		release_children(pt);
		if (!target->threads.count || waited * TM_SLEEPER_PATIENCE_MS >= DETACH_PATIENCE_MS)
			break;
		tm_ptrace_await_any(pt, TM_SLEEPER_PATIENCE_MS);
	}
	tm_ptrace_unbind_cpu(pt);
	pt->attached = false;
	return err;
}
