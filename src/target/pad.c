#include "target/pad.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>

#include "base/log.h"
#include "base/vector.h"

#define SLOT_SIZE   128u
#define SLOT_COUNT  (TM_PAD_REGION_SIZE / SLOT_SIZE)
#define FIRST_SLOT  1u /* slot 0 is the header */
#define CODE_OFFSET 16u

_Static_assert(TM_PAD_CODE_MAX + CODE_OFFSET <= SLOT_SIZE, "a slot holds any relocated code");

struct header {
	char magic[16];
	uint32_t slot_size, slot_count;
};

static const struct header expected_header = {"tmtrace pads v1", SLOT_SIZE, SLOT_COUNT};

struct slot {
	uint64_t original;  /* address that the code was moved from; its own for placed code */
	uint64_t code_size; /* 0: free */
};

struct region {
	uint64_t start;
	struct slot slots[SLOT_COUNT];
	uint8_t code[SLOT_COUNT][SLOT_SIZE - CODE_OFFSET]; /* what was put there, by us or an earlier trace */
	unsigned next;					   /* slots before it are in use */
};

struct tm_pads {
	struct tm_target *target;
	struct tm_vector(struct region *) regions;
};

struct tm_error *tm_pads_create(struct tm_target *target, struct tm_pads **out)
{
	struct tm_pads *pads = calloc(1, sizeof(*pads));

	if (!pads)
		return tm_error_out_of_memory();
	pads->target = target;
	*out = pads;
	return NULL;
}

void tm_pads_forget_all(struct tm_pads *pads)
{
	for (size_t i = 0; i < pads->regions.count; i++)
		free(pads->regions.items[i]);
	pads->regions.count = 0;
}

void tm_pads_destroy(struct tm_pads *pads)
{
	if (!pads)
		return;
	tm_pads_forget_all(pads);
	tm_vector_deinit(&pads->regions);
	free(pads);
}

static uint64_t code_of(const struct region *region, unsigned index)
{
	return region->start + index * SLOT_SIZE + CODE_OFFSET;
}

static struct region *add_region(struct tm_pads *pads, uint64_t start)
{
	struct region *region = calloc(1, sizeof(*region));

	if (!region || !tm_vector_push(&pads->regions, region)) {
		free(region);
		return NULL;
	}
	region->start = start;
	region->next = FIRST_SLOT;
	return region;
}

/* ---- regions that an earlier trace left ---- */

static struct tm_error *adopt_region(struct tm_pads *pads, uint64_t start)
{
	_cleanup_free_ uint8_t *bytes = malloc(TM_PAD_REGION_SIZE);
	struct header header;
	struct tm_error *err;
	struct region *region;

	if (!bytes)
		return tm_error_out_of_memory();
	/* First the little that tells: a JIT's code can be large. */
	err = tm_target_read(pads->target, start, &header, sizeof(header));
	if (err || memcmp(&header, &expected_header, sizeof(header)) != 0)
		return err;
	err = tm_target_read(pads->target, start, bytes, TM_PAD_REGION_SIZE);
	if (err)
		return err;
	region = add_region(pads, start);
	if (!region)
		return tm_error_out_of_memory();
	for (unsigned i = FIRST_SLOT; i < SLOT_COUNT; i++) {
		struct slot *slot = &region->slots[i];

		memcpy(slot, bytes + i * SLOT_SIZE, sizeof(*slot));
		if (!slot->code_size || slot->code_size > SLOT_SIZE - CODE_OFFSET)
			break;
		memcpy(region->code[i], bytes + i * SLOT_SIZE + CODE_OFFSET, slot->code_size);
		region->next = i + 1;
	}
	tm_log_info("pads: using region 0x%" PRIx64 " of an earlier trace again, %u slots", start,
		    region->next - FIRST_SLOT);
	return NULL;
}

static bool may_be_region(const struct tm_mapping *mapping)
{
	return tm_mapping_is_anonymous_code(mapping) &&
	       (mapping->end - mapping->start) % TM_PAD_REGION_SIZE == 0;
}

struct tm_error *tm_pads_adopt(struct tm_pads *pads)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};
	struct tm_error *err = tm_target_mappings(pads->target, &mappings);

	if (err)
		return err;
	/* Neighbouring regions show as one mapping. */
	for (size_t i = 0; i < mappings.count; i++) {
		const struct tm_mapping *mapping = &mappings.items[i];

		for (uint64_t at = mapping->start; may_be_region(mapping) && at < mapping->end;
		     at += TM_PAD_REGION_SIZE) {
			err = adopt_region(pads, at);
			if (err)
				return err;
		}
	}
	return NULL;
}

