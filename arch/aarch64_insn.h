/* aarch64 instructions: the functions of tm_arch_aarch64, and decoding for them. Internal to arch/. */
#ifndef TM_ARCH_AARCH64_INSN_H
#define TM_ARCH_AARCH64_INSN_H

#include "arch/insn.h"
#include "arch/relocate.h"

struct tm_error *tm_aarch64_relocate(const uint8_t *bytes, size_t size, uint64_t from, uint64_t to,
				     size_t min_bytes, struct tm_relocated *out);
struct tm_error *tm_aarch64_find_exits(const uint8_t *bytes, size_t size, uint64_t address,
				       struct tm_exits *exits);

/* Groups of instructions that are rewritten in the same way. */
enum tm_a64_form {
	TM_A64_AS_IS,
	TM_A64_B,	  /* imm26 */
	TM_A64_BRANCH_19, /* b.cond, cbz, cbnz: imm19 */
	TM_A64_BRANCH_14, /* tbz, tbnz: imm14 */
	TM_A64_BLR,	  /* Rn */
	TM_A64_BLR_KEYED, /* Rn; Rd is the modifier's register */
	TM_A64_ADR,
	TM_A64_ADRP,
	TM_A64_LOAD_LITERAL,   /* imm19, Rt: general register */
	TM_A64_LOAD_LITERAL_V, /* imm19, Rt: SIMD register */
	TM_A64_PREFETCH_LITERAL,
};

static inline uint32_t tm_a64_word(const uint8_t *bytes)
{
	return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

enum tm_a64_form tm_a64_form(uint32_t word);

/* These fill the fields of the same names of struct tm_relocator. */
bool tm_aarch64_decode(const uint8_t *bytes, size_t size, uint64_t address, struct tm_insn *insn);
void tm_aarch64_describe(const uint8_t *bytes, size_t size, uint64_t address, char *text, size_t text_size);

#endif
