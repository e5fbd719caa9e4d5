/*
 * JSON (RFC 8259) that comes from a report file, where nothing is to be believed: it is read and written
 * anew, never copied. Strings of a target are bytes: see tm_json_string.
 */
#ifndef TM_REPORT_JSON_TEXT_H
#define TM_REPORT_JSON_TEXT_H

#include <stdbool.h>
#include <stdio.h>

#include "base/strbuf.h"

/* tm_json_string to a stream; NULL is written as null. */
void tm_json_put_string(FILE *out, const char *bytes);

/* The elements of an array of strings (meta's `command`), one a call, beginning with *cursor at its text.
   False at the end, or where the text is no array of strings any more. \udc80..\udcff become bytes again. */
bool tm_json_next_string(const char **cursor, struct tm_strbuf *element);

/* Appends any JSON value, in one line. False if text is none, or nested deeper than 32: `out` then has a part
   of it. */
bool tm_json_copy(struct tm_strbuf *out, const char *text);

#endif
