/*
 * SQLite with errors as this program has them: a message names the file and what was being done to it. Used
 * by the report's writer and reader only.
 */
#ifndef TM_REPORT_DATABASE_H
#define TM_REPORT_DATABASE_H

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct tm_database {
	sqlite3 *handle;
	const char *path; /* as the user wrote it; the caller's, outlives the connection */
	bool writes;	  /* for messages: "cannot write PATH" */
};

/* flags: SQLITE_OPEN_*. `immutable` promises that nobody writes the file: no lock, no -wal and no -shm file
   is needed. */
struct tm_error *tm_database_open(struct tm_database *database, const char *path, int flags, bool immutable);
void tm_database_close(struct tm_database *database);

/* The connection's last error. TM_ERROR_BAD_FORMAT: damaged, or not a database; TM_ERROR_TIMEOUT: another
   process holds it. */
struct tm_error *tm_database_error(const struct tm_database *database);

/* Statements whose rows do not matter. */
struct tm_error *tm_database_run(const struct tm_database *database, const char *sql);

/* The caller finalizes the statement. */
struct tm_error *tm_database_prepare(const struct tm_database *database, const char *sql, sqlite3_stmt **out);

/* *row is false at the end of the rows. */
struct tm_error *tm_database_step(const struct tm_database *database, sqlite3_stmt *statement, bool *row);

/* Runs a statement without rows to its end and makes it ready for the next values. */
struct tm_error *tm_database_write(const struct tm_database *database, sqlite3_stmt *statement);

static inline void tm_cleanup_statement(sqlite3_stmt **statement)
{
	sqlite3_finalize(*statement);
}
#define _cleanup_statement_ _cleanup_(tm_cleanup_statement)

/* Values of one statement, in the order of its columns. Texts must stay until the statement has run; NULL is
   NULL. */
struct tm_row {
	sqlite3_stmt *statement;
	int column;
};

static inline void tm_row_put_u64(struct tm_row *row, uint64_t value)
{
	sqlite3_bind_int64(row->statement, ++row->column, (int64_t)value);
}

static inline void tm_row_put_double(struct tm_row *row, double value)
{
	sqlite3_bind_double(row->statement, ++row->column, value);
}

static inline void tm_row_put_null(struct tm_row *row)
{
	sqlite3_bind_null(row->statement, ++row->column);
}

static inline void tm_row_put_text(struct tm_row *row, const char *text)
{
	sqlite3_bind_text(row->statement, ++row->column, text, -1, SQLITE_STATIC);
}

#endif
