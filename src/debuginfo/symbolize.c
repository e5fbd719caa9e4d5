#include "debuginfo/symbolize.h"

#include <string.h>
#include <sys/mman.h>

#include "base/hash.h"
#include "debuginfo/debug_file.h"
#include "debuginfo/demangle.h"
#include "debuginfo/dwarf_info.h"
#include "debuginfo/module_file.h"
#include "debuginfo/source_text.h"
#include "debuginfo/symbol_names.h"

/* What is known of one module; each part is read when the one before it did not answer. */
struct module_names {
	struct tm_elf elf;		/* view of the module's image */
	struct tm_debug_image own;	/* the module's file, mapped again if it has debug information */
	struct tm_debug_image separate; /* the separate debug file */
	bool separate_searched;
	struct tm_dwarf_info *dwarf;	/* NULL: no debug information */
	struct tm_symbol_names symbols; /* of the module */
	struct tm_symbol_names separate_symbols;
	bool symbols_read, separate_symbols_read;
};

struct tm_symbolizer {
	int root_fd;
	struct tm_map by_module; /* number -> struct module_names */
	struct tm_source_texts *sources;
};

struct tm_error *tm_symbolizer_create(const struct tm_module_map *map, int root_fd,
				      struct tm_symbolizer **out)
{
	struct tm_symbolizer *symbolizer = calloc(1, sizeof(*symbolizer));

	(void)map;
	if (!symbolizer)
		return tm_error_out_of_memory();
	symbolizer->root_fd = root_fd;
	symbolizer->sources = tm_source_texts_create(root_fd);
	if (!symbolizer->sources) {
		free(symbolizer);
		return tm_error_out_of_memory();
	}
	*out = symbolizer;
	return NULL;
}

static void drop_image(struct tm_debug_image *image)
{
	if (image->bytes.data)
		munmap((void *)image->bytes.data, image->bytes.size);
	free(image->path);
}

static void destroy_names(struct module_names *names)
{
	tm_dwarf_info_destroy(names->dwarf);
	tm_symbol_names_deinit(&names->symbols);
	tm_symbol_names_deinit(&names->separate_symbols);
	drop_image(&names->own);
	drop_image(&names->separate);
	free(names);
}

void tm_symbolizer_destroy(struct tm_symbolizer *symbolizer)
{
	uint64_t number, names;
	size_t position = 0;

	if (!symbolizer)
		return;
	while (tm_map_next(&symbolizer->by_module, &position, &number, &names))
		destroy_names((struct module_names *)(uintptr_t)names);
	tm_map_deinit(&symbolizer->by_module);
	tm_source_texts_destroy(symbolizer->sources);
	free(symbolizer);
}

/* ---- one module ----------------------------------------------------------------------------- */

static bool has_debug_information(const struct tm_elf *elf)
{
	Elf64_Shdr section;

	return (tm_elf_find_section(elf, ".debug_info", &section) ||
		tm_elf_find_section(elf, ".zdebug_info", &section)) &&
	       section.sh_type != SHT_NOBITS;
}

/* A mapping of its own: the image of the module may be in use by libdw in another thread. */
static void map_own_file(const struct tm_module *module, struct module_names *names)
{
	if (module->fd < 0 || !has_debug_information(&names->elf))
		return;
	names->own.path = strdup(module->path);
	if (names->own.path)
		names->own.bytes = tm_debug_file_map(module->fd);
}

static void map_separate_file(const struct tm_symbolizer *symbolizer, const struct tm_module *module,
			      struct module_names *names)
{
	_cleanup_close_ int fd = -1;

	if (names->separate_searched)
		return;
	names->separate_searched = true;
	fd = tm_debug_file_open(symbolizer->root_fd, module, &names->separate.path);
	if (fd >= 0)
		names->separate.bytes = tm_debug_file_map(fd);
}

static struct tm_error *read_debug_information(const struct tm_symbolizer *symbolizer,
					       const struct tm_module *module, struct module_names *names)
{
	const struct tm_debug_image *image = &names->own;

	map_own_file(module, names);
	if (!image->bytes.data) {
		map_separate_file(symbolizer, module, names);
		image = &names->separate;
	}
	if (!image->bytes.data)
		return NULL;
	return tm_dwarf_info_create(image, &names->elf, symbolizer->root_fd, &names->dwarf);
}

static struct tm_error *names_of_module(struct tm_symbolizer *symbolizer, const struct tm_module *module,
					struct module_names **out)
{
	const uint64_t *known = tm_map_get(&symbolizer->by_module, module->number);
	struct tm_error *err = NULL;
	struct module_names *names;

