/*
 * The python domain of a trace: which interpreter, when it is armed, whose frames own a block. A process that
 * runs already is armed at once. One that is started is armed at its call of Py_RunMain: the interpreter is
 * initialised then (and site imported), and no line of the script has been read.
 */
#include "session/session_internal.h"

#include <string.h>

#include "probe/slot_probe.h"
#include "python/frames.h"

struct tm_python {
	struct tm_memory memory;
	struct tm_interpreter interpreter;
	bool found;		     /* interpreter is valid */
	uint64_t trigger;	     /* Py_RunMain's breakpoint; 0: none */
	struct tm_slot_probe *slots; /* NULL: not armed */
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
	python->memory = tm_target_memory(session->target);
	python->named = (struct tm_named_frames){TM_PLACE_FIRST, 0, python, name_frame};
	session->python = python;
	return NULL;
}

/* What is known of one interpreter. */
static void forget(struct tm_python *python)
{
	tm_slot_probe_destroy(python->slots);
	python->slots = NULL;
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
	free(python->description);
	free(python);
}

void tm_python_reset(struct tm_session *session)
{
	if (session->python)
		forget(session->python);
}

bool tm_python_is_armed(const struct tm_session *session)
{
	return session->python && session->python->slots;
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

static struct tm_error *arm(struct tm_session *session)
{
	struct tm_python *python = session->python;
	const struct tm_slot_probe_config config = {
		.target = session->target,
		.breakpoints = session->breakpoints,
		.interpreter = &python->interpreter,
		.sink = {session, tm_events_take, NULL, tm_session_warn},
	};
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};
	struct tm_error *err = tm_target_mappings(session->target, &mappings);

	if (!err)
		err = tm_interpreter_check(&python->interpreter, &python->memory, &mappings);
	if (!err)
		err = tm_slot_probe_create(&config, &python->slots);
	if (err)
		return err;
	tm_python_stacks_init(&python->stacks, &python->interpreter, &python->memory, &python->places);
	err = tm_slot_probe_arm(python->slots);
	if (err) {
		tm_slot_probe_destroy(python->slots);
		python->slots = NULL;
	}
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

/* A program that is being started: its interpreter will call Py_RunMain. */
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

struct tm_error *tm_python_look(struct tm_session *session)
{
	struct tm_python *python = session->python;
	const struct tm_module *module = python && !python->found ? find_module(session) : NULL;
	struct tm_error *err;

	if (!module)
		return NULL;
	err = tm_interpreter_open(module, &python->interpreter);
	if (!err)
		err = describe(python);
	if (err)
		return err;
	python->found = true;
	python->named.module = module->number;
	if (tm_interpreter_is_initialised(&python->interpreter, &python->memory))
		return arm(session);
	return session->config->attach_pid ? NULL : await_main(session);
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

/* ---- while it is armed ---- */

struct tm_error *tm_python_hit(struct tm_session *session, struct tm_thread *thread, uint64_t address,
			       bool *ours)
{
	struct tm_python *python = session->python;
	struct tm_error *err;

	*ours = false;
	if (python && python->slots)
		err = tm_slot_probe_hit(python->slots, thread, address, ours);
	else
		err = NULL;
	if (err || *ours || !python || address != python->trigger)
		return err;
	*ours = true;
	if (python->slots)
		return NULL;
	err = arm(session);
	if (!err)
		tm_session_announce(session);
	return err;
}

struct tm_error *tm_python_traceback(struct tm_session *session, uint64_t thread_pointer, uint32_t *traceback)
{
	struct tm_tracebacks *tracebacks = tm_tracer_tracebacks(session->tracer);
	struct tm_python_stacks *stacks = &session->python->stacks;
	struct tm_error *err = tm_python_stacks_walk(stacks, thread_pointer, session->config->nframe);

	if (err)
		return err;
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

void tm_python_freed(struct tm_session *session, uint64_t address)
{
	if (session->python)
		tm_python_stacks_freed(&session->python->stacks, address);
}

void tm_python_thread_gone(struct tm_session *session, const struct tm_thread *thread)
{
	if (tm_python_is_armed(session))
		tm_slot_probe_thread_gone(session->python->slots, thread);
}

/* ---- letting go ---- */

void tm_python_scrub_child(struct tm_session *session, pid_t child)
{
	if (tm_python_is_armed(session))
		tm_slot_probe_scrub_child(session->python->slots, child);
}

struct tm_error *tm_python_disarm(struct tm_session *session)
{
	return tm_python_is_armed(session) ? tm_slot_probe_disarm(session->python->slots, &session->foreign)
					   : NULL;
}
