#include "debuginfo/cfi.h"

#include <assert.h>
#include <string.h>

#include "base/vector.h"
#include "debuginfo/cfi_row.h"
#include "debuginfo/sigreturn.h"
#include "debuginfo/symbol.h"

/*
 * Two caches, one behind the other:
 * - pc -> (module, row) for every pc that was asked for, a hash table of 24 bytes an entry. An entry is
 *   believed only while its module stands so that the row covers the pc: modules go, and come back elsewhere;
 * - for each module the rows made so far, disjoint and ascending, with the addresses that have no row.
 */
struct pc_entry {
	uint64_t pc; /* 0: free */
	const struct tm_module *module;
	const struct tm_row *row; /* NULL: none at the time of cfi->generation */
};

/* [start, end) in ELF virtual addresses (of added code: run-time addresses). */
struct span {
	uint64_t start, end;
	struct tm_row *row; /* owned; NULL: no CFI */
};

struct spans {
	struct span *items;
	size_t count, capacity;
};

/* What is known of one module's CFI. */
struct module_cfi {
	struct spans spans;
	struct spans trampolines; /* known by their code; may overlap `spans` by the byte in front of them */
	struct tm_cfi_file *file; /* NULL: not opened yet, or none */
	struct tm_cfi_file *debug_file; /* the same for its separate debug file */
	bool opened, debug_opened;
};

/* Code of which an ELF file is at hand, whose rows are made as they are asked for. */
struct image {
	const uint8_t *elf;
	size_t elf_size;
	uint64_t address, size;	  /* in the target; its own addresses begin at 0 */
	struct tm_cfi_file *file; /* NULL: not opened yet, or has no CFI */
	bool opened;
};

struct tm_cfi {
	const struct tm_arch *arch;
	struct tm_module_map *map;
	struct pc_entry *entries;
	size_t count;	     /* of entries in use */
	size_t missing;	     /* entries without a row */
	unsigned shift;	     /* 64 - log2(number of entries) */
	uint64_t generation; /* of the map, when the entries without a row were made */
	struct tm_vector(struct module_cfi) modules; /* by module number */
	struct spans code;			     /* rows given by tm_cfi_add_code, and of images */
	struct tm_vector(struct image) images;
	struct tm_vector(struct tm_row *) forgotten; /* rows stay valid until destroy */
};

#define FIRST_SHIFT 54 /* 1024 entries */

/* ---- spans ---- */

/* The number of spans that end at or before address: the place of the span that holds it, or where it would
 * stand. */
