/*
 * The probe at CPython's own tracemalloc where pads record: what tracemalloc_probe.h does at its stops is
 * done in the target. The functions' beginnings are jumps (target/patch.h) into pads (arch/guard_pad.h) that
 * ask the recorder's entries; what those must know, and know after the tracer's death and in forked children,
 * is in the guard (recorder/guard.h). No breakpoint stands anywhere.
 *
 * If the tracer is killed, the jumps and the flag stay. The pads go on answering, and the next object that is
 * made after recording has ended clears the flag. The next trace puts the code back (tm_tracemalloc_recover)
 * before it begins.
 */
#ifndef TM_PROBE_TRACEMALLOC_PADS_H
#define TM_PROBE_TRACEMALLOC_PADS_H

#include "debuginfo/module.h"
#include "probe/event.h"
#include "probe/recording.h"
#include "python/tracemalloc.h"
#include "target/breakpoint.h"
#include "target/pad.h"
#include "target/patch.h"

struct tm_tracemalloc_pads;

/* Pointers are borrowed and must outlive the probe. */
struct tm_tracemalloc_pads_config {
	struct tm_target *target;
	struct tm_pads *pads;
	struct tm_patches *patches;
	struct tm_breakpoints *breakpoints;
	const struct tm_module *module; /* the interpreter's */
	struct tm_recording *recording; /* installed */
	struct tm_python_tracemalloc places;
	bool exact; /* the hook's places are there */
	struct tm_event_sink sink;
};

struct tm_error *tm_tracemalloc_pads_create(const struct tm_tracemalloc_pads_config *config,
					    struct tm_tracemalloc_pads **out);
void tm_tracemalloc_pads_destroy(struct tm_tracemalloc_pads *probe); /* NULL is fine */

/* Patches the functions, with all threads stopped. TM_ERROR_UNSUPPORTED names the one that cannot be; those
 * before it stay patched, and do nothing, until tm_patches_remove_all. */
struct tm_error *tm_tracemalloc_pads_insert(struct tm_tracemalloc_pads *probe);

/* Sets the flag, if `exact` and if nobody else has, with all threads stopped and the recording on. */
struct tm_error *tm_tracemalloc_pads_begin(struct tm_tracemalloc_pads *probe);

/* A TM_RECORD_TRACK or _UNTRACK that `thread` has left. */
struct tm_error *tm_tracemalloc_pads_record(struct tm_tracemalloc_pads *probe, const struct tm_thread *thread,
					    uint64_t thread_pointer, const struct tm_record_header *record);

/* With all threads stopped: clears the flag if it is ours, and takes threads away from where they would act
 * on it. The code is left to tm_patches_remove_all. */
struct tm_error *tm_tracemalloc_pads_disarm(struct tm_tracemalloc_pads *probe);
/* When no thread will run any more before the code is as it was: whoever is still in a pad then does not go
 * by the flag of a later trace. */
struct tm_error *tm_tracemalloc_pads_abandon(struct tm_tracemalloc_pads *probe);
/* Clears the flag in a forked child's memory. */
void tm_tracemalloc_pads_scrub_child(struct tm_tracemalloc_pads *probe, pid_t child);

/* With all threads stopped, before anything is armed: takes back what a tracer left that was killed. `pads`
 * have been adopted; what other versions of this program left is not known again, and stays. */
struct tm_error *tm_tracemalloc_recover(struct tm_target *target, const struct tm_pads *pads,
					const struct tm_breakpoints *breakpoints,
					const struct tm_module_map *modules);

#endif
