/* One stopped thread: its registers, its memory, its next instruction, a system call in its name. */
#include "target/ptrace_internal.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "target/breakpoint.h"
#include "target/procfs.h"
#include "target/ptrace.h"

struct tm_error *tm_ptrace_thread_error(const struct tm_thread *thread, const char *what)
{
	return tm_error_errno(errno, "cannot %s thread %d", what, thread->tid);
}

/* ---- registers ---- */

struct tm_error *tm_ptrace_get_regset(const struct tm_thread *thread, void *regset, size_t size)
{
	struct iovec iov = {regset, size};

	if (ptrace(PTRACE_GETREGSET, thread->tid, (void *)NT_PRSTATUS, &iov) < 0)
		return tm_ptrace_thread_error(thread, "read the registers of");
	return NULL;
}

struct tm_error *tm_ptrace_set_regset(const struct tm_thread *thread, void *regset, size_t size)
{
	struct iovec iov = {regset, size};

	if (ptrace(PTRACE_SETREGSET, thread->tid, (void *)NT_PRSTATUS, &iov) < 0)
		return tm_ptrace_thread_error(thread, "write the registers of");
	return NULL;
}

struct tm_error *tm_ptrace_fetch_regs(struct tm_target *target, struct tm_thread *thread)
{
	uint64_t regset[TM_REGSET_MAX / 8];
	struct tm_error *err = tm_ptrace_get_regset(thread, regset, target->arch->regset_size);

	if (!err) {
		tm_arch_regs_from_regset(target->arch, regset, &thread->regs);
		thread->regs_valid = true;
	}
	return err;
}

/* Registers that tm_regs does not hold (flags, segments) keep their values. */
static struct tm_error *store_regs(struct tm_target *target, struct tm_thread *thread)
{
	uint64_t regset[TM_REGSET_MAX / 8];
	struct tm_error *err = tm_ptrace_get_regset(thread, regset, target->arch->regset_size);

	if (err)
		return err;
	tm_arch_regs_to_regset(target->arch, &thread->regs, regset);
	thread->backend &= ~(uint64_t)THREAD_PC_AHEAD;
	return tm_ptrace_set_regset(thread, regset, target->arch->regset_size);
}

struct tm_error *tm_ptrace_store_pc(struct tm_target *target, struct tm_thread *thread, uint64_t pc)
{
#ifdef __x86_64__
	thread->backend &= ~(uint64_t)THREAD_PC_AHEAD;
	if (ptrace(PTRACE_POKEUSER, thread->tid, (void *)offsetof(struct user, regs.rip), (void *)pc) < 0)
		return tm_ptrace_thread_error(thread, "set the pc of");
	thread->regs.value[target->arch->pc] = pc;
	return NULL;
#else
	struct tm_error *err = tm_target_fetch_regs(target, thread);

	if (err)
		return err;
	thread->regs.value[target->arch->pc] = pc;
	return store_regs(target, thread);
#endif
}

struct tm_error *tm_ptrace_flush_pc(struct tm_target *target, struct tm_thread *thread)
{
	if (!(thread->backend & THREAD_PC_AHEAD))
		return NULL;
	return tm_ptrace_store_pc(target, thread, thread->regs.value[target->arch->pc]);
}

bool tm_ptrace_trap_is_breakpoint(pid_t tid)
{
	siginfo_t info;

	if (ptrace(PTRACE_GETSIGINFO, tid, NULL, &info) < 0)
		return false;
	/* x86 int3: arch/x86/kernel/traps.c sends SI_KERNEL; others TRAP_BRKPT */
	return info.si_signo == SIGTRAP && (info.si_code == SI_KERNEL || info.si_code == TRAP_BRKPT);
}

/* ---- memory ---- */

struct tm_error *tm_ptrace_open_memory(struct tm_ptrace *pt)
{
	char path[64];

