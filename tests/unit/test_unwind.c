/*
 * The walk over rows and stacks made up here, of both architectures on any host. (Real stacks:
 * test_unwind_oracle.c.)
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dwarf.h>
#include <stdarg.h>

#include "unwind/dwarf_op.h"
#include "unwind/expression.h"
#include "unwind/unwind.h"

enum { RBX = 3, RBP = 6, RSP = 7, R12 = 12, RIP = 16 };
enum { X19 = 19, X29 = 29, X30 = 30, SP = 31, PC = 32 };

#define STACK	    0x7ffe00000000u
#define WORDS	    4096
#define CODE	    0x400000u /* function n is [CODE + 256 * n, CODE + 256 * (n + 1)) */
#define FUNCTION(n) (CODE + 256u * (n))

struct world {
	const struct tm_arch *arch;
	uint64_t pac_mask;
	struct tm_module_map *map;
	struct tm_cfi *cfi;
	uint64_t words[WORDS]; /* the stack, from STACK on */
	size_t readable;       /* bytes of it that memory gives */
	size_t reads;
	struct tm_memory memory;
	struct tm_capture capture;
	struct tm_walk walk;
};

static void must(struct tm_error *err)
{
	cr_assert(eq(ptr, err, NULL), "%s", err ? err->message : "");
}

static struct tm_error *read_stack(void *context, uint64_t address, void *buffer, size_t size)
{
	struct world *world = context;

	world->reads++;
	if (address < STACK || address - STACK > world->readable ||
	    size > world->readable - (address - STACK))
		return tm_error_create(TM_ERROR_NO_MEMORY, "nothing is there");
	memcpy(buffer, (uint8_t *)world->words + (address - STACK), size);
	return NULL;
}

/* The whole stack is in the capture; nothing else can be read. */
static struct world *world_create(const struct tm_arch *arch)
{
	struct tm_module_source source = {.root_fd = -1, .proc_fd = -1};
	struct world *world = calloc(1, sizeof(*world));

	source.memory = (struct tm_memory){world, read_stack};
	world->arch = arch;
	must(tm_module_map_create(&source, &world->map));
	must(tm_cfi_create(arch, world->map, &world->cfi));
	world->capture.start = STACK;
	world->capture.bytes = (const uint8_t *)world->words;
	world->capture.size = sizeof(world->words);
	world->memory = source.memory;
	world->capture.regs.value[arch->sp] = STACK;
	return world;
}

static void world_destroy(struct world *world)
{
	tm_walk_deinit(&world->walk);
	tm_cfi_destroy(world->cfi);
	tm_module_map_destroy(world->map);
	free(world);
}

#define RULES(...)                                                                                           \
	.rules = (const struct tm_rule[]){__VA_ARGS__},                                                      \
	.rule_count = sizeof((const struct tm_rule[]){__VA_ARGS__}) / sizeof(struct tm_rule)
#define AT(r, o)                                                                                             \
	{                                                                                                    \
		.kind = TM_RULE_AT_CFA, .reg = (r), .offset = (o)                                            \
	}

static void add_row(struct world *world, unsigned function, struct tm_row row)
{
	row.start = FUNCTION(function);
	row.end = FUNCTION(function + 1);
	must(tm_cfi_add_code(world->cfi, &row));
}

/* x86-64: a frame of `size` bytes with its return address at the top. */
static void add_frame_row(struct world *world, unsigned function, int32_t size)
{
	add_row(world, function,
		(struct tm_row){
			.cfa_register = RSP, .cfa_offset = size, .return_register = RIP, RULES(AT(RIP, -8))});
}

static void add_outermost(struct world *world, unsigned function)
{
	unsigned column = world->arch->link < 0 ? world->arch->pc : (unsigned)world->arch->link;

	add_row(world, function,
		(struct tm_row){.cfa_register = (uint8_t)world->arch->sp,
				.cfa_offset = 16,
				.return_register = (uint8_t)column,
				.outermost = true});
}

static void put(struct world *world, uint64_t address, uint64_t value)
{
	world->words[(address - STACK) / 8] = value;
}

static void unwind(struct world *world, uint64_t pc, bool at_entry, size_t limit)
{
	world->capture.regs.value[world->arch->pc] = pc;
	tm_unwind(world->cfi, world->arch, world->pac_mask, &world->capture, at_entry, limit, &world->walk);
}

