/*
 * The frame by which a thread takes its registers back: against the one that the kernel makes for a signal
 * handler, and (on x86-64) in a child that is stopped, loses its registers, and is let go at a return
 * instruction.
 */
#include <criterion/criterion.h>
#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "arch/return_frame.h"
#include "base/cleanup.h"
#include "support/elf_code.h"
#include "target/procfs.h"

#define SP 0x7ffd00012340u
#define PC 0x555500001000u

/* struct user_regs_struct of <sys/user.h>, as words. */
enum {
	REGS_RBP = 4,
	REGS_RAX = 10,
	REGS_RDI = 14,
	REGS_ORIG_RAX = 15,
	REGS_RIP = 16,
	REGS_CS = 17,
	REGS_EFLAGS = 18,
	REGS_RSP = 19,
	REGS_SS = 20,
	REGS_COUNT = 27
};

/* In the frame: struct rt_sigframe, its ucontext and the sigcontext in that. */
#define UCONTEXT 8u
#define CONTEXT	 (UCONTEXT + 40u)
#define MASK	 (CONTEXT + 256u)
enum { CONTEXT_RAX = 13, CONTEXT_RSP = 15, CONTEXT_RIP = 16, CONTEXT_EFLAGS = 17, CONTEXT_FPSTATE = 23 };

/* An XSAVE area, as ptrace gives it. */
#define XCR0	 464u
#define HEADER	 512u
#define EXTENDED 576u
#define WITH_AVX 832u
#define AMX	 (UINT64_C(3) << 17)

static const struct tm_arch *const arch = &tm_arch_x86_64;
static struct tm_return_frame frame;
static uint64_t regset[REGS_COUNT];
static uint8_t extended[TM_RETURN_FRAME_MAX];
static struct tm_return_state state;

static void setup(void)
{
	static const uint64_t x87_sse_avx = 7;

	memset(regset, 0, sizeof(regset));
	memset(extended, 0, sizeof(extended));
	regset[REGS_RSP] = SP;
	regset[REGS_RIP] = PC;
	regset[REGS_ORIG_RAX] = UINT64_MAX;
	memcpy(extended + XCR0, &x87_sse_avx, sizeof(x87_sse_avx));
	state = (struct tm_return_state){regset, 0, extended, WITH_AVX, 0x1234, 0};
}

TestSuite(return_frame, .init = setup);

static uint64_t word_at(size_t offset)
{
	uint64_t word;

	memcpy(&word, frame.bytes + offset, sizeof(word));
	return word;
}

static uint64_t context_word(unsigned word)
{
	return word_at(CONTEXT + 8 * word);
}

/* ---- where it stands, and when there is none ---- */

Test(return_frame, stands_below_the_red_zone_and_aligned)
{
	for (uint64_t sp = SP; sp < SP + 64; sp++) {
		regset[REGS_RSP] = sp;
		cr_assert(tm_return_frame_make(arch, &state, &frame));
		cr_expect_eq(frame.address % 64, 0);
		cr_expect_leq(frame.address + frame.size, sp - 128);
		cr_expect_geq(frame.address + frame.size, sp - 128 - 64, "and no farther down");
		cr_expect_eq(context_word(CONTEXT_RSP), sp);
		cr_expect_eq(context_word(CONTEXT_FPSTATE) % 64, 0, "as XRSTOR wants it");
		cr_expect_lt(context_word(CONTEXT_FPSTATE) - frame.address, frame.size);
	}
}

Test(return_frame, stands_at_the_end_of_the_memory_that_is_given_for_it)
{
	state.stack = 0x200018;
	cr_assert(tm_return_frame_make(arch, &state, &frame));
	cr_expect_eq(frame.address % 64, 0);
	cr_expect_leq(frame.address + frame.size, 0x200018);
	cr_expect_geq(frame.address + frame.size, 0x200018 - 64);
	cr_expect_eq(context_word(CONTEXT_RSP), SP);
	cr_expect_eq(context_word(CONTEXT_FPSTATE) % 64, 0);
}

