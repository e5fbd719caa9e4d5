/*
 * ELF files of arbitrary bytes: program headers, sections, notes, PT_DYNAMIC, symbol tables, relocations, the
 * layout in a memory map, and the copy from a target's memory. The input is an exact heap copy, so that any
 * byte read beyond it is seen.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/vector.h"
#include "debuginfo/elf_symbols.h"
#include "debuginfo/memory_image.h"
#include "debuginfo/module_layout.h"
#include "debuginfo/symbol.h"
#include "debuginfo/symbol_names.h"

#define BASE UINT64_C(0x7f0000000000)

struct input {
	const uint8_t *bytes;
	size_t size;
};

static struct tm_error *read_input(void *context, uint64_t address, void *buffer, size_t size)
{
	const struct input *input = context;
	uint64_t offset = address - BASE;

	if (offset > input->size || size > input->size - offset)
		return tm_error_create(TM_ERROR_NO_MEMORY, "not there");
	memcpy(buffer, input->bytes + offset, size);
	return NULL;
}

static bool visit_symbol(const struct tm_symbol *symbol, void *context)
{
	*(size_t *)context += strlen(symbol->name) + symbol->is_ifunc;
	return true;
}

static bool visit_slot(uint64_t slot_vaddr, void *context)
{
	*(size_t *)context += slot_vaddr & 1;
	return true;
}

static void use_module(struct tm_module_map *map, struct tm_module *module)
{
	struct tm_symbol symbol;
	uint64_t place;
	size_t sum = 0, available;

	tm_error_destroy(tm_module_each_symbol(map, module, TM_SYMBOLS_DYNAMIC, visit_symbol, &sum));
	tm_error_destroy(tm_module_each_symbol(map, module, TM_SYMBOLS_STATIC, visit_symbol, &sum));
	tm_error_destroy(tm_module_each_got_slot(module, "malloc", 0x1000, visit_slot, &sum));
	if (tm_module_find_dynamic_symbol(module, "malloc", &symbol))
		tm_module_bytes(module, symbol.vaddr, &available);
	tm_module_dynamic_entry(module, DT_DEBUG, &place);
	tm_module_interpreter(module);
	tm_module_soname(module);
}

static void use_names(const struct tm_elf *elf)
{
	struct tm_symbol_names names;

	if (!tm_symbol_names_init(&names, elf))
		return;
	for (size_t i = 0; i < names.ranges.count; i++) {
		uint64_t start = names.ranges.items[i].start;

		if (tm_symbol_names_find(&names, start) !=
		    (const char *)(uintptr_t)names.ranges.items[i].value)
			abort();
	}
	tm_symbol_names_deinit(&names);
}

static void use_elf(const struct tm_elf *elf, const struct tm_mapping_group *group)
{
	struct tm_layout layout;
	struct tm_error *err = tm_layout_find(group, elf, &layout);
	Elf64_Shdr section;

	tm_error_destroy(err);
	if (!err)
		tm_vector_deinit(&layout);
	free(tm_elf_build_id_text(elf));
	if (tm_elf_find_section(elf, ".gnu_debuglink", &section))
		tm_elf_string(tm_elf_section_bytes(elf, &section), 0);
	use_names(elf);
}

static void copy_from_memory(const struct tm_memory *memory, const struct tm_mapping_group *group)
{
	uint8_t *image;
	size_t size;
	struct tm_elf elf;
	struct tm_error *err = tm_memory_image_copy(memory, group, &image, &size);

	free(tm_memory_image_build_id(memory, group));
	if (err) {
		tm_error_destroy(err);
		return;
	}
	err = tm_elf_init(&elf, image, size);
	if (!err)
		use_elf(&elf, group);
	tm_error_destroy(err);
	munmap(image, size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *bytes = malloc(size ? size : 1);
	struct input input = {bytes, size};
	struct tm_module_source source = {-1, -1, {&input, read_input}};
	struct tm_mapping mapping = {
		.start = BASE, .end = BASE + 0x100000, .readable = true, .executable = true};
	const struct tm_mapping *mappings[] = {&mapping};
	struct tm_mapping_group group = {mappings, 1};
	struct tm_module module = {.path = (char *)"input", .fd = -1, .image = bytes, .image_size = size};
	struct tm_module_map *map;
	struct tm_elf elf;
	struct tm_error *err = tm_module_map_create(&source, &map);

	if (err || !bytes)
		abort();
	memcpy(bytes, data, size);
	err = tm_elf_init(&elf, bytes, size);
	if (!err)
		use_elf(&elf, &group);
	tm_error_destroy(err);
	use_module(map, &module);
	copy_from_memory(&source.memory, &group);
	tm_module_map_destroy(map);
	free(bytes);
	return 0;
}
