#include "report/report_file.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/strbuf.h"
#include "base/vector.h"
#include "report/database.h"
#include "report/reader_tables.h"
#include "report/report_schema.h"
#include "report/skip.h"
#include "report/totals.h"

/* No string of a report is longer: keeps a hostile file from asking for gigabytes. */
#define STRING_MAX (16 << 20)

struct meta {
	char *key, *value;
};

/* What one tm_report_load read; views point into it. */
struct loaded {
	struct loaded *next;
	const struct tm_report *report;
	struct tm_report_tables tables;
	struct tm_vector(struct tm_trace) traces;
	struct tm_vector(struct tm_snapshot_domain) domains;
	struct tm_vector(struct tm_report_moment) snapshots;
	uint64_t cuts[TM_CUT_COUNT]; /* distinct tracebacks */
};

/* The file is open only inside tm_report_open and tm_report_load: a pager that waits must not keep the
   tracer, which is perhaps still writing, from making it one file. */
struct tm_report {
	char *path;
	struct tm_vector(struct meta) meta;
	struct tm_skip_rules skip;
	struct tm_vector(char *) domain_names; /* by number */
	bool one_domain;
	uint32_t domain; /* the one that is loaded, if it is one */
	struct loaded *loaded;
};

static struct tm_error *check_file(const char *path)
{
	struct stat status;

	if (stat(path, &status) < 0)
		return tm_error_errno(errno, "cannot open %s", path);
	if (!S_ISREG(status.st_mode))
		return tm_error_create(TM_ERROR_BAD_FORMAT,
				       "%s is not a regular file, so it is no tmtrace report", path);
	if (access(path, R_OK) < 0)
		return tm_error_errno(errno, "cannot open %s", path);
	return NULL;
}

static bool has_wal(const char *path)
{
	struct tm_strbuf name = {0};
	struct stat status;
	bool found;

	tm_strbuf_printf(&name, "%s-wal", path);
	found = !name.failed && stat(name.text, &status) == 0 && status.st_size > 0;
	tm_strbuf_deinit(&name);
	return found;
}

/* Begins the one transaction in which everything is read. */
static struct tm_error *begin(struct tm_database *database, const char *path, bool immutable)
{
	struct tm_error *err = tm_database_open(database, path, SQLITE_OPEN_READONLY, immutable);

	if (err)
		return err;
	sqlite3_limit(database->handle, SQLITE_LIMIT_LENGTH, STRING_MAX);
	return tm_database_run(database, "PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON; BEGIN;"
					 "SELECT count(*) FROM sqlite_schema");
}

/* A WAL file cannot be read where its -shm file cannot be made (a read-only folder), unless nobody writes it:
   then, without a -wal that holds something, the file alone is everything. */
static struct tm_error *begin_anywhere(struct tm_database *database, const char *path)
{
	struct tm_error *err = begin(database, path, false);
	int result = err ? sqlite3_errcode(database->handle) & 0xff : SQLITE_OK;

	if (result == SQLITE_NOTADB) {
		tm_error_destroy(err);
		return tm_error_create(TM_ERROR_BAD_FORMAT, "%s is not a tmtrace report", path);
	}
	if (result != SQLITE_CANTOPEN && result != SQLITE_READONLY)
		return err;
	tm_error_destroy(err);
	if (has_wal(path))
		return tm_error_create(TM_ERROR_PERMISSION,
				       "cannot read %s in a folder that may not be written to: copy it and "
				       "its -wal file to another",
				       path);
	tm_database_close(database);
	return begin(database, path, true);
}

static struct tm_error *read_number(const struct tm_database *database, const char *sql, int64_t *number)
{
	_cleanup_statement_ sqlite3_stmt *statement = NULL;
	struct tm_error *err = tm_database_prepare(database, sql, &statement);
	bool row = false;

	if (!err)
		err = tm_database_step(database, statement, &row);
	*number = row ? sqlite3_column_int64(statement, 0) : 0;
	return err;
}

static struct tm_error *check_version(const struct tm_database *database, int64_t *version)
{
	int64_t application_id;
	struct tm_error *err = read_number(database, "PRAGMA application_id", &application_id);

