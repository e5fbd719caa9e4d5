#include "arch/arch.h"

#include <string.h>

static const struct tm_arch *const all[] = {&tm_arch_x86_64, &tm_arch_aarch64};

const struct tm_arch *tm_arch_by_machine(uint16_t elf_machine)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(all); i++)
		if (all[i]->elf_machine == elf_machine)
			return all[i];
	return NULL;
}

const struct tm_arch *tm_arch_host(void)
{
#if defined(__x86_64__)
	return &tm_arch_x86_64;
#elif defined(__aarch64__)
	return &tm_arch_aarch64;
#else
#error "this host has no row in arch/"
#endif
}

void tm_arch_regs_from_regset(const struct tm_arch *arch, const void *regset, struct tm_regs *regs)
{
	memset(regs, 0, sizeof(*regs));
	for (unsigned i = 0; i < arch->register_count; i++)
		memcpy(&regs->value[i], (const uint8_t *)regset + arch->regset_offsets[i], sizeof(uint64_t));
	if (arch->thread_pointer_offset)
		memcpy(&regs->thread_pointer, (const uint8_t *)regset + arch->thread_pointer_offset,
		       sizeof(uint64_t));
}

void tm_arch_regs_to_regset(const struct tm_arch *arch, const struct tm_regs *regs, void *regset)
{
	for (unsigned i = 0; i < arch->register_count; i++)
		memcpy((uint8_t *)regset + arch->regset_offsets[i], &regs->value[i], sizeof(uint64_t));
}

void tm_exits_deinit(struct tm_exits *exits)
{
	free(exits->returns);
	free(exits->ways);
	exits->returns = NULL;
	exits->ways = NULL;
	exits->return_count = exits->way_count = 0;
}
