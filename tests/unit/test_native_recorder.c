/*
 * Records of native calls, made in this process: the recorder's functions are called as its entries do, with
 * stacks that the tests build in memory of their own, so that every frame and every row is what a test wants.
 * And real pads around a function of the test, with the recorder as a target is given it.
 */
#include <criterion/criterion.h>

#ifdef __x86_64__
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arch/record_pad.h"
#include "base/cleanup.h"
#include "recorder/plant.h"
#include "recorder/row_table.h"

#define MEMORY	   131072u /* words */
#define SEEN	   65536u
#define STACK_MAX  20000u
#define FIRST	   UINT64_C(0x10000)
#define FUNCTION   7u
#define MALLOC	   (FUNCTION << 16)
#define CALLOC	   (FUNCTION << 16 | TM_PAD_COUNTED)
#define MEMALIGN   (FUNCTION << 16 | TM_PAD_OUT)
#define REALLOC	   (FUNCTION << 16 | TM_PAD_RESIZES)
#define FP_OF_CALL UINT64_C(0xf0f0)

/* Return addresses into functions of the made-up program. */
enum {
	MAIN = 0x1010,
	A = 0x2020,
	B = 0x3030,
	C = 0x4040,
	D = 0x5050,
	NEW = 0x6060,
	NEW_ARRAY = 0x7070,
	PAD = 0x8080
};

static struct scene {
	struct plant plant;
	struct tm_row_table rows;
	struct tm_record_sink sink;
	struct seen {
		unsigned kind, flags, function, number, kept, fresh;
		uint64_t block, size, old;
		uint64_t words[TM_RECORD_REGISTERS];
	} seen[SEEN];
	size_t seen_count, passed;
	struct stack {
		uint64_t pcs[STACK_MAX]; /* the outermost first */
		size_t count;
	} walked;		   /* the last that was told by its frames, */
	uint64_t stack[STACK_MAX]; /* and the last of all */
	size_t stack_count;
	struct {
		uint64_t *pcs;
		size_t count;
	} remembered[TM_REMEMBERED + 1]; /* by number, as the records told it */
	/* The stack that calls are made from; it grows down from the end. */
	_Alignas(64) uint64_t memory[MEMORY];
	uint64_t elsewhere[16];				     /* another stack, above it */
	uint64_t cfa;					     /* of the next call */
	void (*look)(const struct tm_record_native *record); /* what the tracer does */
	bool stop;
} scene;

/* ---- the made-up program ---- */

/* Words of a function's frame, with the return address of its call. */
static unsigned frame_words(uint64_t pc)
{
	return 2 + pc % 3;
}

static uint64_t step_rule(uint64_t pc, uint64_t flags)
{
	return tm_row_rule(TM_ROW_STEP, flags, 8 * frame_words(pc), 0);
}

static void put_rule(uint64_t pc, uint64_t rule)
{
	cr_assert(tm_row_put(&scene.rows, pc, rule));
}

static void put_row(uint64_t pc)
{
	put_rule(pc, pc == MAIN ? tm_row_rule(TM_ROW_OUTERMOST, 0, 0, 0) : step_rule(pc, 0));
}

static uint64_t *word(uint64_t address)
{
	return (uint64_t *)(uintptr_t)address;
}

/* One more frame at the lower end: the function that stands at pc calls another one. */
static void push_frame(uint64_t pc)
{
	scene.cfa -= 8 * frame_words(pc);
	*word(scene.cfa - 8) = pc;
}

static void pop_frame(uint64_t pc)
{
	scene.cfa += 8 * frame_words(pc);
}

static void set_stack(const uint64_t *pcs, size_t count)
{
	scene.cfa = (uint64_t)(uintptr_t)(scene.memory + MEMORY);
	for (size_t i = 0; i < count; i++)
		push_frame(pcs[i]);
}

#define PCS(...) (const uint64_t[]){__VA_ARGS__}, TM_ARRAY_SIZE(((const uint64_t[]){__VA_ARGS__}))
/* The outermost frame first. */
#define STACK(...) set_stack(PCS(__VA_ARGS__))

/* ---- what is recorded ---- */

static void remember_stack(unsigned number)
{
	size_t bytes = scene.stack_count * sizeof(scene.stack[0]);

	cr_assert_leq(number, TM_REMEMBERED);
	free(scene.remembered[number].pcs);
	scene.remembered[number].pcs = malloc(bytes);
	cr_assert_not_null(scene.remembered[number].pcs);
	memcpy(scene.remembered[number].pcs, scene.stack, bytes);
	scene.remembered[number].count = scene.stack_count;
}

static void follow_stack(const struct tm_record_native *record)
{
	struct stack *walked = &scene.walked;

	cr_assert_leq(record->kept, walked->count);
	cr_assert_leq(record->kept + record->fresh, STACK_MAX);
	walked->count = record->kept;
	for (unsigned i = record->fresh; i-- > 0;)
		walked->pcs[walked->count++] = record->words[i];
	memcpy(scene.stack, walked->pcs, walked->count * sizeof(walked->pcs[0]));
	scene.stack_count = walked->count;
	if (record->number)
		remember_stack(record->number);
}

static void recall_stack(const struct tm_record_remembered *record)
{
	cr_assert(record->number >= 1 && record->number <= TM_REMEMBERED);
	scene.stack_count = scene.remembered[record->number].count;
	memcpy(scene.stack, scene.remembered[record->number].pcs, scene.stack_count * sizeof(scene.stack[0]));
}

static void see_remembered(struct seen *seen, const struct tm_record_remembered *record)
{
	seen->size = record->size;
	seen->number = record->number;
	if (seen->kind == TM_RECORD_NATIVE_RESIZE_REMEMBERED)
		seen->old = record->old;
	recall_stack(record);
}

static void see_native(struct seen *seen, const struct tm_record_native *record)
{
	seen->size = record->size;
	seen->old = record->old;
	seen->function = record->function;
	seen->number = record->number;
	seen->kept = record->kept;
	seen->fresh = record->fresh;
	for (unsigned i = 0; i < record->fresh && i < TM_RECORD_REGISTERS; i++)
		seen->words[i] = record->words[i];
	if (!(record->header.flags & TM_RECORD_NO_FRAMES))
		follow_stack(record);
	else if (scene.look)
		scene.look(record);
}

static struct tm_error *see(void *context, unsigned ring, const struct tm_record_header *record)
{
	struct seen *seen = &scene.seen[scene.seen_count++];

	(void)context, (void)ring;
	cr_assert_leq(scene.seen_count, SEEN);
	*seen = (struct seen){.kind = record->kind, .flags = record->flags};
	if (record->kind == TM_RECORD_LOADER)
		return NULL;
	seen->block = ((const struct tm_record_free *)record)->block;
	if (record->kind >= TM_RECORD_NATIVE_ALLOCATE && record->kind <= TM_RECORD_NATIVE_STACK)
		see_native(seen, (const struct tm_record_native *)record);
	if (record->kind == TM_RECORD_NATIVE_REMEMBERED || record->kind == TM_RECORD_NATIVE_RESIZE_REMEMBERED)
		see_remembered(seen, (const struct tm_record_remembered *)record);
	return NULL;
}

/* What is new; none of it is left. */
static const struct seen *drain(void)
{
	size_t before = scene.seen_count;

	cr_assert_null(tm_ring_reader_drain(scene.plant.reader, &scene.sink, &scene.passed));
	return &scene.seen[before];
}

static void expect_kinds(const unsigned *kinds, size_t count)
{
	const struct seen *seen = drain();

	cr_assert_eq(scene.passed, count, "%zu records", scene.passed);
	for (size_t i = 0; i < count; i++)
		cr_expect_eq(seen[i].kind, kinds[i], "record %zu is of kind %u", i, seen[i].kind);
}

#define EXPECT_KINDS(...)                                                                                    \
	expect_kinds((const unsigned[]){__VA_ARGS__}, TM_ARRAY_SIZE(((const unsigned[]){__VA_ARGS__})))

static void expect_nothing(void)
{
	drain();
	cr_expect_eq(scene.passed, 0, "%zu records", scene.passed);
}

static const struct seen *last(void)
{
	cr_assert_gt(scene.seen_count, 0);
	return &scene.seen[scene.seen_count - 1];
}

static void expect_stack(const uint64_t *pcs, size_t count)
{
	cr_expect_eq(scene.stack_count, count, "%zu frames", scene.stack_count);
	for (size_t i = 0; i < count && i < scene.stack_count; i++)
		cr_expect_eq(scene.stack[i], pcs[i], "frame %zu is 0x%lx", i, (unsigned long)scene.stack[i]);
}

#define EXPECT_STACK(...) expect_stack(PCS(__VA_ARGS__))

static void expect_delta(unsigned kept, unsigned fresh)
{
	cr_expect_eq(last()->kept, kept, "%u are kept", last()->kept);
	cr_expect_eq(last()->fresh, fresh, "%u are fresh", last()->fresh);
}

/* ---- calls ---- */

/* The words of a pad of one or two arguments, below the return address of the call. */
static uint64_t *push_words(uint64_t what, uint64_t first, uint64_t second)
{
	uint64_t *words = word(scene.cfa - 8 - 3 * 8);

	words[0] = what | 3;
	words[1] = first;
	words[2] = second;
	return words;
}

/* As the entry does. False: the tracer had to look. */
static bool leave(uint64_t result, uint64_t *words)
{
	const struct tm_native_registers kept = {FP_OF_CALL, 0xb0b0, 12, 13, 14, 15};

	if (tm_native_leave(result, words, kept.rbp))
		return true;
	tm_native_leave_looked_at(result, words, &kept);
	return false;
}

static bool allocate(uint64_t block, uint64_t size)
{
	return leave(block, push_words(MALLOC, size, size));
}

