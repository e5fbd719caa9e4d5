#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>

#include "model/traceback.h"

static struct tm_tracebacks *tracebacks;

static void setup(void)
{
	cr_assert_null(tm_tracebacks_create(&tracebacks));
}

static void teardown(void)
{
	tm_tracebacks_destroy(tracebacks);
}

TestSuite(traceback, .init = setup, .fini = teardown);

Test(traceback, number_0_is_the_empty_one)
{
	const struct tm_traceback *empty = tm_tracebacks_get(tracebacks, 0);

	cr_assert_eq(tm_tracebacks_count(tracebacks), 1);
	cr_assert_eq(empty->frame_count, 0);
	cr_assert_eq(empty->total_nframe, 0);
	cr_assert_eq(empty->cut, TM_CUT_NONE);
	cr_assert_eq(tm_tracebacks_intern(tracebacks, NULL, 0, 0, TM_CUT_NONE), 0);
	cr_assert_neq(tm_tracebacks_intern(tracebacks, NULL, 0, 0, TM_CUT_MEMORY), 0);
}

Test(traceback, equal_frames_are_one_number)
{
	struct tm_frame frame = {.module = 3, .offset = 0x1234};
	uint32_t number = tm_tracebacks_frame(tracebacks, frame);
	struct tm_frame got = tm_tracebacks_get_frame(tracebacks, number);

	cr_assert_eq(tm_tracebacks_frame(tracebacks, frame), number);
	cr_assert_eq(got.module, 3);
	cr_assert_eq(got.offset, 0x1234);
	cr_assert_eq(tm_tracebacks_frame_count(tracebacks), 1);
}

Test(traceback, module_and_offset_both_tell_frames_apart)
{
	uint32_t first = tm_tracebacks_frame(tracebacks, (struct tm_frame){.module = 1, .offset = 16});

	cr_assert_neq(tm_tracebacks_frame(tracebacks, (struct tm_frame){.module = 2, .offset = 16}), first);
	cr_assert_neq(tm_tracebacks_frame(tracebacks, (struct tm_frame){.module = 1, .offset = 17}), first);
	/* These have the same hash: the module is mixed in at bit 40. */
	cr_assert_neq(tm_tracebacks_frame(tracebacks,
					  (struct tm_frame){.module = 0, .offset = 16 | UINT64_C(1) << 40}),
		      first);
	cr_assert_eq(tm_tracebacks_frame_count(tracebacks), 4);
}

Test(traceback, frames_count_total_and_cut_tell_tracebacks_apart)
{
	static const uint32_t frames[] = {5, 6, 7}, others[] = {7, 6, 5};
	uint32_t number = tm_tracebacks_intern(tracebacks, frames, 3, 3, TM_CUT_NONE);
	const uint32_t different[] = {
		tm_tracebacks_intern(tracebacks, others, 3, 3, TM_CUT_NONE),
		tm_tracebacks_intern(tracebacks, frames, 2, 3, TM_CUT_NONE),
		tm_tracebacks_intern(tracebacks, frames, 3, 4, TM_CUT_NONE),
		tm_tracebacks_intern(tracebacks, frames, 3, 3, TM_CUT_LOOP),
	};

	cr_assert_eq(tm_tracebacks_intern(tracebacks, frames, 3, 3, TM_CUT_NONE), number);
	for (size_t i = 0; i < 4; i++) {
		cr_assert_neq(different[i], number);
		for (size_t j = 0; j < i; j++)
			cr_assert_neq(different[i], different[j]);
	}
	cr_assert_eq(tm_tracebacks_count(tracebacks), 6);
}

Test(traceback, content_comes_back)
{
	static const uint32_t frames[] = {9, 9, 1};
	uint32_t number = tm_tracebacks_intern(tracebacks, frames, 3, 40, TM_CUT_LIMIT);
	const struct tm_traceback *traceback = tm_tracebacks_get(tracebacks, number);

	cr_assert_eq(traceback->frame_count, 3);
	cr_assert_eq(traceback->total_nframe, 40);
	cr_assert_eq(traceback->cut, TM_CUT_LIMIT);
	cr_assert_arr_eq(traceback->frames, frames, sizeof(frames));
}

