#include "probe/recording_internal.h"

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
#include "recorder/guard.h"
#include "target/procfs.h"

#define PATIENCE_MS  10000u
#define GUARD_OFFSET (TM_RECORDER_CODE_SIZE + TM_CONTROL_SIZE)
#define REGION_SIZE  (GUARD_OFFSET + TM_GUARD_SIZE)

/* ---- what it needs ---- */

static uint64_t time_stamp(void)
{
#ifdef __x86_64__
	return __builtin_ia32_rdtsc();
#else
	return tm_monotonic_ns();
#endif
}

/* For long enough to be right within a percent, if nothing comes between the two clocks. */
static uint64_t measure_once(void)
{
	uint64_t ns = tm_monotonic_ns(), ticks = time_stamp(), passed;

	do
		passed = tm_monotonic_ns() - ns;
	while (passed < 50000);
	return (time_stamp() - ticks) * 1000000 / passed;
}

/* Ticks of the time stamp counter in a millisecond. Where another program ran between the clocks it is not
   the middle one of three. */
static uint64_t measure_ticks_per_ms(void)
{
	uint64_t a = measure_once(), b = measure_once(), c = measure_once();
	uint64_t low = a < b ? a : b, high = a < b ? b : a;

	return c < low ? low : c > high ? high : c;
}

struct tm_error *tm_recording_prepare(struct tm_recording_needs *needs)
{
	if (!needs->ticks_per_ms)
		needs->ticks_per_ms = measure_ticks_per_ms();
	tm_recorder_image(&needs->image);
	return needs->watchdog.orders < 0 ? tm_watchdog_start(&needs->watchdog) : NULL;
}

void tm_recording_release(struct tm_recording_needs *needs)
{
	tm_watchdog_dismiss(&needs->watchdog);
}

struct tm_error *tm_recording_create(struct tm_target *target, const struct tm_recording_needs *needs,
				     struct tm_recording **out)
{
	struct tm_recording *recording;

	if (target->arch != tm_arch_host() || !needs->image.size)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "there is no recorder for %s yet",
				       target->arch->name);
	recording = calloc(1, sizeof(*recording));
	if (!recording)
		return tm_error_out_of_memory();
	recording->target = target;
	recording->needs = needs;
	*out = recording;
	return NULL;
}

static void unmap_ours(struct tm_recording *recording)
{
	tm_ring_reader_destroy(recording->reader);
	recording->reader = NULL;
	tm_row_table_deinit(&recording->rows);
	if (!recording->memory)
		return;
	tm_log_info("recorder: threads waited for a look %" PRIu64 " times",
		    tm_recording_doorbell(recording));
	tm_error_destroy(tm_watchdog_watch(&recording->needs->watchdog, -1, 0));
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

/* ---- the target's memory ---- */

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
	struct tm_error *err = tm_target_read(recording->target, start, code, recording->needs->image.size);
	bool same = !err && memcmp(code, recording->needs->image.bytes, recording->needs->image.size) == 0;

	tm_error_destroy(err);
	return same;
}

/* A tracer that was killed may have left its rings; or they stayed for a thread that was inside. */
static struct tm_error *drop_left_rings(struct tm_recording *recording, uint64_t region)
{
	uint64_t place = tm_control_field(region, offsetof(struct tm_control, shared)), shared = 0;
	const uint64_t nowhere = 0;
	int64_t result;
	struct tm_error *err = tm_target_read(recording->target, place, &shared, sizeof(shared));

	if (err || !shared)
		return err;
	const uint64_t rings[6] = {shared, TM_SHARED_SIZE};

	err = tm_target_write(recording->target, place, &nowhere, sizeof(nowhere));
	return err ? err : call(recording, "unmap the rings of an earlier trace", SYS_munmap, rings, &result);
}

/* A recorder of an earlier trace that every thread has left is taken over; its rings go, and so do those of
   any other that is as empty. */
static struct tm_error *take_over(struct tm_recording *recording, uint64_t region)
{
	uint64_t enabled = tm_control_field(region, offsetof(struct tm_control, enabled));
	uint64_t go = tm_control_field(region, offsetof(struct tm_control, setup.go));
	const uint32_t off = 0, to_the_end = TM_SETUP_CLOSED;
	bool entered = true;
	struct tm_error *err = tm_target_write(recording->target, enabled, &off, sizeof(off));

	if (!err) /* a tracer was killed while it waited for a thread there */
		err = tm_target_write(recording->target, go, &to_the_end, sizeof(to_the_end));
	if (!err)
		err = tm_recording_clear(recording, region, &entered);
	if (err || entered)
		return err;
	if (!recording->region) {
		recording->region = region;
		tm_log_info("recorder: at 0x%" PRIx64 ", of an earlier trace", region);
	}
	return drop_left_rings(recording, region);
}

