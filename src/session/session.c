/* The event loop: one stop after the other, and once in a while a look at the clock. */
#include "session/session_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"

#define TICK_NS	     (50 * 1000000ull) /* how often the clock's affairs are looked at */
#define STATUS_NS    (500 * 1000000ull)
#define SAMPLE_NS    (1000 * 1000000ull) /* timeline */
#define SAVE_NS	     (5000 * 1000000ull)
#define WARNINGS_MAX 20

void tm_session_warn(void *context, const char *text)
{
	struct tm_session *session = context;

	tm_log_info("%s", text);
	if (session->config->warning && session->warnings < WARNINGS_MAX)
		session->config->warning(session->config->context, text);
	session->warnings++;
}

/* ---- what happens by the clock ---- */

static void take_sample(struct tm_session *session)
{
	struct tm_totals totals = tm_tracer_totals(session->tracer, TM_DOMAIN_NATIVE);
	struct tm_report_sample sample = {session->now_ns, totals.current, totals.blocks,
					  session->exited ? 0 : tm_procfs_rss(session->info.pid)};

	tm_vector_push(&session->samples, sample);
	tm_threads_refresh(session);
}

static void tick(struct tm_session *session)
{
	session->next_tick_ns = session->now_ns + TICK_NS;
	tm_records_tick(session);
	if (session->now_ns - session->status_ns >= STATUS_NS)
		tm_status_report(session);
	if (session->now_ns >= session->next_sample_ns) {
		session->next_sample_ns = session->now_ns + SAMPLE_NS;
		take_sample(session);
	}
	if (session->now_ns >= session->next_save_ns) {
		session->next_save_ns = session->now_ns + SAVE_NS;
		tm_saver_offer(session->saver);
	}
}

static void ignore_signal(int signal)
{
	(void)signal;
}

/* A timer whose signal ends a blocking wait: so that the clock is looked at, and a request to stop is never
 * slept over. */
static void set_heartbeat(bool on)
{
	struct itimerval interval = {{0, on ? TICK_NS / 1000 : 0}, {0, on ? TICK_NS / 1000 : 0}};
	struct sigaction action = {.sa_handler = on ? ignore_signal : SIG_DFL};

	if (on)
		sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &interval, NULL);
}

/* ---- stops ---- */

static struct tm_error *handle_breakpoint(struct tm_session *session, const struct tm_stop *stop)
{
	bool ours = false;
	struct tm_error *err;

	session->standing = stop->thread;
	err = tm_python_hit(session, stop->thread, stop->address, &ours);
	if (!err && !ours)
		err = tm_probe_hit(session->probe, stop->thread, stop->address, &ours);
	tm_ptrace_follow_cpu(session->target, stop->thread, session->now_ns);
	if (!err && !ours)
		err = tm_follow_hit(session, stop->address, &ours);
	session->standing = NULL;
	return err ? err : tm_breakpoint_resume(session->breakpoints, stop->thread);
}

static struct tm_error *handle_exec(struct tm_session *session, const struct tm_stop *stop)
{
	bool traceable = true, first = !session->images.length;
	struct tm_error *err = tm_follow_exec(session, &traceable);

	if (!err && traceable) {
		tm_threads_seen(session, stop->thread);
		err = tm_breakpoint_resume(session->breakpoints, stop->thread);
	} else if (!err) {
		session->ended = "exec";
	}
	/* Of a program that we start: the saver has nothing to do yet. */
	return err || !first ? err : tm_record_start(session);
}

static void note_exit(struct tm_session *session, int wait_status)
{
	session->exited = true;
	session->wait_status = wait_status;
	session->ended = WIFSIGNALED(wait_status) ? "killed" : "exited";
}

static struct tm_error *handle_birth(struct tm_session *session, struct tm_thread *thread)
{
	struct tm_error *err = tm_records_thread_born(session, thread);

	tm_threads_seen(session, thread);
	return err ? err : tm_target_resume(session->target, thread);
}

