#include "unwind/unwind.h"

#include "base/vector.h"
#include "unwind/expression.h"
#include "unwind/window.h"

/*
 * The state of a walk, at the newest frame of walk->frames. pc, sp and fp are always this frame's. The other
 * registers are those of frame `settled`, an earlier one: few frames need them, and what the rows between say
 * of them can be made up later from the CFAs (see settle).
 */
struct walker {
	struct tm_cfi *cfi;
	const struct tm_arch *arch;
	uint64_t pac_mask;
	struct tm_window window;
	struct tm_walk *walk;
	size_t limit;
	struct tm_regs regs;
	uint64_t known; /* bit n: register n has a value */
	size_t settled;
	const struct tm_row *row; /* of the newest frame; NULL: no CFI */
	bool on_top;	 /* the newest frame is the innermost, or a signal interrupted it: no call left it */
	bool in_handler; /* a signal frame was passed */
	uint64_t believed; /* frame records up to this address lead into a module */
};

#define BIT(n) ((uint64_t)1 << (n))

/* How many frame records may follow each other outside of modules. */
#define CHAIN_MAX 10000

static bool end(struct walker *walker, enum tm_cut cut)
{
	walker->walk->cut = cut;
	return false;
}

static inline struct tm_walk_frame *newest(const struct walker *walker)
{
	return &walker->walk->frames[walker->walk->count - 1];
}

/* A pc in a pad, without the pad: the thread was interrupted there, or a call-through pad waits for a return.
 * Its own frame is then passed. */
static bool leave_pad(struct walker *walker, uint64_t *pc, bool exact)
{
	uint64_t *sp = &walker->regs.value[walker->arch->sp], caller;
	struct tm_pad_state state;

	if (!walker->walk->pad_state ||
	    !walker->walk->pad_state(walker->walk->pad_state_context, *pc, !exact, &state))
		return false;
	if (state.original) {
		*pc = state.original;
		*sp += state.depth;
		return true;
	}
	if (!(walker->known & BIT(walker->arch->sp)) ||
	    !tm_window_word(&walker->window, *sp + state.depth, &caller))
		return false;
	*pc = caller;
	*sp += state.depth + sizeof(caller);
	walker->walk->in_call = walker->walk->in_call || !walker->in_handler;
	return true;
}

/* The module and row of a pc. */
static inline struct tm_cfi_hit find(struct walker *walker, uint64_t *pc, bool exact)
{
	struct tm_cfi_hit hit = tm_cfi_find(walker->cfi, exact ? *pc : *pc - 1);

	while (__builtin_expect(!hit.row, 0) && leave_pad(walker, pc, exact))
		hit = tm_cfi_find(walker->cfi, exact ? *pc : *pc - 1);
	return hit;
}

/* Adds the frame that executes at pc. `exact`: pc is not behind a call. False ends the walk. */
static inline bool enter(struct walker *walker, uint64_t pc, bool exact)
{
	struct tm_walk *walk = walker->walk;
	struct tm_cfi_hit hit;

	if (pc == 0)
		return end(walker, TM_CUT_NONE);
	if (walk->count == walker->limit)
		return end(walker, TM_CUT_LIMIT);
	if (walk->count == walk->capacity &&
	    !tm_vector_grow((void **)&walk->frames, &walk->capacity, walk->count + 1, sizeof(*walk->frames)))
		return end(walker, TM_CUT_MEMORY);
	hit = find(walker, &pc, exact);
	walk->frames[walk->count++] = (struct tm_walk_frame){
		.pc = pc,
		.lookup = exact ? pc : pc - 1,
		.module = hit.module,
		.is_signal = hit.row && hit.row->is_signal,
	};
	walker->in_handler = walker->in_handler || newest(walker)->is_signal;
	walker->regs.value[walker->arch->pc] = pc;
	walker->row = hit.row;
	walker->on_top = exact;
	return true;
}

/* Goes from the newest frame to its caller, whose sp and fp are in walker->regs already. */
static inline bool enter_caller(struct walker *walker, uint64_t return_address)
{
	return enter(walker, tm_arch_strip(walker->arch, walker->pac_mask, return_address),
		     newest(walker)->is_signal);
}

/* ---- registers that were left for later ---- */

