#include "probe/slot_probe.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"

/* A resize that is under way. */
struct resize {
	uint64_t old;
	_Alignas(16) uint8_t scratch[TM_EVENT_SCRATCH];
};

struct tm_slot_probe {
	struct tm_slot_probe_config config;
	struct tm_slot_pads pads;
	uint64_t page; /* of the pads in the target; 0: none yet */
	uint64_t originals[TM_SLOT_COUNT];
	bool armed;
	struct tm_map resizes; /* tid -> struct resize * */
};

struct tm_error *tm_slot_probe_create(const struct tm_slot_probe_config *config, struct tm_slot_probe **out)
{
	struct tm_slot_probe *probe = calloc(1, sizeof(*probe));
	struct tm_error *err;

	if (!probe)
		return tm_error_out_of_memory();
	probe->config = *config;
	err = tm_slot_pads_make(config->target->arch, config->recording != NULL, &probe->pads);
	if (err) {
		free(probe);
		return err;
	}
	*out = probe;
	return NULL;
}

void tm_slot_probe_destroy(struct tm_slot_probe *probe)
{
	uint64_t tid, place;

	if (!probe)
		return;
	for (size_t i = 0; tm_map_next(&probe->resizes, &i, &tid, &place);)
		free((struct resize *)(uintptr_t)place);
	tm_map_deinit(&probe->resizes);
	free(probe);
}

/* ---- the pages ---- */

static bool holds_magic(struct tm_slot_probe *probe, uint64_t address)
{
	char present[TM_SLOT_MAGIC_SIZE];
	struct tm_error *err = tm_target_read(probe->config.target, address, present, sizeof(present));
	bool same = !err && memcmp(present, probe->pads.magic, sizeof(present)) == 0;

	tm_error_destroy(err);
	return same;
}

/* The same pads as this program would write, but for breakpoints that a killed tracer left. */
static bool is_ours(struct tm_slot_probe *probe, uint64_t page)
{
	struct tm_slot_pads *pads = &probe->pads;
	_cleanup_free_ uint8_t *present = malloc(pads->size);
	struct tm_error *err;

	if (!present || !holds_magic(probe, page) || !holds_magic(probe, page + TM_SLOT_PAGE))
		return false;
	err = tm_target_read(probe->config.target, page, present, pads->size);
	if (err) {
		tm_error_destroy(err);
		return false;
	}
	for (size_t i = 0; i < pads->stop_count; i++)
		present[pads->stops[i].offset] = pads->code[pads->stops[i].offset];
	return memcmp(present, pads->code, pads->size) == 0;
}

static uint64_t slot_address(const struct tm_slot_probe *probe, unsigned slot)
{
	return tm_interpreter_slot(probe->config.interpreter, slot);
}

static bool read_word(struct tm_slot_probe *probe, uint64_t address, uint64_t *word)
{
	struct tm_error *err = tm_target_read(probe->config.target, address, word, sizeof(*word));
	bool read = !err;

	tm_error_destroy(err);
	return read;
}

/*
 * May the page's pads be put into the slots? Not if a hook of the target's own (its tracemalloc) was put over
 * them and kept their addresses: a pad that calls the hook that calls the pad would never end. Where every
 * slot still leads to the page, there is no such hook.
 */
static bool is_free(struct tm_slot_probe *probe, uint64_t page)
{
	uint64_t in_use = 1, present;

	if (read_word(probe, page + TM_SLOT_PAGE + TM_SLOT_IN_USE, &in_use) && !in_use)
		return true;
	for (unsigned slot = 0; slot < TM_SLOT_COUNT; slot++)
		if (slot_address(probe, slot) && (!read_word(probe, slot_address(probe, slot), &present) ||
						  present != page + probe->pads.entries[slot]))
			return false;
	return true;
}

/* Pages that an earlier trace left: anonymous code. A JIT may have much of it, which is not ours. */
#define ADOPT_MAX (1u << 20)

static void adopt_from(struct tm_slot_probe *probe, const struct tm_mapping *mapping)
{
	if (!mapping->executable || mapping->writable || mapping->inode || mapping->path[0] ||
	    mapping->end - mapping->start > ADOPT_MAX)
		return;
	for (uint64_t page = mapping->start; !probe->page && page < mapping->end; page += TM_SLOT_PAGE)
		if (is_ours(probe, page) && is_free(probe, page))
			probe->page = page;
}

