/*
 * Which unit, and which function in it, has its code at an address: indexes over the debug information of one
 * file. Built from the units themselves, since .debug_aranges is incomplete or absent in what clang and rustc
 * write; a unit's functions are indexed when it is first asked for. Private to debuginfo/.
 */
#ifndef TM_DEBUGINFO_DWARF_UNITS_H
#define TM_DEBUGINFO_DWARF_UNITS_H

#include <elfutils/libdw.h>

#include "debuginfo/elf_image.h"
#include "debuginfo/range_index.h"

struct tm_dwarf_unit {
	Dwarf_Die cu;	/* has the line table; the skeleton of a split unit */
	Dwarf_Die code; /* has the functions: cu itself, or the split unit's */
	bool indexed;
	struct tm_range_index functions; /* value: offset of the DIE */
};

struct tm_dwarf_units {
	struct tm_range_index ranges; /* value: index of the unit */
	struct tm_dwarf_unit *items;
	size_t count, capacity;
	struct tm_elf module; /* tells code from the remains of functions that the linker left out */
};

/* Reads the unit DIEs of `dwarf`. False: out of memory. */
bool tm_dwarf_units_init(struct tm_dwarf_units *units, Dwarf *dwarf, const struct tm_elf *module);
void tm_dwarf_units_deinit(struct tm_dwarf_units *units);

/* The unit of an address, or NULL. */
struct tm_dwarf_unit *tm_dwarf_units_find(struct tm_dwarf_units *units, uint64_t vaddr);

/* The subprogram of the unit that has this address; false if none has. */
bool tm_dwarf_units_find_function(struct tm_dwarf_units *units, struct tm_dwarf_unit *unit, uint64_t vaddr,
				  Dwarf_Die *function);

#endif
