/*
 * Reading the memory of a target, for layers that do not know what a target is. Implementations: the
 * target layer (a live process), tests (a byte array).
 */
#ifndef TM_BASE_MEMORY_H
#define TM_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct tm_memory {
	void *context;
	/* Reads exactly size bytes at address, or fails with TM_ERROR_NO_MEMORY (TM_ERROR_NO_PROCESS if the
	   target is gone); buffer's content is undefined then. */
	struct tm_error *(*read)(void *context, uint64_t address, void *buffer, size_t size);
};

static inline struct tm_error *tm_memory_read(const struct tm_memory *memory, uint64_t address, void *buffer,
					      size_t size)
{
	return memory->read(memory->context, address, buffer, size);
}

#endif
