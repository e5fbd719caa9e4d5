#include "report/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/strbuf.h"
#include "report/report_schema.h"
#include "report/totals.h"

#define PRAGMA_TEXT_(x) #x
#define PRAGMA_TEXT(x)	PRAGMA_TEXT_(x)

#define OF_SNAPSHOT " WHERE snapshot IN (SELECT id FROM snapshot WHERE name = ?)"

static const char *const statement_texts[TM_WRITER_STATEMENTS] = {
	[TM_PUT_META] = "INSERT OR REPLACE INTO meta VALUES (?, ?)",
	[TM_PUT_MODULE] = "INSERT INTO module VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
			  " path = excluded.path, build_id = excluded.build_id, bias = excluded.bias,"
			  " is_main = excluded.is_main, deleted = excluded.deleted,"
			  " problem = coalesce(excluded.problem, problem)",
	[TM_PUT_MODULE_PROBLEM] = "UPDATE module SET problem = coalesce(problem, ?2) WHERE id = ?1",
	[TM_PUT_FRAME] = "INSERT OR REPLACE INTO frame VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, max(?9, "
			 "tm_skipped(?4)))",
	[TM_PUT_TRACEBACK] = "INSERT INTO traceback VALUES (?, ?, ?, ?, ?, ?)",
	[TM_PUT_THREAD] = "INSERT OR REPLACE INTO thread VALUES (?, ?, ?, ?)",
	[TM_PUT_SAMPLE] = "INSERT OR REPLACE INTO timeline VALUES (?, ?, ?, ?)",
	[TM_PUT_SNAPSHOT] = "INSERT INTO snapshot (name, time, " TM_TOTALS_COLUMNS ", " TM_VARIANCE_COLUMNS
			    ") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
	[TM_PUT_SNAPSHOT_DOMAIN] =
		"INSERT INTO snapshot_domain (snapshot, domain, " TM_TOTALS_COLUMNS ", " TM_VARIANCE_COLUMNS
		") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
	[TM_PUT_STATISTIC] = "INSERT INTO statistic VALUES (?, ?, ?, ?, ?, ?, ?)",
	[TM_PUT_BLOCK] = "INSERT INTO block VALUES (?, ?, ?, ?, ?, ?, ?)",
	[TM_DROP_SNAPSHOT_DOMAINS] = "DELETE FROM snapshot_domain" OF_SNAPSHOT,
	[TM_DROP_STATISTICS] = "DELETE FROM statistic" OF_SNAPSHOT,
	[TM_DROP_BLOCKS] = "DELETE FROM block" OF_SNAPSHOT,
	[TM_DROP_SNAPSHOT] = "DELETE FROM snapshot WHERE name = ?",
};

/* What SQLite puts beside a database (sqlite.org/tempfiles.html). */
static const char *const side_files[] = {"-wal", "-shm", "-journal"};

static void remove_side_files(const char *path)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(side_files); i++) {
		struct tm_strbuf name = {0};

		tm_strbuf_printf(&name, "%s%s", path, side_files[i]);
		if (name.text)
			unlink(name.text);
		tm_strbuf_deinit(&name);
	}
}

/* --force replaces a file, not a device or a folder that has the name by mistake. */
static struct tm_error *remove_old_file(const char *path)
{
	struct stat status;

	if (lstat(path, &status) < 0)
		return errno == ENOENT ? NULL : tm_error_errno(errno, "cannot replace %s", path);
	if (!S_ISREG(status.st_mode))
		return tm_error_create(TM_ERROR_EXISTS, "cannot replace %s: it is not a regular file", path);
	if (unlink(path) < 0)
		return tm_error_errno(errno, "cannot replace %s", path);
	remove_side_files(path); /* a stale -wal would be played into the new file */
	return NULL;
}

/* O_EXCL: neither another trace's file nor a link that somebody put there is written through. */
static struct tm_error *create_file(const char *path, bool force)
{
	_cleanup_close_ int fd = -1;
	struct tm_error *err = force ? remove_old_file(path) : NULL;

	if (err)
		return err;
	fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (fd >= 0)
		return NULL;
	if (errno == EEXIST)
		return tm_error_create(TM_ERROR_EXISTS,
				       "%s exists: name another file with -o, or replace it with --force",
				       path);
	return tm_error_errno(errno, "cannot create %s", path);
}

