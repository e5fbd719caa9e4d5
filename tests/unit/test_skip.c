#include <criterion/criterion.h>

#include "report/skip.h"

static const struct {
	const char *globs, *function;
	bool skipped;
} cases[] = {
	{NULL, "operator new(unsigned long)", true},
	{NULL, "operator new[](unsigned long)", true},
	{NULL, "operator new(unsigned long, std::nothrow_t const&)", true},
	{NULL, "operator new[](unsigned long, std::align_val_t) [clone .cold]", true},
	{NULL, "operator new", true},
	{NULL, "Pool::operator new(unsigned long)", false},
	{NULL, "operator delete(void*)", false},
	{NULL, "std::__new_allocator<int>::allocate(unsigned long, void const*)", false},
	{NULL, "malloc", false},
	{NULL, NULL, false},
	{NULL, "", false},
	{"", "", false},
	{"xmalloc", "xmalloc", true},
	{"xmalloc", "xmalloc(unsigned long)", true},
	{"xmalloc", "xmalloc2", false},
	{"xmalloc(*", "xmalloc(unsigned long)", true},
	{"*alloc", "ns::my_alloc(std::function<void (int)>) const", true},
	{"Box::operator()", "Box::operator()(int) const &", true},
	{"(anonymous namespace)::f", "(anonymous namespace)::f(int)", true},
	{"*::f", "(anonymous namespace)::f(int)", true},
	{"f", "f(void (*)(int))", true},
	{"x?alloc", "xmalloc", true},
	{"[xy]malloc", "ymalloc", true},
	{"[!x]malloc", "xmalloc", false},
	{"a\nb\n", "b", true},
	{"a\n\nb", "", false},
	{"a\nb", "ab", false},
	{"f", ")", false},
	{"f", "(", false},
	{"f", "f))", false},
};

Test(skip, wrappers_and_globs_match_names)
{
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct tm_skip_rules rules = {0};

		cr_assert(tm_skip_rules_set(&rules, cases[i].globs));
		cr_expect_eq(tm_skip_matches(&rules, cases[i].function), cases[i].skipped,
			     "'%s' against '%s'", cases[i].function ? cases[i].function : "NULL",
			     cases[i].globs ? cases[i].globs : "NULL");
		tm_skip_rules_deinit(&rules);
	}
}

Test(skip, rules_of_zeros_know_the_wrappers)
{
	struct tm_skip_rules rules = {0};

	cr_expect(tm_skip_matches(&rules, "operator new[](unsigned long)"));
	cr_expect_not(tm_skip_matches(&rules, "main"));
	tm_skip_rules_deinit(&rules);
}

Test(skip, later_rules_replace_earlier_ones)
{
	struct tm_skip_rules rules = {0};

	cr_assert(tm_skip_rules_set(&rules, "a"));
	cr_assert(tm_skip_rules_set(&rules, "b"));
	cr_expect_not(tm_skip_matches(&rules, "a"));
	cr_expect(tm_skip_matches(&rules, "b"));
	tm_skip_rules_deinit(&rules);
}
