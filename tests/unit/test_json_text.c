#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "report/json_text.h"

static const char *const byte_strings[] = {
	"",
	"plain",
	"a\"b\\c/",
	"\n\t\x01\x7f",
	"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80",
	"\xff",
	"\xc3",
	"\xc0\xaf",
	"\xed\xb2\x80",
	"\xf4\x90\x80\x80",
	"\xf0\x9f\x98",
	"a\x80z",
};

Test(json_text, strings_written_by_tmtrace_come_back)
{
	for (size_t i = 0; i < sizeof(byte_strings) / sizeof(byte_strings[0]); i++) {
		struct tm_strbuf text = {0}, element = {0};
		const char *cursor;

		tm_strbuf_puts(&text, "[");
		tm_json_string(&text, byte_strings[i]);
		tm_strbuf_puts(&text, "]");
		cursor = text.text;
		cr_assert(tm_json_next_string(&cursor, &element), "%s", text.text);
		cr_expect_str_eq(element.text, byte_strings[i]);
		cr_expect_not(tm_json_next_string(&cursor, &element));
		tm_strbuf_deinit(&element);
		tm_strbuf_deinit(&text);
	}
}

/* What others write: the elements joined by '|', up to where the text is no array of strings any more. */
static const struct {
	const char *json, *elements;
} foreign[] = {
	{" [ \"a\" , \"b\" ] ", "a|b|"},
	{"[\"\\u00e9\\b\\f\\n\\r\\t\\/\"]", "\xc3\xa9\b\f\n\r\t/|"},
	{"[\"\\ud83d\\ude00\"]", "\xf0\x9f\x98\x80|"},
	{"[\"\\ud83dx\"]", "\xef\xbf\xbdx|"},
	{"[\"\\uDCFF\"]", "\xff|"},
	{"", ""},
	{"[", ""},
	{"{}", ""},
	{"[1, \"a\"]", ""},
	{"[\"a\", 1, \"b\"]", "a|"},
	{"[\"a\" \"b\"]", "a|"},
	{"[\"a", ""},
	{"[\"a\\", ""},
	{"[\"\\u12", ""},
	{"[\"\\u12g4\"]", ""},
	{"[\"\\u0000\"]", ""},
	{"[\"\\x\"]", ""},
};

Test(json_text, foreign_arrays_are_read_as_far_as_they_go)
{
	for (size_t i = 0; i < sizeof(foreign) / sizeof(foreign[0]); i++) {
		struct tm_strbuf element = {0}, all = {0};
		const char *cursor = foreign[i].json;

		tm_strbuf_puts(&all, "");
		while (tm_json_next_string(&cursor, &element))
			tm_strbuf_printf(&all, "%s|", element.text);
		cr_expect_str_eq(all.text, foreign[i].elements, "%s", foreign[i].json);
		tm_strbuf_deinit(&element);
		tm_strbuf_deinit(&all);
	}
}

/* copy NULL: no JSON */
static const struct {
	const char *text, *copy;
} values[] = {
	{" [ ] ", "[]"},
	{"{}", "{}"},
	{"[{\"exe\" : \"/bin/a\",\"command\":[\"a\",\"b\"],\"time\":12}]",
	 "[{\"exe\": \"/bin/a\", \"command\": [\"a\", \"b\"], \"time\": 12}]"},
	{"[true,false,null,-0.5e+3,0,10]", "[true, false, null, -0.5e+3, 0, 10]"},
	{"\"\\udcff\\u00e9\"", "\"\\udcff\xc3\xa9\""},
	{"\"\xff\"", "\"\\udcff\""},
	{"\"raw\nline\"", "\"raw\\u000aline\""},
	{"", NULL},
	{"[", NULL},
	{"[1", NULL},
	{"[1,]", NULL},
	{"[1 2]", NULL},
	{"[1]]", NULL},
	{"{1:2}", NULL},
	{"{\"a\"}", NULL},
	{"{\"a\":1,}", NULL},
	{"[1}", NULL},
	{"01", NULL},
	{"-", NULL},
	{"1.", NULL},
	{"1e", NULL},
	{"nul", NULL},
	{"NaN", NULL},
	{"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]", NULL}, /* 34 deep */
};

Test(json_text, values_are_written_anew_or_refused)
{
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		struct tm_strbuf copy = {0};
		bool is_json = tm_json_copy(&copy, values[i].text);

		cr_expect_eq(is_json, values[i].copy != NULL, "%s", values[i].text);
		if (is_json && values[i].copy)
			cr_expect_str_eq(copy.text, values[i].copy);
		tm_strbuf_deinit(&copy);
	}
}
