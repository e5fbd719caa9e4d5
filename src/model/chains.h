/*
 * A hash table of chains by linear hashing. The items are the owner's, known here by number; nothing is taken
 * out of the table but to be put back under another key, so it only grows: one bucket an item.
 *
 * The owner keeps the link to the next item of the chain in the item (`next`) and tells its hash (`hash`);
 * both functions are constants at each call and are inlined. A lookup is the owner's loop, from
 * tm_chains_first() along the links to TM_CHAIN_END.
 */
#ifndef TM_MODEL_CHAINS_H
#define TM_MODEL_CHAINS_H

#include "model/chunks.h"
#include "model/linear_hash.h"

#define TM_CHAIN_END UINT32_MAX

/* All zero is an empty table. */
struct tm_chains {
	struct tm_linear_hash buckets;
	struct tm_chunks heads; /* of uint32_t: a bucket's first item */
};

struct tm_chain_items {
	uint32_t (*hash)(const void *owner, uint32_t item);
	uint32_t *(*next)(const void *owner, uint32_t item);
};

static inline uint32_t *tm_chains_head(const struct tm_chains *chains, uint32_t bucket)
{
	return tm_chunks_at(&chains->heads, uint32_t, bucket);
}

/* The first item that may have this hash. */
static inline uint32_t tm_chains_first(const struct tm_chains *chains, uint32_t hash)
{
	return chains->buckets.count ? *tm_chains_head(chains, tm_linear_hash_bucket(&chains->buckets, hash))
				     : TM_CHAIN_END;
}

/* Puts an item that is in no chain at the front of its own. */
static inline void tm_chains_link(struct tm_chains *chains, const void *owner, uint32_t item,
				  struct tm_chain_items items)
{
	uint32_t bucket = tm_linear_hash_bucket(&chains->buckets, items.hash(owner, item));
	uint32_t *head = tm_chains_head(chains, bucket);

	*items.next(owner, item) = *head;
	*head = item;
}

/* Takes an item out of its chain. */
static inline void tm_chains_unlink(struct tm_chains *chains, const void *owner, uint32_t item,
				    struct tm_chain_items items)
{
	uint32_t bucket = tm_linear_hash_bucket(&chains->buckets, items.hash(owner, item));
	uint32_t *place = tm_chains_head(chains, bucket);

	while (*place != item)
		place = items.next(owner, *place);
	*place = *items.next(owner, item);
}

/* One more bucket. false: out of memory, and there is not even one; otherwise longer chains will do. */
static inline bool tm_chains_grow(struct tm_chains *chains, const void *owner, struct tm_chain_items items)
{
	uint32_t bucket = chains->buckets.count, item = TM_CHAIN_END;

	if (bucket == TM_LINEAR_HASH_MAX || !tm_chunks_reserve(&chains->heads, uint32_t, bucket))
		return bucket > 0;
	if (bucket) {
		uint32_t *source = tm_chains_head(chains, tm_linear_hash_source(&chains->buckets));

		item = *source;
		*source = TM_CHAIN_END;
	}
	*tm_chains_head(chains, bucket) = TM_CHAIN_END;
	tm_linear_hash_grow(&chains->buckets);
	while (item != TM_CHAIN_END) {
		uint32_t next = *items.next(owner, item);

		tm_chains_link(chains, owner, item, items);
		item = next;
	}
	return true;
}

static inline void tm_chains_deinit(struct tm_chains *chains)
{
	tm_chunks_deinit(&chains->heads);
	chains->buckets = (struct tm_linear_hash){0};
}

/* Bytes held. */
static inline size_t tm_chains_memory(const struct tm_chains *chains)
{
	return tm_chunks_memory(&chains->heads);
}

#endif
