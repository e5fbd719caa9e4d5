/* Routines: code of the target that one of its threads runs for the tracer, and where it goes from there. */
#include <criterion/criterion.h>

#ifdef __x86_64__
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "support/live_child.h"
#include "target/procfs.h"

TestSuite(ptrace_routine, .init = live_setup, .fini = live_teardown, .timeout = 60);

/* ---- the routine, which the child has as we have ---- */

extern const char routine_begin[], routine_end[], routine_return[];

/* What it works on; in the child's memory. */
static volatile uint32_t stage __attribute__((used)), go __attribute__((used));
static volatile uint64_t argument __attribute__((used));
static _Alignas(64) uint8_t memory[TM_ROUTINE_STACK];

/* stage = 1; until go is 1, or it has looked as often as its argument says; stage = 2; the same for go 2. */
__asm__("	.text\n"
	"	.globl routine_begin, routine_end, routine_return\n"
	"routine_begin:\n"
	"	push %rdi\n"
	"	mov %rdi, argument(%rip)\n"
	"	xor %eax, %eax\n"
	"1:	inc %eax\n"
	"	mov %eax, stage(%rip)\n"
	"	mov (%rsp), %rcx\n"
	"2:	pause\n"
	"	cmp %eax, go(%rip)\n"
	"	je 3f\n"
	"	dec %rcx\n"
	"	jnz 2b\n"
	"3:	cmp $2, %eax\n"
	"	jne 1b\n"
	"	pop %rdi\n"
	"	ret\n"
	"routine_end:\n"
	"routine_return:\n"
	"	mov $15, %eax\n"
	"	syscall\n");

#define FOR_EVER UINT64_MAX
#define BRIEFLY	 1000u

static uint64_t address_of(const volatile void *object)
{
	return (uint64_t)(uintptr_t)object;
}

static struct tm_error *begin(uint64_t patience)
{
	const struct tm_routine routine = {
		.entry = address_of(routine_begin),
		.argument = patience,
		.start = address_of(routine_begin),
		.end = address_of(routine_end),
		.restorer = address_of(routine_return),
		.stack = address_of(memory + sizeof(memory)),
	};

	tm_target_begin_calls(live.target);
	return tm_target_begin_routine(live.target, &routine);
}

static void await(uint32_t value)
{
	live_check(tm_target_await_word(live.target, address_of(&stage), value, 1000));
}

static void write_word(const volatile uint32_t *word, uint32_t value)
{
	live_check(tm_target_write(live.target, address_of(word), &value, sizeof(value)));
}

/* From its first stage on. */
static void end(void)
{
	write_word(&go, 1);
	await(2);
	live_check(tm_target_end_routine(live.target));
}

static void end_and_bring_back(void)
{
	end();
	live_check(tm_target_end_calls(live.target));
	live_resume_all();
}

static void expect_error(struct tm_error *err, enum tm_error_code code)
{
	cr_assert_not_null(err);
	cr_expect_eq(err->code, code, "%s", err->message);
	tm_error_destroy(err);
}

/* ---- the child ---- */

static void note_signal(int signal)
{
	(void)signal;
	live.shared->signals++;
}

/* Counts, and says at the end whether what it has in registers is still right. */
static void body_counts(void)
{
	unsigned long sum = 0, i = 0;
	double exact = 0;

	signal(SIGUSR1, note_signal);
	live.shared->ready = 1;
	while (!live.shared->go) {
		i++;
		sum += i;
		exact += 1;
		live.shared->count[0] = (long)i;
	}
	live.shared->result = sum == i * (i + 1) / 2 && exact == (double)i;
	live.shared->done = 1;
}

static void body_reads(void)
{
	int ends[2];
	char byte;

	if (pipe(ends))
		_exit(1);
	live.shared->pid = ends[1];
	live.shared->ready = 1;
	live.shared->result = (int)read(ends[0], &byte, 1);
	live.shared->error = errno;
	live.shared->done = 1;
}

static void await_count(long at_least)
{
	while (live.shared->count[0] < at_least)
		sched_yield();
}

static void attach(void (*body)(void))
{
	live_start(body);
	live_await(&live.shared->ready, 1);
	live_attach(false);
}

