/*
 * CPython in a process: which module holds it, which version it is, where its runtime and its three allocator
 * tables are. Found from what every build exports, stripped or not: `_PyRuntime` and the allocator functions
 * are in .dynsym, for extension modules use them. Reads only.
 *
 * A table is a PyMemAllocatorEx (Include/cpython/pymem.h): five words, context, malloc, calloc, realloc,
 * free. No symbol names the tables; but the exported PyMem_Malloc and its kin load a table's context and its
 * function, so both addresses stand in their code, as an operand relative to rip or to _PyRuntime.
 */
#ifndef TM_PYTHON_INTERPRETER_H
#define TM_PYTHON_INTERPRETER_H

#include "arch/slot_pads.h"
#include "debuginfo/module.h"
#include "python/layout.h"

struct tm_interpreter {
	const struct tm_module *module;
	unsigned major, minor;
	char version[16]; /* "3.11.2"; without the third number where it is not told */
	struct tm_python_layout layout;
	uint64_t runtime;  /* run-time address of _PyRuntime */
	uint64_t run_main; /* of Py_RunMain, which is called once the interpreter is initialised; 0: not there
			    */
	/* Of _PyEval_EvalFrameDefault, as far as its symbol goes: [start, end); 0: not there. */
	uint64_t eval_start, eval_end;
	uint64_t tables[TM_SLOT_TABLES]; /* run-time addresses */
	uint64_t reference_tracer; /* of the word that PyRefTracer_SetTracer sets, from 3.13; 0: not there */
};

/* Does the module hold a CPython? */
bool tm_interpreter_is_in(const struct tm_module *module);

/* Everything about the interpreter in a module. TM_ERROR_UNSUPPORTED, with the reason: a version that is not
   known, a free-threaded build, tables that are not found. */
struct tm_error *tm_interpreter_open(const struct tm_module *module, struct tm_interpreter *interpreter);

/* Has it a thread of its own yet? */
bool tm_interpreter_is_initialised(const struct tm_interpreter *interpreter, const struct tm_memory *memory);

/* Is what was found plausible in the live process: tables in writable memory that name functions, thread
   states that name their interpreter? TM_ERROR_UNSUPPORTED says what is not. */
struct tm_error *tm_interpreter_check(const struct tm_interpreter *interpreter,
				      const struct tm_memory *memory, const struct tm_mappings *mappings);

/* The address of a slot, as arch/slot_pads.h numbers them; 0: this interpreter does not have it. */
static inline uint64_t tm_interpreter_slot(const struct tm_interpreter *interpreter, unsigned slot)
{
	if (slot == TM_SLOT_REFERENCE)
		return interpreter->reference_tracer;
	return interpreter->tables[slot / TM_SLOT_FUNCTIONS] + 8 * (1 + slot % TM_SLOT_FUNCTIONS);
}

#endif
