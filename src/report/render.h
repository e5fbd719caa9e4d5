/*
 * What a user reads: the same numbers as text (tracemalloc's form) or JSON (DESIGN's object). Writes to a
 * stdio stream.
 */
#ifndef TM_REPORT_RENDER_H
#define TM_REPORT_RENDER_H

#include <stdio.h>

#include "report/report_file.h"

struct tm_render_options {
	enum tm_group_by group_by;
	bool cumulative;
	size_t limit; /* groups; 0: all */
};

/* One writer a file: text.c, json.c. An error of the stream is left to the caller (ferror). */
struct tm_error *tm_render_text(struct tm_report *report, const struct tm_report_view *view,
				const struct tm_render_options *options, FILE *out);
struct tm_error *tm_render_json(struct tm_report *report, const struct tm_report_view *view,
				const struct tm_render_options *options, FILE *out);

#endif
