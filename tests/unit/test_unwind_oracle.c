/*
 * Our walk against libdwfl's, frame by frame: on stacks of every kind, of every thread, at every system call
 * of real programs, at every instruction of a fixture.
 */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "support/dwfl_oracle.h"
#include "support/process_view.h"
#include "support/unwind_fixture.h"
#include "unwind/unwind.h"

#define WINDOW 2048 /* small, so that deep stacks are read on */

struct comparison {
	struct tm_process_view view;
	struct tm_oracle oracle;
	struct tm_walk walk;
	size_t walks, frames, complete, differences;
	size_t longer;	    /* complete walks that libdwfl ended early */
	uint64_t outermost; /* pc of the last frame of the first complete walk */
};

static void comparison_open(struct comparison *c, pid_t pid)
{
	memset(c, 0, sizeof(*c));
	tm_process_view_open(&c->view, pid);
}

static void comparison_close(struct comparison *c)
{
	tm_walk_deinit(&c->walk);
	tm_oracle_deinit(&c->oracle);
	tm_process_view_close(&c->view);
}

static bool read_regs(pid_t tid, struct tm_regs *regs)
{
	uint8_t regset[TM_REGSET_MAX];
	struct iovec part = {regset, sizeof(regset)};

	if (ptrace(PTRACE_GETREGSET, tid, (void *)NT_PRSTATUS, &part) != 0)
		return false;
	tm_arch_regs_from_regset(tm_arch_host(), regset, regs);
	return true;
}

static void walk_thread(struct comparison *c, pid_t tid)
{
	uint8_t bytes[WINDOW];
	struct tm_capture capture = {.bytes = bytes, .memory = &c->view.memory};

	if (!read_regs(tid, &capture.regs))
		cr_fatal("no registers of thread %d", (int)tid);
	capture.start = capture.regs.value[tm_arch_host()->sp];
	if (pread(c->view.memory_fd, bytes, sizeof(bytes), (off_t)capture.start) == (ssize_t)sizeof(bytes))
		capture.size = sizeof(bytes);
	tm_unwind(c->view.cfi, tm_arch_host(), 0, &capture, false, TM_NFRAME_MAX, &c->walk);
}

static bool frames_agree(const struct tm_walk_frame *ours, const struct tm_oracle_frame *theirs)
{
	/* libdwfl calls a signal trampoline an activation, too (dwfl_frame_pc). */
	return ours->pc == theirs->pc && (ours->is_signal || (ours->lookup == ours->pc) == theirs->exact);
}

/*
 * The frames are the same, as far as libdwfl comes: it loses rbx where no CFI speaks of it
 * (backends/x86_64_cfi.c), which _dl_runtime_resolve's frame hangs on. We are right then if we reach the
 * frame where all walks end.
 */
static bool walks_agree(struct comparison *c)
{
	bool complete = c->walk.cut == TM_CUT_NONE && c->walk.fp_frames == 0;
	uint64_t last = c->walk.count ? c->walk.frames[c->walk.count - 1].pc : 0;

	if (c->walk.count < c->oracle.frames.count)
		return false;
	for (size_t i = 0; i < c->oracle.frames.count; i++) {
		if (!frames_agree(&c->walk.frames[i], &c->oracle.frames.items[i]))
			return false;
	}
	c->complete += complete;
	if (complete && !c->outermost)
		c->outermost = last;
	if (c->walk.count == c->oracle.frames.count)
		return complete || c->oracle.failed;
	c->longer++;
	return complete && (c->oracle.failed || last == c->outermost);
}

static void print_frame(const struct comparison *c, uint64_t pc)
{
	const struct tm_module *module = tm_module_map_find(c->view.map, pc);

	fprintf(stderr, " %s+%#llx", module ? module->path : "?",
		(unsigned long long)(pc - (module ? module->bias : 0)));
}

static void log_summary(const struct comparison *c, const char *name)
{
	cr_log_info("%s: %zu walks of %zu frames; %zu complete, %zu longer than libdwfl's", name, c->walks,
		    c->frames, c->complete, c->longer);
}

