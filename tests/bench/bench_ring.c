/*
 * What a record costs: its writer, through the entries of the recorder as a target is given it, and the
 *reader with a sink that only counts. First one after the other in one thread, in batches that fit into a
 *ring (the lines are in this processor's caches), then a thread that writes and one that reads at the same
 *time.
 *
 *	bench_ring [RECORDS]
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifdef __x86_64__
#include "recorder/plant.h"

#define BATCH  8000u /* records, of at most 96 bytes */
#define CODE   UINT64_C(0x700000)
#define FRAMES 3u

static struct plant plant;
static struct plant_frame frames[FRAMES];

static double ns_of(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* One record each. */
static void write_free(uint64_t i)
{
	plant.enter(0x10000000 + i % 65536 * 64, PLANT_FREE);
}

static void write_block(uint64_t i)
{
	plant.leave(0x10000000 + i % 65536 * 64, 64, 0, PLANT_MALLOC);
}

static void write_pair(uint64_t i)
{
	if (i % 2)
		write_free(i / 2);
	else
		write_block(i / 2);
}

static const struct {
	const char *name;
	void (*write)(uint64_t i);
	unsigned nframe;
} workloads[] = {
	{"free", write_free, 1},
	{"malloc, 1 frame of 3", write_block, 1},
	{"malloc, 3 frames", write_block, FRAMES},
	{"malloc and free, 1 frame of 3", write_pair, 1},
};

static struct tm_error *discard(void *context, unsigned ring, const struct tm_record_header *record)
{
	(void)ring, (void)record;
	++*(uint64_t *)context;
	return NULL;
}

/* Python frames of known code, in the calling thread. */
static void enter_interpreter(void)
{
	for (unsigned i = 0; i < FRAMES; i++) {
		frames[i] = (struct plant_frame){.code = CODE + i * 64, .instruction = (int32_t)i};
		frames[i].back = i + 1 < FRAMES ? (uint64_t)&frames[i + 1] : 0;
		tm_shared_add_code(plant.shared, frames[i].code);
	}
	plant_enter_interpreter(&frames[0]);
}

static void in_turns(unsigned which, uint64_t records)
{
	double write_ns = 0, read_ns = 0, begin; /* of this thread's time: others may run on the machine */
	uint64_t written = 0, read = 0;
	struct tm_record_sink sink = {&read, discard, NULL};
	size_t count;

	while (written < records) {
		begin = ns_of(CLOCK_THREAD_CPUTIME_ID);
		for (unsigned i = 0; i < BATCH; i++)
			workloads[which].write(written++);
		write_ns += ns_of(CLOCK_THREAD_CPUTIME_ID) - begin;
		begin = ns_of(CLOCK_THREAD_CPUTIME_ID);
		while (read < written)
			need(!tm_ring_reader_pass(plant.reader, &sink, 0, &count));
		read_ns += ns_of(CLOCK_THREAD_CPUTIME_ID) - begin;
	}
	printf("%-32s writer %5.1f ns  reader %5.1f ns a record\n", workloads[which].name,
	       write_ns / (double)written, read_ns / (double)written);
}

struct job {
	unsigned which;
	uint64_t records;
	double ns; /* of the thread's time */
};

static void *write_all(void *argument)
{
	struct job *job = argument;

	enter_interpreter();
	for (uint64_t i = 0; i < job->records; i++)
		workloads[job->which].write(i);
	job->ns = ns_of(CLOCK_THREAD_CPUTIME_ID);
	return NULL;
}

static void at_the_same_time(unsigned which, uint64_t records)
{
	struct job job = {.which = which, .records = records};
	uint64_t read = 0;
	struct tm_record_sink sink = {&read, discard, NULL};
	size_t count;
	pthread_t writer;
	double begin = ns_of(CLOCK_MONOTONIC), ns;

	need(!pthread_create(&writer, NULL, write_all, &job));
	while (read < records)
		need(!tm_ring_reader_pass(plant.reader, &sink, 0, &count));
	ns = ns_of(CLOCK_MONOTONIC) - begin;
	need(!pthread_join(writer, NULL));
	printf("%-32s writer %5.1f ns a record; %.1f million a second\n", workloads[which].name,
	       job.ns / (double)records, (double)records / ns * 1e3);
}

int main(int argc, char **argv)
{
	uint64_t records = argc > 1 ? strtoull(argv[1], NULL, 0) : 4000000;

	for (unsigned together = 0; together < 2; together++) {
		printf(together ? "writer and reader in two threads\n" : "in turns\n");
		for (unsigned i = 0; i < TM_ARRAY_SIZE(workloads); i++) {
			plant_open(&plant, PLANT_IMAGE);
			plant.control->python.nframe = workloads[i].nframe;
			enter_interpreter();
			(together ? at_the_same_time : in_turns)(i, records);
			plant_close(&plant);
		}
	}
	return 0;
}
#else
int main(void)
{
	puts("bench_ring: the recorder is written for x86-64");
	return 0;
}
#endif
