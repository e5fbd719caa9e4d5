#include "python/layout.h"

#include <stddef.h>
#include <string.h>

#include "base/cleanup.h"

/* What rows have in common. */
#define ALL                                                                                                  \
	.thread_next = 8, .thread_interpreter = 16, .unicode_length = 16, .unicode_state = 32,               \
	.bytes_size = 16, .bytes_data = 32

#define UP_TO_3_10                                                                                           \
	ALL, .runtime_interpreters = 32, .interpreter_next = 0, .interpreter_threads = 8, .thread_id = 176,  \
	     .thread_frame = 24, .frame_code = 32, .frame_back = 24, .code_filename = 104, .code_name = 112, \
	     .code_firstlineno = 40, .code_lines = 120, .unicode_ascii = 48, .unicode_compact = 72

#define UP_TO_3_9                                                                                            \
	UP_TO_3_10, .lines = TM_LINES_LNOTAB, .frame_instruction = 104, .index_scale = 1,                    \
		    .frame_lineno = 108, .frame_trace = 80

#define FROM_3_11                                                                                            \
	ALL, .lines = TM_LINES_LOCATIONS, .frame_instruction = 56, .code_filename = 112, .code_name = 120,   \
	     .code_qualname = 128, .code_lines = 136

/* clang-format off */
static const struct tm_python_layout layouts[] = {
	{.minor = 8, UP_TO_3_9, .runtime_current = 1368},
	{.minor = 9, UP_TO_3_9, .runtime_current = 568},
	{.minor = 10, UP_TO_3_10, .runtime_current = 568, .lines = TM_LINES_LINETABLE,
	 .frame_instruction = 96, .index_scale = 2, .frame_lineno = 100,
	 .thread_cframe = 48, .cframe_previous = 8},
	{.minor = 11, FROM_3_11,
	 .runtime_interpreters = 40, .runtime_current = 576, .interpreter_next = 0, .interpreter_threads = 16,
	 .thread_id = 152, .thread_frame = 56, .has_cframe = true, .cframe_frame = 8,
	 .entries = TM_ENTRY_FLAG, .frame_entry = 68, .thread_cframe = 56, .cframe_previous = 16,
	 .frame_code = 32, .frame_back = 48, .frame_owner = 69,
	 .code_firstlineno = 72, .code_instructions = 184, .code_first_traceable = 168,
	 .unicode_ascii = 48, .unicode_compact = 72},
	{.minor = 12, FROM_3_11, .entries = TM_ENTRY_SHIM,
	 .runtime_interpreters = 40, .interpreter_next = 0, .interpreter_threads = 72,
	 .thread_id = 136, .thread_frame = 56, .has_cframe = true, .cframe_frame = 0,
	 .frame_code = 0, .frame_back = 8, .frame_owner = 70,
	 .code_firstlineno = 68, .code_instructions = 192, .code_first_traceable = 176,
	 .unicode_ascii = 40, .unicode_compact = 56},
	{.minor = 13, FROM_3_11, .entries = TM_ENTRY_SHIM,
	 .runtime_interpreters = 632, .interpreter_next = 7264, .interpreter_threads = 7344,
	 .thread_id = 152, .thread_frame = 72,
	 .frame_code = 0, .frame_back = 8, .frame_owner = 70,
	 .code_firstlineno = 68, .code_instructions = 200, .code_first_traceable = 184,
	 .unicode_ascii = 40, .unicode_compact = 56},
};
/* clang-format on */

const struct tm_python_layout *tm_python_layout_of(unsigned major, unsigned minor)
{
	for (size_t i = 0; major == 3 && i < TM_ARRAY_SIZE(layouts); i++)
		if (layouts[i].minor == minor)
			return &layouts[i];
	return NULL;
}

/* struct _Py_DebugOffsets of 3.13: char cookie[8]; uint64_t version, free_threaded; then groups of uint64_t.
 */
#define COOKIE		 "xdebugpy"
#define FREE_THREADED_AT 16u
#define OFFSETS_SIZE	 584u
#define CO_EXTRA_END	 16u /* from _co_firsttraceable to the code */

#define ANY		 INT16_MAX /* is added to an address only */
#define FIELD(name, end) offsetof(struct tm_python_layout, name), (end)-8

static const struct {
	uint16_t at;	/* in _Py_DebugOffsets */
	uint16_t field; /* in tm_python_layout */
	uint16_t highest;
} told_by_3_13[] = {
	{40, FIELD(runtime_interpreters, ANY)},
	{64, FIELD(interpreter_next, ANY)},
	{72, FIELD(interpreter_threads, ANY)},
	{168, FIELD(thread_next, ANY)},
	{176, FIELD(thread_interpreter, ANY)},
	{184, FIELD(thread_frame, TM_PYTHON_THREAD_SIZE)},
	{192, FIELD(thread_id, TM_PYTHON_THREAD_SIZE)},
	{232, FIELD(frame_back, TM_PYTHON_FRAME_SIZE)},
	{240, FIELD(frame_code, TM_PYTHON_FRAME_SIZE)},
	{248, FIELD(frame_instruction, TM_PYTHON_FRAME_SIZE)},
	{264, FIELD(frame_owner, TM_PYTHON_FRAME_SIZE + 7)},
	{280, FIELD(code_filename, TM_PYTHON_CODE_SIZE)},
	{288, FIELD(code_name, TM_PYTHON_CODE_SIZE)},
	{296, FIELD(code_qualname, TM_PYTHON_CODE_SIZE)},
	{304, FIELD(code_lines, TM_PYTHON_CODE_SIZE)},
	{312, FIELD(code_firstlineno, TM_PYTHON_CODE_SIZE)},
	{344, FIELD(code_instructions, TM_PYTHON_CODE_SIZE + 8)},
	{520, FIELD(bytes_size, ANY)},
	{528, FIELD(bytes_data, ANY)},
	{544, FIELD(unicode_state, ANY)},
	{552, FIELD(unicode_length, ANY)},
	{560, FIELD(unicode_ascii, ANY)},
};

static uint64_t word_at(const uint8_t *bytes, size_t offset)
{
	uint64_t word;

	memcpy(&word, bytes + offset, sizeof(word));
	return word;
}

struct tm_error *tm_python_layout_refine(struct tm_python_layout *layout, const uint8_t *offsets, size_t size)
{
	if (layout->minor < 13)
		return NULL;
	if (size < OFFSETS_SIZE || memcmp(offsets, COOKIE, 8) != 0)
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "its _PyRuntime does not begin with the debug offsets of 3.%u",
				       layout->minor);
	if (word_at(offsets, FREE_THREADED_AT))
		return tm_error_create(TM_ERROR_UNSUPPORTED,
				       "it is a free-threaded build, which has other allocators");
	for (size_t i = 0; i < TM_ARRAY_SIZE(told_by_3_13); i++) {
		uint64_t told = word_at(offsets, told_by_3_13[i].at);
		uint16_t value = (uint16_t)told;

		if (told > told_by_3_13[i].highest)
			return tm_error_create(TM_ERROR_UNSUPPORTED, "its debug offsets are damaged");
		memcpy((char *)layout + told_by_3_13[i].field, &value, sizeof(value));
	}
	if (layout->code_instructions < CO_EXTRA_END)
		return tm_error_create(TM_ERROR_UNSUPPORTED, "its debug offsets are damaged");
	/* 3.11 to 3.13: _co_firsttraceable is followed by the pointer co_extra, then by the code. */
	layout->code_first_traceable = (uint16_t)(layout->code_instructions - CO_EXTRA_END);
	return NULL;
}
