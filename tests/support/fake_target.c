#include "support/fake_target.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/uio.h>

#include "target/procfs.h"

static struct fake_target *fake_of(struct tm_target *target)
{
	return (struct fake_target *)target;
}

/* ---- memory ---- */

static bool in_ranges(const struct fake_range *ranges, size_t count, uint64_t address)
{
	for (size_t i = 0; i < count; i++)
		if (address >= ranges[i].start && address < ranges[i].end)
			return true;
	return false;
}

/* The bytes without the overlay. */
static bool read_real(struct fake_target *fake, uint64_t address, uint8_t *bytes, size_t size)
{
	struct iovec local = {bytes, size}, remote = {(void *)(uintptr_t)address, size};

	for (uint64_t at = address; at < address + size; at = (at | 4095) + 1)
		if (in_ranges(fake->unmapped.items, fake->unmapped.count, at))
			return false;
	if (in_ranges(fake->mapped.items, fake->mapped.count, address)) {
		memset(bytes, 0, size);
		return in_ranges(fake->mapped.items, fake->mapped.count, address + size - 1);
	}
	return process_vm_readv(getpid(), &local, 1, &remote, 1, 0) == (ssize_t)size;
}

void fake_target_unmap(struct fake_target *fake, uint64_t start, uint64_t end)
{
	if (!tm_vector_push(&fake->unmapped, (struct fake_range){start, end}))
		abort();
}

static struct tm_error *read_through(struct fake_target *fake, const struct fake_overlay *overlay,
				     uint64_t address, void *buffer, size_t size)
{
	uint8_t *bytes = buffer;

	if (!read_real(fake, address, bytes, size))
		return tm_error_create(TM_ERROR_NO_MEMORY, "cannot read %zu bytes at 0x%" PRIx64, size,
				       address);
	for (size_t i = 0; i < size; i++) {
		const uint64_t *written = tm_map_get(&overlay->bytes, address + i);

		if (written)
			bytes[i] = (uint8_t)*written;
	}
	return NULL;
}

static struct tm_error *write_into(struct fake_target *fake, struct fake_overlay *overlay, uint64_t address,
				   const void *bytes, size_t size)
{
	uint8_t present;

	for (size_t i = 0; i < size; i++) {
		if (!read_real(fake, address + i, &present, 1))
			return tm_error_create(TM_ERROR_NO_MEMORY, "cannot write %zu bytes at 0x%" PRIx64,
					       size, address);
		if (!tm_map_put(&overlay->bytes, address + i, ((const uint8_t *)bytes)[i]))
			return tm_error_out_of_memory();
	}
	return NULL;
}

static struct tm_error *read_memory(struct tm_target *target, uint64_t address, void *buffer, size_t size)
{
	return read_through(fake_of(target), &fake_of(target)->memory, address, buffer, size);
}

static size_t read_some(struct tm_target *target, uint64_t address, void *buffer, size_t size)
{
	size_t done = 0;

	while (done < size) {
		size_t rest = 4096 - ((address + done) & 4095);
		struct tm_error *err;

		rest = rest < size - done ? rest : size - done;
		err = read_memory(target, address + done, (char *)buffer + done, rest);
		if (err) {
			tm_error_destroy(err);
			break;
		}
		done += rest;
	}
	return done;
}

static struct tm_error *write_memory(struct tm_target *target, uint64_t address, const void *bytes,
				     size_t size)
{
	fake_of(target)->writes++;
	return write_into(fake_of(target), &fake_of(target)->memory, address, bytes, size);
}

static int by_start(const void *a, const void *b)
{
	const struct tm_mapping *first = a, *second = b;

	return (first->start > second->start) - (first->start < second->start);
}

static struct tm_error *mappings(struct tm_target *target, struct tm_mappings *mappings)
{
	struct fake_target *fake = fake_of(target);
	struct tm_error *err = tm_procfs_mappings(getpid(), mappings);

