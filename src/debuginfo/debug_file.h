/* Finding the separate debug file of a module (see tm_module_open_debug_file in symbol.h). Private to
 * debuginfo/. */
#ifndef TM_DEBUGINFO_DEBUG_FILE_H
#define TM_DEBUGINFO_DEBUG_FILE_H

#include "debuginfo/elf_image.h"
#include "debuginfo/module.h"

/* Under root_fd (-1: none), then under our own root. *path may be asked for and is the caller's to free. */
int tm_debug_file_open(int root_fd, const struct tm_module *module, char **path);

/* The file that .gnu_debugaltlink names, shared by several debug files (dwz): `name` is relative to the debug
   file that refers to it, and its build-id must be `id`. */
int tm_debug_file_open_alternate(int root_fd, const char *referrer, const char *name, struct tm_bytes id);

/* Maps a whole file privately, to be undone by munmap; no data if that fails. Writable, because libelf writes
   into headers of sections that it decompresses. */
struct tm_bytes tm_debug_file_map(int fd);

#endif
