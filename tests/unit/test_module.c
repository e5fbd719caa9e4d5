/* The module map: which files are loaded where, and how their bytes are had. */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "debuginfo/root_path.h"
#include "debuginfo/symbol.h"
#include "support/symfix_target.h"

#define BASE UINT64_C(0x7f0000000000)

/* A made-up target whose one library is a copy of libm, in a directory of its own. */
struct scene {
	struct symfix_target target;
	struct tm_module_map *map;
	char *directory, *library;
};

/* A function's address in the library itself, not where a sanitizer stands before it. */
static void *address_in(const char *soname, const char *function)
{
	void *library = dlopen(soname, RTLD_NOW);

	cr_assert_not_null(library, "%s", dlerror());
	return dlsym(library, function);
}

static const char *libm_path(void)
{
	return symfix_library_path(address_in("libm.so.6", "cbrt"));
}

static const char *libc_path(void)
{
	return symfix_library_path(address_in("libc.so.6", "fopen"));
}

static void scene_open(struct scene *scene)
{
	struct tm_module_source source = symfix_target_source(&scene->target, -1, -1);
	struct tm_error *err = tm_module_map_create(&source, &scene->map);

	cr_assert_null(err);
	scene->directory = symfix_directory();
	scene->library = symfix_format("%s/libscene.so", scene->directory);
	symfix_copy(libm_path(), scene->library);
}

static void scene_close(struct scene *scene)
{
	tm_module_map_destroy(scene->map);
	symfix_target_deinit(&scene->target);
	symfix_remove(scene->directory);
	free(scene->library);
}

static void scene_update(struct scene *scene)
{
	symfix_target_update(&scene->target, scene->map, NULL);
}

static void scene_load(struct scene *scene, uint64_t bias, const struct symfix_disguise *disguise)
{
	symfix_target_load(&scene->target, scene->library, bias, disguise);
}

static uint32_t loaded_count(const struct tm_module_map *map)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < tm_module_map_count(map); i++)
		count += tm_module_map_get(map, i)->loaded;
	return count;
}

static uint64_t symbol_vaddr(const struct tm_module *module, const char *name)
{
	struct tm_symbol symbol;

	cr_assert(tm_module_find_dynamic_symbol(module, name, &symbol), "no %s in %s", name, module->path);
	return symbol.vaddr;
}

/* ---- this very process ---------------------------------------------------------------------- */

Test(module, own_process_is_found_whole)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *own = tm_module_map_find(map, (uint64_t)(uintptr_t)symfix_run);
	struct tm_module *libc = symfix_module(map, "libc.so.6");
	char *exe = realpath("/proc/self/exe", NULL);

	cr_assert_not_null(own);
	cr_expect(own->is_main && own->loaded && !own->problem && !own->deleted);
	cr_expect_str_eq(own->path, exe);
	cr_expect_not_null(strstr(tm_module_interpreter(own), "/ld-linux"));
	cr_expect_str_eq(tm_module_soname(libc), "libc.so.6");
	cr_expect(!libc->is_main);
	cr_expect_not_null(libc->build_id);
	for (uint32_t i = 1; i < tm_module_map_count(map); i++)
		cr_expect_null(tm_module_map_get(map, i)->problem, "%s", tm_module_map_get(map, i)->problem);
	cr_expect_null(tm_module_map_find(map, (uint64_t)(uintptr_t)&map));
	free(exe);
	tm_module_map_destroy(map);
}

Test(module, bias_maps_symbols_to_their_run_time_addresses)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *libc = symfix_module(map, "libc.so.6");
	const char *names[] = {"fopen", "getline", "posix_spawn", "qsort_r"};
	void *handle = dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD);

	for (size_t i = 0; i < TM_ARRAY_SIZE(names); i++) {
		Dl_info info;
		uint64_t vaddr = symbol_vaddr(libc, names[i]);

		cr_assert(dladdr((void *)(uintptr_t)(vaddr + libc->bias), &info), "%s", names[i]);
		cr_expect_eq((uint64_t)(uintptr_t)info.dli_fbase, libc->bias);
	}
	dlclose(handle);
	tm_module_map_destroy(map);
}

