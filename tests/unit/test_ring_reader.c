/*
 * The reader on rings that the tests write themselves: what a recorder leaves in shared memory, at any
 * moment. A record's block is its number.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "recorder/ring_reader.h"

#define SOON 1000u /* a time long past the machine's start */
#define SEEN 65536u

static struct scene {
	struct tm_shared *shared;
	struct tm_ring_reader *reader;
	struct tm_record_sink sink;
	struct seen {
		unsigned ring, kind, flags;
		uint64_t number, time;
	} seen[SEEN];
	size_t seen_count, passed; /* so many were given by the last pass */
	size_t fail_at;		   /* the sink's error comes with this record; 0: never */
} scene;

static struct tm_ring_head *ring_head(unsigned ring)
{
	return (struct tm_ring_head *)((uint8_t *)scene.shared + TM_SHARED_HEADS) + ring;
}

static uint8_t *place(unsigned ring, uint64_t position)
{
	return (uint8_t *)scene.shared + TM_SHARED_RINGS + ring * TM_RING_SIZE + position % TM_RING_SIZE;
}

static bool is_answered(unsigned ring, uint64_t position)
{
	return ((const struct tm_record_header *)place(ring, position))->flags & TM_RECORD_ANSWERED;
}

static struct tm_error *see(void *context, unsigned ring, const struct tm_record_header *record)
{
	struct seen *seen = &scene.seen[scene.seen_count++];

	(void)context;
	cr_assert_lt(scene.seen_count, SEEN);
	*seen = (struct seen){
		.ring = ring, .kind = record->kind, .flags = record->flags, .time = record->time};
	if (record->kind != TM_RECORD_FAIL)
		seen->number = ((const struct tm_record_free *)record)->block;
	return scene.fail_at && scene.seen_count == scene.fail_at
		       ? tm_error_create(TM_ERROR_OTHER, "the sink is full")
		       : NULL;
}

static void set_up(void)
{
	scene.shared = mmap(NULL, TM_SHARED_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	cr_assert_neq(scene.shared, MAP_FAILED);
	cr_assert_null(tm_ring_reader_create(scene.shared, &scene.reader));
	scene.sink.record = see;
}

static void tear_down(void)
{
	tm_ring_reader_destroy(scene.reader);
	munmap(scene.shared, TM_SHARED_SIZE);
}

TestSuite(ring_reader, .init = set_up, .fini = tear_down);

static void pass(void)
{
	cr_assert_null(tm_ring_reader_pass(scene.reader, &scene.sink, 0, &scene.passed));
}

static void drain(void)
{
	cr_assert_null(tm_ring_reader_drain(scene.reader, &scene.sink, &scene.passed));
}

static uint64_t reserve(unsigned ring, uint64_t size)
{
	uint64_t position = ring_head(ring)->head;

	scene.shared->used[ring / 64] |= UINT64_C(1) << ring % 64;
	ring_head(ring)->head += size;
	return position;
}

static void commit(unsigned ring, uint64_t position, unsigned kind, unsigned flags, uint64_t size)
{
	struct tm_record_header *header = (struct tm_record_header *)place(ring, position);

	header->kind = (uint8_t)kind;
	header->flags = (uint8_t)flags;
	header->units = (uint16_t)(size / TM_RECORD_UNIT);
	header->place = (uint32_t)(position / TM_RECORD_UNIT);
}

static void commit_free(unsigned ring, uint64_t position, uint64_t time, uint64_t number, unsigned flags)
{
	struct tm_record_free *record = (struct tm_record_free *)place(ring, position);

	record->header.time = time;
	record->block = number;
	commit(ring, position, TM_RECORD_FREE, flags, sizeof(*record));
}

static void put(unsigned ring, uint64_t time, uint64_t number)
{
	commit_free(ring, reserve(ring, sizeof(struct tm_record_free)), time, number, 0);
}

static void put_filler(unsigned ring, uint64_t size)
{
	uint64_t position = reserve(ring, size);

	((struct tm_record_header *)place(ring, position))->time = 0;
	commit(ring, position, TM_RECORD_FILLER, 0, size);
}

static void put_block(unsigned ring, uint64_t time, uint64_t number, uint32_t frames)
{
	uint64_t size = sizeof(struct tm_record_block) + frames * sizeof(struct tm_record_frame);
	uint64_t position = reserve(ring, size);
	struct tm_record_block *record = (struct tm_record_block *)place(ring, position);

	record->header.time = time;
	record->block = number;
	record->frame_count = record->frame_total = frames;
	commit(ring, position, TM_RECORD_ALLOCATE, 0, size);
}

/* What was given, as text: "1 2 3". */
static const char *numbers(void)
{
	static char text[4096];
	size_t used = 0;

	text[0] = 0;
	for (size_t i = 0; i < scene.seen_count; i++)
		used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%llu", i ? " " : "",
					 (unsigned long long)scene.seen[i].number);
	return text;
}

