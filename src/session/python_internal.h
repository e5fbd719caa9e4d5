/*
 * What the files of the python domain share: python.c finds the interpreter and decides, python_arm.c puts
 * the probes in place, python_records.c takes events and records while they are.
 */
#ifndef TM_SESSION_PYTHON_INTERNAL_H
#define TM_SESSION_PYTHON_INTERNAL_H

#include "probe/slot_probe.h"
#include "probe/tracemalloc_pads.h"
#include "probe/tracemalloc_probe.h"
#include "python/frames.h"
#include "session/session_internal.h"

/* What a traceback of one frame was interned as. */
struct tm_python_site {
	uint64_t code, instruction;
	uint32_t total, traceback;
	uint64_t generation; /* of the codes: valid while it is the present one */
};

#define TM_PYTHON_SITES 8192u /* a power of two */

struct tm_python {
	struct tm_memory memory;
	struct tm_python_site *sites; /* TM_PYTHON_SITES of them */
	uint64_t generation;	      /* rises when a code object is gone */
	struct tm_interpreter interpreter;
	bool found;				      /* interpreter is valid */
	bool was_armed;				      /* in this image or one before */
	uint64_t trigger;			      /* Py_RunMain's breakpoint; 0: none */
	struct tm_slot_probe *slots;		      /* NULL: not armed */
	struct tm_tracemalloc_probe *tracemalloc;     /* where pads stop */
	struct tm_tracemalloc_pads *tracemalloc_pads; /* where they record */
	struct tm_python_stacks stacks;
	struct tm_places places;
	struct tm_named_frames named;
	char *description;
};
/* python.c */
struct tm_error *tm_python_disarm_probes(struct tm_python *python, size_t *foreign);
void tm_python_destroy_probes(struct tm_python *python);

/* python_arm.c: the interpreter was found and is initialised. On failure nothing is armed. */
struct tm_error *tm_python_arm(struct tm_session *session);

#endif
