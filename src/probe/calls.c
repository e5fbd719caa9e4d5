/*
 * What happens when a thread comes by: the entry of a call, its return, its end by other ways.
 *
 *	outermost call ......... [pending] entry -> return          one event
 *	  nested calls .........           ignored, but for frees of known blocks
 *	  signal handler .......           [pending] a level of its own
 */
#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "probe/function.h"
#include "target/pad.h"

struct pending {
	const struct tm_allocator *row;
	uint64_t function;            /* address; the function itself may be forgotten meanwhile */
	bool may_tail_jump;
	bool trampolined;             /* its return address was replaced by the probe's trampoline */
	unsigned signal_count;        /* of the thread, at entry */
	uint64_t cfa, return_address;
	uint64_t old, size, out;
	struct tm_regs regs;          /* at entry */
	_Alignas(16) uint8_t scratch[TM_EVENT_SCRATCH];
};

struct call_state {
	struct tm_vector(struct pending *) levels; /* the innermost signal level last */
	struct {
		uint64_t address, cfa;
	} last_free;                  /* operator delete calls free: one free, not two */
	struct {
		const struct tm_allocator *row;
		uint64_t cfa;
	} resolver;                   /* an IFUNC's resolver that runs; row NULL: none */
};

static struct call_state *state_of(struct tm_thread *thread)
{
	if (!thread->probe)
		thread->probe = calloc(1, sizeof(struct call_state));
	return thread->probe;
}

static struct pending *top_of(const struct call_state *state)
{
	return state->levels.count ? state->levels.items[state->levels.count - 1] : NULL;
}

static uint64_t register_of(const struct tm_thread *thread, unsigned number)
{
	return thread->regs.value[number];
}

static uint64_t argument(const struct tm_probe *probe, const struct tm_thread *thread, int index)
{
	const struct tm_arch *arch = probe->config.target->arch;

	assert(index >= 0 && (unsigned)index < arch->argument_count);
	return register_of(thread, arch->arguments[index]);
}

static struct tm_error *emit(struct tm_probe *probe, const struct tm_event *event)
{
	return probe->config.sink.event(probe->config.sink.context, event);
}

/* At a function's first instruction: psABI 3.2.2, the return address is the last word pushed; AAPCS64: in the link register. */
static struct tm_error *read_return_address(struct tm_probe *probe, const struct tm_thread *thread, uint64_t *address)
{
	const struct tm_arch *arch = probe->config.target->arch;

	if (arch->link >= 0) {
		*address = tm_arch_strip(arch, probe->config.target->pac_mask, register_of(thread, (unsigned)arch->link));
		return NULL;
	}
	return tm_target_read(probe->config.target, register_of(thread, arch->sp), address, sizeof(*address));
}

/* ---- the end of a call ---- */

static struct pending *pop(struct call_state *state)
{
	return state->levels.items[--state->levels.count];
}

static struct tm_error *emit_end(struct tm_probe *probe, struct tm_thread *thread, struct pending *call,
				 enum tm_event_kind kind)
{
	struct tm_event event = {
		.kind = kind, .domain = TM_DOMAIN_NATIVE, .thread = thread, .old_address = call->old, .scratch = call->scratch};

	return emit(probe, &event);
}

/* The call will not return (longjmp, an exception, cancellation, the thread's end): its old block, if any, is as it was. */
static struct tm_error *abandon(struct tm_probe *probe, struct tm_thread *thread, struct pending *call)
{
	struct tm_error *err = NULL;

	tm_log_debug("thread %d: a call of %s was abandoned", thread->tid, call->row->name);
	if (call->row->kind == TM_RESIZES && call->old)
		err = emit_end(probe, thread, call, TM_EVENT_RESIZE_CANCEL);
	free(call);
	return err;
}

/* The stack as it was at entry: what lies above the call's frame has not changed since; the return address stands where it stood. */
static void capture(struct tm_probe *probe, struct tm_thread *thread, const struct pending *call, struct tm_capture *out)
{
	const struct tm_arch *arch = probe->config.target->arch;
	uint64_t sp = call->regs.value[arch->sp];

	out->regs = call->regs;
	out->start = sp;
	out->bytes = probe->stack;
	out->size = tm_target_read_some(probe->config.target, sp, probe->stack, thread->capture_size);
	if (call->trampolined && arch->link < 0 && out->size >= sizeof(call->return_address))
		memcpy(probe->stack, &call->return_address, sizeof(call->return_address));
}

