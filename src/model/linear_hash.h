/*
 * Linear hashing (Litwin, "Linear Hashing: A New Tool for File and Table Addressing", 1980): the arithmetic
 * of a hash table that grows and shrinks by one bucket at a time. No insertion ever pays for a rehash of the
 * whole table, while a thread of the target waits for it, and a table is as full as its owner wants, not
 * somewhere between two doublings.
 *
 * The next bucket to be made takes its items from one that exists, its source: those whose hash has one more
 * bit set. The last one goes back to where it came from. Both walk through the buckets in order, so they read
 * and write memory in sequence.
 */
#ifndef TM_MODEL_LINEAR_HASH_H
#define TM_MODEL_LINEAR_HASH_H

#include <stdint.h>

#define TM_LINEAR_HASH_MAX UINT32_MAX /* buckets */

/* All zero: no buckets. */
struct tm_linear_hash {
	uint32_t count; /* of buckets */
	uint32_t mask;	/* the largest power of two that is not above count, minus one */
};

/* The bucket of a hash; there must be one bucket. */
static inline uint32_t tm_linear_hash_bucket(const struct tm_linear_hash *buckets, uint32_t hash)
{
	uint32_t bucket = hash & (buckets->mask * 2 + 1);

	/* Buckets from `count` on do not exist yet: their items are still in their sources. */
	return bucket < buckets->count ? bucket : hash & buckets->mask;
}

/* Where the items of bucket `count` are until it is made; there must be one bucket. */
static inline uint32_t tm_linear_hash_source(const struct tm_linear_hash *buckets)
{
	return buckets->count & buckets->mask;
}

/* Bucket `count` is made: the items of the source that are its own are those that tm_linear_hash_bucket now
 * says. */
static inline void tm_linear_hash_grow(struct tm_linear_hash *buckets)
{
	if (++buckets->count > buckets->mask * 2 + 1)
		buckets->mask = buckets->mask * 2 + 1;
}

/* Bucket `count - 1` goes away: its items belong to tm_linear_hash_source() then. There must be two buckets.
 */
static inline void tm_linear_hash_shrink(struct tm_linear_hash *buckets)
{
	if (--buckets->count <= buckets->mask)
		buckets->mask /= 2;
}

#endif
