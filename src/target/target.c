#include "target/target.h"

static void release_buried(struct tm_target *target)
{
	for (size_t i = 0; i < target->buried.count; i++)
		free(target->buried.items[i]);
	target->buried.count = 0;
}

struct tm_error *tm_target_wait(struct tm_target *target, struct tm_stop *stop)
{
	if (target->buried.count)
		release_buried(target);
	*stop = (struct tm_stop){.kind = TM_STOP_NONE};
	return target->ops->wait(target, stop);
}

struct tm_error *tm_target_poll(struct tm_target *target, struct tm_stop *stop)
{
	if (target->buried.count)
		release_buried(target);
	*stop = (struct tm_stop){.kind = TM_STOP_NONE};
	return target->ops->poll(target, stop);
}

void tm_target_pause(struct tm_target *target, uint64_t duration_ns, uint32_t *asleep)
{
	target->ops->pause(target, duration_ns, asleep);
}

bool tm_target_next_queued(struct tm_target *target, struct tm_stop *stop)
{
	return target->ops->next_queued(target, stop);
}

struct tm_error *tm_target_resume(struct tm_target *target, struct tm_thread *thread)
{
	return target->ops->resume(target, thread);
}

struct tm_error *tm_target_stop_all(struct tm_target *target, unsigned timeout_ms)
{
	return target->ops->stop_all(target, timeout_ms);
}

struct tm_error *tm_target_resume_all(struct tm_target *target, const struct tm_thread *except)
{
	return target->ops->resume_all(target, except);
}

struct tm_error *tm_target_fetch_regs(struct tm_target *target, struct tm_thread *thread)
{
	struct tm_error *err;

	if (thread->state != TM_THREAD_STOPPED) /* killed while its stop was being handled */
		return tm_error_create(TM_ERROR_NO_PROCESS, "thread %d does not stand still", thread->tid);
	if (thread->regs_valid)
		return NULL;
	err = target->ops->fetch_regs(target, thread);
	thread->regs_valid = !err;
	return err;
}

struct tm_error *tm_target_store_regs(struct tm_target *target, struct tm_thread *thread)
{
	return target->ops->store_regs(target, thread);
}

struct tm_error *tm_target_store_pc(struct tm_target *target, struct tm_thread *thread, uint64_t pc)
{
	thread->regs.value[target->arch->pc] = pc;
	return target->ops->store_pc(target, thread, pc);
}

struct tm_error *tm_target_thread_pointer(struct tm_target *target, struct tm_thread *thread,
					  uint64_t *pointer)
{
	*pointer = 0;
	return target->ops->thread_pointer ? target->ops->thread_pointer(target, thread, pointer) : NULL;
}

struct tm_error *tm_target_read(struct tm_target *target, uint64_t address, void *buffer, size_t size)
{
	return target->ops->read_memory(target, address, buffer, size);
}

size_t tm_target_read_some(struct tm_target *target, uint64_t address, void *buffer, size_t size)
{
	return target->ops->read_some(target, address, buffer, size);
}

struct tm_error *tm_target_write(struct tm_target *target, uint64_t address, const void *bytes, size_t size)
{
	return target->ops->write_memory(target, address, bytes, size);
}

static struct tm_error *read_for_memory(void *context, uint64_t address, void *buffer, size_t size)
{
	return tm_target_read(context, address, buffer, size);
}

struct tm_memory tm_target_memory(struct tm_target *target)
{
	return (struct tm_memory){target, read_for_memory};
}

struct tm_error *tm_target_step(struct tm_target *target, struct tm_thread *thread)
{
	return target->ops->step(target, thread);
}

struct tm_error *tm_target_system_call(struct tm_target *target, struct tm_thread *preferred, long number,
				       const uint64_t arguments[6], int64_t *result)
{
	return target->ops->system_call(target, preferred, number, arguments, result);
}

struct tm_error *tm_target_run_briefly(struct tm_target *target, struct tm_thread *thread, uint64_t ns)
{
	return target->ops->run_briefly(target, thread, ns);
}

struct tm_error *tm_target_begin_routine(struct tm_target *target, const struct tm_routine *routine)
{
	return target->ops->begin_routine(target, routine);
}

struct tm_error *tm_target_await_word(struct tm_target *target, uint64_t address, uint32_t value,
				      uint64_t expected_ns)
{
	return target->ops->await_word(target, address, value, expected_ns);
}

struct tm_error *tm_target_end_routine(struct tm_target *target)
{
	return target->ops->end_routine(target);
}

void tm_target_begin_calls(struct tm_target *target)
{
	if (target->ops->begin_calls)
		target->ops->begin_calls(target);
}

struct tm_error *tm_target_end_calls(struct tm_target *target)
{
	return target->ops->end_calls ? target->ops->end_calls(target) : NULL;
}

struct tm_error *tm_target_mappings(struct tm_target *target, struct tm_mappings *mappings)
{
	return target->ops->mappings(target, mappings);
}

struct tm_error *tm_target_detach(struct tm_target *target)
{
	return target->ops->detach(target);
}

void tm_target_destroy(struct tm_target *target)
{
	if (!target)
		return;
	target->ops->destroy(target);
}

struct tm_thread *tm_target_thread(const struct tm_target *target, pid_t tid)
{
	const uint64_t *place = tm_map_get(&target->threads, (uint64_t)tid);

	return place ? (struct tm_thread *)(uintptr_t)*place : NULL;
}

struct tm_thread *tm_target_next_thread(const struct tm_target *target, size_t *position)
{
	uint64_t tid, place;

	return tm_map_next(&target->threads, position, &tid, &place) ? (struct tm_thread *)(uintptr_t)place
								     : NULL;
}

struct tm_thread *tm_target_add_thread(struct tm_target *target, pid_t tid, pid_t tgid)
{
	struct tm_thread *thread = calloc(1, sizeof(*thread));

	if (!thread || !tm_map_put(&target->threads, (uint64_t)tid, (uintptr_t)thread)) {
		free(thread);
		return NULL;
	}
	thread->tid = tid;
	thread->tgid = tgid;
	thread->capture_size = TM_CAPTURE_DEFAULT;
	return thread;
}

void tm_target_remove_thread(struct tm_target *target, struct tm_thread *thread)
{
	if (target->thread_gone)
		target->thread_gone(target->thread_gone_context, thread);
	tm_map_remove(&target->threads, (uint64_t)thread->tid);
	thread->state = TM_THREAD_RUNNING; /* nothing can be done with it any more */
	if (!tm_vector_push(&target->buried, thread))
		free(thread);
}

void tm_target_deinit(struct tm_target *target)
{
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(target, &i));)
		free(thread);
	tm_map_deinit(&target->threads);
	release_buried(target);
	tm_vector_deinit(&target->buried);
}