static struct tm_error *emit_block(struct tm_probe *probe, struct tm_thread *thread, struct pending *call, uint64_t address)
{
	struct tm_memory memory = tm_target_memory(probe->config.target);
	struct tm_event event = {
		.kind = call->row->kind == TM_RESIZES && call->old ? TM_EVENT_RESIZE_END : TM_EVENT_ALLOCATE,
		.domain = TM_DOMAIN_NATIVE,
		.thread = thread,
		.address = address,
		.old_address = call->old,
		.size = call->size,
		.scratch = call->scratch,
	};

	capture(probe, thread, call, &event.capture);
	event.capture.memory = &memory;
	return emit(probe, &event);
}

static struct tm_error *emit_no_block(struct tm_probe *probe, struct tm_thread *thread, struct pending *call)
{
	struct tm_error *err = NULL;
	bool frees = call->row->zero_frees && call->size == 0;

	if (call->row->kind == TM_RESIZES && call->old)
		err = emit_end(probe, thread, call, frees ? TM_EVENT_RESIZE_FREED : TM_EVENT_RESIZE_CANCEL);
	if (!err && !(frees && call->old))
		err = emit_end(probe, thread, call, TM_EVENT_FAIL);
	return err;
}

/* The outermost call of its level has returned. */
static struct tm_error *complete(struct tm_probe *probe, struct tm_thread *thread, struct call_state *state)
{
	struct pending *call = pop(state);
	uint64_t address = register_of(thread, probe->config.target->arch->result);
	struct tm_error *err = NULL;

	if (call->row->out >= 0 && (uint32_t)address == 0) /* an int: 0 is success */
		err = tm_target_read(probe->config.target, call->out, &address, sizeof(address));
	else if (call->row->out >= 0)
		address = 0;
	if (!err)
		err = address ? emit_block(probe, thread, call, address) : emit_no_block(probe, thread, call);
	if (address == state->last_free.address)
		state->last_free.address = 0;
	free(call);
	return err;
}

/* The call with that CFA, on top; NULL: there is none. Those above it were left by a jump out of their signal handlers. */
static struct tm_error *find_call(struct tm_probe *probe, struct tm_thread *thread, struct call_state *state, uint64_t cfa,
				  struct pending **call)
{
	size_t level = state->levels.count;
	struct tm_error *err = NULL;

	*call = NULL;
	while (level && state->levels.items[level - 1]->cfa != cfa)
		level--;
	if (!level)
		return NULL;
	while (!err && state->levels.count > level)
		err = abandon(probe, thread, pop(state));
	*call = err ? NULL : top_of(state);
	return err;
}

/* ---- the nesting ---- */

enum nesting { OUTERMOST, NESTED };

/* A function that ends by jumping to another one enters it with the same CFA and return address. Else the same CFA means that
   the pending call was left, and its caller calls again. */
static struct tm_error *same_frame(struct tm_probe *probe, struct tm_thread *thread, struct pending *call, uint64_t entered,
				   enum nesting *nesting)
{
	uint64_t return_address = 0;
	struct tm_error *err;

	*nesting = OUTERMOST;
	if (!call->may_tail_jump || call->function == entered)
		return NULL;
	err = read_return_address(probe, thread, &return_address);
	if (!err && (call->trampolined ? return_address == probe->trampoline : return_address == call->return_address))
		*nesting = NESTED;
	return err;
}

/*
 * Was the call left by longjmp or an exception, and by a thread that is at a deeper place by now? It then made calls from where it
 * landed, and one of them stands where the call's return address stood. (With a link register that place is not known.)
 */
static bool was_left(struct tm_probe *probe, const struct pending *call)
{
	uint64_t expected = call->trampolined ? probe->trampoline : call->return_address, present;
	struct tm_error *err;
	bool left;

	if (probe->config.target->arch->link >= 0)
		return false;
	err = tm_target_read(probe->config.target, call->cfa - sizeof(present), &present, sizeof(present));
	left = !err && present != expected;
	tm_error_destroy(err);
	return left;
}

/* Is a call that enters now, at `cfa`, inside a pending one? Pending calls that cannot be alive any more are dropped on the way. */
static struct tm_error *find_nesting(struct tm_probe *probe, struct tm_thread *thread, struct call_state *state,
				     uint64_t entered, uint64_t cfa, enum nesting *nesting)
{
	const struct tm_event_sink *sink = &probe->config.sink;
	struct pending *call;
	struct tm_error *err;

	*nesting = OUTERMOST;
	while ((call = top_of(state))) {
		if (thread->signal_count != call->signal_count && sink->in_signal_handler(sink->context, thread, call->cfa))
			return NULL;
		if (cfa < call->cfa && !was_left(probe, call)) {
			*nesting = NESTED;
			return NULL;
		}
		if (cfa == call->cfa) {
			err = same_frame(probe, thread, call, entered, nesting);
			if (err || *nesting == NESTED)
				return err;
		}
		err = abandon(probe, thread, pop(state));
		if (err)
			return err;
	}
	return NULL;
}

