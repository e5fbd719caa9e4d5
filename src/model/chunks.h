/*
 * An array in pieces of TM_CHUNK_SIZE bytes. Growing takes one more piece: nothing is copied, so no event
 * waits for a million elements to move, and the slack is at most one piece. An element never changes its
 * place.
 *
 * One thread pushes and pops. Another may meanwhile read elements that it knows to exist: a directory that
 * was outgrown stays readable until deinit (all of them together are smaller than the present one).
 */
#ifndef TM_MODEL_CHUNKS_H
#define TM_MODEL_CHUNKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#define TM_CHUNK_SIZE ((size_t)256 << 10)

struct tm_chunk_directory {
	struct tm_chunk_directory *outgrown;
	size_t capacity;
	void *chunks[];
};

/* All zero is an empty array. */
struct tm_chunks {
	_Atomic(struct tm_chunk_directory *) directory;
	size_t count; /* chunks */
};

/* One more chunk, its content undefined, aligned for any element; false when out of memory. */
bool tm_chunks_push(struct tm_chunks *chunks);
/* Releases the last chunk. */
void tm_chunks_pop(struct tm_chunks *chunks);
void tm_chunks_deinit(struct tm_chunks *chunks);

/* Bytes held. */
size_t tm_chunks_memory(const struct tm_chunks *chunks);

static inline void *tm_chunks_get(const struct tm_chunks *chunks, size_t chunk)
{
	return atomic_load_explicit(&chunks->directory, memory_order_acquire)->chunks[chunk];
}

/* Elements of a type in one chunk; its size must be a power of two, so that no element lies across two. */
#define TM_CHUNK_ELEMENTS(type) (TM_CHUNK_SIZE / sizeof(type))

/* The place of element `index`, which must lie in a chunk that was pushed. */
#define tm_chunks_at(chunks, type, index)                                                                    \
	((type *)tm_chunks_get((chunks), (size_t)(index) / TM_CHUNK_ELEMENTS(type)) +                        \
	 (size_t)(index) % TM_CHUNK_ELEMENTS(type))

/* Makes sure that element `index`, at most one past the last chunk, has a place. */
#define tm_chunks_reserve(chunks, type, index)                                                               \
	((size_t)(index) < (chunks)->count * TM_CHUNK_ELEMENTS(type) || tm_chunks_push(chunks))

/* Releases what lies beyond `count` elements but for one spare chunk, so that a count that swings around a
   border does not allocate at each swing. */
#define tm_chunks_trim(chunks, type, number)                                                                 \
	do {                                                                                                 \
		while ((chunks)->count > (size_t)(number) / TM_CHUNK_ELEMENTS(type) + 2)                     \
			tm_chunks_pop(chunks);                                                               \
	} while (0)

#endif