static struct tm_error *adopt(struct tm_slot_probe *probe)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};
	struct tm_error *err = tm_target_mappings(probe->config.target, &mappings);

	for (size_t i = 0; !err && !probe->page && i < mappings.count; i++)
		adopt_from(probe, &mappings.items[i]);
	return err;
}

static struct tm_error *map(struct tm_slot_probe *probe, const uint64_t arguments[6], uint64_t *place)
{
	struct tm_target *target = probe->config.target;
	int64_t result = 0;
	struct tm_error *err =
		tm_target_system_call(target, NULL, target->arch->syscall_mmap, arguments, &result);

	if (!err && result < 0 && result > -4096)
		err = tm_error_errno((int)-result, "process %d cannot map the pads of the python domain",
				     target->pid);
	*place = (uint64_t)result;
	return err;
}

/* Nothing in them is known by address, so they may stand anywhere. */
static struct tm_error *map_pages(struct tm_slot_probe *probe, uint64_t *page)
{
	const uint64_t both[6] = {
		0, 2 * TM_SLOT_PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, UINT64_MAX, 0};
	struct tm_target *target = probe->config.target;
	struct tm_error *err = map(probe, both, page);
	uint64_t data;

	if (err)
		return err;
	const uint64_t second[6] = {*page + TM_SLOT_PAGE,
				    TM_SLOT_PAGE,
				    PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
				    UINT64_MAX,
				    0};
	err = map(probe, second, &data);
	if (!err)
		err = tm_target_write(target, *page, probe->pads.code, probe->pads.size);
	if (!err)
		err = tm_target_write(target, *page + TM_SLOT_PAGE, probe->pads.magic, TM_SLOT_MAGIC_SIZE);
	return err;
}

static struct tm_error *provide_pages(struct tm_slot_probe *probe)
{
	uint64_t page = 0;
	struct tm_error *err = adopt(probe);

	if (err || probe->page) {
		tm_log_info("slots: pads of an earlier trace at 0x%" PRIx64, probe->page);
		return err;
	}
	err = map_pages(probe, &page);
	if (!err)
		probe->page = page;
	return err;
}

/* ---- arming ---- */

static struct tm_error *mark_in_use(struct tm_slot_probe *probe, uint64_t in_use)
{
	return tm_target_write(probe->config.target, probe->page + TM_SLOT_PAGE + TM_SLOT_IN_USE, &in_use,
			       sizeof(in_use));
}

static uint64_t pad_of(const struct tm_slot_probe *probe, unsigned slot)
{
	return probe->page + probe->pads.entries[slot];
}

/* A slot that leads to our pad already (the tracer before was killed) has its original in the data page. */
static struct tm_error *read_originals(struct tm_slot_probe *probe)
{
	struct tm_target *target = probe->config.target;

	for (unsigned slot = 0; slot < TM_SLOT_COUNT; slot++) {
		uint64_t *original = &probe->originals[slot];

		if (!slot_address(probe, slot))
			continue;
		struct tm_error *err =
			tm_target_read(target, slot_address(probe, slot), original, sizeof(*original));

		if (!err && *original == pad_of(probe, slot))
			err = tm_target_read(target, probe->page + TM_SLOT_PAGE + TM_SLOT_ORIGINAL(slot),
					     original, sizeof(*original));
		if (err)
			return err;
	}
	return NULL;
}

static struct tm_error *insert_stops(struct tm_slot_probe *probe)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i < probe->pads.stop_count; i++)
		err = tm_breakpoint_insert(probe->config.breakpoints,
					   probe->page + probe->pads.stops[i].offset);
	return err;
}

static struct tm_error *put_slot(struct tm_slot_probe *probe, unsigned slot, uint64_t function)
{
	uint64_t address = slot_address(probe, slot);

	return address ? tm_target_write(probe->config.target, address, &function, sizeof(function)) : NULL;
}

static struct tm_error *lead_to_recorder(struct tm_slot_probe *probe)
{
	static const enum tm_recorder_entry entries[TM_SLOT_ENTRIES] = {
		[TM_SLOT_ENTRY_ENTER] = TM_ENTRY_SLOT_ENTER,
		[TM_SLOT_ENTRY_LEAVE] = TM_ENTRY_SLOT_LEAVE,
		[TM_SLOT_ENTRY_REFERENCE] = TM_ENTRY_SLOT_REFERENCE,
	};
	uint64_t addresses[TM_SLOT_ENTRIES];

