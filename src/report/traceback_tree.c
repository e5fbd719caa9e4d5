#include "report/traceback_tree.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"

#define SLOTS_MIN 64u

void tm_traceback_tree_deinit(struct tm_traceback_tree *tree)
{
	tm_vector_deinit(&tree->nodes);
	free(tree->slots);
	memset(tree, 0, sizeof(*tree));
}

static bool nodes_equal(const struct tm_tree_node *a, const struct tm_tree_node *b)
{
	return a->parent == b->parent && a->frame == b->frame && a->total_nframe == b->total_nframe &&
	       a->cut == b->cut;
}

/* The slot of an equal node, or the free one where it belongs. */
static uint32_t *find_slot(const struct tm_traceback_tree *tree, const struct tm_tree_node *node)
{
	uint64_t place = (uint64_t)node->parent << 32 | node->frame;
	uint64_t end = (uint64_t)node->total_nframe << 32 | node->cut;
	size_t slot = tm_hash_u64(place ^ tm_hash_u64(end)) & (tree->slot_count - 1);

	while (tree->slots[slot] != TM_NO_NODE &&
	       !nodes_equal(&tree->nodes.items[tree->slots[slot] - 1], node))
		slot = (slot + 1) & (tree->slot_count - 1);
	return &tree->slots[slot];
}

static void fill_slots(struct tm_traceback_tree *tree)
{
	memset(tree->slots, 0, tree->slot_count * sizeof(*tree->slots));
	for (size_t i = 0; i < tree->nodes.count; i++)
		*find_slot(tree, &tree->nodes.items[i]) = (uint32_t)i + 1;
}

static bool grow_slots(struct tm_traceback_tree *tree)
{
	size_t slot_count = tree->slot_count ? tree->slot_count * 2 : SLOTS_MIN;
	uint32_t *slots = calloc(slot_count, sizeof(*slots));

	if (!slots)
		return false;
	free(tree->slots);
	tree->slots = slots;
	tree->slot_count = slot_count;
	fill_slots(tree);
	return true;
}

uint32_t tm_traceback_tree_intern(struct tm_traceback_tree *tree, struct tm_tree_node node)
{
	uint32_t *slot;

	if ((tree->nodes.count + 1) * 2 > tree->slot_count && !grow_slots(tree))
		return TM_NO_NODE;
	slot = find_slot(tree, &node);
	if (*slot != TM_NO_NODE)
		return *slot;
	if (tree->nodes.count >= UINT32_MAX - 1 || !tm_vector_push(&tree->nodes, node))
		return TM_NO_NODE;
	return *slot = (uint32_t)tree->nodes.count;
}

void tm_traceback_tree_truncate(struct tm_traceback_tree *tree, size_t count)
{
	if (count >= tree->nodes.count)
		return;
	tree->nodes.count = count;
	fill_slots(tree);
}
