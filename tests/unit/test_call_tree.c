#include <criterion/criterion.h>

#include "base/cleanup.h"
#include "model/call_tree.h"

#define NFRAME 4

static struct tm_tracebacks *tracebacks;
static struct tm_call_tree *tree;

static void setup(void)
{
	cr_assert_null(tm_tracebacks_create(&tracebacks));
	cr_assert_null(tm_call_tree_create(tracebacks, NFRAME, &tree));
}

static void teardown(void)
{
	tm_call_tree_destroy(tree);
	tm_tracebacks_destroy(tracebacks);
}

TestSuite(call_tree, .init = setup, .fini = teardown);

/* The frame at a pc: several pcs of a line may be one. */
static uint32_t frame_at(uint64_t pc)
{
	return tm_tracebacks_frame(tracebacks, (struct tm_frame){.module = 1, .offset = pc & ~UINT64_C(15)});
}

static uint32_t enter(uint32_t parent, uint64_t pc)
{
	uint32_t node = tm_call_tree_find(tree, parent, pc);

	if (node == UINT32_MAX)
		node = tm_call_tree_add(tree, parent, pc, frame_at(pc));
	cr_assert_neq(node, UINT32_MAX);
	return node;
}

/* The outermost frame first. */
static uint32_t enter_all(const uint64_t *pcs, size_t count)
{
	uint32_t node = TM_CALL_TREE_ROOT;

	for (size_t i = 0; i < count; i++)
		node = enter(node, pcs[i]);
	return node;
}

#define ENTER(...)                                                                                           \
	enter_all((const uint64_t[]){__VA_ARGS__}, TM_ARRAY_SIZE(((const uint64_t[]){__VA_ARGS__})))

static const struct tm_traceback *traceback_of(uint32_t node)
{
	uint32_t number = tm_call_tree_traceback(tree, node);

	cr_assert_neq(number, UINT32_MAX);
	return tm_tracebacks_get(tracebacks, number);
}

Test(call_tree, the_root_is_the_empty_traceback)
{
	cr_assert_eq(tm_call_tree_traceback(tree, TM_CALL_TREE_ROOT), 0);
}

Test(call_tree, what_was_not_added_is_not_found)
{
	uint32_t node = ENTER(0x100);

	cr_assert_eq(tm_call_tree_find(tree, TM_CALL_TREE_ROOT, 0x200), UINT32_MAX);
	cr_assert_eq(tm_call_tree_find(tree, node, 0x100), UINT32_MAX);
	cr_assert_eq(tm_call_tree_find(tree, TM_CALL_TREE_ROOT, 0x100), node);
}

Test(call_tree, same_stacks_are_the_same_node)
{
	uint32_t node = ENTER(0x100, 0x200, 0x300);

	cr_assert_eq(ENTER(0x100, 0x200, 0x300), node);
	cr_assert_neq(ENTER(0x100, 0x200, 0x310), node, "another frame");
	cr_assert_neq(ENTER(0x110, 0x200, 0x300), node, "another caller");
	cr_assert_neq(ENTER(0x200, 0x300), node, "no caller");
	cr_assert_neq(ENTER(0x100, 0x200), node, "a part of it");
	cr_assert_neq(ENTER(0x100, 0x200, 0x300, 0x300), node, "a recursion");
}

Test(call_tree, a_function_that_calls_itself_is_a_node_at_each_depth)
{
	uint32_t node = TM_CALL_TREE_ROOT;

	for (uint32_t depth = 1; depth <= 100; depth++) {
		uint32_t below = enter(node, 0x100);

		cr_assert_neq(below, node);
		cr_assert_eq(traceback_of(below)->total_nframe, depth);
		node = below;
	}
}

Test(call_tree, tracebacks_have_the_most_recent_frame_first)
{
	const struct tm_traceback *traceback = traceback_of(ENTER(0x100, 0x200, 0x300));

	cr_assert_eq(traceback->frame_count, 3);
	cr_assert_eq(traceback->total_nframe, 3);
	cr_assert_eq(traceback->cut, TM_CUT_NONE);
	for (uint32_t i = 0; i < 3; i++)
		cr_assert_eq(traceback->frames[i], frame_at(0x300 - i * 0x100), "frame %u", i);
}

Test(call_tree, tracebacks_are_cut_at_nframe_and_tell_the_whole_depth)
{
	static const struct {
		uint32_t depth, stored;
		enum tm_cut cut;
	} rows[] = {
		{NFRAME - 1, NFRAME - 1, TM_CUT_NONE},
		{NFRAME, NFRAME, TM_CUT_NONE},
		{NFRAME + 1, NFRAME, TM_CUT_LIMIT},
		{10 * NFRAME, NFRAME, TM_CUT_LIMIT},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		uint32_t node = TM_CALL_TREE_ROOT, depth = rows[i].depth;
		const struct tm_traceback *traceback;

		for (uint32_t k = 1; k <= depth; k++)
			node = enter(node, k * 0x100);
		traceback = traceback_of(node);
		cr_expect_eq(traceback->frame_count, rows[i].stored, "row %zu", i);
		cr_expect_eq(traceback->total_nframe, depth, "row %zu", i);
		cr_expect_eq(traceback->cut, rows[i].cut, "row %zu", i);
		for (uint32_t k = 0; k < traceback->frame_count; k++)
			cr_expect_eq(traceback->frames[k], frame_at((depth - k) * 0x100), "row %zu", i);
	}
}

