#include "python/tracemalloc.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "debuginfo/symbol.h"

#define METHOD_SIZE 32u /* PyMethodDef: name, function, flags, documentation */
#define METHODS_MAX 32u /* more than the module has in any version */
#define MAPPING_MAX (64u << 20)
#define NFRAME_MAX  65535 /* Modules/_tracemalloc.c: MAX_NFRAME */
#define CALL_SIZE   5u	  /* e8 rel32 */
#define HEAD_SIZE   256u  /* of a function whose end nothing tells */

enum { NOT_INITIALIZED, INITIALIZED, FINALIZED }; /* _PyTraceMalloc_Config.initialized */

/* ---- in the code ---- */

/* As tm_code_refers_to, also where an immediate operand of 8 bits follows: cmpl $0,tracing(%rip). */
static bool refers_to(const struct tm_code_bytes *code, uint64_t runtime, uint64_t target)
{
	const struct tm_code_bytes behind = {code->bytes, code->size, code->address + 1};

	return tm_code_refers_to(code, runtime, target) || tm_code_refers_to(&behind, runtime, target);
}

static bool all_refer_to(const struct tm_code_bytes *code, size_t count, uint64_t runtime, uint64_t target)
{
	for (size_t i = 0; i < count; i++)
		if (!refers_to(&code[i], runtime, target))
			return false;
	return true;
}

static bool add(struct tm_addresses *list, uint64_t address)
{
	for (size_t i = 0; i < list->count; i++)
		if (list->items[i] == address)
			return true;
	return tm_vector_push(list, address);
}

struct tm_error *tm_code_common_references(const struct tm_code_bytes *code, size_t count, uint64_t runtime,
					   uint64_t start, uint64_t end, struct tm_addresses *found)
{
	for (size_t i = 0; i + sizeof(int32_t) <= code[0].size; i++) {
		uint64_t displacement = tm_code_displacement(&code[0], i);
		uint64_t behind = code[0].address + i + sizeof(int32_t) + displacement;
		const uint64_t targets[] = {behind, behind + 1, runtime + displacement};

		for (size_t j = 0; j < TM_ARRAY_SIZE(targets); j++)
			if (targets[j] >= start && targets[j] < end && targets[j] % 4 == 0 &&
			    all_refer_to(code, count, runtime, targets[j]) && !add(found, targets[j]))
				return tm_error_out_of_memory();
	}
	return NULL;
}

struct tm_error *tm_code_callees(const struct tm_code_bytes *code, struct tm_addresses *found)
{
	for (size_t i = 0; i + CALL_SIZE <= code->size; i++) {
		uint64_t target;

		if (code->bytes[i] != 0xe8 && code->bytes[i] != 0xe9)
			continue;
		target = code->address + i + CALL_SIZE + tm_code_displacement(code, i + 1);
		if (target - code->address >= code->size && !add(found, target))
			return tm_error_out_of_memory();
	}
	return NULL;
}

/* ---- what is searched in ---- */

struct search {
	const struct tm_interpreter *interpreter;
	const struct tm_memory *memory;
	const struct tm_mappings *mappings;
	struct tm_python_tracemalloc *found;
};

static struct tm_error *not_found(const char *what)
{
	return tm_error_create(TM_ERROR_UNSUPPORTED, "%s was not found", what);
}

/* Run-time address of an exported function or object; 0: there is none. */
static uint64_t exported(const struct search *search, const char *name)
{
	const struct tm_module *module = search->interpreter->module;
	struct tm_symbol symbol;

	return tm_module_find_dynamic_symbol(module, name, &symbol) ? module->bias + symbol.vaddr : 0;
}

static bool is_code(const struct search *search, uint64_t address)
{
	const struct tm_mapping *mapping = tm_mappings_find(search->mappings, address);

	return mapping && mapping->executable;
}

