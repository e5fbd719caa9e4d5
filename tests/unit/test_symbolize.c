/* Names, lines, inlined calls and source text; addr2line is the oracle. */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>

#include "debuginfo/range_index.h"
#include "debuginfo/source_text.h"
#include "debuginfo/symbol.h"
#include "debuginfo/symbolize.h"
#include "support/symfix_code.h"
#include "support/symfix_target.h"

/* binutils 2.40 does not read the address ranges that clang gives to inlined calls (DW_FORM_rnglistx). */
#ifdef __clang__
#define ORACLE "llvm-addr2line"
#else
#define ORACLE "addr2line"
#endif

struct naming {
	struct tm_module_map *map;
	struct tm_module *own;
	struct tm_symbolizer *symbolizer;
};

static void naming_open(struct naming *naming)
{
	naming->map = symfix_own_modules(-1, -1);
	naming->own = tm_module_map_find(naming->map, (uint64_t)(uintptr_t)symfix_outer);
	cr_assert_null(tm_symbolizer_create(naming->map, -1, &naming->symbolizer));
}

static void naming_close(struct naming *naming)
{
	tm_symbolizer_destroy(naming->symbolizer);
	tm_module_map_destroy(naming->map);
}

static struct tm_locations locate(struct tm_symbolizer *symbolizer, const struct tm_module *module,
				  uint64_t vaddr)
{
	struct tm_locations locations;
	struct tm_error *err = tm_symbolize(symbolizer, module, vaddr, &locations);

	cr_assert_null(err);
	cr_assert_geq(locations.count, 1);
	return locations;
}

static const char *base_name(const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;

	return slash ? slash + 1 : path ? path : "";
}

static void expect_location(const struct tm_location *location, const char *function, unsigned lineno,
			    const char *source)
{
	cr_expect_str_eq(location->function, function);
	cr_expect_str_eq(base_name(location->filename), "symfix_code.c");
	cr_expect_eq(location->filename[0], '/');
	cr_expect_eq(location->lineno, lineno);
	cr_assert_not_null(location->source);
	cr_expect_str_eq(location->source, source);
}

/* ---- debug information ---------------------------------------------------------------------- */

static void expect_inlined_chain(const struct tm_locations *locations, const struct symfix_mark *mark)
{
	cr_assert_eq(locations->count, 3);
	expect_location(&locations->items[0], "symfix_innermost", mark->innermost_line,
			"mark->innermost_line = __LINE__, symfix_record(mark);");
	expect_location(&locations->items[1], "symfix_middle", mark->middle_line,
			"mark->middle_line = __LINE__, symfix_innermost(mark);");
	expect_location(&locations->items[2], "symfix_outer", mark->outer_line,
			"mark->outer_line = __LINE__, symfix_middle(mark);");
}

Test(symbolize, inlined_calls_come_innermost_first)
{
	struct naming naming;
	struct symfix_mark mark;
	struct tm_locations locations;

	naming_open(&naming);
	symfix_outer(&mark);
	locations = locate(naming.symbolizer, naming.own, mark.pc - naming.own->bias);
	expect_inlined_chain(&locations, &mark);
	tm_locations_deinit(&locations);
	naming_close(&naming);
}

/* One line of addr2line, without its remark in parentheses. */
static bool read_line(FILE *file, char *line, size_t size)
{
	if (!fgets(line, (int)size, file))
		return false;
	line[strcspn(line, "\n")] = '\0';
	if (strstr(line, " (discriminator"))
		*strstr(line, " (discriminator") = '\0';
	return true;
}

/* The answer to one address: pairs of lines, up to the next address. Lines that addr2line does not know are
 * "?". */
static void compare_with_oracle(const struct naming *naming, FILE *oracle, char *line, size_t size)
{
	uint64_t vaddr = strtoull(line, NULL, 16);
	struct tm_locations locations = locate(naming->symbolizer, naming->own, vaddr);
	size_t i = 0;

	for (; read_line(oracle, line, size) && strncmp(line, "0x", 2) != 0; i++) {
		const struct tm_location *ours = &locations.items[i];
		char *colon;

		cr_assert_lt(i, locations.count, "%#llx", (unsigned long long)vaddr);
		cr_expect_str_eq(ours->function, line, "%#llx", (unsigned long long)vaddr);
		cr_assert(read_line(oracle, line, size));
		colon = strrchr(line, ':');
		cr_assert_not_null(colon);
		cr_expect_eq(ours->lineno, strtoul(colon + 1, NULL, 10), "%#llx %s",
			     (unsigned long long)vaddr, line);
		*colon = '\0';
		cr_expect_str_eq(base_name(ours->filename), base_name(line));
	}
	cr_expect_eq(i, locations.count, "%#llx", (unsigned long long)vaddr);
	tm_locations_deinit(&locations);
}

