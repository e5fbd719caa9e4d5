/*
 * What pads record: the recorder in the target, and its records, whatever domain they are of. native.c and
 * python_records.c know what they mean.
 */
#include "session/session_internal.h"

#include "base/log.h"

bool tm_records_on(const struct tm_session *session)
{
	return session->recording != NULL;
}

void tm_records_prepare(struct tm_session *session)
{
	struct tm_error *err = session->config->probe == TM_SESSION_PROBE_BREAKPOINT
				       ? NULL
				       : tm_recording_prepare(&session->recording_needs);

	if (err) /* it is tried again where it is wanted */
		tm_log_info("%s", err->message);
	tm_error_destroy(err);
}

/* The code of the functions that will be patched. What is wrong with it is told where it is. */
static void want_pads(const struct tm_session *session, struct tm_recording_pads *wanted)
{
	_cleanup_error_ struct tm_error *err = NULL;

	wanted->pads = session->pads;
	for (uint32_t i = 1; session->native && !err && i < tm_module_map_count(session->modules) &&
			     wanted->count < TM_ARRAY_SIZE(wanted->near);
	     i++) {
		struct tm_module *module = tm_module_map_get(session->modules, i);
		const struct tm_indexed_module *indexed;

		if (!module->loaded || !module->text_count)
			continue;
		err = tm_function_index_get(session->functions, module, &indexed);
		if (!err && indexed->count)
			wanted->near[wanted->count++] = module->texts[0].start;
	}
}

struct tm_error *tm_records_install(struct tm_session *session, const struct tm_recorder_python *python)
{
	struct tm_recording_pads wanted = {0};
	struct tm_error *err = tm_recording_prepare(&session->recording_needs);

	if (!err)
		err = tm_recording_create(session->target, &session->recording_needs, &session->recording);
	if (!err)
		want_pads(session, &wanted);
	if (!err)
		err = tm_recording_install(session->recording, python, &wanted);
	if (err) {
		tm_recording_destroy(session->recording);
		session->recording = NULL;
	}
	return err;
}

void tm_records_forget(struct tm_session *session)
{
	tm_recording_destroy(session->recording);
	session->recording = NULL;
	session->unringed = 0;
}

/* ---- reading ---- */

static struct tm_error *take_record(void *context, unsigned ring, const struct tm_record_header *record)
{
	struct tm_session *session = context;
	uint64_t pointer;
	const struct tm_thread *thread = tm_recording_thread(session->recording, ring, &pointer);

	if (record->kind == TM_RECORD_LOADER)
		return tm_follow_loader(session);
	return session->native ? tm_native_record(session, ring, thread, record)
			       : tm_python_record(session, thread, pointer, record);
}

/* From so many live blocks on the tables are larger than the caches, and a hint is worth its time. */
#define ANNOUNCE_BLOCKS 200000u

static void announce(void *context, uint64_t block)
{
	const struct tm_session *session = context;

	tm_tracer_prefetch(session->tracer, TM_DOMAIN_NATIVE, block); /* alone it has Python's number */
}

_Static_assert(TM_DOMAIN_NATIVE == TM_DOMAIN_PYTHON, "one of them records, and is the only domain");

struct tm_error *tm_records_read(struct tm_session *session, enum tm_reading reading, size_t *count)
{
	bool large = session->recording &&
		     tm_tracer_totals(session->tracer, TM_DOMAIN_NATIVE).blocks > ANNOUNCE_BLOCKS;
	const struct tm_record_sink sink = {session, take_record, large ? announce : NULL};

	*count = 0;
	return session->recording ? tm_recording_read(session->recording, &sink, reading, count) : NULL;
}

uint64_t tm_records_doorbell(const struct tm_session *session)
{
	return tm_recording_doorbell(session->recording);
}

/* ---- threads and the clock ---- */

struct tm_error *tm_records_thread_born(struct tm_session *session, struct tm_thread *thread)
{
	return session->recording ? tm_recording_thread_born(session->recording, thread) : NULL;
}

void tm_records_thread_gone(struct tm_session *session, const struct tm_thread *thread)
{
	if (session->recording)
		tm_recording_thread_gone(session->recording, thread->tid);
}

/* Events of threads for which there was no ring. */
static void count_lost(struct tm_session *session)
{
	uint64_t unringed = tm_recording_unringed(session->recording);

	if (unringed && !session->unringed)
		tm_session_warn(session,
				"more threads record at a time than there are rings: some events are lost");
	session->lost += unringed - session->unringed;
	session->unringed = unringed;
}

void tm_records_tick(struct tm_session *session)
{
	if (!session->recording)
		return;
	tm_recording_refresh(session->recording);
	count_lost(session);
	if (session->ended || !tm_recording_has_ended(session->recording))
		return;
	session->lost++;
	session->ended = "detached";
	tm_session_warn(session, "the trace is incomplete from here on: tmtrace did not get to read in time");
}

struct tm_error *tm_records_disable(struct tm_session *session)
{
	struct tm_error *err;

	if (!session->recording)
		return NULL;
	err = tm_recording_disable(session->recording);
	count_lost(session);
	return err;
}
