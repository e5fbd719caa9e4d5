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
#include "probe/call_state.h"

static struct tm_call_state *state_of(struct tm_thread *thread)
{
	if (!thread->probe)
		thread->probe = calloc(1, sizeof(struct tm_call_state));
	return thread->probe;
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

/* Of a call that was just entered: psABI 3.2.2, the return address is the last word pushed; AAPCS64: in the
 * link register. */
static struct tm_error *read_return_address(struct tm_probe *probe, const struct tm_thread *thread,
					    uint64_t cfa, uint64_t *address)
{
	const struct tm_arch *arch = probe->config.target->arch;

	if (arch->link >= 0) {
		*address = tm_arch_strip(arch, probe->config.target->pac_mask,
					 register_of(thread, (unsigned)arch->link));
		return NULL;
	}
	return tm_target_read(probe->config.target, cfa - sizeof(*address), address, sizeof(*address));
}

/* ---- the return of a call ---- */

/* Makes sure that the return of the call will be seen. */
static struct tm_error *watch_return(struct tm_probe *probe, struct tm_thread *thread,
				     struct tm_pending *call)
{
	uint64_t address = call->return_address;
	const struct tm_module *module;
	const uint64_t *waiting;
	struct tm_error *err;

	waiting = tm_map_get(&probe->returns, address);
	if ((waiting && *waiting == TM_RETURN_STAYS) || tm_map_get(&probe->stops, address))
		return NULL; /* the latter: a patched function has jumped here */
	module = tm_module_map_find(probe->config.modules, address);
	if (!module || module->is_vdso)
		return tm_trampoline_redirect(probe, thread, call);
	err = tm_breakpoint_insert(probe->config.breakpoints, address);
	if (err && err->code != TM_ERROR_NO_PROCESS) {
		tm_error_destroy(err);
		return tm_trampoline_redirect(probe, thread, call);
	}
	call->watched = !err && call->taken;
	if (!err && !tm_map_put(&probe->returns, address,
				call->taken ? (waiting ? *waiting : 0) + 1 : TM_RETURN_STAYS))
		err = tm_error_out_of_memory();
	return err;
}

/* Most calls of a function that is told at its end do not stop: a breakpoint that stayed would stop them all.
 */
static void unwatch_return(struct tm_probe *probe, struct tm_pending *call)
{
	uint64_t *waiting = tm_map_get(&probe->returns, call->return_address);

	if (call->watched && waiting && *waiting && *waiting != TM_RETURN_STAYS) {
		--*waiting;
		tm_error_destroy(tm_breakpoint_lift(probe->config.breakpoints, call->return_address));
	}
	call->watched = false;
}

/* ---- the end of a call ---- */

/* The object stays readable until the thread's next call. */
static struct tm_pending *pop(struct tm_call_state *state)
{
	return state->levels.items[--state->levels.count];
}

/* What lies above the call's frame has not changed since its entry, so that more of it can be read now,
 * through `memory`. */
static struct tm_capture capture_of(const struct tm_probe *probe, const struct tm_pending *call,
				    const struct tm_memory *memory)
{
	return (struct tm_capture){call->regs, call->regs.value[probe->config.target->arch->sp],
				   call->stack + call->stack_below, call->stack_size - call->stack_below,
				   memory};
}

static struct tm_event event_of(const struct tm_probe *probe, struct tm_thread *thread,
				struct tm_pending *call, enum tm_event_kind kind,
				const struct tm_capture *capture)
{
	return (struct tm_event){
		.kind = kind,
		.domain = probe->config.domain,
		.thread = thread,
		.old_address = call->old,
		.size = call->size,
		.scratch = call->scratch,
		.capture = capture,
	};
}

static struct tm_error *emit_end(struct tm_probe *probe, struct tm_thread *thread, struct tm_pending *call,
				 enum tm_event_kind kind)
{
	struct tm_memory memory = tm_target_memory(probe->config.target);
	struct tm_capture capture = capture_of(probe, call, &memory);
	struct tm_event event = event_of(probe, thread, call, kind, &capture);

	return emit(probe, &event);
}

/* The call will not return (longjmp, an exception, cancellation, the thread's end): its old block, if any, is
 * as it was. */
static struct tm_error *abandon(struct tm_probe *probe, struct tm_thread *thread, struct tm_pending *call)
{
	struct tm_error *err = NULL;

