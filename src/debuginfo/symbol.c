#include "debuginfo/symbol.h"

#include <string.h>
#include <sys/mman.h>

#include "base/strbuf.h"
#include "debuginfo/debug_file.h"
#include "debuginfo/elf_symbols.h"
#include "debuginfo/module_file.h"

/* ---- functions ------------------------------------------------------------------------------ */

struct visitor {
	bool (*visit)(const struct tm_symbol *symbol, void *context);
	void *context;
	enum tm_symbol_table table;
	struct tm_strbuf name; /* of a symbol whose version was cut off */
};

/* "name@VERSION" and "name@@VERSION" (the default one), as .symtab spells them. */
static const char *without_version(struct visitor *visitor, const char *name)
{
	size_t length = (size_t)(strchrnul(name, '@') - name);

	if (!name[length] || !length)
		return name;
	visitor->name.length = 0;
	tm_strbuf_append(&visitor->name, name, length);
	return visitor->name.failed ? name : visitor->name.text;
}

static void visit_functions(const struct tm_elf *elf, const struct tm_elf_symbols *symbols,
			    struct visitor *visitor)
{
	for (size_t i = 0; i < symbols->count; i++) {
		Elf64_Sym entry = tm_elf_symbol(symbols, i);
		const char *name = tm_elf_symbol_name(symbols, &entry);
		struct tm_symbol symbol;

		if (!tm_elf_symbol_is_code(elf, &entry, name))
			continue;
		symbol = (struct tm_symbol){
			.name = without_version(visitor, name),
			.vaddr = entry.st_value,
			.size = entry.st_size,
			.is_ifunc = ELF64_ST_TYPE(entry.st_info) == STT_GNU_IFUNC,
			.table = visitor->table,
		};
		if (!visitor->visit(&symbol, visitor->context))
			return;
	}
}

static struct tm_error *visit_table(const struct tm_elf *elf, struct visitor *visitor)
{
	struct tm_elf_symbols symbols;
	struct tm_error *err = visitor->table == TM_SYMBOLS_DYNAMIC ? tm_elf_symbols_dynamic(elf, &symbols)
								    : tm_elf_symbols_static(elf, &symbols);

	if (!err)
		visit_functions(elf, &symbols, visitor);
	return err;
}

static struct tm_error *visit_debug_file(const struct tm_module_map *map, const struct tm_module *module,
					 struct visitor *visitor)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_close_ int fd = tm_module_open_debug_file(map, module, &path);
	struct tm_bytes bytes;
	struct tm_error *err;
	struct tm_elf elf;

	if (fd < 0)
		return NULL;
	bytes = tm_debug_file_map(fd);
	if (!bytes.data)
		return NULL;
	err = tm_elf_init(&elf, bytes.data, bytes.size);
	if (!err)
		err = visit_table(&elf, visitor);
	munmap((void *)bytes.data, bytes.size);
	return err ? tm_error_prefix(err, "%s", path) : NULL;
}

struct tm_error *tm_module_each_symbol(struct tm_module_map *map, struct tm_module *module,
				       enum tm_symbol_table table,
				       bool (*visit)(const struct tm_symbol *symbol, void *context),
				       void *context)
{
	struct visitor visitor = {.visit = visit, .context = context, .table = table};
	struct tm_error *err = NULL;
	struct tm_elf elf;

	if (table == TM_SYMBOLS_DEBUG_FILE)
		err = visit_debug_file(map, module, &visitor);
	else if (tm_module_elf(module, &elf))
		err = visit_table(&elf, &visitor);
	tm_strbuf_deinit(&visitor.name);
	return err ? tm_error_prefix(err, "%s", module->path) : NULL;
}

int tm_module_open_debug_file(const struct tm_module_map *map, const struct tm_module *module, char **path)
{
	return tm_debug_file_open(tm_module_map_source(map)->root_fd, module, path);
}

bool tm_module_find_dynamic_symbol(const struct tm_module *module, const char *name, struct tm_symbol *symbol)
{
	_cleanup_error_ struct tm_error *err = NULL;
	struct tm_elf_symbols symbols;
	struct tm_elf elf;
	Elf64_Sym entry;
	size_t found;

	if (!tm_module_elf(module, &elf))
		return false;
	err = tm_elf_symbols_dynamic(&elf, &symbols);
	found = err ? 0 : tm_elf_symbols_find(&elf, &symbols, name);
	if (err || found == symbols.count)
		return false;
	entry = tm_elf_symbol(&symbols, found);
	*symbol = (struct tm_symbol){
		.name = tm_elf_symbol_name(&symbols, &entry),
		.vaddr = entry.st_value,
		.size = entry.st_size,
		.is_ifunc = ELF64_ST_TYPE(entry.st_info) == STT_GNU_IFUNC,
		.table = TM_SYMBOLS_DYNAMIC,
	};
	return true;
}

bool tm_module_dynamic_entry(const struct tm_module *module, int64_t tag, uint64_t *vaddr_of_value)
{
	struct tm_elf elf;
	uint64_t value;

	return tm_module_elf(module, &elf) && tm_elf_dynamic(&elf, tag, &value, vaddr_of_value);
}

/* ---- relocations ---------------------------------------------------------------------------- */

