/*
 * Lines of source files, under the target's root first, then under ours. Files are kept in memory up to a
 * budget, and so is the knowledge that a file is not at hand. Private to debuginfo/.
 */
#ifndef TM_DEBUGINFO_SOURCE_TEXT_H
#define TM_DEBUGINFO_SOURCE_TEXT_H

#include <stdint.h>

struct tm_source_texts;

struct tm_source_texts *tm_source_texts_create(int root_fd); /* NULL: out of memory */
void tm_source_texts_destroy(struct tm_source_texts *texts);

/* Line `lineno` (from 1) without white space around it, the caller's to free; NULL if it is empty or not at
 * hand. */
char *tm_source_texts_line(struct tm_source_texts *texts, const char *filename, uint32_t lineno);

/* Takes "//", "/./" and "name/../" out of a path, in place. */
void tm_source_path_normalise(char *path);

#endif
