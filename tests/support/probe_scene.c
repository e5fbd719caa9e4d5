#include "support/probe_scene.h"

#include <criterion/criterion.h>
#include <inttypes.h>

#include "target/procfs.h"

/* ---- functions with allocators' names ---- */

/* clang-format off */
#if defined(__x86_64__)
#define JUMP_IF_NULL "test %rdi, %rdi\n\tje "
#define JUMP_AWAY    "jmp *%rax\n"
#define JUMP_INTO(name) "\t.byte 0xe9\n\t.long " name "+1-.-4\n" /* jmp, never with 8 bits */
#else
#define JUMP_IF_NULL "cbz x0, "
#define JUMP_AWAY    "br x1\n"
#define JUMP_INTO(name) "\tb " name "+4\n"
#endif
#define PLAIN "nop\n\tnop\n"

#define LONG  ".rept 16\n\tnop\n\t.endr\n"

#define SYMBOL(name, type) "\t.globl " name "\n\t.type " name ", %" type "\n"
#define ALIAS(name, type, of) SYMBOL(name, type) "\t.set " name ", " of "\n"
#define LABEL(name) "\t.globl " name "\n" name ":\n"
#define FUNCTION(name, body)                                                                                 \
	"\t.balign 16\n" SYMBOL(name, "function") name ":\n\t" body LABEL(name "_return")                    \
	"\tret\n\t.size " name ", .-" name "\n"

#define UNWINDABLE(name, body)                                                                               \
	"\t.balign 16\n" SYMBOL(name, "function") name ":\n\t.cfi_startproc\n\t" body LABEL(name "_return")  \
	"\tret\n\t.cfi_endproc\n\t.size " name ", .-" name "\n"

__asm__("\t.text\n"
	FUNCTION("mi_malloc", PLAIN)
	ALIAS("mi_zalloc", "function", "mi_malloc")
	FUNCTION("mi_calloc", PLAIN)
	FUNCTION("mi_realloc", JUMP_IF_NULL "mi_malloc\n")
	FUNCTION("tc_realloc", PLAIN)
	FUNCTION("rallocx", PLAIN)
	FUNCTION("mi_posix_memalign", PLAIN)
	FUNCTION("tc_malloc", JUMP_AWAY)
	FUNCTION("tc_new", PLAIN)
	FUNCTION("mi_free", PLAIN)
	FUNCTION("tc_delete", PLAIN)
	UNWINDABLE("mi_valloc", LONG)
	UNWINDABLE("mi_mallocn", LONG)
	UNWINDABLE("tc_posix_memalign", LONG)
	FUNCTION("mi_pvalloc", LONG)
	UNWINDABLE("mi_memalign", LONG)
	JUMP_INTO("mi_memalign")
	FUNCTION("scene_chosen", PLAIN)
	FUNCTION("scene_resolver", PLAIN)
	ALIAS("tc_valloc", "gnu_indirect_function", "scene_resolver")
	FUNCTION("scene_callers", "nop\n"
		 LABEL("scene_caller_1") "\tnop\n"
		 LABEL("scene_caller_2") "\tnop\n"
		 LABEL("scene_caller_3") "\tnop\n")
	"\t.data\n\t.balign 16\n" LABEL("scene_jit") "\t.quad 0, 0\n\t.text\n");
/* clang-format on */

/* ---- the stage ---- */

#define STACK_WORDS 1024
static uint64_t stacks[4][STACK_WORDS];

uint64_t scene_address(const char *place)
{
	return (uint64_t)(uintptr_t)place;
}

void scene_check(struct tm_error *err)
{
	cr_assert_null(err, "%s", err ? err->message : "");
}

static void find_modules(struct scene *scene)
{
	struct tm_module_source source = {-1, -1, tm_target_memory(&scene->fake->base)};
	struct tm_mappings mappings = {0};

	scene_check(tm_module_map_create(&source, &scene->modules));
	scene_check(tm_procfs_mappings(getpid(), &mappings));
	scene_check(tm_module_map_update(scene->modules, &mappings, NULL));
	tm_mappings_deinit(&mappings);
	scene->program = tm_module_map_find(scene->modules, scene_address(mi_malloc));
	cr_assert_not_null(scene->program);
}

static bool no_saved_pc(void *context, struct tm_thread *thread, tm_visit_pc visit, void *visit_context)
{
	(void)context;
	(void)thread;
	(void)visit;
	(void)visit_context;
	return true;
}

static void make_patches(struct scene *scene)
{
	const struct tm_patches_config config = {&scene->fake->base, scene->pads, no_saved_pc, NULL};

	scene_check(tm_patches_create(&config, &scene->patches));
}

