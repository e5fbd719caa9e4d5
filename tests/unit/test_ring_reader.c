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
		uint64_t number, time, looked;
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

static struct tm_error *see(void *context, unsigned ring, const struct tm_record_header *record)
{
	struct seen *seen = &scene.seen[scene.seen_count++];

	(void)context;
	cr_assert_lt(scene.seen_count, SEEN);
	*seen = (struct seen){
		.ring = ring, .kind = record->kind, .flags = record->flags, .time = record->time};
	seen->looked = ring_head(ring)->looked;
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

/* Passes until the reader has held for `ms` milliseconds. */
static void pass_for(unsigned ms)
{
	struct timespec begin, now;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	do {
		pass();
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while ((now.tv_sec - begin.tv_sec) * 1000 + (now.tv_nsec - begin.tv_nsec) / 1000000 <= (long)ms);
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
	cr_expect_eq(scene.seen[1].looked, 0, "before the sink has looked");
	cr_expect_eq(scene.seen[2].looked, position + sizeof(struct tm_record_free));
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
