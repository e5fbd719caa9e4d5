#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

static struct tm_error out_of_memory = {TM_ERROR_OTHER, (char *)"out of memory"};

struct tm_error *tm_error_out_of_memory(void)
{
	return &out_of_memory;
}

static struct tm_error *create(enum tm_error_code code, char *message)
{
	struct tm_error *err = message ? malloc(sizeof(*err)) : NULL;

	if (!err) {
		free(message);
		return &out_of_memory;
	}
	err->code = code;
	err->message = message;
	return err;
}

struct tm_error *tm_error_create(enum tm_error_code code, const char *format, ...)
{
	char *message;
	va_list args;

	va_start(args, format);
	if (vasprintf(&message, format, args) < 0)
		message = NULL;
	va_end(args);
	return create(code, message);
}

static enum tm_error_code code_of_errno(int errno_value)
{
	switch (errno_value) {
	case ESRCH:
		return TM_ERROR_NO_PROCESS;
	case EPERM:
	case EACCES:
		return TM_ERROR_PERMISSION;
	case ENOENT:
		return TM_ERROR_NOT_FOUND;
	case EEXIST:
		return TM_ERROR_EXISTS;
	case EIO:
	case EFAULT:
		return TM_ERROR_NO_MEMORY;
	default:
		return TM_ERROR_OTHER;
	}
}

struct tm_error *tm_error_errno(int errno_value, const char *format, ...)
{
	_cleanup_free_ char *what = NULL;
	va_list args;

	va_start(args, format);
	if (vasprintf(&what, format, args) < 0)
		what = NULL;
	va_end(args);
	if (!what)
		return &out_of_memory;
	return tm_error_create(code_of_errno(errno_value), "%s: %s", what, strerror(errno_value));
}

struct tm_error *tm_error_prefix(struct tm_error *err, const char *format, ...)
{
	_cleanup_free_ char *what = NULL;
	char *message;
	va_list args;

	if (err == &out_of_memory)
		return err;
	va_start(args, format);
	if (vasprintf(&what, format, args) < 0)
		what = NULL;
	va_end(args);
	if (!what || asprintf(&message, "%s: %s", what, err->message) < 0)
		return err;
	free(err->message);
	err->message = message;
	return err;
}

void tm_error_destroy(struct tm_error *err)
{
	if (!err || err == &out_of_memory)
		return;
	free(err->message);
	free(err);
}

struct tm_error *tm_error_first(struct tm_error *earlier, struct tm_error *later)
{
	if (!earlier)
		return later;
	tm_error_destroy(later);
	return earlier;
}