	if (pt->mem_fd >= 0)
		close(pt->mem_fd);
	snprintf(path, sizeof(path), "/proc/%d/mem", pt->base.pid);
	pt->mem_fd = open(path, O_RDWR | O_CLOEXEC);
	return pt->mem_fd < 0 ? tm_error_errno(errno, "cannot open %s", path) : NULL;
}

static struct tm_error *read_fd(int fd, uint64_t address, void *buffer, size_t size)
{
	for (size_t done = 0; done < size;) {
		ssize_t n = pread(fd, (char *)buffer + done, size - done, (off_t)(address + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return tm_error_errno(n ? errno : ESRCH, "cannot read %zu bytes at 0x%" PRIx64, size,
					      address);
		done += (size_t)n;
	}
	return NULL;
}

static struct tm_error *write_fd(int fd, uint64_t address, const void *bytes, size_t size)
{
	ssize_t n;

	do {
		n = pwrite(fd, bytes, size, (off_t)address);
	} while (n < 0 && errno == EINTR);
	if (n != (ssize_t)size)
		return tm_error_errno(n < 0 ? errno
				      : n   ? EIO
					    : ESRCH,
				      "cannot write %zu bytes at 0x%" PRIx64, size, address);
	return NULL;
}

/* process_vm_readv is the faster one from a page on; it refuses a process whose first thread has ended, so
 * /proc/PID/mem stays. */
static struct tm_error *read_memory(struct tm_target *target, uint64_t address, void *buffer, size_t size)
{
	if (size >= 4096) {
		struct iovec local = {buffer, size}, remote = {(void *)(uintptr_t)address, size};

		if (process_vm_readv(target->pid, &local, 1, &remote, 1, 0) == (ssize_t)size)
			return NULL;
	}
	return read_fd(tm_ptrace_of(target)->mem_fd, address, buffer, size);
}

static size_t read_some(struct tm_target *target, uint64_t address, void *buffer, size_t size)
{
	struct iovec local = {buffer, size}, remote = {(void *)(uintptr_t)address, size};
	ssize_t n = process_vm_readv(target->pid, &local, 1, &remote, 1, 0);

	if (n < 0)
		n = pread(tm_ptrace_of(target)->mem_fd, buffer, size, (off_t)address);
	return n < 0 ? 0 : (size_t)n;
}

static struct tm_error *write_memory(struct tm_target *target, uint64_t address, const void *bytes,
				     size_t size)
{
	return write_fd(tm_ptrace_of(target)->mem_fd, address, bytes, size);
}

static int open_child_memory(pid_t child)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/mem", child);
	return open(path, O_RDWR | O_CLOEXEC);
}

static struct tm_error *read_child(struct tm_target *target, pid_t child, uint64_t address, void *buffer,
				   size_t size)
{
	_cleanup_close_ int fd = open_child_memory(child);

	(void)target;
	return fd < 0 ? tm_error_errno(errno, "cannot open the memory of process %d", child)
		      : read_fd(fd, address, buffer, size);
}

static struct tm_error *write_child(struct tm_target *target, pid_t child, uint64_t address,
				    const void *bytes, size_t size)
{
	_cleanup_close_ int fd = open_child_memory(child);

	(void)target;
	return fd < 0 ? tm_error_errno(errno, "cannot open the memory of process %d", child)
		      : write_fd(fd, address, bytes, size);
}

/* ---- running ---- */

struct tm_error *tm_ptrace_restart(struct tm_ptrace *pt, struct tm_thread *thread, int request, int signal)
{
	pt->still = false;
	tm_mappings_deinit(&pt->mappings);
	thread->state = TM_THREAD_RUNNING;
	thread->regs_valid = false;
	if (ptrace((enum __ptrace_request)request, thread->tid, NULL, (void *)(uintptr_t)signal) < 0 &&
	    errno != ESRCH)
		return tm_ptrace_thread_error(thread, "resume");
	return NULL;
}

struct tm_error *tm_ptrace_resume(struct tm_target *target, struct tm_thread *thread)
{
	int signal = thread->signal;
	struct tm_error *err;
	cpu_set_t own;
	bool steered;

