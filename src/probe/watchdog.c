#include "probe/watchdog.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Only what may be called between fork and exec of a program with several threads (signal-safety(7)). */
static _Noreturn void watch(int pipe_end, uint32_t *word)
{
	sigset_t all;
	char byte;
	ssize_t got;

	sigfillset(&all); /* Ctrl-C of the terminal is for the tracer, which comes to an orderly end */
	sigprocmask(SIG_SETMASK, &all, NULL);
	setsid();
	prctl(PR_SET_NAME, "tmtrace-watch");
	do
		got = read(pipe_end, &byte, 1);
	while (got < 0 && errno == EINTR);
	if (got <= 0) /* no farewell */
		__atomic_store_n(word, 0, __ATOMIC_RELEASE);
	_exit(0);
}

/* The tracer's children are its targets: the watchdog is nobody's child. */
static _Noreturn void leave_watching(int pipe_end, uint32_t *word)
{
	pid_t pid = fork();

	if (pid == 0)
		watch(pipe_end, word);
	_exit(pid < 0);
}

/* Descriptors that others wait for the end of must not be kept open by the watchdog. */
static void close_standard_files(void)
{
	for (int fd = 0; fd <= 2; fd++)
		close(fd);
}

struct tm_error *tm_watchdog_start(uint32_t *word, int *dismiss)
{
	int ends[2], status = 0;
	pid_t pid;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return tm_error_errno(errno, "cannot create a pipe");
	pid = fork();
	if (pid == 0) {
		close(ends[1]);
		close_standard_files();
		leave_watching(ends[0], word);
	}
	close(ends[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid > 0 && status == 0) {
		*dismiss = ends[1];
		return NULL;
	}
	close(ends[1]);
	return tm_error_create(TM_ERROR_OTHER, "cannot start the watchdog process");
}

void tm_watchdog_dismiss(int dismiss)
{
	if (dismiss < 0)
		return;
	if (write(dismiss, "", 1) < 0) { /* it has been killed: nothing is left to dismiss */
	}
	close(dismiss);
}
