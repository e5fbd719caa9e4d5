#include "probe/allocator.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <threads.h>

#include "base/cleanup.h"
#include "base/hash.h"

#define NONE TM_NO_ARGUMENT
#define ALLOCATES(name, size, count, out)                                                                    \
	{                                                                                                    \
		name, TM_ALLOCATES, size, count, NONE, out, false                                            \
	}
#define FREES(name, old)                                                                                     \
	{                                                                                                    \
		name, TM_FREES, NONE, NONE, old, NONE, false                                                 \
	}
#define RESIZES(name, old, size, count, zero)                                                                \
	{                                                                                                    \
		name, TM_RESIZES, size, count, old, NONE, zero                                               \
	}

/* clang-format off */
const struct tm_allocator tm_allocators[] = {
	/* C library: malloc(3), posix_memalign(3), reallocarray(3) */
	ALLOCATES("malloc", 0, NONE, NONE),
	ALLOCATES("valloc", 0, NONE, NONE),
	ALLOCATES("pvalloc", 0, NONE, NONE),
	ALLOCATES("calloc", 1, 0, NONE),
	ALLOCATES("memalign", 1, NONE, NONE),
	ALLOCATES("aligned_alloc", 1, NONE, NONE),
	ALLOCATES("posix_memalign", 2, NONE, 0),
	RESIZES("realloc", 0, 1, NONE, true),
	RESIZES("reallocarray", 0, 2, 1, true),
	FREES("free", 0),
	FREES("cfree", 0),

	/* C++: operator new and delete, plain, array, nothrow, aligned, sized (Itanium C++ ABI, 5.1.5: nw na dl da) */
	ALLOCATES("_Znwm", 0, NONE, NONE),
	ALLOCATES("_ZnwmRKSt9nothrow_t", 0, NONE, NONE),
	ALLOCATES("_ZnwmSt11align_val_t", 0, NONE, NONE),
	ALLOCATES("_ZnwmSt11align_val_tRKSt9nothrow_t", 0, NONE, NONE),
	ALLOCATES("_Znam", 0, NONE, NONE),
	ALLOCATES("_ZnamRKSt9nothrow_t", 0, NONE, NONE),
	ALLOCATES("_ZnamSt11align_val_t", 0, NONE, NONE),
	ALLOCATES("_ZnamSt11align_val_tRKSt9nothrow_t", 0, NONE, NONE),
	FREES("_ZdlPv", 0),
	FREES("_ZdlPvm", 0),
	FREES("_ZdlPvRKSt9nothrow_t", 0),
	FREES("_ZdlPvSt11align_val_t", 0),
	FREES("_ZdlPvmSt11align_val_t", 0),
	FREES("_ZdlPvSt11align_val_tRKSt9nothrow_t", 0),
	FREES("_ZdaPv", 0),
	FREES("_ZdaPvm", 0),
	FREES("_ZdaPvRKSt9nothrow_t", 0),
	FREES("_ZdaPvSt11align_val_t", 0),
	FREES("_ZdaPvmSt11align_val_t", 0),
	FREES("_ZdaPvSt11align_val_tRKSt9nothrow_t", 0),

	/* jemalloc's own (jemalloc(3)); xallocx resizes in place only and is left out: it returns a size */
	ALLOCATES("mallocx", 0, NONE, NONE),
	RESIZES("rallocx", 0, 1, NONE, false),
	FREES("dallocx", 0),
	FREES("sdallocx", 0),

	/* tcmalloc's own (gperftools/tcmalloc.h) */
	ALLOCATES("tc_malloc", 0, NONE, NONE),
	ALLOCATES("tc_valloc", 0, NONE, NONE),
	ALLOCATES("tc_pvalloc", 0, NONE, NONE),
	ALLOCATES("tc_malloc_skip_new_handler", 0, NONE, NONE),
	ALLOCATES("tc_new", 0, NONE, NONE),
	ALLOCATES("tc_new_nothrow", 0, NONE, NONE),
	ALLOCATES("tc_newarray", 0, NONE, NONE),
	ALLOCATES("tc_newarray_nothrow", 0, NONE, NONE),
	ALLOCATES("tc_new_aligned", 0, NONE, NONE),
	ALLOCATES("tc_new_aligned_nothrow", 0, NONE, NONE),
	ALLOCATES("tc_newarray_aligned", 0, NONE, NONE),
	ALLOCATES("tc_newarray_aligned_nothrow", 0, NONE, NONE),
	ALLOCATES("tc_calloc", 1, 0, NONE),
	ALLOCATES("tc_memalign", 1, NONE, NONE),
	ALLOCATES("tc_posix_memalign", 2, NONE, 0),
	RESIZES("tc_realloc", 0, 1, NONE, true),
	FREES("tc_free", 0),
	FREES("tc_free_sized", 0),
	FREES("tc_cfree", 0),
	FREES("tc_delete", 0),
	FREES("tc_delete_sized", 0),
	FREES("tc_delete_nothrow", 0),
	FREES("tc_delete_aligned", 0),
	FREES("tc_delete_sized_aligned", 0),
	FREES("tc_delete_aligned_nothrow", 0),
	FREES("tc_deletearray", 0),
	FREES("tc_deletearray_sized", 0),
	FREES("tc_deletearray_nothrow", 0),
	FREES("tc_deletearray_aligned", 0),
	FREES("tc_deletearray_sized_aligned", 0),
	FREES("tc_deletearray_aligned_nothrow", 0),

	/* mimalloc's own (mimalloc.h) */
	ALLOCATES("mi_malloc", 0, NONE, NONE),
	ALLOCATES("mi_zalloc", 0, NONE, NONE),
	ALLOCATES("mi_malloc_small", 0, NONE, NONE),
	ALLOCATES("mi_zalloc_small", 0, NONE, NONE),
	ALLOCATES("mi_valloc", 0, NONE, NONE),
	ALLOCATES("mi_pvalloc", 0, NONE, NONE),
	ALLOCATES("mi_new", 0, NONE, NONE),
	ALLOCATES("mi_new_nothrow", 0, NONE, NONE),
	ALLOCATES("mi_new_aligned", 0, NONE, NONE),
	ALLOCATES("mi_new_aligned_nothrow", 0, NONE, NONE),
	ALLOCATES("mi_malloc_aligned", 0, NONE, NONE),
	ALLOCATES("mi_zalloc_aligned", 0, NONE, NONE),
	ALLOCATES("mi_malloc_aligned_at", 0, NONE, NONE),
	ALLOCATES("mi_zalloc_aligned_at", 0, NONE, NONE),
	ALLOCATES("mi_calloc", 1, 0, NONE),
	ALLOCATES("mi_mallocn", 1, 0, NONE),
	ALLOCATES("mi_new_n", 1, 0, NONE),
	ALLOCATES("mi_calloc_aligned", 1, 0, NONE),
	ALLOCATES("mi_calloc_aligned_at", 1, 0, NONE),
	ALLOCATES("mi_memalign", 1, NONE, NONE),
	ALLOCATES("mi_aligned_alloc", 1, NONE, NONE),
	ALLOCATES("mi_posix_memalign", 2, NONE, 0),
	ALLOCATES("mi_heap_malloc", 1, NONE, NONE),
	ALLOCATES("mi_heap_zalloc", 1, NONE, NONE),
	ALLOCATES("mi_heap_malloc_small", 1, NONE, NONE),
	ALLOCATES("mi_heap_malloc_aligned", 1, NONE, NONE),
	ALLOCATES("mi_heap_malloc_aligned_at", 1, NONE, NONE),
	ALLOCATES("mi_heap_zalloc_aligned", 1, NONE, NONE),
	ALLOCATES("mi_heap_zalloc_aligned_at", 1, NONE, NONE),
	ALLOCATES("mi_heap_calloc", 2, 1, NONE),
	ALLOCATES("mi_heap_mallocn", 2, 1, NONE),
	ALLOCATES("mi_heap_calloc_aligned", 2, 1, NONE),
	RESIZES("mi_realloc", 0, 1, NONE, true),
	RESIZES("mi_reallocf", 0, 1, NONE, true),
	RESIZES("mi_rezalloc", 0, 1, NONE, true),
	RESIZES("mi_realloc_aligned", 0, 1, NONE, true),
	RESIZES("mi_realloc_aligned_at", 0, 1, NONE, true),
	RESIZES("mi_rezalloc_aligned", 0, 1, NONE, true),
	RESIZES("mi_rezalloc_aligned_at", 0, 1, NONE, true),
	RESIZES("mi_new_realloc", 0, 1, NONE, true),
	RESIZES("mi_reallocn", 0, 2, 1, true),
	RESIZES("mi_recalloc", 0, 2, 1, true),
	RESIZES("mi_reallocarray", 0, 2, 1, true),
	RESIZES("mi_new_reallocn", 0, 2, 1, true),
	RESIZES("mi_heap_realloc", 1, 2, NONE, true),
	RESIZES("mi_heap_reallocf", 1, 2, NONE, true),
	RESIZES("mi_heap_rezalloc", 1, 2, NONE, true),
	RESIZES("mi_heap_realloc_aligned", 1, 2, NONE, true),
	RESIZES("mi_heap_reallocn", 1, 3, 2, true),
	RESIZES("mi_heap_recalloc", 1, 3, 2, true),
	FREES("mi_free", 0),
	FREES("mi_cfree", 0),
	FREES("mi_free_size", 0),
	FREES("mi_free_aligned", 0),
	FREES("mi_free_size_aligned", 0),

	{NULL, TM_ALLOCATES, NONE, NONE, NONE, NONE, false},
};
/* clang-format on */

