#include "debuginfo/elf_image.h"

#include <stdlib.h>
#include <string.h>

#define SEGMENTS_MAX 1024 /* real files have some ten; each look-up of an address goes through all */

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "headers are read as they stand: a little-endian host is assumed"
#endif

struct tm_bytes tm_elf_range(const struct tm_elf *elf, uint64_t offset, uint64_t size)
{
	if (offset > elf->file.size || size > elf->file.size - offset)
		return (struct tm_bytes){0};
	return (struct tm_bytes){elf->file.data + offset, size};
}

/* Entry `index` of a table in the file; tables of a damaged file may stand at any alignment. */
static bool read_entry(const struct tm_elf *elf, uint64_t table, size_t index, void *entry, size_t size)
{
	struct tm_bytes bytes;
	uint64_t offset;

	if (__builtin_mul_overflow((uint64_t)index, (uint64_t)size, &offset) ||
	    __builtin_add_overflow(offset, table, &offset))
		return false;
	bytes = tm_elf_range(elf, offset, size);
	if (!bytes.data)
		return false;
	memcpy(entry, bytes.data, size);
	return true;
}

static struct tm_error *check_identification(const Elf64_Ehdr *header)
{
	if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
		return tm_error_create(TM_ERROR_BAD_FORMAT, "not an ELF file");
	if (header->e_ident[EI_CLASS] != ELFCLASS64)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "not a 64-bit ELF file");
	if (header->e_ident[EI_DATA] != ELFDATA2LSB)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "not a little-endian ELF file");
	return NULL;
}

/* gABI, "ELF Header": counts that do not fit their field stand in section 0. */
static void find_sections(struct tm_elf *elf)
{
	const Elf64_Ehdr *header = &elf->header;
	Elf64_Shdr first;

	if (!header->e_shoff || header->e_shentsize != sizeof(first) ||
	    !read_entry(elf, header->e_shoff, 0, &first, sizeof(first)))
		return;
	elf->section_count = header->e_shnum ? header->e_shnum : first.sh_size;
	elf->section_names = header->e_shstrndx == SHN_XINDEX ? first.sh_link : header->e_shstrndx;
	if (elf->section_count > (elf->file.size - header->e_shoff) / sizeof(first))
		elf->section_count = 0;
}

struct tm_error *tm_elf_init(struct tm_elf *elf, const void *bytes, size_t size)
{
	struct tm_error *err;
	Elf64_Phdr segment;

	memset(elf, 0, sizeof(*elf));
	elf->file = (struct tm_bytes){bytes, size};
	if (!read_entry(elf, 0, 0, &elf->header, sizeof(elf->header)))
		return tm_error_create(TM_ERROR_BAD_FORMAT, "not an ELF file: %zu bytes", size);
	err = check_identification(&elf->header);
	if (err)
		return err;
	find_sections(elf);
	elf->segment_count = elf->header.e_phnum;
	if (elf->segment_count &&
	    (elf->header.e_phentsize != sizeof(segment) ||
	     !read_entry(elf, elf->header.e_phoff, elf->segment_count - 1, &segment, sizeof(segment))))
		return tm_error_create(TM_ERROR_BAD_FORMAT,
				       "damaged ELF file: its program headers lie outside");
	return NULL;
}

Elf64_Phdr tm_elf_segment(const struct tm_elf *elf, size_t index)
{
	Elf64_Phdr segment = {0};

	read_entry(elf, elf->header.e_phoff, index, &segment, sizeof(segment));
	return segment;
}

bool tm_elf_find_segment(const struct tm_elf *elf, uint32_t type, Elf64_Phdr *segment)
{
	for (size_t i = 0; i < elf->segment_count; i++) {
		*segment = tm_elf_segment(elf, i);
		if (segment->p_type == type)
			return true;
	}
	return false;
}

bool tm_elf_segment_at(const struct tm_elf *elf, uint64_t vaddr, Elf64_Phdr *segment)
{
	for (size_t i = 0; i < elf->segment_count; i++) {
		*segment = tm_elf_segment(elf, i);
		if (segment->p_type == PT_LOAD && vaddr >= segment->p_vaddr &&
		    vaddr - segment->p_vaddr < segment->p_filesz)
			return true;
	}
	return false;
}

struct tm_bytes tm_elf_at(const struct tm_elf *elf, uint64_t vaddr)
{
	struct tm_bytes whole;
	Elf64_Phdr segment;
	uint64_t skipped;

	if (!tm_elf_segment_at(elf, vaddr, &segment))
		return (struct tm_bytes){0};
	whole = tm_elf_range(elf, segment.p_offset, segment.p_filesz);
	skipped = vaddr - segment.p_vaddr;
	if (!whole.data)
		return whole;
	return (struct tm_bytes){whole.data + skipped, whole.size - skipped};
}

struct tm_bytes tm_elf_at_exactly(const struct tm_elf *elf, uint64_t vaddr, uint64_t size)
{
	struct tm_bytes bytes = tm_elf_at(elf, vaddr);

	if (!bytes.data || bytes.size < size)
		return (struct tm_bytes){0};
	bytes.size = size;
	return bytes;
}

bool tm_elf_section(const struct tm_elf *elf, size_t index, Elf64_Shdr *section)
{
	return index < elf->section_count &&
	       read_entry(elf, elf->header.e_shoff, index, section, sizeof(*section));
}

