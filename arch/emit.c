#include "arch/emit.h"

#include <string.h>

void tm_emit_bytes(struct tm_emit *emit, const void *bytes, size_t size)
{
	if (emit->full || size > sizeof(emit->out.code) - emit->out.size) {
		emit->full = true;
		return;
	}
	memcpy(emit->out.code + emit->out.size, bytes, size);
	emit->out.size += size;
}

void tm_emit_u8(struct tm_emit *emit, uint8_t value)
{
	tm_emit_bytes(emit, &value, 1);
}

void tm_emit_u32(struct tm_emit *emit, uint32_t value)
{
	const uint8_t bytes[] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16),
				 (uint8_t)(value >> 24)};

	tm_emit_bytes(emit, bytes, sizeof(bytes));
}

void tm_emit_u64(struct tm_emit *emit, uint64_t value)
{
	tm_emit_u32(emit, (uint32_t)value);
	tm_emit_u32(emit, (uint32_t)(value >> 32));
}

void tm_emit_point(struct tm_emit *emit, uint64_t original_pc)
{
	struct tm_relocated *out = &emit->out;

	if (emit->full || out->point_count == TM_PAD_POINTS_MAX) {
		emit->full = true;
		return;
	}
	out->points[out->point_count].pad_offset = (uint16_t)out->size;
	out->points[out->point_count].original_pc = original_pc;
	out->point_count++;
}

void tm_emit_later(struct tm_emit *emit, enum tm_later_kind kind, size_t field_at, uint8_t field_kind,
		   uint64_t value)
{
	if (emit->full || emit->later_count == TM_EMIT_LATER_MAX) {
		emit->full = true;
		return;
	}
	emit->later[emit->later_count++] = (struct tm_later){kind, (uint16_t)field_at, field_kind, value};
}
