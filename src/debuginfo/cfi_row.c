#include "debuginfo/cfi_row.h"

#include <dwarf.h>
#include <elfutils/libdw.h>
#include <gelf.h>
#include <string.h>

#include "base/vector.h"

/* More operations than this in one expression are damage: a realigned frame needs 2, a PLT stub 11. */
#define OPERATIONS_MAX 1024

struct tm_cfi_file {
	int fd; /* of a separate debug file, else -1 */
	Elf *elf;
	Dwarf *dwarf;		/* NULL: no .debug_frame */
	Dwarf_CFI *eh_frame;	/* NULL: none; ours to end */
	Dwarf_CFI *debug_frame; /* NULL: none; dwarf's */
};

struct row_builder {
	struct tm_row row;
	struct tm_vector(struct tm_rule) rules;
	struct tm_vector(struct tm_operation) operations;
	bool failed; /* out of memory */
};

/* Whether the file has a .debug_frame: asked first because dwarf_begin_elf decompresses every debug section.
 */
static bool has_debug_frame(Elf *elf)
{
	size_t names;
	Elf_Scn *section = NULL;

	if (elf_getshdrstrndx(elf, &names) != 0)
		return false;
	while ((section = elf_nextscn(elf, section)) != NULL) {
		GElf_Shdr header;
		const char *name =
			gelf_getshdr(section, &header) ? elf_strptr(elf, names, header.sh_name) : NULL;

		if (!name || header.sh_type == SHT_NOBITS)
			continue;
		if (strcmp(name, ".debug_frame") == 0 || strcmp(name, ".zdebug_frame") == 0)
			return true;
	}
	return false;
}

static void open_debug_frame(struct tm_cfi_file *file)
{
	if (!has_debug_frame(file->elf))
		return;
	file->dwarf = dwarf_begin_elf(file->elf, DWARF_C_READ, NULL);
	if (file->dwarf)
		file->debug_frame = dwarf_getcfi(file->dwarf);
}

/* Keeps the file if it is of any use. */
static struct tm_cfi_file *keep_if_useful(struct tm_cfi_file *file)
{
	if (file->eh_frame || file->debug_frame)
		return file;
	tm_cfi_file_close(file);
	return NULL;
}

struct tm_cfi_file *tm_cfi_file_open(const uint8_t *image, size_t image_size)
{
	struct tm_cfi_file *file = calloc(1, sizeof(*file));

	if (!file)
		return NULL;
	file->fd = -1;
	elf_version(EV_CURRENT);
	/* libelf takes a char * but only reads what it was given to read (elf_memory.c: ELF_C_READ). */
	file->elf = elf_memory((char *)(uintptr_t)image, image_size);
	if (file->elf && elf_kind(file->elf) == ELF_K_ELF) {
		file->eh_frame = dwarf_getcfi_elf(file->elf);
		open_debug_frame(file);
	}
	return keep_if_useful(file);
}

struct tm_cfi_file *tm_cfi_file_open_debug(int fd)
{
	struct tm_cfi_file *file = calloc(1, sizeof(*file));

	if (!file) {
		close(fd);
		return NULL;
	}
	file->fd = fd;
	elf_version(EV_CURRENT);
	file->elf = elf_begin(fd, ELF_C_READ_MMAP, NULL);
	if (file->elf && elf_kind(file->elf) == ELF_K_ELF)
		open_debug_frame(file);
	return keep_if_useful(file);
}

void tm_cfi_file_close(struct tm_cfi_file *file)
{
	if (!file)
		return;
	if (file->eh_frame)
		dwarf_cfi_end(file->eh_frame);
	dwarf_end(file->dwarf);
	elf_end(file->elf);
	tm_cleanup_close(&file->fd);
	free(file);
}

/* Turns the byte distance of a branch into the index of its target; false if that is no operation's start. */
static bool resolve_branch(const Dwarf_Op *ops, size_t count, size_t at, uint64_t *target)
{
	/* DWARF 5, 2.5.1.5: a 2-byte signed distance from the end of the 3-byte operation. */
	Dwarf_Word wanted = ops[at].offset + 3 + (Dwarf_Word)(int64_t)(int16_t)ops[at].number;

	for (size_t i = 0; i < count; i++) {
		if (ops[i].offset == wanted) {
			*target = i;
			return true;
		}
	}
	/* A jump behind the last operation ends the expression. libdw does not tell how long that operation
	 * is. */
	*target = count;
	return wanted > ops[count - 1].offset;
}

