#include "python/within.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

enum answer { NOT_ASKED, NO, YES };

struct tm_error *tm_within_parse(const char *text, struct tm_within *within)
{
	const char *colon = strrchr(text, ':');

	memset(within, 0, sizeof(*within));
	if (colon == text || (colon ? !colon[1] : !*text))
		return tm_error_create(TM_ERROR_BAD_FORMAT,
				       "\"%s\" is neither a function's name nor FILE:FUNCTION", text);
	within->function = strdup(colon ? colon + 1 : text);
	if (colon)
		within->filename = strndup(text, (size_t)(colon - text));
	if (within->function && (within->filename || !colon))
		return NULL;
	tm_within_deinit(within);
	return tm_error_out_of_memory();
}

void tm_within_deinit(struct tm_within *within)
{
	free(within->filename);
	free(within->function);
	tm_vector_deinit(&within->answers);
	memset(within, 0, sizeof(*within));
}

/* The whole name, or its last part. */
static bool matches(const char *glob, const char *name, char separator)
{
	const char *last = strrchr(name, separator);

	return fnmatch(glob, name, 0) == 0 || (last && fnmatch(glob, last + 1, 0) == 0);
}

static enum answer ask(const struct tm_within *within, const struct tm_place *place)
{
	return matches(within->function, place->function, '.') &&
			       (!within->filename || matches(within->filename, place->filename, '/'))
		       ? YES
		       : NO;
}

static uint8_t *answer_of(struct tm_within *within, const struct tm_places *places, uint32_t number)
{
	uint32_t index = number - TM_PLACE_FIRST;

	while (within->answers.count <= index)
		if (!tm_vector_push(&within->answers, NOT_ASKED))
			return NULL;
	if (within->answers.items[index] == NOT_ASKED)
		within->answers.items[index] = (uint8_t)ask(within, tm_places_get(places, number));
	return &within->answers.items[index];
}

struct tm_error *tm_within_is_on_stack(struct tm_within *within, const struct tm_places *places,
				       const uint32_t *stack, size_t count, bool *on_stack)
{
	*on_stack = false;
	for (size_t i = 0; i < count && !*on_stack; i++) {
		const uint8_t *answer = answer_of(within, places, stack[i]);

		if (!answer)
			return tm_error_out_of_memory();
		*on_stack = *answer == YES;
	}
	within->was_seen = within->was_seen || *on_stack;
	return NULL;
}