static void expect(const char *wanted)
{
	cr_expect_str_eq(numbers(), wanted);
}

/* A pass that sees what is stuck, and one when the reader has held for long enough. */
static void pass_for(unsigned ms)
{
	struct timespec begin, now;

	pass();
	clock_gettime(CLOCK_MONOTONIC, &begin);
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - begin.tv_sec) * 1000000000 + now.tv_nsec - begin.tv_nsec < (long)ms * 1000000);
	pass();
}

Test(ring_reader, nothing_is_given_of_rings_that_were_never_used)
{
	pass();
	cr_expect_eq(scene.passed, 0);
	drain();
	cr_expect_eq(scene.passed, 0);
}

Test(ring_reader, records_of_one_ring_are_given_once_and_their_room_is_given_back)
{
	put(7, SOON, 1);
	put_block(7, SOON + 1, 2, 3);
	pass();
	cr_expect_eq(scene.passed, 2);
	cr_expect_eq(ring_head(7)->tail, ring_head(7)->head);
	put(7, SOON + 2, 3);
	pass();
	pass();
	expect("1 2 3");
	cr_expect_eq(scene.seen[1].kind, TM_RECORD_ALLOCATE);
	cr_expect_eq(scene.seen[1].ring, 7);
}

Test(ring_reader, the_backlog_is_what_the_fullest_ring_had)
{
	pass();
	cr_expect_eq(tm_ring_reader_backlog(scene.reader), 0);
	put(0, SOON, 1);
	put(3, SOON + 1, 2);
	put(3, SOON + 2, 3);
	pass();
	cr_expect_eq(tm_ring_reader_backlog(scene.reader), 2 * sizeof(struct tm_record_free));
	pass();
	cr_expect_eq(tm_ring_reader_backlog(scene.reader), 0);
}

Test(ring_reader, rings_are_merged_by_time)
{
	for (unsigned i = 0; i < 40; i++)
		put((i * 7) % 5 * 50, SOON + i, i);
	pass();
	cr_assert_eq(scene.seen_count, 40);
	for (unsigned i = 0; i < 40; i++)
		cr_expect_eq(scene.seen[i].number, i);
}

Test(ring_reader, what_is_stamped_behind_the_horizon_waits)
{
	put(0, SOON, 1);
	put(0, UINT64_MAX / 2, 2); /* the clock is far from it */
	put(1, SOON + 1, 3);
	pass();
	expect("1 3");
	drain();
	expect("1 3 2");
}

Test(ring_reader, a_record_that_is_not_committed_holds_up_the_others)
{
	uint64_t position;

	put(0, SOON, 1);
	position = reserve(1, sizeof(struct tm_record_free));
	put(2, SOON + 2, 3);
	pass();
	cr_expect_eq(scene.passed, 0);
	commit_free(1, position, SOON + 1, 2, 0);
	pass();
	expect("1 2 3");
}

Test(ring_reader, others_are_not_held_up_for_long_and_the_record_is_given_late)
{
	uint64_t position = reserve(1, sizeof(struct tm_record_free));

	put(0, SOON, 1);
	pass_for(TM_RING_HOLD_MS);
	expect("1");
	cr_expect_eq(ring_head(1)->tail, position);
	commit_free(1, position, SOON - 1, 2, 0);
	pass();
	expect("1 2");
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 0);
}