/* Appends an expression to the row's operations. Gives its place and length; length 0 if it is no good. */
static uint16_t add_expression(struct row_builder *builder, const Dwarf_Op *ops, size_t count, int32_t *first)
{
	size_t start = builder->operations.count;

	*first = (int32_t)start;
	if (count > OPERATIONS_MAX)
		return 0;
	for (size_t i = 0; i < count; i++) {
		struct tm_operation operation = {ops[i].atom, ops[i].number, ops[i].number2};
		bool branch = ops[i].atom == DW_OP_bra || ops[i].atom == DW_OP_skip;

		if (branch && !resolve_branch(ops, count, i, &operation.number)) {
			builder->operations.count = start;
			return 0;
		}
		if (!tm_vector_push(&builder->operations, operation)) {
			builder->failed = true;
			return 0;
		}
	}
	return (uint16_t)count;
}

static void add_cfa(struct row_builder *builder, const struct tm_arch *arch, Dwarf_Frame *frame)
{
	struct tm_row *row = &builder->row;
	Dwarf_Op *ops;
	size_t count;

	if (dwarf_frame_cfa(frame, &ops, &count) != 0)
		count = 0;
	if (count == 1 && ops->atom == DW_OP_bregx && ops->number < arch->register_count &&
	    (int64_t)ops->number2 == (int32_t)ops->number2) {
		row->cfa_register = (uint8_t)ops->number;
		row->cfa_offset = (int32_t)ops->number2;
		return;
	}
	row->cfa_is_expression = 1;
	row->cfa_operation_count = add_expression(builder, ops, count, &row->cfa_offset);
}

/*
 * libdw gives the rules offset(N) and val_offset(N) as "CFA [plus N] [stack_value]", in the memory that it
 * was lent, and register(R) as "regx R" (dwarf_frame_register.c). Anything else is an expression, its CFA
 * already pushed by its first operation; that of val_expression ends in stack_value.
 */
static struct tm_rule rule_of(struct row_builder *builder, const struct tm_arch *arch, const Dwarf_Op *ops,
			      size_t count, bool lent)
{
	struct tm_rule rule = {.kind = TM_RULE_AT_EXPRESSION};
	bool is_value = count && ops[count - 1].atom == DW_OP_stack_value;
	size_t plain = count - is_value;
	int64_t offset = plain == 2 ? (int64_t)ops[1].number : 0;

	if (lent && count == 1 && ops[0].atom == DW_OP_regx && ops[0].number < arch->register_count) {
		rule.kind = TM_RULE_REGISTER;
		rule.other = (uint8_t)ops[0].number;
	} else if (lent && ops[0].atom == DW_OP_call_frame_cfa && offset != TM_FP_SAME &&
		   offset == (int32_t)offset) {
		rule.kind = is_value ? TM_RULE_IS_CFA : TM_RULE_AT_CFA;
		rule.offset = (int32_t)offset;
	} else if (!lent) {
		rule.kind = is_value ? TM_RULE_IS_EXPRESSION : TM_RULE_AT_EXPRESSION;
		rule.operation_count = add_expression(builder, ops, plain, &rule.offset);
	}
	return rule;
}

/*
 * Whether the rule need not be kept. "Same" and "undefined" are the architecture's to say, not libdw's: it
 * does not tell a register that the CFI leaves open from one that it calls so, and what it takes an open one
 * for is wrong on x86-64, where rax stands in its table for rbx (elfutils 0.188, backends/x86_64_cfi.c). Only
 * the return address is never left open.
 */
static bool is_default(const struct tm_arch *arch, const struct tm_row *row, const struct tm_rule *rule)
{
	if (rule->kind == TM_RULE_SAME || rule->kind == TM_RULE_UNDEFINED)
		return rule->reg != row->return_register;
	return rule->reg == arch->sp && rule->kind == TM_RULE_IS_CFA && rule->offset == 0;
}

static struct tm_rule rule_of_register(struct row_builder *builder, const struct tm_arch *arch,
				       Dwarf_Frame *frame, unsigned reg)
{
	struct tm_rule rule = {.kind = TM_RULE_AT_EXPRESSION};
	Dwarf_Op memory[3], *ops;
	size_t count;

	if (dwarf_frame_register(frame, (int)reg, memory, &ops, &count) == 0) {
		if (count)
			rule = rule_of(builder, arch, ops, count, ops == memory);
		else
			rule.kind = ops ? TM_RULE_UNDEFINED : TM_RULE_SAME;
	}
	rule.reg = (uint8_t)reg;
	return rule;
}

