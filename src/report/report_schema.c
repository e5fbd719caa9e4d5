#include "report/report_schema.h"

#include "base/cleanup.h"

/* One line of SQL is one line here. */
/* clang-format off */

static const char meta_sql[] =
	"CREATE TABLE meta ( -- facts about the whole trace\n"
	"	key TEXT PRIMARY KEY, -- pid, exe, command, arch, ended, probe, started, duration_ns, nframe, ...\n"
	"	value TEXT NOT NULL -- numbers in decimal; command, images: JSON arrays; skip: one glob a line\n"
	") STRICT, WITHOUT ROWID";

static const char module_sql[] =
	"CREATE TABLE module ( -- an executable, library or vdso that the target had mapped\n"
	"	id INTEGER PRIMARY KEY, -- 0: no module (code in anonymous memory; its offsets are addresses)\n"
	"	path TEXT NOT NULL, -- as the target's memory map names it\n"
	"	build_id TEXT, -- hexadecimal; NULL: it has none\n"
	"	bias INTEGER NOT NULL, -- run-time address minus frame.offset\n"
	"	is_main INTEGER NOT NULL, -- 1: the executable itself\n"
	"	deleted INTEGER NOT NULL, -- 1: its file had been deleted or replaced when it was found\n"
	"	problem TEXT -- why names may be missing, else NULL\n"
	") STRICT";

static const char frame_sql[] =
	"CREATE TABLE frame ( -- a place in the code; an inlined call is a row of its own\n"
	"	id INTEGER PRIMARY KEY,\n"
	"	module INTEGER NOT NULL REFERENCES module(id),\n"
	"	offset INTEGER NOT NULL, -- ELF virtual address; in a caller: inside its call instruction\n"
	"	function TEXT, -- demangled; NULL: no symbol covers it\n"
	"	filename TEXT NOT NULL, -- source file; without line information the module's path\n"
	"	lineno INTEGER NOT NULL, -- 0: unknown\n"
	"	source TEXT, -- text of that line, stripped; NULL: was not at hand\n"
	"	inlined_into INTEGER REFERENCES frame(id), -- NULL: this is a physical frame\n"
	"	skipped INTEGER NOT NULL -- not 0: owns nothing; 1: an allocator's wrapper (operator new, meta.skip), 2: inside the interpreter\n"
	") STRICT";

static const char traceback_sql[] =
	"CREATE TABLE traceback ( -- a tree: a row is the path from it to its root, most recent frame first\n"
	"	id INTEGER PRIMARY KEY,\n"
	"	parent INTEGER REFERENCES traceback(id), -- the caller's row; NULL: the oldest frame\n"
	"	frame INTEGER REFERENCES frame(id), -- the innermost of its inlined calls; NULL: no frames\n"
	"	depth INTEGER NOT NULL, -- physical frames from here to the root, this one included\n"
	"	total_nframe INTEGER NOT NULL, -- frames that were on the stack; more than depth if cut\n"
	"	cut TEXT NOT NULL -- why it ends before the outermost frame: limit, no-cfi, ...; else empty\n"
	") STRICT";

#define TOTALS_COLUMNS \
	"	current INTEGER NOT NULL, -- bytes in live blocks\n" \
	"	peak INTEGER NOT NULL, -- the most that current ever was\n" \
	"	blocks INTEGER NOT NULL, -- live blocks\n" \
	"	peak_blocks INTEGER NOT NULL, -- live blocks when the peak was reached\n" \
	"	allocations INTEGER NOT NULL, -- calls that returned a block\n" \
	"	allocated INTEGER NOT NULL, -- the bytes they asked for\n" \
	"	frees INTEGER NOT NULL, -- of known blocks\n" \
	"	unknown_frees INTEGER NOT NULL, -- of blocks from before the trace\n" \
	"	failed INTEGER NOT NULL" /* what follows it is the table's */

