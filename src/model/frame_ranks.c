#include "model/frame_ranks.h"

#include <stdlib.h>

static uint64_t key_of(const struct tm_named_frame *frame)
{
	return (uint64_t)(uintptr_t)frame;
}

bool tm_frame_ranks_add(struct tm_frame_ranks *ranks, const struct tm_named_frame *frame)
{
	struct tm_ranked_frame added = {frame, ranks->items.count};

	if (tm_map_get(&ranks->ranks, key_of(frame)))
		return true;
	return tm_map_put(&ranks->ranks, key_of(frame), 0) && tm_vector_push(&ranks->items, added);
}

/* Frames of equal keys stand in order of appearance, so that the first one of a rank is the first that was
 * added. */
static int compare_ranked(const void *a, const void *b, void *context)
{
	const struct tm_ranked_frame *left = a, *right = b;
	tm_frame_compare *compare = *(tm_frame_compare **)context;
	int order = compare(left->frame, right->frame);

	return order ? order : (left->order > right->order) - (left->order < right->order);
}

void tm_frame_ranks_order(struct tm_frame_ranks *ranks, tm_frame_compare *compare)
{
	struct tm_ranked_frame *frames = ranks->items.items;
	size_t count = 0;

	if (!ranks->items.count)
		return;
	qsort_r(frames, ranks->items.count, sizeof(*frames), compare_ranked, &compare);
	for (size_t i = 0; i < ranks->items.count; i++) {
		if (count == 0 || compare(frames[count - 1].frame, frames[i].frame) != 0)
			frames[count++] = frames[i];
		*tm_map_get(&ranks->ranks, key_of(frames[i].frame)) = count - 1;
	}
	ranks->items.count = count;
}

uint32_t tm_frame_ranks_of(const struct tm_frame_ranks *ranks, const struct tm_named_frame *frame)
{
	return (uint32_t)*tm_map_get(&ranks->ranks, key_of(frame));
}

void tm_frame_ranks_deinit(struct tm_frame_ranks *ranks)
{
	tm_vector_deinit(&ranks->items);
	tm_map_deinit(&ranks->ranks);
}