static void give_back(uint64_t block)
{
	tm_native_free(block, scene.cfa);
}

static bool resize(uint64_t old, uint64_t block, uint64_t size)
{
	uint64_t *words = push_words(REALLOC, old, size);

	tm_native_resize(words);
	return leave(block, words);
}

/* ---- a scene ---- */

static struct tm_ring_head *ring(void)
{
	return plant_ring(&scene.plant,
			  (unsigned)(plant_thread(&scene.plant) - scene.plant.control->threads));
}

static void set_bounds(void)
{
	ring()->stack_low = (uint64_t)(uintptr_t)scene.memory;
	ring()->stack_high = (uint64_t)(uintptr_t)(scene.memory + MEMORY);
}

/* The thread has a ring, and all functions their rows. */
static void set_up(void)
{
	static const uint64_t pcs[] = {MAIN, A, B, C, D, NEW, NEW_ARRAY};

	plant_open(&scene.plant, PLANT_COMPILED);
	scene.rows = (struct tm_row_table){.shared = scene.plant.shared};
	scene.sink.record = see;
	for (size_t i = 0; i < TM_ARRAY_SIZE(pcs); i++)
		put_row(pcs[i]);
	STACK(MAIN);
	give_back(FIRST);
	set_bounds();
	cr_assert(allocate(FIRST, 1));
	drain();
	scene.seen_count = 0;
}

static void tear_down(void)
{
	for (size_t i = 0; i <= TM_REMEMBERED; i++)
		free(scene.remembered[i].pcs);
	tm_row_table_deinit(&scene.rows);
	plant_close(&scene.plant);
}

TestSuite(native_recorder, .init = set_up, .fini = tear_down, .timeout = 60);

/* The tracer, while calls wait for it. */
static void *look_for_ever(void *argument)
{
	size_t count;

	while (!__atomic_load_n(&scene.stop, __ATOMIC_ACQUIRE)) {
		cr_assert_null(tm_ring_reader_pass(scene.plant.reader, &scene.sink, 0, &count));
		sched_yield();
	}
	return argument;
}

static pthread_t begin_looking(void (*look)(const struct tm_record_native *))
{
	pthread_t thread;

	scene.look = look;
	scene.stop = false;
	cr_assert_eq(pthread_create(&thread, NULL, look_for_ever, NULL), 0);
	return thread;
}

static void end_looking(pthread_t thread)
{
	__atomic_store_n(&scene.stop, true, __ATOMIC_RELEASE);
	cr_assert_eq(pthread_join(thread, NULL), 0);
	drain();
}

/* ---- what a record tells ---- */

Test(native_recorder, a_block_with_its_size_and_its_function)
{
	STACK(MAIN, A);
	cr_expect(allocate(0x5000, 10007));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->block, 0x5000);
	cr_expect_eq(last()->size, 10007);
	cr_expect_eq(last()->old, 0);
	cr_expect_eq(last()->function, FUNCTION);
	cr_expect_eq(last()->flags, 0);
	EXPECT_STACK(MAIN, A);
}

Test(native_recorder, sizes_and_blocks_by_what_a_pad_says)
{
	static uint64_t out;
	const struct {
		uint64_t what, first, second, result;
		unsigned kind;
		uint64_t block, size;
	} rows[] = {
		{MALLOC, 24, 24, 0x5000, TM_RECORD_NATIVE_ALLOCATE, 0x5000, 24},
		{MALLOC, 24, 24, 0, TM_RECORD_NATIVE_FAIL, 0, 24},
		{CALLOC, 24, 100, 0x5000, TM_RECORD_NATIVE_ALLOCATE, 0x5000, 2400},
		{CALLOC, 1ull << 40, 1ull << 40, 0, TM_RECORD_NATIVE_FAIL, 0, UINT64_MAX},
		{MEMALIGN, 24, (uint64_t)(uintptr_t)&out, 0, TM_RECORD_NATIVE_ALLOCATE, 0x7770, 24},
		{MEMALIGN, 24, (uint64_t)(uintptr_t)&out, 12, TM_RECORD_NATIVE_FAIL, 0, 24},
		/* The call's result is an int. */
		{MEMALIGN, 24, (uint64_t)(uintptr_t)&out, 0xdead00000000, TM_RECORD_NATIVE_ALLOCATE, 0x7770,
		 24},
		{REALLOC, 0, 24, 0x5000, TM_RECORD_NATIVE_ALLOCATE, 0x5000, 24},
		{REALLOC, 0, 24, 0, TM_RECORD_NATIVE_FAIL, 0, 24},
	};

	out = 0x7770;
	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		tm_rows_new_generation(&scene.rows); /* by its own record, not by one of its stack before */
		STACK(MAIN, A);
		cr_expect(leave(rows[i].result, push_words(rows[i].what, rows[i].first, rows[i].second)));
		EXPECT_KINDS(rows[i].kind);
		cr_expect_eq(last()->block, rows[i].block, "row %zu", i);
		cr_expect_eq(last()->size, rows[i].size, "row %zu", i);
		cr_expect_eq(last()->old, 0, "row %zu", i);
	}
}

Test(native_recorder, a_free_with_its_block)
{
	STACK(MAIN, A);
	give_back(0x5000);
	EXPECT_KINDS(TM_RECORD_NATIVE_FREE);
	cr_expect_eq(last()->block, 0x5000);
	cr_expect_eq(last()->flags, 0);
}

Test(native_recorder, a_resize_at_its_begin_and_its_end)
{
	STACK(MAIN, A);
	cr_expect(resize(0x5000, 0x6000, 10009));
	EXPECT_KINDS(TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_RESIZE_END);
	cr_expect_eq(scene.seen[scene.seen_count - 2].block, 0x5000);
	cr_expect_eq(last()->block, 0x6000);
	cr_expect_eq(last()->size, 10009);
	cr_expect_eq(last()->old, 0x5000);
	EXPECT_STACK(MAIN, A);
}

Test(native_recorder, a_resize_that_fails_ends_without_a_block)
{
	STACK(MAIN, A);
	cr_expect(resize(0x5000, 0, 10009));
	EXPECT_KINDS(TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_RESIZE_END);
	cr_expect_eq(last()->block, 0);
	cr_expect_eq(last()->old, 0x5000);
}

Test(native_recorder, a_resize_of_no_block_has_no_begin)
{
	STACK(MAIN, A);
	cr_expect(resize(0, 0x6000, 24));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
}

Test(native_recorder, nothing_while_it_is_off)
{
	scene.plant.control->enabled = 0;
	STACK(MAIN, A);
	give_back(0x5000);
	tm_native_new(16, scene.cfa);
	resize(0x5000, 0x6000, 24);
	allocate(0x5000, 24);
	scene.plant.control->enabled = 1;
	expect_nothing();
}

/* ---- stacks ---- */

Test(native_recorder, the_same_stack_again_is_kept_whole)
{
	STACK(MAIN, A, B);
	allocate(0x5000, 24);
	drain();
	expect_delta(1, 2); /* MAIN is known from the beginning of the test */
	allocate(0x5010, 24);
	drain();
	expect_delta(3, 0);
	EXPECT_STACK(MAIN, A, B);
}

static const struct {
	uint64_t pcs[8];
	unsigned kept;
} deltas[] = {
	{{MAIN, A, B}, 0},
	{{MAIN, A, B, C}, 3}, /* deeper */
	{{MAIN, A, B, C, D}, 4},
	{{MAIN, A}, 2}, /* shallower */
	{{MAIN, A, B}, 2},
	{{MAIN, A, C}, 2},
	{{MAIN, D, C}, 1},
	{{MAIN, D, C, C, C, C}, 3},
	{{MAIN}, 1},
	{{MAIN, B, B, B, B, B, B, B}, 1},
	{{MAIN, B, B, B, B, B, B, A}, 7},
};

static size_t count_pcs(const uint64_t pcs[8])
{
	size_t count = 0;

	while (count < 8 && pcs[count])
		count++;
	return count;
}

Test(native_recorder, each_stack_is_told_by_what_has_changed)
{
	tm_rows_new_generation(&scene.rows);
	for (size_t i = 0; i < TM_ARRAY_SIZE(deltas); i++) {
		size_t count = count_pcs(deltas[i].pcs);

		set_stack(deltas[i].pcs, count);
		cr_assert(allocate(0x5000, i));
		drain();
		expect_stack(deltas[i].pcs, count);
		cr_expect_eq(last()->kept, deltas[i].kept, "row %zu: %u", i, last()->kept);
		cr_expect_eq(last()->fresh, count - deltas[i].kept, "row %zu: %u", i, last()->fresh);
	}
}

/* The same return address at the same place, but the frame above it returns elsewhere now. */
Test(native_recorder, frames_below_a_changed_one_are_fresh)
{
	STACK(MAIN, A, B, C, D);
	allocate(0x5000, 24);
	drain();
	STACK(MAIN, A + 3 * 0x1000, B, C, D); /* of the same size */
	put_row(A + 3 * 0x1000);
	allocate(0x5000, 24);
	drain();
	EXPECT_STACK(MAIN, A + 3 * 0x1000, B, C, D);
	cr_expect_eq(last()->kept, 1);
}

static uint64_t next_random(uint64_t *state) /* xorshift64 */
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

#define DEPTH 24u

/* Another depth, and others from some frame on. */
static size_t change_stack(uint64_t pcs[DEPTH], size_t count, uint64_t *random)
{
	static const uint64_t functions[] = {A, B, C, D};
	size_t most = count + 2 < DEPTH ? count + 2 : DEPTH, changed = 1 + next_random(random) % count;

	count = 1 + next_random(random) % most;
	for (size_t i = changed; i < count; i++)
		pcs[i] = functions[next_random(random) % 4];
	return count;
}

