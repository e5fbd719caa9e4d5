/*
 * Inside the report's writer: what its parts share. report_writer.c opens, saves and closes; writer_frames.c
 * stores modules, frames and tracebacks; writer_snapshot.c stores snapshots. Rows that were written are known
 * by number here (a few bytes each), everything else is in the file: the writer's memory is SQLite's page
 * cache and these numbers.
 */
#ifndef TM_REPORT_WRITER_H
#define TM_REPORT_WRITER_H

#include "base/vector.h"
#include "report/database.h"
#include "report/report_file.h"
#include "report/skip.h"
#include "report/traceback_tree.h"

enum tm_writer_statement {
	TM_PUT_META,
	TM_PUT_MODULE,
	TM_PUT_MODULE_PROBLEM,
	TM_PUT_FRAME,
	TM_PUT_TRACEBACK,
	TM_PUT_THREAD,
	TM_PUT_SAMPLE,
	TM_PUT_SNAPSHOT,
	TM_PUT_SNAPSHOT_DOMAIN,
	TM_PUT_STATISTIC,
	TM_PUT_BLOCK,
	TM_DROP_SNAPSHOT_DOMAINS,
	TM_DROP_STATISTICS,
	TM_DROP_BLOCKS,
	TM_DROP_SNAPSHOT,
	TM_WRITER_STATEMENTS
};

struct tm_stored_frame {
	uint32_t id;	   /* of its row; 0: not stored */
	uint32_t named_by; /* number of the save that named it; 0: it has no names yet */
};

struct tm_report_writer {
	char *path;
	struct tm_database database;
	sqlite3_stmt *statements[TM_WRITER_STATEMENTS];
	struct tm_skip_rules skip;
	struct tm_traceback_tree tree; /* node number = traceback.id; its frame is a frame.id */
	struct tm_vector(struct tm_stored_frame) frames; /* by the model's frame number */
	struct tm_vector(uint32_t) leaves; /* traceback.id by the model's traceback number; 0: not stored */
	uint32_t last_frame_id;
	uint32_t save_number;
};

/* Begins a row of a statement; tm_writer_put ends it. */
static inline struct tm_row tm_writer_row(struct tm_report_writer *writer, enum tm_writer_statement statement)
{
	return (struct tm_row){.statement = writer->statements[statement]};
}

static inline struct tm_error *tm_writer_put(struct tm_report_writer *writer, const struct tm_row *row)
{
	return tm_database_write(&writer->database, row->statement);
}

struct tm_error *tm_writer_put_modules(struct tm_report_writer *writer, const struct tm_module_map *modules);

/* The row of one of the model's tracebacks; its frames and the path to its root are stored if they are not
   yet. */
struct tm_error *tm_writer_put_traceback(struct tm_report_writer *writer, const struct tm_report_save *save,
					 uint32_t number, uint32_t *id);

/* Names every stored frame that has no names. */
struct tm_error *tm_writer_name_frames(struct tm_report_writer *writer, const struct tm_report_save *save);

/* Replaces the snapshot of that name. */
struct tm_error *tm_writer_put_snapshot(struct tm_report_writer *writer, const struct tm_report_save *save,
					const struct tm_snapshot *snapshot);

#endif
