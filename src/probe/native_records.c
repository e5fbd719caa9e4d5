/* What the pads of native allocator functions have recorded, as events. */
#include "probe/function.h"

#include <stdlib.h>
#include <string.h>

/* A resize that has begun. They nest: a function may resize by calling another. */
struct tm_resize {
	struct tm_resize *next;
	uint64_t old;
	_Alignas(16) uint8_t scratch[TM_EVENT_SCRATCH];
};

/* A ring and its thread, which the events of records do not touch. */
struct writer {
	unsigned ring;
	struct tm_thread *thread;
};

static struct tm_error *emit(struct tm_probe *probe, const struct writer *writer, struct tm_event event)
{
	event.domain = probe->config.domain;
	event.thread = writer->thread;
	return probe->config.sink.event(probe->config.sink.context, &event);
}

/* ---- resizes ---- */

static struct tm_error *begin(struct tm_probe *probe, const struct writer *writer, uint64_t old)
{
	struct tm_resize *resize = calloc(1, sizeof(*resize));

	if (!resize)
		return tm_error_out_of_memory();
	resize->old = old;
	resize->next = probe->resizes[writer->ring];
	probe->resizes[writer->ring] = resize;
	return emit(probe, writer,
		    (struct tm_event){
			    .kind = TM_EVENT_RESIZE_BEGIN, .old_address = old, .scratch = resize->scratch});
}

/* The last one of a ring comes to this end. */
static struct tm_error *end(struct tm_probe *probe, const struct writer *writer, struct tm_event event)
{
	struct tm_resize *resize = probe->resizes[writer->ring];
	struct tm_error *err;

	probe->resizes[writer->ring] = resize->next;
	event.old_address = resize->old;
	event.scratch = resize->scratch;
	err = emit(probe, writer, event);
	free(resize);
	return err;
}

static bool has_begun(const struct tm_probe *probe, unsigned ring, uint64_t old)
{
	const struct tm_resize *resize = probe->resizes[ring];

	while (resize && resize->old != old)
		resize = resize->next;
	return resize != NULL;
}

/* Makes the resize of a block the last one of its ring. What has begun behind it was left by a jump; it
 * itself may have begun before the trace did. */
static struct tm_error *find(struct tm_probe *probe, const struct writer *writer, uint64_t old)
{
	struct tm_error *err = NULL;

	if (!has_begun(probe, writer->ring, old))
		return begin(probe, writer, old);
	while (!err && probe->resizes[writer->ring]->old != old)
		err = end(probe, writer, (struct tm_event){.kind = TM_EVENT_RESIZE_CANCEL});
	return err;
}

static struct tm_error *leave_resize(struct tm_probe *probe, const struct writer *writer, uint64_t old)
{
	struct tm_error *err;

	if (!has_begun(probe, writer->ring, old))
		return NULL;
	err = find(probe, writer, old);
	return err ? err : end(probe, writer, (struct tm_event){.kind = TM_EVENT_RESIZE_CANCEL});
}

/* The new block is nobody's. */
static struct tm_error *lose_resize(struct tm_probe *probe, const struct writer *writer, uint64_t old)
{
	struct tm_error *err = find(probe, writer, old);

	return err ? err : end(probe, writer, (struct tm_event){.kind = TM_EVENT_RESIZE_FREED});
}

static const struct tm_allocator *row_of(const struct tm_probe *probe, const struct tm_record_native *record)
{
	return record->function < probe->recorded_rows.count ? probe->recorded_rows.items[record->function]
							     : NULL;
}

static struct tm_error *end_resize(struct tm_probe *probe, const struct writer *writer,
				   const struct tm_record_native *record)
{
	const struct tm_allocator *row = row_of(probe, record);
	bool frees = row && row->zero_frees && record->size == 0;
	struct tm_event event = {.kind = TM_EVENT_RESIZE_END,
				 .address = record->block,
				 .size = record->size,
				 .native = record};
	struct tm_error *err = find(probe, writer, record->old);

	if (err)
		return err;
	if (!record->block)
		event.kind = frees ? TM_EVENT_RESIZE_FREED : TM_EVENT_RESIZE_CANCEL;
	err = end(probe, writer, event);
	if (err || record->block || frees)
		return err;
	return emit(probe, writer, (struct tm_event){.kind = TM_EVENT_FAIL, .native = record});
}