	for (size_t i = 0; !err && i < fake->mapped.count; i++) {
		struct tm_mapping mapping = {.start = fake->mapped.items[i].start,
					     .end = fake->mapped.items[i].end,
					     .readable = true,
					     .executable = true,
					     .path = strdup("")};

		if (!mapping.path || !tm_vector_push(mappings, mapping))
			err = tm_error_out_of_memory();
	}
	if (!err)
		qsort(mappings->items, mappings->count, sizeof(mappings->items[0]), by_start);
	return err;
}

static struct tm_error *system_call(struct tm_target *target, struct tm_thread *preferred, long number,
				    const uint64_t arguments[6], int64_t *result)
{
	struct fake_target *fake = fake_of(target);

	(void)preferred;
	fake->system_calls++;
	*result = 0;
	if (number != target->arch->syscall_mmap)
		return NULL;
	*result = -fake->refuse_mmap;
	if (fake->refuse_mmap)
		return NULL;
	*result = (int64_t)arguments[0];
	return tm_vector_push(&fake->mapped, (struct fake_range){arguments[0], arguments[0] + arguments[1]})
		       ? NULL
		       : tm_error_out_of_memory();
}

/* ---- threads ---- */

static struct tm_error *wait_for_stop(struct tm_target *target, struct tm_stop *stop)
{
	struct fake_target *fake = fake_of(target);

	if (!fake->script.count)
		return NULL;
	*stop = fake->script.items[0];
	memmove(fake->script.items, fake->script.items + 1, --fake->script.count * sizeof(*stop));
	if (stop->thread)
		stop->thread->state = TM_THREAD_STOPPED;
	return NULL;
}

static bool next_queued(struct tm_target *target, struct tm_stop *stop)
{
	(void)target;
	(void)stop;
	return false;
}

static struct tm_error *resume(struct tm_target *target, struct tm_thread *thread)
{
	(void)target;
	thread->state = TM_THREAD_RUNNING;
	thread->signal_count += thread->signal != 0;
	thread->signal = 0;
	return NULL;
}

static struct tm_error *stop_all(struct tm_target *target, unsigned timeout_ms)
{
	struct tm_thread *thread;

	(void)timeout_ms;
	fake_of(target)->stop_alls++;
	for (size_t i = 0; (thread = tm_target_next_thread(target, &i));)
		thread->state = TM_THREAD_STOPPED;
	return NULL;
}

static struct tm_error *resume_all(struct tm_target *target, const struct tm_thread *except)
{
	struct tm_thread *thread;

	fake_of(target)->resume_alls++;
	for (size_t i = 0; (thread = tm_target_next_thread(target, &i));)
		if (thread != except)
			thread->state = TM_THREAD_RUNNING;
	return NULL;
}

static struct tm_error *fetch_regs(struct tm_target *target, struct tm_thread *thread)
{
	(void)target;
	(void)thread;
	return NULL;
}

static struct tm_error *store_pc(struct tm_target *target, struct tm_thread *thread, uint64_t pc)
{
	thread->regs.value[target->arch->pc] = pc;
	return NULL;
}

static size_t count_running(const struct tm_target *target)
{
	const struct tm_thread *thread;
	size_t running = 0;

	for (size_t i = 0; (thread = tm_target_next_thread(target, &i));)
		running += thread->state == TM_THREAD_RUNNING;
	return running;
}

static struct tm_error *step(struct tm_target *target, struct tm_thread *thread)
{
	struct fake_target *fake = fake_of(target);
	struct fake_step done = {.pc = thread->regs.value[target->arch->pc],
				 .running = count_running(target)};
	struct tm_error *err = read_memory(target, done.pc, &done.byte, 1);

	if (err)
		return err;
	thread->regs.value[target->arch->pc] += target->arch->insn_align;
	return tm_vector_push(&fake->steps, done) ? NULL : tm_error_out_of_memory();
}

/* ---- children ---- */

static struct fake_child *find_child(struct fake_target *fake, pid_t pid)
{
	for (size_t i = 0; i < fake->children.count; i++)
		if (fake->children.items[i].pid == pid)
			return &fake->children.items[i];
	return NULL;
}

static struct tm_error *read_child(struct tm_target *target, pid_t child, uint64_t address, void *buffer,
				   size_t size)
{
	return read_through(fake_of(target), &find_child(fake_of(target), child)->memory, address, buffer,
			    size);
}