Test(return_frame, a_function_is_entered_with_its_argument_and_a_clear_direction_flag)
{
	uint64_t before[REGS_COUNT];

	for (unsigned i = 0; i < REGS_COUNT; i++)
		regset[i] = before[i] = 0x100 + i;
	regset[REGS_EFLAGS] = before[REGS_EFLAGS] = 0x10ff; /* reserved bits, CF to OF, TF: a handler's */
	cr_assert(tm_return_frame_enter(arch, regset, 0x5000, 7, 0x8000));
	cr_expect_eq(regset[REGS_RIP], 0x5000);
	cr_expect_eq(regset[REGS_RDI], 7);
	cr_expect_eq(regset[REGS_RSP], 0x8000);
	cr_expect_eq(regset[REGS_EFLAGS], 0x202);
	cr_expect_eq(regset[REGS_ORIG_RAX], UINT64_MAX);
	for (unsigned i = 0; i < REGS_COUNT; i++)
		if (i != REGS_RIP && i != REGS_RDI && i != REGS_RSP && i != REGS_EFLAGS && i != REGS_ORIG_RAX)
			cr_expect_eq(regset[i], before[i], "word %u", i);
	cr_expect_not(tm_return_frame_enter(&tm_arch_aarch64, regset, 0x5000, 7, 0x8000));
}

Test(return_frame, has_the_restorer_on_top)
{
	cr_assert(tm_return_frame_make(arch, &state, &frame));
	cr_assert_eq(word_at(0), 0x1234);
}

Test(return_frame, there_is_none_for_aarch64)
{
	cr_assert_not(tm_return_frame_make(&tm_arch_aarch64, &state, &frame));
	cr_assert_eq(tm_call_and_return_code(&tm_arch_aarch64)->size, 0);
	cr_assert_eq(tm_restorer_code(&tm_arch_aarch64)->size, 0);
}

Test(return_frame, needs_all_extended_registers)
{
	static const struct {
		uint64_t features;
		size_t size;
		bool made;
	} rows[] = {
		{3, 0, false},
		{3, 512, false},
		{3, EXTENDED - 1, false},
		{3, EXTENDED, true},
		{7, EXTENDED, false},
		{7, WITH_AVX - 1, false},
		{7, WITH_AVX, true},
		{0xe7, 2687, false},
		{0xe7, 2688, true},
		{0x2e7, 2695, false},
		{0x2e7, 2696, true},
		{7 | AMX, WITH_AVX, true},
		{7, TM_RETURN_FRAME_MAX, false},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		memcpy(extended + XCR0, &rows[i].features, sizeof(rows[i].features));
		state.extended_size = rows[i].size;
		cr_expect_eq(tm_return_frame_make(arch, &state, &frame), rows[i].made, "row %zu", i);
	}
}

Test(return_frame, leaves_the_tiles_out_for_which_a_thread_may_have_no_room)
{
	const uint64_t features = 7 | AMX;
	uint64_t at, present;

	memcpy(extended + XCR0, &features, sizeof(features));
	memcpy(extended + HEADER, &features, sizeof(features));
	cr_assert(tm_return_frame_make(arch, &state, &frame));
	at = context_word(CONTEXT_FPSTATE) - frame.address;
	memcpy(&present, frame.bytes + at + HEADER, sizeof(present));
	cr_expect_eq(present, 7);
	cr_expect_eq(word_at(at + XCR0 + 8), 7, "the features that are to be restored");
}

/* ---- system calls that the stop has interrupted ---- */

Test(return_frame, interrupted_calls_are_begun_again_as_the_kernel_would)
{
	static const struct {
		int64_t result, number;
		int64_t rax;
		int pc; /* from where it stood */
	} rows[] = {
		{-512, 0, 0, -2},      /* ERESTARTSYS */
		{-513, 7, 7, -2},      /* ERESTARTNOINTR */
		{-514, 34, 34, -2},    /* ERESTARTNOHAND */
		{-515, 3, -515, 0},    /* ENOIOCTLCMD: none of them */
		{-516, 35, -EINTR, 0}, /* ERESTART_RESTARTBLOCK */
		{-517, 3, -517, 0},    {-511, 3, -511, 0},  {-EINTR, 3, -EINTR, 0},
		{512, 3, 512, 0},      {0, 3, 0, 0},	    {-512, -1, -512, 0}, /* in no call */
		{-514, -1, -514, 0},   {-516, -1, -516, 0},
	};

	for (size_t i = 0; i < TM_ARRAY_SIZE(rows); i++) {
		regset[REGS_RAX] = (uint64_t)rows[i].result;
		regset[REGS_ORIG_RAX] = (uint64_t)rows[i].number;
		cr_assert(tm_return_frame_make(arch, &state, &frame));
		cr_expect_eq((int64_t)context_word(CONTEXT_RAX), rows[i].rax, "row %zu", i);
		cr_expect_eq(context_word(CONTEXT_RIP), PC + (uint64_t)(int64_t)rows[i].pc, "row %zu", i);
	}
}

