/* CFI to rows: what each kind of rule becomes, what is kept, and when what is kept is forgotten. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <dwarf.h>
#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "debuginfo/cfi_row.h"
#include "debuginfo/sigreturn.h"
#include "support/cfi_image.h"

enum { RAX, RDX, RCX, RBX, RSI, RDI, RBP, RSP, R12 = 12, RIP = 16 };
#define TEXT TM_CFI_IMAGE_TEXT

/* The row at `vaddr` of a file whose only FDE, [TEXT, TEXT + 64), has this program. The caller frees it. */
static struct tm_row *row_at(const struct tm_arch *arch, bool is_signal, const uint8_t *program, size_t size,
			     uint64_t vaddr)
{
	static struct tm_cfi_image image;
	struct tm_cfi_file *file;
	struct tm_row *row;

	tm_cfi_image_init(&image, arch->elf_machine, 64);
	tm_cfi_image_add(&image, is_signal, TEXT, 64, program, size);
	tm_cfi_image_finish(&image);
	file = tm_cfi_file_open(image.file, image.file_size);
	cr_assert(ne(ptr, file, NULL));
	row = tm_cfi_file_row(file, arch, vaddr);
	tm_cfi_file_close(file);
	return row;
}

#define ROW(vaddr, ...)                                                                                      \
	row_at(&tm_arch_x86_64, false, (const uint8_t[]){__VA_ARGS__},                                       \
	       sizeof((const uint8_t[]){__VA_ARGS__}), vaddr)

static const struct tm_rule *rule_for(const struct tm_row *row, unsigned reg)
{
	for (size_t i = 0; i < row->rule_count; i++) {
		if (row->rules[i].reg == reg)
			return &row->rules[i];
	}
	return NULL;
}

/* Checks a rule, with `offset` where the kind has one. */
static void expect_rule(const struct tm_row *row, unsigned reg, enum tm_rule_kind kind, int32_t offset)
{
	const struct tm_rule *rule = rule_for(row, reg);

	cr_assert(ne(ptr, (void *)rule, NULL), "register %u", reg);
	cr_expect(eq(int, rule->kind, kind), "register %u", reg);
	cr_expect(eq(i32, rule->offset, offset), "register %u", reg);
}

Test(cfi, row_at_a_functions_entry_is_simple)
{
	_cleanup_free_ struct tm_row *row = ROW(TEXT, DW_CFA_nop);

	cr_assert(ne(ptr, row, NULL));
	cr_expect(row->simple);
	cr_expect(eq(int, row->cfa_register, RSP));
	cr_expect(eq(i32, row->cfa_offset, 8));
	cr_expect(eq(i32, row->return_offset, -8));
	cr_expect(eq(i32, row->fp_offset, TM_FP_SAME));
	cr_expect(eq(u64, row->end, TEXT + 64));
	expect_rule(row, RIP, TM_RULE_AT_CFA, -8);
}

Test(cfi, frame_pointer_frame_is_simple_and_other_saved_registers_keep_it_so)
{
	_cleanup_free_ struct tm_row *row =
		ROW(TEXT + 4, DW_CFA_advance_loc | 1, DW_CFA_def_cfa_offset, 16, DW_CFA_offset | RBP, 2,
		    DW_CFA_advance_loc | 3, DW_CFA_def_cfa_register, RBP, DW_CFA_offset | RBX, 3);

	cr_assert(ne(ptr, row, NULL));
	cr_expect(row->simple);
	cr_expect(eq(int, row->cfa_register, RBP));
	cr_expect(eq(i32, row->cfa_offset, 16));
	cr_expect(eq(i32, row->fp_offset, -16));
	expect_rule(row, RBX, TM_RULE_AT_CFA, -24);
}

Test(cfi, cfa_in_another_register_is_not_simple)
{
	_cleanup_free_ struct tm_row *row = ROW(TEXT, DW_CFA_def_cfa, RBX, 32);

	cr_expect(not(row->simple));
	cr_expect(eq(int, row->cfa_register, RBX));
}

