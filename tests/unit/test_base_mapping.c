#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/mapping.h"

static struct tm_mappings mappings;

static void teardown(void)
{
	tm_mappings_deinit(&mappings);
}

TestSuite(mapping, .fini = teardown);

static void parse(const char *text)
{
	tm_mappings_deinit(&mappings);
	cr_assert_null(tm_mappings_parse(text, &mappings));
}

Test(mapping, lines_that_kernels_write)
{
	static const struct {
		const char *line;
		struct tm_mapping expected;
	} table[] = {
		{"00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/dbus-daemon\n",
		 {.start = 0x400000,
		  .end = 0x452000,
		  .offset = 0x1000,
		  .readable = true,
		  .executable = true,
		  .dev_major = 8,
		  .dev_minor = 2,
		  .inode = 173521,
		  .path = (char *)"/usr/bin/dbus-daemon"}},
		{"7f1c2b000000-7f1c2b021000 rw-p 00000000 00:00 0 \n",
		 {.start = 0x7f1c2b000000,
		  .end = 0x7f1c2b021000,
		  .readable = true,
		  .writable = true,
		  .path = (char *)""}},
		{"7f1c2b000000-7f1c2b021000 rw-p 00000000 00:00 0\n",
		 {.start = 0x7f1c2b000000,
		  .end = 0x7f1c2b021000,
		  .readable = true,
		  .writable = true,
		  .path = (char *)""}},
		{"7f00-8f00 ---p 00000000 00:00 0", {.start = 0x7f00, .end = 0x8f00, .path = (char *)""}},
		{"7ffc3f1ff000-7ffc3f220000 rw-p 00000000 00:00 0                          [stack]\n",
		 {.start = 0x7ffc3f1ff000,
		  .end = 0x7ffc3f220000,
		  .readable = true,
		  .writable = true,
		  .path = (char *)"[stack]"}},
		{"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n",
		 {.start = 0xffffffffff600000,
		  .end = 0xffffffffff601000,
		  .executable = true,
		  .path = (char *)"[vsyscall]"}},
		{"1000-2000 rw-s 00000000 00:05 12   /memfd:a b c (deleted)\n",
		 {.start = 0x1000,
		  .end = 0x2000,
		  .readable = true,
		  .writable = true,
		  .shared = true,
		  .deleted = true,
		  .dev_minor = 5,
		  .inode = 12,
		  .path = (char *)"/memfd:a b c"}},
		{"1000-2000 r--p 00000000 fd:1f 18446744073709551615 /with\\012line\\134\n",
		 {.start = 0x1000,
		  .end = 0x2000,
		  .readable = true,
		  .dev_major = 0xfd,
		  .dev_minor = 0x1f,
		  .inode = (ino_t)-1,
		  .path = (char *)"/with\nline\\134"}},
		{"1000-2000 r--p 00000000 00:00 0 [anon: a name]\n",
		 {.start = 0x1000, .end = 0x2000, .readable = true, .path = (char *)"[anon: a name]"}},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(table); i++) {
		const struct tm_mapping *expected = &table[i].expected, *got;

		parse(table[i].line);
		cr_assert_eq(mappings.count, 1, "%s", table[i].line);
		got = &mappings.items[0];
		cr_assert_eq(got->start, expected->start);
		cr_assert_eq(got->end, expected->end);
		cr_assert_eq(got->offset, expected->offset);
		cr_assert_eq(got->readable, expected->readable);
		cr_assert_eq(got->writable, expected->writable);
		cr_assert_eq(got->executable, expected->executable);
		cr_assert_eq(got->shared, expected->shared);
		cr_assert_eq(got->deleted, expected->deleted);
		cr_assert_eq(got->dev_major, expected->dev_major);
		cr_assert_eq(got->dev_minor, expected->dev_minor);
		cr_assert_eq(got->inode, expected->inode);
		cr_assert_str_eq(got->path, expected->path);
	}
}

Test(mapping, a_copy_is_a_list_of_its_own)
{
	struct tm_mappings copy;

	parse("1000-2000 r-xp 00000000 08:02 1 /bin/a\n3000-4000 rw-p 00000000 00:00 0\n");
	cr_assert_null(tm_mappings_copy(&mappings, &copy));
	tm_mappings_deinit(&mappings);
	cr_assert_eq(copy.count, 2);
	cr_assert_str_eq(tm_mappings_find(&copy, 0x1fff)->path, "/bin/a");
	cr_assert(tm_mappings_find(&copy, 0x1fff)->executable);
	cr_assert_str_eq(tm_mappings_find(&copy, 0x3000)->path, "");
	tm_mappings_deinit(&copy);
	cr_assert_null(tm_mappings_copy(&mappings, &copy), "of an empty one");
	cr_assert_eq(copy.count, 0);
}

