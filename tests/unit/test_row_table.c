/* The rows that the recorder walks by, from the tracer's side; and how a rule is packed. */
#include <criterion/criterion.h>
#include <sys/mman.h>

#include "base/cleanup.h"
#include "recorder/row_table.h"

static struct tm_row_table table;

/* Of the memory file what lies before the rings. */
static void setup(void)
{
	void *memory =
		mmap(NULL, TM_SHARED_HEADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(memory, MAP_FAILED);
	table = (struct tm_row_table){.shared = memory};
}

static void teardown(void)
{
	munmap(table.shared, TM_SHARED_HEADS);
	tm_row_table_deinit(&table);
}

TestSuite(row_table, .init = setup, .fini = teardown);

static uint64_t rule_of(int64_t offset)
{
	return tm_row_rule(TM_ROW_STEP, 0, offset, 0);
}

static void put(uint64_t address, int64_t offset)
{
	cr_assert(tm_row_put(&table, address, rule_of(offset)));
}

static unsigned count_ways(const struct tm_recorder_row set[TM_ROW_WAYS], uint64_t address)
{
	unsigned count = 0;

	for (unsigned i = 0; i < TM_ROW_WAYS; i++)
		count += set[i].return_address == address;
	return count;
}

static unsigned count_near(uint64_t address)
{
	return count_ways(table.shared->near_rows[tm_row_near_set(address)], address);
}

static unsigned count_far(uint64_t address)
{
	return count_ways(table.shared->far_rows[tm_row_far_set(address)], address);
}

/* ---- put, get, replace ---- */

Test(row_table, rows_for_later_are_there_when_they_are_put)
{
	cr_assert(tm_row_put_later(&table, 0x1000, rule_of(16)));
	cr_assert(tm_row_put_later(&table, 0x2000, rule_of(24)));
	put(0x2000, 8);
	cr_assert_eq(tm_row_get(&table, 0x1000), 0);
	cr_assert_eq(tm_row_get(&table, 0x2000), rule_of(8));
	cr_assert(tm_rows_put_waiting(&table));
	cr_assert_eq(tm_row_get(&table, 0x1000), rule_of(16));
	cr_assert_eq(tm_row_get(&table, 0x2000), rule_of(24));
	put(0x1000, 32);
	cr_assert(tm_rows_put_waiting(&table));
	cr_assert_eq(tm_row_get(&table, 0x1000), rule_of(32), "nothing waits any more");
}

Test(row_table, what_was_not_put_has_no_rule)
{
	cr_assert_eq(tm_row_get(&table, 0x1000), 0);
	put(0x1000, 16);
	cr_assert_eq(tm_row_get(&table, 0x1001), 0, "of the same set");
}

Test(row_table, what_was_put_is_there)
{
	for (uint64_t i = 1; i <= 1000; i++)
		put(0x7f0000000000 + i * 0x111, (int64_t)i * 8);
	for (uint64_t i = 1; i <= 1000; i++)
		cr_assert_eq(tm_row_get(&table, 0x7f0000000000 + i * 0x111), rule_of((int64_t)i * 8),
			     "row %lu", (unsigned long)i);
}

Test(row_table, a_row_is_put_near_where_there_is_room)
{
	put(0x1000, 16);
	cr_assert_eq(count_near(0x1000), 1);
	cr_assert_eq(count_far(0x1000), 0);
}

Test(row_table, a_rule_is_replaced_in_its_place)
{
	put(0x1000, 16);
	put(0x1000, 24);
	cr_assert_eq(tm_row_get(&table, 0x1000), rule_of(24));
	cr_assert_eq(count_near(0x1000) + count_far(0x1000), 1);
	cr_assert_eq(table.addresses.count, 1);
	put(0x1000, 24);
	cr_assert_eq(table.addresses.count, 1);
}

/* ---- full sets ---- */

#define NEIGHBOURS 0x5000u /* returns into these 64 bytes share a near set, and no far one */

Test(row_table, what_has_no_room_near_goes_far)
{
	for (uint64_t i = 0; i < TM_ROW_WAYS + 3; i++)
		put(NEIGHBOURS + i, (int64_t)i * 8 + 8);
	for (uint64_t i = 0; i < TM_ROW_WAYS + 3; i++) {
		cr_expect_eq(tm_row_get(&table, NEIGHBOURS + i), rule_of((int64_t)i * 8 + 8));
		cr_expect_eq(count_near(NEIGHBOURS + i), i < TM_ROW_WAYS);
		cr_expect_eq(count_far(NEIGHBOURS + i), i >= TM_ROW_WAYS);
	}
}

Test(row_table, a_far_rule_is_replaced_where_it_is_though_there_is_room_near_again)
{
	for (uint64_t i = 0; i <= TM_ROW_WAYS; i++)
		put(NEIGHBOURS + i, 8);
	tm_rows_forget(&table, NEIGHBOURS, NEIGHBOURS + 1);
	put(NEIGHBOURS + TM_ROW_WAYS, 24);
	cr_expect_eq(tm_row_get(&table, NEIGHBOURS + TM_ROW_WAYS), rule_of(24));
	cr_expect_eq(count_near(NEIGHBOURS + TM_ROW_WAYS), 0);
	cr_expect_eq(count_far(NEIGHBOURS + TM_ROW_WAYS), 1);
}

/* The first addresses that share a far set with this one, in near sets that are full. */
static void find_companions(uint64_t *found, size_t count)
{
	uint64_t address = found[0];

	for (size_t i = 1; i < count; i++) {
		do
			address++;
		while (tm_row_far_set(address) != tm_row_far_set(found[0]));
		found[i] = address;
	}
}

static void fill_near_set_of(uint64_t address)
{
	const struct tm_recorder_row *set = table.shared->near_rows[tm_row_near_set(address)];

	for (uint64_t i = 1; count_ways(set, 0) > 0; i++)
		put(address ^ i, 8);
}

Test(row_table, where_both_sets_are_full_another_row_goes)
{
	uint64_t addresses[TM_ROW_WAYS + 1] = {0x100000};
	unsigned left = 0;

	find_companions(addresses, TM_ARRAY_SIZE(addresses));
	for (size_t i = 0; i < TM_ARRAY_SIZE(addresses); i++) {
		fill_near_set_of(addresses[i]);
		put(addresses[i], 16);
		cr_assert_eq(count_far(addresses[i]), 1, "row %zu", i);
	}
	for (size_t i = 0; i < TM_ARRAY_SIZE(addresses); i++)
		left += tm_row_get(&table, addresses[i]) == rule_of(16);
	cr_assert_eq(left, TM_ROW_WAYS);
	cr_assert_eq(tm_row_get(&table, addresses[TM_ROW_WAYS]), rule_of(16), "the last one is there");
}

/* ---- forgetting ---- */

Test(row_table, rows_are_forgotten_by_range)
{
	static const struct {
		uint64_t address;
		bool forgotten;
	} rows[] = {
		{0x0fff, false}, {0x1000, true}, {0x1001, true},  {0x1fff, true},
		{0x2000, false}, {0x10, false},	 {0x9000, false}, {UINT64_MAX, false},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++)
		put(rows[i].address, 16);
	tm_rows_forget(&table, 0x1000, 0x2000);
	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++)
		cr_expect_eq(tm_row_get(&table, rows[i].address), rows[i].forgotten ? 0 : rule_of(16),
			     "0x%lx", (unsigned long)rows[i].address);
}

