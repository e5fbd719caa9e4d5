/*
 * The live blocks of one domain, by address. tracemalloc keeps a hash table a domain as well: equal addresses
 * in two domains are two blocks.
 *
 * A bucket is one cache line with two blocks: most lookups touch one line of memory. What does not fit stands
 * in a pool and is chained to its bucket. Buckets come and go one at a time (linear_hash.h) with the number
 * of blocks, four blocks to three buckets, and the pool is kept dense: about 55 bytes a live block, and no
 * event costs more than a few blocks' moves.
 */
#ifndef TM_MODEL_BLOCK_TABLE_H
#define TM_MODEL_BLOCK_TABLE_H

#include "model/chunks.h"
#include "model/linear_hash.h"

struct tm_block_entry {
	uint64_t address, size, time;
	uint32_t account; /* below UINT32_MAX, which marks a place without a block */
	uint32_t next;	  /* the table's */
};

/* All zero is an empty table. */
struct tm_block_table {
	struct tm_linear_hash buckets;
	struct tm_chunks lines; /* of buckets */
	struct tm_chunks pool;	/* of entries */
	uint64_t live;
	uint32_t pool_used;  /* entries of the pool [0, pool_used) are blocks or free ones */
	uint32_t pool_free;  /* free ones, a list that starts with ... */
	uint32_t first_free; /* ... this */
};

void tm_block_table_deinit(struct tm_block_table *table);

/* The block at an address, or NULL. Its size, time and account may be changed. Valid until the next claim or
 * take. */
struct tm_block_entry *tm_block_table_find(const struct tm_block_table *table, uint64_t address);

/* As find; a block that is not there is made, its account UINT32_MAX: the caller sets size, time and account
   before anything else. NULL: out of memory, nothing changed. */
struct tm_block_entry *tm_block_table_claim(struct tm_block_table *table, uint64_t address);

/* Takes a block out and copies it to *taken; false if it is not there. */
bool tm_block_table_take(struct tm_block_table *table, uint64_t address, struct tm_block_entry *taken);

/* Begins to bring the line of an address into the cache. */
void tm_block_table_prefetch(const struct tm_block_table *table, uint64_t address);

/* The next block of an iteration in no order, which starts with *position = 0; NULL at the end. The table
   must not change meanwhile. */
const struct tm_block_entry *tm_block_table_next(const struct tm_block_table *table, uint64_t *position);

/* Bytes held. */
size_t tm_block_table_memory(const struct tm_block_table *table);

#endif
