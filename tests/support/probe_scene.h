/*
 * A stage for the breakpoint probe: a fake target (fake_target.h), real modules, and a handful of functions
 * of this program that bear allocators' names and have known shapes. A test lets threads walk through calls
 * of them; at each breakpoint they meet, what the session would do is done.
 */
#ifndef TESTS_PROBE_SCENE_H
#define TESTS_PROBE_SCENE_H

#include "debuginfo/module.h"
#include "probe/breakpoint_probe.h"
#include "support/fake_target.h"
#include "target/pad.h"

/* NAME is a function's first instruction, NAME_return its only return instruction. */
#define SCENE_FUNCTION(name) extern const char name[], name##_return[]

SCENE_FUNCTION(mi_malloc);	   /* leaves by its return only; mi_zalloc is the same address */
SCENE_FUNCTION(mi_calloc);	   /* the same shape */
SCENE_FUNCTION(mi_realloc);	   /* may jump to mi_malloc; a resize to 0 frees */
SCENE_FUNCTION(tc_realloc);	   /* leaves by its return only; a resize to 0 frees */
SCENE_FUNCTION(rallocx);	   /* the same, but a resize to 0 does not free */
SCENE_FUNCTION(mi_posix_memalign); /* leaves by its return only */
SCENE_FUNCTION(tc_malloc);	   /* may jump anywhere */
SCENE_FUNCTION(tc_new);		   /* leaves by its return only */
SCENE_FUNCTION(mi_free);
SCENE_FUNCTION(tc_delete);
SCENE_FUNCTION(mi_valloc);	   /* long, and with CFI: patched on x86-64; so are the next two */
SCENE_FUNCTION(mi_mallocn);	   /* (count, size) */
SCENE_FUNCTION(tc_posix_memalign); /* (out, alignment, size) */
SCENE_FUNCTION(mi_pvalloc);	   /* long, without CFI */
SCENE_FUNCTION(mi_memalign);	   /* long, with CFI; other code jumps to its second byte */
SCENE_FUNCTION(scene_resolver);	   /* of the IFUNC tc_valloc */
SCENE_FUNCTION(scene_chosen);	   /* what a resolver may choose; no allocator by name */

/* Return addresses in plain code. */
extern const char scene_caller_1[], scene_caller_2[], scene_caller_3[];
/* One in no module's code, as a JIT's. */
extern const char scene_jit[];

struct scene {
	struct fake_target *fake;
	struct tm_pads *pads;
	struct tm_breakpoints *breakpoints;
	struct tm_patches *patches;
	struct tm_module_map *modules;
	struct tm_cfi *cfi;
	struct tm_function_index *functions;
	struct tm_module *program; /* the test itself */
	struct tm_probe *probe;
	size_t stops; /* breakpoints that threads met */
};

struct scene_call {
	const char *function;
	uint64_t cfa, return_address;
	uint64_t stop, stop_sp; /* in the pad of a patched function */
};

/* Arms this program. */
void scene_open(struct scene *scene, const struct tm_event_sink *sink, bool with_pads);
void scene_close(struct scene *scene);
/* Everything in the code as it was: no foreign byte is found. */
void scene_restore(struct scene *scene);

/* A thread with a stack of its own; at most four. */
struct tm_thread *scene_add_thread(struct scene *scene, pid_t tid);

/* The thread calls a function (up to three arguments), from the place to which it returns. */
struct scene_call scene_enter(struct scene *scene, struct tm_thread *thread, const char *function,
			      const char *return_address, uint64_t a, uint64_t b, uint64_t c);
/* The function of a call jumps to the first instruction of another one, which takes its place. */
void scene_jump(struct scene *scene, struct tm_thread *thread, struct scene_call *call, const char *function,
		uint64_t a, uint64_t b);
/* Its return instruction is executed; the thread then is where it was called from, which is checked. */
void scene_leave(struct scene *scene, struct tm_thread *thread, const struct scene_call *call,
		 const char *return_instruction, uint64_t result);
#define SCENE_LEAVE(scene, thread, call, name, result) scene_leave(scene, thread, call, name##_return, result)

/* The thread calls a patched function, and passes its pad: it is in the function then, which will return to
 * the pad. */
struct scene_call scene_pass(struct scene *scene, struct tm_thread *thread, const char *function,
			     const char *return_address, uint64_t a, uint64_t b, uint64_t c);
/* The function returns to its pad, and that to the caller. */
void scene_pass_back(struct scene *scene, struct tm_thread *thread, const struct scene_call *call,
		     uint64_t result);

/* What a jump out of calls does (longjmp, an exception): the stack pointer is as it was before `call`. */
void scene_drop(struct scene *scene, struct tm_thread *thread, const struct scene_call *call);

/* The word that a call returns to, as the target's memory has it now. */
uint64_t scene_return_word(struct scene *scene, const struct scene_call *call);
uint64_t scene_address(const char *place);
void scene_check(struct tm_error *err); /* aborts the test with the error's message */

#endif
