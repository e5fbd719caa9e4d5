#include "unwind/window.h"

#include <stdlib.h>

#define PAGE  4096u
#define SLOTS 16u /* a power of two: page n of memory is kept in slot n % SLOTS */

enum page_state { PAGE_FREE, PAGE_READ, PAGE_UNREADABLE };

struct tm_window_pages {
	struct {
		uint64_t address;
		enum page_state state;
	} slots[SLOTS];
	uint8_t bytes[SLOTS][PAGE];
};

void tm_window_init(struct tm_window *window, const struct tm_capture *capture,
		    struct tm_window_pages **pages)
{
	window->bytes = capture->bytes;
	window->start = capture->start;
	window->word_limit = capture->size >= sizeof(uint64_t) ? capture->size - sizeof(uint64_t) + 1 : 0;
	window->capture = capture;
	window->pages = pages;
	window->lowest_unread = 0;
	if (*pages)
		memset((*pages)->slots, 0, sizeof((*pages)->slots));
}

void tm_window_pages_destroy(struct tm_window_pages *pages)
{
	free(pages);
}

static bool read_memory(const struct tm_memory *memory, uint64_t address, void *buffer, size_t size)
{
	_cleanup_error_ struct tm_error *err = tm_memory_read(memory, address, buffer, size);

	return !err;
}

/* The page of memory at a page's address, or NULL. */
static const uint8_t *page_at(struct tm_window *window, uint64_t address)
{
	size_t slot = address / PAGE % SLOTS;
	struct tm_window_pages *pages = *window->pages;

	if (!pages) {
		pages = *window->pages = calloc(1, sizeof(*pages));
		if (!pages)
			return NULL;
	}
	if (pages->slots[slot].state == PAGE_FREE || pages->slots[slot].address != address) {
		bool read = read_memory(window->capture->memory, address, pages->bytes[slot], PAGE);

		pages->slots[slot].address = address;
		pages->slots[slot].state = read ? PAGE_READ : PAGE_UNREADABLE;
	}
	return pages->slots[slot].state == PAGE_READ ? pages->bytes[slot] : NULL;
}

/* Takes the bytes of [address, address + size) that the capture has, or else those of one page. */
static unsigned read_piece(struct tm_window *window, uint64_t address, uint8_t *to, unsigned size)
{
	const struct tm_capture *capture = window->capture;
	uint64_t offset = address - capture->start, place = address % PAGE, left = PAGE - place;
	const uint8_t *page;

	if (offset < capture->size) {
		left = capture->size - offset;
		size = left < size ? (unsigned)left : size;
		memcpy(to, capture->bytes + offset, size);
		return size;
	}
	if (address > capture->start && (!window->lowest_unread || address < window->lowest_unread))
		window->lowest_unread = address;
	page = capture->memory ? page_at(window, address - place) : NULL;
	if (!page)
		return 0;
	size = left < size ? (unsigned)left : size;
	memcpy(to, page + place, size);
	return size;
}

bool tm_window_read(struct tm_window *window, uint64_t address, unsigned size, uint64_t *value)
{
	uint8_t bytes[sizeof(*value)] = {0};

	for (unsigned done = 0, piece; done < size; done += piece) {
		piece = read_piece(window, address + done, bytes + done, size - done);
		if (!piece)
			return false;
	}
	memcpy(value, bytes, sizeof(*value));
	return true;
}