/* What one simple row says of registers other than pc, sp and fp. */
static void settle_frame(struct walker *walker, const struct tm_row *row, uint64_t cfa, uint64_t tracked)
{
	uint64_t kept = walker->arch->callee_saved | tracked, restored = 0;

	for (size_t i = 0; i < row->rule_count; i++) {
		const struct tm_rule *rule = &row->rules[i];
		uint64_t bit = BIT(rule->reg);

		if (bit & tracked)
			continue;
		if (rule->kind == TM_RULE_SAME) {
			kept |= bit;
		} else {
			kept &= ~bit;
			if (rule->kind == TM_RULE_AT_CFA &&
			    tm_window_word(&walker->window, cfa + (int64_t)rule->offset,
					   &walker->regs.value[rule->reg]))
				restored |= bit;
		}
	}
	walker->known = (walker->known & kept) | restored;
}

/* Brings all registers to the newest frame. The frames between were passed by simple rows. */
static void settle(struct walker *walker)
{
	const struct tm_arch *arch = walker->arch;
	uint64_t tracked = BIT(arch->pc) | BIT(arch->sp) | BIT(arch->fp);

	for (; walker->settled + 1 < walker->walk->count; walker->settled++) {
		const struct tm_walk_frame *frame = &walker->walk->frames[walker->settled];
		const struct tm_row *row = tm_cfi_find(walker->cfi, frame->lookup).row;

		if (row) /* NULL only when out of memory */
			settle_frame(walker, row, frame->cfa, tracked);
	}
}

/* ---- frames without CFI ---- */

/* Reads the frame record (caller's frame pointer, return address) at fp and tells whether it may be one:
   aligned as both ABIs keep the stack, and near. */
static bool read_record(struct walker *walker, uint64_t lowest, uint64_t fp, uint64_t *next_fp, uint64_t *pc)
{
	uint64_t return_address;

	if (fp % 8 != 0 || fp < lowest || fp - lowest > TM_UNWIND_RECORD_MAX)
		return false;
	if (!tm_window_word(&walker->window, fp, next_fp) ||
	    !tm_window_word(&walker->window, fp + 8, &return_address))
		return false;
	*pc = tm_arch_strip(walker->arch, walker->pac_mask, return_address);
	return *pc != 0;
}

static bool is_known_code(struct walker *walker, uint64_t pc)
{
	struct tm_cfi_hit hit = tm_cfi_find(walker->cfi, pc - 1);

	return hit.module || hit.row;
}

/*
 * Whether the chain of records from fp on is one. In code that uses the register for something else it points
 * anywhere; but code in anonymous memory (a JIT) is called from a module in the end, so a chain that leads
 * upwards is believed if it returns into one. What that record has as the caller's frame pointer may be any
 * number: the module need not use the register as such.
 */
static bool is_believable(struct walker *walker, uint64_t fp)
{
	uint64_t lowest = walker->regs.value[walker->arch->sp], next_fp, pc;

	if (fp <= walker->believed && fp >= lowest)
		return true;
	for (unsigned i = 0; i < CHAIN_MAX && read_record(walker, lowest, fp, &next_fp, &pc); i++) {
		if (is_known_code(walker, pc)) {
			walker->believed = fp;
			return true;
		}
		lowest = fp + 16;
		fp = next_fp;
	}
	return false;
}

/* Passes the newest frame by its frame record, or ends the walk. */
static bool step_by_frame_pointer(struct walker *walker)
{
	const struct tm_arch *arch = walker->arch;
	uint64_t *value = walker->regs.value, fp = value[arch->fp], next_fp, pc;

	/* A zero frame pointer marks the outermost frame (psABI 3.4.1; AAPCS64 6.4.6): ld.so's _start, which
	   has no CFI. In an innermost frame it may be any number, but a caller of code with CFI has it as its
	   own. */
	if (!walker->row && !walker->on_top && walker->known & BIT(arch->fp) && fp == 0)
		return end(walker, TM_CUT_NONE);
	if (!(walker->known & BIT(arch->fp)) || !is_believable(walker, fp) ||
	    !read_record(walker, value[arch->sp], fp, &next_fp, &pc))
		return end(walker, TM_CUT_NO_CFI);
	walker->walk->fp_frames++;
	newest(walker)->cfa = fp + 16;
	value[arch->fp] = next_fp;
	value[arch->sp] = fp + 16;
	walker->known = BIT(arch->fp) | BIT(arch->pc);
	/* With a link register the record may lie anywhere in the frame (AAPCS64 6.4.6): then sp is only a
	 * lower bound. */
	if (arch->link < 0)
		walker->known |= BIT(arch->sp);
	walker->settled = walker->walk->count;
	return enter_caller(walker, pc);
}

