/*
 * A ring as it is read, and which of its bytes are a record: what the target has written is believed as far
 * as it makes sense. Part of ring_reader.c.
 */
#ifndef TM_RECORDER_RING_MARKS_H
#define TM_RECORDER_RING_MARKS_H

#include <stdbool.h>
#include <stddef.h>

#include "recorder/shared.h"

#define HOLES 8u

/* What was reserved, is not committed, and has committed records behind it: [start, end). */
struct hole {
	uint64_t start, end;
};

struct ring {
	struct tm_ring_head *head;
	const uint8_t *bytes;
	uint64_t position;  /* of the next record */
	uint64_t end;	    /* head->head at the beginning of the pass */
	uint64_t published; /* head->tail */
	uint64_t stuck_at,
		stuck_since; /* a position that was not committed, and when that was seen first (ns) */
	unsigned index, hole_count, left_out_count;
	bool closed;
	struct hole holes[HOLES];	/* in the order of their positions */
	uint64_t left_out[TM_LEFT_OUT]; /* head->left_out */
};

static inline uint64_t load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static inline void store(uint64_t *word, uint64_t value)
{
	__atomic_store_n(word, value, __ATOMIC_RELEASE);
}

/* ---- marks ---- */

struct mark {
	unsigned kind, flags;
	uint64_t size;
};

/* What a record counts, behind the structure of its kind. */
enum parts { PARTS_NONE, PARTS_FRAMES, PARTS_PIECES, PARTS_WORDS };

static const struct kind {
	uint16_t least; /* bytes */
	enum parts parts;
} kinds[] = {
	[TM_RECORD_FILLER] = {sizeof(struct tm_record_header), PARTS_NONE},
	[TM_RECORD_ALLOCATE] = {sizeof(struct tm_record_block), PARTS_FRAMES},
	[TM_RECORD_FREE] = {sizeof(struct tm_record_free), PARTS_NONE},
	[TM_RECORD_RESIZE_BEGIN] = {sizeof(struct tm_record_free), PARTS_NONE},
	[TM_RECORD_RESIZE_END] = {sizeof(struct tm_record_block), PARTS_FRAMES},
	[TM_RECORD_FAIL] = {sizeof(struct tm_record_header), PARTS_NONE},
	[TM_RECORD_OBJECT] = {sizeof(struct tm_record_block), PARTS_FRAMES},
	[TM_RECORD_CODE] = {sizeof(struct tm_record_code), PARTS_PIECES},
	[TM_RECORD_TRACK] = {sizeof(struct tm_record_block), PARTS_FRAMES},
	[TM_RECORD_UNTRACK] = {sizeof(struct tm_record_free), PARTS_NONE},
	[TM_RECORD_NATIVE_ALLOCATE] = {sizeof(struct tm_record_native), PARTS_WORDS},
	[TM_RECORD_NATIVE_RESIZE_END] = {sizeof(struct tm_record_native), PARTS_WORDS},
	[TM_RECORD_NATIVE_FAIL] = {sizeof(struct tm_record_native), PARTS_WORDS},
	[TM_RECORD_NATIVE_FRAMES] = {sizeof(struct tm_record_native), PARTS_WORDS},
	[TM_RECORD_NATIVE_STACK] = {sizeof(struct tm_record_native), PARTS_WORDS},
	[TM_RECORD_NATIVE_REMEMBERED] = {offsetof(struct tm_record_remembered, old), PARTS_NONE},
	[TM_RECORD_NATIVE_RESIZE_REMEMBERED] = {sizeof(struct tm_record_remembered), PARTS_NONE},
	[TM_RECORD_NATIVE_FREE] = {sizeof(struct tm_record_free), PARTS_NONE},
	[TM_RECORD_NATIVE_RESIZE_BEGIN] = {sizeof(struct tm_record_free), PARTS_NONE},
	[TM_RECORD_NATIVE_RESIZE_LEFT] = {sizeof(struct tm_record_free), PARTS_NONE},
	[TM_RECORD_NATIVE_RESIZE_GONE] = {sizeof(struct tm_record_free), PARTS_NONE},
	[TM_RECORD_LOADER] = {sizeof(struct tm_record_header), PARTS_NONE},
};

static inline const struct tm_record_header *header_at(const struct ring *ring, uint64_t position)
{
	return (const struct tm_record_header *)(ring->bytes + position % TM_RING_SIZE);
}

