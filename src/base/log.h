/*
 * Diagnostics for whoever debugs tmtrace itself, on stderr, off unless --verbose raised the level.
 * What a user must know is an error or a line of the report, not a log line.
 */
#ifndef TM_BASE_LOG_H
#define TM_BASE_LOG_H

enum tm_log_level { TM_LOG_NONE, TM_LOG_INFO, TM_LOG_DEBUG };

/* The one global of the program. */
extern enum tm_log_level tm_log_level;

void tm_log_print(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define tm_log_info(...)                                                                                     \
	do {                                                                                                 \
		if (tm_log_level >= TM_LOG_INFO)                                                             \
			tm_log_print(__VA_ARGS__);                                                           \
	} while (0)

#define tm_log_debug(...)                                                                                    \
	do {                                                                                                 \
		if (__builtin_expect(tm_log_level >= TM_LOG_DEBUG, 0))                                       \
			tm_log_print(__VA_ARGS__);                                                           \
	} while (0)

#endif