#ifdef __x86_64__

/* ---- against the kernel's ---- */

static struct kernel {
	uint8_t bytes[UCONTEXT + sizeof(ucontext_t)]; /* from the restorer up */
	uint8_t extended[TM_RETURN_FRAME_MAX];
	uint32_t extended_size; /* with the second magic number */
} kernel;

static void on_signal(int signal, siginfo_t *info, void *context)
{
	const struct _libc_fpstate *fp = ((ucontext_t *)context)->uc_mcontext.fpregs;

	(void)signal, (void)info;
	memcpy(kernel.bytes, (uint8_t *)context - UCONTEXT, sizeof(kernel.bytes));
	memcpy(&kernel.extended_size, (const uint8_t *)fp + XCR0 + 4, sizeof(kernel.extended_size));
	cr_assert_leq(kernel.extended_size, sizeof(kernel.extended));
	memcpy(kernel.extended, fp, kernel.extended_size);
}

static uint64_t kernel_word(size_t offset)
{
	uint64_t word;

	memcpy(&word, kernel.bytes + offset, sizeof(word));
	return word;
}

/* The registers that the kernel's frame has, as ptrace would give them. */
static void take_kernel_s_registers(void)
{
	/* user_regs_struct's words by those of sigcontext_64: r8 to r15, rdi rsi rbp rbx rdx rax rcx rsp rip
	 */
	static const uint8_t order[] = {9, 8, 7, 6, 3, 2, 1, 0, 14, 13, 4, 5, 12, 10, 11, 19, 16};
	uint64_t segments = kernel_word(CONTEXT + 8 * 18), features;

	for (size_t i = 0; i < TM_ARRAY_SIZE(order); i++)
		regset[order[i]] = kernel_word(CONTEXT + 8 * i);
	regset[REGS_EFLAGS] = kernel_word(CONTEXT + 8 * CONTEXT_EFLAGS);
	regset[REGS_CS] = segments & 0xffff;
	regset[REGS_SS] = segments >> 48;
	memcpy(&features, kernel.extended + XCR0 + 8, sizeof(features));
	memcpy(extended, kernel.extended, kernel.extended_size - 4);
	memset(extended + XCR0, 0, HEADER - XCR0);
	memcpy(extended + XCR0, &features, sizeof(features));
	state.extended_size = kernel.extended_size - 4;
	state.signal_mask = kernel_word(MASK);
	state.restorer = kernel_word(0);
}

/* What the kernel tells of the area in it (<asm/sigcontext.h>, struct _fpx_sw_bytes). */
struct software {
	uint32_t magic, extended_size;
	uint64_t features;
	uint32_t size;
};

/* But for the tiles: the area ends before them. */
static void expect_kernel_s_extended(const uint8_t *ours)
{
	struct software software, kernel_s;
	uint64_t present, kernel_present;

	memcpy(&software, ours + XCR0, sizeof(software));
	memcpy(&kernel_s, kernel.extended + XCR0, sizeof(kernel_s));
	memcpy(&present, ours + HEADER, sizeof(present));
	memcpy(&kernel_present, kernel.extended + HEADER, sizeof(kernel_present));
	cr_expect_eq(software.magic, kernel_s.magic);
	cr_expect_eq(software.features, kernel_s.features & ~AMX);
	cr_expect_eq(software.extended_size, software.size + 4);
	cr_expect_eq(kernel_s.extended_size, kernel_s.size + 4);
	cr_expect(software.size == kernel_s.size || kernel_s.features & AMX, "%u bytes, not %u",
		  software.size, kernel_s.size);
	cr_expect_eq(ours + software.extended_size, frame.bytes + frame.size);
	cr_expect_eq(present, kernel_present & ~AMX);
	cr_expect_arr_eq(ours, kernel.extended, XCR0);
	cr_expect_arr_eq(ours + HEADER + 8, kernel.extended + HEADER + 8, software.size - HEADER - 8);
	cr_expect_arr_eq(ours + software.size, kernel.extended + kernel_s.size, 4, "the second magic number");
}

