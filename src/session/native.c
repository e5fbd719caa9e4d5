/*
 * The native domain where its pads record: the recorder put in place, the rows that it walks by, and the
 * stacks that it records, each as what has changed since the record before in its ring.
 */
#include "session/session_internal.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "model/call_tree.h"
#include "recorder/row_table.h"

#define STACK_GAP                                                                                            \
	(1u << 20) /* below the main thread's stack the kernel keeps so many bytes free (stack_guard_gap) */

/* A thread's stack as its last record with frames had it: nodes of the call tree, the outermost first. And by
   number the stacks that it remembers: the innermost nodes. */
struct stack {
	struct tm_vector(uint32_t) nodes;
	uint32_t *remembered; /* NULL: there are none yet */
	pid_t tid;
};

struct tm_native {
	struct tm_call_tree *tree;
	/* By node of the tree: frames of its stack that only the frame pointer led to. */
	struct tm_vector(uint32_t) by_fp;
	bool has_by_fp;
	struct stack stacks[TM_RINGS];
	/* Of the record that is being taken. */
	uint32_t node;
	bool is_walked;	    /* its stack is session->walk, */
	size_t first_frame; /* from this frame on */
	bool loader_watched;
	struct {
		uint64_t by_number, by_frames, looked_at;
	} told; /* stacks of calls */
};

static struct tm_row_table *rows_of(const struct tm_session *session)
{
	return tm_recording_rows(session->recording);
}

/* ---- putting it in place ---- */

static struct tm_error *create(struct tm_session *session)
{
	struct tm_native *native = calloc(1, sizeof(*native));
	struct tm_error *err;

	if (!native)
		return tm_error_out_of_memory();
	err = tm_call_tree_create(tm_tracer_tracebacks(session->tracer), tm_session_native_nframe(session),
				  &native->tree);
	if (err)
		free(native);
	else
		session->native = native;
	return err;
}

/* A signal handler may have interrupted the recorder: walks pass its frames. */
static struct tm_error *add_cfi(struct tm_session *session)
{
	uint64_t start, end;
	size_t size;
	const uint8_t *elf = tm_recording_elf(session->recording, &size);

	tm_recording_code(session->recording, &start, &end);
	return tm_cfi_add_image(session->cfi, elf, size, start, end - start);
}

static struct tm_error *install(struct tm_session *session)
{
	const struct tm_recorder_python no_interpreter = {0};
	struct tm_error *err = create(session);

	if (err)
		return err;
	err = tm_records_install(session, &no_interpreter);
	if (!err)
		err = add_cfi(session);
	if (!err)
		err = tm_recording_sample(session->recording, session->config->sample);
	if (err) {
		tm_native_destroy(session->native);
		session->native = NULL;
	} else {
		tm_probe_use_recording(session->probe, session->recording, session->config->sample != 0);
	}
	return err;
}

bool tm_native_may_record(const struct tm_session *session)
{
	return (session->traced == TM_SESSION_NATIVE || session->traced == TM_SESSION_RECOGNISE) &&
	       !session->native_refused && session->config->probe != TM_SESSION_PROBE_BREAKPOINT &&
	       !session->within;
}

/* Is there nothing else that would do? Breakpoints draw no samples. */
static bool wants_pads(const struct tm_session *session)
{
	return session->config->probe == TM_SESSION_PROBE_PAD || session->config->sample;
}

struct tm_error *tm_native_prepare(struct tm_session *session)
{
	_cleanup_error_ struct tm_error *reason = NULL;
	_cleanup_free_ char *text = NULL;
	struct tm_error *err;

	if (!tm_native_may_record(session) || session->traced != TM_SESSION_NATIVE || session->native)
		return NULL;
	err = install(session);
	if (!err || wants_pads(session) || err->code == TM_ERROR_NO_PROCESS || err->code == TM_ERROR_TIMEOUT)
		return err;
	session->native_refused = true;
	reason = err;
	if (asprintf(&text, "every call stops, which is slow: %s", reason->message) >= 0)
		tm_session_warn(session, text);
	return NULL;
}

/* Not a single function could be patched: without a recorder nothing is polled. */
static struct tm_error *give_up(struct tm_session *session)
{
	struct tm_error *err;

	if (wants_pads(session))
		return tm_error_create(
			TM_ERROR_UNSUPPORTED,
			"no allocator function of process %d can have a pad that records (-v says why)",
			session->info.pid);
	session->native_refused = true;
	err = tm_records_disable(session);
	tm_native_reset(session);
	return err;
}

