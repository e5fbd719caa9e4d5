/*
 * --within: only what is allocated while a certain Python function is on the thread's stack counts, and the
 * end of such blocks, whoever brings it about.
 */
#include "session/session_internal.h"

#include <string.h>

#include "python/frames.h"
#include "python/within.h"

struct tm_error *tm_session_within_create(struct tm_session *session)
{
	struct tm_error *err;

	if (!session->config->within)
		return NULL;
	session->within = calloc(1, sizeof(*session->within));
	if (!session->within)
		return tm_error_out_of_memory();
	err = tm_within_parse(session->config->within, session->within);
	return err ? tm_error_prefix(err, "--within") : NULL;
}

void tm_session_within_destroy(struct tm_session *session)
{
	if (session->within)
		tm_within_deinit(session->within);
	free(session->within);
}

void tm_session_within_check_seen(struct tm_session *session)
{
	_cleanup_free_ char *text = NULL;

	if (!session->within || session->within->was_seen)
		return;
	if (asprintf(&text,
		     "nothing was counted: no function %s was on a Python stack when memory was asked for",
		     session->config->within) >= 0)
		tm_session_warn(session, text);
}

/* The thread stands still: its stack is read. */
static struct tm_error *walk(struct tm_session *session, const struct tm_event *event,
			     struct tm_python_stacks *stacks)
{
	uint64_t thread_pointer = event->thread_pointer;
	struct tm_error *err = NULL;

	if (!thread_pointer)
		err = tm_target_thread_pointer(session->target, event->thread, &thread_pointer);
	return err ? err : tm_python_stacks_walk(stacks, thread_pointer, 0);
}

/* A record has room for so many frames: what stands above them nobody knows. */
static void lose_deep(struct tm_session *session)
{
	if (!session->lost++)
		tm_session_warn(session,
				"what is allocated at the end of more than 1000 Python frames is lost: "
				"--probe breakpoint looks at deeper stacks");
}

struct tm_error *tm_session_is_within(struct tm_session *session, const struct tm_event *event, bool *within)
{
	struct tm_python_stacks *stacks = tm_python_stacks(session);
	struct tm_error *err;

	*within = !session->within;
	if (*within || !stacks || (tm_python_records(session) && !event->recorded && !event->thread_pointer))
		return NULL;
	stacks->with_places = true;
	err = event->recorded ? tm_python_stacks_take(stacks, event->recorded, 0)
			      : walk(session, event, stacks);
	stacks->with_places = false;
	if (!err)
		err = tm_within_is_on_stack(session->within, stacks->codes.places, stacks->places.items,
					    stacks->places.count, within);
	if (!err && !*within && event->recorded &&
	    event->recorded->frame_total > event->recorded->frame_count)
		lose_deep(session);
	return err;
}

/* A block that does not count takes the place of one that may: a resize gives that one back. */
void tm_session_take_outside(struct tm_session *session, const struct tm_event *event)
{
	struct tm_held *held = event->scratch;

	if (event->kind == TM_EVENT_RESIZE_END && held->known)
		tm_tracer_resize_freed(session->tracer, held, event->domain);
	if (tm_tracer_knows(session->tracer, event->domain, event->address))
		tm_tracer_untrack(session->tracer, event->domain, event->address);
}
