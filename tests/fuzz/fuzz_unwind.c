/*
 * The walk over rows, registers, stack bytes and expressions of any content: it must end, within its limit,
 * and read nothing outside of what it was given. The input is cut into pieces by struct reader.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "unwind/unwind.h"

#define STACK	   0x7ffe00000000u
#define CODE	   0x400000u
#define STACK_SIZE 1024
#define LIMIT	   200
#define ROWS	   8
#define RULES	   6
#define OPERATIONS 12

struct reader {
	const uint8_t *bytes;
	size_t size;
};

static void take(struct reader *reader, void *to, size_t size)
{
	size_t have = reader->size < size ? reader->size : size;

	memset(to, 0, size);
	if (have)
		memcpy(to, reader->bytes, have);
	reader->bytes += have;
	reader->size -= have;
}

static uint64_t take_byte(struct reader *reader)
{
	uint8_t byte;

	take(reader, &byte, 1);
	return byte;
}

/* Numbers that mean something often: places on the stack and in the code; else anything. */
static uint64_t take_word(struct reader *reader)
{
	uint64_t kind = take_byte(reader), word;

	if (kind < 100)
		return STACK + kind * 8;
	if (kind < 200)
		return CODE + kind * 7;
	take(reader, &word, sizeof(word));
	return word;
}

static const uint8_t atoms[] = {0x03, 0x06, 0x08, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x19,
				0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25,
				0x26, 0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f, 0x30, 0x31,
				0x3f, 0x70, 0x76, 0x77, 0x92, 0x94, 0x96, 0x9c, 0x9f, 0xff};

/* As the reader of CFI leaves them: registers that exist, branches to operations of the same expression. */
static void take_row(struct reader *reader, const struct tm_arch *arch, unsigned number, struct tm_cfi *cfi)
{
	struct tm_operation operations[OPERATIONS];
	struct tm_rule rules[RULES];
	struct tm_row row = {.start = CODE + number * 256,
			     .end = CODE + number * 256 + 256,
			     .operations = operations,
			     .rules = rules};

	for (unsigned i = 0; i < OPERATIONS; i++) {
		uint8_t atom = atoms[take_byte(reader) % sizeof(atoms)];

		operations[i] = (struct tm_operation){atom, take_word(reader), take_byte(reader)};
		if (atom == 0x28 || atom == 0x2f)
			operations[i].number %= OPERATIONS + 1;
	}
	row.cfa_is_expression = take_byte(reader) % 4 == 0;
	row.cfa_register = (uint8_t)(take_byte(reader) % arch->register_count);
	row.return_register = (uint8_t)(arch->link < 0 ? arch->pc : (unsigned)arch->link);
	row.is_signal = take_byte(reader) % 8 == 0;
	row.outermost = take_byte(reader) % 16 == 0;
	row.cfa_offset = row.cfa_is_expression ? 0 : (int8_t)take_byte(reader) * 8;
	row.cfa_operation_count = row.cfa_is_expression ? OPERATIONS : 0;
	row.rule_count = (uint16_t)(take_byte(reader) % (RULES + 1));
	for (unsigned i = 0; i < RULES; i++) {
		rules[i] =
			(struct tm_rule){.kind = (uint8_t)(take_byte(reader) % (TM_RULE_IS_EXPRESSION + 1)),
					 .reg = (uint8_t)(take_byte(reader) % arch->register_count),
					 .other = (uint8_t)(take_byte(reader) % arch->register_count),
					 .offset = (int8_t)take_byte(reader) * 8};
		if (rules[i].kind >= TM_RULE_AT_EXPRESSION) {
			rules[i].offset = (uint8_t)rules[i].offset % OPERATIONS;
			rules[i].operation_count = (uint16_t)(OPERATIONS - rules[i].offset);
		}
	}
	if (tm_cfi_add_code(cfi, &row))
		abort();
}

static struct tm_error *read_stack(void *context, uint64_t address, void *buffer, size_t size)
{
	(void)context;
	if (address % 8192 >= 4096)
		return tm_error_create(TM_ERROR_NO_MEMORY, "nothing is there");
	memset(buffer, (int)(address >> 12), size);
	return NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct reader reader = {bytes, size};
	const struct tm_arch *arch = take_byte(&reader) & 1 ? &tm_arch_aarch64 : &tm_arch_x86_64;
	struct tm_module_source source = {-1, -1, {NULL, read_stack}};
	struct tm_capture capture = {.start = STACK,
				     .memory = take_byte(&reader) & 1 ? &source.memory : NULL};
	struct tm_module_map *map;
	struct tm_cfi *cfi;
	struct tm_walk walk = {0};
	uint64_t *stack;

	if (tm_module_map_create(&source, &map) || tm_cfi_create(arch, map, &cfi))
		abort();
	capture.size = take_byte(&reader) * 4; /* a heap block of just this size: reading outside is seen */
	stack = malloc(capture.size + 1);
	for (unsigned i = 0; i < ROWS; i++)
		take_row(&reader, arch, i, cfi);
	for (unsigned i = 0; i < arch->register_count; i++)
		capture.regs.value[i] = take_word(&reader);
	for (size_t i = 0; i < capture.size / 8; i++)
		stack[i] = take_word(&reader);
	memset((uint8_t *)stack + capture.size / 8 * 8, 7, capture.size % 8);
	capture.bytes = (const uint8_t *)stack;
	for (int round = 0; round < 2; round++) {
		tm_unwind(cfi, arch, 0x007f000000000000, &capture, take_byte(&reader) & 1, LIMIT, &walk);
		if (walk.count > LIMIT)
			abort();
	}
	tm_walk_deinit(&walk);
	free(stack);
	tm_cfi_destroy(cfi);
	tm_module_map_destroy(map);
	return 0;
}