Test(traceback, total_nframe_saturates)
{
	static const uint32_t frames[] = {1};
	uint32_t number = tm_tracebacks_intern(tracebacks, frames, 1, 1000000, TM_CUT_LIMIT);

	cr_assert_eq(tm_tracebacks_get(tracebacks, number)->total_nframe, TM_NFRAME_MAX);
	cr_assert_eq(tm_tracebacks_intern(tracebacks, frames, 1, TM_NFRAME_MAX, TM_CUT_LIMIT), number);
}

Test(traceback, the_longest_traceback_is_stored)
{
	static uint32_t frames[TM_NFRAME_MAX];
	uint32_t number;

	for (uint32_t i = 0; i < TM_NFRAME_MAX; i++)
		frames[i] = i * 3;
	number = tm_tracebacks_intern(tracebacks, frames, TM_NFRAME_MAX, TM_NFRAME_MAX, TM_CUT_NONE);
	cr_assert_arr_eq(tm_tracebacks_get(tracebacks, number)->frames, frames, sizeof(frames));
	frames[TM_NFRAME_MAX - 1]++;
	cr_assert_neq(tm_tracebacks_intern(tracebacks, frames, TM_NFRAME_MAX, TM_NFRAME_MAX, TM_CUT_NONE),
		      number);
}

static uint32_t intern_pair(uint32_t i)
{
	uint32_t frames[2];

	frames[0] = tm_tracebacks_frame(tracebacks, (struct tm_frame){.module = i % 3, .offset = i});
	frames[1] = tm_tracebacks_frame(tracebacks, (struct tm_frame){.module = 4, .offset = i / 16});
	return tm_tracebacks_intern(tracebacks, frames, 2, 2, TM_CUT_NONE);
}

Test(traceback, numbers_stay_and_nothing_moves_while_the_table_grows)
{
	enum { COUNT = 200000 };
	const struct tm_traceback *first;
	size_t memory;

	cr_assert_eq(intern_pair(0), 1);
	first = tm_tracebacks_get(tracebacks, 1);
	for (uint32_t i = 0; i < COUNT; i++)
		cr_assert_eq(intern_pair(i), i + 1);
	memory = tm_tracebacks_memory(tracebacks);
	for (uint32_t i = 0; i < COUNT; i++)
		cr_assert_eq(intern_pair(i), i + 1);
	cr_assert_eq(tm_tracebacks_count(tracebacks), COUNT + 1);
	cr_assert_eq(tm_tracebacks_memory(tracebacks), memory);
	cr_assert_eq(tm_tracebacks_get(tracebacks, 1), first);
}

/* Reads all that exists, over and over, until the last one is there. */
static void *read_along(void *last)
{
	uint32_t count = 0;

	while (count <= *(uint32_t *)last) {
		count = tm_tracebacks_count(tracebacks);
		for (uint32_t i = 1; i < count; i += 97) {
			const struct tm_traceback *traceback = tm_tracebacks_get(tracebacks, i);
			struct tm_frame frame = tm_tracebacks_get_frame(tracebacks, traceback->frames[0]);

			if (frame.offset != i - 1)
				return (void *)traceback;
		}
	}
	return NULL;
}

Test(traceback, another_thread_reads_while_one_interns)
{
	uint32_t last = 300000;
	void *wrong;
	pthread_t reader;

	cr_assert_eq(pthread_create(&reader, NULL, read_along, &last), 0);
	for (uint32_t i = 0; i < last; i++)
		intern_pair(i);
	intern_pair(last);
	pthread_join(reader, &wrong);
	cr_assert_null(wrong);
}

Test(traceback, every_cut_has_a_name)
{
	for (int cut = TM_CUT_NONE; cut < TM_CUT_COUNT; cut++) {
		cr_assert_not_null(tm_cut_name((enum tm_cut)cut));
		cr_assert_eq(tm_cut_name((enum tm_cut)cut)[0] == '\0', cut == TM_CUT_NONE);
	}
	cr_assert_str_eq(tm_cut_name(TM_CUT_NO_CFI), "no-cfi");
}