static size_t common_prefix(const uint64_t *a, size_t a_count, const uint64_t *b, size_t b_count)
{
	size_t i = 0;

	while (i < a_count && i < b_count && a[i] == b[i])
		i++;
	return i;
}

Test(native_recorder, no_more_and_no_less_than_what_has_changed_is_told)
{
	uint64_t random = 88172645463325252u, pcs[DEPTH] = {MAIN}, before[DEPTH];
	size_t count = 1, before_count = 0;

	tm_rows_new_generation(&scene.rows);
	for (unsigned turn = 0; turn < 20000; turn++) {
		set_stack(pcs, count);
		cr_assert(allocate(0x5000, turn));
		drain();
		cr_assert_eq(scene.stack_count, count, "turn %u", turn);
		cr_assert_arr_eq(scene.stack, pcs, count * sizeof(pcs[0]), "turn %u", turn);
		if (last()->kind == TM_RECORD_NATIVE_ALLOCATE) {
			cr_assert_eq(last()->kept, common_prefix(pcs, count, before, before_count), "turn %u",
				     turn);
			memcpy(before, pcs, sizeof(pcs));
			before_count = count;
		}
		scene.seen_count = 0;
		count = change_stack(pcs, count, &random);
	}
}

Test(native_recorder, an_outermost_row_ends_the_stack)
{
	STACK(C, C, MAIN, A);
	cr_assert(allocate(0x5000, 24));
	drain();
	EXPECT_STACK(MAIN, A);
}

Test(native_recorder, a_return_address_of_0_ends_the_stack)
{
	STACK(A, B);
	*word((uint64_t)(uintptr_t)(scene.memory + MEMORY) - 8) = 0;
	cr_assert(allocate(0x5000, 24));
	drain();
	EXPECT_STACK(A, B);
	cr_assert(allocate(0x5000, 24));
	drain();
	EXPECT_STACK(A, B);
}

Test(native_recorder, after_code_was_unmapped_nothing_is_kept)
{
	STACK(MAIN, A, B);
	allocate(0x5000, 24);
	drain();
	tm_rows_new_generation(&scene.rows);
	allocate(0x5000, 24);
	drain();
	expect_delta(0, 3);
	allocate(0x5000, 24);
	drain();
	cr_expect_gt(last()->kept, 0);
}

/* A frame that is found by the frame pointer: the CFA is fp + 16, and the caller's was saved at CFA - 16. */
Test(native_recorder, frame_pointers_are_followed)
{
	uint64_t b_cfa, call_fp;

	put_rule(B, tm_row_rule(TM_ROW_STEP, TM_ROW_CFA_FROM_FP | TM_ROW_FP_SAVED, 16, -16));
	STACK(MAIN, A);
	b_cfa = scene.cfa;
	scene.cfa -= 8 * 20; /* B's frame: alloca */
	*word(scene.cfa - 8) = B;
	call_fp = b_cfa - 16;
	*word(call_fp) = 0xbeef;
	cr_assert(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), call_fp));
	drain();
	EXPECT_STACK(MAIN, A, B);
}

static void put_rules_of_saved_fp(void)
{
	put_rule(A, tm_row_rule(TM_ROW_STEP, TM_ROW_CFA_FROM_FP, 16, 0));
	put_rule(B, tm_row_rule(TM_ROW_STEP, TM_ROW_FP_SAVED, 8 * frame_words(B), -16));
}

/* A's CFA, and thus who has called it, is told by B's saved word alone: D, or D's caller. */
static void expect_by_saved_fp(bool skips_d)
{
	uint64_t b_cfa;

	STACK(MAIN, C, D, A);
	b_cfa = scene.cfa;
	push_frame(B);
	*word(b_cfa - 16) = b_cfa + 8 * frame_words(A) - 16 + (skips_d ? 8 * frame_words(D) : 0);
	cr_assert(allocate(0x5000, 24));
	drain();
	if (skips_d)
		EXPECT_STACK(MAIN, C, A, B);
	else
		EXPECT_STACK(MAIN, C, D, A, B);
}

/* The same frames at the same places, but what a frame has saved of the frame pointer leads elsewhere. */
Test(native_recorder, a_frame_pointer_that_has_changed_is_seen)
{
	put_rules_of_saved_fp();
	for (unsigned turn = 0; turn < 2; turn++)
		expect_by_saved_fp(turn % 2);
}

/* Only the register, which B has kept, tells where C's CFA is. Returns it. */
static uint64_t expect_by_fp_of_call(bool skips_d)
{
	uint64_t fp;

	STACK(MAIN, A, D, C);
	fp = scene.cfa + 8 * frame_words(C) - 16 + (skips_d ? 8 * frame_words(D) : 0);
	push_frame(B);
	cr_assert(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), fp));
	drain();
	if (skips_d)
		EXPECT_STACK(MAIN, A, C, B);
	else
		EXPECT_STACK(MAIN, A, D, C, B);
	return fp;
}

/* The same frames at the same places. */
Test(native_recorder, another_frame_pointer_of_the_call_is_seen)
{
	put_rule(C, tm_row_rule(TM_ROW_STEP, TM_ROW_CFA_FROM_FP, 16, 0));
	for (unsigned turn = 0; turn < 2; turn++)
		expect_by_fp_of_call(turn % 2);
}

/* B and C have no CFI: their frames are told by frame records, linked by the frame pointer. */
static uint64_t push_records(void)
{
	const uint64_t rule =
		tm_row_rule(TM_ROW_STEP, TM_ROW_CFA_FROM_FP | TM_ROW_FP_SAVED | TM_ROW_BY_FP, 16, -16);
	uint64_t b_record, c_record;

	put_rule(B, rule);
	put_rule(C, rule);
	STACK(MAIN, A);
	b_record = scene.cfa - 16;
	*word(b_record) = 0xbeef; /* A need not have a frame pointer */
	scene.cfa -= 8 * 20;
	*word(scene.cfa - 8) = B;
	c_record = scene.cfa - 16;
	*word(c_record) = b_record;
	scene.cfa -= 8 * 6;
	*word(scene.cfa - 8) = C;
	return c_record;
}

Test(native_recorder, frame_records_are_followed_where_there_is_no_cfi)
{
	uint64_t fp = push_records();

	cr_assert(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), fp));
	drain();
	EXPECT_STACK(MAIN, A, B, C);
	/* Found again, and not when the lower one leads past B. */
	cr_assert(tm_native_leave(0x6000, push_words(MALLOC, 24, 24), fp));
	drain();
	expect_delta(4, 0);
	*word(*word(fp) + 8) = MAIN;
	cr_assert(tm_native_leave(0x7000, push_words(MALLOC, 24, 24), fp));
	drain();
	EXPECT_STACK(MAIN, B, C);
}

/* The frame pointer is what says so (psABI 3.4.1), also when B has saved it. */
Test(native_recorder, code_without_cfi_is_outermost_where_the_frame_pointer_is_0)
{
	const uint64_t by_fp =
		tm_row_rule(TM_ROW_STEP, TM_ROW_CFA_FROM_FP | TM_ROW_FP_SAVED | TM_ROW_BY_FP, 16, -16);
	uint64_t record;

	put_rule(C, by_fp);
	for (unsigned turn = 0; turn < 6; turn++) {
		STACK(MAIN, A);
		record = scene.cfa - 16;
		scene.cfa -= 8 * 6;
		*word(scene.cfa - 8) = C;
		push_frame(D);
		cr_assert(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), turn % 2 ? record : 0));
		drain();
		if (turn % 2)
			EXPECT_STACK(MAIN, A, C, D);
		else
			EXPECT_STACK(C, D);
	}
	put_rule(B, tm_row_rule(TM_ROW_STEP, TM_ROW_FP_SAVED, 8 * frame_words(B), -16));
	for (unsigned turn = 0; turn < 12; turn++) {
		STACK(MAIN, A);
		record = scene.cfa - 16;
		scene.cfa -= 8 * 6;
		*word(scene.cfa - 8) = C;
		push_frame(B);
		*word(scene.cfa + 8 * frame_words(B) - 16) = turn / 4 % 2 ? record : 0;
		cr_assert(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), 1));
		drain();
		if (turn / 4 % 2)
			EXPECT_STACK(MAIN, A, C, B);
		else
			EXPECT_STACK(C, B);
	}
}

/* What the unwinder takes for no frame record it has to look at itself. */
Test(native_recorder, what_is_no_frame_record_is_not_followed)
{
	uint64_t fp = push_records(), b_record = *word(fp);

	cr_expect_not(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), fp + 4), "it is not aligned");
	cr_expect_not(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), scene.cfa - 64),
		      "it lies below the frame");
	*word(fp) = b_record + 1;
	cr_expect_not(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), fp), "the next one is not aligned");
	*word(fp) = b_record;
	*word(b_record + 8) = 0;
	cr_expect_not(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), fp), "it returns nowhere");
	*word(b_record + 8) = A;
	cr_expect(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), fp));
}

/* ---- stacks that are remembered ---- */

static void expect_allocated(bool remembered)
{
	drain();
	cr_expect_eq(last()->kind, remembered ? TM_RECORD_NATIVE_REMEMBERED : TM_RECORD_NATIVE_ALLOCATE,
		     "it is of kind %u", last()->kind);
}

/* The stack has come often enough. */
static void make_remembered(uint64_t fp)
{
	for (unsigned i = 0; i < 4; i++)
		cr_assert(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), fp));
	expect_allocated(true);
}

