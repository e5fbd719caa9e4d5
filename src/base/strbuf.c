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

/* Length of the well-formed UTF-8 sequence at s (RFC 3629: no overlong forms, no surrogates), 0 if there is
 * none. */
static size_t utf8_length(const unsigned char *s)
{
	size_t length = s[0] < 0x80		       ? 1
			: s[0] >= 0xc2 && s[0] <= 0xdf ? 2
			: (s[0] & 0xf0) == 0xe0	       ? 3
			: s[0] >= 0xf0 && s[0] <= 0xf4 ? 4
						       : 0;

	for (size_t i = 1; i < length; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
	    (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return length;
}

void tm_json_string(struct tm_strbuf *buf, const char *string)
{
	const unsigned char *s = (const unsigned char *)string;

	tm_strbuf_puts(buf, "\"");
	while (*s) {
		size_t length = utf8_length(s);

		if (!length)
			tm_strbuf_printf(buf, "\\udc%02x", *s);
		else if (*s == '"' || *s == '\\')
			tm_strbuf_printf(buf, "\\%c", *s);
		else if (*s < 0x20 || *s == 0x7f)
			tm_strbuf_printf(buf, "\\u%04x", *s);
		else
			tm_strbuf_append(buf, (const char *)s, length);
		s += length ? length : 1;
	}
	tm_strbuf_puts(buf, "\"");
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