static void print_difference(const struct comparison *c)
{
	fprintf(stderr, "walks differ: ours %zu frames, cut %d (%zu by fp); libdwfl's %zu%s\n", c->walk.count,
		(int)c->walk.cut, c->walk.fp_frames, c->oracle.frames.count,
		c->oracle.failed ? ", failed" : "");
	for (size_t i = 0; i < c->walk.count || i < c->oracle.frames.count; i++) {
		fprintf(stderr, "  %2zu", i);
		if (i < c->walk.count)
			print_frame(c, c->walk.frames[i].pc);
		fprintf(stderr, " |");
		if (i < c->oracle.frames.count)
			print_frame(c, c->oracle.frames.items[i].pc);
		fprintf(stderr, "\n");
	}
}

/* Compares the walks of a stopped thread. */
static void compare(struct comparison *c, pid_t tid)
{
	walk_thread(c, tid);
	tm_oracle_walk(&c->oracle, c->view.pid, tid, tm_module_map_generation(c->view.map));
	c->walks++;
	c->frames += c->walk.count;
	if (!walks_agree(c) && c->differences++ < 5)
		print_difference(c);
}

/* ---- children ---- */

static int ready_pipe[2];

/* The bottom of a child's stack: it says so, and waits in a system call for ever. */
static void say_ready_and_wait(void)
{
	char byte = 'r';

	if (write(ready_pipe[1], &byte, 1) != 1)
		_exit(3);
	for (;;)
		pause();
}

static void await_ready(int count)
{
	char byte;

	for (int i = 0; i < count; i++)
		cr_assert(read(ready_pipe[0], &byte, 1) == 1, "the child ended too early");
}

static void stop_here(void)
{
	__asm__ volatile("" ::: "memory");
}

/* A process ends when all of its threads that we trace were waited for. */
static void end_child(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(-1, NULL, __WALL) > 0)
		;
}

/* pid is the process of tid: it is ended if the test must be skipped. */
static void stop_thread(pid_t pid, pid_t tid)
{
	int status;

	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) != 0) {
		int seize_errno = errno;

		end_child(pid);
		cr_skip_test("ptrace is not permitted here: %s", strerror(seize_errno));
	}
	cr_assert(ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) == 0);
	cr_assert(waitpid(tid, &status, __WALL) == tid && WIFSTOPPED(status));
}

/* A child that is traced from its first stop on: in `run`, or in the program `argv`. */
static pid_t start_traced(const struct tm_unwind_scenario *scenario, char *const argv[])
{
	int status, null;
	pid_t pid = fork();

	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
			_exit(126);
		if (scenario) {
			raise(SIGSTOP);
			scenario->run(stop_here);
			_exit(0);
		}
		null = open("/dev/null", O_RDWR);
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		execvp(argv[0], argv);
		_exit(127);
	}
	cr_assert(waitpid(pid, &status, 0) == pid);
	if (!WIFSTOPPED(status))
		cr_skip_test("%s",
			     WEXITSTATUS(status) == 126 ? "ptrace is not permitted here" : "no such program");
	return pid;
}

static void check_scenarios(const struct tm_unwind_scenario *scenarios)
{
	for (size_t i = 0; i < tm_scenario_count; i++) {
		struct comparison c;
		pid_t pid;

		cr_assert(pipe(ready_pipe) == 0);
		pid = fork();
		if (pid == 0) {
			close(ready_pipe[0]);
			scenarios[i].run(say_ready_and_wait);
			_exit(0);
		}
		close(ready_pipe[1]);
		await_ready(1);
		stop_thread(pid, pid);
		comparison_open(&c, pid);
		compare(&c, pid);
		cr_expect(eq(sz, c.differences, 0), "%s", scenarios[i].name);
		cr_expect(eq(sz, c.walk.fp_frames, 0), "%s", scenarios[i].name);
		cr_expect(gt(sz, c.walk.count, 8), "%s", scenarios[i].name);
		comparison_close(&c);
		end_child(pid);
		close(ready_pipe[0]);
	}
}

Test(unwind_oracle, agrees_on_unoptimised_stacks_of_every_kind)
{
	check_scenarios(tm_scenarios_plain);
}

Test(unwind_oracle, agrees_on_optimised_stacks_of_every_kind)
{
	check_scenarios(tm_scenarios_optimised);
}

#define THREADS 4

static void *thread_main(void *context)
{
	const struct tm_unwind_scenario *scenario = context;

	scenario->run(say_ready_and_wait);
	return NULL;
}

static _Noreturn void threads_child(void)
{
	for (int i = 0; i < THREADS; i++) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, thread_main, (void *)&tm_scenarios_optimised[i]) != 0)
			_exit(4);
	}
	for (;;)
		pause();
}

