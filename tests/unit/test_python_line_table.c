/* Line tables: by hand where the formats say what must come out, and against CPython's own co_lines() on the
 * standard library. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "python/line_table.h"

struct row {
	int64_t offset;
	int line;
};

static void check(enum tm_line_format format, const char *hex_table, size_t size, int first_line,
		  const struct row *rows, size_t count)
{
	const uint8_t *table = (const uint8_t *)hex_table;

	for (size_t i = 0; i < count; i++)
		cr_expect_eq(tm_python_line(format, table, size, first_line, rows[i].offset), rows[i].line,
			     "offset %lld: %d, not %d", (long long)rows[i].offset,
			     tm_python_line(format, table, size, first_line, rows[i].offset), rows[i].line);
}

#define CHECK(format, table, first_line, ...)                                                                \
	do {                                                                                                 \
		const struct row rows_[] = {__VA_ARGS__};                                                    \
		check((format), (table), sizeof(table) - 1, (first_line), rows_, TM_ARRAY_SIZE(rows_));      \
	} while (0)

Test(line_table, lnotab_rises_behind_its_bytes)
{
	CHECK(TM_LINES_LNOTAB, "\x06\x01\x04\xff\x00\x7f\x02\x01", 10, {0, 10}, {5, 10}, {6, 11}, {9, 11},
	      {10, 137}, {12, 138}, {4000, 138});
}

Test(line_table, linetable_has_code_without_a_line)
{
	CHECK(TM_LINES_LINETABLE, "\x04\x01\x02\x80\x06\xfe", 10, {0, 11}, {3, 11}, {4, -1}, {6, 9}, {11, 9},
	      {12, -1});
}

Test(line_table, locations_have_five_forms)
{
	/* no columns +1; one line +2 with two column bytes; short with one; none; long with -3 */
	CHECK(TM_LINES_LOCATIONS, "\xe9\x02\xe0\x01\x02\x80\x11\xf8\xf0\x07\x00\x00\x00", 20, {0, 21},
	      {2, 21}, {4, 23}, {6, 23}, {8, -1}, {10, 20}, {12, -1});
}

Test(line_table, before_the_first_instruction_is_the_first_line)
{
	for (enum tm_line_format format = TM_LINES_LNOTAB; format <= TM_LINES_LOCATIONS; format++)
		cr_expect_eq(tm_python_line(format, (const uint8_t *)"\x02\x01", 2, 7, -2), 7);
}

Test(line_table, any_bytes_end)
{
	uint8_t *table = malloc(31); /* its end is watched by a sanitizer's build */

	srand(1);
	for (int round = 0; round < 20000; round++) {
		for (size_t i = 0; i < 31; i++)
			table[i] = (uint8_t)(round % 2 ? rand() : rand() | 0x40);
		for (enum tm_line_format format = TM_LINES_LNOTAB; format <= TM_LINES_LOCATIONS; format++)
			tm_python_line(format, table, 31, 0x7ffffff0, rand() % 300);
	}
	free(table);
}

/* One line for each code object of a module: first line, table in hexadecimal, then offset:line of every
 * instruction. */
static const char dump[] = "import sys, importlib\n"
			   "def lines(c):\n"
			   "  if hasattr(c, 'co_lines'):\n"
			   "    for a, b, n in c.co_lines():\n"
			   "      for o in range(a, b, 2): yield o, -1 if n is None else n\n"
			   "  else:\n"
			   "    import dis\n"
			   "    n, starts = c.co_firstlineno, dict(dis.findlinestarts(c))\n"
			   "    for o in range(0, len(c.co_code), 2):\n"
			   "      n = starts.get(o, n)\n"
			   "      yield o, n\n"
			   "def walk(c):\n"
			   "  t = c.co_linetable if hasattr(c, 'co_linetable') else c.co_lnotab\n"
			   "  print(c.co_firstlineno, t.hex() or '-', *('%d:%d' % x for x in lines(c)))\n"
			   "  for k in c.co_consts:\n"
			   "    if hasattr(k, 'co_code'): walk(k)\n"
			   "for m in 'argparse ast collections dataclasses enum inspect json.decoder logging "
			   "re tarfile typing'.split():\n"
			   "  m = importlib.import_module(m)\n"
			   "  walk(compile(open(m.__file__, encoding='utf-8').read(), m.__file__, 'exec'))\n";

static size_t unhex(const char *text, uint8_t *bytes)
{
	size_t size = 0;

	for (; text[0] != '-' && sscanf(text + 2 * size, "%2hhx", &bytes[size]) == 1; size++)
		;
	return size;
}

static size_t check_code_object(char *text, enum tm_line_format format, size_t *wrong)
{
	char *save, *first = strtok_r(text, " ", &save), *hex = strtok_r(NULL, " ", &save), *pair;
	_cleanup_free_ uint8_t *table = malloc(strlen(hex) / 2 + 1);
	size_t size = unhex(hex, table), count = 0;

	for (; (pair = strtok_r(NULL, " \n", &save)); count++) {
		long long offset;
		int line;

		cr_assert_eq(sscanf(pair, "%lld:%d", &offset, &line), 2);
		*wrong += tm_python_line(format, table, size, atoi(first), offset) != line;
	}
	return count;
}

/* The interpreter says itself which lines its instructions belong to. */
static void compare_with(const char *python, unsigned minor)
{
	_cleanup_free_ char *command = NULL, *text = NULL;
	size_t capacity = 0, instructions = 0, wrong = 0;
	FILE *pipe;

	cr_assert(asprintf(&command, "%s -c \"%s\" 2>/dev/null", python, dump) > 0);
	pipe = popen(command, "r");
	while (getline(&text, &capacity, pipe) > 0)
		instructions += check_code_object(text, tm_python_layout_of(3, minor)->lines, &wrong);
	pclose(pipe);
	if (!instructions)
		return; /* this version is not installed */
	cr_log_info("%s: %zu instructions", python, instructions);
	cr_expect_gt(instructions, 20000, "%s told only %zu", python, instructions);
	cr_expect_eq(wrong, 0, "%s: %zu of %zu instructions on another line", python, wrong, instructions);
}

Test(line_table, every_instruction_of_the_library_has_the_line_that_cpython_gives_it)
{
	for (unsigned minor = 8; minor <= 13; minor++) {
		char python[256];

		snprintf(python, sizeof(python), "python3.%u", minor);
		compare_with(python, minor);
		snprintf(python, sizeof(python),
			 "$(ls -d $HOME/.pyenv/versions/3.%u.*/bin/python3 2>/dev/null | tail -1)", minor);
		compare_with(python, minor);
	}
}