Test(native_recorder, a_stack_that_comes_behind_the_same_one_again_is_told_by_its_number)
{
	STACK(MAIN, A, B);
	for (unsigned i = 0; i < 4; i++)
		cr_assert(allocate(0x5000 + i, 24 + i));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE, TM_RECORD_NATIVE_ALLOCATE, TM_RECORD_NATIVE_ALLOCATE,
		     TM_RECORD_NATIVE_REMEMBERED);
	cr_expect_eq(scene.seen[0].number, 0);
	cr_expect_eq(scene.seen[1].number, 0);
	cr_expect_neq(scene.seen[2].number, 0);
	cr_expect_eq(last()->number, scene.seen[2].number);
	cr_expect_eq(last()->block, 0x5003);
	cr_expect_eq(last()->size, 27);
	EXPECT_STACK(MAIN, A, B);
}

/* Of the same sizes as the functions of these letters. */
#define TWIN 3u

Test(native_recorder, what_came_behind_two_stacks_tells_where_one_is_not_enough)
{
	const uint64_t twins[2] = {A, A + TWIN};

	put_row(A + TWIN);
	for (unsigned turn = 0; turn < 20; turn++) {
		STACK(MAIN, C);
		cr_assert(allocate(0x5000, 24));
		STACK(MAIN, twins[turn % 2], D); /* the same call at the same place */
		cr_assert(allocate(0x6000, 24));
		drain();
		expect_stack((const uint64_t[]){MAIN, twins[turn % 2], D}, 3);
	}
	expect_allocated(true);
	cr_expect_eq(scene.seen[scene.seen_count - 2].kind, TM_RECORD_NATIVE_REMEMBERED);
	cr_expect_eq(scene.seen[scene.seen_count - 3].kind, TM_RECORD_NATIVE_REMEMBERED);
}

Test(native_recorder, another_return_address_in_a_remembered_stack_is_seen)
{
	const uint64_t pcs[] = {MAIN, A, B, C, D, A, B, C, D, A};
	uint64_t changed[TM_ARRAY_SIZE(pcs)];

	for (size_t i = 0; i < TM_ARRAY_SIZE(pcs); i++)
		if (i)
			put_row(pcs[i] + TWIN);
	put_rule(MAIN + TWIN, tm_row_rule(TM_ROW_OUTERMOST, 0, 0, 0));
	for (size_t i = 0; i < TM_ARRAY_SIZE(pcs); i++) {
		set_stack(pcs, TM_ARRAY_SIZE(pcs));
		make_remembered(FP_OF_CALL);
		memcpy(changed, pcs, sizeof(pcs));
		changed[i] += TWIN;
		set_stack(changed, TM_ARRAY_SIZE(pcs));
		cr_assert(allocate(0x5000, 24));
		expect_allocated(false);
		expect_stack(changed, TM_ARRAY_SIZE(pcs));
	}
}

Test(native_recorder, the_same_call_elsewhere_is_not_the_remembered_one)
{
	STACK(MAIN, A, B);
	make_remembered(FP_OF_CALL);
	STACK(MAIN, C, B);
	cr_assert(allocate(0x5000, 24));
	expect_allocated(false);
	EXPECT_STACK(MAIN, C, B);
}

Test(native_recorder, saved_frame_pointers_of_a_remembered_stack_are_compared)
{
	put_rules_of_saved_fp();
	for (unsigned turn = 0; turn < 4; turn++) {
		expect_by_saved_fp(turn % 2);
		make_remembered(FP_OF_CALL);
	}
}

Test(native_recorder, the_frame_pointer_of_the_call_is_compared_where_it_matters)
{
	STACK(MAIN, A, B);
	make_remembered(FP_OF_CALL);
	cr_assert(tm_native_leave(0x5000, push_words(MALLOC, 24, 24), FP_OF_CALL + 8));
	expect_allocated(true);

	put_rule(C, tm_row_rule(TM_ROW_STEP, TM_ROW_CFA_FROM_FP, 16, 0));
	for (unsigned turn = 0; turn < 4; turn++)
		make_remembered(expect_by_fp_of_call(turn % 2));
}

static void allocate_by_new(uint64_t size)
{
	STACK(MAIN, A);
	tm_native_new(size, scene.cfa);
	push_frame(NEW_ARRAY);
	tm_native_new(size + 1, scene.cfa);
	push_frame(NEW);
	cr_assert(allocate(0x5000, size + 2));
}

Test(native_recorder, calls_of_operator_new_are_remembered_with_their_stack)
{
	for (unsigned i = 0; i < 4; i++)
		allocate_by_new(100 + i);
	expect_allocated(true);
	cr_expect_eq(last()->size, 103);
	EXPECT_STACK(MAIN, A);
	/* With one of them alone it is another call, */
	STACK(MAIN, A);
	tm_native_new(104, scene.cfa);
	push_frame(NEW_ARRAY);
	push_frame(NEW);
	cr_assert(allocate(0x5000, 24));
	expect_nothing();
	/* and without them another stack. */
	STACK(MAIN, A);
	push_frame(NEW_ARRAY);
	push_frame(NEW);
	plant_thread(&scene.plant)->stack.new_count = 0;
	cr_assert(allocate(0x5000, 24));
	expect_allocated(false);
	EXPECT_STACK(MAIN, A, NEW_ARRAY, NEW);
}

Test(native_recorder, a_call_of_operator_new_that_is_long_over_is_in_nobody_s_way)
{
	STACK(MAIN, A);
	push_frame(C);
	tm_native_new(100, scene.cfa); /* whose malloc was not seen */
	STACK(MAIN, B);
	make_remembered(FP_OF_CALL);
	for (unsigned i = 0; i < 4; i++)
		allocate_by_new(100 + i);
	expect_allocated(true);
}

Test(native_recorder, a_failure_and_a_large_block_are_told_with_their_frames)
{
	STACK(MAIN, A);
	make_remembered(FP_OF_CALL);
	cr_assert(allocate(0, 24));
	EXPECT_KINDS(TM_RECORD_NATIVE_FAIL);
	make_remembered(FP_OF_CALL);
	cr_assert(allocate(0x5000, UINT32_MAX));
	EXPECT_KINDS(TM_RECORD_NATIVE_REMEMBERED);
	cr_expect_eq(last()->size, UINT32_MAX);
	cr_assert(allocate(0x5000, UINT64_C(1) << 32));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->size, UINT64_C(1) << 32);
}

Test(native_recorder, a_resize_by_a_remembered_stack_is_told_with_its_old_block)
{
	STACK(MAIN, A);
	make_remembered(FP_OF_CALL);
	cr_assert(resize(0x5000, 0x6000, 10009));
	EXPECT_KINDS(TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_RESIZE_REMEMBERED);
	cr_expect_eq(last()->block, 0x6000);
	cr_expect_eq(last()->size, 10009);
	cr_expect_eq(last()->old, 0x5000);
	EXPECT_STACK(MAIN, A);
	cr_assert(resize(0x6000, 0, 10010));
	EXPECT_KINDS(TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_RESIZE_END);
	give_back(0x6000);
	EXPECT_KINDS(TM_RECORD_NATIVE_FREE);
	cr_expect_eq(last()->flags, 0, "no resize is going on");
}

Test(native_recorder, what_was_remembered_is_forgotten_with_its_code_and_its_stack)
{
	STACK(MAIN, A, B);
	make_remembered(FP_OF_CALL);
	tm_rows_new_generation(&scene.rows);
	cr_assert(allocate(0x5000, 24));
	expect_allocated(false);
	make_remembered(FP_OF_CALL);
	ring()->stack_low += 8;
	cr_assert(allocate(0x5000, 24));
	expect_allocated(false);
	make_remembered(FP_OF_CALL);
	EXPECT_STACK(MAIN, A, B);
}

/* Farther up than the place of a word can tell. */
Test(native_recorder, a_stack_that_is_too_large_is_not_remembered)
{
	put_rule(A, tm_row_rule(TM_ROW_STEP, 0, 8 * 66000, 0));
	for (unsigned i = 0; i < 8; i++) {
		STACK(MAIN);
		scene.cfa -= 8 * 66000;
		*word(scene.cfa - 8) = A;
		push_frame(B);
		cr_assert(allocate(0x5000, 24));
		expect_allocated(false);
		cr_expect_eq(last()->number, 0);
		EXPECT_STACK(MAIN, A, B);
	}
}

/* What is compared is the call's frame pointer, which is not that of the frames above then. */
Test(native_recorder, calls_of_an_operator_new_that_uses_the_frame_pointer_are_not_remembered)
{
	put_rule(NEW, tm_row_rule(TM_ROW_STEP, TM_ROW_FP_SAVED, 8 * frame_words(NEW), -16));
	for (unsigned i = 0; i < 8; i++) {
		allocate_by_new(100 + i);
		expect_allocated(false);
		cr_expect_eq(last()->number, 0);
		EXPECT_STACK(MAIN, A);
	}
}

/* Each of so many stacks comes in its turn, and some comes in its own: none is taken for another one, also
   where all are forgotten because there is no room for another one. */
static void alternate(size_t stacks, size_t depth, unsigned turns, double expected)
{
	static const uint64_t functions[] = {A, B, C, D};
	uint64_t random = 88172645463325252u, pcs[64] = {MAIN};
	size_t remembered = 0;

	for (unsigned turn = 0; turn < turns; turn++) {
		size_t number = next_random(&random) % 16 ? turn % stacks : next_random(&random) % stacks;

		for (size_t i = 1; i < depth; i++)
			pcs[i] = functions[(number * UINT64_C(0x9e3779b97f4a7c15) >> (2 * i % 62)) % 4];
		set_stack(pcs, depth);
		cr_assert(allocate(0x5000, turn));
		drain();
		cr_assert_eq(scene.stack_count, depth, "turn %u", turn);
		cr_assert_arr_eq(scene.stack, pcs, depth * sizeof(pcs[0]), "turn %u", turn);
		remembered += last()->kind == TM_RECORD_NATIVE_REMEMBERED;
		scene.seen_count = 0;
	}
	cr_expect_geq((double)remembered / turns, expected, "%zu of %u", remembered, turns);
}

