/*
 * Functions that are patched: their calls pass through a pad and stop once, behind the call. What is needed
 * of the entry is there: the pad keeps the arguments on the stack, the callee-saved registers are as they
 * were, and so is the stack above.
 */
#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "probe/call_state.h"

/* Words on the stack at the stop, in this order. */
enum { KEPT_SIZE, KEPT_SECOND };

/* Which arguments the pad must keep: the size, and the count or the place of the result. */
static size_t kept_arguments(const struct tm_allocator *row, uint8_t kept[TM_CALL_PAD_ARGUMENTS])
{
	size_t count = 0;

	kept[count++] = (uint8_t)row->size;
	if (row->count >= 0)
		kept[count++] = (uint8_t)row->count;
	else if (row->out >= 0)
		kept[count++] = (uint8_t)row->out;
	return count;
}

/* ---- patching ---- */

bool tm_code_is_jumped_into(const struct tm_arch *arch, const struct tm_module *module, uint64_t start,
			    uint64_t end)
{
	struct tm_jump_range range = {start, end, false};

	for (size_t i = 0; !range.found && i < module->text_count; i++) {
		const struct tm_module_text *text = &module->texts[i];
		size_t available, size = text->end - text->start;
		const uint8_t *bytes = tm_module_bytes(module, text->start - module->bias, &available);

		if (!bytes)
			return true;
		tm_jumps_find(arch, bytes, size < available ? size : available, text->start, &range, 1);
	}
	return range.found;
}

/* NULL: nothing speaks against it. */
static const char *why_not(const struct tm_probe *probe, const struct tm_function *function,
			   const struct tm_module *module, const struct tm_exits *exits)
{

	bool records = probe->config.recording != NULL;

	if (function->row->kind != TM_ALLOCATES && !records)
		return "it has an event at its entry";
	if (tm_allocator_throws(function->row) &&
	    !(records && (function->reaches || tm_function_can_end(probe, function, exits))))
		return "an exception may pass it";
	if (module->image_is_copy)
		return "its file is not at hand to compare";
	/* Nested calls are known by a walk over its frame. */
	if (!tm_cfi_find(probe->config.cfi, function->address).row)
		return "its module has no CFI";
	if (function->jumped_into)
		return "other code may jump into its first bytes";
	return NULL;
}

struct placing {
	struct tm_patches *patches;
	const struct tm_allocator *row;
	uint64_t stop, stop_depth;
	struct tm_breakpoints *breakpoints;
};

static struct tm_error *make_pad(void *context, uint64_t address, uint64_t relocated, uint64_t *pad)
{
	struct placing *placing = context;
	uint8_t kept[TM_CALL_PAD_ARGUMENTS];
	size_t count = kept_arguments(placing->row, kept);
	struct tm_call_pad made;
	struct tm_error *err =
		tm_call_pad_place(placing->patches, address, relocated, kept, count, &made, pad);

	if (err)
		return err;
	placing->stop = *pad + made.stop;
	placing->stop_depth = made.words * sizeof(uint64_t);
	return tm_breakpoint_insert(placing->breakpoints, placing->stop);
}

void tm_probe_stopped(struct tm_probe *probe)
{
	probe->surveyed = false;
}

struct tm_error *tm_probe_survey(struct tm_probe *probe)
{
	struct tm_error *err = probe->surveyed ? NULL : tm_patches_survey(probe->config.patches);

	probe->surveyed = !err;
	return err;
}

static struct tm_error *insert(struct tm_probe *probe, struct tm_function *function, const uint8_t *bytes,
			       size_t size, const struct tm_exits *exits)
{
	struct placing placing = {.patches = probe->config.patches,
				  .row = function->row,
				  .breakpoints = probe->config.breakpoints};
	struct tm_patch_request request = {function->address,	 bytes,	   size,
					   exits->lowest_target, make_pad, &placing};
	struct tm_error *err = tm_probe_survey(probe);

	if (!err)
		err = tm_patch_insert(probe->config.patches, &request);
	if (err)
		return err;
	function->stop = placing.stop;
	function->stop_depth = placing.stop_depth;
	return tm_map_put(&probe->stops, function->stop, (uintptr_t)function) ? NULL
									      : tm_error_out_of_memory();
}

