/*
 * Functions whose pads record: which pads each kind of function gets. Nothing stops there. What the pads
 * write is read in native_records.c.
 *
 * A function that throws cannot be called through, for its pad has no CFI that an exception could pass by.
 * operator new needs none where it always calls malloc, which is looked up in its code: that call tells the
 * block, and the walk from there that it was operator new's. One that has a fast path of its own (jemalloc's,
 * tcmalloc's) has a pad at its entry, where the size is noted, and pads where it returns. At its other ways
 * out, jumps to slow paths, and at returns that have no room for a jump, it stops (calls.c, leaving).
 * operator delete that does nothing but to call free is no event of its own.
 */
#include <inttypes.h>
#include <string.h>

#include "arch/reach.h"
#include "arch/record_pad.h"
#include "base/log.h"
#include "debuginfo/symbol.h"
#include "probe/call_state.h"
#include "recorder/row_table.h"
#include "target/pad.h"

/* ---- the pad of a function ---- */

static struct tm_record_pad_plan plan_for(const struct tm_probe *probe, const struct tm_function *function,
					  uint64_t relocated)
{
	const struct tm_allocator *row = function->row;
	const struct tm_recording *recording = probe->config.recording;
	struct tm_record_pad_plan plan = {.original = relocated,
					  .enabled = tm_recording_enabled_word(recording)};

	if (row->kind == TM_FREES) {
		plan.entry = tm_recording_entry(recording, TM_ENTRY_NATIVE_FREE);
		plan.needs_block = true;
		return plan;
	}
	if (tm_allocator_throws(row)) {
		plan.entry = tm_recording_entry(recording, function->reaches ? TM_ENTRY_NATIVE_NEW
									     : TM_ENTRY_NATIVE_NEW_ENDS);
		return plan;
	}
	plan.leave = tm_recording_entry(recording, TM_ENTRY_NATIVE_LEAVE);
	plan.what = function->number << 16;
	if (row->kind == TM_RESIZES) {
		plan.entry = tm_recording_entry(recording, TM_ENTRY_NATIVE_RESIZE);
		plan.what |= TM_PAD_RESIZES;
		plan.arguments[plan.argument_count++] = (uint8_t)row->old;
	}
	plan.arguments[plan.argument_count++] = (uint8_t)row->size;
	if (row->count >= 0) {
		plan.what |= TM_PAD_COUNTED;
		plan.arguments[plan.argument_count++] = (uint8_t)row->count;
	} else if (row->out >= 0) {
		plan.what |= TM_PAD_OUT;
		plan.arguments[plan.argument_count++] = (uint8_t)row->out;
	}
	return plan;
}

struct placing {
	struct tm_probe *probe;
	struct tm_function *function;
};

static struct tm_error *make_pad(void *context, uint64_t address, uint64_t relocated, uint64_t *pad)
{
	const struct placing *placing = context;
	const struct tm_probe_config *config = &placing->probe->config;
	struct tm_record_pad_plan plan = plan_for(placing->probe, placing->function, relocated);
	struct tm_record_pad made;
	struct tm_error *err = tm_record_pad_make(config->target->arch, &plan, &made);

	if (!err)
		err = tm_pads_place(config->pads, NULL, address, made.code, made.size, pad);
	/* The return address of its call: whoever meets it was called from within. */
	if (!err && made.call_size &&
	    !tm_row_put_later(tm_recording_rows(config->recording), *pad + made.call_size,
			      tm_row_rule(TM_ROW_STEP, TM_ROW_IN_CALL, 8 * made.words + 8, 0)))
		err = tm_error_out_of_memory();
	return err;
}

/* ---- ways out ---- */

/* A return: what stands there is replaced by a jump to a pad, which has the instructions before it. */
struct way {
	const struct tm_probe *probe;
	const struct tm_function *function;
	const struct tm_way_out *out;
	const uint8_t *before;
};

