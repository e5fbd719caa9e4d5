/* Symbol tables, relocations and separate debug files of modules. */
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/hash.h"
#include "debuginfo/elf_symbols.h"
#include "debuginfo/symbol.h"
#include "support/symfix_code.h"
#include "support/symfix_target.h"

/* What a visit looks for, and what it saw. */
struct search {
	const char *name;
	struct tm_symbol found; /* name is not kept */
	const struct tm_module *module;
	size_t hits, visited, versioned, outside;
	uint64_t mixed; /* of all names and addresses, in any order */
};

static uint64_t mix(const char *name, uint64_t vaddr)
{
	uint64_t h = vaddr * 0x9e3779b97f4a7c15u;

	for (; *name; name++)
		h = (h ^ (uint8_t)*name) * 0x100000001b3u;
	return h;
}

static bool is_in_text(const struct tm_module *module, uint64_t vaddr)
{
	for (size_t i = 0; i < module->text_count; i++) {
		if (vaddr + module->bias >= module->texts[i].start &&
		    vaddr + module->bias <= module->texts[i].end)
			return true;
	}
	return false;
}

static bool look(const struct tm_symbol *symbol, void *context)
{
	struct search *search = context;

	search->visited++;
	search->outside += !search->module || !is_in_text(search->module, symbol->vaddr);
	search->versioned += strchr(symbol->name, '@') != NULL;
	search->mixed += mix(symbol->name, symbol->vaddr);
	if (search->name && strcmp(symbol->name, search->name) == 0) {
		search->found = *symbol;
		search->hits++;
	}
	return true;
}

static struct search visit(struct tm_module_map *map, struct tm_module *module, enum tm_symbol_table table,
			   const char *name)
{
	struct search search = {.name = name, .module = module};
	struct tm_error *err = tm_module_each_symbol(map, module, table, look, &search);

	cr_assert_null(err, "%s", err->message);
	return search;
}

static struct tm_module *own_module(struct tm_module_map *map)
{
	return tm_module_map_find(map, (uint64_t)(uintptr_t)symfix_outer);
}

/* ---- tables --------------------------------------------------------------------------------- */

Test(symbol, own_function_is_in_the_static_table)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *own = own_module(map);
	struct search search = visit(map, own, TM_SYMBOLS_STATIC, "symfix_outer");

	cr_assert_eq(search.hits, 1);
	cr_expect_eq(search.found.vaddr + own->bias, (uint64_t)(uintptr_t)symfix_outer);
	cr_expect_gt(search.found.size, 0);
	cr_expect_eq(search.found.table, TM_SYMBOLS_STATIC);
	cr_expect(!search.found.is_ifunc);
	tm_module_map_destroy(map);
}

Test(symbol, own_functions_are_those_that_readelf_knows)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct search ours = visit(map, own_module(map), TM_SYMBOLS_STATIC, NULL);
	FILE *readelf = popen("readelf -sW /proc/$PPID/exe 2>/dev/null | sed -n '/\\.symtab/,$p' | "
			      "awk '$7 ~ /^[0-9]+$/ && ($4 == \"FUNC\" || $4 == \"IFUNC\") {print $2, $8}'",
			      "r");
	unsigned long long vaddr;
	char name[1024];
	size_t count = 0;

	while (fscanf(readelf, "%llx %1023s", &vaddr, name) == 2) {
		struct search search = {0};

		name[strcspn(name, "@")] = '\0';
		if (count++ % 50 == 0) {
			search = visit(map, own_module(map), TM_SYMBOLS_STATIC, name);
			cr_expect_geq(search.hits, 1, "%s", name);
		}
	}
	pclose(readelf);
	cr_expect_gt(count, 50);
	cr_expect_geq(ours.visited, count);
	cr_expect_eq(ours.outside, 0); /* labels of data */
	tm_module_map_destroy(map);
}

