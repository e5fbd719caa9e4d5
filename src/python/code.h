/*
 * Code objects, read once and kept while they live: their place (function and file) and their line table. A
 * code object is a block of the interpreter's own allocator, so its end is an event that the trace sees:
 * tm_codes_forget keeps the cache exact when another object comes to stand at the address.
 */
#ifndef TM_PYTHON_CODE_H
#define TM_PYTHON_CODE_H

#include "base/hash.h"
#include "base/memory.h"
#include "python/layout.h"
#include "python/places.h"
#include "recorder/shared.h"

#define TM_CODE_LINES 32 /* a power of two */

struct tm_code {
	uint32_t place; /* 0: the object could not be read */
	int first_line;
	uint64_t instructions;	 /* run-time address of the first; 0 up to 3.10 */
	int64_t first_traceable; /* bytes from there */
	uint8_t *lines;
	size_t lines_size;
	struct {
		int64_t offset; /* of an instruction whose line is known; -1: unused */
		uint32_t line;
	} known[TM_CODE_LINES];
};

struct tm_codes {
	const struct tm_python_layout *layout;
	struct tm_places *places;
	struct tm_map by_address; /* -> struct tm_code * */
};

void tm_codes_deinit(struct tm_codes *codes);

/* The code object at an address, read if it is not known; NULL: out of memory. Valid until it is forgotten.
 */
struct tm_code *tm_codes_get(struct tm_codes *codes, const struct tm_memory *memory, uint64_t address);

/* The same object, of which the recorder has made a copy: it is new at its address. false: out of memory. */
bool tm_codes_learn(struct tm_codes *codes, const struct tm_record_code *record);

/* How many bytes of a code object are looked at. */
size_t tm_code_object_size(const struct tm_python_layout *layout);

/* The block at `address` is given back: true if it was a code object. Costs a look into a table. */
bool tm_codes_forget(struct tm_codes *codes, uint64_t address);

/* The line of the instruction at `offset` bytes, 0 if it has none. */
uint32_t tm_code_line(const struct tm_codes *codes, struct tm_code *code, int64_t offset);

#endif
