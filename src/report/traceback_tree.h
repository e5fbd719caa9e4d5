/*
 * Tracebacks as a tree, as the report file stores them: tracebacks with the same oldest frames share their
 * rows. A node is equal to another if its parent, frame, total_nframe and cut are. Numbers count from 1 in
 * the order of creation, so a parent's is smaller than its children's; 0 is no node. 20 to 40 bytes a node.
 */
#ifndef TM_REPORT_TRACEBACK_TREE_H
#define TM_REPORT_TRACEBACK_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/vector.h"

#define TM_NO_NODE 0u

struct tm_tree_node {
	uint32_t parent; /* TM_NO_NODE: the oldest frame */
	uint32_t frame;	 /* opaque here */
	uint32_t total_nframe;
	uint32_t cut;
};

/* All zero is an empty tree. */
struct tm_traceback_tree {
	struct tm_vector(struct tm_tree_node) nodes; /* node n is items[n - 1] */
	uint32_t *slots;			     /* node numbers by hash; TM_NO_NODE is a free slot */
	size_t slot_count;			     /* 0 or a power of two, at least twice nodes.count */
};

void tm_traceback_tree_deinit(struct tm_traceback_tree *tree);

/* The number of the node equal to `node`, made if there is none (then it is nodes.count). TM_NO_NODE: out of
   memory. */
uint32_t tm_traceback_tree_intern(struct tm_traceback_tree *tree, struct tm_tree_node node);

/* Forgets the nodes numbered above `count`. */
void tm_traceback_tree_truncate(struct tm_traceback_tree *tree, size_t count);

#endif
