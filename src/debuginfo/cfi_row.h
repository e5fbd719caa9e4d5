/*
 * From libdw's view of one frame to a struct tm_row, and the CFI sections that frames are looked up in.
 * Internal to debuginfo: cfi.h caches what is made here. Everything works on ELF virtual addresses.
 *
 * libdw executes the CFI programs; where its answers are not to be trusted the code says so.
 *
 * The sections are a stranger's bytes. What does not parse is no CFI, or a row whose expression has no
 * operations and so no value; it is never an error.
 */
#ifndef TM_DEBUGINFO_CFI_ROW_H
#define TM_DEBUGINFO_CFI_ROW_H

#include "debuginfo/cfi.h"

/* The CFI of one ELF file. */
struct tm_cfi_file;

/* `image` must outlive the file. NULL where there is no CFI of any kind, or no memory. */
struct tm_cfi_file *tm_cfi_file_open(const uint8_t *image, size_t image_size);

/* Only the .debug_frame of a separate debug file. Takes fd, also when it fails. */
struct tm_cfi_file *tm_cfi_file_open_debug(int fd);

void tm_cfi_file_close(struct tm_cfi_file *file); /* NULL is fine */

/* The row for [vaddr, end) in one allocation that the caller frees; NULL: none. It may hold below vaddr, too.
   .eh_frame is asked first. */
struct tm_row *tm_cfi_file_row(struct tm_cfi_file *file, const struct tm_arch *arch, uint64_t vaddr);

/* A copy of a row with its rules and operations, in one allocation that the caller frees; NULL: no memory. */
struct tm_row *tm_row_copy(const struct tm_row *row, size_t operation_count);

/* The number of operations that a row's CFA and rules refer to. */
size_t tm_row_operation_count(const struct tm_row *row);

/* Sets simple, return_offset and fp_offset from the other fields. */
void tm_row_classify(const struct tm_arch *arch, struct tm_row *row);

#endif
