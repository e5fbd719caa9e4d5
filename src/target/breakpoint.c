#include "target/breakpoint.h"

#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "base/vector.h"
#include "target/pad.h"
#include "target/replaced.h"

#define PAD_STEPS_MAX 16 /* a pad holds fewer instructions */

struct tm_breakpoints {
	struct tm_target *target;
	struct tm_pads *pads;
	struct tm_map by_address; /* address -> struct tm_breakpoint * */
	size_t in_place;
	bool pads_refused; /* no page may be mapped: asked once */
};

struct tm_error *tm_breakpoints_create(struct tm_target *target, struct tm_pads *pads,
				       struct tm_breakpoints **out)
{
	struct tm_breakpoints *breakpoints = calloc(1, sizeof(*breakpoints));

	if (!breakpoints)
		return tm_error_out_of_memory();
	breakpoints->target = target;
	breakpoints->pads = pads;
	*out = breakpoints;
	return NULL;
}

static struct tm_breakpoint *next(const struct tm_breakpoints *breakpoints, size_t *position)
{
	uint64_t address, place;

	return tm_map_next(&breakpoints->by_address, position, &address, &place)
		       ? (struct tm_breakpoint *)(uintptr_t)place
		       : NULL;
}

void tm_breakpoints_forget_all(struct tm_breakpoints *breakpoints)
{
	struct tm_breakpoint *breakpoint;

	for (size_t i = 0; (breakpoint = next(breakpoints, &i));)
		free(breakpoint);
	tm_map_clear(&breakpoints->by_address);
	breakpoints->in_place = 0;
	breakpoints->pads_refused = false;
}

void tm_breakpoints_destroy(struct tm_breakpoints *breakpoints)
{
	if (!breakpoints)
		return;
	tm_breakpoints_forget_all(breakpoints);
	tm_map_deinit(&breakpoints->by_address);
	free(breakpoints);
}

static struct tm_breakpoint *at(const struct tm_breakpoints *breakpoints, uint64_t address)
{
	const uint64_t *place = tm_map_get(&breakpoints->by_address, address);

	return place ? (struct tm_breakpoint *)(uintptr_t)*place : NULL;
}

const struct tm_breakpoint *tm_breakpoint_find(const struct tm_breakpoints *breakpoints, uint64_t address)
{
	return at(breakpoints, address);
}

size_t tm_breakpoints_count(const struct tm_breakpoints *breakpoints)
{
	return breakpoints->by_address.count;
}

size_t tm_breakpoints_count_in_place(const struct tm_breakpoints *breakpoints)
{
	return breakpoints->in_place;
}

/* ---- inserting ---- */

/* The bytes from address on as the program has them: without other breakpoints of ours. Near the end of a
 * mapping fewer than wanted. */
static struct tm_error *read_original(const struct tm_breakpoints *breakpoints, uint64_t address,
				      uint8_t *bytes, size_t *size)
{
	struct tm_error *err = tm_target_read(breakpoints->target, address, bytes, *size);

	if (err) {
		size_t rest = 4096 - (address & 4095);

		if (rest >= *size)
			return err;
		tm_error_destroy(err);
		*size = rest;
		err = tm_target_read(breakpoints->target, address, bytes, *size);
		if (err)
			return err;
	}
	for (size_t i = 0; i < *size; i++) {
		const struct tm_breakpoint *other = tm_breakpoint_find(breakpoints, address + i);

		for (size_t j = 0; other && j < breakpoints->target->arch->breakpoint_size && i + j < *size;
		     j++)
			bytes[i + j] = other->shadow[j];
	}
	return NULL;
}

/* Gives the breakpoint a pad if one can be had. */
static void relocate(struct tm_breakpoints *breakpoints, struct tm_breakpoint *breakpoint,
		     const uint8_t *bytes, size_t size)
{
	const struct tm_arch *arch = breakpoints->target->arch;
	struct tm_error *err;

	if (size >= arch->stop_point_size && memcmp(bytes, arch->stop_point, arch->stop_point_size) == 0) {
		/* It does nothing: the thread goes on behind it. */
		breakpoint->pad = breakpoint->address + arch->stop_point_size;
		breakpoint->relocated.consumed = arch->stop_point_size;
		return;
	}
	if (!breakpoints->pads || breakpoints->pads_refused)
		return;
	err = tm_pads_relocate(breakpoints->pads, NULL, breakpoint->address, bytes, size, 1, &breakpoint->pad,
			       &breakpoint->relocated);
	if (!err)
		return;
	tm_log_info("breakpoint at 0x%" PRIx64 " steps in place: %s", breakpoint->address, err->message);
	breakpoint->pad = 0;
	if (err->code == TM_ERROR_PERMISSION)
		breakpoints->pads_refused = true;
	tm_error_destroy(err);
}

static struct tm_error *insert(struct tm_breakpoints *breakpoints, struct tm_breakpoint *breakpoint)
{
	const struct tm_arch *arch = breakpoints->target->arch;
	uint8_t bytes[TM_INSN_BYTES_MAX];
	size_t size = sizeof(bytes);
	struct tm_error *err = read_original(breakpoints, breakpoint->address, bytes, &size);

