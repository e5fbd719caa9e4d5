#include "probe/tracemalloc_pads.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "arch/guard_pad.h"
#include "base/log.h"
#include "probe/function.h"
#include "probe/tracemalloc_probe.h"
#include "recorder/guard.h"

struct tm_tracemalloc_pads {
	struct tm_tracemalloc_pads_config config;
	bool begun;
	bool pretended; /* when it was disarmed */
};

struct tm_error *tm_tracemalloc_pads_create(const struct tm_tracemalloc_pads_config *config,
					    struct tm_tracemalloc_pads **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return tm_error_out_of_memory();
	(*out)->config = *config;
	return NULL;
}

void tm_tracemalloc_pads_destroy(struct tm_tracemalloc_pads *probe)
{
	free(probe);
}

/* ---- patching ---- */

#define NO_ENTRY TM_ENTRY_COUNT

static const struct row {
	const char *name;
	size_t place; /* in struct tm_python_tracemalloc */
	bool exact;   /* only then */
	enum tm_recorder_entry enter, leave;
} rows[] = {
	{"PyTraceMalloc_Track", offsetof(struct tm_python_tracemalloc, track), false, TM_ENTRY_TRACK,
	 NO_ENTRY},
	{"PyTraceMalloc_Untrack", offsetof(struct tm_python_tracemalloc, untrack), false, TM_ENTRY_UNTRACK,
	 NO_ENTRY},
	{"_PyTraceMalloc_NewReference", offsetof(struct tm_python_tracemalloc, new_reference), true,
	 TM_ENTRY_NEW_REFERENCE, NO_ENTRY},
	{"_tracemalloc.start", offsetof(struct tm_python_tracemalloc, start), true, TM_ENTRY_START,
	 TM_ENTRY_SWITCHED},
	{"_tracemalloc.stop", offsetof(struct tm_python_tracemalloc, stop), true, TM_ENTRY_STOP,
	 TM_ENTRY_SWITCHED},
	{"_tracemalloc.is_tracing", offsetof(struct tm_python_tracemalloc, is_tracing), true,
	 TM_ENTRY_IS_TRACING, NO_ENTRY},
	{"Py_FinalizeEx", offsetof(struct tm_python_tracemalloc, finalize), true, TM_ENTRY_FINALIZE,
	 NO_ENTRY},
};

/* 0: the function is not there, or not needed. */
static uint64_t address_of(const struct tm_tracemalloc_pads *probe, const struct row *row)
{
	uint64_t address;

	if (row->exact && !probe->config.exact)
		return 0;
	memcpy(&address, (const char *)&probe->config.places + row->place, sizeof(address));
	return address;
}

#define NEAR_REACH 128u /* bytes: of a jump with a displacement of 8 bits */

/*
 * The function's code from its beginning on, as far as a short jump back to it reaches; where it ends nobody
 * tells. Whole instructions: with one that is cut the rest is not believed.
 */
static struct tm_error *find_body(const struct tm_tracemalloc_pads *probe, struct tm_patch_request *request)
{
	const struct tm_arch *arch = probe->config.target->arch;
	const struct tm_module *module = probe->config.module;
	size_t available = 0, least = tm_jump_size(arch) + NEAR_REACH + 2;
	struct tm_error *err = NULL;

	request->bytes = tm_module_bytes(module, request->address - module->bias, &available);
	request->lowest_target = request->address;
	for (request->size = least; !err && request->size < least + TM_INSN_BYTES_MAX; request->size++) {
		_cleanup_(tm_exits_deinit) struct tm_exits exits = {0};

		if (!request->bytes || request->size > available)
			break;
		err = arch->find_exits(request->bytes, request->size, request->address, &exits);
		request->lowest_target = err ? 0 : exits.lowest_target;
		if (!err && exits.lowest_target != request->address)
			return NULL;
	}
	return err ? err : tm_error_create(TM_ERROR_UNSUPPORTED, "its code does not decode");
}

struct placing {
	const struct tm_tracemalloc_pads *probe;
	const struct row *row;
};

static struct tm_error *make_pad(void *context, uint64_t address, uint64_t relocated, uint64_t *pad)
{
	const struct placing *placing = context;
	const struct tm_tracemalloc_pads_config *config = &placing->probe->config;
	const struct tm_guard_pad made = {
		.enter = tm_recording_entry(config->recording, placing->row->enter),
		.guard = tm_recording_guard(config->recording),
		.original = relocated,
		.leave = placing->row->leave == NO_ENTRY
				 ? 0
				 : tm_recording_entry(config->recording, placing->row->leave),
	};
	uint8_t code[TM_GUARD_PAD_SIZE_MAX];
	size_t size;
	struct tm_error *err = tm_guard_pad_make(config->target->arch, &made, code, &size);

	return err ? err : tm_pads_place(config->pads, NULL, address, code, size, pad);
}