Test(cfi, expression_of_a_plt_stub_is_kept_as_operations)
{
	/* As ld writes it for .plt: CFA = rsp + 8 + ((rip & 15) >= 11) * 8. */
	_cleanup_free_ struct tm_row *row =
		ROW(TEXT, DW_CFA_def_cfa_expression, 11, DW_OP_breg0 + RSP, 8, DW_OP_breg0 + RIP, 0,
		    DW_OP_lit15, DW_OP_and, DW_OP_lit11, DW_OP_ge, DW_OP_lit3, DW_OP_shl, DW_OP_plus);

	cr_assert(eq(int, row->cfa_is_expression, 1));
	cr_assert(eq(u16, row->cfa_operation_count, 9));
	cr_expect(not(row->simple));
	cr_expect(eq(int, row->operations[1].atom, DW_OP_breg0 + RIP));
	cr_expect(eq(u64, row->operations[0].number, 8));
}

Test(cfi, branch_becomes_the_index_of_its_target)
{
	/* lit0; bra over `lit1`; lit2; skip back to the start would be -9. */
	_cleanup_free_ struct tm_row *row = ROW(TEXT, DW_CFA_def_cfa_expression, 9, DW_OP_lit0, DW_OP_bra, 1,
						0, DW_OP_lit1, DW_OP_lit2, DW_OP_skip, 0xf7, 0xff);

	cr_assert(eq(u16, row->cfa_operation_count, 5));
	cr_expect(eq(u64, row->operations[1].number, 3));
	cr_expect(eq(u64, row->operations[4].number, 0));
}

Test(cfi, branch_into_an_operation_leaves_no_expression)
{
	_cleanup_free_ struct tm_row *row = ROW(TEXT, DW_CFA_def_cfa_expression, 7, DW_OP_lit1, DW_OP_bra, 1,
						0, DW_OP_const1u, 7, DW_OP_lit2);

	cr_assert(ne(ptr, row, NULL));
	cr_expect(eq(int, row->cfa_is_expression, 1));
	cr_expect(eq(u16, row->cfa_operation_count, 0));
}

Test(cfi, each_kind_of_rule_is_told_from_the_others)
{
	_cleanup_free_ struct tm_row *row =
		ROW(TEXT, DW_CFA_val_offset, RBX, 3, DW_CFA_register, RBP, RDX, DW_CFA_expression, R12, 2,
		    DW_OP_breg0 + RSP, 40, DW_CFA_val_expression, 13, 1, DW_OP_lit7);
	const struct tm_rule *rule;

	expect_rule(row, RBX, TM_RULE_IS_CFA, -24);
	expect_rule(row, RBP, TM_RULE_REGISTER, 0);
	cr_expect(eq(int, rule_for(row, RBP)->other, RDX));
	rule = rule_for(row, R12);
	cr_assert(eq(int, rule->kind, TM_RULE_AT_EXPRESSION));
	cr_assert(eq(u16, rule->operation_count, 2));
	cr_expect(eq(int, row->operations[rule->offset].atom, DW_OP_call_frame_cfa));
	cr_expect(eq(u64, row->operations[rule->offset + 1].number, 40));
	rule = rule_for(row, 13);
	cr_assert(eq(int, rule->kind, TM_RULE_IS_EXPRESSION));
	cr_expect(eq(u16, rule->operation_count, 2));
	cr_expect(not(row->simple));
}

Test(cfi, undefined_return_address_is_the_outermost_frame)
{
	_cleanup_free_ struct tm_row *row = ROW(TEXT, DW_CFA_undefined, RIP);

	cr_expect(row->outermost);
	cr_expect(not(row->simple));
}

Test(cfi, registers_that_the_cfi_does_not_name_have_no_rule)
{
	_cleanup_free_ struct tm_row *row = ROW(TEXT, DW_CFA_nop);

	cr_expect(eq(u16, row->rule_count, 1)); /* the return address alone: neither rbx nor rax */
}