Test(ring_reader, a_filler_is_skipped_and_may_cross_the_end)
{
	put_filler(3, 48);
	put(3, SOON, 1);
	for (uint64_t i = ring_head(3)->head; i + TM_RECORD_MAX <= TM_RING_SIZE; i += TM_RECORD_MAX)
		put_filler(3, TM_RECORD_MAX);
	pass();
	put_filler(3, TM_RECORD_MAX);
	cr_assert_gt(ring_head(3)->head, TM_RING_SIZE);
	put(3, SOON + 1, 2);
	pass();
	expect("1 2");
	cr_expect_eq(ring_head(3)->tail, ring_head(3)->head);
}

Test(ring_reader, marks_of_an_earlier_lap_are_no_records)
{
	uint64_t fill = TM_RING_SIZE / sizeof(struct tm_record_free), position;

	for (uint64_t i = 0; i < fill; i++)
		put(0, SOON + i, i);
	pass();
	cr_assert_eq(scene.seen_count, fill);
	position = reserve(0, sizeof(struct tm_record_free));
	pass_for(TM_RING_HOLD_MS);
	cr_expect_eq(scene.seen_count, fill);
	commit_free(0, position, SOON + fill, 77, 0);
	pass();
	cr_assert_eq(scene.seen_count, fill + 1);
	cr_expect_eq(scene.seen[fill].number, 77);
}

Test(ring_reader, what_its_thread_has_jumped_away_from_is_passed_over_at_once)
{
	put(0, SOON, 1);
	reserve(0, sizeof(struct tm_record_free));
	put(0, SOON + 1, 2); /* of a handler in the midst of it */
	reserve(0, TM_RECORD_MAX);
	ring_head(0)->abandoned = ring_head(0)->head;
	put(0, SOON + 2, 3);
	put(1, SOON + 3, 4);
	pass();
	expect("1 2 3 4");
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 2);
	cr_expect_eq(ring_head(0)->tail, ring_head(0)->head);
}

Test(ring_reader, without_a_word_from_the_recorder_the_ring_goes_on_behind_a_hole)
{
	uint64_t hole = reserve(0, sizeof(struct tm_record_free));

	put(0, SOON + 1, 2);
	pass();
	cr_expect_eq(scene.passed, 0);
	pass_for(TM_RING_HOLD_MS);
	expect("2");
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 1);
	cr_expect_eq(ring_head(0)->tail, hole, "its room must not be given back yet");
	commit_free(0, hole, SOON, 1, 0);
	pass();
	expect("2 1");
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 0);
	cr_expect_eq(ring_head(0)->tail, ring_head(0)->head);
}

Test(ring_reader, a_record_that_wants_a_look_is_answered_at_once)
{
	uint64_t position;

	put(0, SOON, 1);
	position = reserve(0, sizeof(struct tm_record_free));
	commit_free(0, position, SOON + 1, 2, TM_RECORD_LOOK);
	put(0, SOON + 2, 3);
	pass();
	expect("1 2 3");
	cr_expect_eq(scene.seen[1].flags, TM_RECORD_LOOK, "before the sink has looked");
	cr_expect(is_answered(0, position));
	cr_expect_not(is_answered(0, position + sizeof(struct tm_record_free)), "another one");
}

Test(ring_reader, an_error_of_the_sink_ends_the_pass_behind_its_record)
{
	struct tm_error *err;

	put(0, SOON, 1);
	put(1, SOON + 1, 2);
	put(0, SOON + 2, 3);
	scene.fail_at = 2;
	err = tm_ring_reader_pass(scene.reader, &scene.sink, 0, &scene.passed);
	cr_assert_not_null(err);
	tm_error_destroy(err);
	cr_expect_eq(scene.passed, 2);
	pass();
	expect("1 2 3");
}

Test(ring_reader, a_pass_gives_no_more_than_its_limit)
{
	for (unsigned i = 0; i < 10; i++)
		put(i % 3, SOON + i, i);
	for (unsigned i = 0; i < 10; i += 4) {
		cr_assert_null(tm_ring_reader_pass(scene.reader, &scene.sink, 4, &scene.passed));
		cr_expect_eq(scene.passed, i < 8 ? 4 : 2);
	}
	expect("0 1 2 3 4 5 6 7 8 9");
}

/* ---- threads that stand still ---- */

