#include "debuginfo/module_layout.h"

#include <string.h>

#include "base/vector.h"

/* Whether they share bytes of the file; segments without any (bss alone) never do. */
static bool shares_bytes(const struct tm_mapping *mapping, const Elf64_Phdr *segment)
{
	uint64_t mapping_end = mapping->offset + (mapping->end - mapping->start);

	return segment->p_offset < mapping_end && segment->p_filesz &&
	       (mapping->offset <= segment->p_offset ||
		mapping->offset - segment->p_offset < segment->p_filesz);
}

/* The bias at which the mapping shows the segment's bytes at the segment's vaddrs. */
static uint64_t bias_of(const struct tm_mapping *mapping, const Elf64_Phdr *segment)
{
	return mapping->start - mapping->offset - (segment->p_vaddr - segment->p_offset);
}

bool tm_layout_fits(const struct tm_mapping *mapping, const struct tm_elf *elf, uint64_t bias)
{
	if (!elf)
		return mapping->start - mapping->offset == bias;
	for (size_t i = 0; i < elf->segment_count; i++) {
		Elf64_Phdr segment = tm_elf_segment(elf, i);

		if (segment.p_type == PT_LOAD && shares_bytes(mapping, &segment) &&
		    bias_of(mapping, &segment) == bias)
			return true;
	}
	return false;
}

bool tm_layout_has_text_at(const struct tm_mapping *mapping, const struct tm_elf *elf, uint64_t bias)
{
	for (size_t i = 0; elf && i < elf->segment_count; i++) {
		Elf64_Phdr segment = tm_elf_segment(elf, i);
		uint64_t start = bias + segment.p_vaddr;

		if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X) && mapping->end > start &&
		    mapping->start < start + segment.p_memsz)
			return true;
	}
	return false;
}

static size_t count_fitting(const struct tm_mapping_group *group, const struct tm_elf *elf, uint64_t bias)
{
	size_t count = 0;

	for (size_t i = 0; i < group->count; i++)
		count += tm_layout_fits(group->items[i], elf, bias);
	return count;
}

static bool is_claimed(const struct tm_layout *layout, const struct tm_elf *elf,
		       const struct tm_mapping *mapping)
{
	for (size_t i = 0; i < layout->count; i++) {
		if (tm_layout_fits(mapping, elf, layout->items[i].bias))
			return true;
	}
	return false;
}

/* The bias of an executable mapping. Where two executable segments share a page of the file there are two
   candidates: the right one is where more of the file's mappings fit. */
static bool find_bias(const struct tm_mapping_group *group, const struct tm_elf *elf,
		      const struct tm_mapping *mapping, uint64_t *bias)
{
	size_t best = 0;

	for (size_t i = 0; i < elf->segment_count; i++) {
		Elf64_Phdr segment = tm_elf_segment(elf, i);
		size_t fitting;

		if (segment.p_type != PT_LOAD || !(segment.p_flags & PF_X) ||
		    !shares_bytes(mapping, &segment))
			continue;
		fitting = count_fitting(group, elf, bias_of(mapping, &segment));
		if (fitting > best) {
			best = fitting;
			*bias = bias_of(mapping, &segment);
		}
	}
	return best > 0;
}

static struct tm_layout_instance instance_at(const struct tm_mapping_group *group, const struct tm_elf *elf,
					     uint64_t bias)
{
	struct tm_layout_instance instance = {.bias = bias, .start = UINT64_MAX};

	for (size_t i = 0; i < group->count; i++) {
		const struct tm_mapping *mapping = group->items[i];

		if (!tm_layout_fits(mapping, elf, bias))
			continue;
		if (mapping->start < instance.start)
			instance.start = mapping->start;
		if (mapping->end > instance.end)
			instance.end = mapping->end;
	}
	return instance;
}

struct tm_error *tm_layout_find(const struct tm_mapping_group *group, const struct tm_elf *elf,
				struct tm_layout *layout)
{
	memset(layout, 0, sizeof(*layout));
	for (size_t i = 0; i < group->count; i++) {
		const struct tm_mapping *mapping = group->items[i];
		uint64_t bias = mapping->start - mapping->offset;

		if (!mapping->executable || is_claimed(layout, elf, mapping) ||
		    (elf && !find_bias(group, elf, mapping, &bias)))
			continue;
		if (!tm_vector_push(layout, instance_at(group, elf, bias))) {
			tm_vector_deinit(layout);
			return tm_error_out_of_memory();
		}
		if (!elf)
			break;
	}
	return NULL;
}