#define VARIANCE_COLUMNS \
	"	current_variance REAL NOT NULL, -- of current as an estimate, bytes^2; 0: not sampled (meta.sample)\n" \
	"	peak_variance REAL NOT NULL" /* so is this */

#define SNAPSHOT_TABLE(end_of_totals) \
	"CREATE TABLE snapshot ( -- the tracer's tables at one moment; totals: of the lowest domain\n" \
	"	id INTEGER PRIMARY KEY,\n" \
	"	name TEXT NOT NULL UNIQUE, -- end, peak, exec-1, or what the user gave\n" \
	"	time INTEGER NOT NULL, -- nanoseconds since the trace began\n" \
	TOTALS_COLUMNS end_of_totals \
	") STRICT"

static const char snapshot_sql[] = SNAPSHOT_TABLE(
	", -- calls that returned no block\n"
	VARIANCE_COLUMNS " -- of peak\n");

static const char snapshot_sql_1[] = SNAPSHOT_TABLE(" -- calls that returned no block\n");

#define SNAPSHOT_DOMAIN_TABLE(end_of_totals) \
	"CREATE TABLE snapshot_domain ( -- totals of every domain of a snapshot; they are never summed\n" \
	"	snapshot INTEGER NOT NULL REFERENCES snapshot(id),\n" \
	"	domain INTEGER NOT NULL, -- address space of an allocator, as in tracemalloc\n" \
	TOTALS_COLUMNS ", -- calls that returned no block\n" \
	end_of_totals \
	"	PRIMARY KEY (snapshot, domain)\n" \
	") STRICT, WITHOUT ROWID"

static const char snapshot_domain_sql[] = SNAPSHOT_DOMAIN_TABLE(VARIANCE_COLUMNS ", -- of peak\n");

static const char snapshot_domain_sql_1[] = SNAPSHOT_DOMAIN_TABLE("");

#define STATISTIC_TABLE(variance) \
	"CREATE TABLE statistic ( -- who held how much when the snapshot was taken\n" \
	"	snapshot INTEGER NOT NULL REFERENCES snapshot(id),\n" \
	"	domain INTEGER NOT NULL,\n" \
	"	tid INTEGER NOT NULL, -- the thread that allocated\n" \
	"	traceback INTEGER NOT NULL REFERENCES traceback(id),\n" \
	"	size INTEGER NOT NULL, -- bytes\n" \
	"	count INTEGER NOT NULL, -- blocks\n" \
	variance \
	"	PRIMARY KEY (snapshot, domain, tid, traceback)\n" \
	") STRICT, WITHOUT ROWID"

static const char statistic_sql[] = STATISTIC_TABLE(
	"	size_variance REAL NOT NULL, -- of size as an estimate, bytes^2; they add up; 0: not sampled\n");

static const char statistic_sql_1[] = STATISTIC_TABLE("");

static const char block_sql[] =
	"CREATE TABLE block ( -- every live block, for snapshots that keep them\n"
	"	snapshot INTEGER NOT NULL REFERENCES snapshot(id),\n"
	"	domain INTEGER NOT NULL,\n"
	"	address INTEGER NOT NULL, -- in the target\n"
	"	size INTEGER NOT NULL, -- bytes that were asked for\n"
	"	traceback INTEGER NOT NULL REFERENCES traceback(id),\n"
	"	tid INTEGER NOT NULL, -- the thread that allocated\n"
	"	time INTEGER NOT NULL -- of the allocation, nanoseconds since the trace began\n"
	") STRICT";

static const char timeline_sql[] =
	"CREATE TABLE timeline ( -- samples taken while the trace ran\n"
	"	time INTEGER PRIMARY KEY, -- nanoseconds since the trace began\n"
	"	current INTEGER NOT NULL, -- bytes in live blocks\n"
	"	blocks INTEGER NOT NULL, -- live blocks\n"
	"	rss INTEGER NOT NULL -- resident memory of the target in bytes; 0: unknown\n"
	") STRICT";

