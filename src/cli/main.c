/* argv -> a command. */
#include <stdio.h>
#include <string.h>

#include "cli/cmd_report.h"
#include "cli/commands.h"

static const char help[] =
	"Usage: tmtrace --attach PID [OPTION...]          trace a running process\n"
	"       tmtrace [OPTION...] [--] COMMAND [ARG...] start a program under trace\n"
	"       tmtrace report FILE [OPTION...]           read a report file\n"
	"\n"
	"tmtrace is tracemalloc for any running process: which lines hold the memory, how many bytes\n"
	"in how many blocks, what was the peak. The process is not relinked, restarted or changed.\n"
	"\n"
	"  -a, --attach PID     trace the process with this number, until Ctrl-C, its end or --duration\n"
	"  -d, --duration SEC   end the trace after so many seconds\n"
	"  -o, --output FILE    the report file [tmtrace.NAME.PID.tmt]\n"
	"  -f, --force          overwrite an existing report file\n"
	"  -n, --nframe N       frames of a traceback that are kept, 1..65535 [64; python: 1]\n"
	"      --domain NAME    what is traced: native, the native allocators; python, those of a CPython\n"
	"                       interpreter (3.8 to 3.13), as its own tracemalloc would; both [python for\n"
	"                       such a program, else native]\n"
	"      --probe HOW      how Python's calls are caught: by pads that record where possible [auto], "
	"else\n"
	"                       an error [pad], or by stops [breakpoint]\n"
	"      --within [FILE:]FUNCTION   count only what is allocated while this Python function is on\n"
	"                       the stack, and the frees of it (globs)\n"
	"      --exact          python up to 3.12: also blocks that a free list hands out again go to their\n"
	"                       new line (always from 3.13); slower\n"
	"      --sample BYTES   for production: see only a sample of the native allocations, one in about "
	"so\n"
	"                       many bytes (512K, 1M), and estimate the numbers from it\n"
	"      --skip GLOB      functions whose names match are allocator wrappers: they own no line;\n"
	"                       may be given several times\n"
	"      --limit N        lines that are printed at the end [10]\n"
	"  -q, --quiet          print errors only\n"
	"  -v, --verbose        tell what tmtrace does (twice: each step)\n"
	"  -h, --help           print this; `tmtrace report --help` for that command\n"
	"  -V, --version        print the version\n"
	"\n"
	"A signal SIGUSR1 to tmtrace takes a snapshot; `tmtrace report --at NAME` shows it.\n"
	"Exit status: of COMMAND (128+N if signal N ended it, 127 if it is not found, 126 if it cannot be\n"
	"executed); with --attach 0; 2 for an error of tmtrace's own.\n";

int main(int argc, char **argv)
{
	if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
		fputs(help, stdout);
		return 0;
	}
	if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0)) {
		puts("tmtrace " TM_VERSION);
		return 0;
	}
	if (argc >= 2 && strcmp(argv[1], "report") == 0)
		return tm_cmd_report(argc - 1, argv + 1);
	return tm_cmd_trace(argc, argv);
}
