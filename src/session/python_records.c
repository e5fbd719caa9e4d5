/* The python domain while it is armed: whose frames own a block, and what the recorder has written. */
#include "session/python_internal.h"

/* Of the frames that were walked last. */
static struct tm_error *intern(struct tm_session *session, uint32_t *traceback)
{
	struct tm_tracebacks *tracebacks = tm_tracer_tracebacks(session->tracer);
	struct tm_python_stacks *stacks = &session->python->stacks;

	if (!tm_vector_reserve(&session->frames, stacks->frames.count))
		return tm_error_out_of_memory();
	for (size_t i = 0; i < stacks->frames.count; i++) {
		session->frames.items[i] = tm_tracebacks_frame(tracebacks, stacks->frames.items[i]);
		if (session->frames.items[i] == UINT32_MAX)
			return tm_error_out_of_memory();
	}
	*traceback = tm_tracebacks_intern(tracebacks, session->frames.items, (uint32_t)stacks->frames.count,
					  stacks->total, stacks->cut);
	return *traceback == UINT32_MAX ? tm_error_out_of_memory() : NULL;
}

static struct tm_error *take_recorded(struct tm_session *session, const struct tm_record_block *record,
				      uint32_t *traceback)
{
	struct tm_error *err =
		tm_python_stacks_take(&session->python->stacks, record, tm_session_python_nframe(session));

	return err ? err : intern(session, traceback);
}

/* Most calls come from few places. */
static struct tm_error *take_site(struct tm_session *session, const struct tm_record_block *record,
				  uint32_t *traceback)
{
	struct tm_python *python = session->python;
	const struct tm_record_frame *frame = &record->frames[0];
	uint64_t hash = (frame->code ^ frame->instruction << 7 ^ record->frame_total) * 0x9e3779b97f4a7c15u;
	struct tm_python_site *site = &python->sites[(hash >> 40) % TM_PYTHON_SITES];
	struct tm_error *err = NULL;

	if (site->code != frame->code || site->instruction != frame->instruction ||
	    site->total != record->frame_total || site->generation != python->generation) {
		err = take_recorded(session, record, &site->traceback);
		site->code = frame->code;
		site->instruction = frame->instruction;
		site->total = record->frame_total;
		site->generation = err ? 0 : python->generation;
	}
	*traceback = site->traceback;
	return err;
}

/* One frame of a Python allocation is its Python line, as in tracemalloc; beyond it the stacks are merged
 * where both domains are traced. Memory that a library tells tracemalloc of has no capture: its Python
 * frames. */
struct tm_error *tm_python_traceback(struct tm_session *session, const struct tm_event *event,
				     uint32_t *traceback)
{
	bool native = event->domain == TM_DOMAIN_NATIVE_BESIDE && !event->thread_pointer;
	struct tm_error *err;

	if (session->traced == TM_SESSION_BOTH && event->capture &&
	    (native || tm_session_python_nframe(session) > 1))
		return tm_merge_traceback(session, event, &session->python->stacks, traceback);
	if (event->recorded)
		return event->recorded->frame_count == 1 ? take_site(session, event->recorded, traceback)
							 : take_recorded(session, event->recorded, traceback);
	err = tm_python_stacks_walk(&session->python->stacks, event->thread_pointer,
				    tm_session_python_nframe(session));
	return err ? err : intern(session, traceback);
}

void tm_python_freed(struct tm_session *session, uint64_t address)
{
	if (session->python && tm_python_stacks_freed(&session->python->stacks, address))
		session->python->generation++;
}

/* ---- what was recorded ---- */

bool tm_python_records(const struct tm_session *session)
{
	return session->python && session->python->slots && session->recording;
}

/* A thread waits because of code objects that may be unknown: they are read now, also where the event itself
   needs none, and nobody need wait for them again. */
static struct tm_error *look(struct tm_session *session, const struct tm_record_block *record)
{
	struct tm_python *python = session->python;

	if (record->header.flags & TM_RECORD_NO_FRAMES)
		return NULL;
	for (uint32_t i = 0; i < record->frame_count; i++) {
		uint64_t code = record->frames[i].code;

		if (!tm_codes_get(&python->stacks.codes, &python->memory, code))
			return tm_error_out_of_memory();
		tm_recording_know_code(session->recording, code);
	}
	return NULL;
}

struct tm_error *tm_python_record(struct tm_session *session, const struct tm_thread *thread,
				  uint64_t pointer, const struct tm_record_header *record)
{
	struct tm_python *python = session->python;
	struct tm_error *err = NULL;

	if (record->kind == TM_RECORD_CODE)
		return tm_codes_learn(&python->stacks.codes, (const struct tm_record_code *)record)
			       ? NULL
			       : tm_error_out_of_memory();
	if (record->flags & TM_RECORD_LOOK)
		err = look(session, (const struct tm_record_block *)record);
	if (!err && python->tracemalloc_pads &&
	    (record->kind == TM_RECORD_TRACK || record->kind == TM_RECORD_UNTRACK))
		return tm_tracemalloc_pads_record(python->tracemalloc_pads, thread, pointer, record);
	return err ? err : tm_slot_probe_record(python->slots, thread, pointer, record);
}

void tm_python_thread_gone(struct tm_session *session, const struct tm_thread *thread)
{
	if (!tm_python_records(session) && tm_python_is_armed(session))
		tm_slot_probe_thread_gone(session->python->slots, thread);
}