void scene_open(struct scene *scene, const struct tm_event_sink *sink, bool with_pads)
{
	size_t armed = 0;

	*scene = (struct scene){.fake = fake_target_create()};
	find_modules(scene);
	if (with_pads)
		scene_check(tm_pads_create(&scene->fake->base, &scene->pads));
	scene_check(tm_breakpoints_create(&scene->fake->base, scene->pads, &scene->breakpoints));
	scene->fake->base.breakpoints = scene->breakpoints;
	scene_check(tm_cfi_create(scene->fake->base.arch, scene->modules, &scene->cfi));
	scene_check(tm_function_index_create(scene->fake->base.arch, scene->modules, &scene->functions));
	if (with_pads)
		make_patches(scene);
	struct tm_probe_config config = {.target = &scene->fake->base,
					 .breakpoints = scene->breakpoints,
					 .pads = scene->pads,
					 .patches = scene->patches,
					 .cfi = scene->cfi,
					 .modules = scene->modules,
					 .functions = scene->functions,
					 .sink = *sink};

	scene_check(tm_probe_create(&config, &scene->probe));
	scene_check(tm_probe_arm_module(scene->probe, scene->program, &armed));
	cr_assert_gt(armed, 0);
}

void scene_close(struct scene *scene)
{
	struct tm_thread *thread;

	for (size_t i = 0; (thread = tm_target_next_thread(&scene->fake->base, &i));)
		tm_probe_thread_gone(scene->probe, thread);
	tm_probe_destroy(scene->probe);
	tm_function_index_destroy(scene->functions);
	tm_patches_destroy(scene->patches);
	tm_cfi_destroy(scene->cfi);
	tm_breakpoints_destroy(scene->breakpoints);
	tm_pads_destroy(scene->pads);
	tm_module_map_destroy(scene->modules);
	fake_target_destroy(scene->fake);
}

void scene_restore(struct scene *scene)
{
	size_t foreign = 0;

	if (scene->patches)
		scene_check(tm_patches_remove_all(scene->patches, &foreign));
	cr_assert_eq(foreign, 0);
	scene_check(tm_breakpoints_remove_all(scene->breakpoints, &foreign));
	cr_assert_eq(foreign, 0);
}

struct tm_thread *scene_add_thread(struct scene *scene, pid_t tid)
{
	struct tm_thread *thread = fake_target_add_thread(scene->fake, tid);
	size_t number = scene->fake->base.threads.count - 1;

	cr_assert_lt(number, TM_ARRAY_SIZE(stacks));
	/* The upper half: what lies above a call is there to be captured, zero. */
	thread->regs.value[scene->fake->base.arch->sp] =
		(uint64_t)(uintptr_t)&stacks[number][STACK_WORDS / 2];
	return thread;
}

/* ---- calls ---- */

static uint64_t *reg(struct tm_thread *thread, unsigned number)
{
	return &thread->regs.value[number];
}

/* The thread comes to pc by itself. A breakpoint there stops it, and it is let on; the fake's thread does not
 * really run. */
static void arrive(struct scene *scene, struct tm_thread *thread, uint64_t pc)
{
	const struct tm_arch *arch = scene->fake->base.arch;
	bool ours = false;

	*reg(thread, arch->pc) = pc;
	if (!fake_target_traps_at(scene->fake, pc))
		return;
	scene->stops++;
	cr_assert_not_null(tm_breakpoint_find(scene->breakpoints, pc));
	scene_check(tm_probe_hit(scene->probe, thread, pc, &ours));
	cr_assert(ours);
	if (*reg(thread, arch->pc) != pc) /* from the trampoline to the caller */
		return arrive(scene, thread, *reg(thread, arch->pc));
	scene_check(tm_breakpoint_resume(scene->breakpoints, thread));
	cr_assert_neq(*reg(thread, arch->pc), pc, "it would meet the same breakpoint again");
	*reg(thread, arch->pc) = pc;
	thread->state = TM_THREAD_STOPPED;
}

struct scene_call scene_enter(struct scene *scene, struct tm_thread *thread, const char *function,
			      const char *return_address, uint64_t a, uint64_t b, uint64_t c)
{
	const struct tm_arch *arch = scene->fake->base.arch;
	struct scene_call call = {.function = function,
				  .cfa = *reg(thread, arch->sp),
				  .return_address = scene_address(return_address)};
	const uint64_t arguments[] = {a, b, c};

	for (size_t i = 0; i < TM_ARRAY_SIZE(arguments); i++)
		*reg(thread, arch->arguments[i]) = arguments[i];
	if (arch->link >= 0) {
		*reg(thread, (unsigned)arch->link) = call.return_address;
	} else {
		*reg(thread, arch->sp) -= sizeof(uint64_t);
		scene_check(tm_target_write(&scene->fake->base, *reg(thread, arch->sp), &call.return_address,
					    sizeof(call.return_address)));
	}
	arrive(scene, thread, scene_address(function));
	return call;
}

