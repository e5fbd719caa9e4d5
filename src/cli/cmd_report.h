/* `tmtrace report FILE`: statistics of a report file as text or JSON on standard output. */
#ifndef TM_CLI_CMD_REPORT_H
#define TM_CLI_CMD_REPORT_H

/* argv[0] is the command's name. 0, or TM_EXIT_ERROR with one line on standard error. */
int tm_cmd_report(int argc, char **argv);

#endif
