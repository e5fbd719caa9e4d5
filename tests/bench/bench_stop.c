/*
 * The floor under every breakpoint tracer on this machine: what one stop costs that only moves the PC and
 * goes on (SIGTRAP, waitpid, registers read and written, PTRACE_CONT), with tracer and tracee on one CPU.
 * Prints {"us": microseconds a stop}.
 */
#ifdef __x86_64__
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STOPS 100000

static double now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void stay_on_this_cpu(void)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET((size_t)sched_getcpu(), &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
}

static _Noreturn void trap_for_ever(void)
{
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
	raise(SIGSTOP);
	for (;;)
		__asm__ volatile("int3");
}

static int go_on(pid_t pid)
{
	int status;

	return ptrace(PTRACE_CONT, pid, NULL, NULL) == 0 && waitpid(pid, &status, 0) == pid &&
	       WIFSTOPPED(status);
}

static int one_stop(pid_t pid)
{
	struct user_regs_struct regs;

	return go_on(pid) && ptrace(PTRACE_GETREGS, pid, NULL, &regs) == 0 &&
	       ptrace(PTRACE_SETREGS, pid, NULL, &regs) == 0;
}

int main(void)
{
	double begin;
	pid_t pid;

	stay_on_this_cpu();
	pid = fork();
	if (pid == 0)
		trap_for_ever();
	waitpid(pid, NULL, 0);
	for (int i = 0; i < STOPS / 10; i++)
		if (!one_stop(pid))
			return 1;
	begin = now_us();
	for (int i = 0; i < STOPS; i++)
		if (!one_stop(pid))
			return 1;
	printf("{\"us\": %.3f}\n", (now_us() - begin) / STOPS);
	kill(pid, SIGKILL);
	return 0;
}
#else
int main(void)
{
	return 77; /* GETREGS and int3 are x86-64's */
}
#endif