/* ---- frames with CFI ---- */

static bool step_simple(struct walker *walker)
{
	const struct tm_row *row = walker->row;
	uint64_t *value = walker->regs.value, *sp = &value[walker->arch->sp];
	uint64_t cfa = value[row->cfa_register] + (int64_t)row->cfa_offset, return_address;

	if (!(walker->known & BIT(row->cfa_register)))
		return step_by_frame_pointer(walker);
	newest(walker)->cfa = cfa;
	if (cfa <= *sp)
		return end(walker, TM_CUT_LOOP);
	if (!tm_window_word(&walker->window, cfa + (int64_t)row->return_offset, &return_address))
		return end(walker, TM_CUT_MEMORY);
	*sp = cfa;
	walker->known |= BIT(walker->arch->sp);
	if (row->fp_offset != TM_FP_SAME) {
		uint64_t bit = BIT(walker->arch->fp);
		bool read = tm_window_word(&walker->window, cfa + (int64_t)row->fp_offset,
					   &value[walker->arch->fp]);

		walker->known = read ? walker->known | bit : walker->known & ~bit;
	}
	return enter_caller(walker, return_address);
}

/* The value that a rule gives; false: none, and *unread if memory was the reason. */
static bool rule_value(struct walker *walker, const struct tm_rule *rule,
		       const struct tm_expression_frame *frame, uint64_t *value, bool *unread)
{
	const struct tm_operation *operations = walker->row->operations;
	uint64_t place;
	bool at = false;

	switch ((enum tm_rule_kind)rule->kind) {
	case TM_RULE_UNDEFINED:
		return false;
	case TM_RULE_SAME:
		*value = walker->regs.value[rule->reg];
		return walker->known >> rule->reg & 1;
	case TM_RULE_REGISTER:
		*value = walker->regs.value[rule->other] + (int64_t)rule->offset;
		return walker->known >> rule->other & 1;
	case TM_RULE_IS_CFA:
		*value = frame->cfa + (int64_t)rule->offset;
		return true;
	case TM_RULE_AT_CFA:
		place = frame->cfa + (int64_t)rule->offset;
		at = true;
		break;
	case TM_RULE_IS_EXPRESSION:
	case TM_RULE_AT_EXPRESSION:
		at = rule->kind == TM_RULE_AT_EXPRESSION;
		if (!tm_expression_evaluate(frame, operations + rule->offset, rule->operation_count, &place,
					    unread))
			return false;
		break;
	}
	if (!at) {
		*value = place;
		return true;
	}
	if (tm_window_word(&walker->window, place, value))
		return true;
	*unread = true;
	return false;
}

/* The registers of the caller. *from_register: nothing says that the return address was saved. */
static void restore(struct walker *walker, const struct tm_expression_frame *frame, bool *from_register,
		    bool *unread)
{
	const struct tm_row *row = walker->row;
	const struct tm_arch *arch = walker->arch;
	struct tm_regs next = walker->regs;
	uint64_t known = (walker->known & arch->callee_saved) | BIT(arch->sp);

	next.value[arch->sp] = frame->cfa;
	*from_register = true;
	for (size_t i = 0; i < row->rule_count; i++) {
		const struct tm_rule *rule = &row->rules[i];
		bool unread_here = false;

		if (rule_value(walker, rule, frame, &next.value[rule->reg], &unread_here))
			known |= BIT(rule->reg);
		else
			known &= ~BIT(rule->reg);
		if (rule->reg == row->return_register) {
			*from_register = rule->kind == TM_RULE_SAME;
			*unread = unread_here;
		}
	}
	walker->regs = next;
	walker->known = known;
	walker->settled = walker->walk->count;
}

static bool row_cfa(struct walker *walker, uint64_t *cfa, bool *unread)
{
	const struct tm_row *row = walker->row;
	struct tm_expression_frame frame = {&walker->regs, walker->known, false, 0, &walker->window};

	if (row->cfa_is_expression)
		return tm_expression_evaluate(&frame, row->operations + row->cfa_offset,
					      row->cfa_operation_count, cfa, unread);
	*cfa = walker->regs.value[row->cfa_register] + (int64_t)row->cfa_offset;
	return walker->known >> row->cfa_register & 1;
}

