#include "debuginfo/module_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>

#include "debuginfo/memory_image.h"
#include "debuginfo/root_path.h"

/* ---- telling whether a file is the one that is mapped --------------------------------------- */

/* Without a build-id: the same inode number, and the same headers. */
static bool headers_equal(const struct tm_memory *memory, const struct tm_mapping_group *group,
			  const struct tm_module_file *file)
{
	_cleanup_free_ uint8_t *headers = NULL;
	_cleanup_error_ struct tm_error *err = NULL;
	struct tm_bytes in_file;
	size_t size;

	err = tm_memory_image_headers(memory, group, &headers, &size);
	if (err)
		return false;
	in_file = tm_elf_range(&file->elf, sizeof(Elf64_Ehdr), size - sizeof(Elf64_Ehdr));
	return in_file.data && memcmp(in_file.data, headers + sizeof(Elf64_Ehdr), in_file.size) == 0;
}

/*
 * A path may name another file by now (an upgrade), or the same one with other numbers: stat(2) on btrfs and
 * overlayfs gives device and inode numbers that the memory map does not have. Then the build-id decides.
 */
static bool is_mapped_file(const struct tm_module_source *source, const struct tm_mapping_group *group,
			   const struct tm_module_file *file)
{
	const struct tm_mapping *mapping = group->items[0];
	bool same_inode = mapping->inode && file->opened.st_ino == mapping->inode;
	_cleanup_free_ char *mapped = NULL;

	if (same_inode && major(file->opened.st_dev) == mapping->dev_major &&
	    minor(file->opened.st_dev) == mapping->dev_minor)
		return true;
	if (!file->elf.segment_count)
		return false;
	mapped = tm_memory_image_build_id(&source->memory, group);
	if (mapped || file->build_id)
		return mapped && file->build_id && strcmp(mapped, file->build_id) == 0;
	return (same_inode || !mapping->inode) && headers_equal(&source->memory, group, file);
}

bool tm_module_file_is_of(const struct tm_module_file *file, const struct tm_mapping *mapping)
{
	return file->inode == mapping->inode && file->dev_major == mapping->dev_major &&
	       file->dev_minor == mapping->dev_minor &&
	       (mapping->inode || strcmp(file->path, mapping->path) == 0);
}

bool tm_module_file_is_unchanged(const struct tm_module_file *file, const struct tm_module_source *source,
				 const struct tm_mapping_group *group)
{
	_cleanup_free_ char *mapped = NULL;
	struct stat now;

	if (file->fd >= 0 && group->items[0]->inode)
		return fstat(file->fd, &now) == 0 && now.st_size == file->opened.st_size &&
		       now.st_mtim.tv_sec == file->opened.st_mtim.tv_sec &&
		       now.st_mtim.tv_nsec == file->opened.st_mtim.tv_nsec;
	mapped = tm_memory_image_build_id(&source->memory, group);
	return mapped && file->build_id && strcmp(mapped, file->build_id) == 0;
}

/* ---- ways to the file ----------------------------------------------------------------------- */

static int open_under_target_root(const struct tm_module_source *source, const struct tm_mapping *mapping)
{
	return tm_root_open_file(source->root_fd, mapping->path);
}

/* A target that called chroot(2): the kernel writes its paths as we see them, not as it does. */
static int open_under_own_root(const struct tm_module_source *source, const struct tm_mapping *mapping)
{
	if (source->root_fd < 0) {
		errno = ENOENT;
		return -1;
	}
	return tm_root_open_file(-1, mapping->path);
}

/* proc(5): /proc/PID/map_files/START-END is the very file that is mapped, whatever became of its path. */
static int open_map_files(const struct tm_module_source *source, const struct tm_mapping *mapping)
{
	char name[64];

	if (source->proc_fd < 0 || !mapping->inode) {
		errno = ENOENT;
		return -1;
	}
	snprintf(name, sizeof(name), "map_files/%" PRIx64 "-%" PRIx64, mapping->start, mapping->end);
	return tm_open_file_at(source->proc_fd, name);
}

static const struct way {
	int (*open)(const struct tm_module_source *source, const struct tm_mapping *mapping);
	bool by_path;
} ways[] = {
	{open_under_target_root, true},
	{open_under_own_root, true},
	{open_map_files, false},
};

/* ---- images --------------------------------------------------------------------------------- */

static void drop_image(struct tm_module_file *file)
{
	if (file->image)
		munmap((void *)file->image, file->image_size);
	if (file->fd >= 0)
		close(file->fd);
	free(file->build_id);
	file->image = NULL;
	file->build_id = NULL;
	file->image_size = 0;
	file->fd = -1;
	memset(&file->elf, 0, sizeof(file->elf));
}

static struct tm_error *parse_image(struct tm_module_file *file)
{
	struct tm_error *err = tm_elf_init(&file->elf, file->image, file->image_size);