static void expect_right_end(void)
{
	live.shared->go = 1;
	live_run_to_end();
	cr_expect_eq(live.wait_status, 0);
	cr_expect_eq(live.shared->result, 1);
}

/* ---- taken away ---- */

Test(ptrace_routine, a_thread_runs_it_and_is_brought_back)
{
	attach(body_counts);
	for (unsigned i = 0; i < 100; i++) {
		uint64_t seen;

		write_word(&stage, 0);
		write_word(&go, 0);
		live_check(begin(FOR_EVER - i));
		await(1);
		live_check(tm_target_read(live.target, address_of(&argument), &seen, sizeof(seen)));
		cr_expect_eq(seen, FOR_EVER - i);
		end_and_bring_back();
		live_check(tm_target_stop_all(live.target, 3000));
	}
	live_resume_all();
	expect_right_end();
}

Test(ptrace_routine, system_calls_go_before_it_and_behind_it)
{
	attach(body_counts);
	tm_target_begin_calls(live.target);
	cr_expect_eq(live_system_call(SYS_getpid, 0, 0, 0), live.pid);
	live_check(begin(FOR_EVER));
	await(1);
	end();
	cr_expect_eq(live_system_call(SYS_getpid, 0, 0, 0), live.pid);
	live_check(tm_target_end_calls(live.target));
	live_resume_all();
	expect_right_end();
}

Test(ptrace_routine, signals_wait_until_it_is_over)
{
	attach(body_counts);
	live_check(begin(FOR_EVER));
	await(1);
	kill(live.pid, SIGUSR1);
	end();
	cr_expect_eq(live.shared->signals, 0);
	live_check(tm_target_end_calls(live.target));
	live_resume_all();
	live_run_until(&live.shared->signals, 1);
	expect_right_end();
}

Test(ptrace_routine, a_stop_signal_does_not_hold_it_up)
{
	attach(body_counts);
	live_check(begin(FOR_EVER));
	await(1);
	kill(live.pid, SIGSTOP);
	end_and_bring_back();
	kill(live.pid, SIGCONT);
	expect_right_end();
}

Test(ptrace_routine, a_system_call_that_it_interrupts_goes_on)
{
	live_start(body_reads);
	live_await(&live.shared->ready, 1);
	live_await_state('S');
	live_attach(false);
	live_check(begin(FOR_EVER));
	await(1);
	end_and_bring_back();
	live_await_state('S');
	cr_expect_eq(live.shared->done, 0, "it reads again");
}

/* ---- left alone ---- */

Test(ptrace_routine, one_that_has_not_waited_is_not_brought_back)
{
	long before;

	attach(body_counts);
	before = live.shared->count[0];
	live_check(begin(BRIEFLY));
	await_count(before + 1); /* it is at its own work again */
	expect_error(tm_target_end_routine(live.target), TM_ERROR_TIMEOUT);
	live_check(tm_target_end_calls(live.target));
	live_resume_all();
	expect_right_end();
}

Test(ptrace_routine, a_thread_that_is_killed_is_told)
{
	struct tm_error *err;

	attach(body_counts);
	live_check(begin(FOR_EVER));
	await(1);
	kill(live.pid, SIGKILL);
	err = tm_target_await_word(live.target, address_of(&stage), 2, 1000);
	expect_error(err, TM_ERROR_NO_PROCESS);
	cr_expect_null(tm_target_end_routine(live.target), "there is nobody to bring back");
	cr_expect_null(tm_target_end_calls(live.target));
}

/* The tracer, a process of its own, dies while the routine waits for it. It asserts nothing: the test's
 * connection to criterion is not its. */
static _Noreturn void trace_and_die(void)
{
	uint32_t seen = 0;
	bool replaced;

	if (tm_ptrace_attach(live.pid, tm_arch_host(), &live.target) ||
	    tm_ptrace_begin(live.target, &replaced) || begin(BRIEFLY * UINT64_C(1000)))
		_exit(1);
	while (seen != 1)
		if (tm_target_read(live.target, address_of(&stage), &seen, sizeof(seen)))
			_exit(2);
	for (;;)
		raise(SIGKILL);
}