/* ---- entries ---- */

static struct tm_error *enter_free(struct tm_probe *probe, struct tm_thread *thread, struct call_state *state,
				   const struct tm_function *function, uint64_t cfa)
{
	uint64_t old = argument(probe, thread, function->row->old);
	struct tm_event event = {
		.kind = TM_EVENT_FREE, .domain = TM_DOMAIN_NATIVE, .thread = thread, .old_address = old};
	enum nesting nesting;
	struct tm_error *err;

	if (!old)
		return NULL;
	err = find_nesting(probe, thread, state, function->address, cfa, &nesting);
	if (err)
		return err;
	if (nesting == NESTED) {
		if (top_of(state)->old == old)
			return NULL; /* the resize's own, which its end accounts for */
		event.nested = true;
	} else if (state->last_free.address == old && cfa <= state->last_free.cfa) {
		event.nested = true; /* called by the delete that was seen before */
	} else {
		state->last_free.address = old;
		state->last_free.cfa = cfa;
	}
	return emit(probe, &event);
}

static uint64_t requested_size(const struct tm_probe *probe, const struct tm_thread *thread, const struct tm_allocator *row)
{
	uint64_t size = argument(probe, thread, row->size);

	if (row->count != TM_NO_ARGUMENT && __builtin_mul_overflow(size, argument(probe, thread, row->count), &size))
		size = UINT64_MAX; /* such a call fails */
	return size;
}

/* A place that no caller's code holds: a breakpoint in the pads. Any instruction serves there, it is never executed. */
static struct tm_error *make_trampoline(struct tm_probe *probe, uint64_t near_address)
{
	const struct tm_arch *arch = probe->config.target->arch;
	struct tm_error *err;

	if (probe->trampoline)
		return NULL;
	if (!probe->config.pads)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "no page may be mapped into the target");
	err = tm_pads_place(probe->config.pads, NULL, near_address, arch->syscall_insn, arch->syscall_insn_size,
			    &probe->trampoline);
	if (!err)
		err = tm_breakpoint_insert(probe->config.breakpoints, probe->trampoline);
	if (err)
		probe->trampoline = 0;
	return err;
}

/* The caller's code is a JIT's, or cannot hold a breakpoint: the call returns to the trampoline instead. */
static struct tm_error *redirect_return(struct tm_probe *probe, struct tm_thread *thread, struct pending *call)
{
	const struct tm_arch *arch = probe->config.target->arch;
	struct tm_error *err;

	/* Where a link register is saved only the function knows, so it could not be put back at a detach. */
	if (arch->link >= 0)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "its caller at 0x%" PRIx64 " cannot hold a breakpoint",
				       call->return_address);
	err = make_trampoline(probe, call->function);
	if (err)
		return err;
	call->trampolined = true;
	return tm_target_write(probe->config.target, register_of(thread, arch->sp), &probe->trampoline,
			       sizeof(probe->trampoline));
}

/* Makes sure that the return of the call will be seen. */
static struct tm_error *watch_return(struct tm_probe *probe, struct tm_thread *thread, struct pending *call)
{
	uint64_t address = call->return_address;
	const struct tm_module *module;
	struct tm_error *err;

	if (tm_map_get(&probe->returns, address))
		return NULL;
	module = tm_module_map_find(probe->config.modules, address);
	if (!module || module->is_vdso)
		return redirect_return(probe, thread, call);
	err = tm_breakpoint_insert(probe->config.breakpoints, address);
	if (err && err->code != TM_ERROR_NO_PROCESS) {
		tm_error_destroy(err);
		return redirect_return(probe, thread, call);
	}
	if (!err && !tm_map_put(&probe->returns, address, 1))
		err = tm_error_out_of_memory();
	return err;
}

/* A call whose return cannot be seen: counted, and said. */
static struct tm_error *lose(struct tm_probe *probe, struct tm_thread *thread, const struct tm_allocator *row,
			     struct tm_error *err)
{
	struct tm_event event = {.kind = TM_EVENT_LOST, .domain = TM_DOMAIN_NATIVE, .thread = thread};

