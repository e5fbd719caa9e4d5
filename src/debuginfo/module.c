#include "debuginfo/module.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#include "base/hash.h"
#include "base/vector.h"
#include "debuginfo/elf_image.h"
#include "debuginfo/mapping_group.h"
#include "debuginfo/module_file.h"
#include "debuginfo/module_layout.h"
#include "model/chunks.h"

/* A module with what only the map knows of it. Modules loaded twice share the file. */
struct entry {
	struct tm_module module; /* first: what is given out */
	struct tm_module_file *file;
	bool seen; /* in the memory map of this update */
};

struct text {
	uint64_t start, end;
	struct tm_module *module;
};

struct tm_module_map {
	struct tm_module_source source;
	struct tm_chunks
		entries; /* struct entry *, by number: another thread may read while one more is added */
	_Atomic uint32_t entry_count;
	struct tm_vector(struct tm_module_file *) files;
	struct tm_vector(struct text) texts; /* of all loaded modules, ascending */
	uint64_t generation;
	bool changed;	 /* by this update */
	uint64_t digest; /* of what the last update was made from; 0: it failed, or there was none */
};

/* ---- life ----------------------------------------------------------------------------------- */

static struct entry *entry_at(const struct tm_module_map *map, uint32_t number)
{
	return *tm_chunks_at(&map->entries, struct entry *, number);
}

static void destroy_entry(struct entry *entry)
{
	free(entry->module.path);
	free(entry->module.build_id);
	free(entry->module.problem);
	free(entry->module.texts);
	free(entry);
}

static char *copy_string(const char *string, bool *failed)
{
	char *copy = string ? strdup(string) : NULL;

	*failed |= string && !copy;
	return copy;
}

/* A new number for a file; NULL is "no module", number 0. */
static struct tm_error *add_entry(struct tm_module_map *map, struct tm_module_file *file, struct entry **out)
{
	struct entry *entry = calloc(1, sizeof(*entry));
	bool failed = !entry || !tm_chunks_reserve(&map->entries, struct entry *, map->entry_count);

	if (!failed) {
		entry->module.number = map->entry_count;
		entry->module.path = copy_string(file ? file->path : "", &failed);
		entry->module.build_id = copy_string(file ? file->build_id : NULL, &failed);
		entry->module.problem = copy_string(file ? file->problem : NULL, &failed);
	}
	if (failed) {
		if (entry)
			destroy_entry(entry);
		return tm_error_out_of_memory();
	}
	entry->file = file;
	entry->module.fd = file ? file->fd : -1;
	if (file) {
		entry->module.is_vdso = strcmp(file->path, TM_VDSO_PATH) == 0;
		entry->module.deleted = file->replaced;
		entry->module.elf_machine = file->elf.header.e_machine;
		entry->module.dev_major = file->dev_major;
		entry->module.dev_minor = file->dev_minor;
		entry->module.inode = file->inode;
		entry->module.image = file->image;
		entry->module.image_size = file->image_size;
		entry->module.image_is_copy = file->image_is_copy;
	}
	*tm_chunks_at(&map->entries, struct entry *, map->entry_count) = entry;
	map->entry_count++;
	*out = entry;
	return NULL;
}

struct tm_error *tm_module_map_create(const struct tm_module_source *source, struct tm_module_map **out)
{
	struct tm_module_map *map = calloc(1, sizeof(*map));
	struct tm_error *err;
	struct entry *none;

	if (!map)
		return tm_error_out_of_memory();
	map->source = *source;
	err = add_entry(map, NULL, &none);
	if (err) {
		tm_module_map_destroy(map);
		return err;
	}
	*out = map;
	return NULL;
}

void tm_module_map_destroy(struct tm_module_map *map)
{
	if (!map)
		return;
	for (uint32_t i = 0; i < map->entry_count; i++)
		destroy_entry(entry_at(map, i));
	for (size_t i = 0; i < map->files.count; i++)
		tm_module_file_destroy(map->files.items[i]);
	tm_chunks_deinit(&map->entries);
	tm_vector_deinit(&map->files);
	tm_vector_deinit(&map->texts);
	free(map);
}

static void unload(struct tm_module_map *map, struct entry *entry)
{
	struct tm_module *module = &entry->module;

	map->changed |= module->loaded;
	module->loaded = false;
	free(module->texts);
	module->texts = NULL;
	module->text_count = 0;
}

