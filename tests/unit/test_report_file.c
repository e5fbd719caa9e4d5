#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "report/report_schema.h"
#include "support/report_sample.h"

static struct sample_folder folder;

static void make_folder(void)
{
	folder = sample_folder_create();
}

static void remove_folder(void)
{
	sample_folder_remove(&folder);
}

TestSuite(report_file, .init = make_folder, .fini = remove_folder);

/* The first column of the first row, by libsqlite3 itself. */
static int64_t query(const char *sql)
{
	sqlite3 *database = sample_open_database(&folder);
	sqlite3_stmt *statement;
	int64_t number;

	cr_assert_eq(sqlite3_prepare_v2(database, sql, -1, &statement, NULL), SQLITE_OK, "%s",
		     sqlite3_errmsg(database));
	cr_assert_eq(sqlite3_step(statement), SQLITE_ROW, "%s", sql);
	number = sqlite3_column_int64(statement, 0);
	sqlite3_finalize(statement);
	sqlite3_close(database);
	return number;
}

static void change(const char *sql)
{
	sample_run_sql(&folder, sql);
}

static void write_typical(void)
{
	struct sample sample = sample_typical();

	sample_write(&sample, folder.file);
	sample_destroy(&sample);
}

struct opened {
	struct tm_report *report;
	struct tm_report_view view;
};

static struct opened load(const char *snapshot)
{
	struct opened opened;

	must(tm_report_open(folder.file, &opened.report));
	must(tm_report_load(opened.report, snapshot, &opened.view));
	return opened;
}

static const struct tm_trace *find_trace(const struct tm_report_view *view, uint32_t tid, uint64_t size)
{
	for (size_t i = 0; i < view->trace_count; i++)
		if (view->traces[i].tid == tid && view->traces[i].size == size)
			return &view->traces[i];
	cr_assert_fail("no trace of thread %u with %zu bytes", tid, (size_t)size);
	return NULL;
}

Test(report_file, new_file_is_private)
{
	struct tm_report_writer *writer;
	struct stat status;

	umask(0);
	must(tm_report_writer_create(folder.file, false, &writer));
	cr_assert_eq(stat(folder.file, &status), 0);
	cr_expect_eq(status.st_mode & 0777, 0600);
	must(tm_report_writer_close(writer));
}

Test(report_file, existing_file_is_replaced_only_by_force)
{
	struct tm_report_writer *writer;

	write_typical();
	expect_error(tm_report_writer_create(folder.file, false, &writer), TM_ERROR_EXISTS, "--force");
	cr_expect_eq(query("SELECT count(*) FROM snapshot"), 2);
	must(tm_report_writer_create(folder.file, true, &writer));
	must(tm_report_writer_close(writer));
	cr_expect_eq(query("SELECT count(*) FROM snapshot"), 0);
}

Test(report_file, force_replaces_no_folder)
{
	struct tm_report_writer *writer;

	expect_error(tm_report_writer_create(folder.path, true, &writer), TM_ERROR_EXISTS,
		     "not a regular file");
	cr_expect_eq(access(folder.path, F_OK), 0);
}

Test(report_file, folder_that_is_not_there_is_named)
{
	struct tm_report_writer *writer;

	expect_error(tm_report_writer_create("/nonexistent/x.tmt", false, &writer), TM_ERROR_NOT_FOUND,
		     "/nonexistent/x.tmt");
}

/* A -wal of another life, as a tracer that was killed leaves it. */
Test(report_file, stale_wal_is_not_played_into_a_new_file)
{
	struct sample sample = sample_typical();
	struct tm_report_writer *writer;
	char command[256];
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		must(tm_report_writer_create(folder.file, false, &writer));
		must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "stale", true));
		kill(getpid(), SIGKILL);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	snprintf(command, sizeof(command), "cd '%s' && cp *-wal saved && rm *.tmt *-shm", folder.path);
	cr_assert_eq(system(command), 0);
	must(tm_report_writer_create(folder.file, false, &writer)); /* there is no file, only its -wal */
	must(tm_report_writer_close(writer));
	cr_expect_eq(query("SELECT count(*) FROM snapshot"), 0);
	snprintf(command, sizeof(command), "cd '%s' && for f in *.tmt; do cp saved \"$f-wal\"; done",
		 folder.path);
	cr_assert_eq(system(command), 0);
	must(tm_report_writer_create(folder.file, true, &writer));
	must(tm_report_writer_close(writer));
	cr_expect_eq(query("SELECT count(*) FROM snapshot"), 0);
	sample_destroy(&sample);
}

