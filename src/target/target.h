/*
 * A target: a stopped or running process, as a small table of operations. Linux ptrace (ptrace.c) and the
 * tests' fake fill it in. Everything above this layer sees threads, stops, registers and memory, nothing of
 * the kernel's interface.
 *
 * A thread is RUNNING or STOPPED. tm_target_wait returns one stop of one thread, which then stands still
 * until tm_target_resume. Signals, group stops and SIGCONT are passed on inside wait: the target behaves as
 * without us.
 *
 * "Threads" are all tasks that share the target's memory: its own, and vfork, posix_spawn or clone(CLONE_VM)
 * children until they exec or exit. A child with a memory of its own (fork) is reported once, stopped, and
 * must be released.
 */
#ifndef TM_TARGET_TARGET_H
#define TM_TARGET_TARGET_H

#include <sys/types.h>

#include "arch/arch.h"
#include "base/hash.h"
#include "base/mapping.h"
#include "base/memory.h"
#include "base/vector.h"

struct tm_breakpoints;
struct tm_target;

#define TM_CAPTURE_DEFAULT 2048u
#define TM_CAPTURE_MAX	   65536u

enum tm_thread_state { TM_THREAD_RUNNING, TM_THREAD_STOPPED };

struct tm_thread {
	pid_t tid;
	pid_t tgid; /* differs from target->pid for a vfork child and its like */
	enum tm_thread_state state;
	struct tm_regs regs; /* valid after tm_target_fetch_regs, while stopped */
	bool regs_valid;
	unsigned
		signal_count; /* signals delivered to it so far: tells whether a handler may have run since */
	void *probe;	      /* the probe's state of it */
	size_t capture_size;  /* bytes of stack that a capture takes; whoever walks them adapts it */
	uint64_t backend;     /* flags of the implementation */
	int signal;	      /* to be delivered when it is resumed; 0: none */
};

enum tm_stop_kind {
	TM_STOP_NONE,	    /* wait was interrupted by a signal to this program */
	TM_STOP_BREAKPOINT, /* thread stands at an inserted breakpoint: regs are valid and regs.pc is its
			       address */
	TM_STOP_BIRTH,	    /* a new thread, before its first instruction */
	TM_STOP_FORK, /* child `child` has a copy of the memory; scrub it, then tm_target_release_child */
	TM_STOP_EXEC, /* the target's image was replaced; `thread` is its only one; breakpoints are gone with
			 the memory. Tasks that still shared the old memory have been cleaned and released */
	TM_STOP_EXIT, /* the whole process is gone; wait_status as wait(2) gives it */
};

struct tm_stop {
	enum tm_stop_kind kind;
	struct tm_thread *thread;
	uint64_t address; /* BREAKPOINT */
	pid_t child;	  /* FORK */
	int wait_status;  /* EXIT */
};

/* Code that has been written into the target, for one of its threads to run: it says by words in memory how
 * far it is, and waits at its end. Where it waits for long it returns, and the thread is as it was before:
 * nobody takes it away any more. */
struct tm_routine {
	uint64_t entry, argument; /* its address, and its only argument */
	uint64_t start, end;	  /* all of its code */
	uint64_t restorer;	  /* code that calls rt_sigreturn, where it returns to */
	uint64_t stack;		  /* the upper end of TM_ROUTINE_STACK bytes that nobody else uses */
};
#define TM_ROUTINE_STACK 32768u

