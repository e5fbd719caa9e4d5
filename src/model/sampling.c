#include "model/sampling.h"

#include <math.h>

#include "base/hash.h"

#define UNITS 0x1p32 /* of variance in R^2 */

/* The same for the same block, and over many like fair draws from [0, 1): no pattern of addresses and times
   goes through the hash. */
static double chance_of(uint64_t address, uint64_t time)
{
	return (double)(tm_hash_u64(address ^ tm_hash_u64(time)) >> 11) * 0x1p-53;
}

static uint64_t round_by_chance(double number, double chance)
{
	double whole = floor(number);

	return (uint64_t)whole + (chance < number - whole);
}

/*
 * With x = max(s, 1) / R: 1 / p = 1 / (1 - exp(-x)) = 1 + u, where u = 1 / expm1(x) is exact for small x and
 * becomes 0 for large ones, whose sizes come out to the byte; and (1 - p) / p^2 = u (1 + u).
 */
struct tm_weight tm_sampling_weight(uint64_t mean_bytes, uint64_t address, uint64_t size, uint64_t time)
{
	double mean = (double)mean_bytes, ratio = (double)size / mean;
	double unseen = 1 / expm1(size ? ratio : 1 / mean);

	return (struct tm_weight){
		.size = size + (uint64_t)((double)size * unseen + 0.5),
		.count = 1 + round_by_chance(unseen, chance_of(address, time)),
		.variance = (uint64_t)(ratio * ratio * unseen * (1 + unseen) * UNITS + 0.5),
	};
}

double tm_sampling_variance(uint64_t mean_bytes, uint64_t units)
{
	return (double)mean_bytes * (double)mean_bytes / UNITS * (double)units;
}