/* What was recorded up to the stop comes before what the stop means. */
static struct tm_error *read_before(struct tm_session *session, const struct tm_stop *stop)
{
	bool gone = stop->kind == TM_STOP_EXIT || stop->kind == TM_STOP_EXEC;
	size_t count;

	if (stop->kind == TM_STOP_NONE)
		return NULL;
	return tm_records_read(session, gone ? TM_READ_ALL : TM_READ_CATCH_UP, &count);
}

static struct tm_error *handle_stop(struct tm_session *session, const struct tm_stop *stop)
{
	struct tm_error *err = read_before(session, stop);

	if (err)
		return err;
	switch (stop->kind) {
	case TM_STOP_NONE:
		return NULL;
	case TM_STOP_BREAKPOINT:
		return handle_breakpoint(session, stop);
	case TM_STOP_BIRTH:
		return handle_birth(session, stop->thread);
	case TM_STOP_FORK:
		return tm_follow_fork(session, stop->child);
	case TM_STOP_EXEC:
		return handle_exec(session, stop);
	case TM_STOP_EXIT:
		note_exit(session, stop->wait_status);
		return NULL;
	}
	return NULL;
}

/* ---- where pads record: nothing stops, so the rings are looked at again and again ---- */

#define PAUSE_MIN_NS	   30000u
#define PAUSE_MAX_NS	   5000000u /* where threads that wait for us wake us, */
#define PAUSE_MAX_BLIND_NS 500000u  /* and where they cannot */
#define WATCH_NS	   2000000u /* for so long after a thread had to wait for us, the next is waited for */

/* Pauses become longer until a ring has so much at their end, and shorter when it has more: each costs the
   processor's time, and takes it from others. */
#define BACKLOG_LOW  (TM_RING_SIZE / 32)
#define BACKLOG_HIGH (TM_RING_SIZE / 8)

static void watch_doorbell(const struct tm_session *session, uint64_t doorbell, uint64_t duration_ns)
{
	uint64_t begin = tm_monotonic_ns();

	do
		for (unsigned i = 0; i < 32 && tm_records_doorbell(session) == doorbell; i++)
			tm_relax();
	while (tm_records_doorbell(session) == doorbell && tm_monotonic_ns() - begin < duration_ns);
}

/* backlog: what the fullest ring had behind the last pause. */
static uint64_t next_pause(uint64_t pause_ns, uint64_t backlog, bool blind)
{
	uint64_t longest = blind ? PAUSE_MAX_BLIND_NS : PAUSE_MAX_NS;

	if (backlog > BACKLOG_HIGH)
		pause_ns /= 2;
	else if (backlog < BACKLOG_LOW)
		pause_ns += pause_ns / 4;
	return pause_ns < PAUSE_MIN_NS ? PAUSE_MIN_NS : pause_ns < longest ? pause_ns : longest;
}

static void pause_reading(struct tm_session *session)
{
	uint64_t doorbell = tm_records_doorbell(session), now = session->now_ns;
	uint32_t *asleep = tm_recording_asleep(session->recording);

	if (doorbell != session->doorbell) {
		session->doorbell = doorbell;
		session->watch_until_ns = now + WATCH_NS;
	}
	session->read_pause_ns = next_pause(session->read_pause_ns, session->backlog, !asleep);
	session->backlog = 0;
	if (now < session->watch_until_ns)
		watch_doorbell(session, doorbell, PAUSE_MIN_NS);
	else
		tm_target_pause(session->target, session->read_pause_ns, asleep);
}

static struct tm_error *read_and_poll(struct tm_session *session, struct tm_stop *stop)
{
	uint64_t backlog;
	size_t count;
	struct tm_error *err;

