/*
 * Jump patches: the first bytes of a function are replaced by a jump into a pad, which does what the tracer
 * wants and has the function's own beginning, relocated, to go on with. A function that is called passes the
 * pad without a stop, unless the pad has one.
 *
 * Several bytes cannot be replaced under a running thread, so all threads stand still for an insertion; one
 * whose pc is inside the bytes is moved to the same point of the relocated copy. A pc in hiding (in a signal
 * frame on some stack) cannot be moved: then the function is refused, as it is where the bytes in memory are
 * not the file's (a uprobe, another debugger, a hook). Removing needs nothing of the kind: no thread can
 * stand inside a jump, and those inside a pad run on there, for pads stay as they are (pad.h).
 *
 * Invariant: the memory at each address in the table holds the jump, and `shadow` is what was there.
 */
#ifndef TM_TARGET_PATCH_H
#define TM_TARGET_PATCH_H

#include "arch/call_pad.h"
#include "target/target.h"

struct tm_pads;
struct tm_patches;

/* Where the threads' stacks may hold a pc that a later return from a signal handler goes to. */
typedef void (*tm_visit_pc)(void *context, uint64_t pc);

/* All are borrowed and must outlive the patches. */
struct tm_patches_config {
	struct tm_target *target;
	struct tm_pads *pads;
	/* Gives the saved pcs of all signal frames on a stopped thread's stacks; false: not all of its stack
	   could be read as frames. */
	bool (*each_saved_pc)(void *context, struct tm_thread *thread, tm_visit_pc visit,
			      void *visit_context);
	void *context;
};

struct tm_patch_request {
	uint64_t address;     /* of the function's first instruction */
	const uint8_t *bytes; /* its body, as its module's file has it */
	size_t size;
	uint64_t lowest_target; /* of the body (struct tm_exits): no jump leads below it, but to the first
				   byte */
	/* Makes the pad that the jump is to lead to. The relocated beginning stands at `relocated` and goes
	   on behind the replaced bytes. */
	struct tm_error *(*make_pad)(void *context, uint64_t address, uint64_t relocated, uint64_t *pad);
	void *context;
};

struct tm_error *tm_patches_create(const struct tm_patches_config *config, struct tm_patches **out);
void tm_patches_destroy(struct tm_patches *patches); /* forgets; does not touch the target */

/* Looks at all stacks, which is what the insertions that follow rely on: no thread may run until the last of
 * them. TM_ERROR_UNSUPPORTED, naming the thread, if one does not stand still. */
struct tm_error *tm_patches_survey(struct tm_patches *patches);

/* Replaces the first bytes of a function. TM_ERROR_UNSUPPORTED, with the reason, where that is not safe or
 * not possible; the target is then as it was, but for a pad more. */
struct tm_error *tm_patch_insert(struct tm_patches *patches, const struct tm_patch_request *request);

/* Puts the beginning of a function back where a tracer that was killed has left a jump into a pad. `bytes`:
 * what its module's file has there, as many as a jump takes. Anything else is left as it is. All threads
 * stand still. */
struct tm_error *tm_patch_recover(struct tm_patches *patches, uint64_t address, const uint8_t *bytes);

/* Makes the call-through pad of call_pad.h for a patch, near it; *stop is where it may stop. */
struct tm_error *tm_call_pad_place(struct tm_patches *patches, uint64_t address, uint64_t relocated,
				   const uint8_t *arguments, size_t count, struct tm_call_pad *made,
				   uint64_t *pad);

bool tm_patch_at(const struct tm_patches *patches, uint64_t address); /* is that function patched? */
/* Does the address lie behind the first byte of a jump? No breakpoint may be inserted there. */
bool tm_patches_cover(const struct tm_patches *patches, uint64_t address);
size_t tm_patches_count(const struct tm_patches *patches);

/*
 * A thread with its pc in a pad of ours, or with a return address into one, as the program would be without
 * the pad: `original` is the pc that it stands for (0: a return address, whose frame is the pad's alone), and
 * the stack pointer is `depth` bytes higher. false: no such pad. Also of pads that an earlier trace left.
 */
struct tm_pad_state {
	uint64_t original, depth;
};
bool tm_patches_pad_state(struct tm_patches *patches, uint64_t pc, bool is_return_address,
			  struct tm_pad_state *state);

/* Code in [start, end) was unmapped: its patches are forgotten, nothing is written. */
void tm_patches_forget(struct tm_patches *patches, uint64_t start, uint64_t end);
void tm_patches_forget_all(struct tm_patches *patches); /* exec */

/* Restores the original bytes in a forked child's own copy of the memory. */
struct tm_error *tm_patches_scrub_child(struct tm_patches *patches, pid_t child);

/* Restores every byte and reads it back, with all threads stopped. Places that hold foreign bytes by now are
 * left and counted in *foreign. The table is empty afterwards. */
struct tm_error *tm_patches_remove_all(struct tm_patches *patches, size_t *foreign);

#endif
