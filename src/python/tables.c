#include "python/tables.h"

#include <string.h>

#include "debuginfo/symbol.h"

#define TABLE_SIZE     40u /* five words */
#define CODE_SIZE_MAX  4096u
#define CODE_SIZE_FREE 512u /* of a symbol that does not tell its size */

static const char *const names[TM_SLOT_TABLES][TM_SLOT_FUNCTIONS] = {
	[TM_SLOT_RAW] = {"PyMem_RawMalloc", "PyMem_RawCalloc", "PyMem_RawRealloc", "PyMem_RawFree"},
	[TM_SLOT_MEM] = {"PyMem_Malloc", "PyMem_Calloc", "PyMem_Realloc", "PyMem_Free"},
	[TM_SLOT_OBJ] = {"PyObject_Malloc", "PyObject_Calloc", "PyObject_Realloc", "PyObject_Free"},
};

static uint64_t behind(const struct tm_code_bytes *code, size_t offset)
{
	return code->address + offset + sizeof(int32_t);
}

bool tm_code_refers_to(const struct tm_code_bytes *code, uint64_t runtime, uint64_t target)
{
	for (size_t i = 0; i + sizeof(int32_t) <= code->size; i++) {
		uint64_t displacement = tm_code_displacement(code, i);

		if (behind(code, i) + displacement == target || runtime + displacement == target)
			return true;
	}
	return false;
}

static bool has(const struct tm_addresses *list, uint64_t address)
{
	for (size_t i = 0; i < list->count; i++)
		if (list->items[i] == address)
			return true;
	return false;
}

/* All four functions of a table load its context and their own slot. */
static bool is_table(const struct tm_code_bytes code[TM_SLOT_FUNCTIONS], uint64_t runtime, uint64_t address)
{
	for (unsigned i = 0; i < TM_SLOT_FUNCTIONS; i++)
		if (!tm_code_refers_to(&code[i], runtime, address) ||
		    !tm_code_refers_to(&code[i], runtime, address + 8 * (1 + i)))
			return false;
	return true;
}

static bool take(const struct tm_code_bytes code[TM_SLOT_FUNCTIONS], uint64_t runtime, uint64_t address,
		 struct tm_addresses *found)
{
	if (address % 8 || has(found, address) || !is_table(code, runtime, address))
		return true;
	return tm_vector_push(found, address);
}

/* Every address that could be a table of these functions. */
static struct tm_error *find_candidates(const struct tm_code_bytes code[TM_SLOT_FUNCTIONS], uint64_t runtime,
					struct tm_addresses *found)
{
	for (size_t i = 0; i + sizeof(int32_t) <= code[0].size; i++) {
		uint64_t displacement = tm_code_displacement(&code[0], i);

		if (!take(code, runtime, behind(&code[0], i) + displacement, found) ||
		    !take(code, runtime, runtime + displacement, found))
			return tm_error_out_of_memory();
	}
	return NULL;
}

struct tm_error *tm_python_read_code(const struct tm_module *module, const char *name,
				     struct tm_code_bytes *code)
{
	struct tm_symbol symbol;
	size_t available = 0;

	if (!tm_module_find_dynamic_symbol(module, name, &symbol))
		return tm_error_create(TM_ERROR_UNSUPPORTED, "it does not export %s", name);
	code->address = symbol.vaddr;
	code->bytes = tm_module_bytes(module, symbol.vaddr, &available);
	code->size = symbol.size ? symbol.size : CODE_SIZE_FREE;
	if (code->size > CODE_SIZE_MAX)
		code->size = CODE_SIZE_MAX;
	if (code->size > available)
		code->size = available;
	return code->bytes
		       ? NULL
		       : tm_error_create(TM_ERROR_UNSUPPORTED, "the code of its %s is not in its file", name);
}

static struct tm_error *candidates_of(const struct tm_module *module, enum tm_slot_table table,
				      uint64_t runtime, struct tm_addresses *found)
{
	struct tm_code_bytes code[TM_SLOT_FUNCTIONS];
	struct tm_error *err = NULL;

	for (unsigned i = 0; !err && i < TM_SLOT_FUNCTIONS; i++)
		err = tm_python_read_code(module, names[table][i], &code[i]);
	return err ? err : find_candidates(code, runtime, found);
}

