#include "model/chunks.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_CAPACITY 32
#define CACHE_LINE     64

static struct tm_chunk_directory *directory_of(const struct tm_chunks *chunks)
{
	return atomic_load_explicit(&chunks->directory, memory_order_relaxed);
}

static bool grow_directory(struct tm_chunks *chunks)
{
	struct tm_chunk_directory *old = directory_of(chunks), *bigger;
	size_t capacity = old ? old->capacity * 2 : FIRST_CAPACITY;

	bigger = malloc(sizeof(*bigger) + capacity * sizeof(bigger->chunks[0]));
	if (!bigger)
		return false;
	bigger->outgrown = old;
	bigger->capacity = capacity;
	if (old)
		memcpy(bigger->chunks, old->chunks, old->capacity * sizeof(old->chunks[0]));
	atomic_store_explicit(&chunks->directory, bigger, memory_order_release);
	return true;
}

bool tm_chunks_push(struct tm_chunks *chunks)
{
	struct tm_chunk_directory *directory = directory_of(chunks);
	void *chunk;

	if ((!directory || chunks->count == directory->capacity) && !grow_directory(chunks))
		return false;
	chunk = aligned_alloc(CACHE_LINE, TM_CHUNK_SIZE);
	if (!chunk)
		return false;
	directory_of(chunks)->chunks[chunks->count++] = chunk;
	return true;
}

void tm_chunks_pop(struct tm_chunks *chunks)
{
	free(directory_of(chunks)->chunks[--chunks->count]);
}

void tm_chunks_deinit(struct tm_chunks *chunks)
{
	struct tm_chunk_directory *directory = directory_of(chunks), *outgrown;

	while (chunks->count)
		tm_chunks_pop(chunks);
	for (; directory; directory = outgrown) {
		outgrown = directory->outgrown;
		free(directory);
	}
	atomic_store_explicit(&chunks->directory, NULL, memory_order_relaxed);
}

size_t tm_chunks_memory(const struct tm_chunks *chunks)
{
	size_t size = chunks->count * TM_CHUNK_SIZE;

	for (struct tm_chunk_directory *directory = directory_of(chunks); directory;
	     directory = directory->outgrown)
		size += sizeof(*directory) + directory->capacity * sizeof(directory->chunks[0]);
	return size;
}
