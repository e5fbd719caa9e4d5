/*
 * Rows of {instructions, what they become in a pad}, for the tests of both architectures. Bytes are written
 * in hexadecimal, so that each can stand beside its disassembly.
 */
#ifndef TM_TESTS_RELOCATION_ROWS_H
#define TM_TESTS_RELOCATION_ROWS_H

#include "arch/arch.h"

#define TM_ROW_FROM 0x10000u /* where the original instructions stand */

struct tm_move_row {
	const char *what;
	uint64_t to;
	size_t min_bytes;
	const char *bytes, *moved;
	size_t consumed;
	const char *points; /* "offset=pc ...", the pc in hexadecimal */
};

struct tm_refusal_row {
	const char *what, *bytes;
	uint64_t to;
	size_t min_bytes;
	const char *reason; /* the end of the message */
};

/* The number of bytes written to `bytes`, which has room for `size`; text is "48 89 e5". */
size_t tm_row_bytes(const char *text, uint8_t *bytes, size_t size);

/* NULL, or what differs; the caller frees it. */
char *tm_move_row_check(const struct tm_arch *arch, const struct tm_move_row *row);
char *tm_refusal_row_check(const struct tm_arch *arch, const struct tm_refusal_row *row);

#endif
