/* The table of allocator functions: its rows are consistent, and names find them. */
#include <criterion/criterion.h>
#include <string.h>

#include "arch/arch.h"
#include "probe/allocator.h"

#define EACH_ROW(row) for (const struct tm_allocator *row = tm_allocators; row->name; row++)

/* Arguments that a row uses, each once, all in registers. */
static void check_arguments(const struct tm_allocator *row, const struct tm_arch *arch)
{
	const int8_t arguments[] = {row->size, row->count, row->old, row->out};
	unsigned used = 0;

	for (size_t i = 0; i < sizeof(arguments); i++) {
		if (arguments[i] == TM_NO_ARGUMENT)
			continue;
		cr_assert_geq(arguments[i], 0, "%s", row->name);
		cr_assert_lt((unsigned)arguments[i], arch->argument_count, "%s", row->name);
		cr_assert_not(used & (1u << arguments[i]), "%s uses argument %d twice", row->name,
			      arguments[i]);
		used |= 1u << arguments[i];
	}
}

Test(allocator, arguments_are_in_registers_and_used_once)
{
	EACH_ROW(row)
	{
		check_arguments(row, &tm_arch_x86_64);
		check_arguments(row, &tm_arch_aarch64);
	}
}

Test(allocator, every_row_has_the_arguments_of_its_kind)
{
	EACH_ROW(row)
	{
		cr_assert_eq(row->size != TM_NO_ARGUMENT, row->kind != TM_FREES, "%s", row->name);
		cr_assert_eq(row->old != TM_NO_ARGUMENT, row->kind != TM_ALLOCATES, "%s", row->name);
		cr_assert(row->count == TM_NO_ARGUMENT || row->size != TM_NO_ARGUMENT, "%s", row->name);
		cr_assert(row->out == TM_NO_ARGUMENT || row->kind == TM_ALLOCATES, "%s", row->name);
		cr_assert(!row->zero_frees || row->kind == TM_RESIZES, "%s", row->name);
	}
}

/* count * size, in the order of the C prototypes: calloc(count, size), reallocarray(old, count, size). */
Test(allocator, count_stands_before_size_and_behind_the_old_block)
{
	EACH_ROW(row)
	{
		if (row->count == TM_NO_ARGUMENT)
			continue;
		cr_assert_eq(row->count + 1, row->size, "%s", row->name);
		cr_assert_lt(row->old, row->count, "%s", row->name);
	}
}

Test(allocator, names_are_unique)
{
	EACH_ROW(row)
	for (const struct tm_allocator *other = row + 1; other->name; other++)
		cr_assert_str_neq(row->name, other->name);
}

Test(allocator, each_row_is_found_by_its_name)
{
	EACH_ROW(row)
	cr_assert_eq(tm_allocator_find(row->name), row, "%s", row->name);
}

/* C++ mangles what an operator takes: Itanium C++ ABI 5.1.5, m is size_t, St11align_val_t the alignment, Pv
 * the block. */
Test(allocator, operators_are_what_their_mangled_names_say)
{
	EACH_ROW(row)
	{
		if (strncmp(row->name, "_Z", 2) != 0)
			continue;
		bool is_new = strncmp(row->name + 2, "nw", 2) == 0 || strncmp(row->name + 2, "na", 2) == 0;
		bool is_delete = strncmp(row->name + 2, "dl", 2) == 0 || strncmp(row->name + 2, "da", 2) == 0;

		cr_assert_neq(is_new, is_delete, "%s", row->name);
		cr_assert_eq(row->kind, is_new ? TM_ALLOCATES : TM_FREES, "%s", row->name);
		cr_assert_eq(is_new ? row->size : row->old, 0, "%s", row->name);
		cr_assert_eq(strncmp(row->name + 4, is_new ? "m" : "Pv", is_new ? 1 : 2), 0, "%s", row->name);
	}
}

Test(allocator, jemalloc_prefixes_are_seen_through)
{
	const struct {
		const char *name, *row;
	} cases[] = {
		{"je_malloc", "malloc"},	 {"je_posix_memalign", "posix_memalign"},
		{"je_sdallocx", "sdallocx"},	 {"_rjem_malloc", "malloc"},
		{"_rjem_je_realloc", "realloc"}, {"_rjem_mallocx", "mallocx"},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const struct tm_allocator *row = tm_allocator_find(cases[i].name);

		cr_assert_not_null(row, "%s", cases[i].name);
		cr_assert_str_eq(row->name, cases[i].row);
	}
}

Test(allocator, other_names_are_not_found)
{
	const char *const names[] = {"",
				     "m",
				     "mallo",
				     "malloc_",
				     "mallocate",
				     "my_malloc",
				     "je_",
				     "je__malloc",
				     "je_je_malloc",
				     "_rjem_",
				     "__libc_malloc",
				     "malloc_trim",
				     "malloc_usable_size",
				     "_ZnwmPv",
				     "free_all",
				     "xallocx",
				     "strdup",
				     "obstack_free",
				     "mi_heap_delete",
				     "regfree"};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		cr_assert_null(tm_allocator_find(names[i]), "%s", names[i]);
}

Test(allocator, what_may_be_left_by_an_exception)
{
	static const struct {
		const char *name;
		bool throws;
	} rows[] = {{"malloc", false},	{"_Znwm", true},      {"_ZnamRKSt9nothrow_t", true},
		    {"tc_new", true},	{"tc_malloc", false}, {"tc_newarray_aligned", true},
		    {"mi_new_n", true}, {"mi_zalloc", false}, {"posix_memalign", false}};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++)
		cr_assert_eq(tm_allocator_throws(tm_allocator_find(rows[i].name)), rows[i].throws, "%s",
			     rows[i].name);
}
