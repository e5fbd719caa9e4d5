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

/* False: there is none. */
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
		got = recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (got < 0 && errno == EINTR);
	*fd = got > 0 ? file_of(&message) : -1;
	return got > 0;
}

static void obey_all(struct watched *watched, int socket)
{
	struct order order;
	int fd;

	while (next_order(socket, &order, &fd))
		obey(watched, &order, fd);
}

/* False: the tracer is gone. */
static bool sleep_until_called(int socket)
{
	char byte;
	ssize_t got;

	do
		got = read(socket, &byte, 1);
	while (got < 0 && errno == EINTR);
	return got > 0;
}

static _Noreturn void watch(const struct tm_watchdog *ends)
{
	struct watched watched = {0};
	sigset_t all;
	bool alive;

	sigfillset(&all); /* Ctrl-C of the terminal is for the tracer, which comes to an orderly end */
	sigprocmask(SIG_SETMASK, &all, NULL);
	setsid();
	prctl(PR_SET_NAME, "tmtrace-watch");
	do {
		alive = sleep_until_called(ends->attention);
		obey_all(&watched, ends->orders);
	} while (alive);
	if (watched.page)
		__atomic_store_n((uint32_t *)((char *)watched.page + watched.in_page), 0, __ATOMIC_RELEASE);
	_exit(0);
}

/* The tracer's children are its targets: the watchdog is nobody's child. */
static _Noreturn void leave_watching(const struct tm_watchdog *ends)
{
	pid_t pid = fork();

	if (pid == 0)
		watch(ends);
	_exit(pid < 0);
}

/* Descriptors that others wait for the end of must not be kept open by the watchdog. */
static void close_standard_files(void)
{
	for (int fd = 0; fd <= 2; fd++)
		close(fd);
}

/* ---- the tracer's side ---- */

/* ours and its: the ends of both sockets. */
static bool make_sockets(struct tm_watchdog *ours, struct tm_watchdog *its)
{
	int orders[2], attention[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, orders) < 0)
		return false;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, attention) < 0) {
		close(orders[0]);
		close(orders[1]);
		return false;
	}
	*ours = (struct tm_watchdog){orders[0], attention[0]};
	*its = (struct tm_watchdog){orders[1], attention[1]};
	return true;
}

static void close_sockets(struct tm_watchdog *ends)
{
	close(ends->orders);
	close(ends->attention);
	*ends = TM_NO_WATCHDOG;
}

struct tm_error *tm_watchdog_start(struct tm_watchdog *watchdog)
{
	struct tm_watchdog its;
	int status = 0;
	pid_t pid;

	if (!make_sockets(watchdog, &its))
		return tm_error_errno(errno, "cannot create a pair of sockets");
	pid = fork();
	if (pid == 0) {
		close_sockets(watchdog);
		close_standard_files();
		leave_watching(&its);
	}
	close_sockets(&its);
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pid > 0 && status == 0)
		return NULL;
	close_sockets(watchdog);
	return tm_error_create(TM_ERROR_OTHER, "cannot start the watchdog process");
}

struct tm_error *tm_watchdog_watch(const struct tm_watchdog *watchdog, int fd, size_t offset)
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
	if (sendmsg(watchdog->orders, &message, MSG_NOSIGNAL) < 0)
		return tm_error_errno(errno, "the watchdog process is gone");
	if (fd < 0) /* or the file that it had before would live on with the order */
		send(watchdog->attention, "", 1, MSG_NOSIGNAL);
	return NULL;
}

void tm_watchdog_dismiss(struct tm_watchdog *watchdog)
{
	if (watchdog->orders < 0)
		return;
	tm_error_destroy(tm_watchdog_watch(watchdog, -1, 0));
	close_sockets(watchdog);
}