Test(module, bytes_are_those_in_memory)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	uint64_t pc = (uint64_t)(uintptr_t)symfix_run;
	struct tm_module *own = tm_module_map_find(map, pc);
	size_t available;
	const uint8_t *bytes = tm_module_bytes(own, pc - own->bias, &available);

	cr_assert_not_null(bytes);
	cr_assert_gt(available, 64);
	cr_expect_arr_eq(bytes, (const uint8_t *)(uintptr_t)pc, 64);
	cr_expect_null(tm_module_bytes(own, UINT64_MAX, &available));
	cr_expect_eq(available, 0);
	tm_module_map_destroy(map);
}

Test(module, vdso_is_copied_from_memory)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *vdso = symfix_module(map, "[vdso]");
	const char *clock =
		vdso->elf_machine == EM_AARCH64 ? "__kernel_clock_gettime" : "__vdso_clock_gettime";
	uint64_t base = getauxval(AT_SYSINFO_EHDR);

	cr_expect(vdso->is_vdso && vdso->image_is_copy && vdso->fd == -1 && !vdso->deleted);
	cr_expect_eq(vdso->start, base);
	cr_expect_str_eq(tm_module_soname(vdso), "linux-vdso.so.1");
	cr_expect_neq(symbol_vaddr(vdso, clock), 0);
	tm_module_map_destroy(map);
}

Test(module, update_without_a_change_keeps_the_generation)
{
	struct scene scene = {0};
	uint64_t generation;

	scene_open(&scene);
	scene_load(&scene, BASE, NULL);
	scene_update(&scene);
	generation = tm_module_map_generation(scene.map);
	cr_expect_gt(generation, 0);
	scene_update(&scene);
	cr_expect_eq(tm_module_map_generation(scene.map), generation);
	symfix_target_clear(&scene.target);
	scene_update(&scene);
	cr_expect_gt(tm_module_map_generation(scene.map), generation);
	scene_close(&scene);
}

/* ---- ways to the file ----------------------------------------------------------------------- */

/* What the image of a module must give, however it was had. */
static void expect_sound_image(const struct tm_module *module)
{
	size_t available;
	const uint8_t *bytes;

	cr_assert_not_null(module->image);
	cr_assert_null(module->problem);
	cr_expect_str_eq(tm_module_soname(module), "libm.so.6");
	bytes = tm_module_bytes(module, symbol_vaddr(module, "cbrt"), &available);
	cr_assert_not_null(bytes);
	cr_expect_arr_eq(bytes, address_in("libm.so.6", "cbrt"), 16);
}

Test(module, deleted_file_is_copied_from_memory)
{
	struct scene scene = {0};
	struct tm_module *module;
	struct symfix_disguise deleted = {0};
	char *shown;

	scene_open(&scene);
	shown = symfix_format("%s (deleted)", scene.library);
	deleted.path = shown;
	scene_load(&scene, BASE, &deleted);
	unlink(scene.library);
	scene_update(&scene);
	module = tm_module_map_get(scene.map, 1);
	cr_expect(module->image_is_copy && module->deleted && module->fd == -1);
	cr_expect_str_eq(module->path, scene.library);
	cr_expect_not_null(module->build_id);
	expect_sound_image(module);
	free(shown);
	scene_close(&scene);
}

/* The dynamic loader has relocated the dynamic section of what it loaded; the copy has it as in the file. */
Test(module, copy_of_a_really_loaded_library_is_sound)
{
	char *directory = symfix_directory(), *path = symfix_format("%s/libgone.so", directory);
	struct tm_module_map *map;
	struct tm_module *module;
	void *library;

	symfix_copy(libm_path(), path);
	library = dlopen(path, RTLD_NOW);
	cr_assert_not_null(library, "%s", dlerror());
	unlink(path);
	map = symfix_own_modules(-1, -1);
	module = symfix_module(map, "libgone.so");
	cr_expect(module->image_is_copy && module->deleted);
	expect_sound_image(module);
	tm_module_map_destroy(map);
	dlclose(library);
	symfix_remove(directory);
	free(path);
}

