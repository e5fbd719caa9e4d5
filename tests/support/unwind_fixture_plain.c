/* The scenarios as a build without optimisation has them. */
#if defined(__clang__)
#pragma clang optimize off
#else
#pragma GCC optimize("O0")
#endif
#define SCENARIOS tm_scenarios_plain
#include "support/unwind_fixture.inc"

const size_t tm_scenario_count = TM_ARRAY_SIZE(tm_scenarios_plain);