	tm_log_debug("thread %d: a call of %s was abandoned", thread->tid, call->row->name);
	unwatch_return(probe, call);
	if (call->begun)
		err = emit_end(probe, thread, call, TM_EVENT_RESIZE_CANCEL);
	return err;
}

static struct tm_error *emit_block(struct tm_probe *probe, struct tm_thread *thread, struct tm_pending *call,
				   uint64_t address)
{
	bool resized = call->row->kind == TM_RESIZES && call->old;
	struct tm_memory memory = tm_target_memory(probe->config.target);
	struct tm_capture capture = capture_of(probe, call, &memory);
	struct tm_event event =
		event_of(probe, thread, call, resized ? TM_EVENT_RESIZE_END : TM_EVENT_ALLOCATE, &capture);

	event.address = address;
	return emit(probe, &event);
}

static struct tm_error *emit_no_block(struct tm_probe *probe, struct tm_thread *thread,
				      struct tm_pending *call)
{
	struct tm_error *err = NULL;
	bool frees = call->row->zero_frees && call->size == 0;

	if (call->row->kind == TM_RESIZES && call->old)
		err = emit_end(probe, thread, call, frees ? TM_EVENT_RESIZE_FREED : TM_EVENT_RESIZE_CANCEL);
	if (!err && !(frees && call->old))
		err = emit_end(probe, thread, call, TM_EVENT_FAIL);
	return err;
}

struct tm_error *tm_call_finish(struct tm_probe *probe, struct tm_thread *thread, struct tm_call_state *state,
				struct tm_pending *call)
{
	uint64_t address = register_of(thread, probe->config.target->arch->result);
	struct tm_error *err = NULL;

	if (probe->config.recording && tm_allocator_throws(call->row))
		err = tm_recording_leave_new(probe->config.recording, thread, call->cfa);
	if (err)
		return err;
	if (call->row->out >= 0 && (uint32_t)address == 0) /* an int: 0 is success */
		err = tm_target_read(probe->config.target, call->out, &address, sizeof(address));
	else if (call->row->out >= 0)
		address = 0;
	if (!err)
		err = address ? emit_block(probe, thread, call, address) : emit_no_block(probe, thread, call);
	if (address == state->last_free.address)
		state->last_free.address = 0;
	return err;
}

/* The outermost call of its level has returned. */
static struct tm_error *complete(struct tm_probe *probe, struct tm_thread *thread,
				 struct tm_call_state *state)
{
	struct tm_pending *call = pop(state);

	unwatch_return(probe, call);
	return tm_call_finish(probe, thread, state, call);
}

/* The call with that CFA, on top; NULL: there is none. Those above it were left by a jump out of their signal
 * handlers. */
static struct tm_error *find_call(struct tm_probe *probe, struct tm_thread *thread,
				  struct tm_call_state *state, uint64_t cfa, struct tm_pending **call)
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
	*call = err ? NULL : tm_call_top(state);
	return err;
}

/* ---- the nesting ---- */

/* A function that ends by jumping to another one enters it with the same CFA and return address. Else the
   same CFA means that the pending call was left, and its caller calls again. */
static struct tm_error *same_frame(struct tm_probe *probe, struct tm_thread *thread, struct tm_pending *call,
				   uint64_t entered, enum tm_nesting *nesting)
{
	uint64_t return_address = 0;
	struct tm_error *err;

	*nesting = TM_OUTERMOST;
	if (!call->may_tail_jump || call->function == entered)
		return NULL;
	err = read_return_address(probe, thread, call->cfa, &return_address);
	if (!err && (call->trampolined ? return_address == probe->trampoline
				       : return_address == call->return_address))
		*nesting = TM_NESTED;
	return err;
}

/*
 * Was the call left by longjmp or an exception, and by a thread that is at a deeper place by now? It then
 * made calls from where it landed, and one of them stands where the call's return address stood. (With a link
 * register that place is not known.)
 */
static bool was_left(struct tm_probe *probe, const struct tm_pending *call)
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

/* Is a call that enters now, at `cfa`, inside a pending one? Pending calls that cannot be alive any more are
 * dropped on the way. */
struct tm_error *tm_call_find_nesting(struct tm_probe *probe, struct tm_thread *thread,
				      struct tm_call_state *state, uint64_t entered, uint64_t cfa,
				      enum tm_nesting *nesting)
{
	const struct tm_event_sink *sink = &probe->config.sink;
	struct tm_pending *call;
	struct tm_error *err;

	*nesting = TM_OUTERMOST;
	while ((call = tm_call_top(state))) {
		if (thread->signal_count != call->signal_count &&
		    sink->in_signal_handler(sink->context, thread, call->cfa))
			return NULL;
		if (cfa < call->cfa && !was_left(probe, call)) {
			*nesting = TM_NESTED;
			return NULL;
		}
		if (cfa == call->cfa) {
			err = same_frame(probe, thread, call, entered, nesting);
			if (err || *nesting == TM_NESTED)
				return err;
		}
		err = abandon(probe, thread, pop(state));
		if (err)
			return err;
	}
	return NULL;
}