	if (!probe->config.recording)
		return NULL;
	for (unsigned i = 0; i < TM_SLOT_ENTRIES; i++)
		addresses[i] = tm_recording_entry(probe->config.recording, entries[i]);
	return tm_target_write(probe->config.target, probe->page + TM_SLOT_PAGE + TM_SLOT_ENTRY(0), addresses,
			       sizeof(addresses));
}

/* A slot is one aligned word: a thread that runs meanwhile calls the one function or the other. */
static struct tm_error *swap_slots(struct tm_slot_probe *probe)
{
	struct tm_error *err = NULL;
	unsigned slot;

	for (slot = 0; !err && slot < TM_SLOT_COUNT; slot++)
		err = put_slot(probe, slot, pad_of(probe, slot));
	for (; err && slot-- > 0;)
		tm_error_destroy(put_slot(probe, slot, probe->originals[slot]));
	return err;
}

struct tm_error *tm_slot_probe_arm(struct tm_slot_probe *probe)
{
	struct tm_error *err = provide_pages(probe);

	if (!err)
		err = read_originals(probe);
	if (!err)
		err = tm_target_write(probe->config.target, probe->page + TM_SLOT_PAGE + TM_SLOT_ORIGINAL(0),
				      probe->originals, sizeof(probe->originals));
	if (!err)
		err = lead_to_recorder(probe);
	if (!err)
		err = insert_stops(probe);
	if (!err)
		err = mark_in_use(probe, 1);
	if (!err)
		err = swap_slots(probe);
	probe->armed = !err;
	return err;
}

bool tm_slot_probe_has(const struct tm_slot_probe *probe, uint64_t pc)
{
	return probe->page && pc - probe->page < TM_SLOT_PAGE;
}

/* ---- what a call means ---- */

static struct tm_error *emit(struct tm_slot_probe *probe, const struct tm_event *event)
{
	return probe->config.sink.event(probe->config.sink.context, event);
}

static struct resize *find_resize(const struct tm_slot_probe *probe, pid_t tid)
{
	const uint64_t *place = tm_map_get(&probe->resizes, (uint64_t)tid);

	return place ? (struct resize *)(uintptr_t)*place : NULL;
}

static struct tm_error *abandon(struct tm_slot_probe *probe, struct tm_thread *thread, struct resize *resize)
{
	const struct tm_event event = {.kind = TM_EVENT_RESIZE_CANCEL,
				       .domain = TM_DOMAIN_PYTHON,
				       .thread = thread,
				       .old_address = resize->old,
				       .scratch = resize->scratch};

	return emit(probe, &event);
}

static struct tm_error *begin_resize(struct tm_slot_probe *probe, struct tm_thread *thread, uint64_t old)
{
	struct resize *resize = find_resize(probe, thread->tid);
	struct tm_error *err;

	if (resize) {
		err = abandon(probe, thread, resize);
		if (err)
			return err;
	} else {
		resize = calloc(1, sizeof(*resize));
		if (!resize || !tm_map_put(&probe->resizes, (uint64_t)thread->tid, (uintptr_t)resize)) {
			free(resize);
			return tm_error_out_of_memory();
		}
	}
	resize->old = old;
	const struct tm_event event = {.kind = TM_EVENT_RESIZE_BEGIN,
				       .domain = TM_DOMAIN_PYTHON,
				       .thread = thread,
				       .old_address = old,
				       .scratch = resize->scratch};

	return emit(probe, &event);
}

static struct tm_error *give_back(struct tm_slot_probe *probe, struct tm_thread *thread, uint64_t old)
{
	const struct tm_event event = {
		.kind = TM_EVENT_FREE, .domain = TM_DOMAIN_PYTHON, .thread = thread, .old_address = old};

	return emit(probe, &event);
}

/* A call that returned no block leaves the old one, if there was one, as it was. */
static struct tm_error *leave_failed(struct tm_slot_probe *probe, struct tm_thread *thread,
				     struct resize *resize)
{
	const struct tm_event event = {.kind = TM_EVENT_FAIL, .domain = TM_DOMAIN_PYTHON, .thread = thread};
	struct tm_error *err = resize ? abandon(probe, thread, resize) : NULL;

	return err ? err : emit(probe, &event);
}

