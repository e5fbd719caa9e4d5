/* Which functions are traced, and where they are left. */
#include "probe/call_state.h"

#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "base/log.h"
#include "debuginfo/symbol.h"

struct tm_error *tm_probe_create(const struct tm_probe_config *config, struct tm_probe **out)
{
	struct tm_probe *probe = calloc(1, sizeof(*probe));

	if (!probe)
		return tm_error_out_of_memory();
	probe->config = *config;
	*out = probe;
	return NULL;
}

static void forget_functions(struct tm_probe *probe)
{
	uint64_t address, place;

	for (size_t i = 0; tm_map_next(&probe->entries, &i, &address, &place);)
		free((struct tm_function *)(uintptr_t)place);
	tm_map_clear(&probe->entries);
	tm_map_clear(&probe->exits);
	tm_map_clear(&probe->returns);
	tm_map_clear(&probe->stops);
	tm_map_clear(&probe->ways);
	tm_map_clear(&probe->passed);
	tm_map_clear(&probe->armed_modules);
	probe->deferred.count = probe->names.count = probe->recorded_count = probe->unrecorded = 0;
	probe->surveyed = false;
	tm_resizes_forget(probe);
	probe->trampoline = 0;
}

/* The thread that goes on in the new image may have been in the middle of a call when another one replaced
 * the old. */
void tm_probe_reset(struct tm_probe *probe)
{
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(probe->config.target, &i));)
		tm_probe_thread_gone(probe, thread);
	forget_functions(probe);
}

void tm_probe_destroy(struct tm_probe *probe)
{
	if (!probe)
		return;
	forget_functions(probe);
	tm_calls_release_gone(probe);
	tm_map_deinit(&probe->entries);
	tm_map_deinit(&probe->exits);
	tm_map_deinit(&probe->returns);
	tm_map_deinit(&probe->stops);
	tm_map_deinit(&probe->ways);
	tm_map_deinit(&probe->passed);
	tm_vector_deinit(&probe->deferred);
	tm_vector_deinit(&probe->names);
	tm_vector_deinit(&probe->recorded_rows);
	tm_map_deinit(&probe->armed_modules);
	free(probe);
}

void tm_probe_warn(struct tm_probe *probe, const char *format, ...)
{
	char *text;
	va_list args;
	int length;

	va_start(args, format);
	length = vasprintf(&text, format, args);
	va_end(args);
	if (length < 0)
		return;
	probe->config.sink.warn(probe->config.sink.context, text);
	free(text);
}

size_t tm_probe_function_count(const struct tm_probe *probe)
{
	return probe->entries.count;
}

size_t tm_probe_module_count(const struct tm_probe *probe)
{
	uint64_t number, functions;
	size_t count = 0;

	for (size_t i = 0; tm_map_next(&probe->armed_modules, &i, &number, &functions);)
		count += functions != 0;
	return count;
}

/* ---- exits ---- */

static struct tm_error *insert_exit(struct tm_probe *probe, uint64_t address)
{
	const struct tm_patches *patches = probe->config.patches;

	if (patches && (tm_patch_at(patches, address) || tm_patches_cover(patches, address)))
		return tm_error_create(TM_ERROR_UNSUPPORTED, "a jump is there");
	return tm_breakpoint_insert(probe->config.breakpoints, address);
}

static bool insert_exits(struct tm_probe *probe, struct tm_function *function, const struct tm_exits *exits)
{
	for (size_t i = 0; i < exits->return_count; i++) {
		struct tm_error *err = insert_exit(probe, exits->returns[i]);

		if (err) {
			tm_log_info("%s: exit at 0x%" PRIx64 ": %s", function->row->name, exits->returns[i],
				    err->message);
			tm_error_destroy(err);
			return false;
		}
		if (!tm_map_put(&probe->exits, exits->returns[i], (uintptr_t)function))
			return false;
	}
	return true;
}

/* One stop behind the call if it can be patched. Else its own return instructions if it leaves only by them,
   else the return address: both are one stop, but the former need no breakpoint in other people's code. */
