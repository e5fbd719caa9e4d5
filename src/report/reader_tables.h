/*
 * Inside the report's reader: the rows of one moment in memory, checked. A file may be damaged or hostile:
 * ids must rise, references must hit, a chain can only go one way (report_schema.h), so nothing here loops or
 * grows past a stated bound.
 */
#ifndef TM_REPORT_READER_TABLES_H
#define TM_REPORT_READER_TABLES_H

#include "base/vector.h"
#include "model/statistic.h"
#include "model/traceback.h"
#include "report/database.h"
#include "report/skip.h"

/* Frames of all expanded tracebacks together: 1 GiB of pointers. */
#define TM_EXPANDED_FRAMES_MAX ((size_t)1 << 27)

struct tm_stored_module {
	int64_t id;
	const char *path;
};

struct tm_stored_thread {
	int64_t id;
	const char *name;
};

struct tm_loaded_frame {
	int64_t id;
	int64_t inlined_into;		     /* an id; 0: a physical frame */
	const struct tm_loaded_frame *outer; /* the frame of that id, or NULL */
	struct tm_named_frame named;
};

struct tm_loaded_node {
	int64_t id;
	size_t parent;			     /* its index + 1; 0: none */
	const struct tm_loaded_frame *frame; /* NULL: the empty traceback */
	uint32_t depth, total_nframe;
	enum tm_cut cut;
	const struct tm_named_frame **frames; /* the traceback that ends here, once it was asked for; owned */
	uint32_t frame_count;
};

struct tm_report_tables {
	struct tm_vector(char *) strings; /* owned; everything else points to them */
	struct tm_vector(struct tm_stored_module) modules;
	struct tm_vector(struct tm_stored_thread) threads;
	struct tm_vector(struct tm_loaded_frame) frames;
	struct tm_vector(struct tm_loaded_node) nodes;
	size_t expanded; /* frames of all nodes' tracebacks */
};

/* All zero is valid for deinit. */
struct tm_error *tm_report_tables_load(struct tm_report_tables *tables, const struct tm_database *database,
				       const struct tm_skip_rules *skip);
void tm_report_tables_deinit(struct tm_report_tables *tables);

/* The node of that id, with its traceback in `frames`: inlined calls expanded, most recent first. is_first:
   this one was not asked for before. */
struct tm_error *tm_report_tables_traceback(struct tm_report_tables *tables,
					    const struct tm_database *database, int64_t id,
					    const struct tm_loaded_node **out, bool *is_first);

/* NULL: unknown. */
const char *tm_report_tables_thread_name(const struct tm_report_tables *tables, int64_t tid);

/* A copy that lives as long as the tables; NULL: out of memory. */
const char *tm_report_tables_string(struct tm_report_tables *tables, const char *text);

/* TM_ERROR_BAD_FORMAT: "PATH is damaged: WHAT". */
struct tm_error *tm_report_damaged(const struct tm_database *database, const char *what);

#endif
