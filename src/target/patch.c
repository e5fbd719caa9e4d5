#include "target/patch.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#include "arch/record_pad.h"
#include "base/log.h"
#include "base/vector.h"
#include "target/pad.h"
#include "target/replaced.h"

_Static_assert(TM_JUMP_SIZE_MAX <= TM_REPLACED_MAX, "a jump is put back as one");

#define STACK_SEARCH_MAX (1u << 20) /* bytes of a stack that is no chain of frames */
#define SEARCH_CHUNK	 4096u

struct tm_patch {
	uint64_t address;
	uint8_t shadow[TM_JUMP_SIZE_MAX], jump[TM_JUMP_SIZE_MAX];
	uint64_t copy; /* address of the relocated beginning */
	struct tm_relocated relocated;
};

struct tm_patches {
	struct tm_patches_config config;
	size_t jump_size;
	struct tm_map by_address; /* function -> struct tm_patch * */
	/* of the survey */
	bool surveyed;
	struct tm_vector(uint64_t) saved_pcs;
	struct tm_vector(struct tm_thread *) unread; /* whose stacks are no chain of frames throughout */
};

struct tm_error *tm_patches_create(const struct tm_patches_config *config, struct tm_patches **out)
{
	struct tm_patches *patches = calloc(1, sizeof(*patches));

	if (!patches)
		return tm_error_out_of_memory();
	patches->config = *config;
	patches->jump_size = tm_jump_size(config->target->arch);
	*out = patches;
	return NULL;
}

static struct tm_patch *next(const struct tm_patches *patches, size_t *position)
{
	uint64_t address, place;

	return tm_map_next(&patches->by_address, position, &address, &place)
		       ? (struct tm_patch *)(uintptr_t)place
		       : NULL;
}

static struct tm_patch *find(const struct tm_patches *patches, uint64_t address)
{
	const uint64_t *place = tm_map_get(&patches->by_address, address);

	return place ? (struct tm_patch *)(uintptr_t)*place : NULL;
}

void tm_patches_forget_all(struct tm_patches *patches)
{
	struct tm_patch *patch;

	for (size_t i = 0; (patch = next(patches, &i));)
		free(patch);
	tm_map_clear(&patches->by_address);
	patches->surveyed = false;
}

void tm_patches_destroy(struct tm_patches *patches)
{
	if (!patches)
		return;
	tm_patches_forget_all(patches);
	tm_map_deinit(&patches->by_address);
	tm_vector_deinit(&patches->saved_pcs);
	tm_vector_deinit(&patches->unread);
	free(patches);
}

bool tm_patch_at(const struct tm_patches *patches, uint64_t address)
{
	return find(patches, address) != NULL;
}

size_t tm_patches_count(const struct tm_patches *patches)
{
	return patches->by_address.count;
}

/* ---- where threads stand ---- */

/* One that is asleep in the kernel and does not answer has stacks that cannot be looked at. */
static struct tm_error *check_still(const struct tm_patches *patches)
{
	const struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(patches->config.target, &i));)
		if (thread->state != TM_THREAD_STOPPED)
			return tm_error_create(TM_ERROR_UNSUPPORTED, "thread %d does not stand still",
					       thread->tid);
	return NULL;
}

struct survey {
	struct tm_patches *patches;
	bool failed;
};

static void keep_pc(void *context, uint64_t pc)
{
	struct survey *survey = context;

	survey->failed = !tm_vector_push(&survey->patches->saved_pcs, pc) || survey->failed;
}

struct tm_error *tm_patches_survey(struct tm_patches *patches)
{
	const struct tm_patches_config *config = &patches->config;
	struct survey survey = {.patches = patches};
	struct tm_error *err = check_still(patches);
	struct tm_thread *thread;

	patches->surveyed = false;
	patches->saved_pcs.count = patches->unread.count = 0;
	for (size_t i = 0; !err && (thread = tm_target_next_thread(config->target, &i));) {
		err = tm_target_fetch_regs(config->target, thread);
		if (!err && !config->each_saved_pc(config->context, thread, keep_pc, &survey))
			survey.failed = !tm_vector_push(&patches->unread, thread) || survey.failed;
	}
	if (!err && survey.failed)
		err = tm_error_out_of_memory();
	patches->surveyed = !err;
	return err;
}

