#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>

enum tm_log_level tm_log_level = TM_LOG_NONE;

void tm_log_print(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	flockfile(stderr);
	fputs("tmtrace: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	funlockfile(stderr);
	va_end(args);
}
