/*
 * Keeping up with the target: which modules it has (the dynamic linker's r_debug tells when that changes,
 * SVR4 gABI and glibc's elf/link.h), a new image after exec, a child after fork.
 */
#include "session/session_internal.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <link.h>
#include <string.h>

#include "base/log.h"
#include "debuginfo/symbol.h"

/* struct r_debug of <link.h>, 64 bit: int version; link_map *; brk; state; ldbase. */
#define R_DEBUG_BRK_OFFSET   16
#define R_DEBUG_STATE_OFFSET 24

#define LOADER_FUNCTION "_dl_debug_state" /* r_brk: glibc's and musl's linker export it */

static int open_proc(pid_t pid, const char *what)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d%s", pid, what);
	return open(path, O_PATH | O_CLOEXEC);
}

static void close_proc(struct tm_session *session)
{
	if (session->root_fd >= 0)
		close(session->root_fd);
	if (session->proc_fd >= 0)
		close(session->proc_fd);
	session->root_fd = session->proc_fd = -1;
}

static struct tm_module_source open_source(struct tm_session *session)
{
	close_proc(session);
	session->root_fd = open_proc(session->info.pid, "/root");
	session->proc_fd = open_proc(session->info.pid, "");
	return (struct tm_module_source){session->root_fd, session->proc_fd,
					 tm_procfs_memory(&session->info.pid)};
}

struct tm_error *tm_follow_open(struct tm_session *session)
{
	struct tm_module_source source = open_source(session);
	const struct tm_arch *arch = session->target ? session->target->arch : session->info.arch;
	struct tm_error *err = tm_module_map_create(&source, &session->modules);

	if (!err)
		err = tm_function_index_create(arch, session->modules, &session->functions);
	return err ? err : tm_cfi_create(arch, session->modules, &session->cfi);
}

/* Moves it to where it is: whatever that needs is there when functions are patched. */
static void move_ahead(const struct tm_session *session, const struct tm_indexed_function *function)
{
	const struct tm_arch *arch = session->info.arch;
	struct tm_relocated relocated;

	if (function->has_exits)
		tm_error_destroy(arch->relocate(function->bytes, function->size, function->vaddr,
						function->vaddr, tm_jump_size(arch), &relocated));
}

/* A module's functions, and what will be asked for about them. */
static struct tm_error *index_module(struct tm_session *session, struct tm_module *module)
{
	const struct tm_indexed_module *indexed;
	struct tm_error *err = tm_function_index_get(session->functions, module, &indexed);
	struct tm_symbol loader;

	tm_cfi_open(session->cfi, module); /* threads may stand anywhere */
	for (size_t i = 0; !err && i < indexed->count; i++) {
		tm_cfi_find(session->cfi, module->bias + indexed->functions[i].vaddr);
		move_ahead(session, &indexed->functions[i]);
	}
	if (!err && tm_module_find_dynamic_symbol(module, LOADER_FUNCTION, &loader))
		tm_function_index_is_jumped_into(session->functions, module, loader.vaddr);
	if (session->config->domain != TM_SESSION_NATIVE)
		tm_python_is_in(session, module);
	return err;
}

void tm_follow_read_ahead(struct tm_session *session)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};
	struct tm_error *err = tm_follow_open(session);

	if (!err)
		err = tm_procfs_mappings(session->info.pid, &mappings);
	if (!err)
		err = tm_module_map_update(session->modules, &mappings, session->info.exe);
	for (uint32_t i = 1; !err && i < tm_module_map_count(session->modules); i++)
		err = index_module(session, tm_module_map_get(session->modules, i));
	if (err) /* whoever may not attach learns why there */
		tm_log_info("%s", err->message);
	tm_error_destroy(err);
}

void tm_follow_close(struct tm_session *session)
{
	close_proc(session);
	tm_vector_deinit(&session->loaded);
	tm_strbuf_deinit(&session->images);
}

/* ---- modules ---- */

const struct tm_module *tm_follow_main_module(const struct tm_session *session)
{
	for (uint32_t i = tm_module_map_count(session->modules); i-- > 1;) {
		const struct tm_module *module = tm_module_map_get(session->modules, i);

		if (module->is_main && module->loaded)
			return module;
	}
	return NULL;
}

/* Modules that went away, or came back elsewhere, take their breakpoints with them: that memory is not ours
 * to write to. */
static void forget_unloaded(struct tm_session *session)
{
	for (size_t i = 0; i < session->loaded.count;) {
		struct tm_loaded *loaded = &session->loaded.items[i];
		const struct tm_module *module = tm_module_map_get(session->modules, loaded->module);

		if (module->loaded && module->start == loaded->start) {
			i++;
			continue;
		}
		tm_native_unloaded(session, loaded->start, loaded->end);
		tm_probe_forget_range(session->probe, loaded->module, loaded->start, loaded->end);
		tm_breakpoints_forget(session->breakpoints, loaded->start, loaded->end);
		tm_patches_forget(session->patches, loaded->start, loaded->end);
		tm_vector_remove_unordered(&session->loaded, i);
	}
}

