/*
 * One line of /proc/PID/maps (proc(5)), parsed. A list is sorted by address and owns its paths.
 */
#ifndef TM_BASE_MAPPING_H
#define TM_BASE_MAPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct tm_mapping {
	uint64_t start, end; /* [start, end), page aligned */
	uint64_t offset;     /* in the file, bytes */
	bool readable, writable, executable, shared;
	bool deleted; /* the kernel appended " (deleted)": path is without it */
	unsigned dev_major, dev_minor;
	ino_t inode; /* 0: no file */
	char *path;  /* "" for anonymous memory; "[vdso]", "[stack]", ...; \012 octal escapes undone */
};

struct tm_mappings {
	struct tm_mapping *items;
	size_t count, capacity;
};

/* Parses the text of a maps file. A line that does not parse is an error that quotes it. */
struct tm_error *tm_mappings_parse(const char *text, struct tm_mappings *mappings);
struct tm_error *tm_mappings_copy(const struct tm_mappings *mappings, struct tm_mappings *copy);
void tm_mappings_deinit(struct tm_mappings *mappings);

/* Adds anonymous memory at [start, end), where nothing is. */
struct tm_error *tm_mappings_add(struct tm_mappings *mappings, uint64_t start, uint64_t end);

/* The mapping that holds address, or NULL. */
const struct tm_mapping *tm_mappings_find(const struct tm_mappings *mappings, uint64_t address);

/* Code that no file has, and nobody may write to: a JIT's, or what a tracer has put there. */
static inline bool tm_mapping_is_anonymous_code(const struct tm_mapping *mapping)
{
	return mapping->executable && !mapping->writable && !mapping->inode && !mapping->path[0];
}

/* A free gap of `size` bytes, page aligned, every byte of which lies within `reach` of [near_start,
   near_end), as close as possible; 0 if there is none. Keeps clear of the lowest 64 KiB and leaves one page
   around. */
uint64_t tm_mappings_find_gap(const struct tm_mappings *mappings, uint64_t near_start, uint64_t near_end,
			      uint64_t size, uint64_t reach);

#endif
