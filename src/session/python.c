/*
 * The python domain of a trace: which interpreter, when it is armed. A process that runs already is armed at
 * once. One that is started is armed at its call of Py_RunMain: the interpreter is initialised then (and site
 * imported), and no line of the script has been read.
 */
#include "session/python_internal.h"

#include <string.h>

#include "base/log.h"
#include "debuginfo/symbol.h"

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
	python->sites = calloc(TM_PYTHON_SITES, sizeof(*python->sites));
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

struct tm_error *tm_python_disarm_probes(struct tm_python *python, size_t *foreign)
{
	struct tm_error *err = NULL;

	if (python->tracemalloc)
		err = tm_tracemalloc_probe_disarm(python->tracemalloc);
	if (python->tracemalloc_pads)
		err = tm_error_first(err, tm_tracemalloc_pads_disarm(python->tracemalloc_pads));
	return python->slots ? tm_error_first(err, tm_slot_probe_disarm(python->slots, foreign)) : err;
}

void tm_python_destroy_probes(struct tm_python *python)
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
	tm_python_destroy_probes(python);
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
	if (tm_python_records(session))
		tm_records_forget(session);
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

/* ---- finding ---- */

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

/* A module's symbols are searched once. */
bool tm_python_is_in(struct tm_session *session, const struct tm_module *module)
{
	const uint64_t *known = tm_map_get(&session->interpreters, module->number);
	bool is_in = known ? *known : tm_interpreter_is_in(module);

	if (!known && !tm_map_put(&session->interpreters, module->number, is_in))
		tm_log_debug("no memory to remember what is in %s", module->path);
	return is_in;
}

static const struct tm_module *find_module(struct tm_session *session)
{
	for (uint32_t i = 1; i < tm_module_map_count(session->modules); i++) {
		const struct tm_module *module = tm_module_map_get(session->modules, i);

		if (module->loaded && tm_python_is_in(session, module))
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
		err = tm_python_arm(session);
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
	err = tm_python_arm(session);
	if (!err)
		tm_session_announce(session);
	return err ? go_native(session, err) : NULL;
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
	err = tm_records_read(session, TM_READ_ALL,
			      &count); /* whoever waits for a look still can be looked at */
	err = tm_error_first(err, tm_python_disarm_probes(session->python, &session->foreign));
	err = tm_error_first(err, tm_records_disable(session));
	if (session->python->tracemalloc_pads)
		err = tm_error_first(err, tm_tracemalloc_pads_abandon(session->python->tracemalloc_pads));
	return tm_error_first(err, tm_records_read(session, TM_READ_ALL, &count));
}
