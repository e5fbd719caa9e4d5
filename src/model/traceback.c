#include "model/traceback.h"

#include <assert.h>
#include <string.h>

#include "base/hash.h"
#include "model/chains.h"

#define OUT_OF_MEMORY UINT32_MAX

static const char *const cut_names[TM_CUT_COUNT] = {
	[TM_CUT_NONE] = "",	    [TM_CUT_LIMIT] = "limit", [TM_CUT_NO_CFI] = "no-cfi",
	[TM_CUT_MEMORY] = "memory", [TM_CUT_LOOP] = "loop",   [TM_CUT_BAD_CFI] = "bad-cfi",
};

struct frame_entry {
	uint64_t offset;
	uint32_t module;
	uint32_t next; /* of the chain */
};

struct traceback_entry {
	uint32_t hash;
	uint32_t next; /* of the chain */
	struct tm_traceback traceback;
};

/* Numbers are given out in order. `count` is published after the content: a reader in another thread may use
   whatever lies below a count that it has read. */
struct interned {
	struct tm_chunks items;
	struct tm_chains chains;
	_Atomic uint32_t count;
};

struct tm_tracebacks {
	struct interned frames;	    /* of struct frame_entry */
	struct interned tracebacks; /* of struct traceback_entry * */
	size_t traceback_memory;
};

static uint32_t count_of(const struct interned *interned)
{
	return atomic_load_explicit(&interned->count, memory_order_acquire);
}

static struct frame_entry *frame_at(const struct tm_tracebacks *tracebacks, uint32_t number)
{
	return tm_chunks_at(&tracebacks->frames.items, struct frame_entry, number);
}

static struct traceback_entry **traceback_at(const struct tm_tracebacks *tracebacks, uint32_t number)
{
	return tm_chunks_at(&tracebacks->tracebacks.items, struct traceback_entry *, number);
}

static uint32_t hash_frame(uint64_t offset, uint32_t module)
{
	return (uint32_t)tm_hash_u64(offset ^ (uint64_t)module << 40);
}

static uint32_t frame_hash(const void *tracebacks, uint32_t number)
{
	const struct frame_entry *frame = frame_at(tracebacks, number);

	return hash_frame(frame->offset, frame->module);
}

static uint32_t *frame_next(const void *tracebacks, uint32_t number)
{
	return &frame_at(tracebacks, number)->next;
}

static uint32_t traceback_hash(const void *tracebacks, uint32_t number)
{
	return (*traceback_at(tracebacks, number))->hash;
}

static uint32_t *traceback_next(const void *tracebacks, uint32_t number)
{
	return &(*traceback_at(tracebacks, number))->next;
}

static const struct tm_chain_items frame_items = {frame_hash, frame_next};
static const struct tm_chain_items traceback_items = {traceback_hash, traceback_next};

const char *tm_cut_name(enum tm_cut cut)
{
	return cut_names[cut];
}

struct tm_error *tm_tracebacks_create(struct tm_tracebacks **out)
{
	struct tm_tracebacks *tracebacks = calloc(1, sizeof(*tracebacks));

	if (!tracebacks || tm_tracebacks_intern(tracebacks, NULL, 0, 0, TM_CUT_NONE) != 0) {
		tm_tracebacks_destroy(tracebacks);
		return tm_error_out_of_memory();
	}
	*out = tracebacks;
	return NULL;
}

static void deinit_interned(struct interned *interned)
{
	tm_chunks_deinit(&interned->items);
	tm_chains_deinit(&interned->chains);
}

void tm_tracebacks_destroy(struct tm_tracebacks *tracebacks)
{
	if (!tracebacks)
		return;
	for (uint32_t i = 0; i < count_of(&tracebacks->tracebacks); i++)
		free(*traceback_at(tracebacks, i));
	deinit_interned(&tracebacks->frames);
	deinit_interned(&tracebacks->tracebacks);
	free(tracebacks);
}

/* Gives the item that was stored at place `count` its number: one bucket more, into its chain, seen by
 * readers. */
static uint32_t publish(struct interned *interned, const struct tm_tracebacks *owner,
			struct tm_chain_items items)
{
	uint32_t number = count_of(interned);

	if (!tm_chains_grow(&interned->chains, owner, items))
		return OUT_OF_MEMORY;
	tm_chains_link(&interned->chains, owner, number, items);
	atomic_store_explicit(&interned->count, number + 1, memory_order_release);
	return number;
}

static uint32_t find_frame(const struct tm_tracebacks *tracebacks, struct tm_frame wanted, uint32_t hash)
{
	const struct frame_entry *frame;
	uint32_t number;

	for (number = tm_chains_first(&tracebacks->frames.chains, hash); number != TM_CHAIN_END;
	     number = frame->next) {
		frame = frame_at(tracebacks, number);
		if (frame->offset == wanted.offset && frame->module == wanted.module)
			break;
	}
	return number;
}