void tm_resizes_forget(struct tm_probe *probe)
{
	for (unsigned i = 0; i < TM_RINGS; i++)
		while (probe->resizes[i]) {
			struct tm_resize *resize = probe->resizes[i];

			probe->resizes[i] = resize->next;
			free(resize);
		}
}

struct tm_error *tm_probe_ring_gone(struct tm_probe *probe, unsigned ring, const struct tm_thread *thread)
{
	const struct writer writer = {ring, (struct tm_thread *)thread};
	struct tm_error *err = NULL;

	while (!err && probe->resizes[ring])
		err = end(probe, &writer, (struct tm_event){.kind = TM_EVENT_RESIZE_CANCEL});
	return err;
}

/* ---- the others ---- */

static struct tm_error *give_back(struct tm_probe *probe, const struct writer *writer,
				  const struct tm_record_free *record)
{
	const struct tm_resize *resize = probe->resizes[writer->ring];
	bool nested = record->header.flags & TM_RECORD_NESTED;

	if (nested && resize && resize->old == record->block)
		return NULL; /* the resize's own, which its end accounts for */
	return emit(probe, writer,
		    (struct tm_event){.kind = TM_EVENT_FREE, .old_address = record->block, .nested = nested});
}

/* malloc has found nothing, and operator new made the call: it will throw, or try again. */
static bool may_throw(const struct tm_probe *probe, uint64_t pc)
{
	uint64_t address, place;

	for (size_t i = 0; pc && tm_map_next(&probe->entries, &i, &address, &place);) {
		const struct tm_function *function = (const struct tm_function *)(uintptr_t)place;

		if (pc - address < function->size)
			return tm_allocator_throws(function->row) && !strstr(function->row->name, "nothrow");
	}
	return false;
}

static struct tm_error *take_native(struct tm_probe *probe, const struct writer *writer,
				    const struct tm_record_native *record)
{
	struct tm_event event = {
		.kind = TM_EVENT_ALLOCATE, .address = record->block, .size = record->size, .native = record};

	if (record->header.kind == TM_RECORD_NATIVE_RESIZE_END)
		return end_resize(probe, writer, record);
	if (record->header.kind == TM_RECORD_NATIVE_FAIL) {
		event.kind = TM_EVENT_FAIL;
		if (may_throw(probe, record->old))
			return NULL;
	}
	return emit(probe, writer, event);
}

struct tm_error *tm_probe_record(struct tm_probe *probe, unsigned ring, const struct tm_thread *thread,
				 const struct tm_record_header *header, bool inner)
{
	const struct tm_record_native *native = (const struct tm_record_native *)header;
	const struct tm_record_free *block = (const struct tm_record_free *)header;
	const struct writer writer = {ring, (struct tm_thread *)thread};

	switch (header->kind) {
	case TM_RECORD_NATIVE_ALLOCATE:
	case TM_RECORD_NATIVE_FAIL:
		return inner ? NULL : take_native(probe, &writer, native);
	case TM_RECORD_NATIVE_RESIZE_END:
		return inner ? leave_resize(probe, &writer, native->old)
			     : take_native(probe, &writer, native);
	case TM_RECORD_NATIVE_FREE:
		return give_back(probe, &writer, block);
	case TM_RECORD_NATIVE_RESIZE_BEGIN:
		return begin(probe, &writer, block->block);
	case TM_RECORD_NATIVE_RESIZE_LEFT:
		return leave_resize(probe, &writer, block->block);
	case TM_RECORD_NATIVE_RESIZE_GONE:
		return lose_resize(probe, &writer, block->block);
	}
	return NULL;
}

/* ---- whether there are any ---- */

void tm_probe_use_recording(struct tm_probe *probe, struct tm_recording *recording, bool only)
{
	probe->config.recording = recording;
	probe->only_records = only;
}

size_t tm_probe_recorded_count(const struct tm_probe *probe)
{
	return probe->recorded_count;
}

size_t tm_probe_unrecorded_count(const struct tm_probe *probe)
{
	return probe->unrecorded;
}
