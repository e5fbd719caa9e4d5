#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/hash.h"

Test(hash, u64_is_a_permutation_of_small_numbers)
{
	struct tm_map seen = {0};

	for (uint64_t i = 0; i < 100000; i++)
		cr_assert(tm_map_put(&seen, tm_hash_u64(i), i));
	cr_assert_eq(seen.count, 100000);
	tm_map_deinit(&seen);
}

Test(hash, bytes_depend_on_each_byte_and_on_the_length)
{
	unsigned char bytes[67] = {0};
	struct tm_map seen = {0};
	size_t hashes = 0;

	for (size_t size = 0; size <= sizeof(bytes); size++) {
		cr_assert(tm_map_put(&seen, tm_hash_bytes(bytes, size), 0));
		hashes++;
		for (size_t bit = 0; bit < size * 8; bit++) {
			bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
			cr_assert(tm_map_put(&seen, tm_hash_bytes(bytes, size), 0));
			bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
			hashes++;
		}
	}
	cr_assert_eq(seen.count, hashes);
	tm_map_deinit(&seen);
}

/* As tracebacks are: short vectors of small numbers. Their low bits choose a bucket. */
Test(hash, vectors_of_small_numbers_spread_over_buckets)
{
	static unsigned buckets[1024];
	unsigned fullest = 0;

	for (uint32_t a = 0; a < 64; a++) {
		for (uint32_t b = 0; b < 1024; b++) {
			uint32_t vector[] = {a, b, 7, b, a};
			unsigned *bucket = &buckets[tm_hash_bytes(vector, sizeof(vector)) % 1024];

			fullest = ++*bucket > fullest ? *bucket : fullest;
		}
	}
	/* 64 on average, standard deviation 8: seven of those are out of the question for chance. */
	cr_assert_lt(fullest, 64 + 7 * 8);
}

Test(hash, bytes_reads_nothing_behind_its_input)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned char *pages =
		mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned char copy[40];

	cr_assert_neq(pages, MAP_FAILED);
	cr_assert_eq(mprotect(pages + page, page, PROT_NONE), 0);
	for (size_t size = 0; size <= sizeof(copy); size++) {
		memset(copy, (int)size, sizeof(copy));
		memcpy(pages + page - size, copy, size);
		cr_assert_eq(tm_hash_bytes(pages + page - size, size), tm_hash_bytes(copy, size));
	}
	munmap(pages, 2 * page);
}

Test(map, empty_map_has_nothing)
{
	struct tm_map map = {0};
	size_t position = 0;
	uint64_t key, value;

	cr_assert_null(tm_map_get(&map, 0));
	cr_assert_not(tm_map_remove(&map, 0));
	cr_assert_not(tm_map_next(&map, &position, &key, &value));
	tm_map_clear(&map);
	tm_map_deinit(&map);
}

Test(map, put_replaces_a_value)
{
	struct tm_map map = {0};

	cr_assert(tm_map_put(&map, 0, 1));
	cr_assert(tm_map_put(&map, 0, 2));
	cr_assert_eq(map.count, 1);
	cr_assert_eq(*tm_map_get(&map, 0), 2);
	*tm_map_get(&map, 0) = 3;
	cr_assert_eq(*tm_map_get(&map, 0), 3);
	tm_map_deinit(&map);
}

Test(map, clear_forgets_all)
{
	struct tm_map map = {0};

	for (uint64_t i = 0; i < 100; i++)
		cr_assert(tm_map_put(&map, i, i));
	tm_map_clear(&map);
	for (uint64_t i = 0; i < 100; i++)
		cr_assert_null(tm_map_get(&map, i));
	cr_assert(tm_map_put(&map, 5, 6));
	cr_assert_eq(*tm_map_get(&map, 5), 6);
	tm_map_deinit(&map);
}

/* Few keys, so that runs of full slots form, break and close again, over the end of the table too. */
Test(map, random_operations_agree_with_an_array)
{
	enum { KEYS = 61 };
	uint64_t values[KEYS] = {0}, state = 0;
	struct tm_map map = {0};

	for (uint64_t step = 1; step < 500000; step++) {
		uint64_t bits = tm_hash_u64(++state), i = bits % KEYS, key = i * 0x10000001, *place;

		if (bits >> 63) {
			cr_assert(tm_map_put(&map, key, step));
			values[i] = step;
		} else {
			cr_assert_eq(tm_map_remove(&map, key), values[i] != 0);
			values[i] = 0;
		}
		i = bits / KEYS % KEYS;
		place = tm_map_get(&map, i * 0x10000001);
		cr_assert_eq(place ? *place : 0, values[i]);
	}
	tm_map_deinit(&map);
}

Test(map, iteration_meets_every_key_once)
{
	struct tm_map map = {0};
	uint64_t key, value, sum = 0, keys = 0;
	size_t position = 0;

	for (uint64_t i = 0; i < 1000; i++)
		cr_assert(tm_map_put(&map, i << 40, i));
	while (tm_map_next(&map, &position, &key, &value)) {
		cr_assert_eq(key, value << 40);
		sum += value;
		keys++;
	}
	cr_assert_eq(keys, 1000);
	cr_assert_eq(sum, 999 * 1000 / 2);
	tm_map_deinit(&map);
}