/* ---- entries ---- */

static struct tm_error *enter_free(struct tm_probe *probe, struct tm_thread *thread,
				   struct tm_call_state *state, const struct tm_function *function,
				   uint64_t cfa)
{
	uint64_t old = argument(probe, thread, function->row->old);
	struct tm_memory memory = tm_target_memory(probe->config.target);
	struct tm_event event = {
		.kind = TM_EVENT_FREE, .domain = probe->config.domain, .thread = thread, .old_address = old};
	struct tm_capture capture;
	enum tm_nesting nesting;
	struct tm_error *err;

	if (!old)
		return NULL;
	err = tm_call_find_nesting(probe, thread, state, function->address, cfa, &nesting);
	if (err)
		return err;
	if (nesting == TM_NESTED) {
		if (tm_call_top(state)->old == old)
			return NULL; /* the resize's own, which its end accounts for */
		event.nested = true;
	} else if (state->last_free.address == old && cfa <= state->last_free.cfa) {
		event.nested = true; /* called by the delete that was seen before */
	} else {
		state->last_free.address = old;
		state->last_free.cfa = cfa;
	}
	capture = (struct tm_capture){.regs = thread->regs,
				      .start = register_of(thread, probe->config.target->arch->sp),
				      .memory = &memory};
	event.capture = &capture;
	return emit(probe, &event);
}

static uint64_t requested_size(const struct tm_probe *probe, const struct tm_thread *thread,
			       const struct tm_allocator *row)
{
	uint64_t size = argument(probe, thread, row->size);

	if (row->count != TM_NO_ARGUMENT &&
	    __builtin_mul_overflow(size, argument(probe, thread, row->count), &size))
		size = UINT64_MAX; /* such a call fails */
	return size;
}

struct tm_error *tm_call_lose(struct tm_probe *probe, struct tm_thread *thread,
			      const struct tm_allocator *row, struct tm_error *err)
{
	struct tm_event event = {.kind = TM_EVENT_LOST, .domain = probe->config.domain, .thread = thread};

	if (err->code == TM_ERROR_NO_PROCESS)
		return err;
	tm_probe_warn(probe, "a call of %s is lost: %s", row->name, err->message);
	tm_error_destroy(err);
	return emit(probe, &event);
}

static struct tm_pending *push(struct tm_call_state *state)
{
	size_t count = state->levels.count;
	struct tm_pending *call;

	if (count == state->allocated) {
		call = tm_vector_reserve(&state->levels, count + 1) ? calloc(1, sizeof(*call)) : NULL;
		if (!call)
			return NULL;
		state->levels.items[state->allocated++] = call;
	}
	return state->levels.items[state->levels.count++];
}

/* One read takes the stack and with it the return address. */
static struct tm_error *capture(struct tm_probe *probe, struct tm_thread *thread, struct tm_pending *call)
{
	struct tm_target *target = probe->config.target;
	uint64_t sp = register_of(thread, target->arch->sp);

	if (thread->capture_size > call->stack_capacity &&
	    !tm_vector_grow((void **)&call->stack, &call->stack_capacity, thread->capture_size, 1))
		return tm_error_out_of_memory();
	call->regs = thread->regs;
	call->stack_below = 0;
	call->stack_size = tm_target_read_some(target, sp, call->stack, thread->capture_size);
	if (target->arch->link >= 0 || call->stack_size < sizeof(call->return_address))
		return read_return_address(probe, thread, call->cfa, &call->return_address);
	memcpy(&call->return_address, call->stack, sizeof(call->return_address));
	return NULL;
}