/* jemalloc may be built with a prefix before all of its names: je_ (its own default where it must not replace
   malloc) and _rjem_ (Rust's jemalloc crates). */
static const char *const prefixes[] = {"je_", "_rjem_je_", "_rjem_"};

/* The rows by the hash of their names: every symbol of every module is asked for. */
#define SLOTS 1024u

static uint8_t slots[SLOTS]; /* number of the row, from 1; 0: free */

_Static_assert(TM_ARRAY_SIZE(tm_allocators) <= UINT8_MAX && 4 * TM_ARRAY_SIZE(tm_allocators) <= SLOTS,
	       "few names share a slot");

static size_t slot_of(const char *name)
{
	return tm_hash_bytes(name, strlen(name)) % SLOTS;
}

static void fill_slots(void)
{
	for (size_t i = 0; tm_allocators[i].name; i++) {
		size_t slot = slot_of(tm_allocators[i].name);

		while (slots[slot])
			slot = (slot + 1) % SLOTS;
		slots[slot] = (uint8_t)(i + 1);
	}
}

static const struct tm_allocator *find_plain(const char *name)
{
	static once_flag filled = ONCE_FLAG_INIT;

	call_once(&filled, fill_slots);
	for (size_t slot = slot_of(name); slots[slot]; slot = (slot + 1) % SLOTS)
		if (strcmp(tm_allocators[slots[slot] - 1].name, name) == 0)
			return &tm_allocators[slots[slot] - 1];
	return NULL;
}

const struct tm_allocator *tm_allocator_find(const char *name)
{
	/* Most symbols of a program begin otherwise than any row: a cheap no for them. */
	if (!strchr("_acdfjmprstv", name[0]))
		return NULL;
	for (size_t i = 0; i < TM_ARRAY_SIZE(prefixes); i++) {
		size_t length = strlen(prefixes[i]);

		if (strncmp(name, prefixes[i], length) == 0 && name[length] != '_')
			return find_plain(name + length);
	}
	return find_plain(name);
}

/* operator new and what does the same under a name of its own; their nothrow forms too: they call the others.
 */
static const char *const throwing[] = {"_Zn", "tc_new", "mi_new"};

bool tm_allocator_throws(const struct tm_allocator *row)
{
	for (size_t i = 0; i < TM_ARRAY_SIZE(throwing); i++)
		if (strncmp(row->name, throwing[i], strlen(throwing[i])) == 0)
			return true;
	return false;
}
