#include "target/procfs.h"

#include <ctype.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "base/file.h"
#include "base/strbuf.h"

#define PF_KTHREAD 0x00200000u /* include/linux/sched.h; field 9 of stat */

static bool status_text(pid_t pid, pid_t tid, char **text)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid, tid);
	_cleanup_error_ struct tm_error *err = tm_file_read_all(path, text, NULL);
	return !err;
}

bool tm_procfs_status_number(pid_t pid, pid_t tid, const char *field, int base, uint64_t *value)
{
	_cleanup_free_ char *text = NULL;
	size_t length = strlen(field);
	const char *line;

	if (!status_text(pid, tid, &text))
		return false;
	for (line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, field, length) == 0 && line[length] == ':') {
			*value = strtoull(line + length + 1, NULL, base);
			return true;
		}
	}
	return false;
}

/* The text of stat from field 3 on: behind the last ')', for a comm may hold anything. */
static char *stat_fields(pid_t pid, pid_t tid, char *buffer, size_t size)
{
	char path[64], *fields;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", pid, tid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	n = read(fd, buffer, size - 1);
	if (n <= 0)
		return NULL;
	buffer[n] = '\0';
	fields = strrchr(buffer, ')');
	return fields && fields[1] == ' ' ? fields + 2 : NULL;
}

/* Field `number` (>= 3) of stat as a number. */
static bool stat_number(pid_t pid, pid_t tid, int number, unsigned long long *value)
{
	char buffer[1024], *at = stat_fields(pid, tid, buffer, sizeof(buffer));

	for (int field = 3; at && field < number; field++) {
		at = strchr(at, ' ');
		if (at)
			at++;
	}
	if (!at)
		return false;
	*value = strtoull(at, NULL, 10);
	return true;
}

char tm_procfs_state(pid_t pid, pid_t tid)
{
	char buffer[1024], *fields = stat_fields(pid, tid, buffer, sizeof(buffer));

	return fields ? *fields : 0;
}

int tm_procfs_cpu(pid_t pid, pid_t tid)
{
	unsigned long long cpu;

	return stat_number(pid, tid, 39, &cpu) ? (int)cpu : -1;
}

void tm_procfs_comm(pid_t pid, pid_t tid, char comm[32])
{
	_cleanup_free_ char *text = NULL;
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", pid, tid);
	_cleanup_error_ struct tm_error *err = tm_file_read_all(path, &text, NULL);
	snprintf(comm, 32, "%.*s", err ? 1 : (int)strcspn(text, "\n"), err ? "?" : text);
}

uint64_t tm_procfs_rss(pid_t pid)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	unsigned long long pages = 0;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	_cleanup_error_ struct tm_error *err = tm_file_read_all(path, &text, NULL);
	if (err || sscanf(text, "%*u %llu", &pages) != 1)
		return 0;
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static struct tm_error *read_process(void *context, uint64_t address, void *buffer, size_t size)
{
	pid_t pid = *(const pid_t *)context;
	struct iovec local = {buffer, size}, remote = {(void *)(uintptr_t)address, size};
	ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);

	if (got < 0 && errno == ESRCH)
		return tm_error_create(TM_ERROR_NO_PROCESS, "process %d is gone", pid);
	if (got != (ssize_t)size)
		return tm_error_create(TM_ERROR_NO_MEMORY,
				       "cannot read %zu bytes at 0x%" PRIx64 " of process %d", size, address,
				       pid);
	return NULL;
}

struct tm_memory tm_procfs_memory(pid_t *pid)
{
	return (struct tm_memory){pid, read_process};
}

struct tm_error *tm_procfs_mappings(pid_t pid, struct tm_mappings *mappings)
{
	_cleanup_free_ char *text = NULL;
	char path[64];
	struct tm_error *err;

	snprintf(path, sizeof(path), "/proc/%d/maps", pid);
	err = tm_file_read_all(path, &text, NULL);
	return err ? err : tm_mappings_parse(text, mappings);
}

static bool each_number(const char *path, bool (*visit)(pid_t number, void *context), void *context)
{
	_cleanup_closedir_ DIR *dir = opendir(path);
	const struct dirent *entry;

	if (!dir)
		return false;
	while ((entry = readdir(dir)))
		if (isdigit((unsigned char)entry->d_name[0]) && !visit((pid_t)atoi(entry->d_name), context))
			break;
	return true;
}

