/*
 * How a thread finds the PyThreadState that runs in it, as the interpreter's own PyThreadState_Get does: up
 * to 3.11 a word of _PyRuntime (gilstate.tstate_current), from 3.12 on a thread-local variable
 * (_Py_tss_tstate, Python/pystate.c), which a library reaches by its module number and an executable by an
 * offset from the thread pointer. Read from that function's code and from the words that the dynamic linker
 * has filled in.
 */
#ifndef TM_PYTHON_CURRENT_STATE_H
#define TM_PYTHON_CURRENT_STATE_H

#include "python/interpreter.h"
#include "recorder/shared.h"

struct tm_current_state {
	enum tm_state_kind kind;
	uint64_t place, module;
};

/* kind is TM_STATE_UNKNOWN where the code is of no known form. */
struct tm_current_state tm_current_state_find(const struct tm_interpreter *interpreter,
					      const struct tm_memory *memory);

#endif