	session->now_ns = tm_monotonic_ns() - session->begin_ns;
	err = tm_records_read(session, TM_READ_READY, &count);
	backlog = tm_recording_backlog(session->recording);
	if (backlog > session->backlog)
		session->backlog = backlog;
	if (!err)
		err = tm_target_poll(session->target, stop);
	if (!err && stop->kind == TM_STOP_NONE && count < TM_READ_AT_ONCE)
		pause_reading(session);
	else if (stop->kind ==
		 TM_STOP_BREAKPOINT) /* of a function that could not be patched: more will come */
		session->watch_until_ns = session->now_ns + WATCH_NS;
	return err;
}

static struct tm_error *next_stop(struct tm_session *session, struct tm_stop *stop)
{
	return tm_records_on(session) ? read_and_poll(session, stop) : tm_target_wait(session->target, stop);
}

static struct tm_error *loop(struct tm_session *session)
{
	const struct tm_session_config *config = session->config;
	struct tm_error *err = NULL;
	struct tm_stop stop;

	while (!err && !session->ended) {
		bool asked_to_stop;

		err = next_stop(session, &stop);
		session->now_ns = tm_monotonic_ns() - session->begin_ns;
		if (!err)
			err = handle_stop(session, &stop);
		if (err && err->code == TM_ERROR_NO_PROCESS) {
			/* A thread that vanished in the middle of something; if it was the last, the next
			 * wait says so. */
			tm_log_debug("%s", err->message);
			tm_error_destroy(err);
			err = NULL;
		}
		asked_to_stop =
			*config->stop; /* read before the requests: one that came before it is not lost */
		if (!err)
			err = tm_snapshots_take_requested(session);
		if (session->now_ns >= session->next_tick_ns)
			tick(session);
		if (session->ended)
			break;
		if (asked_to_stop || (config->duration_ns && session->now_ns >= config->duration_ns))
			session->ended = "detached";
	}
	return err;
}

/* ---- begin ---- */

static char *default_path(const struct tm_session *session)
{
	char comm[32], *path;
	size_t n = 0;

	/* A name that a program chose for itself must not lead out of this folder, nor garble a terminal. */
	for (const char *c = session->info.comm; *c; c++, n++) {
		bool plain = (*c >= '0' && *c <= '9') || (*c >= 'A' && *c <= 'Z') ||
			     (*c >= 'a' && *c <= 'z') || strchr("_+-", *c) || (*c == '.' && n);

		comm[n] = *c;
		if (!plain)
			comm[n] = '_';
	}
	comm[n] = '\0';
	return asprintf(&path, "tmtrace.%s.%d.tmt", n ? comm : "process", session->info.pid) < 0 ? NULL
												 : path;
}

static struct tm_error *open_report(struct tm_session *session)
{
	session->path = session->config->output ? strdup(session->config->output) : default_path(session);
	if (!session->path)
		return tm_error_out_of_memory();
	return tm_report_writer_create(session->path, session->config->force, &session->writer);
}

/* Which name a program that is to be started will have, for the report's default path. */
static void guess_comm(struct tm_session *session)
{
	const char *slash = strrchr(session->config->argv[0], '/');

	snprintf(session->info.comm, sizeof(session->info.comm), "%.15s",
		 slash ? slash + 1 : session->config->argv[0]);
	session->info.pid = getpid();
}

/* Everything that can fail without touching a target comes first: the report file is the last of it. */
static struct tm_error *prepare(struct tm_session *session)
{
	struct tm_error *err;

	if (session->config->attach_pid) {
		err = tm_procfs_inspect(session->config->attach_pid, &session->info);
		if (err)
			return err;
	} else {
		guess_comm(session);
	}
	tm_records_prepare(session);
	err = tm_tracer_create(&session->tracer);
	if (!err)
		tm_tracer_sample(session->tracer, session->config->sample);
	if (!err)
		err = tm_session_within_create(session);
	if (!err && session->config->attach_pid)
		tm_follow_read_ahead(session);
	return err ? err : open_report(session);
}

#define HEAP_AHEAD (1u << 20) /* bytes */

/* Memory for what is done while the target stands still is in place before it does: a page that is touched
   for the first time costs a microsecond or two. */
