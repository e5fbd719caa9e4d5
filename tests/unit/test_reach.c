/*
 * Whether a body always comes to a function that is looked for: tables of bytes, and the bodies of operator
 * new and delete in the libraries of this machine, whose files are mapped and not run.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "arch/reach.h"
#include "base/cleanup.h"
#include "debuginfo/symbol.h"
#include "support/elf_code.h"
#include "support/guarded_bytes.h"
#include "support/process_view.h"

#define BODY	 UINT64_C(0x1000)
#define FUNCTION UINT64_C(0x5000)
#define SLOT	 UINT64_C(0x6000)

static const struct tm_arch *const arch = &tm_arch_x86_64;

/* ---- bodies as bytes ---- */

static bool is_one_of_two(void *context, uint64_t address, bool is_slot)
{
	cr_expect_eq(context, &arch, "the context is passed on");
	return is_slot ? address == SLOT : address == FUNCTION;
}

static bool reaches(const uint8_t *bytes, size_t size)
{
	return tm_body_reaches(arch, tm_before_the_guard(bytes, size), size, BODY, is_one_of_two,
			       (void *)&arch);
}

static const struct body {
	const char *what;
	uint8_t bytes[24];
	size_t size;
	bool reaches;
} bodies[] = {
	{"nothing at all", {0}, 0, false},
	{"a call", {0xe8, 0xfb, 0x3f, 0, 0, 0xc3}, 6, true},
	{"a jump to it", {0xe9, 0xfb, 0x3f, 0, 0}, 5, true},
	{"a call behind endbr64", {0xf3, 0x0f, 0x1e, 0xfa, 0xe8, 0xf7, 0x3f, 0, 0, 0xc3}, 10, true},
	{"a call of another one before", /* call 0x11005; call it */
	 {0xe8, 0, 0, 1, 0, 0xe8, 0xf6, 0x3f, 0, 0, 0xc3},
	 11,
	 true},
	{"a call of another one alone", {0xe8, 0, 0, 1, 0, 0xc3}, 6, false},
	{"a conditional move before", /* test %rdi,%rdi; mov $1,%eax; cmove %rax,%rdi; call */
	 {0x48, 0x85, 0xff, 0xb8, 1, 0, 0, 0, 0x48, 0x0f, 0x44, 0xf8, 0xe8, 0xef, 0x3f, 0, 0, 0xc3},
	 18,
	 true},
	{"a branch over the call", /* test %rdi,%rdi; je 1f; call; 1: ret */
	 {0x48, 0x85, 0xff, 0x74, 0x05, 0xe8, 0xf6, 0x3f, 0, 0, 0xc3},
	 11,
	 false},
	{"a branch to the call", /* je 1f; nop; 1: call: nothing is known of ways that are not straight */
	 {0x74, 0x01, 0x90, 0xe8, 0xf8, 0x3f, 0, 0, 0xc3},
	 9,
	 false},
	{"a loop before", /* 1: dec %rax; jne 1b; call */
	 {0x48, 0xff, 0xc8, 0x75, 0xfb, 0xe8, 0xf6, 0x3f, 0, 0, 0xc3},
	 11,
	 true},
	{"a branch to itself", /* 1: jne 1b; call */
	 {0x75, 0xfe, 0xe8, 0xf9, 0x3f, 0, 0, 0xc3},
	 8,
	 true},
	{"a branch out of the body, forward", /* test %rdi,%rdi; je 0x9000; call */
	 {0x48, 0x85, 0xff, 0x0f, 0x84, 0xf7, 0x7f, 0, 0, 0xe8, 0xf2, 0x3f, 0, 0, 0xc3},
	 15,
	 true},
	{"a branch out of the body, backward", /* test %rdi,%rdi; je 0xf00; call */
	 {0x48, 0x85, 0xff, 0x0f, 0x84, 0xf7, 0xfe, 0xff, 0xff, 0xe8, 0xf2, 0x3f, 0, 0, 0xc3},
	 15,
	 true},
	{"a branch to it", /* je it; ret */
	 {0x0f, 0x84, 0xfa, 0x3f, 0, 0, 0xc3},
	 7,
	 false},
	{"a return before", {0xc3, 0xe8, 0xfa, 0x3f, 0, 0, 0xc3}, 7, false},
	{"a trap before", {0x0f, 0x0b, 0xe8, 0xf9, 0x3f, 0, 0, 0xc3}, 8, false},
	{"a jump over the call", /* jmp 1f; call; 1: ret */
	 {0xeb, 0x05, 0xe8, 0xf9, 0x3f, 0, 0, 0xc3},
	 8,
	 false},
	{"a loop for ever before", /* 1: jmp 1b; call */
	 {0xeb, 0xfe, 0xe8, 0xf9, 0x3f, 0, 0, 0xc3},
	 8,
	 false},
	{"a jump to another one before", /* jmp 0x11005; call */
	 {0xe9, 0, 0, 1, 0, 0xe8, 0xf6, 0x3f, 0, 0, 0xc3},
	 11,
	 false},
	{"a call through memory", {0xff, 0x15, 0xfa, 0x4f, 0, 0, 0xc3}, 7, true},
	{"a jump through memory", {0xff, 0x25, 0xfa, 0x4f, 0, 0}, 6, true},
	{"a call through other memory", {0xff, 0x15, 0, 0, 0, 0, 0xc3}, 7, false},
	{"a call through other memory, then of it", /* call *(%rip); call */
	 {0xff, 0x15, 0, 0, 0, 0, 0xe8, 0xf5, 0x3f, 0, 0, 0xc3},
	 12,
	 true},
	{"a jump through other memory before", /* jmp *(%rip); call */
	 {0xff, 0x25, 0, 0, 0, 0, 0xe8, 0xf5, 0x3f, 0, 0, 0xc3},
	 12,
	 false},
	{"a call of any before", /* call *%rax; call */
	 {0xff, 0xd0, 0xe8, 0xf9, 0x3f, 0, 0, 0xc3},
	 8,
	 true},
	{"a jump to any before", /* jmp *%rax; call */
	 {0xff, 0xe0, 0xe8, 0xf9, 0x3f, 0, 0, 0xc3},
	 8,
	 false},
	{"a call of the slot's own address", {0xe8, 0xfb, 0x4f, 0, 0, 0xc3}, 6, false},
	{"a call through the function's own bytes", {0xff, 0x15, 0xfa, 0x3f, 0, 0, 0xc3}, 7, false},
	{"its address alone", /* lea it(%rip),%rax; ret */
	 {0x48, 0x8d, 0x05, 0xf9, 0x3f, 0, 0, 0xc3},
	 8,
	 false},
	{"an end without a return", {0x90, 0x90}, 2, false},
	{"no instruction before", {0x06, 0xe8, 0xfa, 0x3f, 0, 0, 0xc3}, 7, false},
	{"a call that is cut off", {0xe8, 0xfb, 0x3f, 0}, 4, false},
};

