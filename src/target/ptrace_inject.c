/*
 * System calls that a stopped thread runs for the tracer.
 *
 * The tracer may be killed at any instruction, and the kernel lets the thread run on then, with the registers
 * that it has. So those are, from the first change to the last, such that the thread finds back by itself:
 * the system call is followed by a return to code that calls rt_sigreturn, and the stack holds a frame with
 * all that the thread had (arch/return_frame.h). Nothing of this runs where the tracer lives: it puts the
 * registers back itself.
 */
#include "target/ptrace_internal.h"

#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>

#include "arch/return_frame.h"
#include "base/log.h"
#include "target/procfs.h"

/* ---- code that the target has ---- */

static uint64_t find_bytes(const uint8_t *bytes, size_t size, uint64_t address,
			   const struct tm_code_bytes *wanted)
{
	for (; wanted->size; wanted++) {
		const uint8_t *found = memmem(bytes, size, wanted->bytes, wanted->size);

		if (found)
			return address + (uint64_t)(found - bytes);
	}
	return 0;
}

static struct tm_code_bytes syscall_code(const struct tm_arch *arch)
{
	struct tm_code_bytes code = {{0}, arch->syscall_insn_size};

	memcpy(code.bytes, arch->syscall_insn, arch->syscall_insn_size);
	return code;
}

static void search_code(struct tm_ptrace *pt, const struct tm_mapping *mapping)
{
	const struct tm_arch *arch = pt->base.arch;
	struct tm_code_bytes call[] = {syscall_code(arch), {{0}, 0}};
	size_t size = mapping->end - mapping->start;
	_cleanup_free_ uint8_t *bytes = malloc(size);
	_cleanup_error_ struct tm_error *unreadable = NULL;

	if (!bytes)
		return;
	unreadable = tm_target_read(&pt->base, mapping->start, bytes, size);
	if (unreadable)
		return;
	if (!pt->syscall_insn)
		pt->syscall_insn = find_bytes(bytes, size, mapping->start, call);
	if (!pt->call_and_return)
		pt->call_and_return = find_bytes(bytes, size, mapping->start, tm_call_and_return_code(arch));
	if (!pt->restorer)
		pt->restorer = find_bytes(bytes, size, mapping->start, tm_restorer_code(arch));
}

#define SEARCHED_MAX (64u << 20) /* bytes of a mapping */

/* What was found may have been unmapped since. */
static bool is_there(struct tm_ptrace *pt, uint64_t address, const struct tm_code_bytes *wanted)
{
	uint8_t bytes[sizeof(wanted->bytes)];
	size_t size = address ? tm_target_read_some(&pt->base, address, bytes, sizeof(bytes)) : 0;

	if (!wanted->size) /* this architecture has none */
		return true;
	for (; wanted->size; wanted++)
		if (size >= wanted->size && memcmp(bytes, wanted->bytes, wanted->size) == 0)
			return true;
	return false;
}

static bool is_all_there(struct tm_ptrace *pt)
{
	const struct tm_arch *arch = pt->base.arch;
	struct tm_code_bytes call[] = {syscall_code(arch), {{0}, 0}};

	return pt->syscall_image == pt->base.image && is_there(pt, pt->syscall_insn, call) &&
	       is_there(pt, pt->call_and_return, tm_call_and_return_code(arch)) &&
	       is_there(pt, pt->restorer, tm_restorer_code(arch));
}

struct tm_error *tm_ptrace_find_code(struct tm_ptrace *pt)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings all = {0};
	struct tm_error *err;

	if (is_all_there(pt))
		return NULL;
	pt->syscall_insn = pt->call_and_return = pt->restorer = 0;
	pt->room_tid = 0;
	pt->syscall_image = pt->base.image;
	err = tm_ptrace_mappings(&pt->base, &all);
	if (err)
		return err;
	/* From the end: the vdso stands there, which always has a system call. */
	for (size_t i = all.count; i-- > 0 && !(pt->syscall_insn && pt->call_and_return && pt->restorer);) {
		const struct tm_mapping *mapping = &all.items[i];

		if (mapping->executable && mapping->readable && strcmp(mapping->path, "[vsyscall]") != 0 &&
		    mapping->end - mapping->start <= SEARCHED_MAX)
			search_code(pt, mapping);
	}
	if (!pt->syscall_insn)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "process %d has no system call instruction to run", pt->base.pid);
	return NULL;
}