static bool read_memory(const struct search *search, uint64_t address, void *bytes, size_t size)
{
	struct tm_error *err = tm_memory_read(search->memory, address, bytes, size);
	bool read = !err;

	tm_error_destroy(err);
	return read;
}

/* ---- the flag ---- */

/* The int at `tracing` lies between `initialized` and `max_nframe`. */
static bool is_plausible_flag(const struct search *search, uint64_t tracing)
{
	int32_t config[3];

	return read_memory(search, tracing - sizeof(int32_t), config, sizeof(config)) &&
	       config[0] >= NOT_INITIALIZED && config[0] <= FINALIZED && config[1] >= 0 && config[1] <= 1 &&
	       config[2] >= 1 && config[2] <= NFRAME_MAX;
}

/* 3.12: the one place in _PyRuntime that all who ask for it refer to. */
static struct tm_error *find_flag_in_runtime(struct search *search)
{
	static const char *const names[] = {"_Py_NewReference", "PyTraceMalloc_Track",
					    "PyTraceMalloc_Untrack"};
	const struct tm_module *module = search->interpreter->module;
	struct tm_code_bytes code[TM_ARRAY_SIZE(names)];
	struct tm_addresses list = {0};
	struct tm_symbol runtime;
	struct tm_error *err = NULL;
	size_t plausible = 0;

	for (size_t i = 0; !err && i < TM_ARRAY_SIZE(names); i++)
		err = tm_python_read_code(module, names[i], &code[i]);
	if (!err && !tm_module_find_dynamic_symbol(module, "_PyRuntime", &runtime))
		err = not_found("_PyRuntime");
	if (!err)
		err = tm_code_common_references(code, TM_ARRAY_SIZE(names), runtime.vaddr, runtime.vaddr,
						runtime.vaddr + runtime.size, &list);
	for (size_t i = 0; i < list.count; i++) {
		if (!is_plausible_flag(search, module->bias + list.items[i]))
			continue;
		search->found->tracing = module->bias + list.items[i];
		plausible++;
	}
	tm_vector_deinit(&list);
	return err || plausible == 1 ? err : not_found("the flag that asks for tracing");
}

static struct tm_error *find_flag(struct search *search)
{
	uint64_t config = exported(search, "_Py_tracemalloc_config");

	if (!config)
		return find_flag_in_runtime(search);
	search->found->tracing = config + sizeof(int32_t);
	return is_plausible_flag(search, search->found->tracing)
		       ? NULL
		       : tm_error_create(TM_ERROR_UNSUPPORTED,
					 "its configuration of tracemalloc is not plausible");
}

/* ---- the function ---- */

/* Both lock tracemalloc's tables, so they have a variable in common. */
static struct tm_error *shares_data(const struct search *search, uint64_t function, bool *shares)
{
	const struct tm_interpreter *interpreter = search->interpreter;
	const struct tm_module *module = interpreter->module;
	struct tm_code_bytes code[2] = {{.address = function - module->bias}};
	struct tm_addresses list = {0};
	struct tm_error *err = tm_python_read_code(module, "PyTraceMalloc_Track", &code[1]);

	*shares = false;
	if (err)
		return err;
	code[0].bytes = tm_module_bytes(module, code[0].address, &code[0].size);
	if (code[0].size > HEAD_SIZE)
		code[0].size = HEAD_SIZE;
	if (code[0].bytes)
		err = tm_code_common_references(code, 2, interpreter->runtime - module->bias, 0, UINT64_MAX,
						&list);
	for (size_t i = 0; i < list.count; i++) {
		const struct tm_mapping *data =
			tm_mappings_find(search->mappings, module->bias + list.items[i]);

		*shares = *shares ||
			  (data && data->writable && module->bias + list.items[i] != search->found->tracing);
	}
	tm_vector_deinit(&list);
	return err;
}

