/*
 * compare_walks PID [MOMENTS]: stops each thread of a running process MOMENTS times and walks its stack
 * twice: our way, and by libdwfl. Prints {"walks": N, "frames": N, "differences": N, "oracle_failures": N} on
 * stdout, the first differences on stderr. Where libdwfl's walk fails before the outermost frame, what it had
 * until then is no more than a hint: ours must not contradict it.
 */
#include <dirent.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include "support/dwfl_oracle.h"
#include "support/process_view.h"
#include "unwind/unwind.h"

#define WINDOW	    2048
#define THREADS_MAX 256
#define SHOWN	    3

struct comparison {
	struct tm_process_view view;
	struct tm_oracle oracle;
	struct tm_walk walk;
	size_t walks, frames, differences, oracle_failures;
};

/* Stops a thread wherever it is; false if it is gone. *signal is what it was about to get. */
static bool stop_thread(pid_t tid, int *signal)
{
	int status;

	*signal = 0;
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) != 0)
		return false;
	if (ptrace(PTRACE_INTERRUPT, tid, NULL, NULL) != 0 || waitpid(tid, &status, __WALL) != tid ||
	    !WIFSTOPPED(status))
		return false;
	if (status >> 16 != PTRACE_EVENT_STOP)
		*signal = WSTOPSIG(status);
	return true;
}

static void let_go(pid_t tid, int signal)
{
	ptrace(PTRACE_DETACH, tid, NULL, (void *)(long)signal);
}

static bool walk_our_way(struct comparison *c, pid_t tid)
{
	uint8_t regset[TM_REGSET_MAX], bytes[WINDOW];
	struct iovec part = {regset, sizeof(regset)};
	struct tm_capture capture = {.bytes = bytes, .memory = &c->view.memory};
	ssize_t got;

	if (ptrace(PTRACE_GETREGSET, tid, (void *)NT_PRSTATUS, &part) != 0)
		return false;
	tm_arch_regs_from_regset(tm_arch_host(), regset, &capture.regs);
	capture.start = capture.regs.value[tm_arch_host()->sp];
	got = pread(c->view.memory_fd, bytes, sizeof(bytes), (off_t)capture.start);
	capture.size = got > 0 ? (size_t)got : 0;
	tm_unwind(c->view.cfi, tm_arch_host(), 0, &capture, false, TM_NFRAME_MAX, &c->walk);
	return true;
}

static bool walks_agree(const struct comparison *c)
{
	size_t ours = c->walk.count, theirs = c->oracle.frames.count;

	if (!c->oracle.failed && ours != theirs)
		return false;
	for (size_t i = 0; i < ours && i < theirs; i++)
		if (c->walk.frames[i].pc != c->oracle.frames.items[i].pc)
			return false;
	return true;
}

static void print_difference(const struct comparison *c, pid_t tid)
{
	fprintf(stderr, "thread %d: ours %zu frames (%s), libdwfl's %zu%s\n", (int)tid, c->walk.count,
		tm_cut_name(c->walk.cut), c->oracle.frames.count, c->oracle.failed ? " (failed)" : "");
	for (size_t i = 0; i < c->walk.count || i < c->oracle.frames.count; i++) {
		uint64_t ours = i < c->walk.count ? c->walk.frames[i].pc : 0;
		uint64_t theirs = i < c->oracle.frames.count ? c->oracle.frames.items[i].pc : 0;
		const struct tm_module *module = tm_module_map_find(c->view.map, ours);

		fprintf(stderr, "  %2zu %#18llx %#18llx %s\n", i, (unsigned long long)ours,
			(unsigned long long)theirs, module ? module->path : "");
	}
}

static void compare_thread(struct comparison *c, pid_t tid)
{
	int signal;

	if (!stop_thread(tid, &signal))
		return;
	tm_process_view_update(&c->view);
	if (walk_our_way(c, tid)) {
		tm_oracle_walk(&c->oracle, c->view.pid, tid, tm_module_map_generation(c->view.map));
		c->walks++;
		c->frames += c->walk.count;
		c->oracle_failures += c->oracle.failed;
		if (!walks_agree(c) && c->differences++ < SHOWN)
			print_difference(c, tid);
	}
	let_go(tid, signal);
}

static size_t list_threads(pid_t pid, pid_t tids[THREADS_MAX])
{
	char path[64];
	size_t count = 0;
	struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	while (tasks && count < THREADS_MAX && (entry = readdir(tasks)))
		if (entry->d_name[0] != '.')
			tids[count++] = (pid_t)atoi(entry->d_name);
	if (tasks)
		closedir(tasks);
	return count;
}

int main(int argc, char **argv)
{
	struct comparison c = {0};
	pid_t tids[THREADS_MAX];
	int moments = argc > 2 ? atoi(argv[2]) : 1;

	if (argc < 2)
		return 2;
	tm_process_view_open(&c.view, (pid_t)atoi(argv[1]));
	for (int moment = 0; moment < moments; moment++) {
		size_t count = list_threads(c.view.pid, tids);

		for (size_t i = 0; i < count; i++)
			compare_thread(&c, tids[i]);
	}
	printf("{\"walks\": %zu, \"frames\": %zu, \"differences\": %zu, \"oracle_failures\": %zu}\n", c.walks,
	       c.frames, c.differences, c.oracle_failures);
	tm_walk_deinit(&c.walk);
	tm_oracle_deinit(&c.oracle);
	tm_process_view_close(&c.view);
	return 0;
}
