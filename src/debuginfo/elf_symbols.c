#include "debuginfo/elf_symbols.h"

#include <string.h>

Elf64_Sym tm_elf_symbol(const struct tm_elf_symbols *symbols, size_t index)
{
	Elf64_Sym symbol;

	memcpy(&symbol, symbols->entries + index * sizeof(symbol), sizeof(symbol));
	return symbol;
}

const char *tm_elf_symbol_name(const struct tm_elf_symbols *symbols, const Elf64_Sym *symbol)
{
	return symbol->st_name < symbols->strings.size ? (const char *)symbols->strings.data + symbol->st_name
						       : "";
}

/* With the last byte NUL no name needs a check of its own. */
static struct tm_bytes cut_to_last_nul(struct tm_bytes strings)
{
	while (strings.size && strings.data[strings.size - 1])
		strings.size--;
	return strings;
}

static struct tm_error *set_tables(struct tm_elf_symbols *symbols, struct tm_bytes entries,
				   struct tm_bytes strings)
{
	if (!entries.data || !strings.data)
		return tm_error_create(TM_ERROR_BAD_FORMAT, "damaged ELF file: a symbol table lies outside");
	symbols->entries = entries.data;
	symbols->count = entries.size / sizeof(Elf64_Sym);
	symbols->strings = cut_to_last_nul(strings);
	return NULL;
}

static struct tm_error *by_section(const struct tm_elf *elf, const Elf64_Shdr *table,
				   struct tm_elf_symbols *symbols)
{
	Elf64_Shdr strings;

	if (table->sh_type == SHT_NOBITS)
		return NULL;
	if (table->sh_entsize != sizeof(Elf64_Sym) || !tm_elf_section(elf, table->sh_link, &strings))
		return tm_error_create(TM_ERROR_BAD_FORMAT,
				       "damaged ELF file: a symbol table without strings");
	return set_tables(symbols, tm_elf_section_bytes(elf, table), tm_elf_section_bytes(elf, &strings));
}

struct tm_error *tm_elf_symbols_static(const struct tm_elf *elf, struct tm_elf_symbols *symbols)
{
	Elf64_Shdr table;

	memset(symbols, 0, sizeof(*symbols));
	return tm_elf_find_section_type(elf, SHT_SYMTAB, &table) ? by_section(elf, &table, symbols) : NULL;
}

static uint32_t word(struct tm_bytes bytes, uint64_t index)
{
	uint32_t value = 0;

	if (index < bytes.size / sizeof(value))
		memcpy(&value, bytes.data + index * sizeof(value), sizeof(value));
	return value;
}

/* gABI, "Hash Table": nbucket, nchain, ...; nchain is the number of symbols. */
static size_t count_by_hash(const struct tm_elf *elf)
{
	uint64_t place;

	return tm_elf_dynamic(elf, DT_HASH, &place, NULL) ? word(tm_elf_at(elf, place), 1) : 0;
}

/*
 * DT_GNU_HASH does not say how many symbols there are: {nbuckets, symoffset, bloom_size, bloom_shift}, 64-bit
 * bloom words, a bucket's first symbol, and a chain word each symbol from symoffset on, odd at the end of its
 * bucket. So the last symbol is the end of the chain of the bucket that starts last (binutils, elflink.c).
 */
static size_t count_by_gnu_hash(const struct tm_elf *elf)
{
	struct tm_bytes table;
	uint64_t place, buckets, chains, bucket_count, first, last = 0;

	if (!tm_elf_dynamic(elf, DT_GNU_HASH, &place, NULL))
		return 0;
	table = tm_elf_at(elf, place);
	bucket_count = word(table, 0);
	first = word(table, 1);
	buckets = 4 + 2 * (uint64_t)word(table, 2);
	chains = buckets + bucket_count;
	for (uint64_t i = 0; i < bucket_count && buckets + i < table.size / 4; i++) {
		if (word(table, buckets + i) > last)
			last = word(table, buckets + i);
	}
	if (last < first)
		return first;
	while (chains + (last - first) < table.size / 4 && !(word(table, chains + (last - first)) & 1))
		last++;
	return last + 1;
}

static struct tm_error *by_dynamic(const struct tm_elf *elf, struct tm_elf_symbols *symbols)
{
	uint64_t entries, strings, strings_size;
	size_t count = count_by_hash(elf);