static struct tm_error *end_resize(struct tm_slot_probe *probe, struct tm_event *event)
{
	struct tm_thread *thread = event->thread;
	struct resize *resize = find_resize(probe, thread->tid);
	struct tm_error *err = NULL;

	if (!resize || resize->old != event->old_address) /* it had begun before the trace did */
		err = begin_resize(probe, thread, event->old_address);
	resize = err ? NULL : find_resize(probe, thread->tid);
	if (err)
		return err;
	event->kind = TM_EVENT_RESIZE_END;
	event->scratch = resize->scratch;
	err = event->address ? emit(probe, event) : leave_failed(probe, thread, resize);
	tm_map_remove(&probe->resizes, (uint64_t)thread->tid);
	free(resize);
	return err;
}

/* A call has returned event->address, or nothing; event->old_address was resized, or there was none. */
static struct tm_error *end_call(struct tm_slot_probe *probe, struct tm_event *event)
{
	if (event->old_address)
		return end_resize(probe, event);
	return event->address ? emit(probe, event) : leave_failed(probe, event->thread, NULL);
}

/* ---- stops ---- */

static bool is_resize(const struct tm_slot_stop *stop)
{
	return stop->slot % TM_SLOT_FUNCTIONS == TM_SLOT_REALLOC;
}

static struct tm_error *enter(struct tm_slot_probe *probe, struct tm_thread *thread,
			      const struct tm_slot_stop *stop)
{
	uint64_t old = thread->regs.value[probe->pads.entry_old];

	return is_resize(stop) ? begin_resize(probe, thread, old) : give_back(probe, thread, old);
}

/* A pad that stops behind its call, or before it, has left nothing on the stack: as at a function's entry. */
static struct tm_capture capture_at(const struct tm_slot_probe *probe, const struct tm_thread *thread,
				    const struct tm_memory *memory)
{
	return (struct tm_capture){.regs = thread->regs,
				   .start = thread->regs.value[probe->config.target->arch->sp],
				   .memory = memory};
}

static struct tm_error *leave(struct tm_slot_probe *probe, struct tm_thread *thread,
			      const struct tm_slot_stop *stop)
{
	struct tm_memory memory = tm_target_memory(probe->config.target);
	const struct tm_capture capture = capture_at(probe, thread, &memory);
	const uint64_t *regs = thread->regs.value;
	struct tm_event event = {
		.kind = TM_EVENT_ALLOCATE,
		.domain = TM_DOMAIN_PYTHON,
		.thread = thread,
		.address = regs[probe->pads.block],
		.old_address = is_resize(stop) ? regs[probe->pads.old] : 0,
		.size = regs[probe->pads.size_asked],
		.thread_pointer = regs[probe->pads.thread_pointer],
		.capture = &capture,
	};

	return end_call(probe, &event);
}

/* Memory has become a new object, perhaps a block of a free list that was another object before. */
static struct tm_error *refer(struct tm_slot_probe *probe, struct tm_thread *thread)
{
	struct tm_memory memory = tm_target_memory(probe->config.target);
	const struct tm_capture capture = capture_at(probe, thread, &memory);
	const struct tm_event event = {
		.kind = TM_EVENT_OBJECT,
		.domain = TM_DOMAIN_PYTHON,
		.thread = thread,
		.address = thread->regs.value[probe->pads.object],
		.thread_pointer = thread->regs.value[probe->pads.object_thread_pointer],
		.capture = &capture,
	};

	return emit(probe, &event);
}

static const struct tm_slot_stop *find_stop(const struct tm_slot_probe *probe, uint64_t address)
{
	for (size_t i = 0; address - probe->page < TM_SLOT_PAGE && i < probe->pads.stop_count; i++)
		if (probe->page + probe->pads.stops[i].offset == address)
			return &probe->pads.stops[i];
	return NULL;
}

struct tm_error *tm_slot_probe_hit(struct tm_slot_probe *probe, struct tm_thread *thread, uint64_t address,
				   bool *ours)
{
	const struct tm_slot_stop *stop = find_stop(probe, address);

	*ours = stop != NULL;
	if (!stop)
		return NULL;
	if (stop->slot == TM_SLOT_REFERENCE)
		return refer(probe, thread);
	return stop->is_entry ? enter(probe, thread, stop) : leave(probe, thread, stop);
}

/* ---- records ---- */