/* ---- new regions and slots ---- */

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

static bool is_near(const struct tm_pads *pads, uint64_t place, uint64_t address)
{
	uint64_t reach = pads->target->arch->near_reach;

	return distance(place, address) < reach && distance(place + TM_PAD_REGION_SIZE, address) < reach;
}

static uint64_t find_place(const struct tm_pads *pads, const struct tm_mappings *mappings,
			   uint64_t near_address)
{
	uint64_t page = near_address & ~UINT64_C(4095);

	return tm_mappings_find_gap(mappings, page, page + 4096, TM_PAD_REGION_SIZE,
				    pads->target->arch->near_reach - (16u << 20));
}

static struct tm_error *begin_region(struct tm_pads *pads, uint64_t place, struct region **out)
{
	struct tm_error *err =
		tm_target_write(pads->target, place, &expected_header, sizeof(expected_header));

	if (err)
		return err;
	*out = add_region(pads, place);
	return *out ? NULL : tm_error_out_of_memory();
}

/* MAP_FIXED_NOREPLACE came with Linux 4.17; an older kernel takes the address as a hint, so the result is
 * looked at. */
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

static struct tm_error *map_region(struct tm_pads *pads, struct tm_thread *thread, uint64_t near_address,
				   struct region **out)
{
	const struct tm_arch *arch = pads->target->arch;
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};
	struct tm_error *err = tm_target_mappings(pads->target, &mappings);
	uint64_t place;
	int64_t result = 0;

	if (err)
		return err;
	place = find_place(pads, &mappings, near_address);
	if (!place)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "no free memory near 0x%" PRIx64 " for a pad",
				       near_address);
	const uint64_t arguments[6] = {place,
				       TM_PAD_REGION_SIZE,
				       PROT_READ | PROT_EXEC,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
				       UINT64_MAX,
				       0};
	err = tm_target_system_call(pads->target, thread, arch->syscall_mmap, arguments, &result);
	if (err)
		return err;
	if (result < 0 && result > -4096)
		return tm_error_errno((int)-result, "process %d cannot map a pad at 0x%" PRIx64,
				      pads->target->pid, place);
	if ((uint64_t)result != place) {
		const uint64_t undo[6] = {(uint64_t)result, TM_PAD_REGION_SIZE};

		tm_error_destroy(
			tm_target_system_call(pads->target, thread, arch->syscall_munmap, undo, &result));
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "the kernel refused the place 0x%" PRIx64 " for a pad", place);
	}
	return begin_region(pads, place, out);
}

/* A region with a free slot near an address; NULL: there is none. */
static struct region *find_region(const struct tm_pads *pads, uint64_t near_address)
{
	for (size_t i = 0; i < pads->regions.count; i++) {
		struct region *region = pads->regions.items[i];

		if (region->next < SLOT_COUNT && is_near(pads, region->start, near_address))
			return region;
	}
	return NULL;
}

static struct tm_error *find_room(struct tm_pads *pads, struct tm_thread *thread, uint64_t near_address,
				  struct region **out)
{
	*out = find_region(pads, near_address);
	return *out ? NULL : map_region(pads, thread, near_address, out);
}

static bool is_planned(const struct tm_pads *pads, const uint64_t *places, size_t count,
		       uint64_t near_address)
{
	for (size_t i = 0; i < count; i++)
		if (is_near(pads, places[i], near_address))
			return true;
	return false;
}

size_t tm_pads_plan(const struct tm_pads *pads, const struct tm_mappings *mappings, const uint64_t *addresses,
		    size_t count, uint64_t *places)
{
	size_t planned = 0;

	for (size_t i = 0; i < count; i++) {
		uint64_t place;

		if (find_region(pads, addresses[i]) || is_planned(pads, places, planned, addresses[i]))
			continue;
		place = find_place(pads, mappings, addresses[i]);
		if (place)
			places[planned++] = place;
	}
	return planned;
}

struct tm_error *tm_pads_take(struct tm_pads *pads, uint64_t place)
{
	struct region *region;

	if (tm_pads_contain(pads, place)) /* it has been taken */
		return NULL;
	return begin_region(pads, place, &region);
}

/* The code goes in first, so that a slot with a size always holds whole code, also for a later trace. */
static struct tm_error *fill_slot(struct tm_pads *pads, struct region *region, uint64_t original,
				  const uint8_t *code, size_t size)
{
	unsigned index = region->next;
	struct slot slot = {original, size};
	struct tm_error *err = tm_target_write(pads->target, code_of(region, index), code, size);

	if (!err)
		err = tm_target_write(pads->target, region->start + index * SLOT_SIZE, &slot, sizeof(slot));
	if (err)
		return err;
	region->slots[index] = slot;
	memcpy(region->code[index], code, size);
	region->next++;
	return NULL;
}