struct tm_error *tm_native_enable(struct tm_session *session)
{
	if (!session->native)
		return NULL;
	if (!tm_probe_recorded_count(session->probe) && tm_probe_function_count(session->probe))
		return give_up(session);
	return tm_recording_enable(session->recording);
}

static void log_told(const struct tm_native *native)
{
	uint64_t by_number = native->told.by_number, by_frames = native->told.by_frames,
		 looked_at = native->told.looked_at, all = by_number + by_frames + looked_at;

	if (all)
		tm_log_info("stacks of recorded calls: %" PRIu64 " (%.1f %%) told by number, %" PRIu64
			    " by frames, %" PRIu64 " looked at",
			    by_number, 100.0 * (double)by_number / (double)all, by_frames, looked_at);
}

void tm_native_destroy(struct tm_native *native)
{
	if (!native)
		return;
	log_told(native);
	tm_call_tree_destroy(native->tree);
	tm_vector_deinit(&native->by_fp);
	for (unsigned i = 0; i < TM_RINGS; i++) {
		tm_vector_deinit(&native->stacks[i].nodes);
		free(native->stacks[i].remembered);
	}
	free(native);
}

void tm_native_reset(struct tm_session *session)
{
	if (!session->native)
		return;
	tm_cfi_forget_code(session->cfi);
	tm_probe_use_recording(session->probe, NULL, false);
	tm_records_forget(session);
	tm_native_destroy(session->native);
	session->native = NULL;
}

/* What a pc there was is not what it is now. */
static void forget_stacks(struct tm_session *session)
{
	tm_rows_new_generation(rows_of(session));
	tm_call_tree_forget_pcs(session->native->tree);
}

void tm_native_loaded(struct tm_session *session, uint64_t start, uint64_t end)
{
	if (session->native && tm_rows_forget(rows_of(session), start, end)) /* a JIT's code was there */
		forget_stacks(session);
}

void tm_native_unloaded(struct tm_session *session, uint64_t start, uint64_t end)
{
	if (!session->native)
		return;
	tm_rows_forget(rows_of(session), start, end);
	forget_stacks(session);
}

/* ---- looking at a stack whose thread waits ---- */

/* The thread's own stack, as far as that can be told: the main thread's, or one with the thread's control
 * block at its upper end (glibc's and musl's). On any other stack the tracer walks. */
static bool find_bounds(const struct tm_session *session, uint64_t sp, uint64_t thread_pointer, uint64_t *low,
			uint64_t *high)
{
	_cleanup_(tm_mappings_deinit) struct tm_mappings mappings = {0};
	_cleanup_error_ struct tm_error *err = tm_target_mappings(session->target, &mappings);
	const struct tm_mapping *mapping = err ? NULL : tm_mappings_find(&mappings, sp);

	if (!mapping || !mapping->writable)
		return false;
	*low = mapping->start;
	*high = mapping->end;
	if (strcmp(mapping->path, "[stack]") == 0) {
		*low -= STACK_GAP;
		return true;
	}
	if (thread_pointer < sp || thread_pointer >= mapping->end)
		return false;
	*high = thread_pointer & ~UINT64_C(7);
	return true;
}

static void check_bounds(struct tm_session *session, unsigned ring, uint64_t sp)
{
	struct tm_ring_head *head = tm_recording_ring(session->recording, ring);
	uint64_t low, high;

	if (sp - 8 >= head->stack_low && sp <= head->stack_high)
		return;
	if (!find_bounds(session, sp, head->thread_pointer, &low, &high))
		return;
	__atomic_store_n(&head->stack_high, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&head->stack_low, low, __ATOMIC_RELEASE);
	__atomic_store_n(&head->stack_high, high, __ATOMIC_RELEASE);
}

/* DWARF numbers: psABI x86-64, figure 3.36. */
static const uint8_t register_numbers[TM_RECORD_REGISTERS] = {
	[TM_RECORD_PC] = 16,  [TM_RECORD_SP] = 7,   [TM_RECORD_RBP] = 6,  [TM_RECORD_RBX] = 3,
	[TM_RECORD_R12] = 12, [TM_RECORD_R13] = 13, [TM_RECORD_R14] = 14, [TM_RECORD_R15] = 15,
};

