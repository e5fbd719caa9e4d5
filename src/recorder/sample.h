/*
 * Which native calls are in the sample (shared.h, control->sample), and which blocks are. Part of native.c,
 * and looked at before anything of the memory file is.
 */
#ifndef TM_RECORDER_SAMPLE_H
#define TM_RECORDER_SAMPLE_H

#include "recorder/writer.h"

/* xorshift64*: Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled". */
static uint64_t next_random(struct tm_recorder_thread *thread)
{
	uint64_t x = thread->random ? thread->random : time_stamp() ^ thread->thread_pointer << 16 ^ 1;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	thread->random = x;
	return x * UINT64_C(0x2545f4914f6cdd1d);
}

#define FRACTION_BITS 24u
#define LN2	      UINT64_C(11629080) /* ln 2, with as many bits of fraction */

/* -log2(u / 2^64), with FRACTION_BITS bits of fraction, bit by bit: squaring doubles a logarithm. */
static uint64_t negative_log2(uint64_t u)
{
	unsigned zeros = (unsigned)__builtin_clzll(u | 1);
	uint64_t mantissa = (u | 1) << zeros, fraction = 0; /* in [2^63, 2^64): 1 to 2 */

	for (unsigned i = 0; i < FRACTION_BITS; i++) {
		unsigned __int128 square = (unsigned __int128)mantissa * mantissa;
		bool carries = square >> 127;

		mantissa = (uint64_t)(square >> (carries ? 64 : 63));
		fraction = fraction << 1 | carries;
	}
	return ((uint64_t)(zeros + 1) << FRACTION_BITS) - fraction;
}

/* Bytes to the next point of the process: exponentially distributed. */
static SELDOM void draw_interval(struct tm_recorder_thread *thread)
{
	unsigned __int128 nats = (unsigned __int128)negative_log2(next_random(thread)) * LN2;
	uint64_t bytes = (uint64_t)(nats * control->sample >> 2 * FRACTION_BITS);

	thread->sample_left = (int64_t)(bytes >> 62 ? INT64_MAX / 2 : bytes) + 1;
}

/* Does a point of the process lie in the call's bytes? What comes behind it does not depend on how far behind
   it the call ends. */
static inline bool is_in_sample(struct tm_recorder_thread *thread, uint64_t size)
{
	if (__builtin_expect(!thread->random, 0))
		draw_interval(thread);
	size = size ? size : 1;
	if (__builtin_expect(size < (uint64_t)thread->sample_left, 1)) {
		thread->sample_left -= (int64_t)size;
		return false;
	}
	draw_interval(thread);
	return true;
}

static inline bool replace_way(uint64_t *way, uint64_t present, uint64_t by)
{
	return __atomic_compare_exchange_n(way, &present, by, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

static void remember_sampled(uint64_t block)
{
	struct tm_sampled_set *set = &control->sampled[tm_sampled_set(block)];

	for (unsigned i = 0; i < TM_SAMPLED_WAYS; i++)
		if (load(&set->blocks[i]) == block)
			return;
	for (unsigned i = 0; i < TM_SAMPLED_WAYS; i++)
		if (replace_way(&set->blocks[i], 0, block))
			return;
	store(&set->overflowed, 1);
}

/* Was the block in the sample, or may it have been? It is given back, and so is forgotten. */
static inline bool take_sampled(uint64_t block)
{
	struct tm_sampled_set *set = &control->sampled[tm_sampled_set(block)];

	for (unsigned i = 0; i < TM_SAMPLED_WAYS; i++)
		if (__builtin_expect(load(&set->blocks[i]) == block, 0) &&
		    replace_way(&set->blocks[i], block, 0))
			return true;
	return __builtin_expect(load(&set->overflowed) != 0, 0);
}

#endif
