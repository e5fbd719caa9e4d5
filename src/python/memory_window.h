/*
 * A window of a target's memory for reading structures that lie close together: one system call brings the
 * rest of a structure's page with it, and the callers' frames, which CPython 3.11 and later keep one behind
 * the other. Valid while the thread stands still.
 */
#ifndef TM_PYTHON_MEMORY_WINDOW_H
#define TM_PYTHON_MEMORY_WINDOW_H

#include <stdbool.h>

#include "base/memory.h"

#define TM_WINDOW_PAGE 4096u

struct tm_memory_window {
	const struct tm_memory *memory;
	uint64_t start;
	size_t size; /* 0: nothing was read */
	uint8_t bytes[2 * TM_WINDOW_PAGE];
};

static inline void tm_memory_window_begin(struct tm_memory_window *window, const struct tm_memory *memory)
{
	window->memory = memory;
	window->size = 0;
}

/* [address, address + size), valid until the next call; NULL: cannot be read. size is at most a page.
   `with_page`: what lies before it in its page is likely to be wanted next. */
const uint8_t *tm_memory_window_get(struct tm_memory_window *window, uint64_t address, size_t size,
				    bool with_page);

#endif