/* ---- the way back ---- */

/* The thread's own stack, as far as that can be told: below another one, a signal handler's or a coroutine's,
 * may lie anything. It stays where it is while the thread lives. */
static void find_room(struct tm_ptrace *pt, const struct tm_thread *thread, uint64_t sp, uint64_t pointer)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings all = {0};
	_cleanup_error_ struct tm_error *err = tm_ptrace_mappings(&pt->base, &all);
	const struct tm_mapping *mapping = err ? NULL : tm_mappings_find(&all, sp);

	pt->room_tid = 0;
	if (!mapping || !mapping->writable ||
	    (strcmp(mapping->path, "[stack]") != 0 && (pointer <= sp || pointer >= mapping->end)))
		return;
	pt->room_tid = thread->tid;
	pt->room_low = mapping->start;
	pt->room_high = strcmp(mapping->path, "[stack]") == 0 ? mapping->end : pointer;
}

static bool is_room(const struct tm_ptrace *pt, const struct tm_thread *thread, uint64_t sp, uint64_t start)
{
	return pt->room_tid == thread->tid && start >= pt->room_low && start < sp && sp <= pt->room_high;
}

static bool has_room(struct tm_ptrace *pt, const struct tm_thread *thread, const uint64_t *regset,
		     const struct tm_return_frame *frame)
{
	const struct tm_arch *arch = pt->base.arch;
	uint64_t pointer, sp;

	memcpy(&sp, (const char *)regset + arch->regset_offsets[arch->sp], sizeof(sp));
	memcpy(&pointer, (const char *)regset + arch->regset_thread_pointer, sizeof(pointer));
	if (!is_room(pt, thread, sp, frame->address))
		find_room(pt, thread, sp, pointer);
	return is_room(pt, thread, sp, frame->address);
}

/* The extended registers, whose number and size are the processor's. */
static bool read_extended(const struct tm_thread *thread, uint8_t *bytes, size_t *size)
{
	struct iovec iov = {bytes, *size};

	if (ptrace(PTRACE_GETREGSET, thread->tid, (void *)NT_X86_XSTATE, &iov) < 0)
		return false;
	*size = iov.iov_len;
	return true;
}

static bool make_frame(const struct tm_ptrace *pt, const struct tm_thread *thread,
		       struct tm_return_state *state, struct tm_return_frame *frame)
{
	uint8_t extended[TM_RETURN_FRAME_MAX];

	state->extended = extended;
	state->extended_size = sizeof(extended);
	return read_extended(thread, extended, &state->extended_size) &&
	       tm_return_frame_make(pt->base.arch, state, frame);
}

/* Puts a frame onto the thread's stack. False: it cannot be; the thread is then not safe from the tracer's
 * death until its registers are back. */
static bool write_way_back(struct tm_ptrace *pt, struct tm_thread *thread, const uint64_t *regset,
			   uint64_t mask, struct tm_return_frame *frame)
{
	struct tm_return_state state = {.regset = regset, .signal_mask = mask, .restorer = pt->restorer};
	_cleanup_error_ struct tm_error *err = NULL;

	if (!pt->call_and_return || !pt->restorer || pt->base.arch->regset_thread_pointer < 0 ||
	    !make_frame(pt, thread, &state, frame) || !has_room(pt, thread, regset, frame))
		return false;
	err = tm_target_write(&pt->base, frame->address, frame->bytes, frame->size);
	return !err;
}

/* ---- the thread that runs calls ---- */