/* taken: the call that the recorder has seen begin, NULL: none. watch: its return is to be seen. */
static struct tm_error *begin_call(struct tm_probe *probe, struct tm_thread *thread,
				   struct tm_call_state *state, const struct tm_function *function,
				   uint64_t cfa, const struct tm_recorder_call *taken, bool watch)
{
	const struct tm_allocator *row = function->row;
	struct tm_pending *call = push(state);
	struct tm_error *err;

	if (!call)
		return tm_error_out_of_memory();
	state->last_free.address = 0; /* what is freed from now on is freed by another call */
	call->row = row;
	call->function = function->address;
	call->may_tail_jump = function->may_tail_jump;
	call->trampolined = call->begun = call->watched = false;
	call->signal_count = thread->signal_count;
	call->cfa = cfa;
	call->taken = taken != NULL;
	call->size = taken ? taken->value : requested_size(probe, thread, row);
	call->old = row->old >= 0 ? argument(probe, thread, row->old) : 0;
	call->out = row->out >= 0 ? argument(probe, thread, row->out) : 0;
	err = capture(probe, thread, call);
	if (!err && watch)
		err = watch_return(probe, thread, call);
	if (err) {
		if (thread->probe == state) /* else the thread has died meanwhile, and its calls with it */
			pop(state);
		return tm_call_lose(probe, thread, row, err);
	}
	if (probe->config.recording && tm_allocator_throws(row) && !taken) {
		const struct tm_recorder_call entered = {cfa, call->return_address, call->size,
							 TM_TOLD_BY_STOP};

		err = tm_recording_enter_new(probe->config.recording, thread, &entered);
		if (err)
			return err;
	}
	call->begun = row->kind == TM_RESIZES && call->old;
	return call->begun ? emit_end(probe, thread, call, TM_EVENT_RESIZE_BEGIN) : NULL;
}

static struct tm_error *enter_resolver(struct tm_probe *probe, struct tm_thread *thread,
				       struct tm_call_state *state, const struct tm_function *function,
				       uint64_t cfa)
{
	uint64_t address = 0;
	struct tm_error *err = read_return_address(probe, thread, cfa, &address);

	if (!err && !tm_map_get(&probe->returns, address)) {
		err = tm_breakpoint_insert(probe->config.breakpoints, address);
		if (!err && !tm_map_put(&probe->returns, address, TM_RETURN_STAYS))
			err = tm_error_out_of_memory();
	}
	if (err && err->code != TM_ERROR_NO_PROCESS) {
		tm_probe_warn(probe, "what the resolver of %s chooses may go untraced: %s",
			      function->row->name, err->message);
		tm_error_destroy(err);
		return NULL;
	}
	if (err)
		return err;
	state->resolver.row = function->row;
	state->resolver.cfa = cfa;
	return NULL;
}

static struct tm_error *enter(struct tm_probe *probe, struct tm_thread *thread, struct tm_call_state *state,
			      const struct tm_function *function)
{
	const struct tm_arch *arch = probe->config.target->arch;
	uint64_t cfa = register_of(thread, arch->sp) + (uint64_t)arch->entry_cfa_offset;
	enum tm_nesting nesting;
	struct tm_error *err;

	if (function->is_resolver)
		return enter_resolver(probe, thread, state, function, cfa);
	if (function->row->kind == TM_FREES)
		return enter_free(probe, thread, state, function, cfa);
	err = tm_call_find_nesting(probe, thread, state, function->address, cfa, &nesting);
	if (err || nesting == TM_NESTED)
		return err;
	return begin_call(probe, thread, state, function, cfa, NULL, function->by_return_address);
}

/* ---- stops ---- */

/* Code behind a call of operator new is also come to from where its exception was caught, and from another
   call of the same frame behind that. */
static struct tm_error *check_returned(struct tm_probe *probe, struct tm_thread *thread,
				       const struct tm_pending *call, bool *returned)
{
	*returned = !tm_allocator_throws(call->row) || !was_left(probe, call);
	return *returned && call->taken && probe->config.recording
		       ? tm_recording_has_taken(probe->config.recording, thread, call->cfa, returned)
		       : NULL;
}

/* Behind a call, in the caller: CFA = SP. */
static struct tm_error *returned(struct tm_probe *probe, struct tm_thread *thread,
				 struct tm_call_state *state, uint64_t address)
{
	const struct tm_arch *arch = probe->config.target->arch;
	uint64_t sp = register_of(thread, arch->sp);
	struct tm_pending *call;
	struct tm_error *err;
	bool has_returned;

	if (state->resolver.row && state->resolver.cfa == sp) {
		const struct tm_allocator *row = state->resolver.row;

		state->resolver.row = NULL;
		return tm_function_arm(probe, row, register_of(thread, arch->result), NULL, TM_ARM_PLAIN);
	}
	err = find_call(probe, thread, state, sp, &call);
	if (err || !call || call->return_address != address)
		return err;
	err = check_returned(probe, thread, call, &has_returned);
	if (err)
		return err;
	return has_returned ? complete(probe, thread, state) : abandon(probe, thread, pop(state));
}

/*
 * At a way out of a function that is told at its end, where no pad tells of it: a rare one, to a slow path.
 * All is as it was at the entry, but for the arguments; what those were the recorder knows, if it has seen
 * the entry.
 */
