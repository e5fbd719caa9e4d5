/*
 * Where CPython keeps what a traceback is made of: offsets in bytes of the fields of its structures, one row
 * a minor version, on 64-bit machines. Read from the interpreters' own headers by offsetof (3.8: from its
 * DWARF), and proved by comparing whole traces with tracemalloc. From 3.13 on the interpreter tells most of
 * them itself (_Py_DebugOffsets, Include/internal/pycore_runtime.h).
 */
#ifndef TM_PYTHON_LAYOUT_H
#define TM_PYTHON_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"

#define TM_PYTHON_ABSENT 0u /* of a field that the version does not have, where the comment says so */

/* How code objects map instructions to lines. */
enum tm_line_format {
	TM_LINES_LNOTAB,    /* up to 3.9: Objects/lnotab_notes.txt */
	TM_LINES_LINETABLE, /* 3.10: PEP 626 */
	TM_LINES_LOCATIONS, /* from 3.11: PEP 657, Objects/locations.md */
};

/* Which Python frames one call of the evaluation function (_PyEval_EvalFrameDefault, Python/ceval.c) runs. */
enum tm_entry_kind {
	TM_ENTRY_EACH, /* up to 3.10: one */
	TM_ENTRY_FLAG, /* 3.11: up to one with is_entry set, and that one */
	TM_ENTRY_SHIM, /* from 3.12: up to a frame that is owned by the C stack */
};

struct tm_python_layout {
	unsigned minor; /* of 3.minor */
	enum tm_line_format lines;
	enum tm_entry_kind entries;

	uint16_t runtime_interpreters; /* _PyRuntimeState: interpreters.head */
	uint16_t runtime_current;      /* gilstate.tstate_current, up to 3.11; else absent */
	uint16_t interpreter_next, interpreter_threads;
	uint16_t thread_next, thread_interpreter,
		thread_id; /* PyThreadState; thread_id is a thread pointer (pthread_self) */

	/* The newest frame: *(thread + thread_frame), or where there is a cframe *(*(thread + thread_frame) +
	 * cframe_frame). */
	bool has_cframe;
	uint16_t thread_frame, cframe_frame;

	/* 3.10 and 3.11: a chain of variables of the evaluation function, one for each call of it that goes
	   on, from *(thread + thread_cframe); else absent. */
	uint16_t thread_cframe, cframe_previous;

	uint16_t frame_entry; /* 3.11: is_entry, a byte; else absent */
	uint16_t frame_code, frame_back;
	uint16_t frame_instruction; /* int index up to 3.10, else a pointer */
	uint16_t frame_lineno;	    /* up to 3.10 */
	uint16_t frame_trace;	    /* up to 3.9: f_lineno holds only if this is set; else absent */
	uint16_t frame_owner;	    /* from 3.11; else absent */
	uint16_t index_scale; /* bytes of code that 1 in frame_instruction stands for, where it is an index */

	uint16_t code_filename, code_name, code_qualname; /* the last from 3.11; else absent */
	uint16_t code_firstlineno, code_lines;
	uint16_t code_instructions;    /* from 3.11: the instructions begin here, in the object itself; else
					  absent */
	uint16_t code_first_traceable; /* from 3.11: index of the first instruction behind the frame's set-up
					*/

	uint16_t unicode_length, unicode_state, unicode_ascii, unicode_compact;
	uint16_t bytes_size, bytes_data;
};

/* How much of a structure is looked at, in bytes: no offset of a layout leads beyond. */
#define TM_PYTHON_THREAD_SIZE	 256u
#define TM_PYTHON_CODE_SIZE	 256u
#define TM_PYTHON_FRAME_SIZE	 72u  /* from 3.11 */
#define TM_PYTHON_OLD_FRAME_SIZE 112u /* before */

/* Values of frame_owner (Include/internal/pycore_frame.h). */
enum { TM_OWNED_BY_GENERATOR = 1, TM_OWNED_BY_C_STACK = 3 };

/* The row of a version; NULL: it is not known. */
const struct tm_python_layout *tm_python_layout_of(unsigned major, unsigned minor);

/* Takes what _Py_DebugOffsets (3.13: `size` bytes at hand) says over what the table says.
   TM_ERROR_UNSUPPORTED: the interpreter is free-threaded, or says what cannot be. */
struct tm_error *tm_python_layout_refine(struct tm_python_layout *layout, const uint8_t *offsets,
					 size_t size);

/* A field of a structure whose bytes were read, at an offset of the layout: a pointer or size, an int. */
static inline uint64_t tm_word_at(const uint8_t *bytes, uint16_t offset)
{
	uint64_t word;

	memcpy(&word, bytes + offset, sizeof(word));
	return word;
}

static inline int32_t tm_int_at(const uint8_t *bytes, uint16_t offset)
{
	int32_t value;

	memcpy(&value, bytes + offset, sizeof(value));
	return value;
}

#endif
