#include "model/call_tree.h"

#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/vector.h"

#define SLOTS_FIRST 4096u

struct node {
	uint32_t parent, frame, depth;
	uint32_t traceback; /* UINT32_MAX: not interned yet */
};

/* Where a node is found. */
struct slot {
	uint64_t pc;
	uint32_t parent;
	uint32_t node; /* 0: free */
};

struct tm_call_tree {
	struct tm_tracebacks *tracebacks;
	uint32_t nframe;
	struct tm_vector(struct node) nodes; /* [0] is the root */
	struct slot *slots;
	size_t slot_count, used;	   /* a power of two; at most half of them are used */
	struct tm_vector(uint32_t) frames; /* of the traceback that is interned */
};

struct tm_error *tm_call_tree_create(struct tm_tracebacks *tracebacks, uint32_t nframe,
				     struct tm_call_tree **out)
{
	struct tm_call_tree *tree = calloc(1, sizeof(*tree));

	if (tree)
		tree->slots = calloc(SLOTS_FIRST, sizeof(*tree->slots));
	if (!tree || !tree->slots || !tm_vector_push(&tree->nodes, (struct node){.traceback = UINT32_MAX})) {
		tm_call_tree_destroy(tree);
		return tm_error_out_of_memory();
	}
	tree->slot_count = SLOTS_FIRST;
	tree->tracebacks = tracebacks;
	tree->nframe = nframe;
	*out = tree;
	return NULL;
}

void tm_call_tree_destroy(struct tm_call_tree *tree)
{
	if (!tree)
		return;
	tm_vector_deinit(&tree->nodes);
	tm_vector_deinit(&tree->frames);
	free(tree->slots);
	free(tree);
}

/* The node's slot, or the free one where it would be. */
static struct slot *find_slot(const struct tm_call_tree *tree, uint32_t parent, uint64_t pc)
{
	uint64_t hash = (pc * 0x9e3779b97f4a7c15u ^ parent) * 0xbf58476d1ce4e5b9u;
	size_t mask = tree->slot_count - 1, at = hash >> 32 & mask;

	while (tree->slots[at].node && (tree->slots[at].pc != pc || tree->slots[at].parent != parent))
		at = (at + 1) & mask;
	return &tree->slots[at];
}

uint32_t tm_call_tree_find(const struct tm_call_tree *tree, uint32_t parent, uint64_t pc)
{
	uint32_t node = find_slot(tree, parent, pc)->node;

	return node ? node : UINT32_MAX;
}

static bool grow(struct tm_call_tree *tree)
{
	struct slot *old = tree->slots, *slots = calloc(tree->slot_count * 2, sizeof(*slots));
	size_t count = tree->slot_count;

	if (!slots)
		return false;
	tree->slots = slots;
	tree->slot_count *= 2;
	for (size_t i = 0; i < count; i++)
		if (old[i].node)
			*find_slot(tree, old[i].parent, old[i].pc) = old[i];
	free(old);
	return true;
}

uint32_t tm_call_tree_add(struct tm_call_tree *tree, uint32_t parent, uint64_t pc, uint32_t frame)
{
	struct node node = {parent, frame, tree->nodes.items[parent].depth + 1, UINT32_MAX};
	uint32_t number = (uint32_t)tree->nodes.count;

	if (tree->nodes.count == UINT32_MAX - 1 || (tree->used >= tree->slot_count / 2 && !grow(tree)) ||
	    !tm_vector_push(&tree->nodes, node))
		return UINT32_MAX;
	*find_slot(tree, parent, pc) = (struct slot){pc, parent, number};
	tree->used++;
	return number;
}

void tm_call_tree_forget_pcs(struct tm_call_tree *tree)
{
	memset(tree->slots, 0, tree->slot_count * sizeof(*tree->slots));
	tree->used = 0;
}

static uint32_t intern(struct tm_call_tree *tree, uint32_t node)
{
	uint32_t total = tree->nodes.items[node].depth, stored = total < tree->nframe ? total : tree->nframe;

	if (!tm_vector_reserve(&tree->frames, stored))
		return UINT32_MAX;
	for (uint32_t i = 0; i < stored; i++, node = tree->nodes.items[node].parent)
		tree->frames.items[i] = tree->nodes.items[node].frame;
	return tm_tracebacks_intern(tree->tracebacks, tree->frames.items, stored, total,
				    stored < total ? TM_CUT_LIMIT : TM_CUT_NONE);
}

uint32_t tm_call_tree_traceback(struct tm_call_tree *tree, uint32_t node)
{
	uint32_t *traceback = &tree->nodes.items[node].traceback;

	if (*traceback == UINT32_MAX)
		*traceback = intern(tree, node);
	return *traceback;
}