bool tm_procfs_each_task(pid_t pid, bool (*visit)(pid_t tid, void *context), void *context)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	return each_number(path, visit, context);
}

bool tm_procfs_each_process(bool (*visit)(pid_t pid, void *context), void *context)
{
	return each_number("/proc", visit, context);
}

/* Tasks that have none, a dead one and all kernel threads, compare equal. */
bool tm_procfs_same_memory(pid_t a, pid_t b)
{
	uint64_t size;

	return syscall(SYS_kcmp, a, b, KCMP_VM, 0, 0) == 0 &&
	       tm_procfs_status_number(b, b, "VmSize", 10, &size);
}

/* ---- may it be traced? ---- */

/* The arguments as a JSON array. */
static char *read_command(pid_t pid)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf json = {0};
	_cleanup_free_ char *text = NULL;
	char path[64];
	size_t size = 0;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	_cleanup_error_ struct tm_error *err = tm_file_read_all(path, &text, &size);
	tm_strbuf_puts(&json, "[");
	for (size_t i = 0; !err && i < size; i += strlen(text + i) + 1) {
		if (i)
			tm_strbuf_puts(&json, ", ");
		tm_json_string(&json, text + i);
	}
	tm_strbuf_puts(&json, "]");
	return tm_strbuf_steal(&json);
}

static char *read_exe(pid_t pid)
{
	char path[64], link[4096];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	n = readlink(path, link, sizeof(link) - 1);
	return n < 0 ? NULL : strndup(link, (size_t)n);
}

static struct tm_error *check_architecture(pid_t pid, struct tm_process_info *info)
{
	unsigned char ident[EI_NIDENT + 4];
	char path[64];
	uint16_t machine;

	snprintf(path, sizeof(path), "/proc/%d/exe", pid);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == EACCES || errno == EPERM
			       ? tm_procfs_explain_refusal(pid)
			       : tm_error_errno(errno, "cannot open the executable of process %d", pid);
	if (read(fd, ident, sizeof(ident)) != (ssize_t)sizeof(ident) || memcmp(ident, ELFMAG, SELFMAG) != 0)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "process %d (%s): %s is not an ELF file", pid,
				       info->comm, info->exe ? info->exe : "its executable");
	if (ident[EI_CLASS] != ELFCLASS64)
		return tm_error_create(
			TM_ERROR_UNSUPPORTED,
			"process %d (%s) is a 32-bit program: only 64-bit targets can be traced", pid,
			info->comm);
	memcpy(&machine, ident + EI_NIDENT + 2, sizeof(machine));
	info->arch = tm_arch_by_machine(machine);
	if (info->arch != tm_arch_host())
		return tm_error_create(
			TM_ERROR_UNSUPPORTED,
			"process %d (%s) is a program for another architecture (%s, e_machine %u); this "
			"tmtrace traces %s",
			pid, info->comm, info->arch ? info->arch->name : "unknown", machine,
			tm_arch_host()->name);
	return NULL;
}

static struct tm_error *check_not_traced(pid_t pid, const struct tm_process_info *info)
{
	uint64_t tracer = 0;
	char comm[32];

	if (!tm_procfs_status_number(pid, pid, "TracerPid", 10, &tracer) || !tracer)
		return NULL;
	tm_procfs_comm((pid_t)tracer, (pid_t)tracer, comm);
	return tm_error_create(TM_ERROR_PERMISSION,
			       "process %d (%s) is already traced by process %" PRIu64
			       " (%s): a process can have one tracer; let that one detach first",
			       pid, info->comm, tracer, comm);
}

struct tm_error *tm_procfs_identify(pid_t pid, struct tm_process_info *info)
{
	struct tm_error *err;

	memset(info, 0, sizeof(*info));
	info->pid = pid;
	tm_procfs_comm(pid, pid, info->comm);
	info->exe = read_exe(pid);
	info->command = read_command(pid);
	err = check_architecture(pid, info);
	if (err)
		tm_process_info_deinit(info);
	return err;
}

struct tm_error *tm_procfs_inspect(pid_t pid, struct tm_process_info *info)
{
	unsigned long long flags = 0;
	uint64_t tgid = 0, threads;
	struct tm_error *err;
	char state;

