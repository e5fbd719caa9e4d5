/* Files that are no report, or a report no more: each is an error that names the file, and soon. */
#include <criterion/criterion.h>
#include <sqlite3.h>
#include <unistd.h>

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

TestSuite(report_damage, .init = make_folder, .fini = remove_folder);

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

Test(report_damage, missing_file_is_not_found)
{
	struct tm_report *report;

	expect_error(tm_report_open(folder.file, &report), TM_ERROR_NOT_FOUND, folder.file);
}

static void write_text(const char *text)
{
	FILE *file = fopen(folder.file, "w");

	fputs(text, file);
	fclose(file);
}

Test(report_damage, other_files_are_no_reports)
{
	static const char long_text[] =
		"This is a text that is longer than the header of a database, which has one hundred "
		"bytes, so that it is looked at.";
	struct tm_report *report;

	write_text("");
	expect_error(tm_report_open(folder.file, &report), TM_ERROR_BAD_FORMAT, "not a tmtrace report");
	write_text(long_text);
	expect_error(tm_report_open(folder.file, &report), TM_ERROR_BAD_FORMAT, "not a tmtrace report");
	write_text("");
	change("CREATE TABLE meta (key, value)");
	expect_error(tm_report_open(folder.file, &report), TM_ERROR_BAD_FORMAT, "not a tmtrace report");
	expect_error(tm_report_open(folder.path, &report), TM_ERROR_BAD_FORMAT, "not a regular file");
}

Test(report_damage, newer_version_names_the_cure)
{
	struct tm_report *report;

	write_typical();
	change("PRAGMA user_version = 3");
	expect_error(tm_report_open(folder.file, &report), TM_ERROR_BAD_FORMAT, "use a newer tmtrace");
}

Test(report_damage, unknown_snapshot_names_those_that_exist)
{
	struct tm_report *report;
	struct tm_report_view view;

	write_typical();
	must(tm_report_open(folder.file, &report));
	expect_error(tm_report_load(report, "noon", &view), TM_ERROR_NOT_FOUND,
		     "no snapshot 'noon': it has peak, end");
	tm_report_close(report);
}

/* Rows that no tracer writes: each must be an error, and soon. */
static const char *const damages[] = {
	"UPDATE traceback SET parent = id",
	"UPDATE traceback SET parent = (SELECT max(id) FROM traceback)",
	"UPDATE traceback SET parent = 99 WHERE parent IS NOT NULL",
	"UPDATE traceback SET depth = depth + 1",
	"UPDATE traceback SET depth = -1",
	"UPDATE traceback SET frame = 99",
	"UPDATE traceback SET frame = NULL",
	"UPDATE traceback SET cut = 'scissors'",
	"UPDATE traceback SET total_nframe = -1",
	"DELETE FROM traceback",
	"DELETE FROM frame",
	"UPDATE frame SET inlined_into = id",
	"UPDATE frame SET inlined_into = 1",
	"UPDATE frame SET inlined_into = 99",
	"UPDATE frame SET lineno = -1",
	"UPDATE frame SET lineno = 1 << 40",
	"UPDATE statistic SET size = -1",
	"UPDATE statistic SET count = -1",
	"UPDATE statistic SET size_variance = -1",
	"UPDATE statistic SET size_variance = 9e999",
	"UPDATE snapshot_domain SET current_variance = -1",
	"UPDATE snapshot_domain SET peak_variance = 9e999",
	"PRAGMA user_version = 1",
	"UPDATE statistic SET tid = 1 << 40 WHERE tid = 200",
	"UPDATE statistic SET traceback = 0 WHERE tid = 200",
	"DROP TABLE thread",
	"ALTER TABLE frame ADD COLUMN more INTEGER GENERATED ALWAYS AS (length(zeroblob(id * 1000000000)))",
	("DROP TABLE frame;"
	 "CREATE VIEW frame AS WITH c AS (VALUES (1) UNION ALL SELECT 1 FROM c) SELECT 1 FROM c"),
};

Test(report_damage, damaged_rows_are_found)
{
	struct sample sample = sample_typical();

	for (size_t i = 0; i < TM_ARRAY_SIZE(damages); i++) {
		struct tm_report *report = NULL;
		struct tm_report_view view;
		struct tm_error *err;

		sample_write(&sample, folder.file);
		change(damages[i]);
		err = tm_report_open(folder.file, &report);
		if (!err)
			err = tm_report_load(report, "end", &view);
		cr_expect(err, "%s", damages[i]);
		if (err)
			cr_expect_eq(err->code, TM_ERROR_BAD_FORMAT, "%s: %s", damages[i], err->message);
		tm_error_destroy(err);
		tm_report_close(report);
		unlink(folder.file);
	}
	sample_destroy(&sample);
}

Test(report_damage, prefix_of_a_report_is_an_error_or_the_whole)
{
	struct stat status;

	write_typical();
	cr_assert_eq(stat(folder.file, &status), 0);
	for (off_t size = status.st_size - 1; size > 0; size -= 511) {
		struct tm_report *report = NULL;
		struct tm_report_view view;
		struct tm_error *err;

		cr_assert_eq(truncate(folder.file, size), 0);
		err = tm_report_open(folder.file, &report);
		if (!err)
			err = tm_report_load(report, "end", &view);
		/* The last byte of a page may be one that nothing uses. */
		cr_expect(err || (view.trace_count == 3 && view.totals.totals.current == 1700),
			  "the first %ld bytes", (long)size);
		tm_error_destroy(err);
		tm_report_close(report);
	}
}
