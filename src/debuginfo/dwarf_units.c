#include "debuginfo/dwarf_units.h"

#include <dwarf.h>
#include <string.h>

#include "base/vector.h"

#define DEPTH_MAX 256 /* nesting of DIEs; deeper is damage */

/* The linker sets addresses of functions that it discarded to 0 or 1, or leaves them: nothing is executable
 * there. */
static bool is_code(const struct tm_elf *module, uint64_t vaddr)
{
	Elf64_Phdr segment;

	return tm_elf_segment_at(module, vaddr, &segment) && (segment.p_flags & PF_X);
}

static bool add_ranges(const struct tm_dwarf_units *units, struct tm_range_index *index, Dwarf_Die *die,
		       uint64_t value)
{
	Dwarf_Addr base, start, end;
	ptrdiff_t at = 0;

	while ((at = dwarf_ranges(die, at, &base, &start, &end)) > 0) {
		if (is_code(&units->module, start) && !tm_range_index_add(index, start, end, 0, value))
			return false;
	}
	return true;
}

static bool add_unit(struct tm_dwarf_units *units, Dwarf_Die *cu, Dwarf_Die *split)
{
	struct tm_dwarf_unit unit = {.cu = *cu, .code = split->cu ? *split : *cu};

	return add_ranges(units, &units->ranges, cu, units->count) && tm_vector_push(units, unit);
}

bool tm_dwarf_units_init(struct tm_dwarf_units *units, Dwarf *dwarf, const struct tm_elf *module)
{
	Dwarf_CU *unit = NULL;
	Dwarf_Die cu, split;
	uint8_t type;

	memset(units, 0, sizeof(*units));
	units->module = *module;
	while (dwarf_get_units(dwarf, unit, &unit, NULL, &type, &cu, &split) == 0) {
		if ((type == DW_UT_compile || type == DW_UT_skeleton) && !add_unit(units, &cu, &split)) {
			tm_dwarf_units_deinit(units);
			return false;
		}
	}
	if (!tm_range_index_sort(&units->ranges)) {
		tm_dwarf_units_deinit(units);
		return false;
	}
	return true;
}

void tm_dwarf_units_deinit(struct tm_dwarf_units *units)
{
	for (size_t i = 0; i < units->count; i++)
		tm_range_index_deinit(&units->items[i].functions);
	tm_range_index_deinit(&units->ranges);
	tm_vector_deinit(units);
}

struct tm_dwarf_unit *tm_dwarf_units_find(struct tm_dwarf_units *units, uint64_t vaddr)
{
	const struct tm_range *range = tm_range_index_find(&units->ranges, vaddr);

	return range ? &units->items[range->value] : NULL;
}

/* DIEs among whose children a function's definition may stand: scopes, types (member functions), and other
   functions (nested ones of GNU C, Ada, Fortran). */
static bool may_hold_functions(int tag)
{
	switch (tag) {
	case DW_TAG_namespace:
	case DW_TAG_module:
	case DW_TAG_structure_type:
	case DW_TAG_class_type:
	case DW_TAG_union_type:
	case DW_TAG_interface_type:
	case DW_TAG_enumeration_type:
	case DW_TAG_subprogram:
	case DW_TAG_lexical_block:
		return true;
	default:
		return false;
	}
}

static bool index_children(const struct tm_dwarf_units *units, struct tm_dwarf_unit *unit, Dwarf_Die *parent,
			   unsigned depth)
{
	Dwarf_Die die;

	if (depth > DEPTH_MAX || dwarf_child(parent, &die) != 0)
		return true;
	do {
		int tag = dwarf_tag(&die);

		if (tag == DW_TAG_subprogram &&
		    !add_ranges(units, &unit->functions, &die, dwarf_dieoffset(&die)))
			return false;
		if (may_hold_functions(tag) && !index_children(units, unit, &die, depth + 1))
			return false;
	} while (dwarf_siblingof(&die, &die) == 0);
	return true;
}

bool tm_dwarf_units_find_function(struct tm_dwarf_units *units, struct tm_dwarf_unit *unit, uint64_t vaddr,
				  Dwarf_Die *function)
{
	const struct tm_range *range;

	if (!unit->indexed) {
		unit->indexed =
			index_children(units, unit, &unit->code, 0) && tm_range_index_sort(&unit->functions);
		if (!unit->indexed)
			tm_range_index_deinit(&unit->functions);
	}
	range = tm_range_index_find(&unit->functions, vaddr);
	return range && dwarf_offdie(dwarf_cu_getdwarf(unit->code.cu), range->value, function);
}
