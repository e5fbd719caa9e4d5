/* The mappings of a target that belong together, because they are of one file. Private to debuginfo/. */
#ifndef TM_DEBUGINFO_MAPPING_GROUP_H
#define TM_DEBUGINFO_MAPPING_GROUP_H

#include "base/mapping.h"

#define TM_VDSO_PATH "[vdso]"

/* The mappings of one file (or of the vdso), ascending by address; borrowed. count >= 1. */
struct tm_mapping_group {
	const struct tm_mapping **items;
	size_t count;
};

struct tm_mapping_groups {
	struct tm_mapping_group *items;
	size_t count, capacity;
	const struct tm_mapping **sorted; /* what the groups are slices of */
};

/* The files that are mapped executable somewhere, ascending by their first address. Borrows the mappings. */
struct tm_error *tm_mapping_groups_find(const struct tm_mappings *mappings, struct tm_mapping_groups *groups);
void tm_mapping_groups_deinit(struct tm_mapping_groups *groups);

#endif