	if (!err)
		err = read_number(database, "PRAGMA user_version", version);
	if (err)
		return err;
	if (application_id != TM_REPORT_APPLICATION_ID || *version < 1)
		return tm_error_create(TM_ERROR_BAD_FORMAT, "%s is not a tmtrace report", database->path);
	if (*version > TM_REPORT_VERSION)
		return tm_error_create(TM_ERROR_BAD_FORMAT,
				       "%s has format %lld, this tmtrace reads up to %d: use a newer tmtrace",
				       database->path, (long long)*version, TM_REPORT_VERSION);
	return NULL;
}

static const char *sql_of_version(const struct tm_schema_object *object, int64_t version)
{
	return version == 1 && object->sql_of_version_1 ? object->sql_of_version_1 : object->sql;
}

static struct tm_error *check_tables(const struct tm_database *database, int64_t version)
{
	_cleanup_statement_ sqlite3_stmt *statement = NULL;
	struct tm_error *err = tm_database_prepare(
		database, "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?", &statement);

	for (size_t i = 0; i < tm_schema_count && !err; i++) {
		const char *sql;
		bool row;

		if (!tm_schema[i].is_table)
			continue;
		sqlite3_reset(statement);
		sqlite3_bind_text(statement, 1, tm_schema[i].name, -1, SQLITE_STATIC);
		err = tm_database_step(database, statement, &row);
		if (err)
			break;
		sql = row ? (const char *)sqlite3_column_text(statement, 0) : NULL;
		if (!sql || strcmp(sql, sql_of_version(&tm_schema[i], version)) != 0)
			err = tm_error_create(TM_ERROR_BAD_FORMAT,
					      "%s is damaged: its table %s is not one of format %lld",
					      database->path, tm_schema[i].name, (long long)version);
	}
	return err;
}

/* Opens, checks and begins to read; tm_database_close ends it, also after an error. */
static struct tm_error *begin_checked(struct tm_database *database, const char *path, int64_t *version)
{
	struct tm_error *err = check_file(path);

	if (!err)
		err = begin_anywhere(database, path);
	if (!err)
		err = check_version(database, version);
	if (!err)
		err = check_tables(database, *version);
	return err;
}

static struct tm_error *read_meta(struct tm_report *report, const struct tm_database *database)
{
	_cleanup_statement_ sqlite3_stmt *statement = NULL;
	struct tm_error *err = tm_database_prepare(database, "SELECT key, value FROM meta", &statement);
	bool row = true;

	while (!err) {
		const char *key, *value;
		struct meta meta;

		err = tm_database_step(database, statement, &row);
		if (err || !row)
			break;
		key = (const char *)sqlite3_column_text(statement, 0);
		value = (const char *)sqlite3_column_text(statement, 1);
		if (!key || !value)
			return tm_report_damaged(database, "a row of meta");
		meta = (struct meta){strdup(key), strdup(value)};
		if (meta.key && meta.value && tm_vector_push(&report->meta, meta))
			continue;
		free(meta.key);
		free(meta.value);
		return tm_error_out_of_memory();
	}
	return err;
}

/* ---- domains ---- */

static struct tm_error *name_domains(struct tm_report *report)
{
	const char *names = tm_report_meta(report, "domains");

	while (names && *names) {
		size_t length = strcspn(names, ",");
		char *name = strndup(names, length);

		if (!name || !tm_vector_push(&report->domain_names, name)) {
			free(name);
			return tm_error_out_of_memory();
		}
		names += length + (names[length] == ',');
	}
	return NULL;
}

const char *tm_report_domain_name(const struct tm_report *report, uint32_t domain)
{
	return domain < report->domain_names.count ? report->domain_names.items[domain] : NULL;
}

struct tm_error *tm_report_select_domain(struct tm_report *report, const char *name)
{
	char *end;
	unsigned long number = strtoul(name, &end, 10);
	const char *names = tm_report_meta(report, "domains");

	report->one_domain = true;
	for (report->domain = 0; report->domain < report->domain_names.count; report->domain++)
		if (strcmp(report->domain_names.items[report->domain], name) == 0)
			return NULL;
	report->domain = (uint32_t)number;
	if (*name >= '0' && *name <= '9' && !*end && number <= UINT32_MAX)
		return NULL;
	return tm_error_create(TM_ERROR_NOT_FOUND, "%s has no domain '%s': it has %s", report->path, name,
			       names && *names ? names : "only numbered ones");
}

