/*
 * Names for frames: function (demangled C++ and Rust), file, line, inlined calls, and the text of the line where the source is at hand.
 * By libdw from the module's own debug information, a separate debug file, or its symbol tables.
 * Uses handles of its own: may run in another thread than cfi.h and the module map's updates.
 * Never called on an event's path.
 */
#ifndef TM_DEBUGINFO_SYMBOLIZE_H
#define TM_DEBUGINFO_SYMBOLIZE_H

#include "debuginfo/module.h"

struct tm_location {
	char *function;     /* demangled, or NULL */
	char *filename;     /* as the line table gives it, made absolute by its compilation directory; NULL without line information */
	uint32_t lineno;    /* 0 if unknown */
	char *source;       /* text of the line, stripped of white space around; NULL if not at hand */
};

struct tm_locations {
	struct tm_location *items; /* innermost inlined call first; the physical function last */
	size_t count;              /* at least 1; a place that nothing covers has function and filename NULL */
};

struct tm_symbolizer;

/* root_fd: where debug files and sources are looked for first (the target's root, O_PATH), -1: only ours. */
struct tm_error *tm_symbolizer_create(const struct tm_module_map *map, int root_fd, struct tm_symbolizer **out);
void tm_symbolizer_destroy(struct tm_symbolizer *symbolizer);

/* The names for an offset (ELF virtual address) in a module. Missing information is no error. */
struct tm_error *tm_symbolize(struct tm_symbolizer *symbolizer, const struct tm_module *module, uint64_t offset,
			      struct tm_locations *out);
void tm_locations_deinit(struct tm_locations *locations);

/* The text of a source line without white space around it, the caller's to free; NULL if it is not at hand. */
char *tm_symbolizer_source(struct tm_symbolizer *symbolizer, const char *filename, uint32_t lineno);

/* Demangles an Itanium C++ or Rust (legacy, v0) name; a copy of the name itself if it is neither. */
char *tm_demangle(const char *name);

#endif
