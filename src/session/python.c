/*
 * The python domain of a trace: which interpreter, when it is armed, whose frames own a block. A process that
 * runs already is armed at once. One that is started is armed at its call of Py_RunMain: the interpreter is
 * initialised then (and site imported), and no line of the script has been read.
 */
#include "session/session_internal.h"

#include <string.h>

#include "debuginfo/symbol.h"
#include "probe/slot_probe.h"
#include "probe/tracemalloc_pads.h"
#include "probe/tracemalloc_probe.h"
#include "python/current_state.h"
#include "python/frames.h"

/* What a traceback of one frame was interned as. */
struct site {
	uint64_t code, instruction;
	uint32_t total, traceback;
	uint64_t generation; /* of the codes: valid while it is the present one */
};

#define SITES 8192u /* a power of two */

#define STOP_TIMEOUT_MS 3000u

struct tm_python {
	struct tm_memory memory;
	struct tm_recording *recording; /* NULL: the pads stop */
	uint64_t unringed;		/* of it, as far as counted in session->lost */
	struct site *sites;		/* SITES of them */
	uint64_t generation;		/* rises when a code object is gone */
	struct tm_interpreter interpreter;
	bool found;				      /* interpreter is valid */
	bool was_armed;				      /* in this image or one before */
	uint64_t trigger;			      /* Py_RunMain's breakpoint; 0: none */
	struct tm_slot_probe *slots;		      /* NULL: not armed */
	struct tm_tracemalloc_probe *tracemalloc;     /* where pads stop */
	struct tm_tracemalloc_pads *tracemalloc_pads; /* where they record */
	struct tm_python_stacks stacks;
	struct tm_places places;
	struct tm_named_frames named;
	char *description;
};

static void name_frame(void *context, struct tm_frame frame, const char **function, const char **filename,
		       uint32_t *lineno)
{
	const struct tm_python *python = context;
	const struct tm_place *place = tm_places_get(&python->places, frame.module);

	*function = place->function;
	*filename = place->filename;
	*lineno = (uint32_t)frame.offset;
}

struct tm_error *tm_python_create(struct tm_session *session)
{
	struct tm_python *python = calloc(1, sizeof(*python));

	if (!python)
		return tm_error_out_of_memory();
	python->sites = calloc(SITES, sizeof(*python->sites));
	if (!python->sites) {
		free(python);
		return tm_error_out_of_memory();
	}
	python->generation = 1;
	python->memory = tm_target_memory(session->target);
	python->named = (struct tm_named_frames){TM_PLACE_FIRST, 0, python, name_frame};
	session->python = python;
	return NULL;
}

static struct tm_error *disarm_probes(struct tm_python *python, size_t *foreign)
{
	struct tm_error *err = NULL;

	if (python->tracemalloc)
		err = tm_tracemalloc_probe_disarm(python->tracemalloc);
	if (python->tracemalloc_pads)
		err = tm_error_first(err, tm_tracemalloc_pads_disarm(python->tracemalloc_pads));
	return python->slots ? tm_error_first(err, tm_slot_probe_disarm(python->slots, foreign)) : err;
}

static void destroy_probes(struct tm_python *python)
{
	tm_slot_probe_destroy(python->slots);
	tm_tracemalloc_probe_destroy(python->tracemalloc);
	tm_tracemalloc_pads_destroy(python->tracemalloc_pads);
	python->slots = NULL;
	python->tracemalloc = NULL;
	python->tracemalloc_pads = NULL;
}

/* What is known of one interpreter. */
static void forget(struct tm_python *python)
{
	destroy_probes(python);
	tm_recording_destroy(python->recording);
	python->recording = NULL;
	python->unringed = 0;
	python->generation++;
	tm_python_stacks_deinit(&python->stacks);
	memset(&python->stacks, 0, sizeof(python->stacks));
	python->found = false;
	python->trigger = 0;
}

void tm_python_destroy(struct tm_python *python)
{
	if (!python)
		return;
	forget(python);
	tm_places_deinit(&python->places);
	free(python->sites);
	free(python->description);
	free(python);
}