struct tm_report_view tm_report_view_of_domain(const struct tm_report_view *view, size_t index)
{
	struct tm_report_view part = *view;
	uint32_t domain = view->domains[index].domain;
	size_t start = 0, end;

	while (start < view->trace_count && view->traces[start].domain != domain)
		start++;
	for (end = start; end < view->trace_count && view->traces[end].domain == domain;)
		end++;
	part.traces = view->traces + start;
	part.trace_count = end - start;
	part.domains = &view->domains[index];
	part.domain_count = 1;
	part.totals.totals = view->domains[index].totals;
	return part;
}

static struct tm_error *read_report(struct tm_report *report)
{
	struct tm_database database = {0};
	int64_t version;
	struct tm_error *err = begin_checked(&database, report->path, &version);

	if (!err)
		err = read_meta(report, &database);
	tm_database_close(&database);
	if (!err && !tm_skip_rules_set(&report->skip, tm_report_meta(report, "skip")))
		err = tm_error_out_of_memory();
	if (!err)
		err = name_domains(report);
	return err;
}

struct tm_error *tm_report_open(const char *path, struct tm_report **out)
{
	struct tm_report *report = calloc(1, sizeof(*report));
	struct tm_error *err;

	if (!report || !(report->path = strdup(path))) {
		free(report);
		return tm_error_out_of_memory();
	}
	err = read_report(report);
	if (err)
		tm_report_close(report);
	else
		*out = report;
	return err;
}

static void loaded_destroy(struct loaded *loaded)
{
	tm_report_tables_deinit(&loaded->tables);
	tm_vector_deinit(&loaded->traces);
	tm_vector_deinit(&loaded->domains);
	tm_vector_deinit(&loaded->snapshots);
	free(loaded);
}

void tm_report_close(struct tm_report *report)
{
	if (!report)
		return;
	for (size_t i = 0; i < report->meta.count; i++) {
		free(report->meta.items[i].key);
		free(report->meta.items[i].value);
	}
	for (struct loaded *loaded = report->loaded, *next; loaded; loaded = next) {
		next = loaded->next;
		loaded_destroy(loaded);
	}
	tm_vector_deinit(&report->meta);
	for (size_t i = 0; i < report->domain_names.count; i++)
		free(report->domain_names.items[i]);
	tm_vector_deinit(&report->domain_names);
	tm_skip_rules_deinit(&report->skip);
	free(report->path);
	free(report);
}

const char *tm_report_meta(const struct tm_report *report, const char *key)
{
	for (size_t i = 0; i < report->meta.count; i++)
		if (strcmp(report->meta.items[i].key, key) == 0)
			return report->meta.items[i].value;
	return NULL;
}

static struct tm_error *no_such_snapshot(const struct tm_database *database, const char *name)
{
	_cleanup_statement_ sqlite3_stmt *statement = NULL;
	struct tm_error *err = tm_database_prepare(
		database,
		"SELECT group_concat(name, ', ') FROM (SELECT name FROM snapshot ORDER BY time, id)",
		&statement);
	const char *names;
	bool row = false;

	if (!err)
		err = tm_database_step(database, statement, &row);
	if (err)
		return err;
	names = row ? (const char *)sqlite3_column_text(statement, 0) : NULL;
	return tm_error_create(TM_ERROR_NOT_FOUND, "%s has no snapshot '%s': it has %s", database->path, name,
			       names ? names : "none yet");
}

static struct tm_error *find_snapshot(const struct tm_database *database, const char *name, int64_t *id,
				      uint64_t *time)
{
	_cleanup_statement_ sqlite3_stmt *statement = NULL;
	struct tm_error *err =
		tm_database_prepare(database, "SELECT id, time FROM snapshot WHERE name = ?", &statement);
	bool row = false;

	if (err)
		return err;
	sqlite3_bind_text(statement, 1, name, -1, SQLITE_STATIC);
	err = tm_database_step(database, statement, &row);
	if (err)
		return err;
	if (!row)
		return no_such_snapshot(database, name);
	*id = sqlite3_column_int64(statement, 0);
	*time = (uint64_t)sqlite3_column_int64(statement, 1);
	return NULL;
}