static void add_register(struct row_builder *builder, const struct tm_arch *arch, Dwarf_Frame *frame,
			 unsigned reg)
{
	struct tm_rule rule = rule_of_register(builder, arch, frame, reg);

	if (reg == builder->row.return_register && rule.kind == TM_RULE_UNDEFINED)
		builder->row.outermost = true;
	else if (!is_default(arch, &builder->row, &rule) && !tm_vector_push(&builder->rules, rule))
		builder->failed = true;
}

size_t tm_row_operation_count(const struct tm_row *row)
{
	size_t count = row->cfa_is_expression ? (size_t)row->cfa_offset + row->cfa_operation_count : 0;

	for (size_t i = 0; i < row->rule_count; i++) {
		const struct tm_rule *rule = &row->rules[i];
		size_t end = (size_t)rule->offset + rule->operation_count;

		if ((rule->kind == TM_RULE_AT_EXPRESSION || rule->kind == TM_RULE_IS_EXPRESSION) &&
		    end > count)
			count = end;
	}
	return count;
}

struct tm_row *tm_row_copy(const struct tm_row *row, size_t operation_count)
{
	size_t operations_size = operation_count * sizeof(*row->operations);
	size_t rules_size = row->rule_count * sizeof(*row->rules);
	struct tm_row *copy = malloc(sizeof(*copy) + operations_size + rules_size);

	if (!copy)
		return NULL;
	*copy = *row;
	copy->operations = (const struct tm_operation *)(copy + 1);
	copy->rules = (const struct tm_rule *)((const uint8_t *)(copy + 1) + operations_size);
	if (operations_size)
		memcpy((void *)(uintptr_t)copy->operations, row->operations, operations_size);
	if (rules_size)
		memcpy((void *)(uintptr_t)copy->rules, row->rules, rules_size);
	return copy;
}

void tm_row_classify(const struct tm_arch *arch, struct tm_row *row)
{
	bool return_saved = false;

	row->fp_offset = TM_FP_SAME;
	row->return_offset = 0;
	row->simple = false;
	if (row->cfa_is_expression || row->is_signal || row->outermost)
		return;
	if (row->cfa_register != arch->sp && row->cfa_register != arch->fp)
		return;
	for (size_t i = 0; i < row->rule_count; i++) {
		const struct tm_rule *rule = &row->rules[i];
		bool saved = rule->kind == TM_RULE_AT_CFA;

		if (rule->reg == arch->sp ||
		    (!saved && rule->kind != TM_RULE_SAME && rule->kind != TM_RULE_UNDEFINED))
			return;
		if (rule->reg == row->return_register) {
			return_saved = saved;
			row->return_offset = rule->offset;
		} else if (rule->reg == arch->fp) {
			if (!saved)
				return;
			row->fp_offset = rule->offset;
		}
	}
	row->simple = return_saved;
}

static struct tm_row *row_of(const struct tm_arch *arch, Dwarf_Frame *frame, uint64_t vaddr)
{
	struct row_builder builder = {0};
	struct tm_row *row = &builder.row, *copy = NULL;
	Dwarf_Addr end;
	int return_register = dwarf_frame_info(frame, NULL, &end, &row->is_signal);

	if (return_register < 0 || (unsigned)return_register >= arch->register_count)
		return NULL;
	row->return_register = (uint8_t)return_register;
	/* Only `end` is to be trusted: behind a DW_CFA_restore_state `start` is that of the remembered row,
	   far too low (elfutils 0.188, cfi.c, execute_cfi). */
	row->start = vaddr;
	row->end = end > vaddr ? end : vaddr + 1;
	add_cfa(&builder, arch, frame);
	for (unsigned reg = 0; reg < arch->register_count; reg++)
		add_register(&builder, arch, frame, reg);
	row->rules = builder.rules.items;
	row->rule_count = (uint16_t)builder.rules.count;
	row->operations = builder.operations.items;
	tm_row_classify(arch, row);
	if (!builder.failed)
		copy = tm_row_copy(row, builder.operations.count);
	tm_vector_deinit(&builder.rules);
	tm_vector_deinit(&builder.operations);
	return copy;
}

struct tm_row *tm_cfi_file_row(struct tm_cfi_file *file, const struct tm_arch *arch, uint64_t vaddr)
{
	_cleanup_free_ Dwarf_Frame *frame = NULL;

	if (!file->eh_frame || dwarf_cfi_addrframe(file->eh_frame, vaddr, &frame) != 0) {
		frame = NULL;
		if (!file->debug_frame || dwarf_cfi_addrframe(file->debug_frame, vaddr, &frame) != 0) {
			frame = NULL;
			return NULL;
		}
	}
	return row_of(arch, frame, vaddr);
}
