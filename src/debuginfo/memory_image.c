#include "debuginfo/memory_image.h"

#include <string.h>
#include <sys/mman.h>

#define HEADERS_MAX  65536u
#define BUILD_ID_MAX 4096u
#define CHUNK	     65536u
#define PAGE	     4096u
#define EXTENT_MAX   (UINT64_C(4) << 30) /* address space of ours for a sparse copy */
#define COPIED_MAX   (UINT64_C(256) << 20)

/* A mapping that holds this offset of the file: a read-only one if there is any, its bytes are the file's. */
static const struct tm_mapping *mapping_of_offset(const struct tm_mapping_group *group, uint64_t offset)
{
	const struct tm_mapping *found = NULL;

	for (size_t i = 0; i < group->count; i++) {
		const struct tm_mapping *mapping = group->items[i];

		if (!mapping->readable || offset < mapping->offset ||
		    offset - mapping->offset >= mapping->end - mapping->start)
			continue;
		if (!mapping->writable)
			return mapping;
		if (!found)
			found = mapping;
	}
	return found;
}

struct tm_error *tm_memory_image_read(const struct tm_memory *memory, const struct tm_mapping_group *group,
				      uint64_t offset, void *buffer, size_t size)
{
	uint8_t *to = buffer;

	while (size) {
		const struct tm_mapping *mapping = mapping_of_offset(group, offset);
		struct tm_error *err;
		uint64_t address, piece;

		if (!mapping || !memory->read)
			return tm_error_create(TM_ERROR_NO_MEMORY,
					       "offset %#llx of the file is not mapped readable",
					       (unsigned long long)offset);
		address = mapping->start + (offset - mapping->offset);
		piece = mapping->end - address < size ? mapping->end - address : size;
		err = tm_memory_read(memory, address, to, piece);
		if (err)
			return err;
		to += piece;
		offset += piece;
		size -= piece;
	}
	return NULL;
}

struct tm_error *tm_memory_image_headers(const struct tm_memory *memory, const struct tm_mapping_group *group,
					 uint8_t **bytes, size_t *size)
{
	_cleanup_free_ uint8_t *headers = NULL;
	Elf64_Ehdr header;
	struct tm_error *err;
	uint64_t table;

	err = tm_memory_image_read(memory, group, 0, &header, sizeof(header));
	if (err)
		return err;
	if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
		return tm_error_create(TM_ERROR_BAD_FORMAT, "not an ELF file");
	table = (uint64_t)header.e_phnum * sizeof(Elf64_Phdr);
	if (header.e_phoff > HEADERS_MAX || table > HEADERS_MAX)
		return tm_error_create(TM_ERROR_BAD_FORMAT,
				       "damaged ELF file: its program headers lie far out");
	*size = header.e_phoff + table > sizeof(header) ? header.e_phoff + table : sizeof(header);
	headers = calloc(1, *size);
	if (!headers)
		return tm_error_out_of_memory();
	err = tm_memory_image_read(memory, group, header.e_phoff, headers + header.e_phoff, table);
	if (err)
		return err;
	header.e_shoff = header.e_shnum = header.e_shstrndx = 0;
	memcpy(headers, &header, sizeof(header));
	*bytes = tm_steal(headers);
	return NULL;
}

/* A file that holds one note. */
struct note_file {
	Elf64_Phdr segment;
	uint8_t note[BUILD_ID_MAX];
};

static char *build_id_of_note(const struct tm_memory *memory, const struct tm_mapping_group *group,
			      Elf64_Phdr note)
{
	struct note_file file = {.segment = note};
	struct tm_elf elf = {.file = {(const uint8_t *)&file, sizeof(file)}, .segment_count = 1};
	_cleanup_error_ struct tm_error *err = NULL;

	if (note.p_filesz > sizeof(file.note))
		return NULL;
	err = tm_memory_image_read(memory, group, note.p_offset, file.note, note.p_filesz);
	if (err)
		return NULL;
	elf.header.e_phoff = offsetof(struct note_file, segment);
	file.segment.p_offset = offsetof(struct note_file, note);
	return tm_elf_build_id_text(&elf);
}

char *tm_memory_image_build_id(const struct tm_memory *memory, const struct tm_mapping_group *group)
{
	_cleanup_free_ uint8_t *headers = NULL;
	_cleanup_error_ struct tm_error *err = NULL;
	struct tm_elf elf;
	size_t size;

	err = tm_memory_image_headers(memory, group, &headers, &size);
	if (!err)
		err = tm_elf_init(&elf, headers, size);
	for (size_t i = 0; !err && i < elf.segment_count; i++) {
		Elf64_Phdr segment = tm_elf_segment(&elf, i);
		char *text = segment.p_type == PT_NOTE ? build_id_of_note(memory, group, segment) : NULL;

		if (text)
			return text;
	}
	return NULL;
}

/* The bytes of the copy, and of that what is really copied. */
static struct tm_error *measure(const struct tm_elf *elf, size_t *extent)
{
	uint64_t copied = 0;

	*extent = elf->file.size;
	for (size_t i = 0; i < elf->segment_count; i++) {
		Elf64_Phdr segment = tm_elf_segment(elf, i);

		if (segment.p_type != PT_LOAD)
			continue;
		if (segment.p_offset > EXTENT_MAX || segment.p_filesz > EXTENT_MAX)
			return tm_error_create(TM_ERROR_BAD_FORMAT,
					       "damaged ELF file: a segment lies far out");
		if (segment.p_offset + segment.p_filesz > *extent)
			*extent = segment.p_offset + segment.p_filesz;
		if (!(segment.p_flags & PF_W))
			copied += segment.p_filesz;
	}
	if (copied > COPIED_MAX)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "%llu bytes are too many to copy from memory",
				       (unsigned long long)copied);
	return NULL;
}

