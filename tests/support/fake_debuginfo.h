/*
 * Modules and names made up for tests of the report: the definitions here take the place of the debuginfo
 * library's (an archive member is linked only for a symbol that nobody has defined), so a program includes
 * this header in one source only. Module 1 is /bin/app with line information, module 2 /lib/libc.so.6
 * without.
 */
#ifndef TM_TESTS_FAKE_DEBUGINFO_H
#define TM_TESTS_FAKE_DEBUGINFO_H

#include <string.h>

#include "base/cleanup.h"
#include "debuginfo/symbolize.h"

struct tm_module_map {
	struct tm_module modules[3];
};

struct tm_symbolizer {
	size_t calls;
	const char *failure; /* every call fails with this message */
};

static struct tm_module_map fake_modules = {{
	{.number = 0, .path = (char *)""},
	{.number = 1,
	 .path = (char *)"/bin/app",
	 .build_id = (char *)"abcd",
	 .bias = 0x555555554000,
	 .is_main = true},
	{.number = 2, .path = (char *)"/lib/libc.so.6", .problem = (char *)"no debug file"},
}};

static const struct fake_name {
	uint32_t module;
	uint64_t offset;
	const char *function, *filename;
	uint32_t lineno;
	const char *source;
} fake_names[] = {
	{1, 0x10, "main", "/src/app.c", 10, "run();"},
	{1, 0x20, "run", "/src/app.c", 20, "buffer = make(size);"},
	/* make() is inlined into make_all(): innermost first */
	{1, 0x30, "make", "/src/make.c", 3, "return malloc(size);"},
	{1, 0x30, "make_all", "/src/make.c", 33, "make(1);"},
	{1, 0x40, "operator new(unsigned long)", "/src/new.cc", 50, "p = malloc(n);"},
	{1, 0x50, "xmalloc(unsigned long)", "/src/xmalloc.c", 5, NULL},
	{1, 0x60, "odd", "/src/\xff\"odd\\\n\xe2\x82\xac\xc2\x9b.c", 6, "\tx = \"\x80\";"},
	{2, 0x100, "strdup", NULL, 0, NULL},
	{2, 0x200, "getline", NULL, 0, NULL},
};

uint32_t tm_module_map_count(const struct tm_module_map *map)
{
	return TM_ARRAY_SIZE(map->modules);
}

struct tm_module *tm_module_map_get(const struct tm_module_map *map, uint32_t number)
{
	return (struct tm_module *)&map->modules[number];
}

static char *fake_copy(const char *text)
{
	return text ? strdup(text) : NULL;
}

struct tm_error *tm_symbolize(struct tm_symbolizer *symbolizer, const struct tm_module *module,
			      uint64_t offset, struct tm_locations *out)
{
	symbolizer->calls++;
	if (symbolizer->failure)
		return tm_error_create(TM_ERROR_BAD_FORMAT, "%s", symbolizer->failure);
	out->items = calloc(TM_ARRAY_SIZE(fake_names) + 1, sizeof(*out->items));
	out->count = 0;
	for (size_t i = 0; i < TM_ARRAY_SIZE(fake_names); i++) {
		const struct fake_name *name = &fake_names[i];

		if (name->module == module->number && name->offset == offset)
			out->items[out->count++] =
				(struct tm_location){fake_copy(name->function), fake_copy(name->filename),
						     name->lineno, fake_copy(name->source)};
	}
	out->count += out->count == 0; /* nothing covers it */
	return NULL;
}

char *tm_symbolizer_source(struct tm_symbolizer *symbolizer, const char *filename, uint32_t lineno)
{
	char *text = NULL;

	(void)symbolizer;
	return asprintf(&text, "text of %s:%u", filename, lineno) < 0 ? NULL : text;
}

void tm_locations_deinit(struct tm_locations *locations)
{
	for (size_t i = 0; i < locations->count; i++) {
		free(locations->items[i].function);
		free(locations->items[i].filename);
		free(locations->items[i].source);
	}
	free(locations->items);
	memset(locations, 0, sizeof(*locations));
}

#endif
