/* Strings of an interpreter (PEP 393, Include/cpython/unicodeobject.h). */
#ifndef TM_PYTHON_UNICODE_H
#define TM_PYTHON_UNICODE_H

#include "base/memory.h"
#include "python/layout.h"

/* A str as UTF-8, the caller's to free. Surrogates that stand for a byte that was no UTF-8 (PEP 383) become
   that byte again. At most TM_UNICODE_MAX characters. NULL: no string that can be read, or out of memory. */
#define TM_UNICODE_MAX 16384u
char *tm_unicode_read(const struct tm_python_layout *layout, const struct tm_memory *memory, uint64_t object);

#endif
