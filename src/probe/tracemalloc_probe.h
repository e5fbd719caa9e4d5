/*
 * The probe at CPython's own tracemalloc: breakpoints that stop where it is told of something.
 *
 * Always: PyTraceMalloc_Track and _Untrack, by which numpy and others tell of memory in domains of their own.
 * tracemalloc refuses them while it is off; they are events nevertheless.
 *
 * `exact`, up to 3.12: the hook for objects that take a recycled block. It is called only while the flag
 * `tracing` is set, so the probe sets it, and answers the calls in tracemalloc's place: its tables were never
 * made, and it must never act on them. So wherever the target asks for the flag, it gets the answer of an
 * interpreter whose tracemalloc is off: is_tracing and stop are answered in its place, start runs with the
 * flag cleared, and Py_FinalizeEx clears it for good. A tracemalloc that is on, before the trace or since, is
 * left alone: the hook's calls go on to it.
 *
 * Invariant: while `pretends` the flag is ours, and no thread ever runs the hook, or Track and Untrack.
 *
 * If the tracer is killed the flag stays set, and so do the breakpoints: the next object that is made ends
 * the target by SIGTRAP, as the next allocation would have done.
 */
#ifndef TM_PROBE_TRACEMALLOC_PROBE_H
#define TM_PROBE_TRACEMALLOC_PROBE_H

#include "probe/event.h"
#include "python/tracemalloc.h"
#include "target/breakpoint.h"

struct tm_tracemalloc_probe;

/* Pointers are borrowed and must outlive the probe. */
struct tm_tracemalloc_probe_config {
	struct tm_target *target;
	struct tm_breakpoints *breakpoints;
	struct tm_python_tracemalloc places;
	bool exact; /* the hook's places are there */
	struct tm_event_sink sink;
};

struct tm_error *tm_tracemalloc_probe_create(const struct tm_tracemalloc_probe_config *config,
					     struct tm_tracemalloc_probe **out);
void tm_tracemalloc_probe_destroy(struct tm_tracemalloc_probe *probe); /* NULL is fine */

/* Inserts the breakpoints, and sets the flag if nobody else has. All threads stand still, or one does at a
 * breakpoint. On failure the flag is as it was; breakpoints are left to tm_breakpoints_remove_all. */
struct tm_error *tm_tracemalloc_probe_arm(struct tm_tracemalloc_probe *probe);

/* A thread stands at a breakpoint of any probe. false in *ours: not one of this probe's. The thread may have
 * been sent elsewhere: resume it by tm_breakpoint_resume. */
struct tm_error *tm_tracemalloc_probe_hit(struct tm_tracemalloc_probe *probe, struct tm_thread *thread,
					  uint64_t address, bool *ours);

/* With all threads stopped: clears the flag if it is ours, and takes threads away from where they would act
 * on it. The breakpoints are left to tm_breakpoints_remove_all. */
struct tm_error *tm_tracemalloc_probe_disarm(struct tm_tracemalloc_probe *probe);
/* Clears the flag in a forked child's memory. */
void tm_tracemalloc_probe_scrub_child(struct tm_tracemalloc_probe *probe, pid_t child);

/* TM_ERROR_UNSUPPORTED if a thread is within a call of the code in [start, end), which is Py_FinalizeEx's:
 * with a flag that is set now it would end in tracemalloc's stop. All threads are stopped. A word of a stack
 * that only looks like a return address counts as one. */
struct tm_error *tm_tracemalloc_check_not_ending(struct tm_target *target, uint64_t start, uint64_t end);

/* The flag was cleared, with all threads stopped: one that has seen it set, and has not called the hook yet,
 * is stepped until it has, and is then behind that call, or until it does something else. */
struct tm_error *tm_tracemalloc_leave_hook(struct tm_target *target, const struct tm_breakpoints *breakpoints,
					   uint64_t hook);

#endif
