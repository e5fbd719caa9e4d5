/*
 * Small ELF files made in memory, with the CFI that a test wants: for tests of what reads it.
 */
#ifndef TM_TESTS_SUPPORT_CFI_IMAGE_H
#define TM_TESTS_SUPPORT_CFI_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TM_CFI_IMAGE_TEXT                                                                                    \
	0x1000 /* ELF virtual address of the code, which is as long as tm_cfi_image_init says */

struct tm_cfi_image {
	uint16_t machine;
	uint8_t code[4096];
	size_t code_size;
	uint8_t cfi[8192]; /* content of .eh_frame, or of .debug_frame */
	size_t cfi_size;
	bool is_debug_frame;
	uint8_t file[16384];
	size_t file_size;
};

void tm_cfi_image_init(struct tm_cfi_image *image, uint16_t machine, size_t code_size);

/* Adds a CIE and its FDE for `size` bytes of code from `start` on. `program` is the FDE's; the CIE sets CFA =
   SP + 8 and, on x86-64, the return address at CFA - 8. The data alignment factor is -8. */
void tm_cfi_image_add(struct tm_cfi_image *image, bool is_signal, uint64_t start, uint64_t size,
		      const uint8_t *program, size_t program_size);

/* Lays the file out: code, CFI, section headers. */
void tm_cfi_image_finish(struct tm_cfi_image *image);

#endif
