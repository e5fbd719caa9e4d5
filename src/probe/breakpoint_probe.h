/*
 * The probe that stops threads: breakpoints at the entry of allocator functions and at their exits. An
 * allocating call is entered (arguments are remembered with the caller's registers), and its result is read
 * at the function's return instructions when its body is known to leave only by them, else at its return
 * address.
 *
 * A function that allocates and does not throw is patched instead where that is safe (patch.h): it stops
 * once, in its pad behind the call, with the arguments at hand. Its entry is not seen, so it has no pending
 * call; that another call was made inside it is told by whoever walks the stack (struct tm_walk, in_call).
 *
 * Per thread at most one call is pending, the outermost, and one more for each level of signal handlers that
 * interrupted one. It is our return only if the stack pointer matches the call's CFA. A pending call that was
 * left by longjmp, an exception or cancellation is noticed at the thread's next call from a shallower frame,
 * or (x86-64) at any next call once its return address has been overwritten on the stack, and dropped.
 */
#ifndef TM_PROBE_BREAKPOINT_PROBE_H
#define TM_PROBE_BREAKPOINT_PROBE_H

#include "debuginfo/cfi.h"
#include "debuginfo/module.h"
#include "probe/allocator.h"
#include "probe/event.h"
#include "probe/function_index.h"
#include "probe/recording.h"
#include "target/breakpoint.h"
#include "target/patch.h"

struct tm_probe;

/* All are borrowed and must outlive the probe. */
struct tm_probe_config {
	struct tm_target *target;
	struct tm_breakpoints *breakpoints;
	struct tm_pads *pads;		/* NULL: no page may be mapped into the target */
	struct tm_patches *patches;	/* NULL: no code is replaced, every function has breakpoints */
	struct tm_recording *recording; /* NULL: nothing records, every call stops. Installed by whoever has
					   it, before a module is armed */
	struct tm_module_map *modules;
	struct tm_cfi *cfi;		     /* of the modules; NULL only where patches is */
	struct tm_function_index *functions; /* of the modules */
	struct tm_event_sink sink;
	uint32_t domain; /* of its events */
};

struct tm_error *tm_probe_create(const struct tm_probe_config *config, struct tm_probe **out);
void tm_probe_destroy(struct tm_probe *probe);

/* All threads have come to stand still anew: what is known of their stacks is not true any more. */
void tm_probe_stopped(struct tm_probe *probe);

/* Finds and arms the allocator functions of a loaded module; of one that is armed already, nothing happens.
   All threads stand still, or one does at a breakpoint. *armed: functions that were newly armed. */
struct tm_error *tm_probe_arm_module(struct tm_probe *probe, struct tm_module *module, size_t *armed);

/* Behind the last module that was loaded: arms the functions that do no more than call others of them. */
struct tm_error *tm_probe_arm_deferred(struct tm_probe *probe);

/* Pads are to record from now on, in modules that are not armed yet. `only`: a function that cannot have one
   is not traced, and that is said. */
void tm_probe_use_recording(struct tm_probe *probe, struct tm_recording *recording, bool only);

/* A pad at the dynamic linker's _dl_debug_state tells when its list has changed (TM_RECORD_LOADER). All
   threads stand still. */
struct tm_error *tm_probe_record_loader(struct tm_probe *probe, uint64_t address);

/* A record of a native call in a ring, which `thread` wrote. `inner`: it was made by another call of an
 * allocator. */
struct tm_error *tm_probe_record(struct tm_probe *probe, unsigned ring, const struct tm_thread *thread,
				 const struct tm_record_header *record, bool inner);
/* The thread of a ring is gone: its resizes are abandoned. */
struct tm_error *tm_probe_ring_gone(struct tm_probe *probe, unsigned ring, const struct tm_thread *thread);

/* Does a caller that stands there do so in the midst of a call that allocates? operator new whose block is
   that of the call of malloc that it makes is not meant. */
bool tm_probe_is_in_call(const struct tm_probe *probe, uint64_t pc);

/* A module was unmapped from [start, end): its functions are forgotten. */
void tm_probe_forget_range(struct tm_probe *probe, uint32_t module, uint64_t start, uint64_t end);

/* exec: everything is forgotten. */
void tm_probe_reset(struct tm_probe *probe);

/* A thread stands at a breakpoint. false in *ours: not one of the probe's. */
struct tm_error *tm_probe_hit(struct tm_probe *probe, struct tm_thread *thread, uint64_t address, bool *ours);

/* A thread is gone: its pending calls are abandoned. */
void tm_probe_thread_gone(struct tm_probe *probe, struct tm_thread *thread);

/* Before a detach, with all threads stopped: return addresses that were replaced are put back. */
struct tm_error *tm_probe_disarm(struct tm_probe *probe);
/* The same in a forked child's memory. */
void tm_probe_scrub_child(struct tm_probe *probe, pid_t child);

/* Functions whose pads record, so far; and those that stop where others record: they could not be patched. */
size_t tm_probe_recorded_count(const struct tm_probe *probe);
size_t tm_probe_unrecorded_count(const struct tm_probe *probe);
size_t tm_probe_function_count(const struct tm_probe *probe);
size_t tm_probe_module_count(const struct tm_probe *probe);

#endif