/* Checks why the walk ended, and its pcs. */
static void expect_walk(const struct world *world, enum tm_cut cut, size_t count, ...)
{
	va_list pcs;

	cr_expect(eq(int, world->walk.cut, cut));
	cr_assert(eq(sz, world->walk.count, count));
	va_start(pcs, count);
	for (size_t i = 0; i < count; i++)
		cr_expect(eq(u64, world->walk.frames[i].pc, va_arg(pcs, uint64_t)), "frame %zu", i);
	va_end(pcs);
}

static uint64_t in(unsigned function)
{
	return FUNCTION(function) + 32;
}

/* ---- x86-64 ---- */

Test(unwind, follows_return_addresses_to_the_outermost_frame)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_frame_row(world, 1, 32);
	add_frame_row(world, 2, 64);
	add_outermost(world, 3);
	put(world, STACK + 24, in(2));
	put(world, STACK + 32 + 56, in(3));
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 3, in(1), in(2), in(3));
	cr_expect(eq(u64, world->walk.frames[0].lookup, in(1)));
	cr_expect(eq(u64, world->walk.frames[1].lookup, in(2) - 1));
	cr_expect(eq(u64, world->walk.frames[0].cfa, STACK + 32));
	cr_expect(eq(u64, world->walk.frames[1].cfa, STACK + 96));
	cr_expect(eq(u64, world->walk.lowest_unread, 0));
	world_destroy(world);
}

Test(unwind, caller_whose_call_is_its_last_instruction_is_looked_up_in_itself)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_frame_row(world, 1, 32);
	add_outermost(world, 2); /* the return address is function 3's first byte */
	put(world, STACK + 24, FUNCTION(3));
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 2, in(1), (uint64_t)FUNCTION(3));
	world_destroy(world);
}

Test(unwind, entry_of_a_function_needs_no_cfi)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_outermost(world, 2);
	put(world, STACK, in(2));
	unwind(world, in(1), true, 100);
	expect_walk(world, TM_CUT_NONE, 2, in(1), in(2));
	cr_expect(eq(u64, world->walk.frames[0].cfa, STACK + 8));
	world_destroy(world);
}

Test(unwind, frame_pointer_is_restored_for_the_frame_that_hangs_on_it)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_row(world, 1,
		(struct tm_row){.cfa_register = RSP,
				.cfa_offset = 32,
				.return_register = RIP,
				RULES(AT(RBP, -16), AT(RIP, -8))});
	add_row(world, 2,
		(struct tm_row){.cfa_register = RBP,
				.cfa_offset = 16,
				.return_register = RIP,
				RULES(AT(RBP, -16), AT(RIP, -8))});
	add_outermost(world, 3);
	put(world, STACK + 16, STACK + 800); /* rbp of function 2: it has a large frame */
	put(world, STACK + 24, in(2));
	put(world, STACK + 808, in(3));
	world->capture.regs.value[RBP] = 12345;
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 3, in(1), in(2), in(3));
	world_destroy(world);
}

Test(unwind, register_saved_frames_below_is_there_when_a_cfa_needs_it)
{
	struct world *world = world_create(&tm_arch_x86_64);

	/* 1 saves rbx, 2 leaves it alone, 3 has its CFA in it (as _dl_runtime_resolve). */
	add_row(world, 1,
		(struct tm_row){.cfa_register = RSP,
				.cfa_offset = 32,
				.return_register = RIP,
				RULES(AT(RBX, -24), AT(RIP, -8))});
	add_frame_row(world, 2, 48);
	add_row(world, 3,
		(struct tm_row){.cfa_register = RBX,
				.cfa_offset = 32,
				.return_register = RIP,
				RULES(AT(RBX, -32), AT(RIP, -8))});
	add_outermost(world, 4);
	put(world, STACK + 8, STACK + 1024);
	put(world, STACK + 24, in(2));
	put(world, STACK + 32 + 40, in(3));
	put(world, STACK + 1024 + 24, in(4));
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 4, in(1), in(2), in(3), in(4));
	world_destroy(world);
}

Test(unwind, caller_saved_register_is_no_base_of_a_callers_cfa)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_frame_row(world, 1, 32);
	add_row(world, 2,
		(struct tm_row){.cfa_register = 0 /* rax */,
				.cfa_offset = 32,
				.return_register = RIP,
				RULES(AT(RIP, -8))});
	add_outermost(world, 3);
	put(world, STACK + 24, in(2));
	world->capture.regs.value[0] = STACK + 64;
	put(world, STACK + 64 + 24, in(3));
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NO_CFI, 2, in(1), in(2));
	unwind(world, in(2), false, 100); /* but of the innermost it is */
	expect_walk(world, TM_CUT_NONE, 2, in(2), in(3));
	world_destroy(world);
}

