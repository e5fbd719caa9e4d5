/*
 * Moving instructions to a pad: the part that is the same everywhere. Internal to arch/.
 */
#ifndef TM_ARCH_RELOCATE_H
#define TM_ARCH_RELOCATE_H

#include "arch/emit.h"
#include "arch/insn.h"

/* What differs. The functions that return a string return why the instruction cannot be moved, or NULL. */
struct tm_relocator {
	tm_insn_decode_fn decode;
	/* A second opinion on an instruction that is to be moved; may be NULL. */
	const char *(*confirm)(const uint8_t *bytes, size_t size, const struct tm_insn *insn);
	/* Emits what does the same in the pad, with a point at every boundary. */
	const char *(*move)(struct tm_emit *emit, const struct tm_insn *insn, const uint8_t *bytes);
	/* Emits a jump to the original code. */
	const char *(*jump)(struct tm_emit *emit, uint64_t target);
	/* Lets the field of `later`, whose code or constant comes next, lead here. */
	const char *(*fill_field)(struct tm_emit *emit, const struct tm_later *later);
	/* Writes the instruction's text, for messages. */
	void (*describe)(const uint8_t *bytes, size_t size, uint64_t address, char *text, size_t text_size);
};

/* The whole of tm_arch.relocate. */
struct tm_error *tm_relocate(const struct tm_relocator *relocator, const uint8_t *bytes, size_t size,
			     uint64_t from, uint64_t to, size_t min_bytes, struct tm_relocated *out);

#endif
