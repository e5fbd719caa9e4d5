#include <criterion/criterion.h>

#include <elf.h>
#include <string.h>
#include <sys/user.h>
#include <sys/utsname.h>

#include "arch/arch.h"

static const struct tm_arch *const both[] = {&tm_arch_x86_64, &tm_arch_aarch64};

static unsigned number_of(const struct tm_arch *arch, const char *name)
{
	for (unsigned i = 0; i < arch->register_count; i++)
		if (strcmp(arch->register_names[i], name) == 0)
			return i;
	cr_assert_fail("no register %s", name);
	return 0;
}

Test(arch, is_found_by_the_machine_of_an_elf_file)
{
	cr_assert_eq(tm_arch_by_machine(EM_X86_64), &tm_arch_x86_64);
	cr_assert_eq(tm_arch_by_machine(EM_AARCH64), &tm_arch_aarch64);
	cr_assert_null(tm_arch_by_machine(EM_386));
	cr_assert_null(tm_arch_by_machine(EM_NONE));
}

Test(arch, the_host_is_what_uname_says)
{
	struct utsname name;

	cr_assert_eq(uname(&name), 0);
	cr_assert_str_eq(tm_arch_host()->name, name.machine);
}

Test(arch, special_registers_have_their_names)
{
	cr_assert_str_eq(tm_arch_x86_64.register_names[tm_arch_x86_64.pc], "rip");
	cr_assert_str_eq(tm_arch_x86_64.register_names[tm_arch_x86_64.sp], "rsp");
	cr_assert_str_eq(tm_arch_x86_64.register_names[tm_arch_x86_64.fp], "rbp");
	cr_assert_str_eq(tm_arch_aarch64.register_names[tm_arch_aarch64.pc], "pc");
	cr_assert_str_eq(tm_arch_aarch64.register_names[tm_arch_aarch64.sp], "sp");
	cr_assert_str_eq(tm_arch_aarch64.register_names[tm_arch_aarch64.fp], "x29");
	cr_assert_str_eq(tm_arch_aarch64.register_names[tm_arch_aarch64.link], "x30");
}

/* psABI figure 3.36, aadwarf64 4.1. */
Test(arch, registers_have_their_dwarf_numbers)
{
	static const char *const order[] = {"rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8"};

	for (unsigned i = 0; i < TM_ARRAY_SIZE(order); i++)
		cr_assert_eq(number_of(&tm_arch_x86_64, order[i]), i);
	cr_assert_eq(number_of(&tm_arch_x86_64, "r15"), 15);
	cr_assert_eq(number_of(&tm_arch_aarch64, "x0"), 0);
	cr_assert_eq(number_of(&tm_arch_aarch64, "sp"), 31);
}

Test(arch, arguments_are_in_the_registers_of_the_abi)
{
	static const char *const x86_64[] = {"rdi", "rsi", "rdx", "rcx", "r8", "r9"};

	cr_assert_eq(tm_arch_x86_64.argument_count, 6);
	for (unsigned i = 0; i < 6; i++)
		cr_assert_eq(tm_arch_x86_64.arguments[i], number_of(&tm_arch_x86_64, x86_64[i]));
	cr_assert_eq(tm_arch_aarch64.argument_count, 8);
	for (unsigned i = 0; i < 8; i++)
		cr_assert_eq(tm_arch_aarch64.arguments[i], i);
	cr_assert_eq(tm_arch_x86_64.result, number_of(&tm_arch_x86_64, "rax"));
	cr_assert_eq(tm_arch_aarch64.result, 0);
}

Test(arch, callee_saved_registers_are_those_of_the_abi)
{
	static const char *const x86_64[] = {"rbx", "rbp", "r12", "r13", "r14", "r15"};
	uint64_t expected = 0;

	for (unsigned i = 0; i < TM_ARRAY_SIZE(x86_64); i++)
		expected |= (uint64_t)1 << number_of(&tm_arch_x86_64, x86_64[i]);
	cr_assert_eq(tm_arch_x86_64.callee_saved, expected);
	expected = 0;
	for (unsigned i = number_of(&tm_arch_aarch64, "x19"); i <= number_of(&tm_arch_aarch64, "x30"); i++)
		expected |= (uint64_t)1 << i;
	cr_assert_eq(tm_arch_aarch64.callee_saved, expected);
}

#ifdef __x86_64__
#define AT(field) offsetof(struct user_regs_struct, field)