Test(unwind, cfa_and_rules_may_be_expressions)
{
	struct world *world = world_create(&tm_arch_x86_64);
	const struct tm_operation operations[] = {
		{DW_OP_breg0 + RSP, 8, 0}, {DW_OP_breg0 + RIP, 0, 0},
		{DW_OP_lit15, 0, 0},	   {DW_OP_and, 0, 0},
		{DW_OP_lit11, 0, 0},	   {DW_OP_ge, 0, 0},
		{DW_OP_lit3, 0, 0},	   {DW_OP_shl, 0, 0},
		{DW_OP_plus, 0, 0},	   {DW_OP_call_frame_cfa, 0, 0},
		{DW_OP_lit8, 0, 0},	   {DW_OP_minus, 0, 0},
	};
	const struct tm_row plt = {
		.cfa_is_expression = 1,
		.cfa_operation_count = 9,
		.return_register = RIP,
		.operations = operations,
		RULES({.kind = TM_RULE_AT_EXPRESSION, .reg = RIP, .offset = 9, .operation_count = 3})};

	add_row(world, 1, plt);
	add_outermost(world, 2);
	put(world, STACK, in(2));
	unwind(world, FUNCTION(1) + 6, false, 100);
	expect_walk(world, TM_CUT_NONE, 2, (uint64_t)FUNCTION(1) + 6, in(2));
	put(world, STACK, 99); /* behind the push */
	put(world, STACK + 8, in(2));
	unwind(world, FUNCTION(1) + 11, false, 100);
	expect_walk(world, TM_CUT_NONE, 2, (uint64_t)FUNCTION(1) + 11, in(2));
	world_destroy(world);
}

Test(unwind, expression_without_value_is_bad_cfi)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_row(world, 1,
		(struct tm_row){.cfa_is_expression = 1, .return_register = RIP, RULES(AT(RIP, -8))});
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_BAD_CFI, 1, in(1));
	world_destroy(world);
}

/* A trampoline whose interrupted sp and pc lie at its own sp. */
static void add_signal_row(struct world *world, unsigned function)
{
	add_row(world, function,
		(struct tm_row){.cfa_register = (uint8_t)world->arch->sp,
				.return_register = (uint8_t)world->arch->pc,
				.is_signal = true,
				RULES(AT((uint8_t)world->arch->sp, 0), AT((uint8_t)world->arch->pc, 8))});
}

Test(unwind, signal_frame_may_switch_to_a_lower_stack_and_its_pc_is_exact)
{
	struct world *world = world_create(&tm_arch_x86_64);
	uint64_t handler_stack = STACK + 2048;

	world->capture.regs.value[RSP] = handler_stack;
	add_frame_row(world, 1, 32);
	add_signal_row(world, 2);
	add_frame_row(world, 3, 32);
	add_outermost(world, 4);
	put(world, handler_stack + 24, in(2));
	put(world, handler_stack + 32, STACK);	     /* interrupted sp */
	put(world, handler_stack + 40, FUNCTION(3)); /* at the first byte: pc - 1 were another function */
	put(world, STACK + 24, in(4));
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 4, in(1), in(2), (uint64_t)FUNCTION(3), in(4));
	cr_expect(world->walk.frames[1].is_signal);
	cr_expect(eq(u64, world->walk.frames[2].lookup, FUNCTION(3)));
	cr_expect(eq(u64, world->walk.frames[3].lookup, in(4) - 1));
	world_destroy(world);
}

Test(unwind, stack_that_does_not_grow_ends_the_walk)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_row(world, 1,
		(struct tm_row){
			.cfa_register = RBP, .cfa_offset = 16, .return_register = RIP, RULES(AT(RIP, -8))});
	put(world, STACK + 72, in(1));
	world->capture.regs.value[RBP] = STACK + 64; /* keeps its value: the next CFA is the same */
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_LOOP, 2, in(1), in(1));
	world_destroy(world);
}

Test(unwind, signal_frames_that_interrupt_themselves_end_at_the_limit)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_signal_row(world, 1);
	put(world, STACK, STACK);
	put(world, STACK + 8, in(1));
	unwind(world, in(1), false, 50);
	cr_expect(eq(int, world->walk.cut, TM_CUT_LIMIT));
	cr_expect(eq(sz, world->walk.count, 50));
	world_destroy(world);
}