static struct tm_error *make_way_pad(void *context, uint64_t address, uint64_t relocated, uint64_t *pad)
{
	const struct way *way = context;
	const struct tm_probe_config *config = &way->probe->config;
	size_t before = way->out->address - address;
	const struct tm_record_pad_plan plan = {
		.original = relocated + before,
		.enabled = tm_recording_enabled_word(config->recording),
		.leave = tm_recording_entry(config->recording, TM_ENTRY_NATIVE_LEAVE),
		.way_out = true,
		.before = way->before,
		.before_size = before,
		.what = way->function->number << 16 | TM_PAD_WAY_OUT,
		.arguments = {(uint8_t)way->function->row->size},
		.argument_count = 1,
	};
	struct tm_record_pad made;
	struct tm_error *err = tm_record_pad_make(config->target->arch, &plan, &made);

	return err ? err : tm_pads_place(config->pads, NULL, address, made.code, made.size, pad);
}

static bool has_room(const struct tm_probe *probe, const struct tm_way_out *out)
{
	return out->returns && !out->jumped_into &&
	       out->end - out->start >= tm_jump_size(probe->config.target->arch) &&
	       out->address - out->start <= TM_RECORD_PAD_BEFORE;
}

/* What the entry's jump replaces, and the instruction that it may cut, lie before the first way out. A way
   that stops draws no sample. */
bool tm_function_can_end(const struct tm_probe *probe, const struct tm_function *function,
			 const struct tm_exits *exits)
{
	size_t jump = tm_jump_size(probe->config.target->arch);
	bool any = false;

	for (size_t i = 0; i < exits->way_count; i++) {
		bool room = has_room(probe, &exits->ways[i]);

		if (exits->ways[i].start < function->address + jump + TM_INSN_BYTES_MAX ||
		    (!room && probe->only_records))
			return false;
		any = any || room;
	}
	return any && function->row->kind == TM_ALLOCATES && function->row->out < 0 &&
	       function->row->count < 0;
}

static struct tm_error *patch_way(struct tm_probe *probe, const struct tm_function *function,
				  const uint8_t *bytes, const struct tm_way_out *out)
{
	const uint8_t *start = bytes + (out->start - function->address);
	struct way way = {probe, function, out, start};
	const struct tm_patch_request request = {out->start, start,	   out->end - out->start,
						 out->end,   make_way_pad, &way};

	return tm_patch_insert(probe->config.patches, &request);
}

/* Jumps to slow paths, and returns without room. */
static struct tm_error *stop_at_way(struct tm_probe *probe, struct tm_function *function,
				    const struct tm_way_out *out)
{
	struct tm_map *map = out->returns ? &probe->exits : &probe->ways;
	struct tm_error *err = tm_breakpoint_insert(probe->config.breakpoints, out->address);

	if (!err && !tm_map_put(map, out->address, (uintptr_t)function))
		err = tm_error_out_of_memory();
	return err;
}

/* Where its entry is not replaced in the end, nobody is told there. */
static struct tm_error *watch_ways(struct tm_probe *probe, struct tm_function *function, const uint8_t *bytes,
				   const struct tm_exits *exits)
{
	struct tm_error *err = NULL;
	size_t stops = 0;

	for (size_t i = 0; !err && i < exits->way_count; i++) {
		const struct tm_way_out *out = &exits->ways[i];
		bool room = has_room(probe, out);

		err = room ? patch_way(probe, function, bytes, out) : stop_at_way(probe, function, out);
		stops += !room;
	}
	if (!err && stops)
		tm_log_info("%s at 0x%" PRIx64 " stops at %zu of its %zu ways out: %s", function->row->name,
			    function->address, stops, exits->way_count,
			    "those lead to slow paths, or have no room for a jump");
	probe->unrecorded += !err && stops;
	return err;
}

/* ---- both ---- */

/* Numbers are never given twice: records of a function that is forgotten may still come. */
static struct tm_error *give_number(struct tm_probe *probe, struct tm_function *function)
{
	if (probe->recorded_rows.count == TM_PAD_FUNCTIONS)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "there are too many functions");
	function->number = (uint32_t)probe->recorded_rows.count;
	return tm_vector_push(&probe->recorded_rows, function->row) ? NULL : tm_error_out_of_memory();
}