bool tm_function_patch(struct tm_probe *probe, struct tm_function *function, const uint8_t *bytes,
		       size_t size, const struct tm_exits *exits)
{
	const struct tm_module *module = tm_module_map_find(probe->config.modules, function->address);
	_cleanup_error_ struct tm_error *err = NULL;
	const char *why;

	if (!probe->config.patches || !tm_jump_size(probe->config.target->arch))
		return false;
	why = why_not(probe, function, module, exits);
	if (!why) {
		err = probe->config.recording ? tm_function_record(probe, function, bytes, size, exits)
					      : insert(probe, function, bytes, size, exits);
		why = err ? err->message : NULL;
	}
	if (why)
		tm_log_info("%s at 0x%" PRIx64 " in %s keeps breakpoints: %s", function->row->name,
			    function->address, module->path, why);
	if (why && probe->config.recording)
		probe->unrecorded++;
	return function->stop || function->recorded;
}

/* ---- the stop ---- */

/* The call's arguments, from the words that the pad keeps at the beginning of what was read. */
static void take_arguments(struct tm_pending *call)
{
	const struct tm_allocator *row = call->row;
	uint64_t kept[2], count;

	memcpy(kept, call->stack, sizeof(kept));
	call->size = kept[KEPT_SIZE];
	count = row->count >= 0 ? kept[KEPT_SECOND] : 1;
	if (__builtin_mul_overflow(call->size, count, &call->size))
		call->size = UINT64_MAX; /* such a call fails */
	call->out = row->out >= 0 ? kept[KEPT_SECOND] : 0;
	call->old = 0;
}

/* Registers and stack as they were at the call's entry: one read takes arguments, return address and stack.
 */
static struct tm_error *capture_entry(struct tm_probe *probe, struct tm_thread *thread,
				      struct tm_pending *call, const struct tm_function *function)
{
	struct tm_target *target = probe->config.target;
	const struct tm_arch *arch = target->arch;
	uint64_t sp = thread->regs.value[arch->sp];
	size_t below = function->stop_depth, wanted = thread->capture_size + below;

	if (wanted > call->stack_capacity &&
	    !tm_vector_grow((void **)&call->stack, &call->stack_capacity, wanted, 1))
		return tm_error_out_of_memory();
	call->stack_size = tm_target_read_some(target, sp, call->stack, wanted);
	if (call->stack_size < below + sizeof(call->return_address))
		return tm_error_create(TM_ERROR_NO_MEMORY, "the stack at 0x%" PRIx64 " cannot be read", sp);
	call->stack_below = below;
	call->regs = thread->regs;
	call->regs.value[arch->sp] = sp + below;
	call->regs.value[arch->pc] = function->address;
	memcpy(&call->return_address, call->stack + below, sizeof(call->return_address));
	return NULL;
}

struct tm_error *tm_call_passed(struct tm_probe *probe, struct tm_thread *thread, struct tm_call_state *state,
				const struct tm_function *function)
{
	const struct tm_arch *arch = probe->config.target->arch;
	struct tm_pending *call = &state->passed;
	enum tm_nesting nesting;
	struct tm_error *err;

	call->row = function->row;
	call->function = function->address;
	call->cfa = thread->regs.value[arch->sp] + function->stop_depth + (uint64_t)arch->entry_cfa_offset;
	err = tm_call_find_nesting(probe, thread, state, function->address, call->cfa, &nesting);
	if (err || nesting == TM_NESTED)
		return err;
	state->last_free.address = 0; /* what is freed from now on is freed by another call */
	err = capture_entry(probe, thread, call, function);
	if (err)
		return tm_call_lose(probe, thread, function->row, err);
	take_arguments(call);
	return tm_call_finish(probe, thread, state, call);
}
