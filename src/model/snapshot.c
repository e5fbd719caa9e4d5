#include "model/snapshot.h"

#include <string.h>

#include "base/vector.h"

void tm_snapshot_destroy(struct tm_snapshot *snapshot)
{
	if (!snapshot)
		return;
	free(snapshot->name);
	free(snapshot->rows);
	free(snapshot->blocks);
	free(snapshot->block_tids);
	free(snapshot);
}

static struct tm_snapshot_row row_of(const struct tm_tracer *tracer, uint32_t number,
				     enum tm_snapshot_what what)
{
	const struct tm_account *account = tm_tracer_account(tracer, number);
	struct tm_snapshot_row row = {.domain = account->domain,
				      .tid = account->tid,
				      .traceback = account->traceback,
				      .size = account->size,
				      .count = account->count};

	if (what == TM_SNAPSHOT_PEAK) {
		tm_account_at_peak(tracer, account, &row.size, &row.count);
		row.size_variance = tm_account_variance_at_peak(tracer, number);
	} else {
		row.size_variance = tm_account_variance(tracer, number);
	}
	return row;
}

static bool copy_rows(const struct tm_tracer *tracer, enum tm_snapshot_what what,
		      struct tm_snapshot *snapshot)
{
	struct tm_vector(struct tm_snapshot_row) rows = {0};

	for (uint32_t i = 0; i < tm_tracer_account_count(tracer); i++) {
		struct tm_snapshot_row row = row_of(tracer, i, what);

		if (row.count && !tm_vector_push(&rows, row)) {
			tm_vector_deinit(&rows);
			return false;
		}
	}
	snapshot->rows = rows.items;
	snapshot->row_count = rows.count;
	return true;
}

struct block_copy {
	const struct tm_tracer *tracer;
	struct tm_snapshot *snapshot;
};

static bool copy_block(const struct tm_block *block, void *context)
{
	struct block_copy *copy = context;
	struct tm_snapshot *snapshot = copy->snapshot;
	const struct tm_account *account = tm_tracer_account(copy->tracer, block->account);

	snapshot->blocks[snapshot->block_count] = *block;
	snapshot->blocks[snapshot->block_count].account = account->traceback;
	snapshot->block_tids[snapshot->block_count] = account->tid;
	snapshot->block_count++;
	return true;
}

static bool copy_blocks(const struct tm_tracer *tracer, struct tm_snapshot *snapshot)
{
	struct block_copy copy = {tracer, snapshot};
	size_t space = tm_tracer_block_count(tracer) + 1;

	snapshot->blocks = malloc(space * sizeof(*snapshot->blocks));
	snapshot->block_tids = malloc(space * sizeof(*snapshot->block_tids));
	if (!snapshot->blocks || !snapshot->block_tids)
		return false;
	tm_tracer_each_block(tracer, copy_block, &copy);
	return true;
}

static void copy_totals(const struct tm_tracer *tracer, struct tm_snapshot *snapshot)
{
	snapshot->domain_count = tm_tracer_domain_count(tracer);
	for (uint32_t i = 0; i < snapshot->domain_count; i++) {
		uint32_t domain = tm_tracer_domain(tracer, i);

		snapshot->domains[i].domain = domain;
		snapshot->domains[i].totals = tm_tracer_totals(tracer, domain);
	}
}

struct tm_error *tm_snapshot_take(const struct tm_tracer *tracer, enum tm_snapshot_what what,
				  const char *name, uint64_t time, bool with_blocks, struct tm_snapshot **out)
{
	struct tm_snapshot *snapshot = calloc(1, sizeof(*snapshot));

	if (!snapshot)
		return tm_error_out_of_memory();
	snapshot->time = time;
	snapshot->name = strdup(name);
	snapshot->traceback_count = tm_tracebacks_count(tm_tracer_tracebacks(tracer));
	copy_totals(tracer, snapshot);
	if (!snapshot->name || !copy_rows(tracer, what, snapshot) ||
	    (with_blocks && what == TM_SNAPSHOT_LIVE && !copy_blocks(tracer, snapshot))) {
		tm_snapshot_destroy(snapshot);
		return tm_error_out_of_memory();
	}
	*out = snapshot;
	return NULL;
}
