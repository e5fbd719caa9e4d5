/*
 * The tables of a report file, version 2. Each statement carries its own documentation as SQL comments, which
 * SQLite keeps: `.schema` in any SQLite shell explains a file by itself.
 *
 * A file of version 2 has these tables to the letter: the reader checks that, so that no foreign schema (a
 * view that never ends, a computed column of any cost) hides behind a known name. Whoever changes a table
 * raises TM_REPORT_VERSION. Version 1, which is still read, had no variances.
 *
 * Invariants of the rows that make every walk finite: traceback.parent < traceback.id; frame.inlined_into >
 * frame.id. Numbers are SQLite's signed 64 bits: an address or offset of 2^63 and more is stored as its two's
 * complement.
 */
#ifndef TM_REPORT_REPORT_SCHEMA_H
#define TM_REPORT_REPORT_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>

struct tm_schema_object {
	const char *name;
	bool is_table;		      /* else a view */
	const char *sql;	      /* CREATE ... without the semicolon */
	const char *sql_of_version_1; /* NULL: the same */
};

extern const struct tm_schema_object tm_schema[];
extern const size_t tm_schema_count;

#endif
