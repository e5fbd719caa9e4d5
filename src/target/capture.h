/*
 * A capture: registers and a window of stack bytes of one thread at one moment, read in one piece while it
 * stood still (or taken from a record). Everything that walks a stack works on this, never on the process.
 */
#ifndef TM_TARGET_CAPTURE_H
#define TM_TARGET_CAPTURE_H

#include "arch/arch.h"
#include "base/memory.h"

struct tm_capture {
	struct tm_regs regs;
	uint64_t start;	      /* address of bytes[0]; normally the stack pointer */
	const uint8_t *bytes; /* owned by whoever made the capture */
	size_t size;
	const struct tm_memory
		*memory; /* for bytes outside the window while the thread still stands; NULL: none */
};

#endif
