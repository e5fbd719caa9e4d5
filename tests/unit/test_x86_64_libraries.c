/*
 * The x86-64 relocator on real code: the allocators that are installed here, and every instruction of the C
 * library. The files are read, not run, so that the host's own architecture does not matter.
 */
#include <criterion/criterion.h>

#include <capstone/capstone.h>
#include <elf.h>
#include <stdio.h>
#include <string.h>

#include "arch/x86_64_insn.h"
#include "base/error.h"
#include "support/elf_code.h"

#define MEGABYTE 0x100000u

static const char *const libraries[] = {
	"/lib/x86_64-linux-gnu/libc.so.6",
	"/usr/lib/x86_64-linux-gnu/libstdc++.so.6",
	"/usr/lib/x86_64-linux-gnu/libjemalloc.so.2",
	"/usr/lib/x86_64-linux-gnu/libtcmalloc.so.4",
	"/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4",
	"/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal_debug.so.4",
	"/usr/lib/x86_64-linux-gnu/libmimalloc.so.2",
	"/lib/ld-musl-x86_64.so.1",
};

static const char *const allocator_functions[] = {
	"malloc",
	"calloc",
	"realloc",
	"reallocarray",
	"free",
	"cfree",
	"posix_memalign",
	"aligned_alloc",
	"memalign",
	"valloc",
	"pvalloc",
	"malloc_usable_size",
	"strdup",
	"mallocx",
	"rallocx",
	"xallocx",
	"dallocx",
	"sdallocx",
	"mi_malloc",
	"mi_calloc",
	"mi_realloc",
	"mi_free",
	"mi_zalloc",
	"mi_malloc_aligned",
	"mi_recalloc",
	"mi_malloc_small",
	"mi_new",
	"mi_heap_malloc",
	"mi_mallocn",
	"mi_reallocn",
	"mi_reallocf",
	"mi_free_size",
	"mi_free_aligned",
	"mi_posix_memalign",
	"mi_memalign",
	"mi_valloc",
	"mi_pvalloc",
	"mi_aligned_alloc",
	"tc_malloc",
	"tc_calloc",
	"tc_realloc",
	"tc_free",
	"tc_memalign",
	"tc_posix_memalign",
	"tc_valloc",
	"tc_pvalloc",
	"tc_new",
	"tc_delete",
	"tc_newarray",
	"tc_deletearray",
	"tc_free_sized",
	"tc_delete_sized",
	"_Znwm",
	"_Znam",
	"_ZdlPv",
	"_ZdaPv",
	"_ZdlPvm",
	"_ZdaPvm",
	"_ZnwmRKSt9nothrow_t",
	"_ZnamRKSt9nothrow_t",
	"_ZnwmSt11align_val_t",
	"_ZnamSt11align_val_t",
	"_ZdlPvSt11align_val_t",
	"_ZdaPvSt11align_val_t",
	"_ZdlPvmSt11align_val_t",
	"_ZdaPvmSt11align_val_t",
	"_ZdlPvRKSt9nothrow_t",
	"_ZdaPvRKSt9nothrow_t",
	"_ZnwmSt11align_val_tRKSt9nothrow_t",
	"_ZnamSt11align_val_tRKSt9nothrow_t",
};

/* Relocates at most `size` bytes; returns whether that was possible, and prints why not. */
static bool relocates(const uint8_t *bytes, size_t size, uint64_t from, uint64_t to, size_t min_bytes,
		      struct tm_relocated *out)
{
	_cleanup_error_ struct tm_error *err = tm_x86_64_relocate(bytes, size, from, to, min_bytes, out);

	if (err)
		printf("    min %zu: %s\n", min_bytes, err->message);
	return !err;
}