Test(ring_reader, a_drain_waits_for_nobody)
{
	uint64_t position;

	put(0, SOON, 1);
	position = reserve(0, sizeof(struct tm_record_free));
	put(0, SOON + 4, 5);
	reserve(1, 48);
	put(2, UINT64_MAX, 6);
	drain();
	expect("1 5 6");
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 1);
	commit_free(0, position, SOON + 1, 2, 0); /* it had only stood still */
	drain();
	expect("1 5 6 2");
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 0);
}

/* ---- holes ---- */

Test(ring_reader, records_in_a_hole_may_be_committed_from_the_inside_out)
{
	uint64_t outer = reserve(0, 32), middle = reserve(0, 48), inner = reserve(0, 32);

	put(0, SOON + 3, 4);
	pass_for(TM_RING_HOLD_MS);
	expect("4");
	commit_free(0, middle + 0, SOON + 2, 3, 0);
	commit(0, middle, TM_RECORD_FREE, 0, 48);
	pass();
	expect("4 3");
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 2);
	cr_expect_eq(ring_head(0)->tail, outer);
	commit_free(0, inner, SOON + 1, 2, 0);
	commit_free(0, outer, SOON, 1, 0);
	pass();
	expect("4 3 1 2");
	cr_expect_eq(ring_head(0)->tail, ring_head(0)->head);
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 0);
}

Test(ring_reader, late_records_are_merged_with_the_other_rings)
{
	uint64_t hole = reserve(0, 32);

	put(0, SOON, 1);
	pass_for(TM_RING_HOLD_MS);
	commit_free(0, hole, SOON + 3, 4, 0);
	put(1, SOON + 2, 3);
	put(0, SOON + 4, 5);
	put(2, SOON + 1, 2);
	pass();
	expect("1 2 3 4 5");
}

Test(ring_reader, a_look_in_a_hole_is_answered_too)
{
	uint64_t hole = reserve(0, 32);

	put(0, SOON, 1);
	pass_for(TM_RING_HOLD_MS);
	commit_free(0, hole, SOON, 2, TM_RECORD_LOOK);
	pass();
	expect("1 2");
	cr_expect(is_answered(0, hole));
}

/* So much that a hole before it keeps the ring's room no more. */
static void put_half_a_ring(void)
{
	for (unsigned i = 0; i <= TM_RING_SIZE / TM_RECORD_MAX / 2; i++)
		put_filler(0, TM_RECORD_MAX);
	pass();
	pass();
}

Test(ring_reader, a_hole_that_is_not_filled_does_not_keep_the_ring_s_room)
{
	uint64_t hole = reserve(0, 32);

	put(0, SOON, 1);
	pass_for(TM_RING_HOLD_MS);
	put_filler(0, TM_RECORD_MAX);
	pass();
	cr_expect_eq(ring_head(0)->tail, hole);
	put_half_a_ring();
	cr_expect_eq(ring_head(0)->tail, ring_head(0)->head);
	cr_expect_eq(ring_head(0)->left_out[0], tm_left_out(hole, 32));
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 1);
}

Test(ring_reader, a_place_that_is_left_out_is_given_and_belongs_to_the_ring_again)
{
	uint64_t first, second;

	put(0, SOON, 0);
	first = reserve(0, 32), second = reserve(0, 48);
	put(0, SOON, 1);
	pass_for(TM_RING_HOLD_MS);
	for (unsigned i = 0; i < 5; i++)
		put_half_a_ring();
	cr_expect_eq(ring_head(0)->left_out[0], tm_left_out(first, 80));
	commit_free(0, first, SOON, 2, TM_RECORD_LOOK);
	pass();
	expect("0 1 2");
	cr_expect(is_answered(0, first));
	put_half_a_ring();
	cr_expect_eq(ring_head(0)->left_out[0], tm_left_out(first, 80), "the other half of it is open");
	cr_expect_eq(ring_head(0)->tail, ring_head(0)->head);
	commit_free(0, second, SOON, 3, 0);
	commit(0, second, TM_RECORD_FREE, 0, 48);
	pass();
	expect("0 1 2 3");
	pass();
	cr_expect_eq(ring_head(0)->left_out[0], 0);
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 0);
}

