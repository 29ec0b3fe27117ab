/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Every function that takes a device, each called once with arguments that are valid. */

#ifndef CALLS_H
#define CALLS_H

#include "virtio_balloon_rs.h"

/* Calls them all on `device` and expects each to answer `expected`, which must not be OK. */
void expect_of_all_calls(struct VbrDevice *device, enum VbrStatus expected);
/* The same without reset, which is what a broken device does not refuse. */
void expect_of_all_but_reset(struct VbrDevice *device, enum VbrStatus expected);
/* Each call panics when asked to, and a reset mends what that broke. */
void expect_of_each_call_to_break(struct VbrDevice *device);

#endif
