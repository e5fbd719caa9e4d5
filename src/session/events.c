/* From events to the model: the one place that decides what an allocator call means for the numbers. */
#include "session/session_internal.h"

#include <string.h>

#define OWN_DOMAINS 2u /* native and python */

_Static_assert(sizeof(struct tm_held) <= TM_EVENT_SCRATCH, "a held block lives in the event's scratch space");

/* A domain's number is the target's choice: what does not fit into the table beside the domains of this
   program's own is lost, and said so. */
static bool has_domain(struct tm_session *session, uint32_t domain)
{
	uint32_t count = tm_tracer_domain_count(session->tracer);

	if (domain == TM_DOMAIN_PYTHON || domain == TM_DOMAIN_NATIVE || count < TM_DOMAINS_MAX - OWN_DOMAINS)
		return true;
	for (uint32_t i = 0; i < count; i++)
		if (tm_tracer_domain(session->tracer, i) == domain)
			return true;
	return false;
}

static struct tm_error *allocation_of(struct tm_session *session, const struct tm_event *event,
				      struct tm_allocation *allocation)
{
	*allocation = (struct tm_allocation){
		.domain = event->domain,
		.tid = (uint32_t)event->thread->tid,
		.address = event->address,
		.size = event->size,
		.time = session->now_ns,
	};
	if (event->native)
		return tm_native_traceback(session, &allocation->traceback);
	if (event->recorded || event->thread_pointer ||
	    (event->domain == TM_DOMAIN_NATIVE_BESIDE && tm_python_is_armed(session)))
		return tm_python_traceback(session, event, &allocation->traceback);
	return tm_stacks_traceback(session, event->thread, event->capture, &allocation->traceback);
}

/* A native call that was made inside another allocator call, whose block it is: one of a patched function,
 * whose entry was not seen, or one of the interpreter's. */
static bool is_nested(struct tm_session *session, const struct tm_event *event)
{
	bool beside = event->domain == TM_DOMAIN_NATIVE_BESIDE;

	if (!event->capture || event->thread_pointer || !(beside || tm_patches_count(session->patches)))
		return false;
	tm_unwind(session->cfi, session->target->arch, session->target->pac_mask, event->capture, true,
		  TM_NFRAME_MAX, &session->walk);
	return session->walk.in_call || (beside && tm_python_is_inner(session));
}

/* What the interpreter takes from the native allocator is the python domain's. A block that it resizes may be
 * known here all the same. */
static bool take_inner(struct tm_session *session, const struct tm_event *event)
{
	struct tm_held *held = event->scratch;

	if (event->domain != TM_DOMAIN_NATIVE_BESIDE || !is_nested(session, event) || session->walk.in_call)
		return false;
	if (event->kind == TM_EVENT_RESIZE_END && held->known)
		tm_tracer_resize_freed(session->tracer, held, event->domain);
	return true;
}

static struct tm_error *take_block(struct tm_session *session, const struct tm_event *event)
{
	struct tm_allocation allocation;
	bool within = true;
	struct tm_error *err;

	if (take_inner(session, event))
		return NULL;
	err = tm_session_is_within(session, event, &within);
	if (!err && !within) {
		tm_session_take_outside(session, event);
		return NULL;
	}
	if (!err)
		err = allocation_of(session, event, &allocation);
	if (err)
		return err;
	if (event->capture && !event->thread_pointer && session->walk.in_call)
		return event->kind == TM_EVENT_RESIZE_END
			       ? tm_tracer_resize_cancel(session->tracer, event->scratch)
			       : NULL;
	if (event->kind == TM_EVENT_RESIZE_END)
		return tm_tracer_resize_end(session->tracer, event->scratch, &allocation);
	return tm_tracer_track(session->tracer, &allocation);
}

/*
 * What CPython puts before an object in its block: nothing, the collector's head, or that and the words of a
 * managed dictionary (Include/internal/pycore_gc.h, _PyType_PreHeaderSize). tracemalloc asks the type; the
 * block that holds the address tells as well.
 */
static struct tm_error *take_object(struct tm_session *session, const struct tm_event *event)
{
	static const uint64_t before_object[] = {0, 16, 32};
	struct tm_allocation allocation;
	uint64_t size;
	bool within;
	struct tm_error *within_err = tm_session_is_within(session, event, &within);

	if (within_err || !within)
		return within_err;
	for (size_t i = 0; i < TM_ARRAY_SIZE(before_object); i++) {
		uint64_t address = event->address - before_object[i];
		struct tm_error *err;

		if (!tm_tracer_find(session->tracer, event->domain, address, &size) ||
		    size <= before_object[i])
			continue;
		err = allocation_of(session, event, &allocation);
		allocation.address = address;
		allocation.size = size;
		return err ? err : tm_tracer_move(session->tracer, &allocation);
	}
	return NULL;
}

static void take_free(struct tm_session *session, const struct tm_event *event)
{
	bool known_only = event->nested || session->within || event->capture;

	if (event->domain == TM_DOMAIN_PYTHON)
		tm_python_freed(session, event->old_address);
	if (known_only && !tm_tracer_knows(session->tracer, event->domain, event->old_address) &&
	    (event->nested || session->within || is_nested(session, event)))
		return;
	tm_tracer_untrack(session->tracer, event->domain, event->old_address);
}

static struct tm_error *take_failure(struct tm_session *session, const struct tm_event *event)
{
	bool within = true;
	struct tm_error *err = tm_session_is_within(session, event, &within);

	if (!err && within && !is_nested(session, event))
		tm_tracer_failed(session->tracer, event->domain);
	return err;
}

static void take_freed_resize(struct tm_session *session, const struct tm_event *event)
{
	struct tm_held *held = event->scratch;

	if (held->known || !(session->within || take_inner(session, event)))
		tm_tracer_resize_freed(session->tracer, held, event->domain);
}

struct tm_error *tm_events_take(void *context, const struct tm_event *event)
{
	struct tm_session *session = context;
	struct tm_held held;

	if (!has_domain(session, event->domain)) {
		if (!session->lost++)
			tm_session_warn(session,
					"the program tells tracemalloc of memory in too many domains: "
					"some of them are not counted (lost)");
		return NULL;
	}
	switch (event->kind) {
	case TM_EVENT_ALLOCATE:
	case TM_EVENT_RESIZE_END:
		return take_block(session, event);
	case TM_EVENT_FAIL:
		return take_failure(session, event);
	case TM_EVENT_FREE:
		take_free(session, event);
		return NULL;
	case TM_EVENT_RESIZE_BEGIN:
		held = tm_tracer_resize_begin(session->tracer, event->domain, event->old_address);
		memcpy(event->scratch, &held, sizeof(held));
		return NULL;
	case TM_EVENT_RESIZE_CANCEL:
		return tm_tracer_resize_cancel(session->tracer, event->scratch);
	case TM_EVENT_RESIZE_FREED:
		take_freed_resize(session, event);
		return NULL;
	case TM_EVENT_OBJECT:
		return take_object(session, event);
	case TM_EVENT_LOST:
		session->lost++;
		return NULL;
	}
	return NULL;
}