void tm_module_map_reset(struct tm_module_map *map, const struct tm_module_source *source)
{
	for (uint32_t i = 0; i < map->entry_count; i++) {
		unload(map, entry_at(map, i));
		entry_at(map, i)->module.is_main = false;
	}
	map->texts.count = 0;
	map->source = *source;
	map->digest = 0;
	map->generation++;
}

/* ---- files ---------------------------------------------------------------------------------- */

static bool is_in_use(const struct tm_module_map *map, const struct tm_module_file *file)
{
	for (uint32_t i = 0; i < map->entry_count; i++) {
		if (entry_at(map, i)->file == file && entry_at(map, i)->module.loaded)
			return true;
	}
	return false;
}

/* The file of a group if it was opened before and still is what it was then. */
static struct tm_module_file *known_file(const struct tm_module_map *map,
					 const struct tm_mapping_group *group)
{
	for (size_t i = map->files.count; i-- > 0;) {
		struct tm_module_file *file = map->files.items[i];

		if (tm_module_file_is_of(file, group->items[0]) &&
		    (file->is_memory || is_in_use(map, file) ||
		     tm_module_file_is_unchanged(file, &map->source, group)))
			return file;
	}
	return NULL;
}

static struct tm_error *file_of_group(struct tm_module_map *map, const struct tm_mapping_group *group,
				      struct tm_module_file **out)
{
	struct tm_error *err;

	*out = known_file(map, group);
	if (*out)
		return NULL;
	if (!tm_vector_reserve(&map->files, map->files.count + 1))
		return tm_error_out_of_memory();
	err = tm_module_file_open(&map->source, group, out);
	if (!err)
		map->files.items[map->files.count++] = *out;
	return err;
}

/* ---- update --------------------------------------------------------------------------------- */

/* Code of the instance: its executable mappings, and anonymous ones in their place (text moved to huge
 * pages). */
static bool is_text_of(const struct tm_mapping *mapping, const struct tm_module_file *file,
		       const struct tm_layout_instance *instance)
{
	const struct tm_elf *elf = file->image ? &file->elf : NULL;

	if (!mapping->executable)
		return false;
	if (!mapping->inode && !mapping->path[0])
		return tm_layout_has_text_at(mapping, elf, instance->bias);
	return tm_module_file_is_of(file, mapping) && tm_layout_fits(mapping, elf, instance->bias);
}

static struct tm_error *collect_texts(const struct tm_mappings *mappings, const struct tm_module_file *file,
				      const struct tm_layout_instance *instance,
				      struct tm_module_text **texts, size_t *count)
{
	struct tm_vector(struct tm_module_text) found = {0};
	const struct tm_mapping *mapping = tm_mappings_find(mappings, instance->start);
	const struct tm_mapping *end = mappings->items + mappings->count;

	for (; mapping && mapping < end && mapping->start < instance->end; mapping++) {
		if (is_text_of(mapping, file, instance) &&
		    !tm_vector_push(&found, (struct tm_module_text){mapping->start, mapping->end})) {
			tm_vector_deinit(&found);
			return tm_error_out_of_memory();
		}
	}
	*texts = found.items;
	*count = found.count;
	return NULL;
}

/* The module stands where the instance is, now. */
static struct tm_error *place(struct tm_module_map *map, struct entry *entry,
			      const struct tm_mappings *mappings, const struct tm_layout_instance *instance)
{
	struct tm_module *module = &entry->module;
	struct tm_module_text *texts = NULL;
	struct tm_error *err;
	size_t count = 0;

	err = collect_texts(mappings, entry->file, instance, &texts, &count);
	if (err)
		return err;
	if (!module->loaded || module->bias != instance->bias || module->start != instance->start ||
	    module->end != instance->end || module->text_count != count ||
	    (count && memcmp(module->texts, texts, count * sizeof(*texts)) != 0))
		map->changed = true;
	free(module->texts);
	module->texts = texts;
	module->text_count = count;
	module->bias = instance->bias;
	module->start = instance->start;
	module->end = instance->end;
	module->loaded = true;
	entry->seen = true;
	return NULL;
}

static struct entry *find_entry(const struct tm_module_map *map, const struct tm_module_file *file, bool seen,
				const uint64_t *bias)
{
	for (uint32_t i = 0; i < map->entry_count; i++) {
		struct entry *entry = entry_at(map, i);

		if (entry->file == file && entry->seen == seen &&
		    (!bias || (entry->module.loaded && entry->module.bias == *bias)))
			return entry;
	}
	return NULL;
}

