/*
 * What the files of the session share. session.c runs it, follow.c keeps up with exec, fork and dlopen,
 * stacks.c makes tracebacks of captures, python.c of an interpreter's frames, records.c reads what pads
 * record, native.c makes tracebacks of that, events.c feeds the model, snapshots.c takes named snapshots,
 * saver.c writes the report while the trace goes on, record.c its beginning and end, status.c tells how it
 * goes.
 */
#ifndef TM_SESSION_SESSION_INTERNAL_H
#define TM_SESSION_SESSION_INTERNAL_H

#include "base/strbuf.h"
#include "base/vector.h"
#include "debuginfo/cfi.h"
#include "model/snapshot.h"
#include "probe/breakpoint_probe.h"
#include "probe/recording.h"
#include "report/report_file.h"
#include "session/session.h"
#include "target/breakpoint.h"
#include "target/pad.h"
#include "target/patch.h"
#include "target/procfs.h"
#include "target/ptrace.h"
#include "unwind/unwind.h"

struct tm_saver;
struct tm_python;
struct tm_python_stacks;
struct tm_within;
struct tm_native;

/* A module that is mapped and armed. */
struct tm_loaded {
	uint32_t module;
	uint64_t start, end;
	bool was_read; /* pages of its file are in memory, for it was armed just now */
};

struct tm_session {
	const struct tm_session_config *config;
	struct tm_process_info info;
	struct tm_target *target;
	struct tm_pads *pads;
	struct tm_breakpoints *breakpoints;
	struct tm_patches *patches;
	struct tm_module_map *modules;
	struct tm_cfi *cfi;
	struct tm_function_index *functions;
	struct tm_probe *probe; /* arms nothing where the python domain alone is traced */
	struct tm_recording_needs recording_needs;
	struct tm_recording *recording;	      /* NULL: nothing records */
	struct tm_native *native;	      /* NULL: native calls stop */
	bool native_refused;		      /* a recorder could not be put in place */
	struct tm_map interpreters;	      /* python.c: number of a module -> whether it has one */
	struct tm_python *python;	      /* NULL: only the native domain was asked for */
	enum tm_session_domain traced;	      /* in the present image; RECOGNISE: not known yet */
	enum tm_session_domain traced_before; /* in the image before it; RECOGNISE: there was none */
	const struct tm_thread *standing;     /* whose breakpoint is being handled; NULL: none */
	struct tm_within *within;	      /* NULL: everything counts */
	struct tm_tracer *tracer;
	struct tm_report_writer *writer;
	struct tm_saver *saver;

	uint64_t begin_ns;     /* CLOCK_MONOTONIC when the target was first touched */
	uint64_t attach_ns;    /* from then until all breakpoints were in place and the target ran on */
	uint64_t detach_ns;    /* from the wish to stop until the target was let go */
	uint64_t now_ns;       /* since then; of the stop that is being handled */
	uint64_t next_tick_ns; /* when to look at the world besides the events */
	uint64_t next_sample_ns, next_save_ns;
	struct tm_session_status status;
	uint64_t status_ns, status_events;

	/* where pads record */
	uint64_t unringed; /* of the recording, as far as counted in `lost` */
	uint64_t read_pause_ns, backlog;
	uint64_t doorbell, watch_until_ns;

	/* follow.c */
	int root_fd, proc_fd;	    /* /proc/PID/root, /proc/PID */
	uint64_t loader_breakpoint; /* the dynamic linker's r_brk; 0: none */
	uint64_t entry_breakpoint; /* the program's first instruction, where r_brk cannot be found at a start;
				      0: none */
	struct tm_vector(struct tm_loaded) loaded;
	struct tm_strbuf images; /* the elements of a JSON array: paths of the programs that ran */
	unsigned exec_count;

	/* stacks.c */
	struct tm_walk walk;
	struct tm_vector(uint32_t) frames;
	uint64_t fp_frames; /* frames that only the frame pointer led to: code without CFI */

	/* events.c */
	uint64_t lost;

	/* what the report tells besides */
	struct tm_vector(struct tm_snapshot *) snapshots; /* named ones, kept to the end */
	size_t snapshots_offered;			  /* of them, to the saver */
	unsigned snapshots_taken;			  /* of those that the user asked for */
	struct tm_vector(struct tm_report_thread) threads;
	struct tm_map thread_index;			   /* tid -> index of its latest row in threads */
	struct tm_vector(struct tm_report_sample) samples; /* not saved yet */
	size_t warnings;
	const char *ended;
	bool exited;
	int wait_status;
	size_t foreign;
	char *path;
};

