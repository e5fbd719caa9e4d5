/*
 * --within: is a certain function on a Python stack? Given by globs; a stack is a list of places (places.h),
 * all of its frames, however it was read. What a place answers is remembered.
 */
#ifndef TM_PYTHON_WITHIN_H
#define TM_PYTHON_WITHIN_H

#include "base/error.h"
#include "base/vector.h"
#include "python/places.h"

struct tm_within {
	char *filename; /* matches the whole file name, or what is behind its last '/'; NULL: any */
	char *function; /* matches the qualified name (up to 3.10 the name), or what is behind its last '.' */
	struct tm_vector(uint8_t) answers; /* by place; 0: not asked yet */
	bool was_seen;			   /* on any stack */
};

/* "FUNCTION" or "FILE:FUNCTION"; TM_ERROR_BAD_FORMAT: neither. Copied. */
struct tm_error *tm_within_parse(const char *text, struct tm_within *within);
void tm_within_deinit(struct tm_within *within);

/* stack: numbers of places. Fails only when out of memory. */
struct tm_error *tm_within_is_on_stack(struct tm_within *within, const struct tm_places *places,
				       const uint32_t *stack, size_t count, bool *on_stack);

#endif