struct addresses {
	FILE *file;
	size_t count;
};

static bool write_addresses(const struct tm_symbol *symbol, void *context)
{
	struct addresses *addresses = context;

	if (strncmp(symbol->name, "symfix_", 7) != 0)
		return true;
	for (uint64_t at = symbol->vaddr; at < symbol->vaddr + symbol->size; at++, addresses->count++)
		fprintf(addresses->file, "0x%llx\n", (unsigned long long)at);
	return true;
}

/* Every byte of every function whose name starts so: the fixtures', with all that is inlined into them. */
Test(symbolize, every_address_of_the_fixtures_is_what_addr2line_says)
{
	char *directory = symfix_directory(), *list = symfix_format("%s/list", directory);
	struct addresses addresses = {.file = fopen(list, "w")};
	char line[4096], *command;
	struct naming naming;
	size_t compared = 0;
	FILE *oracle;

	if (system("command -v " ORACLE " > /dev/null") != 0)
		cr_skip_test("no " ORACLE);
	naming_open(&naming);
	cr_assert_null(tm_module_each_symbol(naming.map, naming.own, TM_SYMBOLS_STATIC, write_addresses,
					     &addresses));
	fclose(addresses.file);
	cr_expect_gt(symfix_sum((int[]){1, -2}, 2) + symfix_classify(7), 0);
	command = symfix_format(ORACLE " -a -i -f -C -e '%s' < '%s'", naming.own->path, list);
	oracle = popen(command, "r");
	cr_assert(read_line(oracle, line, sizeof(line)));
	while (!feof(oracle)) {
		compare_with_oracle(&naming, oracle, line, sizeof(line));
		compared++;
	}
	pclose(oracle);
	cr_expect_eq(compared, addresses.count);
	cr_expect_gt(compared, 300);
	naming_close(&naming);
	free(command);
	free(list);
	symfix_remove(directory);
}

/* A stripped copy of this program whose debug file stands under the target's root. */
Test(symbolize, separate_debug_file_gives_the_same)
{
	char *directory = symfix_directory(), *program = symfix_format("%s/opt/program", directory);
	struct symfix_target target = {0};
	struct symfix_disguise inside = {.path = "/opt/program"};
	_cleanup_close_ int root_fd = -1;
	struct tm_module_source source;
	struct tm_symbolizer *symbolizer;
	struct tm_locations locations;
	struct symfix_mark mark;
	struct naming naming;

	symfix_run("mkdir -p '%s/opt/.debug' && cd '%s/opt/.debug' && objcopy --only-keep-debug "
		   "--compress-debug-sections "
		   "/proc/$PPID/exe program.debug && objcopy --strip-all --add-gnu-debuglink=program.debug "
		   "/proc/$PPID/exe ../program",
		   directory, directory);
	naming_open(&naming);
	symfix_outer(&mark);
	root_fd = open(directory, O_PATH | O_CLOEXEC);
	source = symfix_target_source(&target, root_fd, -1);
	tm_module_map_reset(naming.map, &source);
	symfix_target_load(&target, program, 0, &inside);
	symfix_target_update(&target, naming.map, NULL);
	cr_assert_null(tm_symbolizer_create(naming.map, root_fd, &symbolizer));
	locations = locate(symbolizer, symfix_module(naming.map, "/opt/program"), mark.pc - naming.own->bias);
	expect_inlined_chain(&locations, &mark);
	tm_locations_deinit(&locations);
	tm_symbolizer_destroy(symbolizer);
	naming_close(&naming);
	symfix_target_deinit(&target);
	free(program);
	symfix_remove(directory);
}

/* A program made by the compiler here and now, loaded at vaddr 0 of a made-up target. */
struct built {
	char *directory, *path;
	struct symfix_target target;
	struct tm_module_map *map;
	struct tm_symbolizer *symbolizer;
};

