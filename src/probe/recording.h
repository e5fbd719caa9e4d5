/*
 * Recording: the recorder (src/recorder) put into a stopped target, its rings mapped on both sides, and the
 * records read while the target runs on. Which pads lead to the recorder is the business of the probes.
 *
 * What stays in the target after the end are the recorder's code and its control page, switched off: a thread
 * may be on its way there. The next trace uses them again. The rings are unmapped; a thread that will not
 * leave its ring in time keeps them, and the next trace maps new pages.
 *
 * A watchdog, a process of its own, holds the memory file as well: when the tracer dies, however it dies, the
 * recorder is switched off at once, and the target runs on with inert pads.
 */
#ifndef TM_PROBE_RECORDING_H
#define TM_PROBE_RECORDING_H

#include "probe/watchdog.h"
#include "recorder/image.h"
#include "recorder/ring_reader.h"
#include "recorder/row_table.h"
#include "target/pad.h"
#include "target/target.h"

struct tm_recording;

/* What takes time to get, and is got while no target stands still for it. */
struct tm_recording_needs {
	struct tm_watchdog watchdog;
	uint64_t ticks_per_ms;		/* of the time stamp counter; 0: not measured */
	struct tm_recorder_image image; /* size 0: there is no recorder for this machine */
};

/* Gets what is not there yet. On failure there is no watchdog, and it can be tried again. To be called before
   threads are started. */
struct tm_error *tm_recording_prepare(struct tm_recording_needs *needs);
void tm_recording_release(struct tm_recording_needs *needs);

/* `target` and `needs`, which are complete, are borrowed. Touches nothing. TM_ERROR_UNSUPPORTED: there is no
   recorder for this architecture. */
struct tm_error *tm_recording_create(struct tm_target *target, const struct tm_recording_needs *needs,
				     struct tm_recording **out);
void tm_recording_destroy(struct tm_recording *recording); /* NULL is fine; the target is not touched */

/* Code that will have pads, of at most TM_SETUP_PAGES addresses: their regions cost less if they are mapped
   with the recorder. What cannot be mapped then is left to whoever needs it. */
struct tm_recording_pads {
	struct tm_pads *pads;
	uint64_t near[TM_SETUP_PAGES];
	size_t count;
};

/* Puts it in place, switched off. All threads stand still, or one does. On failure nothing was changed but
   perhaps inert pages mapped. */
struct tm_error *tm_recording_install(struct tm_recording *recording, const struct tm_recorder_python *python,
				      const struct tm_recording_pads *wanted);

/* Before it is enabled: native calls are recorded by chance, one in `mean` bytes; 0: all. */
struct tm_error *tm_recording_sample(struct tm_recording *recording, uint64_t mean);

/* Run-time address of an entry; the installed recorder's. */
uint64_t tm_recording_entry(const struct tm_recording *recording, enum tm_recorder_entry entry);

/* Run-time address of the word that is 0 while nothing records. */
uint64_t tm_recording_enabled_word(const struct tm_recording *recording);

/* The recorder's code in the target: [*start, *end). And the ELF file that has its CFI. */
void tm_recording_code(const struct tm_recording *recording, uint64_t *start, uint64_t *end);
const uint8_t *tm_recording_elf(const struct tm_recording *recording, size_t *size);

/* Run-time address of the guard (recorder/guard.h), which stays what it was when the recorder is installed
   again. */
uint64_t tm_recording_guard(const struct tm_recording *recording);

struct tm_error *tm_recording_enable(struct tm_recording *recording);

/* Switches it off and takes the rings away, with all threads stopped. What they held must have been read. */
struct tm_error *tm_recording_disable(struct tm_recording *recording);

/* exec: the memory it was in is gone. What the rings held can still be read. */
void tm_recording_forget(struct tm_recording *recording);

/* What the target need not stand still for: to be called when it runs on, or it is done at the first reading.
   Until then threads that wait do not sleep. */
struct tm_error *tm_recording_begin_reading(struct tm_recording *recording);

#define TM_READ_AT_ONCE 1024u /* records */

enum tm_reading {
	TM_READ_READY,	  /* what is ready, in the order of times; at most TM_READ_AT_ONCE */
	TM_READ_CATCH_UP, /* a thread stands still: all that has come before what it stands at
			     (tm_ring_reader_catch_up) */
	TM_READ_ALL,	  /* all threads stand still, or are gone */
};
struct tm_error *tm_recording_read(struct tm_recording *recording, const struct tm_record_sink *sink,
				   enum tm_reading reading, size_t *count);

/* The thread that writes to a ring (its tid, that of the process where it is not known), and its thread
   pointer. Valid until the thread that has it is another. */
const struct tm_thread *tm_recording_thread(struct tm_recording *recording, unsigned ring,
					    uint64_t *thread_pointer);

/* A thread stands at its first stop: it may have the thread pointer of one that has just ended, whose records
   have been read. */
struct tm_error *tm_recording_thread_born(struct tm_recording *recording, struct tm_thread *thread);
/* A thread is gone: its ring is free once its records are read. */
void tm_recording_thread_gone(struct tm_recording *recording, pid_t tid);

/* A code object was read while a thread that uses it waited: nobody need wait for it again. */
void tm_recording_know_code(struct tm_recording *recording, uint64_t code);

/* Changes when a thread begins to wait for a look. */
uint64_t tm_recording_doorbell(const struct tm_recording *recording);

/* The word for tm_target_pause, by which threads that wait for the tracer wake it. NULL: they cannot, and it
   must not sleep for long. */
uint32_t *tm_recording_asleep(const struct tm_recording *recording);

/* Bytes that the fullest ring held when it was read last, of TM_RING_SIZE. */
uint64_t tm_recording_backlog(const struct tm_recording *recording);

/* To be called a few times a second: frees the rings of threads that are gone, and looks whether the others
   may still sleep while they wait (a seccomp filter may have come). */
void tm_recording_refresh(struct tm_recording *recording);

/* Events so far of threads for which no ring was left (TM_RINGS record at a time), as of the last refresh. */
uint64_t tm_recording_unringed(const struct tm_recording *recording);

/* What the recorder walks by; a ring's words. */
struct tm_row_table *tm_recording_rows(struct tm_recording *recording);
struct tm_ring_head *tm_recording_ring(const struct tm_recording *recording, unsigned ring);

/* What the recorder knows of the native stack of a ring's thread, which waits. false: it cannot be read. */
bool tm_recording_read_stack(const struct tm_recording *recording, unsigned ring,
			     struct tm_recorder_stack *stack);

/* Tells the recorder that a thread, which stands still, is in a call of operator new whose entry it did not
   see; and that it is in none with this CFA any more. A thread that has no ring yet need not be told. */
struct tm_error *tm_recording_enter_new(struct tm_recording *recording, struct tm_thread *thread,
					const struct tm_recorder_call *call);
struct tm_error *tm_recording_leave_new(struct tm_recording *recording, struct tm_thread *thread,
					uint64_t cfa);
/* The call with this CFA that a thread, which stands still, is in, if it was to be told at its end: who calls
   has seen it, and will see its return. cfa 0: there is none. */
struct tm_error *tm_recording_take_new(struct tm_recording *recording, struct tm_thread *thread, uint64_t cfa,
				       struct tm_recorder_call *call);
/* Is it still the same? Else it was left by an exception, and another one with its CFA has begun. */
struct tm_error *tm_recording_has_taken(struct tm_recording *recording, struct tm_thread *thread,
					uint64_t cfa, bool *taken);

/* Did recording end because the tracer did not come in time? */
bool tm_recording_has_ended(const struct tm_recording *recording);

#endif
