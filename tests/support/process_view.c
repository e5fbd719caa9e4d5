#include "support/process_view.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"

static void must(struct tm_error *err)
{
	if (!err)
		return;
	fprintf(stderr, "process_view: %s\n", err->message);
	abort();
}

static struct tm_error *read_memory(void *context, uint64_t address, void *buffer, size_t size)
{
	struct tm_process_view *view = context;
	ssize_t got = pread(view->memory_fd, buffer, size, (off_t)address);

	view->reads++;
	if (got == (ssize_t)size)
		return NULL;
	return tm_error_create(TM_ERROR_NO_MEMORY, "cannot read %zu bytes at %#llx", size,
			       (unsigned long long)address);
}

void tm_process_view_update(struct tm_process_view *view)
{
	_cleanup_free_ char *text = NULL;
	struct tm_mappings mappings;
	char path[64];
	size_t size;

	/* An open /proc/PID/mem stays with the memory of before an exec. */
	tm_cleanup_close(&view->memory_fd);
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)view->pid);
	view->memory_fd = open(path, O_RDONLY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/maps", (int)view->pid);
	must(tm_file_read_all(path, &text, &size));
	must(tm_mappings_parse(text, &mappings));
	must(tm_module_map_update(view->map, &mappings, NULL));
	tm_mappings_deinit(&mappings);
}

void tm_process_view_open(struct tm_process_view *view, pid_t pid)
{
	struct tm_module_source source = {.root_fd = -1, .proc_fd = -1};

	memset(view, 0, sizeof(*view));
	view->pid = pid;
	view->memory_fd = -1;
	view->memory = (struct tm_memory){view, read_memory};
	source.memory = view->memory;
	must(tm_module_map_create(&source, &view->map));
	tm_process_view_update(view);
	must(tm_cfi_create(tm_arch_host(), view->map, &view->cfi));
}

void tm_process_view_close(struct tm_process_view *view)
{
	tm_cfi_destroy(view->cfi);
	tm_module_map_destroy(view->map);
	tm_cleanup_close(&view->memory_fd);
}

void tm_regs_from_ucontext(const ucontext_t *context, struct tm_regs *regs)
{
	memset(regs, 0, sizeof(*regs));
#if defined(__x86_64__)
	static const int places[] = {REG_RAX, REG_RDX, REG_RCX, REG_RBX, REG_RSI, REG_RDI,
				     REG_RBP, REG_RSP, REG_R8,	REG_R9,	 REG_R10, REG_R11,
				     REG_R12, REG_R13, REG_R14, REG_R15, REG_RIP};

	for (size_t i = 0; i < TM_ARRAY_SIZE(places); i++)
		regs->value[i] = (uint64_t)context->uc_mcontext.gregs[places[i]];
#elif defined(__aarch64__)
	memcpy(regs->value, context->uc_mcontext.regs, 31 * sizeof(uint64_t));
	regs->value[31] = context->uc_mcontext.sp;
	regs->value[32] = context->uc_mcontext.pc;
#else
#error "no such architecture"
#endif
}