	if (!count)
		count = count_by_gnu_hash(elf);
	if (!count || !tm_elf_dynamic(elf, DT_SYMTAB, &entries, NULL) ||
	    !tm_elf_dynamic(elf, DT_STRTAB, &strings, NULL) ||
	    !tm_elf_dynamic(elf, DT_STRSZ, &strings_size, NULL))
		return NULL;
	return set_tables(symbols, tm_elf_at_exactly(elf, entries, count * sizeof(Elf64_Sym)),
			  tm_elf_at_exactly(elf, strings, strings_size));
}

struct tm_error *tm_elf_symbols_dynamic(const struct tm_elf *elf, struct tm_elf_symbols *symbols)
{
	Elf64_Shdr table;

	memset(symbols, 0, sizeof(*symbols));
	if (tm_elf_find_section_type(elf, SHT_DYNSYM, &table))
		return by_section(elf, &table, symbols);
	return by_dynamic(elf, symbols);
}

/* ---- by name ---- */

static bool is_named(const struct tm_elf_symbols *symbols, size_t index, const char *name)
{
	Elf64_Sym symbol = tm_elf_symbol(symbols, index);

	return symbol.st_shndx != SHN_UNDEF && strcmp(tm_elf_symbol_name(symbols, &symbol), name) == 0;
}

static size_t find_one_by_one(const struct tm_elf_symbols *symbols, const char *name)
{
	size_t i = 0;

	while (i < symbols->count && !is_named(symbols, i, name))
		i++;
	return i;
}

/* dl_new_hash of glibc's elf/dl-hash.h */
static uint32_t gnu_hash(const char *name)
{
	uint32_t hash = 5381;

	for (; *name; name++)
		hash = hash * 33 + (uint8_t)*name;
	return hash;
}

/* The bloom filter, one of whose 64-bit words has two bits for each name. */
static bool may_be_there(struct tm_bytes table, uint32_t hash)
{
	uint64_t words = word(table, 2), at = 4 + 2 * (words ? hash / 64 % words : 0);
	uint64_t bits = word(table, at) | (uint64_t)word(table, at + 1) << 32;

	return bits >> hash % 64 & bits >> (hash >> (word(table, 3) & 31)) % 64 & 1;
}

static size_t find_by_hash(struct tm_bytes table, const struct tm_elf_symbols *symbols, const char *name)
{
	uint32_t hash = gnu_hash(name), bucket_count = word(table, 0), first = word(table, 1), link = 0;
	uint64_t buckets = 4 + 2 * (uint64_t)word(table, 2), index;

	if (!bucket_count || !may_be_there(table, hash))
		return symbols->count;
	index = word(table, buckets + hash % bucket_count);
	for (; index && index >= first && index < symbols->count && !(link & 1); index++) {
		link = word(table, buckets + bucket_count + (index - first));
		if ((link | 1) == (hash | 1) && is_named(symbols, index, name))
			return index;
	}
	return symbols->count;
}

size_t tm_elf_symbols_find(const struct tm_elf *elf, const struct tm_elf_symbols *symbols, const char *name)
{
	uint64_t place;

	return tm_elf_dynamic(elf, DT_GNU_HASH, &place, NULL)
		       ? find_by_hash(tm_elf_at(elf, place), symbols, name)
		       : find_one_by_one(symbols, name);
}

static bool is_in_code(const struct tm_elf *elf, const Elf64_Sym *symbol)
{
	Elf64_Shdr section;
	Elf64_Phdr segment;

	if (tm_elf_section(elf, symbol->st_shndx, &section))
		return section.sh_flags & SHF_EXECINSTR;
	return tm_elf_segment_at(elf, symbol->st_value, &segment) && (segment.p_flags & PF_X);
}

bool tm_elf_symbol_is_code(const struct tm_elf *elf, const Elf64_Sym *symbol, const char *name)
{
	if (symbol->st_shndx == SHN_UNDEF || symbol->st_shndx == SHN_COMMON || !*name)
		return false;
	switch (ELF64_ST_TYPE(symbol->st_info)) {
	case STT_FUNC:
	case STT_GNU_IFUNC:
		return true;
	case STT_NOTYPE:
		return symbol->st_shndx != SHN_ABS && *name != '$' && is_in_code(elf, symbol);
	default:
		return false;
	}
}