Test(call_tree, equal_tracebacks_through_different_nodes_are_one_number)
{
	uint32_t first = ENTER(0x100, 0x200), second = ENTER(0x104, 0x208);

	cr_assert_neq(first, second);
	cr_assert_eq(tm_call_tree_traceback(tree, first), tm_call_tree_traceback(tree, second));
	cr_assert_eq(tm_tracebacks_count(tracebacks), 2, "the empty one, and this");
}

Test(call_tree, a_traceback_is_interned_when_it_is_asked_for)
{
	uint32_t node = ENTER(0x100, 0x200, 0x300), number;

	cr_assert_eq(tm_tracebacks_count(tracebacks), 1);
	number = tm_call_tree_traceback(tree, node);
	cr_assert_eq(tm_tracebacks_count(tracebacks), 2);
	cr_assert_eq(tm_call_tree_traceback(tree, node), number);
	cr_assert_eq(tm_tracebacks_count(tracebacks), 2);
}

/* ---- growth ---- */

#define NODES 150000u

/* Half of them are callees of the root, the others below each other. */
Test(call_tree, nodes_are_found_again_after_the_tree_has_grown)
{
	static uint32_t nodes[NODES];

	for (uint32_t i = 0; i < NODES; i++)
		nodes[i] = tm_call_tree_add(tree, i % 2 && i > 1 ? nodes[i - 2] : TM_CALL_TREE_ROOT,
					    0x1000 + i, frame_at(i % 512 * 16));
	for (uint32_t i = 0; i < NODES; i++) {
		uint32_t parent = i % 2 && i > 1 ? nodes[i - 2] : TM_CALL_TREE_ROOT;

		cr_assert_eq(tm_call_tree_find(tree, parent, 0x1000 + i), nodes[i], "node %u", i);
	}
	cr_assert_eq(tm_call_tree_find(tree, TM_CALL_TREE_ROOT, 0x1000 + NODES), UINT32_MAX);
	cr_assert_eq(traceback_of(nodes[NODES - 2])->total_nframe, 1);
	cr_assert_eq(traceback_of(nodes[2 * 1000 + 1])->total_nframe, 1001);
}

/* ---- code that was unmapped ---- */

Test(call_tree, after_pcs_were_forgotten_the_same_pcs_are_other_nodes)
{
	uint32_t before = ENTER(0x100, 0x200), caller = ENTER(0x100);

	tm_call_tree_forget_pcs(tree);
	cr_assert_eq(tm_call_tree_find(tree, TM_CALL_TREE_ROOT, 0x100), UINT32_MAX);
	cr_assert_eq(tm_call_tree_find(tree, caller, 0x200), UINT32_MAX);
	cr_assert_neq(ENTER(0x100, 0x200), before);
}

Test(call_tree, nodes_of_before_keep_their_tracebacks)
{
	uint32_t asked = ENTER(0x100, 0x200), not_asked = ENTER(0x100, 0x300);
	uint32_t number = tm_call_tree_traceback(tree, asked);
	const struct tm_traceback *traceback;

	tm_call_tree_forget_pcs(tree);
	for (uint32_t i = 0; i < 20000; i++) /* in the places of the old ones, and more */
		enter(TM_CALL_TREE_ROOT, 0x100 + i);
	cr_assert_eq(tm_call_tree_traceback(tree, asked), number);
	traceback = traceback_of(not_asked);
	cr_assert_eq(traceback->frame_count, 2);
	cr_assert_eq(traceback->frames[0], frame_at(0x300));
	cr_assert_eq(traceback->frames[1], frame_at(0x100));
}

Test(call_tree, nodes_of_before_can_be_called_from)
{
	uint32_t caller = ENTER(0x100), below;

	tm_call_tree_forget_pcs(tree);
	below = enter(caller, 0x200);
	cr_assert_eq(enter(caller, 0x200), below);
	cr_assert_eq(traceback_of(below)->frames[1], frame_at(0x100));
}

Test(call_tree, a_pc_may_be_another_frame_after_it_was_forgotten)
{
	uint32_t before = ENTER(0x100), after;

	tm_call_tree_forget_pcs(tree);
	after = tm_call_tree_add(tree, TM_CALL_TREE_ROOT, 0x100, frame_at(0x900));
	cr_assert_eq(traceback_of(after)->frames[0], frame_at(0x900));
	cr_assert_eq(traceback_of(before)->frames[0], frame_at(0x100));
}

Test(call_tree, none_is_fine_to_destroy)
{
	tm_call_tree_destroy(NULL);
}
