/*
 * What the native entries of native.c call once they have kept the registers: the recorder's C. In the target
 * nothing else calls it; tests do.
 *
 * `words`: of the pad (TM_PAD_WORDS, shared.h). `cfa`: of the call that the pad stands for. `fp`: rbp, the
 * caller's.
 */
#ifndef TM_RECORDER_NATIVE_H
#define TM_RECORDER_NATIVE_H

#include <stdbool.h>
#include <stdint.h>

/* The caller's registers that a call keeps, as the last entry pushes them, from the stack pointer up. */
struct tm_native_registers {
	uint64_t rbp, rbx, r12, r13, r14, r15;
};

void tm_native_free(uint64_t block, uint64_t cfa);
void tm_native_new(uint64_t size, uint64_t cfa);
void tm_native_new_ends(uint64_t size, uint64_t cfa);
void tm_native_loader(void);
void tm_native_resize(const uint64_t *words);

/* false: the tracer has to look, and tm_native_leave_looked_at is to be called with the same. */
bool tm_native_leave(uint64_t result, uint64_t *words, uint64_t fp);
void tm_native_leave_looked_at(uint64_t result, const uint64_t *words,
			       const struct tm_native_registers *kept);

#endif
