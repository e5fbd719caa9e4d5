/* What is shown while the trace runs. */
#include "session/session_internal.h"

void tm_status_get(const struct tm_session *session, struct tm_session_status *status)
{
	struct tm_totals totals = tm_tracer_totals(session->tracer, TM_DOMAIN_NATIVE);
	uint64_t events = totals.allocations + totals.frees + totals.unknown_frees + totals.failed;
	uint64_t passed = session->now_ns - session->status_ns;

	*status = (struct tm_session_status){
		.elapsed_ns = session->now_ns,
		.current = totals.current,
		.peak = totals.peak,
		.blocks = totals.blocks,
		.events = events,
		.events_per_second = passed ? (events - session->status_events) * 1000000000u / passed : 0,
	};
}

void tm_status_report(struct tm_session *session)
{
	struct tm_session_status status;

	tm_status_get(session, &status);
	session->status_ns = session->now_ns;
	session->status_events = status.events;
	if (session->config->status)
		session->config->status(session->config->context, &status);
}