static struct tm_error *insert(struct tm_tracemalloc_pads *probe, const struct row *row, uint64_t address)
{
	const struct tm_tracemalloc_pads_config *config = &probe->config;
	const struct tm_arch *arch = config->target->arch;
	struct placing placing = {probe, row};
	struct tm_patch_request request = {.address = address, .make_pad = make_pad, .context = &placing};
	struct tm_error *err = NULL;

	if (!tm_jump_size(arch) || config->module->image_is_copy)
		err = tm_error_create(TM_ERROR_UNSUPPORTED, "its file is not at hand to compare");
	else if (tm_code_is_jumped_into(arch, config->module, address + 1, address + tm_jump_size(arch)))
		err = tm_error_create(TM_ERROR_UNSUPPORTED, "other code may jump into its first bytes");
	if (!err)
		err = find_body(probe, &request);
	if (!err)
		err = tm_patch_insert(config->patches, &request);
	return err ? tm_error_prefix(err, "%s cannot be patched", row->name) : NULL;
}

/* What the entries must know. Calls of start and stop may be going on, of an earlier trace. */
static struct tm_error *write_guard(struct tm_tracemalloc_pads *probe, struct tm_guard *guard)
{
	const struct tm_python_tracemalloc *places = &probe->config.places;
	uint64_t address = tm_recording_guard(probe->config.recording);
	struct tm_error *err = tm_target_read(probe->config.target, address, guard, sizeof(*guard));

	if (err)
		return err;
	guard->armed = guard->pretends = guard->finalizing = guard->abandoned = 0;
	guard->counts_constants = places->counts_constants;
	guard->tracing = probe->config.exact ? places->tracing : 0;
	guard->new_reference = places->new_reference;
	guard->none = places->none;
	guard->false_ = places->false_;
	return tm_target_write(probe->config.target, address, guard, sizeof(*guard));
}

struct tm_error *tm_tracemalloc_pads_insert(struct tm_tracemalloc_pads *probe)
{
	struct tm_guard guard;
	struct tm_error *err = tm_patches_survey(probe->config.patches);

	if (!err)
		err = write_guard(probe, &guard);
	for (size_t i = 0; !err && i < TM_ARRAY_SIZE(rows); i++)
		if (address_of(probe, &rows[i]))
			err = insert(probe, &rows[i], address_of(probe, &rows[i]));
	return err;
}

/* ---- the flag ---- */

#define GUARD(probe, field) (tm_recording_guard((probe)->config.recording) + offsetof(struct tm_guard, field))

static struct tm_error *put(struct tm_target *target, uint64_t address, uint32_t value)
{
	return tm_target_write(target, address, &value, sizeof(value));
}

/* Where start or stop is going on, its pad sets the flag behind it if that is to be. */
struct tm_error *tm_tracemalloc_pads_begin(struct tm_tracemalloc_pads *probe)
{
	struct tm_target *target = probe->config.target;
	struct tm_guard guard;
	int32_t present;
	struct tm_error *err;

	if (!probe->config.exact)
		return NULL;
	err = tm_target_read(target, tm_recording_guard(probe->config.recording), &guard, sizeof(guard));
	if (!err)
		err = tm_target_read(target, guard.tracing, &present, sizeof(present));
	if (!err)
		err = put(target, GUARD(probe, armed), 1);
	probe->begun = !err;
	if (err || present || guard.switching)
		return err;
	err = put(target, GUARD(probe, pretends), 1);
	return err ? err : put(target, guard.tracing, 1);
}

static struct tm_error *stop_pretending(struct tm_target *target, uint64_t guard_address, bool *pretended)
{
	struct tm_guard guard;
	struct tm_error *err = tm_target_read(target, guard_address, &guard, sizeof(guard));

	*pretended = !err && guard.pretends;
	if (*pretended)
		err = put(target, guard.tracing, 0);
	if (*pretended && !err)
		err = put(target, guard_address + offsetof(struct tm_guard, pretends), 0);
	return err ? err : put(target, guard_address + offsetof(struct tm_guard, armed), 0);
}

struct tm_error *tm_tracemalloc_pads_disarm(struct tm_tracemalloc_pads *probe)
{
	const struct tm_tracemalloc_pads_config *config = &probe->config;
	struct tm_error *err;

	if (!probe->begun)
		return NULL;
	err = stop_pretending(config->target, tm_recording_guard(config->recording), &probe->pretended);
	probe->begun = false;
	return probe->pretended
		       ? tm_error_first(err, tm_tracemalloc_leave_hook(config->target, config->breakpoints,
								       config->places.new_reference))
		       : err;
}

struct tm_error *tm_tracemalloc_pads_abandon(struct tm_tracemalloc_pads *probe)
{
	return probe->pretended ? put(probe->config.target, GUARD(probe, abandoned), 1) : NULL;
}