Test(symbol, library_functions_are_in_the_dynamic_table)
{
	static const char *const names[] = {"fopen", "posix_memalign", "reallocarray", "getaddrinfo"};
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *libc = symfix_module(map, "libc.so.6");
	void *library = dlopen("libc.so.6", RTLD_NOW);

	for (size_t i = 0; i < TM_ARRAY_SIZE(names); i++) {
		struct search search = visit(map, libc, TM_SYMBOLS_DYNAMIC, names[i]);
		struct tm_symbol symbol;

		cr_assert_geq(search.hits, 1, "%s", names[i]);
		cr_expect_eq(search.found.vaddr + libc->bias, (uint64_t)(uintptr_t)dlsym(library, names[i]));
		cr_expect(tm_module_find_dynamic_symbol(libc, names[i], &symbol));
		cr_expect_eq(symbol.vaddr, search.found.vaddr);
	}
	tm_module_map_destroy(map);
}

/* The first of each name, as the hash table has it and as the table of symbols has it. */
struct sameness {
	struct tm_module *module;
	struct tm_map seen; /* hash of the name */
	size_t same, others;
};

static bool compare_with_hash(const struct tm_symbol *symbol, void *context)
{
	struct sameness *sameness = context;
	uint64_t name = tm_hash_bytes(symbol->name, strlen(symbol->name));
	struct tm_symbol found;

	if (tm_map_get(&sameness->seen, name))
		return true;
	cr_assert(tm_map_put(&sameness->seen, name, 1));
	if (tm_module_find_dynamic_symbol(sameness->module, symbol->name, &found) &&
	    found.vaddr == symbol->vaddr && strcmp(found.name, symbol->name) == 0)
		sameness->same++;
	else
		sameness->others++;
	return true;
}

Test(symbol, every_name_is_found_by_hash)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct sameness sameness = {.module = symfix_module(map, "libc.so.6")};

	cr_assert_null(tm_module_each_symbol(map, sameness.module, TM_SYMBOLS_DYNAMIC, compare_with_hash,
					     &sameness));
	cr_expect_gt(sameness.same, 1000);
	cr_expect_eq(sameness.others, 0, "%zu are not", sameness.others);
	tm_map_deinit(&sameness.seen);
	tm_module_map_destroy(map);
}

Test(symbol, undefined_symbols_are_not_visited)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_symbol symbol;

	cr_expect_eq(visit(map, own_module(map), TM_SYMBOLS_DYNAMIC, "mkdtemp").hits, 0);
	cr_expect_eq(visit(map, own_module(map), TM_SYMBOLS_STATIC, "mkdtemp").hits, 0);
	cr_expect(!tm_module_find_dynamic_symbol(own_module(map), "mkdtemp", &symbol));
	tm_module_map_destroy(map);
}

Test(symbol, indirect_functions_are_marked)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *libc = symfix_module(map, "libc.so.6");

	cr_expect(visit(map, libc, TM_SYMBOLS_DYNAMIC, "strlen").found.is_ifunc);
	cr_expect(!visit(map, libc, TM_SYMBOLS_DYNAMIC, "fopen").found.is_ifunc);
	tm_module_map_destroy(map);
}

Test(symbol, objects_are_found_by_name)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *libc = symfix_module(map, "libc.so.6");
	struct tm_symbol symbol;

	cr_expect(tm_module_find_dynamic_symbol(libc, "environ", &symbol));
	cr_expect_eq(symbol.size, sizeof(void *));
	cr_expect_eq(visit(map, libc, TM_SYMBOLS_DYNAMIC, "environ").hits, 0);
	tm_module_map_destroy(map);
}

Test(symbol, versions_are_cut_off)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	char *directory = symfix_directory(), *path = symfix_format("%s/libversions.so", directory);
	struct symfix_target target = {0};
	struct tm_module_source source = symfix_target_source(&target, -1, -1);
	struct search search;

	symfix_run("cd '%s' && printf 'V1 { global: symfix_versioned; };' > map && printf 'void old(void) {} "
		   "void new(void) {} "
		   "__asm__(\".symver old,symfix_versioned@V1\");' > a.c && "
		   "cc -shared -fPIC -o libversions.so a.c -Wl,--version-script=map",
		   directory);
	tm_module_map_reset(map, &source);
	symfix_target_load(&target, path, 0x10000000, NULL);
	symfix_target_update(&target, map, NULL);
	search = visit(map, symfix_module(map, "libversions.so"), TM_SYMBOLS_STATIC, "symfix_versioned");
	cr_expect_eq(search.hits, 1);
	cr_expect_eq(search.versioned, 0);
	tm_module_map_destroy(map);
	symfix_target_deinit(&target);
	symfix_remove(directory);
	free(path);
}

