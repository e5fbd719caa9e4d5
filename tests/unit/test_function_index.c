/*
 * The allocator functions of this very process's modules: those of the C library, and some of the test's own
 * whose bodies are what a test wants.
 */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <string.h>
#include <unistd.h>

#include "arch/call_pad.h"
#include "base/cleanup.h"
#include "probe/function_index.h"
#include "support/process_view.h"

static struct tm_process_view view;
static struct tm_function_index *functions;

static void set_up(void)
{
	tm_process_view_open(&view, getpid());
	cr_assert_null(tm_function_index_create(tm_arch_host(), view.map, &functions));
}

static void tear_down(void)
{
	tm_function_index_destroy(functions);
	tm_process_view_close(&view);
}

TestSuite(function_index, .init = set_up, .fini = tear_down);

static struct tm_module *module_at(const void *address)
{
	struct tm_module *module = tm_module_map_find(view.map, (uint64_t)(uintptr_t)address);

	cr_assert_not_null(module);
	return module;
}

static const struct tm_indexed_module *get(struct tm_module *module)
{
	const struct tm_indexed_module *indexed = NULL;
	_cleanup_error_ struct tm_error *err = tm_function_index_get(functions, module, &indexed);

	cr_assert_null(err);
	cr_assert_not_null(indexed);
	return indexed;
}

/* The first one of that name; NULL: there is none. */
static const struct tm_indexed_function *find(const struct tm_indexed_module *indexed, const char *name)
{
	for (size_t i = 0; i < indexed->count; i++)
		if (strcmp(indexed->functions[i].row->name, name) == 0)
			return &indexed->functions[i];
	return NULL;
}

/* ---- the C library ---- */

static const char *const c_functions[] = {"malloc",  "free",	       "calloc",
					  "realloc", "posix_memalign", "aligned_alloc"};

static const uint8_t *c_function(const char *name)
{
	void *library = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);
	const uint8_t *address = library ? dlsym(library, name) : NULL;

	if (!address)
		cr_skip_test("the C library is another one");
	return address;
}

Test(function_index, functions_of_the_c_library_are_found_with_their_rows)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(c_functions); i++) {
		const uint8_t *address = c_function(c_functions[i]);
		struct tm_module *module = module_at(address);
		const struct tm_indexed_function *function = find(get(module), c_functions[i]);

		cr_assert_not_null(function, "%s", c_functions[i]);
		cr_expect_eq(function->row, tm_allocator_find(c_functions[i]));
		cr_expect_eq(function->vaddr + module->bias, (uint64_t)(uintptr_t)address, "%s",
			     c_functions[i]);
		cr_expect_gt(function->size, 0, "%s", c_functions[i]);
		cr_expect_not(function->is_ifunc, "%s", c_functions[i]);
	}
}

Test(function_index, bodies_are_what_stands_in_memory)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(c_functions); i++) {
		const uint8_t *address = c_function(c_functions[i]);
		const struct tm_indexed_function *function = find(get(module_at(address)), c_functions[i]);

		cr_assert(function && function->has_exits, "%s", c_functions[i]);
		cr_expect_arr_eq(function->bytes, address, function->size, "%s", c_functions[i]);
	}
}

Test(function_index, exits_lie_in_the_body)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(c_functions); i++) {
		const struct tm_indexed_function *function =
			find(get(module_at(c_function(c_functions[i]))), c_functions[i]);

		cr_assert_not_null(function);
		cr_expect(function->exits.return_count || function->exits.tail_jumps, "%s", c_functions[i]);
		for (size_t k = 0; k < function->exits.return_count; k++)
			cr_expect_lt(function->exits.returns[k] - function->vaddr, function->size);
	}
}

Test(function_index, functions_of_the_c_library_take_a_jump)
{
	if (!tm_jump_size(tm_arch_host()))
		cr_skip_test("there are no jump patches for this architecture");
	for (size_t i = 0; i < TM_ARRAY_SIZE(c_functions); i++)
		cr_expect_not(find(get(module_at(c_function(c_functions[i]))), c_functions[i])->jumped_into,
			      "%s", c_functions[i]);
}

Test(function_index, other_functions_are_not_in_it)
{
	const struct tm_indexed_module *indexed = get(module_at(c_function("malloc")));

	cr_expect_null(find(indexed, "strlen"));
	for (size_t i = 0; i < indexed->count; i++)
		cr_expect_not_null(indexed->functions[i].row);
}

Test(function_index, a_module_without_such_functions_has_none)
{
	void *library = dlopen("libm.so.6", RTLD_NOW);
	const struct tm_indexed_module *indexed;

	if (!library)
		cr_skip_test("the C library is another one");
	tm_process_view_update(&view);
	indexed = get(module_at(dlsym(library, "ldexp")));
	cr_expect_eq(indexed->count, 0);
	cr_expect_null(indexed->problem);
}

Test(function_index, the_vdso_has_none)
{
	for (uint32_t i = 0; i < tm_module_map_count(view.map); i++) {
		struct tm_module *module = tm_module_map_get(view.map, i);

		if (module->is_vdso)
			cr_expect_eq(get(module)->count, 0);
	}
}

Test(function_index, a_module_is_searched_once)
{
	struct tm_module *module = module_at(c_function("malloc"));
	const struct tm_indexed_module *indexed = get(module);

	tm_process_view_update(&view);
	cr_expect_eq(get(module), indexed);
	cr_expect_eq(get(module)->functions, indexed->functions);
}