Test(native_recorder, many_stacks_are_remembered_at_a_time)
{
	alternate(200, 40, 20000, 0.7);
}

Test(native_recorder, where_there_is_no_room_all_are_forgotten)
{
	alternate(3000, 60, 60000, 0.01);
}

/* ---- what the tracer is asked for ---- */

static void provide_rows(const struct tm_record_native *record)
{
	cr_expect_eq(record->fresh, TM_RECORD_REGISTERS);
	put_row(C);
	put_row(D);
}

Test(native_recorder, a_missing_row_is_asked_for_and_then_walked_by)
{
	pthread_t tracer;
	bool walked;

	tm_rows_forget(&scene.rows, C, C + 1);
	STACK(MAIN, A, C, B);
	tracer = begin_looking(provide_rows);
	walked = allocate(0x5000, 24);
	end_looking(tracer);
	cr_expect_not(walked);
	cr_assert_eq(scene.seen_count, 2, "%zu records", scene.seen_count);
	cr_expect_eq(scene.seen[0].kind, TM_RECORD_NATIVE_STACK);
	cr_expect_eq(scene.seen[0].flags, TM_RECORD_LOOK | TM_RECORD_NO_FRAMES);
	cr_expect_eq(scene.seen[0].words[TM_RECORD_PC], B);
	cr_expect_eq(scene.seen[0].words[TM_RECORD_SP], scene.cfa);
	cr_expect_eq(scene.seen[0].words[TM_RECORD_RBP], FP_OF_CALL);
	cr_expect_eq(scene.seen[0].words[TM_RECORD_RBX], 0xb0b0);
	for (unsigned i = 0; i < 4; i++)
		cr_expect_eq(scene.seen[0].words[TM_RECORD_R12 + i], 12 + i);
	cr_expect_eq(last()->kind, TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->flags, 0);
	EXPECT_STACK(MAIN, A, C, B);
	cr_expect(allocate(0x5010, 24), "nobody need be asked again");
}

Test(native_recorder, where_the_rows_do_not_come_the_call_is_told_with_its_registers)
{
	pthread_t tracer;

	tm_rows_forget(&scene.rows, C, C + 1);
	STACK(MAIN, A, C, B);
	tracer = begin_looking(NULL);
	cr_expect_not(allocate(0x5000, 24));
	end_looking(tracer);
	cr_expect_eq(last()->kind, TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->flags, TM_RECORD_LOOK | TM_RECORD_NO_FRAMES);
	cr_expect_eq(last()->block, 0x5000);
	cr_expect_eq(last()->size, 24);
	cr_expect_eq(last()->words[TM_RECORD_PC], B);
}

static void expect_look(uint64_t pc, const char *what)
{
	pthread_t tracer = begin_looking(NULL);
	size_t before = scene.seen_count;

	cr_expect_not(allocate(0x5000, 24), "%s", what);
	end_looking(tracer);
	cr_assert_eq(scene.seen_count, before + 1, "%s: the tracer looks once", what);
	cr_expect_eq(last()->kind, TM_RECORD_NATIVE_ALLOCATE, "%s", what);
	cr_expect_eq(last()->flags, TM_RECORD_LOOK | TM_RECORD_NO_FRAMES, "%s", what);
	cr_expect_eq(last()->words[TM_RECORD_PC], pc, "%s", what);
}

Test(native_recorder, what_a_row_cannot_pass_the_tracer_walks)
{
	static const struct {
		const char *what;
		uint64_t flags;
		enum tm_row_kind kind;
		int64_t cfa_offset, fp_offset;
	} rows[] = {
		{"a row that says so", 0, TM_ROW_LOOK, 16, 0},
		{"a CFA that does not rise", 0, TM_ROW_STEP, 0, 0},
		{"a CFA that sinks", 0, TM_ROW_STEP, -8, 0},
		{"a CFA above the stack", 0, TM_ROW_STEP, 8 * MEMORY, 0},
		{"a CFA from a frame pointer that is none", TM_ROW_CFA_FROM_FP, TM_ROW_STEP, 16, 0},
		{"a saved word below the stack pointer", TM_ROW_FP_SAVED, TM_ROW_STEP, 16, -24},
		{"a saved word above the stack", TM_ROW_FP_SAVED, TM_ROW_STEP, 16, 8 * MEMORY},
		{"a saved word that is cut by the stack's end", TM_ROW_FP_SAVED, TM_ROW_STEP, 16, -1},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows) - 1; i++) {
		put_rule(B, tm_row_rule(rows[i].kind, rows[i].flags, rows[i].cfa_offset, rows[i].fp_offset));
		STACK(MAIN, A, B);
		expect_look(B, rows[i].what);
	}
	/* The last one: of the outermost frame, whose CFA is the stack's end. */
	put_rule(B, tm_row_rule(TM_ROW_STEP, TM_ROW_FP_SAVED, 8 * frame_words(B), -1));
	STACK(B);
	expect_look(B, rows[TM_ARRAY_SIZE(rows) - 1].what);
}

Test(native_recorder, a_stack_outside_the_bounds_is_walked_by_the_tracer)
{
	static const struct {
		int64_t low, high; /* from the call's CFA */
	} rows[] = {{0, 4096}, {-7, 4096}, {-4096, -8}, {8, 4096}};

	STACK(MAIN, A, B);
	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		ring()->stack_low = scene.cfa + (uint64_t)rows[i].low;
		ring()->stack_high = scene.cfa + (uint64_t)rows[i].high;
		expect_look(B, "out of bounds");
	}
	ring()->stack_low = scene.cfa - 8;
	ring()->stack_high = (uint64_t)(uintptr_t)(scene.memory + MEMORY);
	cr_expect(allocate(0x5000, 24), "the lowest stack pointer that is inside");
}

static void provide_bounds(const struct tm_record_native *record)
{
	(void)record;
	for (unsigned i = 0; i < TM_RINGS; i++)
		if (plant_ring(&scene.plant, i)->head) {
			plant_ring(&scene.plant, i)->stack_low = (uint64_t)(uintptr_t)scene.memory;
			plant_ring(&scene.plant, i)->stack_high =
				(uint64_t)(uintptr_t)(scene.memory + MEMORY);
		}
}

Test(native_recorder, bounds_that_are_not_known_yet_are_asked_for)
{
	pthread_t tracer;

	ring()->stack_low = ring()->stack_high = 0;
	STACK(MAIN, A, B);
	tracer = begin_looking(provide_bounds);
	cr_expect_not(allocate(0x5000, 24));
	end_looking(tracer);
	cr_expect_eq(scene.seen[scene.seen_count - 2].kind, TM_RECORD_NATIVE_STACK);
	cr_expect_eq(last()->flags, 0);
	EXPECT_STACK(MAIN, A, B);
}

Test(native_recorder, what_the_tracer_walks_does_not_change_what_is_known)
{
	STACK(MAIN, A, B);
	allocate(0x5000, 24);
	drain();
	put_rule(D, tm_row_rule(TM_ROW_LOOK, 0, 0, 0));
	STACK(MAIN, A, B, D);
	expect_look(D, "in between");
	STACK(MAIN, A, B, C);
	cr_expect(allocate(0x5000, 24));
	drain();
	expect_delta(3, 1);
	EXPECT_STACK(MAIN, A, B, C);
}

/* ---- deep stacks ---- */

static void set_deep_stack(size_t count, uint64_t *pcs)
{
	for (size_t i = 0; i < count; i++)
		pcs[i] = i ? (uint64_t[]){A, B, C, D}[i * i % 7 % 4] : MAIN;
	set_stack(pcs, count);
}

Test(native_recorder, a_stack_is_told_in_as_many_records_as_it_needs)
{
	static const struct {
		size_t depth, records;
	} rows[] = {{TM_FRESH_MAX - 1, 1}, {TM_FRESH_MAX, 1},	      {TM_FRESH_MAX + 1, 2},
		    {2 * TM_FRESH_MAX, 2}, {2 * TM_FRESH_MAX + 1, 3}, {TM_FRAMES_MAX, 3}};
	static uint64_t pcs[TM_FRAMES_MAX];

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		const struct seen *seen;

		tm_rows_new_generation(&scene.rows); /* nothing is kept */
		set_deep_stack(rows[i].depth, pcs);
		cr_assert(allocate(0x5000, 24), "row %zu", i);
		seen = drain();
		cr_expect_eq(scene.passed, rows[i].records, "row %zu: %zu records", i, scene.passed);
		for (size_t k = 0; k < scene.passed; k++) {
			bool whole = k + 1 == scene.passed;

			cr_expect_eq(seen[k].kind,
				     whole ? TM_RECORD_NATIVE_ALLOCATE : TM_RECORD_NATIVE_FRAMES);
			cr_expect_leq(seen[k].fresh, TM_FRESH_MAX);
		}
		expect_stack(pcs, rows[i].depth);
		cr_assert(allocate(0x5000, 24), "row %zu", i);
		drain();
		cr_expect_gt(last()->kept, 0, "and all of it is known then");
		expect_stack(pcs, rows[i].depth);
	}
}

Test(native_recorder, a_deeper_stack_than_a_thread_has_room_for_is_walked_by_the_tracer)
{
	static uint64_t pcs[TM_FRAMES_MAX + 1];

	set_deep_stack(TM_FRAMES_MAX + 1, pcs);
	expect_look(pcs[TM_FRAMES_MAX], "too deep");
	/* Also where most of it is known. */
	set_deep_stack(TM_FRAMES_MAX, pcs);
	cr_assert(allocate(0x5000, 24));
	drain();
	set_deep_stack(TM_FRAMES_MAX + 1, pcs);
	expect_look(pcs[TM_FRAMES_MAX], "too deep by one");
}

