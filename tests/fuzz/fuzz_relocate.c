/*
 * Any bytes, for both architectures: a relocation that succeeds keeps its promises, and an exit that is
 * reported is a return instruction of the body. The first byte chooses, the rest is the code.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "arch/arch.h"
#include "arch/aarch64_insn.h"
#include "arch/x86_64_insn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct choice {
	const struct tm_arch *arch;
	tm_insn_decode_fn decode;
	uint64_t from, to;
	size_t min_bytes;
};

static struct choice choose(uint8_t byte)
{
	static const uint64_t distances[] = {0x10000, 0x7fffff00, 0x80000100, (uint64_t)-0x100000000000};
	const uint64_t from = 0x7f0000401000;
	struct choice choice = {
		.arch = byte & 1 ? &tm_arch_aarch64 : &tm_arch_x86_64,
		.decode = byte & 1 ? tm_aarch64_decode : tm_x86_64_decode,
		.from = from,
		.to = from + distances[byte >> 1 & 3],
		.min_bytes = byte & 8 ? 5 : 1,
	};

	return choice;
}

static void require(bool fact)
{
	if (!fact)
		abort();
}

static void check_relocated(const struct choice *choice, const uint8_t *code, size_t size,
			    const struct tm_relocated *moved)
{
	struct tm_insn insn;

	require(moved->size > 0 && moved->size <= TM_PAD_CODE_MAX);
	require(moved->consumed >= choice->min_bytes && moved->consumed <= size);
	require(moved->point_count > 0 && moved->points[0].pad_offset == 0);
	require(moved->points[0].original_pc == choice->from);
	for (size_t i = 0; i < moved->point_count; i++) {
		size_t at = moved->points[i].pad_offset;

		require(at < moved->size && (!i || at > moved->points[i - 1u].pad_offset));
		require(choice->decode(moved->code + at, moved->size - at, choice->to + at, &insn));
		require(!insn.refusal);
	}
	require(choice->decode(code, size, choice->from, &insn) && !insn.refusal);
}

static void check_exits(const struct choice *choice, const uint8_t *code, const struct tm_exits *exits,
			size_t size)
{
	struct tm_insn insn;

	require(!exits->only_returns || !exits->tail_jumps);
	require(exits->lowest_target >= choice->from && exits->lowest_target <= choice->from + size);
	for (size_t i = 0; i < exits->return_count; i++) {
		size_t at = exits->returns[i] - choice->from;

		require(at < size && (!i || exits->returns[i] > exits->returns[i - 1]));
		require(choice->decode(code + at, size - at, exits->returns[i], &insn));
		require(insn.kind == TM_INSN_RETURN);
	}
	for (size_t i = 0; i < exits->way_count; i++) {
		const struct tm_way_out *way = &exits->ways[i];

		require(way->start >= choice->from && way->start <= way->address && way->address < way->end);
		require(way->end <= choice->from + size);
		require(!i || way->address > exits->ways[i - 1].address);
		require(choice->decode(code + (way->address - choice->from), way->end - way->address,
				       way->address, &insn));
		require(way->returns == (insn.kind == TM_INSN_RETURN));
		require(way->returns || way->start == way->address);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tm_relocated moved;
	struct choice choice;
	struct tm_error *err;
	struct tm_exits exits;

	if (size < 1)
		return 0;
	choice = choose(*data++);
	size--;
	err = choice.arch->relocate(data, size, choice.from, choice.to, choice.min_bytes, &moved);
	if (!err)
		check_relocated(&choice, data, size, &moved);
	tm_error_destroy(err);
	require(!choice.arch->find_exits(data, size, choice.from, &exits));
	check_exits(&choice, data, &exits, size);
	tm_exits_deinit(&exits);
	return 0;
}