/* Where a tracer was killed before the target had made the rest writable, it is in one piece. */
static bool may_be_region(const struct tm_mapping *mapping)
{
	uint64_t size = mapping->end - mapping->start;

	return tm_mapping_is_anonymous_code(mapping) &&
	       (size == TM_RECORDER_CODE_SIZE || size == REGION_SIZE);
}

static struct tm_error *adopt_region(struct tm_recording *recording)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};
	struct tm_error *err = tm_target_mappings(recording->target, &mappings);

	for (size_t i = 0; !err && i < mappings.count; i++) {
		const struct tm_mapping *mapping = &mappings.items[i];

		if (may_be_region(mapping) && holds_recorder(recording, mapping->start))
			err = take_over(recording, mapping->start);
	}
	return err;
}

/* In one piece; the target itself makes writable what is behind the code (setup.c). It is added to the memory
   map. */
static struct tm_error *map_region(struct tm_recording *recording, struct tm_mappings *map)
{
	const uint64_t whole[6] = {
		0, REGION_SIZE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, UINT64_MAX, 0};
	int64_t result;
	struct tm_error *err = call(recording, "map executable pages", SYS_mmap, whole, &result);
	uint64_t region = (uint64_t)result;

	if (!err)
		err = tm_mappings_add(map, region, region + REGION_SIZE);
	if (!err)
		err = tm_target_write(recording->target, region + GUARD_OFFSET, TM_GUARD_MAGIC,
				      sizeof(TM_GUARD_MAGIC));
	if (!err)
		err = tm_target_write(recording->target, region, recording->needs->image.bytes,
				      recording->needs->image.size);
	if (!err)
		recording->region = region;
	recording->fresh = !err;
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
	if (ftruncate(fd, TM_SHARED_SIZE) < 0)
		return tm_error_errno(errno, "cannot size the rings");
	recording->memory =
		mmap(NULL, TM_SHARED_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (recording->memory == MAP_FAILED) {
		recording->memory = NULL;
		return tm_error_errno(errno, "cannot map the rings");
	}
	recording->rows.shared = tm_recording_words(recording);
	return tm_watchdog_watch(&recording->needs->watchdog, fd, offsetof(struct tm_shared, enabled));
}

static const char *const setup_calls[] = {
	[TM_SETUP_WIPE] = "mark pages",
	[TM_SETUP_FILE] = "create a memory file",
	[TM_SETUP_MAP] = "map the rings",
	[TM_SETUP_UNLOCK] = "unlock the rings",
	[TM_SETUP_OPEN] = "open the rings",
	[TM_SETUP_NO_FORK] = "keep the rings from its children",
	[TM_SETUP_NO_DUMP] = "keep the rings out of core dumps",
};

#define MAKING_NS	  40000u /* as it is expected */
#define CLOSING_NS	  2000u
#define SETUP_PATIENCE_MS 500u /* where nobody comes for it: at either stage */

/* Regions of pads that the target is to map. */
static void plan_pads(const struct tm_recording_pads *wanted, const struct tm_mappings *map,
		      struct tm_setup *setup)
{
	uint64_t places[TM_SETUP_PAGES];
	size_t count = tm_pads_plan(wanted->pads, map, wanted->near, wanted->count, places);

	for (size_t i = 0; i < count; i++)
		setup->pages[i] = (struct tm_setup_pages){.place = places[i], .size = TM_PAD_REGION_SIZE};
}

static struct tm_error *take_pads(struct tm_pads *pads, const struct tm_setup *setup)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i < TM_SETUP_PAGES && setup->pages[i].size; i++) {
		const struct tm_setup_pages *pages = &setup->pages[i];
		bool mapped = (uint64_t)pages->result == pages->place;

		tm_log_info("pads: %s at 0x%" PRIx64 " with the recorder", mapped ? "mapped" : "not mapped",
			    pages->place);
		if (mapped)
			err = tm_pads_take(pads, pages->place);
	}
	return err;
}

/* What the target has made. */
static struct tm_error *take_made(struct tm_recording *recording, struct tm_pads *pads)
{
	struct tm_setup setup;
	struct tm_error *err = tm_target_await_word(recording->target, CONTROL(recording, setup.stage),
						    TM_SETUP_MADE, MAKING_NS);

	if (!err)
		err = tm_target_read(recording->target, CONTROL(recording, setup), &setup, sizeof(setup));
	if (!err)
		err = take_pads(pads, &setup);
	if (err)
		return err;
	if (setup.shared > 0)
		recording->shared = (uint64_t)setup.shared;
	if (setup.failed && setup.failed < TM_ARRAY_SIZE(setup_calls))
		return tm_error_errno((int)setup.error, "process %d cannot %s for the recorder",
				      recording->target->pid, setup_calls[setup.failed]);
	return map_ours(recording, setup.file);
}