static bool step_by_row(struct walker *walker)
{
	const struct tm_row *row = walker->row;
	const struct tm_arch *arch = walker->arch;
	uint64_t cfa, sp = walker->regs.value[arch->sp];
	bool unread = false, from_register, on_top = walker->on_top;
	struct tm_expression_frame frame;

	settle(walker);
	if (!row_cfa(walker, &cfa, &unread)) {
		if (unread)
			return end(walker, TM_CUT_MEMORY);
		return row->cfa_is_expression ? end(walker, TM_CUT_BAD_CFI) : step_by_frame_pointer(walker);
	}
	newest(walker)->cfa = cfa;
	frame = (struct tm_expression_frame){&walker->regs, walker->known, true, cfa, &walker->window};
	restore(walker, &frame, &from_register, &unread);
	if (!(walker->known >> row->return_register & 1) || !(walker->known >> arch->sp & 1))
		return end(walker, unread ? TM_CUT_MEMORY : TM_CUT_BAD_CFI);
	/* A frame that called another has saved its return address, and its caller's stack lies above. */
	if (from_register && !on_top)
		return end(walker, TM_CUT_LOOP);
	if (!row->is_signal &&
	    (walker->regs.value[arch->sp] < sp || (walker->regs.value[arch->sp] == sp && !on_top)))
		return end(walker, TM_CUT_LOOP);
	return enter_caller(walker, walker->regs.value[row->return_register]);
}

/* The outermost frame has a CFA (main's caller's caller), but all registers are not worth the work of
 * settling for it. */
static bool end_outermost(struct walker *walker)
{
	const struct tm_row *row = walker->row;
	uint64_t tracked = walker->known & (BIT(walker->arch->sp) | BIT(walker->arch->fp));

	if (!row->cfa_is_expression && tracked >> row->cfa_register & 1)
		newest(walker)->cfa = walker->regs.value[row->cfa_register] + (int64_t)row->cfa_offset;
	return end(walker, TM_CUT_NONE);
}

/* Passes the innermost frame at a function's first instruction: nothing was saved yet. */
static bool step_from_entry(struct walker *walker)
{
	const struct tm_arch *arch = walker->arch;
	uint64_t *value = walker->regs.value, return_address;
	uint64_t cfa = value[arch->sp] + (uint64_t)arch->entry_cfa_offset;

	newest(walker)->cfa = cfa;
	if (arch->link >= 0)
		return_address = value[arch->link];
	else if (!tm_window_word(&walker->window, cfa - 8, &return_address))
		return end(walker, TM_CUT_MEMORY);
	value[arch->sp] = cfa;
	walker->known &= arch->callee_saved | BIT(arch->sp) | BIT(arch->pc);
	walker->settled = 1;
	return enter_caller(walker, return_address);
}

static inline bool step(struct walker *walker)
{
	const struct tm_row *row = walker->row;

	if (__builtin_expect(row && row->simple, 1))
		return step_simple(walker);
	if (!row)
		return step_by_frame_pointer(walker);
	return row->outermost ? end_outermost(walker) : step_by_row(walker);
}

void tm_unwind(struct tm_cfi *cfi, const struct tm_arch *arch, uint64_t pac_mask,
	       const struct tm_capture *capture, bool at_entry, size_t limit, struct tm_walk *walk)
{
	struct walker walker = {
		.cfi = cfi,
		.arch = arch,
		.pac_mask = pac_mask,
		.walk = walk,
		.limit = limit,
		.regs = capture->regs,
		.known = BIT(arch->register_count) - 1,
	};
	bool more;

	walk->count = walk->fp_frames = 0;
	walk->in_call = false;
	walk->cut = TM_CUT_NONE;
	tm_window_init(&walker.window, capture, &walk->pages);
	more = enter(&walker, capture->regs.value[arch->pc], true);
	if (more && at_entry)
		more = step_from_entry(&walker);
	while (more)
		more = step(&walker);
	walk->lowest_unread = walker.window.lowest_unread;
}

void tm_walk_deinit(struct tm_walk *walk)
{
	free(walk->frames);
	tm_window_pages_destroy(walk->pages);
	*walk = (struct tm_walk){0};
}