static void skipped_function(sqlite3_context *context, int argument_count, sqlite3_value **arguments)
{
	const struct tm_report_writer *writer = sqlite3_user_data(context);
	const char *function = argument_count == 1 ? (const char *)sqlite3_value_text(arguments[0]) : NULL;

	sqlite3_result_int(context, tm_skip_matches(&writer->skip, function));
}

/* The schema is in the file itself before WAL begins, so that a reader knows the file by its header from the
   start. */
static struct tm_error *create_schema(const struct tm_database *database)
{
	struct tm_error *err = tm_database_run(
		database, "PRAGMA cache_size = -4096;" /* KiB */
			  "PRAGMA application_id = " PRAGMA_TEXT(
				  TM_REPORT_APPLICATION_ID) ";"
							    "PRAGMA user_version = " PRAGMA_TEXT(
								    TM_REPORT_VERSION) ";"
										       "BEGIN");

	for (size_t i = 0; i < tm_schema_count && !err; i++)
		err = tm_database_run(database, tm_schema[i].sql);
	if (!err)
		err = tm_database_run(
			database,
			"COMMIT;"
			"PRAGMA journal_mode = WAL;" /* stays a rollback journal where WAL cannot be */
			"PRAGMA synchronous = NORMAL");
	return err;
}

static struct tm_error *open_writer(struct tm_report_writer *writer)
{
	struct tm_error *err =
		tm_database_open(&writer->database, writer->path, SQLITE_OPEN_READWRITE, false);

	if (!err)
		err = create_schema(&writer->database);
	if (!err && sqlite3_create_function_v2(writer->database.handle, "tm_skipped", 1, SQLITE_UTF8, writer,
					       skipped_function, NULL, NULL, NULL) != SQLITE_OK)
		err = tm_database_error(&writer->database);
	for (int i = 0; i < TM_WRITER_STATEMENTS && !err; i++)
		err = tm_database_prepare(&writer->database, statement_texts[i], &writer->statements[i]);
	return err;
}

struct tm_error *tm_report_writer_create(const char *path, bool force, struct tm_report_writer **out)
{
	struct tm_report_writer *writer = calloc(1, sizeof(*writer));
	struct tm_error *err;

	if (!writer || !(writer->path = strdup(path))) {
		free(writer);
		return tm_error_out_of_memory();
	}
	err = create_file(path, force);
	if (err) {
		free(writer->path);
		free(writer);
		return err;
	}
	err = open_writer(writer);
	if (err)
		tm_report_writer_discard(writer);
	else
		*out = writer;
	return err;
}

static void close_database(struct tm_report_writer *writer)
{
	for (int i = 0; i < TM_WRITER_STATEMENTS; i++) {
		sqlite3_finalize(writer->statements[i]);
		writer->statements[i] = NULL;
	}
	tm_database_close(&writer->database);
}

static void destroy(struct tm_report_writer *writer)
{
	close_database(writer);
	tm_skip_rules_deinit(&writer->skip);
	tm_traceback_tree_deinit(&writer->tree);
	tm_vector_deinit(&writer->frames);
	tm_vector_deinit(&writer->leaves);
	free(writer->path);
	free(writer);
}

void tm_report_writer_discard(struct tm_report_writer *writer)
{
	if (!writer)
		return;
	close_database(writer);
	unlink(writer->path);
	remove_side_files(writer->path);
	destroy(writer);
}

/* Leaving WAL needs the file alone. SQLite does not wait for that lock (pagerExclusiveLock calls no busy
   handler): a reader of ours has it for milliseconds, so ask again for a while. */
static struct tm_error *leave_wal(struct tm_report_writer *writer)
{
	enum { TRIES = 100, PAUSE_MS = 20 };
	struct tm_error *err = NULL;

	for (int i = 0; i < TRIES; i++) {
		err = tm_database_run(&writer->database, "PRAGMA journal_mode = DELETE");
		if (!err || err->code != TM_ERROR_TIMEOUT)
			return err;
		tm_error_destroy(err);
		sqlite3_sleep(PAUSE_MS);
	}
	return tm_error_create(
		TM_ERROR_TIMEOUT,
		"%s is complete, but another program has it open: keep %s-wal beside it until that ends",
		writer->path, writer->path);
}

struct tm_error *tm_report_writer_close(struct tm_report_writer *writer)
{
	struct tm_error *err = leave_wal(writer);