/* ---- calls that are made by other calls ---- */

Test(native_recorder, a_call_that_an_allocator_makes_is_no_record)
{
	put_rule(PAD, step_rule(PAD, TM_ROW_IN_CALL));
	STACK(MAIN, A, PAD, B);
	cr_expect(allocate(0x5000, 24));
	expect_nothing();
	STACK(MAIN, A, PAD); /* directly */
	cr_expect(allocate(0x5000, 24));
	expect_nothing();
}

Test(native_recorder, a_resize_that_an_allocator_makes_is_left)
{
	put_rule(PAD, step_rule(PAD, TM_ROW_IN_CALL));
	STACK(MAIN, A, PAD, B);
	cr_expect(resize(0x5000, 0x6000, 24));
	EXPECT_KINDS(TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_RESIZE_LEFT);
	cr_expect_eq(last()->block, 0x5000);
}

/* What is freed again by a frame that is as deep as the first is another call's: the block was given away
 * between. */
Test(native_recorder, a_free_by_a_free_is_nested)
{
	STACK(MAIN, A);
	give_back(0x5000);
	STACK(MAIN, A, B);
	give_back(0x5000);
	drain();
	cr_expect_eq(scene.seen[scene.seen_count - 2].flags, 0);
	cr_expect_eq(last()->flags, TM_RECORD_NESTED);
	give_back(0x5010);
	drain();
	cr_expect_eq(last()->flags, 0, "another block");
}

Test(native_recorder, a_free_above_the_last_one_is_not_nested)
{
	STACK(MAIN, A, B);
	give_back(0x5000);
	STACK(MAIN, A);
	give_back(0x5000);
	drain();
	cr_expect_eq(last()->flags, 0);
}

Test(native_recorder, a_free_of_what_was_allocated_in_between_is_not_nested)
{
	STACK(MAIN, A);
	give_back(0x5000);
	allocate(0x5000, 24);
	STACK(MAIN, A, B);
	give_back(0x5000);
	drain();
	cr_expect_eq(last()->flags, 0);
}

Test(native_recorder, a_free_by_a_resize_is_nested)
{
	uint64_t *words;

	STACK(MAIN, A);
	words = push_words(REALLOC, 0x5000, 24);
	tm_native_resize(words);
	scene.cfa -= 8 * 16;
	*word(scene.cfa - 8) = B;
	give_back(0x5000);
	drain();
	cr_expect_eq(last()->flags, TM_RECORD_NESTED);
	STACK(MAIN, A);
	cr_expect(leave(0x6000, words));
	give_back(0x6000);
	drain();
	cr_expect_eq(last()->kind, TM_RECORD_NATIVE_FREE);
	cr_expect_eq(last()->flags, 0, "the resize is over");
}

Test(native_recorder, a_free_by_a_resize_that_is_the_thread_s_first_call_is_nested)
{
	plant_thread(&scene.plant)->stack = (struct tm_recorder_stack){0};
	STACK(MAIN, A);
	tm_native_resize(push_words(REALLOC, 0x5000, 24));
	scene.cfa -= 8 * 16;
	*word(scene.cfa - 8) = B;
	give_back(0x5000);
	EXPECT_KINDS(TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_FREE);
	cr_expect_eq(last()->flags, TM_RECORD_NESTED);
}

Test(native_recorder, a_resize_that_was_jumped_out_of_is_left)
{
	STACK(MAIN, A, B);
	tm_native_resize(push_words(REALLOC, 0x5000, 24));
	STACK(MAIN);
	give_back(0x7000);
	EXPECT_KINDS(TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_RESIZE_LEFT, TM_RECORD_NATIVE_FREE);
	cr_expect_eq(scene.seen[scene.seen_count - 2].block, 0x5000);
	cr_expect_eq(last()->flags, 0);
}

/* Its return address is another one's now. */
Test(native_recorder, a_resize_whose_frame_is_gone_is_left)
{
	STACK(MAIN, A, B);
	tm_native_resize(push_words(REALLOC, 0x5000, 24));
	STACK(MAIN, A, B + 3 * 0x1000, C, C, C, C, C);
	give_back(0x7000);
	EXPECT_KINDS(TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_RESIZE_LEFT, TM_RECORD_NATIVE_FREE);
}

/* ---- operator new ---- */

Test(native_recorder, a_block_of_operator_new_has_its_size_and_its_caller)
{
	STACK(MAIN, A);
	tm_native_new(10007, scene.cfa);
	push_frame(NEW);
	cr_expect(allocate(0x5000, 10016));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->size, 10007);
	cr_expect_eq(last()->old, NEW, "where operator new stands");
	EXPECT_STACK(MAIN, A);
}

Test(native_recorder, operator_new_that_calls_another_is_the_outermost_s)
{
	STACK(MAIN, A);
	tm_native_new(10007, scene.cfa);
	push_frame(NEW_ARRAY);
	tm_native_new(10008, scene.cfa);
	push_frame(NEW);
	cr_expect(allocate(0x5000, 10016));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->size, 10007);
	cr_expect_eq(last()->old, NEW_ARRAY);
	EXPECT_STACK(MAIN, A);
}

Test(native_recorder, operator_new_whose_malloc_fails_is_still_going_on)
{
	STACK(MAIN, A);
	tm_native_new(10007, scene.cfa);
	push_frame(NEW);
	cr_expect(allocate(0, 10016));
	EXPECT_KINDS(TM_RECORD_NATIVE_FAIL);
	cr_expect_eq(last()->old, NEW);
	cr_expect(allocate(0x5000, 10016));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->size, 10007);
}

Test(native_recorder, operator_new_that_is_over_changes_nothing)
{
	STACK(MAIN, A);
	tm_native_new(10007, scene.cfa);
	push_frame(NEW);
	allocate(0x5000, 10016);
	STACK(MAIN, A, NEW); /* a function that stands at its place */
	cr_expect(allocate(0x5010, 24));
	drain();
	cr_expect_eq(last()->size, 24);
	cr_expect_eq(last()->old, 0);
	EXPECT_STACK(MAIN, A, NEW);
}

/* Its constructor's kind: a handler that operator new calls. */
Test(native_recorder, a_call_by_a_function_that_operator_new_has_called_is_no_record)
{
	STACK(MAIN, A);
	tm_native_new(10007, scene.cfa);
	push_frame(NEW);
	push_frame(B);
	cr_expect(allocate(0x5000, 24));
	expect_nothing();
}

Test(native_recorder, a_free_in_operator_new_is_nested)
{
	STACK(MAIN, A);
	tm_native_new(10007, scene.cfa);
	push_frame(NEW);
	push_frame(B);
	give_back(0x5000);
	drain();
	cr_expect_eq(last()->flags, TM_RECORD_NESTED);
	STACK(MAIN, A);
	give_back(0x5010);
	drain();
	cr_expect_eq(last()->flags, 0, "above it");
}

#define NEWS TM_ARRAY_SIZE(((struct tm_recorder_stack *)0)->news)

Test(native_recorder, more_operators_new_than_are_remembered_are_taken_for_other_functions)
{
	STACK(MAIN);
	for (unsigned i = 0; i < NEWS + 1; i++) {
		tm_native_new(10007 + i, scene.cfa);
		push_frame(NEW);
	}
	cr_expect(allocate(0x5000, 24));
	drain();
	cr_expect_eq(last()->size, 10008, "the second one's");
	EXPECT_STACK(MAIN, NEW);
}

/* ---- operator new that is told at its end ---- */

static uint64_t *push_way_out(void)
{
	return push_words(MALLOC | TM_PAD_WAY_OUT, 1, 2);
}

/* From the frame that stands there. */
static bool allocate_by_ending_new(uint64_t block, uint64_t size)
{
	tm_native_new_ends(size, scene.cfa);
	return leave(block, push_way_out());
}

Test(native_recorder, operator_new_may_be_told_where_it_returns)
{
	STACK(MAIN, A);
	cr_expect(allocate_by_ending_new(0x5000, 10007));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->block, 0x5000);
	cr_expect_eq(last()->size, 10007);
	cr_expect_eq(last()->old, 0);
	EXPECT_STACK(MAIN, A);
	for (unsigned i = 0; i < 4; i++)
		cr_expect(allocate_by_ending_new(0x6000, 100 + i));
	expect_allocated(true);
	cr_expect_eq(last()->size, 103);
	EXPECT_STACK(MAIN, A);
}

/* Nobody has seen it begin, or another call was come to by a way that is its as well. */
Test(native_recorder, a_return_without_an_entry_is_nobody_s)
{
	STACK(MAIN, A);
	cr_expect(leave(0x5000, push_way_out()));
	expect_nothing();
	tm_native_new_ends(10007, scene.cfa);
	push_frame(NEW);
	cr_expect(leave(0x5000, push_way_out()));
	expect_nothing();
	pop_frame(NEW);
	cr_expect(leave(0x6000, push_way_out()));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect(leave(0x6000, push_way_out()), "it has been told");
	expect_nothing();
}

Test(native_recorder, what_such_an_operator_new_allocates_itself_is_inside_it)
{
	STACK(MAIN, A);
	tm_native_new_ends(10007, scene.cfa);
	push_frame(NEW);
	cr_expect(allocate(0x5000, 10016));
	expect_nothing();
	give_back(0x5000);
	drain();
	cr_expect_eq(last()->flags, TM_RECORD_NESTED);
	pop_frame(NEW);
	cr_expect(leave(0x6000, push_way_out()));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->size, 10007);
}

