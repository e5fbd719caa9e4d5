/* The pads are run: with functions of this program in their slots, and int3 at their stops as a tracer would
 * put it there. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "arch/slot_pads.h"

Test(slot_pads, an_architecture_without_pads_is_refused)
{
	struct tm_slot_pads pads;
	struct tm_error *err = tm_slot_pads_make(&tm_arch_aarch64, false, &pads);

	cr_assert_not_null(err);
	cr_expect_eq(err->code, TM_ERROR_UNSUPPORTED);
	tm_error_destroy(err);
}

Test(slot_pads, every_function_has_its_stops)
{
	struct tm_slot_pads pads;
	unsigned entries = 0;

	cr_assert_null(tm_slot_pads_make(&tm_arch_x86_64, false, &pads));
	cr_expect_eq(pads.stop_count, TM_SLOT_STOPS);
	for (size_t i = 0; i < pads.stop_count; i++) {
		entries += pads.stops[i].is_entry;
		cr_expect(memcmp(pads.code + pads.stops[i].offset, tm_arch_x86_64.stop_point, 2) == 0);
	}
	cr_expect_eq(entries, 2 * TM_SLOT_TABLES);
	for (unsigned i = 1; i < TM_SLOT_COUNT; i++)
		cr_expect_gt(pads.entries[i], pads.entries[i - 1]);
}

#ifdef __x86_64__
#include <ucontext.h>

static struct tm_slot_pads pads;
static uint8_t *page;
static struct stop {
	const struct tm_slot_stop *stop;
	uint64_t rax, rdx, rcx, rsi, rdi;
} stops[16];
static size_t stop_count;

static void on_trap(int signal, siginfo_t *info, void *context)
{
	greg_t *regs = ((ucontext_t *)context)->uc_mcontext.gregs;
	size_t offset = (size_t)regs[REG_RIP] - 1 - (uintptr_t)page;

	(void)signal, (void)info;
	for (size_t i = 0; i < pads.stop_count; i++)
		if (pads.stops[i].offset == offset)
			stops[stop_count++] = (struct stop){&pads.stops[i],	     (uint64_t)regs[REG_RAX],
							    (uint64_t)regs[REG_RDX], (uint64_t)regs[REG_RCX],
							    (uint64_t)regs[REG_RSI], (uint64_t)regs[REG_RDI]};
}

typedef void *(*pad_malloc)(void *, size_t);
typedef void *(*pad_calloc)(void *, size_t, size_t);
typedef void *(*pad_realloc)(void *, void *, size_t);
typedef void (*pad_free)(void *, void *);

static void *pad(enum tm_slot_table table, enum tm_slot_function function)
{
	return page + pads.entries[table * TM_SLOT_FUNCTIONS + function];
}

static int context_seen, aligned;

static void note(void *context)
{
	context_seen += context == (void *)&context_seen;
	aligned += (uintptr_t)__builtin_frame_address(0) % 16 == 0;
}

/* As pymalloc: the larger blocks come from raw, through raw's slot. */
static void *own_malloc(void *context, size_t size)
{
	note(context);
	return size > 512 ? ((pad_malloc)pad(TM_SLOT_RAW, TM_SLOT_MALLOC))(context, size) : malloc(size);
}

static void *raw_malloc(void *context, size_t size)
{
	note(context);
	return size == 77777 ? NULL : malloc(size);
}

static void *own_calloc(void *context, size_t count, size_t size)
{
	note(context);
	return calloc(count, size);
}

static void *own_realloc(void *context, void *block, size_t size)
{
	note(context);
	return realloc(block, size);
}

static void own_free(void *context, void *block)
{
	note(context);
	((pad_free)pad(TM_SLOT_RAW, TM_SLOT_FREE))(context, block);
}

static void raw_free(void *context, void *block)
{
	note(context);
	free(block);
}

