/*
 * Merging the rings. Each ring that has records stands in a heap by the time of its first; the first ring
 * gives a run of records, up to the time of the second.
 *
 * The horizon. A thread reserves (xadd), then reads the time stamp counter, then writes and commits. A ring
 * that shows nothing new when its head is loaded will get records whose stamp was read behind the xadd; but
 * the xadd may be visible later than the stamp is read, for both the store buffer and the execution ahead of
 * the counter's read (Intel SDM 3, 8.2.2 and "RDTSC": not a serializing instruction). Either is bounded by
 * the store buffer: some 70 stores, each at worst a line that another core must give up (a few hundred ns); a
 * thread that is preempted drains it. So with MARGIN ticks less than the clock (25 us at 5 GHz, 65 us at 2
 * GHz), read before the heads, what is stamped before the horizon is visible. A thread that stopped between
 * xadd and stamp shows a reserved record, which holds the pass up. The first record of a ring comes behind
 * its bit in shared.used (writer.c, claim): while there is only one ring no margin is needed.
 */
#include "recorder/ring_reader.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "recorder/ring_marks.h"

#define MARGIN	     (UINT64_C(1) << 17)  /* ticks */
#define PUBLISH	     (UINT64_C(64) << 10) /* so much is read before the writer is told: it is its line too */
#define AHEAD	     512u		  /* bytes that are asked for before they are needed */
#define ANNOUNCED    384u		  /* bytes: some ten records */
#define WORD	     64u
#define LEFT_OUT_MAX (TM_RING_SIZE / 4)

struct candidate {
	uint64_t time;
	struct ring *ring;
};

struct tm_ring_reader {
	struct tm_shared *shared;
	uint64_t used[TM_RINGS / WORD]; /* shared->used, as last seen */
	struct ring *active[TM_RINGS];	/* those of `used` */
	size_t active_count, abandoned, broken;
	uint64_t backlog;
	struct ring rings[TM_RINGS];
};

struct pass {
	struct tm_ring_reader *reader;
	const struct tm_record_sink *sink;
	uint64_t horizon, limit, count;
	uint64_t now; /* ns; 0: not asked yet */
	bool draining;
	size_t heap_count;
	struct candidate heap[TM_RINGS]; /* the earliest first */
};

/* The time stamp counter; later loads are not made before it is read. */
static uint64_t ticks(void)
{
#ifdef __x86_64__
	uint64_t now = __builtin_ia32_rdtsc();

	__builtin_ia32_lfence();
	return now;
#else
	return tm_monotonic_ns(); /* no recorder, no records */
#endif
}

/* ---- giving records ---- */

static bool is_left_out(const struct ring *ring, const struct hole *hole)
{
	for (unsigned i = 0; i < TM_LEFT_OUT; i++)
		if (tm_left_out_covers(ring->left_out[i], hole->start))
			return true;
	return false;
}

/* What lies before the first hole was read, but for places that the writer leaves out. */
static void publish(struct ring *ring, uint64_t position)
{
	uint64_t tail = position;

	for (unsigned i = ring->hole_count; i-- > 0;)
		if (!is_left_out(ring, &ring->holes[i]))
			tail = ring->holes[i].start;
	if (tail == ring->published)
		return;
	ring->published = tail;
	store(&ring->head->tail, tail);
}

/* The record's own thread goes on: not one that the same thread, in the midst of a record of its own, was
   interrupted in. `position` is where the ring has been read to. */
static __attribute__((noinline)) void answer(struct ring *ring, uint64_t position, uint64_t asked)
{
	struct tm_record_header *header = (struct tm_record_header *)(uintptr_t)header_at(ring, asked);

	__atomic_fetch_or(&header->flags, TM_RECORD_ANSWERED, __ATOMIC_RELEASE);
	publish(ring, position);
}

static inline bool is_full(const struct pass *pass)
{
	return pass->limit && pass->count >= pass->limit;
}

static inline struct tm_error *give(struct pass *pass, struct ring *ring, uint64_t position)
{
	pass->count++;
	return pass->sink->record(pass->sink->context, ring->index, header_at(ring, position));
}

/* Tells of the records up to ANNOUNCED bytes ahead; *told is where to go on. It is a hint, so that nothing
   but the place in the ring needs to be right. */
