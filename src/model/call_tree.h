/*
 * The stacks of all threads as one tree of calls: a node is a frame and who called it, so that a stack that
 * differs from another one in its innermost frames shares all nodes above them. What a node is as a traceback
 * is interned when it is asked for first. Nodes are found by the return address that a frame stands at, and
 * are never removed: memory grows with distinct stacks. Not thread-safe.
 */
#ifndef TM_MODEL_CALL_TREE_H
#define TM_MODEL_CALL_TREE_H

#include "model/traceback.h"

struct tm_call_tree;

#define TM_CALL_TREE_ROOT 0u /* the empty stack */

/* Tracebacks of at most `nframe` frames are interned in `tracebacks`, which is borrowed. */
struct tm_error *tm_call_tree_create(struct tm_tracebacks *tracebacks, uint32_t nframe,
				     struct tm_call_tree **out);
void tm_call_tree_destroy(struct tm_call_tree *tree); /* NULL is fine */

/* The node of the frame at `pc` that the node `parent` has called; UINT32_MAX: it is not there. */
uint32_t tm_call_tree_find(const struct tm_call_tree *tree, uint32_t parent, uint64_t pc);

/* Adds it; `frame` is a number of the tracebacks. UINT32_MAX: out of memory. */
uint32_t tm_call_tree_add(struct tm_call_tree *tree, uint32_t parent, uint64_t pc, uint32_t frame);

/* Code was unmapped: a pc may be another frame from now on. Nodes stay what they are. */
void tm_call_tree_forget_pcs(struct tm_call_tree *tree);

/* The traceback of a stack whose innermost frame the node is. UINT32_MAX: out of memory. */
uint32_t tm_call_tree_traceback(struct tm_call_tree *tree, uint32_t node);

#endif
