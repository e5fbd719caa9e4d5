/*
 * What an event costs the model: one track of a new block and one untrack of a random live one ("pair"), at a
 *fixed number of live blocks, for several layouts of a heap; the longest single event; bytes of all tables a
 *live block, also right after growth and while the heap shrinks; interning of frames and tracebacks.
 *
 *	bench_model [LIVE_BLOCKS]
 *
 * Events are made in batches ahead of the clock, as a probe would find them in a ring.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/cleanup.h"
#include "model/tracer.h"

#define TRACEBACK_BITS 14
#define BATCH	       4096
#define THREADS	       8
#define PAIRS	       4000000

static double now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

/* xorshift64 (Marsaglia 2003): the runs repeat. */
static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void die(struct tm_error *err)
{
	if (err) {
		fprintf(stderr, "bench_model: %s\n", err->message);
		exit(1);
	}
}

/* A heap: hands out addresses of free places, like an allocator, and takes them back. */
struct heap {
	const char *name;
	uint64_t (*fresh)(struct heap *heap, uint64_t size); /* a place that was never used */
	uint64_t random, top;
	struct places {
		uint64_t *addresses;
		size_t count, capacity;
	} bins[64]; /* freed places by size class of 16 bytes; reused last in, first out */
};

/* glibc: 16-byte aligned, header of 8 bytes, chunks of at least 32. */
static uint64_t fresh_chunk(struct heap *heap, uint64_t size)
{
	uint64_t address = heap->top + 16, chunk = (size + 8 + 15) & ~UINT64_C(15);

	heap->top += chunk < 32 ? 32 : chunk;
	return address;
}

static uint64_t fresh_page(struct heap *heap, uint64_t size)
{
	uint64_t address = heap->top + 16;

	heap->top += (size + 4095) & ~UINT64_C(4095);
	return address;
}

static uint64_t fresh_anywhere(struct heap *heap, uint64_t size)
{
	(void)size;
	return (next_random(&heap->random) >> 17) & ~UINT64_C(15);
}

/* Mostly small, as heaps are: 16 to 1000 bytes, half of them below 64. */
static uint64_t random_size(uint64_t *random)
{
	uint64_t bits = next_random(random);

	return 1 + (bits >> 8) % (bits & 1 ? 64 : bits & 2 ? 256 : 1000);
}

static uint64_t heap_take(struct heap *heap, uint64_t size)
{
	struct places *bin = &heap->bins[size / 16];

	return bin->count ? bin->addresses[--bin->count] : heap->fresh(heap, size);
}

static void heap_give(struct heap *heap, uint64_t address, uint64_t size)
{
	struct places *bin = &heap->bins[size / 16];

	if (bin->count == bin->capacity) {
		bin->capacity = bin->capacity ? bin->capacity * 2 : 1024;
		bin->addresses = realloc(bin->addresses, bin->capacity * sizeof(*bin->addresses));
		if (!bin->addresses)
			die(tm_error_out_of_memory());
	}
	bin->addresses[bin->count++] = address;
}

struct bench {
	struct tm_tracer *tracer;
	struct heap *heap;
	uint64_t random, time;
	struct live {
		uint64_t address, size;
	} * live;
	size_t live_count;
	struct tm_allocation track[BATCH];
	uint64_t untrack[BATCH];
};

/* Few places make most blocks: the n-th most frequent one 1/n as many as the first (Zipf). Most places belong
   to one thread each. */
static void prepare_track(struct bench *bench, struct tm_allocation *allocation)
{
	uint64_t size = random_size(&bench->random), bits = next_random(&bench->random);
	uint32_t power = UINT32_C(1) << (bits >> 32) % TRACEBACK_BITS;
	uint32_t place = power + (uint32_t)bits % power;

	*allocation = (struct tm_allocation){
		.tid = 1000 + place % THREADS,
		.traceback = place,
		.address = heap_take(bench->heap, size),
		.size = size,
		.time = bench->time++,
	};
}

