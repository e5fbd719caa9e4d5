#include "debuginfo/symbol_names.h"

#include <string.h>

#include "debuginfo/elf_symbols.h"

/* The end of the section, or segment, that holds a symbol of unknown size. */
static uint64_t furthest_end(const struct tm_elf *elf, const Elf64_Sym *symbol)
{
	Elf64_Shdr section;
	Elf64_Phdr segment;

	if (tm_elf_section(elf, symbol->st_shndx, &section))
		return section.sh_addr + section.sh_size;
	if (tm_elf_segment_at(elf, symbol->st_value, &segment))
		return segment.p_vaddr + segment.p_filesz;
	return symbol->st_value;
}

/*
 * Of aliases the one that a reader knows has the lowest rank: global before weak before local, a typed one
 * before a label, few leading underscores (malloc before __libc_malloc).
 */
static unsigned rank_of(const Elf64_Sym *symbol, const char *name)
{
	static const uint8_t by_binding[16] = {[STB_LOCAL] = 2, [STB_GLOBAL] = 0, [STB_WEAK] = 1};
	unsigned underscores = (unsigned)strspn(name, "_");
	unsigned rank = by_binding[ELF64_ST_BIND(symbol->st_info)] * 4u;

	/* All mangled names start with one. */
	if (strncmp(name, "_Z", 2) == 0 || strncmp(name, "_R", 2) == 0)
		underscores = 0;
	rank += underscores < 3 ? underscores : 3;
	if (ELF64_ST_TYPE(symbol->st_info) == STT_NOTYPE)
		rank += 16;
	return symbol->st_size ? rank : rank + TM_RANGE_GUESSED;
}

static bool add_symbols(struct tm_symbol_names *names, const struct tm_elf *elf,
			const struct tm_elf_symbols *symbols)
{
	for (size_t i = 0; i < symbols->count; i++) {
		Elf64_Sym symbol = tm_elf_symbol(symbols, i);
		const char *name = tm_elf_symbol_name(symbols, &symbol);
		uint64_t end;

		if (!tm_elf_symbol_is_code(elf, &symbol, name))
			continue;
		end = symbol.st_size ? symbol.st_value + symbol.st_size : furthest_end(elf, &symbol);
		if (!tm_range_index_add(&names->ranges, symbol.st_value, end, rank_of(&symbol, name),
					(uint64_t)(uintptr_t)name))
			return false;
	}
	return true;
}

bool tm_symbol_names_init(struct tm_symbol_names *names, const struct tm_elf *elf)
{
	struct tm_error *(*const tables[])(const struct tm_elf *, struct tm_elf_symbols *) = {
		tm_elf_symbols_dynamic, tm_elf_symbols_static};

	memset(names, 0, sizeof(*names));
	for (size_t i = 0; i < TM_ARRAY_SIZE(tables); i++) {
		struct tm_elf_symbols symbols;
		_cleanup_error_ struct tm_error *err = tables[i](elf, &symbols);

		if (!err && !add_symbols(names, elf, &symbols)) {
			tm_symbol_names_deinit(names);
			return false;
		}
	}
	return tm_range_index_sort(&names->ranges);
}

void tm_symbol_names_deinit(struct tm_symbol_names *names)
{
	tm_range_index_deinit(&names->ranges);
}

const char *tm_symbol_names_find(const struct tm_symbol_names *names, uint64_t vaddr)
{
	const struct tm_range *range = tm_range_index_find(&names->ranges, vaddr);

	return range ? (const char *)(uintptr_t)range->value : NULL;
}