Test(function_index, nothing_of_the_process_is_read)
{
	struct tm_module *module = module_at(c_function("malloc"));
	size_t before = view.reads;

	get(module);
	cr_expect_eq(view.reads, before);
}

Test(function_index, none_is_fine_to_destroy)
{
	tm_function_index_destroy(NULL);
}

/* ---- functions of the test's own ---- */

#ifdef __x86_64__

void mi_malloc(void), mi_calloc(void), mi_realloc(void), mi_free(void), mi_zalloc(void), mi_memalign(void),
	mi_valloc(void), mi_pvalloc(void), mi_recalloc(void);

#define FUNCTION(name)                                                                                       \
	"	.globl " name "\n	.type " name ", @function\n	.balign 16\n" name ":\n"
#define SIZE(name) "	.size " name ", . - " name "\n"

__asm__("	.text\n"
	/* two returns */
	FUNCTION("mi_malloc") "	test %rdi, %rdi\n	je 1f\n	mov $1, %eax\n	ret\n1:	xor %eax, "
			      "%eax\n	ret\n" SIZE("mi_malloc")
	/* the same place by another name */
	"	.globl mi_zalloc\n	.type mi_zalloc, @function\n	.set mi_zalloc, mi_malloc\n	"
	".size mi_zalloc, 14\n"
	/* jumped into at its byte 2 */
	FUNCTION("mi_free") "	xchg %ax, %ax\n	nop\n	nop\n	nop\n	ret\n" SIZE("mi_free")
	/* jumped to at its first byte */
	FUNCTION("mi_calloc") "	xchg %ax, %ax\n	nop\n	nop\n	nop\n	ret\n" SIZE("mi_calloc")
	/* jumped into behind what a jump replaces */
	FUNCTION("mi_realloc") "	xchg %ax, %ax\n	nop\n	nop\n	nop\n	ret\n" SIZE("mi_realloc")
	/* jumped into at the last byte of that */
	FUNCTION("mi_memalign") "	xchg %ax, %ax\n	nop\n	nop\n	nop\n	ret\n" SIZE("mi_memalign")
	/* of unknown size */
	FUNCTION("mi_valloc") "	ret\n"
	/* leaves by a jump */
	FUNCTION("mi_pvalloc") "	jmp mi_malloc\n" SIZE("mi_pvalloc")
	/* found out by the dynamic linker */
	"	.globl mi_recalloc\n	.type mi_recalloc, @gnu_indirect_function\n	.balign "
	"16\nmi_recalloc:\n"
	"	lea mi_malloc(%rip), %rax\n	ret\n" SIZE("mi_recalloc")
	/* who jumps; with displacements of 32 bits, as between functions */
	FUNCTION("function_index_jumps") "	.byte 0xe9\n	.long mi_free + 2 - . - 4\n"
					 "	.byte 0xe9\n	.long mi_calloc - . - 4\n"
					 "	.byte 0xe9\n	.long mi_realloc + 5 - . - 4\n"
					 "	.byte 0x0f, 0x84\n	.long mi_memalign + 4 - . - 4\n" SIZE(
						 "function_index_jumps"));

static const struct {
	const char *name;
	void (*function)(void);
	uint64_t size;
	bool is_ifunc, has_exits, jumped_into;
	size_t returns;
	bool tail_jumps;
} own[] = {
	{"mi_malloc", mi_malloc, 14, false, true, false, 2, false},
	{"mi_zalloc", mi_malloc, 14, false, true, false, 2, false},
	{"mi_free", mi_free, 6, false, true, true, 1, false},
	{"mi_calloc", mi_calloc, 6, false, true, false, 1, false},
	{"mi_realloc", mi_realloc, 6, false, true, false, 1, false},
	{"mi_memalign", mi_memalign, 6, false, true, true, 1, false},
	{"mi_valloc", mi_valloc, 0, false, false, false, 0, false},
	{"mi_pvalloc", mi_pvalloc, 2, false, true, false, 0, true},
	{"mi_recalloc", NULL, 8, true, false, false, 0, false},
};

Test(function_index, own_functions)
{
	struct tm_module *module = module_at((const void *)(uintptr_t)mi_malloc);
	const struct tm_indexed_module *indexed = get(module);

	for (size_t i = 0; i < TM_ARRAY_SIZE(own); i++) {
		const struct tm_indexed_function *function = find(indexed, own[i].name);

		cr_assert_not_null(function, "%s", own[i].name);
		cr_expect_eq(function->size, own[i].size, "%s: %lu bytes", own[i].name,
			     (unsigned long)function->size);
		cr_expect_eq(function->is_ifunc, own[i].is_ifunc, "%s", own[i].name);
		cr_expect_eq(function->has_exits, own[i].has_exits, "%s", own[i].name);
		cr_expect_eq(function->jumped_into, own[i].jumped_into, "%s", own[i].name);
		cr_expect_eq(function->exits.return_count, own[i].returns, "%s", own[i].name);
		cr_expect_eq(function->exits.tail_jumps, own[i].tail_jumps, "%s", own[i].name);
		if (own[i].function)
			cr_expect_eq(function->vaddr + module->bias, (uint64_t)(uintptr_t)own[i].function,
				     "%s", own[i].name);
	}
}

Test(function_index, returns_are_told_by_their_addresses)
{
	const struct tm_indexed_function *function =
		find(get(module_at((const void *)(uintptr_t)mi_malloc)), "mi_malloc");

	cr_assert_eq(function->exits.return_count, 2);
	cr_expect_eq(function->exits.returns[0], function->vaddr + 10);
	cr_expect_eq(function->exits.returns[1], function->vaddr + 13);
}
#endif
