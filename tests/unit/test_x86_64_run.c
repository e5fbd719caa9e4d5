/*
 * Runs instructions at their own place and in pads, near and far, and compares everything that they can
 * change: registers, flags, xmm registers, the stack and a page of data. While a pad runs, the original bytes
 * that it stands for are traps. Every point of a pad is left for the original code once. Only on x86-64
 * hosts.
 */
#include <criterion/criterion.h>

#ifdef __x86_64__

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "arch/x86_64_insn.h"
#include "base/hash.h"
#include "support/relocation_rows.h"

#define PAGE	    4096u
#define CODE_OFFSET 0x400u /* of the instructions under test in their page: there is code on both sides */
#define STACK_SIZE  PAGE
#define GIGABYTE    ((uint64_t)1 << 30)
#define ROUNDS	    24

/* All of the state that a specimen is started with and leaves behind. The assembly below knows the offsets.
 */
struct state {
	uint64_t reg[16]; /* 0: in the order of instruction encoding: rax rcx rdx rbx rsp rbp rsi rdi r8 ..
			     r15 */
	uint64_t flags;	  /* 128 */
	uint64_t pc;	  /* 136: to start at */
	uint64_t host_sp; /* 144 */
	uint64_t unused;
	uint8_t fx[512] __attribute__((aligned(16))); /* 160: fxsave; xmm0 at 160 of these */
};

enum { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R12 = 12 };

#define XMM_AT	  160
#define XMM_SIZE  256
#define FLAG_BITS 0x8d5u /* CF PF AF ZF SF OF */

_Static_assert(offsetof(struct state, flags) == 128 && offsetof(struct state, fx) == 160,
	       "known to the assembly");

void run_specimen(struct state *state);
extern const char specimen_landing[];

/* Calls nothing and returns at the landing, to which the specimen's last instruction jumps. */
__asm__(".pushsection .bss\n"
	"current: .zero 8\n"
	"start_pc: .zero 8\n"
	"kept_rdi: .zero 8\n"
	".popsection\n"
	".text\n"
	".globl run_specimen, specimen_landing\n"
	".type run_specimen, @function\n"
	"run_specimen:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	mov %rdi, current(%rip)\n"
	"	mov %rsp, 144(%rdi)\n"
	"	mov 136(%rdi), %rax\n"
	"	mov %rax, start_pc(%rip)\n"
	"	fxrstor 160(%rdi)\n"
	"	pushq 128(%rdi)\n"
	"	popfq\n"
	"	mov 0(%rdi), %rax\n	mov 8(%rdi), %rcx\n	mov 16(%rdi), %rdx\n	mov 24(%rdi), %rbx\n"
	"	mov 32(%rdi), %rsp\n	mov 40(%rdi), %rbp\n	mov 48(%rdi), %rsi\n"
	"	mov 64(%rdi), %r8\n	mov 72(%rdi), %r9\n	mov 80(%rdi), %r10\n	mov 88(%rdi), %r11\n"
	"	mov 96(%rdi), %r12\n	mov 104(%rdi), %r13\n	mov 112(%rdi), %r14\n	mov 120(%rdi), %r15\n"
	"	mov 56(%rdi), %rdi\n"
	"	jmp *start_pc(%rip)\n"
	"specimen_landing:\n"
	"	mov %rdi, kept_rdi(%rip)\n"
	"	mov current(%rip), %rdi\n"
	"	mov %rax, 0(%rdi)\n	mov %rcx, 8(%rdi)\n	mov %rdx, 16(%rdi)\n	mov %rbx, 24(%rdi)\n"
	"	mov %rsp, 32(%rdi)\n	mov %rbp, 40(%rdi)\n	mov %rsi, 48(%rdi)\n"
	"	mov %r8, 64(%rdi)\n	mov %r9, 72(%rdi)\n	mov %r10, 80(%rdi)\n	mov %r11, 88(%rdi)\n"
	"	mov %r12, 96(%rdi)\n	mov %r13, 104(%rdi)\n	mov %r14, 112(%rdi)\n	mov %r15, 120(%rdi)\n"
	"	mov kept_rdi(%rip), %rax\n"
	"	mov %rax, 56(%rdi)\n"
	"	mov 144(%rdi), %rsp\n"
	"	pushfq\n"
	"	popq 128(%rdi)\n"
	"	fxsave 160(%rdi)\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"	cld\n"
	"	ret\n"
	".size run_specimen, . - run_specimen\n");