Test(reach, of_bodies_as_bytes)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(bodies); i++)
		cr_expect_eq(reaches(bodies[i].bytes, bodies[i].size), bodies[i].reaches, "%s",
			     bodies[i].what);
}

/* Cut behind the call a branch over it leads out of the body. */
Test(reach, a_body_that_is_cut_off_before_the_call_does_not)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(bodies); i++)
		for (size_t size = 0; size + 5 < bodies[i].size; size++)
			cr_expect_not(reaches(bodies[i].bytes, size), "%s, cut to %zu", bodies[i].what, size);
}

Test(reach, cannot_be_told_for_aarch64)
{
	static const uint8_t call[] = {0xe8, 0xfb, 0x3f, 0, 0, 0xc3};

	cr_assert_not(
		tm_body_reaches(&tm_arch_aarch64, call, sizeof(call), BODY, is_one_of_two, (void *)&arch));
}

/* ---- stubs ---- */

static const struct {
	const char *what;
	uint8_t bytes[16];
	size_t size;
	uint64_t slot; /* 0: no stub */
} stubs[] = {
	{"jmp *slot", {0xff, 0x25, 0xfa, 0x4f, 0, 0}, 6, SLOT},
	{"a slot below", {0xff, 0x25, 0xfa, 0xff, 0xff, 0xff}, 6, BODY},
	{"a lazy entry", {0xff, 0x25, 0xfa, 0x4f, 0, 0, 0x68, 3, 0, 0, 0, 0xe9, 0, 0, 0, 0}, 16, SLOT},
	{"behind endbr64", {0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0xf6, 0x4f, 0, 0}, 10, SLOT},
	{"with a bnd prefix", {0xf3, 0x0f, 0x1e, 0xfa, 0xf2, 0xff, 0x25, 0xf5, 0x4f, 0, 0}, 11, SLOT},
	{"behind two endbr64",
	 {0xf3, 0x0f, 0x1e, 0xfa, 0xf3, 0x0f, 0x1e, 0xfa, 0xff, 0x25, 0, 0, 0, 0},
	 14,
	 0},
	{"behind a push", {0x55, 0xff, 0x25, 0xf9, 0x4f, 0, 0}, 7, 0},
	{"behind a change of the argument", {0x31, 0xff, 0xff, 0x25, 0xf8, 0x4f, 0, 0}, 8, 0},
	{"behind a branch", {0x74, 0, 0xff, 0x25, 0xf8, 0x4f, 0, 0}, 8, 0},
	{"a call", {0xff, 0x15, 0xfa, 0x4f, 0, 0}, 6, 0},
	{"jmp *%rax", {0xff, 0xe0, 0x90, 0x90, 0x90, 0x90}, 6, 0},
	{"jmp *(%rax)", {0xff, 0x20, 0x90, 0x90, 0x90, 0x90}, 6, 0},
	{"a direct jump", {0xe9, 0xfb, 0x4f, 0, 0, 0x90}, 6, 0},
	{"a return", {0xc3, 0xff, 0x25, 0xf9, 0x4f, 0, 0}, 7, 0},
	{"cut off", {0xff, 0x25, 0xfa, 0x4f, 0}, 5, 0},
	{"cut off behind endbr64", {0xf3, 0x0f, 0x1e, 0xfa}, 4, 0},
	{"nothing", {0}, 0, 0},
};

