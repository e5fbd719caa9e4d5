/* Finding the allocator tables without symbols, versions and layouts: on made-up code, and on the
 * interpreters that are installed. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "python/interpreter.h"
#include "python/tables.h"

Test(python_tables, operand_relative_to_rip_is_found)
{
	const uint8_t bytes[] = {0x48, 0x8b, 0x3d, 0x10, 0, 0, 0}; /* mov 0x10(%rip),%rdi */
	const struct tm_code_bytes code = {bytes, sizeof(bytes), 0x1000};

	cr_expect(tm_code_refers_to(&code, 0x900000, 0x1017));
	cr_expect_not(tm_code_refers_to(&code, 0x900000, 0x1018));
}

Test(python_tables, operand_relative_to_the_runtime_is_found)
{
	const uint8_t bytes[] = {0x48, 0x8b, 0xb8, 0x60, 0x02, 0, 0}; /* mov 0x260(%rax),%rdi */
	const struct tm_code_bytes code = {bytes, sizeof(bytes), 0x1000};

	cr_expect(tm_code_refers_to(&code, 0x900000, 0x900260));
}

Test(python_tables, code_shorter_than_an_operand_refers_to_nothing)
{
	const uint8_t bytes[] = {0, 0, 0};

	cr_expect_not(tm_code_refers_to(&(struct tm_code_bytes){bytes, 3, 0x1000}, 0x1000, 0x1000));
	cr_expect_not(tm_code_refers_to(&(struct tm_code_bytes){NULL, 0, 0x1000}, 0x1000, 0x1000));
}

Test(python_layout, versions_from_3_8_to_3_13_are_known)
{
	for (unsigned minor = 0; minor < 20; minor++)
		cr_expect_eq(tm_python_layout_of(3, minor) != NULL, minor >= 8 && minor <= 13, "3.%u", minor);
	cr_expect_null(tm_python_layout_of(2, 8));
}

Test(python_layout, debug_offsets_say_where_things_are)
{
	struct tm_python_layout layout = *tm_python_layout_of(3, 13);
	uint64_t words[73] = {[5] = 640, [23] = 80, [43] = 208};

	memcpy(words, "xdebugpy", 8);
	cr_assert_null(tm_python_layout_refine(&layout, (const uint8_t *)words, sizeof(words)));
	cr_expect_eq(layout.runtime_interpreters, 640);
	cr_expect_eq(layout.thread_frame, 80);
	cr_expect_eq(layout.code_instructions, 208);
	cr_expect_eq(layout.code_first_traceable, 192);
}

static void expect_refused(uint64_t words[73], size_t size, const char *why)
{
	struct tm_python_layout layout = *tm_python_layout_of(3, 13);
	struct tm_error *err = tm_python_layout_refine(&layout, (const uint8_t *)words, size);

	cr_assert_not_null(err);
	cr_expect_eq(err->code, TM_ERROR_UNSUPPORTED);
	cr_expect(strstr(err->message, why), "'%s' lacks '%s'", err->message, why);
	tm_error_destroy(err);
}

Test(python_layout, free_threaded_and_damaged_are_refused)
{
	uint64_t words[73] = {0};

	expect_refused(words, sizeof(words), "debug offsets");
	memcpy(words, "xdebugpy", 8);
	expect_refused(words, 583, "debug offsets");
	words[2] = 1;
	expect_refused(words, sizeof(words), "free-threaded");
	words[2] = 0;
	expect_refused(words, sizeof(words), "damaged"); /* the code would begin before the object */
	words[43] = 208;
	for (unsigned i = 0; i < 2; i++) { /* beyond what is read of a thread's state, of a frame */
		unsigned word = i ? 33 : 23;

		words[word] = 249;
		expect_refused(words, sizeof(words), "damaged");
		words[word] = 0;
	}
	words[31] = 1 << 20;
	expect_refused(words, sizeof(words), "damaged");
}

/* ---- the interpreters of this machine ---- */

static bool load(const char *path, struct tm_module *module)
{
	struct stat info;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	memset(module, 0, sizeof(*module));
	if (fd < 0 || fstat(fd, &info) < 0)
		return false;
	module->path = (char *)path;
	module->fd = fd;
	module->image = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	module->image_size = (size_t)info.st_size;
	return module->image != MAP_FAILED;
}

/* Measured once with a disassembler, for builds that are known by their version and file. */
static const struct {
	const char *file;
	const char *version;
	uint64_t raw, mem, obj;
} known[] = {
	{"libpython3.8.so.1.0", "3.8", 0x332880, 0x332840, 0x332800},
	{"libpython3.11.so.1.0", "3.11.7", 0x45c2e0, 0x45c2a0, 0x45c260},
	{"python3.11", "3.11.2", 0x955060, 0x954f80, 0x954f40},
};

static size_t check_interpreter(const char *path)
{
	struct tm_interpreter interpreter;
	struct tm_module module;
	struct tm_error *err;

	if (!load(path, &module) || !tm_interpreter_is_in(&module))
		return 0;
	err = tm_interpreter_open(&module, &interpreter);
	if (err && strstr(err->message, "is not known")) {
		tm_error_destroy(err);
		return 0;
	}
	cr_assert_null(err, "%s", err ? err->message : "");
	cr_expect_neq(interpreter.run_main, 0, "%s", path);
	for (unsigned i = 0; i < TM_SLOT_TABLES; i++)
		cr_expect_eq(interpreter.tables[i] % 8, 0, "%s", path);
	for (size_t i = 0; i < TM_ARRAY_SIZE(known); i++) {
		if (strcmp(strrchr(path, '/') + 1, known[i].file) != 0 ||
		    strcmp(interpreter.version, known[i].version) != 0)
			continue;
		cr_expect_eq(interpreter.tables[TM_SLOT_MEM] - interpreter.tables[TM_SLOT_OBJ],
			     known[i].mem - known[i].obj);
		cr_expect_eq(interpreter.tables[TM_SLOT_RAW] - interpreter.tables[TM_SLOT_MEM],
			     known[i].raw - known[i].mem);
	}
	munmap((void *)module.image, module.image_size);
	close(module.fd);
	return 1;
}

Test(python_interpreter, tables_of_every_installed_interpreter_are_found)
{
	static const char *const patterns[] = {"/usr/bin/python3.[0-9]*[0-9]",
					       "/usr/lib/*/libpython3.*.so.1.0",
					       "~/.pyenv/versions/*/lib/libpython3.*.so.1.0"};
	size_t found = 0;
	glob_t paths = {0};

	for (size_t i = 0; i < TM_ARRAY_SIZE(patterns); i++)
		glob(patterns[i], GLOB_TILDE | (i ? GLOB_APPEND : 0), NULL, &paths);
	for (size_t i = 0; i < paths.gl_pathc; i++)
		found += check_interpreter(paths.gl_pathv[i]);
	globfree(&paths);
	if (!found)
		cr_skip_test("no CPython 3.8 to 3.13 is installed");
	cr_log_info("%zu interpreters", found);
}