/* Frames of the recorder are nobody's. */
static void drop_own_frames(struct tm_session *session)
{
	struct tm_walk *walk = &session->walk;
	uint64_t start, end;
	size_t kept = 0;

	tm_recording_code(session->recording, &start, &end);
	for (size_t i = 0; i < walk->count; i++)
		if (walk->frames[i].pc - start >= end - start)
			walk->frames[kept++] = walk->frames[i];
	walk->count = kept;
}

/* Frame 0 stands for the allocator function, at its entry. */
static void walk_recorded(struct tm_session *session, const struct tm_record_native *record)
{
	struct tm_memory memory = tm_target_memory(session->target);
	struct tm_capture capture = {.memory = &memory};

	for (unsigned i = 0; i < TM_RECORD_REGISTERS; i++)
		capture.regs.value[register_numbers[i]] = record->words[i];
	capture.regs.value[session->target->arch->sp] -= sizeof(uint64_t);
	capture.start = capture.regs.value[session->target->arch->sp];
	tm_unwind(session->cfi, session->target->arch, session->target->pac_mask, &capture, true,
		  TM_NFRAME_MAX, &session->walk);
	drop_own_frames(session);
}

/* ---- rows ---- */

static bool has_step(const struct tm_session *session, const struct tm_row *row)
{
	const struct tm_arch *arch = session->target->arch;

	return row->simple && !row->is_signal && row->return_offset == -8 &&
	       (row->cfa_register == arch->sp || row->cfa_register == arch->fp) &&
	       abs(row->cfa_offset) < TM_ROW_OFFSET_MAX &&
	       (row->fp_offset == TM_FP_SAME || abs(row->fp_offset) < TM_ROW_OFFSET_MAX);
}

_Static_assert(TM_ROW_RECORD_MAX == TM_UNWIND_RECORD_MAX, "both take the same for a frame record");

/* Code without CFI, of a JIT for example: its frame is what step_by_frame_pointer of unwind.c makes of it. */
static uint64_t frame_pointer_rule(uint64_t flags)
{
	return tm_row_rule(TM_ROW_STEP, flags | TM_ROW_CFA_FROM_FP | TM_ROW_FP_SAVED | TM_ROW_BY_FP, 16, -16);
}

static uint64_t make_rule(const struct tm_session *session, uint64_t lookup)
{
	const struct tm_row *row = tm_cfi_find(session->cfi, lookup).row;
	uint64_t flags = tm_probe_is_in_call(session->probe, lookup) ? TM_ROW_IN_CALL : 0;
	bool saved;

	if (row && row->outermost)
		return tm_row_rule(TM_ROW_OUTERMOST, flags, 0, 0);
	if (!row && !tm_pads_contain(session->pads, lookup))
		return frame_pointer_rule(flags);
	if (!row || !has_step(session, row))
		return tm_row_rule(TM_ROW_LOOK, flags, 0, 0);
	saved = row->fp_offset != TM_FP_SAME;
	flags |= saved ? TM_ROW_FP_SAVED : 0;
	flags |= row->cfa_register == session->target->arch->fp ? TM_ROW_CFA_FROM_FP : 0;
	return tm_row_rule(TM_ROW_STEP, flags, row->cfa_offset, saved ? row->fp_offset : 0);
}

/* Rows for the callers that were walked; under a signal frame a pc is no return address. */
static struct tm_error *publish_rows(struct tm_session *session)
{
	const struct tm_walk *walk = &session->walk;

	for (size_t i = 1; i < walk->count; i++)
		if (walk->frames[i].lookup == walk->frames[i].pc - 1 &&
		    !tm_row_get(rows_of(session), walk->frames[i].pc) &&
		    !tm_row_put(rows_of(session), walk->frames[i].pc,
				make_rule(session, walk->frames[i].lookup)))
			return tm_error_out_of_memory();
	return NULL;
}

/* ---- what a walked stack says of its call ---- */

/* The call of operator new whose frame this is; NULL: it is another function's. Of a thread that waits. */
static const struct tm_recorder_call *
find_new(struct tm_session *session, const struct tm_recorder_stack *stack, const struct tm_walk_frame *frame)
{
	uint64_t present;

	for (size_t i = 0; i < stack->new_count && i < TM_ARRAY_SIZE(stack->news); i++) {
		struct tm_error *err;

		if (stack->news[i].cfa != frame->cfa)
			continue;
		err = tm_target_read(session->target, frame->cfa - sizeof(present), &present,
				     sizeof(present));
		if (!err && present == stack->news[i].return_address)
			return &stack->news[i];
		tm_error_destroy(err);
	}
	return NULL;
}

