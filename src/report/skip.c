#include "report/skip.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* Compared with the name without arguments. C++'s library glue (allocator_traits, basic_string, ...) is not
   here: where a container allocates is what a user of containers asks for. */
static const char *const default_wrappers[] = {
	"operator new",
	"operator new[]",
};

bool tm_skip_rules_set(struct tm_skip_rules *rules, const char *globs)
{
	char *text = strdup(globs ? globs : "");

	if (!text)
		return false;
	free(rules->text);
	rules->text = text;
	rules->size = strlen(text) + 1;
	for (char *end = text; (end = strchr(end, '\n'));)
		*end++ = '\0';
	return true;
}

void tm_skip_rules_deinit(struct tm_skip_rules *rules)
{
	free(rules->text);
	memset(rules, 0, sizeof(*rules));
}

/* Length of `name` without what a demangler puts behind an argument list: qualifiers and "[clone .cold]". */
static size_t trim_suffixes(const char *name, size_t length)
{
	static const char *const suffixes[] = {" const", " volatile", " &", " &&", "&", " "};
	bool trimmed = true;

	while (trimmed) {
		trimmed = false;
		for (size_t i = 0; i < TM_ARRAY_SIZE(suffixes); i++) {
			size_t n = strlen(suffixes[i]);

			if (length > n && memcmp(name + length - n, suffixes[i], n) == 0) {
				length -= n;
				trimmed = true;
			}
		}
		if (length && name[length - 1] == ']') {
			const char *clone = strstr(name, " [clone ");

			if (clone && (size_t)(clone - name) < length) {
				length = (size_t)(clone - name);
				trimmed = true;
			}
		}
	}
	return length;
}

/* Length of the name before its argument list: "operator()(int) const" gives "operator()". */
static size_t bare_length(const char *name)
{
	size_t length = trim_suffixes(name, strlen(name));
	size_t depth = 0;

	if (!length || name[length - 1] != ')')
		return strlen(name);
	for (size_t i = length; i-- > 0;) {
		if (name[i] == ')')
			depth++;
		else if (name[i] == '(' && --depth == 0)
			return i ? i : strlen(name);
	}
	return strlen(name);
}

static bool is_default_wrapper(const char *bare)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(default_wrappers); i++)
		if (strcmp(bare, default_wrappers[i]) == 0)
			return true;
	return false;
}

bool tm_skip_matches(const struct tm_skip_rules *rules, const char *function)
{
	_cleanup_free_ char *bare = function ? strndup(function, bare_length(function)) : NULL;

	if (!bare)
		return false;
	if (is_default_wrapper(bare))
		return true;
	for (size_t at = 0; at < rules->size; at += strlen(rules->text + at) + 1) {
		const char *glob = rules->text + at;

		if (*glob && (fnmatch(glob, bare, 0) == 0 || fnmatch(glob, function, 0) == 0))
			return true;
	}
	return false;
}
