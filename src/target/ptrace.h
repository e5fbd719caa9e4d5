/*
 * Targets by Linux ptrace(2) (PTRACE_SEIZE). All calls on one target come from the thread that attached.
 */
#ifndef TM_TARGET_PTRACE_H
#define TM_TARGET_PTRACE_H

#include "target/target.h"

/* Attaches to all tasks that share the memory of process pid: all or nothing. They run on: what is to be
   known of the process is looked at now, for from here on it executes no other program unseen. */
struct tm_error *tm_ptrace_attach(pid_t pid, const struct tm_arch *arch, struct tm_target **out);

/* Stops them all, within a bounded time (an error names the task that did not stop). *replaced: it has
   executed another program meanwhile. Nothing else may have been done with the target before. */
struct tm_error *tm_ptrace_begin(struct tm_target *target, bool *replaced);

/* Starts a program, which stands at its first instruction (of the dynamic linker, if it has one): the first
   wait reports TM_STOP_EXEC. Standard input and output are ours. TM_ERROR_NOT_FOUND, TM_ERROR_PERMISSION,
   ...: it could not be executed. */
struct tm_error *tm_ptrace_launch(char *const argv[], struct tm_target **out);

/* Moves this thread to the CPU on which `thread` runs, at most every 10 ms: a stop costs half as much there.
 */
void tm_ptrace_follow_cpu(struct tm_target *target, const struct tm_thread *thread, uint64_t now_ns);

#endif
