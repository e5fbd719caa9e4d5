/*
 * A function's exits, by one linear sweep over its body. Breakpoints will be planted on what is found, so the
 * sweep must be sure that it saw the instructions which run: jumps and calls into the body must meet the
 * boundaries of the sweep, and code that refers to its own bytes (tables between instructions) is not
 * believed.
 */
#include <string.h>

#include "arch/insn.h"
#include "base/vector.h"

struct sweep {
	uint64_t address, end;
	uint8_t *boundary; /* a byte for each byte of the body: control may arrive here */
	struct tm_vector(uint64_t) returns;
	struct tm_vector(uint64_t) targets; /* of jumps and calls into the body */
	uint64_t lowest_target;
	enum tm_insn_kind last; /* last instruction that is no padding */
	bool tail_jumps;
	bool sure;
	bool out_of_memory;
};

static bool inside(const struct sweep *sweep, uint64_t address)
{
	return address >= sweep->address && address < sweep->end;
}

static void note_target(struct sweep *sweep, uint64_t target)
{
	if (!inside(sweep, target)) {
		sweep->tail_jumps = true;
		return;
	}
	if (target > sweep->address && target < sweep->lowest_target)
		sweep->lowest_target = target;
	if (!tm_vector_push(&sweep->targets, target))
		sweep->out_of_memory = true;
}

static void note_insn(struct sweep *sweep, const struct tm_insn *insn)
{
	switch (insn->kind) {
	case TM_INSN_BRANCH:
	case TM_INSN_JUMP:
		note_target(sweep, insn->target);
		break;
	case TM_INSN_JUMP_INDIRECT:
		sweep->tail_jumps = true;
		break;
	case TM_INSN_CALL:
		/* A call into the body is recursion, or a trick with the return address (retpolines). */
		if (insn->target != sweep->address && inside(sweep, insn->target))
			sweep->sure = false;
		break;
	case TM_INSN_RETURN:
		if (!tm_vector_push(&sweep->returns, insn->address))
			sweep->out_of_memory = true;
		break;
	case TM_INSN_PLAIN:
	case TM_INSN_PADDING:
	case TM_INSN_CALL_INDIRECT:
	case TM_INSN_TRAP:
		break;
	}
	if (insn->refers && insn->reference != sweep->address && inside(sweep, insn->reference))
		sweep->sure = false;
	if (insn->kind != TM_INSN_PADDING)
		sweep->last = insn->kind;
}

static void decode_all(struct sweep *sweep, tm_insn_decode_fn decode, const uint8_t *bytes, size_t size)
{
	size_t at = 0;

	while (at < size && sweep->sure && !sweep->out_of_memory) {
		struct tm_insn insn;

		if (!decode(bytes + at, size - at, sweep->address + at, &insn)) {
			sweep->sure = false;
			return;
		}
		sweep->boundary[at] = true;
		if (insn.lock_prefix)
			sweep->boundary[at + 1] = true;
		note_insn(sweep, &insn);
		at += insn.size;
	}
}

static void check_targets(struct sweep *sweep)
{
	for (size_t i = 0; i < sweep->targets.count; i++)
		if (!sweep->boundary[sweep->targets.items[i] - sweep->address])
			sweep->sure = false;
}

static void report(struct sweep *sweep, struct tm_exits *exits)
{
	/* A call at the end is one that does not return (abort, __stack_chk_fail). */
	bool runs_over = tm_insn_goes_on(sweep->last);

	memset(exits, 0, sizeof(*exits));
	if (!sweep->sure) {
		exits->tail_jumps = true;
		exits->lowest_target = sweep->address;
		return;
	}
	exits->tail_jumps = sweep->tail_jumps || runs_over;
	exits->only_returns = !exits->tail_jumps;
	exits->lowest_target = sweep->lowest_target;
	exits->return_count = sweep->returns.count;
	exits->returns = tm_steal(sweep->returns.items);
}

struct tm_error *tm_exits_find(tm_insn_decode_fn decode, const uint8_t *bytes, size_t size, uint64_t address,
			       struct tm_exits *exits)
{
	_cleanup_free_ uint8_t *boundary = calloc(size + 1, 1);
	struct sweep sweep = {
		.address = address,
		.end = address + size,
		.boundary = boundary,
		.lowest_target = address + size,
		.last = TM_INSN_PLAIN,
		.sure = size > 0,
	};

	if (!boundary)
		return tm_error_out_of_memory();
	decode_all(&sweep, decode, bytes, size);
	if (sweep.sure)
		check_targets(&sweep);
	if (!sweep.out_of_memory)
		report(&sweep, exits);
	tm_vector_deinit(&sweep.returns);
	tm_vector_deinit(&sweep.targets);
	return sweep.out_of_memory ? tm_error_out_of_memory() : NULL;
}
