#include "report/database.h"

#include <string.h>

#include "base/strbuf.h"

/* How long a statement waits for another process's lock. */
#define BUSY_TIMEOUT_MS 5000

static enum tm_error_code error_code(int result)
{
	switch (result & 0xff) {
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
	case SQLITE_MISMATCH:
		return TM_ERROR_BAD_FORMAT;
	case SQLITE_PERM:
	case SQLITE_READONLY:
	case SQLITE_AUTH:
		return TM_ERROR_PERMISSION;
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
		return TM_ERROR_TIMEOUT;
	default:
		return TM_ERROR_OTHER;
	}
}

struct tm_error *tm_database_error(const struct tm_database *database)
{
	int result = sqlite3_extended_errcode(database->handle);
	int errno_value = sqlite3_system_errno(database->handle);
	const char *doing = database->writes ? "write" : "read";

	if ((result & 0xff) == SQLITE_NOMEM)
		return tm_error_out_of_memory();
	if ((result & 0xff) == SQLITE_FULL)
		return tm_error_create(TM_ERROR_OTHER, "cannot write %s: no space left on its device",
				       database->path);
	if ((result & 0xff) == SQLITE_IOERR && errno_value)
		return tm_error_errno(errno_value, "cannot %s %s", doing, database->path);
	return tm_error_create(error_code(result), "cannot %s %s: %s", doing, database->path,
			       sqlite3_errmsg(database->handle));
}

/* A path as an URI (sqlite.org/uri.html): also keeps names that mean something to SQLite (":memory:",
   "file:x") from meaning it. */
static char *path_uri(const char *path, bool immutable)
{
	struct tm_strbuf uri = {0};

	tm_strbuf_puts(&uri, path[0] == '/' ? "file://" : "file:./");
	for (const char *p = path; *p; p++) {
		if (strchr("%?#", *p))
			tm_strbuf_printf(&uri, "%%%02X", (unsigned char)*p);
		else
			tm_strbuf_append(&uri, p, 1);
	}
	if (immutable)
		tm_strbuf_puts(&uri, "?immutable=1");
	return tm_strbuf_steal(&uri);
}

struct tm_error *tm_database_open(struct tm_database *database, const char *path, int flags, bool immutable)
{
	_cleanup_free_ char *uri = path_uri(path, immutable);
	struct tm_error *err;

	if (!uri)
		return tm_error_out_of_memory();
	database->path = path;
	database->writes = flags & SQLITE_OPEN_READWRITE;
	if (sqlite3_open_v2(uri, &database->handle, flags | SQLITE_OPEN_URI, NULL) == SQLITE_OK) {
		sqlite3_busy_timeout(database->handle, BUSY_TIMEOUT_MS);
		return NULL;
	}
	err = database->handle ? tm_database_error(database) : tm_error_out_of_memory();
	tm_database_close(database);
	return err;
}

void tm_database_close(struct tm_database *database)
{
	sqlite3_close(database->handle);
	database->handle = NULL;
}

struct tm_error *tm_database_run(const struct tm_database *database, const char *sql)
{
	return sqlite3_exec(database->handle, sql, NULL, NULL, NULL) == SQLITE_OK
		       ? NULL
		       : tm_database_error(database);
}

struct tm_error *tm_database_prepare(const struct tm_database *database, const char *sql, sqlite3_stmt **out)
{
	int result = sqlite3_prepare_v3(database->handle, sql, -1, SQLITE_PREPARE_PERSISTENT, out, NULL);

	return result == SQLITE_OK ? NULL : tm_database_error(database);
}

struct tm_error *tm_database_step(const struct tm_database *database, sqlite3_stmt *statement, bool *row)
{
	int result = sqlite3_step(statement);

	*row = result == SQLITE_ROW;
	return result == SQLITE_ROW || result == SQLITE_DONE ? NULL : tm_database_error(database);
}

struct tm_error *tm_database_write(const struct tm_database *database, sqlite3_stmt *statement)
{
	struct tm_error *err = NULL;

	if (sqlite3_step(statement) != SQLITE_DONE)
		err = tm_database_error(database);
	sqlite3_reset(statement);
	return err;
}
