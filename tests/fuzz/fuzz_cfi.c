/*
 * CFI sections of any content, read by libdw and turned into rows: whatever comes out must be a row that the
 * walk can use without a check of its own. The first byte chooses architecture and section, the others are
 * the section.
 */
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "debuginfo/cfi_row.h"
#include "support/cfi_image.h"

#define CODE_SIZE 64

static void check_expression(const struct tm_row *row, size_t first, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		const struct tm_operation *operation = &row->operations[first + i];

		if ((operation->atom == 0x28 || operation->atom == 0x2f) && operation->number > count)
			abort();
	}
}

static void check_row(const struct tm_arch *arch, const struct tm_row *row, uint64_t vaddr)
{
	if (row->start > vaddr || row->end <= vaddr || row->return_register >= arch->register_count ||
	    row->cfa_register >= arch->register_count)
		abort();
	if (row->cfa_is_expression)
		check_expression(row, (size_t)row->cfa_offset, row->cfa_operation_count);
	for (size_t i = 0; i < row->rule_count; i++) {
		const struct tm_rule *rule = &row->rules[i];

		if (rule->reg >= arch->register_count || rule->other >= arch->register_count)
			abort();
		if (rule->kind == TM_RULE_AT_EXPRESSION || rule->kind == TM_RULE_IS_EXPRESSION)
			check_expression(row, (size_t)rule->offset, rule->operation_count);
	}
}

/* Room for a file whose last byte stands in front of a page that cannot be read. */
static uint8_t *guarded_end(void)
{
	static uint8_t *room;
	size_t size = (sizeof(((struct tm_cfi_image *)0)->file) + 4095) & ~(size_t)4095;

	if (!room) {
		room = mmap(NULL, size + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (room == MAP_FAILED || mprotect(room + size, 4096, PROT_NONE) != 0)
			abort();
	}
	return room + size;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static struct tm_cfi_image image;
	const struct tm_arch *arch;
	struct tm_cfi_file *file;
	uint8_t *copy;

	if (size < 1 || size > sizeof(image.cfi))
		return 0;
	arch = bytes[0] & 1 ? &tm_arch_aarch64 : &tm_arch_x86_64;
	tm_cfi_image_init(&image, arch->elf_machine, CODE_SIZE);
	image.is_debug_frame = bytes[0] & 2;
	memcpy(image.cfi, bytes + 1, size - 1);
	image.cfi_size = size - 1;
	tm_cfi_image_finish(&image);
	copy = guarded_end() - image.file_size; /* sections' ends are aligned: so is this */
	memcpy(copy, image.file, image.file_size);
	file = tm_cfi_file_open(copy, image.file_size);
	for (uint64_t i = 0; file && i < CODE_SIZE; i += 3) {
		struct tm_row *row = tm_cfi_file_row(file, arch, TM_CFI_IMAGE_TEXT + i);

		if (row)
			check_row(arch, row, TM_CFI_IMAGE_TEXT + i);
		free(row);
	}
	tm_cfi_file_close(file);
	return 0;
}