Test(reach, stubs_tell_their_slot)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(stubs); i++) {
		const uint8_t *bytes = tm_before_the_guard(stubs[i].bytes, stubs[i].size);
		uint64_t slot = 0;

		cr_expect_eq(tm_stub_slot(arch, bytes, stubs[i].size, BODY, &slot), stubs[i].slot != 0, "%s",
			     stubs[i].what);
		cr_expect_eq(slot, stubs[i].slot, "%s: 0x%lx", stubs[i].what, (unsigned long)slot);
	}
	cr_expect_not(tm_stub_slot(&tm_arch_aarch64, stubs[0].bytes, 6, BODY, &(uint64_t){0}));
}

/* ---- the libraries of this machine ---- */

#define LIBRARIES "/usr/lib/x86_64-linux-gnu/"

/* A library's file, mapped without its code being run. Addresses are ELF virtual addresses. */
static struct library {
	struct tm_process_view view;
	const struct tm_module *module;
	struct tm_elf_code code;
	const char *const *names; /* that are looked for */
} library;

static bool open_library(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat status;
	void *memory;

	if (fd < 0 || fstat(fd, &status) || !tm_elf_code_read(path, &library.code) ||
	    library.code.machine != arch->elf_machine || tm_arch_host() != arch)
		return false;
	memory = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
	cr_assert_neq(memory, MAP_FAILED);
	close(fd);
	tm_process_view_open(&library.view, getpid());
	library.module = tm_module_map_find(library.view.map, (uint64_t)(uintptr_t)memory);
	cr_assert_not_null(library.module);
	return true;
}

static bool is_name_wanted(const char *name)
{
	for (size_t i = 0; name && library.names[i]; i++)
		if (strcmp(name, library.names[i]) == 0)
			return true;
	return false;
}

static bool is_wanted(void *context, uint64_t address, bool is_slot)
{
	uint64_t slot = address;
	const uint8_t *bytes;
	size_t available;

	(void)context;
	for (size_t i = 0; !is_slot && library.names[i]; i++) {
		const struct tm_elf_function *function = tm_elf_code_find(&library.code, library.names[i]);

		if (function && function->address == address)
			return true;
	}
	if (!is_slot) {
		bytes = tm_module_bytes(library.module, address, &available);
		if (!bytes || !tm_stub_slot(arch, bytes, available, address, &slot))
			return false;
	}
	return is_name_wanted(tm_module_got_slot_name(library.module, slot));
}

