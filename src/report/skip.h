/*
 * Allocator wrappers: functions that do not own the line that allocates, their caller does. `operator new`
 * and `operator new[]` always are; the user adds globs (meta.skip), matched like fnmatch(3) against the
 * demangled name with and without its argument list.
 */
#ifndef TM_REPORT_SKIP_H
#define TM_REPORT_SKIP_H

#include <stdbool.h>
#include <stddef.h>

struct tm_skip_rules {
	char *text; /* the globs, each ended by a NUL */
	size_t size;
};

/* globs: one a line, NULL for none. False when out of memory. All zero is a valid set without globs of the
   user's. */
bool tm_skip_rules_set(struct tm_skip_rules *rules, const char *globs);
void tm_skip_rules_deinit(struct tm_skip_rules *rules);

/* function may be NULL: it is not skipped then. */
bool tm_skip_matches(const struct tm_skip_rules *rules, const char *function);

#endif
