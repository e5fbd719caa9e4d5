/*
 * Named snapshots of the tables: of an image that exec replaces, and those that the user asks for while the
 * trace runs ("1", "2", ... in the order of the requests). They are kept to the end, and saved with the next
 * save.
 */
#include "session/session_internal.h"

struct tm_error *tm_snapshots_take(struct tm_session *session, const char *name)
{
	struct tm_snapshot *snapshot = NULL;
	struct tm_error *err =
		tm_snapshot_take(session->tracer, TM_SNAPSHOT_LIVE, name, session->now_ns, false, &snapshot);

	if (err)
		return err;
	if (tm_vector_push(&session->snapshots, snapshot))
		return NULL;
	tm_snapshot_destroy(snapshot);
	return tm_error_out_of_memory();
}

static struct tm_error *take_next(struct tm_session *session)
{
	const struct tm_session_config *config = session->config;
	struct tm_session_status status;
	struct tm_error *err;
	char name[32];

	snprintf(name, sizeof(name), "%u", ++session->snapshots_taken);
	err = tm_snapshots_take(session, name);
	if (err || !config->snapshot)
		return err;
	tm_status_get(session, &status);
	config->snapshot(config->context, name, &status);
	return NULL;
}

/* One for each request: several that came between two stops show the same tables, and none is missing. */
struct tm_error *tm_snapshots_take_requested(struct tm_session *session)
{
	unsigned requested = session->config->snapshots ? (unsigned)*session->config->snapshots : 0;
	struct tm_error *err;
	size_t count;

	if (session->snapshots_taken == requested)
		return NULL;
	err = tm_records_read(session, TM_READ_CATCH_UP,
			      &count); /* what was recorded before the request belongs to it */
	while (!err && session->snapshots_taken != requested)
		err = take_next(session);
	session->next_tick_ns = session->next_save_ns = session->now_ns;
	return err;
}
