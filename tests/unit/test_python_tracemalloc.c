/* Code that is searched for the hook of CPython's own tracemalloc; and everything that reads a target's bytes
 * in front of a guard page. */
#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>

#include "python/line_table.h"
#include "python/tracemalloc.h"
#include "python/unicode.h"

#define PAGE 4096u

/* `size` bytes whose end is the end of what can be read. */
static uint8_t *before_guard(const void *bytes, size_t size)
{
	uint8_t *pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(pages, MAP_FAILED);
	cr_assert_eq(mprotect(pages + PAGE, PAGE, PROT_NONE), 0);
	return memcpy(pages + PAGE - size, bytes, size);
}

static struct tm_code_bytes code_before_guard(const void *bytes, size_t size, uint64_t address)
{
	return (struct tm_code_bytes){before_guard(bytes, size), size, address};
}

#define CODE(address, ...)                                                                                   \
	code_before_guard((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), (address))

Test(tracemalloc_code, what_all_functions_refer_to_is_found)
{
	const struct tm_code_bytes code[] = {
		CODE(0x1000, 0x8b, 0x05, 0xfa, 0x0f, 0, 0, 0x85, 0xc0),	   /* mov 0x2000(%rip),%eax */
		CODE(0x1500, 0x83, 0x3d, 0xf9, 0x0a, 0, 0, 0, 0x75, 0x10), /* cmpl $0,0x2000 */
		CODE(0x1800, 0x48, 0x8b, 0x80, 0x00, 0x10, 0, 0, 0x85, 0xc0,
		     0x90), /* mov 0x1000(%rax),%rax */
	};
	struct tm_addresses found = {0};

	cr_assert_null(tm_code_common_references(code, 3, 0x1000, 0x1f00, 0x2100, &found));
	cr_assert_eq(found.count, 1);
	cr_expect_eq(found.items[0], 0x2000);
	found.count = 0;
	cr_assert_null(tm_code_common_references(code, 3, 0x1000, 0x2004, 0x2100, &found));
	cr_expect_eq(found.count, 0);
	tm_vector_deinit(&found);
}

Test(tracemalloc_code, calls_and_jumps_to_the_outside_are_found)
{
	const struct tm_code_bytes code = CODE(0x1000, 0xe8, 0xfb, 0x0f, 0, 0, /* call 0x2000 */
					       0xe9, 0xf6, 0xff, 0xff, 0xff,   /* jmp 0x1000: itself */
					       0xe9, 0xf1, 0xef, 0xff, 0xff,   /* jmp 0 */
					       0xe8, 0xec, 0x0f, 0, 0,	       /* call 0x2000 again */
					       0xe8, 0x00, 0x00, 0x00);	       /* cut off */
	struct tm_addresses found = {0};

	cr_assert_null(tm_code_callees(&code, &found));
	cr_assert_eq(found.count, 2);
	cr_expect_eq(found.items[0], 0x2000);
	cr_expect_eq(found.items[1], 0);
	tm_vector_deinit(&found);
}

Test(tracemalloc_code, code_of_no_or_few_bytes_has_nothing)
{
	for (size_t size = 0; size < 5; size++) {
		const struct tm_code_bytes code = code_before_guard("\xe8\xe8\xe8\xe8", size, 0x1000);
		struct tm_addresses found = {0};

		cr_assert_null(tm_code_callees(&code, &found));
		cr_expect_eq(found.count, 0);
		if (size < 4)
			cr_assert_null(tm_code_common_references(&code, 1, 0, 0, UINT64_MAX, &found));
		cr_expect_eq(found.count, 0);
		tm_vector_deinit(&found);
	}
}

Test(python_guard, line_tables_end_with_their_bytes)
{
	static const uint8_t patterns[] = {0x00, 0x01, 0x40, 0x7f, 0x80, 0xe9, 0xf0, 0xff};

	for (size_t i = 0; i < sizeof(patterns); i++) {
		uint8_t bytes[64];

		memset(bytes, patterns[i], sizeof(bytes));
		for (size_t size = 0; size <= sizeof(bytes); size += 7) {
			uint8_t *table = before_guard(bytes, size);

			for (enum tm_line_format format = TM_LINES_LNOTAB; format <= TM_LINES_LOCATIONS;
			     format++)
				for (int64_t offset = -2; offset < 2000; offset += 6)
					tm_python_line(format, table, size, INT32_MAX - 3, offset);
			munmap(table + size - PAGE, 2 * PAGE);
		}
	}
}