static bool copy_exits(const struct tm_indexed_function *indexed, uint64_t bias, struct tm_exits *exits)
{
	*exits = indexed->exits;
	exits->lowest_target += bias;
	exits->returns = malloc((indexed->exits.return_count + 1) * sizeof(*exits->returns));
	exits->ways = malloc((indexed->exits.way_count + 1) * sizeof(*exits->ways));
	if (!exits->returns || !exits->ways)
		return false;
	for (size_t i = 0; i < exits->return_count; i++)
		exits->returns[i] = indexed->exits.returns[i] + bias;
	for (size_t i = 0; i < exits->way_count; i++) {
		exits->ways[i] = indexed->exits.ways[i];
		exits->ways[i].address += bias;
		exits->ways[i].start += bias;
		exits->ways[i].end += bias;
	}
	return true;
}

static void choose_exits(struct tm_probe *probe, struct tm_function *function,
			 const struct tm_indexed_function *indexed)
{
	_cleanup_(tm_exits_deinit) struct tm_exits exits = {0};

	function->by_return_address = true;
	function->may_tail_jump = true;
	if (function->is_resolver || (function->row->kind == TM_FREES && !probe->config.recording) ||
	    !indexed || !indexed->has_exits ||
	    !copy_exits(indexed, function->address - indexed->vaddr, &exits))
		return;
	function->may_tail_jump = exits.tail_jumps;
	function->jumped_into = indexed->jumped_into;
	if (tm_function_patch(probe, function, indexed->bytes, indexed->size, &exits))
		return;
	if (exits.only_returns && exits.return_count && function->row->kind != TM_FREES)
		function->by_return_address = !insert_exits(probe, function, &exits);
}

static void forget_ways(struct tm_map *map, const struct tm_function *function)
{
	uint64_t address, place;

	for (size_t i = 0; tm_map_next(map, &i, &address, &place);) {
		if (place != (uintptr_t)function)
			continue;
		tm_map_remove(map, address);
		i = 0;
	}
}

/* ---- arming ---- */

/* A symbol that names a place inside another function's first instructions. */
static struct tm_error *insert_entry(struct tm_probe *probe, uint64_t address)
{
	if (probe->only_records)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "it cannot have a pad that records (-v says why)");
	if (probe->config.patches && tm_patches_cover(probe->config.patches, address))
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "it begins inside the jump that another function begins with now");
	return tm_breakpoint_insert(probe->config.breakpoints, address);
}

struct tm_error *tm_function_arm(struct tm_probe *probe, const struct tm_allocator *row, uint64_t address,
				 const struct tm_indexed_function *indexed, enum tm_arming arming)
{
	const struct tm_module *module = tm_module_map_find(probe->config.modules, address);
	struct tm_function *function;
	uint64_t *armed;
	struct tm_error *err;

	if (!tm_vector_push(&probe->names, (struct tm_deferred){row, address, indexed}))
		return tm_error_out_of_memory();
	if (!module || tm_map_get(&probe->entries, address))
		return NULL; /* an alias: one address is one function */
	function = calloc(1, sizeof(*function));
	if (!function)
		return tm_error_out_of_memory();
	function->row = row;
	function->address = address;
	function->module = module->number;
	function->size = indexed ? indexed->size : 0;
	function->is_resolver = arming == TM_ARM_RESOLVER;
	function->reaches = arming == TM_ARM_WRAPPER;
	if (!tm_map_put(&probe->entries, address, (uintptr_t)function)) {
		free(function);
		return tm_error_out_of_memory();
	}
	choose_exits(probe, function, indexed);
	err = function->stop || function->recorded ? NULL : insert_entry(probe, address);
	if (err) {
		tm_map_remove(&probe->entries, address);
		forget_ways(&probe->exits, function);
		forget_ways(&probe->ways, function);
		free(function);
		if (err->code == TM_ERROR_NO_PROCESS)
			return err;
		tm_probe_warn(probe, "%s in %s is not traced: %s", row->name, module->path, err->message);
		tm_error_destroy(err);
		return NULL;
	}
	armed = tm_map_get(&probe->armed_modules, module->number);
	if (armed)
		++*armed;
	tm_log_debug("armed %s at 0x%" PRIx64 " in %s, %s", row->name, address, module->path,
		     function->ends		   ? "by pads at its ways out"
		     : function->recorded	   ? "by a pad that records"
		     : function->stop		   ? "by a jump"
		     : function->by_return_address ? "by return address"
						   : "by its returns");
	return NULL;
}

struct search {
	struct tm_probe *probe;
	struct tm_module *module;
};

/* ---- IFUNCs ---- */

struct slot_visit {
	struct search *search;
	const struct tm_indexed_function *symbol;
	const struct tm_module *importer;
	struct tm_error *err;
};

