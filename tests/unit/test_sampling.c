#include <criterion/criterion.h>
#include <math.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "model/sampling.h"
#include "model/snapshot.h"

static struct tm_tracer *tracer;

static void sample(uint64_t mean_bytes)
{
	tm_tracer_destroy(tracer);
	cr_assert_null(tm_tracer_create(&tracer));
	tm_tracer_sample(tracer, mean_bytes);
}

static void teardown(void)
{
	tm_tracer_destroy(tracer);
}

TestSuite(sampling, .fini = teardown);

static void track_by(uint32_t traceback, uint64_t address, uint64_t size, uint64_t time)
{
	struct tm_allocation in = {.traceback = traceback, .address = address, .size = size, .time = time};

	cr_assert_null(tm_tracer_track(tracer, &in));
}

static struct tm_totals totals(void)
{
	return tm_tracer_totals(tracer, 0);
}

static void expect_near(double value, double wanted, double tolerance)
{
	cr_expect(fabs(value - wanted) <= tolerance, "%g is not %g to %g", value, wanted, tolerance);
}

/* ---- one block ---- */

Test(sampling, weight_is_horvitz_and_thompsons)
{
	static const struct {
		uint64_t mean, size;
	} blocks[] = {{1000, 1}, {1000, 999}, {1000, 1000}, {1000, 20000}, {524288, 16}, {1, 1}, {1, 3}};

	for (size_t i = 0; i < TM_ARRAY_SIZE(blocks); i++) {
		double mean = (double)blocks[i].mean, size = (double)blocks[i].size;
		double p = -expm1(-size / mean), variance = size * size * (1 - p) / p / p;
		struct tm_weight weight = tm_sampling_weight(blocks[i].mean, 16, blocks[i].size, 5);

		expect_near((double)weight.size, size / p, 0.51);
		expect_near((double)weight.count, 1 / p, 1);
		expect_near(tm_sampling_variance(blocks[i].mean, weight.variance), variance,
			    mean * mean * 0x1p-32);
	}
}

Test(sampling, block_of_size_0_is_seen_as_one_of_1_and_has_no_bytes)
{
	struct tm_weight weight = tm_sampling_weight(1000, 16, 0, 5);

	cr_expect_eq(weight.size, 0);
	cr_expect_eq(weight.variance, 0);
	expect_near((double)weight.count, 1000.5, 1);
}

Test(sampling, extreme_weights_are_finite)
{
	struct tm_weight small = tm_sampling_weight(INT64_MAX, 16, 1, 5);
	struct tm_weight large = tm_sampling_weight(1, 16, UINT64_MAX, 5);

	expect_near((double)small.size / 0x1p63, 1, 1e-9);
	expect_near((double)small.count / 0x1p63, 1, 1e-9);
	expect_near((double)small.variance, 0x1p32, 1);
	cr_expect_eq(large.size, UINT64_MAX);
	cr_expect_eq(large.count, 1);
	cr_expect_eq(large.variance, 0);
}

/* w is 1.58 here: 58 of a hundred blocks count for two, whichever of address and time they share. */
Test(sampling, count_is_rounded_by_chance)
{
	double by_address = 0, by_time = 0, w = 1 / -expm1(-1);

	for (uint64_t i = 0; i < 100000; i++) {
		by_address += (double)tm_sampling_weight(1000, i * 16, 1000, 5).count;
		by_time += (double)tm_sampling_weight(1000, 16, 1000, i * 1000).count;
	}
	expect_near(by_address / 100000, w, 4 * 0.5 / sqrt(100000));
	expect_near(by_time / 100000, w, 4 * 0.5 / sqrt(100000));
}

/* ---- the tracer ---- */

Test(sampling, sizes_far_above_the_mean_give_exact_numbers)
{
	sample(1);
	track_by(1, 16, 1000, 0);
	track_by(2, 32, 500, 1);
	cr_assert(tm_tracer_untrack(tracer, 0, 16));
	cr_expect_eq(totals().current, 500);
	cr_expect_eq(totals().peak, 1500);
	cr_expect_eq(totals().blocks, 1);
	cr_expect_eq(totals().peak_blocks, 2);
	cr_expect_eq(totals().allocations, 2);
	cr_expect_eq(totals().allocated, 1500);
	cr_expect_eq(totals().frees, 1);
	cr_expect_eq(totals().current_variance, 0);
	cr_expect_eq(totals().peak_variance, 0);
}

Test(sampling, block_keeps_its_own_size)
{
	uint64_t size;

	sample(1000);
	track_by(1, 16, 10, 0);
	cr_assert(tm_tracer_find(tracer, 0, 16, &size));
	cr_expect_eq(size, 10);
	cr_expect_gt(totals().blocks, 1);
	cr_expect_eq(tm_tracer_block_count(tracer), 1);
}

