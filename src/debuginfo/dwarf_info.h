/*
 * The debug information of a module, its own or a separate file's, as answers to one question: which
 * functions, inlined into one another, and which lines stand at an address? A shared supplementary file (dwz)
 * is found under the same roots. Private to debuginfo/.
 */
#ifndef TM_DEBUGINFO_DWARF_INFO_H
#define TM_DEBUGINFO_DWARF_INFO_H

#include "debuginfo/elf_image.h"
#include "debuginfo/symbolize.h"

struct tm_dwarf_info;

/* Bytes of a debug file, mapped for libdw and the symbol tables; nothing if there is none. */
struct tm_debug_image {
	struct tm_bytes bytes;
	char *path;
};

/* Reads the debug information in `image`, which stays the caller's and must outlive it. *out is NULL if there
   is none that libdw can read. module: the module's own image. */
struct tm_error *tm_dwarf_info_create(const struct tm_debug_image *image, const struct tm_elf *module,
				      int root_fd, struct tm_dwarf_info **out);
void tm_dwarf_info_destroy(struct tm_dwarf_info *info);

/* Appends the locations of vaddr, innermost first; none if no unit covers it. Names may be NULL. */
struct tm_error *tm_dwarf_info_locate(struct tm_dwarf_info *info, uint64_t vaddr,
				      struct tm_locations *locations);

#endif
