#include "probe/recording.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "probe/watchdog.h"
#include "recorder/guard.h"
#include "recorder/image.h"
#include "target/procfs.h"

#define PATIENCE_MS    10000u
#define LEAVE_TRIES    200u
#define LEAVE_PAUSE_NS 1000000
#define GUARD_OFFSET   (TM_RECORDER_CODE_SIZE + TM_CONTROL_SIZE)
#define REGION_SIZE    (GUARD_OFFSET + TM_GUARD_SIZE)

/* Whose records a ring has. The thread's own object may be gone before its last records are read. */
struct writer {
	uint64_t pointer; /* as the ring's head has it; 0: not looked yet */
	struct tm_thread thread;
	bool gone;
};

struct tm_recording {
	struct tm_target *target;
	struct tm_recorder_image image;
	uint64_t region; /* run-time address of the code; 0: not installed */
	uint64_t shared; /* run-time address of the memory file; 0: not mapped there */
	void *memory;	 /* ours; NULL: not mapped */
	struct tm_ring_reader *reader;
	struct tm_row_table rows;
	int dismiss; /* of the watchdog; -1: none */
	bool may_sleep, stamps;
	uint64_t unringed;
	struct writer writers[TM_RINGS];
	struct tm_map tids; /* thread pointer -> tid of the latest thread that had it */
};

struct tm_error *tm_recording_create(struct tm_target *target, struct tm_recording **out)
{
	struct tm_recording *recording;
	struct tm_recorder_image image;

	if (target->arch != tm_arch_host() || !tm_recorder_image(&image))
		return tm_error_create(TM_ERROR_UNSUPPORTED, "there is no recorder for %s yet",
				       target->arch->name);
	recording = calloc(1, sizeof(*recording));
	if (!recording)
		return tm_error_out_of_memory();
	recording->target = target;
	recording->image = image;
	recording->dismiss = -1;
	*out = recording;
	return NULL;
}

static void unmap_ours(struct tm_recording *recording)
{
	tm_watchdog_dismiss(recording->dismiss);
	recording->dismiss = -1;
	tm_ring_reader_destroy(recording->reader);
	recording->reader = NULL;
	tm_row_table_deinit(&recording->rows);
	if (recording->memory)
		munmap(recording->memory, TM_SHARED_SIZE);
	recording->memory = NULL;
}

void tm_recording_destroy(struct tm_recording *recording)
{
	if (!recording)
		return;
	unmap_ours(recording);
	tm_map_deinit(&recording->tids);
	free(recording);
}

static struct tm_shared *shared_words(const struct tm_recording *recording)
{
	return recording->memory;
}

/* ---- the target's memory ---- */

static uint64_t control_field(const struct tm_recording *recording, size_t offset)
{
	return recording->region + TM_RECORDER_CODE_SIZE + offset;
}

#define CONTROL(recording, field) control_field(recording, offsetof(struct tm_control, field))

/* The recorder is there only for the host's architecture: the numbers of its system calls are ours. */
static struct tm_error *call(struct tm_recording *recording, const char *what, long number,
			     const uint64_t arguments[6], int64_t *result)
{
	struct tm_target *target = recording->target;
	struct tm_error *err = tm_target_system_call(target, NULL, number, arguments, result);

	if (!err && *result < 0 && *result > -4096)
		err = tm_error_errno((int)-*result, "process %d cannot %s for the recorder", target->pid,
				     what);
	return err;
}

static bool holds_recorder(struct tm_recording *recording, uint64_t start)
{
	uint8_t code[TM_RECORDER_CODE_SIZE];
	struct tm_error *err = tm_target_read(recording->target, start, code, recording->image.size);
	bool same = !err && memcmp(code, recording->image.bytes, recording->image.size) == 0;

	tm_error_destroy(err);
	return same;
}

/* Is a thread on its way in, or out? */
static bool is_entered(struct tm_recording *recording, uint64_t start)
{
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(recording->target, &i));) {
		struct tm_error *err = tm_target_fetch_regs(recording->target, thread);
		bool entered = err || thread->regs.value[recording->target->arch->pc] - start <
					      TM_RECORDER_CODE_SIZE;

		tm_error_destroy(err);
		if (entered)
			return true;
	}
	return false;
}

