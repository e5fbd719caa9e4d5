#include "base/strbuf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/vector.h"

void tm_strbuf_deinit(struct tm_strbuf *buf)
{
	free(buf->text);
	memset(buf, 0, sizeof(*buf));
}

void tm_strbuf_append(struct tm_strbuf *buf, const char *bytes, size_t size)
{
	if (buf->failed)
		return;
	if (buf->length + size + 1 > buf->capacity &&
	    !tm_vector_grow((void **)&buf->text, &buf->capacity, buf->length + size + 1, 1)) {
		buf->failed = true;
		return;
	}
	memcpy(buf->text + buf->length, bytes, size);
	buf->length += size;
	buf->text[buf->length] = '\0';
}

void tm_strbuf_puts(struct tm_strbuf *buf, const char *string)
{
	tm_strbuf_append(buf, string, strlen(string));
}

void tm_strbuf_printf(struct tm_strbuf *buf, const char *format, ...)
{
	char *text;
	va_list args;
	int length;

	va_start(args, format);
	length = vasprintf(&text, format, args);
	va_end(args);
	if (length < 0) {
		buf->failed = true;
		return;
	}
	tm_strbuf_append(buf, text, (size_t)length);
	free(text);
}

char *tm_strbuf_steal(struct tm_strbuf *buf)
{
	char *text;

	if (!buf->text)
		tm_strbuf_append(buf, "", 0);
	if (buf->failed) {
		tm_strbuf_deinit(buf);
		return NULL;
	}
	text = buf->text;
	memset(buf, 0, sizeof(*buf));
	return text;
}
