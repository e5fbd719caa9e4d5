#include "probe/watchdog.h"

#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE_SIZE 4096u

/* A message: where in the file that comes with it the word is. */
struct order {
	uint64_t offset;
};

/* The only file that may come with a message (cmsg(3)). */
union passed_file {
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

/* ---- the watchdog's side ---- */

struct watched {
	void *page; /* NULL: none */
	size_t in_page;
};

static int file_of(struct msghdr *message)
{
	struct cmsghdr *control = CMSG_FIRSTHDR(message);
	int fd = -1;

	if (control && control->cmsg_level == SOL_SOCKET && control->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(control), sizeof(fd));
	return fd;
}

static void obey(struct watched *watched, const struct order *order, int fd)
{
	if (watched->page)
		munmap(watched->page, PAGE_SIZE);
	watched->page = NULL;
	if (fd < 0)
		return;
	watched->page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			     (off_t)(order->offset & ~(uint64_t)(PAGE_SIZE - 1)));
	if (watched->page == MAP_FAILED)
		watched->page = NULL;
	watched->in_page = order->offset % PAGE_SIZE;
	close(fd);
}

/* False: the tracer is gone. */
static bool next_order(int socket, struct order *order, int *fd)
{
	union passed_file file;
	struct iovec part = {order, sizeof(*order)};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = file.bytes,
				 .msg_controllen = sizeof(file.bytes)};
	ssize_t got;

	do
		got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	*fd = got > 0 ? file_of(&message) : -1;
	return got > 0;
}

static _Noreturn void watch(int socket)
{
	struct watched watched = {0};
	struct order order;
	sigset_t all;
	int fd;

	sigfillset(&all); /* Ctrl-C of the terminal is for the tracer, which comes to an orderly end */
	sigprocmask(SIG_SETMASK, &all, NULL);
	setsid();
	prctl(PR_SET_NAME, "tmtrace-watch");
	while (next_order(socket, &order, &fd))
		obey(&watched, &order, fd);
	if (watched.page)
		__atomic_store_n((uint32_t *)((char *)watched.page + watched.in_page), 0, __ATOMIC_RELEASE);
	_exit(0);
}

/* The tracer's children are its targets: the watchdog is nobody's child. */
static _Noreturn void leave_watching(int socket)
{
	pid_t pid = fork();

	if (pid == 0)
		watch(socket);
	_exit(pid < 0);
}

/* Descriptors that others wait for the end of must not be kept open by the watchdog. */
static void close_standard_files(void)
{
	for (int fd = 0; fd <= 2; fd++)
		close(fd);
}

/* ---- the tracer's side ---- */

struct tm_error *tm_watchdog_start(int *watchdog)
{
	int ends[2], status = 0;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return tm_error_errno(errno, "cannot create a pair of sockets");
	pid = fork();
	if (pid == 0) {
		close(ends[1]);
		close_standard_files();
		leave_watching(ends[0]);
	}
	close(ends[0]);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid > 0 && status == 0) {
		*watchdog = ends[1];
		return NULL;
	}
	close(ends[1]);
	return tm_error_create(TM_ERROR_OTHER, "cannot start the watchdog process");
}

struct tm_error *tm_watchdog_watch(int watchdog, int fd, size_t offset)
{
	struct order order = {offset};
	union passed_file file = {0};
	struct iovec part = {&order, sizeof(order)};
	struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

	if (fd >= 0) {
		struct cmsghdr *control = &file.align;

		message.msg_control = file.bytes;
		message.msg_controllen = sizeof(file.bytes);
		control->cmsg_level = SOL_SOCKET;
		control->cmsg_type = SCM_RIGHTS;
		control->cmsg_len = CMSG_LEN(sizeof(fd));
		memcpy(CMSG_DATA(control), &fd, sizeof(fd));
	}
	if (sendmsg(watchdog, &message, MSG_NOSIGNAL) < 0)
		return tm_error_errno(errno, "the watchdog process is gone");
	return NULL;
}

void tm_watchdog_dismiss(int watchdog)
{
	if (watchdog < 0)
		return;
	tm_error_destroy(tm_watchdog_watch(watchdog, -1, 0));
	close(watchdog);
}