Test(unwind, limit_cuts_only_what_is_longer)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_frame_row(world, 1, 16);
	add_outermost(world, 2);
	for (uint64_t i = 0; i < 9; i++)
		put(world, STACK + 16 * i + 8, i == 8 ? in(2) : in(1));
	unwind(world, in(1), false, 10);
	cr_expect(eq(int, world->walk.cut, TM_CUT_NONE));
	cr_expect(eq(sz, world->walk.count, 10));
	unwind(world, in(1), false, 9);
	cr_expect(eq(int, world->walk.cut, TM_CUT_LIMIT));
	cr_expect(eq(sz, world->walk.count, 9));
	world_destroy(world);
}

Test(unwind, zero_return_address_is_the_end)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_frame_row(world, 1, 16);
	unwind(world, in(1), false, 10);
	expect_walk(world, TM_CUT_NONE, 1, in(1));
	world_destroy(world);
}

/* ---- memory ---- */

/* A stack of `count` frames of 512 bytes, the last one outermost. */
static void make_deep_stack(struct world *world, uint64_t count)
{
	add_frame_row(world, 1, 512);
	add_outermost(world, 2);
	for (uint64_t i = 0; i < count; i++)
		put(world, STACK + 512 * i + 504, i + 2 < count ? in(1) : in(2));
}

Test(unwind, stack_behind_the_window_is_read_in_pages)
{
	struct world *world = world_create(&tm_arch_x86_64);

	make_deep_stack(world, 60);
	world->readable = sizeof(world->words);
	world->capture.size = 1000;
	world->capture.memory = &world->memory;
	unwind(world, in(1), false, 100);
	cr_expect(eq(int, world->walk.cut, TM_CUT_NONE));
	cr_expect(eq(sz, world->walk.count, 60));
	cr_expect(eq(sz, world->reads, 8)); /* 59 * 512 bytes lie in 8 pages */
	cr_expect(eq(u64, world->walk.lowest_unread, STACK + 1016));
	world_destroy(world);
}

Test(unwind, pages_are_read_anew_by_the_next_walk)
{
	struct world *world = world_create(&tm_arch_x86_64);

	make_deep_stack(world, 3);
	world->readable = sizeof(world->words);
	world->capture.size = 0;
	world->capture.memory = &world->memory;
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 3, in(1), in(1), in(2));
	put(world, STACK + 504, in(2));
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 2, in(1), in(2));
	world_destroy(world);
}

Test(unwind, word_across_the_end_of_the_window_is_put_together)
{
	struct world *world = world_create(&tm_arch_x86_64);

	make_deep_stack(world, 2);
	world->readable = sizeof(world->words);
	world->capture.size = 507;
	world->capture.memory = &world->memory;
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 2, in(1), in(2));
	cr_expect(eq(u64, world->walk.lowest_unread, STACK + 507));
	world_destroy(world);
}

Test(unwind, stack_that_cannot_be_read_on_cuts_and_says_where)
{
	struct world *world = world_create(&tm_arch_x86_64);

	make_deep_stack(world, 60);
	world->capture.size = 1000;
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_MEMORY, 2, in(1), in(1));
	cr_expect(eq(u64, world->walk.lowest_unread, STACK + 1016));
	world->readable = 8192; /* two pages */
	world->capture.memory = &world->memory;
	unwind(world, in(1), false, 100);
	cr_expect(eq(int, world->walk.cut, TM_CUT_MEMORY));
	cr_expect(eq(sz, world->walk.count, 17));
	world_destroy(world);
}

/* ---- frame pointers ---- */

Test(unwind, code_without_cfi_is_passed_by_its_frame_pointer)
{
	struct world *world = world_create(&tm_arch_x86_64);

	/* 7 and 8 have no rows: a JIT that keeps frame pointers, called from 2. */
	add_frame_row(world, 2, 32);
	add_outermost(world, 3);
	world->capture.regs.value[RBP] = STACK + 64;
	put(world, STACK + 64, STACK + 128);
	put(world, STACK + 72, in(8));
	put(world, STACK + 128, 0x5555); /* 2 keeps something else in the register */
	put(world, STACK + 136, in(2));
	put(world, STACK + 144 + 24, in(3));
	unwind(world, in(7), false, 100);
	expect_walk(world, TM_CUT_NONE, 4, in(7), in(8), in(2), in(3));
	cr_expect(eq(sz, world->walk.fp_frames, 2));
	world_destroy(world);
}

