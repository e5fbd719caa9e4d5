#include "python/interpreter.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "debuginfo/symbol.h"
#include "python/tables.h"

#define INTERPRETERS_MAX 1024u
#define THREADS_MAX	 65536u

bool tm_interpreter_is_in(const struct tm_module *module)
{
	struct tm_symbol symbol;

	return tm_module_find_dynamic_symbol(module, "_PyRuntime", &symbol) &&
	       tm_module_find_dynamic_symbol(module, "PyObject_Malloc", &symbol);
}

/* ---- the version ---- */

/* From 3.11: the constant Py_Version, PY_VERSION_HEX of Include/patchlevel.h. */
static bool version_by_symbol(struct tm_interpreter *interpreter)
{
	struct tm_symbol symbol;
	const uint8_t *bytes;
	size_t available = 0;
	uint64_t hex;

	if (!tm_module_find_dynamic_symbol(interpreter->module, "Py_Version", &symbol))
		return false;
	bytes = tm_module_bytes(interpreter->module, symbol.vaddr, &available);
	if (!bytes || available < sizeof(hex))
		return false;
	memcpy(&hex, bytes, sizeof(hex));
	interpreter->major = (hex >> 24) & 0xff;
	interpreter->minor = (hex >> 16) & 0xff;
	snprintf(interpreter->version, sizeof(interpreter->version), "%u.%u.%u", interpreter->major,
		 interpreter->minor, (unsigned)(hex >> 8) & 0xff);
	return true;
}

/* Before: libpython3.8.so.1.0, or an executable python3.8. */
static bool version_by_name(struct tm_interpreter *interpreter, const char *name)
{
	const char *slash = name ? strrchr(name, '/') : NULL, *python;

	python = name ? strstr(slash ? slash : name, "python") : NULL;
	if (!python || sscanf(python, "python%u.%u", &interpreter->major, &interpreter->minor) != 2)
		return false;
	snprintf(interpreter->version, sizeof(interpreter->version), "%u.%u", interpreter->major & 0xff,
		 interpreter->minor & 0xff);
	return true;
}

static struct tm_error *find_version(struct tm_interpreter *interpreter)
{
	const struct tm_python_layout *layout;

	if (!version_by_symbol(interpreter) &&
	    !version_by_name(interpreter, tm_module_soname(interpreter->module)) &&
	    !version_by_name(interpreter, interpreter->module->path))
		return tm_error_create(TM_ERROR_UNSUPPORTED, "nothing tells its version");
	layout = tm_python_layout_of(interpreter->major, interpreter->minor);
	if (!layout)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "its version %s is not known; 3.8 to 3.13 are",
				       interpreter->version);
	interpreter->layout = *layout;
	return NULL;
}

/* The file's bytes will do: the offsets are constants. */
static struct tm_error *refine_layout(struct tm_interpreter *interpreter, uint64_t runtime)
{
	size_t available = 0;
	const uint8_t *bytes = tm_module_bytes(interpreter->module, runtime, &available);

	return tm_python_layout_refine(&interpreter->layout, bytes, bytes ? available : 0);
}

/* ---- where things are ---- */

static struct tm_error *open_module(struct tm_interpreter *interpreter)
{
	const struct tm_module *module = interpreter->module;
	struct tm_error *err = find_version(interpreter);
	struct tm_symbol symbol;
	uint64_t runtime;

	if (err)
		return err;
	if (!tm_module_find_dynamic_symbol(module, "_PyRuntime", &symbol))
		return tm_error_create(TM_ERROR_UNSUPPORTED, "it does not export _PyRuntime");
	runtime = symbol.vaddr;
	interpreter->runtime = module->bias + runtime;
	if (tm_module_find_dynamic_symbol(module, "Py_RunMain", &symbol))
		interpreter->run_main = module->bias + symbol.vaddr;
	if (tm_module_find_dynamic_symbol(module, "_PyEval_EvalFrameDefault", &symbol)) {
		interpreter->eval_start = module->bias + symbol.vaddr;
		interpreter->eval_end = interpreter->eval_start + symbol.size;
	}
	err = refine_layout(interpreter, runtime);
	if (!err)
		err = tm_python_find_tables(module, interpreter->minor, runtime, interpreter->tables);
	if (err)
		return err;
	for (unsigned i = 0; i < TM_SLOT_TABLES; i++)
		interpreter->tables[i] += module->bias;
	if (interpreter->minor >= 13)
		interpreter->reference_tracer = tm_python_find_reference_tracer(module, runtime);
	if (interpreter->reference_tracer)
		interpreter->reference_tracer += module->bias;
	return NULL;
}