/* The relocations that make a word the address of a function. */
static const struct relocation_types {
	uint16_t machine;
	uint32_t jump_slot, glob_dat, irelative;
} relocation_types[] = {
	{EM_X86_64, R_X86_64_JUMP_SLOT, R_X86_64_GLOB_DAT, R_X86_64_IRELATIVE},
	{EM_AARCH64, R_AARCH64_JUMP_SLOT, R_AARCH64_GLOB_DAT, R_AARCH64_IRELATIVE},
};

struct slot_search {
	struct tm_elf elf;
	const struct relocation_types *types;
	struct tm_elf_symbols symbols;
	const char *name; /* NULL: of whatever name */
	uint64_t resolver_vaddr;
	bool (*visit)(uint64_t slot_vaddr, void *context);
	void *context;
	const char *visited_name; /* of the word that is visited */
};

static bool is_wanted(struct slot_search *search, const Elf64_Rela *relocation)
{
	uint32_t type = ELF64_R_TYPE(relocation->r_info);
	size_t index = ELF64_R_SYM(relocation->r_info);
	Elf64_Sym symbol;

	if (type == search->types->irelative)
		return search->resolver_vaddr && (uint64_t)relocation->r_addend == search->resolver_vaddr;
	if ((type != search->types->jump_slot && type != search->types->glob_dat) ||
	    index >= search->symbols.count)
		return false;
	symbol = tm_elf_symbol(&search->symbols, index);
	search->visited_name = tm_elf_symbol_name(&search->symbols, &symbol);
	return !search->name || strcmp(search->visited_name, search->name) == 0;
}

/* False when the visitor has enough. */
static bool visit_relocations(struct slot_search *search, struct tm_bytes table)
{
	for (size_t i = 0; i < table.size / sizeof(Elf64_Rela); i++) {
		Elf64_Rela relocation;

		memcpy(&relocation, table.data + i * sizeof(relocation), sizeof(relocation));
		if (is_wanted(search, &relocation) && !search->visit(relocation.r_offset, search->context))
			return false;
	}
	return true;
}

static struct tm_error *visit_dynamic_relocations(struct slot_search *search)
{
	static const struct {
		int64_t place, size;
	} tables[] = {{DT_JMPREL, DT_PLTRELSZ}, {DT_RELA, DT_RELASZ}};

	for (size_t i = 0; i < TM_ARRAY_SIZE(tables); i++) {
		struct tm_bytes table;
		uint64_t place, size;

		if (!tm_elf_dynamic(&search->elf, tables[i].place, &place, NULL) ||
		    !tm_elf_dynamic(&search->elf, tables[i].size, &size, NULL) || !size)
			continue;
		table = tm_elf_at_exactly(&search->elf, place, size);
		if (!table.data)
			return tm_error_create(TM_ERROR_BAD_FORMAT,
					       "damaged ELF file: relocations lie outside");
		if (!visit_relocations(search, table))
			break;
	}
	return NULL;
}

/* A static executable has no PT_DYNAMIC: its IRELATIVE relocations stand between __rela_iplt_start and _end.
 */
static void visit_static_relocations(struct slot_search *search)
{
	Elf64_Shdr section;

	for (size_t i = 1; i < search->elf.section_count; i++) {
		if (tm_elf_section(&search->elf, i, &section) && section.sh_type == SHT_RELA &&
		    (section.sh_flags & SHF_ALLOC) &&
		    !visit_relocations(search, tm_elf_section_bytes(&search->elf, &section)))
			return;
	}
}

static struct tm_error *search_slots(const struct tm_module *module, struct slot_search *search)
{
	struct tm_error *err;
	Elf64_Phdr dynamic;

	if (!tm_module_elf(module, &search->elf))
		return NULL;
	for (size_t i = 0; i < TM_ARRAY_SIZE(relocation_types); i++) {
		if (relocation_types[i].machine == search->elf.header.e_machine)
			search->types = &relocation_types[i];
	}
	if (!search->types)
		return NULL;
	err = tm_elf_symbols_dynamic(&search->elf, &search->symbols);
	if (!err && tm_elf_find_segment(&search->elf, PT_DYNAMIC, &dynamic))
		err = visit_dynamic_relocations(search);
	else if (!err)
		visit_static_relocations(search);
	return err ? tm_error_prefix(err, "%s", module->path) : NULL;
}

struct tm_error *tm_module_each_got_slot(const struct tm_module *module, const char *name,
					 uint64_t resolver_vaddr,
					 bool (*visit)(uint64_t slot_vaddr, void *context), void *context)
{
	struct slot_search search = {
		.name = name, .resolver_vaddr = resolver_vaddr, .visit = visit, .context = context};

	return search_slots(module, &search);
}

struct name_search {
	struct slot_search *slots;
	uint64_t slot_vaddr;
	const char *name;
};

static bool compare_slot(uint64_t slot_vaddr, void *context)
{
	struct name_search *search = context;

	if (slot_vaddr != search->slot_vaddr)
		return true;
	search->name = search->slots->visited_name;
	return false;
}

const char *tm_module_got_slot_name(const struct tm_module *module, uint64_t slot_vaddr)
{
	struct slot_search slots = {.visit = compare_slot};
	struct name_search search = {&slots, slot_vaddr, NULL};

	slots.context = &search;
	tm_error_destroy(search_slots(module, &slots)); /* a damaged module has no slots */
	return search.name;
}