	destroy(writer);
	return err;
}

/* Frames that are stored already follow new rules at once. */
static struct tm_error *set_skip(struct tm_report_writer *writer, const char *globs)
{
	if (!tm_skip_rules_set(&writer->skip, globs))
		return tm_error_out_of_memory();
	return tm_database_run(&writer->database,
			       "UPDATE frame SET skipped = tm_skipped(function) WHERE skipped < 2");
}

struct tm_error *tm_report_writer_meta(struct tm_report_writer *writer, const char *key, const char *value)
{
	struct tm_row row = tm_writer_row(writer, TM_PUT_META);
	struct tm_error *err;

	tm_row_put_text(&row, key);
	tm_row_put_text(&row, value);
	err = tm_writer_put(writer, &row);
	if (!err && strcmp(key, "skip") == 0)
		err = set_skip(writer, value);
	return err;
}

struct tm_error *tm_report_writer_meta_u64(struct tm_report_writer *writer, const char *key, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	return tm_report_writer_meta(writer, key, text);
}

static struct tm_error *put_threads(struct tm_report_writer *writer, const struct tm_report_save *save)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; i < save->thread_count && !err; i++) {
		const struct tm_report_thread *thread = &save->threads[i];
		struct tm_row row = tm_writer_row(writer, TM_PUT_THREAD);

		tm_row_put_u64(&row, thread->tid);
		tm_row_put_text(&row, thread->name);
		tm_row_put_u64(&row, thread->first_seen);
		tm_row_put_u64(&row, thread->last_seen);
		err = tm_writer_put(writer, &row);
	}
	return err;
}

static struct tm_error *put_samples(struct tm_report_writer *writer, const struct tm_report_save *save)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; i < save->sample_count && !err; i++) {
		const struct tm_report_sample *sample = &save->samples[i];
		struct tm_row row = tm_writer_row(writer, TM_PUT_SAMPLE);

		tm_row_put_u64(&row, sample->time);
		tm_row_put_u64(&row, sample->current);
		tm_row_put_u64(&row, sample->blocks);
		tm_row_put_u64(&row, sample->rss);
		err = tm_writer_put(writer, &row);
	}
	return err;
}

static struct tm_error *put_everything(struct tm_report_writer *writer, const struct tm_report_save *save)
{
	struct tm_error *err = tm_writer_put_modules(writer, save->modules);

	if (!err)
		err = put_threads(writer, save);
	if (!err)
		err = put_samples(writer, save);
	for (size_t i = 0; i < save->snapshot_count && !err; i++)
		err = tm_writer_put_snapshot(writer, save, save->snapshots[i]);
	if (!err && save->symbolizer)
		err = tm_writer_name_frames(writer, save);
	return err;
}

/* After a rollback: rows of this save are not in the file, so their numbers must not be believed. A later
   save (the disk has room again) writes them anew. */
static void forget_save(struct tm_report_writer *writer, size_t node_count, uint32_t last_frame_id)
{
	tm_traceback_tree_truncate(&writer->tree, node_count);
	for (size_t i = 0; i < writer->leaves.count; i++)
		if (writer->leaves.items[i] > node_count)
			writer->leaves.items[i] = TM_NO_NODE;
	for (size_t i = 0; i < writer->frames.count; i++) {
		struct tm_stored_frame *frame = &writer->frames.items[i];

		if (frame->id > last_frame_id)
			*frame = (struct tm_stored_frame){0};
		else if (frame->named_by == writer->save_number)
			frame->named_by = 0;
	}
	writer->last_frame_id = last_frame_id;
}

struct tm_error *tm_report_writer_save(struct tm_report_writer *writer, const struct tm_report_save *save)
{
	size_t node_count = writer->tree.nodes.count;
	uint32_t last_frame_id = writer->last_frame_id;
	struct tm_error *err;

	writer->save_number++;
	err = tm_database_run(&writer->database, "BEGIN IMMEDIATE");
	if (err)
		return err;
	err = put_everything(writer, save);
	if (!err)
		err = tm_database_run(&writer->database, "COMMIT");
	if (!err)
		return NULL;
	tm_error_destroy(
		tm_database_run(&writer->database, "ROLLBACK")); /* SQLite may have rolled back by itself */
	forget_save(writer, node_count, last_frame_id);
	return err;
}