static const char snapshots_sql[] = "SELECT name, time FROM snapshot WHERE ? ORDER BY time, id";

static struct tm_error *read_moment(struct loaded *loaded, const struct tm_database *database,
				    sqlite3_stmt *row)
{
	const char *name = (const char *)sqlite3_column_text(row, 0);
	struct tm_report_moment moment = {.time = (uint64_t)sqlite3_column_int64(row, 1)};

	if (!name)
		return tm_report_damaged(database, "a row of its snapshots");
	moment.name = tm_report_tables_string(&loaded->tables, name);
	return moment.name && tm_vector_push(&loaded->snapshots, moment) ? NULL : tm_error_out_of_memory();
}

static struct tm_totals column_totals(sqlite3_stmt *row, int column)
{
	struct tm_totals totals;

#define GET(field) totals.field = (uint64_t)sqlite3_column_int64(row, column++);
	TM_TOTALS_FIELDS(GET)
#undef GET
	totals.current_variance = sqlite3_column_double(row, column++);
	totals.peak_variance = sqlite3_column_double(row, column);
	return totals;
}

static bool is_wanted(const struct tm_report *report, uint32_t domain)
{
	return !report->one_domain || domain == report->domain;
}

/* By the version of the file: 1 had no variances. */
#define DOMAINS_SQL(variances)                                                                               \
	"SELECT domain, " TM_TOTALS_COLUMNS ", " variances                                                   \
	" FROM snapshot_domain WHERE snapshot = ? ORDER BY domain"
static const char *const domains_sql[] = {
	[1] = DOMAINS_SQL("0.0, 0.0"), [2] = DOMAINS_SQL(TM_VARIANCE_COLUMNS)};

#define STATISTICS_SQL(variance)                                                                             \
	"SELECT domain, tid, traceback, size, count, " variance                                              \
	" FROM statistic WHERE snapshot = ? ORDER BY domain"
static const char *const statistics_sql[] = {
	[1] = STATISTICS_SQL("0.0"), [2] = STATISTICS_SQL("size_variance")};

static bool is_variance(double value)
{
	return isfinite(value) && value >= 0;
}

static struct tm_error *read_domain(struct loaded *loaded, const struct tm_database *database,
				    sqlite3_stmt *row)
{
	struct tm_snapshot_domain domain = {.domain = (uint32_t)sqlite3_column_int64(row, 0),
					    .totals = column_totals(row, 1)};

	if (!is_variance(domain.totals.current_variance) || !is_variance(domain.totals.peak_variance))
		return tm_report_damaged(database, "a row of its domains");
	if (!is_wanted(loaded->report, domain.domain))
		return NULL;
	return tm_vector_push(&loaded->domains, domain) ? NULL : tm_error_out_of_memory();
}

/* A traceback that several threads or domains share is expanded, and counted as cut, once. */
static struct tm_error *read_traceback(struct loaded *loaded, const struct tm_database *database, int64_t id,
				       struct tm_trace *trace)
{
	const struct tm_loaded_node *node;
	bool is_first;
	struct tm_error *err = tm_report_tables_traceback(&loaded->tables, database, id, &node, &is_first);

	if (err)
		return err;
	loaded->cuts[node->cut] += is_first;
	trace->frames = node->frames;
	trace->frame_count = node->frame_count;
	trace->total_nframe = node->total_nframe;
	trace->cut = tm_cut_name(node->cut);
	return NULL;
}