static struct tm_error *let_go_on(struct tm_recording *recording)
{
	const uint32_t made = TM_SETUP_MADE;
	struct tm_error *err =
		tm_target_write(recording->target, CONTROL(recording, setup.go), &made, sizeof(made));

	return err ? err
		   : tm_target_await_word(recording->target, CONTROL(recording, setup.stage), TM_SETUP_CLOSED,
					  CLOSING_NS);
}

/* The target keeps no descriptor. The stack is where nothing is until there are samples. */
static struct tm_error *run_setup(struct tm_recording *recording, const struct tm_setup *setup,
				  struct tm_pads *pads)
{
	const struct tm_routine routine = {
		.entry = tm_recording_entry(recording, TM_ENTRY_SETUP),
		.argument = recording->needs->ticks_per_ms * SETUP_PATIENCE_MS,
		.start = recording->region,
		.end = recording->region + recording->needs->image.size,
		.restorer = tm_recording_entry(recording, TM_ENTRY_SETUP_RETURN),
		.stack = CONTROL(recording, sampled) + TM_ROUTINE_STACK,
	};
	struct tm_error *err =
		tm_target_write(recording->target, CONTROL(recording, setup), setup, sizeof(*setup));

	_Static_assert(sizeof(struct tm_sampled_set) * TM_SAMPLED_SETS >= TM_ROUTINE_STACK, "room for it");
	if (!err)
		err = tm_target_begin_routine(recording->target, &routine);
	if (err)
		return err;
	err = take_made(recording, pads);
	err = tm_error_first(err, let_go_on(recording));
	return tm_error_first(err, tm_target_end_routine(recording->target));
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

/* This process, or the whole machine, was asleep, and the thread did not wait for so long. What it has made
   is of no use without the file that it has closed. */
static struct tm_error *run_setup_again(struct tm_recording *recording, struct tm_error *first,
					struct tm_pads *pads)
{
	const struct tm_setup no_pages = {0};
	struct tm_setup made;
	struct tm_error *err;

	tm_log_info("%s: once more", first->message);
	tm_error_destroy(first);
	err = tm_target_read(recording->target, CONTROL(recording, setup), &made, sizeof(made));
	if (!err && !recording->shared && made.shared > 0)
		recording->shared = (uint64_t)made.shared;
	if (!err)
		err = take_pads(pads, &made);
	if (!err)
		err = unmap_theirs(recording);
	unmap_ours(recording);
	return err ? err : run_setup(recording, &no_pages, pads);
}

static struct tm_error *map_all(struct tm_recording *recording, const struct tm_recording_pads *wanted)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings map = {0};
	struct tm_setup setup = {0};
	struct tm_error *err = adopt_region(recording);

	if (!err)
		err = tm_target_mappings(recording->target, &map);
	if (err)
		return err;
	tm_target_begin_calls(recording->target);
	if (!recording->region)
		err = map_region(recording, &map);
	if (!err) {
		plan_pads(wanted, &map, &setup);
		err = run_setup(recording, &setup, wanted->pads);
	}
	if (err && err->code == TM_ERROR_TIMEOUT)
		err = run_setup_again(recording, err, wanted->pads);
	return tm_error_first(err, tm_target_end_calls(recording->target));
}

/* ---- in place ---- */

/* Pages that were just mapped are zero; of those of an earlier trace the threads' entries are made so. */
static struct tm_error *write_control(struct tm_recording *recording, const struct tm_recorder_python *python)
{
	static struct tm_control control; /* but for its first words it stays zero, and costs no memory */

	memcpy(control.magic, TM_RECORDER_MAGIC, sizeof(control.magic));
	recording->may_sleep = false;
	control.stamps = recording->stamps = !tm_recording_runs_alone(recording);
	control.patience = recording->needs->ticks_per_ms * PATIENCE_MS;
	control.shared = recording->shared;
	control.python = *python;
	return tm_target_write(recording->target, recording->region + TM_RECORDER_CODE_SIZE, &control,
			       recording->fresh ? offsetof(struct tm_control, threads)
						: offsetof(struct tm_control, sampled));
}

/* What an earlier trace has left in the sets goes. */
static struct tm_error *write_sample(struct tm_recording *recording, uint64_t mean)
{
	size_t size = sizeof(struct tm_control) - offsetof(struct tm_control, sampled);
	_cleanup_free_ uint8_t *none = calloc(1, size);
	struct tm_error *err;

	if (!none)
		return tm_error_out_of_memory();
	err = tm_target_write(recording->target, CONTROL(recording, sampled), none, size);
	return err ? err
		   : tm_target_write(recording->target, CONTROL(recording, sample), &mean, sizeof(mean));
}

struct tm_error *tm_recording_sample(struct tm_recording *recording, uint64_t mean)
{
	return mean ? write_sample(recording, mean) : NULL;
}

