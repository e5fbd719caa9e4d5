#include "report/writer.h"

#include "report/totals.h"

static struct tm_error *drop_snapshot(struct tm_report_writer *writer, const char *name)
{
	struct tm_error *err = NULL;

	for (int statement = TM_DROP_SNAPSHOT_DOMAINS; statement <= TM_DROP_SNAPSHOT && !err; statement++) {
		struct tm_row row = tm_writer_row(writer, (enum tm_writer_statement)statement);

		tm_row_put_text(&row, name);
		err = tm_writer_put(writer, &row);
	}
	return err;
}

static void put_totals(struct tm_row *row, const struct tm_totals *totals)
{
#define PUT(field) tm_row_put_u64(row, totals->field);
	TM_TOTALS_FIELDS(PUT)
#undef PUT
	tm_row_put_double(row, totals->current_variance);
	tm_row_put_double(row, totals->peak_variance);
}

static struct tm_totals lowest_domain_totals(const struct tm_snapshot *snapshot)
{
	const struct tm_snapshot_domain *lowest = NULL;

	for (uint32_t i = 0; i < snapshot->domain_count; i++)
		if (!lowest || snapshot->domains[i].domain < lowest->domain)
			lowest = &snapshot->domains[i];
	return lowest ? lowest->totals : (struct tm_totals){0};
}

static struct tm_error *put_snapshot_row(struct tm_report_writer *writer, const struct tm_snapshot *snapshot,
					 uint64_t *id)
{
	struct tm_row row = tm_writer_row(writer, TM_PUT_SNAPSHOT);
	struct tm_totals totals = lowest_domain_totals(snapshot);
	struct tm_error *err;

	tm_row_put_text(&row, snapshot->name);
	tm_row_put_u64(&row, snapshot->time);
	put_totals(&row, &totals);
	err = tm_writer_put(writer, &row);
	*id = (uint64_t)sqlite3_last_insert_rowid(writer->database.handle);
	return err;
}

static struct tm_error *put_domains(struct tm_report_writer *writer, const struct tm_snapshot *snapshot,
				    uint64_t id)
{
	struct tm_error *err = NULL;

	for (uint32_t i = 0; i < snapshot->domain_count && !err; i++) {
		struct tm_row row = tm_writer_row(writer, TM_PUT_SNAPSHOT_DOMAIN);

		tm_row_put_u64(&row, id);
		tm_row_put_u64(&row, snapshot->domains[i].domain);
		put_totals(&row, &snapshot->domains[i].totals);
		err = tm_writer_put(writer, &row);
	}
	return err;
}

static struct tm_error *put_statistics(struct tm_report_writer *writer, const struct tm_report_save *save,
				       const struct tm_snapshot *snapshot, uint64_t id)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; i < snapshot->row_count && !err; i++) {
		const struct tm_snapshot_row *statistic = &snapshot->rows[i];
		struct tm_row row = tm_writer_row(writer, TM_PUT_STATISTIC);
		uint32_t traceback;

		err = tm_writer_put_traceback(writer, save, statistic->traceback, &traceback);
		if (err)
			return err;
		tm_row_put_u64(&row, id);
		tm_row_put_u64(&row, statistic->domain);
		tm_row_put_u64(&row, statistic->tid);
		tm_row_put_u64(&row, traceback);
		tm_row_put_u64(&row, statistic->size);
		tm_row_put_u64(&row, statistic->count);
		tm_row_put_double(&row, statistic->size_variance);
		err = tm_writer_put(writer, &row);
	}
	return err;
}

static struct tm_error *put_blocks(struct tm_report_writer *writer, const struct tm_report_save *save,
				   const struct tm_snapshot *snapshot, uint64_t id)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; i < snapshot->block_count && !err; i++) {
		const struct tm_block *block = &snapshot->blocks[i];
		struct tm_row row = tm_writer_row(writer, TM_PUT_BLOCK);
		uint32_t traceback;

		err = tm_writer_put_traceback(writer, save, block->account,
					      &traceback); /* snapshot.h: a traceback here */
		if (err)
			return err;
		tm_row_put_u64(&row, id);
		tm_row_put_u64(&row, block->domain);
		tm_row_put_u64(&row, block->address);
		tm_row_put_u64(&row, block->size);
		tm_row_put_u64(&row, traceback);
		tm_row_put_u64(&row, snapshot->block_tids[i]);
		tm_row_put_u64(&row, block->time);
		err = tm_writer_put(writer, &row);
	}
	return err;
}

struct tm_error *tm_writer_put_snapshot(struct tm_report_writer *writer, const struct tm_report_save *save,
					const struct tm_snapshot *snapshot)
{
	struct tm_error *err = drop_snapshot(writer, snapshot->name);
	uint64_t id;

	if (!err)
		err = put_snapshot_row(writer, snapshot, &id);
	if (!err)
		err = put_domains(writer, snapshot, id);
	if (!err)
		err = put_statistics(writer, save, snapshot, id);
	if (!err && snapshot->blocks)
		err = put_blocks(writer, save, snapshot, id);
	return err;
}
