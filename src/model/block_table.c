#include "model/block_table.h"

#include <assert.h>
#include <string.h>

#include "base/hash.h"

#define NOWHERE	   UINT32_MAX
#define NO_ACCOUNT UINT32_MAX
#define INLINE	   2 /* blocks of a bucket that stand in its line */

/* The pool holds blocks of a bucket only while both places of its line are taken. */
struct bucket {
	struct tm_block_entry
		entries[INLINE]; /* the first one's `next` is the bucket's first entry in the pool */
};

static_assert(sizeof(struct tm_block_entry) == 32, "a power of two, see TM_CHUNK_ELEMENTS");
static_assert(sizeof(struct bucket) == 64, "a cache line");

static struct tm_block_entry *pool_at(const struct tm_block_table *table, uint32_t number)
{
	return tm_chunks_at(&table->pool, struct tm_block_entry, number);
}

static struct bucket *bucket_at(const struct tm_block_table *table, uint32_t number)
{
	return tm_chunks_at(&table->lines, struct bucket, number);
}

/*
 * Sixteen granules of 16 bytes (the alignment of malloc) that lie in one 256-byte region go to sixteen
 * neighbouring buckets: what is allocated together stands together. Regions are spread at random, and so is
 * the first granule of a region, lest blocks that have a page each all fall on the same one of the sixteen.
 */
static uint32_t hash_address(uint64_t address)
{
	uint64_t region = tm_hash_u64(address >> 8), granule = address >> 4 ^ region >> 60;

	/* Only the lowest four bits of an address are left over, they are 0 but for odd allocators. */
	return (uint32_t)(region << 4 | (granule & 15)) ^ (uint32_t)((address & 15) << 4);
}

static struct bucket *home_of(const struct tm_block_table *table, uint64_t address)
{
	return bucket_at(table, tm_linear_hash_bucket(&table->buckets, hash_address(address)));
}

static uint32_t *overflow_of(struct bucket *bucket)
{
	return &bucket->entries[0].next;
}

static bool is_block(const struct tm_block_entry *entry)
{
	return entry->account != NO_ACCOUNT;
}

static void clear_bucket(struct bucket *bucket)
{
	for (int i = 0; i < INLINE; i++)
		bucket->entries[i] = (struct tm_block_entry){.account = NO_ACCOUNT, .next = NOWHERE};
}

void tm_block_table_deinit(struct tm_block_table *table)
{
	tm_chunks_deinit(&table->lines);
	tm_chunks_deinit(&table->pool);
	memset(table, 0, sizeof(*table));
}

/* Makes sure that pool_take() will succeed twice: no step of a merge needs more. */
static bool pool_reserve(struct tm_block_table *table)
{
	return table->pool_free >= INLINE ||
	       (table->pool_used < NOWHERE - INLINE &&
		tm_chunks_reserve(&table->pool, struct tm_block_entry, table->pool_used + INLINE));
}

/*
 * Free entries are a list in both directions, for the last of the pool may have to leave it: `next` is the
 * next one, `size` the one before. Both ends are NOWHERE.
 */
static void free_list_remove(struct tm_block_table *table, uint32_t number)
{
	struct tm_block_entry *entry = pool_at(table, number);

	if (entry->next != NOWHERE)
		pool_at(table, entry->next)->size = entry->size;
	if (entry->size != NOWHERE)
		pool_at(table, (uint32_t)entry->size)->next = entry->next;
	else
		table->first_free = entry->next;
	table->pool_free--;
}

static uint32_t pool_take(struct tm_block_table *table)
{
	uint32_t number = table->first_free;

	if (!table->pool_free)
		return table->pool_used++;
	free_list_remove(table, number);
	return number;
}

static void pool_give(struct tm_block_table *table, uint32_t number)
{
	struct tm_block_entry *entry = pool_at(table, number);

	entry->account = NO_ACCOUNT;
	entry->size = NOWHERE;
	entry->next = table->pool_free ? table->first_free : NOWHERE;
	if (entry->next != NOWHERE)
		pool_at(table, entry->next)->size = number;
	table->first_free = number;
	table->pool_free++;
}

