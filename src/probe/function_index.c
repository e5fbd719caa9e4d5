#include "probe/function_index.h"

#include <string.h>

#include "arch/call_pad.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/vector.h"
#include "debuginfo/symbol.h"
#include "probe/function.h"

#define TEXT_SEARCH_MAX                                                                                      \
	(8u << 20) /* bytes of a module's code that are searched for jumps: a few milliseconds */

struct tm_function_index {
	const struct tm_arch *arch;
	struct tm_module_map *modules;
	struct tm_map by_number;   /* module number -> struct tm_indexed_module * */
	struct tm_map jumped_into; /* number and address of one function -> whether it is */
};

struct tm_error *tm_function_index_create(const struct tm_arch *arch, struct tm_module_map *modules,
					  struct tm_function_index **out)
{
	struct tm_function_index *index = calloc(1, sizeof(*index));

	if (!index)
		return tm_error_out_of_memory();
	index->arch = arch;
	index->modules = modules;
	*out = index;
	return NULL;
}

static void destroy_module(struct tm_indexed_module *indexed)
{
	for (size_t i = 0; i < indexed->count; i++)
		tm_exits_deinit(&indexed->functions[i].exits);
	free(indexed->functions);
	free(indexed->problem);
	free(indexed);
}

void tm_function_index_destroy(struct tm_function_index *index)
{
	uint64_t number, place;

	if (!index)
		return;
	for (size_t i = 0; tm_map_next(&index->by_number, &i, &number, &place);)
		destroy_module((struct tm_indexed_module *)(uintptr_t)place);
	tm_map_deinit(&index->by_number);
	tm_map_deinit(&index->jumped_into);
	free(index);
}

/* ---- symbols ---- */

struct search {
	struct tm_function_index *index;
	struct tm_module *module;
	struct tm_vector(struct tm_indexed_function) functions;
	char *problem;
};

static bool visit_symbol(const struct tm_symbol *symbol, void *context)
{
	struct search *search = context;
	const struct tm_allocator *row = tm_allocator_find(symbol->name);
	const struct tm_indexed_function function = {
		.row = row, .vaddr = symbol->vaddr, .size = symbol->size, .is_ifunc = symbol->is_ifunc};

	return !row || tm_vector_push(&search->functions, function);
}

/* glibc's dynamic linker has a minimal malloc for itself (elf/dl-minimal.c): not the program's. musl's linker
 * is its libc. */
static bool is_private_linker(const struct tm_module *module)
{
	const char *soname = tm_module_soname(module);

	return soname && (strncmp(soname, "ld-linux", 8) == 0 || strncmp(soname, "ld64.so", 7) == 0);
}

/* .dynsym and .symtab name what they have; the debug file is opened only if neither names an allocator
 * function. */
static struct tm_error *find_symbols(struct search *search)
{
	static const enum tm_symbol_table tables[] = {TM_SYMBOLS_DYNAMIC, TM_SYMBOLS_STATIC,
						      TM_SYMBOLS_DEBUG_FILE};

	for (size_t i = 0; i < TM_ARRAY_SIZE(tables); i++) {
		struct tm_error *err;

		if (tables[i] == TM_SYMBOLS_DEBUG_FILE && search->functions.count)
			break;
		err = tm_module_each_symbol(search->index->modules, search->module, tables[i], visit_symbol,
					    search);
		if (err && err->code != TM_ERROR_BAD_FORMAT)
			return err;
		if (err && !search->problem)
			search->problem = strdup(err->message);
		tm_error_destroy(err);
	}
	return NULL;
}

/* ---- bodies ---- */

static void find_exits(const struct search *search, struct tm_indexed_function *function)
{
	struct tm_error *err;
	size_t available = 0;

	if (function->is_ifunc || !function->size)
		return;
	function->bytes = tm_module_bytes(search->module, function->vaddr, &available);
	if (!function->bytes || available < function->size)
		return;
	err = search->index->arch->find_exits(function->bytes, function->size, function->vaddr,
					      &function->exits);
	function->has_exits = !err;
	tm_error_destroy(err);
}

