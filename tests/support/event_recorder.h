/*
 * A receiver of the probe's events that keeps them for a test to look at.
 */
#ifndef TESTS_EVENT_RECORDER_H
#define TESTS_EVENT_RECORDER_H

#include <criterion/criterion.h>

#include "base/cleanup.h"
#include "probe/event.h"

struct recorded {
	struct recorded_event {
		enum tm_event_kind kind;
		uint64_t address, old, size;
		bool nested;
		pid_t tid;
		struct tm_regs regs;	    /* of the capture */
		uint64_t start, first_word; /* of the capture */
		bool scratch_kept;	    /* what RESIZE_BEGIN left there is there at the end */
	} events[64];
	size_t count;
	bool in_handler; /* what the sink answers: a test says what unwinding would find */
	char warning[512];
};

extern struct recorded recorded;
extern const struct tm_event_sink recorder_sink;

/* The kinds of all events so far, and no other. */
#define EXPECT(...)                                                                                          \
	do {                                                                                                 \
		const enum tm_event_kind kinds[] = {__VA_ARGS__};                                            \
		cr_assert_eq(recorded.count, TM_ARRAY_SIZE(kinds), "%zu events", recorded.count);            \
		for (size_t i = 0; i < TM_ARRAY_SIZE(kinds); i++)                                            \
			cr_assert_eq(recorded.events[i].kind, kinds[i], "event %zu is %d", i,                \
				     recorded.events[i].kind);                                               \
	} while (0)

#endif