static bool is_known(const struct tm_session *session, uint32_t module)
{
	for (size_t i = 0; i < session->loaded.count; i++)
		if (session->loaded.items[i].module == module)
			return true;
	return false;
}

/* Python first: what cannot be traced there is refused before anything is changed. */
static struct tm_error *arm_loaded(struct tm_session *session, bool complete)
{
	struct tm_error *err = session->python ? tm_python_look(session, complete) : NULL;
	size_t armed;

	tm_probe_stopped(session->probe);
	if (err || session->traced == TM_SESSION_RECOGNISE)
		return err;
	if (!complete && tm_native_may_record(session))
		return NULL; /* the recorder needs threads whose thread pointers are set */
	err = tm_native_prepare(session);
	for (uint32_t i = 1; !err && i < tm_module_map_count(session->modules); i++) {
		struct tm_module *module = tm_module_map_get(session->modules, i);

		if (!module->loaded || is_known(session, i))
			continue;
		if (!tm_vector_push(&session->loaded,
				    (struct tm_loaded){i, module->start, module->end, true}))
			return tm_error_out_of_memory();
		tm_native_loaded(session, module->start, module->end);
		if (session->traced != TM_SESSION_PYTHON)
			err = tm_probe_arm_module(session->probe, module, &armed);
	}
	if (!err)
		err = tm_probe_arm_deferred(session->probe);
	return err ? err : tm_native_enable(session);
}

/* What was read of their files to arm them, once. */
void tm_follow_release_pages(struct tm_session *session)
{
	for (size_t i = 0; i < session->loaded.count; i++) {
		struct tm_loaded *loaded = &session->loaded.items[i];

		if (loaded->was_read)
			tm_module_release_pages(tm_module_map_get(session->modules, loaded->module));
		loaded->was_read = false;
	}
}

struct tm_error *tm_follow_arm_natives(struct tm_session *session)
{
	session->loaded.count = 0;
	return arm_loaded(session, true);
}

/* complete: see tm_python_look. */
static struct tm_error *update_modules(struct tm_session *session, bool complete)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};
	struct tm_error *err = tm_target_mappings(session->target, &mappings);

	if (!err)
		err = tm_module_map_update(session->modules, &mappings, session->info.exe);
	if (err)
		return err;
	forget_unloaded(session);
	return arm_loaded(session, complete);
}

/* ---- the dynamic linker's breakpoint ---- */

/* The executable's DT_DEBUG, which the dynamic linker has filled in once it is up; 0: not yet. */
static uint64_t find_r_debug(struct tm_session *session)
{
	const struct tm_module *module = tm_follow_main_module(session);
	uint64_t place, r_debug = 0;

	if (!module || !tm_module_dynamic_entry(module, DT_DEBUG, &place))
		return 0;
	tm_error_destroy(tm_target_read(session->target, module->bias + place, &r_debug, sizeof(r_debug)));
	return r_debug;
}

static uint64_t find_r_brk(struct tm_session *session)
{
	uint64_t r_debug = find_r_debug(session), r_brk = 0;

	if (r_debug)
		tm_error_destroy(
			tm_target_read(session->target, r_debug + R_DEBUG_BRK_OFFSET, &r_brk, sizeof(r_brk)));
	return tm_module_map_find(session->modules, r_brk) ? r_brk : 0;
}

/* Is the list of modules whole, or does the linker work at it? */
static bool is_consistent(struct tm_session *session)
{
	uint64_t r_debug = find_r_debug(session);
	uint32_t state = RT_CONSISTENT;

	if (r_debug)
		tm_error_destroy(tm_target_read(session->target, r_debug + R_DEBUG_STATE_OFFSET, &state,
						sizeof(state)));
	return state == RT_CONSISTENT;
}

/* At a start nothing is filled in yet; the linker exports the function that it will call. */
static uint64_t find_loader_symbol(struct tm_session *session)
{
	for (uint32_t i = 1; i < tm_module_map_count(session->modules); i++) {
		const struct tm_module *module = tm_module_map_get(session->modules, i);
		struct tm_symbol symbol;

		if (module->loaded && !module->is_main &&
		    tm_module_find_dynamic_symbol(module, LOADER_FUNCTION, &symbol))
			return module->bias + symbol.vaddr;
	}
	return 0;
}

/* Where pads record one tells of the list as well. */
static bool watch_by_pad(struct tm_session *session, uint64_t address)
{
	_cleanup_error_ struct tm_error *err = NULL;

	if (!session->native)
		return false;
	err = tm_native_watch_loader(session, address);
	if (err)
		tm_log_info("the dynamic linker's list keeps a breakpoint: %s", err->message);
	return !err;
}

