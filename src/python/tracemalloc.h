/*
 * CPython's own tracemalloc, as far as a trace from outside meets it: the functions by which other libraries
 * tell it of their memory, and, up to 3.12, its hook for objects that take a recycled block.
 *
 * While the int `tracing` of its configuration (struct _PyTraceMalloc_Config, Include/pymem.h of 3.8; in 3.12
 * in _PyRuntime) is not 0, every place that makes an object calls _PyTraceMalloc_NewReference with it. The
 * functions of the module _tracemalloc are found by their table of PyMethodDef (Include/methodobject.h).
 */
#ifndef TM_PYTHON_TRACEMALLOC_H
#define TM_PYTHON_TRACEMALLOC_H

#include "python/interpreter.h"
#include "python/tables.h"

/* Run-time addresses; 0: this interpreter does not have it. */
struct tm_python_tracemalloc {
	uint64_t track, untrack; /* PyTraceMalloc_Track(domain, address, size), _Untrack(domain, address) */

	/* Only by tm_python_tracemalloc_find_hook: */
	uint64_t tracing;		  /* the int */
	uint64_t new_reference;		  /* int _PyTraceMalloc_NewReference(object) */
	uint64_t finalize;		  /* Py_FinalizeEx */
	uint64_t start, stop, is_tracing; /* what _tracemalloc.start etc. call */
	uint64_t none, false_;		  /* the objects None and False */
	bool counts_constants; /* up to 3.11: who returns one of these gives a reference to it away */
};

void tm_python_tracemalloc_find(const struct tm_interpreter *interpreter,
				struct tm_python_tracemalloc *found);

/* Where the code of Py_FinalizeEx lies, as far as its symbol tells; both 0: it has none. A call of it that is
   going on will act on the flag. */
void tm_python_finalize_range(const struct tm_interpreter *interpreter, uint64_t *start, uint64_t *end);

/* Does this interpreter have the hook (and no reference tracer)? */
static inline bool tm_python_has_hook(const struct tm_interpreter *interpreter)
{
	return interpreter->minor < 13;
}

/* Finds the hook and what belongs to it, in the live process. TM_ERROR_UNSUPPORTED says what was not found or
   is not plausible. */
struct tm_error *tm_python_tracemalloc_find_hook(const struct tm_interpreter *interpreter,
						 const struct tm_memory *memory,
						 const struct tm_mappings *mappings,
						 struct tm_python_tracemalloc *found);

/* ---- private to python/ ---- */

/* The words of 4 bytes in [start, end) that all functions refer to. Fails only when out of memory. */
struct tm_error *tm_code_common_references(const struct tm_code_bytes *code, size_t count, uint64_t runtime,
					   uint64_t start, uint64_t end, struct tm_addresses *found);

/* What the code calls or jumps to directly (x86-64: e8 and e9 rel32), outside of itself. */
struct tm_error *tm_code_callees(const struct tm_code_bytes *code, struct tm_addresses *found);

#endif