struct tm_caller {
	struct tm_thread *thread;
	bool regs_valid;		   /* as before: a stop's pc may be another one than the kernel's */
	uint64_t saved[TM_REGSET_MAX / 8]; /* its registers */
	uint64_t mask;			   /* and its blocked signals */
	uint64_t away[TM_REGSET_MAX / 8];  /* registers for a call, but for its number and arguments */
	bool is_settled;		   /* it has run nothing since it was settled */
};

/* A seccomp filter may KILL the process for a system call that it does not expect: never in a thread that has
 * one. */
static bool may_inject(const struct tm_thread *thread)
{
	uint64_t seccomp;

	return thread->state == TM_THREAD_STOPPED && !thread->signal &&
	       !(thread->backend & THREAD_IN_VFORK) &&
	       tm_procfs_status_number(thread->tgid, thread->tid, "Seccomp", 10, &seccomp) && seccomp == 0;
}

static struct tm_thread *choose_thread(struct tm_target *target, struct tm_thread *preferred)
{
	struct tm_thread *thread;

	if (preferred && may_inject(preferred))
		return preferred;
	for (size_t i = 0; (thread = tm_target_next_thread(target, &i));)
		if (thread->tgid == target->pid && may_inject(thread))
			return thread;
	return NULL;
}

static void put_word(uint64_t *regset, uint16_t offset, uint64_t value)
{
	memcpy((char *)regset + offset, &value, sizeof(value));
}

static void note_event_stop(struct tm_thread *thread, int status)
{
	thread->backend &= ~(uint64_t)(THREAD_IN_CALL | THREAD_GROUP_STOP);
	if (tm_ptrace_is_stop_signal(WSTOPSIG(status)))
		thread->backend |= THREAD_GROUP_STOP;
}

/* Runs the thread on to a stop by PTRACE_INTERRUPT: in no system call, before its next instruction. A group
   stop in effect gives the stop signal's number instead of SIGTRAP: any event stop will do. */
static struct tm_error *settle(struct tm_ptrace *pt, struct tm_thread *thread)
{
	bool stands = thread->state == TM_THREAD_STOPPED;
	int status;

	if (ptrace(PTRACE_INTERRUPT, thread->tid, NULL, NULL) < 0)
		return tm_ptrace_thread_error(thread, "interrupt");
	for (;; stands = true) {
		struct tm_error *err = stands ? tm_ptrace_restart(pt, thread, PTRACE_CONT, 0) : NULL;

		if (err)
			return err;
		if (!tm_ptrace_wait_thread(pt, thread, &status))
			return tm_error_create(TM_ERROR_NO_PROCESS,
					       "a thread ended in an injected system call");
		thread->state = TM_THREAD_STOPPED;
		if (status >> 16 == PTRACE_EVENT_STOP)
			break;
		if (status >> 16 == 0)
			thread->signal = WSTOPSIG(status);
	}
	note_event_stop(thread, status);
	return NULL;
}

/* Where a call is run, with a way back where there can be one. */
static struct tm_error *prepare(struct tm_ptrace *pt, struct tm_caller *caller)
{
	_cleanup_free_ struct tm_return_frame *frame = aligned_alloc(64, sizeof(*frame));
	const struct tm_arch *arch = pt->base.arch;
	struct tm_thread *thread = caller->thread;
	bool safe;

	if (!frame)
		return tm_error_out_of_memory();
	if (ptrace(PTRACE_GETSIGMASK, thread->tid, (void *)sizeof(caller->mask), &caller->mask) < 0)
		return tm_ptrace_thread_error(thread, "read the blocked signals of");
	safe = write_way_back(pt, thread, caller->saved, caller->mask, frame);
	if (!safe)
		tm_log_info("thread %d runs a system call without a way back of its own", thread->tid);
	memcpy(caller->away, caller->saved, sizeof(caller->away));
	if (arch->syscall_restart >= 0)
		put_word(caller->away, (uint16_t)arch->syscall_restart, UINT64_MAX);
	put_word(caller->away, arch->regset_offsets[arch->pc], safe ? pt->call_and_return : pt->syscall_insn);
	if (safe)
		put_word(caller->away, arch->regset_offsets[arch->sp], frame->address);
	return NULL;
}

