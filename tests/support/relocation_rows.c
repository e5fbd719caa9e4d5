#include "support/relocation_rows.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/strbuf.h"

size_t tm_row_bytes(const char *text, uint8_t *bytes, size_t size)
{
	size_t count = 0;
	int length;

	while (count < size && sscanf(text, " %2" SCNx8 "%n", &bytes[count], &length) == 1) {
		text += length;
		count++;
	}
	return count;
}

static char *hex(const uint8_t *bytes, size_t size)
{
	struct tm_strbuf buf = {0};

	for (size_t i = 0; i < size; i++)
		tm_strbuf_printf(&buf, i ? " %02x" : "%02x", bytes[i]);
	return tm_strbuf_steal(&buf);
}

static char *points_text(const struct tm_relocated *moved)
{
	struct tm_strbuf buf = {0};

	for (size_t i = 0; i < moved->point_count; i++)
		tm_strbuf_printf(&buf, "%s%u=%" PRIx64, i ? " " : "", moved->points[i].pad_offset,
				 moved->points[i].original_pc);
	return tm_strbuf_steal(&buf);
}

/* Puts the bytes at the very end of an allocation of their own, so that a read behind them is found. */
static struct tm_error *relocate(const struct tm_arch *arch, const char *text, uint64_t to, size_t min_bytes,
				 struct tm_relocated *moved)
{
	uint8_t bytes[64];
	size_t size = tm_row_bytes(text, bytes, sizeof(bytes));
	_cleanup_free_ uint8_t *copy = malloc(size);

	memcpy(copy, bytes, size);
	return arch->relocate(copy, size, TM_ROW_FROM, to, min_bytes, moved);
}

static char *difference(const char *what, const char *which, const char *is, const char *should)
{
	struct tm_strbuf buf = {0};

	tm_strbuf_printf(&buf, "%s: %s\n  is     %s\n  should %s", what, which, is, should);
	return tm_strbuf_steal(&buf);
}

char *tm_move_row_check(const struct tm_arch *arch, const struct tm_move_row *row)
{
	_cleanup_free_ char *code = NULL, *points = NULL;
	_cleanup_error_ struct tm_error *err = NULL;
	struct tm_relocated moved;
	char consumed[32], expected[32];

	err = relocate(arch, row->bytes, row->to, row->min_bytes, &moved);
	if (err)
		return difference(row->what, "refused", err->message, row->moved);
	code = hex(moved.code, moved.size);
	points = points_text(&moved);
	if (strcmp(code, row->moved))
		return difference(row->what, "code", code, row->moved);
	if (strcmp(points, row->points))
		return difference(row->what, "points", points, row->points);
	snprintf(consumed, sizeof(consumed), "%zu", moved.consumed);
	snprintf(expected, sizeof(expected), "%zu", row->consumed);
	return moved.consumed == row->consumed ? NULL : difference(row->what, "consumed", consumed, expected);
}

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text), end_length = strlen(end);

	return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

char *tm_refusal_row_check(const struct tm_arch *arch, const struct tm_refusal_row *row)
{
	struct tm_relocated moved, before;
	_cleanup_error_ struct tm_error *err = NULL;

	memset(&before, 0x5a, sizeof(before));
	memcpy(&moved, &before, sizeof(moved));
	err = relocate(arch, row->bytes, row->to, row->min_bytes, &moved);
	if (!err)
		return difference(row->what, "refusal", "moved", row->reason);
	if (err->code != TM_ERROR_UNSUPPORTED || !ends_with(err->message, row->reason))
		return difference(row->what, "refusal", err->message, row->reason);
	if (memcmp(&moved, &before, sizeof(moved)))
		return difference(row->what, "result", "changed", "as it was");
	return NULL;
}
