/* What is shown while the trace runs. */
#include "session/session_internal.h"

static struct tm_session_amount amount_of(const struct tm_session *session, uint32_t domain,
					  const struct tm_totals *totals)
{
	bool python = session->traced == TM_SESSION_PYTHON || session->traced == TM_SESSION_BOTH;

	return (struct tm_session_amount){python && domain == TM_DOMAIN_PYTHON ? "python" : "native",
					  totals->current, totals->peak, totals->blocks};
}

void tm_status_get(const struct tm_session *session, struct tm_session_status *status)
{
	uint64_t passed = session->now_ns - session->status_ns;

	*status = (struct tm_session_status){
		.elapsed_ns = session->now_ns,
		.amount_count = session->traced == TM_SESSION_BOTH ? 2 : 1,
	};
	for (uint32_t domain = 0; domain < status->amount_count; domain++) {
		struct tm_totals totals = tm_tracer_totals(session->tracer, domain);

		status->amounts[domain] = amount_of(session, domain, &totals);
		status->events += totals.allocations + totals.frees + totals.unknown_frees + totals.failed;
	}
	if (passed)
		status->events_per_second = (status->events - session->status_events) * 1000000000u / passed;
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
