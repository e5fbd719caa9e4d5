/*
 * DWARF expressions as CFI uses them (DWARF 5, 2.5 and 6.4.2): a stack machine over the registers of a frame
 * and memory. The operations are a stranger's: every evaluation ends, within a bounded number of steps.
 */
#ifndef TM_UNWIND_EXPRESSION_H
#define TM_UNWIND_EXPRESSION_H

#include "debuginfo/cfi.h"
#include "unwind/window.h"

/* The frame that an expression is about. */
struct tm_expression_frame {
	const struct tm_regs *regs;
	uint64_t known; /* bit n: register n has a value */
	bool has_cfa;	/* false while the CFA itself is evaluated */
	uint64_t cfa;
	struct tm_window *window;
};

/* The value on top of the stack at the end; false if the expression is not one that CFI may hold, uses a
   register that is not known or memory that cannot be read (*unread then, else unchanged), or does not end in
   time. */
bool tm_expression_evaluate(const struct tm_expression_frame *frame, const struct tm_operation *operations,
			    size_t count, uint64_t *value, bool *unread);

#endif