static void drop(struct tm_addresses *list, uint64_t address)
{
	for (size_t i = 0; i < list->count; i++)
		if (list->items[i] == address) {
			tm_vector_remove_unordered(list, i);
			return;
		}
}

static struct tm_error *not_found(enum tm_slot_table table, size_t count)
{
	static const char *const table_names[TM_SLOT_TABLES] = {"raw", "mem", "obj"};

	return tm_error_create(TM_ERROR_UNSUPPORTED,
			       "its allocator table \"%s\" was not found: %zu places could be it",
			       table_names[table], count);
}

/* Up to 3.11 the tables are variables of their own. pymalloc falls back to raw, and where it is inlined the
   code of the others refers to the raw table too. */
static struct tm_error *find_separate(struct tm_addresses found[TM_SLOT_TABLES],
				      uint64_t tables[TM_SLOT_TABLES])
{
	for (unsigned i = 0; i < TM_SLOT_TABLES; i++) {
		for (unsigned j = 0; j < i; j++)
			drop(&found[i], tables[j]);
		if (found[i].count != 1)
			return not_found(i, found[i].count);
		tables[i] = found[i].items[0];
	}
	return NULL;
}

/* From 3.12 they stand in _PyRuntime, one behind the other (struct _pymem_allocators,
   Include/internal/pycore_pymem.h); raw's may be near enough to its begin for operands of 8 bits, which are
   not looked for. */
static struct tm_error *find_consecutive(const struct tm_addresses found[TM_SLOT_TABLES],
					 uint64_t tables[TM_SLOT_TABLES])
{
	size_t matches = 0;

	for (size_t i = 0; i < found[TM_SLOT_MEM].count; i++) {
		uint64_t mem = found[TM_SLOT_MEM].items[i];

		if (!has(&found[TM_SLOT_OBJ], mem + TABLE_SIZE))
			continue;
		matches++;
		tables[TM_SLOT_RAW] = mem - TABLE_SIZE;
		tables[TM_SLOT_MEM] = mem;
		tables[TM_SLOT_OBJ] = mem + TABLE_SIZE;
	}
	return matches == 1 ? NULL : not_found(TM_SLOT_MEM, matches);
}

struct tm_error *tm_python_find_tables(const struct tm_module *module, unsigned minor, uint64_t runtime,
				       uint64_t tables[TM_SLOT_TABLES])
{
	struct tm_addresses found[TM_SLOT_TABLES] = {0};
	struct tm_error *err = NULL;

	for (unsigned i = 0; !err && i < TM_SLOT_TABLES; i++)
		err = candidates_of(module, i, runtime, &found[i]);
	if (!err)
		err = minor >= 12 ? find_consecutive(found, tables) : find_separate(found, tables);
	for (unsigned i = 0; i < TM_SLOT_TABLES; i++)
		tm_vector_deinit(&found[i]);
	return err;
}

static bool is_reference_tracer(const struct tm_code_bytes code[2], uint64_t runtime, uint64_t address)
{
	for (unsigned i = 0; i < 2; i++)
		if (!tm_code_refers_to(&code[i], runtime, address) ||
		    !tm_code_refers_to(&code[i], runtime, address + 8))
			return false;
	return address % 8 == 0;
}

uint64_t tm_python_find_reference_tracer(const struct tm_module *module, uint64_t runtime)
{
	struct tm_code_bytes code[2];
	struct tm_error *err = tm_python_read_code(module, "PyRefTracer_SetTracer", &code[0]);
	uint64_t found = 0;

	if (!err)
		err = tm_python_read_code(module, "PyRefTracer_GetTracer", &code[1]);
	for (size_t i = 0; !err && i + sizeof(int32_t) <= code[0].size; i++) {
		uint64_t displacement = tm_code_displacement(&code[0], i);
		const uint64_t places[] = {behind(&code[0], i) + displacement, runtime + displacement};

		for (unsigned j = 0; j < TM_ARRAY_SIZE(places); j++) {
			if (places[j] == found || !is_reference_tracer(code, runtime, places[j]))
				continue;
			if (found)
				return 0;
			found = places[j];
		}
	}
	tm_error_destroy(err);
	return found;
}
