/*
 * Bytes with nothing readable behind them: a parser that reads on dies.
 */
#ifndef TM_TESTS_GUARDED_BYTES_H
#define TM_TESTS_GUARDED_BYTES_H

#include <stddef.h>
#include <stdint.h>

/* A copy, at most a page, that ends where a page without permissions begins. Good until the next call. */
const uint8_t *tm_before_the_guard(const uint8_t *bytes, size_t size);

#endif