struct tm_error *tm_recording_install(struct tm_recording *recording, const struct tm_recorder_python *python,
				      const struct tm_recording_pads *wanted)
{
	struct tm_error *err = map_all(recording, wanted);

	if (!err)
		err = write_control(recording, python);
	if (!err)
		err = tm_recording_know_threads(recording);
	if (err) {
		tm_error_destroy(unmap_theirs(recording));
		unmap_ours(recording);
	}
	return err;
}

uint64_t tm_recording_entry(const struct tm_recording *recording, enum tm_recorder_entry entry)
{
	return recording->region + recording->needs->image.entries[entry];
}

uint64_t tm_recording_enabled_word(const struct tm_recording *recording)
{
	return CONTROL(recording, enabled);
}

void tm_recording_code(const struct tm_recording *recording, uint64_t *start, uint64_t *end)
{
	*start = recording->region;
	*end = recording->region + recording->needs->image.size;
}

const uint8_t *tm_recording_elf(const struct tm_recording *recording, size_t *size)
{
	*size = recording->needs->image.elf_size;
	return recording->needs->image.elf;
}

uint64_t tm_recording_guard(const struct tm_recording *recording)
{
	return recording->region + GUARD_OFFSET;
}

static struct tm_error *set_enabled(struct tm_recording *recording, uint32_t enabled)
{
	__atomic_store_n(&tm_recording_words(recording)->enabled, enabled, __ATOMIC_RELEASE);
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

struct tm_error *tm_recording_disable(struct tm_recording *recording)
{
	bool inside = true;
	struct tm_error *err;

	if (!recording->region || !recording->memory)
		return NULL;
	count_unringed(recording);
	err = set_enabled(recording, 0);
	if (!err)
		err = tm_recording_let_out(recording, recording->region, &inside);
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

static void allow_sleep(struct tm_recording *recording)
{
	uint32_t allowed = may_sleep(recording);

	if (allowed == recording->may_sleep)
		return;
	recording->may_sleep = allowed;
	tm_error_destroy(
		tm_target_write(recording->target, CONTROL(recording, may_sleep), &allowed, sizeof(allowed)));
}

struct tm_error *tm_recording_begin_reading(struct tm_recording *recording)
{
	struct tm_error *err;

	if (!recording->memory || recording->reader)
		return NULL;
	err = tm_ring_reader_create(recording->memory, &recording->reader);
	if (!err)
		allow_sleep(recording);
	return err;
}

struct tm_error *tm_recording_read(struct tm_recording *recording, const struct tm_record_sink *sink,
				   enum tm_reading reading, size_t *count)
{
	struct tm_error *err = tm_recording_begin_reading(recording);

	*count = 0;
	if (!recording->memory)
		return NULL;
	if (!err && !tm_rows_put_waiting(&recording->rows))
		err = tm_error_out_of_memory();
	if (err)
		return err;
	switch (reading) {
	case TM_READ_READY:
		return tm_ring_reader_pass(recording->reader, sink, TM_READ_AT_ONCE, count);
	case TM_READ_CATCH_UP:
		return tm_ring_reader_catch_up(recording->reader, sink, count);
	case TM_READ_ALL:
		return tm_ring_reader_drain(recording->reader, sink, count);
	}
	return NULL;
}

void tm_recording_know_code(struct tm_recording *recording, uint64_t code)
{
	tm_shared_add_code(tm_recording_words(recording), code);
}

uint64_t tm_recording_doorbell(const struct tm_recording *recording)
{
	return recording->memory ? __atomic_load_n(&tm_recording_words(recording)->doorbell, __ATOMIC_ACQUIRE)
				 : 0;
}

uint32_t *tm_recording_asleep(const struct tm_recording *recording)
{
	return recording->memory && recording->may_sleep ? &tm_recording_words(recording)->asleep : NULL;
}

uint64_t tm_recording_backlog(const struct tm_recording *recording)
{
	return recording->reader ? tm_ring_reader_backlog(recording->reader) : 0;
}

uint64_t tm_recording_unringed(const struct tm_recording *recording)
{
	return recording->unringed;
}

void tm_recording_refresh(struct tm_recording *recording)
{
	if (!recording->region || !recording->memory)
		return;
	tm_recording_release_rings(recording);
	count_unringed(recording);
	allow_sleep(recording);
}

struct tm_row_table *tm_recording_rows(struct tm_recording *recording)
{
	return &recording->rows;
}

struct tm_ring_head *tm_recording_ring(const struct tm_recording *recording, unsigned ring)
{
	return tm_recording_head(recording, ring);
}

bool tm_recording_has_ended(const struct tm_recording *recording)
{
	return recording->memory && __atomic_load_n(&tm_recording_words(recording)->lost, __ATOMIC_ACQUIRE);
}