/* Modules that stay where they are. */
static struct tm_error *place_staying(struct tm_module_map *map, struct tm_module_file *file,
				      const struct tm_mappings *mappings, const struct tm_layout *layout)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i < layout->count; i++) {
		struct entry *entry = find_entry(map, file, false, &layout->items[i].bias);

		if (entry)
			err = place(map, entry, mappings, &layout->items[i]);
	}
	return err;
}

/* The others: the same file loaded again has its old number, so that its frames stay the same frames. */
static struct tm_error *place_arriving(struct tm_module_map *map, struct tm_module_file *file,
				       const struct tm_mappings *mappings, const struct tm_layout *layout)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i < layout->count; i++) {
		struct entry *entry;

		if (find_entry(map, file, true, &layout->items[i].bias))
			continue;
		entry = find_entry(map, file, false, NULL);
		if (!entry)
			err = add_entry(map, file, &entry);
		if (!err)
			err = place(map, entry, mappings, &layout->items[i]);
	}
	return err;
}

static struct tm_error *update_group(struct tm_module_map *map, const struct tm_mappings *mappings,
				     const struct tm_mapping_group *group)
{
	struct tm_module_file *file;
	struct tm_layout layout;
	struct tm_error *err = file_of_group(map, group, &file);

	if (err)
		return err;
	file->seen = true;
	if (file->is_memory)
		return NULL;
	err = tm_layout_find(group, file->image ? &file->elf : NULL, &layout);
	if (!err)
		err = place_staying(map, file, mappings, &layout);
	if (!err)
		err = place_arriving(map, file, mappings, &layout);
	tm_vector_deinit(&layout);
	return err;
}

static struct tm_error *update_groups(struct tm_module_map *map, const struct tm_mappings *mappings)
{
	struct tm_mapping_groups groups;
	struct tm_error *err = tm_mapping_groups_find(mappings, &groups);

	if (err)
		return err;
	for (size_t i = 0; !err && i < groups.count; i++)
		err = update_group(map, mappings, &groups.items[i]);
	tm_mapping_groups_deinit(&groups);
	return err;
}

static void clear_seen(struct tm_module_map *map)
{
	for (uint32_t i = 0; i < map->entry_count; i++)
		entry_at(map, i)->seen = false;
	for (size_t i = 0; i < map->files.count; i++)
		map->files.items[i]->seen = false;
}

/* What was not in the memory map is unloaded; a JIT's memory is forgotten, another may have its inode number.
 */
static void sweep(struct tm_module_map *map)
{
	for (uint32_t i = 0; i < map->entry_count; i++) {
		if (!entry_at(map, i)->seen)
			unload(map, entry_at(map, i));
	}
	for (size_t i = map->files.count; i-- > 0;) {
		struct tm_module_file *file = map->files.items[i];

		if (file->is_memory && !file->seen) {
			tm_module_file_destroy(file);
			tm_vector_remove_unordered(&map->files, i);
		}
	}
}

