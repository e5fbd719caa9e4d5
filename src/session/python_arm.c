/* Arming the python domain: pads that record where a recorder can be, else pads that stop, and the probes at
 * tracemalloc. */
#include "session/python_internal.h"

#include <string.h>

#include "python/current_state.h"

/* The way to a library's thread-local variables is glibc's: another C library has another vector (musl: dtv
 * without generations). */
static bool has_glibc(const struct tm_session *session)
{
	for (uint32_t i = 1; i < tm_module_map_count(session->modules); i++) {
		const struct tm_module *module = tm_module_map_get(session->modules, i);
		const char *soname = module->loaded ? tm_module_soname(module) : NULL;

		if (soname && strcmp(soname, "libc.so.6") == 0)
			return true;
	}
	return false;
}

/* What the recorder must know to read frames. */
static struct tm_recorder_python recipe_of(const struct tm_session *session)
{
	const struct tm_python *python = session->python;
	const struct tm_python_layout *layout = &python->interpreter.layout;
	struct tm_current_state state = tm_current_state_find(&python->interpreter, &python->memory);

	if (state.kind == TM_STATE_MODULE && !has_glibc(session))
		state.kind = TM_STATE_UNKNOWN; /* the tracer looks at each stack itself */
	return (struct tm_recorder_python){
		.minor = layout->minor,
		.state_kind = state.kind,
		.state_place = state.place,
		.state_module = state.module,
		.nframe = session->within ? TM_RECORD_FRAMES_MAX : tm_session_python_nframe(session),
		.thread_id = layout->thread_id,
		.thread_frame = layout->thread_frame,
		.has_cframe = layout->has_cframe,
		.cframe_frame = layout->cframe_frame,
		.frame_code = layout->frame_code,
		.frame_back = layout->frame_back,
		.frame_instruction = layout->frame_instruction,
		.frame_lineno = layout->frame_lineno,
		.frame_trace = layout->frame_trace,
		.frame_owner = layout->frame_owner,
		.code_instructions = layout->code_instructions,
		.code_first_traceable = layout->code_first_traceable,
		.code_size = (uint16_t)tm_code_object_size(layout),
		.code_filename = layout->code_filename,
		.code_name =
			layout->code_qualname != TM_PYTHON_ABSENT ? layout->code_qualname : layout->code_name,
		.code_lines = layout->code_lines,
		.unicode_length = layout->unicode_length,
		.unicode_state = layout->unicode_state,
		.unicode_ascii = layout->unicode_ascii,
		.unicode_compact = layout->unicode_compact,
		.bytes_size = layout->bytes_size,
		.bytes_data = layout->bytes_data,
	};
}

/* Where pads record no breakpoint stands anywhere: those that led here have done their work. */
static struct tm_error *take_breakpoints_away(struct tm_session *session)
{
	struct tm_error *err;

	if (!tm_breakpoints_count(session->breakpoints))
		return NULL;
	err = tm_target_stop_all(session->target, TM_STOP_TIMEOUT_MS);
	if (err)
		return err;
	err = tm_breakpoints_remove_all(session->breakpoints, &session->foreign);
	session->loader_breakpoint = session->entry_breakpoint = session->python->trigger = 0;
	return tm_error_first(err, tm_target_resume_all(session->target, session->standing));
}

static struct tm_error *install_recorder(struct tm_session *session)
{
	struct tm_recorder_python recipe = recipe_of(session);

	return tm_records_install(session, &recipe);
}

static bool wants_hook(const struct tm_session *session)
{
	return session->config->exact && tm_python_has_hook(&session->python->interpreter);
}

static struct tm_error *check_recording(const struct tm_session *session)
{
	if (tm_session_python_nframe(session) > TM_RECORD_FRAMES_MAX)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "a record has room for %u frames, --nframe wants %u",
				       TM_RECORD_FRAMES_MAX, tm_session_python_nframe(session));
	return NULL;
}

/* An interpreter that has begun to end before the trace did, and perhaps waits for its threads. */
static struct tm_error *check_not_ending(const struct tm_session *session)
{
	uint64_t start, end;

	if (!wants_hook(session))
		return NULL;
	tm_python_finalize_range(&session->python->interpreter, &start, &end);
	return tm_tracemalloc_check_not_ending(session->target, start, end);
}

static struct tm_error *find_tracemalloc(struct tm_session *session, const struct tm_mappings *mappings,
					 struct tm_python_tracemalloc *places)
{
	struct tm_python *python = session->python;

	tm_python_tracemalloc_find(&python->interpreter, places);
	return wants_hook(session) ? tm_python_tracemalloc_find_hook(&python->interpreter, &python->memory,
								     mappings, places)
				   : NULL;
}

/* Calls `change` while all threads stand still; when it has returned they go on, but the one at whose stop we
 * are. At an attach they stand still anyway. */
static struct tm_error *while_still(struct tm_session *session,
				    struct tm_error *(*change)(struct tm_tracemalloc_pads *))
{
	bool run = session->standing != NULL;
	struct tm_error *err = run ? tm_target_stop_all(session->target, TM_STOP_TIMEOUT_MS) : NULL;

	if (err)
		return err;
	err = change(session->python->tracemalloc_pads);
	return run ? tm_error_first(err, tm_target_resume_all(session->target, session->standing)) : err;
}

