/*
 * The file behind a group of mappings: opened by its path if the file there still is the one that is mapped,
 * else through /proc/PID/map_files, else copied from the target's memory. Private to debuginfo/.
 */
#ifndef TM_DEBUGINFO_MODULE_FILE_H
#define TM_DEBUGINFO_MODULE_FILE_H

#include <sys/stat.h>

#include "debuginfo/elf_image.h"
#include "debuginfo/mapping_group.h"
#include "debuginfo/module.h"

struct tm_module_file {
	char *path, *build_id, *problem;
	unsigned dev_major, dev_minor;
	ino_t inode;
	int fd;
	struct stat opened; /* of fd */
	const uint8_t *image;
	size_t image_size;
	bool image_is_copy;
	bool replaced;	   /* what stands under the path now is another file, or none */
	bool is_memory;	   /* deleted and no ELF file: shared memory of a JIT, not a module */
	struct tm_elf elf; /* of image */
	bool seen;	   /* by the module map's update */
};

/* Never fails but for want of memory: what cannot be had is the file's problem. */
struct tm_error *tm_module_file_open(const struct tm_module_source *source,
				     const struct tm_mapping_group *group, struct tm_module_file **out);
void tm_module_file_destroy(struct tm_module_file *file);

/* Whether the group maps this very file, by device and inode (by path for what has none). */
bool tm_module_file_is_of(const struct tm_module_file *file, const struct tm_mapping *mapping);

/* Whether what is mapped now, after the file was unloaded, has the content that it had when it was opened. */
bool tm_module_file_is_unchanged(const struct tm_module_file *file, const struct tm_module_source *source,
				 const struct tm_mapping_group *group);

/* A view of the module's image; false if it has none. */
bool tm_module_elf(const struct tm_module *module, struct tm_elf *elf);

#endif
