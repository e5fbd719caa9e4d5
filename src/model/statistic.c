#include "model/statistic.h"

#include <stdlib.h>
#include <string.h>

#include "model/frame_ranks.h"
#include "model/traceback.h"

/* get_traces() of tracemalloc shows a traceback without frames so. */
static const struct tm_named_frame unknown_frame = {.filename = "<unknown>", .module = "<unknown>"};
static const struct tm_named_frame *const unknown_frames[] = {&unknown_frame};

/* By code point, as Python compares strings: the bytes of UTF-8 sort so. NULL is less than any string. */
static int compare_strings(const char *a, const char *b)
{
	if (a == b)
		return 0;
	if (!a || !b)
		return a ? 1 : -1;
	return strcmp(a, b);
}

static int compare_filename(const struct tm_named_frame *a, const struct tm_named_frame *b)
{
	return compare_strings(a->filename, b->filename);
}

static int compare_line(const struct tm_named_frame *a, const struct tm_named_frame *b)
{
	int order = compare_filename(a, b);

	return order ? order : (a->lineno > b->lineno) - (a->lineno < b->lineno);
}

/* tracemalloc's frame is (filename, lineno). Where there is no line, functions of a module are told apart by
   name, and code that has no name either by its place. */
static int compare_place(const struct tm_named_frame *a, const struct tm_named_frame *b)
{
	int order = compare_line(a, b);

	if (order || a->lineno)
		return order;
	order = compare_strings(a->function, b->function);
	return order || a->function ? order : (a->offset > b->offset) - (a->offset < b->offset);
}

static int compare_function(const struct tm_named_frame *a, const struct tm_named_frame *b)
{
	int order = compare_filename(a, b);

	return order ? order : compare_strings(a->function, b->function);
}

static int compare_module(const struct tm_named_frame *a, const struct tm_named_frame *b)
{
	return compare_strings(a->module, b->module);
}

static struct tm_named_frame line_key(const struct tm_named_frame *frame)
{
	return *frame;
}

static struct tm_named_frame filename_key(const struct tm_named_frame *frame)
{
	return (struct tm_named_frame){.filename = frame->filename, .module = frame->module};
}

static struct tm_named_frame function_key(const struct tm_named_frame *frame)
{
	return (struct tm_named_frame){
		.filename = frame->filename, .function = frame->function, .module = frame->module};
}

static struct tm_named_frame module_key(const struct tm_named_frame *frame)
{
	return (struct tm_named_frame){.filename = frame->module, .module = frame->module};
}

static const struct grouping {
	const char *name;
	bool cumulates;		   /* by one frame: each frame of a trace may have a share */
	tm_frame_compare *compare; /* NULL: not by frames */
	struct tm_named_frame (*key)(const struct tm_named_frame *first_of_group);
} groupings[] = {
	[TM_GROUP_LINENO] = {"lineno", true, compare_line, line_key},
	[TM_GROUP_FILENAME] = {"filename", true, compare_filename, filename_key},
	[TM_GROUP_TRACEBACK] = {"traceback", false, compare_place, NULL},
	[TM_GROUP_FUNCTION] = {"function", true, compare_function, function_key},
	[TM_GROUP_MODULE] = {"module", true, compare_module, module_key},
	[TM_GROUP_THREAD] = {"thread", false, NULL, NULL},
};

bool tm_group_by_parse(const char *name, enum tm_group_by *group_by)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(groupings); i++) {
		if (strcmp(name, groupings[i].name) == 0) {
			*group_by = (enum tm_group_by)i;
			return true;
		}
	}
	return false;
}

const char *tm_group_by_name(enum tm_group_by group_by)
{
	return groupings[group_by].name;
}

/* The frames of a trace that have a share in its bytes. */
struct frame_span {
	const struct tm_named_frame *const *frames;
	uint32_t count;
};

static struct frame_span all_frames(const struct tm_trace *trace)
{
	return trace->frame_count ? (struct frame_span){trace->frames, trace->frame_count}
				  : (struct frame_span){unknown_frames, 1};
}

static struct frame_span owning_frame(const struct tm_trace *trace)
{
	struct frame_span span = all_frames(trace);
	uint32_t owner = 0;

