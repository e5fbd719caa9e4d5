/*
 * ELF files as they stand in the memory of a target: their headers, for telling whether a file is the one
 * that is mapped, and whole images of files that cannot be opened. Private to debuginfo/.
 */
#ifndef TM_DEBUGINFO_MEMORY_IMAGE_H
#define TM_DEBUGINFO_MEMORY_IMAGE_H

#include "base/memory.h"
#include "debuginfo/elf_image.h"
#include "debuginfo/mapping_group.h"

/* Reads [offset, offset + size) of the mapped file through whichever mappings hold it. */
struct tm_error *tm_memory_image_read(const struct tm_memory *memory, const struct tm_mapping_group *group,
				      uint64_t offset, void *buffer, size_t size);

/* The ELF header and the program headers, laid out as in the file; *bytes is the caller's to free. */
struct tm_error *tm_memory_image_headers(const struct tm_memory *memory, const struct tm_mapping_group *group,
					 uint8_t **bytes, size_t *size);

/* The build-id in hex, NULL if it has none or cannot be read. The caller frees it. */
char *tm_memory_image_build_id(const struct tm_memory *memory, const struct tm_mapping_group *group);

/*
 * A copy of the file: each read-only PT_LOAD, and PT_DYNAMIC, at its offset in the file. Writable segments
 * (whose memory is no longer what the file held) and what cannot be read are zero; there are no section
 * headers. *image is the caller's to munmap.
 */
struct tm_error *tm_memory_image_copy(const struct tm_memory *memory, const struct tm_mapping_group *group,
				      uint8_t **image, size_t *size);

#endif
