/*
 * Another unwinder to compare with: libdwfl's own walk of a thread that is stopped under ptrace. It is
 * trusted to find frames by their CFI; it knows no pointer authentication.
 */
#ifndef TM_TESTS_SUPPORT_DWFL_ORACLE_H
#define TM_TESTS_SUPPORT_DWFL_ORACLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct tm_oracle_frame {
	uint64_t pc;
	bool exact; /* the innermost, or interrupted by a signal */
};

struct tm_oracle {
	pid_t pid;
	uint64_t generation; /* that the modules were reported at */
	void *dwfl;
	struct {
		struct tm_oracle_frame *items;
		size_t count, capacity;
	} frames;
	bool failed; /* the walk ended in an error, not at the outermost frame */
};

/* Walks thread tid of pid. The modules are looked up again when `generation` is not that of the call before.
 */
void tm_oracle_walk(struct tm_oracle *oracle, pid_t pid, pid_t tid, uint64_t generation);
void tm_oracle_deinit(struct tm_oracle *oracle);

#endif