struct tm_error *tm_interpreter_open(const struct tm_module *module, struct tm_interpreter *interpreter)
{
	struct tm_error *err;

	memset(interpreter, 0, sizeof(*interpreter));
	interpreter->module = module;
	err = open_module(interpreter);
	return err ? tm_error_prefix(err, "cannot trace the CPython in %s", module->path) : NULL;
}

/* ---- is it so? ---- */

static bool read_word(const struct tm_memory *memory, uint64_t address, uint64_t *word)
{
	struct tm_error *err = tm_memory_read(memory, address, word, sizeof(*word));
	bool read = !err;

	tm_error_destroy(err);
	return read;
}

/* Calls visit with the first thread of each interpreter that has one, until it returns false. The newest
 * interpreter comes first, and may have no thread at the moment. */
static void each_interpreter(const struct tm_interpreter *interpreter, const struct tm_memory *memory,
			     bool (*visit)(void *context, uint64_t owner, uint64_t thread), void *context)
{
	const struct tm_python_layout *layout = &interpreter->layout;
	uint64_t owner, thread;
	bool more = read_word(memory, interpreter->runtime + layout->runtime_interpreters, &owner);

	for (unsigned i = 0; more && owner && i < INTERPRETERS_MAX; i++) {
		if (!read_word(memory, owner + layout->interpreter_threads, &thread))
			return;
		more = (!thread || visit(context, owner, thread)) &&
		       read_word(memory, owner + layout->interpreter_next, &owner);
	}
}

static bool note_one(void *context, uint64_t owner, uint64_t thread)
{
	(void)owner;
	(void)thread;
	*(bool *)context = true;
	return false;
}

bool tm_interpreter_is_initialised(const struct tm_interpreter *interpreter, const struct tm_memory *memory)
{
	bool has_thread = false;

	each_interpreter(interpreter, memory, note_one, &has_thread);
	return has_thread;
}

struct check {
	const struct tm_interpreter *interpreter;
	const struct tm_memory *memory;
	bool failed;
};

/* Every thread names its interpreter. */
static bool check_threads_of(void *context, uint64_t owner, uint64_t thread)
{
	struct check *check = context;
	const struct tm_python_layout *layout = &check->interpreter->layout;
	uint64_t named;

	for (unsigned i = 0; !check->failed && thread && i < THREADS_MAX; i++)
		check->failed = !read_word(check->memory, thread + layout->thread_interpreter, &named) ||
				named != owner ||
				!read_word(check->memory, thread + layout->thread_next, &thread);
	return !check->failed;
}

static struct tm_error *check_threads(const struct tm_interpreter *interpreter,
				      const struct tm_memory *memory)
{
	struct check check = {interpreter, memory, false};

	each_interpreter(interpreter, memory, check_threads_of, &check);
	return check.failed ? tm_error_create(TM_ERROR_UNSUPPORTED,
					      "its thread states are not those of version %s: a build with "
					      "other structures",
					      interpreter->version)
			    : NULL;
}

static struct tm_error *check_slot(const struct tm_interpreter *interpreter, unsigned slot,
				   const struct tm_memory *memory, const struct tm_mappings *mappings)
{
	uint64_t address = tm_interpreter_slot(interpreter, slot), function = 0;
	const struct tm_mapping *data = tm_mappings_find(mappings, address), *code;

	if (!address)
		return NULL;
	if (!data || !data->writable || !read_word(memory, address, &function))
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "its allocator tables are not in writable memory");
	if (!function && slot == TM_SLOT_REFERENCE)
		return NULL; /* nobody traces references */
	code = tm_mappings_find(mappings, function);
	if (!code || !code->executable)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "its allocator tables are not plausible: 0x%" PRIx64 " at 0x%" PRIx64
				       " is no function",
				       function, address);
	return NULL;
}

struct tm_error *tm_interpreter_check(const struct tm_interpreter *interpreter,
				      const struct tm_memory *memory, const struct tm_mappings *mappings)
{
	struct tm_error *err = check_threads(interpreter, memory);

	for (unsigned slot = 0; !err && slot < TM_SLOT_COUNT; slot++)
		err = check_slot(interpreter, slot, memory, mappings);
	return err ? tm_error_prefix(err, "cannot trace the CPython in %s", interpreter->module->path) : NULL;
}