void scene_jump(struct scene *scene, struct tm_thread *thread, struct scene_call *call, const char *function,
		uint64_t a, uint64_t b)
{
	const struct tm_arch *arch = scene->fake->base.arch;

	call->function = function;
	*reg(thread, arch->arguments[0]) = a;
	*reg(thread, arch->arguments[1]) = b;
	arrive(scene, thread, scene_address(function));
}

uint64_t scene_return_word(struct scene *scene, const struct scene_call *call)
{
	uint64_t word = call->return_address;

	if (scene->fake->base.arch->link < 0)
		scene_check(
			tm_target_read(&scene->fake->base, call->cfa - sizeof(word), &word, sizeof(word)));
	return word;
}

void scene_leave(struct scene *scene, struct tm_thread *thread, const struct scene_call *call,
		 const char *return_instruction, uint64_t result)
{
	const struct tm_arch *arch = scene->fake->base.arch;

	*reg(thread, arch->result) = result;
	*reg(thread, arch->sp) = call->cfa - (uint64_t)arch->return_cfa_offset;
	arrive(scene, thread, scene_address(return_instruction));
	*reg(thread, arch->sp) = call->cfa;
	arrive(scene, thread, scene_return_word(scene, call));
	cr_assert_eq(*reg(thread, arch->pc), call->return_address);
}

static void push_word(struct scene *scene, struct tm_thread *thread, uint64_t word)
{
	uint64_t *sp = reg(thread, scene->fake->base.arch->sp);

	*sp -= sizeof(word);
	scene_check(tm_target_write(&scene->fake->base, *sp, &word, sizeof(word)));
}

/* What the pushes of a pad push: psABI 3.2.3 has the arguments' registers. */
static void push_argument(struct scene *scene, struct tm_thread *thread, uint8_t opcode)
{
	static const struct {
		uint8_t opcode, argument;
	} pushes[] = {{0x57, 0}, {0x56, 1}, {0x52, 2}};

	for (size_t i = 0; i < TM_ARRAY_SIZE(pushes); i++)
		if (pushes[i].opcode == opcode)
			push_word(scene, thread,
				  *reg(thread, scene->fake->base.arch->arguments[pushes[i].argument]));
}

static uint64_t jump_target(struct scene *scene, uint64_t function)
{
	uint8_t opcode;
	int32_t displacement;

	scene_check(tm_target_read(&scene->fake->base, function, &opcode, 1));
	scene_check(tm_target_read(&scene->fake->base, function + 1, &displacement, sizeof(displacement)));
	cr_assert_eq(opcode, 0xe9, "0x%" PRIx64 " is not patched", function);
	return function + 5 + (uint64_t)(int64_t)displacement;
}

struct scene_call scene_pass(struct scene *scene, struct tm_thread *thread, const char *function,
			     const char *return_address, uint64_t a, uint64_t b, uint64_t c)
{
	struct scene_call call = scene_enter(scene, thread, function, return_address, a, b, c);
	uint64_t pad_address = jump_target(scene, scene_address(function));
	uint8_t code[TM_CALL_PAD_SIZE_MAX];
	struct tm_call_pad pad;

	scene_check(tm_target_read(&scene->fake->base, pad_address, code, sizeof(code)));
	cr_assert(tm_call_pad_parse(scene->fake->base.arch, code, sizeof(code), &pad));
	for (size_t i = 0; i < pad.words; i++)
		push_argument(scene, thread, code[i]);
	call.stop_sp = *reg(thread, scene->fake->base.arch->sp);
	call.stop = pad_address + pad.stop;
	push_word(scene, thread, call.stop);
	return call;
}

void scene_pass_back(struct scene *scene, struct tm_thread *thread, const struct scene_call *call,
		     uint64_t result)
{
	const struct tm_arch *arch = scene->fake->base.arch;

	*reg(thread, arch->result) = result;
	*reg(thread, arch->sp) = call->stop_sp;
	arrive(scene, thread, call->stop);
	*reg(thread, arch->sp) = call->cfa;
	arrive(scene, thread, call->return_address);
}

void scene_drop(struct scene *scene, struct tm_thread *thread, const struct scene_call *call)
{
	*reg(thread, scene->fake->base.arch->sp) = call->cfa;
}
