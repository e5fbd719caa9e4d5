/*
 * The allocator functions of each module, with what their files tell of them: symbols, bodies, exits, who
 * jumps where. Nothing of a process is looked at, so that all of it can be done before one is stopped; a
 * module is searched once.
 */
#ifndef TM_PROBE_FUNCTION_INDEX_H
#define TM_PROBE_FUNCTION_INDEX_H

#include "debuginfo/cfi.h"
#include "debuginfo/module.h"
#include "probe/allocator.h"

struct tm_indexed_function {
	const struct tm_allocator *row;
	uint64_t vaddr, size; /* ELF virtual address; bytes of its body, 0: unknown */
	bool is_ifunc;	      /* vaddr is the resolver's */
	bool has_exits;	      /* the body is at hand, and `exits` is true of it */
	bool jumped_into; /* other code may jump behind its first byte, into what a jump patch would replace
			   */
	struct tm_exits exits; /* with ELF virtual addresses */
	const uint8_t *bytes;  /* the body, where has_exits */
};

struct tm_indexed_module {
	struct tm_indexed_function *functions; /* several may have the same address */
	size_t count;
	char *problem; /* a damaged table, or NULL */
};

struct tm_function_index;

/* Both are borrowed and must outlive the index. */
struct tm_error *tm_function_index_create(const struct tm_arch *arch, struct tm_module_map *modules,
					  struct tm_function_index **out);
void tm_function_index_destroy(struct tm_function_index *index); /* NULL is fine */

/* The functions of a module, searched if they were not yet. Valid until destroy. */
struct tm_error *tm_function_index_get(struct tm_function_index *index, struct tm_module *module,
				       const struct tm_indexed_module **out);

/* tm_code_is_jumped_into of the bytes that a jump patch of the function at `vaddr` would replace behind its
   first; searched once. */
bool tm_function_index_is_jumped_into(struct tm_function_index *index, const struct tm_module *module,
				      uint64_t vaddr);

#endif
