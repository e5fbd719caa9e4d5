/*
 * The modules (executable, shared libraries, vdso) that a target has or had mapped: found in its memory map, opened
 * at once under the target's own root, so that they are still there for symbols when the target, its files or its
 * mount namespace are gone. A module number is never reused; an unloaded module stays known, for its frames.
 *
 * Module 0 is "no module": code in anonymous memory (a JIT). Its frames carry absolute addresses.
 * One thread updates the map. Another may meanwhile count and get modules and read what never changes once a module exists:
 * number, path, build_id, fd, image, problem.
 */
#ifndef TM_DEBUGINFO_MODULE_H
#define TM_DEBUGINFO_MODULE_H

#include "base/mapping.h"
#include "base/memory.h"

struct Elf;

struct tm_module {
	uint32_t number;
	char *path;              /* as the target's memory map names it, without " (deleted)"; "[vdso]" */
	char *build_id;          /* hex digits, NULL if it has none */
	uint64_t start, end;     /* span of its mappings in the target, while loaded */
	uint64_t bias;           /* run-time address - ELF virtual address */
	bool loaded;             /* mapped now */
	bool is_main;            /* the executable itself */
	bool is_vdso;
	bool deleted;            /* its file had been deleted, or another one had its path, when it was found */
	uint16_t elf_machine;
	unsigned dev_major, dev_minor;
	ino_t inode;
	int fd;                  /* the file, or -1 (vdso, or a file that could not be opened); modules of one file share it */
	const uint8_t *image;    /* the whole ELF file, mapped from fd or copied from memory; NULL if neither could be had */
	size_t image_size;
	bool image_is_copy;      /* copied from the target's memory: its read-only segments and PT_DYNAMIC, each at its
				    offset in the file; zero elsewhere; no section headers */
	char *problem;           /* why there is no image, else NULL; vaddrs are then offsets in the file */
	struct tm_module_text {  /* executable mappings, while loaded */
		uint64_t start, end; /* run-time */
	} *texts;
	size_t text_count;
};

struct tm_module_map;

/* How files of the target are opened. root_fd is a descriptor of /proc/PID/root (O_PATH), or -1 for our own root; proc_fd one of
   /proc/PID for map_files/, or -1. Both stay the caller's and must outlive the map. `memory` reads the
   target's memory, for the vdso and for deleted files; it is used during tm_module_map_update only. */
struct tm_module_source {
	int root_fd;
	int proc_fd;
	struct tm_memory memory;
};

struct tm_error *tm_module_map_create(const struct tm_module_source *source, struct tm_module_map **out);
void tm_module_map_destroy(struct tm_module_map *map);

/*
 * Compares with the target's memory map: new modules are opened and added, vanished ones marked unloaded. A file
 * that cannot be opened still is a module (with a problem). The same file (device, inode and content) loaded again
 * has its old number again, at its new bias; loaded twice at a time it has two. main_path may be NULL; else the
 * module whose dev:inode is that of the first mapping with this path is_main. generation rises if anything changed.
 */
struct tm_error *tm_module_map_update(struct tm_module_map *map, const struct tm_mappings *mappings,
				      const char *main_path);

/* exec: all modules are unloaded. root_fd etc. may be new. */
void tm_module_map_reset(struct tm_module_map *map, const struct tm_module_source *source);

/* How files of the target are opened now. */
const struct tm_module_source *tm_module_map_source(const struct tm_module_map *map);

uint64_t tm_module_map_generation(const struct tm_module_map *map);
uint32_t tm_module_map_count(const struct tm_module_map *map); /* numbers [0, count) */

/* By number; never NULL for a valid number. The place is stable. */
struct tm_module *tm_module_map_get(const struct tm_module_map *map, uint32_t number);

/* The loaded module that has pc in an executable mapping, or NULL. */
struct tm_module *tm_module_map_find(const struct tm_module_map *map, uint64_t pc);

/* The pages of the module's file that were looked at may go: what is needed again is read again. Keeps a tracer small that had to
   search a large symbol table. */
void tm_module_release_pages(const struct tm_module *module);

/* The program interpreter that the executable asks for (PT_INTERP), or NULL; and DT_SONAME, or NULL.
   Both point into the image. */
const char *tm_module_interpreter(const struct tm_module *module);
const char *tm_module_soname(const struct tm_module *module);

/* Bytes of the file at an ELF virtual address inside a PT_LOAD, with their count up to the segment's end in the file; NULL if
   there are none. This is what stands in memory as long as nobody patched it. */
const uint8_t *tm_module_bytes(const struct tm_module *module, uint64_t vaddr, size_t *available);

#endif
