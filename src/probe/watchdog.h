/*
 * A process that outlives the tracer by a moment: when the tracer is gone without having dismissed it, it
 * clears a word in shared memory.
 */
#ifndef TM_PROBE_WATCHDOG_H
#define TM_PROBE_WATCHDOG_H

#include <stdint.h>

#include "base/error.h"

/* `word`, in memory that is shared with whom it concerns, is set to 0 when this process dies. *dismiss is to
   be given to tm_watchdog_dismiss. */
struct tm_error *tm_watchdog_start(uint32_t *word, int *dismiss);
void tm_watchdog_dismiss(int dismiss); /* the word is not touched; -1 is fine */

#endif
