#include <math.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "model/statistic.h"

#define FORMAT_SIZE_MAX 32

/* Lib/tracemalloc.py, _format_size. printf rounds as Python's % does: half to even, on the exact value. */
char *tm_format_size(double size, bool sign, char *buffer)
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	size_t unit = 0;
	int digits = 0;

	for (;; size /= 1024, unit++) {
		digits = fabs(size) < 100 && unit > 0 ? 1 : 0;
		if (digits || fabs(size) < 10 * 1024 || unit == TM_ARRAY_SIZE(units) - 1)
			break;
	}
	snprintf(buffer, FORMAT_SIZE_MAX, sign ? "%+.*f %s" : "%.*f %s", digits, size, units[unit]);
	return buffer;
}
