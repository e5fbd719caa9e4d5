#include <criterion/criterion.h>

#include "model/snapshot.h"

static struct tm_tracer *tracer;
static struct tm_snapshot *snapshot;

static void track(uint32_t domain, uint32_t traceback, uint64_t address, uint64_t size)
{
	struct tm_allocation in = {domain, 7, traceback, address, size, address * 2};

	cr_assert_null(tm_tracer_track(tracer, &in));
}

static void setup(void)
{
	cr_assert_null(tm_tracer_create(&tracer));
	snapshot = NULL;
}

static void teardown(void)
{
	tm_snapshot_destroy(snapshot);
	tm_tracer_destroy(tracer);
}

TestSuite(snapshot, .init = setup, .fini = teardown);

static void take(enum tm_snapshot_what what, bool with_blocks)
{
	tm_snapshot_destroy(snapshot);
	cr_assert_null(tm_snapshot_take(tracer, what, "end", 42, with_blocks, &snapshot));
}

static const struct tm_snapshot_row *row_of(uint32_t domain, uint32_t traceback)
{
	for (size_t i = 0; i < snapshot->row_count; i++) {
		if (snapshot->rows[i].domain == domain && snapshot->rows[i].traceback == traceback)
			return &snapshot->rows[i];
	}
	return NULL;
}

Test(snapshot, of_nothing_is_empty)
{
	take(TM_SNAPSHOT_LIVE, true);
	cr_assert_str_eq(snapshot->name, "end");
	cr_assert_eq(snapshot->time, 42);
	cr_assert_eq(snapshot->row_count, 0);
	cr_assert_eq(snapshot->block_count, 0);
	cr_assert_eq(snapshot->domain_count, 0);
	cr_assert_eq(snapshot->traceback_count, 1);
	tm_snapshot_destroy(NULL);
}

Test(snapshot, rows_hold_what_is_live)
{
	track(0, 1, 16, 100);
	track(0, 1, 32, 11);
	track(0, 2, 48, 5);
	track(9, 1, 16, 3);
	tm_tracer_untrack(tracer, 0, 48);
	take(TM_SNAPSHOT_LIVE, false);
	cr_assert_eq(snapshot->row_count, 2);
	cr_assert_eq(row_of(0, 1)->size, 111);
	cr_assert_eq(row_of(0, 1)->count, 2);
	cr_assert_eq(row_of(0, 1)->tid, 7);
	cr_assert_eq(row_of(9, 1)->size, 3);
	cr_assert_null(snapshot->blocks);
	cr_assert_eq(snapshot->domain_count, 2);
	cr_assert_eq(snapshot->domains[0].totals.current, 111);
	cr_assert_eq(snapshot->domains[1].domain, 9);
}

Test(snapshot, peak_rows_hold_what_the_peak_held)
{
	track(0, 1, 16, 100);
	track(0, 2, 32, 11);
	tm_tracer_untrack(tracer, 0, 16);
	track(0, 3, 48, 5);
	take(TM_SNAPSHOT_PEAK, true);
	cr_assert_eq(snapshot->row_count, 2);
	cr_assert_eq(row_of(0, 1)->size, 100);
	cr_assert_eq(row_of(0, 2)->size, 11);
	cr_assert_null(row_of(0, 3));
	cr_assert_eq(snapshot->domains[0].totals.peak, 111);
	cr_assert_null(snapshot->blocks);
}

Test(snapshot, blocks_name_their_traceback_and_thread)
{
	track(0, 1, 16, 100);
	track(9, 2, 16, 3);
	take(TM_SNAPSHOT_LIVE, true);
	cr_assert_eq(snapshot->block_count, 2);
	for (size_t i = 0; i < 2; i++) {
		const struct tm_block *block = &snapshot->blocks[i];

		cr_assert_eq(block->address, 16);
		cr_assert_eq(block->time, 32);
		cr_assert_eq(block->size, block->domain ? 3 : 100);
		cr_assert_eq(block->account, block->domain ? 2 : 1);
		cr_assert_eq(snapshot->block_tids[i], 7);
	}
}

Test(snapshot, held_block_is_in_the_rows_and_not_among_the_blocks)
{
	struct tm_held held;

	track(0, 1, 16, 100);
	held = tm_tracer_resize_begin(tracer, 0, 16);
	take(TM_SNAPSHOT_LIVE, true);
	cr_assert_eq(snapshot->row_count, 1);
	cr_assert_eq(row_of(0, 1)->size, 100);
	cr_assert_eq(snapshot->block_count, 0);
	cr_assert_eq(snapshot->domains[0].totals.blocks, 1);
	cr_assert_null(tm_tracer_resize_cancel(tracer, &held));
}

Test(snapshot, is_a_copy)
{
	track(0, 1, 16, 100);
	take(TM_SNAPSHOT_LIVE, true);
	tm_tracer_untrack(tracer, 0, 16);
	cr_assert_eq(row_of(0, 1)->size, 100);
	cr_assert_eq(snapshot->blocks[0].size, 100);
}

/* What an event adds to the rows is what it adds to the totals. */
Test(snapshot, rows_add_up_to_the_totals)
{
	uint64_t size = 0, count = 0;

	for (uint64_t i = 0; i < 10000; i++)
		track(0, (uint32_t)(i % 700), i * 16, i % 99);
	for (uint64_t i = 0; i < 10000; i += 3)
		tm_tracer_untrack(tracer, 0, i * 16);
	take(TM_SNAPSHOT_LIVE, true);
	for (size_t i = 0; i < snapshot->row_count; i++) {
		size += snapshot->rows[i].size;
		count += snapshot->rows[i].count;
	}
	cr_assert_eq(size, snapshot->domains[0].totals.current);
	cr_assert_eq(count, snapshot->domains[0].totals.blocks);
	cr_assert_eq(snapshot->block_count, count);
}