Test(ring_reader, a_hole_that_is_too_large_to_be_left_out_keeps_the_room)
{
	uint64_t hole = reserve(0, TM_RING_SIZE / 4 + TM_RECORD_UNIT);

	put(0, SOON, 1);
	pass_for(TM_RING_HOLD_MS);
	put_half_a_ring();
	cr_expect_eq(ring_head(0)->tail, hole);
	cr_expect_eq(ring_head(0)->left_out[0], 0);
}

Test(ring_reader, what_waits_for_a_look_behind_a_hole_is_given_at_once)
{
	uint64_t hole = reserve(0, 32), look;

	put(0, SOON, 1);
	pass();
	expect("");
	look = reserve(0, 32);
	commit_free(0, look, SOON + 1, 2, TM_RECORD_LOOK);
	pass();
	expect("1 2");
	cr_expect(is_answered(0, look));
	commit_free(0, hole, SOON, 3, 0);
	pass();
	expect("1 2 3");
}

Test(ring_reader, a_hole_is_dropped_when_its_thread_has_jumped_away)
{
	reserve(0, 32);
	put(0, SOON, 1);
	pass_for(TM_RING_HOLD_MS);
	ring_head(0)->abandoned = ring_head(0)->head;
	put(0, SOON + 1, 2);
	pass();
	expect("1 2");
	cr_expect_eq(ring_head(0)->tail, ring_head(0)->head);
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 1);
}

Test(ring_reader, more_holes_than_it_keeps)
{
	for (unsigned i = 0; i < 30; i++) {
		reserve(0, 32);
		put(0, SOON + i, i);
	}
	drain();
	cr_expect_eq(scene.seen_count, 30);
	cr_expect_eq(tm_ring_reader_abandoned(scene.reader), 30);
}

/* ---- signal handlers ---- */

/* The handler came between reserving and stamping: its record stands behind, and is stamped before. */
Test(ring_reader, a_handler_s_record_draws_the_interrupted_one_forward)
{
	uint64_t outer = reserve(0, 32);

	put(0, SOON + 1, 3);
	commit_free(0, outer, SOON + 9, 2, 0);
	put(1, SOON, 1);
	put(1, SOON + 5, 4);
	pass();
	expect("1 2 3 4");
}

/* ---- a target that writes what it likes ---- */

static void expect_closed(void)
{
	pass_for(TM_RING_HOLD_MS);
	cr_expect_eq(scene.seen_count, 1, "the other ring's");
	cr_expect_eq(tm_ring_reader_broken(scene.reader), 1);
	cr_expect_eq(ring_head(0)->tail, ring_head(0)->head, "its thread need not wait");
}

static const struct {
	unsigned kind, flags;
	uint64_t size, reserved;
} senseless[] = {
	{0, 0, 32, 32},
	{TM_RECORD_LOADER + 1, 0, 32, 32},
	{TM_RECORD_CODE, 0, 16, 32},
	{255, 0, 32, 32},
	{TM_RECORD_FREE, TM_RECORD_ANSWERED, 32, 32},
	{TM_RECORD_FREE, 0, 16, 32},
	{TM_RECORD_FREE, 0, 64, 32},
	{TM_RECORD_ALLOCATE, 0, 32, 32},
	{TM_RECORD_OBJECT, 0, 32, 32},
	{TM_RECORD_RESIZE_BEGIN, 0, 16, 32},
	{TM_RECORD_RESIZE_END, 0, 32, 32},
	{TM_RECORD_NATIVE_ALLOCATE, 0, 32, 32},
	{TM_RECORD_NATIVE_RESIZE_END, 0, 32, 32},
	{TM_RECORD_NATIVE_STACK, TM_RECORD_NO_FRAMES, 64, 64},
	{TM_RECORD_NATIVE_FREE, 0, 16, 32},
	{TM_RECORD_NATIVE_RESIZE_BEGIN, 0, 16, 32},
	{TM_RECORD_FREE, 0, TM_RECORD_MAX + 16, 2 * TM_RECORD_MAX},
	{TM_RECORD_FILLER, 0, 0xffff0, 0x10000},
};

Test(ring_reader, records_that_make_no_sense_close_their_ring)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(senseless); i++) {
		uint64_t position = reserve(0, senseless[i].reserved);

		commit(0, position, senseless[i].kind, senseless[i].flags, senseless[i].size);
		put(1, SOON, 1);
		expect_closed();
		tear_down();
		memset(&scene, 0, sizeof(scene));
		set_up();
	}
}

