#include "support/symfix_code.h"

#define INLINED static inline __attribute__((always_inline))

__attribute__((noinline)) static void symfix_record(struct symfix_mark *mark)
{
	mark->pc = (uint64_t)(uintptr_t)__builtin_return_address(0) - 1;
}

/* Each call and the number of its line stand on one line. */
INLINED void symfix_innermost(struct symfix_mark *mark)
{
	mark->innermost_line = __LINE__, symfix_record(mark);
	__asm__ volatile("" ::: "memory");
}

INLINED void symfix_middle(struct symfix_mark *mark)
{
	mark->middle_line = __LINE__, symfix_innermost(mark);
}

__attribute__((noinline)) void symfix_outer(struct symfix_mark *mark)
{
	mark->outer_line = __LINE__, symfix_middle(mark);
	__asm__ volatile("" ::: "memory");
}

INLINED int symfix_square(int number)
{
	__asm__ volatile("" : "+r"(number));
	return number * number;
}

INLINED int symfix_step(int sum, int number)
{
	if (number < 0) {
		int positive = -number;

		return sum + symfix_square(positive);
	}
	return sum + symfix_square(number) + 1;
}

__attribute__((noinline)) int symfix_sum(const int *numbers, int count)
{
	int sum = 0;

	for (int i = 0; i < count; i++) {
		int next = numbers[i];

		sum = symfix_step(sum, next);
	}
	return sum;
}

__attribute__((noinline)) int symfix_classify(int number)
{
	switch (number) {
	case 1:
		return symfix_square(3);
	case 7:
		return symfix_step(number, 5);
	case 100:
		return symfix_step(symfix_square(number), -1);
	default:
		return -1;
	}
}