/*
 * A specimen stands at CODE_OFFSET of the code page, and control may leave it to one of these places, which
 *note their number in the data page and land: behind it (1), 0x20 bytes behind it (2), 0x60 bytes behind it
 *(3) All stack words, all data words and rax hold the address of place 2; rbx, r12 point into the data page;
 *rcx is 0, 1 or 5. Rip-relative operands in the table are written as displacements from the data page: see
 *patch_operand.
 */
struct specimen {
	const char *what, *bytes;
	size_t min_bytes;
	unsigned operand_at;  /* offset in bytes of a displacement, and */
	unsigned operand_end; /* of the end of its instruction; 0: there is none */
	bool near_only;	      /* a pad that is far must be refused */
};

static const struct specimen specimens[] = {
	{"push", "55", 1, 0, 0, false},
	{"pop", "5d", 1, 0, 0, false},
	{"mov", "48 89 e5", 1, 0, 0, false},
	{"push rsp", "54", 1, 0, 0, false},
	{"sub rsp", "48 83 ec 18", 1, 0, 0, false},
	{"arithmetic that sets flags", "48 11 d8", 1, 0, 0, false},
	{"endbr64", "f3 0f 1e fa", 1, 0, 0, false},
	{"nop", "0f 1f 44 00 00", 1, 0, 0, false},
	{"pushfq", "9c", 1, 0, 0, false},
	{"prologue of five bytes", "41 57 41 56 53", 5, 0, 0, false},
	{"prologue and test", "53 48 85 ff 74 20", 5, 0, 0, false},
	{"mov rsp, rbp and pop", "48 89 ec 5d", 4, 0, 0, false},
	{"cmpb [rip + x], imm8", "80 3d 10 00 00 00 05", 1, 2, 7, true},
	{"add [rip + x], imm32", "48 81 05 10 00 00 00 05 06 07 08", 1, 3, 11, true},
	{"mov [rip + x], rdx", "48 89 15 18 00 00 00", 1, 3, 7, true},
	{"movups xmm1, [rip + x]", "0f 10 0d 20 00 00 00", 1, 3, 7, true},
	{"vmovdqu xmm2, [rip + x]", "c5 fa 6f 15 20 00 00 00", 1, 4, 8, true},
	{"push [rip + x]", "ff 35 20 00 00 00", 1, 2, 6, true},
	{"lock xadd [rip + x], rcx", "f0 48 0f c1 0d 20 00 00 00", 1, 5, 9, true},
	{"lea rdi, [rip + x]", "48 8d 3d 20 00 00 00", 1, 3, 7, false},
	{"lea r13, [rip + x]", "4c 8d 2d 20 00 00 00", 1, 3, 7, false},
	{"lea esi, [rip + x]", "8d 35 20 00 00 00", 1, 2, 6, false},
	{"mov rax, [rip + x]", "48 8b 05 20 00 00 00", 1, 3, 7, false},
	{"mov r11d, [rip + x]", "44 8b 1d 20 00 00 00", 1, 3, 7, false},
	{"mov rbp, [rip + x]", "48 8b 2d 20 00 00 00", 1, 3, 7, false},
	{"mov r12, [rip + x]", "4c 8b 25 20 00 00 00", 1, 3, 7, false},
	{"mov r13, [rip + x]", "4c 8b 2d 20 00 00 00", 1, 3, 7, false},
	{"mov and push", "48 8b 05 20 00 00 00 50", 8, 3, 7, false},
	{"jo", "70 20", 1, 0, 0, false},
	{"jb", "72 20", 1, 0, 0, false},
	{"je", "74 20", 1, 0, 0, false},
	{"jne rel32", "0f 85 20 00 00 00", 1, 0, 0, false},
	{"js", "78 20", 1, 0, 0, false},
	{"jp", "7a 20", 1, 0, 0, false},
	{"jl", "7c 20", 1, 0, 0, false},
	{"jg rel32", "0f 8f 20 00 00 00", 1, 0, 0, false},
	{"jrcxz", "e3 20", 1, 0, 0, false},
	{"jecxz", "67 e3 20", 1, 0, 0, false},
	{"loop", "e2 20", 1, 0, 0, false},
	{"loope", "e1 20", 1, 0, 0, false},
	{"loopne", "e0 20", 1, 0, 0, false},
	{"three branches", "72 24 74 62 78 20", 5, 0, 0, false},
	{"jrcxz, loop, je", "e3 24 e2 62 74 20", 5, 0, 0, false},
	{"jmp rel8", "eb 20", 1, 0, 0, false},
	{"jmp rel32", "e9 60 00 00 00", 5, 0, 0, false},
	{"jmp rax", "ff e0", 1, 0, 0, false},
	{"notrack jmp rax", "3e ff e0", 1, 0, 0, false},
	{"jmp [rbx]", "ff 23", 1, 0, 0, false},
	{"jmp [rip + x]", "ff 25 20 00 00 00", 1, 2, 6, true},
	{"call rel32", "e8 20 00 00 00", 1, 0, 0, false},
	{"call rel32 behind pushes", "53 55 e8 60 00 00 00", 5, 0, 0, false},
	{"call of __tls_get_addr", "66 66 48 e8 20 00 00 00", 1, 0, 0, false},
	{"call rax", "ff d0", 1, 0, 0, false},
	{"call [rbx]", "ff 13", 1, 0, 0, false},
	{"call [r12]", "41 ff 14 24", 1, 0, 0, false},
	{"call [r12 + 16]", "41 ff 54 24 10", 1, 0, 0, false},
	{"call [rbx + rcx*8]", "ff 14 cb", 1, 0, 0, false},
	{"call [rsp]", "ff 14 24", 1, 0, 0, false},
	{"call [rsp + 8]", "ff 54 24 08", 1, 0, 0, false},
	{"call [rsp + rcx*8 + 128]", "ff 94 cc 80 00 00 00", 1, 0, 0, false},
	{"call [rip + x]", "ff 15 20 00 00 00", 1, 2, 6, true},
	{"ret", "c3", 1, 0, 0, false},
	{"ret and padding", "c3 66 90 90 90", 5, 0, 0, false},
	{"ret 16", "c2 10 00", 1, 0, 0, false},
	{"pop and ret", "5d c3", 2, 0, 0, false},
	{"rep movsq", "f3 48 a5", 1, 0, 0, false},
	{"xor, cmp and setb", "31 c9 39 d8 0f 92 c1", 5, 0, 0, false},
	{"vpxor", "c5 f1 ef c9", 1, 0, 0, false},
};

