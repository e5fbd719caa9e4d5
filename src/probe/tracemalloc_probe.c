#include "probe/tracemalloc_probe.h"

#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define NOT_TRACING  ((uint64_t)(uint32_t)-2) /* what Track and Untrack return (Include/tracemalloc.h) */
#define LEAVE_STEPS  64			      /* more than lie between a test of the flag and the call */
#define SYSCALL_SIZE sizeof(((struct tm_arch *)NULL)->syscall_insn)

struct tm_tracemalloc_probe {
	struct tm_tracemalloc_probe_config config;
	bool pretends;	 /* the flag is set, and by us */
	bool finalizing; /* it is never set again */
	/* A call of the target's start or stop, which may change the flag: over when its thread has a higher
	   stack pointer. */
	pid_t switching; /* 0: none */
	uint64_t switching_sp;
};

struct tm_error *tm_tracemalloc_probe_create(const struct tm_tracemalloc_probe_config *config,
					     struct tm_tracemalloc_probe **out)
{
	*out = calloc(1, sizeof(**out));
	if (!*out)
		return tm_error_out_of_memory();
	(*out)->config = *config;
	return NULL;
}

void tm_tracemalloc_probe_destroy(struct tm_tracemalloc_probe *probe)
{
	free(probe);
}

/* ---- the flag ---- */

static struct tm_error *put_flag(struct tm_tracemalloc_probe *probe, int32_t value)
{
	return tm_target_write(probe->config.target, probe->config.places.tracing, &value, sizeof(value));
}

/* Sets the flag where it is not set: tracemalloc is off. */
static struct tm_error *pretend(struct tm_tracemalloc_probe *probe)
{
	int32_t present;
	struct tm_error *err;

	if (!probe->config.exact || probe->pretends || probe->finalizing)
		return NULL;
	err = tm_target_read(probe->config.target, probe->config.places.tracing, &present, sizeof(present));
	if (err || present)
		return err;
	err = put_flag(probe, 1);
	probe->pretends = !err;
	return err;
}

static struct tm_error *stop_pretending(struct tm_tracemalloc_probe *probe)
{
	struct tm_error *err = probe->pretends ? put_flag(probe, 0) : NULL;

	probe->pretends = probe->pretends && err;
	return err;
}

/* ---- stops ---- */

/* The thread stands at the first instruction of a function: it goes on behind the call, as if the function
 * had returned `value`. */
static struct tm_error *give(struct tm_target *target, struct tm_thread *thread, uint64_t value)
{
	const struct tm_arch *arch = target->arch;
	uint64_t *regs = thread->regs.value, back;
	struct tm_error *err = NULL;

	if (arch->link < 0)
		err = tm_target_read(target, regs[arch->sp], &back, sizeof(back));
	else
		back = regs[arch->link];
	if (err)
		return err;
	regs[arch->pc] = back;
	regs[arch->sp] += (uint64_t)arch->entry_cfa_offset;
	regs[arch->result] = value;
	return tm_target_store_regs(target, thread);
}

static struct tm_error *answer(struct tm_tracemalloc_probe *probe, struct tm_thread *thread, uint64_t value)
{
	return give(probe->config.target, thread, value);
}

/* The same with None or False. The thread has the interpreter's lock, so nobody else counts meanwhile. */
static struct tm_error *answer_constant(struct tm_tracemalloc_probe *probe, struct tm_thread *thread,
					uint64_t object)
{
	uint64_t references;
	struct tm_error *err = NULL;

	if (probe->config.places.counts_constants) {
		err = tm_target_read(probe->config.target, object, &references, sizeof(references));
		references++;
		if (!err)
			err = tm_target_write(probe->config.target, object, &references, sizeof(references));
	}
	return err ? err : answer(probe, thread, object);
}

static uint64_t argument(const struct tm_tracemalloc_probe *probe, const struct tm_thread *thread, unsigned n)
{
	return thread->regs.value[probe->config.target->arch->arguments[n]];
}

static struct tm_error *emit(struct tm_tracemalloc_probe *probe, const struct tm_event *event)
{
	return probe->config.sink.event(probe->config.sink.context, event);
}

static struct tm_error *at_track(struct tm_tracemalloc_probe *probe, struct tm_thread *thread)
{
	const struct tm_event event = {
		.kind = TM_EVENT_ALLOCATE,
		.domain = (uint32_t)argument(probe, thread, 0),
		.thread = thread,
		.address = argument(probe, thread, 1),
		.size = argument(probe, thread, 2),
		.thread_pointer = thread->regs.thread_pointer,
	};
	struct tm_error *err = emit(probe, &event);

	return err || !probe->pretends ? err : answer(probe, thread, NOT_TRACING);
}