Test(cfi, signal_augmentation_is_seen)
{
	_cleanup_free_ struct tm_row *row =
		row_at(&tm_arch_x86_64, true, (const uint8_t[]){DW_CFA_nop}, 1, TEXT);

	cr_expect(row->is_signal);
	cr_expect(not(row->simple));
}

Test(cfi, aarch64_row_before_and_behind_the_prologue)
{
	/* stp x29, x30, [sp, #-32]!; .cfi_negate_ra_state before it, as for code that signs */
	static const uint8_t program[] = {DW_CFA_advance_loc | 4,
					  DW_CFA_GNU_window_save,
					  DW_CFA_advance_loc | 4,
					  DW_CFA_def_cfa_offset,
					  32,
					  DW_CFA_offset | 29,
					  4,
					  DW_CFA_offset | 30,
					  3};
	_cleanup_free_ struct tm_row *leaf =
		row_at(&tm_arch_aarch64, false, program, sizeof(program), TEXT + 4);
	_cleanup_free_ struct tm_row *row =
		row_at(&tm_arch_aarch64, false, program, sizeof(program), TEXT + 8);

	cr_assert(ne(ptr, leaf, NULL));
	cr_expect(not(leaf->simple));
	cr_expect(eq(int, leaf->return_register, 30));
	cr_expect(not(leaf->outermost));
	cr_expect(row->simple);
	cr_expect(eq(int, row->cfa_register, 31));
	cr_expect(eq(i32, row->cfa_offset, 32));
	cr_expect(eq(i32, row->fp_offset, -32));
	cr_expect(eq(i32, row->return_offset, -24));
}

Test(cfi, code_outside_of_every_fde_has_no_row)
{
	cr_expect(eq(ptr, ROW(TEXT - 1, DW_CFA_nop), NULL));
	cr_expect(eq(ptr, ROW(TEXT + 64, DW_CFA_nop), NULL));
}

Test(cfi, debug_frame_is_read_where_there_is_no_eh_frame)
{
	static struct tm_cfi_image image;
	_cleanup_free_ struct tm_row *row = NULL;
	struct tm_cfi_file *file;

	tm_cfi_image_init(&image, EM_X86_64, 64);
	image.is_debug_frame = true;
	tm_cfi_image_add(&image, false, TEXT, 64, (const uint8_t[]){DW_CFA_def_cfa_offset, 48}, 2);
	tm_cfi_image_finish(&image);
	file = tm_cfi_file_open(image.file, image.file_size);
	cr_assert(ne(ptr, file, NULL));
	row = tm_cfi_file_row(file, &tm_arch_x86_64, TEXT + 7);
	tm_cfi_file_close(file);
	cr_assert(ne(ptr, row, NULL));
	cr_expect(eq(i32, row->cfa_offset, 48));
}

Test(cfi, file_without_cfi_or_that_is_none_is_not_opened)
{
	static struct tm_cfi_image image;
	static const uint8_t text[] =
		"this is not an ELF file, but a text of some length, longer than the headers of one";

	tm_cfi_image_init(&image, EM_X86_64, 64);
	tm_cfi_image_finish(&image);
	cr_expect(eq(ptr, tm_cfi_file_open(image.file, 200), NULL));
	cr_expect(eq(ptr, tm_cfi_file_open(text, sizeof(text)), NULL));
}

/* ---- signal trampolines ---- */

