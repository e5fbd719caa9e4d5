/*
 * Where a file is loaded: which of its mappings are those of its PT_LOADs, and at which bias. A program may
 * map the same file as data too, or load it twice (dlmopen). Pure functions. Private to debuginfo/.
 */
#ifndef TM_DEBUGINFO_MODULE_LAYOUT_H
#define TM_DEBUGINFO_MODULE_LAYOUT_H

#include "debuginfo/elf_image.h"
#include "debuginfo/mapping_group.h"

struct tm_layout {
	struct tm_layout_instance {
		uint64_t bias;
		uint64_t start, end; /* span of the mappings that fit */
	} * items;
	size_t count, capacity;
};

/*
 * The instances of a file with this ELF header; elf is NULL where nothing is known of the file, which then
 * counts as one instance whose vaddrs are file offsets. Ascending by address. The caller frees with
 * tm_vector_deinit.
 */
struct tm_error *tm_layout_find(const struct tm_mapping_group *group, const struct tm_elf *elf,
				struct tm_layout *layout);

/* Whether the mapping is a part of the instance at this bias; elf as above. */
bool tm_layout_fits(const struct tm_mapping *mapping, const struct tm_elf *elf, uint64_t bias);

/* Whether the mapping, of whatever file, stands where the instance has an executable segment. */
bool tm_layout_has_text_at(const struct tm_mapping *mapping, const struct tm_elf *elf, uint64_t bias);

#endif