Test(mapping, other_lines_are_errors_that_quote_them)
{
	static const char *const bad[] = {
		"\n",
		"hello\n",
		"1000-2000\n",
		"1000-2000 r-xp\n",
		"1000-2000 r-x 0 0:0 0\n",
		"2000-1000 r-xp 0 0:0 0\n",
		"1000-1000 r-xp 0 0:0 0\n",
		"1000-2000 r-xp 0 0 0\n",
		"1000-2000 r-xp 0 0:0\n",
		"1000-2000 r-xp 0 0:0 \n",
		"1000-2000 r-xp 0 0:0 x\n",
		"1000-2000 r-xp 0 0:0 1x\n",
		"1000-2000 r-xpp 0 0:0 0\n",
		"1000-\n2000 r-xp 0 0:0 0\n",
		"1000-2000 r-xp\n0 0:0 0\n",
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(bad); i++) {
		char quoted[100];
		_cleanup_error_ struct tm_error *err = tm_mappings_parse(bad[i], &mappings);

		cr_assert_not_null(err, "%s", bad[i]);
		cr_assert_eq(err->code, TM_ERROR_BAD_FORMAT);
		snprintf(quoted, sizeof(quoted), "\"%.*s\"", (int)strcspn(bad[i], "\n"), bad[i]);
		cr_assert_not_null(strstr(err->message, quoted), "%s", err->message);
		cr_assert_eq(mappings.count, 0);
	}
}

Test(mapping, bad_line_gives_up_the_good_ones_before)
{
	_cleanup_error_ struct tm_error *err =
		tm_mappings_parse("1000-2000 r-xp 0 0:0 0 /a\nnonsense\n", &mappings);

	cr_assert_not_null(err);
	cr_assert_eq(mappings.count, 0);
	cr_assert_null(mappings.items);
}

Test(mapping, empty_text_has_no_mappings)
{
	parse("");
	cr_assert_eq(mappings.count, 0);
	cr_assert_null(tm_mappings_find(&mappings, 0));
}

Test(mapping, long_path_is_kept_whole)
{
	static char line[6000], path[5000];

	memset(path, 'x', sizeof(path) - 1);
	path[0] = '/';
	snprintf(line, sizeof(line), "1000-2000 r-xp 00000000 08:02 5      %s (deleted)\n", path);
	parse(line);
	cr_assert_str_eq(mappings.items[0].path, path);
	cr_assert(mappings.items[0].deleted);
}

Test(mapping, our_own_maps_hold_our_own_code)
{
	_cleanup_free_ char *text = NULL;
	const struct tm_mapping *code, *stack;

	cr_assert_null(tm_file_read_all("/proc/self/maps", &text, NULL));
	parse(text);
	code = tm_mappings_find(&mappings, (uint64_t)(uintptr_t)teardown);
	stack = tm_mappings_find(&mappings, (uint64_t)(uintptr_t)&text);
	cr_assert(code && code->executable && !code->writable && code->inode);
	cr_assert(stack && stack->writable);
}

Test(mapping, find_knows_starts_and_ends)
{
	static const struct {
		uint64_t address, start; /* start 0: none */
	} table[] = {{0, 0},	       {0xfff, 0},	 {0x1000, 0x1000}, {0x1fff, 0x1000},
		     {0x2000, 0x2000}, {0x2fff, 0x2000}, {0x3000, 0},	   {0x4fff, 0},
		     {0x5000, 0x5000}, {0x5fff, 0x5000}, {0x6000, 0},	   {UINT64_MAX, 0}};

	parse("1000-2000 r-xp 0 0:0 0 a\n2000-3000 r-xp 0 0:0 0 b\n5000-6000 r-xp 0 0:0 0 c\n");
	for (size_t i = 0; i < TM_ARRAY_SIZE(table); i++) {
		const struct tm_mapping *mapping = tm_mappings_find(&mappings, table[i].address);

		cr_assert_eq(mapping ? mapping->start : 0, table[i].start, "%lx",
			     (unsigned long)table[i].address);
	}
}