static void built_open(struct built *built, const char *commands, int root_fd)
{
	struct tm_module_source source;

	built->directory = symfix_directory();
	built->path = symfix_format("%s/built.so", built->directory);
	symfix_run("cd '%s' && %s", built->directory, commands);
	source = symfix_target_source(&built->target, -1, -1);
	cr_assert_null(tm_module_map_create(&source, &built->map));
	symfix_target_load(&built->target, built->path, 0, NULL);
	symfix_target_update(&built->target, built->map, NULL);
	cr_assert_null(tm_symbolizer_create(built->map, root_fd, &built->symbolizer));
}

static void built_close(struct built *built)
{
	tm_symbolizer_destroy(built->symbolizer);
	tm_module_map_destroy(built->map);
	symfix_target_deinit(&built->target);
	free(built->path);
	symfix_remove(built->directory);
}

static struct tm_locations locate_symbol(struct built *built, const char *name)
{
	struct tm_module *module = symfix_module(built->map, "built.so");
	struct tm_symbol symbol;

	cr_assert(tm_module_find_dynamic_symbol(module, name, &symbol), "%s", name);
	return locate(built->symbolizer, module, symbol.vaddr);
}

Test(symbolize, kinds_of_debug_information)
{
	static const char *const options[] = {"-g -gdwarf-4",
					      "-g -gdwarf-5",
					      "-g -gz=zlib",
					      "-g -gdwarf-5 -gsplit-dwarf",
					      "-g -fdebug-types-section",
					      "-g1"};

	for (size_t i = 0; i < TM_ARRAY_SIZE(options); i++) {
		struct built built = {0};
		struct tm_locations locations;
		char *commands = symfix_format(
			"printf 'int first;\\nint built(int a)\\n{\\n\\treturn a;\\n}\\n' > b.c && "
			"cc %s -shared -fPIC -o built.so b.c",
			options[i]);

		built_open(&built, commands, -1);
		locations = locate_symbol(&built, "built");
		cr_expect_eq(locations.count, 1);
		cr_expect_str_eq(locations.items[0].function, "built", "%s", options[i]);
		cr_expect_str_eq(base_name(locations.items[0].filename), "b.c", "%s", options[i]);
		cr_expect(locations.items[0].lineno == 2 || locations.items[0].lineno == 3);
		cr_expect_not_null(locations.items[0].source);
		tm_locations_deinit(&locations);
		built_close(&built);
		free(commands);
	}
}

Test(symbolize, supplementary_file_of_dwz_is_read)
{
	struct built built = {0};
	struct tm_locations locations;

	if (system("command -v dwz > /dev/null") != 0)
		cr_skip_test("no dwz");
	built_open(&built,
		   "printf 'struct s { int a_long_name_of_a_member, b, c, d, e; };\\nint FN(struct s *p)\\n"
		   "{\\n\\treturn p->b;\\n}\\n' > b.c && cc -g -shared -fPIC -DFN=a_function_in_both -o "
		   "built.so b.c && "
		   "cc -g -O1 -shared -fPIC -DFN=a_function_in_both -o other.so b.c && "
		   "dwz -m common.debug built.so other.so; test -e built.so",
		   -1);
	locations = locate_symbol(&built, "a_function_in_both");
	cr_expect_str_eq(locations.items[0].function, "a_function_in_both");
	cr_expect_str_eq(base_name(locations.items[0].filename), "b.c");
	tm_locations_deinit(&locations);
	built_close(&built);
}

Test(symbolize, relative_names_are_made_absolute_by_the_compilation_directory)
{
	struct built built = {0};
	struct tm_locations locations;
	char *expected;

	built_open(&built,
		   "mkdir -p x/y z && echo 'int built(int a) { return a; }' > z/b.c && cd x && "
		   "cc -g -shared -fPIC -o ../built.so ./y/../../z/./b.c",
		   -1);
	expected = symfix_format("%s/z/b.c", built.directory);
	locations = locate_symbol(&built, "built");
	cr_expect_str_eq(locations.items[0].filename, expected);
	cr_expect_str_eq(locations.items[0].source, "int built(int a) { return a; }");
	tm_locations_deinit(&locations);
	free(expected);
	built_close(&built);
}

Test(symbolize, cxx_names_are_demangled)
{
	struct built built = {0};
	struct tm_locations locations;

	built_open(&built,
		   "echo 'namespace a { struct b { int c(long); }; int b::c(long x) { return (int)x; } }' > "
		   "b.cc && "
		   "cc -g -shared -fPIC -o built.so b.cc",
		   -1);
	locations = locate_symbol(&built, "_ZN1a1b1cEl");
	cr_expect_str_eq(locations.items[0].function, "a::b::c(long)");
	tm_locations_deinit(&locations);
	built_close(&built);
}

