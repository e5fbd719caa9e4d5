/*
 * The recorder's code as bytes, ready to be written into a target of the host's architecture.
 */
#ifndef TM_RECORDER_IMAGE_H
#define TM_RECORDER_IMAGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "recorder/shared.h"

struct tm_recorder_image {
	const uint8_t *bytes; /* position independent; the control page is at bytes + TM_RECORDER_CODE_SIZE */
	size_t size;	      /* at most TM_RECORDER_CODE_SIZE */
	uint32_t entries[TM_ENTRY_COUNT]; /* offsets in bytes */
	const uint8_t *elf;		  /* an ELF file with its CFI; bytes[0] has the address 0 there */
	size_t elf_size;
};

/* false where there is none: the recorder is written for x86-64. */
bool tm_recorder_image(struct tm_recorder_image *image);

#endif
