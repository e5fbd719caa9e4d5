/* Jump patches and call-through pads: so far for x86-64 alone (Intel SDM, volume 2: JMP, PUSH, CALL, LEA,
 * RET). */
#include "arch/call_pad.h"

#include <assert.h>
#include <string.h>

#define JUMP_SIZE 5u

enum { RSI = 4, RDI = 5, RDX = 1, RCX = 2, R8 = 8, R9 = 9 }; /* DWARF numbers */

static const struct push {
	uint8_t number, size, code[2];
} pushes[] = {
	{RDI, 1, {0x57}}, {RSI, 1, {0x56}},	 {RDX, 1, {0x52}},
	{RCX, 1, {0x51}}, {R8, 2, {0x41, 0x50}}, {R9, 2, {0x41, 0x51}},
};

static const uint8_t call[] = {0xff, 0x15};		     /* call *disp32(%rip) */
static const uint8_t pop_words[] = {0x48, 0x8d, 0x64, 0x24}; /* lea disp8(%rsp),%rsp */
static const uint8_t ret[] = {0xc3};
#define DISPLACEMENT 4u

size_t tm_jump_size(const struct tm_arch *arch)
{
	return arch == &tm_arch_x86_64 ? JUMP_SIZE : 0;
}

bool tm_jump_make(const struct tm_arch *arch, uint64_t from, uint64_t to, uint8_t code[TM_JUMP_SIZE_MAX])
{
	int64_t distance = (int64_t)(to - (from + JUMP_SIZE));
	int32_t displacement = (int32_t)distance;

	if (!tm_jump_size(arch) || displacement != distance)
		return false;
	code[0] = 0xe9; /* jmp rel32 */
	memcpy(code + 1, &displacement, sizeof(displacement));
	return true;
}

bool tm_jump_parse(const struct tm_arch *arch, const uint8_t *code, uint64_t from, uint64_t *to)
{
	int32_t displacement;

	if (!tm_jump_size(arch) || code[0] != 0xe9)
		return false;
	memcpy(&displacement, code + 1, sizeof(displacement));
	*to = from + JUMP_SIZE + (uint64_t)(int64_t)displacement;
	return true;
}

/* call and jmp: e8, e9; jcc: 0f 80 .. 0f 8f; the displacement counts from its own end. */
static bool is_far_jump(const uint8_t *code, size_t displacement_at)
{
	uint8_t opcode = displacement_at >= 1 ? code[displacement_at - 1] : 0;

	return (opcode & 0xfe) == 0xe8 ||
	       ((opcode & 0xf0) == 0x80 && displacement_at >= 2 && code[displacement_at - 2] == 0x0f);
}

static void mark_ranges(struct tm_jump_range *ranges, size_t count, uint64_t target)
{
	for (size_t i = 0; i < count; i++)
		if (target - ranges[i].start < ranges[i].end - ranges[i].start)
			ranges[i].found = true;
}

/* Four displacements that begin at bytes 0, 4, 8, 12 of a piece of code. */
typedef uint32_t displacements __attribute__((vector_size(16), aligned(1), may_alias));

#define PIECE 16u /* bytes that are looked at in one go, with three behind them */

/*
 * Does a displacement that begins in the piece lead into [low, low + span)? In 32 bits, so that one that
 * leads 4 GB beside it counts as well. `behind`: the address behind a displacement at the piece's first byte,
 * less low.
 */
static bool may_lead(const uint8_t *piece, uint32_t behind, uint32_t span)
{
	displacements any = {0};

	for (uint32_t at = 0; at < 4; at++) {
		uint32_t from = behind + at;
		displacements distance = *(const displacements *)(piece + at) +
					 (displacements){from, from + 4, from + 8, from + 12};

		any |= (displacements)(distance < span);
	}
	return any[0] | any[1] | any[2] | any[3];
}

struct jump_search {
	const uint8_t *code;
	size_t size;
	uint64_t address, low, high;
	struct tm_jump_range *ranges;
	size_t count;
};

static void look_at(const struct jump_search *search, size_t at)
{
	int32_t displacement;
	uint64_t target;

	memcpy(&displacement, search->code + at, sizeof(displacement));
	target = search->address + at + DISPLACEMENT + (uint64_t)(int64_t)displacement;
	if (target - search->low < search->high - search->low && is_far_jump(search->code, at))
		mark_ranges(search->ranges, search->count, target);
}

static void search_jumps(const struct jump_search *search)
{
	uint64_t span = search->high - search->low;
	size_t at = 0;

	for (; span <= UINT32_MAX && at + PIECE + DISPLACEMENT <= search->size; at += PIECE) {
		uint64_t behind = search->address + at + DISPLACEMENT - search->low;

		if (!may_lead(search->code + at, (uint32_t)behind, (uint32_t)span))
			continue;
		for (size_t i = 0; i < PIECE; i++)
			look_at(search, at + i);
	}
	for (; at + DISPLACEMENT <= search->size; at++)
		look_at(search, at);
}

void tm_jumps_find(const struct tm_arch *arch, const uint8_t *code, size_t size, uint64_t address,
		   struct tm_jump_range *ranges, size_t count)
{
	struct jump_search search = {code, size, address, UINT64_MAX, 0, ranges, count};

