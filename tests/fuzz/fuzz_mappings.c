/* The parser of /proc/PID/maps, and what is asked of its result. */
#include <stdlib.h>
#include <string.h>

#include "base/mapping.h"

#define SIZE  0x10000u
#define REACH UINT64_C(0x7fff0000)

static void require(int fact)
{
	if (!fact)
		abort();
}

/* As the kernel writes them; of other lists only a crash would be wrong. */
static int is_sorted(const struct tm_mappings *mappings)
{
	for (size_t i = 1; i < mappings->count; i++) {
		if (mappings->items[i].start < mappings->items[i - 1].end)
			return 0;
	}
	return 1;
}

static void check_gap(const struct tm_mappings *mappings, const struct tm_mapping *near)
{
	uint64_t gap = tm_mappings_find_gap(mappings, near->start, near->end, SIZE, REACH);

	if (!gap)
		return;
	require(gap % 4096 == 0 && gap >= 0x10000);
	require(near->end <= gap || near->end - gap <= REACH);
	require(gap + SIZE <= near->start || gap + SIZE - near->start <= REACH);
	for (size_t i = 0; i < mappings->count; i++)
		require(mappings->items[i].end <= gap || mappings->items[i].start >= gap + SIZE);
}

static void check(const struct tm_mappings *mappings)
{
	int sorted = is_sorted(mappings);

	for (size_t i = 0; i < mappings->count; i++) {
		const struct tm_mapping *mapping = &mappings->items[i];
		const struct tm_mapping *found = tm_mappings_find(mappings, mapping->start);

		require(mapping->start < mapping->end && mapping->path);
		if (sorted) {
			require(found == mapping);
			check_gap(mappings, mapping);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1); /* of this size exactly: reading behind it is seen */
	struct tm_mappings mappings;
	struct tm_error *err;

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	err = tm_mappings_parse(text, &mappings);
	if (!err)
		check(&mappings);
	tm_error_destroy(err);
	tm_mappings_deinit(&mappings);
	free(text);
	return 0;
}