/* Where the kernel lets us, map_files gives the file itself; else it is the copy again. */
Test(module, deleted_file_is_opened_through_map_files)
{
	_cleanup_close_ int proc_fd = open("/proc/self", O_PATH | O_CLOEXEC);
	char *directory = symfix_directory(), *path = symfix_format("%s/libgone.so", directory);
	struct tm_module_map *map;
	struct tm_module *module;
	void *library;

	symfix_copy(libm_path(), path);
	library = dlopen(path, RTLD_NOW);
	unlink(path);
	map = symfix_own_modules(-1, proc_fd);
	module = symfix_module(map, "libgone.so");
	cr_expect(module->deleted);
	cr_expect(module->image_is_copy ? geteuid() != 0 : module->fd >= 0);
	expect_sound_image(module);
	tm_module_map_destroy(map);
	dlclose(library);
	symfix_remove(directory);
	free(path);
}

Test(module, file_that_can_not_be_had_is_a_module_with_a_problem)
{
	struct scene scene = {0};
	struct tm_module *module;

	scene_open(&scene);
	scene_load(&scene, BASE, NULL);
	unlink(scene.library);
	scene.target.memory_gone = true;
	scene_update(&scene);
	cr_assert_eq(tm_module_map_count(scene.map), 2);
	module = tm_module_map_get(scene.map, 1);
	cr_expect(module->loaded && module->fd == -1);
	cr_expect_null(module->image);
	cr_assert_not_null(module->problem);
	cr_expect_not_null(strstr(module->problem, "No such file"), "%s", module->problem);
	cr_expect_eq(module->text_count, 1);
	cr_expect_eq(tm_module_map_find(scene.map, module->texts[0].start), module);
	scene_close(&scene);
}

Test(module, file_replaced_by_an_upgrade_is_not_taken)
{
	struct scene scene = {0};
	struct tm_module *module;

	scene_open(&scene);
	scene_load(&scene, BASE, NULL);
	unlink(scene.library);
	symfix_copy(libc_path(), scene.library);
	scene_update(&scene);
	module = tm_module_map_get(scene.map, 1);
	cr_expect(module->deleted && module->image_is_copy);
	expect_sound_image(module);
	scene_close(&scene);
}

/* btrfs and overlayfs: stat(2) has other numbers than the memory map. */
Test(module, other_device_number_is_accepted_for_the_same_build_id)
{
	struct symfix_disguise disguises[] = {{.dev_major = 0, .dev_minor = 77},
					      {.dev_major = 0, .dev_minor = 77, .inode = 4242}};

	for (size_t i = 0; i < TM_ARRAY_SIZE(disguises); i++) {
		struct scene scene = {0};
		struct tm_module *module;

		scene_open(&scene);
		scene_load(&scene, BASE, &disguises[i]);
		scene_update(&scene);
		module = tm_module_map_get(scene.map, 1);
		cr_expect(module->fd >= 0 && !module->deleted && !module->image_is_copy);
		expect_sound_image(module);
		scene_close(&scene);
	}
}

Test(module, other_device_number_without_a_build_id_needs_equal_headers)
{
	struct symfix_disguise other_device = {.dev_major = 0, .dev_minor = 77};
	struct scene scene = {0};
	struct tm_module *module;

	scene_open(&scene);
	symfix_run("objcopy --remove-section .note.gnu.build-id '%s'", scene.library);
	scene_load(&scene, BASE, &other_device);
	scene_update(&scene);
	module = tm_module_map_get(scene.map, 1);
	cr_expect_null(module->build_id);
	cr_expect(module->fd >= 0 && !module->deleted);
	scene_close(&scene);
}

Test(module, paths_are_those_under_the_root_of_the_target)
{
	struct scene scene = {0};
	struct symfix_disguise inside = {.path = "/usr/lib/libscene.so"};
	_cleanup_close_ int root_fd = -1;
	struct tm_module_source source;

	scene_open(&scene);
	symfix_run("mkdir -p '%s/root/usr/real' && mv '%s' '%s/root/usr/real/libscene.so' && "
		   "ln -s /usr/real '%s/root/usr/lib'",
		   scene.directory, scene.library, scene.directory, scene.directory);
	free(scene.library);
	scene.library = symfix_format("%s/root/usr/real/libscene.so", scene.directory);
	char *root = symfix_format("%s/root", scene.directory);
	root_fd = open(root, O_PATH | O_CLOEXEC);
	source = symfix_target_source(&scene.target, root_fd, -1);
	tm_module_map_reset(scene.map, &source);
	scene_load(&scene, BASE, &inside);
	scene_update(&scene);
	cr_expect_geq(tm_module_map_get(scene.map, 1)->fd, 0);
	expect_sound_image(tm_module_map_get(scene.map, 1));
	free(root);
	scene_close(&scene);
}

