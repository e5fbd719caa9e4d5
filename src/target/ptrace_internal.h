/*
 * What ptrace.c (one stopped thread), ptrace_inject.c (system calls of it), ptrace_wait.c (what a wait status
 * means) and ptrace_attach.c (coming and going) share.
 */
#ifndef TM_TARGET_PTRACE_INTERNAL_H
#define TM_TARGET_PTRACE_INTERNAL_H

#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>

#include "base/vector.h"
#include "target/target.h"

/* Flags of a thread (tm_thread.backend). */
enum {
	THREAD_GROUP_STOP = 1, /* its last stop was a group stop: it is resumed by PTRACE_LISTEN */
	THREAD_LISTENING = 2,  /* RUNNING for us, stopped for the world */
	THREAD_REPORTING = 4,  /* a queued stop is about it: resume_all leaves it */
	THREAD_IN_CALL =
		8, /* stands inside a system call (an event of fork, clone, exec) that ends when it runs on */
	THREAD_IN_VFORK = 16, /* the same, but it ends only with its child */
	THREAD_PC_AHEAD = 32, /* the kernel's pc is still behind the breakpoint instruction, thread->regs has
				 its address: setting it back is left to whoever resumes the thread, who sets
				 the pc anyway */
	THREAD_PASSED_OVER =
		64, /* it was let out of a group stop, which has to be asked for again at its next stop */
};

struct tm_ptrace {
	struct tm_target base;
	int mem_fd;				 /* /proc/PID/mem */
	struct tm_vector(struct tm_stop) queued; /* stops seen while something else was waited for */
	struct tm_vector(pid_t) children;	 /* forked children that stand still until release_child */
	/* A birth shows twice, in either order: an event of the creator, the first stop of the new task.
	 * Tasks of which one was seen: */
	struct tm_map unpaired;		    /* tid -> TM_BIRTH_EXPECTED or TM_BIRTH_EARLY */
	size_t expected;		    /* how many TM_BIRTH_EXPECTED */
	uint64_t syscall_insn;		    /* address of a system call instruction; 0: not looked for yet */
	uint64_t call_and_return, restorer; /* what a thread needs to find back by itself; 0: not there */
	pid_t room_tid;			    /* whose stack has [room_low, room_high) */
	uint64_t room_low, room_high;
	uint64_t syscall_image;			 /* the image in which they were looked for */
	struct tm_caller *caller;		 /* the thread that is away to run calls; NULL: none */
	bool keeps_caller;			 /* it is not brought back after each */
	struct tm_routine routine;		 /* that it runs, or has run last */
	uint64_t last_follow_ns, steer_until_ns; /* ptrace_cpu.c; steer_until_ns 0: not steering */
	pid_t streak_tid;			 /* whose stops the last `streak` ones were */
	unsigned streak;
	int cpu;		     /* where this thread is bound; -1: nowhere */
	uint64_t crowded_until_ns;   /* until then it yields to nobody (ptrace_wait.c) */
	cpu_set_t original_affinity; /* of this thread, */
	int original_policy;	     /* its sched(7) policy */
	struct sched_param original_priority;
	sigset_t original_mask;		  /* and its blocked signals */
	struct sigaction original_action; /* on SIGCHLD */
	bool attached;
	bool still;		     /* all tasks stand still, and none has run since: */
	struct tm_mappings mappings; /* the memory map, then; empty: not read yet */
};

enum { TM_BIRTH_EXPECTED, TM_BIRTH_EARLY };

static inline struct tm_ptrace *tm_ptrace_of(struct tm_target *target)
{
	return (struct tm_ptrace *)target;
}

/* How long an uninterruptible sleep is waited for before the sleeper counts as stopped. */
#define TM_SLEEPER_PATIENCE_MS 10

#define TM_PTRACE_OPTIONS                                                                                    \
	(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK |            \
	 PTRACE_O_TRACEEXEC)

/* ptrace.c */
extern const struct tm_target_ops tm_ptrace_ops;
struct tm_error *tm_ptrace_thread_error(const struct tm_thread *thread, const char *what); /* of errno */
struct tm_error *tm_ptrace_get_regset(const struct tm_thread *thread, void *regset,
				      size_t size); /* NT_PRSTATUS */
struct tm_error *tm_ptrace_set_regset(const struct tm_thread *thread, void *regset, size_t size);
struct tm_error *tm_ptrace_restart(struct tm_ptrace *pt, struct tm_thread *thread, int request, int signal);
struct tm_error *tm_ptrace_run_until(struct tm_ptrace *pt, struct tm_thread *thread, int request,
				     int expected);
