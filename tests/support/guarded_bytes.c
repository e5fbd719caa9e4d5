#include "support/guarded_bytes.h"

#include <criterion/criterion.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE 4096u

const uint8_t *tm_before_the_guard(const uint8_t *bytes, size_t size)
{
	static uint8_t *pages;

	if (!pages) {
		pages = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		cr_assert_neq(pages, MAP_FAILED);
		cr_assert_eq(mprotect(pages + PAGE, PAGE, PROT_NONE), 0);
	}
	return memcpy(pages + PAGE - size, bytes, size);
}
