/*
 * The tracer's side of the rows that the recorder walks by (shared.h). Threads of the target read them
 * meanwhile.
 */
#ifndef TM_RECORDER_ROW_TABLE_H
#define TM_RECORDER_ROW_TABLE_H

#include <stdbool.h>

#include "base/vector.h"
#include "recorder/shared.h"

struct tm_row_table {
	struct tm_shared *shared;	      /* borrowed */
	struct tm_vector(uint64_t) addresses; /* that were given a row, some perhaps more than once */
	struct tm_vector(struct tm_recorder_row) waiting; /* of tm_row_put_later */
};

/* All zero but for `shared` is an empty table. */
void tm_row_table_deinit(struct tm_row_table *table);

/* The row of a return address, in place of one that is there already. Where the sets are full another row
   goes: it will be asked for again. False: out of memory, and there is no row. */
bool tm_row_put(struct tm_row_table *table, uint64_t return_address, uint64_t rule);

/* The same, but it is not there before tm_rows_put_waiting: the first touch of each page of the table takes
   its time, and the target may stand still meanwhile. */
bool tm_row_put_later(struct tm_row_table *table, uint64_t return_address, uint64_t rule);
bool tm_rows_put_waiting(struct tm_row_table *table);

/* The rule of a return address; 0: there is none. */
uint64_t tm_row_get(const struct tm_row_table *table, uint64_t return_address);

/* Return addresses into [start, end) have no rows any more. False: they had none. */
bool tm_rows_forget(struct tm_row_table *table, uint64_t start, uint64_t end);

/* Code was unmapped, or other code is in its place: no thread believes frames that it has walked before. */
void tm_rows_new_generation(struct tm_row_table *table);

#endif
