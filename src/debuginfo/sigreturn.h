/*
 * Signal trampolines: the few instructions a signal handler returns to, which call rt_sigreturn. They are
 * known by their bytes, as in libgcc's fallback unwinders, because their CFI is often absent (musl) or of no
 * use: that of the arm64 vdso leads to the caller of the interrupted function and skips the function itself
 * (arch/arm64/kernel/vdso/sigreturn.S).
 */
#ifndef TM_DEBUGINFO_SIGRETURN_H
#define TM_DEBUGINFO_SIGRETURN_H

#include "debuginfo/cfi.h"

#define TM_SIGRETURN_SIZE_MAX 9

/*
 * Whether code stands in a signal trampoline. `bytes` are those from `at` bytes before vaddr on; a handler's
 * return address is the trampoline's first byte, so its lookup address is one byte before that. If so *row is
 * filled in for it; the rules go to the caller's array of TM_REGISTERS_MAX.
 */
bool tm_sigreturn_row(const struct tm_arch *arch, const uint8_t *bytes, size_t size, size_t at,
		      uint64_t vaddr, struct tm_rule *rules, struct tm_row *row);

#endif
