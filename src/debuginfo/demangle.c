#include "debuginfo/demangle.h"

#include <libiberty/demangle.h>
#include <string.h>

#include "debuginfo/symbolize.h"

/* libiberty tries Rust (legacy and v0) before C++ (cplus-dem.c, cplus_demangle), and bounds its recursion. */
char *tm_demangle_if_mangled(const char *name)
{
	return cplus_demangle(name, DMGL_PARAMS | DMGL_ANSI | DMGL_AUTO);
}

char *tm_demangle(const char *name)
{
	char *demangled = tm_demangle_if_mangled(name);

	return demangled ? demangled : strdup(name);
}