Test(unwind, unbelievable_frame_pointers_are_not_followed)
{
	static const struct {
		uint64_t fp, next_fp, pc;
	} cases[] = {
		{STACK + 61, STACK + 256, FUNCTION(2) + 32},	    /* not aligned */
		{STACK - 64, STACK + 256, FUNCTION(2) + 32},	    /* below the stack pointer */
		{STACK + 64, STACK + 32, FUNCTION(9)},		    /* the chain goes down */
		{STACK + 64, STACK + 64, FUNCTION(9)},		    /* and nowhere */
		{STACK + 64, 0, FUNCTION(9)},			    /* ends outside of known code */
		{STACK + 64, STACK + 256, FUNCTION(9)},		    /* leads to zeros */
		{STACK + ((uint64_t)8 << 20), 0, FUNCTION(2) + 32}, /* far away */
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(cases); i++) {
		struct world *world = world_create(&tm_arch_x86_64);

		add_outermost(world, 2);
		world->capture.regs.value[RBP] = cases[i].fp;
		put(world, STACK + 64, cases[i].next_fp);
		put(world, STACK + 72, cases[i].pc);
		unwind(world, in(7), false, 100);
		cr_expect(eq(int, world->walk.cut, TM_CUT_NO_CFI), "case %zu", i);
		cr_expect(eq(sz, world->walk.count, 1), "case %zu", i);
		world_destroy(world);
	}
}

Test(unwind, caller_without_cfi_that_has_a_zero_frame_pointer_is_the_outermost)
{
	struct world *world = world_create(&tm_arch_x86_64);

	add_frame_row(world, 1, 32);
	put(world, STACK + 24, in(7));
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 2, in(1), in(7));
	unwind(world, in(7), false, 100); /* as the innermost it says nothing */
	expect_walk(world, TM_CUT_NO_CFI, 1, in(7));
	world_destroy(world);
}

/* ---- aarch64 ---- */

static void add_aarch64_frame(struct world *world, unsigned function, int32_t size)
{
	add_row(world, function,
		(struct tm_row){.cfa_register = SP,
				.cfa_offset = size,
				.return_register = X30,
				RULES(AT(X29, -size), AT(X30, -size + 8))});
}

static void add_aarch64_leaf(struct world *world, unsigned function)
{
	add_row(world, function, (struct tm_row){.cfa_register = SP, .return_register = X30});
}

Test(unwind, aarch64_leaf_returns_by_the_link_register)
{
	struct world *world = world_create(&tm_arch_aarch64);

	add_aarch64_leaf(world, 1);
	add_aarch64_frame(world, 2, 32);
	add_outermost(world, 3);
	world->capture.regs.value[X30] = in(2);
	put(world, STACK + 8, in(3));
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 3, in(1), in(2), in(3));
	unwind(world, in(7), true, 100); /* and so does any function at its entry */
	expect_walk(world, TM_CUT_NONE, 3, in(7), in(2), in(3));
	world_destroy(world);
}

Test(unwind, aarch64_caller_that_has_not_saved_its_return_address_is_a_loop)
{
	struct world *world = world_create(&tm_arch_aarch64);

	add_aarch64_leaf(world, 1);
	add_row(world, 2, (struct tm_row){.cfa_register = SP, .cfa_offset = 32, .return_register = X30});
	world->capture.regs.value[X30] = in(2);
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_LOOP, 2, in(1), in(2));
	world_destroy(world);
}

Test(unwind, aarch64_leaf_under_a_signal_returns_by_its_own_link_register)
{
	struct world *world = world_create(&tm_arch_aarch64);
	const struct tm_row trampoline = {.cfa_register = SP,
					  .return_register = PC,
					  .is_signal = true,
					  RULES(AT(SP, 0), AT(PC, 8), AT(X30, 16), AT(X29, 24))};

	add_aarch64_frame(world, 1, 32); /* the handler */
	add_row(world, 2, trampoline);
	add_aarch64_leaf(world, 3);
	add_aarch64_frame(world, 4, 64);
	add_outermost(world, 5);
	put(world, STACK + 8, in(2));
	put(world, STACK + 32, STACK + 4096);
	put(world, STACK + 40, in(3));
	put(world, STACK + 48, in(4));
	put(world, STACK + 4096 + 8, in(5));
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 5, in(1), in(2), in(3), in(4), in(5));
	world_destroy(world);
}