struct tm_target_ops {
	struct tm_error *(*wait)(struct tm_target *target, struct tm_stop *stop);
	struct tm_error *(*poll)(struct tm_target *target, struct tm_stop *stop);
	void (*pause)(struct tm_target *target, uint64_t duration_ns, uint32_t *asleep);
	bool (*next_queued)(struct tm_target *target, struct tm_stop *stop);
	struct tm_error *(*resume)(struct tm_target *target, struct tm_thread *thread);
	struct tm_error *(*stop_all)(struct tm_target *target, unsigned timeout_ms);
	struct tm_error *(*resume_all)(struct tm_target *target, const struct tm_thread *except);
	struct tm_error *(*fetch_regs)(struct tm_target *target, struct tm_thread *thread);
	struct tm_error *(*store_regs)(struct tm_target *target, struct tm_thread *thread);
	struct tm_error *(*store_pc)(struct tm_target *target, struct tm_thread *thread, uint64_t pc);
	struct tm_error *(*thread_pointer)(struct tm_target *target, struct tm_thread *thread,
					   uint64_t *pointer);
	struct tm_error *(*read_memory)(struct tm_target *target, uint64_t address, void *buffer,
					size_t size);
	size_t (*read_some)(struct tm_target *target, uint64_t address, void *buffer, size_t size);
	struct tm_error *(*write_memory)(struct tm_target *target, uint64_t address, const void *bytes,
					 size_t size);
	struct tm_error *(*write_child)(struct tm_target *target, pid_t child, uint64_t address,
					const void *bytes, size_t size);
	struct tm_error *(*read_child)(struct tm_target *target, pid_t child, uint64_t address, void *buffer,
				       size_t size);
	struct tm_error *(*release_child)(struct tm_target *target, pid_t child);
	struct tm_error *(*step)(struct tm_target *target, struct tm_thread *thread);
	struct tm_error *(*system_call)(struct tm_target *target, struct tm_thread *thread, long number,
					const uint64_t arguments[6], int64_t *result);
	void (*begin_calls)(struct tm_target *target);		 /* NULL, and so the next: */
	struct tm_error *(*end_calls)(struct tm_target *target); /* each call is alone */
	struct tm_error *(*run_briefly)(struct tm_target *target, struct tm_thread *thread, uint64_t ns);
	struct tm_error *(*begin_routine)(struct tm_target *target, const struct tm_routine *routine);
	struct tm_error *(*await_word)(struct tm_target *target, uint64_t address, uint32_t value,
				       uint64_t expected_ns);
	struct tm_error *(*end_routine)(struct tm_target *target);
	struct tm_error *(*mappings)(struct tm_target *target, struct tm_mappings *mappings);
	struct tm_error *(*detach)(struct tm_target *target);
	void (*destroy)(struct tm_target *target);
};

struct tm_target {
	const struct tm_target_ops *ops;
	const struct tm_arch *arch;
	pid_t pid;
	struct tm_map threads; /* tid -> struct tm_thread * */
	struct tm_breakpoints
		*breakpoints; /* set by the session; NULL until then. Consulted for what a trap means */
	struct tm_vector(struct tm_thread *) buried; /* gone; their objects live until the next wait */
	uint64_t image; /* rises at each exec: what was known of the memory before is void */
	uint64_t pac_mask;
	bool exited;
	/* Called for each thread that is gone; may be NULL. */
	void (*thread_gone)(void *context, struct tm_thread *thread);
	void *thread_gone_context;
};

/* ---- what every implementation shares ---- */

void tm_target_destroy(
	struct tm_target *target); /* NULL is fine; a target that is still attached is detached */

/* The next stop. TM_STOP_NONE when a signal handler of this program ran meanwhile. */
struct tm_error *tm_target_wait(struct tm_target *target, struct tm_stop *stop);

/* The same without waiting: TM_STOP_NONE if there is nothing to report now. */
struct tm_error *tm_target_poll(struct tm_target *target, struct tm_stop *stop);

/*
 * Sleeps, at most for so long (less than a second). It ends when there may be something to report, or a
 * signal handler of this program ran. Never later: what stands still for us must not wait for the end of a
 * pause.
 *
 * asleep, if not NULL: a word in memory that is shared with others. It is 1 while we sleep; who makes it 0
 * and wakes one that waits on it (futex(2), FUTEX_WAKE, not private) ends the pause.
 */
void tm_target_pause(struct tm_target *target, uint64_t duration_ns, uint32_t *asleep);

/* A stop that was seen while something else was waited for, without waiting; false if there is none. */
bool tm_target_next_queued(struct tm_target *target, struct tm_stop *stop);

/* Lets a stopped thread run (with its pending signal). A thread that has died meanwhile is no error. */
struct tm_error *tm_target_resume(struct tm_target *target, struct tm_thread *thread);

/*
 * Stops every thread. Breakpoints that were hit meanwhile are taken back: the thread stands at the
 * breakpoint's address and will hit it again. TM_ERROR_TIMEOUT names a thread that did not stop in time (all
 * are left as they are then, call resume_all). A task that sleeps uninterruptibly in the kernel (a parent in
 * vfork) counts as stopped: it stops before it executes another instruction. Births and deaths meanwhile are
 * reported by later waits.
 */