Test(report_file, discarded_file_is_gone)
{
	struct tm_report_writer *writer;

	must(tm_report_writer_create(folder.file, false, &writer));
	must(tm_report_writer_meta(writer, "pid", "1"));
	tm_report_writer_discard(writer);
	cr_expect_eq(sample_folder_entries(&folder), 0);
	tm_report_writer_discard(NULL);
}

Test(report_file, closed_report_is_one_file)
{
	write_typical();
	cr_expect_eq(sample_folder_entries(&folder), 1);
	cr_expect_eq(query("SELECT count(*) FROM pragma_journal_mode WHERE journal_mode = 'delete'"), 1);
	cr_expect_eq(query("PRAGMA application_id"), TM_REPORT_APPLICATION_ID);
	cr_expect_eq(query("PRAGMA user_version"), TM_REPORT_VERSION);
}

Test(report_file, meta_is_replaced_and_found)
{
	struct tm_report_writer *writer;
	struct tm_report *report;

	must(tm_report_writer_create(folder.file, false, &writer));
	must(tm_report_writer_meta(writer, "ended", "killed"));
	must(tm_report_writer_meta(writer, "ended", "exited"));
	must(tm_report_writer_meta_u64(writer, "lost", UINT64_MAX));
	must(tm_report_writer_close(writer));
	must(tm_report_open(folder.file, &report));
	cr_expect_str_eq(tm_report_meta(report, "ended"), "exited");
	cr_expect_str_eq(tm_report_meta(report, "lost"), "18446744073709551615");
	cr_expect_null(tm_report_meta(report, "pid"));
	tm_report_close(report);
}

Test(report_file, statistics_come_back_with_thread_and_traceback)
{
	const struct tm_trace *trace;
	struct opened opened;

	write_typical();
	opened = load("end");
	cr_assert_eq(opened.view.trace_count, 3);
	trace = find_trace(&opened.view, 100, 200);
	cr_expect_eq(trace->count, 1);
	cr_expect_eq(trace->domain, 0);
	cr_expect_str_eq(trace->thread_name, "main");
	cr_expect_eq(trace->total_nframe, 9);
	cr_expect_str_eq(trace->cut, "limit");
	cr_assert_eq(trace->frame_count, 3);
	cr_expect_str_eq(trace->frames[0]->function, "strdup");
	cr_expect_str_eq(trace->frames[1]->function, "run");
	cr_expect_str_eq(trace->frames[2]->function, "main");
	cr_expect_str_eq(trace->frames[2]->source, "run();");
	cr_expect_str_eq(find_trace(&opened.view, 200, 500)->thread_name, "worker");
	tm_report_close(opened.report);
}

Test(report_file, frame_without_line_has_its_module_as_filename)
{
	const struct tm_named_frame *frame;
	struct opened opened;

	write_typical();
	opened = load("end");
	frame = find_trace(&opened.view, 100, 200)->frames[0];
	cr_expect_str_eq(frame->filename, "/lib/libc.so.6");
	cr_expect_str_eq(frame->module, "/lib/libc.so.6");
	cr_expect_eq(frame->lineno, 0);
	cr_expect_eq(frame->offset, 0x100);
	cr_expect_null(frame->source);
	tm_report_close(opened.report);
}

Test(report_file, inlined_call_is_a_frame_of_its_own)
{
	const struct tm_trace *trace;
	struct opened opened;

	write_typical();
	opened = load("end");
	trace = find_trace(&opened.view, 100, 1000);
	cr_assert_eq(trace->frame_count, 4);
	cr_expect_eq(trace->total_nframe, 3);
	cr_expect_str_eq(trace->frames[0]->function, "make");
	cr_expect_str_eq(trace->frames[1]->function, "make_all");
	cr_expect_eq(trace->frames[1]->lineno, 33);
	cr_expect_str_eq(trace->frames[2]->function, "run");
	tm_report_close(opened.report);
}