/* Does the slot hold just the code that would be written now? */
static bool slot_holds(const struct region *region, unsigned index, const uint8_t *code, size_t size)
{
	return region->slots[index].code_size == size && memcmp(region->code[index], code, size) == 0;
}

/* The slot to which this code was moved before, by us or by an earlier trace; 0: none. A breakpoint's slot is
 * another one than a jump patch's at the same address. */
static uint64_t find_relocated(struct tm_pads *pads, uint64_t original, const uint8_t *bytes, size_t size,
			       size_t min_bytes, struct tm_relocated *relocated)
{
	for (size_t i = 0; i < pads->regions.count; i++) {
		const struct region *region = pads->regions.items[i];

		for (unsigned j = FIRST_SLOT; j < region->next; j++) {
			uint64_t code = code_of(region, j);
			struct tm_error *err;

			if (region->slots[j].original != original)
				continue;
			err = pads->target->arch->relocate(bytes, size, original, code, min_bytes, relocated);
			if (!err && slot_holds(region, j, relocated->code, relocated->size))
				return code;
			tm_error_destroy(err);
		}
	}
	return 0;
}

struct tm_error *tm_pads_relocate(struct tm_pads *pads, struct tm_thread *thread, uint64_t original,
				  const uint8_t *bytes, size_t size, size_t min_bytes, uint64_t *pad,
				  struct tm_relocated *relocated)
{
	const struct tm_arch *arch = pads->target->arch;
	struct region *region = NULL;
	struct tm_error *err;

	*pad = find_relocated(pads, original, bytes, size, min_bytes, relocated);
	if (*pad)
		return NULL;
	err = find_room(pads, thread, original, &region);
	if (err)
		return err;
	*pad = code_of(region, region->next);
	err = arch->relocate(bytes, size, original, *pad, min_bytes, relocated);
	return err ? err : fill_slot(pads, region, original, relocated->code, relocated->size);
}

/* The slot in which an earlier trace placed this code; 0: none. Placed code is its own original. */
static uint64_t find_placed(struct tm_pads *pads, uint64_t near_address, const uint8_t *code, size_t size)
{
	for (size_t i = 0; i < pads->regions.count; i++) {
		const struct region *region = pads->regions.items[i];

		for (unsigned j = FIRST_SLOT; is_near(pads, region->start, near_address) && j < region->next;
		     j++)
			if (region->slots[j].original == code_of(region, j) &&
			    slot_holds(region, j, code, size))
				return code_of(region, j);
	}
	return 0;
}

struct tm_error *tm_pads_place(struct tm_pads *pads, struct tm_thread *thread, uint64_t near_address,
			       const uint8_t *code, size_t size, uint64_t *pad)
{
	struct region *region = NULL;
	struct tm_error *err;

	assert(size <= SLOT_SIZE - CODE_OFFSET);
	*pad = find_placed(pads, near_address, code, size);
	if (*pad)
		return NULL;
	err = find_room(pads, thread, near_address, &region);
	if (err)
		return err;
	*pad = code_of(region, region->next);
	return fill_slot(pads, region, *pad, code, size);
}

bool tm_pads_next(const struct tm_pads *pads, size_t *position, uint64_t *code, size_t *size)
{
	for (; *position < pads->regions.count * SLOT_COUNT; (*position)++) {
		const struct region *region = pads->regions.items[*position / SLOT_COUNT];
		unsigned index = (unsigned)(*position % SLOT_COUNT);

		if (index < FIRST_SLOT || index >= region->next)
			continue;
		*code = code_of(region, index);
		*size = region->slots[index].code_size;
		(*position)++;
		return true;
	}
	return false;
}

static const struct region *region_of(const struct tm_pads *pads, uint64_t address)
{
	for (size_t i = 0; i < pads->regions.count; i++)
		if (address - pads->regions.items[i]->start < TM_PAD_REGION_SIZE)
			return pads->regions.items[i];
	return NULL;
}

bool tm_pads_contain(const struct tm_pads *pads, uint64_t address)
{
	return region_of(pads, address) != NULL;
}

bool tm_pads_origin(const struct tm_pads *pads, uint64_t address, uint64_t *original, uint64_t *code)
{
	const struct region *region = region_of(pads, address);
	unsigned index;

	if (!region)
		return false;
	index = (unsigned)((address - region->start) / SLOT_SIZE);
	if (index < FIRST_SLOT || index >= region->next)
		return false;
	*original = region->slots[index].original;
	*code = code_of(region, index);
	return address >= *code;
}
