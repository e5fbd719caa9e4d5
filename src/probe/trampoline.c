/*
 * Returns that cannot be caught in the caller: its code is a JIT's (which may move or patch it), or cannot
 * hold a breakpoint. The call's return address is replaced by that of a breakpoint in the pads, and put back
 * when the call has returned, or at a detach.
 */
#include <inttypes.h>

#include "probe/call_state.h"
#include "target/pad.h"

/* A place that no caller's code holds: a breakpoint in the pads. Any instruction serves there, it is never
 * executed. */
static struct tm_error *make_trampoline(struct tm_probe *probe, uint64_t near_address)
{
	const struct tm_arch *arch = probe->config.target->arch;
	struct tm_error *err;

	if (probe->trampoline)
		return NULL;
	if (!probe->config.pads)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "no page may be mapped into the target");
	err = tm_pads_place(probe->config.pads, NULL, near_address, arch->syscall_insn,
			    arch->syscall_insn_size, &probe->trampoline);
	if (!err)
		err = tm_breakpoint_insert(probe->config.breakpoints, probe->trampoline);
	if (err)
		probe->trampoline = 0;
	return err;
}

struct tm_error *tm_trampoline_redirect(struct tm_probe *probe, struct tm_thread *thread,
					struct tm_pending *call)
{
	const struct tm_arch *arch = probe->config.target->arch;
	struct tm_error *err;

	/* Where a link register is saved only the function knows, so it could not be put back at a detach. */
	if (arch->link >= 0)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "its caller at 0x%" PRIx64 " cannot hold a breakpoint",
				       call->return_address);
	err = make_trampoline(probe, call->function);
	if (err)
		return err;
	call->trampolined = true;
	return tm_target_write(probe->config.target, thread->regs.value[arch->sp], &probe->trampoline,
			       sizeof(probe->trampoline));
}

/* ---- putting return addresses back ---- */

typedef struct tm_error *(*restore_word)(struct tm_probe *probe, void *context, uint64_t place,
					 uint64_t word);

/* The word below the CFA: psABI 3.2.2. */
static struct tm_error *each_trampolined(struct tm_probe *probe, restore_word restore, void *context)
{
	struct tm_error *err = NULL;
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(probe->config.target, &i));) {
		const struct tm_call_state *state = thread->probe;

		for (size_t j = 0; state && j < state->levels.count; j++) {
			const struct tm_pending *call = state->levels.items[j];

			if (call->trampolined)
				err = tm_error_first(err,
						     restore(probe, context, call->cfa - sizeof(uint64_t),
							     call->return_address));
		}
	}
	return err;
}

static struct tm_error *restore_in_target(struct tm_probe *probe, void *context, uint64_t place,
					  uint64_t word)
{
	uint64_t present = 0;
	struct tm_error *err = tm_target_read(probe->config.target, place, &present, sizeof(present));

	(void)context;
	if (!err && present == probe->trampoline)
		err = tm_target_write(probe->config.target, place, &word, sizeof(word));
	return err;
}

struct tm_error *tm_trampolines_restore(struct tm_probe *probe)
{
	return each_trampolined(probe, restore_in_target, NULL);
}

static struct tm_error *restore_in_child(struct tm_probe *probe, void *context, uint64_t place, uint64_t word)
{
	const struct tm_target *target = probe->config.target;
	pid_t child = *(const pid_t *)context;
	uint64_t present = 0;
	struct tm_error *err =
		target->ops->read_child(probe->config.target, child, place, &present, sizeof(present));

	if (!err && present == probe->trampoline)
		err = target->ops->write_child(probe->config.target, child, place, &word, sizeof(word));
	return err;
}

void tm_probe_scrub_child(struct tm_probe *probe, pid_t child)
{
	tm_error_destroy(each_trampolined(probe, restore_in_child, &child));
}