void tm_python_reset(struct tm_session *session)
{
	if (!session->python)
		return;
	forget(session->python);
	session->traced = TM_SESSION_RECOGNISE;
}

bool tm_python_is_armed(const struct tm_session *session)
{
	return session->python && session->python->slots;
}

struct tm_python_stacks *tm_python_stacks(const struct tm_session *session)
{
	return tm_python_is_armed(session) ? &session->python->stacks : NULL;
}

const char *tm_python_description(const struct tm_session *session)
{
	return session->python ? session->python->description : NULL;
}

const struct tm_named_frames *tm_python_named_frames(const struct tm_session *session)
{
	return session->python ? &session->python->named : NULL;
}

/* ---- finding and arming ---- */

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
	err = tm_target_stop_all(session->target, STOP_TIMEOUT_MS);
	if (err)
		return err;
	err = tm_breakpoints_remove_all(session->breakpoints, &session->foreign);
	session->loader_breakpoint = session->entry_breakpoint = session->python->trigger = 0;
	return tm_error_first(err, tm_target_resume_all(session->target, session->standing));
}

static struct tm_error *install_recorder(struct tm_session *session)
{
	struct tm_python *python = session->python;
	struct tm_recorder_python recipe = recipe_of(session);
	struct tm_error *err = tm_recording_create(session->target, &python->recording);

	if (!err)
		err = tm_recording_install(python->recording, &recipe);
	if (err) {
		tm_recording_destroy(python->recording);
		python->recording = NULL;
	}
	return err;
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
	struct tm_error *err = run ? tm_target_stop_all(session->target, STOP_TIMEOUT_MS) : NULL;

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
		.recording = python->recording,
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

static void give_recorder_up(struct tm_python *python)
{
	tm_error_destroy(tm_recording_disable(python->recording));
	tm_recording_destroy(python->recording);
	python->recording = NULL;
}

/* Without the hook the trace is right but for what others tell tracemalloc of. */
static struct tm_error *record_tracemalloc(struct tm_session *session, const struct tm_mappings *mappings)
{
	_cleanup_free_ char *text = NULL;
	struct tm_error *err = patch_tracemalloc(session, mappings);

	if (err && (wants_hook(session) || err->code != TM_ERROR_UNSUPPORTED)) {
		give_recorder_up(session->python);
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
		.recording = python->recording,
		.sink = {session, tm_events_take, NULL, tm_session_warn},
	};
	struct tm_error *err = tm_slot_probe_create(&config, &python->slots);

	if (err)
		return err;
	tm_python_stacks_init(&python->stacks, &python->interpreter, &python->memory, &python->places);
	err = tm_slot_probe_arm(python->slots);
	if (!err && python->recording)
		err = tm_recording_enable(python->recording);
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

static struct tm_error *arm(struct tm_session *session)
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
	if (!err && !python->recording)
		err = arm_tracemalloc(session, &mappings);
	if (!err)
		err = arm_slots(session);
	if (!err && python->tracemalloc_pads)
		err = while_still(session, tm_tracemalloc_pads_begin);
	if (err) {
		size_t foreign = 0;

		tm_error_destroy(disarm_probes(python, &foreign));
		destroy_probes(python);
	}
	python->was_armed |= !err;
	return err;
}

static struct tm_error *describe(struct tm_python *python)
{
	free(python->description);
	if (asprintf(&python->description, "CPython %s in %s", python->interpreter.version,
		     python->interpreter.module->path) < 0) {
		python->description = NULL;
		return tm_error_out_of_memory();
	}
	return NULL;
}

/* A program that is being started, by us or by exec: its interpreter will call Py_RunMain. */
static struct tm_error *await_main(struct tm_session *session)
{
	struct tm_python *python = session->python;
	struct tm_error *err;