static inline void announce(const struct pass *pass, const struct ring *ring, uint64_t position,
			    uint64_t *told)
{
	struct mark mark;

	if (*told < position)
		*told = position;
	while (*told < ring->end && *told < position + ANNOUNCED && is_committed(ring, *told, &mark)) {
		const struct tm_record_free *record = (const struct tm_record_free *)header_at(ring, *told);

		if (mark.kind != TM_RECORD_FILLER && mark.size >= sizeof(*record) &&
		    *told % TM_RING_SIZE + sizeof(*record) <= TM_RING_SIZE)
			pass->sink->announce(pass->sink->context, record->block);
		*told += mark.size;
	}
}

/*
 * Records of a ring, whose first is valid and due: up to one that is not before `bound`, or not there. This
 * is the path of every record.
 */
static struct tm_error *take_run(struct pass *pass, struct ring *ring, uint64_t bound)
{
	uint64_t position = ring->position, end = ring->end, told = position;
	struct tm_error *err = NULL;
	bool due = true;
	struct mark mark;

	while (position < end && is_valid(ring, position, &mark)) {
		uint64_t behind = position + mark.size;

		__builtin_prefetch(header_at(ring, position + AHEAD));
		if (pass->sink->announce)
			announce(pass, ring, behind, &told);
		if (__builtin_expect(mark.kind != TM_RECORD_FILLER, 1)) {
			if (!due && header_at(ring, position)->time >= bound)
				break;
			due = false;
			err = give(pass, ring, position);
			if (__builtin_expect(mark.flags & TM_RECORD_LOOK, 0))
				answer(ring, behind, position);
		}
		position = behind;
		if (__builtin_expect(position - ring->published >= PUBLISH, 0))
			publish(ring, position);
		if (__builtin_expect(err || is_full(pass), 0))
			break;
	}
	ring->position = position;
	return err;
}

/* ---- holes ---- */

static void remove_hole(struct ring *ring, unsigned which)
{
	ring->hole_count--;
	memmove(&ring->holes[which], &ring->holes[which + 1],
		(ring->hole_count - which) * sizeof(struct hole));
}

static void drop_hole(struct tm_ring_reader *reader, struct ring *ring, unsigned which)
{
	remove_hole(ring, which);
	reader->abandoned++;
}

static void add_hole(struct tm_ring_reader *reader, struct ring *ring, unsigned where, uint64_t start,
		     uint64_t end)
{
	if (start == end)
		return;
	if (ring->hole_count == HOLES) {
		drop_hole(reader, ring, 0);
		where -= where > 0;
	}
	memmove(&ring->holes[where + 1], &ring->holes[where],
		(ring->hole_count - where) * sizeof(struct hole));
	ring->holes[where] = (struct hole){start, end};
	ring->hole_count++;
}

/* The committed record with the smallest time in a ring's holes; false: there is none. */
static bool find_late(const struct ring *ring, unsigned *which, uint64_t *position, struct mark *mark)
{
	uint64_t earliest = UINT64_MAX, at;
	struct mark found;

	for (unsigned i = 0; i < ring->hole_count; i++) {
		const struct hole *hole = &ring->holes[i];

		for (at = hole->start; scan(ring, at, hole->end, &at, &found); at += found.size) {
			if (header_at(ring, at)->time >= earliest)
				continue;
			earliest = header_at(ring, at)->time;
			*which = i;
			*position = at;
			*mark = found;
		}
	}
	return earliest != UINT64_MAX;
}

static struct tm_error *take_late(struct pass *pass, struct ring *ring, unsigned which, uint64_t position,
				  const struct mark *mark)
{
	struct hole hole = ring->holes[which];
	struct tm_error *err = mark->kind == TM_RECORD_FILLER ? NULL : give(pass, ring, position);

	remove_hole(ring, which);
	add_hole(pass->reader, ring, which, position + mark->size, hole.end);
	add_hole(pass->reader, ring, which, hole.start, position);
	if (mark->flags & TM_RECORD_LOOK)
		answer(ring, ring->position, position);
	return err;
}

/* Holes that nobody will fill: `abandoned` is loaded before they are looked at for the last time. */
static void drop_dead_holes(struct tm_ring_reader *reader, struct ring *ring)
{
	uint64_t abandoned = load(&ring->head->abandoned), at;
	struct mark mark;

	for (unsigned i = 0; i < ring->hole_count;) {
		const struct hole *hole = &ring->holes[i];

		if (hole->end <= abandoned && !scan(ring, hole->start, hole->end, &at, &mark))
			drop_hole(reader, ring, i);
		else
			i++;
	}
}