static size_t spans_place(const struct spans *spans, uint64_t address)
{
	size_t low = 0, high = spans->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (spans->items[middle].end <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static const struct span *spans_find(const struct spans *spans, uint64_t address)
{
	size_t place = spans_place(spans, address);

	return place < spans->count && spans->items[place].start <= address ? &spans->items[place] : NULL;
}

/* Adds a span around address, which none holds yet, cut to what its neighbours leave: damaged CFI may
 * overlap. */
static bool spans_add(struct spans *spans, uint64_t address, struct span span)
{
	size_t place = spans_place(spans, address);

	if (!tm_vector_reserve(spans, spans->count + 1))
		return false;
	if (place && spans->items[place - 1].end > span.start)
		span.start = spans->items[place - 1].end;
	if (place < spans->count && spans->items[place].start < span.end)
		span.end = spans->items[place].start;
	if (span.row) {
		span.row->start = span.start;
		span.row->end = span.end;
	}
	memmove(spans->items + place + 1, spans->items + place, (spans->count - place) * sizeof(span));
	spans->items[place] = span;
	spans->count++;
	return true;
}

static void spans_deinit(struct spans *spans)
{
	for (size_t i = 0; i < spans->count; i++)
		free(spans->items[i].row);
	tm_vector_deinit(spans);
}

/* ---- the pc table ---- */

/* Fibonacci hashing (Knuth 6.4): the high bits of the product depend on all bits of pc. */
static inline size_t pc_slot(const struct tm_cfi *cfi, uint64_t pc)
{
	return (pc * 0x9e3779b97f4a7c15u) >> cfi->shift;
}

/* The entry of pc, or the free one where it would stand. The table is never more than half full. */
static inline struct pc_entry *pc_entry_of(const struct tm_cfi *cfi, uint64_t pc)
{
	size_t mask = ((size_t)1 << (64 - cfi->shift)) - 1, slot = pc_slot(cfi, pc);

	while (cfi->entries[slot].pc && cfi->entries[slot].pc != pc)
		slot = (slot + 1) & mask;
	return &cfi->entries[slot];
}

static inline bool covers(const struct pc_entry *entry)
{
	const struct tm_row *row = entry->row;
	uint64_t bias = entry->module ? entry->module->bias : 0;

	return (!entry->module || entry->module->loaded) &&
	       entry->pc - bias - row->start < row->end - row->start;
}

/* Makes the table anew, with the entries that still hold and, of those, only the ones with a row if so
 * wanted. */
static bool rebuild(struct tm_cfi *cfi, unsigned shift, bool drop_missing)
{
	size_t slots = (size_t)1 << (64 - shift),
	       old_slots = cfi->entries ? (size_t)1 << (64 - cfi->shift) : 0;
	_cleanup_free_ struct pc_entry *old = cfi->entries;
	struct pc_entry *entries = calloc(slots, sizeof(*entries));

	if (!entries) {
		tm_steal(old);
		return false;
	}
	cfi->entries = entries;
	cfi->shift = shift;
	cfi->count = cfi->missing = 0;
	for (size_t i = 0; i < old_slots; i++) {
		if (!old[i].pc || (old[i].row ? !covers(&old[i]) : drop_missing))
			continue;
		*pc_entry_of(cfi, old[i].pc) = old[i];
		cfi->count++;
		cfi->missing += !old[i].row;
	}
	return true;
}

/* Entries without a row hold for one generation only: something may have been loaded there. */
static bool refresh(struct tm_cfi *cfi)
{
	uint64_t generation = tm_module_map_generation(cfi->map);

	if (generation != cfi->generation && cfi->missing && !rebuild(cfi, cfi->shift, true))
		return false;
	cfi->generation = generation;
	return true;
}

/* Room for one more entry. Pcs of modules that went are dropped before the table grows for them. */
static bool make_room(struct tm_cfi *cfi)
{
	size_t slots = (size_t)1 << (64 - cfi->shift);

	if ((cfi->count + 1) * 2 <= slots)
		return true;
	if (!rebuild(cfi, cfi->shift, false))
		return false;
	return cfi->count * 3 <= slots || rebuild(cfi, cfi->shift - 1, false);
}

/* Out of memory, the answer is found again the next time. */
static void pc_remember(struct tm_cfi *cfi, uint64_t pc, struct tm_cfi_hit hit)
{
	struct pc_entry *entry;

	if (!make_room(cfi))
		return;
	entry = pc_entry_of(cfi, pc);
	if (!entry->pc)
		cfi->count++;
	else
		cfi->missing -= !entry->row;
	cfi->missing += !hit.row;
	*entry = (struct pc_entry){pc, hit.module, hit.row};
}

/* ---- the rows of a module ---- */

static struct module_cfi *module_cfi_of(struct tm_cfi *cfi, const struct tm_module *module)
{
	while (cfi->modules.count <= module->number) {
		if (!tm_vector_push(&cfi->modules, (struct module_cfi){0}))
			return NULL;
	}
	return &cfi->modules.items[module->number];
}

/* Keeps a new row (NULL: none) for vaddr and gives the one to use. NULL when out of memory. */
static struct tm_row *keep(struct spans *spans, uint64_t vaddr, struct tm_row *row)
{
	struct span span = {vaddr, row ? row->end : vaddr + 1, row};
	size_t place = spans_place(spans, vaddr);
	struct span *next = place < spans->count ? &spans->items[place] : NULL;

	/* Nothing changes up to row->end, so a row that is known there is this one: it begins earlier. */
	if (row && next && next->row && next->end == row->end) {
		free(row);
		next->start = next->row->start = vaddr;
		return next->row;
	}
	if (spans_add(spans, vaddr, span))
		return row;
	free(row);
	return NULL;
}

/* Up to TM_SIGRETURN_SIZE_MAX bytes before and behind vaddr; *at of them are before it. */
static const uint8_t *code_around(const struct tm_module *module, uint64_t vaddr, size_t *size, size_t *at)
{
	const uint8_t *bytes = NULL;

	for (*at = TM_SIGRETURN_SIZE_MAX; !bytes && (*at)--;)
		bytes = tm_module_bytes(module, vaddr - *at, size);
	if (bytes && *size > 2 * TM_SIGRETURN_SIZE_MAX)
		*size = 2 * TM_SIGRETURN_SIZE_MAX;
	return bytes;
}

/* The row of a signal trampoline, or NULL where vaddr is in none. */
static struct tm_row *trampoline_row(struct tm_cfi *cfi, struct module_cfi *known,
				     const struct tm_module *module, uint64_t vaddr)
{
	const struct span *span = spans_find(&known->trampolines, vaddr);
	struct tm_rule rules[TM_REGISTERS_MAX];
	struct tm_row row, *copy;
	size_t size, at;
	const uint8_t *bytes;

	if (span)
		return span->row;
	bytes = code_around(module, vaddr, &size, &at);
	if (!bytes || !tm_sigreturn_row(cfi->arch, bytes, size, at, vaddr, rules, &row))
		return NULL;
	tm_row_classify(cfi->arch, &row);
	copy = tm_row_copy(&row, 0);
	return copy ? keep(&known->trampolines, vaddr, copy) : NULL;
}

/* A thread that is stopped in the system call of a trampoline stands behind its last instruction. Other code
   may begin there, so this is asked last. */
static struct tm_row *ended_trampoline_row(struct tm_cfi *cfi, struct module_cfi *known,
					   const struct tm_module *module, uint64_t vaddr)
{
	const struct tm_row *trampoline = trampoline_row(cfi, known, module, vaddr - 1);
	struct tm_row *row = trampoline && trampoline->end == vaddr ? tm_row_copy(trampoline, 0) : NULL;

	if (row) {
		row->start = vaddr;
		row->end = vaddr + 1;
	}
	return row;
}

static struct tm_row *debug_file_row(struct tm_cfi *cfi, struct module_cfi *known,
				     const struct tm_module *module, uint64_t vaddr)
{
	if (!known->debug_opened) {
		int fd = tm_module_open_debug_file(cfi->map, module, NULL);

		known->debug_opened = true;
		if (fd >= 0)
			known->debug_file = tm_cfi_file_open_debug(fd);
	}
	return known->debug_file ? tm_cfi_file_row(known->debug_file, cfi->arch, vaddr) : NULL;
}

static void open_file(struct module_cfi *known, const struct tm_module *module)
{
	if (known->opened)
		return;
	known->opened = true;
	if (module->image)
		known->file = tm_cfi_file_open(module->image, module->image_size);
}

static struct tm_row *make_row(struct tm_cfi *cfi, struct module_cfi *known, const struct tm_module *module,
			       uint64_t vaddr)
{
	struct tm_row *row = NULL;

	open_file(known, module);
	if (known->file)
		row = tm_cfi_file_row(known->file, cfi->arch, vaddr);
	if (!row && module->image)
		row = debug_file_row(cfi, known, module, vaddr);
	return row ? row : ended_trampoline_row(cfi, known, module, vaddr);
}

static struct tm_row *module_row(struct tm_cfi *cfi, const struct tm_module *module, uint64_t vaddr)
{
	struct module_cfi *known = module_cfi_of(cfi, module);
	const struct span *span;
	struct tm_row *row;

	if (!known)
		return NULL;
	row = trampoline_row(cfi, known, module, vaddr);
	if (row)
		return row;
	span = spans_find(&known->spans, vaddr);
	return span ? span->row : keep(&known->spans, vaddr, make_row(cfi, known, module, vaddr));
}

/* ---- the interface ---- */

struct tm_error *tm_cfi_create(const struct tm_arch *arch, struct tm_module_map *map, struct tm_cfi **out)
{
	struct tm_cfi *cfi = calloc(1, sizeof(*cfi));

	if (!cfi || !rebuild(cfi, FIRST_SHIFT, false)) {
		free(cfi);
		return tm_error_out_of_memory();
	}
	cfi->arch = arch;
	cfi->map = map;
	cfi->generation = tm_module_map_generation(map);
	*out = cfi;
	return NULL;
}

void tm_cfi_open(struct tm_cfi *cfi, const struct tm_module *module)
{
	struct module_cfi *known = module_cfi_of(cfi, module);

	if (known)
		open_file(known, module);
}

struct tm_error *tm_cfi_add_code(struct tm_cfi *cfi, const struct tm_row *row)
{
	struct tm_row *copy = tm_row_copy(row, tm_row_operation_count(row));
	bool added = false;

	assert(row->start < row->end && !spans_find(&cfi->code, row->start));
	if (copy) {
		tm_row_classify(cfi->arch, copy);
		/* The room in `forgotten` is made now, so that forgetting cannot fail. Entries without a row
		   are forgotten: the code may stand where one said there is none. */
		added = tm_vector_reserve(&cfi->forgotten, cfi->forgotten.count + cfi->code.count + 1) &&
			rebuild(cfi, cfi->shift, true) &&
			spans_add(&cfi->code, row->start, (struct span){row->start, row->end, copy});
	}
	if (added)
		return NULL;
	free(copy);
	return tm_error_out_of_memory();
}

struct tm_error *tm_cfi_add_image(struct tm_cfi *cfi, const uint8_t *elf, size_t elf_size, uint64_t address,
				  uint64_t size)
{
	const struct image image = {.elf = elf, .elf_size = elf_size, .address = address, .size = size};

	return rebuild(cfi, cfi->shift, true) && tm_vector_push(&cfi->images, image)
		       ? NULL
		       : tm_error_out_of_memory();
}

static struct image *find_image(struct tm_cfi *cfi, uint64_t pc)
{
	for (size_t i = 0; i < cfi->images.count; i++)
		if (pc - cfi->images.items[i].address < cfi->images.items[i].size)
			return &cfi->images.items[i];
	return NULL;
}

static struct tm_row *image_row(const struct tm_cfi *cfi, struct image *image, uint64_t pc)
{
	struct tm_row *row;

	if (!image->opened)
		image->file = tm_cfi_file_open(image->elf, image->elf_size);
	image->opened = true;
	row = image->file ? tm_cfi_file_row(image->file, cfi->arch, pc - image->address) : NULL;
	if (row) {
		row->start += image->address;
		row->end += image->address;
	}
	return row;
}

/* Of code that is in no module. */
static struct tm_row *code_row(struct tm_cfi *cfi, uint64_t pc)
{
	const struct span *span = spans_find(&cfi->code, pc);
	struct image *image = span ? NULL : find_image(cfi, pc);

	if (!image)
		return span ? span->row : NULL;
	return tm_vector_reserve(&cfi->forgotten, cfi->forgotten.count + cfi->code.count + 1)
		       ? keep(&cfi->code, pc, image_row(cfi, image, pc))
		       : NULL;
}

static void close_images(struct tm_cfi *cfi)
{
	for (size_t i = 0; i < cfi->images.count; i++)
		tm_cfi_file_close(cfi->images.items[i].file);
	cfi->images.count = 0;
}

void tm_cfi_forget_code(struct tm_cfi *cfi)
{
	close_images(cfi);
	for (size_t i = 0; i < cfi->code.count; i++)
		cfi->forgotten.items[cfi->forgotten.count++] = cfi->code.items[i].row;
	cfi->code.count = 0;
	memset(cfi->entries, 0, ((size_t)1 << (64 - cfi->shift)) * sizeof(*cfi->entries));
	cfi->count = cfi->missing = 0;
}

void tm_cfi_destroy(struct tm_cfi *cfi)
{
	if (!cfi)
		return;
	for (size_t i = 0; i < cfi->modules.count; i++) {
		struct module_cfi *known = &cfi->modules.items[i];

		spans_deinit(&known->spans);
		spans_deinit(&known->trampolines);
		tm_cfi_file_close(known->file);
		tm_cfi_file_close(known->debug_file);
	}
	for (size_t i = 0; i < cfi->forgotten.count; i++)
		free(cfi->forgotten.items[i]);
	close_images(cfi);
	tm_vector_deinit(&cfi->images);
	tm_vector_deinit(&cfi->modules);
	tm_vector_deinit(&cfi->forgotten);
	spans_deinit(&cfi->code);
	free(cfi->entries);
	free(cfi);
}

static __attribute__((noinline)) struct tm_cfi_hit find_cold(struct tm_cfi *cfi, uint64_t pc)
{
	struct tm_cfi_hit hit = {tm_module_map_find(cfi->map, pc), NULL};

	if (!refresh(cfi) || !pc)
		return hit;
	hit.row = hit.module ? module_row(cfi, hit.module, pc - hit.module->bias) : code_row(cfi, pc);
	pc_remember(cfi, pc, hit);
	return hit;
}

static __attribute__((noinline)) struct tm_cfi_hit find_displaced(struct tm_cfi *cfi, uint64_t pc)
{
	const struct pc_entry *entry = pc_entry_of(cfi, pc);

	if (entry->pc == pc &&
	    (entry->row ? covers(entry) : cfi->generation == tm_module_map_generation(cfi->map)))
		return (struct tm_cfi_hit){entry->module, entry->row};
	return find_cold(cfi, pc);
}

/* Most pcs stand in their first slot: this much is one probe without a loop or a stack frame. */
struct tm_cfi_hit tm_cfi_find(struct tm_cfi *cfi, uint64_t pc)
{
	const struct pc_entry *entry = &cfi->entries[pc_slot(cfi, pc)];

	if (__builtin_expect(entry->pc == pc && entry->row && covers(entry), 1))
		return (struct tm_cfi_hit){entry->module, entry->row};
	return find_displaced(cfi, pc);
}