static struct tm_error *write_child(struct tm_target *target, pid_t child, uint64_t address,
				    const void *bytes, size_t size)
{
	return write_into(fake_of(target), &find_child(fake_of(target), child)->memory, address, bytes, size);
}

static struct tm_error *release_child(struct tm_target *target, pid_t child)
{
	find_child(fake_of(target), child)->released = true;
	return NULL;
}

pid_t fake_target_fork(struct fake_target *fake)
{
	struct fake_child child = {.pid = 1000 + (pid_t)fake->children.count};
	uint64_t address, byte;

	for (size_t i = 0; tm_map_next(&fake->memory.bytes, &i, &address, &byte);)
		if (!tm_map_put(&child.memory.bytes, address, byte))
			abort();
	if (!tm_vector_push(&fake->children, child))
		abort();
	return child.pid;
}

uint8_t fake_target_child_byte(struct fake_target *fake, pid_t child, uint64_t address)
{
	uint8_t byte = 0;
	struct tm_error *err = read_child(&fake->base, child, address, &byte, 1);

	assert(!err);
	return byte;
}

/* ---- the target ---- */

static struct tm_error *detach(struct tm_target *target)
{
	(void)target;
	return NULL;
}

static void destroy(struct tm_target *target)
{
	struct fake_target *fake = fake_of(target);

	tm_target_deinit(target);
	tm_map_deinit(&fake->memory.bytes);
	for (size_t i = 0; i < fake->children.count; i++)
		tm_map_deinit(&fake->children.items[i].memory.bytes);
	tm_vector_deinit(&fake->children);
	tm_vector_deinit(&fake->mapped);
	tm_vector_deinit(&fake->unmapped);
	tm_vector_deinit(&fake->script);
	tm_vector_deinit(&fake->steps);
	free(fake);
}

static const struct tm_target_ops fake_ops = {
	.wait = wait_for_stop,
	.next_queued = next_queued,
	.resume = resume,
	.stop_all = stop_all,
	.resume_all = resume_all,
	.fetch_regs = fetch_regs,
	.store_regs = fetch_regs,
	.store_pc = store_pc,
	.read_memory = read_memory,
	.read_some = read_some,
	.write_memory = write_memory,
	.write_child = write_child,
	.read_child = read_child,
	.release_child = release_child,
	.step = step,
	.system_call = system_call,
	.mappings = mappings,
	.detach = detach,
	.destroy = destroy,
};

struct fake_target *fake_target_create(void)
{
	struct fake_target *fake = calloc(1, sizeof(*fake));

	if (!fake)
		abort();
	fake->base.ops = &fake_ops;
	fake->base.arch = tm_arch_host();
	fake->base.pid = getpid();
	return fake;
}

void fake_target_destroy(struct fake_target *fake)
{
	tm_target_destroy(fake ? &fake->base : NULL);
}

struct tm_thread *fake_target_add_thread(struct fake_target *fake, pid_t tid)
{
	struct tm_thread *thread = tm_target_add_thread(&fake->base, tid, fake->base.pid);

	if (!thread)
		abort();
	thread->state = TM_THREAD_STOPPED;
	thread->regs_valid = true;
	return thread;
}

bool fake_target_traps_at(struct fake_target *fake, uint64_t pc)
{
	const struct tm_arch *arch = fake->base.arch;
	uint8_t bytes[4];
	struct tm_error *err = read_memory(&fake->base, pc, bytes, arch->breakpoint_size);
	bool traps = !err && memcmp(bytes, arch->breakpoint, arch->breakpoint_size) == 0;

	tm_error_destroy(err);
	return traps;
}

size_t fake_target_changed_bytes(struct fake_target *fake, uint64_t start, uint64_t end)
{
	uint64_t address, byte;
	size_t changed = 0;

	for (size_t i = 0; tm_map_next(&fake->memory.bytes, &i, &address, &byte);) {
		uint8_t real = 0;

		if (address >= start && address < end && read_real(fake, address, &real, 1) &&
		    real != (uint8_t)byte)
			changed++;
	}
	return changed;
}