static bool stop_at_once(const struct tm_symbol *symbol, void *context)
{
	(void)symbol;
	++*(int *)context;
	return false;
}

Test(symbol, visit_ends_when_told_so)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	int calls = 0;

	cr_expect_null(tm_module_each_symbol(map, own_module(map), TM_SYMBOLS_STATIC, stop_at_once, &calls));
	cr_expect_eq(calls, 1);
	tm_module_map_destroy(map);
}

/* Without section headers the dynamic table is found by PT_DYNAMIC and the hash table: each library of this
   process copied as from memory has the same symbols as by its sections. */
Test(symbol, dynamic_table_is_the_same_without_sections)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	size_t compared = 0;

	for (uint32_t i = 1; i < tm_module_map_count(map); i++) {
		struct tm_module *module = tm_module_map_get(map, i), bare = *module;
		uint8_t *copy = malloc(module->image_size);
		struct search with, without;

		memcpy(copy, module->image, module->image_size);
		((Elf64_Ehdr *)copy)->e_shoff = 0;
		bare.image = copy;
		with = visit(map, module, TM_SYMBOLS_DYNAMIC, NULL);
		without = visit(map, &bare, TM_SYMBOLS_DYNAMIC, NULL);
		cr_expect_eq(with.visited, without.visited, "%s", module->path);
		cr_expect_eq(with.mixed, without.mixed, "%s", module->path);
		compared += with.visited;
		free(copy);
	}
	cr_expect_gt(compared, 2000);
	tm_module_map_destroy(map);
}

Test(symbol, debug_dynamic_entry_holds_the_link_map)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *own = own_module(map);
	const struct r_debug *debug;
	uint64_t place;

	cr_assert(tm_module_dynamic_entry(own, DT_DEBUG, &place));
	debug = *(const struct r_debug **)(uintptr_t)(own->bias + place);
	cr_expect_eq(debug->r_ldbase, getauxval(AT_BASE));
	cr_expect(!tm_module_dynamic_entry(own, DT_SONAME, &place));
	tm_module_map_destroy(map);
}

/* ---- relocations ---------------------------------------------------------------------------- */

struct slots {
	uint64_t vaddrs[16];
	size_t count;
};

static bool collect_slot(uint64_t slot_vaddr, void *context)
{
	struct slots *slots = context;

	if (slots->count < TM_ARRAY_SIZE(slots->vaddrs))
		slots->vaddrs[slots->count++] = slot_vaddr;
	return true;
}

Test(symbol, got_slots_hold_the_function)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *own = own_module(map);
	struct slots slots = {0};
	char *(*volatile function)(char *) = mkdtemp; /* by a slot that is filled at once */

	cr_assert_null(tm_module_each_got_slot(own, "mkdtemp", 0, collect_slot, &slots));
	cr_assert_gt(slots.count, 0);
	cr_expect_eq(*(uint64_t *)(uintptr_t)(own->bias + slots.vaddrs[0]), (uint64_t)(uintptr_t)function);
	slots.count = 0;
	cr_assert_null(tm_module_each_got_slot(own, "no_such_function", 0, collect_slot, &slots));
	cr_expect_eq(slots.count, 0);
	tm_module_map_destroy(map);
}

/* libc calls its own strlen through a slot that its resolver fills. */
Test(symbol, slots_of_resolved_ifuncs_are_found_by_their_resolver)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *libc = symfix_module(map, "libc.so.6");
	struct slots slots = {0};
	struct tm_symbol strlen_symbol;

	cr_assert(tm_module_find_dynamic_symbol(libc, "strlen", &strlen_symbol));
	cr_assert_null(tm_module_each_got_slot(libc, "strlen", strlen_symbol.vaddr, collect_slot, &slots));
	cr_assert_gt(slots.count, 0);
	for (size_t i = 0; i < slots.count; i++) {
		uint64_t resolved = *(uint64_t *)(uintptr_t)(libc->bias + slots.vaddrs[i]);

		cr_expect_eq(tm_module_map_find(map, resolved), libc);
		cr_expect_neq(resolved, strlen_symbol.vaddr + libc->bias);
	}
	tm_module_map_destroy(map);
}