/* Page by page; a page that cannot be read (a guard page, a hole in the file) is zero. False if none could
 * be. */
static bool copy_pages(const struct tm_memory *memory, const struct tm_mapping_group *group, uint8_t *image,
		       uint64_t offset, uint64_t end)
{
	bool any = false;

	for (uint64_t at = offset, next; at < end; at = next) {
		_cleanup_error_ struct tm_error *err = NULL;

		next = at + PAGE - at % PAGE < end ? at + PAGE - at % PAGE : end;
		err = tm_memory_image_read(memory, group, at, image + at, next - at);
		if (err)
			memset(image + at, 0, next - at);
		any |= !err;
	}
	return any;
}

/* In big pieces; where a whole one cannot be read the rest is left zero, it is not worth a try each page. */
static void copy_range(const struct tm_memory *memory, const struct tm_mapping_group *group, uint8_t *image,
		       uint64_t offset, uint64_t size)
{
	uint64_t end = offset + size;

	for (uint64_t at = offset, next; at < end; at = next) {
		_cleanup_error_ struct tm_error *err = NULL;

		next = end - at < CHUNK ? end : at + CHUNK;
		err = tm_memory_image_read(memory, group, at, image + at, next - at);
		if (err && !copy_pages(memory, group, image, at, next))
			break;
	}
}

static bool is_file_address(const struct tm_elf *elf, uint64_t vaddr)
{
	Elf64_Phdr segment;

	return tm_elf_segment_at(elf, vaddr, &segment);
}

/*
 * ld.so adds the load bias to these entries in place, unless the segment is read-only (glibc 2.36,
 * elf/get-dynamic-info.h, elf_get_dynamic_info: ADJUST_DYN_INFO). In the file they are ELF virtual addresses.
 */
static bool is_adjusted(int64_t tag)
{
	static const int64_t tags[] = {DT_HASH, DT_PLTGOT, DT_STRTAB, DT_SYMTAB, DT_RELA,
				       DT_REL,	DT_JMPREL, DT_RELR,   DT_VERSYM, DT_GNU_HASH};

	for (size_t i = 0; i < TM_ARRAY_SIZE(tags); i++) {
		if (tags[i] == tag)
			return true;
	}
	return false;
}

static void copy_dynamic(const struct tm_memory *memory, const struct tm_mapping_group *group,
			 const struct tm_elf *elf, uint8_t *image)
{
	const struct tm_mapping *mapping;
	struct tm_bytes table;
	Elf64_Phdr segment;
	uint64_t bias;

	if (!tm_elf_find_segment(elf, PT_DYNAMIC, &segment))
		return;
	table = tm_elf_range(elf, segment.p_offset, segment.p_filesz);
	mapping = mapping_of_offset(group, segment.p_offset);
	if (!table.data || !mapping)
		return;
	copy_range(memory, group, image, segment.p_offset, segment.p_filesz);
	bias = mapping->start - mapping->offset + segment.p_offset - segment.p_vaddr;
	for (size_t at = 0; at + sizeof(Elf64_Dyn) <= table.size; at += sizeof(Elf64_Dyn)) {
		Elf64_Dyn entry;

		memcpy(&entry, table.data + at, sizeof(entry));
		if (!is_adjusted(entry.d_tag) || is_file_address(elf, entry.d_un.d_ptr) ||
		    !is_file_address(elf, entry.d_un.d_ptr - bias))
			continue;
		entry.d_un.d_ptr -= bias;
		memcpy(image + segment.p_offset + at, &entry, sizeof(entry));
	}
}

static struct tm_error *copy_segments(const struct tm_memory *memory, const struct tm_mapping_group *group,
				      const uint8_t *headers, size_t headers_size, uint8_t *image,
				      size_t size)
{
	struct tm_elf elf;
	struct tm_error *err;

	memcpy(image, headers, headers_size);
	err = tm_elf_init(&elf, image, size);
	if (err)
		return err;
	for (size_t i = 0; i < elf.segment_count; i++) {
		Elf64_Phdr segment = tm_elf_segment(&elf, i);

		if (segment.p_type == PT_LOAD && !(segment.p_flags & PF_W))
			copy_range(memory, group, image, segment.p_offset, segment.p_filesz);
	}
	memcpy(image, headers, headers_size);
	copy_dynamic(memory, group, &elf, image);
	return NULL;
}

struct tm_error *tm_memory_image_copy(const struct tm_memory *memory, const struct tm_mapping_group *group,
				      uint8_t **image, size_t *size)
{
	_cleanup_free_ uint8_t *headers = NULL;
	struct tm_error *err;
	struct tm_elf elf;
	size_t headers_size, extent = 0;
	uint8_t *copy;

	err = tm_memory_image_headers(memory, group, &headers, &headers_size);
	if (!err)
		err = tm_elf_init(&elf, headers, headers_size);
	if (!err)
		err = measure(&elf, &extent);
	if (err)
		return err;
	copy = mmap(NULL, extent, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (copy == MAP_FAILED)
		return tm_error_out_of_memory();
	err = copy_segments(memory, group, headers, headers_size, copy, extent);
	if (err) {
		munmap(copy, extent);
		return err;
	}
	*image = copy;
	*size = extent;
	return NULL;
}