/* <linux/ptrace.h> (Linux 5.13), <linux/rseq.h>; the C library has them in other headers, or not yet. */
#define GET_RSEQ_CONFIGURATION 0x420f
#define RSEQ_CS_OFFSET	       8u /* in struct rseq */

struct rseq_configuration {
	uint64_t address;
	uint32_t size, signature, flags, unused;
};

struct rseq_section {
	uint32_t version, flags;
	uint64_t start, length, abort;
};

/*
 * A restartable sequence (rseq(2), by which tcmalloc for one works at what belongs to a CPU) is begun again
 * when the thread has done something else in its midst. The kernel sees to that where it comes back to it
 * from the kernel (kernel/rseq.c, rseq_ip_fixup), but forgets it as soon as the thread is anywhere else in
 * user mode: as it will be now.
 */
static void leave_sequence(struct tm_ptrace *pt, const struct tm_thread *thread, uint64_t *regset)
{
	uint16_t pc_offset = pt->base.arch->regset_offsets[pt->base.arch->pc];
	struct rseq_configuration rseq = {0};
	struct rseq_section section;
	uint64_t place = 0, pc;

	if (ptrace((enum __ptrace_request)GET_RSEQ_CONFIGURATION, thread->tid, (void *)sizeof(rseq), &rseq) <
		    (long)sizeof(rseq.address) ||
	    !rseq.address)
		return;
	if (tm_target_read_some(&pt->base, rseq.address + RSEQ_CS_OFFSET, &place, sizeof(place)) !=
		    sizeof(place) ||
	    !place || tm_target_read_some(&pt->base, place, &section, sizeof(section)) != sizeof(section))
		return;
	memcpy(&pc, (char *)regset + pc_offset, sizeof(pc));
	if (pc - section.start < section.length)
		put_word(regset, pc_offset, section.abort);
}

static struct tm_error *take_caller(struct tm_ptrace *pt, struct tm_thread *preferred)
{
	struct tm_thread *thread = choose_thread(&pt->base, preferred);
	struct tm_caller *caller;
	struct tm_error *err;

	if (!thread)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "no thread of process %d may run a system call for tmtrace: all have "
				       "a seccomp filter",
				       pt->base.pid);
	caller = calloc(1, sizeof(*caller));
	if (!caller)
		return tm_error_out_of_memory();
	caller->thread = thread;
	err = tm_ptrace_find_code(pt);
	if (!err)
		err = tm_ptrace_flush_pc(&pt->base, thread);
	if (!err && (thread->backend & THREAD_IN_CALL))
		err = settle(pt, thread);
	caller->regs_valid = thread->regs_valid;
	if (!err)
		err = tm_ptrace_get_regset(thread, caller->saved, pt->base.arch->regset_size);
	if (!err)
		leave_sequence(pt, thread, caller->saved);
	if (!err)
		err = prepare(pt, caller);
	if (err)
		free(caller);
	else
		pt->caller = caller;
	return err;
}

/* The way back, the mask as well: between the two the thread would lose nothing but a signal's punctuality.
   Nothing has been changed before the first call. */
static struct tm_error *bring_back(struct tm_ptrace *pt, struct tm_caller *caller)
{
	struct tm_error *err = tm_ptrace_restore_signals(caller->thread, caller->mask);

	return tm_error_first(
		err, tm_ptrace_set_regset(caller->thread, caller->saved, pt->base.arch->regset_size));
}

/*
 * On to where it is settled: only there, inside the kernel's signal handling, does restoring the registers
 * also restart a system call of the target's own that our stop interrupted (arch_do_signal_or_restart).
 */