Test(unwind, aarch64_signed_return_addresses_are_stripped)
{
	struct world *world = world_create(&tm_arch_aarch64);

	world->pac_mask = 0x007f000000000000;
	add_aarch64_leaf(world, 1);
	add_aarch64_frame(world, 2, 32);
	add_aarch64_frame(world, 3, 48);
	add_outermost(world, 4);
	world->capture.regs.value[X30] = in(2) | 0x002a000000000000;
	put(world, STACK + 8, in(3) | 0x0055000000000000);
	put(world, STACK + 32 + 8, in(4) | 0x007f000000000000);
	unwind(world, in(1), false, 100);
	expect_walk(world, TM_CUT_NONE, 4, in(1), in(2), in(3), in(4));
	world_destroy(world);
}

Test(unwind, aarch64_frame_records_lead_on_where_the_stack_pointer_is_lost)
{
	struct world *world = world_create(&tm_arch_aarch64);

	/* 7 has no row; its record lies at the bottom of its frame, so that the sp of its caller 2 is not
	   known: 2 hangs on sp and is passed by its record, too. 3 hangs on x29. */
	add_aarch64_frame(world, 2, 32);
	add_row(world, 3,
		(struct tm_row){.cfa_register = X29,
				.cfa_offset = 64,
				.return_register = X30,
				RULES(AT(X29, -64), AT(X30, -56))});
	add_outermost(world, 4);
	world->capture.regs.value[X29] = STACK + 16;
	put(world, STACK + 16, STACK + 256);
	put(world, STACK + 24, in(2));
	put(world, STACK + 256, STACK + 512);
	put(world, STACK + 264, in(3));
	put(world, STACK + 512, STACK + 1024);
	put(world, STACK + 520, in(4));
	unwind(world, in(7), false, 100);
	expect_walk(world, TM_CUT_NONE, 4, in(7), in(2), in(3), in(4));
	cr_expect(eq(sz, world->walk.fp_frames, 2));
	world_destroy(world);
}

/* ---- expressions ---- */

#define OPERATIONS(...)                                                                                      \
	{__VA_ARGS__}, sizeof((struct tm_operation[]){__VA_ARGS__}) / sizeof(struct tm_operation)
#define NUMBER(n)                                                                                            \
	{                                                                                                    \
		DW_OP_constu, (uint64_t)(n), 0                                                               \
	}
#define OP(name)                                                                                             \
	{                                                                                                    \
		DW_OP_##name, 0, 0                                                                           \
	}

