/*
 * The report's reader on damaged files. The first byte chooses how the rest is used: as bytes laid over a
 * sound report at some place (what a bad disk does), or as values of rows in sound tables (what a hostile
 * writer does; SQLite sees nothing wrong there, so every check is the reader's own).
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "report/render.h"
#include "report/report_schema.h"
#include "support/report_sample.h"

struct input {
	const uint8_t *bytes;
	size_t size;
};

static uint8_t take(struct input *input)
{
	if (!input->size)
		return 0;
	input->size--;
	return *input->bytes++;
}

/* Small numbers mostly: they hit ids that exist. */
static int64_t take_number(struct input *input)
{
	uint8_t first = take(input);
	uint64_t number = 0;

	if (first < 0xf0)
		return first % 24;
	for (int i = 0; i < 8; i++)
		number = number << 8 | take(input);
	return (int64_t)number;
}

static const char *const row_texts[] = {
	"INSERT OR REPLACE INTO frame VALUES (%lld, %lld, %lld, 'f', 'a.c', %lld, NULL, nullif(%lld, 0), 0)",
	"INSERT OR REPLACE INTO traceback VALUES (%lld, nullif(%lld, 0), nullif(%lld, 0), %lld, %lld, '')",
	"INSERT OR REPLACE INTO statistic VALUES (1 + 0 * %lld, %lld, %lld, %lld, %lld, 1)",
	"UPDATE frame SET function = 'operator new(' || %lld || ')' WHERE id = %lld AND %lld + %lld + %lld",
	"UPDATE traceback SET cut = 'limit' WHERE id = %lld AND %lld + %lld + %lld + %lld",
	"INSERT OR REPLACE INTO thread VALUES (%lld, 't', %lld, %lld + %lld + %lld)",
	"INSERT OR REPLACE INTO snapshot_domain VALUES (%lld, %lld, 1, 2, 3, 4, 5, 6, 7, %lld, %lld + %lld)",
};

static void change_rows(const char *path, struct input *input)
{
	sqlite3 *database;

	sqlite3_open_v2(path, &database, SQLITE_OPEN_READWRITE, NULL);
	sqlite3_exec(database, "PRAGMA synchronous = OFF; PRAGMA journal_mode = MEMORY; BEGIN", NULL, NULL,
		     NULL);
	while (input->size) {
		const char *format = row_texts[take(input) % TM_ARRAY_SIZE(row_texts)];
		long long a = take_number(input), b = take_number(input), c = take_number(input);
		long long d = take_number(input), e = take_number(input);
		char sql[512];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		snprintf(sql, sizeof(sql), format, a, b, c, d, e);
#pragma GCC diagnostic pop
		sqlite3_exec(database, sql, NULL, NULL, NULL);
	}
	sqlite3_exec(database, "COMMIT", NULL, NULL, NULL);
	sqlite3_close(database);
}

static void overlay_bytes(int fd, struct input *input)
{
	while (input->size) {
		off_t place = (off_t)(take(input) << 8 | take(input));
		size_t size = take(input) % 16 + 1;

		if (size > input->size)
			size = input->size;
		if (size && pwrite(fd, input->bytes, size, place) < 0)
			abort();
		input->bytes += size;
		input->size -= size;
	}
}

static char *sound_report;
static size_t sound_size;

static void make_sound_report(const char *path)
{
	struct sample sample = sample_typical();
	FILE *file;

	unlink(path);
	sample_write(&sample, path);
	sample_destroy(&sample);
	file = fopen(path, "r");
	sound_report = malloc(1 << 20);
	sound_size = fread(sound_report, 1, 1 << 20, file);
	fclose(file);
}

static void read_all(const char *path)
{
	static const char *const snapshots[] = {"end", "peak"};
	_cleanup_fclose_ FILE *out = fopen("/dev/null", "w");
	struct tm_report *report;
	struct tm_error *err = tm_report_open(path, &report);

	if (err) {
		tm_error_destroy(err);
		return;
	}
	for (size_t i = 0; i < 2; i++) {
		struct tm_report_view view;
		struct tm_render_options options = {.group_by = i ? TM_GROUP_LINENO : TM_GROUP_TRACEBACK,
						    .limit = 50};

		err = tm_report_load(report, snapshots[i], &view);
		if (!err)
			err = tm_render_text(report, &view, &options, out);
		if (!err)
			err = tm_render_json(report, &view, &options, out);
		tm_error_destroy(err);
	}
	tm_report_close(report);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input input = {data, size};
	bool as_rows = take(&input) & 1;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/dev/shm/fuzz_report_%d", getpid());
	if (!sound_report)
		make_sound_report(path);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, sound_report, sound_size) != (ssize_t)sound_size)
		abort();
	if (!as_rows)
		overlay_bytes(fd, &input);
	close(fd);
	if (as_rows)
		change_rows(path, &input);
	read_all(path);
	unlink(path);
	return 0;
}