static const char thread_sql[] =
	"CREATE TABLE thread ( -- a thread of the target\n"
	"	tid INTEGER PRIMARY KEY,\n"
	"	name TEXT NOT NULL, -- its comm\n"
	"	first_seen INTEGER NOT NULL, -- nanoseconds since the trace began\n"
	"	last_seen INTEGER NOT NULL -- 0: alive at the end\n"
	") STRICT";

/* The bare column `frame` comes from the row that has the maximum (sqlite.org/lang_select.html, 2.5): a frame that is
   not skipped if the walk found one, else the walk's first. */
static const char owner_sql[] =
	"CREATE VIEW owner(traceback, frame) AS -- the most recent frame that is not skipped (the first if all are)\n"
	"WITH RECURSIVE walk(traceback, node, frame, step) AS (\n"
	"	SELECT id, id, frame, 0 FROM traceback\n"
	"	WHERE frame IS NOT NULL AND id IN (SELECT traceback FROM statistic)\n"
	"	UNION ALL\n"
	"	SELECT walk.traceback, iif(frame.inlined_into IS NULL, node.parent, node.id),\n"
	"		coalesce(frame.inlined_into, caller.frame), walk.step + 1\n"
	"	FROM walk JOIN frame ON frame.id = walk.frame AND frame.skipped\n"
	"		JOIN traceback AS node ON node.id = walk.node\n"
	"		LEFT JOIN traceback AS caller ON caller.id = node.parent\n"
	"	WHERE coalesce(frame.inlined_into, caller.frame) IS NOT NULL\n"
	")\n"
	"SELECT traceback, frame FROM (\n"
	"	SELECT walk.traceback, walk.frame, max(iif(frame.skipped, -walk.step, 1))\n"
	"	FROM walk JOIN frame ON frame.id = walk.frame GROUP BY walk.traceback\n"
	")";

static const char top_sql[] =
	"CREATE VIEW top AS -- which line held how much of a domain at the end, biggest first; no lines: by function\n"
	"SELECT sum(statistic.size) AS size, sum(statistic.count) AS count,\n"
	"	CAST(round(1.0 * sum(statistic.size) / sum(statistic.count)) AS INTEGER) AS average,\n"
	"	coalesce(frame.filename, '<unknown>') AS filename, coalesce(frame.lineno, 0) AS lineno,\n"
	"	min(frame.function) AS function, min(frame.source) AS source, statistic.domain AS domain\n"
	"FROM snapshot JOIN statistic ON statistic.snapshot = snapshot.id\n"
	"	LEFT JOIN owner ON owner.traceback = statistic.traceback\n"
	"	LEFT JOIN frame ON frame.id = owner.frame\n"
	"WHERE snapshot.name = 'end'\n"
	"GROUP BY statistic.domain, frame.filename, frame.lineno, iif(frame.lineno, NULL, frame.function)\n"
	"ORDER BY 1 DESC, 2 DESC, 4 DESC, 5 DESC, 6 DESC";

/* clang-format on */

const struct tm_schema_object tm_schema[] = {
	{"meta", true, meta_sql, NULL},
	{"module", true, module_sql, NULL},
	{"frame", true, frame_sql, NULL},
	{"traceback", true, traceback_sql, NULL},
	{"snapshot", true, snapshot_sql, snapshot_sql_1},
	{"snapshot_domain", true, snapshot_domain_sql, snapshot_domain_sql_1},
	{"statistic", true, statistic_sql, statistic_sql_1},
	{"block", true, block_sql, NULL},
	{"timeline", true, timeline_sql, NULL},
	{"thread", true, thread_sql, NULL},
	{"owner", false, owner_sql, NULL},
	{"top", false, top_sql, NULL},
};
const size_t tm_schema_count = TM_ARRAY_SIZE(tm_schema);
