/*
 * Tests of memory that the device holds back for a while
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_CALM_H
#define VBR_CALM_H

#include "vbr-vm.h"

/*
 * Memory waits for half of this at least, so long as nobody on the host has to
 * wait for memory. Much longer than a test takes to ask for it twice.
 */
#define VBR_LONG_MS 1000
#define VBR_LONG "inflate-hold-ms=1000"

typedef struct VbrCalm {
    gint64 began;
    uint64_t stalled_us;
} VbrCalm;

/* Before the machine starts: from then on the device looks at the host. */
VbrCalm vbr_calm_begin(void);
/* Before the first page that is to be held back is inflated. */
void vbr_calm_start_clock(VbrCalm *calm);
/*
 * Whether the device had no reason so far to give back what it holds, with
 * inflate-hold-ms=@hold_ms: neither was it time, nor was the host short of
 * memory. If it had one, the test has seen nothing and is to be tried again.
 */
bool vbr_calm_lasted(const VbrCalm *calm, int hold_ms);
/*
 * Has @attempt try until it says that it has seen what it wanted to see. On a
 * host that is never calm for long enough the test is skipped.
 */
void vbr_calmly(bool (*attempt)(const void *data), const void *data);

/* A machine with these arguments and a balloon with @props that is started. */
VbrVm *vbr_hold_machine(const char *args, const char *props, uint64_t refuse);
/* Polls, and asks the device nothing, until no page has memory behind it. */
void vbr_hold_wait_gone(VbrDev *d, uint64_t addr, size_t pages);

#endif
