#include "unwind/expression.h"

#include "unwind/dwarf_op.h"

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
	case TM_OP_ABS:
		*top = (int64_t)*top < 0 ? -*top : *top;
		return true;
	case TM_OP_NEG:
		*top = -*top;
		return true;
	case TM_OP_NOT:
		*top = ~*top;
		return true;
	default: /* TM_OP_PLUS_UCONST */
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
	case TM_OP_AND:
		*a &= b;
		return true;
	case TM_OP_OR:
		*a |= b;
		return true;
	case TM_OP_XOR:
		*a ^= b;
		return true;
	case TM_OP_PLUS:
		*a += b;
		return true;
	case TM_OP_MINUS:
		*a -= b;
		return true;
	case TM_OP_MUL:
		*a *= b;
		return true;
	case TM_OP_DIV:
		return divide(a, b);
	case TM_OP_MOD:
		return modulo(a, b);
	case TM_OP_SHL:
		*a = b < 64 ? *a << b : 0;
		return true;
	case TM_OP_SHR:
		*a = b < 64 ? *a >> b : 0;
		return true;
	case TM_OP_SHRA:
		*a = shift_arithmetic(*a, b);
		return true;
	case TM_OP_EQ:
		*a = *a == b;
		return true;
	case TM_OP_NE:
		*a = *a != b;
		return true;
	case TM_OP_LT:
		*a = (int64_t)*a < (int64_t)b;
		return true;
	case TM_OP_LE:
		*a = (int64_t)*a <= (int64_t)b;
		return true;
	case TM_OP_GT:
		*a = (int64_t)*a > (int64_t)b;
		return true;
	case TM_OP_GE:
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
	case TM_OP_LIT0 ... TM_OP_LIT31:
		return push(machine, atom - TM_OP_LIT0);
	case TM_OP_BREG0 ... TM_OP_BREG31:
		return push_register(machine, atom - TM_OP_BREG0, operation->number);
	case TM_OP_BREGX:
		return push_register(machine, operation->number, operation->number2);
	case TM_OP_CONST1U:
	case TM_OP_CONST1S:
	case TM_OP_CONST2U:
	case TM_OP_CONST2S:
	case TM_OP_CONST4U:
	case TM_OP_CONST4S:
	case TM_OP_CONST8U:
	case TM_OP_CONST8S:
	case TM_OP_CONSTU:
	case TM_OP_CONSTS:
		return push(machine, operation->number);
	case TM_OP_CALL_FRAME_CFA:
		return machine->frame->has_cfa && push(machine, machine->frame->cfa);
	case TM_OP_DUP:
		return pick(machine, 0);
	case TM_OP_OVER:
		return pick(machine, 1);
	case TM_OP_PICK:
		return pick(machine, operation->number);
	case TM_OP_DROP:
		return machine->depth && machine->depth--;
	case TM_OP_SWAP:
		return rotate(machine, 2);
	case TM_OP_ROT:
		return rotate(machine, 3);
	case TM_OP_DEREF:
		return dereference(machine, 8);
	case TM_OP_DEREF_SIZE:
		return dereference(machine, operation->number);
	case TM_OP_ABS:
	case TM_OP_NEG:
	case TM_OP_NOT:
	case TM_OP_PLUS_UCONST:
		return unary(machine, atom, operation->number);
	case TM_OP_NOP:
		return true;
	default:
		return binary(machine, atom);
	}
}

/* Where to go on behind operation `at`, which is a branch. */
static bool branch(struct machine *machine, const struct tm_operation *operations, size_t *at)
{
	bool taken = operations[*at].atom == TM_OP_SKIP;

	if (operations[*at].atom == TM_OP_BRA) {
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
		if (atom == TM_OP_BRA || atom == TM_OP_SKIP) {
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
