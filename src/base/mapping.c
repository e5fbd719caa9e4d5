#include "base/mapping.h"

#include <inttypes.h>
#include <string.h>

#include "base/vector.h"

#define PAGE          4096u
#define LOWEST        0x10000u
#define USER_END      0x7ffffffff000u
#define DELETED       " (deleted)"

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

static bool parse_line(const char *line, size_t length, struct tm_mapping *mapping)
{
	char copy[256], permissions[5];
	unsigned long inode;
	int path_at = 0;
	size_t head = length < sizeof(copy) - 1 ? length : sizeof(copy) - 1;

	memset(mapping, 0, sizeof(*mapping));
	memcpy(copy, line, head);
	copy[head] = '\0';
	if (sscanf(copy, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %lu%n", &mapping->start, &mapping->end,
		   permissions, &mapping->offset, &mapping->dev_major, &mapping->dev_minor, &inode,
		   &path_at) != 7)
		return false;
	if (mapping->start >= mapping->end || strlen(permissions) != 4)
		return false;
	mapping->readable = permissions[0] == 'r';
	mapping->writable = permissions[1] == 'w';
	mapping->executable = permissions[2] == 'x';
	mapping->shared = permissions[3] == 's';
	mapping->inode = inode;
	line += path_at;
	length -= (size_t)path_at;
	while (length && *line == ' ') {
		line++;
		length--;
	}
	if (length > strlen(DELETED) && memcmp(line + length - strlen(DELETED), DELETED, strlen(DELETED)) == 0) {
		mapping->deleted = true;
		length -= strlen(DELETED);
	}
	mapping->path = unescape(line, length);
	return mapping->path != NULL;
}

struct tm_error *tm_mappings_parse(const char *text, struct tm_mappings *mappings)
{
	memset(mappings, 0, sizeof(*mappings));
	while (*text) {
		size_t length = strcspn(text, "\n");
		struct tm_mapping mapping;

		if (!parse_line(text, length, &mapping)) {
			tm_mappings_deinit(mappings);
			return tm_error_create(TM_ERROR_BAD_FORMAT, "not a line of a maps file: \"%.*s\"",
					       (int)(length < 200 ? length : 200), text);
		}
		if (!tm_vector_push(mappings, mapping)) {
			free(mapping.path);
			tm_mappings_deinit(mappings);
			return tm_error_out_of_memory();
		}
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

/* Considers the free range [start, end): the place in it nearest to the wanted neighbourhood. */
static void consider_gap(struct gap_search *search, uint64_t start, uint64_t end)
{
	uint64_t place, distance, farthest_below, farthest_above;

	if (start < LOWEST)
		start = LOWEST;
	start += PAGE;
	if (end < start + search->size + PAGE)
		return;
	end -= PAGE;
	place = clamp(search->near_end, start, end - search->size) & ~(uint64_t)(PAGE - 1);
	if (place < start)
		return;
	farthest_above = place + search->size > search->near_start ? place + search->size - search->near_start : 0;
	farthest_below = search->near_end > place ? search->near_end - place : 0;
	distance = farthest_above > farthest_below ? farthest_above : farthest_below;
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

		if (mapping->start > previous_end && mapping->start <= USER_END)
			consider_gap(&search, previous_end, mapping->start);
		if (mapping->end > previous_end)
			previous_end = mapping->end;
	}
	if (previous_end < USER_END)
		consider_gap(&search, previous_end, USER_END);
	return search.best;
}
