#include "unwind/expression.h"

#include <dwarf.h>

#define DEPTH_MAX 64
#define STEPS_MAX 10000 /* branches may loop */

struct machine {
	const struct tm_expression_frame *frame;
	uint64_t stack[DEPTH_MAX];
	size_t depth;
	bool unread;
};

static bool push(struct machine *machine, uint64_t value)
{
	if (machine->depth == DEPTH_MAX)
		return false;
	machine->stack[machine->depth++] = value;
	return true;
}

static bool push_register(struct machine *machine, uint64_t reg, uint64_t offset)
{
	const struct tm_expression_frame *frame = machine->frame;

	if (reg >= TM_REGISTERS_MAX || !(frame->known >> reg & 1))
		return false;
	return push(machine, frame->regs->value[reg] + offset);
}

/* Pushes a copy of the entry `index` below the top. */
static bool pick(struct machine *machine, uint64_t index)
{
	return index < machine->depth && push(machine, machine->stack[machine->depth - 1 - index]);
}

static bool dereference(struct machine *machine, uint64_t size)
{
	uint64_t *top;

	if (!machine->depth || size < 1 || size > 8)
		return false;
	top = &machine->stack[machine->depth - 1];
	if (tm_window_read(machine->frame->window, *top, (unsigned)size, top))
		return true;
	machine->unread = true;
	return false;
}

/* Moves the top entry below the `count` - 1 entries under it. */
static bool rotate(struct machine *machine, size_t count)
{
	uint64_t *top = machine->stack + machine->depth - 1, value;

	if (machine->depth < count)
		return false;
	value = *top;
	for (size_t i = 0; i + 1 < count; i++, top--)
		*top = top[-1];
	*top = value;
	return true;
}

static bool unary(struct machine *machine, uint8_t atom, uint64_t operand)
{
	uint64_t *top;

	if (!machine->depth)
		return false;
	top = &machine->stack[machine->depth - 1];
	switch (atom) {
	case DW_OP_abs:
		*top = (int64_t)*top < 0 ? -*top : *top;
		return true;
	case DW_OP_neg:
		*top = -*top;
		return true;
	case DW_OP_not:
		*top = ~*top;
		return true;
	default: /* DW_OP_plus_uconst */
		*top += operand;
		return true;
	}
}

static bool divide(uint64_t *a, uint64_t b)
{
	if (b == 0)
		return false;
	/* INT64_MIN / -1 overflows in C; -a wraps to what DWARF's modulo arithmetic gives. */
	*a = b == UINT64_MAX ? -*a : (uint64_t)((int64_t)*a / (int64_t)b);
	return true;
}

static bool modulo(uint64_t *a, uint64_t b)
{
	if (b == 0)
		return false;
	*a %= b;
	return true;
}

static uint64_t shift_arithmetic(uint64_t a, uint64_t b)
{
	return (uint64_t)((int64_t)a >> (b < 64 ? b : 63));
}

/* DWARF 5, 2.5.1.4 and 2.5.1.5: comparisons and division are signed, modulo is not. */
static bool binary(struct machine *machine, uint8_t atom)
{
	uint64_t *a, b;

	if (machine->depth < 2)
		return false;
	b = machine->stack[--machine->depth];
	a = &machine->stack[machine->depth - 1];
	switch (atom) {
	case DW_OP_and:
		*a &= b;
		return true;
	case DW_OP_or:
		*a |= b;
		return true;
	case DW_OP_xor:
		*a ^= b;
		return true;
	case DW_OP_plus:
		*a += b;
		return true;
	case DW_OP_minus:
		*a -= b;
		return true;
	case DW_OP_mul:
		*a *= b;
		return true;
	case DW_OP_div:
		return divide(a, b);
	case DW_OP_mod:
		return modulo(a, b);
	case DW_OP_shl:
		*a = b < 64 ? *a << b : 0;
		return true;
	case DW_OP_shr:
		*a = b < 64 ? *a >> b : 0;
		return true;
	case DW_OP_shra:
		*a = shift_arithmetic(*a, b);
		return true;
	case DW_OP_eq:
		*a = *a == b;
		return true;
	case DW_OP_ne:
		*a = *a != b;
		return true;
	case DW_OP_lt:
		*a = (int64_t)*a < (int64_t)b;
		return true;
	case DW_OP_le:
		*a = (int64_t)*a <= (int64_t)b;
		return true;
	case DW_OP_gt:
		*a = (int64_t)*a > (int64_t)b;
		return true;
	case DW_OP_ge:
		*a = (int64_t)*a >= (int64_t)b;
		return true;
	default:
		return false;
	}
}

