#include "python/code.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "python/line_table.h"
#include "python/unicode.h"

#define UNKNOWN	  "<unknown>" /* Modules/_tracemalloc.c: unknown_filename */
#define LINES_MAX (16u << 20) /* a line table beyond that is no line table */

static void destroy(struct tm_code *code)
{
	free(code->lines);
	free(code);
}

void tm_codes_deinit(struct tm_codes *codes)
{
	uint64_t address, place;

	for (size_t i = 0; tm_map_next(&codes->by_address, &i, &address, &place);)
		destroy((struct tm_code *)(uintptr_t)place);
	tm_map_deinit(&codes->by_address);
}

bool tm_codes_forget(struct tm_codes *codes, uint64_t address)
{
	const uint64_t *place = tm_map_get(&codes->by_address, address);

	if (!place)
		return false;
	destroy((struct tm_code *)(uintptr_t)*place);
	tm_map_remove(&codes->by_address, address);
	return true;
}

static bool read_lines(const struct tm_python_layout *layout, const struct tm_memory *memory, uint64_t object,
		       struct tm_code *code)
{
	uint64_t size = 0;
	struct tm_error *err = tm_memory_read(memory, object + layout->bytes_size, &size, sizeof(size));

	if (!err && size && size <= LINES_MAX && (code->lines = malloc(size))) {
		err = tm_memory_read(memory, object + layout->bytes_data, code->lines, size);
		code->lines_size = err ? 0 : size;
	}
	if (!err)
		return true;
	tm_error_destroy(err);
	return false;
}

/* The names are read as they are now; CPython never changes them in place. */
static bool read_place(struct tm_codes *codes, const struct tm_memory *memory, const uint8_t *object,
		       struct tm_code *code)
{
	const struct tm_python_layout *layout = codes->layout;
	uint16_t name = layout->code_qualname != TM_PYTHON_ABSENT ? layout->code_qualname : layout->code_name;
	_cleanup_free_ char *filename =
		tm_unicode_read(layout, memory, tm_word_at(object, layout->code_filename));
	_cleanup_free_ char *function = tm_unicode_read(layout, memory, tm_word_at(object, name));

	code->place =
		tm_places_intern(codes->places, filename ? filename : UNKNOWN, function ? function : UNKNOWN);
	return code->place != 0;
}

/* From 3.11 on the instructions stand behind the fields. */
size_t tm_code_object_size(const struct tm_python_layout *layout)
{
	return layout->code_instructions != TM_PYTHON_ABSENT ? layout->code_instructions
							     : layout->code_lines + sizeof(uint64_t);
}

static void read_code(struct tm_codes *codes, const struct tm_memory *memory, uint64_t address,
		      struct tm_code *code)
{
	const struct tm_python_layout *layout = codes->layout;
	uint8_t object[TM_PYTHON_CODE_SIZE] = {0};
	struct tm_error *err;

	err = tm_memory_read(memory, address, object, tm_code_object_size(layout));
	if (err) {
		tm_error_destroy(err);
		return;
	}
	code->first_line = tm_int_at(object, layout->code_firstlineno);
	if (layout->code_instructions != TM_PYTHON_ABSENT) {
		code->instructions = address + layout->code_instructions;
		code->first_traceable = (int64_t)tm_int_at(object, layout->code_first_traceable) * 2;
	}
	if (read_lines(layout, memory, tm_word_at(object, layout->code_lines), code))
		read_place(codes, memory, object, code);
}

struct tm_code *tm_codes_get(struct tm_codes *codes, const struct tm_memory *memory, uint64_t address)
{
	const uint64_t *place = tm_map_get(&codes->by_address, address);
	struct tm_code *code;

	if (place)
		return (struct tm_code *)(uintptr_t)*place;
	code = calloc(1, sizeof(*code));
	if (!code || !tm_map_put(&codes->by_address, address, (uintptr_t)code)) {
		free(code);
		return NULL;
	}
	for (size_t i = 0; i < TM_CODE_LINES; i++)
		code->known[i].offset = -1;
	read_code(codes, memory, address, code);
	return code;
}

/* ---- copies ---- */

/* The piece at *place, and *place behind it; NULL: it does not lie in the record. */
static const struct tm_record_piece *next_piece(const uint8_t **place, const uint8_t *end)
{
	const struct tm_record_piece *piece = (const struct tm_record_piece *)*place;
	uint64_t left = (uint64_t)(end - *place);

	if (left < sizeof(*piece) || piece->size > left - sizeof(*piece))
		return NULL;
	left -= sizeof(*piece) + piece->size;
	*place = end - (left & ~UINT64_C(7)); /* both the pieces and the end stand at multiples of 8 */
	return piece;
}

/* Reads out of the pieces of a record. */
static struct tm_error *read_copy(void *context, uint64_t address, void *buffer, size_t size)
{
	const struct tm_record_code *record = context;
	const uint8_t *place = record->pieces,
		      *end = (const uint8_t *)record + (size_t)record->header.units * TM_RECORD_UNIT;

	for (uint64_t i = 0; i < record->piece_count; i++) {
		const struct tm_record_piece *piece = next_piece(&place, end);

		if (!piece)
			break;
		if (address < piece->address || address - piece->address > piece->size ||
		    size > piece->size - (address - piece->address))
			continue;
		memcpy(buffer, piece->bytes + (address - piece->address), size);
		return NULL;
	}
	return tm_error_create(TM_ERROR_NO_MEMORY, "no copy of the bytes at 0x%" PRIx64 " was recorded",
			       address);
}

bool tm_codes_learn(struct tm_codes *codes, const struct tm_record_code *record)
{
	const struct tm_memory copy = {(void *)record, read_copy};

	tm_codes_forget(codes, record->code);
	return tm_codes_get(codes, &copy, record->code) != NULL;
}

uint32_t tm_code_line(const struct tm_codes *codes, struct tm_code *code, int64_t offset)
{
	size_t slot = (uint64_t)offset / 2 % TM_CODE_LINES;
	int line;

	if (offset >= 0 && code->known[slot].offset == offset)
		return code->known[slot].line;
	line = tm_python_line(codes->layout->lines, code->lines, code->lines_size, code->first_line, offset);
	if (line < 0)
		line = 0; /* Modules/_tracemalloc.c: tracemalloc_get_frame */
	if (offset >= 0) {
		code->known[slot].offset = offset;
		code->known[slot].line = (uint32_t)line;
	}
	return (uint32_t)line;
}