/* operator new[] that calls it, and is told by that. */
Test(native_recorder, such_an_operator_new_may_be_called_by_another)
{
	STACK(MAIN, A);
	tm_native_new(10007, scene.cfa);
	push_frame(NEW_ARRAY);
	cr_expect(allocate_by_ending_new(0x5000, 10016));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->size, 10007);
	EXPECT_STACK(MAIN, A);
}

Test(native_recorder, an_operator_new_that_an_exception_has_left_is_forgotten)
{
	STACK(MAIN, A);
	tm_native_new_ends(10007, scene.cfa);
	cr_expect(allocate_by_ending_new(0x5000, 24), "from the same place");
	drain();
	cr_expect_eq(last()->size, 24);
	tm_native_new_ends(10007, scene.cfa);
	*word(scene.cfa - 8) = B;
	cr_expect(leave(0x5000, push_way_out()), "it would have returned elsewhere");
	expect_nothing();
}

/* Of one that stops the tracer sees the end, wherever it jumps to. */
Test(native_recorder, an_operator_new_that_has_stopped_is_not_told_twice)
{
	struct tm_recorder_stack *stack = &plant_thread(&scene.plant)->stack;

	STACK(MAIN, A);
	stack->news[0] = (struct tm_recorder_call){scene.cfa, *word(scene.cfa - 8), 10007, TM_TOLD_BY_STOP};
	stack->new_count = 1;
	cr_expect(allocate_by_ending_new(0x5000, 10007));
	expect_nothing();
	stack->news[0].told = TM_TOLD_BY_RETURN; /* an exception has left that one */
	cr_expect(allocate_by_ending_new(0x5000, 10007));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
}

/* A signal handler's, farther up than what it has interrupted. */
Test(native_recorder, an_operator_new_on_another_stack_ends_none_on_the_thread_s_own)
{
	uint64_t cfa;

	STACK(MAIN, A);
	allocate(0x5000, 24); /* the bounds of the stack are known */
	cfa = scene.cfa;
	tm_native_new_ends(10007, scene.cfa);
	tm_native_new_ends(24, (uint64_t)&scene.elsewhere[TM_ARRAY_SIZE(scene.elsewhere)]);
	cr_expect_eq(plant_thread(&scene.plant)->stack.new_count, 2);
	drain();
	scene.cfa = cfa;
	cr_expect(leave(0x6000, push_way_out()));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->size, 10007);
	cr_expect_eq(plant_thread(&scene.plant)->stack.new_count, 0);
}

Test(native_recorder, what_is_told_at_its_end_is_not_forgotten_for_what_it_calls)
{
	STACK(MAIN);
	tm_native_new_ends(10007, scene.cfa);
	for (unsigned i = 0; i < NEWS + 1; i++) {
		push_frame(NEW);
		tm_native_new(10, scene.cfa);
	}
	for (unsigned i = 0; i < NEWS + 1; i++)
		pop_frame(NEW);
	cr_expect(leave(0x5000, push_way_out()));
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(last()->size, 10007);
}

/* ---- the sample ---- */

static struct tm_recorder_thread *begin_sampling(uint64_t mean, uint64_t seed)
{
	struct tm_recorder_thread *thread = plant_thread(&scene.plant);

	scene.plant.control->sample = mean;
	thread->random = seed;
	thread->sample_left = 1; /* the first call is told, and begins it */
	STACK(MAIN, A);
	allocate(FIRST, 1);
	drain();
	return thread;
}

#define CALLS 40000u
#define MEAN  (UINT64_C(512) << 10)

static size_t count_sampled(uint64_t size)
{
	size_t count = 0;

	for (unsigned i = 0; i < CALLS; i++) {
		cr_assert(allocate(0x100000 + i * 16, size));
		if (i % 1000)
			continue;
		drain();
		count += scene.passed;
		scene.seen_count = 0;
	}
	drain();
	return count + scene.passed;
}

static void expect_share(size_t count, size_t calls, double size, double mean)
{
	double share = 1 - exp(-size / mean), sigma = sqrt((double)calls * share * (1 - share));

	cr_expect_lt(fabs((double)count - share * (double)calls), 4 * sigma + 1,
		     "of %zu calls of %.0f bytes %zu are told, not %.0f +- %.1f", calls, size, count,
		     share * (double)calls, sigma);
}

Test(native_recorder, the_share_of_calls_in_the_sample_is_that_of_a_poisson_process)
{
	static const uint64_t sizes[] = {MEAN / 1000, MEAN / 50, MEAN / 4, MEAN, 2 * MEAN, 6 * MEAN};

	for (size_t i = 0; i < TM_ARRAY_SIZE(sizes); i++) {
		begin_sampling(MEAN, 0x123456789abcdef + i);
		expect_share(count_sampled(sizes[i]), CALLS, (double)sizes[i], (double)MEAN);
	}
}

Test(native_recorder, each_size_has_its_own_share_where_sizes_are_mixed)
{
	static const uint64_t sizes[] = {1000, 100000, 3000000};
	size_t told[TM_ARRAY_SIZE(sizes)] = {0};

	begin_sampling(MEAN, 0xfedcba987654321);
	for (unsigned i = 0; i < 3 * CALLS; i++) {
		const struct seen *seen;

		cr_assert(allocate(0x100000 + i * 16, sizes[i % 3]));
		seen = drain();
		for (size_t k = 0; k < scene.passed; k++)
			told[i % 3] += seen[k].size == sizes[i % 3];
		scene.seen_count = 0;
	}
	for (size_t i = 0; i < TM_ARRAY_SIZE(sizes); i++)
		expect_share(told[i], CALLS, (double)sizes[i], (double)MEAN);
}

/* Bytes before the next call that is told. */
#define TELL_NEXT(thread) ((thread)->sample_left = 1)
#define TELL_NONE(thread) ((thread)->sample_left = INT64_MAX / 2)

Test(native_recorder, frees_are_told_of_blocks_in_the_sample_once)
{
	struct tm_recorder_thread *thread = begin_sampling(MEAN, 1);

	TELL_NEXT(thread);
	allocate(0x5000, 24);
	TELL_NONE(thread);
	allocate(0x6000, 24);
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE);
	give_back(0x6000);
	expect_nothing();
	give_back(0x5000);
	EXPECT_KINDS(TM_RECORD_NATIVE_FREE);
	allocate(0x5000, 24); /* the address again, not told */
	give_back(0x5000);
	expect_nothing();
}

Test(native_recorder, where_a_set_of_the_sample_overflows_all_its_frees_are_told)
{
	struct tm_recorder_thread *thread = begin_sampling(MEAN, 1);
	uint64_t blocks[TM_SAMPLED_WAYS + 2];
	size_t count = 0, told;

	for (uint64_t block = 0x100000; count < TM_ARRAY_SIZE(blocks); block += 16)
		if (tm_sampled_set(block) == tm_sampled_set(0x100000))
			blocks[count++] = block;
	for (size_t i = 0; i <= TM_SAMPLED_WAYS; i++) {
		TELL_NEXT(thread);
		allocate(blocks[i], 24);
	}
	drain();
	for (size_t i = 0; i < TM_ARRAY_SIZE(blocks); i++)
		give_back(blocks[i]);
	give_back(0x200000 +
		  (tm_sampled_set(0x200000) == tm_sampled_set(0x100000)) * 16); /* of another set */
	drain();
	told = scene.passed;
	cr_expect_eq(told, TM_ARRAY_SIZE(blocks), "%zu", told);
}

Test(native_recorder, failures_are_told_whatever_the_sample)
{
	struct tm_recorder_thread *thread = begin_sampling(MEAN, 1);

	TELL_NONE(thread);
	allocate(0, 24);
	EXPECT_KINDS(TM_RECORD_NATIVE_FAIL);
}

Test(native_recorder, a_resize_of_a_block_that_is_not_in_the_sample_may_come_into_it)
{
	struct tm_recorder_thread *thread = begin_sampling(MEAN, 1);

	TELL_NONE(thread);
	resize(0x5000, 0x6000, 24);
	expect_nothing();
	TELL_NEXT(thread);
	resize(0x6000, 0x7000, 24);
	drain();
	cr_expect_eq(last()->block, 0x7000);
	give_back(0x7000);
	EXPECT_KINDS(TM_RECORD_NATIVE_FREE);
}

Test(native_recorder, a_resize_out_of_the_sample_ends_with_its_block_gone)
{
	struct tm_recorder_thread *thread = begin_sampling(MEAN, 1);

	TELL_NEXT(thread);
	allocate(0x5000, 24);
	drain();
	TELL_NONE(thread);
	resize(0x5000, 0x6000, 24);
	EXPECT_KINDS(TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_RESIZE_GONE);
	cr_expect_eq(last()->block, 0x5000);
	give_back(0x5000);
	give_back(0x6000);
	expect_nothing();
}

Test(native_recorder, a_resize_that_fails_leaves_its_block_in_the_sample)
{
	struct tm_recorder_thread *thread = begin_sampling(MEAN, 1);

	TELL_NEXT(thread);
	allocate(0x5000, 24);
	TELL_NONE(thread);
	resize(0x5000, 0, 24);
	EXPECT_KINDS(TM_RECORD_NATIVE_ALLOCATE, TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_RESIZE_END);
	give_back(0x5000);
	EXPECT_KINDS(TM_RECORD_NATIVE_FREE);
}

/* A call that an allocator makes is no record, and its block is nobody's. */
Test(native_recorder, an_unsampled_resize_does_not_leave_frees_nested)
{
	struct tm_recorder_thread *thread = begin_sampling(MEAN, 1);

	TELL_NEXT(thread);
	allocate(0x5000, 24);
	TELL_NEXT(thread);
	allocate(0x7000, 24);
	TELL_NONE(thread);
	resize(0x5000, 0x6000, 24);
	drain();
	give_back(0x7000);
	EXPECT_KINDS(TM_RECORD_NATIVE_FREE);
	cr_expect_eq(last()->flags, 0);
}