uint32_t tm_tracebacks_frame(struct tm_tracebacks *tracebacks, struct tm_frame frame)
{
	uint32_t hash = hash_frame(frame.offset, frame.module);
	uint32_t number = find_frame(tracebacks, frame, hash);

	if (number != TM_CHAIN_END)
		return number;
	number = count_of(&tracebacks->frames);
	if (number == TM_CHAIN_END ||
	    !tm_chunks_reserve(&tracebacks->frames.items, struct frame_entry, number))
		return OUT_OF_MEMORY;
	*frame_at(tracebacks, number) = (struct frame_entry){frame.offset, frame.module, TM_CHAIN_END};
	return publish(&tracebacks->frames, tracebacks, frame_items);
}

/* What tm_tracebacks_intern is asked for. */
struct wanted {
	const uint32_t *frames;
	uint32_t frame_count, total_nframe;
	enum tm_cut cut;
	uint32_t hash;
};

static bool is_wanted(const struct traceback_entry *entry, const struct wanted *wanted)
{
	return entry->hash == wanted->hash && entry->traceback.frame_count == wanted->frame_count &&
	       entry->traceback.total_nframe == wanted->total_nframe && entry->traceback.cut == wanted->cut &&
	       (!wanted->frame_count || memcmp(entry->traceback.frames, wanted->frames,
					       wanted->frame_count * sizeof(*wanted->frames)) == 0);
}

static uint32_t find_traceback(const struct tm_tracebacks *tracebacks, const struct wanted *wanted)
{
	const struct traceback_entry *entry;
	uint32_t number;

	for (number = tm_chains_first(&tracebacks->tracebacks.chains, wanted->hash); number != TM_CHAIN_END;
	     number = entry->next) {
		entry = *traceback_at(tracebacks, number);
		if (is_wanted(entry, wanted))
			break;
	}
	return number;
}

static uint32_t add_traceback(struct tm_tracebacks *tracebacks, const struct wanted *wanted)
{
	uint32_t number = count_of(&tracebacks->tracebacks);
	size_t frames_size = wanted->frame_count * sizeof(*wanted->frames);
	struct traceback_entry *entry;

	if (number == TM_CHAIN_END ||
	    !tm_chunks_reserve(&tracebacks->tracebacks.items, struct traceback_entry *, number))
		return OUT_OF_MEMORY;
	entry = malloc(sizeof(*entry) + frames_size);
	if (!entry)
		return OUT_OF_MEMORY;
	entry->hash = wanted->hash;
	entry->traceback.frame_count = wanted->frame_count;
	entry->traceback.total_nframe = wanted->total_nframe;
	entry->traceback.cut = wanted->cut;
	if (frames_size)
		memcpy(entry->traceback.frames, wanted->frames, frames_size);
	*traceback_at(tracebacks, number) = entry;
	number = publish(&tracebacks->tracebacks, tracebacks, traceback_items);
	if (number == OUT_OF_MEMORY)
		free(entry);
	else
		tracebacks->traceback_memory += sizeof(*entry) + frames_size;
	return number;
}

uint32_t tm_tracebacks_intern(struct tm_tracebacks *tracebacks, const uint32_t *frames, uint32_t frame_count,
			      uint32_t total_nframe, enum tm_cut cut)
{
	struct wanted wanted = {frames, frame_count, total_nframe, cut, 0};
	uint32_t number;

	assert(frame_count <= TM_NFRAME_MAX);
	if (wanted.total_nframe > TM_NFRAME_MAX)
		wanted.total_nframe = TM_NFRAME_MAX;
	wanted.hash = (uint32_t)tm_hash_bytes(frames, frame_count * sizeof(*frames)) ^
		      (wanted.total_nframe << 3 | (uint32_t)cut);
	number = find_traceback(tracebacks, &wanted);
	return number == TM_CHAIN_END ? add_traceback(tracebacks, &wanted) : number;
}

uint32_t tm_tracebacks_count(const struct tm_tracebacks *tracebacks)
{
	return count_of(&tracebacks->tracebacks);
}

uint32_t tm_tracebacks_frame_count(const struct tm_tracebacks *tracebacks)
{
	return count_of(&tracebacks->frames);
}

struct tm_frame tm_tracebacks_get_frame(const struct tm_tracebacks *tracebacks, uint32_t frame)
{
	const struct frame_entry *entry = frame_at(tracebacks, frame);

	return (struct tm_frame){entry->offset, entry->module};
}

const struct tm_traceback *tm_tracebacks_get(const struct tm_tracebacks *tracebacks, uint32_t traceback)
{
	return &(*traceback_at(tracebacks, traceback))->traceback;
}

static size_t interned_memory(const struct interned *interned)
{
	return tm_chunks_memory(&interned->items) + tm_chains_memory(&interned->chains);
}

size_t tm_tracebacks_memory(const struct tm_tracebacks *tracebacks)
{
	return sizeof(*tracebacks) + interned_memory(&tracebacks->frames) +
	       interned_memory(&tracebacks->tracebacks) + tracebacks->traceback_memory;
}