	if (err)
		return err;
	if (size < arch->breakpoint_size || memcmp(bytes, arch->breakpoint, arch->breakpoint_size) == 0)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "somebody else's breakpoint stands at 0x%" PRIx64
				       ": another debugger or probe is at work",
				       breakpoint->address);
	memcpy(breakpoint->shadow, bytes, arch->breakpoint_size);
	relocate(breakpoints, breakpoint, bytes, size);
	if (!tm_map_put(&breakpoints->by_address, breakpoint->address, (uintptr_t)breakpoint))
		return tm_error_out_of_memory();
	err = tm_target_write(breakpoints->target, breakpoint->address, arch->breakpoint,
			      arch->breakpoint_size);
	if (err) {
		tm_map_remove(&breakpoints->by_address, breakpoint->address);
		return err;
	}
	breakpoints->in_place += !breakpoint->pad;
	return NULL;
}

/* Somebody may have changed the code meanwhile. */
static struct tm_error *insert_again(struct tm_breakpoints *breakpoints, struct tm_breakpoint *breakpoint)
{
	const struct tm_arch *arch = breakpoints->target->arch;
	uint8_t present[sizeof(breakpoint->shadow)];
	struct tm_error *err =
		tm_target_read(breakpoints->target, breakpoint->address, present, arch->breakpoint_size);

	if (!err && memcmp(present, breakpoint->shadow, arch->breakpoint_size) != 0)
		err = tm_error_create(TM_ERROR_UNSUPPORTED, "the code at 0x%" PRIx64 " is not what it was",
				      breakpoint->address);
	if (!err)
		err = tm_target_write(breakpoints->target, breakpoint->address, arch->breakpoint,
				      arch->breakpoint_size);
	breakpoint->lifted = err != NULL;
	return err;
}

struct tm_error *tm_breakpoint_lift(struct tm_breakpoints *breakpoints, uint64_t address)
{
	struct tm_breakpoint *breakpoint = at(breakpoints, address);
	struct tm_error *err;

	if (!breakpoint || !breakpoint->users || !breakpoint->pad || --breakpoint->users)
		return NULL;
	err = tm_target_write(breakpoints->target, address, breakpoint->shadow,
			      breakpoints->target->arch->breakpoint_size);
	breakpoint->lifted = !err;
	return err;
}

struct tm_error *tm_breakpoint_insert(struct tm_breakpoints *breakpoints, uint64_t address)
{
	struct tm_breakpoint *breakpoint = at(breakpoints, address);
	struct tm_error *err;

	if (breakpoint) {
		err = breakpoint->lifted ? insert_again(breakpoints, breakpoint) : NULL;
		breakpoint->users += !err;
		return err;
	}
	breakpoint = calloc(1, sizeof(*breakpoint));
	if (!breakpoint)
		return tm_error_out_of_memory();
	breakpoint->address = address;
	breakpoint->users = 1;
	err = insert(breakpoints, breakpoint);
	if (err)
		free(breakpoint);
	return err;
}

/* ---- going on from one ---- */

/* With every other thread held, so that none runs past the place while the original instruction stands there.
 */
static struct tm_error *step_in_place(struct tm_breakpoints *breakpoints, struct tm_thread *thread,
				      const struct tm_breakpoint *breakpoint)
{
	struct tm_target *target = breakpoints->target;
	uint8_t size = target->arch->breakpoint_size;
	uint64_t image = target->image;
	struct tm_error *err = tm_target_stop_all(target, TM_STOP_TIMEOUT_MS), *again;

	if (!err && target->image == image) {
		err = tm_target_write(target, breakpoint->address, breakpoint->shadow, size);
		if (!err) {
			err = tm_target_step(target, thread);
			again = tm_target_write(target, breakpoint->address, target->arch->breakpoint, size);
			if (err)
				tm_error_destroy(again);
			else
				err = again;
		}
	}
	again = tm_target_resume_all(target, NULL);
	if (err)
		tm_error_destroy(again);
	return err ? err : again;
}

struct tm_error *tm_breakpoint_resume(struct tm_breakpoints *breakpoints, struct tm_thread *thread)
{
	struct tm_target *target = breakpoints->target;
	const struct tm_breakpoint *breakpoint;
	struct tm_error *err = tm_target_fetch_regs(target, thread);

	if (err)
		return err;
	breakpoint = tm_breakpoint_find(breakpoints, thread->regs.value[target->arch->pc]);
	if (breakpoint && !breakpoint->pad)
		return step_in_place(breakpoints, thread, breakpoint);
	if (breakpoint)
		err = tm_target_store_pc(target, thread, breakpoint->pad);
	return err ? err : tm_target_resume(target, thread);
}

/* ---- letting go ---- */

