/*
 * Line tables of code objects in all three formats. The first byte chooses the format, the next eight the
 * first line and the offset, the rest is the table: nothing outside of it is read, and a line stays an int.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "python/line_table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct request {
	uint8_t format;
	int32_t first_line, offset;
} __attribute__((packed));

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct request request;
	uint8_t *table; /* of this size exactly: reading behind it is seen */

	if (size < sizeof(request))
		return 0;
	memcpy(&request, data, sizeof(request));
	size -= sizeof(request);
	table = malloc(size ? size : 1);
	if (!table)
		return 0;
	memcpy(table, data + sizeof(request), size);
	for (int64_t offset = request.offset; offset < (int64_t)request.offset + 8; offset += 2) {
		int line = tm_python_line(request.format % 3, table, size, request.first_line, offset);

		if (offset < 0 && line != request.first_line)
			abort();
		if (line != tm_python_line(request.format % 3, table, size, request.first_line, offset))
			abort();
	}
	free(table);
	return 0;
}
