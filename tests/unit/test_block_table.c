#include <criterion/criterion.h>

#include "base/hash.h"
#include "model/block_table.h"

static struct tm_block_table table;

static void teardown(void)
{
	tm_block_table_deinit(&table);
}

TestSuite(block_table, .fini = teardown);

static void put(uint64_t address, uint64_t size)
{
	struct tm_block_entry *entry = tm_block_table_claim(&table, address);

	cr_assert(entry);
	entry->size = size;
	entry->time = address + 1;
	entry->account = (uint32_t)(address >> 4) & 0xffff;
}

static void expect(uint64_t address, uint64_t size)
{
	const struct tm_block_entry *entry = tm_block_table_find(&table, address);

	cr_assert(entry, "block %lx is not there", (unsigned long)address);
	cr_assert_eq(entry->address, address);
	cr_assert_eq(entry->size, size);
	cr_assert_eq(entry->time, address + 1);
	cr_assert_eq(entry->account, (uint32_t)(address >> 4) & 0xffff);
}

static void take(uint64_t address, uint64_t size)
{
	struct tm_block_entry taken;

	expect(address, size);
	cr_assert(tm_block_table_take(&table, address, &taken));
	cr_assert_eq(taken.address, address);
	cr_assert_eq(taken.size, size);
	cr_assert_null(tm_block_table_find(&table, address));
}

Test(block_table, empty_table_knows_nothing)
{
	struct tm_block_entry taken;
	uint64_t position = 0;

	cr_assert_null(tm_block_table_find(&table, 0));
	cr_assert_not(tm_block_table_take(&table, 16, &taken));
	cr_assert_null(tm_block_table_next(&table, &position));
	cr_assert_eq(tm_block_table_memory(&table), 0);
	tm_block_table_prefetch(&table, 16);
}

Test(block_table, freed_address_is_unknown)
{
	struct tm_block_entry taken;

	put(0x1000, 7);
	put(0x1010, 8);
	take(0x1000, 7);
	cr_assert_not(tm_block_table_take(&table, 0x1000, &taken));
	expect(0x1010, 8);
	cr_assert_eq(table.live, 1);
}

Test(block_table, claim_of_a_known_address_gives_its_block)
{
	struct tm_block_entry *entry;

	put(0x1000, 7);
	entry = tm_block_table_claim(&table, 0x1000);
	cr_assert_eq(entry->size, 7);
	cr_assert_neq(entry->account, UINT32_MAX);
	cr_assert_eq(table.live, 1);
}

Test(block_table, any_address_is_possible)
{
	static const uint64_t addresses[] = {0,
					     1,
					     2,
					     15,
					     16,
					     17,
					     255,
					     256,
					     UINT64_MAX,
					     UINT64_MAX - 1,
					     UINT64_C(1) << 63,
					     UINT64_C(0xb400007fff001230)};

	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
		put(addresses[i], i);
	for (size_t i = 0; i < sizeof(addresses) / sizeof(addresses[0]); i++)
		take(addresses[i], i);
	cr_assert_eq(table.live, 0);
}

/* Addresses of the layouts that a heap may have. */
static uint64_t dense(uint64_t i)
{
	return 0x555555560010 + i * 16;
}
static uint64_t malloc_like(uint64_t i)
{
	return 0x555555560010 + i * 96 + tm_hash_u64(i) % 4 * 16;
}
static uint64_t page_spaced(uint64_t i)
{
	return 0x7f0000000010 + i * 4096;
}
static uint64_t huge_page_spaced(uint64_t i)
{
	return 0x10 + i * (UINT64_C(1) << 33);
}
static uint64_t anywhere(uint64_t i)
{
	return tm_hash_u64(i + 1);
}
static uint64_t odd(uint64_t i)
{
	return 0x1001 + i;
}

static uint64_t (*const layouts[])(uint64_t) = {dense,	  malloc_like, page_spaced, huge_page_spaced,
						anywhere, odd};

#define COUNT UINT64_C(100000)

static uint64_t visit_all(void)
{
	const struct tm_block_entry *entry;
	uint64_t position = 0, visited = 0;

	while ((entry = tm_block_table_next(&table, &position))) {
		cr_assert_neq(entry->account, UINT32_MAX);
		visited++;
	}
	return visited;
}

Test(block_table, every_layout_of_a_heap_grows_and_shrinks)
{
	for (size_t layout = 0; layout < sizeof(layouts) / sizeof(layouts[0]); layout++) {
		uint64_t (*address)(uint64_t) = layouts[layout];

		for (uint64_t i = 0; i < COUNT; i++)
			put(address(i), i);
		cr_assert_eq(table.live, COUNT);
		cr_assert_eq(visit_all(), COUNT);
		for (uint64_t i = 0; i < COUNT; i++)
			expect(address(i), i);
		/* In an order that has nothing to do with that of the allocations: 7919 is prime to COUNT. */
		for (uint64_t i = 0; i < COUNT; i++)
			take(address(i * 7919 % COUNT), i * 7919 % COUNT);
		cr_assert_eq(table.live, 0);
		cr_assert_eq(visit_all(), 0);
	}
}

/* Chunks that are partly used: a spare one and the last one of lines and pool. */
#define SLACK (5 * TM_CHUNK_SIZE)

Test(block_table, memory_is_at_most_64_bytes_a_live_block)
{
	for (size_t layout = 0; layout < sizeof(layouts) / sizeof(layouts[0]); layout++) {
		uint64_t (*address)(uint64_t) = layouts[layout];

		for (uint64_t i = 0; i < COUNT; i++) {
			put(address(i), i);
			cr_assert_leq(tm_block_table_memory(&table), 64 * table.live + SLACK);
		}
		for (uint64_t i = 0; i < COUNT; i++) {
			take(address(i * 7919 % COUNT), i * 7919 % COUNT);
			cr_assert_leq(tm_block_table_memory(&table), 64 * table.live + SLACK,
				      "layout %zu, %lu live: %zu", layout, (unsigned long)table.live,
				      tm_block_table_memory(&table));
		}
	}
}

Test(block_table, memory_does_not_grow_with_events)
{
	size_t memory;

	for (uint64_t i = 0; i < 1000; i++)
		put(malloc_like(i), i);
	memory = tm_block_table_memory(&table);
	for (uint64_t i = 0; i < 20 * COUNT; i++) {
		put(malloc_like(i + 1000), i + 1000);
		take(malloc_like(i), i);
	}
	cr_assert_eq(table.live, 1000);
	cr_assert_leq(tm_block_table_memory(&table), memory);
}

/* Against an array of what should be there: every address of a small range, in any state, in any order. */
Test(block_table, random_operations_agree_with_an_array)
{
	static uint64_t sizes[4096]; /* 0: not there */
	uint64_t state = 1, live = 0;

	for (uint64_t step = 0; step < 2000000; step++) {
		uint64_t bits = tm_hash_u64(state++), which = bits % 4096, address = malloc_like(which);
		/* Waves: mostly in for a while, then mostly out. */
		bool in = (bits >> 32) % 8 < ((step >> 15) % 2 ? 6 : 2);

		if (in && !sizes[which]) {
			sizes[which] = step + 1;
			put(address, step + 1);
			live++;
		} else if (!in && sizes[which]) {
			take(address, sizes[which]);
			sizes[which] = 0;
			live--;
		}
		cr_assert_eq(table.live, live);
	}
	for (uint64_t which = 0; which < 4096; which++) {
		if (sizes[which])
			expect(malloc_like(which), sizes[which]);
		else
			cr_assert_null(tm_block_table_find(&table, malloc_like(which)));
	}
	cr_assert_eq(visit_all(), live);
}
