#include "report/writer.h"

#include <string.h>

#include "base/log.h"

static const char *module_path(const struct tm_module *module)
{
	return module && module->path && *module->path ? module->path : "[anonymous]";
}

struct tm_error *tm_writer_put_modules(struct tm_report_writer *writer, const struct tm_module_map *modules)
{
	uint32_t count = tm_module_map_count(modules);
	struct tm_error *err = NULL;

	for (uint32_t i = 0; i < count && !err; i++) {
		const struct tm_module *module = tm_module_map_get(modules, i);
		struct tm_row row = tm_writer_row(writer, TM_PUT_MODULE);

		tm_row_put_u64(&row, i);
		tm_row_put_text(&row, module_path(module));
		tm_row_put_text(&row, module->build_id);
		tm_row_put_u64(&row, module->bias);
		tm_row_put_u64(&row, module->is_main);
		tm_row_put_u64(&row, module->deleted);
		tm_row_put_text(&row, module->problem);
		err = tm_writer_put(writer, &row);
	}
	return err;
}

static struct tm_error *put_module_problem(struct tm_report_writer *writer, uint32_t module,
					   const char *problem)
{
	struct tm_row row = tm_writer_row(writer, TM_PUT_MODULE_PROBLEM);

	tm_row_put_u64(&row, module);
	tm_row_put_text(&row, problem);
	return tm_writer_put(writer, &row);
}

static const struct tm_module *find_module(const struct tm_report_save *save, uint32_t number)
{
	return number < tm_module_map_count(save->modules) ? tm_module_map_get(save->modules, number) : NULL;
}

struct frame_row {
	uint32_t id;
	struct tm_frame place;
	const struct tm_location *location; /* NULL: no names yet */
	uint32_t inlined_into;		    /* 0: a physical frame */
	bool is_inner;			    /* TM_FRAME_INNER */
};

enum { SKIPPED_INNER = 2 }; /* frame.skipped */

/* DESIGN: a frame without line information has its module's path as filename, and lineno 0. */
static struct tm_error *put_frame_row(struct tm_report_writer *writer, const struct tm_report_save *save,
				      const struct frame_row *frame)
{
	const struct tm_location *location = frame->location;
	bool has_line = location && location->filename;
	struct tm_row row = tm_writer_row(writer, TM_PUT_FRAME);

	tm_row_put_u64(&row, frame->id);
	tm_row_put_u64(&row, frame->place.module);
	tm_row_put_u64(&row, frame->place.offset);
	tm_row_put_text(&row, location ? location->function : NULL);
	tm_row_put_text(&row,
			has_line ? location->filename : module_path(find_module(save, frame->place.module)));
	tm_row_put_u64(&row, has_line ? location->lineno : 0);
	tm_row_put_text(&row, has_line ? location->source : NULL);
	if (frame->inlined_into)
		tm_row_put_u64(&row, frame->inlined_into);
	else
		tm_row_put_null(&row);
	tm_row_put_u64(&row, frame->is_inner ? SKIPPED_INNER : 0);
	return tm_writer_put(writer, &row);
}

/* ---- frames of an interpreter ---- */

static bool is_named(const struct tm_report_save *save, struct tm_frame place)
{
	return save->named && place.module >= save->named->first;
}

static void name_place(const struct tm_named_frames *named, struct tm_frame place,
		       struct tm_location *location)
{
	const char *function, *filename;

	named->name(named->context, place, &function, &filename, &location->lineno);
	location->function = (char *)function;
	location->filename = (char *)filename;
}

/* Its names are known at once, and to the last save the text of its line too. */
static struct tm_error *put_named_frame(struct tm_report_writer *writer, const struct tm_report_save *save,
					uint32_t id, struct tm_frame place)
{
	_cleanup_free_ char *source = NULL;
	struct tm_location location = {0};
	const struct frame_row row = {.id = id, .place = {0, save->named->module}, .location = &location};

	name_place(save->named, place, &location);
	if (save->symbolizer)
		source = tm_symbolizer_source(save->symbolizer, location.filename, location.lineno);
	location.source = source;
	return put_frame_row(writer, save, &row);
}

/* ---- frames in modules ---- */

/* Takes the bit out of the module's number. */
static bool take_inner(struct tm_frame *place)
{
	bool is_inner = place->module & TM_FRAME_INNER;

	place->module &= ~TM_FRAME_INNER;
	return is_inner;
}

/* A frame is stored without names; tm_writer_name_frames gives it some. */
static struct tm_error *put_frame(struct tm_report_writer *writer, const struct tm_report_save *save,
				  uint32_t number, uint32_t *id)
{
	struct frame_row row = {.id = writer->last_frame_id + 1};
	struct tm_error *err;

	while (writer->frames.count <= number)
		if (!tm_vector_push(&writer->frames, (struct tm_stored_frame){0}))
			return tm_error_out_of_memory();
	if (!writer->frames.items[number].id) {
		row.place = tm_tracebacks_get_frame(save->tracebacks, number);
		if (is_named(save, row.place)) {
			err = put_named_frame(writer, save, row.id, row.place);
		} else {
			row.is_inner = take_inner(&row.place);
			err = put_frame_row(writer, save, &row);
		}
		if (err)
			return err;
		writer->frames.items[number].id = ++writer->last_frame_id;
	}
	*id = writer->frames.items[number].id;
	return NULL;
}

static void put_reference(struct tm_row *row, uint32_t id)
{
	if (id)
		tm_row_put_u64(row, id);
	else
		tm_row_put_null(row);
}