Test(return_frame, is_what_the_kernel_puts_before_a_handler)
{
	struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO};
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR2);
	sigaddset(&blocked, SIGRTMAX);
	cr_assert_eq(sigprocmask(SIG_BLOCK, &blocked, NULL), 0);
	cr_assert_eq(sigaction(SIGUSR1, &action, NULL), 0);
	cr_assert_eq(raise(SIGUSR1), 0);
	cr_assert_gt(kernel.extended_size, EXTENDED);
	take_kernel_s_registers();
	cr_assert(tm_return_frame_make(arch, &state, &frame));
	cr_expect_eq(word_at(0), kernel_word(0), "restorer");
	cr_expect_eq(word_at(UCONTEXT), kernel_word(UCONTEXT), "flags 0x%lx",
		     (unsigned long)kernel_word(UCONTEXT));
	for (unsigned i = 0; i <= 18; i++)
		cr_expect_eq(context_word(i), kernel_word(CONTEXT + 8 * i), "word %u of the context", i);
	cr_expect_eq(word_at(MASK), kernel_word(MASK), "mask");
	expect_kernel_s_extended(frame.bytes + (context_word(CONTEXT_FPSTATE) - frame.address));
}

/* ---- in a child ---- */

#define VECTORS	   16u
#define SPIN_FLAGS 0xcc5u  /* CF PF ZF SF DF OF */
#define ROUND_UP   0x5f80u /* mxcsr: rounding up, exceptions masked */
#define SLEEP	   1000

/* What the child tells; and what its registers were when it went on. The assembly below knows the offsets. */
struct told {
	uint64_t reg[16];	     /* 0: in the order of instruction encoding */
	uint64_t flags;		     /* 128 */
	uint32_t mxcsr, unused;	     /* 136 */
	uint8_t vector[VECTORS][32]; /* 144 */
};

static struct shared {
	atomic_int ready, done;
	struct told told;
	uint64_t mask;
	stack_t stack;
	int64_t result;
	uint64_t bytes;
} * shared;

struct told frame_given, frame_told;
uint64_t frame_next, frame_rsp;
int frame_has_ymm;
extern const char frame_spin[], frame_done[], frame_ret[], frame_restorer[];
void frame_go(void);

/* Loads the registers of frame_given, and spins until frame_next leads to frame_done: then stores them. */
#define EACH_VECTOR "	.irp k, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15\n"
__asm__("	.text\n"
	"	.globl frame_go, frame_spin, frame_done, frame_ret, frame_restorer\n"
	"frame_go:\n"
	"	push %rbx\n	push %rbp\n	push %r12\n	push %r13\n	push %r14\n	push %r15\n"
	"	mov %rsp, frame_rsp(%rip)\n"
	"	lea frame_spin(%rip), %rax\n	mov %rax, frame_next(%rip)\n"
	"	lea frame_given(%rip), %rdi\n	ldmxcsr 136(%rdi)\n"
	"	cmpl $0, frame_has_ymm(%rip)\n	je 1f\n" EACH_VECTOR
	"	vmovups 144 + 32 * \\k(%rdi), %ymm\\k\n	.endr\n	jmp 2f\n1:\n" EACH_VECTOR
	"	movups 144 + 32 * \\k(%rdi), %xmm\\k\n	.endr\n2:\n"
	"	push 128(%rdi)\n	popf\n"
	"	mov 0(%rdi), %rax\n	mov 8(%rdi), %rcx\n	mov 16(%rdi), %rdx\n	mov 24(%rdi), %rbx\n"
	"	mov 40(%rdi), %rbp\n	mov 48(%rdi), %rsi\n"
	"	mov 64(%rdi), %r8\n	mov 72(%rdi), %r9\n	mov 80(%rdi), %r10\n	mov 88(%rdi), %r11\n"
	"	mov 96(%rdi), %r12\n	mov 104(%rdi), %r13\n	mov 112(%rdi), %r14\n	mov 120(%rdi), %r15\n"
	"	mov 56(%rdi), %rdi\n"
	"frame_spin:\n	jmp *frame_next(%rip)\n"
	"frame_done:\n"
	"	mov %rdi, frame_told + 56(%rip)\n	mov %rsp, frame_told + 32(%rip)\n"
	"	lea frame_told(%rip), %rdi\n"
	"	mov %rax, 0(%rdi)\n	mov %rcx, 8(%rdi)\n	mov %rdx, 16(%rdi)\n	mov %rbx, 24(%rdi)\n"
	"	mov %rbp, 40(%rdi)\n	mov %rsi, 48(%rdi)\n"
	"	mov %r8, 64(%rdi)\n	mov %r9, 72(%rdi)\n	mov %r10, 80(%rdi)\n	mov %r11, 88(%rdi)\n"
	"	mov %r12, 96(%rdi)\n	mov %r13, 104(%rdi)\n	mov %r14, 112(%rdi)\n	mov %r15, 120(%rdi)\n"
	"	mov frame_rsp(%rip), %rsp\n"
	"	pushf\n	pop 128(%rdi)\n	cld\n	stmxcsr 136(%rdi)\n"
	"	cmpl $0, frame_has_ymm(%rip)\n	je 1f\n" EACH_VECTOR
	"	vmovups %ymm\\k, 144 + 32 * \\k(%rdi)\n	.endr\n	vzeroupper\n	jmp 2f\n1:\n" EACH_VECTOR
	"	movups %xmm\\k, 144 + 32 * \\k(%rdi)\n	.endr\n2:\n"
	"	pop %r15\n	pop %r14\n	pop %r13\n	pop %r12\n	pop %rbp\n	pop %rbx\n"
	"frame_ret:\n	ret\n"
	"frame_restorer:\n	mov $15, %rax\n	syscall\n	ud2\n");