/* Frames that the recorder left to us are read while its thread waits. */
static struct tm_event event_of(struct tm_thread *thread, uint64_t thread_pointer,
				const struct tm_record_block *record)
{
	return (struct tm_event){
		.kind = record->header.kind == TM_RECORD_OBJECT ? TM_EVENT_OBJECT : TM_EVENT_ALLOCATE,
		.domain = TM_DOMAIN_PYTHON,
		.thread = thread,
		.address = record->block,
		.old_address = record->header.kind == TM_RECORD_RESIZE_END ? record->old : 0,
		.size = record->size,
		.thread_pointer = thread_pointer,
		.recorded = record->header.flags & TM_RECORD_NO_FRAMES ? NULL : record,
	};
}

struct tm_error *tm_slot_probe_record(struct tm_slot_probe *probe, const struct tm_thread *writer,
				      uint64_t thread_pointer, const struct tm_record_header *record)
{
	struct tm_thread *thread = (struct tm_thread *)writer; /* events of a record do not touch it */
	struct tm_event event;

	switch (record->kind) {
	case TM_RECORD_ALLOCATE:
	case TM_RECORD_RESIZE_END:
		event = event_of(thread, thread_pointer, (const struct tm_record_block *)record);
		return end_call(probe, &event);
	case TM_RECORD_OBJECT:
		event = event_of(thread, thread_pointer, (const struct tm_record_block *)record);
		return emit(probe, &event);
	case TM_RECORD_FREE:
		return give_back(probe, thread, ((const struct tm_record_free *)record)->block);
	case TM_RECORD_RESIZE_BEGIN:
		return begin_resize(probe, thread, ((const struct tm_record_free *)record)->block);
	case TM_RECORD_FAIL:
		return leave_failed(probe, thread, NULL);
	}
	return NULL;
}

void tm_slot_probe_thread_gone(struct tm_slot_probe *probe, const struct tm_thread *thread)
{
	struct resize *resize = find_resize(probe, thread->tid);

	if (!resize)
		return;
	tm_error_destroy(abandon(probe, (struct tm_thread *)thread, resize));
	tm_map_remove(&probe->resizes, (uint64_t)thread->tid);
	free(resize);
}

/* ---- letting go ---- */

static struct tm_error *restore(struct tm_slot_probe *probe, unsigned slot, size_t *foreign)
{
	struct tm_target *target = probe->config.target;
	uint64_t present;
	struct tm_error *err;

	if (!slot_address(probe, slot))
		return NULL;
	err = tm_target_read(target, slot_address(probe, slot), &present, sizeof(present));
	if (err && err->code == TM_ERROR_NO_MEMORY) { /* the interpreter's library was unloaded */
		tm_error_destroy(err);
		return NULL;
	}
	if (err)
		return err;
	if (present != pad_of(probe, slot)) {
		*foreign += present != probe->originals[slot];
		return NULL;
	}
	err = put_slot(probe, slot, probe->originals[slot]);
	if (!err)
		err = tm_target_read(target, slot_address(probe, slot), &present, sizeof(present));
	if (!err && present != probe->originals[slot])
		err = tm_error_create(TM_ERROR_OTHER,
				      "the allocator table at 0x%" PRIx64 " could not be restored",
				      slot_address(probe, slot));
	return err;
}

struct tm_error *tm_slot_probe_disarm(struct tm_slot_probe *probe, size_t *foreign)
{
	size_t before = *foreign;
	struct tm_error *err = NULL;

	if (!probe->armed)
		return NULL;
	/* One slot that fails must not keep the others from being restored. */
	for (unsigned slot = 0; slot < TM_SLOT_COUNT; slot++)
		err = tm_error_first(err, restore(probe, slot, foreign));
	probe->armed = false;
	return err || *foreign != before ? err : mark_in_use(probe, 0);
}

/* Its pads are inert without breakpoints; the slots are put back so that nothing of the trace is left in use.
 */
void tm_slot_probe_scrub_child(struct tm_slot_probe *probe, pid_t child)
{
	struct tm_target *target = probe->config.target;

	for (unsigned slot = 0; probe->armed && slot < TM_SLOT_COUNT; slot++) {
		uint64_t present;
		struct tm_error *err = target->ops->read_child(target, child, slot_address(probe, slot),
							       &present, sizeof(present));

		if (!err && present == pad_of(probe, slot))
			err = target->ops->write_child(target, child, slot_address(probe, slot),
						       &probe->originals[slot],
						       sizeof(probe->originals[slot]));
		tm_error_destroy(err);
	}
}
