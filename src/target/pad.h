/*
 * Pads: executable pages mapped into the target, cut into slots that hold one relocated instruction sequence
 *each. A region serves the code within the architecture's near_reach of it; more are mapped as needed.
 *
 * A pad is never unmapped while an address in it may be live on any stack (a saved pc in a signal frame). So
 *regions stay behind after a detach, inert, and the next attach finds them by their first bytes and uses the
 *same slots again: a thousand cycles leak one set.
 *
 *	region: | header 128 | slot 128 | slot 128 | ...      TM_PAD_REGION_SIZE bytes, r-x, private,
 *anonymous header: magic[16]  u32 slot size  u32 slot count slot:   u64 original address  u64 code size
 *code[112]
 */
#ifndef TM_TARGET_PAD_H
#define TM_TARGET_PAD_H

#include "target/target.h"

#define TM_PAD_REGION_SIZE 0x10000u

struct tm_pads;

struct tm_error *tm_pads_create(struct tm_target *target, struct tm_pads **out);
void tm_pads_destroy(struct tm_pads *pads);    /* forgets; the pages stay in the target */
void tm_pads_forget_all(struct tm_pads *pads); /* exec: they are gone */

/* Finds regions that an earlier trace left behind. */
struct tm_error *tm_pads_adopt(struct tm_pads *pads);

/*
 * Moves the instruction(s) at `original` (bytes, size) into a slot, mapping a region if none is near: all
 * threads stand still, or `thread` does. *pad is the slot's code. On failure nothing was changed but perhaps
 * a region mapped.
 */
struct tm_error *tm_pads_relocate(struct tm_pads *pads, struct tm_thread *thread, uint64_t original,
				  const uint8_t *bytes, size_t size, size_t min_bytes, uint64_t *pad,
				  struct tm_relocated *relocated);

/*
 * Where regions would have to be mapped for a free slot near each of `count` addresses: TM_PAD_REGION_SIZE
 * bytes each, r-x, private, anonymous. `mappings` is the memory map. places has room for `count`; the result
 * is how many there are. An address near which nothing is free has none.
 */
size_t tm_pads_plan(const struct tm_pads *pads, const struct tm_mappings *mappings, const uint64_t *addresses,
		    size_t count, uint64_t *places);
/* A region was mapped at such a place, by whoever can do it for less. */
struct tm_error *tm_pads_take(struct tm_pads *pads, uint64_t place);

/* Puts raw code (position independent) into a slot; the same code again, also an earlier trace's, is in the
 * same slot. */
struct tm_error *tm_pads_place(struct tm_pads *pads, struct tm_thread *thread, uint64_t near_address,
			       const uint8_t *code, size_t size, uint64_t *pad);

/* All slots in use, one after the other: their code and its size. false: there is none more. */
bool tm_pads_next(const struct tm_pads *pads, size_t *position, uint64_t *code, size_t *size);

bool tm_pads_contain(const struct tm_pads *pads, uint64_t address);
/* The original address of the slot that holds `address`, and the code's start; false if it lies in no slot in
 * use. */
bool tm_pads_origin(const struct tm_pads *pads, uint64_t address, uint64_t *original, uint64_t *code);

#endif
