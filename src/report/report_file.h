/*
 * The report file: an SQLite database, self-contained (modules, names, lines and source text of all frames
 * are inside), written while the trace runs and one single file at its end. Only src/report/ knows SQLite.
 * The schema stands in README and in report_schema.h.
 *
 * A writer belongs to one thread at a time. Crash safety: WAL while open, every save is one transaction; a
 * killed tracer leaves everything up to the last save. close() checkpoints and sets journal_mode=DELETE.
 */
#ifndef TM_REPORT_REPORT_FILE_H
#define TM_REPORT_REPORT_FILE_H

#include "debuginfo/module.h"
#include "debuginfo/symbolize.h"
#include "model/snapshot.h"
#include "model/statistic.h"

#define TM_REPORT_APPLICATION_ID 0x746d7472 /* "tmtr" */
#define TM_REPORT_VERSION	 2	    /* PRAGMA user_version; 1 is read too */

struct tm_report_writer;

/* Creates the file (mode 0600). TM_ERROR_EXISTS if it exists and not `force`; any other reason names the
   path. Writes the schema, so that a file that cannot be written is found out here, before a target is
   touched. */
struct tm_error *tm_report_writer_create(const char *path, bool force, struct tm_report_writer **out);

/*
 * A row of meta(key, value); replaces. Keys that the readers know (others stay for whoever asks with SQL):
 * - pid, exe, command, arch, ended, images: the target. command is a JSON array of strings, images
 *   one of objects.
 * - probe, nframe, started, duration_ns: the trace. started is ISO 8601, UTC.
 * - fp_frames: frames that only the frame pointer led to. attach_ns, detach_ns: how long the target was held
 * up at most.
 * - domains: names of the domains 0, 1, ..., separated by commas ("python,native").
 * - lost: events that were not seen.
 * - sample: mean number of bytes between samples; 0 or absent: every call is an event.
 * - skip: globs of allocator wrappers (skip.h), one a line. Marks the frames that are stored, too.
 */
struct tm_error *tm_report_writer_meta(struct tm_report_writer *writer, const char *key, const char *value);
struct tm_error *tm_report_writer_meta_u64(struct tm_report_writer *writer, const char *key, uint64_t value);

struct tm_report_thread {
	uint32_t tid;
	char name[32];
	uint64_t first_seen, last_seen; /* ns since the trace began; last_seen 0: alive at the end */
};

/* A point of the timeline. */
struct tm_report_sample {
	uint64_t time;		       /* ns since the trace began */
	uint64_t current, blocks, rss; /* rss in bytes, 0 if unknown */
};

/*
 * Names for frames that stand in no module: those of an interpreter, whose module numbers begin at `first`.
 * Their rows are shown under `module`, and are named at every save (without the text of the line, which the
 * last save adds). Called in the thread that saves.
 */
struct tm_named_frames {
	uint32_t first;
	uint32_t module;
	void *context;
	/* The texts are borrowed, and stay valid as long as the source. */
	void (*name)(void *context, struct tm_frame place, const char **function, const char **filename,
		     uint32_t *lineno);
};

/* Everything one save needs. Only new frames and tracebacks are written; a snapshot of a name that is
   there replaces it. */
struct tm_report_save {
	/* Of these only what the snapshots name is read (tracebacks below traceback_count, their frames,
	   their modules), so that the tracer's thread may go on while another thread saves. */
	const struct tm_tracebacks *tracebacks;
	const struct tm_module_map *modules;
	struct tm_symbolizer *symbolizer;    /* NULL: frames are stored without names for now */
	const struct tm_named_frames *named; /* NULL: every frame stands in a module */
	const struct tm_snapshot *const *snapshots;
	size_t snapshot_count;
	const struct tm_report_thread *threads;
	size_t thread_count;
	const struct tm_report_sample *samples; /* appended */
	size_t sample_count;
	void (*progress)(void *context, size_t done, size_t total); /* frames symbolised; may be NULL */
	void *progress_context;
};
/* One transaction: after an error the file is as it was before, and a later save may succeed (the disk has
   room again). Frames that an earlier save stored without names are named by a later save with a
   symbolizer. */
struct tm_error *tm_report_writer_save(struct tm_report_writer *writer, const struct tm_report_save *save);

/* Makes it one file again. The writer is gone afterwards, also on error. TM_ERROR_TIMEOUT: another program
   kept the file open for seconds; everything is saved, but its -wal file must stay beside it until that
   program ends. */
struct tm_error *tm_report_writer_close(struct tm_report_writer *writer);
/* Gives up: removes the file that create made (a target could not be attached). NULL is fine. */
void tm_report_writer_discard(struct tm_report_writer *writer);

/* Reading. */
struct tm_report;

struct tm_report_totals {
	struct tm_totals totals;
	uint64_t lost;
};

/* TM_ERROR_NOT_FOUND, TM_ERROR_BAD_FORMAT (not a report, a newer version, damaged), naming the path. Opens
   read-only; a file that is being written is fine. */
struct tm_error *tm_report_open(const char *path, struct tm_report **out);
void tm_report_close(struct tm_report *report);

/* meta's value, or NULL. Borrowed. */
const char *tm_report_meta(const struct tm_report *report, const char *key);

/* The name of a domain; NULL: it has none. Borrowed. */
const char *tm_report_domain_name(const struct tm_report *report, uint32_t domain);

/* From now on only one domain is loaded, by its name or its number. TM_ERROR_NOT_FOUND names those that the
   report has. */
struct tm_error *tm_report_select_domain(struct tm_report *report, const char *name);

/* Loads a snapshot's statistics as traces with named frames (inlined calls expanded, skipped frames marked).
   Borrowed: valid until close. TM_ERROR_NOT_FOUND names the snapshots that exist. */
struct tm_report_view {
	const char *snapshot_name;
	uint64_t time;
	/* Of the lowest domain, at the snapshot's moment; `peak` is taken at the end, so its totals are the
	 * end's. */
	struct tm_report_totals totals;
	const struct tm_snapshot_domain *domains; /* the same for every domain, lowest first */
	size_t domain_count;
	const struct tm_trace *traces; /* by domain, lowest first */
	size_t trace_count;
	uint64_t sample; /* bytes between samples, in the mean: sums are estimates; 0: they are exact */
	struct {
		const char *cut;
		uint64_t tracebacks;
	} cuts[TM_CUT_COUNT]; /* tracebacks cut short, by reason, most first */
	size_t cut_count;
	const struct tm_report_moment {
		const char *name;
		uint64_t time;
	} * snapshots; /* all that the file has, oldest first */
	size_t snapshot_count;
};
struct tm_error *tm_report_load(struct tm_report *report, const char *snapshot, struct tm_report_view *view);

/* What a view has of its domains[index] alone. */
struct tm_report_view tm_report_view_of_domain(const struct tm_report_view *view, size_t index);

#endif