/* Takes over a recorder of an earlier trace if every thread has left it. A tracer that was killed may have
 * left its rings. */
static struct tm_error *take_over(struct tm_recording *recording, uint64_t start, bool *taken)
{
	_cleanup_free_ struct tm_control *control = malloc(sizeof(*control));
	const uint32_t off = 0;
	int64_t result;
	struct tm_error *err;

	*taken = false;
	if (!control)
		return tm_error_out_of_memory();
	err = tm_target_read(recording->target, start + TM_RECORDER_CODE_SIZE, control,
			     offsetof(struct tm_control, sampled));
	if (err)
		return err;
	for (unsigned i = 0; i < TM_RINGS; i++)
		if (control->threads[i].inside)
			return NULL;
	if (is_entered(recording, start))
		return NULL;
	recording->region = start;
	*taken = true;
	err = tm_target_write(recording->target, CONTROL(recording, enabled), &off, sizeof(off));
	if (err || !control->shared)
		return err;
	const uint64_t rings[6] = {control->shared, TM_SHARED_SIZE};

	return call(recording, "unmap the rings of an earlier trace", SYS_munmap, rings, &result);
}

static struct tm_error *adopt_region(struct tm_recording *recording)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};
	struct tm_error *err = tm_target_mappings(recording->target, &mappings);

	for (size_t i = 0; !err && i < mappings.count; i++) {
		const struct tm_mapping *mapping = &mappings.items[i];
		bool taken = false;

		if (mapping->executable && !mapping->writable && !mapping->inode && !mapping->path[0] &&
		    mapping->end - mapping->start == TM_RECORDER_CODE_SIZE &&
		    holds_recorder(recording, mapping->start))
			err = take_over(recording, mapping->start, &taken);
		if (taken) {
			tm_log_info("recorder: at 0x%" PRIx64 ", of an earlier trace", recording->region);
			break;
		}
	}
	return err;
}

static struct tm_error *map_region(struct tm_recording *recording)
{
	const uint64_t whole[6] = {
		0, REGION_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, UINT64_MAX, 0};
	int64_t result;
	struct tm_error *err = call(recording, "map pages", SYS_mmap, whole, &result);
	uint64_t region = (uint64_t)result;

	if (err)
		return err;
	const uint64_t code[6] = {region,
				  TM_RECORDER_CODE_SIZE,
				  PROT_READ | PROT_EXEC,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				  UINT64_MAX,
				  0};
	const uint64_t wipe[6] = {region + TM_RECORDER_CODE_SIZE, TM_CONTROL_SIZE, MADV_WIPEONFORK};

	err = call(recording, "map executable pages", SYS_mmap, code, &result);
	if (!err)
		err = call(recording, "mark pages", SYS_madvise, wipe, &result);
	if (!err)
		err = tm_target_write(recording->target, region + GUARD_OFFSET, TM_GUARD_MAGIC,
				      sizeof(TM_GUARD_MAGIC));
	if (!err)
		err = tm_target_write(recording->target, region, recording->image.bytes,
				      recording->image.size);
	if (!err)
		recording->region = region;
	return err;
}

/* ---- the memory file ---- */

static struct tm_error *map_ours(struct tm_recording *recording, int64_t number)
{
	char path[64];
	_cleanup_close_ int fd = -1;

	snprintf(path, sizeof(path), "/proc/%d/fd/%" PRId64, recording->target->pid, number);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return tm_error_errno(errno, "cannot open %s, the rings", path);
	recording->memory =
		mmap(NULL, TM_SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (recording->memory == MAP_FAILED) {
		recording->memory = NULL;
		return tm_error_errno(errno, "cannot map the rings");
	}
	recording->rows.shared = shared_words(recording);
	return tm_ring_reader_create(recording->memory, &recording->reader);
}

/* The target maps the file and keeps no descriptor. A forked child does not inherit it: its control page is
   wiped, so that nobody there looks for it. */
static struct tm_error *map_file(struct tm_recording *recording, int64_t number)
{
	const uint64_t size[6] = {(uint64_t)number, TM_SHARED_SIZE};
	const uint64_t map[6] = {
		0, TM_SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, (uint64_t)number, 0};
	int64_t result, place;
	struct tm_error *err = call(recording, "size the rings", SYS_ftruncate, size, &result);

