#include "report/json_text.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

void tm_json_put_string(FILE *out, const char *bytes)
{
	struct tm_strbuf json = {0};

	if (bytes)
		tm_json_string(&json, bytes);
	else
		tm_strbuf_puts(&json, "null");
	fputs(json.failed ? "null" : json.text, out);
	tm_strbuf_deinit(&json);
}

static const char *skip_space(const char *at)
{
	return at + strspn(at, " \t\r\n");
}

static bool parse_hex4(const char *at, uint32_t *unit)
{
	*unit = 0;
	for (int i = 0; i < 4; i++) {
		static const char digits[] = "0123456789abcdef";
		const char *digit = at[i] ? strchr(digits, at[i] | 0x20) : NULL;

		if (!digit)
			return false;
		*unit = *unit << 4 | (uint32_t)(digit - digits);
	}
	return true;
}

static void append_utf8(struct tm_strbuf *buf, uint32_t c)
{
	char bytes[4];
	size_t length = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
	static const unsigned char leads[] = {0, 0xc0, 0xe0, 0xf0};

	for (size_t i = length - 1; i > 0; i--, c >>= 6)
		bytes[i] = (char)(0x80 | (c & 0x3f));
	bytes[0] = (char)(leads[length - 1] | c);
	tm_strbuf_append(buf, bytes, length);
}

/* \uXXXX, or a surrogate pair of two of them. A lone \udc80..\udcff is a byte; other lone surrogates are no
   characters. */
static const char *parse_unicode_escape(const char *at, struct tm_strbuf *buf)
{
	uint32_t unit, low;
	char byte;

	if (!parse_hex4(at, &unit) || unit == 0)
		return NULL;
	at += 4;
	if (unit >= 0xd800 && unit < 0xdc00 && at[0] == '\\' && at[1] == 'u' && parse_hex4(at + 2, &low) &&
	    low >= 0xdc00 && low < 0xe000) {
		append_utf8(buf, 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00));
		return at + 6;
	}
	if (unit >= 0xdc80 && unit <= 0xdcff) {
		byte = (char)(unit & 0xff);
		tm_strbuf_append(buf, &byte, 1);
	} else {
		append_utf8(buf, unit >= 0xd800 && unit < 0xe000 ? 0xfffd : unit);
	}
	return at;
}

static const char *parse_escape(const char *at, struct tm_strbuf *buf)
{
	static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
	const char *name;

	if (*at == 'u')
		return parse_unicode_escape(at + 1, buf);
	name = *at ? strchr(names, *at) : NULL;
	if (!name)
		return NULL;
	tm_strbuf_append(buf, &values[name - names], 1);
	return at + 1;
}

/* at: behind the opening quote. Returns the place behind the closing one, or NULL. */
static const char *parse_string(const char *at, struct tm_strbuf *buf)
{
	tm_strbuf_append(buf, "", 0);
	while (at && *at && *at != '"') {
		size_t plain = strcspn(at, "\"\\");

		tm_strbuf_append(buf, at, plain);
		at += plain;
		if (*at == '\\')
			at = parse_escape(at + 1, buf);
	}
	return at && *at == '"' ? at + 1 : NULL;
}

bool tm_json_next_string(const char **cursor, struct tm_strbuf *element)
{
	const char *at = skip_space(*cursor);

	if (*at != '[' && *at != ',')
		return false;
	at = skip_space(at + 1);
	tm_strbuf_deinit(element);
	at = *at == '"' ? parse_string(at + 1, element) : NULL;
	if (!at || element->failed)
		return false;
	*cursor = at;
	return true;
}

/* A number's end (RFC 8259, 6), or NULL. */
static const char *number_end(const char *at)
{
	static const char digits[] = "0123456789";
	const char *start;

	at += *at == '-';
	start = at;
	at += *at == '0' ? 1 : strspn(at, digits);
	if (at == start)
		return NULL;
	if (*at == '.') {
		start = ++at;
		at += strspn(at, digits);
		if (at == start)
			return NULL;
	}
	if (*at == 'e' || *at == 'E') {
		at++;
		at += *at == '+' || *at == '-';
		start = at;
		at += strspn(at, digits);
		if (at == start)
			return NULL;
	}
	return at;
}

static const char *word_end(const char *at)
{
	static const char *const words[] = {"true", "false", "null"};

	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (strncmp(at, words[i], strlen(words[i])) == 0)
			return at + strlen(words[i]);
	return number_end(at);
}

static const char *copy_string(struct tm_strbuf *out, const char *at)
{
	struct tm_strbuf string = {0};

	at = *at == '"' ? parse_string(at + 1, &string) : NULL;
	if (at && !string.failed)
		tm_json_string(out, string.text);
	else
		at = NULL;
	tm_strbuf_deinit(&string);
	return at;
}

static const char *copy_value(struct tm_strbuf *out, const char *at, int depth);

/* An object's or array's element with what stands before it. Returns its end, or NULL. */
static const char *copy_element(struct tm_strbuf *out, const char *at, bool in_object, int depth)
{
	if (in_object) {
		at = copy_string(out, skip_space(at));
		if (!at)
			return NULL;
		at = skip_space(at);
		if (*at++ != ':')
			return NULL;
		tm_strbuf_puts(out, ": ");
	}
	return copy_value(out, at, depth);
}

static const char *copy_elements(struct tm_strbuf *out, const char *at, char end, int depth)
{
	const char *first = skip_space(at);

	if (*first == end)
		return first + 1;
	for (;;) {
		at = copy_element(out, at, end == '}', depth);
		if (!at)
			return NULL;
		at = skip_space(at);
		if (*at == end)
			return at + 1;
		if (*at++ != ',')
			return NULL;
		tm_strbuf_puts(out, ", ");
	}
}

static const char *copy_value(struct tm_strbuf *out, const char *at, int depth)
{
	const char *end;

	at = skip_space(at);
	if (*at == '"')
		return copy_string(out, at);
	if (*at == '{' || *at == '[') {
		char close = *at == '{' ? '}' : ']';

		tm_strbuf_append(out, at, 1);
		end = depth ? copy_elements(out, at + 1, close, depth - 1) : NULL;
		tm_strbuf_append(out, &close, 1);
		return end;
	}
	end = word_end(at);
	if (end)
		tm_strbuf_append(out, at, (size_t)(end - at));
	return end;
}

bool tm_json_copy(struct tm_strbuf *out, const char *text)
{
	enum { DEPTH_MAX = 32 };
	const char *end = copy_value(out, text, DEPTH_MAX);

	return end && !*skip_space(end) && !out->failed;
}