Test(unwind_oracle, agrees_on_every_thread)
{
	struct comparison c;
	pid_t pid, tids[THREADS + 1];
	char path[64];
	DIR *tasks;
	struct dirent *task;
	size_t count = 0;

	cr_assert(pipe(ready_pipe) == 0);
	pid = fork();
	if (pid == 0)
		threads_child();
	close(ready_pipe[1]);
	await_ready(THREADS);
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	while ((task = readdir(tasks)) != NULL) {
		if (task->d_name[0] != '.' && count < TM_ARRAY_SIZE(tids))
			tids[count++] = (pid_t)atoi(task->d_name);
	}
	closedir(tasks);
	cr_assert(eq(sz, count, THREADS + 1));
	for (size_t i = 0; i < count; i++)
		stop_thread(pid, tids[i]);
	comparison_open(&c, pid);
	for (size_t i = 0; i < count; i++)
		compare(&c, tids[i]);
	cr_expect(eq(sz, c.differences, 0));
	cr_expect(eq(sz, c.walks, THREADS + 1));
	comparison_close(&c);
	end_child(pid);
}

/* ---- torture ---- */

/* Goes on and waits for the next stop; false if the child is gone. Signals are delivered. */
static bool next_stop(pid_t pid, int request, int *signal)
{
	int status;

	if (ptrace(request, pid, NULL, (void *)(long)*signal) != 0 || waitpid(pid, &status, __WALL) != pid ||
	    !WIFSTOPPED(status))
		return false;
	*signal = WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == (SIGTRAP | 0x80) ? 0 : WSTOPSIG(status);
	return true;
}

static void single_step(const struct tm_unwind_scenario *scenario, size_t limit)
{
	struct comparison c;
	int signal = 0;
	pid_t pid = start_traced(scenario, NULL);

	comparison_open(&c, pid);
	while (c.walks < limit && next_stop(pid, PTRACE_SINGLESTEP, &signal))
		compare(&c, pid);
	cr_expect(eq(sz, c.differences, 0), "%s: %zu of %zu instructions", scenario->name, c.differences,
		  c.walks);
	cr_expect(gt(sz, c.walks, 300), "%s", scenario->name);
	log_summary(&c, scenario->name);
	comparison_close(&c);
	end_child(pid);
}

Test(unwind_oracle, agrees_at_every_instruction_without_optimisation, .timeout = 100)
{
	for (size_t i = 0; i < tm_scenario_count; i++)
		single_step(&tm_scenarios_plain[i], 4000);
}

Test(unwind_oracle, agrees_at_every_instruction_with_optimisation, .timeout = 100)
{
	for (size_t i = 0; i < tm_scenario_count; i++)
		single_step(&tm_scenarios_optimised[i], 4000);
}

/* Compares at every system call of a program, until it ends or `limit` of them are reached. */
static void trace_program(char *const argv[], size_t limit)
{
	struct comparison c;
	int signal = 0;
	pid_t pid = start_traced(NULL, argv);

	comparison_open(&c, pid);
	while (c.walks < limit && next_stop(pid, PTRACE_SYSCALL, &signal)) {
		tm_process_view_update(&c.view);
		compare(&c, pid);
	}
	cr_expect(eq(sz, c.differences, 0), "%s: %zu of %zu stops", argv[0], c.differences, c.walks);
	cr_expect(gt(sz, c.walks, 20), "%s", argv[0]);
	log_summary(&c, argv[0]);
	comparison_close(&c);
	end_child(pid);
}

Test(unwind_oracle, agrees_at_system_calls_of_sleep)
{
	char *argv[] = {"sleep", "0", NULL};

	trace_program(argv, 300);
}

Test(unwind_oracle, agrees_at_system_calls_of_perl)
{
	char *argv[] = {"perl", "-e",
			"use POSIX; print join(',', sort {$a <=> $b} map {$_ * 7 % 31} 1..30), `true`", NULL};

	trace_program(argv, 3000);
}

Test(unwind_oracle, agrees_at_system_calls_of_python)
{
	char *argv[] = {"python3", "-S", "-c",
			"import json; print(json.dumps({'a': list(range(9))}), flush=True)", NULL};

	trace_program(argv, 6000);
}

Test(unwind_oracle, agrees_at_system_calls_of_sqlite)
{
	char *argv[] = {"sqlite3", "",
			"create table t(a); insert into t select value from generate_series(1, 5000);"
			"create index i on t(a); select count(*) from t order by a;",
			NULL};

	trace_program(argv, 3000);
}
