#include "report/reader_tables.h"

#include <stdlib.h>
#include <string.h>

struct tm_error *tm_report_damaged(const struct tm_database *database, const char *what)
{
	return tm_error_create(TM_ERROR_BAD_FORMAT, "%s is damaged: %s", database->path, what);
}

const char *tm_report_tables_string(struct tm_report_tables *tables, const char *text)
{
	char *copy = strdup(text);

	if (copy && tm_vector_push(&tables->strings, copy))
		return copy;
	free(copy);
	return NULL;
}

/* NULL where the column is NULL; `failed` is set when out of memory. */
static const char *column_string(struct tm_report_tables *tables, sqlite3_stmt *row, int column, bool *failed)
{
	const char *text = (const char *)sqlite3_column_text(row, column);
	const char *copy = text ? tm_report_tables_string(tables, text) : NULL;

	*failed |= text && !copy;
	return copy;
}

/* Rows are kept in the order of their ids, which is the first member of each of the structures. */
static int compare_ids(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

#define find_row(vector, wanted)                                                                             \
	((__typeof__((vector).items))((vector).count                                                         \
					      ? bsearch(&(int64_t){wanted}, (vector).items, (vector).count,  \
							sizeof(*(vector).items), compare_ids)                \
					      : NULL))

/* Does `next` continue the rising ids of a table? SQLite's own order is not to be believed in a damaged file.
 */
#define id_rises(vector, next) ((vector).count == 0 || (vector).items[(vector).count - 1].id < (next))

typedef struct tm_error *(*row_reader)(struct tm_report_tables *tables, const struct tm_database *database,
				       sqlite3_stmt *row, const struct tm_skip_rules *skip);

static struct tm_error *read_module(struct tm_report_tables *tables, const struct tm_database *database,
				    sqlite3_stmt *row, const struct tm_skip_rules *skip)
{
	bool failed = false;
	struct tm_stored_module module = {.id = sqlite3_column_int64(row, 0),
					  .path = column_string(tables, row, 1, &failed)};

	(void)skip;
	if (!failed && (!id_rises(tables->modules, module.id) || !module.path))
		return tm_report_damaged(database, "a row of its modules");
	return failed || !tm_vector_push(&tables->modules, module) ? tm_error_out_of_memory() : NULL;
}

static struct tm_error *read_thread(struct tm_report_tables *tables, const struct tm_database *database,
				    sqlite3_stmt *row, const struct tm_skip_rules *skip)
{
	bool failed = false;
	struct tm_stored_thread thread = {.id = sqlite3_column_int64(row, 0),
					  .name = column_string(tables, row, 1, &failed)};

	(void)skip;
	if (!id_rises(tables->threads, thread.id))
		return tm_report_damaged(database, "a row of its threads");
	return failed || !tm_vector_push(&tables->threads, thread) ? tm_error_out_of_memory() : NULL;
}

static const char *module_path(const struct tm_report_tables *tables, int64_t id)
{
	const struct tm_stored_module *module = find_row(tables->modules, id);

	return module ? module->path : "[anonymous]";
}

static struct tm_error *read_frame(struct tm_report_tables *tables, const struct tm_database *database,
				   sqlite3_stmt *row, const struct tm_skip_rules *skip)
{
	int64_t lineno = sqlite3_column_int64(row, 5);
	bool failed = false;
	struct tm_loaded_frame frame = {
		.id = sqlite3_column_int64(row, 0),
		.inlined_into = sqlite3_column_int64(row, 7),
		.named =
			{
				.module = module_path(tables, sqlite3_column_int64(row, 1)),
				.offset = (uint64_t)sqlite3_column_int64(row, 2),
				.function = column_string(tables, row, 3, &failed),
				.filename = column_string(tables, row, 4, &failed),
				.lineno = (uint32_t)lineno,
				.source = column_string(tables, row, 6, &failed),
			},
	};

	if (failed)
		return tm_error_out_of_memory();
	if (!id_rises(tables->frames, frame.id) || frame.id < 1 || !frame.named.filename || lineno < 0 ||
	    lineno > UINT32_MAX || (frame.inlined_into && frame.inlined_into <= frame.id))
		return tm_report_damaged(database, "a row of its frames");
	frame.named.skipped = sqlite3_column_int64(row, 8) > 1 || tm_skip_matches(skip, frame.named.function);
	return tm_vector_push(&tables->frames, frame) ? NULL : tm_error_out_of_memory();
}

static struct tm_error *link_inlined(struct tm_report_tables *tables, const struct tm_database *database)
{
	for (size_t i = 0; i < tables->frames.count; i++) {
		struct tm_loaded_frame *frame = &tables->frames.items[i];

		if (!frame->inlined_into)
			continue;
		frame->outer = find_row(tables->frames, frame->inlined_into);
		if (!frame->outer)
			return tm_report_damaged(database, "a frame is inlined into none");
	}
	return NULL;
}

static bool parse_cut(const char *name, enum tm_cut *cut)
{
	for (int i = 0; i < TM_CUT_COUNT; i++)
		if (name && strcmp(name, tm_cut_name((enum tm_cut)i)) == 0) {
			*cut = (enum tm_cut)i;
			return true;
		}
	return false;
}

/* The empty traceback is a row without frame, parent and depth; every other one counts on from its parent. */
static bool node_is_sound(const struct tm_report_tables *tables, const struct tm_loaded_node *node,
			  int64_t depth)
{
	uint32_t parent_depth = node->parent ? tables->nodes.items[node->parent - 1].depth : 0;

	if (!node->frame)
		return !node->parent && depth == 0;
	return depth == (int64_t)parent_depth + 1 && depth <= TM_NFRAME_MAX &&
	       (!node->parent || parent_depth > 0);
}

static struct tm_error *read_node(struct tm_report_tables *tables, const struct tm_database *database,
				  sqlite3_stmt *row, const struct tm_skip_rules *skip)
{
	int64_t parent_id = sqlite3_column_int64(row, 1), frame_id = sqlite3_column_int64(row, 2);
	int64_t depth = sqlite3_column_int64(row, 3), total_nframe = sqlite3_column_int64(row, 4);
	const struct tm_loaded_node *parent = find_row(tables->nodes, parent_id);
	struct tm_loaded_node node = {.id = sqlite3_column_int64(row, 0),
				      .depth = (uint32_t)depth,
				      .total_nframe = (uint32_t)total_nframe};

	(void)skip;
	node.frame = find_row(tables->frames, frame_id);
	if (parent)
		node.parent = (size_t)(parent - tables->nodes.items) + 1;
	if (!id_rises(tables->nodes, node.id) || node.id < 1 || (parent_id && !parent) ||
	    (frame_id && !node.frame) || total_nframe < 0 || total_nframe > UINT32_MAX ||
	    !node_is_sound(tables, &node, depth) ||
	    !parse_cut((const char *)sqlite3_column_text(row, 5), &node.cut))
		return tm_report_damaged(database, "a row of its tracebacks");
	return tm_vector_push(&tables->nodes, node) ? NULL : tm_error_out_of_memory();
}

static struct tm_error *read_rows(struct tm_report_tables *tables, const struct tm_database *database,
				  const struct tm_skip_rules *skip, const char *sql, row_reader read_row)
{
	_cleanup_statement_ sqlite3_stmt *statement = NULL;
	struct tm_error *err = tm_database_prepare(database, sql, &statement);
	bool row = true;

	while (!err) {
		err = tm_database_step(database, statement, &row);
		if (err || !row)
			break;
		err = read_row(tables, database, statement, skip);
	}
	return err;
}

struct tm_error *tm_report_tables_load(struct tm_report_tables *tables, const struct tm_database *database,
				       const struct tm_skip_rules *skip)
{
	struct tm_error *err =
		read_rows(tables, database, skip, "SELECT id, path FROM module ORDER BY id", read_module);

	if (!err)
		err = read_rows(tables, database, skip, "SELECT tid, name FROM thread ORDER BY tid",
				read_thread);
	if (!err)
		err = read_rows(tables, database, skip,
				"SELECT id, module, offset, function, filename, lineno, source, inlined_into, skipped "
				"FROM frame ORDER BY id",
				read_frame);
	if (!err)
		err = link_inlined(tables, database);
	if (!err)
		err = read_rows(
			tables, database, skip,
			"SELECT id, parent, frame, depth, total_nframe, cut FROM traceback ORDER BY id",
			read_node);
	return err;
}

void tm_report_tables_deinit(struct tm_report_tables *tables)
{
	for (size_t i = 0; i < tables->nodes.count; i++)
		free(tables->nodes.items[i].frames);
	for (size_t i = 0; i < tables->strings.count; i++)
		free(tables->strings.items[i]);
	tm_vector_deinit(&tables->strings);
	tm_vector_deinit(&tables->modules);
	tm_vector_deinit(&tables->threads);
	tm_vector_deinit(&tables->frames);
	tm_vector_deinit(&tables->nodes);
}

static const struct tm_loaded_node *parent_of(const struct tm_report_tables *tables,
					      const struct tm_loaded_node *node)
{
	return node->parent ? &tables->nodes.items[node->parent - 1] : NULL;
}

/* Counts the frames of a traceback up to `limit`; writes them where there is a place. */
static size_t walk(const struct tm_report_tables *tables, const struct tm_loaded_node *leaf, size_t limit,
		   const struct tm_named_frame **frames)
{
	size_t count = 0;

	for (const struct tm_loaded_node *node = leaf; node; node = parent_of(tables, node))
		for (const struct tm_loaded_frame *frame = node->frame; frame && count < limit;
		     frame = frame->outer) {
			if (frames)
				frames[count] = &frame->named;
			count++;
		}
	return count;
}

static struct tm_error *expand(struct tm_report_tables *tables, const struct tm_database *database,
			       struct tm_loaded_node *node)
{
	size_t room = TM_EXPANDED_FRAMES_MAX - tables->expanded;
	size_t count = walk(tables, node, room, NULL);

	if (count == room)
		return tm_report_damaged(database, "its tracebacks have too many frames");
	node->frames = malloc((count ? count : 1) * sizeof(const struct tm_named_frame *));
	if (!node->frames)
		return tm_error_out_of_memory();
	node->frame_count = (uint32_t)walk(tables, node, count, node->frames);
	tables->expanded += count;
	return NULL;
}

struct tm_error *tm_report_tables_traceback(struct tm_report_tables *tables,
					    const struct tm_database *database, int64_t id,
					    const struct tm_loaded_node **out, bool *is_first)
{
	struct tm_loaded_node *node = find_row(tables->nodes, id);
	struct tm_error *err;

	if (!node)
		return tm_report_damaged(database, "a statistic has no traceback");
	*is_first = !node->frames;
	err = *is_first ? expand(tables, database, node) : NULL;
	if (!err)
		*out = node;
	return err;
}

const char *tm_report_tables_thread_name(const struct tm_report_tables *tables, int64_t tid)
{
	const struct tm_stored_thread *thread = find_row(tables->threads, tid);

	return thread ? thread->name : NULL;
}
