#include <criterion/criterion.h>
#include <stdint.h>

#include "base/vector.h"

Test(vector, pushed_elements_stay_in_order)
{
	struct tm_vector(uint64_t) v = {0};

	for (uint64_t i = 0; i < 1000; i++)
		cr_assert(tm_vector_push(&v, i * i));
	cr_assert_eq(v.count, 1000);
	for (uint64_t i = 0; i < 1000; i++)
		cr_assert_eq(v.items[i], i * i);
	tm_vector_deinit(&v);
	cr_assert_null(v.items);
	cr_assert_eq(v.count + v.capacity, 0);
}

Test(vector, pushes_a_compound_literal)
{
	struct point {
		int x, y;
	};
	struct tm_vector(struct point) v = {0};

	cr_assert(tm_vector_push(&v, (struct point){1, 2}));
	cr_assert_eq(v.items[0].y, 2);
	tm_vector_deinit(&v);
}

Test(vector, removed_element_is_replaced_by_the_last)
{
	struct tm_vector(int) v = {0};

	for (int i = 0; i < 4; i++)
		cr_assert(tm_vector_push(&v, i));
	tm_vector_remove_unordered(&v, 1);
	cr_assert_eq(v.count, 3);
	cr_assert_eq(v.items[1], 3);
	tm_vector_remove_unordered(&v, 2);
	cr_assert_eq(v.count, 2);
	cr_assert_eq(v.items[0], 0);
	tm_vector_deinit(&v);
}

Test(vector, reserve_makes_room_once)
{
	struct tm_vector(int) v = {0};
	int *items;

	cr_assert(tm_vector_reserve(&v, 100));
	cr_assert_geq(v.capacity, 100);
	items = v.items;
	for (int i = 0; i < 100; i++)
		cr_assert(tm_vector_push(&v, i));
	cr_assert_eq(v.items, items);
	tm_vector_deinit(&v);
}

Test(vector, impossible_size_changes_nothing)
{
	struct tm_vector(uint64_t) v = {0};

	cr_assert(tm_vector_push(&v, 42));
	cr_assert_not(tm_vector_reserve(&v, SIZE_MAX));
	cr_assert_not(tm_vector_reserve(&v, SIZE_MAX / 8));
	cr_assert_eq(v.items[0], 42);
	cr_assert_eq(v.capacity, 8);
	tm_vector_deinit(&v);
}
