/*
 * Saving while the trace goes on: the session's thread takes a snapshot (a copy of the statistics) and hands
 * it to a thread of its own, which writes it to the report file. If the last save is not done yet, this one
 * is left out. Names are looked up at the end only, for reading debug information costs time and memory; what
 * a killed tracer leaves has modules and offsets.
 */
#include "session/session_internal.h"

#include <pthread.h>
#include <string.h>

struct tm_saver {
	struct tm_session *session;
	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t wake;
	/* under the mutex: */
	bool quit, busy;
	struct tm_snapshot *snapshot; /* to be saved; NULL: nothing to do */
	struct tm_vector(const struct tm_snapshot *)
		snapshots; /* all that are to be saved: named ones, the session's, and it */
	struct tm_vector(struct tm_report_thread) threads;
	struct tm_vector(struct tm_report_sample) samples;
	struct tm_error *err; /* of a save */
};

static struct tm_error *save(struct tm_saver *saver)
{
	struct tm_report_save request = {
		.tracebacks = tm_tracer_tracebacks(saver->session->tracer),
		.modules = saver->session->modules,
		.named = tm_python_named_frames(saver->session),
		.snapshots = saver->snapshots.items,
		.snapshot_count = saver->snapshots.count,
		.threads = saver->threads.items,
		.thread_count = saver->threads.count,
		.samples = saver->samples.items,
		.sample_count = saver->samples.count,
	};

	return tm_report_writer_save(saver->session->writer, &request);
}

static void *run(void *context)
{
	struct tm_saver *saver = context;

	pthread_mutex_lock(&saver->mutex);
	for (;;) {
		while (!saver->snapshot && !saver->quit)
			pthread_cond_wait(&saver->wake, &saver->mutex);
		if (!saver->snapshot)
			break;
		struct tm_snapshot *snapshot = tm_steal(saver->snapshot);
		struct tm_error *err;

		saver->busy = true;
		pthread_mutex_unlock(&saver->mutex);
		err = save(saver);
		tm_snapshot_destroy(snapshot);
		pthread_mutex_lock(&saver->mutex);
		saver->busy = false;
		saver->threads.count = saver->samples.count = saver->snapshots.count = 0;
		if (saver->err)
			tm_error_destroy(err);
		else
			saver->err = err;
	}
	pthread_mutex_unlock(&saver->mutex);
	return NULL;
}

/* The signals that end a trace must reach the session's own thread, which waits for the target. */
static int start_thread(struct tm_saver *saver)
{
	sigset_t all, before;
	int failed;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	failed = pthread_create(&saver->thread, NULL, run, saver);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed;
}

struct tm_error *tm_saver_create(struct tm_session *session, struct tm_saver **out)
{
	struct tm_saver *saver = calloc(1, sizeof(*saver));
	int failed;

	if (!saver)
		return tm_error_out_of_memory();
	saver->session = session;
	pthread_mutex_init(&saver->mutex, NULL);
	pthread_cond_init(&saver->wake, NULL);
	failed = start_thread(saver);
	if (failed) {
		free(saver);
		return tm_error_errno(failed, "cannot start a thread");
	}
	*out = saver;
	return NULL;
}

/* Named ones that no save has had yet, and the present state. */
static bool list_snapshots(struct tm_saver *saver)
{
	struct tm_session *session = saver->session;

	for (; session->snapshots_offered < session->snapshots.count; session->snapshots_offered++)
		if (!tm_vector_push(&saver->snapshots, session->snapshots.items[session->snapshots_offered]))
			return false;
	return tm_vector_push(&saver->snapshots, saver->snapshot);
}

static void copy_lists(struct tm_saver *saver)
{
	struct tm_session *session = saver->session;

	if (tm_vector_reserve(&saver->threads, session->threads.count)) {
		memcpy(saver->threads.items, session->threads.items,
		       session->threads.count * sizeof(*session->threads.items));
		saver->threads.count = session->threads.count;
	}
	if (tm_vector_reserve(&saver->samples, session->samples.count)) {
		memcpy(saver->samples.items, session->samples.items,
		       session->samples.count * sizeof(*session->samples.items));
		saver->samples.count = session->samples.count;
		session->samples.count = 0;
	}
}

void tm_saver_offer(struct tm_saver *saver)
{
	struct tm_session *session = saver->session;

	pthread_mutex_lock(&saver->mutex);
	if (!saver->busy && !saver->snapshot && !saver->err) {
		struct tm_error *err = tm_snapshot_take(session->tracer, TM_SNAPSHOT_LIVE, "end",
							session->now_ns, false, &saver->snapshot);

		tm_error_destroy(err); /* no memory for a copy now: the next one, or the end */
		if (!err && list_snapshots(saver))
			copy_lists(saver);
		pthread_cond_signal(&saver->wake);
	}
	pthread_mutex_unlock(&saver->mutex);
}

struct tm_error *tm_saver_finish(struct tm_saver *saver)
{
	struct tm_error *err;

	pthread_mutex_lock(&saver->mutex);
	saver->quit = true;
	pthread_cond_signal(&saver->wake);
	pthread_mutex_unlock(&saver->mutex);
	pthread_join(saver->thread, NULL);
	err = saver->err;
	tm_vector_deinit(&saver->snapshots);
	tm_vector_deinit(&saver->threads);
	tm_vector_deinit(&saver->samples);
	pthread_mutex_destroy(&saver->mutex);
	pthread_cond_destroy(&saver->wake);
	free(saver);
	return err;
}