	while (owner < span.count && span.frames[owner]->skipped)
		owner++;
	return (struct frame_span){span.frames + (owner < span.count ? owner : 0), 1};
}

/* What one call of tm_statistics_compute works on. */
struct computation {
	const struct grouping *grouping;
	const struct tm_trace *traces;
	size_t trace_count;
	struct frame_span (*span)(const struct tm_trace *trace);
	struct tm_frame_ranks ranks;
	struct tm_vector(struct tm_statistic) groups;
	void *keys;
};

static bool rank_frames(struct computation *computation)
{
	for (size_t i = 0; i < computation->trace_count; i++) {
		struct frame_span span = computation->span(&computation->traces[i]);

		for (uint32_t j = 0; j < span.count; j++) {
			if (!tm_frame_ranks_add(&computation->ranks, span.frames[j]))
				return false;
		}
	}
	tm_frame_ranks_order(&computation->ranks, computation->grouping->compare);
	return true;
}

static void add_trace(struct tm_statistic *group, const struct tm_trace *trace)
{
	group->size += trace->size;
	group->count += trace->count;
	group->size_variance += trace->size_variance;
}

/* One group a rank, in the order of the ranks, its key beside it. */
static bool make_frame_groups(struct computation *computation)
{
	const struct tm_ranked_frame *first = computation->ranks.items.items;
	size_t count = computation->ranks.items.count;
	struct key {
		const struct tm_named_frame *frames[1];
		struct tm_named_frame frame;
	} * keys;

	if (!count)
		return true;
	computation->keys = keys = malloc(count * sizeof(*keys));
	if (!keys || !tm_vector_reserve(&computation->groups, count))
		return false;
	for (size_t i = 0; i < count; i++) {
		keys[i].frame = computation->grouping->key(first[i].frame);
		keys[i].frames[0] = &keys[i].frame;
		computation->groups.items[i] = (struct tm_statistic){.frames = keys[i].frames, .cut = ""};
	}
	computation->groups.count = count;
	return true;
}

static bool group_by_frame(struct computation *computation)
{
	if (!rank_frames(computation) || !make_frame_groups(computation))
		return false;
	for (size_t i = 0; i < computation->trace_count; i++) {
		const struct tm_trace *trace = &computation->traces[i];
		struct frame_span span = computation->span(trace);

		for (uint32_t j = 0; j < span.count; j++) {
			uint32_t rank = tm_frame_ranks_of(&computation->ranks, span.frames[j]);
			struct tm_statistic *group = &computation->groups.items[rank];

			if (!group->frame_count) {
				group->frame_count = 1;
				group->domain = trace->domain;
			}
			add_trace(group, trace);
		}
	}
	return true;
}

/* The number of the trace's list of ranks, from 1 on. UINT32_MAX: out of memory. */
static uint32_t intern_ranks(const struct computation *computation, const struct tm_trace *trace,
			     struct tm_tracebacks *interned)
{
	struct frame_span span = all_frames(trace);
	_cleanup_free_ uint32_t *ranks = malloc(span.count * sizeof(*ranks));

	if (!ranks)
		return UINT32_MAX;
	for (uint32_t i = 0; i < span.count; i++)
		ranks[i] = tm_frame_ranks_of(&computation->ranks, span.frames[i]);
	return tm_tracebacks_intern(interned, ranks, span.count, 0, TM_CUT_NONE);
}

static struct tm_statistic traceback_group(const struct tm_trace *trace)
{
	struct frame_span span = all_frames(trace);

	return (struct tm_statistic){
		.domain = trace->domain,
		.frames = span.frames,
		.frame_count = span.count,
		.total_nframe = trace->total_nframe,
		.cut = trace->cut ? trace->cut : "",
	};
}

static bool add_by_traceback(struct computation *computation, struct tm_tracebacks *interned)
{
	for (size_t i = 0; i < computation->trace_count; i++) {
		const struct tm_trace *trace = &computation->traces[i];
		uint32_t number = intern_ranks(computation, trace, interned);

		if (number == UINT32_MAX)
			return false;
		if (number > computation->groups.count &&
		    !tm_vector_push(&computation->groups, traceback_group(trace)))
			return false;
		add_trace(&computation->groups.items[number - 1], trace);
	}
	return true;
}

