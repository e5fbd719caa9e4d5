/*
 * Hash functions, and a map from uint64_t keys to uint64_t values (open addressing, linear probing, at most
 * half full). Values may be indexes or pointers of ours. Not thread-safe.
 */
#ifndef TM_BASE_HASH_H
#define TM_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Mixes all bits of x into all bits of the result (the finaliser of splitmix64). */
static inline uint64_t tm_hash_u64(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9u;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

uint64_t tm_hash_bytes(const void *bytes, size_t size);

struct tm_map {
	struct tm_map_entry {
		uint64_t key, value;
	} * entries; /* NULL until the first put */
	uint8_t *used;
	size_t count;
	size_t mask; /* number of slots - 1, a power of two */
};

/* All zero is an empty map. */
void tm_map_deinit(struct tm_map *map);

/* The value's place, or NULL. Valid until the next put or remove. */
uint64_t *tm_map_get(const struct tm_map *map, uint64_t key);

/* Sets key's value; false when out of memory (nothing changed then). */
bool tm_map_put(struct tm_map *map, uint64_t key, uint64_t value);

/* Forgets a key; false if it was not there. */
bool tm_map_remove(struct tm_map *map, uint64_t key);

void tm_map_clear(struct tm_map *map);

/* Iterates: start with *position = 0; false at the end. The map must not change meanwhile. */
bool tm_map_next(const struct tm_map *map, size_t *position, uint64_t *key, uint64_t *value);

#endif
