/* Functions whose places and names are known, for tests of symbols and lines. */
#ifndef TM_TESTS_SUPPORT_SYMFIX_CODE_H
#define TM_TESTS_SUPPORT_SYMFIX_CODE_H

#include <stdint.h>

struct symfix_mark {
	uint64_t pc; /* inside the call instruction of the innermost function */
	unsigned innermost_line, middle_line, outer_line;
};

/* Calls symfix_middle, inlined, which calls symfix_innermost, inlined. */
void symfix_outer(struct symfix_mark *mark);

/* Two more with inlined calls in loops and blocks, as food for the comparison with addr2line. */
int symfix_sum(const int *numbers, int count);
int symfix_classify(int number);

#endif
