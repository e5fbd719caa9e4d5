/*
 * The probe for function pointers in data: the twelve slots of CPython's allocator tables (and 3.13's
 * reference tracer) point to pads (arch/slot_pads.h), as tracemalloc's own hooks do. No byte of code is
 * changed. A malloc is told once, behind the call; a free once, before it; a realloc at both. Nested calls
 * are told apart by the pads themselves. The pads either stop at a breakpoint of the target's kind, or call
 * the recorder (recording.h), whose records become the same events.
 *
 * What stays behind after a disarm is two pages of inert pads, for a thread may be inside one (or a hook of
 * the target's own that was put over ours calls them for ever); the next trace uses the same pages again.
 *
 * Invariant: while armed, each slot holds its pad, unless the target itself put something else there: that is
 * then left alone.
 */
#ifndef TM_PROBE_SLOT_PROBE_H
#define TM_PROBE_SLOT_PROBE_H

#include "arch/slot_pads.h"
#include "probe/event.h"
#include "probe/recording.h"
#include "python/interpreter.h"
#include "target/breakpoint.h"

struct tm_slot_probe;

/* All are borrowed and must outlive the probe. */
struct tm_slot_probe_config {
	struct tm_target *target;
	struct tm_breakpoints *breakpoints;
	const struct tm_interpreter *interpreter;
	struct tm_recording
		*recording; /* NULL: the pads stop. Installed by whoever has it, before the probe is armed */
	struct tm_event_sink sink;
};

/* TM_ERROR_UNSUPPORTED: not on this architecture. Touches nothing. */
struct tm_error *tm_slot_probe_create(const struct tm_slot_probe_config *config, struct tm_slot_probe **out);
void tm_slot_probe_destroy(struct tm_slot_probe *probe); /* NULL is fine */

/* Maps the pads and swaps the slots. All threads stand still, or one does at a breakpoint. On failure every
 * slot is as it was. */
struct tm_error *tm_slot_probe_arm(struct tm_slot_probe *probe);

/* A thread stands at a breakpoint. false in *ours: not one of the probe's. */
struct tm_error *tm_slot_probe_hit(struct tm_slot_probe *probe, struct tm_thread *thread, uint64_t address,
				   bool *ours);

/* A record that the pads' calls of the recorder have left. `thread` wrote it. */
struct tm_error *tm_slot_probe_record(struct tm_slot_probe *probe, const struct tm_thread *thread,
				      uint64_t thread_pointer, const struct tm_record_header *record);

/* Is it an address in a pad? */
bool tm_slot_probe_has(const struct tm_slot_probe *probe, uint64_t pc);

/* A thread is gone: its pending resize is abandoned. */
void tm_slot_probe_thread_gone(struct tm_slot_probe *probe, const struct tm_thread *thread);

/* With all threads stopped: restores the slots and reads them back. Those that hold something else by now are
 *left and counted in foreign. The breakpoints in the pads are left to tm_breakpoints_remove_all. */
struct tm_error *tm_slot_probe_disarm(struct tm_slot_probe *probe, size_t *foreign);
/* The same in a forked child's memory. */
void tm_slot_probe_scrub_child(struct tm_slot_probe *probe, pid_t child);

#endif
