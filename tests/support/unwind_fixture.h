/*
 * Stacks of every kind, made by small functions that are compiled twice: without optimisation (frame
 * pointers) and with it (none). Each scenario calls `bottom` at its deepest point, once.
 */
#ifndef TM_TESTS_SUPPORT_UNWIND_FIXTURE_H
#define TM_TESTS_SUPPORT_UNWIND_FIXTURE_H

#include <stddef.h>

struct tm_unwind_scenario {
	const char *name;
	void (*run)(void (*bottom)(void));
};

extern const struct tm_unwind_scenario tm_scenarios_plain[], tm_scenarios_optimised[];
extern const size_t tm_scenario_count; /* of both */

#endif