/* ---- symbol tables -------------------------------------------------------------------------- */

Test(symbolize, symbols_name_what_has_no_debug_information)
{
	struct built built = {0};
	struct tm_locations locations;
	struct tm_module *module;
	struct tm_symbol symbol;

	built_open(&built,
		   "printf 'int built(int a) { return a; }\\nint __built(int) "
		   "__attribute__((alias(\"built\")));\\n' > b.c && "
		   "cc -shared -fPIC -o built.so b.c && strip built.so",
		   -1);
	locations = locate_symbol(&built, "__built");
	cr_expect_eq(locations.count, 1);
	cr_expect_str_eq(locations.items[0].function, "built"); /* the alias that a reader knows */
	cr_expect_null(locations.items[0].filename);
	cr_expect_null(locations.items[0].source);
	cr_expect_eq(locations.items[0].lineno, 0);
	tm_locations_deinit(&locations);
	module = symfix_module(built.map, "built.so");
	cr_assert(tm_module_find_dynamic_symbol(module, "built", &symbol));
	locations = locate(built.symbolizer, module, symbol.vaddr + symbol.size - 1);
	cr_expect_str_eq(locations.items[0].function, "built");
	tm_locations_deinit(&locations);
	locations = locate(built.symbolizer, module, symbol.vaddr + symbol.size);
	cr_expect(!locations.items[0].function || strcmp(locations.items[0].function, "built") != 0);
	tm_locations_deinit(&locations);
	built_close(&built);
}

Test(symbolize, label_without_a_size_reaches_to_the_next_symbol)
{
	struct built built = {0};
	struct tm_locations locations;
	struct tm_module *module;
	struct tm_symbol first, second;

	built_open(&built,
		   "printf '.text\\n.globl first, second\\nfirst: .skip 40\\nsecond: .skip 8\\n' > b.s && "
		   "cc -shared -nostdlib -o built.so b.s",
		   -1);
	module = symfix_module(built.map, "built.so");
	cr_assert(tm_module_find_dynamic_symbol(module, "first", &first));
	cr_assert(tm_module_find_dynamic_symbol(module, "second", &second));
	for (uint64_t at = first.vaddr; at < second.vaddr + 8; at++) {
		locations = locate(built.symbolizer, module, at);
		cr_expect_str_eq(locations.items[0].function, at < second.vaddr ? "first" : "second");
		tm_locations_deinit(&locations);
	}
	locations = locate(built.symbolizer, module, second.vaddr + 8); /* behind the section */
	cr_expect_null(locations.items[0].function);
	tm_locations_deinit(&locations);
	built_close(&built);
}

Test(symbolize, vdso_functions_have_names)
{
	struct naming naming;
	struct tm_module *vdso;
	struct tm_locations locations;
	struct tm_symbol symbol;

	naming_open(&naming);
	vdso = symfix_module(naming.map, "[vdso]");
	cr_assert(tm_module_find_dynamic_symbol(
		vdso, vdso->elf_machine == EM_AARCH64 ? "__kernel_gettimeofday" : "__vdso_gettimeofday",
		&symbol));
	locations = locate(naming.symbolizer, vdso, symbol.vaddr + 1);
	cr_assert_not_null(locations.items[0].function);
	cr_expect_not_null(strstr(locations.items[0].function, "gettimeofday"), "%s",
			   locations.items[0].function);
	tm_locations_deinit(&locations);
	naming_close(&naming);
}

Test(symbolize, unknown_places_have_no_names)
{
	struct naming naming;

	naming_open(&naming);
	for (uint32_t i = 0; i < tm_module_map_count(naming.map); i++) {
		struct tm_locations locations =
			locate(naming.symbolizer, tm_module_map_get(naming.map, i), UINT64_MAX - 100);

		cr_expect_eq(locations.count, 1);
		cr_expect_null(locations.items[0].function);
		cr_expect_null(locations.items[0].filename);
		tm_locations_deinit(&locations);
	}
	naming_close(&naming);
}

