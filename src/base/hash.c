#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

#define ODD_1 0x9e3779b97f4a7c15u
#define ODD_2 0xd6e8feb86659fd93u

/* Both halves of the product: each bit of either factor reaches all of the result (wyhash's step). */
static uint64_t fold(uint64_t a, uint64_t b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

uint64_t tm_hash_bytes(const void *bytes, size_t size)
{
	const unsigned char *p = bytes;
	uint64_t h = size * ODD_2, words[2];

	for (; size >= sizeof(words); p += sizeof(words), size -= sizeof(words)) {
		memcpy(words, p, sizeof(words));
		h = fold(words[0] ^ ODD_1, words[1] ^ h);
	}
	if (size) {
		memset(words, 0, sizeof(words));
		memcpy(words, p, size);
		h = fold(words[0] ^ ODD_1, words[1] ^ h);
	}
	return tm_hash_u64(h ^ ODD_2);
}

void tm_map_deinit(struct tm_map *map)
{
	free(map->entries);
	free(map->used);
	memset(map, 0, sizeof(*map));
}

/* The slot of key, or the free slot where it would stand. The table is never full. */
static size_t find_slot(const struct tm_map *map, uint64_t key)
{
	size_t slot = tm_hash_u64(key) & map->mask;

	while (map->used[slot] && map->entries[slot].key != key)
		slot = (slot + 1) & map->mask;
	return slot;
}

uint64_t *tm_map_get(const struct tm_map *map, uint64_t key)
{
	size_t slot;

	if (!map->count)
		return NULL;
	slot = find_slot(map, key);
	return map->used[slot] ? &map->entries[slot].value : NULL;
}

static bool grow(struct tm_map *map)
{
	struct tm_map bigger = {0};
	size_t slots = map->entries ? (map->mask + 1) * 2 : 16;

	bigger.entries = malloc(slots * sizeof(*bigger.entries));
	bigger.used = calloc(slots, 1);
	if (!bigger.entries || !bigger.used) {
		tm_map_deinit(&bigger);
		return false;
	}
	bigger.mask = slots - 1;
	bigger.count = map->count;
	for (size_t i = 0; map->entries && i <= map->mask; i++) {
		if (map->used[i]) {
			size_t slot = find_slot(&bigger, map->entries[i].key);

			bigger.used[slot] = 1;
			bigger.entries[slot] = map->entries[i];
		}
	}
	tm_map_deinit(map);
	*map = bigger;
	return true;
}

bool tm_map_put(struct tm_map *map, uint64_t key, uint64_t value)
{
	uint64_t *place = tm_map_get(map, key);
	size_t slot;

	if (place) {
		*place = value;
		return true;
	}
	if ((!map->entries || (map->count + 1) * 2 > map->mask + 1) && !grow(map))
		return false;
	slot = find_slot(map, key);
	map->used[slot] = 1;
	map->entries[slot] = (struct tm_map_entry){key, value};
	map->count++;
	return true;
}

bool tm_map_remove(struct tm_map *map, uint64_t key)
{
	size_t hole, next, home;

	if (!map->count)
		return false;
	hole = find_slot(map, key);
	if (!map->used[hole])
		return false;
	map->count--;
	/* Close the gap (Knuth 6.4, algorithm R): entries that probed past the hole move back into it. */
	for (next = (hole + 1) & map->mask; map->used[next]; next = (next + 1) & map->mask) {
		home = tm_hash_u64(map->entries[next].key) & map->mask;
		if (((next - home) & map->mask) >= ((next - hole) & map->mask)) {
			map->entries[hole] = map->entries[next];
			hole = next;
		}
	}
	map->used[hole] = 0;
	return true;
}

void tm_map_clear(struct tm_map *map)
{
	if (map->used)
		memset(map->used, 0, map->mask + 1);
	map->count = 0;
}

bool tm_map_next(const struct tm_map *map, size_t *position, uint64_t *key, uint64_t *value)
{
	for (; map->entries && *position <= map->mask; (*position)++) {
		if (!map->used[*position])
			continue;
		*key = map->entries[*position].key;
		*value = map->entries[*position].value;
		(*position)++;
		return true;
	}
	return false;
}