struct tm_error *tm_ptrace_block_signals(const struct tm_thread *thread, uint64_t *mask);
struct tm_error *tm_ptrace_restore_signals(const struct tm_thread *thread, uint64_t mask);
struct tm_error *tm_ptrace_mappings(struct tm_target *target, struct tm_mappings *mappings);
struct tm_error *tm_ptrace_fetch_regs(struct tm_target *target, struct tm_thread *thread);
struct tm_error *tm_ptrace_store_pc(struct tm_target *target, struct tm_thread *thread, uint64_t pc);
struct tm_error *tm_ptrace_flush_pc(struct tm_target *target,
				    struct tm_thread *thread); /* ends THREAD_PC_AHEAD */
struct tm_error *tm_ptrace_resume(struct tm_target *target, struct tm_thread *thread);
struct tm_error *tm_ptrace_open_memory(struct tm_ptrace *pt);
bool tm_ptrace_trap_is_breakpoint(
	pid_t tid); /* the SIGTRAP that it stands at came from a breakpoint instruction */

/* ptrace_inject.c */
/* Finds the code that injected calls need, or sees that it is still there. Nothing need stand still. */
struct tm_error *tm_ptrace_find_code(struct tm_ptrace *pt);
struct tm_error *tm_ptrace_system_call(struct tm_target *target, struct tm_thread *preferred, long number,
				       const uint64_t arguments[6], int64_t *result);
void tm_ptrace_begin_calls(struct tm_target *target);
struct tm_error *tm_ptrace_end_calls(struct tm_target *target);
struct tm_error *tm_ptrace_run_briefly(struct tm_target *target, struct tm_thread *thread, uint64_t ns);
struct tm_error *tm_ptrace_begin_routine(struct tm_target *target, const struct tm_routine *routine);
struct tm_error *tm_ptrace_await_word(struct tm_target *target, uint64_t address, uint32_t value,
				      uint64_t expected_ns);
struct tm_error *tm_ptrace_end_routine(struct tm_target *target);

/* ptrace_cpu.c */
/* Narrows the thread's affinity to our CPU for its wake-up, if it is steered; its own goes to *own and must
 * be put back at once. */
bool tm_ptrace_steer(struct tm_ptrace *pt, const struct tm_thread *thread, cpu_set_t *own);
void tm_ptrace_widen_new_task(struct tm_ptrace *pt, const struct tm_thread *creator, pid_t tid);
void tm_ptrace_unsteer(const struct tm_thread *thread, const cpu_set_t *own);
void tm_ptrace_unbind_cpu(struct tm_ptrace *pt); /* undoes tm_ptrace_follow_cpu */
/* Where there are many threads: none of them takes the CPU from us until it is shared again. False: it may.
 */
bool tm_ptrace_hold_cpu(struct tm_ptrace *pt);
void tm_ptrace_share_cpu(struct tm_ptrace *pt, bool held);

/* ptrace_wait.c */
struct tm_error *tm_ptrace_wait(struct tm_target *target, struct tm_stop *stop);
struct tm_error *tm_ptrace_poll(struct tm_target *target, struct tm_stop *stop);
void tm_ptrace_prepare_pauses(struct tm_ptrace *pt); /* of the calling thread, the one that will wait */
void tm_ptrace_pause(struct tm_target *target, uint64_t duration_ns, uint32_t *asleep);
struct tm_error *tm_ptrace_stop_all(struct tm_target *target, unsigned timeout_ms);
bool tm_ptrace_next_queued(struct tm_target *target, struct tm_stop *stop);
struct tm_error *tm_ptrace_resume_all(struct tm_target *target, const struct tm_thread *except);
/* Waits until some thread has stopped, at most timeout_ms. */
void tm_ptrace_await_any(struct tm_ptrace *pt, unsigned timeout_ms);
/* Waits for one thread; its end is noted (and queued, if it was the last). false: it is gone. */
bool tm_ptrace_wait_thread(struct tm_ptrace *pt, struct tm_thread *thread, int *status);
/* The same without waiting. */
enum tm_ptrace_now { TM_PTRACE_RUNS, TM_PTRACE_STANDS, TM_PTRACE_ENDED };
enum tm_ptrace_now tm_ptrace_look_at_thread(struct tm_ptrace *pt, struct tm_thread *thread, int *status);
/* A thread that runs writes it; what stops it meanwhile is passed over. */
struct tm_error *tm_ptrace_await_word_of(struct tm_ptrace *pt, struct tm_thread *thread, uint64_t address,
					 uint32_t value, uint64_t expected_ns);

/* ptrace_attach.c */
struct tm_error *tm_ptrace_detach(struct tm_target *target);
void tm_ptrace_destroy(struct tm_target *target);

/* signal numbers of a group stop: signal(7), "Term/Stop" default actions */
bool tm_ptrace_is_stop_signal(int signal);

#endif
