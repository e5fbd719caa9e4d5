#include "python/line_table.h"

#include <stdbool.h>

#define NO_LINE (-1)

/* Deltas come from the target: they must not overflow. */
static int add(int line, int delta)
{
	int sum;

	return __builtin_add_overflow(line, delta, &sum) ? NO_LINE : sum;
}

/* Pairs (bytes of code, signed lines): the line rises behind those bytes. Objects/lnotab_notes.txt. */
static int line_by_lnotab(const uint8_t *table, size_t size, int line, int64_t offset)
{
	int64_t at = 0;

	for (size_t i = 0; i + 1 < size; i += 2) {
		at += table[i];
		if (at > offset)
			break;
		line = add(line, (int8_t)table[i + 1]);
	}
	return line;
}

/* Pairs (bytes of code, signed lines, -128 for none): the line of those bytes. Objects/lnotab_notes.txt
 * of 3.10. */
static int line_by_linetable(const uint8_t *table, size_t size, int line, int64_t offset)
{
	int64_t end = 0;

	for (size_t i = 0; i + 1 < size; i += 2) {
		int8_t delta = (int8_t)table[i + 1];

		end += table[i];
		if (delta != -128)
			line = add(line, delta);
		if (end > offset)
			return delta == -128 ? NO_LINE : line;
	}
	return NO_LINE;
}

/* Objects/locations.md: 6 bits a byte, bit 6 says that more follow; the sign is the lowest bit. */
static int read_signed(const uint8_t *table, size_t size, size_t at)
{
	uint32_t value = 0;
	int magnitude;

	for (unsigned shift = 0; at < size && shift < 30; shift += 6) {
		uint8_t byte = table[at++];

		value |= (uint32_t)(byte & 63) << shift;
		if (!(byte & 64))
			break;
	}
	magnitude = (int)(value >> 1);
	return value & 1 ? -magnitude : magnitude;
}

enum {
	LOCATION_ONE_LINE_0 = 10,
	LOCATION_ONE_LINE_2 = 12,
	LOCATION_NO_COLUMNS = 13,
	LOCATION_LONG = 14,
	LOCATION_NONE = 15
};

static int location_delta(unsigned code, const uint8_t *table, size_t size, size_t at)
{
	if (code >= LOCATION_ONE_LINE_0 && code <= LOCATION_ONE_LINE_2)
		return (int)(code - LOCATION_ONE_LINE_0);
	if (code == LOCATION_NO_COLUMNS || code == LOCATION_LONG)
		return read_signed(table, size, at);
	return 0;
}

/* Entries of a byte 1cccclll (code, instructions - 1) and what belongs to the code, in bytes without bit 7.
 */
static int line_by_locations(const uint8_t *table, size_t size, int line, int64_t offset)
{
	int64_t end = 0;

	for (size_t i = 0; i < size;) {
		unsigned code = (table[i] >> 3) & 15;

		end += ((table[i] & 7) + 1) * 2;
		line = add(line, location_delta(code, table, size, i + 1));
		if (end > offset)
			return code == LOCATION_NONE ? NO_LINE : line;
		for (i++; i < size && !(table[i] & 0x80);)
			i++;
	}
	return NO_LINE;
}

int tm_python_line(enum tm_line_format format, const uint8_t *table, size_t size, int first_line,
		   int64_t offset)
{
	if (offset < 0)
		return first_line;
	switch (format) {
	case TM_LINES_LNOTAB:
		return line_by_lnotab(table, size, first_line, offset);
	case TM_LINES_LINETABLE:
		return line_by_linetable(table, size, first_line, offset);
	case TM_LINES_LOCATIONS:
		return line_by_locations(table, size, first_line, offset);
	}
	return NO_LINE;
}