/* What is asked of the module's code: for each function its beginning, then its ways out. */
static size_t count_ranges(const struct search *search)
{
	size_t count = 0;

	for (size_t i = 0; i < search->functions.count; i++)
		count += 1 + search->functions.items[i].exits.way_count;
	return count;
}

static void fill_ranges(const struct search *search, struct tm_jump_range *ranges)
{
	size_t jump = tm_jump_size(search->index->arch);

	for (size_t i = 0; i < search->functions.count; i++) {
		const struct tm_indexed_function *function = &search->functions.items[i];

		*ranges++ = (struct tm_jump_range){function->vaddr + 1, function->vaddr + jump, false};
		for (size_t k = 0; k < function->exits.way_count; k++, ranges++) {
			uint64_t start = function->exits.ways[k].start;

			*ranges = (struct tm_jump_range){start + 1, start + jump, false};
		}
	}
}

/* ranges: NULL: it could not be told. */
static void take_ranges(const struct search *search, const struct tm_jump_range *ranges)
{
	size_t at = 0;

	for (size_t i = 0; i < search->functions.count; i++) {
		struct tm_indexed_function *function = &search->functions.items[i];

		function->jumped_into = !ranges || ranges[at].found;
		at++;
		for (size_t k = 0; k < function->exits.way_count; k++, at++)
			function->exits.ways[k].jumped_into = !ranges || ranges[at].found;
	}
}

/* One pass over the module's code serves all of its functions. */
static void find_jumps(struct search *search)
{
	const struct tm_module *module = search->module;
	size_t count = count_ranges(search), searched = 0;
	_cleanup_free_ struct tm_jump_range *ranges = calloc(count + 1, sizeof(*ranges));
	bool whole = ranges != NULL;

	if (ranges)
		fill_ranges(search, ranges);
	for (size_t i = 0; whole && i < module->text_count; i++) {
		const struct tm_module_text *text = &module->texts[i];
		size_t available, size = text->end - text->start;
		const uint8_t *bytes = tm_module_bytes(module, text->start - module->bias, &available);

		size = size < available ? size : available;
		searched += size;
		whole = bytes && searched <= TEXT_SEARCH_MAX;
		if (whole)
			tm_jumps_find(search->index->arch, bytes, size, text->start - module->bias, ranges,
				      count);
	}
	take_ranges(search, whole ? ranges : NULL);
}

static struct tm_error *search_module(struct search *search)
{
	struct tm_error *err = find_symbols(search);

	for (size_t i = 0; !err && i < search->functions.count; i++)
		find_exits(search, &search->functions.items[i]);
	if (!err && search->functions.count)
		find_jumps(search);
	return err;
}

struct tm_error *tm_function_index_get(struct tm_function_index *index, struct tm_module *module,
				       const struct tm_indexed_module **out)
{
	const uint64_t *place = tm_map_get(&index->by_number, module->number);
	struct tm_indexed_module *indexed = place ? (struct tm_indexed_module *)(uintptr_t)*place : NULL;
	struct search search = {.index = index, .module = module};
	struct tm_error *err = NULL;

	*out = indexed;
	if (indexed)
		return NULL;
	indexed = calloc(1, sizeof(*indexed));
	if (!indexed || !tm_map_put(&index->by_number, module->number, (uintptr_t)indexed)) {
		free(indexed);
		return tm_error_out_of_memory();
	}
	if (module->image && !module->is_vdso && !is_private_linker(module))
		err = search_module(&search);
	indexed->functions = search.functions.items;
	indexed->count = search.functions.count;
	indexed->problem = search.problem;
	*out = indexed;
	return err;
}

#define ADDRESS_BITS 48

bool tm_function_index_is_jumped_into(struct tm_function_index *index, const struct tm_module *module,
				      uint64_t vaddr)
{
	uint64_t key = (uint64_t)module->number << ADDRESS_BITS ^ vaddr, address = module->bias + vaddr;
	const uint64_t *known = tm_map_get(&index->jumped_into, key);
	bool jumped_into;

	if (known)
		return *known;
	jumped_into =
		tm_code_is_jumped_into(index->arch, module, address + 1, address + tm_jump_size(index->arch));
	if (!tm_map_put(&index->jumped_into, key, jumped_into))
		tm_log_debug("no memory to remember who jumps into %s", module->path);
	return jumped_into;
}
