/* x86-64 instructions: the functions of tm_arch_x86_64, and decoding for them. Internal to arch/. */
#ifndef TM_ARCH_X86_64_INSN_H
#define TM_ARCH_X86_64_INSN_H

#include "arch/insn.h"
#include "arch/relocate.h"

struct tm_error *tm_x86_64_relocate(const uint8_t *bytes, size_t size, uint64_t from, uint64_t to,
				    size_t min_bytes, struct tm_relocated *out);
struct tm_error *tm_x86_64_find_exits(const uint8_t *bytes, size_t size, uint64_t address,
				      struct tm_exits *exits);

/* These fill the fields of the same names of struct tm_relocator. */
bool tm_x86_64_decode(const uint8_t *bytes, size_t size, uint64_t address, struct tm_insn *insn);
const char *tm_x86_64_confirm(const uint8_t *bytes, size_t size, const struct tm_insn *insn);
void tm_x86_64_describe(const uint8_t *bytes, size_t size, uint64_t address, char *text, size_t text_size);

#endif