static struct tm_error *return_caller(struct tm_ptrace *pt)
{
	struct tm_caller *caller = pt->caller;
	struct tm_error *err;

	if (!caller)
		return NULL;
	pt->caller = NULL;
	err = caller->is_settled ? NULL : settle(pt, caller->thread);
	if (!err || err->code != TM_ERROR_NO_PROCESS) {
		err = tm_error_first(err, bring_back(pt, caller));
		caller->thread->regs_valid = caller->regs_valid && !err;
	}
	free(caller);
	return err;
}

/* ---- the call ---- */

/* Into the call, and out of it. */
static struct tm_error *run_call(struct tm_ptrace *pt, long number, const uint64_t arguments[6],
				 int64_t *result)
{
	const struct tm_arch *arch = pt->base.arch;
	struct tm_thread *thread = pt->caller->thread;
	uint64_t regset[TM_REGSET_MAX / 8], mask;
	struct tm_error *err;

	pt->caller->is_settled = false;
	memcpy(regset, pt->caller->away, sizeof(regset));
	put_word(regset, arch->syscall_number, (uint64_t)number);
	for (int i = 0; i < 6; i++)
		put_word(regset, arch->syscall_arguments[i], arguments[i]);
	err = tm_ptrace_set_regset(thread, regset, arch->regset_size);
	if (!err)
		err = tm_ptrace_block_signals(thread, &mask);
	if (!err)
		err = tm_ptrace_run_until(pt, thread, PTRACE_SYSCALL, SIGTRAP | 0x80);
	if (!err)
		err = tm_ptrace_run_until(pt, thread, PTRACE_SYSCALL, SIGTRAP | 0x80);
	if (!err)
		err = tm_ptrace_get_regset(thread, regset, arch->regset_size);
	memcpy(result, (char *)regset + arch->syscall_result, sizeof(*result));
	return err;
}

/* A thread that has ended is not looked at again. */
static void forget_caller(struct tm_ptrace *pt)
{
	free(pt->caller);
	pt->caller = NULL;
}

struct tm_error *tm_ptrace_system_call(struct tm_target *target, struct tm_thread *preferred, long number,
				       const uint64_t arguments[6], int64_t *result)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);
	struct tm_error *err = pt->caller ? NULL : take_caller(pt, preferred);

	if (!err)
		err = run_call(pt, number, arguments, result);
	if (err && err->code == TM_ERROR_NO_PROCESS)
		forget_caller(pt);
	return pt->keeps_caller && !err ? NULL : tm_error_first(err, return_caller(pt));
}

void tm_ptrace_begin_calls(struct tm_target *target)
{
	tm_ptrace_of(target)->keeps_caller = true;
}

struct tm_error *tm_ptrace_end_calls(struct tm_target *target)
{
	tm_ptrace_of(target)->keeps_caller = false;
	return return_caller(tm_ptrace_of(target));
}

struct tm_error *tm_ptrace_run_briefly(struct tm_target *target, struct tm_thread *thread, uint64_t ns)
{
	const struct timespec moment = {0, (long)ns};
	struct tm_ptrace *pt = tm_ptrace_of(target);
	enum tm_ptrace_now now;
	struct tm_error *err;
	int status;

	if (thread->state != TM_THREAD_STOPPED || thread->signal)
		return NULL;
	err = tm_ptrace_flush_pc(target, thread);
	if (!err)
		err = tm_ptrace_restart(pt, thread, PTRACE_CONT, 0);
	if (err)
		return err;
	nanosleep(&moment, NULL); /* SIGCHLD may be pending, of an earlier stop */
	/* A stop that was asked for already comes before its first instruction. To ask again would bring the
	   next one there. */
	now = tm_ptrace_look_at_thread(pt, thread, &status);
	if (now == TM_PTRACE_ENDED)
		return NULL;
	if (now == TM_PTRACE_RUNS)
		return settle(pt, thread);
	thread->state = TM_THREAD_STOPPED;
	if (status >> 16 == PTRACE_EVENT_STOP)
		note_event_stop(thread, status);
	else if (status >> 16 == 0)
		thread->signal = WSTOPSIG(status);
	return NULL;
}