Test(report_file, totals_of_a_snapshot_are_those_of_its_moment)
{
	struct sample sample = sample_typical();
	struct tm_report_writer *writer;
	struct tm_totals totals;
	struct opened opened;

	must(tm_report_writer_create(folder.file, false, &writer));
	must(tm_report_writer_meta_u64(writer, "lost", 12));
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "early", true));
	sample_allocate(&sample, 100, 1, 300);
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(tm_report_writer_close(writer));
	opened = load("early");
	totals = opened.view.totals.totals;
	cr_expect_eq(totals.current, 1700);
	cr_expect_eq(totals.blocks, 3);
	cr_expect_eq(totals.peak, 5700);
	cr_expect_eq(totals.peak_blocks, 4);
	cr_expect_eq(totals.allocations, 4);
	cr_expect_eq(totals.allocated, 5700);
	cr_expect_eq(totals.frees, 1);
	cr_expect_eq(totals.unknown_frees, 1);
	cr_expect_eq(totals.failed, 1);
	cr_expect_eq(opened.view.totals.lost, 12);
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

Test(report_file, peak_has_the_bytes_of_the_peak)
{
	uint64_t size = 0;
	struct opened opened;

	write_typical();
	opened = load("peak");
	for (size_t i = 0; i < opened.view.trace_count; i++)
		size += opened.view.traces[i].size;
	cr_expect_eq(size, opened.view.totals.totals.peak);
	cr_expect_eq(opened.view.time, 7 * MS);
	cr_expect_str_eq(opened.view.snapshot_name, "peak");
	tm_report_close(opened.report);
}

/* Blocks of a sample, one in about 1000 bytes. */
static struct sample sample_of_sample(void)
{
	struct sample sample = sample_create();

	tm_tracer_sample(sample.tracer, 1000);
	sample_allocate(&sample, 100, sample_traceback(&sample, make_frames, 3, 3, TM_CUT_NONE), 700);
	cr_assert(tm_tracer_untrack(sample.tracer, 0, sample_allocate(&sample, 200, 1, 300)));
	return sample;
}

