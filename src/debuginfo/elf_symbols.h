/*
 * The symbol tables of an ELF image: .symtab by the section headers; .dynsym by them or, where there are none
 * (a copy from memory, sstrip), by PT_DYNAMIC and the hash table that ld.so uses. Borrows the image. Private
 * to debuginfo/.
 */
#ifndef TM_DEBUGINFO_ELF_SYMBOLS_H
#define TM_DEBUGINFO_ELF_SYMBOLS_H

#include "debuginfo/elf_image.h"

struct tm_elf_symbols {
	const uint8_t *entries; /* at any alignment */
	size_t count;
	struct tm_bytes strings; /* ends with NUL: every index inside is a string */
};

/* A table that is not there is empty; one whose place is not inside the image is TM_ERROR_BAD_FORMAT. */
struct tm_error *tm_elf_symbols_static(const struct tm_elf *elf, struct tm_elf_symbols *symbols);
struct tm_error *tm_elf_symbols_dynamic(const struct tm_elf *elf, struct tm_elf_symbols *symbols);

/* index < count */
Elf64_Sym tm_elf_symbol(const struct tm_elf_symbols *symbols, size_t index);
const char *tm_elf_symbol_name(const struct tm_elf_symbols *symbols,
			       const Elf64_Sym *symbol); /* "" if damaged */

/* The first defined symbol of that name in .dynsym, by the hash table that ld.so uses (DT_GNU_HASH), or where
   there is none one by one; symbols->count: there is none. */
size_t tm_elf_symbols_find(const struct tm_elf *elf, const struct tm_elf_symbols *symbols, const char *name);

/* Defined code: STT_FUNC, STT_GNU_IFUNC, or STT_NOTYPE where code is (not the mapping symbols "$x", "$d" of
 * AAELF64). */
bool tm_elf_symbol_is_code(const struct tm_elf *elf, const Elf64_Sym *symbol, const char *name);

#endif
