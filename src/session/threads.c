/* The threads that a report names: who they were, from when to when. A number may be used again by a later
 * thread. */
#include "session/session_internal.h"

#include <string.h>

static struct tm_report_thread *row_of(struct tm_session *session, pid_t tid)
{
	const uint64_t *index = tm_map_get(&session->thread_index, (uint64_t)tid);

	return index ? &session->threads.items[*index] : NULL;
}

void tm_threads_seen(struct tm_session *session, const struct tm_thread *thread)
{
	struct tm_report_thread row = {.tid = (uint32_t)thread->tid, .first_seen = session->now_ns};
	const struct tm_report_thread *present = row_of(session, thread->tid);

	if (present && !present->last_seen)
		return;
	tm_procfs_comm(thread->tgid, thread->tid, row.name);
	if (tm_vector_push(&session->threads, row))
		tm_map_put(&session->thread_index, (uint64_t)thread->tid, session->threads.count - 1);
}

void tm_threads_gone(void *context, struct tm_thread *thread)
{
	struct tm_session *session = context;
	struct tm_report_thread *row = row_of(session, thread->tid);

	if (session->probe)
		tm_probe_thread_gone(session->probe, thread);
	tm_python_thread_gone(session, thread);
	tm_records_thread_gone(session, thread);
	if (row)
		row->last_seen = session->now_ns ? session->now_ns : 1;
}

/* Programs name their threads some time after birth. */
void tm_threads_refresh(struct tm_session *session)
{
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(session->target, &i));) {
		struct tm_report_thread *row = row_of(session, thread->tid);
		char name[32];

		if (!row)
			continue;
		tm_procfs_comm(thread->tgid, thread->tid, name);
		if (name[0] != '?')
			memcpy(row->name, name, sizeof(name));
	}
}
