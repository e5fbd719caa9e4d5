/*
 * The stress runs without criterion: built with ThreadSanitizer, which sees every access of recorder and
 * reader but the records' places themselves, which it sees as well (writer.h: fetch_add).
 */
#include <stdio.h>

#include "recorder/stress.h"

static const struct {
	const char *name;
	struct stress stress;
} runs[] = {
	/* Without a margin records are read as soon as they are committed. */
	{"one thread", {.threads = 1, .generations = 1, .calls = 100000, .addresses = 64, .codes = 1}},
	{"threads", {.threads = 4, .generations = 1, .calls = 30000, .addresses = 64, .codes = 1}},
	{"waiting",
	 {.threads = 3, .generations = 1, .calls = 30000, .addresses = 64, .codes = 1, .slow_reader = true}},
	{"looks", {.threads = 3, .generations = 1, .calls = 5000, .addresses = 64, .codes = 20000}},
	{"handlers",
	 {.threads = 3, .generations = 1, .calls = 30000, .addresses = 64, .codes = 1, .handler_us = 500}},
	{"generations",
	 {.threads = 4, .generations = 40, .calls = 200, .addresses = 64, .codes = 1, .leave_rings = true}},
	{"native",
	 {.threads = 4, .generations = 1, .calls = 30000, .addresses = 64, .codes = 1, .native = true}},
	{"native, waiting",
	 {.threads = 3,
	  .generations = 1,
	  .calls = 20000,
	  .addresses = 64,
	  .codes = 1,
	  .slow_reader = true,
	  .native = true}},
	{"native, handlers",
	 {.threads = 3,
	  .generations = 1,
	  .calls = 20000,
	  .addresses = 64,
	  .codes = 1,
	  .handler_us = 500,
	  .native = true}},
	{"native, jumps",
	 {.threads = 3,
	  .generations = 1,
	  .calls = 10000,
	  .addresses = 64,
	  .codes = 1,
	  .native = true,
	  .jump_us = 500}},
	{"native, generations",
	 {.threads = 4,
	  .generations = 40,
	  .calls = 200,
	  .addresses = 64,
	  .codes = 1,
	  .leave_rings = true,
	  .native = true}},
};

static bool succeeds(const struct stress *stress)
{
	struct plant plant;
	struct stress_result result;

	plant_open(&plant, PLANT_COMPILED);
	stress_run(&plant, stress, &result);
	plant_close(&plant);
	if (result.wrong)
		printf("%llu wrong; %s\n", (unsigned long long)result.wrong, result.first_wrong);
	return !result.wrong && result.lost <= result.jumps &&
	       result.given + result.lost == result.calls + result.handler_calls;
}

int main(void)
{
	unsigned failed = 0, count = sizeof(runs) / sizeof(runs[0]);

	for (unsigned i = 0; i < count; i++) {
		bool good = succeeds(&runs[i].stress);

		printf("%s: %s\n", runs[i].name, good ? "passed" : "failed");
		failed += !good;
	}
	printf("%u passed, %u failed, 0 skipped\n", count - failed, failed);
	return failed != 0;
}
