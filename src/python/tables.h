/* Finding the allocator tables in the code of the exported allocator functions. Private to python/. */
#ifndef TM_PYTHON_TABLES_H
#define TM_PYTHON_TABLES_H

#include <string.h>

#include "base/vector.h"
#include "python/interpreter.h"

/* The bytes of a function as they stand in its file, at ELF virtual address `address`. */
struct tm_code_bytes {
	const uint8_t *bytes;
	size_t size;
	uint64_t address;
};

struct tm_addresses tm_vector(uint64_t);

/* The 32-bit displacement that may stand at `offset`; offset + 4 <= size. */
static inline uint64_t tm_code_displacement(const struct tm_code_bytes *code, size_t offset)
{
	int32_t value;

	memcpy(&value, code->bytes + offset, sizeof(value));
	return (uint64_t)(int64_t)value;
}

/*
 * Does the code hold an operand that leads to `target`? Each offset is tried as a 32-bit displacement from
 * the next instruction, or from _PyRuntime (whose address the code has loaded before): no disassembler is
 * needed, as all functions of a table must agree.
 */
bool tm_code_refers_to(const struct tm_code_bytes *code, uint64_t runtime, uint64_t target);

/* The code of an exported function. TM_ERROR_UNSUPPORTED: it is not there. The bytes are the module's. */
struct tm_error *tm_python_read_code(const struct tm_module *module, const char *name,
				     struct tm_code_bytes *code);

/* Virtual addresses of the tables in a module. TM_ERROR_UNSUPPORTED: not found, or not only one. */
struct tm_error *tm_python_find_tables(const struct tm_module *module, unsigned minor, uint64_t runtime,
				       uint64_t tables[TM_SLOT_TABLES]);

/* The virtual address of the reference tracer's word, which the exported PyRefTracer_SetTracer and _GetTracer
   refer to, with its data behind it. 0: not there, or not told apart. */
uint64_t tm_python_find_reference_tracer(const struct tm_module *module, uint64_t runtime);

#endif