struct tm_bytes tm_elf_section_bytes(const struct tm_elf *elf, const Elf64_Shdr *section)
{
	if (section->sh_type == SHT_NOBITS)
		return (struct tm_bytes){0};
	return tm_elf_range(elf, section->sh_offset, section->sh_size);
}

bool tm_elf_find_section(const struct tm_elf *elf, const char *name, Elf64_Shdr *section)
{
	struct tm_bytes names;

	if (!tm_elf_section(elf, elf->section_names, section))
		return false;
	names = tm_elf_section_bytes(elf, section);
	for (size_t i = 1; i < elf->section_count; i++) {
		const char *found;

		if (!tm_elf_section(elf, i, section))
			return false;
		found = tm_elf_string(names, section->sh_name);
		if (found && strcmp(found, name) == 0)
			return true;
	}
	return false;
}

bool tm_elf_find_section_type(const struct tm_elf *elf, uint32_t type, Elf64_Shdr *section)
{
	for (size_t i = 1; i < elf->section_count; i++) {
		if (tm_elf_section(elf, i, section) && section->sh_type == type)
			return true;
	}
	return false;
}

const char *tm_elf_string(struct tm_bytes table, uint64_t index)
{
	if (!table.data || index >= table.size || !memchr(table.data + index, '\0', table.size - index))
		return NULL;
	return (const char *)table.data + index;
}

static size_t align_up(size_t size, size_t alignment)
{
	return (size + alignment - 1) & ~(alignment - 1);
}

/* gABI, "Note Section": name and descriptor are padded to 4 bytes, or to 8 where the segment is aligned to 8.
 */
static struct tm_bytes find_build_id(struct tm_bytes notes, size_t alignment)
{
	Elf64_Nhdr note;
	size_t name_size, descriptor_size;

	while (notes.size >= sizeof(note)) {
		memcpy(&note, notes.data, sizeof(note));
		notes = (struct tm_bytes){notes.data + sizeof(note), notes.size - sizeof(note)};
		/* The header is 12 bytes: with 8-byte alignment the descriptor follows header + name, padded
		 * together. */
		name_size = align_up(sizeof(note) + note.n_namesz, alignment) - sizeof(note);
		descriptor_size = align_up(note.n_descsz, alignment);
		if (name_size > notes.size || note.n_descsz > notes.size - name_size)
			break;
		if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof(ELF_NOTE_GNU) &&
		    memcmp(notes.data, ELF_NOTE_GNU, sizeof(ELF_NOTE_GNU)) == 0)
			return (struct tm_bytes){notes.data + name_size, note.n_descsz};
		if (descriptor_size > notes.size - name_size)
			break;
		notes.data += name_size + descriptor_size;
		notes.size -= name_size + descriptor_size;
	}
	return (struct tm_bytes){0};
}

/* A debug file's PT_NOTE may point at bytes that objcopy --only-keep-debug left out: its section is asked
 * then. */
static struct tm_bytes build_id_of_section(const struct tm_elf *elf)
{
	Elf64_Shdr section;

	if (!tm_elf_find_section(elf, ".note.gnu.build-id", &section))
		return (struct tm_bytes){0};
	return find_build_id(tm_elf_section_bytes(elf, &section), 4);
}

struct tm_bytes tm_elf_build_id(const struct tm_elf *elf)
{
	for (size_t i = 0; i < elf->segment_count; i++) {
		Elf64_Phdr segment = tm_elf_segment(elf, i);
		struct tm_bytes notes, id;

		if (segment.p_type != PT_NOTE)
			continue;
		notes = tm_elf_range(elf, segment.p_offset, segment.p_filesz);
		id = find_build_id(notes, segment.p_align == 8 ? 8 : 4);
		if (id.data && id.size)
			return id;
	}
	return build_id_of_section(elf);
}

char *tm_elf_hex(struct tm_bytes bytes)
{
	static const char digits[] = "0123456789abcdef";
	char *text = bytes.size ? malloc(bytes.size * 2 + 1) : NULL;

	if (!text)
		return NULL;
	for (size_t i = 0; i < bytes.size; i++) {
		text[2 * i] = digits[bytes.data[i] >> 4];
		text[2 * i + 1] = digits[bytes.data[i] & 15];
	}
	text[2 * bytes.size] = '\0';
	return text;
}

char *tm_elf_build_id_text(const struct tm_elf *elf)
{
	return tm_elf_hex(tm_elf_build_id(elf));
}

bool tm_elf_dynamic(const struct tm_elf *elf, int64_t tag, uint64_t *value, uint64_t *place)
{
	Elf64_Phdr segment;
	Elf64_Dyn entry;

	if (!tm_elf_find_segment(elf, PT_DYNAMIC, &segment))
		return false;
	for (uint64_t at = 0; at + sizeof(entry) <= segment.p_filesz; at += sizeof(entry)) {
		if (!read_entry(elf, segment.p_offset, at / sizeof(entry), &entry, sizeof(entry)))
			return false;
		if (entry.d_tag == tag) {
			*value = entry.d_un.d_val;
			if (place)
				*place = segment.p_vaddr + at + offsetof(Elf64_Dyn, d_un);
			return true;
		}
		if (entry.d_tag == DT_NULL)
			return false;
	}
	return false;
}
