/*
 * Strings and code objects of an interpreter whose memory is anything. The first byte chooses the version,
 * the rest is the memory from address BASE on: a text that is read is valid UTF-8 but for single bytes (PEP
 * 383) and lone surrogates, has no more characters than the bound, and code objects are read without reading
 * outside of the memory.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "python/code.h"
#include "python/unicode.h"

#define BASE 0x10000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct bytes {
	const uint8_t *data;
	size_t size;
};

static struct tm_error *read_bytes(void *context, uint64_t address, void *buffer, size_t size)
{
	const struct bytes *bytes = context;

	if (address < BASE || address - BASE > bytes->size || size > bytes->size - (address - BASE))
		return tm_error_create(TM_ERROR_NO_MEMORY, "nothing there");
	memcpy(buffer, bytes->data + (address - BASE), size);
	return NULL;
}

static void check_text(const struct tm_python_layout *layout, const struct tm_memory *memory, uint64_t object)
{
	char *text = tm_unicode_read(layout, memory, object);

	if (text && strlen(text) > 4u * TM_UNICODE_MAX)
		abort();
	free(text);
}

static void check_code(const struct tm_python_layout *layout, const struct tm_memory *memory, uint64_t object)
{
	struct tm_places places;
	struct tm_codes codes = {.layout = layout, .places = &places};
	struct tm_code *code;

	memset(&places, 0, sizeof(places));
	code = tm_codes_get(&codes, memory, object);
	for (int64_t offset = -2; code && offset < 64; offset++)
		if (tm_code_line(&codes, code, offset) != tm_code_line(&codes, code, offset))
			abort();
	if (code && tm_codes_get(&codes, memory, object) != code)
		abort();
	tm_codes_forget(&codes, object);
	tm_codes_deinit(&codes);
	tm_places_deinit(&places);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct bytes bytes = {data + 1, size - 1};
	const struct tm_memory memory = {&bytes, read_bytes};
	const struct tm_python_layout *layout;

	if (size < 1)
		return 0;
	layout = tm_python_layout_of(3, 8 + data[0] % 6u);
	for (uint64_t object = BASE; object < BASE + 64; object += 16) {
		check_text(layout, &memory, object);
		check_code(layout, &memory, object);
	}
	return 0;
}