/* The ring's room goes round without it. Where it cannot, the thread will wait, and end the recording. */
static void leave_out(struct ring *ring, const struct hole *hole)
{
	for (unsigned i = 0; i < TM_LEFT_OUT && hole->end - hole->start <= LEFT_OUT_MAX; i++) {
		if (ring->left_out[i])
			continue;
		ring->left_out[i] = tm_left_out(hole->start, hole->end - hole->start);
		ring->left_out_count++;
		store(&ring->head->left_out[i], ring->left_out[i]);
		return;
	}
}

/* Places whose hole is gone belong to the ring again. */
static void take_back_places(struct ring *ring)
{
	for (unsigned i = 0; i < TM_LEFT_OUT; i++) {
		bool has_hole = false;

		for (unsigned k = 0; k < ring->hole_count; k++)
			has_hole = has_hole || tm_left_out_covers(ring->left_out[i], ring->holes[k].start);
		if (has_hole || !ring->left_out[i])
			continue;
		ring->left_out[i] = 0;
		ring->left_out_count--;
		store(&ring->head->left_out[i], 0);
	}
}

/* Of a ring that had some when it was looked at last. */
static void tend_holes(struct tm_ring_reader *reader, struct ring *ring)
{
	drop_dead_holes(reader, ring);
	for (unsigned i = 0; i < ring->hole_count; i++)
		if (ring->position - ring->holes[i].start > TM_RING_SIZE / 2 &&
		    !is_left_out(ring, &ring->holes[i]))
			leave_out(ring, &ring->holes[i]);
	take_back_places(ring);
}

/* ---- where a ring stands ---- */

static void close_ring(struct tm_ring_reader *reader, struct ring *ring)
{
	ring->closed = true;
	ring->hole_count = 0;
	reader->broken++;
}

/* Its thread waits for nothing. */
static void let_go(struct ring *ring)
{
	uint64_t head = load(&ring->head->head);

	store(&ring->head->tail, head);
}

/* The recorder says that what is not committed here never will be: is it passed over? */
static bool pass_over(struct tm_ring_reader *reader, struct ring *ring)
{
	uint64_t abandoned = load(&ring->head->abandoned), next = abandoned;
	struct mark mark;

	if (abandoned <= ring->position || abandoned > ring->end || abandoned % TM_RECORD_UNIT)
		return false;
	scan(ring, ring->position, abandoned, &next, &mark);
	reader->abandoned += next != ring->position; /* else it was committed in the meantime */
	ring->position = next;
	return true;
}

/* Has the ring stood at its position, seen in more than one pass, for too long? */
static bool is_late(struct pass *pass, struct ring *ring)
{
	if (!pass->now)
		pass->now = tm_monotonic_ns();
	if (ring->stuck_at != ring->position) {
		ring->stuck_at = ring->position;
		ring->stuck_since = pass->now;
	}
	return pass->now - ring->stuck_since >= TM_RING_HOLD_MS * UINT64_C(1000000);
}

/* Leaves a hole, and goes on behind it. */
static bool step_behind(struct tm_ring_reader *reader, struct ring *ring)
{
	uint64_t next;
	struct mark mark;

	if (!scan(ring, ring->position, ring->end, &next, &mark))
		return false;
	add_hole(reader, ring, ring->hole_count, ring->position, next);
	ring->position = next;
	return true;
}

/* Does its thread, in a handler that has interrupted it, wait for an answer? */
static bool wants_look(const struct ring *ring)
{
	struct mark mark;

	for (uint64_t at = ring->position; scan(ring, at, ring->end, &at, &mark); at += mark.size)
		if (mark.flags & TM_RECORD_LOOK)
			return true;
	return false;
}

enum front { FRONT_RECORD, FRONT_NOTHING, FRONT_HOLDS };

/* Goes to the next valid record, over fillers and what is not waited for. */
static enum front find_front(struct pass *pass, struct ring *ring)
{
	struct tm_ring_reader *reader = pass->reader;
	struct mark mark;

	while (ring->position < ring->end) {
		if (is_committed(ring, ring->position, &mark)) {
			if (!makes_sense(ring, ring->position, &mark)) {
				close_ring(reader, ring);
				return FRONT_NOTHING;
			}
			if (mark.kind != TM_RECORD_FILLER)
				return FRONT_RECORD;
			ring->position += mark.size;
			continue;
		}
		if (pass_over(reader, ring))
			continue;
		if (!pass->draining && !is_late(pass, ring) && !wants_look(ring))
			return FRONT_HOLDS;
		if (!step_behind(reader, ring))
			break;
	}
	return FRONT_NOTHING;
}

/*
 * When the first record is due: at its time, or at that of a handler's record behind it, which came in the
 * midst of reserving and stamping it.
 */