/* A word that the dynamic linker fills with what the resolver chose: unless it still leads to the importer's
 * own PLT. */
static bool visit_slot(uint64_t slot_vaddr, void *context)
{
	struct slot_visit *visit = context;
	struct tm_probe *probe = visit->search->probe;
	const struct tm_module *own = visit->search->module, *where;
	uint64_t word = 0;
	struct tm_error *err =
		tm_target_read(probe->config.target, visit->importer->bias + slot_vaddr, &word, sizeof(word));

	if (err) {
		tm_error_destroy(err);
		return true;
	}
	where = tm_module_map_find(probe->config.modules, word);
	if (!where || word == own->bias + visit->symbol->vaddr || (where == visit->importer && where != own))
		return true;
	visit->err = tm_function_arm(probe, visit->symbol->row, word, NULL, TM_ARM_PLAIN);
	return !visit->err;
}

static struct tm_error *arm_ifunc(struct search *search, const struct tm_indexed_function *symbol)
{
	struct tm_probe *probe = search->probe;
	struct slot_visit visit = {.search = search, .symbol = symbol};
	struct tm_error *err;

	for (uint32_t i = 1; i < tm_module_map_count(probe->config.modules); i++) {
		const struct tm_module *importer = tm_module_map_get(probe->config.modules, i);

		if (!importer->loaded || !importer->image)
			continue;
		visit.importer = importer;
		err = tm_module_each_got_slot(importer, symbol->row->name,
					      importer == search->module ? symbol->vaddr : 0, visit_slot,
					      &visit);
		tm_error_destroy(err); /* a damaged module has no slots */
		if (visit.err)
			return visit.err;
	}
	/* Those that are bound later, or by dlsym, are caught as the resolver answers. */
	return tm_function_arm(probe, symbol->row, search->module->bias + symbol->vaddr, symbol,
			       TM_ARM_RESOLVER);
}

static struct tm_error *arm_found(struct search *search, const struct tm_indexed_function *found)
{
	uint64_t address = search->module->bias + found->vaddr;

	if (found->is_ifunc)
		return arm_ifunc(search, found);
	if (tm_function_is_deferred(search->probe, found->row))
		return tm_function_defer(search->probe, found, address);
	return tm_function_arm(search->probe, found->row, address, found, TM_ARM_PLAIN);
}

struct tm_error *tm_probe_arm_module(struct tm_probe *probe, struct tm_module *module, size_t *armed)
{
	struct search search = {.probe = probe, .module = module};
	const struct tm_indexed_module *indexed;
	size_t before = probe->entries.count;
	struct tm_error *err;

	*armed = 0;
	if (!module->loaded || !module->image || tm_map_get(&probe->armed_modules, module->number))
		return NULL;
	if (!tm_map_put(&probe->armed_modules, module->number, 0))
		return tm_error_out_of_memory();
	err = tm_function_index_get(probe->config.functions, module, &indexed);
	if (!err && indexed->problem)
		tm_probe_warn(probe, "%s: %s", module->path, indexed->problem);
	for (size_t i = 0; !err && i < indexed->count; i++)
		err = arm_found(&search, &indexed->functions[i]);
	*armed = probe->entries.count - before;
	return err;
}

/* ---- forgetting ---- */

/* The breakpoint in its pad stays, in inert code. */
static void forget_function(struct tm_probe *probe, struct tm_function *function)
{
	if (function->stop)
		tm_map_remove(&probe->stops, function->stop);
	free(function);
}

static void forget_addresses(struct tm_probe *probe, struct tm_map *map, uint64_t start, uint64_t end,
			     bool owns)
{
	uint64_t address, place;

	for (size_t i = 0; tm_map_next(map, &i, &address, &place);) {
		if (address < start || address >= end)
			continue;
		if (owns)
			forget_function(probe, (struct tm_function *)(uintptr_t)place);
		tm_map_remove(map, address);
		i = 0;
	}
}

void tm_probe_forget_range(struct tm_probe *probe, uint32_t module, uint64_t start, uint64_t end)
{
	forget_addresses(probe, &probe->exits, start, end, false);
	forget_addresses(probe, &probe->returns, start, end, false);
	forget_addresses(probe, &probe->ways, start, end, false);
	forget_addresses(probe, &probe->passed, start, end, false);
	forget_addresses(probe, &probe->entries, start, end, true);
	tm_map_remove(&probe->armed_modules, module);
}