Test(symbolize, every_symbol_of_every_library_has_a_name)
{
	struct naming naming;
	size_t named = 0;

	naming_open(&naming);
	for (uint32_t i = 1; i < tm_module_map_count(naming.map); i++) {
		const struct tm_module *module = tm_module_map_get(naming.map, i);
		static const char *const names[] = {"fopen", "qsort_r", "_dl_catch_exception",
						    "dwarf_begin_elf"};

		for (size_t j = 0; j < TM_ARRAY_SIZE(names); j++) {
			struct tm_symbol symbol;
			struct tm_locations locations;

			if (!tm_module_find_dynamic_symbol(module, names[j], &symbol))
				continue;
			locations = locate(naming.symbolizer, module, symbol.vaddr);
			cr_expect_not_null(locations.items[locations.count - 1].function, "%s", names[j]);
			named++;
			tm_locations_deinit(&locations);
		}
	}
	cr_expect_geq(named, 4);
	naming_close(&naming);
}

/* ---- sources -------------------------------------------------------------------------------- */

Test(symbolize, source_is_looked_for_under_the_root_first)
{
	char *directory = symfix_directory(), *ours = symfix_format("%s/file.c", directory);
	_cleanup_close_ int root_fd = -1;
	struct tm_source_texts *texts;
	char *line;

	symfix_run("printf 'ours\\nours 2\\n' > '%s' && mkdir -p '%s/root%s' && printf 'theirs\\n' > "
		   "'%s/root%s'",
		   ours, directory, directory, directory, ours);
	char *root = symfix_format("%s/root", directory);
	root_fd = open(root, O_PATH | O_CLOEXEC);
	texts = tm_source_texts_create(root_fd);
	line = tm_source_texts_line(texts, ours, 1);
	cr_expect_str_eq(line, "theirs");
	cr_expect_null(tm_source_texts_line(texts, ours, 2));
	free(line);
	tm_source_texts_destroy(texts);
	texts = tm_source_texts_create(-1);
	line = tm_source_texts_line(texts, ours, 2);
	cr_expect_str_eq(line, "ours 2");
	free(line);
	tm_source_texts_destroy(texts);
	free(root);
	free(ours);
	symfix_remove(directory);
}

Test(symbolize, source_lines_are_stripped)
{
	static const char *const expected[] = {NULL, "first", "second", NULL, "a \t b", NULL, "end", NULL};
	char *directory = symfix_directory(), *path = symfix_format("%s/file.c", directory);
	struct tm_source_texts *texts = tm_source_texts_create(-1);

	symfix_run("printf 'first\\n\\t second \\r\\n\\n \\ta \\t b\\t\\n \\t\\n  end' > '%s'", path);
	for (uint32_t i = 0; i < TM_ARRAY_SIZE(expected); i++) {
		char *line = tm_source_texts_line(texts, path, i);

		if (expected[i])
			cr_expect(line && strcmp(line, expected[i]) == 0, "%u: %s", i, line);
		else
			cr_expect_null(line, "%u: %s", i, line);
		free(line);
	}
	cr_expect_null(tm_source_texts_line(texts, path, UINT32_MAX));
	cr_expect_null(tm_source_texts_line(texts, directory, 1));
	cr_expect_null(tm_source_texts_line(texts, "/dev/zero", 1));
	cr_expect_null(tm_source_texts_line(texts, "relative.c", 1));
	tm_source_texts_destroy(texts);
	free(path);
	symfix_remove(directory);
}

/* Far more than is kept: files are forgotten and read again. */
Test(symbolize, sources_beyond_the_budget_are_still_right)
{
	char *directory = symfix_directory();
	struct tm_source_texts *texts = tm_source_texts_create(-1);

	symfix_run("cd '%s' && for i in 0 1 2 3 4 5 6 7; do { echo line $i; head -c 6000000 /dev/zero | tr "
		   "'\\0' x; } > $i; done",
		   directory);
	for (int i = 0; i < 16; i++) {
		char *path = symfix_format("%s/%d", directory, i % 8),
		     *expected = symfix_format("line %d", i % 8);
		char *line = tm_source_texts_line(texts, path, 1),
		     *second = tm_source_texts_line(texts, path, 2);

		cr_expect_str_eq(line, expected);
		cr_expect_eq(strlen(second), 4096);
		free(line);
		free(second);
		free(expected);
		free(path);
	}
	tm_source_texts_destroy(texts);
	symfix_remove(directory);
}