/* ---- what counts as a load ------------------------------------------------------------------ */

Test(module, whole_file_mapped_as_data_is_no_load)
{
	struct scene scene = {0};

	scene_open(&scene);
	symfix_target_map(&scene.target, scene.library, BASE - 0x40000000, 0, 0xe0000, "r--p", NULL);
	scene_load(&scene, BASE, NULL);
	symfix_target_map(&scene.target, scene.library, BASE + 0x40000000, 0, 0xe0000, "r--s", NULL);
	scene_update(&scene);
	cr_assert_eq(tm_module_map_count(scene.map), 2);
	cr_expect_eq(tm_module_map_get(scene.map, 1)->bias, BASE);
	cr_expect_eq(tm_module_map_get(scene.map, 1)->start, BASE);
	cr_expect_lt(tm_module_map_get(scene.map, 1)->end, BASE + 0x40000000);
	scene_close(&scene);
}

Test(module, file_only_mapped_as_data_is_no_module)
{
	struct scene scene = {0};

	scene_open(&scene);
	symfix_target_map(&scene.target, scene.library, BASE, 0, 0xe0000, "r--p", NULL);
	scene_update(&scene);
	cr_expect_eq(tm_module_map_count(scene.map), 1);
	scene_close(&scene);
}

Test(module, library_loaded_twice_is_two_modules)
{
	struct scene scene = {0};
	struct tm_module *first, *second;

	scene_open(&scene);
	scene_load(&scene, BASE, NULL);
	scene_load(&scene, BASE + 0x40000000, NULL);
	scene_update(&scene);
	cr_assert_eq(tm_module_map_count(scene.map), 3);
	first = tm_module_map_find(scene.map, BASE + symbol_vaddr(tm_module_map_get(scene.map, 1), "cbrt"));
	second = tm_module_map_find(scene.map, BASE + 0x40000000 + symbol_vaddr(first, "cbrt"));
	cr_expect_eq(first->number, 1);
	cr_expect_eq(second->number, 2);
	cr_expect_eq(second->bias, BASE + 0x40000000);
	cr_expect_eq(first->image, second->image);
	/* The first one goes: the second keeps its number. */
	symfix_target_clear(&scene.target);
	scene_load(&scene, BASE + 0x40000000, NULL);
	scene_update(&scene);
	cr_expect(!first->loaded && second->loaded);
	scene_close(&scene);
}

Test(module, same_file_loaded_again_has_its_number_again)
{
	struct scene scene = {0};
	struct tm_module *module;

	scene_open(&scene);
	scene_load(&scene, BASE, NULL);
	scene_update(&scene);
	module = tm_module_map_get(scene.map, 1);
	symfix_target_clear(&scene.target);
	scene_update(&scene);
	cr_expect(!module->loaded && module->text_count == 0);
	cr_expect_null(tm_module_map_find(scene.map, BASE + symbol_vaddr(module, "cbrt")));
	scene_load(&scene, BASE + 0x1000000, NULL);
	scene_update(&scene);
	cr_expect_eq(tm_module_map_count(scene.map), 2);
	cr_expect(module->loaded && module->bias == BASE + 0x1000000);
	/* So it is after exec, too. */
	struct tm_module_source source = symfix_target_source(&scene.target, -1, -1);
	tm_module_map_reset(scene.map, &source);
	cr_expect_eq(loaded_count(scene.map), 0);
	scene_update(&scene);
	cr_expect_eq(tm_module_map_count(scene.map), 2);
	cr_expect(module->loaded);
	scene_close(&scene);
}

Test(module, file_rewritten_between_two_loads_has_a_new_number)
{
	struct scene scene = {0};

	scene_open(&scene);
	scene_load(&scene, BASE, NULL);
	scene_update(&scene);
	symfix_target_clear(&scene.target);
	scene_update(&scene);
	symfix_run("cat '%s' > '%s'", libc_path(), scene.library);
	scene_load(&scene, BASE, NULL);
	scene_update(&scene);
	cr_assert_eq(tm_module_map_count(scene.map), 3);
	cr_expect(!tm_module_map_get(scene.map, 1)->loaded);
	cr_expect_str_eq(tm_module_soname(tm_module_map_get(scene.map, 2)), "libc.so.6");
	scene_close(&scene);
}

