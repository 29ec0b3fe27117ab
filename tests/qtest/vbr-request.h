/*
 * Machines whose guests are asked for unused pages, by either queue
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_REQUEST_H
#define VBR_REQUEST_H

#include "vbr-hint.h"
#include "vbr-message.h"
#include "vbr-pair.h"
#include "vbr-probe.h"

/* High up, where a slow migration does not come soon. */
#define VBR_AREA (96 * MiB)

/* A queue over which a guest is asked, and the device that has it. */
typedef struct VbrAsk {
    const char *name;
    const char *props;
    VbrQueue q;
    VbrBits bits;
} VbrAsk;

/* Both queues, with private and with historical bits; ends with no name. */
extern const VbrAsk vbr_asks[];

/* A machine whose driver has started. */
VbrVm *vbr_ask_machine(const VbrAsk *a, const char *args);
VbrPair vbr_ask_pair(const VbrAsk *a);
/* Adds a test for each of vbr_asks, which is its argument. */
void vbr_add_asking(const char *name, void (*run)(const void *ask));

#endif
