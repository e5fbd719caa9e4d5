/*
 * What a frame of a walk costs: real frames of this program at depth 5, 50, 500, from a capture of its own
 * registers and stack. Warm: the same capture over and over. Cold: the first walk, which makes the rows.
 * Prints one line for each depth; fails if the goal (100 ns a frame, warm) is missed.
 */
#include <inttypes.h>
#include <stdio.h>
#include <time.h>
#include <ucontext.h>

#include "support/process_view.h"
#include "unwind/unwind.h"

#define GOAL_NS 100.0
#if defined(__clang__)
#define OWN_FRAME __attribute__((noinline))
#else
#define OWN_FRAME __attribute__((noinline, noclone))
#endif

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

struct run {
	struct tm_process_view *view;
	int depth;
	uint64_t stack_end;
	double warm_ns; /* a frame */
};

static double walk_ns(struct run *run, const struct tm_capture *capture, struct tm_walk *walk, int rounds)
{
	double start = now_ns();

	for (int i = 0; i < rounds; i++)
		tm_unwind(run->view->cfi, tm_arch_host(), 0, capture, false, TM_NFRAME_MAX, walk);
	return (now_ns() - start) / rounds / (double)walk->count;
}

static void measure_capture(struct run *run, const struct tm_capture *capture)
{
	struct tm_walk walk = {0};
	double cold = walk_ns(run, capture, &walk, 1), best = 1e9;

	for (int i = 0; i < 20; i++) {
		double ns = walk_ns(run, capture, &walk, 200000 / run->depth);

		best = ns < best ? ns : best;
	}
	run->warm_ns = best;
	printf("depth %4d: %4zu frames, cut %d, first walk %8.1f ns/frame, warm %5.2f ns/frame\n", run->depth,
	       walk.count, (int)walk.cut, cold, best);
	tm_walk_deinit(&walk);
}

static void measure(struct run *run)
{
	static uint8_t stack[1 << 20];
	struct tm_capture capture = {.bytes = stack, .memory = &run->view->memory};
	ucontext_t context;

	getcontext(&context);
	tm_regs_from_ucontext(&context, &capture.regs);
	capture.start = capture.regs.value[tm_arch_host()->sp];
	capture.size = run->stack_end - capture.start;
	if (capture.size > sizeof(stack) ||
	    tm_memory_read(&run->view->memory, capture.start, stack, capture.size))
		abort();
	measure_capture(run, &capture);
}

/* Three kinds of frames in turn: none saved, callee-saved registers, frame pointer. */
static OWN_FRAME int plain(struct run *run, int depth);

static OWN_FRAME int saving(struct run *run, int depth)
{
	int a = depth * 3, b = depth ^ 5, c = depth + 7;

	__asm__ volatile("" : "+r"(a), "+r"(b), "+r"(c));
	return plain(run, depth - 1) + a + b + c;
}

static OWN_FRAME int with_alloca(struct run *run, int depth)
{
	volatile char *room = __builtin_alloca((size_t)(depth & 31) + 16);

	room[0] = (char)depth;
	return saving(run, depth - 1) + room[0];
}

static OWN_FRAME int plain(struct run *run, int depth)
{
	if (depth <= 0) {
		measure(run);
		return 0;
	}
	return with_alloca(run, depth - 1) + 1;
}

int main(void)
{
	static const int depths[] = {5, 50, 500};
	struct tm_process_view view;
	bool good = true;

	tm_process_view_open(&view, getpid());
	for (size_t i = 0; i < TM_ARRAY_SIZE(depths); i++) {
		struct run run = {.view = &view, .depth = depths[i], .stack_end = (uintptr_t)&view + 1024};

		plain(&run, depths[i]);
		good &= run.warm_ns <= GOAL_NS;
	}
	tm_process_view_close(&view);
	return good ? 0 : 1;
}
