/*
 * Code bytes of the target that ours stand in for: a breakpoint instruction, a jump. How they are put back,
 * in the target and in the copy that a forked child has of it.
 */
#ifndef TM_TARGET_REPLACED_H
#define TM_TARGET_REPLACED_H

#include "target/target.h"

#define TM_REPLACED_MAX 16u

struct tm_replaced {
	uint64_t address;
	const uint8_t *ours, *original; /* `size` bytes each, borrowed */
	size_t size;			/* at most TM_REPLACED_MAX */
};

/* Writes the original bytes back and reads them again. Bytes that are not ours by now are left and counted in
 *foreign; memory that is not there any more needs nothing. */
struct tm_error *tm_replaced_restore(const struct tm_replaced *replaced, struct tm_target *target,
				     size_t *foreign);

/* The same in a forked child's own memory, where what is not ours is left. */
struct tm_error *tm_replaced_scrub_child(const struct tm_replaced *replaced, struct tm_target *target,
					 pid_t child);

#endif