	if (!python->interpreter.run_main)
		return NULL;
	err = tm_breakpoint_insert(session->breakpoints, python->interpreter.run_main);
	if (!err)
		python->trigger = python->interpreter.run_main;
	return err;
}

static const struct tm_module *find_module(const struct tm_session *session)
{
	for (uint32_t i = 1; i < tm_module_map_count(session->modules); i++) {
		const struct tm_module *module = tm_module_map_get(session->modules, i);

		if (module->loaded && tm_interpreter_is_in(module))
			return module;
	}
	return NULL;
}

/* Is the image one whose start we see? */
static bool is_started(const struct tm_session *session)
{
	return !session->config->attach_pid || session->exec_count;
}

static bool note_slot(uint64_t slot, void *context)
{
	(void)slot;
	*(bool *)context = true;
	return false;
}

/* Will the program call Py_RunMain? The interpreter's own executable does, and one that calls its main
 * function; other programs have an interpreter for ends of their own. */
static bool runs_interpreter(const struct tm_session *session, const struct tm_module *holder)
{
	static const char *const functions[] = {"Py_BytesMain", "Py_Main", "Py_RunMain"};
	const struct tm_module *program = tm_follow_main_module(session);
	bool calls = program == holder;

	for (size_t i = 0; program && !calls && i < TM_ARRAY_SIZE(functions); i++)
		tm_error_destroy(tm_module_each_got_slot(program, functions[i], 0, note_slot, &calls));
	return calls;
}

/* Where nobody said what is to be traced. */
static bool is_python_program(const struct tm_session *session, const struct tm_module *holder)
{
	const struct tm_python *python = session->python;

	return tm_interpreter_is_initialised(&python->interpreter, &python->memory) ||
	       (is_started(session) && runs_interpreter(session, holder));
}

/* Numbers of one domain do not go on in another: what was traced before stands in the snapshot of that image.
 */
static void settle(struct tm_session *session, enum tm_session_domain traced)
{
	if (session->traced_before != TM_SESSION_RECOGNISE && session->traced_before != traced)
		tm_tracer_forget_totals(session->tracer);
	session->traced = session->traced_before = traced;
	if (traced != TM_SESSION_BOTH)
		return;
	tm_tracer_claim_domain(session->tracer, TM_DOMAIN_PYTHON);
	tm_tracer_claim_domain(session->tracer, TM_DOMAIN_NATIVE_BESIDE);
}

static struct tm_error *open_interpreter(struct tm_session *session, const struct tm_module *module)
{
	struct tm_python *python = session->python;
	struct tm_error *err = tm_interpreter_open(module, &python->interpreter);

	python->found = !err;
	python->named.module = module->number;
	return err ? err : describe(python);
}

static struct tm_error *take_interpreter(struct tm_session *session, const struct tm_module *module)
{
	enum tm_session_domain wanted = session->config->domain;
	struct tm_python *python = session->python;
	struct tm_error *err = open_interpreter(session, module);

	if (err)
		return err;
	if (wanted == TM_SESSION_RECOGNISE)
		wanted = is_python_program(session, module) ? TM_SESSION_PYTHON : TM_SESSION_NATIVE;
	if (wanted != TM_SESSION_NATIVE &&
	    tm_interpreter_is_initialised(&python->interpreter, &python->memory))
		err = arm(session);
	else if (wanted != TM_SESSION_NATIVE && is_started(session))
		err = await_main(session);
	if (!err)
		settle(session, wanted);
	return err;
}

/* An interpreter that cannot be traced: said, where nobody asked for it. */
static struct tm_error *turn_to_native(struct tm_session *session, struct tm_error *err)
{
	_cleanup_free_ char *text = NULL;

	if (err->code != TM_ERROR_UNSUPPORTED || session->config->domain != TM_SESSION_RECOGNISE)
		return err;
	if (asprintf(&text, "%s; its native allocators are traced", err->message) >= 0)
		tm_session_warn(session, text);
	tm_error_destroy(err);
	settle(session, TM_SESSION_NATIVE);
	return NULL;
}

struct tm_error *tm_python_look(struct tm_session *session, bool complete)
{
	const struct tm_module *module;
	struct tm_error *err = NULL;