/* As the recorder does it: passes operator new, and looks for other calls of an allocator up to a signal
 * frame. *record becomes operator new's. */
static bool is_inner(struct tm_session *session, const struct tm_recorder_stack *stack,
		     struct tm_record_native *record)
{
	const struct tm_walk *walk = &session->walk;
	const struct tm_recorder_call *call;
	size_t i = 1;

	for (; i < walk->count && (call = find_new(session, stack, &walk->frames[i])) && !call->told; i++) {
		record->size = call->value;
		record->old = walk->frames[i].pc;
	}
	session->native->first_frame = i;
	for (; i < walk->count && !walk->frames[i].is_signal; i++)
		if (tm_probe_is_in_call(session->probe, walk->frames[i].lookup) ||
		    find_new(session, stack, &walk->frames[i]))
			return true;
	return walk->in_call;
}

static struct tm_error *take_walked(struct tm_session *session, unsigned ring, const struct tm_thread *thread,
				    const struct tm_record_native *recorded)
{
	struct tm_record_native record = *recorded;
	struct tm_recorder_stack stack = {0};
	struct tm_error *err;
	bool inner;

	check_bounds(session, ring, recorded->words[TM_RECORD_SP]);
	walk_recorded(session, recorded);
	err = publish_rows(session);
	if (err || record.header.kind == TM_RECORD_NATIVE_STACK)
		return err;
	session->fp_frames += session->walk.fp_frames;
	session->native->told.looked_at++;
	tm_recording_read_stack(session->recording, ring, &stack);
	inner = is_inner(session, &stack, &record);
	session->native->is_walked = true;
	return tm_probe_record(session->probe, ring, thread, &record.header, inner);
}

/* ---- what the recorder has walked itself ---- */

/* Nodes are numbered as they come; the root is the first. */
static bool note_by_fp(struct tm_native *native, uint32_t parent, uint32_t node, bool is_by_fp)
{
	while (native->by_fp.count <= node)
		if (!tm_vector_push(&native->by_fp, 0))
			return false;
	native->by_fp.items[node] = native->by_fp.items[parent] + is_by_fp;
	native->has_by_fp = native->has_by_fp || is_by_fp;
	return true;
}

/* A frame that is new below its caller. */
static struct tm_error *add_node(struct tm_session *session, uint32_t parent, uint64_t pc, uint32_t *node)
{
	struct tm_cfi_hit hit = tm_cfi_find(session->cfi, pc - 1);
	const struct tm_walk_frame walked = {.pc = pc, .lookup = pc - 1, .module = hit.module};
	uint32_t frame = tm_tracebacks_frame(tm_tracer_tracebacks(session->tracer), tm_stacks_frame(&walked));

	*node = frame == UINT32_MAX ? UINT32_MAX : tm_call_tree_add(session->native->tree, parent, pc, frame);
	/* An outermost frame leads nowhere. */
	return *node == UINT32_MAX || !note_by_fp(session->native, parent, *node,
						  !hit.row && parent != TM_CALL_TREE_ROOT)
		       ? tm_error_out_of_memory()
		       : NULL;
}

/* The node is the stack's that has this number from now on. */
static struct tm_error *remember(struct stack *stack, uint32_t number, uint32_t node)
{
	if (number > TM_REMEMBERED)
		return NULL; /* a ring may hold anything */
	if (!stack->remembered)
		stack->remembered = calloc(TM_REMEMBERED + 1, sizeof(*stack->remembered));
	if (!stack->remembered)
		return tm_error_out_of_memory();
	stack->remembered[number] = node;
	return NULL;
}

static uint32_t recall(const struct stack *stack, uint32_t number)
{
	return stack->remembered && number <= TM_REMEMBERED ? stack->remembered[number] : TM_CALL_TREE_ROOT;
}

/* The ring's stack as of this record. A ring may hold anything: what it says was kept need not be there. */
static struct tm_error *follow_stack(struct tm_session *session, unsigned ring,
				     const struct tm_record_native *record)
{
	struct tm_native *native = session->native;
	struct stack *stack = &native->stacks[ring];
	uint32_t node = TM_CALL_TREE_ROOT;
	struct tm_error *err = NULL;

	if (record->kept < stack->nodes.count)
		stack->nodes.count = record->kept;
	if (stack->nodes.count)
		node = stack->nodes.items[stack->nodes.count - 1];
	if (!tm_vector_reserve(&stack->nodes, stack->nodes.count + record->fresh))
		return tm_error_out_of_memory();
	for (unsigned i = record->fresh; !err && i-- > 0;) {
		uint64_t pc = record->words[i];
		uint32_t found = tm_call_tree_find(native->tree, node, pc);

		if (__builtin_expect(found == UINT32_MAX, 0))
			err = add_node(session, node, pc, &found);
		node = found;
		stack->nodes.items[stack->nodes.count++] = node;
	}
	native->node = node;
	native->is_walked = false;
	return err || !record->number ? err : remember(stack, record->number, node);
}

