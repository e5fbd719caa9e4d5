/* Names of functions by address, from the symbol tables of one ELF image. Private to debuginfo/. */
#ifndef TM_DEBUGINFO_SYMBOL_NAMES_H
#define TM_DEBUGINFO_SYMBOL_NAMES_H

#include "debuginfo/elf_image.h"
#include "debuginfo/range_index.h"

struct tm_symbol_names {
	struct tm_range_index ranges; /* value: the name, a const char * into the image */
};

/* Indexes .dynsym and .symtab of an image, which stays the caller's and must outlive the names. A damaged
   table counts as empty. False: out of memory. */
bool tm_symbol_names_init(struct tm_symbol_names *names, const struct tm_elf *elf);
void tm_symbol_names_deinit(struct tm_symbol_names *names);

/* The symbol that covers vaddr, as the table spells it (mangled, with its version), or NULL. */
const char *tm_symbol_names_find(const struct tm_symbol_names *names, uint64_t vaddr);

#endif