	memset(info, 0, sizeof(*info));
	if (pid <= 0 || !tm_procfs_status_number(pid, pid, "Tgid", 10, &tgid))
		return tm_error_create(TM_ERROR_NO_PROCESS, "no process has the number %d", pid);
	pid = info->pid = (pid_t)tgid;
	tm_procfs_comm(pid, pid, info->comm);
	state = tm_procfs_state(pid, pid);
	if (pid == getpid())
		return tm_error_create(TM_ERROR_UNSUPPORTED, "process %d is tmtrace itself", pid);
	if (stat_number(pid, pid, 9, &flags) && (flags & PF_KTHREAD))
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "process %d (%s) is a kernel thread: it has no memory of its own", pid,
				       info->comm);
	if (state == 'Z' && tm_procfs_status_number(pid, pid, "Threads", 10, &threads) && threads > 1)
		return tm_error_create(
			TM_ERROR_UNSUPPORTED,
			"the first thread of process %d (%s) has ended while others run on: /proc does not "
			"show the memory of such a process under its number",
			pid, info->comm);
	if (state == 'Z' || state == 'X')
		return tm_error_create(
			TM_ERROR_NO_PROCESS,
			"process %d (%s) is a zombie: it has ended and waits for its parent to notice", pid,
			info->comm);
	err = check_not_traced(pid, info);
	return err ? err : tm_procfs_identify(pid, info);
}

void tm_process_info_deinit(struct tm_process_info *info)
{
	free(info->exe);
	free(info->command);
	info->exe = info->command = NULL;
}

#define CAP_SYS_PTRACE_BIT (UINT64_C(1) << 19) /* include/uapi/linux/capability.h */

static int yama_scope(void)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_error_ struct tm_error *err =
		tm_file_read_all("/proc/sys/kernel/yama/ptrace_scope", &text, NULL);

	return err ? 0 : atoi(text);
}

/* In the order in which the kernel asks (kernel/ptrace.c, __ptrace_may_access; security/yama/yama_lsm.c). */
struct tm_error *tm_procfs_explain_refusal(pid_t pid)
{
	uint64_t uid = 0, capabilities = 0, seccomp = 0;
	int scope = yama_scope();
	char comm[32];

	tm_procfs_comm(pid, pid, comm);
	tm_procfs_status_number(getpid(), getpid(), "CapEff", 16, &capabilities);
	tm_procfs_status_number(getpid(), getpid(), "Seccomp", 10, &seccomp);
	tm_procfs_status_number(pid, pid, "Uid", 10, &uid);
	if (!(capabilities & CAP_SYS_PTRACE_BIT) && uid != geteuid())
		return tm_error_create(
			TM_ERROR_PERMISSION,
			"not permitted to trace process %d (%s): it belongs to user %" PRIu64
			" and tmtrace runs as user %u; run it as that user or as root (capability "
			"CAP_SYS_PTRACE)",
			pid, comm, uid, geteuid());
	if (scope == 3)
		return tm_error_create(
			TM_ERROR_PERMISSION,
			"not permitted to trace process %d (%s): /proc/sys/kernel/yama/ptrace_scope is 3, "
			"no process may be traced until the machine is started again without it",
			pid, comm);
	if (!(capabilities & CAP_SYS_PTRACE_BIT) && scope >= 1)
		return tm_error_create(
			TM_ERROR_PERMISSION,
			"not permitted to trace process %d (%s): /proc/sys/kernel/yama/ptrace_scope is %d; "
			"run tmtrace as root%s, or allow it: sysctl kernel.yama.ptrace_scope=0",
			pid, comm, scope, scope == 1 ? ", start the program with `tmtrace -- COMMAND`" : "");
	if (seccomp)
		return tm_error_create(
			TM_ERROR_PERMISSION,
			"not permitted to trace process %d (%s): tmtrace itself runs under a seccomp filter, "
			"which may forbid ptrace(2) (a container's default profile: give it "
			"--cap-add=SYS_PTRACE)",
			pid, comm);
	if (!(capabilities & CAP_SYS_PTRACE_BIT))
		return tm_error_create(
			TM_ERROR_PERMISSION,
			"not permitted to trace process %d (%s): it is not dumpable (it changed its user or "
			"holds capabilities that tmtrace lacks); run tmtrace as root (capability "
			"CAP_SYS_PTRACE)",
			pid, comm);
	return tm_error_create(
		TM_ERROR_PERMISSION,
		"not permitted to trace process %d (%s), although tmtrace has CAP_SYS_PTRACE here: the "
		"process is in another user namespace, is init, or a security module forbids it",
		pid, comm);
}
