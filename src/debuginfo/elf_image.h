/*
 * A bounds-checked view of a 64-bit little-endian ELF file that lies in memory: whole (mapped), or as far as
 * it could be copied. Every accessor answers "not there" for what the bytes do not hold; none reads outside
 * them, and none touches more pages than the answer stands on. Borrows the bytes. Private to debuginfo/.
 */
#ifndef TM_DEBUGINFO_ELF_IMAGE_H
#define TM_DEBUGINFO_ELF_IMAGE_H

#include <elf.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct tm_bytes {
	const uint8_t *data; /* NULL: not there */
	size_t size;
};

struct tm_elf {
	struct tm_bytes file;
	Elf64_Ehdr header;
	size_t segment_count;
	size_t section_count; /* 0 if the table is not inside the bytes: stripped, or a copy from memory */
	size_t section_names; /* index of the section with their names */
};

/* TM_ERROR_BAD_FORMAT if these are no ELF bytes, or the program headers are not within them;
   TM_ERROR_UNSUPPORTED for another class or byte order than this program reads. */
struct tm_error *tm_elf_init(struct tm_elf *elf, const void *bytes, size_t size);

/* [offset, offset + size) of the file, or nothing. */
struct tm_bytes tm_elf_range(const struct tm_elf *elf, uint64_t offset, uint64_t size);

/* index < segment_count */
Elf64_Phdr tm_elf_segment(const struct tm_elf *elf, size_t index);
/* The first one of a type. */
bool tm_elf_find_segment(const struct tm_elf *elf, uint32_t type, Elf64_Phdr *segment);
/* The PT_LOAD whose part in the file holds vaddr. */
bool tm_elf_segment_at(const struct tm_elf *elf, uint64_t vaddr, Elf64_Phdr *segment);

/* The bytes of the file from vaddr to the end of its PT_LOAD in the file. */
struct tm_bytes tm_elf_at(const struct tm_elf *elf, uint64_t vaddr);
/* The same, exactly size bytes or nothing. */
struct tm_bytes tm_elf_at_exactly(const struct tm_elf *elf, uint64_t vaddr, uint64_t size);

bool tm_elf_section(const struct tm_elf *elf, size_t index, Elf64_Shdr *section);
bool tm_elf_find_section(const struct tm_elf *elf, const char *name, Elf64_Shdr *section);
bool tm_elf_find_section_type(const struct tm_elf *elf, uint32_t type, Elf64_Shdr *section);
/* Its bytes as they stand in the file; nothing for SHT_NOBITS. */
struct tm_bytes tm_elf_section_bytes(const struct tm_elf *elf, const Elf64_Shdr *section);

/* The string at index of a string table, or NULL if it does not end inside. */
const char *tm_elf_string(struct tm_bytes table, uint64_t index);

/* The descriptor of the NT_GNU_BUILD_ID note, or nothing. */
struct tm_bytes tm_elf_build_id(const struct tm_elf *elf);
/* Lower-case hex digits, the caller's to free; NULL for no bytes (or no memory). */
char *tm_elf_hex(struct tm_bytes bytes);
/* The build-id so. */
char *tm_elf_build_id_text(const struct tm_elf *elf);

/* The first entry of PT_DYNAMIC with this tag. *place, if asked for, is the vaddr of the word d_un. */
bool tm_elf_dynamic(const struct tm_elf *elf, int64_t tag, uint64_t *value, uint64_t *place);

#endif
