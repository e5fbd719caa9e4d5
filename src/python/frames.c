#include "python/frames.h"

#include <string.h>

#define INTERPRETERS_MAX 1024u
#define THREADS_MAX	 65536u
#define FRAMES_MAX	 1000000u /* recursion deeper than that is taken for a loop */

void tm_python_stacks_init(struct tm_python_stacks *stacks, const struct tm_interpreter *interpreter,
			   const struct tm_memory *memory, struct tm_places *places)
{
	memset(stacks, 0, sizeof(*stacks));
	stacks->interpreter = interpreter;
	stacks->memory = memory;
	stacks->codes.layout = &interpreter->layout;
	stacks->codes.places = places;
	stacks->current = tm_current_state_find(interpreter, memory);
}

void tm_python_stacks_deinit(struct tm_python_stacks *stacks)
{
	tm_codes_deinit(&stacks->codes);
	tm_map_deinit(&stacks->threads);
	tm_map_deinit(&stacks->states);
	tm_map_deinit(&stacks->variables);
	tm_vector_deinit(&stacks->frames);
	tm_vector_deinit(&stacks->entries);
	tm_vector_deinit(&stacks->places);
}

static void forget_threads(struct tm_python_stacks *stacks)
{
	tm_map_clear(&stacks->threads);
	tm_map_clear(&stacks->states);
	tm_map_clear(&stacks->variables);
}

/* A thread pointer is soon another thread's; what the freed state still says of it must not be believed. */
bool tm_python_stacks_freed(struct tm_python_stacks *stacks, uint64_t address)
{
	if (tm_map_get(&stacks->states, address))
		forget_threads(stacks);
	return tm_codes_forget(&stacks->codes, address);
}

static bool read_word(const struct tm_python_stacks *stacks, uint64_t address, uint64_t *word)
{
	struct tm_error *err = tm_memory_read(stacks->memory, address, word, sizeof(*word));
	bool read = !err;

	tm_error_destroy(err);
	return read;
}

/* ---- the thread's state ---- */

static struct tm_error *list_threads_of(struct tm_python_stacks *stacks, uint64_t owner)
{
	const struct tm_python_layout *layout = &stacks->interpreter->layout;
	uint64_t thread, id;

	if (!read_word(stacks, owner + layout->interpreter_threads, &thread))
		return NULL;
	for (unsigned i = 0; thread && i < THREADS_MAX; i++) {
		if (!read_word(stacks, thread + layout->thread_id, &id))
			return NULL;
		if (!tm_map_put(&stacks->threads, id, thread) || !tm_map_put(&stacks->states, thread, 1))
			return tm_error_out_of_memory();
		if (!read_word(stacks, thread + layout->thread_next, &thread))
			return NULL;
	}
	return NULL;
}

/* All threads of all interpreters. */
static struct tm_error *list_threads(struct tm_python_stacks *stacks)
{
	const struct tm_python_layout *layout = &stacks->interpreter->layout;
	struct tm_error *err = NULL;
	uint64_t owner;

	forget_threads(stacks);
	if (!read_word(stacks, stacks->interpreter->runtime + layout->runtime_interpreters, &owner))
		return NULL;
	for (unsigned i = 0; !err && owner && i < INTERPRETERS_MAX; i++) {
		err = list_threads_of(stacks, owner);
		if (!read_word(stacks, owner + layout->interpreter_next, &owner))
			break;
	}
	return err;
}

/* The bytes of a state, if it is that thread's. */
static bool read_state(const struct tm_python_stacks *stacks, uint64_t thread, uint64_t thread_pointer,
		       uint8_t state[TM_PYTHON_THREAD_SIZE])
{
	const struct tm_python_layout *layout = &stacks->interpreter->layout;
	uint16_t last = layout->thread_id > layout->thread_frame ? layout->thread_id : layout->thread_frame;
	struct tm_error *err = tm_memory_read(stacks->memory, thread, state, last + sizeof(uint64_t));

	if (!err)
		return tm_word_at(state, layout->thread_id) == thread_pointer;
	tm_error_destroy(err);
	return false;
}

static bool read_known(const struct tm_python_stacks *stacks, uint64_t thread_pointer,
		       uint8_t state[TM_PYTHON_THREAD_SIZE])
{
	const uint64_t *thread = tm_map_get(&stacks->threads, thread_pointer);

	return thread && read_state(stacks, *thread, thread_pointer, state);
}

/* The thread's variable that names its present state; 0: there is none, or nothing tells where. */
static uint64_t find_variable(const struct tm_python_stacks *stacks, uint64_t thread_pointer)
{
	uint64_t vector, length, block;

	switch (stacks->current.kind) {
	case TM_STATE_UNKNOWN:
	case TM_STATE_GLOBAL:
		return 0;
	case TM_STATE_THREAD:
		return thread_pointer + stacks->current.place;
	case TM_STATE_MODULE: /* glibc, nptl/dtv: pairs of words, the length before the first */
		if (!read_word(stacks, thread_pointer + 8, &vector) ||
		    !read_word(stacks, vector - 16, &length) || length < stacks->current.module ||
		    !read_word(stacks, vector + 16 * stacks->current.module, &block))
			return 0;
		return block && block != UINT64_MAX ? block + stacks->current.place
						    : 0; /* -1: not there yet */
	}
	return 0;
}

