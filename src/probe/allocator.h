/*
 * The allocator functions that are traced, as a table: a new one is a new row. Arguments are counted from 0
 * in the order of the C prototype; all are integers or pointers, so argument n is in the n-th integer
 * argument register of the ABI.
 */
#ifndef TM_PROBE_ALLOCATOR_H
#define TM_PROBE_ALLOCATOR_H

#include <stdbool.h>
#include <stdint.h>

enum tm_allocator_kind {
	TM_ALLOCATES, /* returns a new block */
	TM_FREES,     /* gives a block back */
	TM_RESIZES,   /* realloc: may give back the old block and returns one */
};

#define TM_NO_ARGUMENT (-1)

struct tm_allocator {
	const char *name; /* symbol, without version */
	enum tm_allocator_kind kind;
	int8_t size;  /* argument with the size in bytes (of one element, where there is a count) */
	int8_t count; /* argument with the number of elements, or TM_NO_ARGUMENT */
	int8_t old;   /* argument with the block that is freed or resized */
	int8_t out; /* argument that points to where the block's address is stored; the function then returns
		       0 for success. TM_NO_ARGUMENT: it returns the address, 0 for failure */
	bool zero_frees; /* a resize to 0 that returns no block has freed the old one (glibc, malloc/malloc.c,
			    __libc_realloc) */
};

/* The row for a symbol name, or NULL. Knows the prefixes that jemalloc is built with (je_, _rjem_). */
const struct tm_allocator *tm_allocator_find(const char *name);

/* May a call be left by a C++ exception? */
bool tm_allocator_throws(const struct tm_allocator *row);

/* The rows, for listing; ends with a NULL name. */
extern const struct tm_allocator tm_allocators[];

#endif