	if (session->python->found || session->traced == TM_SESSION_NATIVE)
		return NULL;
	module = find_module(session);
	if (module)
		err = take_interpreter(session, module);
	else if (session->config->domain != TM_SESSION_RECOGNISE)
		settle(session, session->config->domain);
	else if (complete)
		settle(session, TM_SESSION_NATIVE);
	return err ? turn_to_native(session, err) : NULL;
}

struct tm_error *tm_python_not_armed(const struct tm_session *session)
{
	if (session->python->found)
		return tm_error_create(TM_ERROR_NOT_FOUND, "nothing was traced: the %s is not initialised",
				       session->python->description);
	return tm_error_create(
		TM_ERROR_NOT_FOUND,
		"no CPython interpreter in process %d (%s): no module exports _PyRuntime and PyObject_Malloc",
		session->info.pid, session->info.comm);
}

struct tm_error *tm_python_check_armed(struct tm_session *session)
{
	struct tm_error *err;

	if (!session->python || session->python->was_armed || session->traced == TM_SESSION_NATIVE)
		return NULL;
	err = tm_python_not_armed(session);
	if (session->config->domain != TM_SESSION_RECOGNISE)
		return err;
	tm_session_warn(session, err->message);
	tm_error_destroy(err);
	return NULL;
}

/* ---- while it is armed ---- */

/* At Py_RunMain: the interpreter cannot be traced after all. */
static struct tm_error *go_native(struct tm_session *session, struct tm_error *err)
{
	err = turn_to_native(session, err);
	return err ? err : tm_follow_arm_natives(session);
}

static struct tm_error *hit_probes(struct tm_python *python, struct tm_thread *thread, uint64_t address,
				   bool *ours)
{
	struct tm_error *err = NULL;

	*ours = false;
	if (python->tracemalloc)
		err = tm_tracemalloc_probe_hit(python->tracemalloc, thread, address, ours);
	return err || *ours ? err : tm_slot_probe_hit(python->slots, thread, address, ours);
}

struct tm_error *tm_python_hit(struct tm_session *session, struct tm_thread *thread, uint64_t address,
			       bool *ours)
{
	struct tm_python *python = session->python;
	struct tm_error *err;

	*ours = false;
	err = python && python->slots ? hit_probes(python, thread, address, ours) : NULL;
	if (err || *ours || !python || address != python->trigger)
		return err;
	*ours = true;
	if (python->slots)
		return NULL;
	err = arm(session);
	if (!err)
		tm_session_announce(session);
	return err ? go_native(session, err) : NULL;
}

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
	struct site *site = &python->sites[(hash >> 40) % SITES];
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
	return session->python && session->python->slots && session->python->recording;
}

/* A thread waits because of code objects that may be unknown: they are read now, also where the event itself
   needs none, and nobody need wait for them again. */
static struct tm_error *look(struct tm_python *python, const struct tm_record_block *record)
{
	if (record->header.flags & TM_RECORD_NO_FRAMES)
		return NULL;
	for (uint32_t i = 0; i < record->frame_count; i++) {
		uint64_t code = record->frames[i].code;

		if (!tm_codes_get(&python->stacks.codes, &python->memory, code))
			return tm_error_out_of_memory();
		tm_recording_know_code(python->recording, code);
	}
	return NULL;
}

static struct tm_error *take_record(void *context, unsigned ring, const struct tm_record_header *record)
{
	struct tm_session *session = context;
	struct tm_python *python = session->python;
	uint64_t pointer;
	const struct tm_thread *thread = tm_recording_thread(python->recording, ring, &pointer);
	struct tm_error *err = NULL;

	if (record->kind == TM_RECORD_CODE)
		return tm_codes_learn(&python->stacks.codes, (const struct tm_record_code *)record)
			       ? NULL
			       : tm_error_out_of_memory();
	if (record->flags & TM_RECORD_LOOK)
		err = look(python, (const struct tm_record_block *)record);
	if (!err && python->tracemalloc_pads &&
	    (record->kind == TM_RECORD_TRACK || record->kind == TM_RECORD_UNTRACK))
		return tm_tracemalloc_pads_record(python->tracemalloc_pads, thread, pointer, record);
	return err ? err : tm_slot_probe_record(python->slots, thread, pointer, record);
}