/* In code that is laid out by profile the call may stand elsewhere, behind a conditional jump. */
static struct tm_error *callees_of_branches(const struct search *search, const struct tm_code_bytes *code,
					    struct tm_addresses *found)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i + 1 + CALL_SIZE <= code->size; i++) {
		struct tm_code_bytes cold = {.address = code->address + i + 1 + CALL_SIZE};

		if (code->bytes[i] != 0x0f || (code->bytes[i + 1] & 0xfe) != 0x84) /* je, jne */
			continue;
		cold.address += tm_code_displacement(code, i + 2);
		cold.bytes = tm_module_bytes(search->interpreter->module, cold.address, &cold.size);
		if (cold.size > 2 * TM_INSN_BYTES_MAX)
			cold.size = 2 * TM_INSN_BYTES_MAX;
		if (cold.bytes)
			err = tm_code_callees(&cold, found);
	}
	return err;
}

/* The only function that _Py_NewReference calls. */
static struct tm_error *find_function(struct search *search)
{
	const struct tm_module *module = search->interpreter->module;
	struct tm_addresses list = {0};
	struct tm_code_bytes code;
	struct tm_error *err;
	size_t plausible = 0;

	search->found->new_reference = exported(search, "_PyTraceMalloc_NewReference"); /* up to 3.9 */
	if (search->found->new_reference)
		return NULL;
	err = tm_python_read_code(module, "_Py_NewReference", &code);
	if (!err)
		err = tm_code_callees(&code, &list);
	if (!err)
		err = callees_of_branches(search, &code, &list);
	for (size_t i = 0; !err && i < list.count; i++) {
		bool shares = false;

		if (is_code(search, module->bias + list.items[i]))
			err = shares_data(search, module->bias + list.items[i], &shares);
		if (!shares)
			continue;
		search->found->new_reference = module->bias + list.items[i];
		plausible++;
	}
	tm_vector_deinit(&list);
	return err || plausible == 1 ? err : not_found("the function that is told of new objects");
}

/* ---- the functions of the module ---- */

static bool is_named(const struct search *search, uint64_t method, const char *name)
{
	uint64_t place;
	char text[32] = {0};

	return read_memory(search, method, &place, sizeof(place)) && place &&
	       read_memory(search, place, text, strlen(name) + 1) && strcmp(text, name) == 0;
}

static bool is_method(const struct search *search, uint64_t method)
{
	uint64_t function;

	return read_memory(search, method + sizeof(function), &function, sizeof(function)) &&
	       is_code(search, function);
}

/* A row of the table that holds the row `known`. */
static uint64_t find_method(const struct search *search, uint64_t known, const char *name)
{
	uint64_t first = known, function = 0;

	for (unsigned i = 0; i < METHODS_MAX && is_method(search, first - METHOD_SIZE); i++)
		first -= METHOD_SIZE;
	for (unsigned i = 0; i < METHODS_MAX && is_method(search, first); i++, first += METHOD_SIZE)
		if (is_named(search, first, name))
			return read_memory(search, first + sizeof(function), &function, sizeof(function))
				       ? function
				       : 0;
	return 0;
}

static bool take_methods(const struct search *search, uint64_t known)
{
	struct tm_python_tracemalloc *found = search->found;

	if (!is_method(search, known))
		return false;
	found->start = find_method(search, known, "start");
	found->stop = find_method(search, known, "stop");
	found->is_tracing = find_method(search, known, "is_tracing");
	return found->start && found->stop && found->is_tracing;
}

static bool is_of_module(const struct search *search, const struct tm_mapping *mapping)
{
	const struct tm_module *module = search->interpreter->module;

	return mapping->start >= module->start && mapping->end <= module->end && mapping->readable &&
	       mapping->end - mapping->start <= MAPPING_MAX;
}

static uint8_t *copy_mapping(const struct search *search, const struct tm_mapping *mapping, size_t *size)
{
	uint8_t *bytes;

	*size = mapping->end - mapping->start;
	bytes = malloc(*size);
	if (bytes && read_memory(search, mapping->start, bytes, *size))
		return bytes;
	free(bytes);
	return NULL;
}