Test(cfi, trampolines_are_known_by_their_code)
{
	static const struct {
		const struct tm_arch *arch;
		uint8_t bytes[18];
		bool is;
		int32_t pc_offset;
	} cases[] = {
		{&tm_arch_x86_64,
		 {0, 0, 0, 0, 0, 0, 0, 0, 0, 0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05},
		 true,
		 168},
		{&tm_arch_x86_64, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb8, 0x0f, 0, 0, 0, 0x0f, 0x05}, true, 168},
		{&tm_arch_x86_64, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb8, 0x0e, 0, 0, 0, 0x0f, 0x05}, false, 0},
		{&tm_arch_aarch64,
		 {0, 0, 0, 0, 0, 0, 0, 0, 0, 0x68, 0x11, 0x80, 0xd2, 1, 0, 0, 0xd4},
		 true,
		 568},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(cases); i++) {
		struct tm_rule rules[TM_REGISTERS_MAX];
		struct tm_row row;
		const struct tm_arch *arch = cases[i].arch;
		/* The lookup address is one byte before the trampoline: it is what the handler returns to. */
		bool is = tm_sigreturn_row(arch, cases[i].bytes, 18, 8, 0x1008, rules, &row);

		cr_assert(eq(int, is, cases[i].is), "case %zu", i);
		if (!is)
			continue;
		cr_expect(eq(u64, row.start, 0x1008));
		cr_expect(row.is_signal);
		cr_expect(eq(int, row.return_register, arch->pc));
		cr_expect(eq(u16, row.rule_count, arch->register_count));
		expect_rule(&row, arch->pc, TM_RULE_AT_CFA, cases[i].pc_offset);
		expect_rule(&row, arch->sp, TM_RULE_AT_CFA, cases[i].pc_offset - 8);
	}
}

/* ---- the caches, over files that are "mapped" in a memory made up here ---- */

struct world {
	struct tm_cfi_image *image;
	char path[64];
	struct stat status;
	uint64_t bias[2]; /* 0: not mapped */
	struct tm_module_map *map;
	struct tm_cfi *cfi;
};

static struct tm_error *read_world(void *context, uint64_t address, void *buffer, size_t size)
{
	struct world *world = context;

	for (size_t i = 0; i < TM_ARRAY_SIZE(world->bias); i++) {
		uint64_t offset = address - world->bias[i];

		if (world->bias[i] && offset < world->image->file_size &&
		    size <= world->image->file_size - offset) {
			memcpy(buffer, world->image->file + offset, size);
			return NULL;
		}
	}
	return tm_error_create(TM_ERROR_NO_MEMORY, "nothing is there");
}

static void must(struct tm_error *err)
{
	cr_assert(eq(ptr, err, NULL), "%s", err ? err->message : "");
}

/* Maps the file at these places, and nowhere else. */
static void map_at(struct world *world, uint64_t first, uint64_t second)
{
	struct tm_mapping items[2];
	struct tm_mappings mappings = {.items = items};

	world->bias[0] = first;
	world->bias[1] = second;
	for (size_t i = 0; i < 2; i++) {
		if (!world->bias[i])
			continue;
		items[mappings.count++] = (struct tm_mapping){
			.start = world->bias[i],
			.end = world->bias[i] + ((world->image->file_size + 4095) & ~(uint64_t)4095),
			.readable = true,
			.executable = true,
			.dev_major = major(world->status.st_dev),
			.dev_minor = minor(world->status.st_dev),
			.inode = world->status.st_ino,
			.path = world->path,
		};
	}
	must(tm_module_map_update(world->map, &mappings, NULL));
}

#define TRAMPOLINE 160 /* offset of one in the code, without CFI */

static void world_open(struct world *world)
{
	static struct tm_cfi_image image;
	struct tm_module_source source = {-1, -1, {world, read_world}};
	/* Behind the first 16 bytes the CFA is SP + 24; a remembered row comes back at 32. */
	static const uint8_t program[] = {
		DW_CFA_advance_loc | 16, DW_CFA_def_cfa_offset, 24, DW_CFA_remember_state,
		DW_CFA_advance_loc | 8,	 DW_CFA_def_cfa_offset, 8,  DW_CFA_advance_loc | 8,
		DW_CFA_restore_state};
	static const uint8_t trampoline[] = {0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05};
	int fd;

	memset(world, 0, sizeof(*world));
	world->image = &image;
	tm_cfi_image_init(&image, EM_X86_64, 256);
	memcpy(image.code + TRAMPOLINE, trampoline, sizeof(trampoline));
	tm_cfi_image_add(&image, false, TEXT, 64, program, sizeof(program));
	tm_cfi_image_finish(&image);
	strcpy(world->path, "/tmp/test_cfi.XXXXXX");
	fd = mkstemp(world->path);
	cr_assert(ge(int, fd, 0));
	cr_assert(write(fd, image.file, image.file_size) == (ssize_t)image.file_size);
	cr_assert(eq(int, fstat(fd, &world->status), 0));
	close(fd);
	must(tm_module_map_create(&source, &world->map));
	must(tm_cfi_create(&tm_arch_x86_64, world->map, &world->cfi));
}

