/*
 * Saving and loading a big report: a million live blocks, 20 000 tracebacks of 30 frames. Prints seconds, the
 * writer's memory and the file's size. Usage: bench_report FILE [BLOCKS]
 */
#include <criterion/criterion.h>
#include <malloc.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "support/report_sample.h"

#define TRACEBACKS 20000u
#define DEPTH	   30u

static double now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* A call tree: the outer frames are shared, the inner ones differ. */
static void make_tracebacks(struct sample *sample, uint32_t *numbers)
{
	struct tm_frame frames[DEPTH];

	for (uint32_t i = 0; i < TRACEBACKS; i++) {
		for (uint32_t depth = 0; depth < DEPTH; depth++)
			frames[depth] = (struct tm_frame){0x10000 + (i >> (depth / 2)) * 64 + depth, 1};
		numbers[i] = sample_traceback(sample, frames, DEPTH, DEPTH, TM_CUT_NONE);
	}
}

static void save(struct sample *sample, const char *path)
{
	struct tm_report_writer *writer;
	size_t before = mallinfo2().uordblks, used;
	double start = now(), saved;

	unlink(path);
	must(tm_report_writer_create(path, false, &writer));
	must(sample_save(sample, writer, TM_SNAPSHOT_PEAK, "peak", true));
	printf("peak saved after %.2f s\n", now() - start);
	start = now();
	must(sample_save(sample, writer, TM_SNAPSHOT_LIVE, "end", true));
	saved = now();
	used = mallinfo2().uordblks - before;
	must(tm_report_writer_close(writer));
	printf("end saved in %.2f s, closed in %.2f s; the writer holds %.1f MB\n", saved - start,
	       now() - saved, (double)used / 1e6);
}

static void load(const char *path)
{
	struct tm_report *report;
	struct tm_report_view view;
	double start = now();

	must(tm_report_open(path, &report));
	must(tm_report_load(report, "end", &view));
	printf("%zu statistics loaded in %.2f s\n", view.trace_count, now() - start);
	tm_report_close(report);
}

int main(int argc, char **argv)
{
	static uint32_t tracebacks[TRACEBACKS];
	struct sample sample = sample_create();
	uint64_t blocks = argc > 2 ? strtoull(argv[2], NULL, 10) : 1000000;
	struct stat status;

	if (argc < 2)
		return 2;
	make_tracebacks(&sample, tracebacks);
	for (uint64_t i = 0; i < blocks; i++)
		sample_allocate(&sample, 1 + i % 4, tracebacks[tm_hash_u64(i) % TRACEBACKS], 16 + i % 1000);
	save(&sample, argv[1]);
	load(argv[1]);
	if (stat(argv[1], &status) == 0)
		printf("%.1f MB in the file\n", (double)status.st_size / 1e6);
	sample_destroy(&sample);
	return 0;
}
