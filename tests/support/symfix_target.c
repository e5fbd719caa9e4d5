#include "support/symfix_target.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/file.h"

#define PAGE UINT64_C(4096)

void symfix_target_clear(struct symfix_target *target)
{
	tm_strbuf_deinit(&target->maps);
	for (size_t i = 0; i < target->range_count; i++)
		close(target->ranges[i].fd);
	target->range_count = 0;
}

void symfix_target_deinit(struct symfix_target *target)
{
	symfix_target_clear(target);
}

void symfix_target_line(struct symfix_target *target, const char *line)
{
	tm_strbuf_printf(&target->maps, "%s\n", line);
}

void symfix_target_map(struct symfix_target *target, const char *path, uint64_t start, uint64_t offset,
		       uint64_t size, const char *permissions, const struct symfix_disguise *disguise)
{
	struct symfix_disguise shown = disguise ? *disguise : (struct symfix_disguise){0};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) != 0 || target->range_count == TM_ARRAY_SIZE(target->ranges))
		cr_assert_fail("cannot map %s", path);
	if (!shown.dev_major && !shown.dev_minor) {
		shown.dev_major = major(st.st_dev);
		shown.dev_minor = minor(st.st_dev);
	}
	target->ranges[target->range_count++] = (struct symfix_range){start, start + size, offset, fd};
	tm_strbuf_printf(&target->maps, "%llx-%llx %s %llx %x:%x %lu %s\n", (unsigned long long)start,
			 (unsigned long long)(start + size), permissions, (unsigned long long)offset,
			 shown.dev_major, shown.dev_minor, shown.inode ? shown.inode : st.st_ino,
			 shown.path ? shown.path : path);
}

static void load_segment(struct symfix_target *target, const char *path, const Elf64_Phdr *segment,
			 uint64_t bias, const struct symfix_disguise *disguise)
{
	uint64_t into_page = segment->p_vaddr % PAGE;
	uint64_t size = (into_page + segment->p_filesz + PAGE - 1) / PAGE * PAGE;
	char permissions[] = {segment->p_flags & PF_R ? 'r' : '-', segment->p_flags & PF_W ? 'w' : '-',
			      segment->p_flags & PF_X ? 'x' : '-', 'p', '\0'};

	symfix_target_map(target, path, bias + segment->p_vaddr - into_page, segment->p_offset - into_page,
			  size, permissions, disguise);
}

void symfix_target_load(struct symfix_target *target, const char *path, uint64_t bias,
			const struct symfix_disguise *disguise)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	Elf64_Ehdr header;
	Elf64_Phdr segment;

	if (fd < 0 || pread(fd, &header, sizeof(header), 0) != sizeof(header))
		cr_assert_fail("cannot load %s", path);
	for (size_t i = 0; i < header.e_phnum; i++) {
		off_t at = (off_t)(header.e_phoff + i * sizeof(segment));

		if (pread(fd, &segment, sizeof(segment), at) != sizeof(segment))
			cr_assert_fail("no program headers in %s", path);
		if (segment.p_type == PT_LOAD && segment.p_filesz)
			load_segment(target, path, &segment, bias, disguise);
	}
}

static struct tm_error *read_target(void *context, uint64_t address, void *buffer, size_t size)
{
	const struct symfix_target *target = context;

	for (size_t i = 0; i < target->range_count && !target->memory_gone; i++) {
		const struct symfix_range *range = &target->ranges[i];
		off_t at = (off_t)(range->offset + (address - range->start));

		if (address >= range->start && address < range->end && size <= range->end - address) {
			memset(buffer, 0, size); /* behind the end of the file */
			return pread(range->fd, buffer, size, at) >= 0 ? NULL : tm_error_out_of_memory();
		}
	}
	return tm_error_create(TM_ERROR_NO_MEMORY, "nothing is mapped at %#llx", (unsigned long long)address);
}

struct tm_module_source symfix_target_source(struct symfix_target *target, int root_fd, int proc_fd)
{
	return (struct tm_module_source){root_fd, proc_fd, {target, read_target}};
}

static int compare_starts(const void *a, const void *b)
{
	const struct tm_mapping *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

static void update(struct tm_module_map *map, const char *text, const char *main_path)
{
	struct tm_mappings mappings;
	struct tm_error *err = tm_mappings_parse(text, &mappings);

	if (err)
		cr_assert_fail("%s", err->message);
	if (mappings.count)
		qsort(mappings.items, mappings.count, sizeof(*mappings.items), compare_starts);
	err = tm_module_map_update(map, &mappings, main_path);
	if (err)
		cr_assert_fail("%s", err->message);
	tm_mappings_deinit(&mappings);
}

void symfix_target_update(struct symfix_target *target, struct tm_module_map *map, const char *main_path)
{
	update(map, target->maps.text ? target->maps.text : "", main_path);
}

static struct tm_error *read_own(void *context, uint64_t address, void *buffer, size_t size)
{
	_cleanup_close_ int fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);

	(void)context;
	if (pread(fd, buffer, size, (off_t)address) != (ssize_t)size)
		return tm_error_create(TM_ERROR_NO_MEMORY, "nothing at %#llx", (unsigned long long)address);
	return NULL;
}

struct tm_module_map *symfix_own_modules(int root_fd, int proc_fd)
{
	struct tm_module_source source = {root_fd, proc_fd, {NULL, read_own}};
	_cleanup_free_ char *text = NULL, *exe = realpath("/proc/self/exe", NULL);
	struct tm_module_map *map;
	struct tm_error *err = tm_module_map_create(&source, &map);

	if (!err)
		err = tm_file_read_all("/proc/self/maps", &text, NULL);
	if (err)
		cr_assert_fail("%s", err->message);
	update(map, text, exe);
	return map;
}

struct tm_module *symfix_module(struct tm_module_map *map, const char *path_end)
{
	for (uint32_t i = 1; i < tm_module_map_count(map); i++) {
		struct tm_module *module = tm_module_map_get(map, i);
		size_t length = strlen(module->path), end_length = strlen(path_end);

		if (module->loaded && length >= end_length &&
		    strcmp(module->path + length - end_length, path_end) == 0)
			return module;
	}
	cr_assert_fail("no module %s", path_end);
	return NULL;
}

static char *format_list(const char *format, va_list args)
{
	char *text;

	if (vasprintf(&text, format, args) < 0)
		cr_assert_fail("out of memory");
	return text;
}

char *symfix_format(const char *format, ...)
{
	va_list args;
	char *text;

	va_start(args, format);
	text = format_list(format, args);
	va_end(args);
	return text;
}

void symfix_run(const char *format, ...)
{
	_cleanup_free_ char *command = NULL;
	va_list args;

	va_start(args, format);
	command = format_list(format, args);
	va_end(args);
	if (system(command) != 0)
		cr_assert_fail("failed: %s", command);
}

void symfix_copy(const char *from, const char *to)
{
	symfix_run("cp '%s' '%s'", from, to);
}

char *symfix_directory(void)
{
	char *directory = strdup("/tmp/symfix.XXXXXX");

	if (!mkdtemp(directory))
		cr_assert_fail("no directory %s", directory);
	return directory;
}

void symfix_remove(char *directory)
{
	symfix_run("rm -rf '%s'", directory);
	free(directory);
}

const char *symfix_library_path(const void *address_in_it)
{
	Dl_info info;

	if (!dladdr(address_in_it, &info))
		cr_assert_fail("no library at %p", address_in_it);
	return info.dli_fname;
}
