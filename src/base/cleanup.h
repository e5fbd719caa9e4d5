/*
 * Scope-bound release of storage and descriptors (GCC and clang's cleanup attribute).
 * A variable marked so is released when it leaves scope; take the value out with tm_steal() to keep it.
 */
#ifndef TM_BASE_CLEANUP_H
#define TM_BASE_CLEANUP_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define _cleanup_(fn) __attribute__((cleanup(fn)))

static inline void tm_cleanup_free(void *p)
{
	free(*(void **)p);
}

static inline void tm_cleanup_close(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void tm_cleanup_fclose(FILE **file)
{
	if (*file)
		fclose(*file);
}

static inline void tm_cleanup_closedir(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

#define _cleanup_free_	   _cleanup_(tm_cleanup_free)
#define _cleanup_close_	   _cleanup_(tm_cleanup_close)
#define _cleanup_fclose_   _cleanup_(tm_cleanup_fclose)
#define _cleanup_closedir_ _cleanup_(tm_cleanup_closedir)

/* The value of a variable, which is left NULL: its cleanup then does nothing. */
#define tm_steal(p)                                                                                          \
	({                                                                                                   \
		__typeof__(p) _stolen = (p);                                                                 \
		(p) = NULL;                                                                                  \
		_stolen;                                                                                     \
	})

#define TM_ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#endif
