/* What the report file tells besides the saves of saver.c: the facts of the trace at its start, all of it
 * with names at its end. */
#include "session/session_internal.h"

#include <string.h>
#include <sys/utsname.h>
#include <time.h>

static struct tm_error *take_last_snapshots(struct tm_session *session)
{
	static const struct {
		enum tm_snapshot_what what;
		const char *name;
	} last[] = {{TM_SNAPSHOT_LIVE, "end"}, {TM_SNAPSHOT_PEAK, "peak"}};

	for (size_t i = 0; i < TM_ARRAY_SIZE(last); i++) {
		struct tm_snapshot *snapshot = NULL;
		struct tm_error *err =
			tm_snapshot_take(session->tracer, last[i].what, last[i].name, session->now_ns,
					 last[i].what == TM_SNAPSHOT_LIVE, &snapshot);

		if (err)
			return err;
		if (!tm_vector_push(&session->snapshots, snapshot)) {
			tm_snapshot_destroy(snapshot);
			return tm_error_out_of_memory();
		}
	}
	return NULL;
}

struct text_fact {
	const char *key, *value;
};

struct number_fact {
	const char *key;
	uint64_t value;
};

static struct tm_error *write_texts(struct tm_report_writer *writer, const struct text_fact *facts,
				    size_t count)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i < count; i++)
		err = tm_report_writer_meta(writer, facts[i].key, facts[i].value ? facts[i].value : "");
	return err;
}

static struct tm_error *write_numbers(struct tm_report_writer *writer, const struct number_fact *facts,
				      size_t count)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i < count; i++)
		err = tm_report_writer_meta_u64(writer, facts[i].key, facts[i].value);
	return err;
}

static struct tm_error *write_program(struct tm_session *session)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf images = {0};
	const struct number_fact pid = {"pid", (uint64_t)session->info.pid};
	struct tm_error *err;

	tm_strbuf_printf(&images, "[%s]", session->images.text ? session->images.text : "");
	const struct text_fact facts[] = {
		{"exe", session->info.exe},
		{"command", session->info.command},
		{"images", images.text},
	};
	err = write_texts(session->writer, facts, TM_ARRAY_SIZE(facts));
	return err ? err : write_numbers(session->writer, &pid, 1);
}

static const char *native_probe(const struct tm_session *session)
{
	if (!session->native)
		return "breakpoint";
	return tm_probe_unrecorded_count(session->probe) ? "pad, breakpoint" : "pad";
}

/* What is traced; of a program that is started that is known a little later. */
static struct tm_error *write_domain(struct tm_session *session)
{
	bool native = session->traced == TM_SESSION_NATIVE || session->traced == TM_SESSION_RECOGNISE;
	bool both = session->traced == TM_SESSION_BOTH;
	const struct number_fact nframe = {"nframe", native ? tm_session_native_nframe(session)
							    : tm_session_python_nframe(session)};
	const struct text_fact facts[] = {{"probe", both     ? "slot, breakpoint"
						    : native ? native_probe(session)
							     : "slot"},
					  {"domains", both     ? "python,native"
						      : native ? "native"
							       : "python"},
					  {"interpreter", tm_python_description(session)}};
	struct tm_error *err = write_texts(session->writer, facts, TM_ARRAY_SIZE(facts) - native);

	return err ? err : write_numbers(session->writer, &nframe, 1);
}

/* What is known from the start: a file that a killed tracer leaves tells it too. */
struct tm_error *tm_record_start(struct tm_session *session)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf skip = {0};
	char started[40], kernel[300];
	time_t now = time(NULL);
	struct utsname host;
	struct tm_error *err;

	for (size_t i = 0; i < session->config->skip_count; i++)
		tm_strbuf_printf(&skip, "%s%s", i ? "\n" : "", session->config->skip[i]);
	strftime(started, sizeof(started), "%Y-%m-%dT%H:%M:%SZ", gmtime(&now));
	uname(&host);
	snprintf(kernel, sizeof(kernel), "%s %s", host.sysname, host.release);
	const struct text_fact facts[] = {
		{"arch", session->target->arch->name},
		{"within", session->config->within},
		{"started", started},
		{"kernel", kernel},
		{"version", TM_VERSION},
		{"skip", skip.text},
	};
	const struct number_fact sample = {"sample", session->config->sample};

	err = write_texts(session->writer, facts, TM_ARRAY_SIZE(facts));
	if (!err && sample.value)
		err = write_numbers(session->writer, &sample, 1);
	if (!err)
		err = write_domain(session);
	return err ? err : write_program(session);
}

static struct tm_error *write_end(struct tm_session *session)
{
	const struct text_fact ended = {"ended", session->ended ? session->ended : "error"};
	const struct number_fact facts[] = {
		{"duration_ns", session->now_ns},  {"lost", session->lost},
		{"warnings", session->warnings},   {"fp_frames", session->fp_frames},
		{"attach_ns", session->attach_ns}, {"detach_ns", session->detach_ns},
	};
	struct tm_error *err = write_program(session); /* an exec may have changed it */

	if (!err)
		err = write_texts(session->writer, &ended, 1);
	if (!err)
		err = write_domain(session);
	return err ? err : write_numbers(session->writer, facts, TM_ARRAY_SIZE(facts));
}

/* The last save, with names; the target is not needed any more. */
struct tm_error *tm_record_end(struct tm_session *session)
{
	struct tm_report_save request = {
		.tracebacks = tm_tracer_tracebacks(session->tracer),
		.modules = session->modules,
		.named = tm_python_named_frames(session),
		.threads = session->threads.items,
		.thread_count = session->threads.count,
		.samples = session->samples.items,
		.sample_count = session->samples.count,
		.progress = session->config->saving,
		.progress_context = session->config->context,
	};
	struct tm_error *err = take_last_snapshots(session);

	if (!err)
		err = write_end(session);
	if (!err)
		err = tm_symbolizer_create(session->modules, session->root_fd, &request.symbolizer);
	if (!err) {
		request.snapshots = (const struct tm_snapshot *const *)session->snapshots.items;
		request.snapshot_count = session->snapshots.count;
		err = tm_report_writer_save(session->writer, &request);
	}
	tm_symbolizer_destroy(request.symbolizer);
	return err;
}