struct tm_error *tm_function_record(struct tm_probe *probe, struct tm_function *function,
				    const uint8_t *bytes, size_t size, const struct tm_exits *exits)
{
	struct placing placing = {probe, function};
	const struct tm_patch_request request = {function->address,    bytes,	 size,
						 exits->lowest_target, make_pad, &placing};
	bool ends = tm_allocator_throws(function->row) && !function->reaches;
	struct tm_error *err = give_number(probe, function);

	if (!err)
		err = tm_probe_survey(probe);
	if (!err && ends)
		err = watch_ways(probe, function, bytes, exits);
	if (!err)
		err = tm_patch_insert(probe->config.patches, &request);
	function->recorded = !err;
	function->ends = !err && ends;
	probe->recorded_count += !err;
	return err;
}

/* ---- the dynamic linker ---- */

#define LOADER_BYTES 16u /* a function, and what aligns the next one */

static struct tm_error *make_loader_pad(void *context, uint64_t address, uint64_t relocated, uint64_t *pad)
{
	struct tm_probe *probe = context;
	const struct tm_record_pad_plan plan = {
		.original = relocated,
		.enabled = tm_recording_enabled_word(probe->config.recording),
		.entry = tm_recording_entry(probe->config.recording, TM_ENTRY_NATIVE_LOADER)};
	struct tm_record_pad made;
	struct tm_error *err = tm_record_pad_make(probe->config.target->arch, &plan, &made);

	return err ? err : tm_pads_place(probe->config.pads, NULL, address, made.code, made.size, pad);
}

/* The function does nothing: a return, and padding behind it (elf/dl-debug.c). */
struct tm_error *tm_probe_record_loader(struct tm_probe *probe, uint64_t address)
{
	const struct tm_module *module = tm_module_map_find(probe->config.modules, address);
	size_t available = 0;
	const uint8_t *bytes = module ? tm_module_bytes(module, address - module->bias, &available) : NULL;
	const struct tm_patch_request request = {address,	  bytes, LOADER_BYTES, address + LOADER_BYTES,
						 make_loader_pad, probe};
	struct tm_error *err;

	if (!bytes || available < LOADER_BYTES || module->image_is_copy)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "its file is not at hand to compare");
	if (tm_function_index_is_jumped_into(probe->config.functions, module, address - module->bias))
		return tm_error_create(TM_ERROR_UNSUPPORTED, "other code may jump into its first bytes");
	err = tm_probe_survey(probe);
	return err ? err : tm_patch_insert(probe->config.patches, &request);
}

/* ---- wrappers ---- */

/* Functions of the C++ library, or of a program's own, that may do no more than call an allocator function.
 */
bool tm_function_is_deferred(const struct tm_probe *probe, const struct tm_allocator *row)
{
	return probe->config.recording &&
	       (strncmp(row->name, "_Zn", 3) == 0 || strncmp(row->name, "_Zd", 3) == 0);
}

struct tm_error *tm_function_defer(struct tm_probe *probe, const struct tm_indexed_function *indexed,
				   uint64_t address)
{
	const struct tm_deferred deferred = {indexed->row, address, indexed};

	return tm_vector_push(&probe->deferred, deferred) && tm_vector_push(&probe->names, deferred)
		       ? NULL
		       : tm_error_out_of_memory();
}

/* Whether a call of a function is told: it is recorded, or comes to one that is. */
struct wanted {
	struct tm_probe *probe;
	const struct tm_module *module; /* whose code calls */
	bool frees;			/* or allocates */
};

static bool is_told(const struct wanted *wanted, uint64_t address)
{
	const struct tm_function *function = tm_function_at(&wanted->probe->entries, address);
	const uint64_t *passed = tm_map_get(&wanted->probe->passed, address);

	if (passed)
		return wanted->frees;
	return function && function->recorded && (function->row->kind == TM_FREES) == wanted->frees;
}

/* A slot that the dynamic linker has not bound yet leads to a function by its name. */
static bool names_told(const struct wanted *wanted, uint64_t slot)
{
	const char *name = tm_module_got_slot_name(wanted->module, slot - wanted->module->bias);
	const struct tm_allocator *row = name ? tm_allocator_find(name) : NULL;

	for (size_t i = 0; row && i < wanted->probe->names.count; i++)
		if (wanted->probe->names.items[i].row == row &&
		    is_told(wanted, wanted->probe->names.items[i].address))
			return true;
	return false;
}

