#include "base/mapping.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/vector.h"

#define PAGE	    4096u
#define LOWEST	    0x10000u
#define USER_END    0x7ffffffff000u /* of x86-64 with four levels; a gap between two mappings may lie above */
#define KERNEL_HALF (UINT64_C(1) << 63)
#define DELETED	    " (deleted)"

/* The kernel writes newline (and nothing else) of a path as \012 (fs/seq_file.c, mangle_path). */
static char *unescape(const char *path, size_t length)
{
	char *out = malloc(length + 1), *to = out;

	if (!out)
		return NULL;
	for (size_t i = 0; i < length; i++) {
		if (length - i >= 4 && memcmp(path + i, "\\012", 4) == 0) {
			*to++ = '\n';
			i += 3;
		} else {
			*to++ = path[i];
		}
	}
	*to = '\0';
	return out;
}

/* A number that one of these characters ends, and that character; *at is moved behind both. */
static bool take_number(const char **at, int base, const char *ends, uint64_t *value)
{
	char *behind;

	if (!isxdigit((unsigned char)**at)) /* strtoull would skip space, also to the next line */
		return false;
	*value = strtoull(*at, &behind, base);
	if (!*behind || !strchr(ends, *behind))
		return false;
	*at = behind + 1;
	return true;
}

static bool take_permissions(const char **at, struct tm_mapping *mapping)
{
	const char *bits = *at;

	if (strcspn(bits, " \n") != 4 || bits[4] != ' ')
		return false;
	mapping->readable = bits[0] == 'r';
	mapping->writable = bits[1] == 'w';
	mapping->executable = bits[2] == 'x';
	mapping->shared = bits[3] == 's';
	*at = bits + 5;
	return true;
}

/* The fields before the path; where that begins, or NULL if they are not what they should be. */
static const char *parse_fields(const char *line, const char *end, struct tm_mapping *mapping)
{
	uint64_t major, minor, inode = 0;
	const char *at = line;

	if (!take_number(&at, 16, "-", &mapping->start) || !take_number(&at, 16, " ", &mapping->end) ||
	    !take_permissions(&at, mapping) || !take_number(&at, 16, " ", &mapping->offset) ||
	    !take_number(&at, 16, ":", &major) || !take_number(&at, 16, " ", &minor))
		return NULL;
	while (at < end && isdigit((unsigned char)*at))
		inode = inode * 10 + (uint64_t)(*at++ - '0');
	if (mapping->start >= mapping->end || !isdigit((unsigned char)at[-1]) || (at < end && *at != ' '))
		return NULL;
	mapping->dev_major = (unsigned)major;
	mapping->dev_minor = (unsigned)minor;
	mapping->inode = inode;
	return at;
}

static struct tm_error *parse_line(const char *line, size_t length, struct tm_mapping *mapping)
{
	const char *path;

	memset(mapping, 0, sizeof(*mapping));
	path = parse_fields(line, line + length, mapping);
	if (!path)
		return tm_error_create(TM_ERROR_BAD_FORMAT, "not a line of a maps file: \"%.*s\"",
				       (int)(length < 200 ? length : 200), line);
	length -= (size_t)(path - line);
	line = path;
	while (length && *line == ' ') {
		line++;
		length--;
	}
	if (length > strlen(DELETED) &&
	    memcmp(line + length - strlen(DELETED), DELETED, strlen(DELETED)) == 0) {
		mapping->deleted = true;
		length -= strlen(DELETED);
	}
	mapping->path = unescape(line, length);
	return mapping->path ? NULL : tm_error_out_of_memory();
}

/* Takes over the mapping's path. */
static bool push(struct tm_mappings *mappings, struct tm_mapping mapping)
{
	if (mapping.path && tm_vector_push(mappings, mapping))
		return true;
	free(mapping.path);
	tm_mappings_deinit(mappings);
	return false;
}

struct tm_error *tm_mappings_copy(const struct tm_mappings *mappings, struct tm_mappings *copy)
{
	memset(copy, 0, sizeof(*copy));
	for (size_t i = 0; i < mappings->count; i++) {
		struct tm_mapping mapping = mappings->items[i];

		mapping.path = strdup(mapping.path);
		if (!push(copy, mapping))
			return tm_error_out_of_memory();
	}
	return NULL;
}

