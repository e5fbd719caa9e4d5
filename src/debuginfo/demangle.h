/* Private to debuginfo/; tm_demangle is in symbolize.h. */
#ifndef TM_DEBUGINFO_DEMANGLE_H
#define TM_DEBUGINFO_DEMANGLE_H

/* A demangled name, the caller's to free; NULL if it is not a mangled one. */
char *tm_demangle_if_mangled(const char *name);

#endif
