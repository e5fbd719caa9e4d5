#include <criterion/criterion.h>

#include "report/traceback_tree.h"

Test(traceback_tree, equal_nodes_are_one_and_all_four_members_count)
{
	struct tm_traceback_tree tree = {0};

	cr_expect_eq(tm_traceback_tree_intern(&tree, (struct tm_tree_node){0, 1, 1, 0}), 1);
	cr_expect_eq(tm_traceback_tree_intern(&tree, (struct tm_tree_node){1, 1, 1, 0}), 2);
	cr_expect_eq(tm_traceback_tree_intern(&tree, (struct tm_tree_node){1, 2, 1, 0}), 3);
	cr_expect_eq(tm_traceback_tree_intern(&tree, (struct tm_tree_node){1, 2, 9, 0}), 4);
	cr_expect_eq(tm_traceback_tree_intern(&tree, (struct tm_tree_node){1, 2, 9, 1}), 5);
	cr_expect_eq(tm_traceback_tree_intern(&tree, (struct tm_tree_node){1, 2, 9, 0}), 4);
	cr_expect_eq(tree.nodes.count, 5);
	tm_traceback_tree_deinit(&tree);
}

Test(traceback_tree, many_nodes_are_found_again)
{
	struct tm_traceback_tree tree = {0};

	for (int round = 0; round < 2; round++)
		for (uint32_t i = 0; i < 100000; i++)
			cr_assert_eq(tm_traceback_tree_intern(&tree, (struct tm_tree_node){i / 3, i, 1, 0}),
				     i + 1);
	tm_traceback_tree_deinit(&tree);
}

Test(traceback_tree, truncated_nodes_are_made_anew)
{
	struct tm_traceback_tree tree = {0};

	for (uint32_t i = 0; i < 100; i++)
		tm_traceback_tree_intern(&tree, (struct tm_tree_node){0, i, 1, 0});
	tm_traceback_tree_truncate(&tree, 40);
	cr_expect_eq(tm_traceback_tree_intern(&tree, (struct tm_tree_node){0, 39, 1, 0}), 40);
	cr_expect_eq(tm_traceback_tree_intern(&tree, (struct tm_tree_node){0, 77, 1, 0}), 41);
	cr_expect_eq(tm_traceback_tree_intern(&tree, (struct tm_tree_node){0, 40, 1, 0}), 42);
	tm_traceback_tree_truncate(&tree, 100);
	cr_expect_eq(tree.nodes.count, 42);
	tm_traceback_tree_deinit(&tree);
}