static void world_close(struct world *world)
{
	tm_cfi_destroy(world->cfi);
	tm_module_map_destroy(world->map);
	unlink(world->path);
}

#define BASE 0x7f0000000000u

Test(cfi, row_behind_a_restored_state_does_not_cover_the_rows_before_it)
{
	static const struct {
		uint64_t offset;
		int32_t cfa_offset;
	} questions[] = {{40, 24}, {24, 8}, {20, 24}, {16, 24}, {3, 8}, {33, 24}, {31, 8}, {0, 8}, {63, 24}};
	struct world world;

	world_open(&world);
	map_at(&world, BASE, 0);
	for (size_t i = 0; i < TM_ARRAY_SIZE(questions); i++) {
		struct tm_cfi_hit hit = tm_cfi_find(world.cfi, BASE + TEXT + questions[i].offset);

		cr_assert(ne(ptr, (void *)hit.row, NULL));
		cr_expect(eq(i32, hit.row->cfa_offset, questions[i].cfa_offset), "offset %d",
			  (int)questions[i].offset);
	}
	world_close(&world);
}

Test(cfi, one_row_serves_all_pcs_of_its_range)
{
	struct world world;
	const struct tm_row *row;

	world_open(&world);
	map_at(&world, BASE, 0);
	row = tm_cfi_find(world.cfi, BASE + TEXT + 9).row;
	for (uint64_t offset = 16; offset-- > 0;)
		cr_expect(eq(ptr, (void *)tm_cfi_find(world.cfi, BASE + TEXT + offset).row, (void *)row));
	cr_expect(eq(u64, row->start, TEXT));
	cr_expect(eq(u64, row->end, TEXT + 16));
	world_close(&world);
}

Test(cfi, trampoline_without_cfi_has_a_row_from_the_byte_before_it_to_the_one_behind_it)
{
	struct world world;

	world_open(&world);
	map_at(&world, BASE, 0);
	for (int offset = TRAMPOLINE + 12; offset >= TRAMPOLINE - 4; offset--) {
		const struct tm_row *row = tm_cfi_find(world.cfi, BASE + TEXT + (uint64_t)offset).row;
		bool inside = offset >= TRAMPOLINE - 1 && offset <= TRAMPOLINE + 9;

		cr_expect(eq(int, row && row->is_signal, inside), "offset %d", offset);
	}
	world_close(&world);
}

Test(cfi, module_without_cfi_for_a_pc_is_told_from_no_module)
{
	struct world world;
	struct tm_cfi_hit hit;

	world_open(&world);
	map_at(&world, BASE, 0);
	for (int round = 0; round < 2; round++) {
		hit = tm_cfi_find(world.cfi, BASE + TEXT + 100);
		cr_expect(ne(ptr, (void *)hit.module, NULL));
		cr_expect(eq(ptr, (void *)hit.row, NULL));
		hit = tm_cfi_find(world.cfi, 0x1234);
		cr_expect(eq(ptr, (void *)hit.module, NULL));
		cr_expect(eq(ptr, (void *)hit.row, NULL));
		hit = tm_cfi_find(world.cfi, 0);
		cr_expect(eq(ptr, (void *)hit.module, NULL));
	}
	world_close(&world);
}