Test(sampling, unknown_frees_mean_nothing)
{
	struct tm_held held;

	sample(1000);
	cr_expect_not(tm_tracer_untrack(tracer, 0, 16));
	tm_tracer_unknown_free(tracer, 0);
	held = tm_tracer_resize_begin(tracer, 0, 16);
	tm_tracer_resize_freed(tracer, &held, 0);
	cr_expect_eq(totals().unknown_frees, 0);
	cr_expect_eq(totals().frees, 0);
}

static void resize(uint64_t old_address, const struct tm_allocation *in)
{
	struct tm_held held = tm_tracer_resize_begin(tracer, 0, old_address);

	cr_assert_null(tm_tracer_resize_end(tracer, &held, in));
}

enum { ADDRESSES = 50, TRACEBACKS = 7, EVENTS = 200000 };

static void random_event(uint64_t random)
{
	uint64_t address = 16 * (1 + random % ADDRESSES), size = (random >> 8) % 3000;
	struct tm_allocation in = {.traceback = (uint32_t)(random >> 20) % TRACEBACKS,
				   .address = address,
				   .size = size,
				   .time = random >> 32};
	struct tm_held held;

	switch ((random >> 28) % 6) {
	case 0:
	case 1:
		cr_assert_null(tm_tracer_track(tracer, &in));
		break;
	case 2:
		tm_tracer_untrack(tracer, 0, address);
		break;
	case 3:
		resize(16 * (1 + (random >> 40) % ADDRESSES), &in);
		break;
	case 4:
		if (tm_tracer_find(tracer, 0, address, &in.size))
			cr_assert_null(tm_tracer_move(tracer, &in));
		break;
	case 5:
		held = tm_tracer_resize_begin(tracer, 0, address);
		if (size % 2)
			cr_assert_null(tm_tracer_resize_cancel(tracer, &held));
		else
			tm_tracer_resize_freed(tracer, &held, 0);
		break;
	}
}

static void expect_rows_to_add_up(enum tm_snapshot_what what)
{
	uint64_t size = 0, count = 0;
	double variance = 0;
	struct tm_snapshot *snapshot;
	struct tm_totals sum = totals();
	bool peak = what == TM_SNAPSHOT_PEAK;

	cr_assert_null(tm_snapshot_take(tracer, what, "end", 0, true, &snapshot));
	for (size_t i = 0; i < snapshot->row_count; i++) {
		size += snapshot->rows[i].size;
		count += snapshot->rows[i].count;
		variance += snapshot->rows[i].size_variance;
	}
	cr_expect_eq(size, peak ? sum.peak : sum.current);
	cr_expect_eq(count, peak ? sum.peak_blocks : sum.blocks);
	expect_near(variance, peak ? sum.peak_variance : sum.current_variance, 1e-9 * variance);
	cr_expect_eq(snapshot->block_count, peak ? 0 : tm_tracer_block_count(tracer));
	tm_snapshot_destroy(snapshot);
}

static void expect_nothing_live(void)
{
	cr_expect_eq(totals().current, 0);
	cr_expect_eq(totals().blocks, 0);
	cr_expect_eq(totals().current_variance, 0);
	for (uint32_t i = 0; i < tm_tracer_account_count(tracer); i++) {
		cr_expect_eq(tm_tracer_account(tracer, i)->size, 0);
		cr_expect_eq(tm_tracer_account(tracer, i)->count, 0);
		cr_expect_eq(tm_account_variance(tracer, i), 0);
	}
}

Test(sampling, nothing_stays_when_all_blocks_are_gone)
{
	uint64_t random = 1;

	sample(1000);
	for (int i = 0; i < EVENTS; i++) {
		random_event(random = tm_hash_u64(random + 0x9e3779b97f4a7c15u));
		if (i % 10000 == 0) {
			expect_rows_to_add_up(TM_SNAPSHOT_LIVE);
			expect_rows_to_add_up(TM_SNAPSHOT_PEAK);
		}
	}
	for (uint64_t i = 1; i <= ADDRESSES; i++)
		tm_tracer_untrack(tracer, 0, 16 * i);
	expect_nothing_live();
	expect_rows_to_add_up(TM_SNAPSHOT_PEAK);
	cr_expect_gt(totals().peak_variance, 0);
}

Test(sampling, moved_block_changes_no_number_of_its_domain)
{
	struct tm_allocation again = {.traceback = 2, .address = 16, .size = 700};
	struct tm_totals before;

	sample(1000);
	track_by(1, 16, 700, 0);
	before = totals();
	for (again.time = 1; again.time < 100; again.time++) {
		cr_assert_null(tm_tracer_move(tracer, &again));
		cr_assert_eq(totals().blocks, before.blocks);
	}
	cr_expect_eq(totals().current_variance, before.current_variance);
	cr_assert(tm_tracer_untrack(tracer, 0, 16));
	cr_expect_eq(totals().frees, totals().allocations);
	expect_nothing_live();
}