/* Behind the first byte of what a jump would replace: there a thread must not stand. */
static bool is_inside(const struct tm_patches *patches, uint64_t address, uint64_t pc)
{
	return pc - address - 1 < patches->jump_size - 1;
}

/* Is there a word on the thread's stack that may be such a pc? Anything that looks like one counts. */
static bool stack_holds_pc(const struct tm_patches *patches, const struct tm_thread *thread, uint64_t address)
{
	struct tm_target *target = patches->config.target;
	uint64_t words[SEARCH_CHUNK / sizeof(uint64_t)],
		sp = thread->regs.value[target->arch->sp] & ~UINT64_C(7);
	size_t got = SEARCH_CHUNK;

	for (uint64_t at = 0; at < STACK_SEARCH_MAX && got == SEARCH_CHUNK; at += got) {
		got = tm_target_read_some(target, sp + at, words, SEARCH_CHUNK);
		for (size_t i = 0; i < got / sizeof(uint64_t); i++)
			if (is_inside(patches, address, words[i]))
				return true;
	}
	return false;
}

bool tm_patches_cover(const struct tm_patches *patches, uint64_t address)
{
	const struct tm_patch *patch;

	for (size_t i = 0; (patch = next(patches, &i));)
		if (is_inside(patches, patch->address, address))
			return true;
	return false;
}

static struct tm_error *check_stacks(const struct tm_patches *patches, uint64_t address)
{
	for (size_t i = 0; i < patches->saved_pcs.count; i++)
		if (is_inside(patches, address, patches->saved_pcs.items[i]))
			return tm_error_create(TM_ERROR_UNSUPPORTED,
					       "a signal handler will return to 0x%" PRIx64,
					       patches->saved_pcs.items[i]);
	for (size_t i = 0; i < patches->unread.count; i++)
		if (stack_holds_pc(patches, patches->unread.items[i], address))
			return tm_error_create(TM_ERROR_UNSUPPORTED,
					       "the stack of thread %d may hold an address inside it",
					       patches->unread.items[i]->tid);
	return NULL;
}

/* The place in the relocated copy that a pc inside the bytes stands for; 0: none. */
static uint64_t moved_pc(const struct tm_patch *patch, uint64_t pc)
{
	for (size_t i = 0; i < patch->relocated.point_count; i++)
		if (patch->relocated.points[i].original_pc == pc)
			return patch->copy + patch->relocated.points[i].pad_offset;
	return 0;
}

/* Looks whether all threads that stand inside the bytes can be moved, or moves them. */
static struct tm_error *move_threads(const struct tm_patches *patches, const struct tm_patch *patch,
				     bool move)
{
	struct tm_target *target = patches->config.target;
	struct tm_error *err = NULL;
	struct tm_thread *thread;

	for (size_t i = 0; !err && (thread = tm_target_next_thread(target, &i));) {
		uint64_t pc, to;

		err = tm_target_fetch_regs(target, thread);
		if (err)
			break;
		pc = thread->regs.value[target->arch->pc];
		if (!is_inside(patches, patch->address, pc))
			continue;
		to = moved_pc(patch, pc);
		if (!to)
			return tm_error_create(TM_ERROR_UNSUPPORTED,
					       "thread %d stands at 0x%" PRIx64 ", which has no counterpart",
					       thread->tid, pc);
		err = move ? tm_target_store_pc(target, thread, to) : NULL;
	}
	return err;
}

/* ---- inserting ---- */

/* What will be moved, and no byte more than an instruction behind it. */
static size_t looked_at(const struct tm_patches *patches, const struct tm_patch_request *request)
{
	size_t most = patches->jump_size + TM_INSN_BYTES_MAX;

	return request->size < most ? request->size : most;
}

/* A jump that a tracer has left which was killed: it leads into a pad of ours. */
static bool is_left_jump(const struct tm_patches *patches, uint64_t address, const uint8_t *present)
{
	uint64_t to;

	return tm_jump_parse(patches->config.target->arch, present, address, &to) &&
	       tm_pads_contain(patches->config.pads, to);
}

/* It has been a jump for long, so that no thread can stand inside. */
struct tm_error *tm_patch_recover(struct tm_patches *patches, uint64_t address, const uint8_t *bytes)
{
	struct tm_target *target = patches->config.target;
	uint8_t present[TM_JUMP_SIZE_MAX];
	struct tm_error *err = tm_target_read(target, address, present, patches->jump_size);