static void touch_heap(void)
{
	void *ahead;

	mallopt(M_MMAP_THRESHOLD, 2 * HEAP_AHEAD);
	mallopt(M_TRIM_THRESHOLD, 4 * HEAP_AHEAD);
	ahead = malloc(HEAP_AHEAD);
	if (ahead)
		explicit_bzero(ahead, HEAP_AHEAD);
	free(ahead);
}

/* It may have replaced its image since it was looked at. */
static struct tm_error *identify(struct tm_session *session)
{
	tm_process_info_deinit(&session->info);
	return tm_procfs_identify(session->target->pid, &session->info);
}

static struct tm_error *attach(struct tm_session *session)
{
	struct tm_error *err = tm_ptrace_attach(session->info.pid, session->info.arch, &session->target);
	bool replaced = false;

	if (!err)
		err = identify(session);
	if (!err)
		err = tm_ptrace_begin(session->target, &replaced);
	return err || !replaced ? err : identify(session);
}

static struct tm_error *take_target(struct tm_session *session)
{
	struct tm_error *err;

	touch_heap();
	session->begin_ns = tm_monotonic_ns();
	err = session->config->attach_pid ? attach(session)
					  : tm_ptrace_launch(session->config->argv, &session->target);
	if (err)
		return err;
	session->info.pid = session->target->pid;
	session->target->thread_gone = tm_threads_gone;
	session->target->thread_gone_context = session;
	return NULL;
}

static struct tm_error *assemble(struct tm_session *session)
{
	struct tm_error *err = session->modules ? NULL : tm_follow_open(session);

	if (!err)
		err = tm_pads_create(session->target, &session->pads);
	if (!err)
		err = tm_breakpoints_create(session->target, session->pads, &session->breakpoints);
	const struct tm_patches_config patches = {session->target, session->pads, tm_stacks_each_saved_pc,
						  session};
	if (!err)
		err = tm_patches_create(&patches, &session->patches);
	if (err)
		return err;
	session->target->breakpoints = session->breakpoints;
	session->walk.pad_state = tm_stacks_pad_state;
	session->walk.pad_state_context = session;
	const struct tm_probe_config config = {
		.target = session->target,
		.breakpoints = session->breakpoints,
		.pads = session->pads,
		.patches = session->patches,
		.modules = session->modules,
		.cfi = session->cfi,
		.functions = session->functions,
		.sink = {session, tm_events_take, tm_stacks_in_signal_handler, tm_session_warn},
		.domain = session->config->domain == TM_SESSION_BOTH ? TM_DOMAIN_NATIVE_BESIDE
								     : TM_DOMAIN_NATIVE,
	};
	err = tm_probe_create(&config, &session->probe);
	session->traced =
		session->config->domain == TM_SESSION_NATIVE ? TM_SESSION_NATIVE : TM_SESSION_RECOGNISE;
	if (!err && session->config->domain != TM_SESSION_NATIVE)
		err = tm_python_create(session);
	return err;
}

static struct tm_error *start_attached(struct tm_session *session)
{
	struct tm_thread *thread;
	struct tm_error *err = tm_follow_attached(session);

	if (err)
		return err;
	for (size_t i = 0; (thread = tm_target_next_thread(session->target, &i));)
		tm_threads_seen(session, thread);
	err = tm_target_resume_all(session->target, NULL);
	if (!err && session->recording)
		err = tm_recording_begin_reading(session->recording);
	tm_follow_release_pages(session);
	return err ? err : tm_record_start(session);
}

static void describe_functions(const struct tm_session *session, struct tm_strbuf *what)
{
	size_t stop = tm_probe_unrecorded_count(session->probe);

	tm_strbuf_printf(what, "%zu functions in %zu modules", tm_probe_function_count(session->probe),
			 tm_probe_module_count(session->probe));
	if (session->native)
		tm_strbuf_puts(what, ", their pads record");
	if (session->native && stop)
		tm_strbuf_printf(what, ", but %zu stop (-v says why)", stop);
}