/* Where a text stands in the module, with its NUL. */
static struct tm_error *find_text(const struct search *search, const char *text, struct tm_addresses *found)
{
	for (size_t i = 0; i < search->mappings->count; i++) {
		const struct tm_mapping *mapping = &search->mappings->items[i];
		_cleanup_free_ uint8_t *bytes = NULL;
		const uint8_t *at;
		size_t size;

		if (!is_of_module(search, mapping) || !(bytes = copy_mapping(search, mapping, &size)))
			continue;
		for (at = bytes; (at = memmem(at, size - (size_t)(at - bytes), text, strlen(text) + 1)); at++)
			if (!tm_vector_push(found, mapping->start + (uint64_t)(at - bytes)))
				return tm_error_out_of_memory();
	}
	return NULL;
}

/* A row of the table of methods begins with the address of its name. */
static bool find_row(const struct search *search, const struct tm_mapping *mapping, uint64_t name)
{
	_cleanup_free_ uint8_t *bytes = NULL;
	size_t size;

	if (!is_of_module(search, mapping) || mapping->executable ||
	    !(bytes = copy_mapping(search, mapping, &size)))
		return false;
	for (size_t i = 0; i + METHOD_SIZE <= size; i += sizeof(name))
		if (memcmp(bytes + i, &name, sizeof(name)) == 0 && take_methods(search, mapping->start + i))
			return true;
	return false;
}

static struct tm_error *find_methods(struct search *search)
{
	struct tm_addresses names = {0};
	struct tm_error *err = find_text(search, "clear_traces", &names);
	bool found = false;

	for (size_t i = 0; !err && i < names.count; i++)
		for (size_t j = 0; !found && j < search->mappings->count; j++)
			found = find_row(search, &search->mappings->items[j], names.items[i]);
	tm_vector_deinit(&names);
	return err || found ? err : not_found("its module _tracemalloc");
}

/* ---- all of it ---- */

static struct tm_error *find_exported(struct search *search)
{
	struct tm_python_tracemalloc *found = search->found;

	found->finalize = exported(search, "Py_FinalizeEx");
	found->none = exported(search, "_Py_NoneStruct");
	found->false_ = exported(search, "_Py_FalseStruct");
	found->counts_constants = search->interpreter->minor < 12;
	return found->finalize && found->none && found->false_ && found->track && found->untrack
		       ? NULL
		       : not_found("a function or object that every interpreter exports");
}

void tm_python_tracemalloc_find(const struct tm_interpreter *interpreter, struct tm_python_tracemalloc *found)
{
	const struct search search = {.interpreter = interpreter};

	memset(found, 0, sizeof(*found));
	found->track = exported(&search, "PyTraceMalloc_Track");
	found->untrack = exported(&search, "PyTraceMalloc_Untrack");
}

void tm_python_finalize_range(const struct tm_interpreter *interpreter, uint64_t *start, uint64_t *end)
{
	const struct tm_module *module = interpreter->module;
	struct tm_symbol symbol;
	bool found = tm_module_find_dynamic_symbol(module, "Py_FinalizeEx", &symbol);

	*start = found ? module->bias + symbol.vaddr : 0;
	*end = found ? *start + symbol.size : 0;
}

struct tm_error *tm_python_tracemalloc_find_hook(const struct tm_interpreter *interpreter,
						 const struct tm_memory *memory,
						 const struct tm_mappings *mappings,
						 struct tm_python_tracemalloc *found)
{
	struct search search = {interpreter, memory, mappings, found};
	struct tm_error *err = find_exported(&search);

	if (!err)
		err = find_flag(&search);
	if (!err)
		err = find_function(&search);
	if (!err)
		err = find_methods(&search);
	return err ? tm_error_prefix(err, "--exact cannot be had with the CPython in %s",
				     interpreter->module->path)
		   : NULL;
}