Test(module, text_moved_to_anonymous_memory_still_is_the_module)
{
	struct scene scene = {0};
	struct tm_module *module;
	struct tm_module_text text;
	char *line;

	scene_open(&scene);
	scene_load(&scene, BASE, NULL);
	scene_update(&scene);
	module = tm_module_map_get(scene.map, 1);
	text = module->texts[0];
	/* All of the text but its first page becomes anonymous, as programs do that remap themselves to huge
	 * pages. */
	symfix_target_clear(&scene.target);
	symfix_target_map(&scene.target, scene.library, text.start, text.start - BASE, 4096, "r-xp", NULL);
	line = symfix_format("%llx-%llx r-xp 0 0:0 0", (unsigned long long)text.start + 4096,
			     (unsigned long long)text.end);
	symfix_target_line(&scene.target, line);
	symfix_target_map(&scene.target, scene.library, text.end, text.end - BASE, 4096, "r--p", NULL);
	scene_update(&scene);
	cr_expect(module->loaded && module->bias == BASE);
	cr_expect_eq(module->text_count, 2);
	cr_expect_eq(tm_module_map_find(scene.map, text.end - 1), module);
	free(line);
	scene_close(&scene);
}

Test(module, anonymous_code_is_no_module)
{
	struct scene scene = {0};

	scene_open(&scene);
	symfix_target_line(&scene.target, "7f0000000000-7f0000100000 rwxp 0 0:0 0");
	symfix_target_line(&scene.target, "7f0000200000-7f0000300000 r-xp 0 0:0 0 [heap]");
	scene_update(&scene);
	cr_expect_eq(tm_module_map_count(scene.map), 1);
	cr_expect_null(tm_module_map_find(scene.map, 0x7f0000000010));
	cr_expect(!tm_module_map_get(scene.map, 0)->loaded);
	cr_expect_str_eq(tm_module_map_get(scene.map, 0)->path, "");
	scene_close(&scene);
}

static void write_file(const char *path, const void *bytes, size_t size)
{
	FILE *file = fopen(path, "w");

	cr_assert(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0);
}

/* .NET and others map a memfd twice, once writable, once executable. */
Test(module, code_of_a_jit_in_shared_memory_is_no_module)
{
	struct symfix_disguise memfd = {.path = "/memfd:doublemapper (deleted)"};
	struct scene scene = {0};

	scene_open(&scene);
	write_file(scene.library, "\xc3\xc3\xc3\xc3", 4);
	symfix_target_map(&scene.target, scene.library, BASE, 0, 4096, "r-xs", &memfd);
	scene_update(&scene);
	scene_update(&scene);
	cr_expect_eq(tm_module_map_count(scene.map), 1);
	cr_expect_null(tm_module_map_find(scene.map, BASE));
	scene_close(&scene);
}

Test(module, executable_of_fixed_addresses_has_no_bias)
{
	struct {
		Elf64_Ehdr header;
		Elf64_Phdr segments[2];
	} file = {
		.header = {.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB,
				       EV_CURRENT},
			   .e_type = ET_EXEC,
			   .e_machine = EM_X86_64,
			   .e_phoff = sizeof(Elf64_Ehdr),
			   .e_phentsize = sizeof(Elf64_Phdr),
			   .e_phnum = 2},
		.segments = {{PT_LOAD, PF_R, 0, 0x400000, 0x400000, 0x200, 0x200, 4096},
			     {PT_LOAD, PF_R | PF_X, 0x200, 0x401200, 0x401200, 0x100, 0x100, 4096}},
	};
	uint8_t bytes[0x300] = {0};
	struct scene scene = {0};

	scene_open(&scene);
	memcpy(bytes, &file, sizeof(file));
	write_file(scene.library, bytes, sizeof(bytes));
	scene_load(&scene, 0, NULL);
	symfix_target_update(&scene.target, scene.map, scene.library);
	cr_assert_eq(tm_module_map_count(scene.map), 2);
	cr_expect_eq(tm_module_map_get(scene.map, 1)->bias, 0);
	cr_expect_eq(tm_module_map_get(scene.map, 1)->start, 0x400000);
	cr_expect_eq(tm_module_map_find(scene.map, 0x401234), tm_module_map_get(scene.map, 1));
	cr_expect(tm_module_map_get(scene.map, 1)->is_main);
	scene_close(&scene);
}

