/*
 * Writing the code of a pad. Out of room is remembered in `full` and makes later writes do nothing, so that
 * callers check once, at the end. Internal to arch/.
 */
#ifndef TM_ARCH_EMIT_H
#define TM_ARCH_EMIT_H

#include "arch/arch.h"

#define TM_EMIT_LATER_MAX 16

struct tm_emit {
	struct tm_relocated out;
	uint64_t to; /* address of out.code[0] */
	bool full;
	/* What comes behind the code: constants, and jumps that the code's short branches go to. Each has one
	   field in the code that leads to it, filled in once its place is known. */
	struct tm_later {
		enum tm_later_kind { TM_LATER_CONSTANT, TM_LATER_JUMP } kind;
		uint16_t field_at;  /* offset in code of the field */
		uint8_t field_kind; /* the architecture's own */
		uint64_t value;	    /* the constant, or the jump's target */
	} later[TM_EMIT_LATER_MAX];
	size_t later_count;
};

/* The address at which the next byte will stand. */
static inline uint64_t tm_emit_here(const struct tm_emit *emit)
{
	return emit->to + emit->out.size;
}

void tm_emit_bytes(struct tm_emit *emit, const void *bytes, size_t size);
void tm_emit_u8(struct tm_emit *emit, uint8_t value);
void tm_emit_u32(struct tm_emit *emit, uint32_t value); /* little endian, as the code of both architectures */
void tm_emit_u64(struct tm_emit *emit, uint64_t value);

/* From here on, until the next point, the thread's state stands for original_pc; 0: for none. */
void tm_emit_point(struct tm_emit *emit, uint64_t original_pc);

/* The field at offset field_at is to lead to a constant or a jump behind the code. */
void tm_emit_later(struct tm_emit *emit, enum tm_later_kind kind, size_t field_at, uint8_t field_kind,
		   uint64_t value);

#endif