/* The head or link that holds the number of a block in the pool. */
static uint32_t *link_to(const struct tm_block_table *table, uint32_t number)
{
	uint32_t *link = overflow_of(home_of(table, pool_at(table, number)->address));

	while (*link != number)
		link = &pool_at(table, *link)->next;
	return link;
}

/* Gives up the last entry of the pool; if it is a block it moves to a free one. */
static void pool_retire_last(struct tm_block_table *table)
{
	uint32_t last = table->pool_used - 1, hole = last;

	if (is_block(pool_at(table, last))) {
		hole = table->first_free;
		*link_to(table, last) = hole;
	}
	free_list_remove(table, hole);
	*pool_at(table, hole) = *pool_at(table, last);
	table->pool_used--;
}

/* Two steps keep up with a removal, which makes at most one entry and a quarter superfluous. */
static void pool_shrink(struct tm_block_table *table)
{
	for (int steps = 0; steps < 2; steps++) {
		uint64_t blocks = table->pool_used - table->pool_free;

		if (table->pool_used <= blocks * 5 / 4 + TM_CHUNK_ELEMENTS(struct tm_block_entry) / 2)
			break;
		pool_retire_last(table);
	}
	tm_chunks_trim(&table->pool, struct tm_block_entry, table->pool_used);
}

/* A place for one more block of a bucket, all but `next` undefined. The pool must have been reserved. */
static struct tm_block_entry *add_entry(struct tm_block_table *table, struct bucket *bucket)
{
	struct tm_block_entry *entry;
	uint32_t number;

	for (int i = 0; i < INLINE; i++) {
		if (!is_block(&bucket->entries[i]))
			return &bucket->entries[i];
	}
	number = pool_take(table);
	entry = pool_at(table, number);
	entry->next = *overflow_of(bucket);
	*overflow_of(bucket) = number;
	return entry;
}

static void copy_block(struct tm_block_entry *to, const struct tm_block_entry *from)
{
	uint32_t next = to->next;

	*to = *from;
	to->next = next;
}

/* Puts the blocks of a bucket that is none any more where they belong now. */
static void rehash_blocks(struct tm_block_table *table, const struct bucket *old)
{
	uint32_t number = old->entries[0].next;

	for (int i = 0; i < INLINE; i++) {
		const struct tm_block_entry *entry = &old->entries[i];

		if (is_block(entry))
			copy_block(add_entry(table, home_of(table, entry->address)), entry);
	}
	while (number != NOWHERE) {
		struct tm_block_entry entry = *pool_at(table, number);

		pool_give(table, number);
		copy_block(add_entry(table, home_of(table, entry.address)), &entry);
		number = entry.next;
	}
}

static bool add_bucket(struct tm_block_table *table)
{
	uint32_t number = table->buckets.count;
	struct bucket *source, old;

	if (number == TM_LINEAR_HASH_MAX || !tm_chunks_reserve(&table->lines, struct bucket, number))
		return false;
	clear_bucket(bucket_at(table, number));
	if (!number) {
		tm_linear_hash_grow(&table->buckets);
		return true;
	}
	source = bucket_at(table, tm_linear_hash_source(&table->buckets));
	old = *source;
	clear_bucket(source);
	tm_linear_hash_grow(&table->buckets);
	rehash_blocks(table, &old);
	return true;
}

static bool remove_bucket(struct tm_block_table *table)
{
	if (!pool_reserve(table))
		return false;
	tm_linear_hash_shrink(&table->buckets);
	rehash_blocks(table, bucket_at(table, table->buckets.count));
	tm_chunks_trim(&table->lines, struct bucket, table->buckets.count);
	return true;
}

/* Without memory for more buckets the chains get longer. One there must be. */
static bool grow(struct tm_block_table *table)
{
	while (table->buckets.count <= table->live * 3 / 4) {
		if (!add_bucket(table))
			break;
	}
	return table->buckets.count > 0;
}