void tm_tracemalloc_pads_scrub_child(struct tm_tracemalloc_pads *probe, pid_t child)
{
	struct tm_target *target = probe->config.target;
	const struct tm_target_ops *ops = target->ops;
	uint64_t place = tm_recording_guard(probe->config.recording);
	const int32_t off = 0;
	struct tm_guard guard = {0};
	struct tm_error *err;

	if (!probe->begun)
		return;
	err = ops->read_child(target, child, place, &guard, sizeof(guard));
	if (!err && guard.pretends)
		err = ops->write_child(target, child, guard.tracing, &off, sizeof(off));
	guard.pretends = guard.armed = 0;
	if (!err)
		err = ops->write_child(target, child, place, &guard, sizeof(guard));
	tm_error_destroy(err);
}

/* ---- records ---- */

static struct tm_event event_of(const struct tm_record_header *header)
{
	const struct tm_record_block *block = (const struct tm_record_block *)header;
	const struct tm_record_free *free_ = (const struct tm_record_free *)header;

	if (header->kind == TM_RECORD_UNTRACK)
		return (struct tm_event){.kind = TM_EVENT_FREE,
					 .domain = (uint32_t)free_->domain,
					 .old_address = free_->block};
	return (struct tm_event){.kind = TM_EVENT_ALLOCATE,
				 .domain = (uint32_t)block->old,
				 .address = block->block,
				 .size = block->size,
				 .recorded = header->flags & TM_RECORD_NO_FRAMES ? NULL : block};
}

struct tm_error *tm_tracemalloc_pads_record(struct tm_tracemalloc_pads *probe, const struct tm_thread *thread,
					    uint64_t thread_pointer, const struct tm_record_header *record)
{
	struct tm_event event = event_of(record);

	event.thread = (struct tm_thread *)thread; /* events of a record do not touch it */
	event.thread_pointer = thread_pointer;
	return probe->config.sink.event(probe->config.sink.context, &event);
}

/* ---- what a killed tracer left ---- */

struct recovery {
	struct tm_target *target;
	const struct tm_pads *pads;
	const struct tm_breakpoints *breakpoints;
	const struct tm_module_map *modules;
};

/* Does this slot hold a pad of ours, and does the function that it was made for still jump there? */
static bool is_in_use(const struct recovery *recovery, uint64_t code, size_t size, struct tm_guard_pad *pad,
		      uint64_t *function)
{
	const struct tm_arch *arch = recovery->target->arch;
	uint8_t bytes[TM_GUARD_PAD_SIZE_MAX], jump[TM_JUMP_SIZE_MAX], present[TM_JUMP_SIZE_MAX];
	size_t jump_size = tm_jump_size(arch);
	uint64_t copy;

	return size <= sizeof(bytes) && tm_target_read_some(recovery->target, code, bytes, size) == size &&
	       tm_guard_pad_parse(arch, bytes, size, pad) &&
	       tm_pads_origin(recovery->pads, pad->original, function, &copy) && copy == pad->original &&
	       tm_jump_make(arch, *function, code, jump) &&
	       tm_target_read_some(recovery->target, *function, present, jump_size) == jump_size &&
	       memcmp(present, jump, jump_size) == 0;
}

static struct tm_error *restore_code(const struct recovery *recovery, uint64_t function)
{
	const struct tm_module *module = tm_module_map_find(recovery->modules, function);
	size_t available = 0, size = tm_jump_size(recovery->target->arch);
	const uint8_t *bytes = module ? tm_module_bytes(module, function - module->bias, &available) : NULL;

	if (!bytes || available < size || module->image_is_copy)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "a tmtrace that was killed has left a jump at 0x%" PRIx64
				       ", and the code that stood there is not at hand",
				       function);
	tm_log_info("a jump of an earlier trace at 0x%" PRIx64 " is taken back", function);
	return tm_target_write(recovery->target, function, bytes, size);
}

/* The flag first; whoever is on the way to the hook has to be gone before the code is as it was. */
static struct tm_error *clear_flag(const struct recovery *recovery, uint64_t address)
{
	struct tm_guard guard;
	bool pretended = false;
	struct tm_error *err = tm_target_read(recovery->target, address, &guard, sizeof(guard));

	if (err || memcmp(guard.magic, TM_GUARD_MAGIC, sizeof(guard.magic)) != 0)
		return err;
	err = stop_pretending(recovery->target, address, &pretended);
	if (!err && pretended)
		err = put(recovery->target, address + offsetof(struct tm_guard, abandoned), 1);
	if (!err && pretended)
		err = tm_tracemalloc_leave_hook(recovery->target, recovery->breakpoints, guard.new_reference);
	return err;
}

struct tm_error *tm_tracemalloc_recover(struct tm_target *target, const struct tm_pads *pads,
					const struct tm_breakpoints *breakpoints,
					const struct tm_module_map *modules)
{
	const struct recovery recovery = {target, pads, breakpoints, modules};
	struct tm_error *err = NULL;
	uint64_t code, function;
	size_t size;

	for (size_t i = 0; !err && tm_jump_size(target->arch) && tm_pads_next(pads, &i, &code, &size);) {
		struct tm_guard_pad pad;

		if (!is_in_use(&recovery, code, size, &pad, &function))
			continue;
		err = clear_flag(&recovery, pad.guard);
		if (!err)
			err = restore_code(&recovery, function);
	}
	return err;
}
