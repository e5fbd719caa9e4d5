/*
 * A growable array of any element type, declared in place:
 *
 *	struct tm_vector(uint64_t) sites = {0};
 *	if (!tm_vector_push(&sites, address)) return tm_error_out_of_memory();
 *	for (size_t i = 0; i < sites.count; i++) use(sites.items[i]);
 *	tm_vector_deinit(&sites);
 *
 * Elements are moved by realloc: keep indexes, not pointers, across a push.
 */
#ifndef TM_BASE_VECTOR_H
#define TM_BASE_VECTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#define tm_vector(type)                                                                                      \
	{                                                                                                    \
		type *items;                                                                                 \
		size_t count, capacity;                                                                      \
	}

/* Makes room for at least `wanted` elements; false when out of memory (nothing changed then). */
bool tm_vector_grow(void **items, size_t *capacity, size_t wanted, size_t element_size);

#define tm_vector_reserve(v, wanted)                                                                         \
	((wanted) <= (v)->capacity ||                                                                        \
	 tm_vector_grow((void **)&(v)->items, &(v)->capacity, (wanted), sizeof(*(v)->items)))

#define tm_vector_push(v, ...)                                                                               \
	(tm_vector_reserve((v), (v)->count + 1) ? ((v)->items[(v)->count++] = (__VA_ARGS__), true) : false)

/* Takes element i out; the last one moves into its place. */
#define tm_vector_remove_unordered(v, i) ((v)->items[(i)] = (v)->items[--(v)->count])

#define tm_vector_deinit(v)                                                                                  \
	do {                                                                                                 \
		free((v)->items);                                                                            \
		(v)->items = NULL;                                                                           \
		(v)->count = (v)->capacity = 0;                                                              \
	} while (0)

#endif