static const struct {
	const char *name;
	struct tm_operation operations[8];
	size_t count;
	bool good;
	uint64_t value;
} expressions[] = {
	{"empty", OPERATIONS(OP(nop)), false, 0},
	{"literal", OPERATIONS(OP(lit31)), true, 31},
	{"register and offset", OPERATIONS({DW_OP_breg0 + RSP, (uint64_t)-8, 0}), true, STACK - 8},
	{"bregx", OPERATIONS({DW_OP_bregx, RSP, 16}), true, STACK + 16},
	{"register that is not known", OPERATIONS({DW_OP_breg0 + R12, 0, 0}), false, 0},
	{"register that there is not", OPERATIONS({DW_OP_bregx, 1000, 0}), false, 0},
	{"deref", OPERATIONS({DW_OP_breg0 + RSP, 8, 0}, OP(deref)), true, 0x1122334455667788},
	{"deref of 2 bytes", OPERATIONS({DW_OP_breg0 + RSP, 8, 0}, {DW_OP_deref_size, 2, 0}), true, 0x7788},
	{"deref of 9 bytes", OPERATIONS({DW_OP_breg0 + RSP, 8, 0}, {DW_OP_deref_size, 9, 0}), false, 0},
	{"deref of nothing", OPERATIONS(OP(deref)), false, 0},
	{"the CFA", OPERATIONS(OP(call_frame_cfa)), true, STACK + 99},
	{"plus wraps", OPERATIONS(NUMBER(-1), OP(lit3), OP(plus)), true, 2},
	{"minus", OPERATIONS(OP(lit3), OP(lit5), OP(minus)), true, (uint64_t)-2},
	{"signed division", OPERATIONS(NUMBER(-7), OP(lit2), OP(div)), true, (uint64_t)-3},
	{"division by zero", OPERATIONS(OP(lit7), OP(lit0), OP(div)), false, 0},
	{"division that overflows", OPERATIONS(NUMBER(INT64_MIN), NUMBER(-1), OP(div)), true,
	 (uint64_t)INT64_MIN},
	{"unsigned modulo", OPERATIONS(NUMBER(-1), NUMBER(10), OP(mod)), true, 5},
	{"modulo by zero", OPERATIONS(OP(lit7), OP(lit0), OP(mod)), false, 0},
	{"signed comparison", OPERATIONS(NUMBER(-1), OP(lit0), OP(lt)), true, 1},
	{"shift", OPERATIONS(OP(lit1), NUMBER(63), OP(shl)), true, (uint64_t)1 << 63},
	{"shift too far", OPERATIONS(OP(lit1), NUMBER(64), OP(shl)), true, 0},
	{"arithmetic shift", OPERATIONS(NUMBER(-8), OP(lit1), OP(shra)), true, (uint64_t)-4},
	{"arithmetic shift too far", OPERATIONS(NUMBER(-8), NUMBER(200), OP(shra)), true, (uint64_t)-1},
	{"abs", OPERATIONS(NUMBER(-8), OP(abs)), true, 8},
	{"swap", OPERATIONS(OP(lit1), OP(lit2), OP(swap), OP(minus)), true, 1},
	{"rot: a b c is c a b", OPERATIONS(OP(lit1), OP(lit2), OP(lit3), OP(rot), OP(minus)), true,
	 (uint64_t)-1},
	{"over", OPERATIONS(OP(lit9), OP(lit2), OP(over)), true, 9},
	{"pick", OPERATIONS(OP(lit9), OP(lit2), OP(lit1), {DW_OP_pick, 2, 0}), true, 9},
	{"pick too deep", OPERATIONS(OP(lit9), {DW_OP_pick, 1, 0}), false, 0},
	{"drop", OPERATIONS(OP(lit9), OP(lit2), OP(drop)), true, 9},
	{"drop of nothing", OPERATIONS(OP(drop)), false, 0},
	{"branch taken", OPERATIONS(OP(lit1), {DW_OP_bra, 3, 0}, OP(lit7), OP(lit8)), true, 8},
	{"branch not taken, skip to the end",
	 OPERATIONS(OP(lit0), {DW_OP_bra, 4, 0}, OP(lit7), {DW_OP_skip, 5, 0}, OP(lit8)), true, 7},
	{"endless loop", OPERATIONS({DW_OP_skip, 0, 0}), false, 0},
	{"loop that fills the stack", OPERATIONS(OP(lit1), {DW_OP_skip, 0, 0}), false, 0},
	{"operation that CFI may not hold", OPERATIONS(OP(push_object_address)), false, 0},
	{"address, which would need a bias", OPERATIONS({DW_OP_addr, 4096, 0}), false, 0},
};

Test(expression, each_operation_does_what_dwarf_says)
{
	uint64_t words[4] = {0, 0x1122334455667788, 0, 0};
	struct tm_capture capture = {.start = STACK, .bytes = (const uint8_t *)words, .size = sizeof(words)};
	struct tm_regs regs = {.value = {[RSP] = STACK}};
	struct tm_window_pages *pages = NULL;
	struct tm_window window;
	struct tm_expression_frame frame = {&regs, (uint64_t)1 << RSP, true, STACK + 99, &window};

	tm_window_init(&window, &capture, &pages);
	for (size_t i = 0; i < TM_ARRAY_SIZE(expressions); i++) {
		uint64_t value = 0;
		bool unread = false;
		bool good = tm_expression_evaluate(&frame, expressions[i].operations, expressions[i].count,
						   &value, &unread);

		cr_expect(eq(int, good, expressions[i].good), "%s", expressions[i].name);
		cr_expect(eq(u64, value, expressions[i].value), "%s", expressions[i].name);
		cr_expect(not(unread), "%s", expressions[i].name);
	}
}

Test(expression, memory_that_cannot_be_read_is_told_from_a_bad_expression)
{
	struct tm_capture capture = {.start = STACK};
	struct tm_regs regs = {.value = {[RSP] = STACK}};
	struct tm_window_pages *pages = NULL;
	struct tm_window window;
	struct tm_expression_frame frame = {&regs, (uint64_t)1 << RSP, false, 0, &window};
	const struct tm_operation load[] = {{DW_OP_breg0 + RSP, 0, 0}, OP(deref)},
				  cfa[] = {OP(call_frame_cfa)};
	uint64_t value;
	bool unread = false;

	tm_window_init(&window, &capture, &pages);
	cr_expect(not(tm_expression_evaluate(&frame, cfa, 1, &value, &unread)), "there is no CFA yet");
	cr_expect(not(unread));
	cr_expect(not(tm_expression_evaluate(&frame, load, 2, &value, &unread)));
	cr_expect(unread);
}