Test(arch, x86_64_register_set_is_the_kernels)
{
	static const struct {
		const char *name;
		size_t offset;
	} rows[] = {
		{"rax", AT(rax)}, {"rdx", AT(rdx)}, {"rcx", AT(rcx)}, {"rbx", AT(rbx)}, {"rsi", AT(rsi)},
		{"rdi", AT(rdi)}, {"rbp", AT(rbp)}, {"rsp", AT(rsp)}, {"r8", AT(r8)},	{"r9", AT(r9)},
		{"r10", AT(r10)}, {"r11", AT(r11)}, {"r12", AT(r12)}, {"r13", AT(r13)}, {"r14", AT(r14)},
		{"r15", AT(r15)}, {"rip", AT(rip)},
	};

	cr_assert_eq(TM_ARRAY_SIZE(rows), tm_arch_x86_64.register_count);
	for (unsigned i = 0; i < TM_ARRAY_SIZE(rows); i++)
		cr_assert_eq(tm_arch_x86_64.regset_offsets[number_of(&tm_arch_x86_64, rows[i].name)],
			     rows[i].offset);
	cr_assert_eq(tm_arch_x86_64.regset_size, sizeof(struct user_regs_struct));
	cr_assert_eq(tm_arch_x86_64.syscall_restart, AT(orig_rax));
	cr_assert_eq(tm_arch_x86_64.syscall_arguments[3], AT(r10));
}
#endif

Test(arch, register_set_converts_there_and_back)
{
	for (unsigned i = 0; i < TM_ARRAY_SIZE(both); i++) {
		uint8_t regset[TM_REGSET_MAX], copy[TM_REGSET_MAX];
		struct tm_regs regs;

		cr_assert_leq(both[i]->regset_size, sizeof(regset));
		for (size_t k = 0; k < sizeof(regset); k++)
			regset[k] = (uint8_t)(k * 7 + 1);
		memcpy(copy, regset, sizeof(regset));
		tm_arch_regs_from_regset(both[i], regset, &regs);
		for (unsigned k = 0; k < both[i]->register_count; k++)
			memset(regset + both[i]->regset_offsets[k], 0, sizeof(uint64_t));
		tm_arch_regs_to_regset(both[i], &regs, regset);
		cr_assert_arr_eq(regset, copy, sizeof(regset)); /* and nothing else was touched */
	}
}

Test(arch, every_register_has_its_own_place)
{
	for (unsigned i = 0; i < TM_ARRAY_SIZE(both); i++)
		for (unsigned k = 0; k < both[i]->register_count; k++) {
			cr_assert_leq(both[i]->regset_offsets[k] + sizeof(uint64_t), both[i]->regset_size);
			for (unsigned l = 0; l < k; l++)
				cr_assert_neq(both[i]->regset_offsets[k], both[i]->regset_offsets[l]);
		}
}

Test(arch, a_breakpoint_instruction_cannot_be_moved)
{
	for (unsigned i = 0; i < TM_ARRAY_SIZE(both); i++) {
		struct tm_relocated moved;
		_cleanup_error_ struct tm_error *err = both[i]->relocate(
			both[i]->breakpoint, both[i]->breakpoint_size, 0x10000, 0x20000, 1, &moved);

		cr_assert_not_null(err);
		cr_assert_eq(err->code, TM_ERROR_UNSUPPORTED);
	}
}

Test(arch, a_system_call_instruction_cannot_be_moved)
{
	for (unsigned i = 0; i < TM_ARRAY_SIZE(both); i++) {
		struct tm_relocated moved;
		_cleanup_error_ struct tm_error *err = both[i]->relocate(
			both[i]->syscall_insn, both[i]->syscall_insn_size, 0x10000, 0x20000, 1, &moved);

		cr_assert_not_null(err);
		cr_assert_not_null(strstr(err->message, "kernel"));
	}
}

Test(arch, stripping_removes_the_authentication_code)
{
	uint64_t mask = tm_arch_aarch64.default_pac_mask;

	cr_assert_eq(tm_arch_strip(&tm_arch_aarch64, mask, 0x2a6caaaab70f0ba4), 0x0000aaaab70f0ba4);
	cr_assert_eq(tm_arch_strip(&tm_arch_x86_64, tm_arch_x86_64.default_pac_mask, 0x7f1234567890),
		     0x7f1234567890);
}