static struct tm_error *leaving(struct tm_probe *probe, struct tm_thread *thread, struct tm_call_state *state,
				const struct tm_function *function, bool returns)
{
	const struct tm_arch *arch = probe->config.target->arch;
	uint64_t cfa = register_of(thread, arch->sp) + (uint64_t)arch->entry_cfa_offset;
	struct tm_recorder_call taken = {0};
	enum tm_nesting nesting;
	struct tm_error *err = probe->config.recording
				       ? tm_recording_take_new(probe->config.recording, thread, cfa, &taken)
				       : NULL;

	if (err || !taken.cfa)
		return err;
	err = tm_call_find_nesting(probe, thread, state, function->address, cfa, &nesting);
	if (err || nesting == TM_NESTED)
		return err;
	err = begin_call(probe, thread, state, function, cfa, &taken, !returns);
	return err || !returns || !tm_call_top(state) ? err : complete(probe, thread, state);
}

/* At a return instruction of an allocator function. */
static struct tm_error *returning(struct tm_probe *probe, struct tm_thread *thread,
				  struct tm_call_state *state, const struct tm_function *function)
{
	const struct tm_arch *arch = probe->config.target->arch;
	uint64_t cfa = register_of(thread, arch->sp) + (uint64_t)arch->return_cfa_offset;
	struct tm_pending *call;
	struct tm_error *err = find_call(probe, thread, state, cfa, &call);

	if (!err && !call && function->ends)
		return leaving(probe, thread, state, function, true);
	return !err && call ? complete(probe, thread, state) : err;
}

static struct tm_error *hit_trampoline(struct tm_probe *probe, struct tm_thread *thread,
				       struct tm_call_state *state)
{
	const struct tm_arch *arch = probe->config.target->arch;
	struct tm_pending *call;
	uint64_t return_address;
	struct tm_error *err = find_call(probe, thread, state, register_of(thread, arch->sp), &call);

	if (err)
		return err;
	if (!call || !call->trampolined)
		return tm_error_create(TM_ERROR_OTHER, "thread %d returned to the trampoline out of turn",
				       thread->tid);
	return_address = call->return_address;
	err = complete(probe, thread, state);
	if (err)
		return err;
	return tm_target_store_pc(probe->config.target, thread, return_address);
}

struct tm_error *tm_probe_hit(struct tm_probe *probe, struct tm_thread *thread, uint64_t address, bool *ours)
{
	struct tm_call_state *state = state_of(thread);
	const struct tm_function *function;
	struct tm_error *err = NULL;

	*ours = true;
	tm_calls_release_gone(probe);
	if (!state)
		return tm_error_out_of_memory();
	if (address == probe->trampoline)
		return hit_trampoline(probe, thread, state);
	function = tm_function_at(&probe->stops, address);
	if (function) {
		err = returned(probe, thread, state, address);
		return err ? err : tm_call_passed(probe, thread, state, function);
	}
	if (tm_map_get(&probe->returns, address))
		err = returned(probe, thread, state, address);
	else
		*ours = false;
	function = err ? NULL : tm_function_at(&probe->exits, address);
	if (function) {
		*ours = true;
		err = returning(probe, thread, state, function);
	}
	function = err ? NULL : tm_function_at(&probe->ways, address);
	if (function) {
		*ours = true;
		err = leaving(probe, thread, state, function, false);
	}
	function = err ? NULL : tm_function_at(&probe->entries, address);
	if (function) {
		*ours = true;
		err = enter(probe, thread, state, function);
	}
	return err;
}

/* A thread may be found dead in the middle of a hit: what the callers still hold of it goes before the next
 * one. */
void tm_probe_thread_gone(struct tm_probe *probe, struct tm_thread *thread)
{
	struct tm_call_state *state = thread->probe;

	if (!state)
		return;
	while (state->levels.count)
		tm_error_destroy(abandon(probe, thread, pop(state)));
	state->next_gone = probe->gone;
	probe->gone = state;
	thread->probe = NULL;
}

void tm_calls_release_gone(struct tm_probe *probe)
{
	while (probe->gone) {
		struct tm_call_state *state = probe->gone;

		probe->gone = state->next_gone;
		for (size_t i = 0; i < state->allocated; i++) {
			free(state->levels.items[i]->stack);
			free(state->levels.items[i]);
		}
		tm_vector_deinit(&state->levels);
		free(state->passed.stack);
		free(state);
	}
}

/* A thread that has just returned to the trampoline, and was stopped before that could be told, goes where it
 * was called from. */
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

	for (size_t i = 0; (thread = tm_target_next_thread(probe->config.target, &i));)
		err = tm_error_first(err, leave_trampoline(probe, thread));
	return tm_error_first(err, tm_trampolines_restore(probe));
}