static struct tm_error *at_untrack(struct tm_tracemalloc_probe *probe, struct tm_thread *thread)
{
	const struct tm_event event = {
		.kind = TM_EVENT_FREE,
		.domain = (uint32_t)argument(probe, thread, 0),
		.thread = thread,
		.old_address = argument(probe, thread, 1),
	};
	struct tm_error *err = emit(probe, &event);

	return err || !probe->pretends ? err : answer(probe, thread, NOT_TRACING);
}

static struct tm_error *at_new_reference(struct tm_tracemalloc_probe *probe, struct tm_thread *thread)
{
	const struct tm_event event = {
		.kind = TM_EVENT_OBJECT,
		.domain = TM_DOMAIN_PYTHON,
		.thread = thread,
		.address = argument(probe, thread, 0),
		.thread_pointer = thread->regs.thread_pointer,
	};
	struct tm_error *err = emit(probe, &event);

	return err || !probe->pretends ? err : answer(probe, thread, 0);
}

static void begin_switch(struct tm_tracemalloc_probe *probe, const struct tm_thread *thread)
{
	probe->switching = thread->tid;
	probe->switching_sp = thread->regs.value[probe->config.target->arch->sp];
}

/* It would take a flag that is set for its own work done. */
static struct tm_error *at_start(struct tm_tracemalloc_probe *probe, struct tm_thread *thread)
{
	begin_switch(probe, thread);
	return stop_pretending(probe);
}

/* It would put the allocators back that it has never saved. */
static struct tm_error *at_stop(struct tm_tracemalloc_probe *probe, struct tm_thread *thread)
{
	if (probe->pretends)
		return answer_constant(probe, thread, probe->config.places.none);
	begin_switch(probe, thread);
	return NULL;
}

static struct tm_error *at_is_tracing(struct tm_tracemalloc_probe *probe, struct tm_thread *thread)
{
	return probe->pretends ? answer_constant(probe, thread, probe->config.places.false_) : NULL;
}

static struct tm_error *at_finalize(struct tm_tracemalloc_probe *probe, struct tm_thread *thread)
{
	(void)thread;
	probe->finalizing = true;
	return stop_pretending(probe);
}

static const struct {
	size_t place; /* in tm_python_tracemalloc */
	bool exact;   /* only then */
	struct tm_error *(*hit)(struct tm_tracemalloc_probe *probe, struct tm_thread *thread);
} stops[] = {
	{offsetof(struct tm_python_tracemalloc, track), false, at_track},
	{offsetof(struct tm_python_tracemalloc, untrack), false, at_untrack},
	{offsetof(struct tm_python_tracemalloc, new_reference), true, at_new_reference},
	{offsetof(struct tm_python_tracemalloc, start), true, at_start},
	{offsetof(struct tm_python_tracemalloc, stop), true, at_stop},
	{offsetof(struct tm_python_tracemalloc, is_tracing), true, at_is_tracing},
	{offsetof(struct tm_python_tracemalloc, finalize), true, at_finalize},
};

/* 0: there is no such stop. */
static uint64_t address_of(const struct tm_tracemalloc_probe *probe, size_t stop)
{
	uint64_t address;

	if (stops[stop].exact && !probe->config.exact)
		return 0;
	memcpy(&address, (const char *)&probe->config.places + stops[stop].place, sizeof(address));
	return address;
}

/* The target's start or stop has returned, whatever became of it. */
static struct tm_error *end_switch(struct tm_tracemalloc_probe *probe, const struct tm_thread *thread)
{
	if (probe->switching != thread->tid ||
	    thread->regs.value[probe->config.target->arch->sp] <= probe->switching_sp)
		return NULL;
	probe->switching = 0;
	return pretend(probe);
}

struct tm_error *tm_tracemalloc_probe_hit(struct tm_tracemalloc_probe *probe, struct tm_thread *thread,
					  uint64_t address, bool *ours)
{
	struct tm_error *err = end_switch(probe, thread);

	*ours = false;
	for (size_t i = 0; !err && i < TM_ARRAY_SIZE(stops); i++) {
		if (address != address_of(probe, i))
			continue;
		*ours = true;
		return stops[i].hit(probe, thread);
	}
	return err;
}

struct tm_error *tm_tracemalloc_probe_arm(struct tm_tracemalloc_probe *probe)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i < TM_ARRAY_SIZE(stops); i++)
		if (address_of(probe, i))
			err = tm_breakpoint_insert(probe->config.breakpoints, address_of(probe, i));
	return err ? err : pretend(probe); /* last: nobody may act on the flag by then */
}

/* ---- an interpreter that ends ---- */