/* ---- separate debug files ------------------------------------------------------------------- */

/* A stripped copy of this program under a root of its own, as /opt/program, and its debug file at a place to
 * choose. */
struct stripped {
	char *directory, *program;
	struct symfix_target target;
	struct tm_module_map *map;
	int root_fd;
};

static void stripped_open(struct stripped *s, const char *debug_place, bool keep_build_id)
{
	struct symfix_disguise inside = {.path = "/opt/program"};
	struct tm_module_source source;

	s->directory = symfix_directory();
	s->program = symfix_format("%s/opt/program", s->directory);
	symfix_run("cd '%s' && mkdir -p build opt && cp /proc/$PPID/exe build/whole", s->directory);
	if (!keep_build_id)
		symfix_run("objcopy --remove-section .note.gnu.build-id '%s/build/whole' 2>/dev/null",
			   s->directory);
	symfix_run("cd '%s/build' && objcopy --only-keep-debug whole program.debug 2>/dev/null && "
		   "objcopy --strip-all --add-gnu-debuglink=program.debug whole ../opt/program",
		   s->directory);
	symfix_run("mkdir -p \"$(dirname '%s%s')\" && mv '%s/build/program.debug' '%s%s'", s->directory,
		   debug_place, s->directory, s->directory, debug_place);
	s->root_fd = open(s->directory, O_PATH | O_CLOEXEC);
	source = symfix_target_source(&s->target, s->root_fd, -1);
	cr_assert_null(tm_module_map_create(&source, &s->map));
	symfix_target_load(&s->target, s->program, 0x10000000, &inside);
	symfix_target_update(&s->target, s->map, NULL);
}

static void stripped_close(struct stripped *s)
{
	tm_module_map_destroy(s->map);
	symfix_target_deinit(&s->target);
	close(s->root_fd);
	free(s->program);
	symfix_remove(s->directory);
}

Test(symbol, debug_file_is_found_by_its_link)
{
	static const char *const places[] = {"/opt/program.debug", "/opt/.debug/program.debug",
					     "/usr/lib/debug/opt/program.debug"};

	for (size_t i = 0; i < TM_ARRAY_SIZE(places) * 2; i++) {
		const char *place = places[i / 2];
		struct stripped s = {0};
		struct tm_module *module;
		char *path = NULL;
		int fd;

		stripped_open(&s, place, i % 2);
		module = symfix_module(s.map, "/opt/program");
		fd = tm_module_open_debug_file(s.map, module, &path);
		cr_expect_geq(fd, 0, "%s", place);
		cr_expect_str_eq(path, place);
		cr_expect_eq(visit(s.map, module, TM_SYMBOLS_STATIC, NULL).visited, 0);
		cr_expect_eq(visit(s.map, module, TM_SYMBOLS_DEBUG_FILE, "symfix_outer").hits, 1);
		close(fd);
		free(path);
		stripped_close(&s);
	}
}

Test(symbol, debug_file_is_found_by_build_id)
{
	struct tm_module_map *own = symfix_own_modules(-1, -1);
	const char *id = own_module(own)->build_id;
	struct stripped s = {0};
	struct search search;
	char *place;

	cr_assert_not_null(id);
	place = symfix_format("/usr/lib/debug/.build-id/%.2s/%s.debug", id, id + 2);
	stripped_open(&s, place, true);
	search = visit(s.map, symfix_module(s.map, "/opt/program"), TM_SYMBOLS_DEBUG_FILE, "symfix_outer");
	cr_expect_eq(search.hits, 1);
	cr_expect_eq(search.found.table, TM_SYMBOLS_DEBUG_FILE);
	cr_expect_eq(search.found.vaddr, (uint64_t)(uintptr_t)symfix_outer - own_module(own)->bias);
	free(place);
	stripped_close(&s);
	tm_module_map_destroy(own);
}

