#include "debuginfo/dwarf_info.h"

#include <dwarf.h>
#include <elfutils/libdwelf.h>
#include <string.h>
#include <sys/mman.h>

#include "base/vector.h"
#include "debuginfo/debug_file.h"
#include "debuginfo/demangle.h"
#include "debuginfo/dwarf_units.h"
#include "debuginfo/source_text.h"

#define INLINED_MAX 128 /* nesting of blocks and inlined calls in a function; deeper is damage */

/* One file that libdw reads. */
struct handle {
	Elf *elf;
	Dwarf *dwarf;
};

struct tm_dwarf_info {
	struct handle main, alternate;
	struct tm_bytes alternate_bytes;
	struct tm_dwarf_units units;
};

/* ---- files ---------------------------------------------------------------------------------- */

static void close_handle(struct handle *handle)
{
	dwarf_end(handle->dwarf);
	elf_end(handle->elf);
}

static bool open_handle(struct handle *handle, struct tm_bytes bytes)
{
	elf_version(EV_CURRENT);
	handle->elf = elf_memory((char *)bytes.data, bytes.size);
	handle->dwarf = handle->elf ? dwarf_begin_elf(handle->elf, DWARF_C_READ, NULL) : NULL;
	return handle->dwarf != NULL;
}

/* What dwz(1) moved out into a file that several debug files share (DWARF 5, 7.3.6 "supplementary object
 * files"). */
static void open_alternate(struct tm_dwarf_info *info, const char *path, int root_fd)
{
	_cleanup_close_ int fd = -1;
	const char *name;
	const void *id;
	ssize_t id_size = dwelf_dwarf_gnu_debugaltlink(info->main.dwarf, &name, &id);

	if (id_size <= 0)
		return;
	fd = tm_debug_file_open_alternate(root_fd, path, name, (struct tm_bytes){id, (size_t)id_size});
	if (fd >= 0)
		info->alternate_bytes = tm_debug_file_map(fd);
	if (info->alternate_bytes.data && open_handle(&info->alternate, info->alternate_bytes))
		dwarf_setalt(info->main.dwarf, info->alternate.dwarf);
}

struct tm_error *tm_dwarf_info_create(const struct tm_debug_image *image, const struct tm_elf *module,
				      int root_fd, struct tm_dwarf_info **out)
{
	struct tm_dwarf_info *info = calloc(1, sizeof(*info));

	*out = NULL;
	if (!info)
		return tm_error_out_of_memory();
	if (!open_handle(&info->main, image->bytes)) {
		tm_dwarf_info_destroy(info);
		return NULL;
	}
	open_alternate(info, image->path, root_fd);
	if (!tm_dwarf_units_init(&info->units, info->main.dwarf, module)) {
		tm_dwarf_info_destroy(info);
		return tm_error_out_of_memory();
	}
	*out = info;
	return NULL;
}

void tm_dwarf_info_destroy(struct tm_dwarf_info *info)
{
	if (!info)
		return;
	tm_dwarf_units_deinit(&info->units);
	close_handle(&info->main);
	close_handle(&info->alternate);
	if (info->alternate_bytes.data)
		munmap((void *)info->alternate_bytes.data, info->alternate_bytes.size);
	free(info);
}

/* ---- functions ------------------------------------------------------------------------------ */

/* A function and the calls inlined into it that hold an address, outermost first. */
struct chain {
	Dwarf_Die dies[INLINED_MAX];
	size_t count;
};

static bool holds(Dwarf_Die *die, uint64_t vaddr)
{
	return dwarf_haspc(die, vaddr) == 1;
}

/* Goes down through blocks to the next inlined call that holds vaddr; blocks may come without addresses. */
static bool find_inlined(Dwarf_Die *parent, uint64_t vaddr, unsigned depth, Dwarf_Die *found)
{
	Dwarf_Die die;

	if (depth > INLINED_MAX || dwarf_child(parent, &die) != 0)
		return false;
	do {
		int tag = dwarf_tag(&die);

		if (tag == DW_TAG_inlined_subroutine && holds(&die, vaddr)) {
			*found = die;
			return true;
		}
		if ((tag == DW_TAG_lexical_block || tag == DW_TAG_try_block || tag == DW_TAG_catch_block) &&
		    (holds(&die, vaddr) ||
		     (!dwarf_hasattr(&die, DW_AT_low_pc) && !dwarf_hasattr(&die, DW_AT_ranges))) &&
		    find_inlined(&die, vaddr, depth + 1, found))
			return true;
	} while (dwarf_siblingof(&die, &die) == 0);
	return false;
}

