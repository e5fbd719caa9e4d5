/*
 * Error objects. A function that can fail returns struct tm_error *: NULL is success, anything else is owned
 * by the caller, who handles it (tm_error_destroy) or returns it, never both. Only the cli layer prints one.
 * An error names the object that it is about: "cannot read 16 bytes at 0x7f..: no such mapping".
 */
#ifndef TM_BASE_ERROR_H
#define TM_BASE_ERROR_H

#include "base/cleanup.h"

enum tm_error_code {
	TM_ERROR_OTHER,	      /* nothing a caller could act on */
	TM_ERROR_NO_PROCESS,  /* the process or thread is gone (ESRCH): normal life for a thread */
	TM_ERROR_PERMISSION,  /* the kernel refuses; the message says who and the cure */
	TM_ERROR_NO_MEMORY,   /* a target address is not mapped, or not readable */
	TM_ERROR_UNSUPPORTED, /* the object is understood and this program does not handle it */
	TM_ERROR_BAD_FORMAT,  /* a file's or a packet's bytes are not what they should be */
	TM_ERROR_NOT_FOUND,   /* a file, symbol, snapshot or row does not exist */
	TM_ERROR_EXISTS,      /* a file that would be overwritten */
	TM_ERROR_TIMEOUT,     /* a bounded wait came to its bound */
};

struct tm_error {
	enum tm_error_code code;
	char *message; /* one line, no newline, no program name */
};

/* A new error; never fails (out of memory gives a static error, which tm_error_destroy knows). */
struct tm_error *tm_error_create(enum tm_error_code code, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* As above, with ": " and strerror(errno_value) appended; the code follows from errno_value
   (ESRCH, EPERM/EACCES, ENOENT, EEXIST, EIO/EFAULT), else TM_ERROR_OTHER. */
struct tm_error *tm_error_errno(int errno_value, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Puts "FORMAT: " before the message of err and returns err. */
struct tm_error *tm_error_prefix(struct tm_error *err, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* Out of memory, as an error that needs no memory. */
struct tm_error *tm_error_out_of_memory(void);

void tm_error_destroy(struct tm_error *err); /* NULL is fine */

/* For steps that are all taken, whatever became of those before: the earlier error if there is one, else the later; the
   other is destroyed. */
struct tm_error *tm_error_first(struct tm_error *earlier, struct tm_error *later);

static inline void tm_cleanup_error(struct tm_error **err)
{
	tm_error_destroy(*err);
}
#define _cleanup_error_ _cleanup_(tm_cleanup_error)

#endif