Test(symbol, debug_file_of_another_build_is_refused)
{
	for (int keep_build_id = 0; keep_build_id <= 1; keep_build_id++) {
		struct stripped s = {0};
		struct tm_module *module;

		stripped_open(&s, "/opt/program.debug", keep_build_id);
		if (keep_build_id)
			symfix_run("cd '%s/opt' && objcopy --remove-section .note.gnu.build-id program.debug "
				   "2>/dev/null",
				   s.directory);
		else
			symfix_run("cd '%s/opt' && printf x >> program.debug", s.directory);
		module = symfix_module(s.map, "/opt/program");
		cr_expect_eq(tm_module_open_debug_file(s.map, module, NULL), -1);
		cr_expect_eq(visit(s.map, module, TM_SYMBOLS_DEBUG_FILE, NULL).visited, 0);
		stripped_close(&s);
	}
}

/* ---- damage --------------------------------------------------------------------------------- */

static void use_everything(struct tm_module *module)
{
	struct tm_module_source source = {-1, -1, {NULL, NULL}};
	struct tm_module_map *map;
	struct slots slots = {0};
	struct tm_symbol symbol;
	uint64_t place;
	size_t available;

	cr_assert_null(tm_module_map_create(&source, &map));
	for (int table = TM_SYMBOLS_DYNAMIC; table <= TM_SYMBOLS_STATIC; table++) {
		struct search search = {0};
		struct tm_error *err = tm_module_each_symbol(map, module, table, look, &search);

		cr_expect(!err || err->code == TM_ERROR_BAD_FORMAT);
		tm_error_destroy(err);
	}
	tm_error_destroy(tm_module_each_got_slot(module, "malloc", 1, collect_slot, &slots));
	tm_module_find_dynamic_symbol(module, "malloc", &symbol);
	tm_module_dynamic_entry(module, DT_DEBUG, &place);
	tm_module_interpreter(module);
	tm_module_soname(module);
	tm_module_bytes(module, 0x1000, &available);
	tm_module_map_destroy(map);
}

/* Cut off at any length, the file ends where nothing can be read. */
Test(symbol, truncated_files_are_never_read_beyond_their_end)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *whole = symfix_module(map, "[vdso]");
	size_t room = (whole->image_size + 4095) / 4096 * 4096;
	uint8_t *area = mmap(NULL, room + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(area, MAP_FAILED);
	cr_assert_eq(mprotect(area + room, 4096, PROT_NONE), 0);
	for (size_t size = 0; size <= whole->image_size; size++) {
		struct tm_module cut = {
			.path = (char *)"cut", .fd = -1, .image = area + room - size, .image_size = size};

		memcpy(area + room - size, whole->image, size);
		use_everything(&cut);
	}
	munmap(area, room + 4096);
	tm_module_map_destroy(map);
}

Test(symbol, damaged_table_is_an_error)
{
	struct tm_module_map *map = symfix_own_modules(-1, -1);
	struct tm_module *own = own_module(map), damaged = *own;
	struct search search = {0};
	struct tm_error *err;
	struct tm_elf elf;
	Elf64_Shdr section;
	uint8_t *copy = malloc(own->image_size);

	memcpy(copy, own->image, own->image_size);
	damaged.image = copy;
	cr_assert_null(tm_elf_init(&elf, copy, own->image_size));
	for (size_t i = 0; i < elf.section_count; i++) {
		cr_assert(tm_elf_section(&elf, i, &section));
		section.sh_offset += section.sh_type == SHT_SYMTAB ? UINT64_C(1) << 40 : 0;
		memcpy(copy + elf.header.e_shoff + i * sizeof(section), &section, sizeof(section));
	}
	err = tm_module_each_symbol(map, &damaged, TM_SYMBOLS_STATIC, look, &search);
	cr_assert_not_null(err);
	cr_expect_eq(err->code, TM_ERROR_BAD_FORMAT);
	cr_expect_eq(search.visited, 0);
	tm_error_destroy(err);
	free(copy);
	tm_module_map_destroy(map);
}
