/*
 * Opening files by the paths that a target uses, under the target's own root: an absolute symbolic link, or a
 * "..", never leads out of it. Private to debuginfo/.
 */
#ifndef TM_DEBUGINFO_ROOT_PATH_H
#define TM_DEBUGINFO_ROOT_PATH_H

/* Opens an absolute path under root_fd (-1: our own root) with open(2)'s flags; -1 and errno. */
int tm_root_open(int root_fd, const char *path, int flags);

/* The same for kernels without openat2(2) (before 5.6, or forbidden by a seccomp filter): resolves each
   component by itself. root_fd must be a descriptor. */
int tm_root_open_by_components(int root_fd, const char *path, int flags);

/* Opens a regular file for reading. Anything else (a device, a FIFO) is left untouched: -1, errno is EINVAL.
 */
int tm_root_open_file(int root_fd, const char *path);

/* The same for a file that openat(2) finds from directory_fd, following magic links (/proc/PID/map_files). */
int tm_open_file_at(int directory_fd, const char *path);

#endif