static struct tm_error *watch_loader(struct tm_session *session, uint64_t address)
{
	struct tm_error *err;

	if (!address || address == session->loader_breakpoint || tm_python_records(session) ||
	    tm_native_watches_loader(session) || watch_by_pad(session, address))
		return NULL;
	err = tm_breakpoint_insert(session->breakpoints, address);
	if (err && err->code == TM_ERROR_UNSUPPORTED) {
		_cleanup_error_ struct tm_error *reason = err;
		_cleanup_free_ char *text = NULL;

		if (asprintf(&text, "libraries that are loaded from now on are not traced: %s",
			     reason->message) >= 0)
			tm_session_warn(session, text);
		return NULL;
	}
	if (!err)
		session->loader_breakpoint = address;
	return err;
}

/* ---- a running program ---- */

/* What was looked at, for the case that nothing was found. */
static struct tm_error *nothing_found(struct tm_session *session)
{
	_cleanup_(tm_strbuf_deinit) struct tm_strbuf names = {0};

	for (uint32_t i = 1; i < tm_module_map_count(session->modules); i++) {
		const struct tm_module *module = tm_module_map_get(session->modules, i);

		if (module->loaded && !module->is_vdso)
			tm_strbuf_printf(&names, "%s%s%s%s", names.length ? ", " : "", module->path,
					 module->problem ? ": " : "", module->problem ? module->problem : "");
	}
	return tm_error_create(TM_ERROR_NOT_FOUND,
			       "no allocator function found in process %d (%s): neither malloc nor any other "
			       "known name is in the "
			       "symbol tables or debug files of the modules searched: %s",
			       session->info.pid, session->info.comm, names.text ? names.text : "none");
}

static void note_image(struct tm_session *session)
{
	if (session->images.length)
		tm_strbuf_puts(&session->images, ", ");
	tm_json_string(&session->images, session->info.exe ? session->info.exe : "");
}

static struct tm_error *recover_way(struct tm_session *session, const struct tm_module *module,
				    const struct tm_indexed_function *function, const struct tm_way_out *way)
{
	if (way->end - way->start < tm_jump_size(session->target->arch))
		return NULL;
	return tm_patch_recover(session->patches, module->bias + way->start,
				function->bytes + (way->start - function->vaddr));
}

/* Of a module that is where its file says, with the bytes of its functions in the index. */
static struct tm_error *recover_functions(struct tm_session *session, const struct tm_module *module,
					  const struct tm_indexed_module *indexed)
{
	struct tm_error *err = NULL;

	for (size_t i = 0; !err && i < indexed->count; i++) {
		const struct tm_indexed_function *function = &indexed->functions[i];

		if (function->has_exits && function->size >= TM_JUMP_SIZE_MAX)
			err = tm_patch_recover(session->patches, module->bias + function->vaddr,
					       function->bytes);
		for (size_t k = 0; !err && k < function->exits.way_count; k++)
			err = recover_way(session, module, function, &function->exits.ways[k]);
	}
	return err;
}

/* What a killed tracer has left in code that may not be patched this time. */
static struct tm_error *recover_module_code(struct tm_session *session)
{
	struct tm_error *err = NULL;
	size_t position = 0, size;
	uint64_t code;

	if (!tm_pads_next(session->pads, &position, &code, &size))
		return NULL;
	for (uint32_t i = 1; !err && i < tm_module_map_count(session->modules); i++) {
		struct tm_module *module = tm_module_map_get(session->modules, i);
		const struct tm_indexed_module *indexed;

		if (!module->loaded || module->image_is_copy)
			continue;
		err = tm_function_index_get(session->functions, module, &indexed);
		if (!err)
			err = recover_functions(session, module, indexed);
	}
	return err;
}

struct tm_error *tm_follow_attached(struct tm_session *session)
{
	struct tm_error *err = tm_pads_adopt(session->pads);

	note_image(session);
	if (!err)
		err = recover_module_code(session);
	if (!err)
		err = update_modules(session, true);
	if (err)
		return err;
	if (session->traced != TM_SESSION_NATIVE && !tm_python_is_armed(session))
		return tm_python_not_armed(session);
	if (session->traced != TM_SESSION_PYTHON && !tm_probe_function_count(session->probe))
		return nothing_found(session);
	return watch_loader(session, find_r_brk(session));
}

/* ---- a new image ---- */

static struct tm_error *forget_image(struct tm_session *session)
{
	struct tm_error *err;
	char name[32];

	snprintf(name, sizeof(name), "exec-%u", ++session->exec_count);
	err = tm_snapshots_take(session, name);
	if (!err)
		tm_tracer_new_epoch(session->tracer);
	return err;
}