Test(report_file, variances_come_back)
{
	struct sample sample = sample_of_sample();
	struct tm_totals totals = tm_tracer_totals(sample.tracer, 0);
	struct tm_report_writer *writer;
	struct opened opened;

	sample_write(&sample, folder.file);
	opened = load("end");
	cr_expect_eq(opened.view.sample, 0);
	cr_assert_eq(opened.view.trace_count, 1);
	cr_expect_eq(opened.view.traces[0].size_variance, totals.current_variance);
	cr_expect_eq(opened.view.domains[0].totals.current_variance, totals.current_variance);
	cr_expect_eq(opened.view.totals.totals.peak_variance, totals.peak_variance);
	cr_expect_gt(totals.peak_variance, totals.current_variance);
	tm_report_close(opened.report);
	must(tm_report_writer_create(folder.file, true, &writer));
	must(tm_report_writer_meta_u64(writer, "sample", 1000));
	must(sample_save(&sample, writer, TM_SNAPSHOT_PEAK, "peak", true));
	must(tm_report_writer_close(writer));
	opened = load("peak");
	cr_expect_eq(opened.view.sample, 1000);
	cr_assert_eq(opened.view.trace_count, 2);
	cr_expect_float_eq(opened.view.traces[0].size_variance + opened.view.traces[1].size_variance,
			   totals.peak_variance, 1);
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

/* Makes of the file one of version 1: it had no variances. */
static void make_version_1(void)
{
	change("ALTER TABLE snapshot DROP COLUMN current_variance;"
	       "ALTER TABLE snapshot DROP COLUMN peak_variance;"
	       "ALTER TABLE snapshot_domain DROP COLUMN current_variance;"
	       "ALTER TABLE snapshot_domain DROP COLUMN peak_variance;"
	       "ALTER TABLE statistic DROP COLUMN size_variance;"
	       "PRAGMA user_version = 1");
	for (size_t i = 0; i < tm_schema_count; i++) {
		const char *text = tm_schema[i].sql_of_version_1;
		char *sql = sqlite3_mprintf("PRAGMA writable_schema = ON;"
					    "UPDATE sqlite_schema SET sql = %Q WHERE name = %Q",
					    text, tm_schema[i].name);

		if (text)
			change(sql);
		sqlite3_free(sql);
	}
}

Test(report_file, version_1_is_read)
{
	struct opened opened;

	write_typical();
	make_version_1();
	opened = load("end");
	cr_expect_eq(opened.view.totals.totals.current, 1700);
	cr_expect_eq(opened.view.totals.totals.failed, 1);
	cr_expect_eq(opened.view.totals.totals.peak_variance, 0);
	cr_assert_eq(opened.view.trace_count, 3);
	cr_expect_eq(find_trace(&opened.view, 200, 500)->size_variance, 0);
	tm_report_close(opened.report);
}

Test(report_file, domains_are_told_apart)
{
	struct sample sample = sample_typical();
	struct tm_allocation other = {
		.domain = 389047, .tid = 100, .traceback = 1, .address = 0x1000, .size = 77};
	struct opened opened;

	must(tm_tracer_track(sample.tracer, &other));
	sample_write(&sample, folder.file);
	opened = load("end");
	cr_assert_eq(opened.view.domain_count, 2);
	cr_expect_eq(opened.view.domains[0].domain, 0);
	cr_expect_eq(opened.view.domains[0].totals.current, 1700);
	cr_expect_eq(opened.view.domains[1].domain, 389047);
	cr_expect_eq(opened.view.domains[1].totals.current, 77);
	cr_expect_eq(opened.view.totals.totals.current, 1700);
	cr_expect_eq(find_trace(&opened.view, 100, 77)->domain, 389047);
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

Test(report_file, empty_traceback_has_no_frames)
{
	struct sample sample = sample_create();
	struct opened opened;

	sample_allocate(&sample, 1, 0, 10);
	sample_write(&sample, folder.file);
	opened = load("end");
	cr_assert_eq(opened.view.trace_count, 1);
	cr_expect_eq(opened.view.traces[0].frame_count, 0);
	cr_expect_eq(query("SELECT count(*) FROM top WHERE filename = '<unknown>' AND size = 10"), 1);
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

Test(report_file, deepest_traceback_is_stored)
{
	static struct tm_frame frames[TM_NFRAME_MAX];
	struct sample sample = sample_create();
	struct opened opened;

	for (uint32_t i = 0; i < TM_NFRAME_MAX; i++)
		frames[i] = (struct tm_frame){i % 7, 2};
	sample_allocate(&sample, 1,
			sample_traceback(&sample, frames, TM_NFRAME_MAX, TM_NFRAME_MAX, TM_CUT_NONE), 10);
	sample_write(&sample, folder.file);
	opened = load("end");
	cr_assert_eq(opened.view.traces[0].frame_count, TM_NFRAME_MAX);
	for (uint32_t i = 0; i < TM_NFRAME_MAX; i++)
		cr_assert_eq(opened.view.traces[0].frames[i]->offset, i % 7);
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

Test(report_file, equal_callers_share_their_rows)
{
	write_typical();
	/* main <- run is one path; make and strdup hang on it */
	cr_expect_eq(query("SELECT count(*) FROM traceback"), 4);
	cr_expect_eq(query("SELECT count(*) FROM traceback WHERE parent IS NULL"), 1);
	/* main, run, make, make_all, strdup */
	cr_expect_eq(query("SELECT count(*) FROM frame"), 5);
	cr_expect_eq(query("SELECT count(*) FROM frame AS f JOIN frame AS g ON f.inlined_into = g.id "
			   "WHERE f.function = 'make' AND g.function = 'make_all'"),
		     1);
}

Test(report_file, cut_and_whole_tracebacks_of_equal_frames_stay_apart)
{
	struct sample sample = sample_create();
	struct opened opened;

	sample_allocate(&sample, 1, sample_traceback(&sample, make_frames, 3, 3, TM_CUT_NONE), 1);
	sample_allocate(&sample, 1, sample_traceback(&sample, make_frames, 3, 7, TM_CUT_LIMIT), 2);
	sample_allocate(&sample, 1, sample_traceback(&sample, make_frames, 3, 3, TM_CUT_NO_CFI), 4);
	sample_allocate(&sample, 1, sample_traceback(&sample, make_frames, 2, 2, TM_CUT_NO_CFI), 8);
	sample_write(&sample, folder.file);
	opened = load("end");
	cr_expect_str_eq(find_trace(&opened.view, 1, 1)->cut, "");
	cr_expect_str_eq(find_trace(&opened.view, 1, 2)->cut, "limit");
	cr_expect_eq(find_trace(&opened.view, 1, 2)->total_nframe, 7);
	cr_expect_str_eq(find_trace(&opened.view, 1, 4)->cut, "no-cfi");
	cr_assert_eq(opened.view.cut_count, 2);
	cr_expect_str_eq(opened.view.cuts[0].cut, "no-cfi");
	cr_expect_eq(opened.view.cuts[0].tracebacks, 2);
	cr_expect_str_eq(opened.view.cuts[1].cut, "limit");
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

Test(report_file, snapshot_of_the_same_name_is_replaced)
{
	struct sample sample = sample_typical();
	struct tm_report_writer *writer;
	struct opened opened;

	must(tm_report_writer_create(folder.file, false, &writer));
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "other", true));
	sample_allocate(&sample, 100, 1, 300);
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(tm_report_writer_close(writer));
	opened = load("end");
	cr_expect_eq(opened.view.totals.totals.current, 2000);
	tm_report_close(opened.report);
	cr_expect_eq(query("SELECT count(*) FROM snapshot"), 2);
	cr_expect_eq(query("SELECT count(*) FROM block"), 4 + 3);
	cr_expect_eq(query("SELECT count(*) FROM statistic"), 3 + 3);
	sample_destroy(&sample);
}

Test(report_file, frames_are_named_by_a_later_save)
{
	struct sample sample = sample_typical();
	struct tm_report_writer *writer;
	struct opened opened;

	must(tm_report_writer_create(folder.file, false, &writer));
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", false));
	opened = load("end");
	cr_expect_null(find_trace(&opened.view, 100, 1000)->frames[0]->function);
	cr_expect_str_eq(find_trace(&opened.view, 100, 1000)->frames[0]->filename, "/bin/app");
	tm_report_close(opened.report);
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	cr_expect_eq(sample.symbolizer.calls, 4, "each distinct frame once");
	must(tm_report_writer_close(writer));
	opened = load("end");
	cr_expect_str_eq(find_trace(&opened.view, 100, 1000)->frames[0]->function, "make");
	cr_expect_str_eq(find_trace(&opened.view, 100, 1000)->frames[1]->function, "make_all");
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

Test(report_file, failing_symbolizer_costs_names_and_leaves_the_reason)
{
	struct sample sample = sample_typical();

	sample.symbolizer.failure = "line table ends early";
	sample_write(&sample, folder.file);
	cr_expect_eq(query("SELECT sum(size) FROM statistic JOIN snapshot ON snapshot.id = snapshot WHERE "
			   "name = 'end'"),
		     1700);
	cr_expect_eq(query("SELECT problem = 'line table ends early' FROM module WHERE id = 1"), 1);
	cr_expect_eq(query("SELECT problem = 'no debug file' FROM module WHERE id = 2"), 1);
	sample_destroy(&sample);
}

Test(report_file, allocator_wrappers_are_skipped)
{
	static const struct tm_frame frames[] = {{0x40, 1}, {0x50, 1}, {0x20, 1}};
	struct sample sample = sample_create();
	const struct tm_trace *trace;
	struct opened opened;

	sample_allocate(&sample, 1, sample_traceback(&sample, frames, 3, 3, TM_CUT_NONE), 10);
	sample_write(&sample, folder.file);
	cr_expect_eq(query("SELECT lineno FROM top"), 5);
	opened = load("end");
	trace = &opened.view.traces[0];
	cr_expect(trace->frames[0]->skipped);
	cr_expect_not(trace->frames[1]->skipped);
	tm_report_close(opened.report);
	change("INSERT INTO meta VALUES ('skip', 'foo*' || char(10) || 'xma*c')"); /* a reader regroups */
	opened = load("end");
	cr_expect(opened.view.traces[0].frames[1]->skipped);
	cr_expect_not(opened.view.traces[0].frames[2]->skipped);
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

Test(report_file, globs_mark_frames_that_are_stored_before_and_after)
{
	static const struct tm_frame early[] = {{0x50, 1}, {0x20, 1}}, late[] = {{0x60, 1}, {0x10, 1}};
	struct sample sample = sample_create();
	struct tm_report_writer *writer;

	must(tm_report_writer_create(folder.file, false, &writer));
	sample_allocate(&sample, 1, sample_traceback(&sample, early, 2, 2, TM_CUT_NONE), 10);
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(tm_report_writer_meta(writer, "skip", "xmalloc\nodd\n"));
	sample_allocate(&sample, 1, sample_traceback(&sample, late, 2, 2, TM_CUT_NONE), 20);
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(tm_report_writer_close(writer));
	cr_expect_eq(query("SELECT count(*) FROM frame WHERE skipped"), 2);
	cr_expect_eq(query("SELECT size FROM top WHERE function = 'run'"), 10);
	cr_expect_eq(query("SELECT size FROM top WHERE function = 'main'"), 20);
	sample_destroy(&sample);
}

Test(report_file, traceback_of_nothing_but_wrappers_belongs_to_the_most_recent)
{
	static const struct tm_frame frames[] = {{0x40, 1}, {0x40, 1}};
	struct sample sample = sample_create();

	sample_allocate(&sample, 1, sample_traceback(&sample, frames, 2, 2, TM_CUT_NONE), 10);
	sample_write(&sample, folder.file);
	cr_expect_eq(query("SELECT lineno FROM top WHERE size = 10"), 50);
	sample_destroy(&sample);
}

Test(report_file, blocks_of_the_end_are_stored)
{
	write_typical();
	cr_expect_eq(query("SELECT sum(block.size) FROM block JOIN snapshot ON snapshot.id = snapshot AND "
			   "name = 'end'"),
		     1700);
	cr_expect_eq(query("SELECT count(*) FROM block WHERE time = 5000000"), 3);
	cr_expect_eq(
		query("SELECT count(*) FROM block JOIN statistic USING (snapshot, domain, tid, traceback)"),
		3);
}

Test(report_file, high_addresses_survive)
{
	struct sample sample = sample_create();

	sample.next_address = 0xffffffffff600000;
	sample_allocate(&sample, 1, 0, 10);
	sample_write(&sample, folder.file);
	cr_expect_eq((uint64_t)query("SELECT address FROM block"), 0xffffffffff610000);
	sample_destroy(&sample);
}

Test(report_file, timeline_and_threads_are_stored)
{
	static const struct tm_report_sample samples[] = {{1 * MS, 10, 1, 4096}, {2 * MS, 30, 2, 8192}};
	struct sample sample = sample_create();
	struct tm_report_writer *writer;
	struct tm_report_save save = {
		.tracebacks = tm_tracer_tracebacks(sample.tracer),
		.modules = &fake_modules,
		.samples = samples,
		.sample_count = 2,
	};

	must(tm_report_writer_create(folder.file, false, &writer));
	must(tm_report_writer_save(writer, &save));
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(tm_report_writer_close(writer));
	cr_expect_eq(query("SELECT max(rss) FROM timeline"), 8192);
	cr_expect_eq(query("SELECT first_seen FROM thread WHERE name = 'worker'"), 3000000);
	cr_expect_eq(query("SELECT bias FROM module WHERE is_main"), 0x555555554000);
	sample_destroy(&sample);
}

/* Another program's view of the file. */
Test(report_file, sqlite_shell_finds_it_sound_and_top_adds_up)
{
	char command[512], line[256], *text = NULL;
	size_t size = 0;
	FILE *shell, *all = open_memstream(&text, &size);

	write_typical();
	snprintf(command, sizeof(command),
		 "command -v sqlite3 >/dev/null || exit 99; sqlite3 '%s' 'PRAGMA integrity_check' 'PRAGMA "
		 "foreign_key_check' "
		 "'SELECT * FROM top' 'SELECT sum(size), sum(count) FROM top'",
		 folder.file);
	shell = popen(command, "r");
	while (fgets(line, sizeof(line), shell))
		fputs(line, all);
	fclose(all);
	if (pclose(shell) == 99 << 8) {
		free(text);
		cr_skip_test("sqlite3 is not installed");
	}
	cr_expect_str_eq(text, "ok\n"
			       "1500|2|750|/src/make.c|3|make|return malloc(size);|0\n"
			       "200|1|200|/lib/libc.so.6|0|strdup||0\n"
			       "1700|3\n");
	free(text);
}

Test(report_file, report_is_read_while_it_is_written)
{
	struct sample sample = sample_typical();
	struct tm_report_writer *writer;
	struct opened opened;

	must(tm_report_writer_create(folder.file, false, &writer));
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	opened = load("end");
	cr_expect_eq(opened.view.totals.totals.current, 1700);
	sample_allocate(&sample, 100, 1, 300);
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(tm_report_load(opened.report, "end", &opened.view));
	cr_expect_eq(opened.view.totals.totals.current, 2000);
	must(tm_report_writer_close(writer)); /* the report is still open, the file is not */
	cr_expect_eq(sample_folder_entries(&folder), 1);
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

Test(report_file, killed_tracer_leaves_its_last_save)
{
	struct sample sample = sample_typical();
	struct tm_report_writer *writer;
	struct opened opened;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		must(tm_report_writer_create(folder.file, false, &writer));
		must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
		kill(getpid(), SIGKILL);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_assert(WIFSIGNALED(status));
	opened = load("end");
	cr_expect_eq(opened.view.totals.totals.current, 1700);
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

Test(report_file, reader_that_stays_is_told_and_loses_nothing)
{
	struct sample sample = sample_typical();
	struct tm_report_writer *writer;
	struct opened opened;
	sqlite3 *other;

	must(tm_report_writer_create(folder.file, false, &writer));
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	other = sample_open_database(&folder);
	cr_assert_eq(sqlite3_exec(other, "SELECT count(*) FROM meta", NULL, NULL, NULL), SQLITE_OK);
	expect_error(tm_report_writer_close(writer), TM_ERROR_TIMEOUT, "another program has it open");
	sqlite3_close(other);
	opened = load("end");
	cr_expect_eq(opened.view.totals.totals.current, 1700);
	tm_report_close(opened.report);
	sample_destroy(&sample);
}

/* As nobody, who may not create files there: a test as root sees every folder writable. */
static int read_as_nobody(void)
{
	struct tm_report *report;
	struct tm_report_view view;
	struct tm_error *err;

	if (geteuid() == 0 && setuid(65534) != 0)
		return 1;
	err = tm_report_open(folder.file, &report);
	if (!err)
		err = tm_report_load(report, "end", &view);
	if (err)
		fprintf(stderr, "%s\n", err->message);
	return err || view.totals.totals.current != 1700;
}

Test(report_file, wal_file_in_a_read_only_folder_is_read)
{
	int status;
	pid_t pid;

	write_typical();
	change("PRAGMA journal_mode = WAL"); /* as a tracer leaves it whose close was not let */
	cr_assert_eq(sample_folder_entries(&folder), 1);
	cr_assert_eq(chmod(folder.file, 0444), 0);
	cr_assert_eq(chmod(folder.path, 0555), 0);
	pid = fork();
	if (pid == 0)
		_exit(read_as_nobody());
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	cr_assert_eq(chmod(folder.path, 0755), 0);
}

Test(report_file, save_that_failed_is_undone_and_the_next_one_is_whole)
{
	struct sample sample = sample_typical();
	struct rlimit limit, small;
	struct tm_report_writer *writer;
	struct opened opened;

	for (uint32_t i = 0; i < 3000; i++) {
		struct tm_frame frames[] = {{0x1000 + i, 1}, {0x10, 1}};

		sample_allocate(&sample, 1, sample_traceback(&sample, frames, 2, 2, TM_CUT_NONE), 10);
	}
	must(tm_report_writer_create(folder.file, false, &writer));
	must(sample_save(&sample, writer, TM_SNAPSHOT_PEAK, "before", false));
	signal(SIGXFSZ, SIG_IGN); /* a write behind the limit then fails with EFBIG */
	for (uint32_t i = 0; i < 3000; i++) {
		struct tm_frame frames[] = {{0x2000 + i, 1}, {0x10, 1}};

		sample_allocate(&sample, 1, sample_traceback(&sample, frames, 2, 2, TM_CUT_NONE), 10);
	}
	cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
	small = (struct rlimit){100000, limit.rlim_max};
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
	expect_error(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true), TM_ERROR_OTHER,
		     folder.file);
	cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	cr_expect_eq(query("SELECT count(*) FROM snapshot"), 1);
	must(sample_save(&sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	must(tm_report_writer_close(writer));
	opened = load("end");
	cr_expect_eq(opened.view.trace_count, 6003);
	cr_expect_str_eq(find_trace(&opened.view, 100, 1000)->frames[0]->function, "make");
	tm_report_close(opened.report);
	cr_expect_eq(query("SELECT count(*) FROM pragma_foreign_key_check"), 0);
	sample_destroy(&sample);
}

static void name_for_test(void *context, struct tm_frame place, const char **function, const char **filename,
			  uint32_t *lineno)
{
	*function = context;
	*filename = place.module == 0x80000001 ? "/src/b.py" : "/src/a.py";
	*lineno = (uint32_t)place.offset;
}

/* They have their names from the first save on; the text of the line comes with the last. */
Test(report_file, frames_of_an_interpreter_are_named_by_it)
{
	static const struct tm_frame frames[] = {{7, 0x80000001}, {3, 0x80000000}};
	const struct tm_named_frames named = {0x80000000, 2, "make", name_for_test};
	struct sample sample = sample_create();
	struct tm_snapshot *snapshot;
	struct tm_report_save save = {.tracebacks = tm_tracer_tracebacks(sample.tracer),
				      .modules = &fake_modules,
				      .named = &named,
				      .snapshots = (const struct tm_snapshot *const *)&snapshot,
				      .snapshot_count = 1};
	struct tm_report_writer *writer;

	sample_allocate(&sample, 1, sample_traceback(&sample, frames, 2, 2, TM_CUT_NONE), 10);
	must(tm_snapshot_take(sample.tracer, TM_SNAPSHOT_LIVE, "end", 1, true, &snapshot));
	must(tm_report_writer_create(folder.file, false, &writer));
	must(tm_report_writer_save(writer, &save));
	cr_expect_eq(
		query("SELECT count(*) FROM frame WHERE function = 'make' AND source IS NULL AND module = 2"),
		2);
	cr_expect_eq(query("SELECT lineno FROM frame WHERE filename = '/src/b.py'"), 7);
	save.symbolizer = &sample.symbolizer;
	must(tm_report_writer_save(writer, &save));
	must(tm_report_writer_close(writer));
	cr_expect_eq(query("SELECT count(*) FROM frame WHERE source = 'text of /src/b.py:7'"), 1);
	cr_expect_eq(query("SELECT count(*) FROM frame"), 2);
	cr_expect_eq(query("SELECT count(*) FROM pragma_foreign_key_check"), 0);
	cr_expect_eq(sample.symbolizer.calls, 0);
	tm_snapshot_destroy(snapshot);
	sample_destroy(&sample);
}

/* make() as a part of the allocator: the same place as elsewhere, and another frame. */
Test(report_file, inner_frames_own_no_line)
{
	static const struct tm_frame inner[] = {{0x30, 1 | TM_FRAME_INNER}, {0x20, 1}, {0x10, 1}};
	struct sample sample = sample_create();
	struct tm_statistics statistics;
	struct opened opened;

	sample_allocate(&sample, 100, sample_traceback(&sample, inner, 3, 3, TM_CUT_NONE), 1000);
	sample_allocate(&sample, 100, sample_traceback(&sample, make_frames, 3, 3, TM_CUT_NONE), 10);
	sample_write(&sample, folder.file);
	sample_destroy(&sample);
	opened = load("end");
	must(tm_statistics_compute(opened.view.traces, opened.view.trace_count, TM_GROUP_LINENO, false,
				   &statistics));
	cr_assert_eq(statistics.count, 2);
	cr_expect_str_eq(statistics.items[0].frames[0]->filename, "/src/app.c");
	cr_expect_eq(statistics.items[0].frames[0]->lineno, 20);
	cr_expect_eq(statistics.items[0].size, 1000);
	cr_expect_str_eq(statistics.items[1].frames[0]->filename, "/src/make.c");
	cr_expect_eq(statistics.items[1].size, 10);
	tm_statistics_deinit(&statistics);
	tm_report_close(opened.report);
	cr_expect_eq(query("SELECT lineno FROM top WHERE size = 1000"), 20);
	cr_expect_eq(query("SELECT lineno FROM top WHERE size = 10"), 3);
	cr_expect_eq(query("SELECT count(*) FROM frame WHERE skipped = 2 AND module = 1"), 2);
}