	if (err)
		return err;
	if (file->elf.header.e_type != ET_EXEC && file->elf.header.e_type != ET_DYN)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "neither an executable nor a shared library");
	file->build_id = tm_elf_build_id_text(&file->elf);
	return NULL;
}

/*
 * Maps the file of file->fd. Bounds are those at this moment: a file that is truncated in place later raises
 * SIGBUS here as it does in the target that runs it.
 */
static struct tm_error *map_image(struct tm_module_file *file)
{
	void *image;

	if (fstat(file->fd, &file->opened) < 0)
		return tm_error_errno(errno, "fstat");
	if (file->opened.st_size <= 0)
		return tm_error_create(TM_ERROR_BAD_FORMAT, "not an ELF file: it is empty");
	image = mmap(NULL, (size_t)file->opened.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE,
		     file->fd, 0);
	if (image == MAP_FAILED)
		return tm_error_errno(errno, "mmap");
	file->image = image;
	file->image_size = (size_t)file->opened.st_size;
	return parse_image(file);
}

/* Opens the file by one way. True if it is the mapped one: then *err tells what is wrong with it, if anything
 * is. */
static bool try_way(const struct way *way, const struct tm_module_source *source,
		    const struct tm_mapping_group *group, struct tm_module_file *file, struct tm_error **err)
{
	const char *path = group->items[0]->path;

	file->fd = way->open(source, group->items[0]);
	if (file->fd < 0) {
		*err = tm_error_errno(errno, "cannot open %s", path);
		return false;
	}
	*err = map_image(file);
	if (!way->by_path || is_mapped_file(source, group, file))
		return true;
	drop_image(file);
	tm_error_destroy(*err);
	*err = tm_error_create(TM_ERROR_NOT_FOUND, "another file has the path %s now", path);
	return false;
}

static struct tm_error *copy_image(const struct tm_module_source *source,
				   const struct tm_mapping_group *group, struct tm_module_file *file)
{
	uint8_t *image;
	struct tm_error *err = tm_memory_image_copy(&source->memory, group, &image, &file->image_size);

	if (err)
		return err;
	file->image = image;
	file->image_is_copy = true;
	return parse_image(file);
}

/* Finds the image by the first way that leads to it. An error is why there is none. */
static struct tm_error *find_image(const struct tm_module_source *source,
				   const struct tm_mapping_group *group, struct tm_module_file *file)
{
	const struct tm_mapping *mapping = group->items[0];
	_cleanup_error_ struct tm_error *first_failure = NULL;
	struct tm_error *err;

	for (size_t i = 0; mapping->path[0] == '/' && i < TM_ARRAY_SIZE(ways); i++) {
		if (try_way(&ways[i], source, group, file, &err)) {
			file->replaced = mapping->deleted || !ways[i].by_path;
			return err;
		}
		if (first_failure)
			tm_error_destroy(err);
		else
			first_failure = err;
	}
	file->replaced = mapping->path[0] == '/';
	err = copy_image(source, group, file);
	if (err && first_failure && err->code != TM_ERROR_BAD_FORMAT) {
		tm_error_destroy(err);
		return tm_steal(first_failure);
	}
	return err;
}

/* An unlinked file (memfd, shared memory) without an ELF header is how JITs map code twice. */
static bool is_shared_memory(const struct tm_mapping *mapping, const struct tm_error *err)
{
	return mapping->deleted && err->code == TM_ERROR_BAD_FORMAT;
}

struct tm_error *tm_module_file_open(const struct tm_module_source *source,
				     const struct tm_mapping_group *group, struct tm_module_file **out)
{
	const struct tm_mapping *mapping = group->items[0];
	struct tm_module_file *file = calloc(1, sizeof(*file));
	_cleanup_error_ struct tm_error *problem = NULL;

	if (!file)
		return tm_error_out_of_memory();
	file->fd = -1;
	file->dev_major = mapping->dev_major;
	file->dev_minor = mapping->dev_minor;
	file->inode = mapping->inode;
	file->path = strdup(mapping->path);
	problem = find_image(source, group, file);
	if (problem) {
		drop_image(file);
		file->image_is_copy = false;
		file->is_memory = is_shared_memory(mapping, problem);
		file->problem = strdup(problem->message);
	}
	if (!file->path || (problem && !file->problem)) {
		tm_module_file_destroy(file);
		return tm_error_out_of_memory();
	}
	*out = file;
	return NULL;
}

void tm_module_file_destroy(struct tm_module_file *file)
{
	if (!file)
		return;
	drop_image(file);
	free(file->path);
	free(file->problem);
	free(file);
}

bool tm_module_elf(const struct tm_module *module, struct tm_elf *elf)
{
	_cleanup_error_ struct tm_error *err = NULL;

	if (!module->image)
		return false;
	err = tm_elf_init(elf, module->image, module->image_size);
	return !err;
}