/* Any operation but a branch. */
static bool execute(struct machine *machine, const struct tm_operation *operation)
{
	uint8_t atom = operation->atom;

	switch (atom) {
	case DW_OP_lit0 ... DW_OP_lit31:
		return push(machine, atom - DW_OP_lit0);
	case DW_OP_breg0 ... DW_OP_breg31:
		return push_register(machine, atom - DW_OP_breg0, operation->number);
	case DW_OP_bregx:
		return push_register(machine, operation->number, operation->number2);
	case DW_OP_const1u:
	case DW_OP_const1s:
	case DW_OP_const2u:
	case DW_OP_const2s:
	case DW_OP_const4u:
	case DW_OP_const4s:
	case DW_OP_const8u:
	case DW_OP_const8s:
	case DW_OP_constu:
	case DW_OP_consts:
		return push(machine, operation->number);
	case DW_OP_call_frame_cfa:
		return machine->frame->has_cfa && push(machine, machine->frame->cfa);
	case DW_OP_dup:
		return pick(machine, 0);
	case DW_OP_over:
		return pick(machine, 1);
	case DW_OP_pick:
		return pick(machine, operation->number);
	case DW_OP_drop:
		return machine->depth && machine->depth--;
	case DW_OP_swap:
		return rotate(machine, 2);
	case DW_OP_rot:
		return rotate(machine, 3);
	case DW_OP_deref:
		return dereference(machine, 8);
	case DW_OP_deref_size:
		return dereference(machine, operation->number);
	case DW_OP_abs:
	case DW_OP_neg:
	case DW_OP_not:
	case DW_OP_plus_uconst:
		return unary(machine, atom, operation->number);
	case DW_OP_nop:
		return true;
	default:
		return binary(machine, atom);
	}
}

/* Where to go on behind operation `at`, which is a branch. */
static bool branch(struct machine *machine, const struct tm_operation *operations, size_t *at)
{
	bool taken = operations[*at].atom == DW_OP_skip;

	if (operations[*at].atom == DW_OP_bra) {
		if (!machine->depth)
			return false;
		taken = machine->stack[--machine->depth] != 0;
	}
	*at = taken ? operations[*at].number : *at + 1;
	return true;
}

static bool run(struct machine *machine, const struct tm_operation *operations, size_t count)
{
	size_t at = 0;

	for (unsigned steps = 0; at < count; steps++) {
		uint8_t atom = operations[at].atom;

		if (steps == STEPS_MAX)
			return false;
		if (atom == DW_OP_bra || atom == DW_OP_skip) {
			if (!branch(machine, operations, &at))
				return false;
		} else if (!execute(machine, &operations[at++])) {
			return false;
		}
	}
	return machine->depth > 0;
}

bool tm_expression_evaluate(const struct tm_expression_frame *frame, const struct tm_operation *operations,
			    size_t count, uint64_t *value, bool *unread)
{
	struct machine machine; /* its stack is not cleared: half a kilobyte */

	machine.frame = frame;
	machine.depth = 0;
	machine.unread = false;
	if (!run(&machine, operations, count)) {
		if (machine.unread)
			*unread = true;
		return false;
	}
	*value = machine.stack[machine.depth - 1];
	return true;
}
