#include "model/account_table.h"

#include <assert.h>
#include <string.h>

#include "base/hash.h"

/* How many rows are looked at for each one that is added. Two: the hand goes round at least once while the
   table doubles, so at most about every other row is idle. */
#define LOOKS 2

struct row {
	struct tm_account account;
	uint32_t next; /* of the chain */
	uint32_t hash;
	uint64_t padding; /* to a cache line */
};

static_assert(sizeof(struct row) == 64, "a power of two, see TM_CHUNK_ELEMENTS");

static struct row *row_at(const struct tm_account_table *table, uint32_t number)
{
	return tm_chunks_at(&table->rows, struct row, number);
}

static uint32_t row_hash(const void *table, uint32_t number)
{
	return row_at(table, number)->hash;
}

static uint32_t *row_next(const void *table, uint32_t number)
{
	return &row_at(table, number)->next;
}

static const struct tm_chain_items row_items = {row_hash, row_next};

struct tm_account *tm_account_table_get(const struct tm_account_table *table, uint32_t number)
{
	return &row_at(table, number)->account;
}

struct tm_account_variance *tm_account_table_variance(const struct tm_account_table *table, uint32_t number)
{
	return tm_chunks_at(&table->variances, struct tm_account_variance, number);
}

static uint32_t hash_key(const struct tm_allocation *key)
{
	uint64_t words = (uint64_t)key->tid << 32 | key->traceback;

	return (uint32_t)tm_hash_u64(words + key->domain * UINT64_C(0x9e3779b97f4a7c15));
}

static uint32_t find(const struct tm_account_table *table, const struct tm_allocation *key, uint32_t hash)
{
	const struct row *row;
	uint32_t number;

	for (number = tm_chains_first(&table->chains, hash); number != TM_CHAIN_END; number = row->next) {
		row = row_at(table, number);
		if (row->account.traceback == key->traceback && row->account.tid == key->tid &&
		    row->account.domain == key->domain)
			break;
	}
	return number;
}

/* An idle row, taken out of its chain, among the next few; TM_CHAIN_END if they are all needed. */
static uint32_t recycle_row(struct tm_account_table *table, tm_account_is_idle *is_idle, const void *context)
{
	for (uint32_t looks = 0; looks < LOOKS && looks < table->count; looks++) {
		uint32_t number = table->hand;

		table->hand = number + 1 < table->count ? number + 1 : 0;
		if (is_idle(context, &row_at(table, number)->account)) {
			tm_chains_unlink(&table->chains, table, number, row_items);
			return number;
		}
	}
	return TM_CHAIN_END;
}

static uint32_t append_row(struct tm_account_table *table)
{
	if (table->count == TM_CHAIN_END || !tm_chunks_reserve(&table->rows, struct row, table->count))
		return TM_CHAIN_END;
	if (table->has_variances &&
	    !tm_chunks_reserve(&table->variances, struct tm_account_variance, table->count))
		return TM_CHAIN_END;
	if (!tm_chains_grow(&table->chains, table, row_items))
		return TM_CHAIN_END;
	return table->count++;
}

uint32_t tm_account_table_claim(struct tm_account_table *table, const struct tm_allocation *key,
				tm_account_is_idle *is_idle, const void *context)
{
	uint32_t hash = hash_key(key), number = find(table, key, hash);

	if (number != TM_CHAIN_END)
		return number;
	number = recycle_row(table, is_idle, context);
	if (number == TM_CHAIN_END)
		number = append_row(table);
	if (number == TM_CHAIN_END)
		return TM_CHAIN_END;
	*row_at(table, number) = (struct row){
		.account = {.domain = key->domain, .tid = key->tid, .traceback = key->traceback},
		.hash = hash,
	};
	if (table->has_variances)
		*tm_account_table_variance(table, number) = (struct tm_account_variance){0};
	tm_chains_link(&table->chains, table, number, row_items);
	return number;
}

void tm_account_table_deinit(struct tm_account_table *table)
{
	tm_chunks_deinit(&table->rows);
	tm_chunks_deinit(&table->variances);
	tm_chains_deinit(&table->chains);
	memset(table, 0, sizeof(*table));
}

size_t tm_account_table_memory(const struct tm_account_table *table)
{
	return tm_chunks_memory(&table->rows) + tm_chunks_memory(&table->variances) +
	       tm_chains_memory(&table->chains);
}