static void prepare_pairs(struct bench *bench)
{
	for (size_t i = 0; i < BATCH; i++) {
		size_t victim = next_random(&bench->random) % bench->live_count;
		struct live *live = &bench->live[victim];

		prepare_track(bench, &bench->track[i]);
		bench->untrack[i] = live->address;
		heap_give(bench->heap, live->address, live->size);
		*live = (struct live){bench->track[i].address, bench->track[i].size};
	}
}

/* ahead: how many pairs before its turn a pair is announced to the tracer; 0: never. */
static double run_pairs(struct bench *bench, size_t ahead)
{
	double start = now_ns();

	for (size_t i = 0; i < BATCH; i++) {
		if (ahead && i + ahead < BATCH) {
			tm_tracer_prefetch(bench->tracer, 0, bench->track[i + ahead].address);
			tm_tracer_prefetch(bench->tracer, 0, bench->untrack[i + ahead]);
		}
		die(tm_tracer_track(bench->tracer, &bench->track[i]));
		if (!tm_tracer_untrack(bench->tracer, 0, bench->untrack[i]))
			die(tm_error_create(TM_ERROR_OTHER, "a live block is not known"));
	}
	return now_ns() - start;
}

/* All tables together; accounts (64 bytes each) included. */
static double bytes_per_block(const struct bench *bench)
{
	return (double)tm_tracer_memory(bench->tracer) / (double)tm_tracer_totals(bench->tracer, 0).blocks;
}

static void steady(struct bench *bench, size_t ahead, const char *how)
{
	double total = 0;

	for (size_t i = 0; i < PAIRS / BATCH; i++) {
		prepare_pairs(bench);
		total += run_pairs(bench, ahead);
	}
	total /= PAIRS / BATCH * BATCH;
	printf("  %s  %5.0f ns a pair, %.2f million pairs/s, %.1f bytes a live block\n", how, total,
	       1e3 / total, bytes_per_block(bench));
}

/* Tracks until `count` blocks are live; remembers the longest event and the most bytes a block from half of
 * it on. */
static void fill(struct bench *bench, size_t count)
{
	double longest = 0, most = 0, start = now_ns();

	for (; bench->live_count < count; bench->live_count++) {
		struct tm_allocation *allocation = &bench->track[0];
		double before, took;

		prepare_track(bench, allocation);
		bench->live[bench->live_count] = (struct live){allocation->address, allocation->size};
		before = now_ns();
		die(tm_tracer_track(bench->tracer, allocation));
		took = now_ns() - before;
		longest = took > longest ? took : longest;
		if (bench->live_count > count / 2 && bytes_per_block(bench) > most)
			most = bytes_per_block(bench);
	}
	printf("  fill        %5.0f ns an event with its clock, longest %5.0f us, at most %.1f bytes a live "
	       "block\n",
	       (now_ns() - start) / (double)count, longest / 1000, most);
}

static void drain(struct bench *bench, size_t count)
{
	double longest = 0, most = 0, start = now_ns();
	size_t removed = bench->live_count - count;

	while (bench->live_count > count) {
		size_t victim = next_random(&bench->random) % bench->live_count;
		uint64_t address = bench->live[victim].address;
		double before = now_ns(), took;

		tm_tracer_untrack(bench->tracer, 0, address);
		took = now_ns() - before;
		longest = took > longest ? took : longest;
		if (bytes_per_block(bench) > most)
			most = bytes_per_block(bench);
		bench->live[victim] = bench->live[--bench->live_count];
	}
	printf("  shrink      %5.0f ns an event with its clock, longest %5.0f us, at most %.1f bytes a live "
	       "block\n",
	       (now_ns() - start) / (double)removed, longest / 1000, most);
}

