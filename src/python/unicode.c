#include "python/unicode.h"

#include <stdlib.h>
#include <stdbool.h>
#include <string.h>

#include "base/strbuf.h"

struct header {
	uint64_t length; /* characters */
	unsigned kind;	 /* bytes a character: 1, 2, 4 */
	bool compact, ascii;
};

/* Bits of PyASCIIObject.state: interned 2, kind 3, compact 1, ascii 1. */
static bool read_header(const struct tm_python_layout *layout, const struct tm_memory *memory,
			uint64_t object, struct header *header)
{
	uint32_t state = 0;
	struct tm_error *err = tm_memory_read(memory, object + layout->unicode_length, &header->length,
					      sizeof(header->length));

	if (!err)
		err = tm_memory_read(memory, object + layout->unicode_state, &state, sizeof(state));
	header->kind = (state >> 2) & 7;
	header->compact = state >> 5 & 1;
	header->ascii = state >> 6 & 1;
	if (!err)
		return header->kind == 1 || header->kind == 2 || header->kind == 4;
	tm_error_destroy(err);
	return false;
}

/* An instance of a subclass of str has its characters elsewhere (PyUnicodeObject.data, behind what a compact
 * string begins with). */
static struct tm_error *find_characters(const struct tm_python_layout *layout, const struct tm_memory *memory,
					const struct header *header, uint64_t object, uint64_t *address)
{
	*address =
		object + (header->compact && header->ascii ? layout->unicode_ascii : layout->unicode_compact);
	return header->compact ? NULL : tm_memory_read(memory, *address, address, sizeof(*address));
}

static void append_character(struct tm_strbuf *text, uint32_t c)
{
	char bytes[4];
	size_t size = 0;

	if (c < 0x80 || (c >= 0xdc80 && c <= 0xdcff)) {
		bytes[size++] = (char)(c & 0xff);
	} else if (c < 0x800) {
		bytes[size++] = (char)(0xc0 | c >> 6);
		bytes[size++] = (char)(0x80 | (c & 63));
	} else if (c < 0x10000) {
		bytes[size++] = (char)(0xe0 | c >> 12);
		bytes[size++] = (char)(0x80 | (c >> 6 & 63));
		bytes[size++] = (char)(0x80 | (c & 63));
	} else {
		bytes[size++] = (char)(0xf0 | (c >> 18 & 7));
		bytes[size++] = (char)(0x80 | (c >> 12 & 63));
		bytes[size++] = (char)(0x80 | (c >> 6 & 63));
		bytes[size++] = (char)(0x80 | (c & 63));
	}
	tm_strbuf_append(text, bytes, size);
}

static char *encode(const uint8_t *data, const struct header *header)
{
	struct tm_strbuf text = {0};

	tm_strbuf_puts(&text, "");
	for (uint64_t i = 0; i < header->length; i++) {
		uint32_t c = 0;

		memcpy(&c, data + i * header->kind,
		       header->kind); /* little endian, as all hosts of tmtrace */
		append_character(&text, c);
	}
	return tm_strbuf_steal(&text);
}

char *tm_unicode_read(const struct tm_python_layout *layout, const struct tm_memory *memory, uint64_t object)
{
	_cleanup_free_ uint8_t *data = NULL;
	struct tm_error *err;
	struct header header;
	uint64_t characters;
	size_t size;

	if (!read_header(layout, memory, object, &header))
		return NULL;
	if (header.length > TM_UNICODE_MAX)
		header.length = TM_UNICODE_MAX;
	size = header.length * header.kind;
	data = malloc(size + 1);
	if (!data)
		return NULL;
	err = find_characters(layout, memory, &header, object, &characters);
	if (!err)
		err = tm_memory_read(memory, characters, data, size);
	if (!err)
		return encode(data, &header);
	tm_error_destroy(err);
	return NULL;
}
