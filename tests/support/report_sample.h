/*
 * A small trace to write reports from: a tracer fed by hand, with the frames of fake_debuginfo.h. Errors of
 * what is not under test end the test.
 */
#ifndef TM_TESTS_REPORT_SAMPLE_H
#define TM_TESTS_REPORT_SAMPLE_H

#include <criterion/criterion.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "report/report_file.h"
#include "support/fake_debuginfo.h"

#define MS 1000000ull

static inline void must(struct tm_error *err)
{
	cr_assert_null(err, "%s", err ? err->message : "");
}

/* The folder of one test, and a file in it. */
struct sample_folder {
	char path[64];
	char file[96];
};

static inline struct sample_folder sample_folder_create(void)
{
	struct sample_folder folder = {.path = "/tmp/tm_report_XXXXXX"};

	cr_assert_not_null(mkdtemp(folder.path));
	snprintf(folder.file, sizeof(folder.file), "%s/a%%20?#.tmt", folder.path);
	return folder;
}

static inline size_t sample_folder_entries(const struct sample_folder *folder)
{
	_cleanup_closedir_ DIR *dir = opendir(folder->path);
	size_t count = 0;

	while (readdir(dir))
		count++;
	return count - 2; /* . and .. */
}

static inline void sample_folder_remove(struct sample_folder *folder)
{
	char command[96];

	snprintf(command, sizeof(command), "rm -rf '%s'", folder->path);
	cr_assert_eq(system(command), 0);
}

/* By libsqlite3 itself, and not as an URI: the file's name has characters that an URI would escape. */
static inline sqlite3 *sample_open_database(const struct sample_folder *folder)
{
	sqlite3 *database;

	cr_assert_eq(sqlite3_open_v2(folder->file, &database, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
	return database;
}

static inline void sample_run_sql(const struct sample_folder *folder, const char *sql)
{
	sqlite3 *database = sample_open_database(folder);
	char *message = NULL;

	cr_assert_eq(sqlite3_exec(database, sql, NULL, NULL, &message), SQLITE_OK, "%s",
		     message ? message : "");
	sqlite3_close(database);
}

static inline void expect_error(struct tm_error *err, enum tm_error_code code, const char *words)
{
	cr_assert_not_null(err);
	cr_expect_eq(err->code, code, "code %d: %s", err->code, err->message);
	cr_expect(strstr(err->message, words), "'%s' lacks '%s'", err->message, words);
	tm_error_destroy(err);
}

struct sample {
	struct tm_tracer *tracer;
	struct tm_symbolizer symbolizer;
	uint64_t next_address;
};

static inline struct sample sample_create(void)
{
	struct sample sample = {.next_address = 0x7f0000001000};

	must(tm_tracer_create(&sample.tracer));
	return sample;
}

/* Frames most recent first: {module, offset}. */
static inline uint32_t sample_traceback(struct sample *sample, const struct tm_frame *frames, uint32_t count,
					uint32_t total_nframe, enum tm_cut cut)
{
	struct tm_tracebacks *tracebacks = tm_tracer_tracebacks(sample->tracer);
	uint32_t *numbers = malloc((count + 1) * sizeof(*numbers));
	uint32_t traceback;

	for (uint32_t i = 0; i < count; i++)
		numbers[i] = tm_tracebacks_frame(tracebacks, frames[i]);
	traceback = tm_tracebacks_intern(tracebacks, numbers, count, total_nframe, cut);
	free(numbers);
	return traceback;
}

static inline uint64_t sample_allocate(struct sample *sample, uint32_t tid, uint32_t traceback, uint64_t size)
{
	struct tm_allocation allocation = {.tid = tid, .traceback = traceback, .size = size, .time = 5 * MS};

	allocation.address = sample->next_address += 0x10000;
	must(tm_tracer_track(sample->tracer, &allocation));
	return allocation.address;
}

/* run() called make(), which malloc'd: main <- run <- make (inlined into make_all). */
static const struct tm_frame make_frames[] = {{0x30, 1}, {0x20, 1}, {0x10, 1}};
/* run() called strdup(). */
static const struct tm_frame strdup_frames[] = {{0x100, 2}, {0x20, 1}, {0x10, 1}};

/* 3 blocks, 1700 bytes live; the peak was 5700 in 4. */
static inline struct sample sample_typical(void)
{
	struct sample sample = sample_create();
	uint32_t make = sample_traceback(&sample, make_frames, 3, 3, TM_CUT_NONE);
	uint32_t copy = sample_traceback(&sample, strdup_frames, 3, 9, TM_CUT_LIMIT);

	sample_allocate(&sample, 100, make, 1000);
	sample_allocate(&sample, 200, make, 500);
	sample_allocate(&sample, 100, copy, 200);
	cr_assert(tm_tracer_untrack(sample.tracer, 0, sample_allocate(&sample, 100, copy, 4000)));
	cr_assert_not(tm_tracer_untrack(sample.tracer, 0, 0x1234));
	tm_tracer_failed(sample.tracer, 0);
	return sample;
}

/* A save of one snapshot, without names if there is no symbolizer. */
static inline struct tm_error *sample_save(struct sample *sample, struct tm_report_writer *writer,
					   enum tm_snapshot_what what, const char *name, bool named)
{
	static const struct tm_report_thread threads[] = {{100, "main", 0, 0},
							  {200, "worker", 3 * MS, 9 * MS}};
	struct tm_snapshot *snapshot;
	struct tm_report_save save = {
		.tracebacks = tm_tracer_tracebacks(sample->tracer),
		.modules = &fake_modules,
		.symbolizer = named ? &sample->symbolizer : NULL,
		.snapshots = (const struct tm_snapshot *const *)&snapshot,
		.snapshot_count = 1,
		.threads = threads,
		.thread_count = TM_ARRAY_SIZE(threads),
	};
	struct tm_error *err;

	must(tm_snapshot_take(sample->tracer, what, name, 7 * MS, what == TM_SNAPSHOT_LIVE, &snapshot));
	err = tm_report_writer_save(writer, &save);
	tm_snapshot_destroy(snapshot);
	return err;
}

/* The whole life of a report: `end` and `peak`, as the tracer writes it. */
static inline void sample_write(struct sample *sample, const char *path)
{
	struct tm_report_writer *writer;

	must(tm_report_writer_create(path, false, &writer));
	must(tm_report_writer_meta(writer, "exe", "/bin/app"));
	must(tm_report_writer_meta(writer, "command", "[\"app\", \"-x\", \"caf\xc3\xa9\\udcff  \", \"\"]"));
	must(tm_report_writer_meta(writer, "images", "[{\"exe\": \"/bin/app\", \"time\": 0}]"));
	must(tm_report_writer_meta(writer, "arch", "x86_64"));
	must(tm_report_writer_meta(writer, "ended", "detached"));
	must(tm_report_writer_meta(writer, "probe", "breakpoint"));
	must(tm_report_writer_meta_u64(writer, "pid", 4242));
	must(tm_report_writer_meta_u64(writer, "duration_ns", 2500 * MS));
	must(sample_save(sample, writer, TM_SNAPSHOT_PEAK, "peak", true));
	must(sample_save(sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(tm_report_writer_close(writer));
}

static inline void sample_destroy(struct sample *sample)
{
	tm_tracer_destroy(sample->tracer);
}

#endif
