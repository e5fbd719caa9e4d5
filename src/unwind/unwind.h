/*
 * The walk: from registers and captured stack bytes to the list of pcs, by cached CFI rows. The stack is read
 * in one piece before (the capture); the walk asks for more only if it needs it. Stack layouts, signal
 * frames, PLT stubs and the vdso need nothing special beyond their rows. Where code has none, the frame
 * pointer is followed if it is believable.
 *
 * The walk stops when the stack pointer does not grow, except where a signal frame switches stacks. Of the
 * innermost frame (and of one that a signal interrupted) it may stay equal where calls leave the return
 * address in a register.
 */
#ifndef TM_UNWIND_UNWIND_H
#define TM_UNWIND_UNWIND_H

#include "debuginfo/cfi.h"
#include "model/traceback.h"
#include "target/capture.h"
#include "target/patch.h"

/* How far a frame record may lie above its frame's stack pointer, in bytes. */
#define TM_UNWIND_RECORD_MAX (UINT64_C(1) << 20)

struct tm_walk_frame {
	uint64_t pc;	 /* as executed: the return address for a caller */
	uint64_t lookup; /* the pc to look up: pc - 1 for a caller, pc for frame 0 and under a signal frame */
	uint64_t cfa;	 /* of this frame; 0 if it could not be told */
	const struct tm_module *module; /* NULL: none */
	bool is_signal;			/* this frame is a signal trampoline */
};

struct tm_window_pages;

struct tm_walk {
	struct tm_walk_frame *frames; /* most recent first; storage is the walk's and grows */
	size_t count, capacity;
	enum tm_cut cut;	/* why it ended; TM_CUT_NONE: at the outermost frame */
	uint64_t lowest_unread; /* first stack byte behind the window that was needed (0: none): widens the
				   next capture */
	size_t fp_frames;	/* frames passed by the frame pointer for want of CFI */
	struct tm_window_pages *pages; /* storage for stack bytes outside the window; the walk's */
	bool in_call; /* a frame was passed that is a call-through pad's alone, and no signal frame before it:
			 the walk began inside a call of a patched function */
	/* Set by the caller, NULL if there is none: what a pc in code of ours stands for (a pad; see
	   tm_patches_pad_state). */
	bool (*pad_state)(void *context, uint64_t pc, bool is_return_address, struct tm_pad_state *state);
	void *pad_state_context;
};

/* A walk that is all zero is ready for use, and used again and again. Walks to the outermost frame, at most
   `limit` frames (then cut is TM_CUT_LIMIT). If `at_entry`, regs stand at the first instruction of a
   function: frame 0 needs no CFI. Out of memory ends the walk with TM_CUT_MEMORY. */
void tm_unwind(struct tm_cfi *cfi, const struct tm_arch *arch, uint64_t pac_mask,
	       const struct tm_capture *capture, bool at_entry, size_t limit, struct tm_walk *walk);
void tm_walk_deinit(struct tm_walk *walk);

#endif