/* On failure nothing is left of it. */
static struct tm_error *patch_tracemalloc(struct tm_session *session, const struct tm_mappings *mappings)
{
	struct tm_python *python = session->python;
	struct tm_tracemalloc_pads_config config = {
		.target = session->target,
		.pads = session->pads,
		.patches = session->patches,
		.breakpoints = session->breakpoints,
		.module = python->interpreter.module,
		.recording = session->recording,
		.exact = wants_hook(session),
		.sink = {session, tm_events_take, NULL, tm_session_warn},
	};
	struct tm_error *err = find_tracemalloc(session, mappings, &config.places);

	if (!err)
		err = tm_tracemalloc_pads_create(&config, &python->tracemalloc_pads);
	if (!err)
		err = while_still(session, tm_tracemalloc_pads_insert);
	if (!err)
		return NULL;
	tm_error_destroy(tm_patches_remove_all(session->patches, &session->foreign));
	tm_tracemalloc_pads_destroy(python->tracemalloc_pads);
	python->tracemalloc_pads = NULL;
	return err;
}

static void give_recorder_up(struct tm_session *session)
{
	tm_error_destroy(tm_recording_disable(session->recording));
	tm_records_forget(session);
}

/* Without the hook the trace is right but for what others tell tracemalloc of. */
static struct tm_error *record_tracemalloc(struct tm_session *session, const struct tm_mappings *mappings)
{
	_cleanup_free_ char *text = NULL;
	struct tm_error *err = patch_tracemalloc(session, mappings);

	if (err && (wants_hook(session) || err->code != TM_ERROR_UNSUPPORTED)) {
		give_recorder_up(session);
		return err;
	}
	if (err &&
	    asprintf(&text, "memory that others tell tracemalloc of is not counted: %s", err->message) >= 0)
		tm_session_warn(session, text);
	tm_error_destroy(err);
	return NULL;
}

/* Pads record where a recorder can be, unless they are to stop: beside the native domain they do, whose own
 * calls stop as well, and whose frames are read there. */
static struct tm_error *choose_pads(struct tm_session *session, const struct tm_mappings *mappings)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_error_ struct tm_error *reason = NULL;
	struct tm_error *err;

	if (session->config->probe == TM_SESSION_PROBE_BREAKPOINT ||
	    session->config->domain == TM_SESSION_BOTH)
		return NULL;
	err = check_recording(session);
	if (!err)
		err = install_recorder(session);
	if (!err)
		err = record_tracemalloc(session, mappings);
	if (!err)
		return take_breakpoints_away(session);
	if (session->config->probe == TM_SESSION_PROBE_PAD || err->code == TM_ERROR_NO_PROCESS)
		return err;
	reason = err;
	if (asprintf(&text, "the pads stop at every call, which is slow: %s", reason->message) >= 0)
		tm_session_warn(session, text);
	return NULL;
}

static struct tm_error *arm_slots(struct tm_session *session)
{
	struct tm_python *python = session->python;
	const struct tm_slot_probe_config config = {
		.target = session->target,
		.breakpoints = session->breakpoints,
		.interpreter = &python->interpreter,
		.recording = session->recording,
		.sink = {session, tm_events_take, NULL, tm_session_warn},
	};
	struct tm_error *err = tm_slot_probe_create(&config, &python->slots);

	if (err)
		return err;
	tm_python_stacks_init(&python->stacks, &python->interpreter, &python->memory, &python->places);
	err = tm_slot_probe_arm(python->slots);
	if (!err && session->recording)
		err = tm_recording_enable(session->recording);
	return err;
}

static struct tm_error *arm_tracemalloc(struct tm_session *session, const struct tm_mappings *mappings)
{
	struct tm_python *python = session->python;
	struct tm_tracemalloc_probe_config config = {
		.target = session->target,
		.breakpoints = session->breakpoints,
		.exact = wants_hook(session),
		.sink = {session, tm_events_take, NULL, tm_session_warn},
	};
	struct tm_error *err = find_tracemalloc(session, mappings, &config.places);

	if (!err)
		err = tm_tracemalloc_probe_create(&config, &python->tracemalloc);
	return err ? err : tm_tracemalloc_probe_arm(python->tracemalloc);
}

struct tm_error *tm_python_arm(struct tm_session *session)
{
	struct tm_python *python = session->python;
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};
	struct tm_error *err = tm_target_mappings(session->target, &mappings);

	if (!err)
		err = tm_interpreter_check(&python->interpreter, &python->memory, &mappings);
	if (!err && !session->standing) /* in an image that was there before us */
		err = tm_tracemalloc_recover(session->target, session->pads, session->breakpoints,
					     session->modules);
	if (!err)
		err = check_not_ending(session);
	if (!err)
		err = choose_pads(session, &mappings);
	if (!err && !session->recording)
		err = arm_tracemalloc(session, &mappings);
	if (!err)
		err = arm_slots(session);
	if (!err && python->tracemalloc_pads)
		err = while_still(session, tm_tracemalloc_pads_begin);
	if (err) {
		size_t foreign = 0;

		tm_error_destroy(tm_python_disarm_probes(python, &foreign));
		tm_python_destroy_probes(python);
	}
	python->was_armed |= !err;
	return err;
}
