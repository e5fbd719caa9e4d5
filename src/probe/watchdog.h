/*
 * A process that outlives the tracer by a moment: when the tracer is gone without having dismissed it, it
 * clears a word in a memory file that is shared with whom it concerns. It is started while nothing is stopped
 * yet, and is given the file when there is one.
 */
#ifndef TM_PROBE_WATCHDOG_H
#define TM_PROBE_WATCHDOG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* Two sockets. Orders are left in the first without waking the watchdog, which takes longer than all else
   that the target stands still for then; it sleeps at the second. */
struct tm_watchdog {
	int orders, attention; /* -1: there is none */
};
#define TM_NO_WATCHDOG ((struct tm_watchdog){-1, -1})

/* *watchdog is to be given to tm_watchdog_dismiss. To be called before threads are started. */
struct tm_error *tm_watchdog_start(struct tm_watchdog *watchdog);

/* From now on the word at `offset` (bytes, a multiple of 4) of the file `fd`, instead of any before, is set
   to 0 when this process dies; fd -1: none is. It need not stay open. */
struct tm_error *tm_watchdog_watch(const struct tm_watchdog *watchdog, int fd, size_t offset);

void tm_watchdog_dismiss(struct tm_watchdog *watchdog); /* no word is touched; there may be none */

#endif
