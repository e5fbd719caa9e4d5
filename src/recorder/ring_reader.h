/*
 * The tracer's side of the rings (shared.h): gives the records of all threads in the order of their time
 * stamps, each once, and gives the rings' room back.
 *
 * A record is given when no record with an earlier time can still appear: its time lies before the horizon
 * (the clock at the beginning of the pass, less what a store needs to become visible where there is more than
 * one ring), and every ring shows a committed record or nothing behind what was read.
 *
 * A record that was reserved and is not committed holds the pass up, but no longer than TM_RING_HOLD_MS: then
 * the others go on, and so does its own ring behind it. The reader comes back to the hole, and gives the
 * record late if it is committed after all. Nothing that depends on it was given before: its thread goes on
 * when it has committed, so that whatever follows from it is stamped later, behind the horizon of the pass
 * that saw the hole. Where a handler's record behind it wants an answer it is not waited for at all: its
 * thread waits itself. A hole is passed over for good where the recorder has noticed that its thread has
 * jumped away. Where half a ring lies behind it, the ring's room goes round without it.
 *
 * So times grow, but for late records and for those of signal handlers that interrupted the recorder: a
 * handler's record may stand behind one that is stamped later. What a thread wrote is given as it stands in
 * its ring.
 */
#ifndef TM_RECORDER_RING_READER_H
#define TM_RECORDER_RING_READER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "recorder/shared.h"

#define TM_RING_HOLD_MS 2u

struct tm_ring_reader;

/* `memory` is the mapped memory file: TM_SHARED_SIZE bytes, borrowed. Reading begins at the rings' tails. */
struct tm_error *tm_ring_reader_create(void *memory, struct tm_ring_reader **out);
void tm_ring_reader_destroy(struct tm_ring_reader *reader); /* NULL is fine */

/*
 * What takes the records. `record` lies in the ring and is valid during the call only; fillers are not given.
 * A record with TM_RECORD_LOOK is answered (its thread goes on) when the call returns. An error ends the pass
 * behind this record.
 */
struct tm_record_sink {
	void *context;
	struct tm_error *(*record)(void *context, unsigned ring, const struct tm_record_header *record);
	/* A hint: a record with this address as its block comes within the next ten or so. NULL: not wanted.
	 */
	void (*announce)(void *context, uint64_t block);
};

/*
 * One pass over all rings: gives what is ready now, at most `limit` records (0: no limit), and returns their
 * number in *count, with an error as well. What a record says of its size is checked before it is given (its
 * kind's structure, frame_count frames, piece_count pieces, or `fresh` words lie within it): whatever the
 * target writes into its rings, the reader reads only inside them. A ring that makes no sense is closed
 * (tm_ring_reader_broken): what comes in is thrown away, so that its thread need not wait.
 */
struct tm_error *tm_ring_reader_pass(struct tm_ring_reader *reader, const struct tm_record_sink *sink,
				     uint64_t limit, size_t *count);

/* Bytes that the fullest ring held when the last pass began. */
uint64_t tm_ring_reader_backlog(const struct tm_ring_reader *reader);

/*
 * Gives what was recorded before this call, as far as it can be seen: all of a thread that stands still, and
 * of others all that it, or anything that it has to do with, depends on (x86 shows stores in an order that
 * respects causes: Intel SDM 3, 8.2.2). Times of what is given may be later than that of a record which
 * another thread is just about to commit.
 */
struct tm_error *tm_ring_reader_catch_up(struct tm_ring_reader *reader, const struct tm_record_sink *sink,
					 size_t *count);

/* The same when all threads stand still, or are gone: there is no horizon, and no record is waited for. Those
   of threads that stood still in the midst of one are given by a later call. */
struct tm_error *tm_ring_reader_drain(struct tm_ring_reader *reader, const struct tm_record_sink *sink,
				      size_t *count);

size_t
tm_ring_reader_abandoned(const struct tm_ring_reader *reader); /* holes that were passed over, or are now */
size_t
tm_ring_reader_broken(const struct tm_ring_reader *reader); /* rings closed because they made no sense */

/* What a loop that looks at a shared word does between looks. */
static inline void tm_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* The place of a code object among those that the recorder need not wait for: puts it in, or (full set) takes
   another's place. The caller has read the object while a thread that uses it waited. */
void tm_shared_add_code(struct tm_shared *shared, uint64_t code);

#endif