static void map_pads(bool with_breakpoints)
{
	void *originals[TM_SLOT_REFERENCE] = {(void *)raw_malloc,  (void *)own_calloc,	(void *)own_realloc,
					      (void *)raw_free,	   (void *)own_malloc,	(void *)own_calloc,
					      (void *)own_realloc, (void *)own_free,	(void *)own_malloc,
					      (void *)own_calloc,  (void *)own_realloc, (void *)own_free};
	struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};

	cr_assert_null(tm_slot_pads_make(&tm_arch_x86_64, false, &pads));
	page = mmap(NULL, 2 * TM_SLOT_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(page, pads.code, pads.size);
	memcpy(page + TM_SLOT_PAGE + TM_SLOT_ORIGINAL(0), originals, sizeof(originals));
	for (size_t i = 0; with_breakpoints && i < pads.stop_count; i++)
		page[pads.stops[i].offset] = 0xcc;
	mprotect(page, TM_SLOT_PAGE, PROT_READ | PROT_EXEC);
	sigaction(SIGTRAP, &action, NULL);
	stop_count = 0;
	context_seen = aligned = 0;
}

static uint64_t thread_pointer(void)
{
	uint64_t value;

	__asm__("mov %%fs:0, %0" : "=r"(value));
	return value;
}

Test(slot_pads, malloc_stops_once_with_block_and_size)
{
	void *block;

	map_pads(true);
	block = ((pad_malloc)pad(TM_SLOT_OBJ, TM_SLOT_MALLOC))(&context_seen, 100);
	cr_assert_eq(stop_count, 1);
	cr_expect_eq(stops[0].rax, (uintptr_t)block);
	cr_expect_eq(stops[0].rsi, 100);
	cr_expect_eq(stops[0].rdx, thread_pointer());
	cr_expect_eq(stops[0].stop->slot / TM_SLOT_FUNCTIONS, TM_SLOT_OBJ);
	cr_expect_eq(stops[0].stop->slot % TM_SLOT_FUNCTIONS, TM_SLOT_MALLOC);
	cr_expect_not(stops[0].stop->is_entry);
	cr_expect_eq(context_seen, 1);
	cr_expect_eq(aligned, 1);
	free(block);
}

Test(slot_pads, a_raw_call_inside_another_is_no_event)
{
	void *block;

	map_pads(true);
	block = ((pad_malloc)pad(TM_SLOT_MEM, TM_SLOT_MALLOC))(&context_seen, 4000);
	cr_assert_eq(stop_count, 1);
	cr_expect_eq(stops[0].stop->slot / TM_SLOT_FUNCTIONS, TM_SLOT_MEM);
	cr_expect_eq(stops[0].rsi, 4000);
	((pad_free)pad(TM_SLOT_MEM, TM_SLOT_FREE))(&context_seen, block);
	cr_assert_eq(stop_count, 2);
	cr_expect(stops[1].stop->is_entry);
	cr_expect_eq(stops[1].rsi, (uintptr_t)block);
	cr_expect_eq(context_seen, 4);
	cr_expect_eq(aligned, 4);
}

Test(slot_pads, a_raw_call_of_its_own_is_an_event)
{
	void *block;

	map_pads(true);
	free(((pad_malloc)pad(TM_SLOT_OBJ, TM_SLOT_MALLOC))(&context_seen, 100)); /* leaves nothing behind */
	block = ((pad_malloc)pad(TM_SLOT_RAW, TM_SLOT_MALLOC))(&context_seen, 4000);
	cr_assert_eq(stop_count, 2);
	cr_expect_eq(stops[1].stop->slot / TM_SLOT_FUNCTIONS, TM_SLOT_RAW);
	((pad_free)pad(TM_SLOT_RAW, TM_SLOT_FREE))(&context_seen, block);
	cr_expect_eq(stop_count, 3);
}

