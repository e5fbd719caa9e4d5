/*
 * A growing string, always NUL-terminated once something was appended. Out of memory is remembered in
 * `failed` and makes later appends do nothing, so that callers check once, at the end.
 */
#ifndef TM_BASE_STRBUF_H
#define TM_BASE_STRBUF_H

#include <stdbool.h>
#include <stddef.h>

struct tm_strbuf {
	char *text; /* NULL while empty */
	size_t length, capacity;
	bool failed;
};

void tm_strbuf_deinit(struct tm_strbuf *buf);
void tm_strbuf_append(struct tm_strbuf *buf, const char *bytes, size_t size);
void tm_strbuf_puts(struct tm_strbuf *buf, const char *string);
void tm_strbuf_printf(struct tm_strbuf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends a string as a JSON string, in quotes. Bytes that are not UTF-8 become \udcXX, as Python's
   surrogateescape does, so that they can be told again. */
void tm_json_string(struct tm_strbuf *buf, const char *string);

/* Takes the string out (the caller frees it); NULL if anything failed. An empty buffer gives "". */
char *tm_strbuf_steal(struct tm_strbuf *buf);

#endif
