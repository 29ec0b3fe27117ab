/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Expectations. The first that does not hold ends the program with a line that says where and why. */

#ifndef CHECK_H
#define CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "virtio_balloon_rs.h"

#define CHECK_EQ(actual, expected)                                             \
    check_eq(__FILE__, __LINE__, #actual, (uint64_t)(actual), #expected,       \
             (uint64_t)(expected))

#define CHECK(condition) check_that(__FILE__, __LINE__, #condition, (condition))

#define CHECK_STATUS(call, expected)                                           \
    check_status(__FILE__, __LINE__, #call, (call), (expected))

#define CHECK_OK(call) CHECK_STATUS(call, VBR_STATUS_OK)

void check_eq(const char *file, int line, const char *what, uint64_t actual,
              const char *expectation, uint64_t expected);
void check_that(const char *file, int line, const char *what, bool holds);
void check_status(const char *file, int line, const char *what,
                  enum VbrStatus actual, enum VbrStatus expected);

#endif