void tm_session_announce(struct tm_session *session)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf what = {0};
	size_t in_place = tm_breakpoints_count_in_place(session->breakpoints);

	if (tm_python_is_armed(session))
		tm_strbuf_printf(&what, "%s, its pads %s", tm_python_description(session),
				 tm_python_records(session) ? "record" : "stop");
	if (session->traced == TM_SESSION_BOTH && tm_python_is_armed(session))
		tm_strbuf_puts(&what, ", and ");
	if (session->traced != TM_SESSION_PYTHON)
		describe_functions(session, &what);
	if (in_place)
		tm_strbuf_printf(&what, "; %zu breakpoints step in place, which is slow", in_place);
	if (session->config->started && !what.failed)
		session->config->started(session->config->context, session->info.pid, session->info.comm,
					 what.text);
}

/* With breakpoints in the target an end of ours would be its end: the memory killer should choose somebody
 * else. */
static void avoid_memory_killer(void)
{
	_cleanup_close_ int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0 && write(fd, "-900", 4) < 0)
		tm_log_info("cannot lower oom_score_adj: %s", strerror(errno));
}

/* Every file that the target has mapped is kept open, so that it is still there for names when the target is
   gone. Not before the fork: a command that we start has its own limits. */
static void allow_many_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* ---- end ---- */

/* What was seen while the threads came to a stop: a forked child has our breakpoints in a memory of its own.
 */
static void handle_unseen(struct tm_session *session)
{
	struct tm_stop stop;

	while (tm_target_next_queued(session->target, &stop)) {
		if (stop.kind == TM_STOP_FORK)
			tm_error_destroy(tm_follow_fork(session, stop.child));
		else if (stop.kind == TM_STOP_EXIT)
			note_exit(session, stop.wait_status);
	}
}

/* No jump leads to a pad any more; who is inside the recorder is let out. */
static struct tm_error *disable_native(struct tm_session *session)
{
	struct tm_error *err = tm_records_disable(session);
	size_t count;

	return tm_error_first(err, tm_records_read(session, TM_READ_ALL, &count));
}

/* Slots and jumps first: a breakpoint that is gone is then not missed. A step that fails must not keep the
   others from being taken: what stays behind would kill the target. */
static struct tm_error *restore_target(struct tm_session *session)
{
	struct tm_error *err = tm_python_disarm(session);
	size_t slots = session->foreign, patched = 0, count;

	if (session->native) /* whoever waits for a look still can be looked at */
		err = tm_error_first(err, tm_records_read(session, TM_READ_ALL, &count));
	err = tm_error_first(err, tm_probe_disarm(session->probe));
	err = tm_error_first(err, tm_patches_remove_all(session->patches, &patched));
	if (session->native)
		err = tm_error_first(err, disable_native(session));
	err = tm_error_first(err, tm_breakpoints_remove_all(session->breakpoints, &session->foreign));
	session->foreign += slots + patched;
	return err;
}

/* Everything in the target as it was, then let go. */
static struct tm_error *leave_target(struct tm_session *session)
{
	uint64_t image = session->target->image, begin = tm_monotonic_ns();
	struct tm_error *err;

	if (session->exited || session->target->exited)
		return NULL;
	err = tm_target_stop_all(session->target, TM_STOP_TIMEOUT_MS);
	if (err &&
	    err->code == TM_ERROR_TIMEOUT) { /* single bytes can be restored under a running thread as well */
		tm_session_warn(session, err->message);
		tm_error_destroy(err);
		err = NULL;
	}
	if (session->probe)
		handle_unseen(session);
	if (!err && session->probe && image == session->target->image && !session->target->exited)
		err = restore_target(session);
	err = tm_error_first(err, tm_target_detach(session->target));
	session->detach_ns = tm_monotonic_ns() - begin;
	if (err &&
	    err->code ==
		    TM_ERROR_NO_PROCESS) { /* a thread ended meanwhile: nothing is left to restore in it */
		tm_error_destroy(err);
		err = NULL;
	}
	return err;
}