/*
 * Is the record at this position committed? What else may stand there, of an earlier lap or of a record that
 * was left half written, are marks of other positions, and at multiples of 16 bytes addresses of the user's
 * half, whose upper bits are 0: no units.
 */
static inline bool is_committed(const struct ring *ring, uint64_t position, struct mark *mark)
{
	uint64_t word = load((const uint64_t *)header_at(ring, position));

	mark->kind = word >> 32 & 0xff;
	mark->flags = word >> 40 & 0xff;
	mark->size = (word >> 48) * TM_RECORD_UNIT;
	return (uint32_t)word == (uint32_t)(position / TM_RECORD_UNIT) && mark->size;
}

static inline bool frames_fit(const struct tm_record_header *header, uint64_t size)
{
	uint64_t count = ((const struct tm_record_block *)header)->frame_count;

	return sizeof(struct tm_record_block) + count * sizeof(struct tm_record_frame) <= size;
}

static inline bool words_fit(const struct tm_record_header *header, const struct mark *mark)
{
	uint64_t count = ((const struct tm_record_native *)header)->fresh;

	if (mark->flags & TM_RECORD_NO_FRAMES && count != TM_RECORD_REGISTERS)
		return false;
	return sizeof(struct tm_record_native) + count * sizeof(uint64_t) <= mark->size;
}

static __attribute__((noinline)) bool pieces_fit(const struct tm_record_header *header, uint64_t size)
{
	const struct tm_record_code *record = (const struct tm_record_code *)header;
	uint64_t left = size - sizeof(*record);
	const uint8_t *place = record->pieces;

	for (uint64_t i = 0; i < record->piece_count; i++) {
		uint64_t bytes;

		if (left < sizeof(struct tm_record_piece))
			return false;
		left -= sizeof(struct tm_record_piece);
		bytes = ((const struct tm_record_piece *)place)->size;
		if (bytes > left || ((bytes + 7) & ~UINT64_C(7)) > left)
			return false;
		bytes = (bytes + 7) & ~UINT64_C(7);
		left -= bytes;
		place += sizeof(struct tm_record_piece) + bytes;
	}
	return true;
}

/* Does what the record counts lie within it? */
static inline bool parts_fit(const struct tm_record_header *header, const struct mark *mark)
{
	switch (kinds[mark->kind].parts) {
	case PARTS_NONE:
		return true;
	case PARTS_FRAMES:
		return frames_fit(header, mark->size);
	case PARTS_WORDS:
		return words_fit(header, mark);
	case PARTS_PIECES:
		return pieces_fit(header, mark->size);
	}
	return false;
}

static inline bool makes_sense(const struct ring *ring, uint64_t position, const struct mark *mark)
{
	if (mark->kind >= TM_ARRAY_SIZE(kinds) || !kinds[mark->kind].least ||
	    mark->size < kinds[mark->kind].least || mark->size > ring->end - position ||
	    mark->flags > (TM_RECORD_LOOK | TM_RECORD_NO_FRAMES | TM_RECORD_NESTED))
		return false;
	if (mark->kind == TM_RECORD_FILLER)
		return true; /* it alone may be large, and may cross the ring's end */
	return mark->size <= TM_RECORD_MAX && position % TM_RING_SIZE + mark->size <= TM_RING_SIZE &&
	       parts_fit(header_at(ring, position), mark);
}

static inline bool is_valid(const struct ring *ring, uint64_t position, struct mark *mark)
{
	return is_committed(ring, position, mark) && makes_sense(ring, position, mark);
}

/* Where a writer may be at work; what could be a mark is loaded again. (ThreadSanitizer would call it a
 * race.) */
static __attribute__((no_sanitize("thread"))) bool could_be_mark(const struct ring *ring, uint64_t position)
{
	uint64_t word = *(const volatile uint64_t *)header_at(ring, position);

	return (uint32_t)word == (uint32_t)(position / TM_RECORD_UNIT) && word >> 48;
}

/* The first valid mark in [start, end); false: none. */
static bool scan(const struct ring *ring, uint64_t start, uint64_t end, uint64_t *position, struct mark *mark)
{
	for (uint64_t at = start; at < end; at += TM_RECORD_UNIT) {
		if (!could_be_mark(ring, at) || !is_valid(ring, at, mark))
			continue;
		*position = at;
		return true;
	}
	return false;
}

#endif
