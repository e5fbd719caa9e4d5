/* From a capture to a traceback of the model. */
#include "session/session_internal.h"

struct tm_frame tm_stacks_frame(const struct tm_walk_frame *walked)
{
	if (!walked->module)
		return (struct tm_frame){walked->lookup, 0};
	return (struct tm_frame){walked->lookup - walked->module->bias, walked->module->number};
}

/* The next capture of the thread takes as much of the stack as this walk needed, or a little less than before
 * if that was far too much. */
static void adapt_capture(struct tm_thread *thread, const struct tm_walk *walk,
			  const struct tm_capture *capture)
{
	const struct tm_walk_frame *last = walk->count ? &walk->frames[walk->count - 1] : NULL;
	uint64_t needed = last && last->cfa > capture->start ? last->cfa - capture->start : 0;

	if (walk->lowest_unread) {
		needed = (needed + 1023) & ~UINT64_C(1023);
		if (needed > thread->capture_size && needed <= TM_CAPTURE_MAX)
			thread->capture_size = needed;
	} else if (needed < thread->capture_size / 4 && thread->capture_size > TM_CAPTURE_DEFAULT) {
		thread->capture_size -= thread->capture_size / 16;
	}
}

void tm_stacks_walk(struct tm_session *session, struct tm_thread *thread, const struct tm_capture *capture)
{
	struct tm_walk *walk = &session->walk;

	tm_unwind(session->cfi, session->target->arch, session->target->pac_mask, capture, true,
		  TM_NFRAME_MAX, walk);
	adapt_capture(thread, walk, capture);
	session->fp_frames += walk->fp_frames;
}

struct tm_error *tm_stacks_intern(struct tm_session *session, size_t first, uint32_t *traceback)
{
	struct tm_tracebacks *tracebacks = tm_tracer_tracebacks(session->tracer);
	const struct tm_walk *walk = &session->walk;
	size_t total = walk->count > first ? walk->count - first : 0, stored;
	enum tm_cut cut;

	stored = total < tm_session_native_nframe(session) ? total : tm_session_native_nframe(session);
	cut = stored < total ? TM_CUT_LIMIT : walk->cut;
	if (!tm_vector_reserve(&session->frames, stored))
		return tm_error_out_of_memory();
	for (size_t i = 0; i < stored; i++) {
		session->frames.items[i] =
			tm_tracebacks_frame(tracebacks, tm_stacks_frame(&walk->frames[first + i]));
		if (session->frames.items[i] == UINT32_MAX)
			return tm_error_out_of_memory();
	}
	*traceback = tm_tracebacks_intern(tracebacks, session->frames.items, (uint32_t)stored,
					  (uint32_t)total, cut);
	return *traceback == UINT32_MAX ? tm_error_out_of_memory() : NULL;
}

/* Frame 0 of the walk is the allocator function itself: the traceback begins with its caller. */
struct tm_error *tm_stacks_traceback(struct tm_session *session, struct tm_thread *thread,
				     const struct tm_capture *capture, uint32_t *traceback)
{
	tm_stacks_walk(session, thread, capture);
	return tm_stacks_intern(session, 1, traceback);
}

bool tm_stacks_pad_state(void *context, uint64_t pc, bool is_return_address, struct tm_pad_state *state)
{
	const struct tm_session *session = context;

	if (tm_patches_pad_state(session->patches, pc, is_return_address, state))
		return true;
	*state = (struct tm_pad_state){0};
	if (!is_return_address) /* calls leave a breakpoint's pad with the original return address */
		state->original = tm_breakpoints_original_pc(session->breakpoints, pc);
	return state->original != 0;
}

/* The walk over a thread's own stack, from where it stands. */
static void walk_thread(struct tm_session *session, const struct tm_thread *thread, bool at_entry)
{
	struct tm_memory memory = tm_target_memory(session->target);
	struct tm_capture capture = {.regs = thread->regs, .memory = &memory};

	capture.start = thread->regs.value[session->target->arch->sp];
	tm_unwind(session->cfi, session->target->arch, session->target->pac_mask, &capture, at_entry,
		  TM_NFRAME_MAX, &session->walk);
}

bool tm_stacks_each_saved_pc(void *context, struct tm_thread *thread, tm_visit_pc visit, void *visit_context)
{
	struct tm_session *session = context;
	const struct tm_walk *walk = &session->walk;

	walk_thread(session, thread, false);
	for (size_t i = 1; i < walk->count; i++)
		if (walk->frames[i - 1].is_signal)
			visit(visit_context, walk->frames[i].pc);
	return walk->cut == TM_CUT_NONE;
}

/* Is there a signal frame between the thread's present frame and the one whose CFA is given? The thread
 * stands at a function's entry. */
bool tm_stacks_in_signal_handler(void *context, struct tm_thread *thread, uint64_t cfa)
{
	struct tm_session *session = context;
	const struct tm_walk *walk = &session->walk;
	bool in_handler = false;

	walk_thread(session, thread, true);
	for (size_t i = 0; i < walk->count; i++) {
		in_handler = in_handler || walk->frames[i].is_signal;
		if (walk->frames[i].cfa == cfa)
			return in_handler;
	}
	return false; /* that frame is not on the stack any more */
}