static bool is_remembered(const struct tm_record_header *record)
{
	return record->kind == TM_RECORD_NATIVE_REMEMBERED ||
	       record->kind == TM_RECORD_NATIVE_RESIZE_REMEMBERED;
}

static struct tm_error *take_remembered(struct tm_session *session, unsigned ring,
					const struct tm_thread *thread,
					const struct tm_record_remembered *record)
{
	bool resizes = record->header.kind == TM_RECORD_NATIVE_RESIZE_REMEMBERED;
	const struct tm_record_native same = {
		.header = {.kind = resizes ? TM_RECORD_NATIVE_RESIZE_END : TM_RECORD_NATIVE_ALLOCATE},
		.block = record->block,
		.size = record->size,
		.old = resizes ? record->old : 0};
	struct tm_native *native = session->native;

	native->told.by_number++;
	native->node = recall(&native->stacks[ring], record->number);
	native->is_walked = false;
	if (native->has_by_fp)
		session->fp_frames += native->by_fp.items[native->node];
	return tm_probe_record(session->probe, ring, thread, &same.header, false);
}

static bool has_stack(const struct tm_record_header *record)
{
	switch (record->kind) {
	case TM_RECORD_NATIVE_ALLOCATE:
	case TM_RECORD_NATIVE_RESIZE_END:
	case TM_RECORD_NATIVE_FAIL:
	case TM_RECORD_NATIVE_FRAMES:
	case TM_RECORD_NATIVE_STACK:
		return true;
	}
	return false;
}

/* And tells of a call, not of its stack alone. */
static bool is_call(const struct tm_record_header *record)
{
	return record->kind != TM_RECORD_NATIVE_FRAMES && record->kind != TM_RECORD_NATIVE_STACK;
}

/* Another thread has the ring; what it keeps of the stack may be the same, where it has the other's memory
   for a stack (C libraries give that away again). */
static struct tm_error *change_thread(struct tm_session *session, unsigned ring,
				      const struct tm_thread *thread)
{
	struct stack *stack = &session->native->stacks[ring];
	const struct tm_thread before = {.tid = stack->tid};

	stack->tid = thread->tid;
	return tm_probe_ring_gone(session->probe, ring, &before);
}

struct tm_error *tm_native_record(struct tm_session *session, unsigned ring, const struct tm_thread *thread,
				  const struct tm_record_header *record)
{
	const struct tm_record_native *native = (const struct tm_record_native *)record;
	struct tm_error *err = session->native->stacks[ring].tid == thread->tid
				       ? NULL
				       : change_thread(session, ring, thread);

	if (!err && is_remembered(record))
		return take_remembered(session, ring, thread, (const struct tm_record_remembered *)record);
	if (!err && has_stack(record)) {
		if (__builtin_expect(record->flags & TM_RECORD_NO_FRAMES, 0))
			return take_walked(session, ring, thread, native);
		err = follow_stack(session, ring, native);
		session->native->told.by_frames += is_call(record);
		if (!err && session->native->has_by_fp && is_call(record))
			session->fp_frames += session->native->by_fp.items[session->native->node];
	}
	return err ? err : tm_probe_record(session->probe, ring, thread, record, false);
}

struct tm_error *tm_native_traceback(struct tm_session *session, uint32_t *traceback)
{
	struct tm_native *native = session->native;

	if (native->is_walked)
		return tm_stacks_intern(session, native->first_frame, traceback);
	*traceback = tm_call_tree_traceback(native->tree, native->node);
	return *traceback == UINT32_MAX ? tm_error_out_of_memory() : NULL;
}

/* ---- the dynamic linker ---- */

bool tm_native_watches_loader(const struct tm_session *session)
{
	return session->native && session->native->loader_watched;
}

struct tm_error *tm_native_watch_loader(struct tm_session *session, uint64_t address)
{
	struct tm_error *err = tm_probe_record_loader(session->probe, address);

	session->native->loader_watched = !err;
	return err;
}
