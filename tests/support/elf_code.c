#include "support/elf_code.h"

#include <gelf.h>
#include <string.h>

#include "base/file.h"
#include "base/vector.h"

/* `size` bytes at a virtual address in a section, or NULL if they are not all in the file. */
static const uint8_t *section_bytes(const struct tm_elf_code *code, const GElf_Shdr *section,
				    uint64_t address, uint64_t size)
{
	uint64_t at = address - section->sh_addr;
	uint64_t end = section->sh_offset + at + size;

	if (section->sh_type == SHT_NOBITS || at > section->sh_size || size > section->sh_size - at ||
	    end > code->image_size)
		return NULL;
	return code->image + section->sh_offset + at;
}

static void add_function(Elf *elf, const char *name, const GElf_Sym *symbol, struct tm_elf_code *code)
{
	struct tm_elf_function function = {NULL, symbol->st_value, NULL, symbol->st_size};
	GElf_Shdr section;

	if (GELF_ST_TYPE(symbol->st_info) != STT_FUNC || !symbol->st_size || !name ||
	    !gelf_getshdr(elf_getscn(elf, symbol->st_shndx), &section))
		return;
	function.bytes = section_bytes(code, &section, symbol->st_value, symbol->st_size);
	function.name = function.bytes ? strdup(name) : NULL;
	if (function.name && !tm_vector_push(&code->functions, function))
		free(function.name);
}

static void add_functions(Elf *elf, Elf_Scn *scn, const GElf_Shdr *section, struct tm_elf_code *code)
{
	Elf_Data *data = elf_getdata(scn, NULL);
	size_t count = data && section->sh_entsize ? data->d_size / section->sh_entsize : 0;

	for (size_t i = 0; i < count; i++) {
		GElf_Sym symbol;

		if (gelf_getsym(data, (int)i, &symbol) && symbol.st_shndx != SHN_UNDEF &&
		    symbol.st_shndx < SHN_LORESERVE)
			add_function(elf, elf_strptr(elf, section->sh_link, symbol.st_name), &symbol, code);
	}
}

static void read_sections(Elf *elf, struct tm_elf_code *code)
{
	Elf_Scn *scn = NULL;
	size_t names;

	if (elf_getshdrstrndx(elf, &names))
		return;
	while ((scn = elf_nextscn(elf, scn))) {
		GElf_Shdr section;
		const char *name;

		if (!gelf_getshdr(scn, &section))
			continue;
		if (section.sh_type == SHT_DYNSYM || section.sh_type == SHT_SYMTAB)
			add_functions(elf, scn, &section, code);
		name = elf_strptr(elf, names, section.sh_name);
		if (!name || strcmp(name, ".text"))
			continue;
		code->text_address = section.sh_addr;
		code->text_size = section.sh_size;
		code->text = section_bytes(code, &section, section.sh_addr, section.sh_size);
	}
}

bool tm_elf_code_read(const char *path, struct tm_elf_code *code)
{
	_cleanup_error_ struct tm_error *err = NULL;
	GElf_Ehdr header;
	Elf *elf;

	memset(code, 0, sizeof(*code));
	err = tm_file_read_all(path, (char **)&code->image, &code->image_size);
	if (err)
		return false;
	elf_version(EV_CURRENT);
	elf = elf_memory((char *)code->image, code->image_size);
	if (elf && gelf_getehdr(elf, &header)) {
		code->machine = header.e_machine;
		read_sections(elf, code);
	}
	elf_end(elf);
	if (code->text)
		return true;
	tm_elf_code_deinit(code);
	return false;
}

void tm_elf_code_deinit(struct tm_elf_code *code)
{
	for (size_t i = 0; i < code->functions.count; i++)
		free(code->functions.items[i].name);
	tm_vector_deinit(&code->functions);
	free(code->image);
	memset(code, 0, sizeof(*code));
}

const struct tm_elf_function *tm_elf_code_find(const struct tm_elf_code *code, const char *name)
{
	for (size_t i = 0; i < code->functions.count; i++)
		if (strcmp(code->functions.items[i].name, name) == 0)
			return &code->functions.items[i];
	return NULL;
}