	if (!err)
		err = call(recording, "map the rings", SYS_mmap, map, &place);
	if (err)
		return err;
	recording->shared = (uint64_t)place;
	const uint64_t keep[6] = {recording->shared, TM_SHARED_SIZE, MADV_DONTFORK};

	err = call(recording, "keep the rings from its children", SYS_madvise, keep, &result);
	return err ? err : map_ours(recording, number);
}

static struct tm_error *create_file(struct tm_recording *recording)
{
	static const char name[] = "tmtrace";
	/* Where the name stands for the time of the call. */
	uint64_t scratch = CONTROL(recording, threads);
	const uint64_t create[6] = {scratch, MFD_CLOEXEC};
	int64_t number, result;
	struct tm_error *err = tm_target_write(recording->target, scratch, name, sizeof(name));

	if (!err)
		err = call(recording, "create a memory file", SYS_memfd_create, create, &number);
	if (err)
		return err;
	const uint64_t close[6] = {(uint64_t)number};

	err = map_file(recording, number);
	return tm_error_first(err, call(recording, "close the memory file", SYS_close, close, &result));
}

static struct tm_error *unmap_theirs(struct tm_recording *recording)
{
	const uint64_t all[6] = {recording->shared, TM_SHARED_SIZE}, nowhere = 0;
	int64_t result;
	struct tm_error *err;

	if (!recording->shared)
		return NULL;
	recording->shared = 0;
	err = tm_target_write(recording->target, CONTROL(recording, shared), &nowhere, sizeof(nowhere));
	return err ? err : call(recording, "unmap the rings", SYS_munmap, all, &result);
}

/* ---- in place ---- */

static uint64_t time_stamp(void)
{
#ifdef __x86_64__
	return __builtin_ia32_rdtsc();
#else
	return tm_monotonic_ns();
#endif
}

/* Ticks of the time stamp counter in a millisecond: measured for long enough to be right within a percent. */
static uint64_t ticks_per_ms(void)
{
	uint64_t ns = tm_monotonic_ns(), ticks = time_stamp(), passed;

	do
		passed = tm_monotonic_ns() - ns;
	while (passed < 100000);
	return (time_stamp() - ticks) * 1000000 / passed;
}

/* A filter may kill a thread for a call that it does not expect. */
static bool may_sleep(const struct tm_recording *recording)
{
	struct tm_thread *thread;
	uint64_t seccomp;

	for (size_t i = 0; (thread = tm_target_next_thread(recording->target, &i));)
		if (tm_procfs_status_number(thread->tgid, thread->tid, "Seccomp", 10, &seccomp) && seccomp)
			return false;
	return true;
}

static bool runs_alone(struct tm_target *target)
{
	size_t i = 0;

	return tm_target_next_thread(target, &i) && !tm_target_next_thread(target, &i);
}

static struct tm_error *write_control(struct tm_recording *recording, const struct tm_recorder_python *python)
{
	_cleanup_free_ struct tm_control *control = calloc(1, sizeof(*control));

	if (!control)
		return tm_error_out_of_memory();
	memcpy(control->magic, TM_RECORDER_MAGIC, sizeof(control->magic));
	recording->may_sleep = may_sleep(recording);
	control->may_sleep = recording->may_sleep;
	control->stamps = recording->stamps = !runs_alone(recording->target);
	control->patience = ticks_per_ms() * PATIENCE_MS;
	control->shared = recording->shared;
	control->python = *python;
	return tm_target_write(recording->target, recording->region + TM_RECORDER_CODE_SIZE, control,
			       offsetof(struct tm_control, sampled));
}

/* What an earlier trace has left in the sets goes. */
struct tm_error *tm_recording_sample(struct tm_recording *recording, uint64_t mean)
{
	size_t size = sizeof(struct tm_control) - offsetof(struct tm_control, sampled);
	_cleanup_free_ uint8_t *none = calloc(1, size);
	struct tm_error *err;

