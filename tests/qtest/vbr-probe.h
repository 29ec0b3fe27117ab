/*
 * What a virtio-balloon-rs device did, as seen from outside the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_PROBE_H
#define VBR_PROBE_H

#include "vbr-driver.h"

/*
 * A read-only QOM counter of the device. Any but held-bytes is read when the
 * device holds nothing back any more.
 */
uint64_t vbr_counter(VbrDev *d, const char *name);
char *vbr_string(VbrDev *d, const char *name);

#define vbr_assert_counter(d, name, value) \
    g_assert_cmpuint(vbr_counter(d, name), ==, value)

/* One value of guest-stats; UINT64_MAX is "not reported". */
uint64_t vbr_stat(VbrDev *d, const char *name);
int64_t vbr_stats_age(VbrDev *d);
unsigned int vbr_stats_count(VbrDev *d);
void vbr_poll_stats(VbrDev *d, int64_t secs);

/* What query-balloon says. */
int64_t vbr_query_balloon(QTestState *qts);
void vbr_set_balloon(QTestState *qts, uint64_t size);
/* The error text of a command that has to fail. */
char *vbr_qmp_error(QDict *rsp);

/* How many descriptors a driver sees that a queue has; 0 for no such queue. */
void vbr_assert_queue_size(VbrDev *d, uint16_t index, uint16_t size);

/* Did the device give up: virtio_error() was called on it? */
bool vbr_is_broken(VbrDev *d);

/*
 * Has every QEMU that this program starts live on small pages. A page that was
 * discarded comes back without anybody's access when khugepaged gathers its
 * neighbours into a huge page, and "is it gone?" would depend on the host's
 * clock.
 */
void vbr_keep_small_pages(void);
/* For the next QEMU, which the caller starts now and then undoes this. */
void vbr_allow_huge_pages(void);

/*
 * How many pages of a range of guest memory have host memory behind them.
 * Reading guest memory populates it, so this comes before the content.
 */
size_t vbr_resident(VbrDev *d, uint64_t addr, size_t pages);
/*
 * A size that the host's smaps says of the mapping around an address of guest
 * memory, in bytes.
 */
uint64_t vbr_smaps(VbrDev *d, uint64_t addr, const char *field);

void vbr_fill(VbrDev *d, uint64_t addr, size_t pages, uint8_t byte);
void vbr_assert_filled(VbrDev *d, uint64_t addr, size_t pages, uint8_t byte);

/* Waits until the device holds nothing back any more. */
void vbr_wait_held(VbrDev *d);
/* Waits until nothing is left of what could not be given back when it came. */
void vbr_wait_owed(VbrDev *d);

/* Once nothing is held back: not resident, and zero when read. */
void vbr_assert_gone(VbrDev *d, uint64_t addr, size_t pages);
/* The same: resident, and the content as it was. */
void vbr_assert_kept(VbrDev *d, uint64_t addr, size_t pages, uint8_t byte);

#endif