uint64_t tm_python_doorbell(const struct tm_session *session)
{
	return tm_recording_doorbell(session->python->recording);
}

/* From so many live blocks on the tables are larger than the caches, and a hint is worth its time. */
#define ANNOUNCE_BLOCKS 200000u

static void announce(void *context, uint64_t block)
{
	const struct tm_session *session = context;

	tm_tracer_prefetch(session->tracer, TM_DOMAIN_PYTHON, block);
}

struct tm_error *tm_python_read(struct tm_session *session, bool still, size_t *count)
{
	bool large = tm_tracer_totals(session->tracer, TM_DOMAIN_PYTHON).blocks > ANNOUNCE_BLOCKS;
	const struct tm_record_sink sink = {session, take_record, large ? announce : NULL};

	*count = 0;
	return tm_python_records(session) ? tm_recording_read(session->python->recording, &sink, still, count)
					  : NULL;
}

void tm_python_thread_gone(struct tm_session *session, const struct tm_thread *thread)
{
	if (tm_python_records(session))
		tm_recording_thread_gone(session->python->recording, thread->tid);
	else if (tm_python_is_armed(session))
		tm_slot_probe_thread_gone(session->python->slots, thread);
}

struct tm_error *tm_python_thread_born(struct tm_session *session, struct tm_thread *thread)
{
	return tm_python_records(session) ? tm_recording_thread_born(session->python->recording, thread)
					  : NULL;
}

/* Events of threads for which there was no ring. */
static void count_lost(struct tm_session *session)
{
	struct tm_python *python = session->python;
	uint64_t unringed = tm_recording_unringed(python->recording);

	if (unringed && !python->unringed)
		tm_session_warn(session,
				"more threads record at a time than there are rings: some events are lost");
	session->lost += unringed - python->unringed;
	python->unringed = unringed;
}

void tm_python_tick(struct tm_session *session)
{
	if (!tm_python_records(session))
		return;
	tm_recording_refresh(session->python->recording);
	count_lost(session);
	if (session->ended || !tm_recording_has_ended(session->python->recording))
		return;
	session->lost++;
	session->ended = "detached";
	tm_session_warn(session, "the trace is incomplete from here on: tmtrace did not get to read in time");
}

/* Its pad is on the stack then, up to the first signal handler: what that one allocates is its own. */
bool tm_python_is_inner(const struct tm_session *session)
{
	const struct tm_walk *walk = &session->walk;

	if (!tm_python_is_armed(session))
		return false;
	for (size_t i = 1; i < walk->count && !walk->frames[i].is_signal; i++)
		if (tm_slot_probe_has(session->python->slots, walk->frames[i].pc))
			return true;
	return false;
}

/* ---- letting go ---- */

void tm_python_scrub_child(struct tm_session *session, pid_t child)
{
	if (!tm_python_is_armed(session))
		return;
	if (session->python->tracemalloc)
		tm_tracemalloc_probe_scrub_child(session->python->tracemalloc, child);
	if (session->python->tracemalloc_pads)
		tm_tracemalloc_pads_scrub_child(session->python->tracemalloc_pads, child);
	tm_slot_probe_scrub_child(session->python->slots, child);
}

struct tm_error *tm_python_disarm(struct tm_session *session)
{
	struct tm_error *err;
	size_t count;

	if (!tm_python_is_armed(session))
		return NULL;
	err = tm_python_read(session, true, &count); /* whoever waits for a look still can be looked at */
	err = tm_error_first(err, disarm_probes(session->python, &session->foreign));
	if (session->python->recording) {
		err = tm_error_first(err, tm_recording_disable(session->python->recording));
		count_lost(session);
	}
	if (session->python->tracemalloc_pads)
		err = tm_error_first(err, tm_tracemalloc_pads_abandon(session->python->tracemalloc_pads));
	return tm_error_first(err, tm_python_read(session, true, &count));
}
