/* The commands: each is one file. They print errors themselves and return the program's exit status (2: an
 * error of tmtrace). */
#ifndef TM_CLI_COMMANDS_H
#define TM_CLI_COMMANDS_H

#define TM_EXIT_ERROR 2

int tm_cmd_trace(int argc, char **argv);

#endif
