#include "recorder/row_table.h"

#include <stddef.h>

static struct tm_recorder_row *find_place(struct tm_recorder_row *set, uint64_t return_address)
{
	struct tm_recorder_row *free_row = NULL;

	for (unsigned i = 0; i < TM_ROW_WAYS; i++) {
		if (set[i].return_address == return_address)
			return &set[i];
		if (!set[i].return_address)
			free_row = &set[i];
	}
	return free_row ? free_row : &set[return_address % TM_ROW_WAYS];
}

void tm_rows_put(struct tm_shared *shared, uint64_t return_address, uint64_t rule)
{
	struct tm_recorder_row *row = find_place(shared->rows[tm_row_set(return_address)], return_address);

	if (row->return_address == return_address && row->rule == rule)
		return;
	__atomic_store_n(&row->return_address, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&row->rule, rule, __ATOMIC_RELEASE);
	__atomic_store_n(&row->return_address, return_address, __ATOMIC_RELEASE);
}

void tm_rows_forget(struct tm_shared *shared, uint64_t start, uint64_t end)
{
	for (unsigned i = 0; i < TM_ROW_SETS; i++)
		for (unsigned j = 0; j < TM_ROW_WAYS; j++) {
			struct tm_recorder_row *row = &shared->rows[i][j];

			if (row->return_address - start < end - start)
				__atomic_store_n(&row->return_address, 0, __ATOMIC_RELEASE);
		}
}

void tm_rows_new_generation(struct tm_shared *shared)
{
	__atomic_fetch_add(&shared->generation, 1, __ATOMIC_RELEASE);
}
