#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/strbuf.h"

Test(strbuf, appends_end_with_nul)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf buf = {0};

	tm_strbuf_puts(&buf, "one");
	tm_strbuf_append(&buf, "-two-", 4);
	tm_strbuf_printf(&buf, "%d%%", 3);
	cr_assert_str_eq(buf.text, "one-two3%");
	cr_assert_eq(buf.length, strlen(buf.text));
}

Test(strbuf, nul_bytes_are_bytes)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf buf = {0};

	tm_strbuf_append(&buf, "a\0b", 3);
	cr_assert_eq(buf.length, 3);
	cr_assert_arr_eq(buf.text, "a\0b", 4);
}

Test(strbuf, grows_as_needed)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf buf = {0};

	for (int i = 0; i < 10000; i++)
		tm_strbuf_printf(&buf, "%04d", i);
	cr_assert_eq(buf.length, 40000);
	cr_assert_eq(memcmp(buf.text + 4 * 1234, "1234", 4), 0);
}

Test(strbuf, nothing_is_an_empty_string)
{
	struct tm_strbuf buf = {0};
	_cleanup_free_ char *text = tm_strbuf_steal(&buf);

	cr_assert_str_eq(text, "");
}

Test(strbuf, stolen_text_leaves_an_empty_buffer)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf buf = {0};
	_cleanup_free_ char *text = NULL;

	tm_strbuf_puts(&buf, "kept");
	text = tm_strbuf_steal(&buf);
	cr_assert_str_eq(text, "kept");
	cr_assert_null(buf.text);
	tm_strbuf_puts(&buf, "again");
	cr_assert_str_eq(buf.text, "again");
	cr_assert_str_eq(text, "kept");
}

Test(strbuf, failure_is_remembered)
{
	struct tm_strbuf buf = {.failed = true};

	tm_strbuf_puts(&buf, "lost");
	cr_assert_eq(buf.length, 0);
	cr_assert_null(tm_strbuf_steal(&buf));
	cr_assert_not(buf.failed);
}

Test(strbuf, impossible_size_fails_without_a_change)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf buf = {0};

	tm_strbuf_puts(&buf, "x");
	tm_strbuf_append(&buf, "", (size_t)-3);
	cr_assert(buf.failed);
	cr_assert_str_eq(buf.text, "x");
}