	if (err || memcmp(present, bytes, patches->jump_size) == 0 ||
	    !is_left_jump(patches, address, present))
		return err;
	tm_log_info("a jump at 0x%" PRIx64 " of an earlier trace is taken back", address);
	return tm_target_write(target, address, bytes, patches->jump_size);
}

static struct tm_error *check_bytes(struct tm_patches *patches, const struct tm_patch_request *request)
{
	uint8_t present[TM_JUMP_SIZE_MAX + TM_INSN_BYTES_MAX];
	size_t size = looked_at(patches, request);
	struct tm_error *err;

	if (request->size < patches->jump_size ||
	    request->lowest_target - request->address < patches->jump_size)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "its first %zu bytes cannot be replaced as one",
				       patches->jump_size);
	err = tm_patch_recover(patches, request->address, request->bytes);
	if (!err)
		err = tm_target_read(patches->config.target, request->address, present, size);
	if (!err && memcmp(present, request->bytes, size) != 0)
		err = tm_error_create(TM_ERROR_UNSUPPORTED,
				      "the code at 0x%" PRIx64 " is not its file's: somebody has changed it",
				      request->address);
	return err;
}

/* Everything but the change itself. */
static struct tm_error *prepare(struct tm_patches *patches, const struct tm_patch_request *request,
				struct tm_patch *patch)
{
	const struct tm_arch *arch = patches->config.target->arch;
	uint64_t pad = 0;
	struct tm_error *err = check_bytes(patches, request);

	if (!err)
		err = check_stacks(patches, request->address);
	if (!err)
		err = tm_pads_relocate(patches->config.pads, NULL, request->address, request->bytes,
				       looked_at(patches, request), patches->jump_size, &patch->copy,
				       &patch->relocated);
	if (!err)
		err = move_threads(patches, patch, false);
	if (!err)
		err = request->make_pad(request->context, request->address, patch->copy, &pad);
	if (!err && !tm_jump_make(arch, request->address, pad, patch->jump))
		err = tm_error_create(TM_ERROR_UNSUPPORTED, "the pad at 0x%" PRIx64 " is out of reach", pad);
	memcpy(patch->shadow, request->bytes, err ? 0 : patches->jump_size);
	return err;
}

/* The table first: what is in the target must be known here. Threads before the jump: the relocated copy is
   as good for them, and whoever kills the tracer must not leave one inside the bytes. */
static struct tm_error *replace(struct tm_patches *patches, struct tm_patch *patch)
{
	struct tm_error *err;

	if (!tm_map_put(&patches->by_address, patch->address, (uintptr_t)patch))
		return tm_error_out_of_memory();
	err = move_threads(patches, patch, true);
	if (err) { /* of a thread that was killed meanwhile: it will not come to run there */
		tm_log_debug("%s", err->message);
		tm_error_destroy(err);
	}
	err = tm_target_write(patches->config.target, patch->address, patch->jump, patches->jump_size);
	if (err)
		tm_map_remove(&patches->by_address, patch->address);
	return err;
}

struct tm_error *tm_patch_insert(struct tm_patches *patches, const struct tm_patch_request *request)
{
	struct tm_patch *patch;
	struct tm_error *err;

	assert(!find(patches, request->address));
	if (!patches->jump_size)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "there are no jump patches for %s yet",
				       patches->config.target->arch->name);
	err = patches->surveyed ? check_still(patches)
				: tm_error_create(TM_ERROR_UNSUPPORTED, "the stacks have not been looked at");
	if (err)
		return err;
	patch = calloc(1, sizeof(*patch));
	if (!patch)
		return tm_error_out_of_memory();
	patch->address = request->address;
	err = prepare(patches, request, patch);
	if (!err)
		err = replace(patches, patch);
	if (err)
		free(patch);
	return err;
}

struct tm_error *tm_call_pad_place(struct tm_patches *patches, uint64_t address, uint64_t relocated,
				   const uint8_t *arguments, size_t count, struct tm_call_pad *made,
				   uint64_t *pad)
{
	struct tm_error *err =
		tm_call_pad_make(patches->config.target->arch, arguments, count, relocated, made);

	return err ? err : tm_pads_place(patches->config.pads, NULL, address, made->code, made->size, pad);
}

/* ---- what a pc in a pad stands for ---- */

