/*
 * ELF symbol tables: looking functions up by name in all tables of a module. (Names for addresses:
 * symbolize.h.)
 */
#ifndef TM_DEBUGINFO_SYMBOL_H
#define TM_DEBUGINFO_SYMBOL_H

#include "debuginfo/module.h"

enum tm_symbol_table { TM_SYMBOLS_DYNAMIC, TM_SYMBOLS_STATIC, TM_SYMBOLS_DEBUG_FILE };

struct tm_symbol {
	const char *name; /* without @VERSION; borrowed, valid during the visit */
	uint64_t vaddr;	  /* ELF virtual address: add the module's bias */
	uint64_t size;	  /* 0: unknown */
	bool is_ifunc;	  /* STT_GNU_IFUNC: vaddr is the resolver's */
	enum tm_symbol_table table;
};

/* Visits every DEFINED function symbol (STT_FUNC, STT_GNU_IFUNC; STT_NOTYPE in executable sections too) of
   one table, until visit returns false. TM_SYMBOLS_DEBUG_FILE opens the separate debug file (by build-id,
   then .gnu_debuglink) under the target's root. A table that is not there is no error: nothing is visited. A
   damaged one is TM_ERROR_BAD_FORMAT. */
struct tm_error *tm_module_each_symbol(struct tm_module_map *map, struct tm_module *module,
				       enum tm_symbol_table table,
				       bool (*visit)(const struct tm_symbol *symbol, void *context),
				       void *context);

/* Any symbol (functions and objects) of .dynsym by exact name; false if it is not defined there. symbol->name
   lives as long as the module. */
bool tm_module_find_dynamic_symbol(const struct tm_module *module, const char *name,
				   struct tm_symbol *symbol);

/* Relocations that fill a word with the address of a symbol of that name (JUMP_SLOT, GLOB_DAT; R_*_IRELATIVE
   whose resolver is `resolver_vaddr` if that is not 0): visits each word's ELF virtual address. For resolved
   IFUNCs. */
struct tm_error *tm_module_each_got_slot(const struct tm_module *module, const char *name,
					 uint64_t resolver_vaddr,
					 bool (*visit)(uint64_t slot_vaddr, void *context), void *context);

/* The name of the symbol whose address such a relocation puts into the word at this ELF virtual address;
   NULL: there is none. It lives as long as the module. */
const char *tm_module_got_slot_name(const struct tm_module *module, uint64_t slot_vaddr);

/* The first entry of .dynamic with this tag: the ELF virtual address of the word that holds its value (ld.so
   puts the address of struct r_debug into DT_DEBUG's). False if absent. */
bool tm_module_dynamic_entry(const struct tm_module *module, int64_t tag, uint64_t *vaddr_of_value);

/* The separate debug file of a module: an open descriptor (the caller closes it) or -1. Searched under the
   target's root, then under ours: /usr/lib/debug/.build-id/xx/rest.debug, then .gnu_debuglink beside the
   file, in .debug/, in /usr/lib/debug/DIR. Its build-id must be the module's; where either has none, the CRC
   of the link must be right. *path (may be NULL as argument) is the caller's to free. */
int tm_module_open_debug_file(const struct tm_module_map *map, const struct tm_module *module, char **path);

#endif
