/*
 * A small guest driver for the virtio-balloon-rs tests
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_DRIVER_H
#define VBR_DRIVER_H

#include "qemu/timer.h"
#include "qemu/units.h"
#include "tests/qtest/libqtest.h"
#include "tests/qtest/libqos/virtio.h"
#include "tests/qtest/libqos/virtio-pci.h"
#include "standard-headers/linux/virtio_balloon.h"
#include "standard-headers/linux/virtio_config.h"

/* Another type can be named to try the tests themselves on it. */
#ifndef VBR_TYPE
#define VBR_TYPE "virtio-balloon-rs"
#endif
#define VBR_PCI VBR_TYPE "-pci"
#define VBR_MMIO VBR_TYPE "-device"

#define VBR_ID "vbr"
#define VBR_PATH "/machine/peripheral/" VBR_ID

#define VBR_PAGE 4096ull
#define VBR_PAGE_SHIFT 12

/* How long a test waits for the device before it gives up. */
#define VBR_TIMEOUT_US (60 * G_USEC_PER_SEC)

/* A loop that waits for something: { "what" } before it begins. */
typedef struct VbrWait {
    const char *what;
    gint64 began;
} VbrWait;

/* Sleeps for a moment; fails the test when the loop has waited for too long. */
void vbr_wait(VbrWait *wait);

typedef enum VbrQueue {
    VBR_INFLATE,
    VBR_DEFLATE,
    VBR_STATS,
    VBR_HINT,
    VBR_REPORT,
    VBR_REQUEST,
    VBR_MISC,
    VBR_NQUEUES,
} VbrQueue;

/* Features of the series that founded this device, at their private bits. */
#define VBR_F_PAGE_RANGE 60
#define VBR_F_HOST_REQUEST 61
#define VBR_F_BALLOON_CHUNKS 62
#define VBR_F_MISC_QUEUE 63

/* Where those features are: historical bits have a meaning for each series. */
typedef enum VbrBits {
    VBR_BITS_PRIVATE,
    VBR_BITS_RANGE,
    VBR_BITS_CHUNKS,
} VbrBits;

typedef struct VbrRing {
    QVirtQueue *vq;
    uint16_t next;      /* descriptor that the next chain starts at */
    uint16_t avail;     /* index after the last buffer that was offered */
    uint16_t seen;      /* used index up to which buffers were taken back */
    uint16_t kicked;    /* available index at the last notification */
} VbrRing;

typedef struct VbrDev {
    QTestState *qts;
    QVirtioDevice *vdev;
    QVirtioPCIDevice *pci;      /* NULL: virtio-mmio */
    QGuestAllocator *alloc;
    uint64_t offered;
    VbrBits bits;
    VbrRing ring[VBR_NQUEUES];
    unsigned int arg;           /* of the case that is run */
} VbrDev;

typedef struct VbrSeg {
    uint64_t addr;
    uint32_t len;
    bool write;
} VbrSeg;

/* Reads what is offered, accepts all of it but @refuse, starts the device. */
void vbr_start(VbrDev *d, uint64_t refuse);
/*
 * Sets up a queue. A ring that it has had is emptied and used again, as setting
 * up another one takes two commands for each descriptor; for modern PCI only.
 */
void vbr_ring_setup(VbrDev *d, VbrQueue q);
/* Resets the device and starts it again on fresh rings. */
void vbr_restart(VbrDev *d, uint64_t refuse);
/* Resets the machine and makes the device reachable again. */
void vbr_system_reset(VbrDev *d);
bool vbr_has(VbrDev *d, unsigned int feature);
/* A queue's number: those that are offered have no gaps. */
uint16_t vbr_queue_index(VbrDev *d, VbrQueue q);
bool vbr_is_modern(VbrDev *d);

/* Guest memory in the byte order that the negotiated interface uses. */
uint16_t vbr_r16(VbrDev *d, uint64_t addr);
uint32_t vbr_r32(VbrDev *d, uint64_t addr);
void vbr_w16(VbrDev *d, uint64_t addr, uint16_t val);
void vbr_w32(VbrDev *d, uint64_t addr, uint32_t val);
void vbr_w64(VbrDev *d, uint64_t addr, uint64_t val);

/* Offers a chain without a notification, returns its head. */
uint16_t vbr_add(VbrDev *d, VbrQueue q, const VbrSeg *segs, unsigned int n);
/* The same through a table of indirect descriptors. */
uint16_t vbr_add_indirect(VbrDev *d, VbrQueue q, const VbrSeg *segs,
                          unsigned int n);
void vbr_notify(VbrDev *d, VbrQueue q);
/* How many used buffers were not taken back yet. */
uint16_t vbr_used(VbrDev *d, VbrQueue q);
/* Takes @n buffers back; the length of each must be 0. */
void vbr_take(VbrDev *d, VbrQueue q, unsigned int n);
/* Takes one buffer back, in which the device wrote @len bytes. */
void vbr_take_len(VbrDev *d, VbrQueue q, uint32_t len);
/* Lets the main loop of QEMU run for a while. */
void vbr_settle(VbrDev *d);

/* Writes PFNs to guest memory as the payload of one buffer. */
VbrSeg vbr_pfns(VbrDev *d, const uint32_t *pfns, size_t n);
/* One buffer with these PFNs: offer, notify, wait. */
void vbr_send(VbrDev *d, VbrQueue q, const uint32_t *pfns, size_t n);
/* The same for @n consecutive pages from @addr. */
void vbr_send_range(VbrDev *d, VbrQueue q, uint64_t addr, size_t n);

/* @n pages of guest memory, the first aligned to @align. */
uint64_t vbr_pages(VbrDev *d, size_t n, uint64_t align);

/* Configuration space: always little endian, all accesses as written. */
uint32_t vbr_config_read(VbrDev *d, unsigned int offset);
void vbr_config_write(VbrDev *d, unsigned int offset, unsigned int size,
                      uint32_t val);
void vbr_set_actual(VbrDev *d, uint32_t pages);

#endif
