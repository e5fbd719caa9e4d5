/*
 * What recording.c (the recorder in the target, from its mapping to its end) and recording_threads.c (the
 * threads that are in it, and whose records a ring has) share.
 */
#ifndef TM_PROBE_RECORDING_INTERNAL_H
#define TM_PROBE_RECORDING_INTERNAL_H

#include <stddef.h>

#include "base/hash.h"
#include "probe/recording.h"

/* Whose records a ring has. */
struct tm_writer {
	uint64_t pointer; /* as the ring's head has it; 0: not looked yet */
	pid_t tid;
	bool gone;
};

struct tm_recording {
	struct tm_target *target;
	uint64_t region; /* run-time address of the code; 0: not installed */
	uint64_t shared; /* run-time address of the memory file; 0: not mapped there */
	void *memory;	 /* ours; NULL: not mapped */
	struct tm_ring_reader *reader;
	struct tm_row_table rows;
	const struct tm_recording_needs *needs;
	bool fresh; /* its control page is zero */
	bool may_sleep, stamps;
	uint64_t unringed;
	struct tm_writer writers[TM_RINGS];
	struct tm_thread
		thread;	    /* the last that was asked for: its own object may be gone before its records */
	struct tm_map tids; /* thread pointer -> tid of the latest thread that had it */
};

static inline struct tm_shared *tm_recording_words(const struct tm_recording *recording)
{
	return recording->memory;
}

static inline struct tm_ring_head *tm_recording_head(const struct tm_recording *recording, unsigned ring)
{
	return (struct tm_ring_head *)((char *)recording->memory + TM_SHARED_HEADS) + ring;
}

static inline uint64_t tm_control_field(uint64_t region, size_t offset)
{
	return region + TM_RECORDER_CODE_SIZE + offset;
}

/* Run-time address of a field of struct tm_control. */
#define CONTROL(recording, field) tm_control_field((recording)->region, offsetof(struct tm_control, field))

/* recording_threads.c */
bool tm_recording_runs_alone(const struct tm_recording *recording); /* the target has one thread */
struct tm_error *tm_recording_know_threads(struct tm_recording *recording);
/* The recorder at `region` has been switched off while all stood still: lets those run that are inside, and
   stops them again. *inside: not all have left. */
struct tm_error *tm_recording_let_out(struct tm_recording *recording, uint64_t region, bool *inside);
/* The same for those too that are on their way in or out of its code. */
struct tm_error *tm_recording_clear(struct tm_recording *recording, uint64_t region, bool *entered);
void tm_recording_release_rings(struct tm_recording *recording); /* of threads that are gone */

#endif