/*
 * A thread that works for several interpreters has a state in each. From 3.12 on tracemalloc asks for the
 * present one, a thread-local variable (_PyThreadState_GET); before, and for a thread that does not hold the
 * lock, for the thread's first (PyGILState_GetThisThreadState).
 */
static bool read_present(struct tm_python_stacks *stacks, uint64_t thread_pointer,
			 uint8_t state[TM_PYTHON_THREAD_SIZE])
{
	const uint64_t *known = tm_map_get(&stacks->variables, thread_pointer);
	uint64_t variable = known ? *known : find_variable(stacks, thread_pointer), thread;

	if (!known && variable)
		tm_map_put(&stacks->variables, thread_pointer, variable); /* if it fails: found again */
	return variable && read_word(stacks, variable, &thread) && thread &&
	       read_state(stacks, thread, thread_pointer, state);
}

static struct tm_error *read_first(struct tm_python_stacks *stacks, uint64_t thread_pointer,
				   uint8_t state[TM_PYTHON_THREAD_SIZE], bool *found)
{
	struct tm_error *err = NULL;

	*found = read_known(stacks, thread_pointer, state);
	if (!*found)
		err = list_threads(stacks);
	if (!*found && !err)
		*found = read_known(stacks, thread_pointer, state);
	return err;
}

/* The newest frame; 0: none. */
static struct tm_error *newest_frame(struct tm_python_stacks *stacks, uint64_t thread_pointer,
				     uint64_t *frame)
{
	const struct tm_python_layout *layout = &stacks->interpreter->layout;
	uint8_t state[TM_PYTHON_THREAD_SIZE];
	bool found = read_present(stacks, thread_pointer, state);
	struct tm_error *err = found ? NULL : read_first(stacks, thread_pointer, state, &found);

	*frame = stacks->next_cframe = 0;
	if (err || !found)
		return err;
	stacks->next_cframe =
		layout->thread_cframe != TM_PYTHON_ABSENT ? tm_word_at(state, layout->thread_cframe) : 0;
	*frame = tm_word_at(state, layout->thread_frame);
	if (*frame && layout->has_cframe && !read_word(stacks, *frame + layout->cframe_frame, frame))
		*frame = 0;
	return NULL;
}

/* ---- frames ---- */

/* Where the frame is in its code, in bytes. */
static int64_t offset_of(const struct tm_python_layout *layout, const uint8_t *frame,
			 const struct tm_code *code)
{
	if (layout->code_instructions == TM_PYTHON_ABSENT)
		return (int64_t)tm_int_at(frame, layout->frame_instruction) * layout->index_scale;
	return (int64_t)(tm_word_at(frame, layout->frame_instruction) - code->instructions);
}

/* A frame that has just been set up, and not begun: not shown by CPython (_PyFrame_IsIncomplete). */
static bool is_incomplete(const struct tm_python_layout *layout, const uint8_t *frame,
			  const struct tm_code *code)
{
	return layout->frame_owner != TM_PYTHON_ABSENT &&
	       frame[layout->frame_owner] != TM_OWNED_BY_GENERATOR &&
	       offset_of(layout, frame, code) < code->first_traceable;
}

/* Up to 3.10 a frame may know its line itself, while it is traced (sys.settrace): PyFrame_GetLineNumber. */
static bool own_line(const struct tm_python_layout *layout, const uint8_t *frame, uint32_t *line)
{
	int32_t own;

	if (layout->frame_lineno == TM_PYTHON_ABSENT)
		return false;
	own = tm_int_at(frame, layout->frame_lineno);
	if (layout->frame_trace != TM_PYTHON_ABSENT ? !tm_word_at(frame, layout->frame_trace) : !own)
		return false;
	*line = own < 0 ? 0 : (uint32_t)own;
	return true;
}

static bool is_shim(const struct tm_python_layout *layout, const uint8_t *frame)
{
	return layout->minor >= 12 && frame[layout->frame_owner] == TM_OWNED_BY_C_STACK;
}

static struct tm_error *take_frame(struct tm_python_stacks *stacks, const uint8_t *frame, uint32_t nframe)
{
	const struct tm_python_layout *layout = &stacks->interpreter->layout;
	struct tm_code *code;
	uint32_t line;