	if (!mean)
		return NULL;
	if (!none)
		return tm_error_out_of_memory();
	err = tm_target_write(recording->target, CONTROL(recording, sampled), none, size);
	return err ? err
		   : tm_target_write(recording->target, CONTROL(recording, sample), &mean, sizeof(mean));
}

static struct tm_error *know_threads(struct tm_recording *recording)
{
	struct tm_error *err = NULL;
	struct tm_thread *thread;

	for (size_t i = 0; !err && (thread = tm_target_next_thread(recording->target, &i));)
		if (thread->state == TM_THREAD_STOPPED)
			err = tm_recording_thread_born(recording, thread);
	return err;
}

struct tm_error *tm_recording_install(struct tm_recording *recording, const struct tm_recorder_python *python)
{
	struct tm_error *err = adopt_region(recording);

	if (!err && !recording->region)
		err = map_region(recording);
	if (!err)
		err = create_file(recording);
	if (!err)
		err = write_control(recording, python);
	if (!err)
		err = know_threads(recording);
	if (!err)
		err = tm_watchdog_start(&shared_words(recording)->enabled, &recording->dismiss);
	if (err) {
		tm_error_destroy(unmap_theirs(recording));
		unmap_ours(recording);
	}
	return err;
}

uint64_t tm_recording_entry(const struct tm_recording *recording, enum tm_recorder_entry entry)
{
	return recording->region + recording->image.entries[entry];
}

uint64_t tm_recording_enabled_word(const struct tm_recording *recording)
{
	return CONTROL(recording, enabled);
}

void tm_recording_code(const struct tm_recording *recording, uint64_t *start, uint64_t *end)
{
	*start = recording->region;
	*end = recording->region + recording->image.size;
}

const uint8_t *tm_recording_elf(const struct tm_recording *recording, size_t *size)
{
	*size = recording->image.elf_size;
	return recording->image.elf;
}

uint64_t tm_recording_guard(const struct tm_recording *recording)
{
	return recording->region + GUARD_OFFSET;
}

static struct tm_error *set_enabled(struct tm_recording *recording, uint32_t enabled)
{
	__atomic_store_n(&shared_words(recording)->enabled, enabled, __ATOMIC_RELEASE);
	return tm_target_write(recording->target, CONTROL(recording, enabled), &enabled, sizeof(enabled));
}

struct tm_error *tm_recording_enable(struct tm_recording *recording)
{
	return set_enabled(recording, 1);
}

static void count_unringed(struct tm_recording *recording)
{
	tm_error_destroy(tm_target_read(recording->target, CONTROL(recording, unringed), &recording->unringed,
					sizeof(recording->unringed)));
}

/* ---- the end ---- */

static struct tm_error *find_insider(struct tm_recording *recording, bool *found)
{
	_cleanup_free_ struct tm_recorder_thread *threads = calloc(TM_RINGS, sizeof(*threads));
	struct tm_error *err;

	*found = false;
	if (!threads)
		return tm_error_out_of_memory();
	err = tm_target_read(recording->target, CONTROL(recording, threads), threads,
			     TM_RINGS * sizeof(*threads));
	for (unsigned i = 0; !err && i < TM_RINGS; i++)
		*found = *found || threads[i].inside;
	return err;
}

/* Lets all threads run a little, so that who is inside comes out. */
static struct tm_error *let_run(struct tm_recording *recording)
{
	const struct timespec pause = {0, LEAVE_PAUSE_NS};
	struct tm_error *err = tm_target_resume_all(recording->target, NULL);

	nanosleep(&pause, NULL);
	return tm_error_first(err, tm_target_stop_all(recording->target, TM_STOP_TIMEOUT_MS));
}

struct tm_error *tm_recording_disable(struct tm_recording *recording)
{
	bool inside = true;
	struct tm_error *err;

