/* The members of struct tm_totals in the order in which the report file and JSON list them. The variances
   follow in the file. */
#ifndef TM_REPORT_TOTALS_H
#define TM_REPORT_TOTALS_H

#define TM_TOTALS_FIELDS(X)                                                                                  \
	X(current)                                                                                           \
	X(peak)                                                                                              \
	X(blocks)                                                                                            \
	X(peak_blocks)                                                                                       \
	X(allocations)                                                                                       \
	X(allocated)                                                                                         \
	X(frees)                                                                                             \
	X(unknown_frees)                                                                                     \
	X(failed)

#define TM_TOTALS_COLUMNS                                                                                    \
	"current, peak, blocks, peak_blocks, allocations, allocated, frees, unknown_frees, failed"
#define TM_VARIANCE_COLUMNS "current_variance, peak_variance"

#endif