	if (thread->state != TM_THREAD_STOPPED)
		return NULL;
	err = tm_ptrace_flush_pc(target, thread);
	if (err && err->code != TM_ERROR_NO_PROCESS)
		return err;
	tm_error_destroy(err);
	thread->signal = 0;
	thread->backend &= ~(uint64_t)THREAD_REPORTING;
	if (thread->backend & THREAD_GROUP_STOP) {
		thread->backend = (thread->backend & ~(uint64_t)THREAD_GROUP_STOP) | THREAD_LISTENING;
		return tm_ptrace_restart(tm_ptrace_of(target), thread, PTRACE_LISTEN, 0);
	}
	if (signal)
		thread->signal_count++;
	steered = tm_ptrace_steer(tm_ptrace_of(target), thread, &own);
	err = tm_ptrace_restart(tm_ptrace_of(target), thread, PTRACE_CONT, signal);
	if (steered)
		tm_ptrace_unsteer(thread, &own);
	return err;
}

/* Runs a thread by `request` until it stops as `expected` says (a status >> 8). A signal that comes first is
 * kept for later. */
struct tm_error *tm_ptrace_run_until(struct tm_ptrace *pt, struct tm_thread *thread, int request,
				     int expected)
{
	int status;

	for (;;) {
		struct tm_error *err = tm_ptrace_restart(pt, thread, request, 0);

		if (err)
			return err;
		if (!tm_ptrace_wait_thread(pt, thread, &status))
			return tm_error_create(TM_ERROR_NO_PROCESS, "a thread ended while it was worked on");
		thread->state = TM_THREAD_STOPPED;
		if (status >> 8 == expected)
			return NULL;
		if (status >> 16 == 0)
			thread->signal = WSTOPSIG(status);
	}
}

/* Signals are kept off meanwhile: a handler that returned to the instruction would make it count twice. What
   comes nevertheless is the instruction's own fault, and then it is done. A group stop that began is asked
   for again. */
static struct tm_error *single_step(struct tm_ptrace *pt, struct tm_thread *thread)
{
	bool group_stop = false;
	int status;

	for (;;) {
		struct tm_error *err = tm_ptrace_restart(pt, thread, PTRACE_SINGLESTEP, 0);

		if (err)
			return err;
		if (!tm_ptrace_wait_thread(pt, thread, &status))
			return tm_error_create(TM_ERROR_NO_PROCESS, "a thread ended while it was stepped");
		thread->state = TM_THREAD_STOPPED;
		if (status >> 16 != PTRACE_EVENT_STOP)
			break;
		group_stop = group_stop || tm_ptrace_is_stop_signal(WSTOPSIG(status));
	}
	if (group_stop)
		ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL);
	if (status >> 16 == 0 && WSTOPSIG(status) != SIGTRAP)
		thread->signal = WSTOPSIG(status);
	return NULL;
}

struct tm_error *tm_ptrace_block_signals(const struct tm_thread *thread, uint64_t *mask)
{
	uint64_t all = UINT64_MAX;

	if (ptrace(PTRACE_GETSIGMASK, thread->tid, (void *)sizeof(*mask), mask) < 0 ||
	    ptrace(PTRACE_SETSIGMASK, thread->tid, (void *)sizeof(all), &all) < 0)
		return tm_ptrace_thread_error(thread, "block the signals of");
	return NULL;
}

struct tm_error *tm_ptrace_restore_signals(const struct tm_thread *thread, uint64_t mask)
{
	if (ptrace(PTRACE_SETSIGMASK, thread->tid, (void *)sizeof(mask), &mask) < 0)
		return tm_ptrace_thread_error(thread, "restore the signals of");
	return NULL;
}

