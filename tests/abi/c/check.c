/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "check.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void check_eq(const char *file, int line, const char *what, uint64_t actual,
              const char *expectation, uint64_t expected)
{
    if (actual != expected) {
        fprintf(stderr,
                "%s:%d: %s is %" PRIu64 " (0x%" PRIx64 "), expected %s, which is %" PRIu64
                " (0x%" PRIx64 ")\n",
                file, line, what, actual, actual, expectation, expected, expected);
        _Exit(1);
    }
}

void check_that(const char *file, int line, const char *what, bool holds)
{
    if (!holds) {
        fprintf(stderr, "%s:%d: expected %s\n", file, line, what);
        _Exit(1);
    }
}

void check_status(const char *file, int line, const char *what,
                  enum VbrStatus actual, enum VbrStatus expected)
{
    if (actual != expected) {
        fprintf(stderr, "%s:%d: %s answers %d (%s), expected %d (%s)\n", file, line,
                what, (int)actual, vbr_status_str(actual), (int)expected,
                vbr_status_str(expected));
        _Exit(1);
    }
}
