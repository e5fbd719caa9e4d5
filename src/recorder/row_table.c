#include "recorder/row_table.h"

#include <stddef.h>

static void forget_row(struct tm_recorder_row *row)
{
	__atomic_store_n(&row->return_address, 0, __ATOMIC_RELEASE);
}

static void write_row(struct tm_recorder_row *row, uint64_t return_address, uint64_t rule)
{
	if (row->return_address == return_address && row->rule == rule)
		return;
	forget_row(row);
	__atomic_store_n(&row->rule, rule, __ATOMIC_RELEASE);
	__atomic_store_n(&row->return_address, return_address, __ATOMIC_RELEASE);
}

/* The row of a return address, or a free one; NULL: the set is full. */
static struct tm_recorder_row *find_place(struct tm_recorder_row set[TM_ROW_WAYS], uint64_t return_address)
{
	struct tm_recorder_row *free_row = NULL;

	for (unsigned i = 0; i < TM_ROW_WAYS; i++) {
		if (set[i].return_address == return_address)
			return &set[i];
		if (!set[i].return_address)
			free_row = &set[i];
	}
	return free_row;
}

void tm_rows_put(struct tm_shared *shared, uint64_t return_address, uint64_t rule)
{
	struct tm_recorder_row *far_set = shared->far_rows[tm_row_far_set(return_address)],
			       *row = find_place(shared->near_rows[tm_row_near_set(return_address)], return_address);

	if (!row)
		row = find_place(far_set, return_address);
	write_row(row ? row : &far_set[return_address % TM_ROW_WAYS], return_address, rule);
}

static void forget_range(struct tm_recorder_row *rows, size_t count, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < count; i++)
		if (rows[i].return_address - start < end - start)
			forget_row(&rows[i]);
}

void tm_rows_forget(struct tm_shared *shared, uint64_t start, uint64_t end)
{
	forget_range(shared->near_rows[0], TM_ROW_NEAR_SETS * TM_ROW_WAYS, start, end);
	forget_range(shared->far_rows[0], TM_ROW_FAR_SETS * TM_ROW_WAYS, start, end);
}

void tm_rows_new_generation(struct tm_shared *shared)
{
	__atomic_fetch_add(&shared->generation, 1, __ATOMIC_RELEASE);
}
