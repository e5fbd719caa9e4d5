#include "base/vector.h"

#include <stdint.h>

bool tm_vector_grow(void **items, size_t *capacity, size_t wanted, size_t element_size)
{
	size_t grown = *capacity ? *capacity : 8;
	void *moved;

	while (grown < wanted) {
		if (grown > SIZE_MAX / 2)
			return false;
		grown *= 2;
	}
	if (grown > SIZE_MAX / element_size)
		return false;
	moved = realloc(*items, grown * element_size);
	if (!moved)
		return false;
	*items = moved;
	*capacity = grown;
	return true;
}