static pid_t child;
static int pipe_ends[2];

static void skip_without_ptrace(void)
{
	if (ptrace(PTRACE_SEIZE, child, NULL, PTRACE_O_EXITKILL) == 0)
		return;
	int reason = errno;

	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	cr_skip_test("ptrace is not permitted here: %s", strerror(reason));
}

static void begin_child(void (*body)(void))
{
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(shared, MAP_FAILED);
	cr_assert_eq(pipe(pipe_ends), 0);
	child = fork();
	cr_assert_geq(child, 0);
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		body();
		shared->done = 1;
		_exit(0);
	}
	skip_without_ptrace();
}

static void expect_stop(void)
{
	int status = 0;

	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFSTOPPED(status), "status 0x%x", status);
}

static void stop_child(void)
{
	cr_assert_eq(ptrace(PTRACE_INTERRUPT, child, NULL, NULL), 0);
	expect_stop();
}

static void get_set(uintptr_t kind, void *bytes, size_t *size)
{
	struct iovec iov = {bytes, *size};

	cr_assert_eq(ptrace(PTRACE_GETREGSET, child, (void *)kind, &iov), 0);
	*size = iov.iov_len;
}

static void put_set(uintptr_t kind, void *bytes, size_t size)
{
	struct iovec iov = {bytes, size};

	cr_assert_eq(ptrace(PTRACE_SETREGSET, child, (void *)kind, &iov), 0);
}

static void look_at_child(void)
{
	size_t size = sizeof(regset);

	get_set(NT_PRSTATUS, regset, &size);
	cr_assert_eq(size, sizeof(regset));
	state = (struct tm_return_state){.regset = regset,
					 .extended = extended,
					 .extended_size = sizeof(extended),
					 .restorer = (uint64_t)(uintptr_t)frame_restorer};
	get_set(NT_X86_XSTATE, extended, &state.extended_size);
}

static void write_memory(uint64_t address, const void *bytes, size_t size)
{
	struct iovec ours = {(void *)(uintptr_t)bytes, size}, theirs = {(void *)(uintptr_t)address, size};

	cr_assert_eq(process_vm_writev(child, &ours, 1, &theirs, 1, 0), (ssize_t)size);
}

/* Nothing is left of what the child had: it stands before a return instruction, above the frame. */
static void take_registers_away(void)
{
	uint64_t regs[REGS_COUNT], every = UINT64_MAX;
	static uint8_t others[TM_RETURN_FRAME_MAX];
	uint64_t present = 3;

	memcpy(regs, regset, sizeof(regs));
	for (unsigned i = 0; i <= 14; i++)
		regs[i] = UINT64_C(0xdead000000000000) + i;
	regs[REGS_ORIG_RAX] = UINT64_MAX;
	regs[REGS_EFLAGS] = 0x202;
	regs[REGS_RIP] = (uint64_t)(uintptr_t)frame_ret;
	regs[REGS_RSP] = frame.address;
	put_set(NT_PRSTATUS, regs, sizeof(regs));
	memcpy(others, extended, state.extended_size);
	memset(others + 32, 0xee, 416 - 32); /* x87 and xmm registers; none of the others is present */
	memcpy(others + 24, &(uint32_t){0x1f80}, 4);
	memcpy(others + HEADER, &present, sizeof(present));
	put_set(NT_X86_XSTATE, others, state.extended_size);
	cr_assert_eq(ptrace(PTRACE_SETSIGMASK, child, sizeof(every), &every), 0);
}