/* ---- real pads ---- */

static uint64_t original_result;

static uint64_t original(uint64_t a, uint64_t b)
{
	(void)a, (void)b;
	return original_result;
}

static uint64_t (*pads[5])(uint64_t, uint64_t); /* malloc, realloc, free, new, and its way out */

/* An operator new(size, block): returns its second argument. */
static const uint8_t move_result[] = {0x48, 0x89, 0xf0}; /* mov %rsi,%rax */
extern const char way_out_return[];
__asm__("	.text\nway_out_return:	ret\n");

static void plant_pads(void)
{
	const uint64_t *native = scene.plant.native, to = (uint64_t)(uintptr_t)original,
		       on = (uint64_t)(uintptr_t)&scene.plant.control->enabled;
	const struct tm_record_pad_plan plans[] = {
		{.original = to,
		 .enabled = on,
		 .leave = native[TM_ENTRY_NATIVE_LEAVE],
		 .what = MALLOC,
		 .argument_count = 1},
		{.original = to,
		 .enabled = on,
		 .entry = native[TM_ENTRY_NATIVE_RESIZE],
		 .leave = native[TM_ENTRY_NATIVE_LEAVE],
		 .what = REALLOC,
		 .argument_count = 2,
		 .arguments = {0, 1}},
		{.original = to, .enabled = on, .entry = native[TM_ENTRY_NATIVE_FREE], .needs_block = true},
		{.enabled = on, .entry = native[TM_ENTRY_NATIVE_NEW_ENDS]}, /* goes on to the next one */
		{.original = (uint64_t)(uintptr_t)way_out_return,
		 .enabled = on,
		 .leave = native[TM_ENTRY_NATIVE_LEAVE],
		 .way_out = true,
		 .before = move_result,
		 .before_size = sizeof(move_result),
		 .what = MALLOC | TM_PAD_WAY_OUT,
		 .argument_count = 1},
	};
	uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(page, MAP_FAILED);
	for (size_t i = 0; i < TM_ARRAY_SIZE(plans); i++) {
		struct tm_record_pad_plan plan = plans[i];
		struct tm_record_pad pad;
		void *place = page + 128 * i;

		if (!plan.original)
			plan.original = (uint64_t)(uintptr_t)place + 128;
		cr_assert_null(tm_record_pad_make(&tm_arch_x86_64, &plan, &pad));
		memcpy(place, pad.code, pad.size);
		memcpy(&pads[i], &place, sizeof(place));
	}
	cr_assert_eq(mprotect(page, 4096, PROT_READ | PROT_EXEC), 0);
}

static void set_up_pads(void)
{
	plant_open(&scene.plant, PLANT_IMAGE);
	scene.rows = (struct tm_row_table){.shared = scene.plant.shared};
	scene.sink.record = see;
	plant_pads();
}

TestSuite(native_pads, .init = set_up_pads, .fini = tear_down, .timeout = 60);

/* The frame that makes the call is all that there is. */
static void end_stack_at_caller(const struct tm_record_native *record)
{
	put_rule(record->words[TM_RECORD_PC], tm_row_rule(TM_ROW_OUTERMOST, 0, 0, 0));
	for (unsigned i = 0; i < TM_RINGS; i++)
		if (plant_ring(&scene.plant, i)->head) {
			plant_ring(&scene.plant, i)->stack_low = record->words[TM_RECORD_SP] - 65536;
			plant_ring(&scene.plant, i)->stack_high = record->words[TM_RECORD_SP] + 256;
		}
}

static __attribute__((noinline)) uint64_t call_pad(unsigned pad, uint64_t a, uint64_t b, uint64_t result)
{
	uint64_t got;

	original_result = result;
	got = pads[pad](a, b);
	__asm__ volatile("" ::: "memory");
	return got;
}

static bool is_in_call_pad(uint64_t pc)
{
	return pc - (uint64_t)(uintptr_t)call_pad < 4096;
}

Test(native_pads, calls_through_pads_are_recorded)
{
	pthread_t tracer = begin_looking(end_stack_at_caller);
	const unsigned kinds[] = {TM_RECORD_NATIVE_STACK, TM_RECORD_NATIVE_ALLOCATE,
				  TM_RECORD_NATIVE_RESIZE_BEGIN, TM_RECORD_NATIVE_RESIZE_END,
				  TM_RECORD_NATIVE_FREE};

	cr_expect_eq(call_pad(0, 10007, 0, 0x5000), 0x5000);
	cr_expect_eq(call_pad(1, 0x5000, 10009, 0x6000), 0x6000);
	cr_expect_eq(call_pad(2, 0x6000, 0, 0), 0);
	cr_expect_eq(call_pad(2, 0, 0, 0), 0); /* free of NULL */
	end_looking(tracer);
	cr_assert_eq(scene.seen_count, TM_ARRAY_SIZE(kinds), "%zu records", scene.seen_count);
	for (size_t i = 0; i < TM_ARRAY_SIZE(kinds); i++)
		cr_expect_eq(scene.seen[i].kind, kinds[i], "record %zu is of kind %u", i, scene.seen[i].kind);
	cr_expect_eq(scene.seen[1].block, 0x5000);
	cr_expect_eq(scene.seen[1].size, 10007);
	cr_expect_eq(scene.seen[3].block, 0x6000);
	cr_expect_eq(scene.seen[3].size, 10009);
	cr_expect_eq(scene.seen[3].old, 0x5000);
	cr_expect_eq(scene.seen[4].block, 0x6000);
	cr_expect_eq(scene.stack_count, 1);
	cr_expect(is_in_call_pad(scene.stack[0]));
}

Test(native_pads, an_operator_new_is_recorded_where_it_returns)
{
	pthread_t tracer = begin_looking(end_stack_at_caller);

	cr_expect_eq(call_pad(3, 10007, 0x5000, 0), 0x5000);
	cr_expect_eq(call_pad(4, 10009, 0x6000, 0), 0x6000, "it was come to by another way");
	cr_expect_eq(call_pad(3, 10037, 0x7000, 0), 0x7000);
	end_looking(tracer);
	cr_assert_eq(scene.seen_count, 3, "%zu records", scene.seen_count);
	cr_expect_eq(scene.seen[0].kind, TM_RECORD_NATIVE_STACK);
	cr_expect_eq(scene.seen[1].kind, TM_RECORD_NATIVE_ALLOCATE);
	cr_expect_eq(scene.seen[1].block, 0x5000);
	cr_expect_eq(scene.seen[1].size, 10007);
	cr_expect_eq(scene.seen[2].block, 0x7000);
	cr_expect_eq(scene.seen[2].size, 10037);
	cr_expect(is_in_call_pad(scene.stack[0]));
}

static struct tm_native_registers asked;

static void note_registers(const struct tm_record_native *record)
{
	asked = (struct tm_native_registers){record->words[TM_RECORD_RBP], record->words[TM_RECORD_RBX],
					     record->words[TM_RECORD_R12], record->words[TM_RECORD_R13],
					     record->words[TM_RECORD_R14], record->words[TM_RECORD_R15]};
}

Test(native_pads, the_tracer_gets_the_caller_s_registers_and_the_caller_keeps_them)
{
	pthread_t tracer = begin_looking(note_registers);
	uint64_t result, sum;

	original_result = 0x5000;
	__asm__ volatile(
		"push %%rbp\n	mov $2, %%ebp\n	mov $3, %%ebx\n	mov $4, %%r12d\n	mov $5, %%r13d\n"
		"mov $6, %%r14d\n	mov $7, %%r15d\n	mov $10007, %%edi\n	sub $120, %%rsp\n"
		"call *%2\n	add $120, %%rsp\n"
		"lea (%%rbp, %%rbx), %1\n	add %%r12, %1\n	add %%r13, %1\n	add %%r14, %1\n	add %%r15, "
		"%1\n"
		"pop %%rbp"
		: "=&a"(result), "=&d"(sum)
		: "c"(pads[0])
		: "rbx", "r12", "r13", "r14", "r15", "rdi", "rsi", "r8", "r9", "r10", "r11", "memory", "cc");
	end_looking(tracer);
	cr_expect_eq(result, 0x5000);
	cr_expect_eq(sum, 2 + 3 + 4 + 5 + 6 + 7);
	cr_expect(asked.rbp == 2 && asked.rbx == 3 && asked.r12 == 4 && asked.r13 == 5 && asked.r14 == 6 &&
		  asked.r15 == 7);
}

Test(native_pads, a_forked_child_records_nothing)
{
	pthread_t tracer = begin_looking(end_stack_at_caller);
	int status = 0;
	size_t count;
	pid_t pid;

	call_pad(0, 10007, 0, 0x5000);
	end_looking(tracer);
	count = scene.seen_count;
	pid = fork();
	cr_assert_geq(pid, 0);
	if (pid == 0) {
		bool right =
			call_pad(0, 24, 0, 0x7000) == 0x7000 && call_pad(1, 0x7000, 24, 0x8000) == 0x8000;

		call_pad(2, 0x8000, 0, 0);
		_exit(right ? 0 : 1);
	}
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status 0x%x", status);
	drain();
	cr_expect_eq(scene.seen_count, count);
	call_pad(2, 0x5000, 0, 0);
	EXPECT_KINDS(TM_RECORD_NATIVE_FREE);
}

#else

Test(native_recorder, is_written_for_x86_64)
{
	cr_skip_test("there is no recorder for this architecture");
}
#endif