static void find_chain(Dwarf_Die *function, uint64_t vaddr, struct chain *chain)
{
	Dwarf_Die inlined;

	chain->dies[0] = *function;
	chain->count = 1;
	while (chain->count < INLINED_MAX && find_inlined(&chain->dies[chain->count - 1], vaddr, 0, &inlined))
		chain->dies[chain->count++] = inlined;
}

static const char *string_attribute(Dwarf_Die *die, unsigned name)
{
	Dwarf_Attribute attribute;

	return dwarf_formstring(dwarf_attr_integrate(die, name, &attribute));
}

/* A linkage name says more (scope, parameters) if it can be demangled; else the source's own name is what a
   reader knows (Fortran, Swift, asm labels). */
static char *function_name(Dwarf_Die *die)
{
	const char *linkage = string_attribute(die, DW_AT_linkage_name), *name;
	char *demangled;

	if (!linkage)
		linkage = string_attribute(die, DW_AT_MIPS_linkage_name);
	demangled = linkage ? tm_demangle_if_mangled(linkage) : NULL;
	if (demangled)
		return demangled;
	name = dwarf_diename(die);
	if (!name)
		name = linkage;
	return name ? strdup(name) : NULL;
}

/* ---- lines ---------------------------------------------------------------------------------- */

struct place {
	const char *filename; /* NULL: unknown */
	uint32_t lineno;
};

static struct place place_of_address(struct tm_dwarf_unit *unit, uint64_t vaddr)
{
	Dwarf_Line *line = dwarf_getsrc_die(&unit->cu, vaddr);
	int lineno = 0;

	if (!line)
		return (struct place){0};
	dwarf_lineno(line, &lineno);
	return (struct place){dwarf_linesrc(line, NULL, NULL), (uint32_t)lineno};
}

static uint64_t number_attribute(Dwarf_Die *die, unsigned name)
{
	Dwarf_Attribute attribute;
	Dwarf_Word value;

	return dwarf_formudata(dwarf_attr(die, name, &attribute), &value) == 0 ? value : 0;
}

/* Where an inlined function was called. */
static struct place place_of_call(struct tm_dwarf_unit *unit, Dwarf_Die *inlined)
{
	struct place place = {.lineno = (uint32_t)number_attribute(inlined, DW_AT_call_line)};
	Dwarf_Files *files;
	size_t count;

	if (dwarf_getsrcfiles(&unit->code, &files, &count) == 0)
		place.filename = dwarf_filesrc(files, number_attribute(inlined, DW_AT_call_file), NULL, NULL);
	return place;
}

/* ---- both ----------------------------------------------------------------------------------- */

/*
 * libdw puts the compilation directory before names in directory 0 only; directories in the line table may be
 * relative to it as well (DWARF 5, 6.2.4.1). A compilation directory that is relative itself
 * (-fdebug-prefix-map) stays so.
 */
static char *absolute_filename(struct tm_dwarf_unit *unit, const char *filename)
{
	const char *directory = filename[0] == '/' ? NULL : string_attribute(&unit->cu, DW_AT_comp_dir);
	size_t length = directory ? strlen(directory) : 0;
	char *path;

	if (!length || (strncmp(filename, directory, length) == 0 && filename[length] == '/'))
		path = strdup(filename);
	else if (asprintf(&path, "%s/%s", directory, filename) < 0)
		path = NULL;
	if (path)
		tm_source_path_normalise(path);
	return path;
}

/* Takes the function's name over. */
static struct tm_error *append(struct tm_locations *locations, struct tm_dwarf_unit *unit, char *function,
			       struct place place)
{
	struct tm_location location = {.function = function, .lineno = place.lineno};
	struct tm_location *items = realloc(locations->items, (locations->count + 1) * sizeof(*items));

	if (items)
		locations->items = items;
	if (items && place.filename)
		location.filename = absolute_filename(unit, place.filename);
	if (!items || (place.filename && !location.filename)) {
		free(function);
		return tm_error_out_of_memory();
	}
	items[locations->count++] = location;
	return NULL;
}

struct tm_error *tm_dwarf_info_locate(struct tm_dwarf_info *info, uint64_t vaddr,
				      struct tm_locations *locations)
{
	struct tm_dwarf_unit *unit = tm_dwarf_units_find(&info->units, vaddr);
	struct tm_error *err = NULL;
	Dwarf_Die function;
	struct chain chain;
	struct place place;

	if (!unit)
		return NULL;
	place = place_of_address(unit, vaddr);
	if (!tm_dwarf_units_find_function(&info->units, unit, vaddr, &function))
		return append(locations, unit, NULL, place);
	find_chain(&function, vaddr, &chain);
	for (size_t i = chain.count; !err && i-- > 0;) {
		err = append(locations, unit, function_name(&chain.dies[i]), place);
		place = i ? place_of_call(unit, &chain.dies[i]) : place;
	}
	return err;
}
