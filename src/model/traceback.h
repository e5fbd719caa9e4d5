/*
 * Frames and tracebacks, interned: equal ones are one number, so that an event carries 32 bits and a table of
 * statistics is an array. Knows nothing of processes, ELF files or names: a frame is (module number, offset
 * in the module), both opaque here. Nothing is ever removed or moved: memory grows with distinct tracebacks
 * only.
 *
 * One thread interns. Any thread may meanwhile ask for the counts, and read the frames and tracebacks below a
 * count that it has read (or that a snapshot carries).
 */
#ifndef TM_MODEL_TRACEBACK_H
#define TM_MODEL_TRACEBACK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

#define TM_NFRAME_MAX 65535u /* Modules/_tracemalloc.c: MAX_NFRAME */

/* Why a walk ended before the outermost frame. Stored with the traceback and counted in the report. */
enum tm_cut {
	TM_CUT_NONE,	/* reached the outermost frame */
	TM_CUT_LIMIT,	/* more frames than --nframe: total_nframe tells how many */
	TM_CUT_NO_CFI,	/* a region without CFI, and no believable frame pointer chain */
	TM_CUT_MEMORY,	/* the stack could not be read on */
	TM_CUT_LOOP,	/* the CFA did not grow */
	TM_CUT_BAD_CFI, /* a rule that does not parse or evaluate */
	TM_CUT_COUNT
};
const char *tm_cut_name(enum tm_cut cut); /* "limit", "no-cfi", ...; "" for NONE */

/* A bit of tm_frame.module: the frame is a part of the allocator that made the block (below the line of a
   Python program that asked for it), and owns no line. The same place without the bit is another frame. */
#define TM_FRAME_INNER 0x40000000u

struct tm_frame {
	uint64_t offset; /* the module's own address (ELF vaddr); a caller's is of its call: pc - 1 */
	uint32_t module; /* module number; 0 is "no module": offset is then an absolute address */
};

struct tm_traceback {
	uint32_t frame_count;
	uint32_t total_nframe; /* frames on the stack, before --nframe cut it; saturates at TM_NFRAME_MAX */
	enum tm_cut cut;
	uint32_t frames[]; /* frame numbers, most recent first */
};

struct tm_tracebacks; /* the table */

struct tm_error *tm_tracebacks_create(struct tm_tracebacks **out);
void tm_tracebacks_destroy(struct tm_tracebacks *tracebacks);

/* The number of a frame / a traceback, the same one for equal content. UINT32_MAX: out of memory.
   Traceback 0 exists from the start: it is empty. */
uint32_t tm_tracebacks_frame(struct tm_tracebacks *tracebacks, struct tm_frame frame);
uint32_t tm_tracebacks_intern(struct tm_tracebacks *tracebacks, const uint32_t *frames, uint32_t frame_count,
			      uint32_t total_nframe, enum tm_cut cut);

uint32_t tm_tracebacks_count(const struct tm_tracebacks *tracebacks);
uint32_t tm_tracebacks_frame_count(const struct tm_tracebacks *tracebacks);
struct tm_frame tm_tracebacks_get_frame(const struct tm_tracebacks *tracebacks, uint32_t frame);
/* Stays valid, at the same place, until destroy. */
const struct tm_traceback *tm_tracebacks_get(const struct tm_tracebacks *tracebacks, uint32_t traceback);

/* Bytes that the table holds. */
size_t tm_tracebacks_memory(const struct tm_tracebacks *tracebacks);

#endif