static bool group_by_traceback(struct computation *computation)
{
	_cleanup_error_ struct tm_error *err = NULL;
	struct tm_tracebacks *interned;
	bool done;

	if (!rank_frames(computation))
		return false;
	err = tm_tracebacks_create(&interned);
	if (err)
		return false;
	done = add_by_traceback(computation, interned);
	tm_tracebacks_destroy(interned);
	return done;
}

static struct tm_statistic thread_group(const struct tm_trace *trace)
{
	return (struct tm_statistic){
		.domain = trace->domain, .tid = trace->tid, .thread_name = trace->thread_name, .cut = ""};
}

static bool add_by_thread(struct computation *computation, struct tm_map *groups)
{
	for (size_t i = 0; i < computation->trace_count; i++) {
		const struct tm_trace *trace = &computation->traces[i];
		const uint64_t *known = tm_map_get(groups, trace->tid);
		size_t number = known ? *known : computation->groups.count;

		if (!known && (!tm_map_put(groups, trace->tid, number) ||
			       !tm_vector_push(&computation->groups, thread_group(trace))))
			return false;
		add_trace(&computation->groups.items[number], trace);
	}
	return true;
}

static bool group_by_thread(struct computation *computation)
{
	struct tm_map groups = {0};
	bool done = add_by_thread(computation, &groups);

	tm_map_deinit(&groups);
	return done;
}

/* Oldest frame first, and a traceback that is the beginning of another before it (Traceback.__lt__, on
 * tuples). */
static int compare_tracebacks(const struct tm_statistic *a, const struct tm_statistic *b,
			      tm_frame_compare *compare)
{
	uint32_t common = a->frame_count < b->frame_count ? a->frame_count : b->frame_count;

	for (uint32_t i = 1; i <= common; i++) {
		const struct tm_named_frame *left = a->frames[a->frame_count - i];
		const struct tm_named_frame *right = b->frames[b->frame_count - i];
		int order = left == right ? 0 : compare(left, right);

		if (order)
			return order;
	}
	return (a->frame_count > b->frame_count) - (a->frame_count < b->frame_count);
}

/* Statistic._sort_key, reversed. */
static int compare_descending(const void *a, const void *b, void *context)
{
	const struct tm_statistic *left = a, *right = b;
	const struct grouping *grouping = context;

	if (left->size != right->size)
		return left->size > right->size ? -1 : 1;
	if (left->count != right->count)
		return left->count > right->count ? -1 : 1;
	if (!grouping->compare)
		return left->tid > right->tid ? -1 : left->tid < right->tid;
	return -compare_tracebacks(left, right, grouping->compare);
}

static bool compute(struct computation *computation)
{
	if (!computation->grouping->compare)
		return group_by_thread(computation);
	if (!computation->grouping->key)
		return group_by_traceback(computation);
	return group_by_frame(computation);
}

struct tm_error *tm_statistics_compute(const struct tm_trace *traces, size_t trace_count,
				       enum tm_group_by group_by, bool cumulative, struct tm_statistics *out)
{
	const struct grouping *grouping = &groupings[group_by];
	struct computation computation = {
		.grouping = grouping,
		.traces = traces,
		.trace_count = trace_count,
		.span = cumulative || !grouping->key ? all_frames : owning_frame,
	};
	bool done;

	if (cumulative && !grouping->cumulates)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "cumulative mode cannot by used with key type '%s'",
				       grouping->name); /* sic, Lib/tracemalloc.py */
	done = compute(&computation);
	tm_frame_ranks_deinit(&computation.ranks);
	if (!done) {
		tm_vector_deinit(&computation.groups);
		free(computation.keys);
		return tm_error_out_of_memory();
	}
	if (computation.groups.count)
		qsort_r(computation.groups.items, computation.groups.count, sizeof(*computation.groups.items),
			compare_descending, (void *)grouping);
	out->items = computation.groups.items;
	out->count = computation.groups.count;
	out->storage = computation.keys;
	return NULL;
}

void tm_statistics_deinit(struct tm_statistics *statistics)
{
	free(statistics->items);
	free(statistics->storage);
	memset(statistics, 0, sizeof(*statistics));
}
