/*
 * Named frames in the order of a key: equal keys have equal ranks, smaller keys smaller ones. Strings are
 * compared once per distinct frame, when the ranks are made; traces are then grouped and sorted by small
 * integers.
 */
#ifndef TM_MODEL_FRAME_RANKS_H
#define TM_MODEL_FRAME_RANKS_H

#include "base/hash.h"
#include "base/vector.h"
#include "model/statistic.h"

typedef int tm_frame_compare(const struct tm_named_frame *a, const struct tm_named_frame *b);

struct tm_ranked_frame {
	const struct tm_named_frame *frame;
	size_t order; /* of appearance */
};

/* All zero is empty. */
struct tm_frame_ranks {
	struct tm_vector(struct tm_ranked_frame)
		items;	     /* what was added; once ordered, the first frame of each rank */
	struct tm_map ranks; /* address of a frame -> its rank */
};

/* Adds a frame, which stays the caller's; one that was added before is passed over. false: out of memory. */
bool tm_frame_ranks_add(struct tm_frame_ranks *ranks, const struct tm_named_frame *frame);

/* Ranks what was added: nothing may be added afterwards. items.count is then the number of ranks. */
void tm_frame_ranks_order(struct tm_frame_ranks *ranks, tm_frame_compare *compare);

/* The rank of a frame that was added, below items.count. */
uint32_t tm_frame_ranks_of(const struct tm_frame_ranks *ranks, const struct tm_named_frame *frame);

void tm_frame_ranks_deinit(struct tm_frame_ranks *ranks);

#endif