/* Our numbers are those of <dwarf.h>. */
_Static_assert((int)TM_OP_DEREF == DW_OP_deref, "");
_Static_assert((int)TM_OP_CONST1U == DW_OP_const1u, "");
_Static_assert((int)TM_OP_CONST1S == DW_OP_const1s, "");
_Static_assert((int)TM_OP_CONST2U == DW_OP_const2u, "");
_Static_assert((int)TM_OP_CONST2S == DW_OP_const2s, "");
_Static_assert((int)TM_OP_CONST4U == DW_OP_const4u, "");
_Static_assert((int)TM_OP_CONST4S == DW_OP_const4s, "");
_Static_assert((int)TM_OP_CONST8U == DW_OP_const8u, "");
_Static_assert((int)TM_OP_CONST8S == DW_OP_const8s, "");
_Static_assert((int)TM_OP_CONSTU == DW_OP_constu, "");
_Static_assert((int)TM_OP_CONSTS == DW_OP_consts, "");
_Static_assert((int)TM_OP_DUP == DW_OP_dup, "");
_Static_assert((int)TM_OP_DROP == DW_OP_drop, "");
_Static_assert((int)TM_OP_OVER == DW_OP_over, "");
_Static_assert((int)TM_OP_PICK == DW_OP_pick, "");
_Static_assert((int)TM_OP_SWAP == DW_OP_swap, "");
_Static_assert((int)TM_OP_ROT == DW_OP_rot, "");
_Static_assert((int)TM_OP_ABS == DW_OP_abs, "");
_Static_assert((int)TM_OP_AND == DW_OP_and, "");
_Static_assert((int)TM_OP_DIV == DW_OP_div, "");
_Static_assert((int)TM_OP_MINUS == DW_OP_minus, "");
_Static_assert((int)TM_OP_MOD == DW_OP_mod, "");
_Static_assert((int)TM_OP_MUL == DW_OP_mul, "");
_Static_assert((int)TM_OP_NEG == DW_OP_neg, "");
_Static_assert((int)TM_OP_NOT == DW_OP_not, "");
_Static_assert((int)TM_OP_OR == DW_OP_or, "");
_Static_assert((int)TM_OP_PLUS == DW_OP_plus, "");
_Static_assert((int)TM_OP_PLUS_UCONST == DW_OP_plus_uconst, "");
_Static_assert((int)TM_OP_SHL == DW_OP_shl, "");
_Static_assert((int)TM_OP_SHR == DW_OP_shr, "");
_Static_assert((int)TM_OP_SHRA == DW_OP_shra, "");
_Static_assert((int)TM_OP_XOR == DW_OP_xor, "");
_Static_assert((int)TM_OP_BRA == DW_OP_bra, "");
_Static_assert((int)TM_OP_EQ == DW_OP_eq, "");
_Static_assert((int)TM_OP_GE == DW_OP_ge, "");
_Static_assert((int)TM_OP_GT == DW_OP_gt, "");
_Static_assert((int)TM_OP_LE == DW_OP_le, "");
_Static_assert((int)TM_OP_LT == DW_OP_lt, "");
_Static_assert((int)TM_OP_NE == DW_OP_ne, "");
_Static_assert((int)TM_OP_SKIP == DW_OP_skip, "");
_Static_assert((int)TM_OP_LIT0 == DW_OP_lit0, "");
_Static_assert((int)TM_OP_LIT31 == DW_OP_lit31, "");
_Static_assert((int)TM_OP_BREG0 == DW_OP_breg0, "");
_Static_assert((int)TM_OP_BREG31 == DW_OP_breg31, "");
_Static_assert((int)TM_OP_BREGX == DW_OP_bregx, "");
_Static_assert((int)TM_OP_DEREF_SIZE == DW_OP_deref_size, "");
_Static_assert((int)TM_OP_NOP == DW_OP_nop, "");
_Static_assert((int)TM_OP_CALL_FRAME_CFA == DW_OP_call_frame_cfa, "");
