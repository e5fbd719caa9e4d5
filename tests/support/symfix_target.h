/*
 * A made-up target for tests of the module map: files "loaded" at places that the test chooses, with a maps
 * file and a memory that say so. Nothing is mapped really. Aborts the test if something cannot be had.
 */
#ifndef TM_TESTS_SUPPORT_SYMFIX_TARGET_H
#define TM_TESTS_SUPPORT_SYMFIX_TARGET_H

#include "base/mapping.h"
#include "base/memory.h"
#include "base/strbuf.h"
#include "debuginfo/module.h"

struct symfix_target {
	struct tm_strbuf maps;
	struct symfix_range {
		uint64_t start, end, offset;
		int fd; /* of the file whose bytes stand there */
	} ranges[64];
	size_t range_count;
	bool memory_gone;
};

/* How a file is shown in the maps file; all zero is as it is. */
struct symfix_disguise {
	const char *path; /* shown instead; " (deleted)" may be a part of it */
	unsigned dev_major, dev_minor;
	ino_t inode;
};

void symfix_target_deinit(struct symfix_target *target);
void symfix_target_clear(struct symfix_target *target); /* nothing is mapped any more */

/* Loads each PT_LOAD of an ELF file at its vaddr + bias. */
void symfix_target_load(struct symfix_target *target, const char *path, uint64_t bias,
			const struct symfix_disguise *disguise);

/* Maps size bytes from offset of a file; permissions as in a maps file ("r-xp"). */
void symfix_target_map(struct symfix_target *target, const char *path, uint64_t start, uint64_t offset,
		       uint64_t size, const char *permissions, const struct symfix_disguise *disguise);

/* Any line, e.g. of anonymous memory. Lines may be added in any order. */
void symfix_target_line(struct symfix_target *target, const char *line);

struct tm_module_source symfix_target_source(struct symfix_target *target, int root_fd, int proc_fd);

/* Updates the map from what is mapped now. */
void symfix_target_update(struct symfix_target *target, struct tm_module_map *map, const char *main_path);

/* The real one: maps file and memory of this very process. */
struct tm_module_map *symfix_own_modules(int root_fd, int proc_fd);

/* The one loaded module whose path ends so; aborts the test if there is none. */
struct tm_module *symfix_module(struct tm_module_map *map, const char *path_end);

/* A new directory, removed with all that is in it by symfix_remove. */
char *symfix_directory(void);
void symfix_remove(char *directory); /* and frees the name */

/* Paths and commands are made with printf; the string is the caller's to free. */
char *symfix_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
void symfix_run(const char *format, ...) __attribute__((format(printf, 1, 2)));
void symfix_copy(const char *from, const char *to);

/* Where the dynamic loader has a library of this process. */
const char *symfix_library_path(const void *address_in_it);

#endif
