/*
 * Tracebacks of native and Python frames in their true order. The interpreter's evaluation function runs
 * Python frames: in the native stack its frame stands for them, and is replaced by them.
 *
 * From 3.10 on each call of that function has a variable that is linked to the Python frames (a CFrame, a
 * shim), so the C frame is the one that the variable's address lies in: no symbol is needed. Up to 3.9 it is
 * known by its name, and the calls are paired from the oldest one on: where the innermost is in a part of the
 * function that no symbol covers, the frames of two calls are then put together.
 */
#include "session/session_internal.h"

#include "python/frames.h"

struct merge {
	struct tm_session *session;
	const struct tm_walk *walk;
	const struct tm_python_stacks *stacks;
	bool inner;	  /* a Python allocation, still below its line: such frames own none */
	uint32_t limit;	  /* of frames, inner ones besides */
	uint32_t total;	  /* frames so far */
	uint32_t counted; /* frames that were put and count in the limit */
	size_t entry;	  /* the next one */
	bool failed;
};

static void put(struct merge *merge, struct tm_frame frame)
{
	struct tm_session *session = merge->session;
	uint32_t number;

	if (merge->total < TM_NFRAME_MAX)
		merge->total++;
	if (merge->counted >= merge->limit || session->frames.count >= TM_NFRAME_MAX)
		return;
	number = tm_tracebacks_frame(tm_tracer_tracebacks(session->tracer), frame);
	merge->failed = merge->failed || number == UINT32_MAX || !tm_vector_push(&session->frames, number);
	merge->counted += !merge->inner;
}

static void put_native(struct merge *merge, const struct tm_walk_frame *walked)
{
	struct tm_frame frame = tm_stacks_frame(walked);

	if (merge->inner)
		frame.module |= TM_FRAME_INNER;
	put(merge, frame);
}

/* The Python frames of the next call of the evaluation function. Those beyond the limit were counted only. */
static void put_entry(struct merge *merge)
{
	const struct tm_python_stacks *stacks = merge->stacks;
	uint32_t begin = merge->entry ? stacks->entries.items[merge->entry - 1].end : 0;
	uint32_t end = stacks->entries.items[merge->entry++].end;

	for (uint32_t i = begin; i < end; i++) {
		merge->inner = false;
		put(merge, i < stacks->frames.count ? stacks->frames.items[i] : (struct tm_frame){0, 0});
	}
}

/* ---- which native frame is which call's ---- */

static bool is_eval(const struct merge *merge, size_t i)
{
	const struct tm_interpreter *interpreter = merge->stacks->interpreter;
	uint64_t pc = merge->walk->frames[i].lookup;

	return pc >= interpreter->eval_start && pc < interpreter->eval_end;
}

/* Up to 3.9: native frames of the function less calls that have Python frames. */
static int64_t surplus_of(const struct merge *merge)
{
	int64_t surplus = -(int64_t)merge->stacks->entries.count;

	for (size_t i = 1; i < merge->walk->count; i++)
		surplus += is_eval(merge, i);
	return surplus;
}

static void merge_by_name(struct merge *merge)
{
	int64_t surplus = surplus_of(merge);

	for (size_t i = 1; i < merge->walk->count; i++) {
		bool eval = is_eval(merge, i);

		if (!eval || surplus > 0) {
			put_native(merge, &merge->walk->frames[i]);
			surplus -= eval; /* one that has just begun has no Python frame yet */
			continue;
		}
		for (; surplus < 0; surplus++)
			put_entry(merge);
		put_entry(merge);
	}
}

/* A frame's own bytes lie from the CFA of the one that it called to its own. Calls that the walk has passed
 * without meeting their frame come before the next frame. */
static void merge_by_address(struct merge *merge)
{
	const struct tm_walk *walk = merge->walk;

	for (size_t i = 1; i < walk->count; i++) {
		bool is_entry = false;

		while (merge->entry < merge->stacks->entries.count &&
		       merge->stacks->entries.items[merge->entry].local < walk->frames[i].cfa) {
			is_entry = is_entry || merge->stacks->entries.items[merge->entry].local >=
						       walk->frames[i - 1].cfa;
			put_entry(merge);
		}
		if (!is_entry)
			put_native(merge, &walk->frames[i]);
	}
}

static void run(struct merge *merge)
{
	const struct tm_python_stacks *stacks = merge->stacks;

	if (stacks->entries.count && stacks->entries.items[0].local)
		merge_by_address(merge);
	else
		merge_by_name(merge);
	while (merge->entry < stacks->entries.count) /* the native walk ended early */
		put_entry(merge);
}

static enum tm_cut cut_of(const struct merge *merge)
{
	if (merge->total > merge->session->frames.count)
		return TM_CUT_LIMIT;
	return merge->stacks->cut != TM_CUT_NONE && merge->stacks->cut != TM_CUT_LIMIT ? merge->stacks->cut
										       : merge->walk->cut;
}

/* Both stacks as they were at the event. */
static struct tm_error *walk(struct tm_session *session, const struct tm_event *event,
			     struct tm_python_stacks *stacks, uint32_t nframe)
{
	uint64_t thread_pointer = event->thread_pointer;
	struct tm_error *err = NULL;

	if (!thread_pointer)
		err = tm_target_thread_pointer(session->target, event->thread, &thread_pointer);
	if (err)
		return err;
	stacks->with_entries = true;
	err = tm_python_stacks_walk(stacks, thread_pointer, nframe);
	stacks->with_entries = false;
	if (!err)
		tm_stacks_walk(session, event->thread, event->capture);
	return err;
}

struct tm_error *tm_merge_traceback(struct tm_session *session, const struct tm_event *event,
				    struct tm_python_stacks *stacks, uint32_t *traceback)
{
	bool python = event->thread_pointer != 0;
	struct merge merge = {
		.session = session,
		.walk = &session->walk,
		.stacks = stacks,
		.limit = python ? tm_session_python_nframe(session) : tm_session_native_nframe(session),
	};
	struct tm_error *err = walk(session, event, stacks, merge.limit);

	if (err)
		return err;
	merge.inner = python && stacks->total;
	session->frames.count = 0;
	run(&merge);
	if (merge.failed)
		return tm_error_out_of_memory();
	*traceback = tm_tracebacks_intern(tm_tracer_tracebacks(session->tracer), session->frames.items,
					  (uint32_t)session->frames.count, merge.total, cut_of(&merge));
	return *traceback == UINT32_MAX ? tm_error_out_of_memory() : NULL;
}
