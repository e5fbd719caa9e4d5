#include "support/dwfl_oracle.h"

#include <elfutils/libdwfl.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/vector.h"

/* No debug files: libdwfl would use their .debug_frame, and search for them. */
static int find_no_debuginfo(Dwfl_Module *module, void **userdata, const char *name, Dwarf_Addr base,
			     const char *file_name, const char *debuglink_file, GElf_Word debuglink_crc,
			     char **debuginfo_file_name)
{
	(void)module, (void)userdata, (void)name, (void)base, (void)file_name, (void)debuglink_file;
	(void)debuglink_crc, (void)debuginfo_file_name;
	return -1;
}

static const Dwfl_Callbacks callbacks = {
	.find_elf = dwfl_linux_proc_find_elf,
	.find_debuginfo = find_no_debuginfo,
};

static void attach(struct tm_oracle *oracle, pid_t pid)
{
	Dwfl *dwfl = dwfl_begin(&callbacks);

	if (!dwfl || dwfl_linux_proc_report(dwfl, pid) != 0 || dwfl_report_end(dwfl, NULL, NULL) != 0 ||
	    dwfl_linux_proc_attach(dwfl, pid, true) != 0) {
		fprintf(stderr, "libdwfl cannot attach to %d: %s\n", (int)pid, dwfl_errmsg(-1));
		abort();
	}
	oracle->dwfl = dwfl;
}

static int add_frame(Dwfl_Frame *state, void *context)
{
	struct tm_oracle *oracle = context;
	Dwarf_Addr pc;
	bool exact;

	/* Where there is no CFI libdwfl follows the frame pointer, whatever it is, to whatever it finds. */
	if (!dwfl_frame_pc(state, &pc, &exact) || pc == 0)
		return DWARF_CB_ABORT;
	if (!tm_vector_push(&oracle->frames, (struct tm_oracle_frame){pc, exact}))
		abort();
	return DWARF_CB_OK;
}

void tm_oracle_walk(struct tm_oracle *oracle, pid_t pid, pid_t tid, uint64_t generation)
{
	if (oracle->dwfl && (oracle->pid != pid || oracle->generation != generation)) {
		dwfl_end(oracle->dwfl);
		oracle->dwfl = NULL;
	}
	oracle->pid = pid;
	oracle->generation = generation;
	if (!oracle->dwfl)
		attach(oracle, pid);
	oracle->frames.count = 0;
	oracle->failed = dwfl_getthread_frames(oracle->dwfl, tid, add_frame, oracle) != 0;
}

void tm_oracle_deinit(struct tm_oracle *oracle)
{
	if (oracle->dwfl)
		dwfl_end(oracle->dwfl);
	tm_vector_deinit(&oracle->frames);
}
