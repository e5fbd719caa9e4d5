#include "debuginfo/mapping_group.h"

#include <stdlib.h>
#include <string.h>

#include "base/vector.h"

/* By device and inode; by path for what has none (the vdso, a remote target's files). 0: the same file. */
static int compare_files(const struct tm_mapping *x, const struct tm_mapping *y)
{
	if (x->inode != y->inode)
		return x->inode < y->inode ? -1 : 1;
	if (x->dev_major != y->dev_major)
		return x->dev_major < y->dev_major ? -1 : 1;
	if (x->dev_minor != y->dev_minor)
		return x->dev_minor < y->dev_minor ? -1 : 1;
	return x->inode ? 0 : strcmp(x->path, y->path);
}

static int compare_mappings(const void *a, const void *b)
{
	const struct tm_mapping *x = *(const struct tm_mapping *const *)a;
	const struct tm_mapping *y = *(const struct tm_mapping *const *)b;
	int files = compare_files(x, y);

	return files ? files : x->start < y->start ? -1 : x->start > y->start;
}

static int compare_groups(const void *a, const void *b)
{
	const struct tm_mapping_group *x = a, *y = b;

	return x->items[0]->start < y->items[0]->start ? -1 : x->items[0]->start > y->items[0]->start;
}

static bool is_of_file(const struct tm_mapping *mapping)
{
	return mapping->path[0] == '/' || strcmp(mapping->path, TM_VDSO_PATH) == 0;
}

static bool has_code(const struct tm_mapping_group *group)
{
	for (size_t i = 0; i < group->count; i++) {
		if (group->items[i]->executable)
			return true;
	}
	return false;
}

/* Cuts the sorted mappings where the file changes. */
static struct tm_error *cut(struct tm_mapping_groups *groups, size_t count)
{
	for (size_t i = 0, end; i < count; i = end) {
		struct tm_mapping_group group = {.items = groups->sorted + i};

		for (end = i + 1; end < count && compare_files(groups->sorted[i], groups->sorted[end]) == 0;)
			end++;
		group.count = end - i;
		if (has_code(&group) && !tm_vector_push(groups, group))
			return tm_error_out_of_memory();
	}
	return NULL;
}

struct tm_error *tm_mapping_groups_find(const struct tm_mappings *mappings, struct tm_mapping_groups *groups)
{
	struct tm_error *err;
	size_t count = 0;

	memset(groups, 0, sizeof(*groups));
	groups->sorted = calloc(mappings->count + 1, sizeof(*groups->sorted));
	if (!groups->sorted)
		return tm_error_out_of_memory();
	for (size_t i = 0; i < mappings->count; i++) {
		if (is_of_file(&mappings->items[i]))
			groups->sorted[count++] = &mappings->items[i];
	}
	qsort(groups->sorted, count, sizeof(*groups->sorted), compare_mappings);
	err = cut(groups, count);
	if (err) {
		tm_mapping_groups_deinit(groups);
		return err;
	}
	if (groups->count)
		qsort(groups->items, groups->count, sizeof(*groups->items), compare_groups);
	return NULL;
}

void tm_mapping_groups_deinit(struct tm_mapping_groups *groups)
{
	free(groups->sorted);
	tm_vector_deinit(groups);
}