static struct tm_error *step(struct tm_target *target, struct tm_thread *thread)
{
	int kept = thread->signal;
	uint64_t mask;
	struct tm_error *err = tm_ptrace_flush_pc(target, thread);

	if (!err)
		err = tm_ptrace_block_signals(thread, &mask);
	if (!err)
		err = single_step(tm_ptrace_of(target), thread);
	if (!err)
		err = tm_ptrace_restore_signals(thread, mask);
	if (!thread->signal)
		thread->signal = kept;
	return err;
}

/* ---- the process ---- */

/* A process whose first thread has ended shows its memory map in its other threads only. */
static struct tm_error *read_mappings(struct tm_target *target, struct tm_mappings *mappings)
{
	struct tm_error *err = tm_procfs_mappings(target->pid, mappings);
	const struct tm_thread *thread;

	for (size_t i = 0; !err && !mappings->count && (thread = tm_target_next_thread(target, &i));)
		err = tm_procfs_mappings(thread->tid, mappings);
	if (!err && !mappings->count)
		err = tm_error_create(TM_ERROR_NO_PROCESS, "process %d has no memory any more", target->pid);
	return err;
}

/* While all stand still the map is read once: of a large program that takes longer than all that is looked
 * for in it. */
struct tm_error *tm_ptrace_mappings(struct tm_target *target, struct tm_mappings *mappings)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);
	struct tm_error *err = NULL;

	if (!pt->still)
		return read_mappings(target, mappings);
	if (!pt->mappings.count)
		err = read_mappings(target, &pt->mappings);
	return err ? err : tm_mappings_copy(&pt->mappings, mappings);
}

static struct tm_error *thread_pointer(struct tm_target *target, struct tm_thread *thread, uint64_t *pointer)
{
	const struct tm_arch *arch = target->arch;
	uint64_t regset[TM_REGSET_MAX / 8];
	struct tm_error *err;

	if (arch->regset_thread_pointer < 0)
		return NULL;
	err = tm_ptrace_get_regset(thread, regset, arch->regset_size);
	if (!err)
		memcpy(pointer, (char *)regset + arch->regset_thread_pointer, sizeof(*pointer));
	return err;
}

static struct tm_error *release_child(struct tm_target *target, pid_t child)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);

	for (size_t i = 0; i < pt->children.count; i++)
		if (pt->children.items[i] == child) {
			tm_vector_remove_unordered(&pt->children, i);
			break;
		}
	if (ptrace(PTRACE_DETACH, child, NULL, NULL) < 0 && errno != ESRCH)
		return tm_error_errno(errno, "cannot let go of the child process %d", child);
	return NULL;
}

const struct tm_target_ops tm_ptrace_ops = {
	.wait = tm_ptrace_wait,
	.poll = tm_ptrace_poll,
	.pause = tm_ptrace_pause,
	.resume = tm_ptrace_resume,
	.next_queued = tm_ptrace_next_queued,
	.stop_all = tm_ptrace_stop_all,
	.resume_all = tm_ptrace_resume_all,
	.fetch_regs = tm_ptrace_fetch_regs,
	.store_regs = store_regs,
	.store_pc = tm_ptrace_store_pc,
	.thread_pointer = thread_pointer,
	.read_memory = read_memory,
	.read_some = read_some,
	.write_memory = write_memory,
	.write_child = write_child,
	.read_child = read_child,
	.release_child = release_child,
	.step = step,
	.system_call = tm_ptrace_system_call,
	.begin_calls = tm_ptrace_begin_calls,
	.end_calls = tm_ptrace_end_calls,
	.run_briefly = tm_ptrace_run_briefly,
	.begin_routine = tm_ptrace_begin_routine,
	.await_word = tm_ptrace_await_word,
	.end_routine = tm_ptrace_end_routine,
	.mappings = tm_ptrace_mappings,
	.detach = tm_ptrace_detach,
	.destroy = tm_ptrace_destroy,
};