/* ---- strings ---- */

struct string {
	uint8_t bytes[256];
	size_t size; /* what can be read */
};

static struct tm_error *read_string(void *context, uint64_t address, void *buffer, size_t size)
{
	const struct string *string = context;

	if (address > string->size || size > string->size - address)
		return tm_error_create(TM_ERROR_NO_MEMORY, "behind the end");
	memcpy(buffer, string->bytes + address, size);
	return NULL;
}

/* PyASCIIObject.state: kind at bit 2, compact 1, ascii 1. */
static struct string make(const struct tm_python_layout *layout, unsigned kind, bool ascii, const void *text,
			  uint64_t length)
{
	uint32_t state = kind << 2 | 1u << 5 | (unsigned)ascii << 6;
	uint16_t data = ascii ? layout->unicode_ascii : layout->unicode_compact;
	struct string string = {.size = data + kind * length};

	memcpy(string.bytes + layout->unicode_length, &length, sizeof(length));
	memcpy(string.bytes + layout->unicode_state, &state, sizeof(state));
	memcpy(string.bytes + data, text, kind * length);
	return string;
}

static void expect_text(unsigned kind, bool ascii, const void *text, uint64_t length, const char *wanted)
{
	for (unsigned minor = 8; minor <= 13; minor++) {
		const struct tm_python_layout *layout = tm_python_layout_of(3, minor);
		struct string string = make(layout, kind, ascii, text, length);
		const struct tm_memory memory = {&string, read_string};
		char *got = tm_unicode_read(layout, &memory, 0);

		cr_assert_not_null(got);
		cr_expect_str_eq(got, wanted, "3.%u", minor);
		free(got);
		string.size--; /* the last byte is not there */
		got = tm_unicode_read(layout, &memory, 0);
		cr_expect_null(got);
		free(got);
	}
}

Test(python_unicode, every_width_becomes_utf_8)
{
	expect_text(1, true, "plain.py", 8, "plain.py");
	expect_text(1, false, "caf\xe9", 4, "caf\xc3\xa9");
	expect_text(2, false, u"\u0394\u65e5", 2, "\xce\x94\xe6\x97\xa5");
	expect_text(4, false, U"\U0001f40d.", 2, "\xf0\x9f\x90\x8d.");
}

Test(python_unicode, a_byte_that_was_no_utf_8_is_that_byte_again)
{
	expect_text(2, false, (const uint16_t[]){'a', 0xdcff, 'b', 0xdc80}, 4,
		    "a\xff"
		    "b\x80");
}

Test(python_unicode, a_subclass_has_its_characters_elsewhere)
{
	const struct tm_python_layout *layout = tm_python_layout_of(3, 12);
	struct string string = {.size = 200};
	const struct tm_memory memory = {&string, read_string};
	const uint64_t length = 3, place = 150;
	char *got;

	memcpy(string.bytes + layout->unicode_length, &length, sizeof(length));
	string.bytes[layout->unicode_state] = 1u << 2 | 1u << 6; /* one byte a character, ASCII */
	memcpy(string.bytes + layout->unicode_compact, &place, sizeof(place));
	memcpy(string.bytes + place, "abc", length);
	got = tm_unicode_read(layout, &memory, 0);
	cr_assert_not_null(got);
	cr_expect_str_eq(got, "abc");
	free(got);
}

Test(python_unicode, what_is_no_string_is_refused)
{
	const struct tm_python_layout *layout = tm_python_layout_of(3, 11);
	struct string string = make(layout, 3, false, "abc", 1);
	const struct tm_memory memory = {&string, read_string};

	cr_expect_null(tm_unicode_read(layout, &memory, 0));
	string = make(layout, 1, true, "abc", 3);
	string.bytes[layout->unicode_state] &= (uint8_t) ~(1u << 5); /* not compact */
	cr_expect_null(tm_unicode_read(layout, &memory, 0));
	cr_expect_null(tm_unicode_read(layout, &memory, 0x10000));
}
