/*
 * The tracer's side of the rows that the recorder walks by (shared.h). Threads of the target read them meanwhile.
 */
#ifndef TM_RECORDER_ROW_TABLE_H
#define TM_RECORDER_ROW_TABLE_H

#include "recorder/shared.h"

/* The row of a return address, in place of one that is there already. Where the set is full another row goes: it will be
   asked for again. */
void tm_rows_put(struct tm_shared *shared, uint64_t return_address, uint64_t rule);

/* Return addresses into [start, end) have no rows any more. */
void tm_rows_forget(struct tm_shared *shared, uint64_t start, uint64_t end);

/* Code was unmapped: no thread believes frames that it has walked before. */
void tm_rows_new_generation(struct tm_shared *shared);

#endif