Test(module, files_that_are_not_understood_have_a_problem)
{
	static const struct {
		const char *name;
		const char bytes[24];
		const char *problem;
	} rows[] = {
		{"text", "#!/bin/sh\nexit 0\n", "not an ELF file"},
		{"32-bit",
		 "\x7f"
		 "ELF\1\1\1",
		 "not a 64-bit ELF file"},
		{"big-endian",
		 "\x7f"
		 "ELF\2\2\1",
		 "not a little-endian ELF file"},
		{"relocatable",
		 "\x7f"
		 "ELF\2\1\1\0\0\0\0\0\0\0\0\0\1",
		 "neither an executable nor a shared library"},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		struct scene scene = {0};
		char bytes[4096] = {0};
		struct tm_module *module;

		scene_open(&scene);
		memcpy(bytes, rows[i].bytes, sizeof(rows[i].bytes));
		write_file(scene.library, bytes, sizeof(bytes));
		symfix_target_map(&scene.target, scene.library, BASE, 0, 4096, "r-xp", NULL);
		scene_update(&scene);
		cr_assert_eq(tm_module_map_count(scene.map), 2, "%s", rows[i].name);
		module = tm_module_map_get(scene.map, 1);
		cr_expect_str_eq(module->problem, rows[i].problem);
		cr_expect_null(module->image);
		cr_expect_eq(tm_module_map_find(scene.map, BASE), module);
		scene_close(&scene);
	}
}

/* ---- paths under a root --------------------------------------------------------------------- */

static char *content_of(int fd)
{
	char text[64] = "(none)";
	ssize_t size = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (size >= 0)
		text[size] = '\0';
	if (fd >= 0)
		close(fd);
	return strdup(text);
}

Test(root_path, no_link_leads_out_of_the_root)
{
	static const struct {
		const char *path, *content;
	} rows[] = {
		{"/etc/name", "inside"},      {"/etc/../../../etc/name", "inside"},
		{"//etc/./name", "inside"},   {"/absolute/name", "inside"},
		{"/relative/name", "inside"}, {"/outward/etc/name", "inside"},
		{"/chain", "inside"},	      {"/etc/name/", "(none)"},
		{"/loop", "(none)"},	      {"/dangling", "(none)"},
		{"/secret", "(none)"},	      {"/outward/secret", "(none)"},
		{"/etc", "(none)"},
	};
	char *directory = symfix_directory(), *root = symfix_format("%s/root", directory);
	_cleanup_close_ int root_fd = -1;

	symfix_run("cd '%s' && printf outside > secret && mkdir -p root/etc && cd root && printf inside > "
		   "etc/name && "
		   "ln -s /etc absolute && ln -s ./etc/../etc relative && ln -s ../../../.. outward && "
		   "ln -s /relative/name chain && ln -s loop loop && ln -s /no/such dangling",
		   directory);
	root_fd = open(root, O_PATH | O_CLOEXEC);
	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		char *by_kernel = content_of(tm_root_open(root_fd, rows[i].path, O_RDONLY));
		char *by_us = content_of(tm_root_open_by_components(root_fd, rows[i].path, O_RDONLY));
		char *as_file = content_of(tm_root_open_file(root_fd, rows[i].path));

		cr_expect_str_eq(by_kernel, rows[i].content, "%s: %s", rows[i].path, by_kernel);
		cr_expect_str_eq(by_us, rows[i].content, "%s: %s", rows[i].path, by_us);
		cr_expect_str_eq(as_file, rows[i].content, "%s: %s", rows[i].path, as_file);
		free(by_kernel);
		free(by_us);
		free(as_file);
	}
	free(root);
	symfix_remove(directory);
}

Test(root_path, only_regular_files_are_opened)
{
	char *directory = symfix_directory(), *fifo = symfix_format("%s/fifo", directory);

	cr_assert_eq(mkfifo(fifo, 0600), 0);
	cr_expect_eq(tm_root_open_file(-1, fifo), -1); /* and does not wait for a writer */
	cr_expect_eq(tm_root_open_file(-1, "/dev/null"), -1);
	cr_expect_eq(tm_root_open_file(-1, "relative"), -1);
	free(fifo);
	symfix_remove(directory);
}
