#include "debuginfo/root_path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "base/cleanup.h"

#define LINKS_MAX    40 /* path_resolution(7) */
#define RENAME_TRIES 8

struct resolution {
	int root_fd;
	char done[PATH_MAX]; /* resolved: holds no link and no ".." */
	char todo[PATH_MAX];
	unsigned links;
};

static int fail(int errno_value)
{
	errno = errno_value;
	return -1;
}

/* Cuts the next component off *path; NULL at the end. */
static char *next_component(char **path)
{
	char *component;

	while (**path == '/')
		(*path)++;
	if (!**path)
		return NULL;
	component = *path;
	*path += strcspn(*path, "/");
	if (**path)
		*(*path)++ = '\0';
	return component;
}

/* Opens a resolved path, directory by directory: what became a link meanwhile is refused, not followed. */
static int open_resolved(int root_fd, const char *resolved, int flags)
{
	_cleanup_close_ int at = openat(root_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char path[PATH_MAX], *rest = path, *component, *next;

	strcpy(path, resolved);
	component = next_component(&rest);
	if (!component)
		return openat(root_fd, ".", flags | O_CLOEXEC);
	while (at >= 0 && (next = next_component(&rest)) != NULL) {
		int below = openat(at, component, O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC);

		close(at);
		at = below;
		component = next;
	}
	return at < 0 ? -1 : openat(at, component, flags | O_NOFOLLOW | O_CLOEXEC);
}

/* Puts a link's target before the rest of the path. */
static int follow(struct resolution *resolution, const char *target, const char *rest)
{
	char todo[PATH_MAX];

	if (++resolution->links > LINKS_MAX)
		return fail(ELOOP);
	if (snprintf(todo, sizeof(todo), "%s/%s", target, rest) >= (int)sizeof(todo))
		return fail(ENAMETOOLONG);
	strcpy(resolution->todo, todo);
	if (*target == '/')
		resolution->done[0] = '\0';
	return 0;
}

static int step(struct resolution *resolution, const char *component, const char *rest)
{
	char path[PATH_MAX], target[PATH_MAX];
	_cleanup_close_ int fd = -1;
	struct stat st;
	ssize_t length;

	if (snprintf(path, sizeof(path), "%s/%s", resolution->done, component) >= (int)sizeof(path))
		return fail(ENAMETOOLONG);
	fd = open_resolved(resolution->root_fd, path, O_PATH);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	if (S_ISLNK(st.st_mode)) {
		length = readlinkat(fd, "", target, sizeof(target) - 1);
		if (length < 0)
			return -1;
		target[length] = '\0';
		return follow(resolution, target, rest);
	}
	strcpy(resolution->done, path);
	memmove(resolution->todo, rest, strlen(rest) + 1);
	return 0;
}

/* ".." in the root is the root. */
static void step_up(struct resolution *resolution, const char *rest)
{
	char *slash = strrchr(resolution->done, '/');

	if (slash)
		*slash = '\0';
	memmove(resolution->todo, rest, strlen(rest) + 1);
}

int tm_root_open_by_components(int root_fd, const char *path, int flags)
{
	struct resolution resolution = {.root_fd = root_fd};
	char *component, *rest;

	if (strlen(path) >= sizeof(resolution.todo))
		return fail(ENAMETOOLONG);
	if (*path && path[strlen(path) - 1] == '/')
		flags |= O_DIRECTORY;
	strcpy(resolution.todo, path);
	while (rest = resolution.todo, (component = next_component(&rest)) != NULL) {
		if (strcmp(component, ".") == 0)
			memmove(resolution.todo, rest, strlen(rest) + 1);
		else if (strcmp(component, "..") == 0)
			step_up(&resolution, rest);
		else if (step(&resolution, component, rest) < 0)
			return -1;
	}
	return open_resolved(root_fd, resolution.done, flags);
}

int tm_root_open(int root_fd, const char *path, int flags)
{
	struct open_how how = {.flags = (uint64_t)flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
	int fd, tries = RENAME_TRIES;

	if (*path != '/')
		return fail(EINVAL);
	if (root_fd < 0)
		return open(path, flags | O_CLOEXEC);
	/* openat2(2): EAGAIN when something was renamed while ".." was resolved. */
	do
		fd = (int)syscall(SYS_openat2, root_fd, path, &how, sizeof(how));
	while (fd < 0 && errno == EAGAIN && --tries);
	if (fd < 0 && (errno == ENOSYS || errno == EPERM))
		return tm_root_open_by_components(root_fd, path, flags);
	return fd;
}

/* Opening a device or a FIFO may block or act: an O_PATH descriptor shows first what it is. Takes path_fd
 * over. */
static int reopen_regular(int path_fd)
{
	_cleanup_close_ int fd = path_fd;
	char self[64];
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	if (!S_ISREG(st.st_mode))
		return fail(EINVAL);
	snprintf(self, sizeof(self), "/proc/self/fd/%d", fd);
	return open(self, O_RDONLY | O_NOCTTY | O_CLOEXEC);
}

int tm_root_open_file(int root_fd, const char *path)
{
	return reopen_regular(tm_root_open(root_fd, path, O_PATH));
}

int tm_open_file_at(int directory_fd, const char *path)
{
	return reopen_regular(openat(directory_fd, path, O_PATH | O_CLOEXEC));
}