	if (err->code == TM_ERROR_NO_PROCESS)
		return err;
	tm_probe_warn(probe, "a call of %s is lost: %s", row->name, err->message);
	tm_error_destroy(err);
	return emit(probe, &event);
}

static struct tm_error *begin_call(struct tm_probe *probe, struct tm_thread *thread, struct call_state *state,
				   const struct tm_function *function, uint64_t cfa)
{
	const struct tm_allocator *row = function->row;
	struct pending *call = calloc(1, sizeof(*call));
	struct tm_error *err = NULL;

	if (!call || !tm_vector_push(&state->levels, call)) {
		free(call);
		return tm_error_out_of_memory();
	}
	state->last_free.address = 0; /* what is freed from now on is freed by another call */
	call->row = row;
	call->function = function->address;
	call->may_tail_jump = function->may_tail_jump;
	call->signal_count = thread->signal_count;
	call->cfa = cfa;
	call->regs = thread->regs;
	call->size = requested_size(probe, thread, row);
	call->old = row->old >= 0 ? argument(probe, thread, row->old) : 0;
	call->out = row->out >= 0 ? argument(probe, thread, row->out) : 0;
	err = read_return_address(probe, thread, &call->return_address);
	if (!err && function->by_return_address)
		err = watch_return(probe, thread, call);
	if (err) {
		free(pop(state));
		return lose(probe, thread, row, err);
	}
	return row->kind == TM_RESIZES && call->old ? emit_end(probe, thread, call, TM_EVENT_RESIZE_BEGIN) : NULL;
}

static struct tm_error *enter_resolver(struct tm_probe *probe, struct tm_thread *thread, struct call_state *state,
				       const struct tm_function *function, uint64_t cfa)
{
	uint64_t address = 0;
	struct tm_error *err = read_return_address(probe, thread, &address);

	if (!err && !tm_map_get(&probe->returns, address)) {
		err = tm_breakpoint_insert(probe->config.breakpoints, address);
		if (!err && !tm_map_put(&probe->returns, address, 1))
			err = tm_error_out_of_memory();
	}
	if (err && err->code != TM_ERROR_NO_PROCESS) {
		tm_probe_warn(probe, "what the resolver of %s chooses may go untraced: %s", function->row->name, err->message);
		tm_error_destroy(err);
		return NULL;
	}
	if (err)
		return err;
	state->resolver.row = function->row;
	state->resolver.cfa = cfa;
	return NULL;
}

static struct tm_error *enter(struct tm_probe *probe, struct tm_thread *thread, struct call_state *state,
			      const struct tm_function *function)
{
	const struct tm_arch *arch = probe->config.target->arch;
	uint64_t cfa = register_of(thread, arch->sp) + (uint64_t)arch->entry_cfa_offset;
	enum nesting nesting;
	struct tm_error *err;

	if (function->is_resolver)
		return enter_resolver(probe, thread, state, function, cfa);
	if (function->row->kind == TM_FREES)
		return enter_free(probe, thread, state, function, cfa);
	err = find_nesting(probe, thread, state, function->address, cfa, &nesting);
	if (err || nesting == NESTED)
		return err;
	return begin_call(probe, thread, state, function, cfa);
}

/* ---- stops ---- */

/* Behind a call, in the caller: CFA = SP. */
static struct tm_error *returned(struct tm_probe *probe, struct tm_thread *thread, struct call_state *state, uint64_t address)
{
	const struct tm_arch *arch = probe->config.target->arch;
	uint64_t sp = register_of(thread, arch->sp);
	struct pending *call;
	struct tm_error *err;

	if (state->resolver.row && state->resolver.cfa == sp) {
		const struct tm_allocator *row = state->resolver.row;

		state->resolver.row = NULL;
		return tm_function_arm(probe, row, register_of(thread, arch->result), 0, false);
	}
	err = find_call(probe, thread, state, sp, &call);
	return !err && call && call->return_address == address ? complete(probe, thread, state) : err;
}

/* At a return instruction of an allocator function. */
static struct tm_error *returning(struct tm_probe *probe, struct tm_thread *thread, struct call_state *state)
{
	const struct tm_arch *arch = probe->config.target->arch;
	uint64_t cfa = register_of(thread, arch->sp) + (uint64_t)arch->return_cfa_offset;
	struct pending *call;
	struct tm_error *err = find_call(probe, thread, state, cfa, &call);

	return !err && call ? complete(probe, thread, state) : err;
}