static void bench_heap(struct heap *heap, size_t live_blocks)
{
	struct bench *bench = calloc(1, sizeof(*bench));

	if (!bench || !(bench->live = malloc(live_blocks * sizeof(*bench->live))))
		die(tm_error_out_of_memory());
	bench->heap = heap;
	bench->random = heap->random = UINT64_C(88172645463325252);
	die(tm_tracer_create(&bench->tracer));
	printf("%s, %zu live blocks\n", heap->name, live_blocks);
	fill(bench, live_blocks);
	steady(bench, 0, "one by one");
	steady(bench, 8, "announced ");
	drain(bench, live_blocks / 8);
	tm_tracer_destroy(bench->tracer);
	for (size_t i = 0; i < TM_ARRAY_SIZE(heap->bins); i++)
		free(heap->bins[i].addresses);
	free(bench->live);
	free(bench);
}

/* Stacks of a program: half of the frames is shared with the neighbours, the most recent ones differ. */
static void make_frames(struct tm_tracebacks *tracebacks, uint32_t number, uint32_t depth, uint32_t *frames)
{
	for (uint32_t i = 0; i < depth; i++) {
		uint32_t which = i < depth / 2 ? number * 7 + i : i * 131;
		struct tm_frame frame = {.module = 1 + which % 5, .offset = 0x1000 + (which % 50000) * 23};

		frames[i] = tm_tracebacks_frame(tracebacks, frame);
	}
}

static void bench_interning(uint32_t depth)
{
	enum { DISTINCT = 5000, ROUNDS = 100 };
	uint32_t *frames = malloc((size_t)DISTINCT * depth * sizeof(*frames)), found = 0;
	double start, first, again, frame_cost;
	struct tm_tracebacks *tracebacks;

	if (!frames)
		die(tm_error_out_of_memory());
	die(tm_tracebacks_create(&tracebacks));
	for (uint32_t i = 0; i < DISTINCT; i++)
		make_frames(tracebacks, i, depth, frames + (size_t)i * depth);
	start = now_ns();
	for (uint32_t i = 0; i < DISTINCT; i++)
		make_frames(tracebacks, i, depth, frames + (size_t)i * depth);
	frame_cost = (now_ns() - start) / DISTINCT / depth;
	start = now_ns();
	for (uint32_t i = 0; i < DISTINCT; i++)
		tm_tracebacks_intern(tracebacks, frames + (size_t)i * depth, depth, depth, TM_CUT_NONE);
	first = (now_ns() - start) / DISTINCT;
	start = now_ns();
	for (uint32_t i = 0; i < DISTINCT * ROUNDS; i++) {
		const uint32_t *stack = frames + (size_t)(i * UINT32_C(2654435761) % DISTINCT) * depth;

		found += tm_tracebacks_intern(tracebacks, stack, depth, depth, TM_CUT_NONE) != UINT32_MAX;
	}
	again = (now_ns() - start) / DISTINCT / ROUNDS;
	printf("interning, depth %2u: known frame %.1f ns, new traceback %.0f ns, known traceback %.0f ns "
	       "(%u)\n",
	       depth, frame_cost, first, again, found);
	tm_tracebacks_destroy(tracebacks);
	free(frames);
}

int main(int argc, char **argv)
{
	size_t live_blocks = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
	struct heap heaps[] = {
		{.name = "malloc-like (16-byte granules, mixed small sizes)",
		 .fresh = fresh_chunk,
		 .top = 0x555555560000},
		{.name = "one block a page", .fresh = fresh_page, .top = 0x7f0000000000},
		{.name = "random addresses", .fresh = fresh_anywhere},
	};

	if (!live_blocks) {
		fprintf(stderr, "usage: bench_model [LIVE_BLOCKS]\n");
		return 1;
	}
	for (size_t i = 0; i < TM_ARRAY_SIZE(heaps); i++)
		bench_heap(&heaps[i], live_blocks);
	bench_interning(5);
	bench_interning(50);
	return 0;
}