Test(ring_reader, more_frames_than_a_record_holds_close_its_ring)
{
	struct tm_record_block *record = (struct tm_record_block *)place(0, 0);

	put_block(0, SOON, 1, 2);
	record->frame_count = UINT32_MAX;
	put(1, SOON, 1);
	expect_closed();
}

static const struct {
	uint64_t count, size;
	bool broken;
} pieces[] = {
	{0, 0, false},
	{1, 0, false},
	{1, 16, false},
	{1, 17, true},
	{1, UINT64_MAX, true},
	{2, 0, false},
	{UINT64_MAX / 2, 0, true},
};

Test(ring_reader, pieces_of_code_lie_in_their_record)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(pieces); i++) {
		uint64_t size = sizeof(struct tm_record_code) + 2 * sizeof(struct tm_record_piece);
		struct tm_record_code *record = (struct tm_record_code *)place(0, reserve(0, size));

		record->header.time = SOON;
		record->piece_count = pieces[i].count;
		((struct tm_record_piece *)record->pieces)->size = pieces[i].size;
		commit(0, 0, TM_RECORD_CODE, 0, size);
		pass();
		cr_expect_eq(scene.passed, !pieces[i].broken, "row %zu", i);
		cr_expect_eq(tm_ring_reader_broken(scene.reader), pieces[i].broken, "row %zu", i);
		tear_down();
		memset(&scene, 0, sizeof(scene));
		set_up();
	}
}

Test(ring_reader, a_record_across_the_end_closes_its_ring)
{
	uint64_t position;

	while (ring_head(0)->head < TM_RING_SIZE - TM_RECORD_UNIT)
		put_filler(0, TM_RECORD_UNIT);
	pass();
	position = reserve(0, 32);
	commit(0, position, TM_RECORD_FREE, 0, 32);
	put(1, SOON, 1);
	expect_closed();
}

static const uint64_t impossible[] = {32 + 8, 2 * TM_RING_SIZE, UINT64_MAX, 16};

Test(ring_reader, a_head_that_makes_no_sense_closes_its_ring)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(impossible); i++) {
		put(0, SOON, 1);
		pass();
		scene.seen_count = 0;
		ring_head(0)->head = impossible[i];
		put(1, SOON, 1);
		expect_closed();
		tear_down();
		memset(&scene, 0, sizeof(scene));
		set_up();
	}
}

static uint64_t next_random(uint64_t *state) /* xorshift64 */
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* A mark that could be one, in the next kilobyte. */
static void scribble(unsigned ring, uint64_t *random)
{
	uint64_t position = ring_head(ring)->head + next_random(random) % 64 * 16;

	commit(ring, position, next_random(random) % 9, next_random(random) % 4,
	       next_random(random) % 20 * 16);
	*(uint64_t *)(place(ring, position) + 8) = next_random(random) % 1000;
}

/* Nothing is read outside the rings, the passes end, and the words of the reader stay sound. */
Test(ring_reader, noise)
{
	uint64_t random = 88172645463325252u;

	for (unsigned turn = 0; turn < 20000; turn++) {
		unsigned ring = turn % 200;

		for (unsigned i = 0; i < 12; i++)
			scribble(ring, &random);
		reserve(ring, next_random(&random) % 64 * 16);
		if (turn % 7 == 0)
			ring_head(ring)->abandoned = ring_head(ring)->head - next_random(&random) % 512;
		if (turn % 5 == 0)
			drain();
		else
			pass();
		cr_assert_leq(ring_head(ring)->tail, ring_head(ring)->head);
		scene.seen_count = 0;
	}
	cr_expect_gt(tm_ring_reader_abandoned(scene.reader), 100);
	cr_expect_gt(tm_ring_reader_broken(scene.reader), 10);
}

/* ---- a reader that comes later ---- */

Test(ring_reader, reading_begins_at_the_tails)
{
	put(0, SOON, 1);
	pass();
	put(0, SOON + 1, 2);
	tm_ring_reader_destroy(scene.reader);
	cr_assert_null(tm_ring_reader_create(scene.shared, &scene.reader));
	pass();
	expect("1 2");
}