Test(ptrace_routine, a_thread_finds_back_where_the_tracer_dies)
{
	pid_t tracer;
	long before;
	int status;

	live_start(body_counts);
	live_await(&live.shared->ready, 1);
	tracer = fork();
	if (tracer == 0)
		trace_and_die();
	while (waitpid(tracer, &status, 0) < 0)
		cr_assert_eq(errno, EINTR, "the test's heartbeat");
	cr_assert(WIFSIGNALED(status), "status 0x%x", status);
	before = live.shared->count[0];
	await_count(before + 1000);
	live.shared->go = 1;
	cr_expect_eq(live_await_end(), 0);
	cr_expect_eq(live.shared->result, 1);
}

/* ---- running for a moment ---- */

/* It may have to wait for a processor, and the first times for a stop that was asked for before. */
static void run_until_it_counts(void)
{
	struct tm_thread *thread = tm_target_thread(live.target, live.pid);
	long before = live.shared->count[0];

	while (live.shared->count[0] == before)
		live_check(tm_target_run_briefly(live.target, thread, 20000));
	before = live.shared->count[0];
	cr_expect_eq(tm_procfs_state(live.pid, live.pid), 't');
	cr_expect_eq(live.shared->count[0], before, "it stands still again");
}

Test(ptrace_routine, a_thread_runs_for_a_moment)
{
	attach(body_counts);
	for (unsigned i = 0; i < 20; i++)
		run_until_it_counts();
	live_resume_all();
	expect_right_end();
}

Test(ptrace_routine, a_thread_of_a_stopped_process_runs_for_a_moment)
{
	live_start(body_counts);
	live_await(&live.shared->ready, 1);
	kill(live.pid, SIGSTOP);
	live_await_state('T');
	live_attach(false);
	for (unsigned i = 0; i < 20; i++)
		run_until_it_counts();
	live_resume_all();
	kill(live.pid, SIGCONT);
	expect_right_end();
}

/* ---- a restartable sequence ---- */

extern const char sequence_start[], sequence_end[], sequence_abort[];
void sequence_run(void *rseq, const volatile int *until);

/* struct rseq_cs of <linux/rseq.h>; the signature that glibc registers stands before the abort handler. */
static struct {
	uint32_t version, flags;
	const char *start;
	uint64_t length;
	const char *abort;
} sequence __attribute__((aligned(32), used));

__asm__("	.text\n"
	"	.globl sequence_run, sequence_start, sequence_end, sequence_abort\n"
	"	.long 0x53053053\n"
	"sequence_abort:\n"
	"sequence_run:\n"
	"	lea sequence(%rip), %rax\n"
	"	mov %rax, 8(%rdi)\n"
	"sequence_start:\n"
	"	pause\n"
	"	cmpl $0, (%rsi)\n"
	"	je sequence_start\n"
	"sequence_end:\n"
	"	movq $0, 8(%rdi)\n"
	"	ret\n");

static void body_in_sequence(void)
{
	char *rseq = (char *)__builtin_thread_pointer() + __rseq_offset;

	sequence.start = sequence_start;
	sequence.length = (uint64_t)(sequence_end - sequence_start);
	sequence.abort = sequence_abort;
	live.shared->ready = 1;
	sequence_run(rseq, (const volatile int *)&live.shared->go);
	live.shared->result = 1;
}

Test(ptrace_routine, a_restartable_sequence_is_begun_again_behind_a_call)
{
	const struct tm_arch *arch = tm_arch_host();
	struct tm_thread *thread;

	if (!__rseq_size)
		cr_skip_test("glibc has not registered rseq(2) here");
	attach(body_in_sequence);
	thread = tm_target_thread(live.target, live.pid);
	do {
		live_check(tm_target_run_briefly(live.target, thread, 20000));
		live_check(tm_target_fetch_regs(live.target, thread));
	} while (thread->regs.value[arch->pc] - address_of(sequence_start) >=
		 (uint64_t)(sequence_end - sequence_start));
	cr_expect_eq(live_system_call(SYS_getpid, 0, 0, 0), live.pid);
	thread->regs_valid = false;
	live_check(tm_target_fetch_regs(live.target, thread));
	cr_expect_eq(thread->regs.value[arch->pc], address_of(sequence_abort));
	live_resume_all();
	expect_right_end();
}
#endif