/* One line of the table; returns the number of relocations that a breakpoint needs and that were refused. */
static unsigned examine_function(const struct tm_elf_function *function, unsigned *refused_jumps)
{
	uint64_t to = (function->address & ~(uint64_t)0xfff) + 16 * MEGABYTE;
	struct tm_relocated entry = {0}, patch = {0}, exit;
	struct tm_exits exits;
	unsigned refused = 0;

	cr_assert_null(tm_x86_64_find_exits(function->bytes, function->size, function->address, &exits));
	refused += !relocates(function->bytes, function->size, function->address, to, 1, &entry);
	*refused_jumps += !relocates(function->bytes, function->size, function->address, to, 5, &patch);
	for (size_t i = 0; i < exits.return_count; i++) {
		size_t at = exits.returns[i] - function->address;

		refused +=
			!relocates(function->bytes + at, function->size - at, exits.returns[i], to, 1, &exit);
	}
	printf("  %-36s %6zu bytes  entry %zu -> %2zu  jump %zu -> %2zu  %3zu returns%s%s%s\n",
	       function->name, function->size, entry.consumed, entry.size, patch.consumed, patch.size,
	       exits.return_count, exits.only_returns ? ", nothing else" : "",
	       exits.tail_jumps ? ", leaves by jumps" : "",
	       exits.lowest_target < function->address + patch.consumed ? ", jumps into the patch" : "");
	tm_exits_deinit(&exits);
	return refused;
}

Test(x86_64_libraries, every_allocator_function_takes_a_breakpoint_and_a_jump)
{
	unsigned refused = 0, refused_jumps = 0, seen = 0;

	for (size_t i = 0; i < TM_ARRAY_SIZE(libraries); i++) {
		struct tm_elf_code code;

		if (!tm_elf_code_read(libraries[i], &code)) {
			printf("%s: not here\n", libraries[i]);
			continue;
		}
		printf("%s\n", libraries[i]);
		for (size_t k = 0; k < TM_ARRAY_SIZE(allocator_functions); k++) {
			const struct tm_elf_function *function =
				tm_elf_code_find(&code, allocator_functions[k]);

			if (!function)
				continue;
			refused += examine_function(function, &refused_jumps);
			seen++;
		}
		tm_elf_code_deinit(&code);
	}
	printf("%u functions, %u breakpoints refused, %u jumps refused\n", seen, refused, refused_jumps);
	if (!seen)
		cr_skip_test("no x86-64 library is installed");
	cr_assert_eq(refused, 0);
	cr_assert_eq(refused_jumps, 0);
}

/* ---- every instruction of the C library ---- */

#define REASONS_MAX 32

struct tally {
	unsigned long instructions, refused, system_calls, wrong;
	struct {
		char text[100];
		unsigned long count;
	} reasons[REASONS_MAX];
};

static void count_reason(struct tally *tally, const char *message)
{
	const char *reason = strstr(message, ": ");
	size_t i = 0;

	reason = reason ? reason + 2 : message;
	while (i < REASONS_MAX - 1 && tally->reasons[i].count && strcmp(tally->reasons[i].text, reason))
		i++;
	snprintf(tally->reasons[i].text, sizeof(tally->reasons[i].text), "%.99s", reason);
	tally->reasons[i].count++;
	tally->refused++;
}

static bool disassemble(csh handle, const uint8_t *bytes, size_t size, uint64_t address, cs_insn *insn)
{
	return cs_disasm_iter(handle, &bytes, &size, &address, insn);
}

/* What stands first in the pad for an instruction of this kind, by the disassembler's names. */
static bool is_counterpart(const char *moved, const char *original)
{
	if (strncmp(original, "call", 4) == 0)
		return strcmp(moved, "push") == 0;
	return strcmp(moved, original) == 0;
}

/* An instruction of the original that is copied names the same address in the pad. */
static bool same_reference(const struct tm_insn *original, uint64_t to, const struct tm_relocated *moved)
{
	struct tm_insn copy;

	if (original->kind == TM_INSN_CALL || original->kind == TM_INSN_CALL_INDIRECT)
		return true;
	return tm_x86_64_decode(moved->code, moved->size, to, &copy) && copy.refers == original->refers &&
	       copy.reference == original->reference;
}

