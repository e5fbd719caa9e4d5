/*
 * Line tables of code objects: which line an instruction belongs to, in the three formats that CPython has
 * had. Pure functions over bytes of a target, which may be anything: nothing outside them is read.
 */
#ifndef TM_PYTHON_LINE_TABLE_H
#define TM_PYTHON_LINE_TABLE_H

#include <stddef.h>
#include <stdint.h>

#include "python/layout.h"

/* The line of the instruction at `offset`, in bytes from the code's first, as PyCode_Addr2Line gives it: a
   negative offset is the first line; negative: the instruction has none. */
int tm_python_line(enum tm_line_format format, const uint8_t *table, size_t size, int first_line,
		   int64_t offset);

#endif
