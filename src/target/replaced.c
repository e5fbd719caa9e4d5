#include "target/replaced.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

/* Unmapped behind our back, or not inherited by a child (MADV_DONTFORK). */
static struct tm_error *forgive_missing(struct tm_error *err)
{
	if (!err || err->code != TM_ERROR_NO_MEMORY)
		return err;
	tm_error_destroy(err);
	return NULL;
}

struct tm_error *tm_replaced_restore(const struct tm_replaced *replaced, struct tm_target *target,
				     size_t *foreign)
{
	uint8_t present[TM_REPLACED_MAX];
	struct tm_error *err;

	assert(replaced->size <= sizeof(present));
	err = tm_target_read(target, replaced->address, present, replaced->size);
	if (err)
		return forgive_missing(err);
	if (memcmp(present, replaced->ours, replaced->size) != 0) {
		(*foreign)++;
		return NULL;
	}
	err = tm_target_write(target, replaced->address, replaced->original, replaced->size);
	if (!err)
		err = tm_target_read(target, replaced->address, present, replaced->size);
	if (!err && memcmp(present, replaced->original, replaced->size) != 0)
		err = tm_error_create(TM_ERROR_OTHER,
				      "the original code at 0x%" PRIx64 " could not be restored",
				      replaced->address);
	return err;
}

struct tm_error *tm_replaced_scrub_child(const struct tm_replaced *replaced, struct tm_target *target,
					 pid_t child)
{
	uint8_t present[TM_REPLACED_MAX];
	struct tm_error *err;

	assert(replaced->size <= sizeof(present));
	err = target->ops->read_child(target, child, replaced->address, present, replaced->size);
	if (!err && memcmp(present, replaced->ours, replaced->size) == 0)
		err = target->ops->write_child(target, child, replaced->address, replaced->original,
					       replaced->size);
	return forgive_missing(err);
}