	if (!recording->region || !recording->memory)
		return NULL;
	tm_log_info("recorder: threads waited for a look %" PRIu64 " times",
		    tm_recording_doorbell(recording));
	count_unringed(recording);
	err = set_enabled(recording, 0);
	for (unsigned i = 0; !err && i < LEAVE_TRIES; i++) {
		err = find_insider(recording, &inside);
		if (err || !inside)
			break;
		err = let_run(recording);
	}
	if (!inside)
		return tm_error_first(err, unmap_theirs(recording));
	tm_log_info("recorder: a thread is still inside, its rings stay");
	return err;
}

void tm_recording_forget(struct tm_recording *recording)
{
	recording->region = recording->shared = 0;
	memset(recording->writers, 0, sizeof(recording->writers));
	tm_map_clear(&recording->tids);
	unmap_ours(recording);
}

/* ---- records and threads ---- */

struct tm_error *tm_recording_read(struct tm_recording *recording, const struct tm_record_sink *sink,
				   enum tm_reading reading, size_t *count)
{
	*count = 0;
	if (!recording->reader)
		return NULL;
	switch (reading) {
	case TM_READ_READY:
		return tm_ring_reader_pass(recording->reader, sink, 0, count);
	case TM_READ_CATCH_UP:
		return tm_ring_reader_catch_up(recording->reader, sink, count);
	case TM_READ_ALL:
		return tm_ring_reader_drain(recording->reader, sink, count);
	}
	return NULL;
}

static struct tm_ring_head *head_of(const struct tm_recording *recording, unsigned ring)
{
	return (struct tm_ring_head *)((char *)recording->memory + TM_SHARED_HEADS) + ring;
}

/* Before its first record: the target may be gone already. */
static void look_up_writer(struct tm_recording *recording, unsigned ring)
{
	struct writer *writer = &recording->writers[ring];
	const uint64_t *tid;

	writer->pointer = __atomic_load_n(&head_of(recording, ring)->thread_pointer, __ATOMIC_ACQUIRE);
	tid = tm_map_get(&recording->tids, writer->pointer);
	writer->thread = (struct tm_thread){.tid = tid ? (pid_t)*tid : recording->target->pid};
	writer->gone = tid && !tm_target_thread(recording->target, (pid_t)*tid);
}

const struct tm_thread *tm_recording_thread(struct tm_recording *recording, unsigned ring,
					    uint64_t *thread_pointer)
{
	struct writer *writer = &recording->writers[ring];

	if (!writer->pointer)
		look_up_writer(recording, ring);
	*thread_pointer = writer->pointer;
	return &writer->thread;
}

/* It has not run yet: what depends on it will be recorded by threads that see the word. */
static struct tm_error *begin_stamps(struct tm_recording *recording)
{
	const uint32_t on = 1;

	if (recording->stamps || runs_alone(recording->target))
		return NULL;
	recording->stamps = true;
	return tm_target_write(recording->target, CONTROL(recording, stamps), &on, sizeof(on));
}

struct tm_error *tm_recording_thread_born(struct tm_recording *recording, struct tm_thread *thread)
{
	uint64_t pointer = 0;
	struct tm_error *err = begin_stamps(recording);

	if (!err)
		err = tm_target_thread_pointer(recording->target, thread, &pointer);
	if (err || !pointer)
		return err;
	for (unsigned i = 0; i < TM_RINGS; i++)
		if (recording->writers[i].pointer == pointer) {
			recording->writers[i].thread = (struct tm_thread){.tid = thread->tid};
			recording->writers[i].gone = false;
		}
	return tm_map_put(&recording->tids, pointer, (uint64_t)thread->tid) ? NULL : tm_error_out_of_memory();
}

void tm_recording_thread_gone(struct tm_recording *recording, pid_t tid)
{
	for (unsigned i = 0; i < TM_RINGS; i++)
		if (recording->writers[i].pointer && recording->writers[i].thread.tid == tid)
			recording->writers[i].gone = true;
}

/* Another thread may claim it from now on. */
static void release_ring(struct tm_recording *recording, unsigned ring)
{
	const uint64_t gone = TM_THREAD_GONE;
	uint64_t place = control_field(recording, offsetof(struct tm_control, threads[ring].thread_pointer));

	tm_error_destroy(tm_target_write(recording->target, place, &gone, sizeof(gone)));
	recording->writers[ring] = (struct writer){0};
}

static void release_rings(struct tm_recording *recording)
{
	for (unsigned i = 0; i < TM_RINGS; i++)
		if (recording->writers[i].gone && head_of(recording, i)->head == head_of(recording, i)->tail)
			release_ring(recording, i);
}

void tm_recording_know_code(struct tm_recording *recording, uint64_t code)
{
	tm_shared_add_code(shared_words(recording), code);
}

uint64_t tm_recording_doorbell(const struct tm_recording *recording)
{
	return recording->memory ? __atomic_load_n(&shared_words(recording)->doorbell, __ATOMIC_ACQUIRE) : 0;
}

uint64_t tm_recording_unringed(const struct tm_recording *recording)
{
	return recording->unringed;
}

void tm_recording_refresh(struct tm_recording *recording)
{
	uint32_t allowed;

	if (!recording->region || !recording->memory)
		return;
	release_rings(recording);
	count_unringed(recording);
	if (may_sleep(recording) == recording->may_sleep)
		return;
	recording->may_sleep = !recording->may_sleep;
	allowed = recording->may_sleep;
	tm_error_destroy(
		tm_target_write(recording->target, CONTROL(recording, may_sleep), &allowed, sizeof(allowed)));
}

struct tm_row_table *tm_recording_rows(struct tm_recording *recording)
{
	return &recording->rows;
}

struct tm_ring_head *tm_recording_ring(const struct tm_recording *recording, unsigned ring)
{
	return head_of(recording, ring);
}

bool tm_recording_read_stack(const struct tm_recording *recording, unsigned ring,
			     struct tm_recorder_stack *stack)
{
	uint64_t place = control_field(recording, offsetof(struct tm_control, threads[ring].stack));
	struct tm_error *err = tm_target_read(recording->target, place, stack, sizeof(*stack));
	bool read = !err;