/* The relocated beginning of a function; also one that an earlier trace moved, at its first byte. */
static bool copy_state(const struct tm_patches *patches, uint64_t original, uint64_t code, uint64_t pc,
		       struct tm_pad_state *state)
{
	const struct tm_patch *patch = find(patches, original);

	*state = (struct tm_pad_state){.original = pc == code ? original : 0};
	for (size_t i = 0; patch && patch->copy == code && i < patch->relocated.point_count; i++)
		if (patch->relocated.points[i].pad_offset == pc - code)
			state->original = patch->relocated.points[i].original_pc;
	return state->original != 0;
}

/* Of the relocated code that a pad goes on to: where it was. */
static uint64_t function_of(const struct tm_patches *patches, uint64_t relocated)
{
	uint64_t original, code;

	return tm_pads_origin(patches->config.pads, relocated, &original, &code) ? original : 0;
}

static bool call_pad_state(const struct tm_patches *patches, const struct tm_call_pad *pad, size_t offset,
			   bool is_return_address, struct tm_pad_state *state)
{
	if (!tm_call_pad_depth(pad, offset, &state->depth))
		return false;
	state->original = is_return_address ? 0 : function_of(patches, pad->original);
	return is_return_address ? offset == pad->stop : state->original != 0;
}

/* Its calls return to it from the function, and from the recorder. What it has of the function's own stands
   for that; behind it comes what is done before the instruction that is next there. */
static bool record_pad_state(const struct tm_patches *patches, const struct tm_record_pad *pad, size_t offset,
			     bool is_return_address, struct tm_pad_state *state)
{
	uint64_t start = function_of(patches, pad->original);

	if (!tm_record_pad_depth(pad, offset, &state->depth))
		return false;
	state->original = is_return_address ? 0 : start + (offset < pad->before ? offset : pad->before);
	return is_return_address || start != 0;
}

bool tm_patches_pad_state(struct tm_patches *patches, uint64_t pc, bool is_return_address,
			  struct tm_pad_state *state)
{
	const struct tm_arch *arch = patches->config.target->arch;
	uint8_t bytes[TM_RECORD_PAD_SIZE_MAX];
	struct tm_record_pad record_pad;
	struct tm_call_pad call_pad;
	uint64_t original, code;
	size_t size;

	if (!tm_pads_origin(patches->config.pads, pc, &original, &code))
		return false;
	if (original != code)
		return !is_return_address && copy_state(patches, original, code, pc, state);
	size = tm_target_read_some(patches->config.target, code, bytes, sizeof(bytes));
	if (tm_record_pad_parse(arch, bytes, size, &record_pad))
		return record_pad_state(patches, &record_pad, pc - code, is_return_address, state);
	return tm_call_pad_parse(arch, bytes, size, &call_pad) &&
	       call_pad_state(patches, &call_pad, pc - code, is_return_address, state);
}

/* ---- letting go ---- */

void tm_patches_forget(struct tm_patches *patches, uint64_t start, uint64_t end)
{
	struct tm_patch *patch;

	for (size_t i = 0; (patch = next(patches, &i));) {
		if (patch->address < start || patch->address >= end)
			continue;
		tm_map_remove(&patches->by_address, patch->address);
		free(patch);
		i = 0;
	}
}

static struct tm_replaced replaced_by(const struct tm_patches *patches, const struct tm_patch *patch)
{
	return (struct tm_replaced){patch->address, patch->jump, patch->shadow, patches->jump_size};
}

struct tm_error *tm_patches_scrub_child(struct tm_patches *patches, pid_t child)
{
	const struct tm_patch *patch;
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && (patch = next(patches, &i));) {
		struct tm_replaced replaced = replaced_by(patches, patch);

		err = tm_replaced_scrub_child(&replaced, patches->config.target, child);
	}
	return err;
}

struct tm_error *tm_patches_remove_all(struct tm_patches *patches, size_t *foreign)
{
	struct tm_error *err = NULL;
	const struct tm_patch *patch;

	*foreign = 0;
	/* One place that fails must not keep the others from being restored. */
	for (size_t i = 0; (patch = next(patches, &i));) {
		struct tm_replaced replaced = replaced_by(patches, patch);

		err = tm_error_first(err, tm_replaced_restore(&replaced, patches->config.target, foreign));
	}
	tm_patches_forget_all(patches);
	return err;
}
