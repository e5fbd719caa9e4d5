#include "support/event_recorder.h"

#include <string.h>

struct recorded recorded;

static struct tm_error *take(void *context, const struct tm_event *event)
{
	struct recorded_event *one = &recorded.events[recorded.count++];

	(void)context;
	cr_assert_leq(recorded.count, TM_ARRAY_SIZE(recorded.events));
	*one = (struct recorded_event){
		.kind = event->kind,
		.address = event->address,
		.old = event->old_address,
		.size = event->size,
		.nested = event->nested,
		.tid = event->thread->tid,
		.regs = event->capture ? event->capture->regs : (struct tm_regs){.value = {0}},
		.start = event->capture ? event->capture->start : 0,
	};
	if (event->capture && event->capture->size >= sizeof(one->first_word))
		memcpy(&one->first_word, event->capture->bytes, sizeof(one->first_word));
	if (event->kind == TM_EVENT_RESIZE_BEGIN)
		memset(event->scratch, event->thread->tid, TM_EVENT_SCRATCH);
	else if (event->scratch)
		one->scratch_kept = *(const uint8_t *)event->scratch == (uint8_t)event->thread->tid;
	return NULL;
}

static bool in_signal_handler(void *context, struct tm_thread *thread, uint64_t cfa)
{
	(void)context;
	(void)thread;
	(void)cfa;
	return recorded.in_handler;
}

static void warn(void *context, const char *text)
{
	(void)context;
	snprintf(recorded.warning, sizeof(recorded.warning), "%s", text);
}

const struct tm_event_sink recorder_sink = {NULL, take, in_signal_handler, warn};