/* ---- routines ---- */

/* The way back is in the memory that the routine has for its stack, above that. */
static struct tm_error *prepare_routine(struct tm_ptrace *pt, const struct tm_routine *routine,
					uint64_t *regset)
{
	_cleanup_free_ struct tm_return_frame *frame = aligned_alloc(64, sizeof(*frame));
	struct tm_caller *caller = pt->caller;
	const struct tm_arch *arch = pt->base.arch;
	struct tm_return_state state = {
		.regset = caller->saved,
		.signal_mask = caller->mask,
		.restorer = routine->restorer,
		.stack = routine->stack,
	};

	if (!frame)
		return tm_error_out_of_memory();
	memcpy(regset, caller->saved, sizeof(caller->saved));
	if (!make_frame(pt, caller->thread, &state, frame) ||
	    !tm_return_frame_enter(arch, regset, routine->entry, routine->argument, frame->address))
		return tm_error_create(TM_ERROR_UNSUPPORTED, "thread %d would not find back by itself",
				       caller->thread->tid);
	return tm_target_write(&pt->base, frame->address, frame->bytes, frame->size);
}

struct tm_error *tm_ptrace_begin_routine(struct tm_target *target, const struct tm_routine *routine)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);
	uint64_t regset[TM_REGSET_MAX / 8], mask;
	struct tm_error *err = pt->caller ? NULL : take_caller(pt, NULL);

	if (!err)
		err = prepare_routine(pt, routine, regset);
	if (!err)
		pt->caller->is_settled = false;
	if (!err)
		err = tm_ptrace_set_regset(pt->caller->thread, regset, target->arch->regset_size);
	if (!err)
		err = tm_ptrace_block_signals(pt->caller->thread, &mask);
	if (!err)
		err = tm_ptrace_restart(pt, pt->caller->thread, PTRACE_CONT, 0);
	if (!err)
		pt->routine = *routine;
	return err;
}

struct tm_error *tm_ptrace_await_word(struct tm_target *target, uint64_t address, uint32_t value,
				      uint64_t expected_ns)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);
	struct tm_error *err;

	if (!pt->caller)
		return tm_error_create(TM_ERROR_NO_PROCESS, "a thread ended while it was worked on");
	err = tm_ptrace_await_word_of(pt, pt->caller->thread, address, value, expected_ns);
	if (err && err->code == TM_ERROR_NO_PROCESS)
		forget_caller(pt);
	return err;
}

/* Has it waited? If not, it has its registers back already, and they are not to be touched. */
static struct tm_error *check_waited(struct tm_ptrace *pt)
{
	const struct tm_arch *arch = pt->base.arch;
	uint64_t regset[TM_REGSET_MAX / 8], pc;
	pid_t tid = pt->caller->thread->tid;
	struct tm_error *err = tm_ptrace_get_regset(pt->caller->thread, regset, arch->regset_size);

	if (err)
		return err;
	memcpy(&pc, (char *)regset + arch->regset_offsets[arch->pc], sizeof(pc));
	if (pc - pt->routine.start < pt->routine.end - pt->routine.start)
		return NULL;
	forget_caller(pt);
	return tm_error_create(TM_ERROR_TIMEOUT, "thread %d of process %d has not waited for tmtrace", tid,
			       pt->base.pid);
}

struct tm_error *tm_ptrace_end_routine(struct tm_target *target)
{
	struct tm_ptrace *pt = tm_ptrace_of(target);
	struct tm_error *err;

	if (!pt->caller) /* it has ended */
		return NULL;
	err = settle(pt, pt->caller->thread);
	if (err && err->code == TM_ERROR_NO_PROCESS)
		forget_caller(pt);
	if (err)
		return err;
	pt->caller->is_settled = true;
	return check_waited(pt);
}