struct tm_error *tm_mappings_add(struct tm_mappings *mappings, uint64_t start, uint64_t end)
{
	struct tm_mapping added = {.start = start, .end = end, .path = strdup("")};
	size_t i;

	if (!push(mappings, added))
		return tm_error_out_of_memory();
	for (i = mappings->count - 1; i > 0 && mappings->items[i - 1].start > start; i--)
		mappings->items[i] = mappings->items[i - 1];
	mappings->items[i] = added;
	return NULL;
}

struct tm_error *tm_mappings_parse(const char *text, struct tm_mappings *mappings)
{
	memset(mappings, 0, sizeof(*mappings));
	while (*text) {
		size_t length = strcspn(text, "\n");
		struct tm_mapping mapping;
		struct tm_error *err = parse_line(text, length, &mapping);

		if (err) {
			tm_mappings_deinit(mappings);
			return err;
		}
		if (!push(mappings, mapping))
			return tm_error_out_of_memory();
		text += length + (text[length] == '\n');
	}
	return NULL;
}

void tm_mappings_deinit(struct tm_mappings *mappings)
{
	for (size_t i = 0; i < mappings->count; i++)
		free(mappings->items[i].path);
	tm_vector_deinit(mappings);
}

const struct tm_mapping *tm_mappings_find(const struct tm_mappings *mappings, uint64_t address)
{
	size_t low = 0, high = mappings->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct tm_mapping *mapping = &mappings->items[middle];

		if (address < mapping->start)
			high = middle;
		else if (address >= mapping->end)
			low = middle + 1;
		else
			return mapping;
	}
	return NULL;
}

struct gap_search {
	uint64_t near_start, near_end, size, reach;
	uint64_t best, best_distance;
};

static uint64_t clamp(uint64_t x, uint64_t low, uint64_t high)
{
	return x < low ? low : x > high ? high : x;
}

/* From any byte of the neighbourhood to any byte of the gap at `place`, at most. */
static uint64_t distance_of(const struct gap_search *search, uint64_t place)
{
	uint64_t end = place + search->size;
	uint64_t above = end > search->near_start ? end - search->near_start : 0;
	uint64_t below = search->near_end > place ? search->near_end - place : 0;

	return above > below ? above : below;
}

/* The place that would have the same distance from both ends of the neighbourhood: the nearest of all, were
 * it free. */
static uint64_t nearest_place(const struct gap_search *search)
{
	uint64_t middle = search->near_start + (search->near_end - search->near_start) / 2;

	return middle > search->size / 2 ? middle - search->size / 2 : 0;
}

/* Considers the free range [start, end). */
static void consider_gap(struct gap_search *search, uint64_t start, uint64_t end)
{
	uint64_t place, distance;

	if (start < LOWEST)
		start = LOWEST;
	start = (start + PAGE + PAGE - 1) & ~(uint64_t)(PAGE - 1);
	if (end < start || end - start < PAGE || end - start - PAGE < search->size)
		return;
	place = clamp(nearest_place(search), start, end - PAGE - search->size) & ~(uint64_t)(PAGE - 1);
	distance = distance_of(search, place);
	if (distance <= search->reach && distance < search->best_distance) {
		search->best = place;
		search->best_distance = distance;
	}
}

uint64_t tm_mappings_find_gap(const struct tm_mappings *mappings, uint64_t near_start, uint64_t near_end,
			      uint64_t size, uint64_t reach)
{
	struct gap_search search = {near_start, near_end, size, reach, 0, UINT64_MAX};
	uint64_t previous_end = 0;

	for (size_t i = 0; i < mappings->count; i++) {
		const struct tm_mapping *mapping = &mappings->items[i];

		if (mapping->start & KERNEL_HALF)
			break; /* [vsyscall] */
		if (mapping->start > previous_end)
			consider_gap(&search, previous_end, mapping->start);
		if (mapping->end > previous_end)
			previous_end = mapping->end;
	}
	if (previous_end < USER_END)
		consider_gap(&search, previous_end, USER_END);
	return search.best;
}