static int compare_texts(const void *a, const void *b)
{
	const struct text *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static struct tm_error *index_texts(struct tm_module_map *map)
{
	map->texts.count = 0;
	for (uint32_t i = 0; i < map->entry_count; i++) {
		struct tm_module *module = &entry_at(map, i)->module;

		for (size_t j = 0; j < module->text_count; j++) {
			struct text text = {module->texts[j].start, module->texts[j].end, module};

			if (!tm_vector_push(&map->texts, text))
				return tm_error_out_of_memory();
		}
	}
	if (map->texts.count)
		qsort(map->texts.items, map->texts.count, sizeof(*map->texts.items), compare_texts);
	return NULL;
}

/* proc(5): /proc/PID/exe, where such a path comes from, has " (deleted)" behind that of an unlinked file. */
static const struct tm_mapping *first_mapping_of(const struct tm_mappings *mappings, const char *path)
{
	for (size_t i = 0; i < mappings->count; i++) {
		const struct tm_mapping *mapping = &mappings->items[i];
		size_t length = strlen(mapping->path);

		if (strncmp(mapping->path, path, length) == 0 &&
		    (!path[length] || (mapping->deleted && strcmp(path + length, " (deleted)") == 0)))
			return mapping;
	}
	return NULL;
}

static void mark_main(struct tm_module_map *map, const struct tm_mappings *mappings, const char *main_path)
{
	const struct tm_mapping *mapping = first_mapping_of(mappings, main_path);

	for (uint32_t i = 0; i < map->entry_count; i++) {
		struct entry *entry = entry_at(map, i);
		bool is_main = mapping && entry->seen && tm_module_file_is_of(entry->file, mapping);

		map->changed |= entry->module.is_main != is_main;
		entry->module.is_main = is_main;
	}
}

/* Of all that modules are made from: mappings of files, and code. */
static uint64_t digest_of(const struct tm_mappings *mappings, const char *main_path)
{
	uint64_t digest = main_path ? tm_hash_bytes(main_path, strlen(main_path)) : 0;

	for (size_t i = 0; i < mappings->count; i++) {
		const struct tm_mapping *mapping = &mappings->items[i];
		const uint64_t words[] = {
			digest,
			mapping->start,
			mapping->end,
			mapping->offset,
			mapping->inode,
			(uint64_t)mapping->dev_major << 32 | mapping->dev_minor,
			(uint64_t)mapping->readable | (uint64_t)mapping->writable << 1 |
				(uint64_t)mapping->executable << 2 | (uint64_t)mapping->shared << 3 |
				(uint64_t)mapping->deleted << 4,
			tm_hash_bytes(mapping->path, strlen(mapping->path)),
		};

		if (mapping->path[0] == '/' || mapping->executable)
			digest = tm_hash_bytes(words, sizeof(words));
	}
	return digest ? digest : 1;
}

struct tm_error *tm_module_map_update(struct tm_module_map *map, const struct tm_mappings *mappings,
				      const char *main_path)
{
	uint64_t digest = digest_of(mappings, main_path);
	struct tm_error *err;

	if (digest == map->digest)
		return NULL;
	map->changed = false;
	clear_seen(map);
	err = update_groups(map, mappings);
	if (!err) {
		sweep(map);
		if (main_path)
			mark_main(map, mappings, main_path);
		err = index_texts(map);
	}
	map->generation += map->changed || err;
	map->digest = err ? 0 : digest;
	return err;
}

/* ---- queries -------------------------------------------------------------------------------- */

uint64_t tm_module_map_generation(const struct tm_module_map *map)
{
	return map->generation;
}

uint32_t tm_module_map_count(const struct tm_module_map *map)
{
	return map->entry_count;
}

void tm_module_release_pages(const struct tm_module *module)
{
	/* A private mapping that nobody wrote to: madvise(2), MADV_DONTNEED drops pages and keeps content. */
	if (module->image && !module->image_is_copy && module->fd >= 0)
		madvise((void *)module->image, module->image_size, MADV_DONTNEED);
}

struct tm_module *tm_module_map_get(const struct tm_module_map *map, uint32_t number)
{
	assert(number < map->entry_count);
	return &entry_at(map, number)->module;
}

struct tm_module *tm_module_map_find(const struct tm_module_map *map, uint64_t pc)
{
	size_t low = 0, high = map->texts.count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;
		const struct text *text = &map->texts.items[middle];

		if (pc < text->start)
			high = middle;
		else if (pc >= text->end)
			low = middle + 1;
		else
			return text->module;
	}
	return NULL;
}

const struct tm_module_source *tm_module_map_source(const struct tm_module_map *map)
{
	return &map->source;
}

const char *tm_module_interpreter(const struct tm_module *module)
{
	Elf64_Phdr segment;
	struct tm_elf elf;

	if (!tm_module_elf(module, &elf) || !tm_elf_find_segment(&elf, PT_INTERP, &segment))
		return NULL;
	return tm_elf_string(tm_elf_range(&elf, segment.p_offset, segment.p_filesz), 0);
}

const char *tm_module_soname(const struct tm_module *module)
{
	uint64_t strings, name;
	struct tm_elf elf;

	if (!tm_module_elf(module, &elf) || !tm_elf_dynamic(&elf, DT_STRTAB, &strings, NULL) ||
	    !tm_elf_dynamic(&elf, DT_SONAME, &name, NULL))
		return NULL;
	return tm_elf_string(tm_elf_at(&elf, strings), name);
}

const uint8_t *tm_module_bytes(const struct tm_module *module, uint64_t vaddr, size_t *available)
{
	struct tm_bytes bytes = {0};
	struct tm_elf elf;

	if (tm_module_elf(module, &elf))
		bytes = tm_elf_at(&elf, vaddr);
	*available = bytes.size;
	return bytes.data;
}