Test(slot_pads, calloc_tells_the_product)
{
	map_pads(true);
	free(((pad_calloc)pad(TM_SLOT_OBJ, TM_SLOT_CALLOC))(&context_seen, 7, 30));
	cr_assert_eq(stop_count, 1);
	cr_expect_eq(stops[0].rsi, 210);
	cr_expect_eq(aligned, 1);
}

Test(slot_pads, realloc_stops_before_and_behind)
{
	char *block, *moved;

	map_pads(true);
	block = ((pad_realloc)pad(TM_SLOT_OBJ, TM_SLOT_REALLOC))(&context_seen, NULL, 10);
	cr_assert_eq(stop_count, 1);
	cr_expect_eq(stops[0].rcx, 0);
	moved = ((pad_realloc)pad(TM_SLOT_OBJ, TM_SLOT_REALLOC))(&context_seen, block, 100000);
	cr_assert_eq(stop_count, 3);
	cr_expect(stops[1].stop->is_entry);
	cr_expect_eq(stops[1].rsi, (uintptr_t)block);
	cr_expect_not(stops[2].stop->is_entry);
	cr_expect_eq(stops[2].rcx, (uintptr_t)block);
	cr_expect_eq(stops[2].rax, (uintptr_t)moved);
	cr_expect_eq(stops[2].rsi, 100000);
	cr_expect_eq(aligned, 2);
	free(moved);
}

Test(slot_pads, no_block_and_free_of_none)
{
	map_pads(true);
	cr_expect_null(((pad_malloc)pad(TM_SLOT_RAW, TM_SLOT_MALLOC))(&context_seen, 77777));
	cr_assert_eq(stop_count, 1);
	cr_expect_eq(stops[0].rax, 0);
	((pad_free)pad(TM_SLOT_RAW, TM_SLOT_FREE))(&context_seen, NULL);
	((pad_free)pad(TM_SLOT_OBJ, TM_SLOT_FREE))(&context_seen, NULL);
	cr_expect_eq(stop_count, 1);
}

static int tracer_calls;

static int earlier_tracer(void *object, int event, void *data)
{
	tracer_calls += object == &pads && event == 0 && data == &stops;
	tracer_calls += 10 * (event == 1);
	return 0;
}

Test(slot_pads, a_new_object_stops_and_the_earlier_tracer_is_called)
{
	int (*tracer)(void *, int, void *), (*earlier)(void *, int, void *) = earlier_tracer;

	map_pads(true);
	tracer = (int (*)(void *, int, void *))(uintptr_t)(page + pads.entries[TM_SLOT_REFERENCE]);
	cr_expect_eq(tracer(&pads, 0, &stops), 0);
	cr_assert_eq(stop_count, 1);
	cr_expect_eq(stops[0].stop->slot, TM_SLOT_REFERENCE);
	cr_expect_eq(stops[0].rdi, (uintptr_t)&pads);
	cr_expect_eq(stops[0].rax, thread_pointer());
	memcpy(page + TM_SLOT_PAGE + TM_SLOT_ORIGINAL(TM_SLOT_REFERENCE), &earlier, sizeof(earlier));
	cr_expect_eq(tracer(&pads, 0, &stops), 0);
	cr_expect_eq(tracer(&pads, 1, &stops), 0);
	cr_expect_eq(stop_count, 2); /* the end of an object is none of ours */
	cr_expect_eq(tracer_calls, 11);
}

Test(slot_pads, without_breakpoints_they_are_inert)
{
	void *block;

	map_pads(false);
	for (enum tm_slot_table table = TM_SLOT_RAW; table < TM_SLOT_TABLES; table++) {
		block = ((pad_calloc)pad(table, TM_SLOT_CALLOC))(&context_seen, 10, 100);
		block = ((pad_realloc)pad(table, TM_SLOT_REALLOC))(&context_seen, block, 5000);
		cr_expect_not_null(block);
		((pad_free)pad(table, TM_SLOT_FREE))(&context_seen, block);
	}
	cr_expect_eq(stop_count, 0);
	cr_expect_eq(context_seen, aligned);
}
#endif