/* The node's number, and its row if it is new. */
static struct tm_error *put_node(struct tm_report_writer *writer, struct tm_tree_node node, uint32_t depth,
				 uint32_t *id)
{
	size_t known = writer->tree.nodes.count;
	struct tm_row row = tm_writer_row(writer, TM_PUT_TRACEBACK);

	*id = tm_traceback_tree_intern(&writer->tree, node);
	if (*id == TM_NO_NODE)
		return tm_error_out_of_memory();
	if (*id <= known)
		return NULL;
	tm_row_put_u64(&row, *id);
	put_reference(&row, node.parent);
	put_reference(&row, node.frame);
	tm_row_put_u64(&row, depth);
	tm_row_put_u64(&row, node.total_nframe);
	tm_row_put_text(&row, tm_cut_name((enum tm_cut)node.cut));
	return tm_writer_put(writer, &row);
}

/* From the oldest frame down, so that a parent has its number first. Only the last node knows of the cut: a
   row is the end of one traceback and the middle of others. */
static struct tm_error *put_path(struct tm_report_writer *writer, const struct tm_report_save *save,
				 const struct tm_traceback *traceback, uint32_t *leaf)
{
	struct tm_tree_node end = {.total_nframe = traceback->total_nframe, .cut = traceback->cut};
	uint32_t parent = TM_NO_NODE;

	for (uint32_t depth = 1; depth <= traceback->frame_count; depth++) {
		struct tm_tree_node node = {.total_nframe = depth, .cut = TM_CUT_NONE};
		uint32_t frame = traceback->frames[traceback->frame_count - depth];
		struct tm_error *err = put_frame(writer, save, frame, &node.frame);

		if (err)
			return err;
		node.parent = parent;
		if (depth == traceback->frame_count) {
			node.total_nframe = end.total_nframe;
			node.cut = end.cut;
		}
		err = put_node(writer, node, depth, &parent);
		if (err)
			return err;
	}
	*leaf = parent;
	return traceback->frame_count ? NULL : put_node(writer, end, 0, leaf);
}

struct tm_error *tm_writer_put_traceback(struct tm_report_writer *writer, const struct tm_report_save *save,
					 uint32_t number, uint32_t *id)
{
	struct tm_error *err;

	while (writer->leaves.count <= number)
		if (!tm_vector_push(&writer->leaves, TM_NO_NODE))
			return tm_error_out_of_memory();
	*id = writer->leaves.items[number];
	if (*id != TM_NO_NODE)
		return NULL;
	err = put_path(writer, save, tm_tracebacks_get(save->tracebacks, number), id);
	if (!err)
		writer->leaves.items[number] = *id;
	return err;
}

/* The one place where a frame gets its names. What cannot be named costs the name, never the report: the
   reason is written to the module's row. */
static struct tm_error *symbolize(struct tm_report_writer *writer, const struct tm_report_save *save,
				  struct tm_frame place, struct tm_locations *locations)
{
	const struct tm_module *module;
	_cleanup_error_ struct tm_error *reason = NULL;

	take_inner(&place);
	module = find_module(save, place.module);
	memset(locations, 0, sizeof(*locations));
	if (!module)
		return NULL;
	reason = tm_symbolize(save->symbolizer, module, place.offset, locations);
	if (!reason)
		return NULL;
	tm_log_info("no name for %s+0x%llx: %s", module_path(module), (unsigned long long)place.offset,
		    reason->message);
	return put_module_problem(writer, place.module, reason->message);
}

/* Innermost call first: the row that tracebacks refer to keeps its id, the frames it is inlined into get
   higher ones. */
static struct tm_error *put_locations(struct tm_report_writer *writer, const struct tm_report_save *save,
				      uint32_t id, struct tm_frame place,
				      const struct tm_locations *locations)
{
	bool is_inner = take_inner(&place);
	struct tm_error *err = NULL;

	for (size_t i = 0; i < locations->count && !err; i++) {
		struct frame_row row = {
			.id = id, .place = place, .location = &locations->items[i], .is_inner = is_inner};

		if (i + 1 < locations->count)
			row.inlined_into = id = ++writer->last_frame_id;
		err = put_frame_row(writer, save, &row);
	}
	return err;
}

static struct tm_error *name_frame(struct tm_report_writer *writer, const struct tm_report_save *save,
				   uint32_t number)
{
	struct tm_frame place = tm_tracebacks_get_frame(save->tracebacks, number);
	struct tm_stored_frame *frame = &writer->frames.items[number];
	struct tm_locations locations;
	struct tm_error *err;

	if (is_named(save, place)) {
		frame->named_by = writer->save_number;
		return put_named_frame(writer, save, frame->id, place);
	}
	err = symbolize(writer, save, place, &locations);
	if (!err)
		err = put_locations(writer, save, frame->id, place, &locations);
	tm_locations_deinit(&locations);
	frame->named_by = writer->save_number;
	return err;
}

static bool wants_name(const struct tm_stored_frame *frame)
{
	return frame->id && !frame->named_by;
}

struct tm_error *tm_writer_name_frames(struct tm_report_writer *writer, const struct tm_report_save *save)
{
	size_t total = 0, done = 0;

	for (size_t i = 0; i < writer->frames.count; i++)
		total += wants_name(&writer->frames.items[i]);
	for (size_t i = 0; i < writer->frames.count; i++) {
		struct tm_error *err;

		if (!wants_name(&writer->frames.items[i]))
			continue;
		err = name_frame(writer, save, (uint32_t)i);
		if (err)
			return err;
		if (save->progress)
			save->progress(save->progress_context, ++done, total);
	}
	return NULL;
}