static void release(struct tm_session *session)
{
	for (size_t i = 0; i < session->snapshots.count; i++)
		tm_snapshot_destroy(session->snapshots.items[i]);
	tm_vector_deinit(&session->snapshots);
	tm_vector_deinit(&session->threads);
	tm_vector_deinit(&session->samples);
	tm_map_deinit(&session->thread_index);
	tm_vector_deinit(&session->frames);
	tm_walk_deinit(&session->walk);
	if (session->target)
		session->target->breakpoints = NULL;
	tm_target_destroy(session->target);
	tm_python_destroy(session->python);
	tm_map_deinit(&session->interpreters);
	tm_native_destroy(session->native);
	tm_recording_destroy(session->recording);
	tm_recording_release(&session->recording_needs);
	tm_session_within_destroy(session);
	tm_probe_destroy(session->probe);
	tm_patches_destroy(session->patches);
	tm_breakpoints_destroy(session->breakpoints);
	tm_pads_destroy(session->pads);
	tm_function_index_destroy(session->functions);
	tm_cfi_destroy(session->cfi);
	tm_module_map_destroy(session->modules);
	tm_tracer_destroy(session->tracer);
	tm_follow_close(session);
	tm_process_info_deinit(&session->info);
	free(session->path);
}

/* From the first byte changed in the target to the last one restored. */
static struct tm_error *trace(struct tm_session *session)
{
	struct tm_error *err;

	allow_many_files();
	err = assemble(session);
	if (!err && session->config->attach_pid)
		err = start_attached(session);
	if (!err)
		err = tm_saver_create(session, &session->saver);
	session->attach_ns = tm_monotonic_ns() - session->begin_ns;
	if (!err && session->config->attach_pid)
		tm_session_announce(session);
	if (!err) {
		avoid_memory_killer();
		set_heartbeat(true);
		err = loop(session);
		set_heartbeat(false);
	}
	if (!err)
		err = tm_python_check_armed(session);
	if (!err)
		tm_session_within_check_seen(session);
	return tm_error_first(err, leave_target(session));
}

static bool has_events(const struct tm_session *session)
{
	uint64_t events = 0;

	for (uint32_t i = 0; i < tm_tracer_domain_count(session->tracer); i++) {
		struct tm_totals totals =
			tm_tracer_totals(session->tracer, tm_tracer_domain(session->tracer, i));

		events += totals.allocations + totals.frees + totals.unknown_frees + totals.failed;
	}
	return events != 0;
}

static struct tm_error *finish(struct tm_session *session, struct tm_error *trace_err)
{
	bool traced = session->begin_ns && session->probe && (session->images.length || session->exited);
	struct tm_error *err = NULL;

	if (session->saver)
		err = tm_saver_finish(session->saver);
	if (!traced || (trace_err && (trace_err->code == TM_ERROR_NOT_FOUND || !has_events(session)))) {
		tm_report_writer_discard(session->writer);
		session->writer = NULL;
	} else if (!err) {
		err = tm_record_end(session);
	}
	if (session->writer)
		err = tm_error_first(err, tm_report_writer_close(session->writer));
	return tm_error_first(trace_err, err);
}

struct tm_error *tm_session_run(const struct tm_session_config *config, struct tm_session_result *result)
{
	struct tm_session *session = calloc(1, sizeof(*session));
	struct tm_error *err;

	memset(result, 0, sizeof(*result));
	if (!session)
		return tm_error_out_of_memory();
	session->config = config;
	session->root_fd = session->proc_fd = -1;
	session->recording_needs.watchdog = TM_NO_WATCHDOG;
	session->next_save_ns = SAVE_NS;
	err = prepare(session);
	if (!err)
		err = take_target(session);
	if (err) {
		tm_report_writer_discard(session->writer);
	} else {
		err = finish(session, trace(session));
		result->exited = session->exited;
		result->wait_status = session->wait_status;
		result->foreign = session->foreign;
		result->path = tm_steal(session->path);
	}
	release(session);
	free(session);
	return err;
}
