/*
 * What /proc tells about processes (proc(5)), and why one may not be traced. Reads only.
 */
#ifndef TM_TARGET_PROCFS_H
#define TM_TARGET_PROCFS_H

#include <sys/types.h>

#include "arch/arch.h"
#include "base/mapping.h"
#include "base/memory.h"

struct tm_process_info {
	pid_t pid; /* of the thread group's leader */
	char comm[32];
	char *exe;     /* link text of /proc/PID/exe; NULL if unreadable */
	char *command; /* JSON array of the arguments */
	const struct tm_arch *arch;
};

/* Looks whether pid could be traced, before anything is changed: no such process, kernel thread, zombie,
   already traced (and by whom), 32-bit or foreign, tmtrace itself. A thread's number stands for its process.
 */
struct tm_error *tm_procfs_inspect(pid_t pid, struct tm_process_info *info);
/* The same for a process that we trace already: after an exec. */
struct tm_error *tm_procfs_identify(pid_t pid, struct tm_process_info *info);
void tm_process_info_deinit(struct tm_process_info *info);

/* The kernel refused (EPERM) to trace pid: an error that says which of uid, yama, capability, seccomp is in
   the way, and the cure. */
struct tm_error *tm_procfs_explain_refusal(pid_t pid);

struct tm_error *tm_procfs_mappings(pid_t pid, struct tm_mappings *mappings);

/* The memory of a process that need not be traced (process_vm_readv(2)); *pid must outlive it. */
struct tm_memory tm_procfs_memory(pid_t *pid);

/* A field of /proc/PID/task/TID/status as a number (base 10 or, for masks, 16); false if there is none. */
bool tm_procfs_status_number(pid_t pid, pid_t tid, const char *field, int base, uint64_t *value);

/* State letter of a thread (R S D T t Z X), 0 if it is gone. */
char tm_procfs_state(pid_t pid, pid_t tid);
/* The CPU a thread last ran on (field 39 of stat), -1 if unknown. */
int tm_procfs_cpu(pid_t pid, pid_t tid);
/* Name of a thread into comm[32]; "?" if it is gone. */
void tm_procfs_comm(pid_t pid, pid_t tid, char comm[32]);
/* Resident set in bytes, 0 if unknown. */
uint64_t tm_procfs_rss(pid_t pid);

/* Calls visit for every task of a process until it returns false; false if the process is gone. */
bool tm_procfs_each_task(pid_t pid, bool (*visit)(pid_t tid, void *context), void *context);
/* The same for every process of the system. */
bool tm_procfs_each_process(bool (*visit)(pid_t pid, void *context), void *context);

/* Do two tasks share their memory (kcmp(2))? false if it cannot be told, or `b` has none. */
bool tm_procfs_same_memory(pid_t a, pid_t b);

#endif
