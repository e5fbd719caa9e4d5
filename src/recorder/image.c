#include "recorder/image.h"

#include <string.h>

#ifdef TM_RECORDER_BINARY

/* The recorder, compiled and linked flat (CMakeLists.txt), and the same as an ELF file. */
__asm__(".pushsection .rodata\n"
	".balign 16\n"
	"recorder_begin: .incbin \"" TM_RECORDER_BINARY ".bin\"\n"
	"recorder_end:\n"
	".balign 16\n"
	"recorder_elf_begin: .incbin \"" TM_RECORDER_BINARY ".cfi\"\n"
	"recorder_elf_end:\n"
	".popsection\n");

extern const uint8_t recorder_begin[], recorder_end[], recorder_elf_begin[], recorder_elf_end[];

bool tm_recorder_image(struct tm_recorder_image *image)
{
	image->bytes = recorder_begin;
	image->size = (size_t)(recorder_end - recorder_begin);
	image->elf = recorder_elf_begin;
	image->elf_size = (size_t)(recorder_elf_end - recorder_elf_begin);
	memcpy(image->entries, recorder_begin + sizeof(TM_RECORDER_MAGIC), sizeof(image->entries));
	return true;
}

#else

bool tm_recorder_image(struct tm_recorder_image *image)
{
	(void)image;
	return false;
}

#endif
