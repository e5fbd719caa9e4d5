#include "python/places.h"

#include <stdlib.h>
#include <string.h>

void tm_places_deinit(struct tm_places *places)
{
	for (uint32_t i = 0; i < places->count; i++) {
		struct tm_place *place = tm_chunks_at(&places->items, struct tm_place, i);

		free(place->filename);
		free(place->function);
	}
	tm_chunks_deinit(&places->items);
	tm_map_deinit(&places->index);
	places->count = 0;
}

static uint32_t add(struct tm_places *places, uint64_t key, const char *filename, const char *function)
{
	struct tm_place *place;

	if (places->count == UINT32_MAX - TM_PLACE_FIRST ||
	    !tm_chunks_reserve(&places->items, struct tm_place, places->count))
		return 0;
	place = tm_chunks_at(&places->items, struct tm_place, places->count);
	place->filename = strdup(filename);
	place->function = strdup(function);
	if (!place->filename || !place->function || !tm_map_put(&places->index, key, places->count)) {
		free(place->filename);
		free(place->function);
		return 0;
	}
	return TM_PLACE_FIRST + places->count++;
}

uint32_t tm_places_intern(struct tm_places *places, const char *filename, const char *function)
{
	uint64_t key = tm_hash_bytes(filename, strlen(filename)) ^
		       tm_hash_u64(tm_hash_bytes(function, strlen(function)));
	const uint64_t *number;

	while ((number = tm_map_get(&places->index, key))) {
		const struct tm_place *place = tm_places_get(places, TM_PLACE_FIRST + (uint32_t)*number);

		if (strcmp(place->filename, filename) == 0 && strcmp(place->function, function) == 0)
			return TM_PLACE_FIRST + (uint32_t)*number;
		key++;
	}
	return add(places, key, filename, function);
}