/* Frames that are kept of a traceback of either domain. */
static inline unsigned tm_session_python_nframe(const struct tm_session *session)
{
	return session->config->nframe ? session->config->nframe : 1; /* as tracemalloc */
}

static inline unsigned tm_session_native_nframe(const struct tm_session *session)
{
	return session->config->nframe ? session->config->nframe : 64; /* seldom told by the last caller */
}

void tm_session_warn(void *session, const char *text);
void tm_session_announce(struct tm_session *session); /* tells the user what is traced */

/* follow.c */
const struct tm_module *tm_follow_main_module(const struct tm_session *session); /* or NULL */
/* Before a process is attached to: opens its modules and looks for what will be armed. It runs meanwhile. */
void tm_follow_read_ahead(struct tm_session *session);
struct tm_error *tm_follow_open(struct tm_session *session);
struct tm_error *tm_follow_attached(struct tm_session *session);
struct tm_error *tm_follow_exec(struct tm_session *session, bool *traceable);
struct tm_error *tm_follow_fork(struct tm_session *session, pid_t child);
/* The dynamic linker has changed its list, and the thread that did it waits. */
void tm_follow_release_pages(struct tm_session *session); /* of files that were read to arm modules */
struct tm_error *tm_follow_loader(struct tm_session *session);
struct tm_error *
tm_follow_arm_natives(struct tm_session *session); /* where modules were known but not armed */
struct tm_error *tm_follow_hit(struct tm_session *session, uint64_t address, bool *ours);
void tm_follow_close(struct tm_session *session);

/* stacks.c */
struct tm_error *tm_stacks_traceback(struct tm_session *session, struct tm_thread *thread,
				     const struct tm_capture *capture, uint32_t *traceback);
bool tm_stacks_pad_state(void *session, uint64_t pc, bool is_return_address, struct tm_pad_state *state);
bool tm_stacks_each_saved_pc(void *session, struct tm_thread *thread, tm_visit_pc visit, void *visit_context);
bool tm_stacks_in_signal_handler(void *session, struct tm_thread *thread, uint64_t cfa);

/* The traceback of the frames of session->walk, from `first` on. */
struct tm_error *tm_stacks_intern(struct tm_session *session, size_t first, uint32_t *traceback);
struct tm_frame tm_stacks_frame(const struct tm_walk_frame *walked);

/* Walks the native stack into session->walk. */
void tm_stacks_walk(struct tm_session *session, struct tm_thread *thread, const struct tm_capture *capture);

/* merge.c */
struct tm_error *tm_merge_traceback(struct tm_session *session, const struct tm_event *event,
				    struct tm_python_stacks *stacks, uint32_t *traceback);

/* python.c: all do nothing where session->python is NULL */
struct tm_error *tm_python_create(struct tm_session *session);
void tm_python_destroy(struct tm_python *python);
/* Modules were loaded: looks for an interpreter among them, and decides what is traced (session->traced). One
 * that runs is armed at once, one that is being started at Py_RunMain. `complete`: the modules that the
 * program begins with are all there. */
struct tm_error *tm_python_look(struct tm_session *session, bool complete);
/* Nothing was armed: why not. */
struct tm_error *tm_python_not_armed(const struct tm_session *session);
/* At the end: was an interpreter armed at any time? That none was is an error where one was asked for. */
struct tm_error *tm_python_check_armed(struct tm_session *session);
struct tm_python_stacks *tm_python_stacks(const struct tm_session *session); /* NULL: none is armed */
bool tm_python_is_armed(const struct tm_session *session);
struct tm_error *tm_python_hit(struct tm_session *session, struct tm_thread *thread, uint64_t address,
			       bool *ours);
/* Of an event of the python domain, or of a native one beside it, where it is armed. */
struct tm_error *tm_python_traceback(struct tm_session *session, const struct tm_event *event,
				     uint32_t *traceback);
void tm_python_freed(struct tm_session *session, uint64_t address); /* the interpreter gives a block back */
/* Is the native call whose stack was walked last (session->walk) made by an allocator of the interpreter? */
bool tm_python_is_inner(const struct tm_session *session);
void tm_python_thread_gone(struct tm_session *session, const struct tm_thread *thread);
void tm_python_reset(struct tm_session *session);	  /* exec */
bool tm_python_records(const struct tm_session *session); /* its pads record: nothing stops */
struct tm_error *tm_python_record(struct tm_session *session, const struct tm_thread *thread,
				  uint64_t pointer, const struct tm_record_header *record);
