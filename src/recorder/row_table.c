#include "recorder/row_table.h"

void tm_row_table_deinit(struct tm_row_table *table)
{
	tm_vector_deinit(&table->addresses);
	tm_vector_deinit(&table->waiting);
}

static struct tm_recorder_row *near_set(const struct tm_row_table *table, uint64_t return_address)
{
	return table->shared->near_rows[tm_row_near_set(return_address)];
}

static struct tm_recorder_row *far_set(const struct tm_row_table *table, uint64_t return_address)
{
	return table->shared->far_rows[tm_row_far_set(return_address)];
}

/* The way with this return address (0: a free one); NULL: there is none. */
static struct tm_recorder_row *find_way(struct tm_recorder_row set[TM_ROW_WAYS], uint64_t return_address)
{
	for (unsigned i = 0; i < TM_ROW_WAYS; i++)
		if (set[i].return_address == return_address)
			return &set[i];
	return NULL;
}

static struct tm_recorder_row *find_row(const struct tm_row_table *table, uint64_t return_address)
{
	struct tm_recorder_row *row = find_way(near_set(table, return_address), return_address);

	return row ? row : find_way(far_set(table, return_address), return_address);
}

static struct tm_recorder_row *find_room(const struct tm_row_table *table, uint64_t return_address)
{
	struct tm_recorder_row *row = find_way(near_set(table, return_address), 0);

	if (!row)
		row = find_way(far_set(table, return_address), 0);
	return row ? row : &far_set(table, return_address)[return_address % TM_ROW_WAYS];
}

static void forget_row(struct tm_recorder_row *row)
{
	__atomic_store_n(&row->return_address, 0, __ATOMIC_RELEASE);
}

bool tm_row_put(struct tm_row_table *table, uint64_t return_address, uint64_t rule)
{
	struct tm_recorder_row *row = find_row(table, return_address);

	if (row && row->rule == rule)
		return true;
	if (!row && !tm_vector_push(&table->addresses, return_address))
		return false;
	if (!row)
		row = find_room(table, return_address);
	forget_row(row);
	__atomic_store_n(&row->rule, rule, __ATOMIC_RELEASE);
	__atomic_store_n(&row->return_address, return_address, __ATOMIC_RELEASE);
	return true;
}

bool tm_row_put_later(struct tm_row_table *table, uint64_t return_address, uint64_t rule)
{
	const struct tm_recorder_row row = {return_address, rule};

	return tm_vector_push(&table->waiting, row);
}

bool tm_rows_put_waiting(struct tm_row_table *table)
{
	for (size_t i = 0; i < table->waiting.count; i++)
		if (!tm_row_put(table, table->waiting.items[i].return_address, table->waiting.items[i].rule))
			return false;
	table->waiting.count = 0;
	return true;
}

uint64_t tm_row_get(const struct tm_row_table *table, uint64_t return_address)
{
	const struct tm_recorder_row *row = find_row(table, return_address);

	return row ? row->rule : 0;
}

bool tm_rows_forget(struct tm_row_table *table, uint64_t start, uint64_t end)
{
	bool any = false;

	for (size_t i = 0; i < table->addresses.count;) {
		uint64_t address = table->addresses.items[i];
		struct tm_recorder_row *row;

		if (address - start >= end - start) {
			i++;
			continue;
		}
		row = find_row(table, address);
		if (row)
			forget_row(row);
		tm_vector_remove_unordered(&table->addresses, i);
		any = true;
	}
	return any;
}

void tm_rows_new_generation(struct tm_row_table *table)
{
	__atomic_fetch_add(&table->shared->generation, 1, __ATOMIC_RELEASE);
}