/* VEX instructions need a CPU that has them. */
static bool runs_here(const struct specimen *specimen)
{
	return strncmp(specimen->bytes, "c5", 2) != 0 || __builtin_cpu_supports("avx");
}

/* Pages: code, data, stack; the pad stands alone, near or far. */
struct laboratory {
	uint8_t *code, *data, *stack, *pad;
};

static uint8_t *map_at(uint64_t address, size_t size)
{
	void *p = mmap((void *)(uintptr_t)address, size, PROT_READ | PROT_WRITE | PROT_EXEC,
		       MAP_PRIVATE | MAP_ANONYMOUS | (address ? MAP_FIXED_NOREPLACE : 0), -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* A pad whose distance from the code is at least `distance`; which way is free is tried. */
static uint8_t *map_pad(const uint8_t *code, uint64_t distance)
{
	for (uint64_t i = 0; i < 64; i++) {
		uint64_t more = distance + i * (uint64_t)0x1000000;
		uint8_t *p = map_at((uint64_t)(uintptr_t)code - more, PAGE);

		if (!p)
			p = map_at((uint64_t)(uintptr_t)code + more, PAGE);
		if (p)
			return p;
	}
	cr_assert_fail("no free page");
	return NULL;
}

static struct laboratory open_laboratory(uint64_t pad_distance)
{
	struct laboratory lab = {.code = map_at(0, 2 * PAGE + STACK_SIZE)};

	cr_assert_not_null(lab.code);
	lab.data = lab.code + PAGE;
	lab.stack = lab.data + PAGE;
	lab.pad = map_pad(lab.code, pad_distance);
	return lab;
}

static void put_u32(uint8_t *at, uint64_t value)
{
	uint32_t low = (uint32_t)value;

	memcpy(at, &low, sizeof(low));
}

/* mov byte [place], number; jmp [rip]; .quad landing: changes no register and no flag. Returns its size. */
static size_t put_exit(uint8_t *at, uint8_t *place, uint8_t number)
{
	uint64_t landing = (uint64_t)(uintptr_t)specimen_landing;

	memcpy(at, (const uint8_t[]){0xc6, 0x05, 0, 0, 0, 0, number, 0xff, 0x25, 0, 0, 0, 0}, 13);
	put_u32(at + 2, (uint64_t)(place - (at + 7)));
	memcpy(at + 13, &landing, sizeof(landing));
	return 21;
}

/* Writes the specimen, and the places that it may go to. Returns its size. */
static size_t build(const struct laboratory *lab, const struct specimen *specimen)
{
	uint8_t *at = lab->code + CODE_OFFSET;
	size_t size = tm_row_bytes(specimen->bytes, at, 64);
	uint8_t *operand = at + specimen->operand_at, *end = at + specimen->operand_end;
	uint32_t in_data;

	memset(lab->code, 0xcc, PAGE);
	tm_row_bytes(specimen->bytes, at, 64);
	if (specimen->operand_end) {
		memcpy(&in_data, operand, sizeof(in_data));
		put_u32(operand, (uint64_t)(lab->data + in_data - end));
	}
	put_exit(at + size, lab->data + PAGE - 1, 1);
	put_exit(at + size + 0x20, lab->data + PAGE - 1, 2);
	put_exit(at + size + 0x60, lab->data + PAGE - 1, 3);
	return size;
}

static void prepare(const struct laboratory *lab, size_t size, unsigned round, struct state *state)
{
	static const uint64_t counts[] = {0, 1, 5};
	uint64_t place = (uint64_t)(uintptr_t)(lab->code + CODE_OFFSET + size + 0x20);

	memset(state, 0, sizeof(*state));
	for (unsigned i = 0; i < 16; i++)
		state->reg[i] = tm_hash_u64(round * 16 + i + 1);
	for (size_t i = 0; i < PAGE; i += 8)
		memcpy(lab->data + i, &place, sizeof(place));
	for (size_t i = 0; i < STACK_SIZE; i += 8)
		memcpy(lab->stack + i, &place, sizeof(place));
	lab->data[PAGE - 1] = 0;
	state->reg[RAX] = place;
	state->reg[RCX] = counts[round % 3];
	state->reg[RBX] = (uint64_t)(uintptr_t)lab->data + 0x100;
	state->reg[R12] = (uint64_t)(uintptr_t)lab->data + 0x200;
	state->reg[RSI] = (uint64_t)(uintptr_t)lab->data + 0x300;
	state->reg[RDI] = (uint64_t)(uintptr_t)lab->data + 0x800;
	state->reg[RSP] = (uint64_t)(uintptr_t)lab->stack + STACK_SIZE / 2;
	state->reg[RBP] = state->reg[RSP] + 0x40;
	state->flags = 0x202 | (tm_hash_u64(round + 1000) & FLAG_BITS);
	__asm__ volatile("fxsave %0" : "=m"(state->fx));
	for (size_t i = 0; i < XMM_SIZE; i++)
		state->fx[XMM_AT + i] = (uint8_t)(tm_hash_u64(round + 2000 + i) & 0x3f);
}

struct outcome {
	struct state state;
	uint8_t data[PAGE], stack[STACK_SIZE];
};

static void run(const struct laboratory *lab, size_t size, unsigned round, const uint8_t *pc,
		struct outcome *outcome)
{
	prepare(lab, size, round, &outcome->state);
	outcome->state.pc = (uint64_t)(uintptr_t)pc;
	run_specimen(&outcome->state);
	memcpy(outcome->data, lab->data, PAGE);
	memcpy(outcome->stack, lab->stack, STACK_SIZE);
}

static const char *difference(const struct outcome *a, const struct outcome *b)
{
	static const char *const names[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
					    "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

	for (unsigned i = 0; i < 16; i++)
		if (a->state.reg[i] != b->state.reg[i])
			return names[i];
	if ((a->state.flags ^ b->state.flags) & FLAG_BITS)
		return "flags";
	if (memcmp(a->state.fx + XMM_AT, b->state.fx + XMM_AT, XMM_SIZE))
		return "xmm registers";
	if (a->data[PAGE - 1] != b->data[PAGE - 1])
		return "the way out";
	if (memcmp(a->data, b->data, PAGE))
		return "data";
	return memcmp(a->stack, b->stack, STACK_SIZE) ? "stack" : NULL;
}

static struct tm_error *relocate(const struct laboratory *lab, const struct specimen *specimen, size_t size,
				 struct tm_relocated *moved)
{
	const uint8_t *at = lab->code + CODE_OFFSET;

	return tm_x86_64_relocate(at, size, (uint64_t)(uintptr_t)at, (uint64_t)(uintptr_t)lab->pad,
				  specimen->min_bytes, moved);
}

/* The specimen at its place, then in the pad, its own bytes being traps. */
static void compare_runs(const struct laboratory *lab, const struct specimen *specimen,
			 const struct tm_relocated *moved, size_t size)
{
	static struct outcome expected, outcome;

	memset(lab->pad, 0xcc, PAGE);
	memcpy(lab->pad, moved->code, moved->size);
	for (unsigned round = 0; round < ROUNDS; round++) {
		const char *what;

		build(lab, specimen);
		run(lab, size, round, lab->code + CODE_OFFSET, &expected);
		cr_assert_neq(expected.data[PAGE - 1], 0);
		memset(lab->code + CODE_OFFSET, 0xcc, specimen->min_bytes);
		run(lab, size, round, lab->pad, &outcome);
		what = difference(&expected, &outcome);
		cr_expect_null(what, "%s, round %u: %s differ", specimen->what, round, what);
	}
	build(lab, specimen);
}

static void compare_all(uint64_t pad_distance, bool is_near)
{
	struct laboratory lab = open_laboratory(pad_distance);

	for (size_t i = 0; i < TM_ARRAY_SIZE(specimens); i++) {
		size_t size = build(&lab, &specimens[i]);
		struct tm_relocated moved;
		_cleanup_error_ struct tm_error *err = relocate(&lab, &specimens[i], size, &moved);

		cr_expect_eq(!err, is_near || !specimens[i].near_only, "%s: %s", specimens[i].what,
			     err ? err->message : "not refused");
		if (!err && runs_here(&specimens[i]))
			compare_runs(&lab, &specimens[i], &moved, size);
	}
}

Test(x86_64_run, a_near_pad_does_what_the_original_does)
{
	compare_all(16 * PAGE, true);
}

Test(x86_64_run, a_pad_at_the_edge_of_reach_does_what_the_original_does)
{
	compare_all(2 * GIGABYTE - 0x40000000, true);
}

Test(x86_64_run, a_far_pad_does_what_the_original_does)
{
	compare_all(16 * GIGABYTE, false);
}

/* From each point the original code can go on: there the pad is cut and made to jump to the point's pc. */
static void leave_at_point(const struct laboratory *lab, const struct specimen *specimen,
			   const struct tm_relocated *moved, size_t size, size_t point)
{
	static struct outcome expected, outcome;
	uint8_t *cut = lab->pad + moved->points[point].pad_offset;
	uint64_t pc = moved->points[point].original_pc;

	memcpy(lab->pad, moved->code, moved->size);
	*cut = 0xe9; /* jmp rel32: as short as what the pad itself jumps with */
	put_u32(cut + 1, pc - (uint64_t)(uintptr_t)(cut + 5));
	for (unsigned round = 0; round < ROUNDS; round++) {
		const char *what;

		run(lab, size, round, lab->code + CODE_OFFSET, &expected);
		run(lab, size, round, lab->pad, &outcome);
		what = difference(&expected, &outcome);
		cr_expect_null(what, "%s, point %zu: %s differ", specimen->what, point, what);
	}
}

Test(x86_64_run, a_pad_can_be_left_at_every_point)
{
	struct laboratory lab = open_laboratory(16 * PAGE);
	unsigned points = 0;

	for (size_t i = 0; i < TM_ARRAY_SIZE(specimens); i++) {
		size_t size = build(&lab, &specimens[i]);
		struct tm_relocated moved;
		_cleanup_error_ struct tm_error *err = relocate(&lab, &specimens[i], size, &moved);

		cr_assert_null(err);
		for (size_t k = 0; k < moved.point_count && runs_here(&specimens[i]); k++) {
			if (!moved.points[k].original_pc)
				continue;
			leave_at_point(&lab, &specimens[i], &moved, size, k);
			points++;
		}
	}
	cr_assert_gt(points, TM_ARRAY_SIZE(specimens));
}

#else

Test(x86_64_run, needs_an_x86_64_host)
{
	cr_skip_test("this host does not run x86-64 code");
}

#endif