	tm_error_destroy(err);
	return read;
}

/* ---- calls of operator new that stop ---- */

/* The thread's entry; UINT_MAX: it has none. */
static struct tm_error *find_entry(struct tm_recording *recording, struct tm_thread *thread, unsigned *entry)
{
	uint64_t pointer = 0, present = 1;
	struct tm_error *err = tm_target_thread_pointer(recording->target, thread, &pointer);

	*entry = UINT_MAX;
	for (unsigned i = 0, at = tm_thread_slot(pointer); !err && present && i < TM_RINGS;
	     i++, at = (at + 1) % TM_RINGS) {
		uint64_t place =
			control_field(recording, offsetof(struct tm_control, threads[at].thread_pointer));

		err = tm_target_read(recording->target, place, &present, sizeof(present));
		if (!err && present == pointer && pointer) {
			*entry = at;
			break;
		}
	}
	return err;
}

static struct tm_error *write_stack(struct tm_recording *recording, unsigned entry,
				    const struct tm_recorder_stack *stack)
{
	uint64_t place = control_field(recording, offsetof(struct tm_control, threads[entry].stack));

	return tm_target_write(recording->target, place, stack, sizeof(*stack));
}

/* Those at or below the CFA are over. */
static void drop_news(struct tm_recorder_stack *stack, uint64_t cfa)
{
	if (stack->new_count > TM_ARRAY_SIZE(stack->news))
		stack->new_count = 0;
	while (stack->new_count && stack->news[stack->new_count - 1].cfa <= cfa)
		stack->new_count--;
}

struct tm_error *tm_recording_enter_new(struct tm_recording *recording, struct tm_thread *thread,
					const struct tm_recorder_call *call)
{
	struct tm_recorder_stack stack;
	unsigned entry;
	struct tm_error *err = find_entry(recording, thread, &entry);

	if (err || entry == UINT_MAX || !tm_recording_read_stack(recording, entry, &stack))
		return err;
	drop_news(&stack, call->cfa);
	if (stack.new_count == TM_ARRAY_SIZE(stack.news))
		return NULL;
	stack.news[stack.new_count++] = *call;
	return write_stack(recording, entry, &stack);
}

struct tm_error *tm_recording_leave_new(struct tm_recording *recording, struct tm_thread *thread,
					uint64_t cfa)
{
	struct tm_recorder_stack stack;
	unsigned entry;
	struct tm_error *err = find_entry(recording, thread, &entry);

	if (err || entry == UINT_MAX || !tm_recording_read_stack(recording, entry, &stack))
		return err;
	drop_news(&stack, cfa);
	return write_stack(recording, entry, &stack);
}

bool tm_recording_has_ended(const struct tm_recording *recording)
{
	return recording->memory && __atomic_load_n(&shared_words(recording)->lost, __ATOMIC_ACQUIRE);
}