static uint64_t front_time(const struct ring *ring)
{
	uint64_t time = UINT64_MAX - 1; /* always before the horizon of a drain */
	struct mark mark;

	for (uint64_t at = ring->position; at < ring->end && is_valid(ring, at, &mark); at += mark.size) {
		if (mark.kind == TM_RECORD_FILLER)
			continue;
		if (header_at(ring, at)->time >= time)
			break;
		time = header_at(ring, at)->time;
	}
	return time;
}

static uint64_t late_time(const struct ring *ring)
{
	unsigned which;
	uint64_t position;
	struct mark mark;

	return ring->hole_count && find_late(ring, &which, &position, &mark) ? header_at(ring, position)->time
									     : UINT64_MAX;
}

/* When the ring has a record to give; UINT64_MAX: it has none. False: it holds the pass up. */
static bool find_time(struct pass *pass, struct ring *ring, uint64_t *time)
{
	enum front front = find_front(pass, ring);
	uint64_t late = late_time(ring);

	*time = front == FRONT_RECORD ? front_time(ring) : UINT64_MAX;
	if (late < *time)
		*time = late;
	return front != FRONT_HOLDS;
}

/* Records of the ring whose time is the earliest. With holes, one at a time. */
static struct tm_error *take(struct pass *pass, struct ring *ring, uint64_t time, uint64_t bound)
{
	unsigned which;
	uint64_t position;
	struct mark mark;

	if (__builtin_expect(!ring->hole_count, 1))
		return take_run(pass, ring, bound);
	if (find_late(ring, &which, &position, &mark) && header_at(ring, position)->time <= time)
		return take_late(pass, ring, which, position, &mark);
	return take_run(pass, ring, 0);
}

/* ---- the merge ---- */

static void sift_down(struct pass *pass, size_t at)
{
	struct candidate moved = pass->heap[at];
	size_t child;

	for (; (child = 2 * at + 1) < pass->heap_count; at = child) {
		if (child + 1 < pass->heap_count && pass->heap[child + 1].time < pass->heap[child].time)
			child++;
		if (moved.time <= pass->heap[child].time)
			break;
		pass->heap[at] = pass->heap[child];
	}
	pass->heap[at] = moved;
}

/* The time up to which the first ring may give: the second's, or the horizon. */
static uint64_t bound_of(const struct pass *pass)
{
	uint64_t bound = pass->horizon;

	for (size_t i = 1; i < pass->heap_count && i <= 2; i++)
		if (pass->heap[i].time < bound)
			bound = pass->heap[i].time;
	return bound;
}

static void sort_first_in(struct pass *pass, uint64_t time)
{
	pass->heap[0].time = time;
	if (time == UINT64_MAX)
		pass->heap[0] = pass->heap[--pass->heap_count];
	sift_down(pass, 0);
}

static struct tm_error *merge(struct pass *pass)
{
	struct candidate *first = &pass->heap[0];

	while (pass->heap_count && first->time < pass->horizon) {
		uint64_t time;
		struct tm_error *err = take(pass, first->ring, first->time, bound_of(pass));

		if (err || is_full(pass) || !find_time(pass, first->ring, &time))
			return err;
		sort_first_in(pass, time);
	}
	return NULL;
}

/* ---- a pass ---- */

static void begin_ring(struct tm_ring_reader *reader, unsigned index)
{
	uint8_t *bytes = (uint8_t *)reader->shared;
	struct ring *ring = &reader->rings[index];

	ring->index = index;
	ring->head = (struct tm_ring_head *)(bytes + TM_SHARED_HEADS) + index;
	ring->bytes = bytes + TM_SHARED_RINGS + index * TM_RING_SIZE;
	ring->position = ring->published = load(&ring->head->tail);
	ring->stuck_at = UINT64_MAX;
	reader->active[reader->active_count++] = ring;
}

static void notice_rings(struct tm_ring_reader *reader)
{
	for (unsigned i = 0; i < TM_RINGS / WORD; i++) {
		uint64_t used = load(&reader->shared->used[i]), fresh = used & ~reader->used[i];

		for (; fresh; fresh &= fresh - 1)
			begin_ring(reader, i * WORD + (unsigned)__builtin_ctzll(fresh));
		reader->used[i] |= used;
	}
}