Test(sampling, exec_begins_a_new_image)
{
	sample(1000);
	track_by(1, 16, 10, 0);
	tm_tracer_new_epoch(tracer);
	cr_expect_eq(totals().current_variance, 0);
	cr_expect_eq(totals().peak_variance, 0);
	track_by(1, 16, 10, 0);
	cr_expect_gt(totals().current_variance, 0);
	tm_tracer_untrack(tracer, 0, 16);
	expect_nothing_live();
}

/* ---- the estimates, over many samples of one stream of blocks ---- */

enum { MEAN = 4096, BLOCKS = 300, RUNS = 4000 };

/* Sizes over six decades around MEAN, most of them small. */
static uint64_t size_of(uint64_t block)
{
	uint64_t random = tm_hash_u64(block + 1);

	return random % 100 < 3 ? 0 : (uint64_t)exp((double)(random >> 40) * 0x1p-24 * log(100000));
}

static bool is_freed(uint64_t block)
{
	return block % 3 == 0;
}

/* Xorshift64* of a fixed seed. */
static double next_chance(uint64_t *state)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (double)((*state * 0x2545f4914f6cdd1du) >> 11) * 0x1p-53;
}

/* The recorder's rule. Block i stands at another address in each run, as it does in another process. */
static void run_sampled(uint64_t run, uint64_t *state)
{
	sample(MEAN);
	for (uint64_t i = 0; i < BLOCKS; i++) {
		uint64_t size = size_of(i), address = (run * BLOCKS + i) * 16;

		if (next_chance(state) >= -expm1(-(double)(size ? size : 1) / MEAN))
			continue;
		track_by((uint32_t)i % 2, address, size, i);
		if (is_freed(i))
			cr_assert(tm_tracer_untrack(tracer, 0, address));
	}
}

static void run_whole(void)
{
	sample(0);
	for (uint64_t i = 0; i < BLOCKS; i++) {
		track_by((uint32_t)i % 2, i * 16, size_of(i), i);
		if (is_freed(i))
			tm_tracer_untrack(tracer, 0, i * 16);
	}
}

enum { CURRENT, LIVE_BLOCKS, ALLOCATIONS, ALLOCATED, FREES, ROW_SIZE, NUMBERS };

struct numbers {
	double value[NUMBERS];
	double current_variance, row_variance; /* as reported */
};

static struct numbers read_numbers(void)
{
	struct numbers numbers = {.value = {[CURRENT] = (double)totals().current,
					    [LIVE_BLOCKS] = (double)totals().blocks,
					    [ALLOCATIONS] = (double)totals().allocations,
					    [ALLOCATED] = (double)totals().allocated,
					    [FREES] = (double)totals().frees},
				  .current_variance = totals().current_variance};

	for (uint32_t i = 0; i < tm_tracer_account_count(tracer); i++) {
		if (tm_tracer_account(tracer, i)->traceback != 1)
			continue;
		numbers.value[ROW_SIZE] += (double)tm_tracer_account(tracer, i)->size;
		numbers.row_variance += tm_account_variance(tracer, i);
	}
	return numbers;
}

struct spread {
	double sum, squares;
};

static double mean_of(const struct spread *spread)
{
	return spread->sum / RUNS;
}

static double deviation_of(const struct spread *spread)
{
	return sqrt((spread->squares - spread->sum * spread->sum / RUNS) / (RUNS - 1));
}

static void expect_error_of(const struct spread *spread, double variance_sum)
{
	double reported = sqrt(variance_sum / RUNS), empirical = deviation_of(spread);

	cr_expect(fabs(reported / empirical - 1) < 0.15, "standard error %g, spread %g", reported, empirical);
}

Test(sampling, estimates_are_unbiased_and_know_their_error)
{
	uint64_t state = 88172645463325252;
	struct spread spreads[NUMBERS] = {0};
	double current_variance = 0, row_variance = 0;
	struct numbers truth;

	run_whole();
	truth = read_numbers();
	for (uint64_t run = 0; run < RUNS; run++) {
		struct numbers numbers;

		run_sampled(run, &state);
		numbers = read_numbers();
		current_variance += numbers.current_variance;
		row_variance += numbers.row_variance;
		for (int i = 0; i < NUMBERS; i++) {
			spreads[i].sum += numbers.value[i];
			spreads[i].squares += numbers.value[i] * numbers.value[i];
		}
	}
	for (int i = 0; i < NUMBERS; i++)
		expect_near(mean_of(&spreads[i]), truth.value[i], 4 * deviation_of(&spreads[i]) / sqrt(RUNS));
	expect_error_of(&spreads[CURRENT], current_variance);
	expect_error_of(&spreads[ROW_SIZE], row_variance);
}