	for (size_t i = 0; i < count; i++) {
		search.low = ranges[i].start < search.low ? ranges[i].start : search.low;
		search.high = ranges[i].end > search.high ? ranges[i].end : search.high;
		ranges[i].found = ranges[i].found || !tm_jump_size(arch);
	}
	if (count && tm_jump_size(arch))
		search_jumps(&search);
}

static void emit(struct tm_call_pad *pad, const void *bytes, size_t size)
{
	assert(pad->size + size <= sizeof(pad->code));
	memcpy(pad->code + pad->size, bytes, size);
	pad->size += size;
}

static const struct push *push_of(uint8_t number)
{
	for (size_t i = 0; i < sizeof(pushes) / sizeof(pushes[0]); i++)
		if (pushes[i].number == number)
			return &pushes[i];
	return NULL;
}

/* The last argument first; it is there twice where the number is even. */
static void emit_pushes(struct tm_call_pad *pad, const struct tm_arch *arch, const uint8_t *arguments,
			size_t count)
{
	pad->words = (uint16_t)(count | 1);
	for (size_t i = pad->words; i-- > 0;) {
		size_t which = i < count ? i : count - 1;
		const struct push *push = push_of(arch->arguments[arguments[which]]);

		assert(push); /* the six argument registers: psABI 3.2.3 */
		emit(pad, push->code, push->size);
	}
}

struct tm_error *tm_call_pad_make(const struct tm_arch *arch, const uint8_t *arguments, size_t count,
				  uint64_t original, struct tm_call_pad *pad)
{
	if (!tm_jump_size(arch))
		return tm_error_create(TM_ERROR_UNSUPPORTED, "there are no call-through pads for %s yet",
				       arch->name);
	assert(count >= 1 && count <= TM_CALL_PAD_ARGUMENTS);
	*pad = (struct tm_call_pad){.original = original};
	emit_pushes(pad, arch, arguments, count);
	uint32_t behind =
		arch->stop_point_size + sizeof(pop_words) + 1 + sizeof(ret); /* the call, to the constant */
	uint8_t bytes = (uint8_t)(8 * pad->words);

	emit(pad, call, sizeof(call));
	emit(pad, &behind, sizeof(behind));
	pad->stop = (uint16_t)pad->size;
	emit(pad, arch->stop_point, arch->stop_point_size);
	emit(pad, pop_words, sizeof(pop_words));
	emit(pad, &bytes, sizeof(bytes));
	emit(pad, ret, sizeof(ret));
	emit(pad, &original, sizeof(original));
	return NULL;
}

/* The number of the argument register that is pushed at an offset; *size bytes do it. -1: none is. */
static int pushed_at(const uint8_t *code, size_t size, size_t offset, size_t *push_size)
{
	for (size_t i = 0; i < sizeof(pushes) / sizeof(pushes[0]); i++) {
		*push_size = pushes[i].size;
		if (size - offset >= *push_size && memcmp(code + offset, pushes[i].code, *push_size) == 0)
			return pushes[i].number;
	}
	return -1;
}

/* What is built from the same words is the same code: only the stop point may hold a breakpoint. */
static bool is_built_so(const struct tm_arch *arch, const uint8_t *code, size_t at, struct tm_call_pad *pad)
{
	uint32_t behind = arch->stop_point_size + sizeof(pop_words) + 1 + sizeof(ret);
	const uint8_t *pop = code + at + sizeof(call) + DISPLACEMENT + arch->stop_point_size;

	if (memcmp(code + at, call, sizeof(call)) != 0 ||
	    memcmp(code + at + sizeof(call), &behind, DISPLACEMENT) != 0)
		return false;
	pad->stop = (uint16_t)(at + sizeof(call) + DISPLACEMENT);
	memcpy(&pad->original, pop + sizeof(pop_words) + 1 + sizeof(ret), sizeof(pad->original));
	return memcmp(pop, pop_words, sizeof(pop_words)) == 0 && pop[sizeof(pop_words)] == 8 * pad->words &&
	       pop[sizeof(pop_words) + 1] == ret[0];
}

bool tm_call_pad_parse(const struct tm_arch *arch, const uint8_t *code, size_t size, struct tm_call_pad *pad)
{
	size_t at = 0, push_size, whole;

	*pad = (struct tm_call_pad){0};
	if (!tm_jump_size(arch))
		return false;
	while (at < size && pushed_at(code, size, at, &push_size) >= 0) {
		at += push_size;
		pad->words++;
	}
	whole = at + sizeof(call) + DISPLACEMENT + arch->stop_point_size + sizeof(pop_words) + 1 +
		sizeof(ret) + sizeof(pad->original);
	if (!pad->words || whole > size || whole > sizeof(pad->code) || !is_built_so(arch, code, at, pad))
		return false;
	memcpy(pad->code, code, whole);
	pad->size = whole;
	return true;
}

bool tm_call_pad_depth(const struct tm_call_pad *pad, size_t offset, uint64_t *depth)
{
	size_t at = 0, push_size, returns = pad->size - sizeof(pad->original) - sizeof(ret);

	*depth = 0;
	while (at < offset && pushed_at(pad->code, pad->size, at, &push_size) >= 0) {
		at += push_size;
		*depth += 8;
	}
	if (offset == returns)
		*depth = 0;
	return offset == at || offset == pad->stop || offset == returns - sizeof(pop_words) - 1 ||
	       offset == returns;
}
