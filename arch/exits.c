/*
 * A function's exits, by one linear sweep over its body. Breakpoints will be planted on what is found, so the
 * sweep must be sure that it saw the instructions which run: jumps and calls into the body must meet the
 * boundaries of the sweep, and code that refers to its own bytes (tables between instructions) is not
 * believed.
 */
#include <string.h>

#include "arch/insn.h"
#include "base/vector.h"

#define WAY_INSNS 4u /* before a return, at most */
#define JUMP_ROOM 5u /* x86-64 (call_pad.h); a return of aarch64 is as large as its jump */

struct sweep {
	uint64_t address, end;
	uint8_t *boundary; /* a byte for each byte of the body: control may arrive here */
	struct tm_vector(uint64_t) returns;
	struct tm_vector(uint64_t) targets; /* of jumps and calls into the body */
	struct tm_vector(struct tm_way_out) ways;
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

/* ---- the ways out ---- */

/* Instructions that follow one another, and into which no jump leads but to the first. */
struct run {
	uint64_t starts[WAY_INSNS]; /* of the last ones, in turn */
	size_t count;
};

static bool is_target(const struct sweep *sweep, uint64_t address)
{
	for (size_t i = 0; i < sweep->targets.count; i++)
		if (sweep->targets.items[i] == address)
			return true;
	return false;
}

/* The padding behind a return, of which no byte is jumped to. */
static uint64_t end_of_padding(const struct sweep *sweep, tm_insn_decode_fn decode, const uint8_t *bytes,
			       uint64_t address)
{
	struct tm_insn insn;

	while (address < sweep->end && !is_target(sweep, address) &&
	       decode(bytes + (address - sweep->address), sweep->end - address, address, &insn) &&
	       insn.kind == TM_INSN_PADDING)
		address += insn.size;
	return address;
}

/* The nearest start with which a jump fits. */
static uint64_t find_start(const struct run *run, uint64_t address, uint64_t end)
{
	for (size_t i = 0; i <= run->count && i <= WAY_INSNS; i++) {
		uint64_t start = i ? run->starts[(run->count - i) % WAY_INSNS] : address;

		if (end - start >= JUMP_ROOM)
			return start;
	}
	return address;
}

static void add_way(struct sweep *sweep, tm_insn_decode_fn decode, const uint8_t *bytes,
		    const struct run *run, const struct tm_insn *insn)
{
	struct tm_way_out way = {.address = insn->address,
				 .start = insn->address,
				 .end = insn->address + insn->size,
				 .returns = insn->kind == TM_INSN_RETURN};

	if (way.returns) {
		way.end = end_of_padding(sweep, decode, bytes, way.end);
		way.start = find_start(run, way.address, way.end);
	}
	if (!tm_vector_push(&sweep->ways, way))
		sweep->out_of_memory = true;
}

/* False: it may leave in a way that cannot be told apart from going on inside. */
static bool is_clear(const struct sweep *sweep, const struct tm_insn *insn)
{
	switch (insn->kind) {
	case TM_INSN_BRANCH:
		return inside(sweep, insn->target);
	case TM_INSN_JUMP_INDIRECT:
		return insn->refers; /* through a slot of the linker's */
	default:
		return true;
	}
}

static bool is_way(const struct sweep *sweep, const struct tm_insn *insn)
{
	return insn->kind == TM_INSN_RETURN || insn->kind == TM_INSN_JUMP_INDIRECT ||
	       (insn->kind == TM_INSN_JUMP && !inside(sweep, insn->target));
}

/* Of a body that is sure. */
static void find_ways(struct sweep *sweep, tm_insn_decode_fn decode, const uint8_t *bytes)
{
	struct run run = {.count = 0};
	struct tm_insn insn;
	bool clear = true;

	for (uint64_t at = sweep->address; clear && at < sweep->end; at += insn.size) {
		clear = decode(bytes + (at - sweep->address), sweep->end - at, at, &insn) &&
			is_clear(sweep, &insn);
		if (is_target(sweep, at))
			run.count = 0;
		if (clear && is_way(sweep, &insn))
			add_way(sweep, decode, bytes, &run, &insn);
		if (insn.kind != TM_INSN_PLAIN || insn.refers || insn.refusal || insn.lock_prefix)
			run.count = 0;
		else
			run.starts[run.count++ % WAY_INSNS] = at;
	}
	if (!clear || sweep->out_of_memory)
		tm_vector_deinit(&sweep->ways);
}

/* ---- both ---- */

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
	if (runs_over)
		return;
	exits->way_count = sweep->ways.count;
	exits->ways = tm_steal(sweep->ways.items);
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
	if (sweep.sure)
		find_ways(&sweep, decode, bytes);
	if (!sweep.out_of_memory)
		report(&sweep, exits);
	tm_vector_deinit(&sweep.returns);
	tm_vector_deinit(&sweep.ways);
	tm_vector_deinit(&sweep.targets);
	return sweep.out_of_memory ? tm_error_out_of_memory() : NULL;
}
