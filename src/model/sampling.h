/*
 * What a sampled block stands for. The recorder takes a Poisson sample by bytes: it sees a block of s bytes
 * with the probability p = 1 - exp(-max(s, 1) / R), R being the mean number of bytes between two samples, and
 * each block independently of all others. The estimator of Horvitz and Thompson (1952) takes it for w = 1 / p
 * blocks of s bytes: sums of those are unbiased, whatever the sizes are. An unbiased estimate of the variance
 * of a sum of bytes is the sum of s^2 (1 - p) / p^2 over the blocks that were seen.
 *
 * A weight is made of integers, and depends on nothing but the block: what is subtracted is what was added,
 * so that no sum drifts, and one over no blocks is 0.
 */
#ifndef TM_MODEL_SAMPLING_H
#define TM_MODEL_SAMPLING_H

#include <stdint.h>

/* Also a sum of such. */
struct tm_weight {
	uint64_t size;	   /* s w bytes, rounded to the nearest */
	uint64_t count;	   /* w, at least 1; rounded up or down by chance, so that it is w in the mean */
	uint64_t variance; /* of size, in units of R^2 / 2^32; at most 2^32, so 2^32 blocks have a sum */
};

/* mean_bytes: R, 1..INT64_MAX. Address and time of the block are its share of chance. */
struct tm_weight tm_sampling_weight(uint64_t mean_bytes, uint64_t address, uint64_t size, uint64_t time);

/* Units of tm_weight.variance as bytes^2. */
double tm_sampling_variance(uint64_t mean_bytes, uint64_t units);

#endif