/* The pad's first instruction means what the original did. The disassembler need not know it. */
static bool agrees(csh handle, cs_insn *insn, const uint8_t *bytes, uint64_t from, uint64_t to,
		   const struct tm_relocated *moved)
{
	char name[CS_MNEMONIC_SIZE];
	struct tm_insn original;

	if (moved->points[0].pad_offset != 0 || moved->points[0].original_pc != from ||
	    !tm_x86_64_decode(bytes, moved->consumed, from, &original) ||
	    !same_reference(&original, to, moved))
		return false;
	if (!disassemble(handle, bytes, moved->consumed, from, insn))
		return true;
	memcpy(name, insn->mnemonic, sizeof(name));
	return insn->size == moved->consumed && disassemble(handle, moved->code, moved->size, to, insn) &&
	       is_counterpart(insn->mnemonic, name);
}

static void move_one(struct tally *tally, csh handle, cs_insn *insn, const uint8_t *bytes, size_t size,
		     uint64_t from)
{
	struct tm_relocated moved;
	_cleanup_error_ struct tm_error *err =
		tm_x86_64_relocate(bytes, size, from, from + MEGABYTE, 1, &moved);

	tally->instructions++;
	if (err) {
		count_reason(tally, err->message);
		tally->system_calls += bytes[0] == 0x0f && bytes[1] == 0x05;
	} else if (!agrees(handle, insn, bytes, from, from + MEGABYTE, &moved)) {
		tally->wrong++;
		printf("%#lx: %s\n", (unsigned long)from, insn->mnemonic);
	}
}

static void print_tally(const struct tally *tally)
{
	printf("%lu instructions, %lu refused (%lu system calls), %lu wrong\n", tally->instructions,
	       tally->refused, tally->system_calls, tally->wrong);
	for (size_t i = 0; i < REASONS_MAX && tally->reasons[i].count; i++)
		printf("  %6lu  %s\n", tally->reasons[i].count, tally->reasons[i].text);
}

Test(x86_64_libraries, nearly_every_instruction_of_the_c_library_can_be_moved, .timeout = 110)
{
	struct tally tally = {0};
	struct tm_elf_code code;
	struct tm_insn decoded;
	cs_insn *insn;
	csh handle;

	if (!tm_elf_code_read(libraries[0], &code))
		cr_skip_test("no x86-64 C library is installed");
	cr_assert_eq(cs_open(CS_ARCH_X86, CS_MODE_64, &handle), CS_ERR_OK);
	insn = cs_malloc(handle);
	for (size_t at = 0; at < code.text_size; at += decoded.size) {
		cr_assert(tm_x86_64_decode(code.text + at, code.text_size - at, code.text_address + at,
					   &decoded),
			  "no instruction at %#lx", (unsigned long)(code.text_address + at));
		move_one(&tally, handle, insn, code.text + at, code.text_size - at, code.text_address + at);
	}
	print_tally(&tally);
	cr_assert_eq(tally.wrong, 0);
	cr_assert_lt((tally.refused - tally.system_calls) * 1000, tally.instructions * 5);
	cs_free(insn, 1);
	cs_close(&handle);
	tm_elf_code_deinit(&code);
}

Test(x86_64_libraries, returns_of_the_c_library_are_return_instructions)
{
	size_t sure = 0, returns = 0;
	struct tm_elf_code code;

	if (!tm_elf_code_read(libraries[0], &code))
		cr_skip_test("no x86-64 C library is installed");
	for (size_t i = 0; i < code.functions.count; i++) {
		const struct tm_elf_function *function = &code.functions.items[i];
		struct tm_exits exits;

		cr_assert_null(
			tm_x86_64_find_exits(function->bytes, function->size, function->address, &exits));
		for (size_t k = 0; k < exits.return_count; k++) {
			const uint8_t *at = function->bytes + (exits.returns[k] - function->address);

			cr_assert(at[0] == 0xc3 || at[0] == 0xc2 ||
				  ((at[0] & 0xfe) == 0xf2 && at[1] == 0xc3));
		}
		sure += exits.only_returns;
		returns += exits.return_count;
		tm_exits_deinit(&exits);
	}
	printf("%zu functions, %zu leave by returns alone, %zu returns\n", code.functions.count, sure,
	       returns);
	cr_assert_gt(sure, code.functions.count / 4);
	tm_elf_code_deinit(&code);
}