Test(mapping, added_memory_is_in_its_place)
{
	static const char *const text = "10000-20000 r-xp 0 0:0 0 /low\n30000-40000 r-xp 0 0:0 0 /high\n";

	parse(text);
	cr_assert_null(tm_mappings_add(&mappings, 0x20000, 0x21000));
	cr_assert_null(tm_mappings_add(&mappings, 0x8000, 0x9000));
	cr_assert_null(tm_mappings_add(&mappings, 0x50000, 0x51000));
	cr_assert_eq(mappings.count, 5);
	for (size_t i = 1; i < mappings.count; i++)
		cr_assert_leq(mappings.items[i - 1].end, mappings.items[i].start);
	cr_assert_eq(tm_mappings_find(&mappings, 0x20fff)->start, 0x20000);
	cr_assert_str_eq(tm_mappings_find(&mappings, 0x8000)->path, "");
	cr_assert_str_eq(tm_mappings_find(&mappings, 0x30000)->path, "/high");
}

#define REACH UINT64_C(0x7fff0000)

static uint64_t find_gap(const char *text, uint64_t start, uint64_t end, uint64_t size)
{
	parse(text);
	return tm_mappings_find_gap(&mappings, start, end, size, REACH);
}

Test(mapping, gap_is_close_and_leaves_a_page_around)
{
	static const char *const text = "10000-500000 r-xp 0 0:0 0 /exe\n"
					"600000-700000 rw-p 0 0:0 0 /exe\n";

	cr_assert_eq(find_gap(text, 0x400000, 0x500000, 0x10000), 0x501000);
	cr_assert_eq(find_gap(text, 0x600000, 0x800000, 0x10000), 0x701000);
	cr_assert_eq(find_gap(text, 0x600000, 0x601000, 0x10000), 0x5ef000);
	/* With its pages it fits between them, and with one byte more it does not. */
	cr_assert_eq(find_gap(text, 0x400000, 0x500000, 0xfe000), 0x501000);
	cr_assert_eq(find_gap(text, 0x400000, 0x500000, 0xfe001), 0x701000);
}

Test(mapping, gap_keeps_clear_of_the_lowest_64_kib)
{
	static const char *const text = "30000-40000 r-xp 0 0:0 0 /low\n40000-7ffffffff000 rw-p 0 0:0 0\n";

	cr_assert_eq(find_gap(text, 0x30000, 0x40000, 0x1000), 0x2e000);
	cr_assert_eq(find_gap(text, 0x30000, 0x40000, 0x1e000), 0x11000);
	cr_assert_eq(find_gap(text, 0x30000, 0x40000, 0x1f000), 0);
}

Test(mapping, gap_out_of_reach_is_none)
{
	static const char *const text = "10000-100000000000 r-xp 0 0:0 0 /vast\n";

	cr_assert_eq(find_gap(text, 0x400000, 0x500000, 0x1000), 0);
	cr_assert_neq(find_gap(text, 0x0fffff000000, 0x100000000000, 0x1000), 0);
}

Test(mapping, gap_inside_a_neighbourhood_larger_than_reach_is_found_in_its_middle)
{
	static const char *const text = "100000000-110000000 r-xp 0 0:0 0 /one\n"
					"1e0000000-1f0000000 r-xp 0 0:0 0 /two\n";
	uint64_t gap;

	parse(text);
	gap = tm_mappings_find_gap(&mappings, 0x100000000, 0x1f0000000, 0x10000, 0x78008000);
	cr_assert_eq(gap, 0x177ff8000);
}

Test(mapping, gap_is_found_above_47_bits)
{
	static const char *const text = "aaaad0000000-aaaad0010000 r-xp 0 0:0 0 /exe\n"
					"ffff00000000-ffff80100000 r-xp 0 0:0 0 /libc.so\n"
					"fffff0000000-fffff0010000 rw-p 0 0:0 0 [stack]\n";

	cr_assert_eq(find_gap(text, 0xffff80000000, 0xffff80100000, 0x10000), 0xffff80101000);
}

Test(mapping, gap_is_never_in_the_kernels_half)
{
	static const char *const text = "7fffffe00000-7ffffffff000 rw-p 0 0:0 0 [stack]\n"
					"ffffffffff600000-ffffffffff601000 --xp 0 0:0 0 [vsyscall]\n";

	cr_assert_eq(find_gap(text, 0xffffffffff600000, 0xffffffffff601000, 0x1000), 0);
	cr_assert_eq(find_gap(text, 0x7fffffe00000, 0x7ffffffff000, 0x1000), 0x7fffffdfe000);
}

Test(mapping, gap_of_an_impossible_size_is_none)
{
	cr_assert_eq(find_gap("400000-500000 r-xp 0 0:0 0 /exe\n", 0x400000, 0x500000, UINT64_MAX), 0);
	cr_assert_eq(find_gap("400000-500000 r-xp 0 0:0 0 /exe\n", 0x400000, 0x500000, UINT64_MAX - 4096), 0);
}
