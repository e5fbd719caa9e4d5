/*
 * Call frame information as rows that cost nothing to evaluate. libdw parses .eh_frame and .debug_frame
 * (.debug_frame only where .eh_frame has nothing); each pc range is turned into a row once and cached.
 * Expressions (PLT stubs, sigreturn, realigned stacks) are copied into the row as their operations and
 * evaluated by unwind/. The CFI is read from the module's image (also the vdso's copy); no descriptor or file
 * is touched on a warm lookup.
 */
#ifndef TM_DEBUGINFO_CFI_H
#define TM_DEBUGINFO_CFI_H

#include "arch/arch.h"
#include "debuginfo/module.h"

enum tm_rule_kind {
	TM_RULE_SAME,	       /* the caller's value is the callee's */
	TM_RULE_UNDEFINED,     /* not recoverable; for the return address: this is the outermost frame */
	TM_RULE_AT_CFA,	       /* saved at CFA + offset */
	TM_RULE_IS_CFA,	       /* value is CFA + offset */
	TM_RULE_REGISTER,      /* value is in another register + offset */
	TM_RULE_AT_EXPRESSION, /* saved at the expression's result */
	TM_RULE_IS_EXPRESSION, /* value is the expression's result */
};

/* One operation of a DWARF expression. A rule's expression pushes the CFA by an operation of its own
   (DW_OP_call_frame_cfa). An expression without operations has no value: it stands for one that did not
   parse. */
struct tm_operation {
	uint8_t atom;	 /* DW_OP_* */
	uint64_t number; /* first operand; DW_OP_bra and DW_OP_skip: index of the operation to go on at */
	uint64_t number2;
};

struct tm_rule {
	uint8_t kind;	/* enum tm_rule_kind */
	uint8_t reg;	/* the register this rule is for */
	uint8_t other;	/* TM_RULE_REGISTER: where it is */
	int32_t offset; /* or index of the first operation in the row's operations */
	uint16_t operation_count;
};

struct tm_row {
	uint64_t start, end; /* [start, end) in ELF virtual addresses */
	uint8_t cfa_is_expression;
	uint8_t cfa_register;	 /* CFA = register + cfa_offset */
	uint8_t return_register; /* DWARF number of the return address column */
	bool is_signal;		 /* augmentation 'S': the interrupted pc is exact, not behind a call */
	bool outermost;		 /* the return address is undefined */
	bool simple;		 /* caller's pc, sp and fp follow from sp and fp alone, by three offsets */
	int32_t cfa_offset;	 /* or index of the first of the CFA's operations */
	uint16_t cfa_operation_count;
	uint16_t rule_count;
	const struct tm_rule *rules; /* for registers that do not have the architecture's default:
					callee-saved same, sp is the CFA, others undefined */
	const struct tm_operation *operations;
	/* `simple` rows. Their other rules are AT_CFA, SAME or UNDEFINED: a walk may leave them for later. */
	int32_t return_offset; /* return address saved at CFA + return_offset */
	int32_t fp_offset;     /* frame pointer saved at CFA + fp_offset; TM_FP_SAME: keeps its value */
};
#define TM_FP_SAME INT32_MAX

struct tm_cfi; /* the rows of all modules of a module map */

/* The map must outlive the rows. Not thread-safe. */
struct tm_error *tm_cfi_create(const struct tm_arch *arch, struct tm_module_map *map, struct tm_cfi **out);
void tm_cfi_destroy(struct tm_cfi *cfi);

/* Gives a row to code that is in no module (a pad): start and end are run-time addresses; overlaps none that
   was given before. The row with its rules and operations is copied. tm_cfi_forget_code (exec) forgets all of
   these. */
struct tm_error *tm_cfi_add_code(struct tm_cfi *cfi, const struct tm_row *row);
void tm_cfi_forget_code(struct tm_cfi *cfi);

/* The same for code of which an ELF file with CFI is at hand: its addresses from 0 to `size` are loaded at
 * `address`. The file is borrowed until then. */
struct tm_error *tm_cfi_add_image(struct tm_cfi *cfi, const uint8_t *elf, size_t elf_size, uint64_t address,
				  uint64_t size);

/*
 * The row for a run-time pc, with the module it lies in (both NULL: unknown). row is NULL where the module
 * has no CFI for pc. Rows stay valid until destroy. Warm cost: a hash probe. An unloaded module is noticed by
 * its `loaded`, a new one where none was by the map's generation: code that stays loaded stays warm. Out of
 * memory is no CFI.
 */
struct tm_cfi_hit {
	const struct tm_module *module; /* NULL: pc is in no module */
	const struct tm_row *row;	/* NULL: no CFI there */
};
struct tm_cfi_hit tm_cfi_find(struct tm_cfi *cfi, uint64_t pc);

/* Opens a module's CFI, which the first pc in it would do else: where that is not the time for it. */
void tm_cfi_open(struct tm_cfi *cfi, const struct tm_module *module);

#endif
