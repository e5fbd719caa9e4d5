#include "support/cfi_image.h"

#include <assert.h>
#include <dwarf.h>
#include <elf.h>
#include <string.h>

#define CFI_PLACE 0x2000

void tm_cfi_image_init(struct tm_cfi_image *image, uint16_t machine, size_t code_size)
{
	memset(image, 0, sizeof(*image));
	assert(code_size <= sizeof(image->code));
	image->machine = machine;
	image->code_size = code_size;
}

static void put(struct tm_cfi_image *image, const void *bytes, size_t size)
{
	assert(image->cfi_size + size <= sizeof(image->cfi));
	memcpy(image->cfi + image->cfi_size, bytes, size);
	image->cfi_size += size;
}

static void put32(struct tm_cfi_image *image, uint32_t value)
{
	put(image, &value, sizeof(value));
}

static void put64(struct tm_cfi_image *image, uint64_t value)
{
	put(image, &value, sizeof(value));
}

/* Pads an entry with DW_CFA_nop and fills in its length, which does not count itself. */
static void end_entry(struct tm_cfi_image *image, size_t start)
{
	uint32_t length;

	while (image->cfi_size % 8)
		put(image, &(uint8_t){DW_CFA_nop}, 1);
	length = (uint32_t)(image->cfi_size - start - sizeof(length));
	memcpy(image->cfi + start, &length, sizeof(length));
}

static void put_cie(struct tm_cfi_image *image, bool is_signal)
{
	static const uint8_t x86_64[] = {
		1, 0x78, 16, 1, DW_EH_PE_absptr, DW_CFA_def_cfa, 7, 8, DW_CFA_offset | 16, 1};
	static const uint8_t aarch64[] = {1, 0x78, 30, 1, DW_EH_PE_absptr, DW_CFA_def_cfa, 31, 8};

	put32(image, 0); /* length: later */
	put32(image, image->is_debug_frame ? 0xffffffff : 0);
	put(image, &(uint8_t){1}, 1); /* version */
	if (is_signal)
		put(image, "zRS", 4);
	else
		put(image, "zR", 3);
	if (image->machine == EM_X86_64)
		put(image, x86_64, sizeof(x86_64));
	else
		put(image, aarch64, sizeof(aarch64));
}

void tm_cfi_image_add(struct tm_cfi_image *image, bool is_signal, uint64_t start, uint64_t size,
		      const uint8_t *program, size_t program_size)
{
	size_t cie = image->cfi_size, fde;

	put_cie(image, is_signal);
	end_entry(image, cie);
	fde = image->cfi_size;
	put32(image, 0);
	/* .eh_frame: the distance back to the CIE; .debug_frame: its offset in the section. */
	put32(image, (uint32_t)(image->is_debug_frame ? cie : fde + 4 - cie));
	put64(image, start);
	put64(image, size);
	put(image, &(uint8_t){0}, 1); /* no augmentation data */
	put(image, program, program_size);
	end_entry(image, fde);
}

void tm_cfi_image_finish(struct tm_cfi_image *image)
{
	static const char names[] = "\0.text\0.eh_frame\0.debug_frame\0.shstrtab";
	size_t names_place = CFI_PLACE + image->cfi_size,
	       headers_place = (names_place + sizeof(names) + 7) / 8 * 8;
	Elf64_Ehdr header = {
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_DYN,
		.e_machine = image->machine,
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(header),
		.e_shoff = headers_place,
		.e_ehsize = sizeof(header),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 1,
		.e_shentsize = sizeof(Elf64_Shdr),
		.e_shnum = 4,
		.e_shstrndx = 3};
	Elf64_Phdr load = {.p_type = PT_LOAD,
			   .p_flags = PF_R | PF_X,
			   .p_filesz = names_place,
			   .p_memsz = names_place,
			   .p_align = 0x1000};
	uint64_t flags = image->is_debug_frame ? 0 : SHF_ALLOC;
	Elf64_Shdr sections[4] = {
		[1] = {.sh_name = 1,
		       .sh_type = SHT_PROGBITS,
		       .sh_flags = SHF_ALLOC | SHF_EXECINSTR,
		       .sh_addr = TM_CFI_IMAGE_TEXT,
		       .sh_offset = TM_CFI_IMAGE_TEXT,
		       .sh_size = image->code_size,
		       .sh_addralign = 16},
		[2] = {.sh_name = image->is_debug_frame ? 17 : 7,
		       .sh_type = SHT_PROGBITS,
		       .sh_flags = flags,
		       .sh_addr = flags ? CFI_PLACE : 0,
		       .sh_offset = CFI_PLACE,
		       .sh_size = image->cfi_size,
		       .sh_addralign = 8},
		[3] = {.sh_name = 30,
		       .sh_type = SHT_STRTAB,
		       .sh_offset = names_place,
		       .sh_size = sizeof(names),
		       .sh_addralign = 1},
	};

	image->file_size = headers_place + sizeof(sections);
	assert(image->file_size <= sizeof(image->file));
	memcpy(image->file, &header, sizeof(header));
	memcpy(image->file + sizeof(header), &load, sizeof(load));
	memcpy(image->file + TM_CFI_IMAGE_TEXT, image->code, image->code_size);
	memcpy(image->file + CFI_PLACE, image->cfi, image->cfi_size);
	memcpy(image->file + names_place, names, sizeof(names));
	memcpy(image->file + headers_place, sections, sizeof(sections));
}
