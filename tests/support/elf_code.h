/*
 * The code of an ELF file on this machine, for tests that look at real instructions. No process is involved.
 */
#ifndef TM_TESTS_ELF_CODE_H
#define TM_TESTS_ELF_CODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tm_elf_function {
	char *name;
	uint64_t address;
	const uint8_t *bytes;
	size_t size;
};

struct tm_elf_code {
	uint16_t machine;
	uint8_t *image; /* the file's bytes */
	size_t image_size;
	/* The functions that .dynsym and .symtab define. */
	struct {
		struct tm_elf_function *items;
		size_t count, capacity;
	} functions;
	/* The section .text. */
	uint64_t text_address;
	const uint8_t *text;
	size_t text_size;
};

/* False: there is no such file, it is no ELF file, or it has no .text. */
bool tm_elf_code_read(const char *path, struct tm_elf_code *code);
void tm_elf_code_deinit(struct tm_elf_code *code);

/* The function of that name, or NULL. */
const struct tm_elf_function *tm_elf_code_find(const struct tm_elf_code *code, const char *name);

#endif