	if (known) {
		*out = (struct module_names *)(uintptr_t)*known;
		return NULL;
	}
	names = calloc(1, sizeof(*names));
	if (!names)
		return tm_error_out_of_memory();
	if (tm_module_elf(module, &names->elf))
		err = read_debug_information(symbolizer, module, names);
	if (!err && !tm_map_put(&symbolizer->by_module, module->number, (uint64_t)(uintptr_t)names))
		err = tm_error_out_of_memory();
	if (err) {
		destroy_names(names);
		return err;
	}
	*out = names;
	return NULL;
}

/* ---- symbol tables, where the debug information is silent
 * ---------------------------------------------------- */

static const char *own_symbol(struct module_names *names, uint64_t vaddr)
{
	if (!names->symbols_read)
		names->symbols_read = tm_symbol_names_init(&names->symbols, &names->elf);
	return tm_symbol_names_find(&names->symbols, vaddr);
}

static const char *separate_symbol(const struct tm_symbolizer *symbolizer, const struct tm_module *module,
				   struct module_names *names, uint64_t vaddr)
{
	map_separate_file(symbolizer, module, names);
	if (!names->separate_symbols_read && names->separate.bytes.data) {
		struct tm_elf elf;
		_cleanup_error_ struct tm_error *err =
			tm_elf_init(&elf, names->separate.bytes.data, names->separate.bytes.size);

		names->separate_symbols_read = true;
		if (!err)
			tm_symbol_names_init(&names->separate_symbols, &elf);
	}
	return tm_symbol_names_find(&names->separate_symbols, vaddr);
}

/* The demangled name of the symbol that covers vaddr, without its version ("@GLIBC_2.2.5"); NULL if none
 * does. */
static char *name_by_symbols(const struct tm_symbolizer *symbolizer, const struct tm_module *module,
			     struct module_names *names, uint64_t vaddr)
{
	const char *symbol = own_symbol(names, vaddr);
	_cleanup_free_ char *name = NULL;

	if (!symbol)
		symbol = separate_symbol(symbolizer, module, names, vaddr);
	name = symbol ? strndup(symbol, strcspn(symbol, "@")) : NULL;
	return name ? tm_demangle(name) : NULL;
}

/* ---- symbolize ------------------------------------------------------------------------------ */

void tm_locations_deinit(struct tm_locations *locations)
{
	for (size_t i = 0; i < locations->count; i++) {
		free(locations->items[i].function);
		free(locations->items[i].filename);
		free(locations->items[i].source);
	}
	free(locations->items);
	memset(locations, 0, sizeof(*locations));
}

/* There is always one location, for the physical function. */
static struct tm_error *ensure_location(struct tm_locations *locations)
{
	if (locations->count)
		return NULL;
	locations->items = calloc(1, sizeof(*locations->items));
	if (!locations->items)
		return tm_error_out_of_memory();
	locations->count = 1;
	return NULL;
}

static struct tm_error *locate(struct tm_symbolizer *symbolizer, const struct tm_module *module,
			       uint64_t vaddr, struct tm_locations *locations)
{
	struct module_names *names = NULL;
	struct tm_location *physical;
	struct tm_error *err = names_of_module(symbolizer, module, &names);

	if (!err && names->dwarf)
		err = tm_dwarf_info_locate(names->dwarf, vaddr, locations);
	if (!err)
		err = ensure_location(locations);
	if (err)
		return err;
	physical = &locations->items[locations->count - 1];
	if (!physical->function)
		physical->function = name_by_symbols(symbolizer, module, names, vaddr);
	return NULL;
}

char *tm_symbolizer_source(struct tm_symbolizer *symbolizer, const char *filename, uint32_t lineno)
{
	return tm_source_texts_line(symbolizer->sources, filename, lineno);
}

struct tm_error *tm_symbolize(struct tm_symbolizer *symbolizer, const struct tm_module *module,
			      uint64_t offset, struct tm_locations *out)
{
	struct tm_locations locations = {0};
	struct tm_error *err = locate(symbolizer, module, offset, &locations);

	if (err) {
		tm_locations_deinit(&locations);
		return err;
	}
	for (size_t i = 0; i < locations.count; i++) {
		struct tm_location *location = &locations.items[i];

		if (location->filename)
			location->source = tm_source_texts_line(symbolizer->sources, location->filename,
								location->lineno);
	}
	*out = locations;
	return NULL;
}
