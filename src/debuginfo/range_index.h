/*
 * Address ranges, each with a value: which range covers an address? Ranges may nest or overlap; the one that
 * starts last answers. Add them all, sort once, then ask. Private to debuginfo/.
 */
#ifndef TM_DEBUGINFO_RANGE_INDEX_H
#define TM_DEBUGINFO_RANGE_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Added to the rank of a range whose end is a guess: it ends where the next one starts, and is nothing inside
 * another. */
#define TM_RANGE_GUESSED 0x100u

struct tm_range_index {
	struct tm_range {
		uint64_t start, end; /* [start, end); once sorted they are disjoint pieces, ascending */
		uint64_t value;
		uint64_t rank;
	} * items;
	size_t count, capacity;
};

void tm_range_index_deinit(struct tm_range_index *index);

/* Of several ranges with the same start the one of lowest rank stays. Empty ranges are ignored. False: out of
 * memory. */
bool tm_range_index_add(struct tm_range_index *index, uint64_t start, uint64_t end, unsigned rank,
			uint64_t value);

/* False: out of memory; the index is empty then. */
bool tm_range_index_sort(struct tm_range_index *index);

/* The piece that covers address, or NULL. */
const struct tm_range *tm_range_index_find(const struct tm_range_index *index, uint64_t address);

#endif