#define TM_STOP_TIMEOUT_MS 3000u /* for threads that run; who takes longer is stuck in the kernel */
struct tm_error *tm_target_stop_all(struct tm_target *target, unsigned timeout_ms);
/* Lets all run again, but for `except` (the thread whose stop is being handled; NULL: none) and those whose
 * stops wait to be reported. */
struct tm_error *tm_target_resume_all(struct tm_target *target, const struct tm_thread *except);

/* Registers of a stopped thread into thread->regs (cached until it runs). */
struct tm_error *tm_target_fetch_regs(struct tm_target *target, struct tm_thread *thread);
struct tm_error *tm_target_store_regs(struct tm_target *target,
				      struct tm_thread *thread); /* writes thread->regs */
struct tm_error *tm_target_store_pc(struct tm_target *target, struct tm_thread *thread, uint64_t pc);

/* The thread pointer of a stopped thread (x86-64: fs's base, pthread_self); 0 where it is not told. */
struct tm_error *tm_target_thread_pointer(struct tm_target *target, struct tm_thread *thread,
					  uint64_t *pointer);

/* Memory, whatever its protection. Exactly size bytes or an error. */
struct tm_error *tm_target_read(struct tm_target *target, uint64_t address, void *buffer, size_t size);
/* As many of the bytes as are there, from address on; their number. */
size_t tm_target_read_some(struct tm_target *target, uint64_t address, void *buffer, size_t size);
struct tm_error *tm_target_write(struct tm_target *target, uint64_t address, const void *bytes, size_t size);
struct tm_memory tm_target_memory(struct tm_target *target);

/* Executes one instruction of a stopped thread; for stepping in place only. */
struct tm_error *tm_target_step(struct tm_target *target, struct tm_thread *thread);

/* Lets a stopped thread run alone for about so long, though the process may be stopped by a signal. One that
   has a signal to take stays where it is. */
struct tm_error *tm_target_run_briefly(struct tm_target *target, struct tm_thread *thread, uint64_t ns);

/* Runs a system call in the target, in a thread that no seccomp filter watches, while all threads stand still
   or `preferred` does. TM_ERROR_UNSUPPORTED names the reason if there is no such thread. *result is as the
   kernel returns it: negative errno. */
struct tm_error *tm_target_system_call(struct tm_target *target, struct tm_thread *preferred, long number,
				       const uint64_t arguments[6], int64_t *result);

/* Between the two, one thread runs all system calls, and is brought back at the end instead of after each:
   that takes a third less time. Threads must not be looked at meanwhile. */
void tm_target_begin_calls(struct tm_target *target);
struct tm_error *tm_target_end_calls(struct tm_target *target);

/*
 * The thread that runs system calls runs a routine, between tm_target_begin_calls and tm_target_end_calls;
 * its signals are blocked, and there can be no calls until the end. The tracer may die at any time.
 *
 * tm_target_await_word returns when a word of the target has a value, which the routine writes. It is looked
 * at after the time that it is expected to take: a look takes the lock of the memory map. TM_ERROR_TIMEOUT,
 * of it as of the end: the thread has not come so far, or has not waited.
 */
struct tm_error *tm_target_begin_routine(struct tm_target *target, const struct tm_routine *routine);
struct tm_error *tm_target_await_word(struct tm_target *target, uint64_t address, uint32_t value,
				      uint64_t expected_ns);
struct tm_error *tm_target_end_routine(struct tm_target *target);

struct tm_error *tm_target_mappings(struct tm_target *target, struct tm_mappings *mappings);

/* Lets go of the target for good: all threads run on as if nobody had been there. Breakpoints must have been
 * removed. */
struct tm_error *tm_target_detach(struct tm_target *target);

struct tm_thread *tm_target_thread(const struct tm_target *target, pid_t tid);
/* for (size_t i = 0; (thread = tm_target_next_thread(target, &i));) */
struct tm_thread *tm_target_next_thread(const struct tm_target *target, size_t *position);

/* For implementations: adds a thread (NULL: out of memory) or forgets one, whose object stays readable until
 * the next wait. */
struct tm_thread *tm_target_add_thread(struct tm_target *target, pid_t tid, pid_t tgid);
void tm_target_remove_thread(struct tm_target *target, struct tm_thread *thread);
void tm_target_deinit(struct tm_target *target); /* what is in struct tm_target itself */

#endif