static struct tm_error *read_statistic(struct loaded *loaded, const struct tm_database *database,
				       sqlite3_stmt *row)
{
	int64_t domain = sqlite3_column_int64(row, 0), tid = sqlite3_column_int64(row, 1);
	int64_t size = sqlite3_column_int64(row, 3), count = sqlite3_column_int64(row, 4);
	struct tm_trace trace = {.domain = (uint32_t)domain,
				 .tid = (uint32_t)tid,
				 .size = (uint64_t)size,
				 .count = (uint64_t)count,
				 .size_variance = sqlite3_column_double(row, 5)};
	struct tm_error *err;

	if (domain != trace.domain || tid != trace.tid || size < 0 || count < 0 ||
	    !is_variance(trace.size_variance))
		return tm_report_damaged(database, "a row of its statistics");
	if (!is_wanted(loaded->report, trace.domain))
		return NULL;
	trace.thread_name = tm_report_tables_thread_name(&loaded->tables, tid);
	err = read_traceback(loaded, database, sqlite3_column_int64(row, 2), &trace);
	if (err)
		return err;
	return tm_vector_push(&loaded->traces, trace) ? NULL : tm_error_out_of_memory();
}

static struct tm_error *
read_rows(struct loaded *loaded, const struct tm_database *database, const char *sql, int64_t snapshot,
	  struct tm_error *(*read_row)(struct loaded *loaded, const struct tm_database *database,
				       sqlite3_stmt *row))
{
	_cleanup_statement_ sqlite3_stmt *statement = NULL;
	struct tm_error *err = tm_database_prepare(database, sql, &statement);
	bool row = true;

	if (err)
		return err;
	sqlite3_bind_int64(statement, 1, snapshot);
	while (!err) {
		err = tm_database_step(database, statement, &row);
		if (err || !row)
			break;
		err = read_row(loaded, database, statement);
	}
	return err;
}

/* Most first. */
static void list_cuts(const struct loaded *loaded, struct tm_report_view *view)
{
	view->cut_count = 0;
	for (int cut = TM_CUT_NONE + 1; cut < TM_CUT_COUNT; cut++) {
		size_t at = view->cut_count;

		if (!loaded->cuts[cut])
			continue;
		for (; at > 0 && view->cuts[at - 1].tracebacks < loaded->cuts[cut]; at--)
			view->cuts[at] = view->cuts[at - 1];
		view->cuts[at].cut = tm_cut_name((enum tm_cut)cut);
		view->cuts[at].tracebacks = loaded->cuts[cut];
		view->cut_count++;
	}
}

static struct tm_error *load(struct loaded *loaded, const struct tm_report *report, const char *snapshot,
			     struct tm_report_view *view)
{
	struct tm_database database = {0};
	int64_t id = 0, version = 0;
	struct tm_error *err = begin_checked(&database, report->path, &version);

	if (!err)
		err = find_snapshot(&database, snapshot, &id, &view->time);
	if (!err)
		err = tm_report_tables_load(&loaded->tables, &database, &report->skip);
	if (!err)
		err = read_rows(loaded, &database, snapshots_sql, 1, read_moment);
	if (!err)
		err = read_rows(loaded, &database, domains_sql[version], id, read_domain);
	if (!err)
		err = read_rows(loaded, &database, statistics_sql[version], id, read_statistic);
	tm_database_close(&database);
	return err;
}

static uint64_t meta_u64(const struct tm_report *report, const char *key)
{
	const char *value = tm_report_meta(report, key);

	return value ? strtoull(value, NULL, 10) : 0;
}

struct tm_error *tm_report_load(struct tm_report *report, const char *snapshot, struct tm_report_view *view)
{
	struct loaded *loaded = calloc(1, sizeof(*loaded));
	struct tm_report_view result = {0};
	struct tm_error *err;

	if (!loaded)
		return tm_error_out_of_memory();
	loaded->report = report;
	err = load(loaded, report, snapshot, &result);
	if (!err && !(result.snapshot_name = tm_report_tables_string(&loaded->tables, snapshot)))
		err = tm_error_out_of_memory();
	if (err) {
		loaded_destroy(loaded);
		return err;
	}
	loaded->next = report->loaded;
	report->loaded = loaded;
	if (loaded->domains.count)
		result.totals.totals = loaded->domains.items[0].totals;
	result.totals.lost = meta_u64(report, "lost");
	result.sample = meta_u64(report, "sample");
	result.domains = loaded->domains.items;
	result.domain_count = loaded->domains.count;
	result.traces = loaded->traces.items;
	result.trace_count = loaded->traces.count;
	result.snapshots = loaded->snapshots.items;
	result.snapshot_count = loaded->snapshots.count;
	list_cuts(loaded, &result);
	*view = result;
	return NULL;
}