Test(symbolize, paths_are_normalised)
{
	static const struct {
		const char *path, *expected;
	} rows[] = {
		{"/a/b.c", "/a/b.c"},
		{"/a/./b.c", "/a/b.c"},
		{"/a/x/../b.c", "/a/b.c"},
		{"/a//b///c.c", "/a/b/c.c"},
		{"/a/x/y/../../b.c", "/a/b.c"},
		{"/./a/.", "/a"},
		{"/a/..", "/"},
		{"/..", "/.."},
		{"/../a", "/../a"},
		{"./a.c", "a.c"},
		{"../a.c", "../a.c"},
		{"x/../../a.c", "../a.c"},
		{"../../a.c", "../../a.c"},
		{"a/..b/c", "a/..b/c"},
		{"a/.b/../c", "a/c"},
		{"", ""},
		{"/", "/"},
		{".", ""},
		{"<built-in>", "<built-in>"},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		char path[64];

		strcpy(path, rows[i].path);
		tm_source_path_normalise(path);
		cr_expect_str_eq(path, rows[i].expected, "%s: %s", rows[i].path, path);
	}
}

/* ---- parts ---------------------------------------------------------------------------------- */

Test(symbolize, names_are_demangled)
{
	static const struct {
		const char *mangled, *expected;
	} rows[] = {
		{"malloc", "malloc"},
		{"_init", "_init"},
		{"_Z", "_Z"},
		{"", ""},
		{"_ZN3foo3barEv", "foo::bar()"},
		{"_ZNSt6vectorIiSaIiEE9push_backERKi",
		 "std::vector<int, std::allocator<int> >::push_back(int const&)"},
		{"_ZN3FooC2Ei", "Foo::Foo(int)"},
		{"_Z3foov.cold", "foo() [clone .cold]"},
		/* Rust, legacy: the hash goes. */
		{"_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE", "core::fmt::Write::write_fmt"},
		/* Rust, v0 (RFC 2603). */
		{"_RNvC6_123foo3bar", "123foo::bar"},
		{"_RNvNtCs1234_7mycrate3foo3bar", "mycrate::foo::bar"},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		char *name = tm_demangle(rows[i].mangled);

		cr_assert_not_null(name);
		cr_expect_str_eq(name, rows[i].expected, "%s: %s", rows[i].mangled, name);
		free(name);
	}
}

Test(range_index, innermost_range_answers)
{
	struct tm_range_index index = {0};
	const struct {
		uint64_t address, value; /* 0: none */
	} rows[] = {{9, 0},  {10, 1},  {19, 1},	 {20, 2},  {29, 2},  {30, 1},
		    {99, 1}, {100, 0}, {199, 0}, {200, 4}, {209, 4}, {210, 0}};

	cr_assert(tm_range_index_add(&index, 200, 205, 9, 3));
	cr_assert(tm_range_index_add(&index, 20, 30, 0, 2));
	cr_assert(tm_range_index_add(&index, 10, 100, 0, 1));
	cr_assert(tm_range_index_add(&index, 200, 210, 1, 4)); /* lower rank */
	cr_assert(tm_range_index_add(&index, 50, 50, 0, 5));   /* empty */
	tm_range_index_sort(&index);
	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		const struct tm_range *range = tm_range_index_find(&index, rows[i].address);

		cr_expect_eq(range ? range->value : 0, rows[i].value, "%d", (int)rows[i].address);
	}
	tm_range_index_deinit(&index);
}

Test(range_index, guessed_range_gives_way)
{
	struct tm_range_index index = {0};
	const struct {
		uint64_t address, value;
	} rows[] = {{10, 1}, {49, 1}, {50, 2}, {60, 2},	 {69, 2},  {70, 0},
		    {80, 4}, {89, 4}, {90, 5}, {999, 5}, {1000, 0}};

	cr_assert(tm_range_index_add(&index, 10, 1000, TM_RANGE_GUESSED, 1));
	cr_assert(tm_range_index_add(&index, 50, 70, 0, 2));
	cr_assert(tm_range_index_add(&index, 60, 1000, TM_RANGE_GUESSED, 3)); /* a label inside a function */
	cr_assert(tm_range_index_add(&index, 80, 1000, TM_RANGE_GUESSED, 4));
	cr_assert(tm_range_index_add(&index, 90, 1000, TM_RANGE_GUESSED, 5));
	tm_range_index_sort(&index);
	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		const struct tm_range *range = tm_range_index_find(&index, rows[i].address);

		cr_expect_eq(range ? range->value : 0, rows[i].value, "%d", (int)rows[i].address);
	}
	tm_range_index_deinit(&index);
}
