/* Whole small files and directories of /proc, read in one call. */
#ifndef TM_BASE_FILE_H
#define TM_BASE_FILE_H

#include <stddef.h>

#include "base/error.h"

/* Reads a file to its end; *text is NUL-terminated and the caller's to free. */
struct tm_error *tm_file_read_all(const char *path, char **text, size_t *size);

#endif