static uint64_t entry_point(const struct tm_session *session)
{
	const struct tm_module *module = tm_follow_main_module(session);
	Elf64_Ehdr header;

	if (!module || module->image_size < sizeof(header))
		return 0;
	memcpy(&header, module->image, sizeof(header));
	return module->bias + header.e_entry;
}

/* Libraries are armed when the linker says that they are there, before any of their constructors runs: it
   calls _dl_debug_state with RT_CONSISTENT then. A static program is armed at once. */
static struct tm_error *arm_new_image(struct tm_session *session)
{
	const struct tm_module *module;
	struct tm_error *err = update_modules(session, false);
	uint64_t address;

	if (err)
		return err;
	module = tm_follow_main_module(session);
	if (!module || !tm_module_interpreter(module))
		return arm_loaded(session, true);
	address = find_loader_symbol(session);
	if (address)
		return watch_loader(session, address);
	address = entry_point(session);
	if (!address)
		return arm_loaded(session, true);
	err = tm_breakpoint_insert(session->breakpoints, address);
	if (!err)
		session->entry_breakpoint = address;
	return err;
}

struct tm_error *tm_follow_exec(struct tm_session *session, bool *traceable)
{
	struct tm_module_source source;
	struct tm_error *err = session->exec_count || session->images.length ? forget_image(session) : NULL;

	if (err)
		return err;
	tm_breakpoints_forget_all(session->breakpoints);
	tm_patches_forget_all(session->patches);
	tm_pads_forget_all(session->pads);
	tm_probe_reset(session->probe);
	tm_native_reset(session);
	tm_python_reset(session);
	session->loaded.count = 0;
	session->loader_breakpoint = session->entry_breakpoint = 0;
	tm_process_info_deinit(&session->info);
	err = tm_procfs_identify(session->target->pid, &session->info);
	*traceable = !err;
	if (err) {
		tm_session_warn(session, err->message);
		tm_error_destroy(err);
		return NULL;
	}
	note_image(session);
	source = open_source(session);
	tm_module_map_reset(session->modules, &source);
	return arm_new_image(session);
}

/* The child has a copy of our breakpoints and jumps in a memory of its own: it goes on without them, and
 * without us. */
struct tm_error *tm_follow_fork(struct tm_session *session, pid_t child)
{
	struct tm_error *err = tm_breakpoints_scrub_child(session->breakpoints, child), *released;

	err = tm_error_first(err, tm_patches_scrub_child(session->patches, child));
	tm_probe_scrub_child(session->probe, child);
	tm_python_scrub_child(session, child);
	released = session->target->ops->release_child(session->target, child);
	if (err && err->code == TM_ERROR_NO_PROCESS) { /* killed before it ran */
		tm_error_destroy(err);
		err = NULL;
	}
	if (err)
		tm_error_destroy(released);
	return err ? err : released;
}

/* The breakpoint that led here gives its place to a pad, or keeps it. */
static struct tm_error *leave_loader_to_pad(struct tm_session *session)
{
	uint64_t loader = session->loader_breakpoint, entry = session->entry_breakpoint;
	struct tm_error *err = tm_breakpoint_remove(session->breakpoints, loader, &session->foreign);

	err = tm_error_first(err, tm_breakpoint_remove(session->breakpoints, entry, &session->foreign));
	session->loader_breakpoint = session->entry_breakpoint = 0;
	return err ? err : watch_loader(session, loader ? loader : find_r_brk(session));
}

/* All threads stand still while functions are patched. */
static struct tm_error *update_still(struct tm_session *session)
{
	struct tm_error *err = tm_target_stop_all(session->target, TM_STOP_TIMEOUT_MS);

	if (err)
		return err;
	err = update_modules(session, true);
	if (!err && session->native && !tm_native_watches_loader(session))
		err = leave_loader_to_pad(session);
	err = tm_error_first(err, tm_target_resume_all(session->target, session->standing));
	tm_follow_release_pages(session);
	return err;
}

struct tm_error *tm_follow_loader(struct tm_session *session)
{
	return is_consistent(session) ? update_still(session) : NULL;
}

struct tm_error *tm_follow_hit(struct tm_session *session, uint64_t address, bool *ours)
{
	struct tm_error *err;
	bool complete;

	*ours = address == session->loader_breakpoint || address == session->entry_breakpoint;
	if (!*ours)
		return NULL;
	complete = address == session->entry_breakpoint || is_consistent(session);
	if (complete && tm_native_may_record(session))
		return update_still(session);
	err = update_modules(session, complete);
	if (!err && address == session->entry_breakpoint)
		err = watch_loader(session, find_r_brk(session));
	if (complete)
		tm_follow_release_pages(session);
	return err;
}
