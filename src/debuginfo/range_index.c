#include "debuginfo/range_index.h"

#include <stdlib.h>

#include "base/vector.h"

void tm_range_index_deinit(struct tm_range_index *index)
{
	tm_vector_deinit(index);
}

bool tm_range_index_add(struct tm_range_index *index, uint64_t start, uint64_t end, unsigned rank,
			uint64_t value)
{
	if (start >= end)
		return true;
	return tm_vector_push(index, (struct tm_range){start, end, value, rank});
}

static int compare(const void *a, const void *b)
{
	const struct tm_range *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return x->rank < y->rank ? -1 : x->rank > y->rank;
}

/* The sweep over sorted ranges: those that are open, the last one to start on top, and the pieces so far. */
struct sweep {
	struct tm_vector(struct tm_range) open;
	struct tm_range_index pieces;
	uint64_t at; /* all below is cut into pieces */
};

/* Gives [at, end) to the top range, as far as it reaches, and takes it off if it ends there. */
static bool cut_top(struct sweep *sweep, uint64_t end)
{
	struct tm_range *top = &sweep->open.items[sweep->open.count - 1], piece = *top;

	piece.start = sweep->at;
	piece.end = top->end < end ? top->end : end;
	if (top->end <= end)
		sweep->open.count--;
	if (piece.start >= piece.end)
		return true;
	sweep->at = piece.end;
	return tm_vector_push(&sweep->pieces, piece);
}

/* Cuts all pieces below `end`. */
static bool advance(struct sweep *sweep, uint64_t end)
{
	while (sweep->open.count && sweep->at < end) {
		if (!cut_top(sweep, end))
			return false;
	}
	sweep->at = end;
	return true;
}

static bool open_range(struct sweep *sweep, const struct tm_range *range)
{
	const struct tm_range *top;

	if (!advance(sweep, range->start))
		return false;
	while (sweep->open.count && sweep->open.items[sweep->open.count - 1].end <= range->start)
		sweep->open.count--;
	top = sweep->open.count ? &sweep->open.items[sweep->open.count - 1] : NULL;
	if (top && top->rank >= TM_RANGE_GUESSED)
		sweep->open.count = 0; /* it was opened where nothing else was */
	else if (top && range->rank >= TM_RANGE_GUESSED)
		return true;
	return tm_vector_push(&sweep->open, *range);
}

bool tm_range_index_sort(struct tm_range_index *index)
{
	struct sweep sweep = {0};
	bool done = true;

	if (index->count)
		qsort(index->items, index->count, sizeof(*index->items), compare);
	for (size_t i = 0; done && i < index->count; i++) {
		if (i == 0 || index->items[i].start != index->items[i - 1].start)
			done = open_range(&sweep, &index->items[i]);
	}
	done = done && advance(&sweep, UINT64_MAX);
	tm_vector_deinit(&sweep.open);
	tm_vector_deinit(index);
	if (done)
		*index = sweep.pieces;
	else
		tm_vector_deinit(&sweep.pieces);
	return done;
}

const struct tm_range *tm_range_index_find(const struct tm_range_index *index, uint64_t address)
{
	size_t low = 0, high = index->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct tm_range *piece = &index->items[middle];

		if (address < piece->start)
			high = middle;
		else if (address >= piece->end)
			low = middle + 1;
		else
			return piece;
	}
	return NULL;
}
