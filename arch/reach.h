/*
 * Which function a body always comes to. A wrapper (operator new, operator delete) whose work is done by an
 * allocator function needs no exit of its own to be known.
 */
#ifndef TM_ARCH_REACH_H
#define TM_ARCH_REACH_H

#include "arch/arch.h"

/* Is it one of those that are looked for? `is_slot`: `address` is not the function's but that of a word of
   data which leads to it. */
typedef bool (*tm_is_wanted)(void *context, uint64_t address, bool is_slot);

/*
 * Does every way through the function body `bytes`, which stands at `address`, come to a call of a wanted
 * function, or a jump to one, before it returns? Told by the straight way from its beginning, which no jump
 * may leave for a later part of the body. Branches out of the body are taken for ways that do not come back
 * (a compiler's cold parts, which throw). False also where it cannot be told.
 */
bool tm_body_reaches(const struct tm_arch *arch, const uint8_t *bytes, size_t size, uint64_t address,
		     tm_is_wanted is_wanted, void *context);

/* Is the code at an address a stub that does nothing but jump to where a word of data leads (a PLT entry)? */
bool tm_stub_slot(const struct tm_arch *arch, const uint8_t *bytes, size_t size, uint64_t address,
		  uint64_t *slot);

#endif
