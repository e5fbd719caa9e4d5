/* The scenarios as a release build has them: no frame pointers. */
#if !defined(__clang__)
#pragma GCC optimize("O2", "omit-frame-pointer")
#endif
#define SCENARIOS tm_scenarios_optimised
#include "support/unwind_fixture.inc"