Test(row_table, far_rows_are_forgotten_as_well)
{
	for (uint64_t i = 0; i < 64; i++)
		put(NEIGHBOURS + i, 16);
	tm_rows_forget(&table, NEIGHBOURS, NEIGHBOURS + 64);
	for (uint64_t i = 0; i < 64; i++)
		cr_expect_eq(tm_row_get(&table, NEIGHBOURS + i), 0);
	cr_expect_eq(table.addresses.count, 0);
}

Test(row_table, what_was_forgotten_can_be_put_again)
{
	put(0x1000, 16);
	tm_rows_forget(&table, 0x1000, 0x1001);
	put(0x1000, 24);
	cr_assert_eq(tm_row_get(&table, 0x1000), rule_of(24));
	cr_assert_eq(count_near(0x1000), 1);
	tm_rows_forget(&table, 0x1000, 0x1001);
	cr_assert_eq(tm_row_get(&table, 0x1000), 0);
}

Test(row_table, an_empty_range_forgets_nothing)
{
	put(0x1000, 16);
	tm_rows_forget(&table, 0x1000, 0x1000);
	cr_assert_eq(tm_row_get(&table, 0x1000), rule_of(16));
}

/* ---- rules ---- */

#define FAR TM_ROW_OFFSET_MAX

Test(row_table, a_rule_gives_back_what_it_was_made_of)
{
	static const int64_t offsets[] = {0,	 8,	 -8,	   1,	    -1,	     0x7f,
					  -0x80, 0xffff, -0x10000, FAR - 1, 1 - FAR, -FAR};
	static const uint64_t flags[] = {0, TM_ROW_CFA_FROM_FP, TM_ROW_FP_SAVED, TM_ROW_IN_CALL,
					 TM_ROW_CFA_FROM_FP | TM_ROW_FP_SAVED | TM_ROW_IN_CALL};
	static const enum tm_row_kind kinds[] = {TM_ROW_STEP, TM_ROW_OUTERMOST, TM_ROW_LOOK};
	size_t count = TM_ARRAY_SIZE(offsets),
	       all = TM_ARRAY_SIZE(kinds) * TM_ARRAY_SIZE(flags) * count * count;

	for (size_t i = 0; i < all; i++) {
		int64_t cfa = offsets[i % count], fp = offsets[i / count % count];
		uint64_t flag = flags[i / count / count % TM_ARRAY_SIZE(flags)];
		enum tm_row_kind kind = kinds[i / count / count / TM_ARRAY_SIZE(flags)];
		uint64_t rule = tm_row_rule(kind, flag, cfa, fp);

		cr_assert_eq(tm_row_kind(rule), kind);
		cr_assert_eq(rule & (TM_ROW_CFA_FROM_FP | TM_ROW_FP_SAVED | TM_ROW_IN_CALL), flag);
		cr_assert_eq(tm_row_cfa_offset(rule), cfa, "%ld", (long)cfa);
		cr_assert_eq(tm_row_fp_offset(rule), fp, "%ld", (long)fp);
		cr_assert_eq(rule & (TM_FRAME_FP_MATTERS | TM_FRAME_FP_RESTORED), 0, "bits of a frame");
	}
}

/* ---- generation ---- */

Test(row_table, a_new_generation_is_another_number)
{
	uint64_t before = table.shared->generation;

	put(0x1000, 16);
	cr_assert_eq(table.shared->generation, before, "rows alone change nothing");
	tm_rows_new_generation(&table);
	cr_assert_neq(table.shared->generation, before);
	cr_assert_eq(tm_row_get(&table, 0x1000), rule_of(16), "and the rows stay");
}