static void put_frame(void)
{
	cr_assert(tm_return_frame_make(arch, &state, &frame));
	write_memory(frame.address, frame.bytes, frame.size);
	take_registers_away();
}

static void let_go(void)
{
	cr_assert_eq(ptrace(PTRACE_DETACH, child, NULL, NULL), 0);
}

static void await_end(void)
{
	int status = 0;

	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status 0x%x", status);
	cr_assert_eq(shared->done, 1);
}

static void step(void)
{
	cr_assert_eq(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
	expect_stop();
}

/* ---- in user code ---- */

static void body_spin(void)
{
	static uint8_t memory[65536];
	const stack_t stack = {.ss_sp = memory, .ss_size = sizeof(memory)};

	if (sigaltstack(&stack, NULL))
		_exit(1);
	frame_has_ymm = __builtin_cpu_supports("avx") != 0;
	for (unsigned i = 0; i < 16; i++)
		frame_given.reg[i] = UINT64_C(0x0101010101010101) * (i + 1);
	frame_given.flags = 0x202 | SPIN_FLAGS;
	frame_given.mxcsr = ROUND_UP;
	for (unsigned i = 0; i < VECTORS * 32; i++)
		frame_given.vector[i / 32][i % 32] = (uint8_t)(i * 7 + 1);
	shared->ready = 1;
	frame_go();
	shared->told = frame_told;
	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &shared->mask, sizeof(shared->mask));
	sigaltstack(NULL, &shared->stack);
	shared->result = frame_has_ymm;
	shared->bytes = (uint64_t)(uintptr_t)memory;
}

static void stop_in_spin(void)
{
	do {
		stop_child();
		look_at_child();
		if (regset[REGS_RIP] != (uint64_t)(uintptr_t)frame_spin)
			cr_assert_eq(ptrace(PTRACE_CONT, child, NULL, NULL), 0);
	} while (regset[REGS_RIP] != (uint64_t)(uintptr_t)frame_spin);
}

static void let_spin_end(void)
{
	const uint64_t done = (uint64_t)(uintptr_t)frame_done;

	write_memory((uint64_t)(uintptr_t)&frame_next, &done, sizeof(done));
	let_go();
	await_end();
}

Test(return_frame, gives_all_registers_back)
{
	begin_child(body_spin);
	stop_in_spin();
	put_frame();
	let_spin_end();
	for (unsigned i = 0; i < 16; i++)
		if (i != 4)
			cr_expect_eq(shared->told.reg[i], UINT64_C(0x0101010101010101) * (i + 1),
				     "register %u", i);
	cr_expect_eq(shared->told.reg[4], regset[REGS_RSP]);
	cr_expect_eq(shared->told.flags & SPIN_FLAGS, SPIN_FLAGS);
	cr_expect_eq(shared->told.mxcsr, ROUND_UP);
	for (unsigned i = 0; i < VECTORS * 32; i++)
		if (shared->result || i % 32 < 16)
			cr_expect_eq(shared->told.vector[i / 32][i % 32], (uint8_t)(i * 7 + 1),
				     "byte %u of vector %u", i % 32, i / 32);
}

Test(return_frame, sets_the_signal_mask_and_keeps_the_signal_stack)
{
	begin_child(body_spin);
	stop_in_spin();
	state.signal_mask = UINT64_C(1) << (SIGUSR1 - 1) | UINT64_C(1) << 63;
	put_frame();
	let_spin_end();
	cr_expect_eq(shared->mask, state.signal_mask, "0x%lx", (unsigned long)shared->mask);
	cr_expect_eq((uint64_t)(uintptr_t)shared->stack.ss_sp, shared->bytes);
	cr_expect_eq(shared->stack.ss_size, 65536);
	cr_expect_eq(shared->stack.ss_flags, 0);
}