static struct tm_error *hit_trampoline(struct tm_probe *probe, struct tm_thread *thread, struct call_state *state)
{
	const struct tm_arch *arch = probe->config.target->arch;
	struct pending *call;
	uint64_t return_address;
	struct tm_error *err = find_call(probe, thread, state, register_of(thread, arch->sp), &call);

	if (err)
		return err;
	if (!call || !call->trampolined)
		return tm_error_create(TM_ERROR_OTHER, "thread %d returned to the trampoline out of turn", thread->tid);
	return_address = call->return_address;
	err = complete(probe, thread, state);
	if (err)
		return err;
	return tm_target_store_pc(probe->config.target, thread, return_address);
}

struct tm_error *tm_probe_hit(struct tm_probe *probe, struct tm_thread *thread, uint64_t address, bool *ours)
{
	struct call_state *state = state_of(thread);
	const struct tm_function *function;
	struct tm_error *err = NULL;

	*ours = true;
	if (!state)
		return tm_error_out_of_memory();
	if (address == probe->trampoline)
		return hit_trampoline(probe, thread, state);
	if (tm_map_get(&probe->returns, address))
		err = returned(probe, thread, state, address);
	else
		*ours = false;
	if (!err && tm_map_get(&probe->exits, address)) {
		*ours = true;
		err = returning(probe, thread, state);
	}
	function = err ? NULL : tm_function_at(&probe->entries, address);
	if (function) {
		*ours = true;
		err = enter(probe, thread, state, function);
	}
	return err;
}

void tm_probe_thread_gone(struct tm_probe *probe, struct tm_thread *thread)
{
	struct call_state *state = thread->probe;

	if (!state)
		return;
	while (state->levels.count)
		tm_error_destroy(abandon(probe, thread, pop(state)));
	tm_vector_deinit(&state->levels);
	free(state);
	thread->probe = NULL;
}

/* ---- return addresses that were replaced ---- */

typedef struct tm_error *(*restore_word)(struct tm_probe *probe, void *context, uint64_t place, uint64_t word);

/* The word below the CFA: psABI 3.2.2. */
static struct tm_error *each_trampolined(struct tm_probe *probe, restore_word restore, void *context)
{
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(probe->config.target, &i));) {
		const struct call_state *state = thread->probe;

		for (size_t j = 0; state && j < state->levels.count; j++) {
			const struct pending *call = state->levels.items[j];
			struct tm_error *err = NULL;

			if (call->trampolined)
				err = restore(probe, context, call->cfa - sizeof(uint64_t), call->return_address);
			if (err)
				return err;
		}
	}
	return NULL;
}

static struct tm_error *restore_in_target(struct tm_probe *probe, void *context, uint64_t place, uint64_t word)
{
	uint64_t present = 0;
	struct tm_error *err = tm_target_read(probe->config.target, place, &present, sizeof(present));

	(void)context;
	if (!err && present == probe->trampoline)
		err = tm_target_write(probe->config.target, place, &word, sizeof(word));
	return err;
}

/* A thread that has just returned to the trampoline, and was stopped before that could be told, goes where it was called from. */
static struct tm_error *leave_trampoline(struct tm_probe *probe, struct tm_thread *thread)
{
	struct tm_error *err;

	if (!probe->trampoline || !thread->probe || thread->state != TM_THREAD_STOPPED)
		return NULL;
	err = tm_target_fetch_regs(probe->config.target, thread);
	if (!err && register_of(thread, probe->config.target->arch->pc) == probe->trampoline)
		err = hit_trampoline(probe, thread, thread->probe);
	return err;
}

struct tm_error *tm_probe_disarm(struct tm_probe *probe)
{
	struct tm_error *err = NULL;
	struct tm_thread *thread;

	for (size_t i = 0; !err && (thread = tm_target_next_thread(probe->config.target, &i));)
		err = leave_trampoline(probe, thread);
	return err ? err : each_trampolined(probe, restore_in_target, NULL);
}

static struct tm_error *restore_in_child(struct tm_probe *probe, void *context, uint64_t place, uint64_t word)
{
	const struct tm_target *target = probe->config.target;
	pid_t child = *(const pid_t *)context;
	uint64_t present = 0;
	struct tm_error *err = target->ops->read_child(probe->config.target, child, place, &present, sizeof(present));

	if (!err && present == probe->trampoline)
		err = target->ops->write_child(probe->config.target, child, place, &word, sizeof(word));
	return err;
}

void tm_probe_scrub_child(struct tm_probe *probe, pid_t child)
{
	tm_error_destroy(each_trampolined(probe, restore_in_child, &child));
}
