#include "debuginfo/debug_file.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "debuginfo/module_file.h"
#include "debuginfo/root_path.h"

#define GLOBAL_DIRECTORY "/usr/lib/debug" /* GDB manual, "Debugging Information in Separate Files" */

/* What a debug file must match. */
struct wanted {
	const char *build_id;  /* hex, or NULL */
	const char *referrer;  /* path of the file that asks: link_name is relative to its directory */
	const char *link_name; /* of .gnu_debuglink or .gnu_debugaltlink, or NULL */
	bool has_crc;
	uint32_t crc; /* of the debug file */
};

/* .gnu_debuglink: name, NUL, padding to 4 bytes, CRC-32 of the debug file (GDB manual, as above). */
static void read_debuglink(const struct tm_elf *elf, struct wanted *wanted)
{
	struct tm_bytes link = {0};
	Elf64_Shdr section;
	size_t crc_at;

	if (tm_elf_find_section(elf, ".gnu_debuglink", &section))
		link = tm_elf_section_bytes(elf, &section);
	wanted->link_name = tm_elf_string(link, 0);
	if (!wanted->link_name)
		return;
	crc_at = (strlen(wanted->link_name) + 4) & ~(size_t)3;
	wanted->has_crc = crc_at + sizeof(wanted->crc) <= link.size;
	if (wanted->has_crc)
		memcpy(&wanted->crc, link.data + crc_at, sizeof(wanted->crc));
}

/* The CRC of gnu_debuglink is that of zlib: polynomial 0xedb88320, reflected. */
static uint32_t crc32(struct tm_bytes bytes)
{
	uint32_t table[256], crc = UINT32_MAX;

	for (uint32_t i = 0; i < 256; i++) {
		table[i] = i;
		for (int bit = 0; bit < 8; bit++)
			table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
	}
	for (size_t i = 0; i < bytes.size; i++)
		crc = table[(crc ^ bytes.data[i]) & 0xff] ^ crc >> 8;
	return ~crc;
}

struct tm_bytes tm_debug_file_map(int fd)
{
	struct stat st;
	void *data;

	if (fstat(fd, &st) < 0 || st.st_size <= 0)
		return (struct tm_bytes){0};
	data = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
	return data == MAP_FAILED ? (struct tm_bytes){0} : (struct tm_bytes){data, (size_t)st.st_size};
}

/* Build-ids decide where both files have one; the CRC needs the whole file to be read. */
static bool bytes_match(const struct wanted *wanted, struct tm_bytes bytes)
{
	_cleanup_free_ char *build_id = NULL;
	struct tm_elf elf;
	struct tm_error *err = tm_elf_init(&elf, bytes.data, bytes.size);

	if (err) {
		tm_error_destroy(err);
		return false;
	}
	build_id = tm_elf_build_id_text(&elf);
	if (build_id && wanted->build_id)
		return strcmp(build_id, wanted->build_id) == 0;
	return wanted->has_crc && crc32(bytes) == wanted->crc;
}

static int open_matching(int root_fd, const char *path, const struct wanted *wanted)
{
	_cleanup_close_ int fd = tm_root_open_file(root_fd, path);
	struct tm_bytes bytes = {0};
	bool match;
	int found = fd;

	if (fd >= 0)
		bytes = tm_debug_file_map(fd);
	if (!bytes.data)
		return -1;
	match = bytes_match(wanted, bytes);
	munmap((void *)bytes.data, bytes.size);
	if (!match)
		return -1;
	fd = -1;
	return found;
}

static char *path_by_build_id(const struct wanted *wanted)
{
	const char *id = wanted->build_id;
	char *path;

	if (!id || strlen(id) < 4 ||
	    asprintf(&path, "%s/.build-id/%.2s/%s.debug", GLOBAL_DIRECTORY, id, id + 2) < 0)
		return NULL;
	return path;
}

/* The link in `before`, then the directory of the file that asks, then `between`; an absolute link is a path
 * itself. */
static char *path_by_link(const struct wanted *wanted, const char *before, const char *between)
{
	const char *path = wanted->referrer, *slash = strrchr(path, '/');
	char *joined;

	if (!wanted->link_name || !slash)
		return NULL;
	if (wanted->link_name[0] == '/')
		return strdup(wanted->link_name);
	if (asprintf(&joined, "%s%.*s%s%s", before, (int)(slash - path), path, between, wanted->link_name) <
	    0)
		return NULL;
	return joined;
}

static char *path_beside(const struct wanted *wanted)
{
	return path_by_link(wanted, "", "/");
}

static char *path_in_debug_folder(const struct wanted *wanted)
{
	return path_by_link(wanted, "", "/.debug/");
}

static char *path_in_global_folder(const struct wanted *wanted)
{
	return path_by_link(wanted, GLOBAL_DIRECTORY, "/");
}

static int search_root(int root_fd, const struct wanted *wanted, char **path)
{
	static char *(*const places[])(const struct wanted *) = {path_by_build_id, path_beside,
								 path_in_debug_folder, path_in_global_folder};

	for (size_t i = 0; i < TM_ARRAY_SIZE(places); i++) {
		_cleanup_free_ char *candidate = places[i](wanted);
		int fd = candidate ? open_matching(root_fd, candidate, wanted) : -1;

		if (fd < 0)
			continue;
		if (path)
			*path = tm_steal(candidate);
		return fd;
	}
	return -1;
}

static int search(int root_fd, const struct wanted *wanted, char **path)
{
	int fd = root_fd >= 0 ? search_root(root_fd, wanted, path) : -1;

	return fd >= 0 ? fd : search_root(-1, wanted, path);
}

int tm_debug_file_open(int root_fd, const struct tm_module *module, char **path)
{
	struct wanted wanted = {.build_id = module->build_id, .referrer = module->path};
	struct tm_elf elf;

	if (!tm_module_elf(module, &elf))
		return -1;
	read_debuglink(&elf, &wanted);
	return search(root_fd, &wanted, path);
}

int tm_debug_file_open_alternate(int root_fd, const char *referrer, const char *name, struct tm_bytes id)
{
	_cleanup_free_ char *build_id = tm_elf_hex(id);
	struct wanted wanted = {.build_id = build_id, .referrer = referrer, .link_name = name};

	return build_id ? search(root_fd, &wanted, NULL) : -1;
}