void tm_python_scrub_child(struct tm_session *session, pid_t child);
struct tm_error *tm_python_disarm(struct tm_session *session);
bool tm_python_is_in(struct tm_session *session, const struct tm_module *module); /* an interpreter */
const char *tm_python_description(const struct tm_session *session); /* "CPython 3.11.2 in PATH", or NULL */
const struct tm_named_frames *tm_python_named_frames(const struct tm_session *session); /* or NULL */

/* records.c */
bool tm_records_on(const struct tm_session *session); /* pads record, of whatever domain */
void tm_records_prepare(struct tm_session *session);  /* while nothing is stopped; logs what fails */
struct tm_error *tm_records_install(struct tm_session *session, const struct tm_recorder_python *python);
struct tm_error *tm_records_disable(struct tm_session *session);
void tm_records_forget(struct tm_session *session); /* the target is not touched */
/* Takes what was recorded. */
struct tm_error *tm_records_read(struct tm_session *session, enum tm_reading reading, size_t *count);
uint64_t
tm_records_doorbell(const struct tm_session *session); /* changes when a thread begins to wait for us */
void tm_records_tick(struct tm_session *session);      /* a few times a second */
struct tm_error *tm_records_thread_born(struct tm_session *session, struct tm_thread *thread);
void tm_records_thread_gone(struct tm_session *session, const struct tm_thread *thread);

/* native.c: all but the first two do nothing where session->native is NULL */
/* Could native calls record, in the present image or one that is being started? */
bool tm_native_may_record(const struct tm_session *session);
/* Before modules are armed: puts the recorder in place where native calls are to record. */
struct tm_error *tm_native_prepare(struct tm_session *session);
struct tm_error *tm_native_enable(struct tm_session *session); /* behind it */
void tm_native_loaded(struct tm_session *session, uint64_t start, uint64_t end);
void tm_native_unloaded(struct tm_session *session, uint64_t start, uint64_t end);
/* From now on a pad tells of the dynamic linker's list. An error where it cannot be. */
struct tm_error *tm_native_watch_loader(struct tm_session *session, uint64_t address);
bool tm_native_watches_loader(const struct tm_session *session);
struct tm_error *tm_native_record(struct tm_session *session, unsigned ring, const struct tm_thread *thread,
				  const struct tm_record_header *record);
/* Of the native event that is being taken. */
struct tm_error *tm_native_traceback(struct tm_session *session, uint32_t *traceback);
void tm_native_reset(struct tm_session *session); /* exec */
void tm_native_destroy(struct tm_native *native);

/* within.c */
struct tm_error *tm_session_within_create(struct tm_session *session);
void tm_session_within_destroy(struct tm_session *session);
void tm_session_within_check_seen(
	struct tm_session *session); /* warns if the function never was on a stack */
/* Does the event count? Of events that bring a block, or failed to. */
struct tm_error *tm_session_is_within(struct tm_session *session, const struct tm_event *event, bool *within);
/* One that does not: what it means for blocks that did. */
void tm_session_take_outside(struct tm_session *session, const struct tm_event *event);

/* snapshots.c */
struct tm_error *tm_snapshots_take(struct tm_session *session, const char *name);
struct tm_error *tm_snapshots_take_requested(struct tm_session *session);

/* status.c */
void tm_status_get(const struct tm_session *session, struct tm_session_status *status);
void tm_status_report(
	struct tm_session *session); /* to the user; begins the next span of events_per_second */

/* events.c */
struct tm_error *tm_events_take(void *session, const struct tm_event *event);

/* threads.c */
void tm_threads_seen(struct tm_session *session, const struct tm_thread *thread);
void tm_threads_gone(void *session, struct tm_thread *thread);
void tm_threads_refresh(struct tm_session *session);

/* record.c */
struct tm_error *tm_record_start(struct tm_session *session);
struct tm_error *tm_record_end(struct tm_session *session);

/* saver.c */
struct tm_error *tm_saver_create(struct tm_session *session, struct tm_saver **out);
void tm_saver_offer(struct tm_saver *saver); /* saves the present state, unless a save is still going on */
struct tm_error *
tm_saver_finish(struct tm_saver *saver); /* waits for it, ends the thread; the saver is gone */

#endif
