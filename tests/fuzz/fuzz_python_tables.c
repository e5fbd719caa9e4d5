/*
 * The search for tables and hooks in any code: two functions of the input, at any two addresses, and an
 * interpreter's debug offsets. What is found is what the code refers to; nothing outside of it is read.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "python/layout.h"
#include "python/tables.h"
#include "python/tracemalloc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct request {
	uint32_t first, second, runtime; /* addresses */
	uint16_t split;
} __attribute__((packed));

static uint8_t *copy(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(size ? size : 1); /* of this size exactly */

	if (bytes)
		memcpy(bytes, data, size);
	return bytes;
}

static void check(const struct tm_code_bytes code[2], uint64_t runtime)
{
	struct tm_addresses list = {0};

	tm_error_destroy(tm_code_common_references(code, 2, runtime, runtime, runtime + 0x100000, &list));
	for (size_t i = 0; i < list.count; i++)
		if (list.items[i] < runtime || list.items[i] >= runtime + 0x100000 || list.items[i] % 4)
			abort();
	list.count = 0;
	tm_error_destroy(tm_code_callees(&code[0], &list));
	for (size_t i = 0; i < list.count; i++)
		if (list.items[i] - code[0].address < code[0].size)
			abort();
	tm_vector_deinit(&list);
	tm_code_refers_to(&code[1], runtime, runtime + 8);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tm_python_layout layout = *tm_python_layout_of(3, 13);
	struct tm_code_bytes code[2];
	struct request request;
	size_t split;

	tm_error_destroy(tm_python_layout_refine(&layout, data, size));
	if (size < sizeof(request))
		return 0;
	memcpy(&request, data, sizeof(request));
	data += sizeof(request);
	size -= sizeof(request);
	split = request.split < size ? request.split : size;
	code[0] = (struct tm_code_bytes){copy(data, split), split, request.first};
	code[1] = (struct tm_code_bytes){copy(data + split, size - split), size - split, request.second};
	if (code[0].bytes && code[1].bytes)
		check(code, request.runtime);
	free((void *)code[0].bytes);
	free((void *)code[1].bytes);
	return 0;
}
