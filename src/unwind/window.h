/*
 * The stack as a walk sees it: the bytes of the capture, and behind them the memory of the thread while it
 * stands, read in pages that are kept for the walk. A deep stack costs one read for each page of it.
 */
#ifndef TM_UNWIND_WINDOW_H
#define TM_UNWIND_WINDOW_H

#include <string.h>

#include "target/capture.h"

struct tm_window_pages; /* storage for pages; kept by a walk from one use to the next */

struct tm_window {
	const uint8_t *bytes;
	uint64_t start;
	size_t word_limit; /* a word may be read at start + n for n < word_limit */
	const struct tm_capture *capture;
	struct tm_window_pages **pages; /* made when first needed */
	uint64_t lowest_unread;		/* see struct tm_walk */
};

/* *pages is NULL at first; what it holds from an earlier walk is forgotten. */
void tm_window_init(struct tm_window *window, const struct tm_capture *capture,
		    struct tm_window_pages **pages);
void tm_window_pages_destroy(struct tm_window_pages *pages);

/* Reads 1..8 bytes, little endian; false if they cannot be had. */
bool tm_window_read(struct tm_window *window, uint64_t address, unsigned size, uint64_t *value);

static inline bool tm_window_word(struct tm_window *window, uint64_t address, uint64_t *value)
{
	uint64_t offset = address - window->start, outside;

	if (__builtin_expect(offset < window->word_limit, 1)) {
		memcpy(value, window->bytes + offset, sizeof(*value));
		return true;
	}
	/* `value` itself is not passed on, so that it can stay in a register. */
	if (!tm_window_read(window, address, sizeof(outside), &outside))
		return false;
	*value = outside;
	return true;
}

#endif