static bool slot_is_told(const struct wanted *wanted, uint64_t slot)
{
	uint64_t word = 0;
	struct tm_error *err = tm_target_read(wanted->probe->config.target, slot, &word, sizeof(word));
	bool bound = !err && tm_module_map_find(wanted->probe->config.modules, word) != wanted->module;

	tm_error_destroy(err);
	return is_told(wanted, word) || (!bound && names_told(wanted, slot));
}

static bool is_wanted(void *context, uint64_t address, bool is_slot)
{
	const struct wanted *wanted = context;
	const uint8_t *bytes;
	size_t available;
	uint64_t slot;

	if (is_slot)
		return slot_is_told(wanted, address);
	if (is_told(wanted, address))
		return true;
	bytes = tm_module_bytes(wanted->module, address - wanted->module->bias, &available);
	return bytes && tm_stub_slot(wanted->probe->config.target->arch, bytes, available, address, &slot) &&
	       slot_is_told(wanted, slot);
}

static bool reaches(struct tm_probe *probe, const struct tm_deferred *deferred)
{
	struct wanted wanted = {probe, tm_module_map_find(probe->config.modules, deferred->address),
				deferred->row->kind == TM_FREES};
	const struct tm_indexed_function *indexed = deferred->indexed;

	return wanted.module && indexed->has_exits &&
	       tm_body_reaches(probe->config.target->arch, indexed->bytes, indexed->size, deferred->address,
			       is_wanted, &wanted);
}

static struct tm_error *settle(struct tm_probe *probe, const struct tm_deferred *deferred)
{
	if (deferred->row->kind != TM_FREES)
		return tm_function_arm(probe, deferred->row, deferred->address, deferred->indexed,
				       TM_ARM_WRAPPER);
	tm_log_debug("%s at 0x%" PRIx64 " is told by what it calls", deferred->row->name, deferred->address);
	return tm_map_put(&probe->passed, deferred->address, 1) ? NULL : tm_error_out_of_memory();
}

/* Those whose own pads can tell of them: others may be wrappers of theirs. */
static struct tm_error *arm_ending(struct tm_probe *probe)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i < probe->deferred.count;) {
		const struct tm_deferred deferred = probe->deferred.items[i];
		const struct tm_function function = {.row = deferred.row, .address = deferred.indexed->vaddr};

		if (!deferred.indexed->has_exits ||
		    !tm_function_can_end(probe, &function, &deferred.indexed->exits)) {
			i++;
			continue;
		}
		tm_vector_remove_unordered(&probe->deferred, i);
		err = tm_function_arm(probe, deferred.row, deferred.address, deferred.indexed, TM_ARM_PLAIN);
	}
	return err;
}

/* One wrapper may call another: until nothing changes. */
static struct tm_error *settle_reaching(struct tm_probe *probe)
{
	struct tm_error *err = NULL;
	bool changed = true;

	while (!err && changed) {
		changed = false;
		for (size_t i = 0; !err && i < probe->deferred.count;) {
			struct tm_deferred deferred = probe->deferred.items[i];

			if (!reaches(probe, &deferred)) {
				i++;
				continue;
			}
			tm_vector_remove_unordered(&probe->deferred, i);
			err = settle(probe, &deferred);
			changed = true;
		}
	}
	return err;
}

struct tm_error *tm_probe_arm_deferred(struct tm_probe *probe)
{
	struct tm_error *err = settle_reaching(probe);

	if (!err)
		err = arm_ending(probe);
	if (!err)
		err = settle_reaching(probe);
	for (size_t i = 0; !err && i < probe->deferred.count; i++) {
		const struct tm_deferred *deferred = &probe->deferred.items[i];

		err = tm_function_arm(probe, deferred->row, deferred->address, deferred->indexed,
				      TM_ARM_PLAIN);
	}
	probe->deferred.count = 0;
	return err;
}

/* ---- where a frame stands ---- */

bool tm_probe_is_in_call(const struct tm_probe *probe, uint64_t pc)
{
	uint64_t address, place;

	for (size_t i = 0; tm_map_next(&probe->entries, &i, &address, &place);) {
		const struct tm_function *function = (const struct tm_function *)(uintptr_t)place;
		bool wrapper = function->recorded && function->reaches;

		if (pc - address < function->size && function->row->kind != TM_FREES &&
		    !function->is_resolver)
			return !wrapper;
	}
	return false;
}