/* return, mov, syscall */
Test(return_frame, is_taken_in_three_instructions)
{
	uint64_t before[REGS_COUNT];
	static uint8_t extended_before[TM_RETURN_FRAME_MAX];
	size_t size;

	begin_child(body_spin);
	stop_in_spin();
	memcpy(before, regset, sizeof(before));
	memcpy(extended_before, extended, sizeof(extended));
	size = state.extended_size;
	put_frame();
	for (unsigned i = 0; i < 3; i++)
		step();
	look_at_child();
	before[REGS_ORIG_RAX] = regset[REGS_ORIG_RAX];
	for (unsigned i = 0; i < REGS_COUNT; i++)
		cr_expect_eq(regset[i], before[i], "word %u: 0x%lx", i, (unsigned long)regset[i]);
	cr_expect_arr_eq(extended, extended_before, size);
	let_spin_end();
}

/* ---- in a system call ---- */

static void body_read(void)
{
	shared->ready = 1;
	shared->result = read(pipe_ends[0], &shared->bytes, sizeof(shared->bytes));
}

static void stop_in_call(void)
{
	while (!shared->ready || tm_procfs_state(child, child) != 'S')
		sched_yield();
	stop_child();
	look_at_child();
	cr_assert_geq((int64_t)regset[REGS_ORIG_RAX], 0, "in no system call");
}

Test(return_frame, a_read_that_was_interrupted_goes_on)
{
	const uint64_t bytes = UINT64_C(0x1122334455667788);

	begin_child(body_read);
	stop_in_call();
	put_frame();
	let_go();
	while (tm_procfs_state(child, child) != 'S')
		sched_yield();
	cr_assert_eq(shared->done, 0, "it waits again");
	cr_assert_eq(write(pipe_ends[1], &bytes, sizeof(bytes)), (ssize_t)sizeof(bytes));
	await_end();
	cr_expect_eq(shared->result, 8);
	cr_expect_eq(shared->bytes, bytes);
}

static void body_sleep(void)
{
	const struct timespec time = {SLEEP, 0};

	shared->ready = 1;
	shared->result = nanosleep(&time, NULL) ? -errno : 0;
}

Test(return_frame, a_sleep_that_was_interrupted_returns)
{
	begin_child(body_sleep);
	stop_in_call();
	put_frame();
	let_go();
	await_end();
	cr_expect_eq(shared->result, -EINTR);
}

static void on_usr1(int signal)
{
	(void)signal;
}

static void body_pause(void)
{
	struct sigaction action = {.sa_handler = on_usr1};

	sigaction(SIGUSR1, &action, NULL);
	shared->ready = 1;
	shared->result = pause() ? -errno : 0;
}

Test(return_frame, a_pause_that_was_interrupted_waits_for_its_signal)
{
	begin_child(body_pause);
	stop_in_call();
	put_frame();
	let_go();
	while (tm_procfs_state(child, child) != 'S')
		sched_yield();
	cr_assert_eq(shared->done, 0, "it waits again");
	cr_assert_eq(kill(child, SIGUSR1), 0);
	await_end();
	cr_expect_eq(shared->result, -EINTR);
}

/* ---- the code that it needs ---- */

static bool has_code(const struct tm_elf_code *code, const struct tm_code_bytes *wanted)
{
	for (; wanted->size; wanted++)
		if (memmem(code->text, code->text_size, wanted->bytes, wanted->size))
			return true;
	return false;
}

Test(return_frame, the_c_libraries_have_the_code_that_is_looked_for)
{
	static const char *const paths[] = {"/lib/x86_64-linux-gnu/libc.so.6", "/lib/ld-musl-x86_64.so.1"};
	size_t seen = 0;

	for (size_t i = 0; i < TM_ARRAY_SIZE(paths); i++) {
		struct tm_elf_code code;

		if (!tm_elf_code_read(paths[i], &code))
			continue;
		cr_expect(has_code(&code, tm_call_and_return_code(arch)), "%s: a call and a return",
			  paths[i]);
		cr_expect(has_code(&code, tm_restorer_code(arch)), "%s: a restorer", paths[i]);
		tm_elf_code_deinit(&code);
		seen++;
	}
	if (!seen)
		cr_skip_test("no x86-64 C library is installed");
}
#endif
