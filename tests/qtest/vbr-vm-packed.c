/*
 * virtio-balloon-rs: the statistics buffer on a packed ring, saved and loaded
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vm.h"

#define DESC_NEXT 1
#define DESC_AVAIL (1 << 7)
#define DESC_USED (1 << 15)
#define STAT_SIZE 10
#define ARGS "-device " VBR_PCI "," VBR_SLOT_ARG ",packed=on"

/* A driver's side of a packed ring. */
typedef struct Packed {
    QVirtQueue *vq;
    unsigned int at;
    bool wrap;
} Packed;

static uint64_t desc(const Packed *ring, unsigned int at)
{
    return ring->vq->desc + 16 * at;
}

/* One chain, of a statistic in each descriptor. */
static void offer(VbrDev *d, Packed *ring, const uint16_t *tags, unsigned int n)
{
    uint64_t addr = guest_alloc(d->alloc, n * STAT_SIZE);
    unsigned int head = ring->at, i;
    uint16_t head_flags = 0;

    for (i = 0; i < n; i++) {
        uint16_t flags = (i < n - 1 ? DESC_NEXT : 0) |
                         (ring->wrap ? DESC_AVAIL : DESC_USED);

        qtest_writew(d->qts, addr, tags[i]);
        qtest_writeq(d->qts, addr + 2, 100 + tags[i]);
        qtest_writeq(d->qts, desc(ring, ring->at), addr);
        qtest_writel(d->qts, desc(ring, ring->at) + 8, STAT_SIZE);
        qtest_writew(d->qts, desc(ring, ring->at) + 12, head);
        if (i) {
            qtest_writew(d->qts, desc(ring, ring->at) + 14, flags);
        } else {
            head_flags = flags;
        }
        addr += STAT_SIZE;
        if (++ring->at == ring->vq->size) {
            ring->at = 0;
            ring->wrap = !ring->wrap;
        }
    }
    qtest_writew(d->qts, desc(ring, head) + 14, head_flags);
    d->vdev->bus->virtqueue_kick(d->vdev, ring->vq);
    vbr_settle(d);
}

/* Whether what was offered at a place is the driver's again. */
static bool is_used(VbrDev *d, const Packed *ring, unsigned int at, bool wrap)
{
    uint16_t both = DESC_AVAIL | DESC_USED;
    uint16_t flags = qtest_readw(d->qts, desc(ring, at) + 14) & both;

    return flags == (wrap ? both : 0);
}

static void check(unsigned int n, bool at_the_end)
{
    static const uint16_t tags[] = { VIRTIO_BALLOON_S_MEMFREE,
                                     VIRTIO_BALLOON_S_MEMTOT };
    g_autofree char *file = vbr_stream_name();
    VbrVm *from = vbr_pc(ARGS), *to = vbr_pc(ARGS " -incoming defer");
    VbrDev *d = &from->d;
    Packed ring = { .wrap = true }, first, second;

    vbr_vm_attach(from, VBR_SLOT);
    vbr_start(d, 0);
    vbr_poll_stats(d, 1);
    ring.vq = d->ring[VBR_STATS].vq;
    qtest_memset(d->qts, ring.vq->desc, 0, 16 * ring.vq->size);
    while (at_the_end && ring.at != ring.vq->size - 1) {
        offer(d, &ring, tags + 1, 1);
    }
    first = ring;
    offer(d, &ring, tags, n);

    vbr_stream_save(from->qts, file);
    g_assert(vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    vbr_stream_adopt(to, from);
    d = &to->d;
    vbr_settle(d);
    /* The same buffer is held again, and all of it was read. */
    g_assert_cmpuint(vbr_stat(d, "stat-free-memory"), ==,
                     100 + VIRTIO_BALLOON_S_MEMFREE);
    g_assert(!is_used(d, &ring, first.at, first.wrap));
    qtest_clock_step(d->qts, 2 * NANOSECONDS_PER_SECOND);
    g_assert(is_used(d, &ring, first.at, first.wrap));
    second = ring;
    offer(d, &ring, tags + 1, 1);
    g_assert_cmpuint(vbr_stat(d, "stat-total-memory"), ==,
                     100 + VIRTIO_BALLOON_S_MEMTOT);
    qtest_clock_step(d->qts, 2 * NANOSECONDS_PER_SECOND);
    g_assert(is_used(d, &ring, second.at, second.wrap));
    g_assert(!vbr_is_broken(d));
    vbr_vm_free(from);
    vbr_vm_free(to);
}

static void test_one(void)
{
    check(1, false);
    check(1, true);
}

static void test_chain(void)
{
    check(2, false);
}

static void test_chain_around_the_end(void)
{
    check(2, true);
}

void vbr_add_packed_tests(void)
{
    qtest_add_func("virtio-balloon-rs/packed/stats", test_one);
    qtest_add_func("virtio-balloon-rs/packed/stats-chain", test_chain);
    qtest_add_func("virtio-balloon-rs/packed/stats-chain-around-the-end",
                   test_chain_around_the_end);
}
