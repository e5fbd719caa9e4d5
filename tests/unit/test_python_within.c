/* --within: which places a function's name means, and whether one of them is on a stack. */
#include <criterion/criterion.h>

#include "python/within.h"

static struct tm_places places;

static uint32_t place(const char *filename, const char *function)
{
	uint32_t number = tm_places_intern(&places, filename, function);

	cr_assert(number);
	return number;
}

static void teardown(void)
{
	tm_places_deinit(&places);
}

TestSuite(within, .fini = teardown);

static bool is_on(struct tm_within *within, const uint32_t *stack, size_t count)
{
	bool on_stack = false;
	struct tm_error *err = tm_within_is_on_stack(within, &places, stack, count, &on_stack);

	cr_assert_null(err);
	return on_stack;
}

static const struct {
	const char *text, *filename, *function;
	bool matches;
} cases[] = {
	{"make", "/a/b.py", "make", true},
	{"make", "/a/b.py", "Thing.make", true},
	{"make", "/a/b.py", "outer.<locals>.make", true},
	{"make", "/a/b.py", "remake", false},
	{"make", "/a/b.py", "make.<locals>.inner", false},
	{"Thing.make", "/a/b.py", "Thing.make", true},
	{"Thing.make", "/a/b.py", "make", false},
	{"*.make", "/a/b.py", "Thing.make", true},
	{"m?k[a-f]", "/a/b.py", "make", true},
	{"<module>", "/a/b.py", "<module>", true},
	{"b.py:make", "/a/b.py", "make", true},
	{"b.py:make", "b.py", "make", true},
	{"/a/b.py:make", "/a/b.py", "make", true},
	{"/a/*:make", "/a/b.py", "make", true},
	{"c.py:make", "/a/b.py", "make", false},
	{"b.py:fake", "/a/b.py", "make", false},
	{"C:\\x.py:make", "x.py", "make", false},
};

Test(within, names)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(cases); i++) {
		uint32_t stack[] = {place("z.py", "z"), place(cases[i].filename, cases[i].function)};
		struct tm_within within;

		cr_assert_null(tm_within_parse(cases[i].text, &within));
		cr_expect_eq(is_on(&within, stack, 2), cases[i].matches, "%s and %s:%s", cases[i].text,
			     cases[i].filename, cases[i].function);
		cr_expect_eq(within.was_seen, cases[i].matches);
		tm_within_deinit(&within);
	}
}

Test(within, any_frame_of_a_stack_will_do)
{
	uint32_t f = place("a.py", "f"), g = place("a.py", "g"), h = place("b.py", "h");
	struct tm_within within;

	cr_assert_null(tm_within_parse("g", &within));
	cr_expect_not(is_on(&within, NULL, 0));
	cr_expect_not(is_on(&within, (uint32_t[]){f, h, f}, 3));
	cr_expect(is_on(&within, (uint32_t[]){f, h, g}, 3));
	cr_expect(is_on(&within, (uint32_t[]){g, h, f}, 3));
	cr_expect_not(is_on(&within, (uint32_t[]){f, h, g}, 2));
	tm_within_deinit(&within);
}

Test(within, what_is_no_name)
{
	static const char *const texts[] = {"", ":", "a.py:", ":f"};

	for (size_t i = 0; i < TM_ARRAY_SIZE(texts); i++) {
		struct tm_within within;
		struct tm_error *err = tm_within_parse(texts[i], &within);

		cr_assert_not_null(err, "\"%s\"", texts[i]);
		cr_expect_eq(err->code, TM_ERROR_BAD_FORMAT);
		tm_error_destroy(err);
	}
}
