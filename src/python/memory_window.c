#include "python/memory_window.h"

#include <assert.h>

const uint8_t *tm_memory_window_get(struct tm_memory_window *window, uint64_t address, size_t size,
				    bool with_page)
{
	uint64_t start = with_page ? address & ~(uint64_t)(TM_WINDOW_PAGE - 1) : address;
	struct tm_error *err;

	assert(size <= TM_WINDOW_PAGE);
	if (window->size >= size && address >= window->start &&
	    address - window->start <= window->size - size)
		return window->bytes + (address - window->start);
	if (address > UINT64_MAX - size)
		return NULL;
	window->start = start;
	window->size = address - start + size;
	err = tm_memory_read(window->memory, start, window->bytes, window->size);
	if (!err)
		return window->bytes + (address - start);
	window->size = 0;
	tm_error_destroy(err);
	return NULL;
}