#define STACK_SEARCH_MAX (1u << 20)
#define SEARCH_CHUNK	 4096u

static bool stack_leads_into(struct tm_target *target, const struct tm_thread *thread, uint64_t start,
			     uint64_t end)
{
	uint64_t words[SEARCH_CHUNK / sizeof(uint64_t)],
		sp = thread->regs.value[target->arch->sp] & ~UINT64_C(7);
	size_t got = SEARCH_CHUNK;

	if (thread->regs.value[target->arch->pc] - start < end - start)
		return true;
	for (uint64_t at = 0; at < STACK_SEARCH_MAX && got == SEARCH_CHUNK; at += got) {
		got = tm_target_read_some(target, sp + at, words, SEARCH_CHUNK);
		for (size_t i = 0; i < got / sizeof(uint64_t); i++)
			if (words[i] - start - 1 < end - start - 1)
				return true;
	}
	return false;
}

struct tm_error *tm_tracemalloc_check_not_ending(struct tm_target *target, uint64_t start, uint64_t end)
{
	struct tm_error *err = NULL;
	struct tm_thread *thread;

	for (size_t i = 0; !err && (thread = tm_target_next_thread(target, &i));) {
		if (thread->state != TM_THREAD_STOPPED)
			continue;
		err = tm_target_fetch_regs(target, thread);
		if (!err && stack_leads_into(target, thread, start, end))
			return tm_error_create(TM_ERROR_UNSUPPORTED,
					       "--exact cannot be had: the interpreter of process %d is at "
					       "its end (thread %d is in Py_FinalizeEx); trace it without",
					       target->pid, thread->tid);
	}
	return err;
}

/* ---- letting go ---- */

/* Threads that are taken away from the hook. */
struct leaving {
	struct tm_target *target;
	const struct tm_breakpoints *breakpoints;
	uint64_t hook;
};

static bool is_system_call(struct tm_target *target, uint64_t address)
{
	const struct tm_arch *arch = target->arch;
	uint8_t bytes[SYSCALL_SIZE];

	return tm_target_read_some(target, address, bytes, arch->syscall_insn_size) ==
		       arch->syscall_insn_size &&
	       memcmp(bytes, arch->syscall_insn, arch->syscall_insn_size) == 0;
}

/* Takes one step; *done: the thread cannot be on its way to the hook. */
static struct tm_error *step_on(const struct leaving *leaving, struct tm_thread *thread, bool *done)
{
	struct tm_target *target = leaving->target;
	const struct tm_arch *arch = target->arch;
	uint64_t pc = thread->regs.value[arch->pc];
	struct tm_error *err;

	*done = true;
	if (pc == leaving->hook)
		return give(target, thread, 0);
	if (tm_breakpoint_find(leaving->breakpoints, pc) || is_system_call(target, pc) ||
	    is_system_call(target, pc - arch->syscall_insn_size))
		return NULL;
	*done = false;
	err = tm_target_step(target, thread);
	thread->regs_valid = false;
	return err ? err : tm_target_fetch_regs(target, thread);
}

static struct tm_error *leave_hook(const struct leaving *leaving, struct tm_thread *thread)
{
	struct tm_error *err = tm_target_fetch_regs(leaving->target, thread);
	bool done = false;

	for (unsigned i = 0; !err && !done && i < LEAVE_STEPS; i++)
		err = step_on(leaving, thread, &done);
	if (!err || err->code != TM_ERROR_NO_PROCESS)
		return err;
	tm_error_destroy(err);
	return NULL;
}

struct tm_error *tm_tracemalloc_leave_hook(struct tm_target *target, const struct tm_breakpoints *breakpoints,
					   uint64_t hook)
{
	const struct leaving leaving = {target, breakpoints, hook};
	struct tm_error *err = NULL;
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(target, &i));)
		if (thread->state == TM_THREAD_STOPPED)
			err = tm_error_first(err, leave_hook(&leaving, thread));
	return err;
}

struct tm_error *tm_tracemalloc_probe_disarm(struct tm_tracemalloc_probe *probe)
{
	bool pretended = probe->pretends;
	struct tm_error *err = stop_pretending(probe);

	probe->finalizing = true;
	if (pretended)
		err = tm_error_first(err, tm_tracemalloc_leave_hook(probe->config.target,
								    probe->config.breakpoints,
								    probe->config.places.new_reference));
	return err;
}

void tm_tracemalloc_probe_scrub_child(struct tm_tracemalloc_probe *probe, pid_t child)
{
	struct tm_target *target = probe->config.target;
	const int32_t off = 0;

	if (probe->pretends)
		tm_error_destroy(target->ops->write_child(target, child, probe->config.places.tracing, &off,
							  sizeof(off)));
}