static const char *const allocating[] = {"malloc",
					 "aligned_alloc",
					 "memalign",
					 "posix_memalign",
					 "_Znwm",
					 "_Znam",
					 "_ZnwmSt11align_val_t",
					 "_ZnamSt11align_val_t",
					 "_ZnwmRKSt9nothrow_t",
					 "_ZnwmSt11align_val_tRKSt9nothrow_t",
					 NULL};
static const char *const freeing[] = {
	"free", "_ZdlPv", "_ZdaPv", "_ZdlPvSt11align_val_t", "_ZdaPvSt11align_val_t", NULL};

static const char *const operators_new[] = {"_Znwm",
					    "_Znam",
					    "_ZnwmRKSt9nothrow_t",
					    "_ZnamRKSt9nothrow_t",
					    "_ZnwmSt11align_val_t",
					    "_ZnamSt11align_val_t",
					    "_ZnwmSt11align_val_tRKSt9nothrow_t",
					    "_ZnamSt11align_val_tRKSt9nothrow_t",
					    NULL};
static const char *const operators_delete[] = {"_ZdlPv",
					       "_ZdaPv",
					       "_ZdlPvm",
					       "_ZdaPvm",
					       "_ZdlPvSt11align_val_t",
					       "_ZdaPvSt11align_val_t",
					       "_ZdlPvmSt11align_val_t",
					       "_ZdaPvmSt11align_val_t",
					       "_ZdlPvRKSt9nothrow_t",
					       "_ZdaPvRKSt9nothrow_t",
					       NULL};

/* How many of the functions come to one of the names; *there: how many there are. */
static size_t count_reaching(const char *const *functions, const char *const *names, size_t *there)
{
	size_t count = 0;

	library.names = names;
	*there = 0;
	for (size_t i = 0; functions[i]; i++) {
		const struct tm_elf_function *function = tm_elf_code_find(&library.code, functions[i]);

		if (!function)
			continue;
		++*there;
		count += tm_body_reaches(arch, function->bytes, function->size, function->address, is_wanted,
					 NULL);
	}
	return count;
}

Test(reach, operators_of_the_c_library_s_kind_come_to_malloc_and_free)
{
	size_t there;

	if (!open_library(LIBRARIES "libstdc++.so.6"))
		cr_skip_test("no x86-64 libstdc++ is installed");
	cr_expect_eq(count_reaching(operators_new, allocating, &there), there);
	cr_expect_gt(there, 3);
	cr_expect_eq(count_reaching(operators_delete, freeing, &there), there);
	cr_expect_gt(there, 3);
}

Test(reach, operators_do_not_come_to_what_they_have_no_business_with)
{
	size_t there;

	if (!open_library(LIBRARIES "libstdc++.so.6"))
		cr_skip_test("no x86-64 libstdc++ is installed");
	cr_expect_eq(count_reaching(operators_new, freeing, &there), 0);
	cr_expect_eq(count_reaching(operators_delete, allocating, &there), 0);
}

static const char *const plain_new[] = {"_Znwm", "_Znam", NULL};
static const char *const plain_delete[] = {"_ZdlPv", "_ZdaPv", NULL};
static const char *const plain_malloc[] = {"malloc", NULL};
static const char *const plain_free[] = {"free", NULL};

static void expect_operators(const char *path, size_t new_count, size_t delete_count)
{
	size_t there;

	if (!open_library(path))
		cr_skip_test("%s is not installed", path);
	cr_expect_eq(count_reaching(plain_new, plain_malloc, &there), new_count);
	cr_expect_eq(there, 2);
	cr_expect_eq(count_reaching(plain_delete, plain_free, &there), delete_count);
	cr_expect_eq(there, 2);
}

Test(reach, operators_of_tcmalloc_do_their_work_themselves)
{
	expect_operators(LIBRARIES "libtcmalloc.so.4", 0, 0);
}

Test(reach, operators_of_tcmalloc_minimal_do_their_work_themselves)
{
	expect_operators(LIBRARIES "libtcmalloc_minimal.so.4", 0, 0);
}

/* Its operator delete is a jump to free. */
Test(reach, operator_new_of_jemalloc_does_its_work_itself)
{
	expect_operators(LIBRARIES "libjemalloc.so.2", 0, 2);
}