/* What it has for this pass; false: nothing. */
static bool open_ring(struct tm_ring_reader *reader, struct ring *ring)
{
	uint64_t head;

	if (ring->closed) {
		let_go(ring);
		return false;
	}
	head = load(&ring->head->head);
	if (head < ring->position || head - ring->published > TM_RING_SIZE || head % TM_RECORD_UNIT) {
		close_ring(reader, ring);
		let_go(ring);
		return false;
	}
	ring->end = head;
	if (head - ring->position > reader->backlog)
		reader->backlog = head - ring->position;
	if (ring->hole_count || ring->left_out_count)
		tend_holes(reader, ring);
	return head != ring->position || ring->hole_count;
}

/* False: a ring holds the pass up. */
static bool gather(struct pass *pass)
{
	struct tm_ring_reader *reader = pass->reader;
	bool ready = true;

	reader->backlog = 0;
	for (size_t i = 0; i < reader->active_count; i++) {
		struct ring *ring = reader->active[i];
		uint64_t time;

		if (!open_ring(reader, ring))
			continue;
		if (!find_time(pass, ring, &time))
			ready = false;
		if (time != UINT64_MAX)
			pass->heap[pass->heap_count++] = (struct candidate){time, ring};
	}
	for (size_t i = pass->heap_count / 2; i-- > 0;)
		sift_down(pass, i);
	return ready;
}

static struct tm_error *run(struct pass *pass, size_t *count)
{
	struct tm_ring_reader *reader = pass->reader;
	struct tm_error *err = gather(pass) ? merge(pass) : NULL;

	for (size_t i = 0; i < reader->active_count; i++)
		if (!reader->active[i]->closed)
			publish(reader->active[i], reader->active[i]->position);
	*count = pass->count;
	return err;
}

struct tm_error *tm_ring_reader_pass(struct tm_ring_reader *reader, const struct tm_record_sink *sink,
				     uint64_t limit, size_t *count)
{
	struct pass pass;

	pass.reader = reader;
	pass.sink = sink;
	pass.limit = limit;
	pass.count = pass.now = pass.heap_count = 0;
	pass.draining = false;
	pass.horizon = ticks();
	notice_rings(reader);
	if (reader->active_count > 1)
		pass.horizon -= MARGIN;
	return run(&pass, count);
}

/* No record is waited for. */
static struct tm_error *take_all_before(struct tm_ring_reader *reader, uint64_t horizon,
					const struct tm_record_sink *sink, size_t *count)
{
	struct pass pass;

	pass.reader = reader;
	pass.sink = sink;
	pass.limit = pass.count = pass.now = pass.heap_count = 0;
	pass.draining = true;
	pass.horizon = horizon;
	notice_rings(reader);
	return run(&pass, count);
}

struct tm_error *tm_ring_reader_catch_up(struct tm_ring_reader *reader, const struct tm_record_sink *sink,
					 size_t *count)
{
	return take_all_before(reader, ticks(), sink, count);
}

struct tm_error *tm_ring_reader_drain(struct tm_ring_reader *reader, const struct tm_record_sink *sink,
				      size_t *count)
{
	return take_all_before(reader, UINT64_MAX, sink, count);
}

/* ---- the reader ---- */

struct tm_error *tm_ring_reader_create(void *memory, struct tm_ring_reader **out)
{
	struct tm_ring_reader *reader = calloc(1, sizeof(*reader));

	if (!reader)
		return tm_error_out_of_memory();
	reader->shared = memory;
	*out = reader;
	return NULL;
}

void tm_ring_reader_destroy(struct tm_ring_reader *reader)
{
	free(reader);
}

uint64_t tm_ring_reader_backlog(const struct tm_ring_reader *reader)
{
	return reader->backlog;
}

size_t tm_ring_reader_abandoned(const struct tm_ring_reader *reader)
{
	size_t count = reader->abandoned;

	for (size_t i = 0; i < reader->active_count; i++)
		count += reader->active[i]->hole_count;
	return count;
}

size_t tm_ring_reader_broken(const struct tm_ring_reader *reader)
{
	return reader->broken;
}

/* The filter before the set: what the recorder finds in a set must be in the filter when it is freed. */
void tm_shared_add_code(struct tm_shared *shared, uint64_t code)
{
	uint64_t *set = shared->codes[tm_code_set(code)], *way = &set[ticks() % TM_CODE_WAYS];
	uint32_t bit = tm_code_bit(code);

	for (unsigned i = 0; i < TM_CODE_WAYS; i++) {
		uint64_t present = load(&set[i]);

		if (present == code)
			return;
		if (!present)
			way = &set[i];
	}
	__atomic_fetch_or(&shared->code_filter[bit / WORD], UINT64_C(1) << bit % WORD, __ATOMIC_RELEASE);
	store(way, code);
}