/* At some distance behind the number of blocks, lest a swinging number moves blocks at each swing. */
static void shrink(struct tm_block_table *table)
{
	uint64_t enough = table->live * 7 / 8 + TM_CHUNK_ELEMENTS(struct bucket) / 2;

	while (table->buckets.count > enough) {
		if (!remove_bucket(table))
			break;
	}
}

/* A block's place: in the line, or in the pool, where *link leads to it. */
struct place {
	struct bucket *bucket;
	struct tm_block_entry *entry; /* NULL: not there */
	uint32_t *link;		      /* NULL: in the line */
};

/* Branches, not an index computed from both comparisons: a guess lets the next event's cache miss begin
 * (measured). */
static inline struct place find_place(const struct tm_block_table *table, uint64_t address)
{
	struct place place = {.bucket = home_of(table, address)};

	for (int i = 0; i < INLINE; i++) {
		struct tm_block_entry *entry = &place.bucket->entries[i];

		if (entry->address == address && is_block(entry)) {
			place.entry = entry;
			return place;
		}
	}
	for (place.link = overflow_of(place.bucket); *place.link != NOWHERE;
	     place.link = &place.entry->next) {
		place.entry = pool_at(table, *place.link);
		if (place.entry->address == address)
			return place;
	}
	place.entry = NULL;
	return place;
}

struct tm_block_entry *tm_block_table_find(const struct tm_block_table *table, uint64_t address)
{
	return table->live ? find_place(table, address).entry : NULL;
}

struct tm_block_entry *tm_block_table_claim(struct tm_block_table *table, uint64_t address)
{
	struct tm_block_entry *entry;
	struct place place;

	if (!grow(table) || !pool_reserve(table))
		return NULL;
	place = find_place(table, address);
	if (place.entry)
		return place.entry;
	entry = add_entry(table, place.bucket);
	entry->address = address;
	entry->account = NO_ACCOUNT;
	table->live++;
	return entry;
}

/* The place in the line is filled from the pool, so that the pool holds no more than it must. */
static void remove_from_line(struct tm_block_table *table, struct bucket *bucket,
			     struct tm_block_entry *entry)
{
	uint32_t number = *overflow_of(bucket);

	if (number == NOWHERE) {
		entry->account = NO_ACCOUNT;
		return;
	}
	*overflow_of(bucket) = pool_at(table, number)->next;
	copy_block(entry, pool_at(table, number));
	pool_give(table, number);
}

bool tm_block_table_take(struct tm_block_table *table, uint64_t address, struct tm_block_entry *taken)
{
	struct place place;

	if (!table->live)
		return false;
	place = find_place(table, address);
	if (!place.entry)
		return false;
	*taken = *place.entry;
	if (place.link) {
		uint32_t number = *place.link;

		*place.link = place.entry->next;
		pool_give(table, number);
	} else {
		remove_from_line(table, place.bucket, place.entry);
	}
	table->live--;
	shrink(table);
	pool_shrink(table);
	return true;
}

void tm_block_table_prefetch(const struct tm_block_table *table, uint64_t address)
{
	if (table->buckets.count)
		__builtin_prefetch(home_of(table, address), 1);
}

/* Positions: the places of all lines, then those of the pool. */
const struct tm_block_entry *tm_block_table_next(const struct tm_block_table *table, uint64_t *position)
{
	uint64_t inline_places = (uint64_t)table->buckets.count * INLINE;

	while (*position < inline_places + table->pool_used) {
		uint64_t at = (*position)++;
		const struct tm_block_entry *entry =
			at < inline_places ? &bucket_at(table, (uint32_t)(at / INLINE))->entries[at % INLINE]
					   : pool_at(table, (uint32_t)(at - inline_places));

		if (is_block(entry))
			return entry;
	}
	return NULL;
}

size_t tm_block_table_memory(const struct tm_block_table *table)
{
	return tm_chunks_memory(&table->lines) + tm_chunks_memory(&table->pool);
}
