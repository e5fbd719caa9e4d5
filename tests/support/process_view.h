/*
 * A process as the unwinder sees it: its modules, their CFI, its memory. For tests and benchmarks: of this
 * very process, of a child, or of a thread that is stopped under ptrace.
 */
#ifndef TM_TESTS_SUPPORT_PROCESS_VIEW_H
#define TM_TESTS_SUPPORT_PROCESS_VIEW_H

#include <sys/types.h>
#include <ucontext.h>

#include "debuginfo/cfi.h"
#include "target/capture.h"

struct tm_process_view {
	pid_t pid;
	int memory_fd;
	size_t reads; /* of memory, so far */
	struct tm_memory memory;
	struct tm_module_map *map;
	struct tm_cfi *cfi;
};

/* Aborts the test if it cannot be had. The view must not move: memory points into it. */
void tm_process_view_open(struct tm_process_view *view, pid_t pid);
void tm_process_view_update(struct tm_process_view *view); /* reads the memory map again */
void tm_process_view_close(struct tm_process_view *view);

/* The general registers in what getcontext() stored. */
void tm_regs_from_ucontext(const ucontext_t *context, struct tm_regs *regs);

#endif