void tm_breakpoints_forget(struct tm_breakpoints *breakpoints, uint64_t start, uint64_t end)
{
	struct tm_breakpoint *breakpoint;

	for (size_t i = 0; (breakpoint = next(breakpoints, &i));) {
		if (breakpoint->address < start || breakpoint->address >= end)
			continue;
		breakpoints->in_place -= !breakpoint->pad;
		tm_map_remove(&breakpoints->by_address, breakpoint->address);
		free(breakpoint);
		i = 0;
	}
}

static struct tm_replaced replaced_by(const struct tm_breakpoints *breakpoints,
				      const struct tm_breakpoint *breakpoint)
{
	const struct tm_arch *arch = breakpoints->target->arch;

	return (struct tm_replaced){breakpoint->address, arch->breakpoint, breakpoint->shadow,
				    arch->breakpoint_size};
}

static struct tm_error *restore(const struct tm_breakpoints *breakpoints,
				const struct tm_breakpoint *breakpoint, size_t *foreign)
{
	struct tm_replaced replaced = replaced_by(breakpoints, breakpoint);

	return breakpoint->lifted ? NULL : tm_replaced_restore(&replaced, breakpoints->target, foreign);
}

struct tm_error *tm_breakpoints_scrub_child(struct tm_breakpoints *breakpoints, pid_t child)
{
	const struct tm_breakpoint *breakpoint;
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && (breakpoint = next(breakpoints, &i));) {
		struct tm_replaced replaced = replaced_by(breakpoints, breakpoint);

		if (!breakpoint->lifted)
			err = tm_replaced_scrub_child(&replaced, breakpoints->target, child);
	}
	return err;
}

uint64_t tm_breakpoints_original_pc(const struct tm_breakpoints *breakpoints, uint64_t pc)
{
	const struct tm_breakpoint *breakpoint;
	uint64_t original, code;

	if (!breakpoints->pads || !tm_pads_origin(breakpoints->pads, pc, &original, &code))
		return 0;
	if (pc == code)
		return original; /* also in a pad that an earlier trace left */
	breakpoint = tm_breakpoint_find(breakpoints, original);
	for (size_t i = 0; breakpoint && breakpoint->pad == code && i < breakpoint->relocated.point_count;
	     i++)
		if (breakpoint->relocated.points[i].pad_offset == pc - code)
			return breakpoint->relocated.points[i].original_pc;
	return 0;
}

/* Code that was placed, not moved, goes on by itself, without the breakpoint that it may have. */
static bool is_placed(const struct tm_pads *pads, uint64_t pc)
{
	uint64_t original, code;

	return tm_pads_origin(pads, pc, &original, &code) && original == code;
}

/* A thread in the middle of a pad goes to the original instruction that it stands for; where its state has
   none it is stepped until it has left. */
static struct tm_error *leave_pad(struct tm_breakpoints *breakpoints, struct tm_thread *thread)
{
	struct tm_target *target = breakpoints->target;
	struct tm_error *err = tm_target_fetch_regs(target, thread);

	for (int steps = 0; !err && steps < PAD_STEPS_MAX; steps++) {
		uint64_t pc = thread->regs.value[target->arch->pc], original;

		if (!tm_pads_contain(breakpoints->pads, pc) || is_placed(breakpoints->pads, pc))
			return NULL;
		original = tm_breakpoints_original_pc(breakpoints, pc);
		if (original)
			return tm_target_store_pc(target, thread, original);
		err = tm_target_step(target, thread);
		thread->regs_valid = false;
		if (!err)
			err = tm_target_fetch_regs(target, thread);
	}
	return err;
}

static struct tm_error *leave_pads(struct tm_breakpoints *breakpoints)
{
	struct tm_thread *thread;

	for (size_t i = 0; breakpoints->pads && (thread = tm_target_next_thread(breakpoints->target, &i));) {
		struct tm_error *err;

		if (thread->state != TM_THREAD_STOPPED)
			continue; /* asleep in the kernel, in a system call: not in a pad */
		err = leave_pad(breakpoints, thread);
		if (err && err->code != TM_ERROR_NO_PROCESS)
			return err;
		tm_error_destroy(err);
	}
	return NULL;
}

struct tm_error *tm_breakpoint_remove(struct tm_breakpoints *breakpoints, uint64_t address, size_t *foreign)
{
	struct tm_breakpoint *breakpoint = at(breakpoints, address);
	struct tm_error *err;

	if (!breakpoint)
		return NULL;
	err = leave_pads(breakpoints);
	err = tm_error_first(err, restore(breakpoints, breakpoint, foreign));
	breakpoints->in_place -= !breakpoint->pad;
	tm_map_remove(&breakpoints->by_address, address);
	free(breakpoint);
	return err;
}

struct tm_error *tm_breakpoints_remove_all(struct tm_breakpoints *breakpoints, size_t *foreign)
{
	struct tm_error *err = leave_pads(breakpoints);
	const struct tm_breakpoint *breakpoint;

	*foreign = 0;
	/* One place that fails must not keep the others from being restored. */
	for (size_t i = 0; (breakpoint = next(breakpoints, &i));)
		err = tm_error_first(err, restore(breakpoints, breakpoint, foreign));
	tm_breakpoints_forget_all(breakpoints);
	return err;
}