	if (is_shim(layout, frame))
		return NULL;
	code = tm_codes_get(&stacks->codes, stacks->memory, tm_word_at(frame, layout->frame_code));
	if (!code)
		return tm_error_out_of_memory();
	if (!code->place || is_incomplete(layout, frame, code))
		return NULL;
	if (stacks->with_places && !tm_vector_push(&stacks->places, code->place))
		return tm_error_out_of_memory();
	if (stacks->total < TM_NFRAME_MAX)
		stacks->total++;
	if (stacks->frames.count >= nframe)
		return NULL;
	if (!own_line(layout, frame, &line))
		line = tm_code_line(&stacks->codes, code, offset_of(layout, frame, code));
	return tm_vector_push(&stacks->frames, (struct tm_frame){line, code->place})
		       ? NULL
		       : tm_error_out_of_memory();
}

/* ---- calls of the evaluation function ---- */

static bool ends_entry(const struct tm_python_layout *layout, const uint8_t *frame)
{
	switch (layout->entries) {
	case TM_ENTRY_EACH:
		return true;
	case TM_ENTRY_FLAG:
		return frame[layout->frame_entry];
	case TM_ENTRY_SHIM:
		return is_shim(layout, frame);
	}
	return false;
}

/* The frame at `address` was looked at: is it the last one of a call? */
static struct tm_error *take_entry(struct tm_python_stacks *stacks, uint64_t address, const uint8_t *frame)
{
	const struct tm_python_layout *layout = &stacks->interpreter->layout;
	struct tm_python_entry entry = {.end = stacks->total};

	if (!stacks->with_entries || !ends_entry(layout, frame))
		return NULL;
	entry.local = layout->entries == TM_ENTRY_SHIM ? address : stacks->next_cframe;
	if (stacks->next_cframe &&
	    !read_word(stacks, stacks->next_cframe + layout->cframe_previous, &stacks->next_cframe))
		stacks->next_cframe = 0;
	return tm_vector_push(&stacks->entries, entry) ? NULL : tm_error_out_of_memory();
}

struct tm_error *tm_python_stacks_walk(struct tm_python_stacks *stacks, uint64_t thread_pointer,
				       uint32_t nframe)
{
	const struct tm_python_layout *layout = &stacks->interpreter->layout;
	bool in_chunks =
		layout->frame_owner != TM_PYTHON_ABSENT; /* from 3.11: pushed on a stack of their own */
	size_t size = in_chunks ? TM_PYTHON_FRAME_SIZE : TM_PYTHON_OLD_FRAME_SIZE;
	uint64_t address;
	struct tm_error *err = newest_frame(stacks, thread_pointer, &address);

	stacks->frames.count = stacks->entries.count = stacks->places.count = 0;
	stacks->total = 0;
	stacks->cut = TM_CUT_NONE;
	tm_memory_window_begin(&stacks->window, stacks->memory);
	for (unsigned i = 0; !err && address; i++) {
		const uint8_t *frame = tm_memory_window_get(&stacks->window, address, size, in_chunks);

		if (!frame || i >= FRAMES_MAX) {
			stacks->cut = frame ? TM_CUT_LOOP : TM_CUT_MEMORY;
			break;
		}
		err = take_frame(stacks, frame, nframe);
		if (!err)
			err = take_entry(stacks, address, frame);
		address = tm_word_at(frame, layout->frame_back);
	}
	if (!err && stacks->cut == TM_CUT_NONE && stacks->total > stacks->frames.count)
		stacks->cut = TM_CUT_LIMIT;
	return err;
}

/* ---- stacks that the recorder has read ---- */

static uint32_t line_of(struct tm_python_stacks *stacks, struct tm_code *code, uint64_t instruction)
{
	const struct tm_python_layout *layout = &stacks->interpreter->layout;
	int32_t own = (int32_t)instruction;

	if (layout->code_instructions != TM_PYTHON_ABSENT)
		return tm_code_line(&stacks->codes, code, (int64_t)(instruction - code->instructions));
	if (instruction & TM_RECORD_LINE)
		return own < 0 ? 0 : (uint32_t)own;
	return tm_code_line(&stacks->codes, code, (int64_t)own * layout->index_scale);
}

struct tm_error *tm_python_stacks_take(struct tm_python_stacks *stacks, const struct tm_record_block *record,
				       uint32_t nframe)
{
	stacks->frames.count = stacks->places.count = 0;
	stacks->total = record->frame_total;
	for (uint32_t i = 0; i < record->frame_count && (i < nframe || stacks->with_places); i++) {
		struct tm_code *code = tm_codes_get(&stacks->codes, stacks->memory, record->frames[i].code);
		struct tm_frame frame;

		if (!code ||
		    (stacks->with_places && code->place && !tm_vector_push(&stacks->places, code->place)))
			return tm_error_out_of_memory();
		if (i >= nframe)
			continue;
		frame = (struct tm_frame){line_of(stacks, code, record->frames[i].instruction), code->place};
		if (code->place && !tm_vector_push(&stacks->frames, frame))
			return tm_error_out_of_memory();
	}
	stacks->cut = stacks->total > stacks->frames.count ? TM_CUT_LIMIT : TM_CUT_NONE;
	return NULL;
}
