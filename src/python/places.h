/*
 * Python frames as frames of the model. The model knows (module, offset); a Python frame is a place
 * {function, file} with the number TM_PLACE_FIRST + n for a module, and its line as the offset. Places are
 * interned and never removed. One thread adds places, any may read those whose number it has been given.
 */
#ifndef TM_PYTHON_PLACES_H
#define TM_PYTHON_PLACES_H

#include "base/hash.h"
#include "model/chunks.h"
#include "model/traceback.h"

#define TM_PLACE_FIRST 0x80000000u /* above every module's number */

struct tm_place {
	char *filename, *function; /* as the interpreter has them, in UTF-8; bytes that are none were not in
				      the name either */
};

/* All zero is empty. */
struct tm_places {
	struct tm_chunks items; /* struct tm_place */
	uint32_t count;
	struct tm_map
		index; /* hash of the texts (the next free number for another place with it) -> number */
};

void tm_places_deinit(struct tm_places *places);

/* The number of a place, from TM_PLACE_FIRST; 0: out of memory. The texts are copied. */
uint32_t tm_places_intern(struct tm_places *places, const char *filename, const char *function);

/* number: one that intern returned. */
static inline const struct tm_place *tm_places_get(const struct tm_places *places, uint32_t number)
{
	return tm_chunks_at(&places->items, struct tm_place, number - TM_PLACE_FIRST);
}

static inline bool tm_frame_is_place(struct tm_frame frame)
{
	return frame.module >= TM_PLACE_FIRST;
}

#endif