Test(cfi, unloaded_module_is_forgotten_and_one_loaded_where_none_was_is_seen)
{
	struct world world;
	uint64_t pc = BASE + TEXT + 20, other = BASE + 0x100000 + TEXT + 20;
	const struct tm_row *row;

	world_open(&world);
	map_at(&world, BASE, 0);
	row = tm_cfi_find(world.cfi, pc).row;
	cr_assert(ne(ptr, (void *)row, NULL));
	cr_expect(eq(ptr, (void *)tm_cfi_find(world.cfi, other).module, NULL));
	map_at(&world, 0, 0);
	cr_expect(eq(ptr, (void *)tm_cfi_find(world.cfi, pc).module, NULL));
	map_at(&world, BASE + 0x100000, 0);
	cr_expect(eq(ptr, (void *)tm_cfi_find(world.cfi, other).row, (void *)row));
	cr_expect(eq(ptr, (void *)tm_cfi_find(world.cfi, pc).module, NULL));
	map_at(&world, BASE, BASE + 0x100000);
	cr_expect(ne(ptr, (void *)tm_cfi_find(world.cfi, pc).row, NULL));
	cr_expect(ne(ptr, (void *)tm_cfi_find(world.cfi, pc).module,
		     (void *)tm_cfi_find(world.cfi, other).module));
	world_close(&world);
}

Test(cfi, module_that_moved_by_less_than_its_size_has_the_rows_of_its_new_place)
{
	struct world world;
	uint64_t pc = BASE + 0x1000 + TEXT + 3;

	world_open(&world);
	map_at(&world, BASE + 0x1000, 0);
	cr_expect(eq(i32, tm_cfi_find(world.cfi, pc).row->cfa_offset, 8));
	map_at(&world, BASE, 0);
	cr_expect(eq(ptr, (void *)tm_cfi_find(world.cfi, pc).row, NULL));
	cr_expect(eq(i32, tm_cfi_find(world.cfi, pc - 0x1000 + 17).row->cfa_offset, 24));
	world_close(&world);
}

Test(cfi, many_pcs_keep_their_answers_while_the_table_grows)
{
	struct world world;

	world_open(&world);
	map_at(&world, BASE, 0);
	for (int round = 0; round < 2; round++) {
		for (uint64_t i = 0; i < 20000; i++) {
			bool in_code = i % 500 < 64;
			uint64_t pc = in_code ? BASE + TEXT + i % 500 : 0x10000 + i;
			struct tm_cfi_hit hit = tm_cfi_find(world.cfi, pc);

			cr_assert(eq(int, hit.row != NULL, in_code));
			if (in_code)
				cr_assert(pc - BASE >= hit.row->start && pc - BASE < hit.row->end);
		}
	}
	world_close(&world);
}

Test(cfi, code_outside_of_modules_can_be_given_a_row_and_be_forgotten)
{
	struct world world;
	struct tm_rule rules[] = {{.kind = TM_RULE_AT_CFA, .reg = RIP, .offset = -8}};
	struct tm_row row = {.start = 0x5000,
			     .end = 0x5010,
			     .cfa_register = RSP,
			     .cfa_offset = 24,
			     .return_register = RIP,
			     .rules = rules,
			     .rule_count = 1};
	const struct tm_row *found;

	world_open(&world);
	cr_expect(eq(ptr, (void *)tm_cfi_find(world.cfi, 0x5008).row, NULL));
	must(tm_cfi_add_code(world.cfi, &row));
	rules[0].offset = 0; /* a copy was taken */
	found = tm_cfi_find(world.cfi, 0x5008).row;
	cr_assert(ne(ptr, (void *)found, NULL));
	cr_expect(found->simple);
	cr_expect(eq(i32, found->return_offset, -8));
	cr_expect(eq(ptr, (void *)tm_cfi_find(world.cfi, 0x5010).row, NULL));
	tm_cfi_forget_code(world.cfi);
	cr_expect(eq(ptr, (void *)tm_cfi_find(world.cfi, 0x5008).row, NULL));
	cr_expect(eq(i32, found->cfa_offset, 24)); /* rows stay valid */
	world_close(&world);
}
