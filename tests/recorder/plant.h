/*
 * A recorder in this process: its memory file is mapped twice, as the target and as the tracer see it, and
 * its threads have interpreter states that the tests make up. The code is the recorder's as compiled into the
 * test, or the flat image that a target would be given. One plant at a time.
 *
 * What goes wrong in here ends the process with a message: it is used with and without criterion.
 */
#ifndef TM_TESTS_PLANT_H
#define TM_TESTS_PLANT_H

#include <stdbool.h>
#include <stdint.h>

#include "recorder/native.h"
#include "recorder/ring_reader.h"

enum plant_code { PLANT_COMPILED, PLANT_IMAGE };

struct plant {
	struct tm_control *control;
	struct tm_shared *shared; /* the tracer's mapping */
	uint8_t *target;	  /* the target's */
	uint8_t *image;		  /* PLANT_IMAGE: code and control */
	struct tm_ring_reader *reader;
	void (*enter)(uint64_t block, uint64_t slot);
	uint64_t (*leave)(uint64_t block, uint64_t size, uint64_t old, uint64_t slot);
	void (*reference)(uint64_t object);
	uint64_t native[TM_ENTRY_COUNT]; /* addresses of the native entries: assembly, for pads
					    (arch/record_pad.h) */
};

/* Slots: table * 4 + function. */
enum {
	PLANT_RAW_MALLOC = 0,
	PLANT_RAW_REALLOC = 2,
	PLANT_RAW_FREE = 3,
	PLANT_MALLOC = 4,
	PLANT_REALLOC = 6,
	PLANT_FREE = 7
};

#define need(condition) plant_need(condition, #condition, __FILE__, __LINE__)
void plant_need(bool condition, const char *text, const char *file, int line);

/* A plant that records; patience is 5 s, and threads find their states by a thread-local variable
 * (TM_STATE_THREAD). */
void plant_open(struct plant *plant, enum plant_code code);
void plant_close(struct plant *plant);

uint64_t plant_ticks(unsigned milliseconds); /* of the time stamp counter, roughly */
uint64_t plant_thread_pointer(void);
struct tm_recorder_thread *
plant_thread(const struct plant *plant); /* the calling thread's entry; NULL: none */
struct tm_ring_head *plant_ring(const struct plant *plant, unsigned ring);

/* A frame of the made-up interpreter: of 3.10, with an index as its instruction. */
struct plant_frame {
	uint64_t back, code, trace;
	int32_t instruction, line;
};

/* A code object, with what it is told by. */
struct plant_text {
	uint64_t length;
	uint32_t state;
	char text[12];
};

struct plant_bytes {
	uint64_t size;
	char bytes[8];
};

struct plant_code_object {
	const struct plant_text *filename, *name;
	const struct plant_bytes *lines;
	uint64_t unused;
};

/* `unusual`: of a form that the recorder does not know, so that the tracer has to look. */
void plant_make_code(struct plant_code_object *code, bool unusual);

/* The calling thread gets an interpreter state, whose newest frame is this (NULL: none).
   plant_leave_interpreter: it has none any more. */
void plant_enter_interpreter(const struct plant_frame *newest);
void plant_leave_interpreter(void);
uint64_t plant_state(void); /* address of the calling thread's state */

#endif
