#include "debuginfo/source_text.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "base/hash.h"
#include "base/vector.h"
#include "debuginfo/root_path.h"

#define FILE_MAX       (64 << 20) /* bytes: a larger one is no source file */
#define BUDGET	       (16 << 20) /* bytes of all that is kept */
#define LINE_BYTES_MAX 4096	  /* bytes: of a longer line (generated, minified) the beginning */
#define BLANKS	       " \t\r\f\v"

struct file {
	char *filename;
	char *text; /* NULL: not at hand */
	size_t size;
	struct tm_vector(uint32_t) lines; /* offset of each line */
};

struct tm_source_texts {
	int root_fd;
	struct tm_vector(struct file) files;
	struct tm_map by_name; /* hash of the filename -> index of the file */
	size_t used;	       /* bytes of the budget */
};

struct tm_source_texts *tm_source_texts_create(int root_fd)
{
	struct tm_source_texts *texts = calloc(1, sizeof(*texts));

	if (texts)
		texts->root_fd = root_fd;
	return texts;
}

static void deinit_file(struct file *file)
{
	free(file->filename);
	free(file->text);
	tm_vector_deinit(&file->lines);
}

static void forget_all(struct tm_source_texts *texts)
{
	for (size_t i = 0; i < texts->files.count; i++)
		deinit_file(&texts->files.items[i]);
	texts->files.count = 0;
	texts->used = 0;
	tm_map_clear(&texts->by_name);
}

void tm_source_texts_destroy(struct tm_source_texts *texts)
{
	if (!texts)
		return;
	forget_all(texts);
	tm_vector_deinit(&texts->files);
	tm_map_deinit(&texts->by_name);
	free(texts);
}

static int open_source(const struct tm_source_texts *texts, const char *filename)
{
	int fd = texts->root_fd >= 0 ? tm_root_open_file(texts->root_fd, filename) : -1;

	return fd >= 0 ? fd : tm_root_open_file(-1, filename);
}

/* Read, not mapped: an editor may truncate it at any time. */
static void read_source(struct file *file, int fd)
{
	struct stat st;
	ssize_t n;

	if (fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > FILE_MAX)
		return;
	file->text = malloc((size_t)st.st_size);
	while (file->text && file->size < (size_t)st.st_size &&
	       (n = read(fd, file->text + file->size, (size_t)st.st_size - file->size)) > 0)
		file->size += (size_t)n;
}

static bool find_lines(struct file *file)
{
	for (size_t at = 0; at < file->size;) {
		const char *newline = memchr(file->text + at, '\n', file->size - at);

		if (!tm_vector_push(&file->lines, (uint32_t)at))
			return false;
		at = newline ? (size_t)(newline - file->text) + 1 : file->size;
	}
	return true;
}

static size_t cost_of(const struct file *file)
{
	return sizeof(*file) + strlen(file->filename) + file->size + file->lines.capacity * sizeof(uint32_t);
}

/* Reads a file; what exceeds the budget makes all others be forgotten. */
static struct file *add_file(struct tm_source_texts *texts, const char *filename, uint64_t key)
{
	_cleanup_close_ int fd = open_source(texts, filename);
	struct file file = {.filename = strdup(filename)};

	if (fd >= 0)
		read_source(&file, fd);
	if (!file.filename || !find_lines(&file)) {
		deinit_file(&file);
		return NULL;
	}
	if (texts->used + cost_of(&file) > BUDGET)
		forget_all(texts);
	if (!tm_map_put(&texts->by_name, key, texts->files.count) || !tm_vector_push(&texts->files, file)) {
		deinit_file(&file);
		forget_all(texts);
		return NULL;
	}
	texts->used += cost_of(&file);
	return &texts->files.items[texts->files.count - 1];
}

static const struct file *find_file(struct tm_source_texts *texts, const char *filename)
{
	uint64_t key = tm_hash_bytes(filename, strlen(filename));
	const uint64_t *index = tm_map_get(&texts->by_name, key);
	const struct file *file;

	if (!index)
		return add_file(texts, filename, key);
	file = &texts->files.items[*index];
	return strcmp(file->filename, filename) == 0 ? file : NULL;
}

static char *stripped(const char *text, size_t length)
{
	while (length && strchr(BLANKS, text[0])) {
		text++;
		length--;
	}
	if (length > LINE_BYTES_MAX) {
		length = LINE_BYTES_MAX;
		while (length && (text[length] & 0xc0) == 0x80) /* not amid a character of UTF-8 */
			length--;
	}
	while (length && strchr(BLANKS, text[length - 1]))
		length--;
	return length ? strndup(text, length) : NULL;
}

char *tm_source_texts_line(struct tm_source_texts *texts, const char *filename, uint32_t lineno)
{
	const struct file *file;
	size_t start, end;

	if (!lineno || filename[0] != '/')
		return NULL;
	file = find_file(texts, filename);
	if (!file || lineno > file->lines.count)
		return NULL;
	start = file->lines.items[lineno - 1];
	end = lineno < file->lines.count ? file->lines.items[lineno] : file->size;
	if (end > start && file->text[end - 1] == '\n')
		end--;
	return stripped(file->text + start, end - start);
}

/* Drops the last component of path[0..length), for a ".." behind it; false if there is none to drop. */
static bool drop_component(const char *path, size_t *length)
{
	size_t at = *length;

	while (at && path[at - 1] != '/')
		at--;
	if (at == *length || strncmp(path + at, "..", *length - at) == 0)
		return false;
	*length = at ? at - 1 : 0;
	return true;
}

void tm_source_path_normalise(char *path)
{
	bool absolute = *path == '/';
	size_t length = 0;

	for (const char *component = path + absolute; *component;) {
		size_t size = strcspn(component, "/");
		const char *next = component + size + (component[size] == '/');
		bool up = size == 2 && component[0] == '.' && component[1] == '.';

		if (size && !(size == 1 && component[0] == '.') && !(up && drop_component(path, &length))) {
			if (length || absolute)
				path[length++] = '/';
			memmove(path + length, component, size);
			length += size;
		}
		component = next;
	}
	if (!length && absolute)
		path[length++] = '/';
	path[length] = '\0';
}
