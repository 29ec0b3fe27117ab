/*
 * virtio-balloon-rs: batches and their bounds
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-cases.h"
#include "vbr-probe.h"

/* What the device takes at a time, as its documentation says. */
#define BATCH_PFNS 32768
#define BATCH_BUFFERS 128

/*
 * As many buffers as the queue holds, one page each, one notification:
 * one batch, one range, one discard, all given back.
 */
static void test_full_queue(VbrDev *d)
{
    uint16_t heads[BATCH_BUFFERS];
    VbrRing *r = &d->ring[VBR_INFLATE];
    uint64_t base;
    int i;

    vbr_start(d, 0);
    g_assert_cmpuint(r->vq->size, >=, BATCH_BUFFERS);
    base = vbr_pages(d, BATCH_BUFFERS, VBR_PAGE);
    vbr_fill(d, base, BATCH_BUFFERS, 0x21);
    for (i = 0; i < BATCH_BUFFERS; i++) {
        uint32_t pfn = (base >> VBR_PAGE_SHIFT) + i;
        VbrSeg seg = vbr_pfns(d, &pfn, 1);

        heads[i] = vbr_add(d, VBR_INFLATE, &seg, 1);
    }
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, BATCH_BUFFERS);
    for (i = 0; i < BATCH_BUFFERS; i++) {
        g_assert_cmpuint(vbr_r32(d, r->vq->used + 4 + 8 * i), ==, heads[i]);
    }
    vbr_assert_gone(d, base, BATCH_BUFFERS);
    vbr_assert_counter(d, "batches", 1);
    vbr_assert_counter(d, "ranges", 1);
    vbr_assert_counter(d, "discards", 1);
}

/* More buffers than a batch holds, where the queue has room for them. */
static void test_many_buffers(VbrDev *d)
{
    unsigned int i, n;
    uint64_t base;

    vbr_start(d, 0);
    n = MIN(d->ring[VBR_INFLATE].vq->size, 2 * BATCH_BUFFERS + 44);
    base = vbr_pages(d, n, VBR_PAGE);
    vbr_fill(d, base, n, 0x23);
    for (i = 0; i < n; i++) {
        uint32_t pfn = (base >> VBR_PAGE_SHIFT) + i;
        VbrSeg seg = vbr_pfns(d, &pfn, 1);

        vbr_add(d, VBR_INFLATE, &seg, 1);
    }
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, n);
    vbr_assert_gone(d, base, n);
    vbr_assert_counter(d, "batches", DIV_ROUND_UP(n, BATCH_BUFFERS));
    vbr_assert_counter(d, "inflated-bytes", n * VBR_PAGE);
}

/* No buffer of a batch comes back before the others. */
static void test_together(VbrDev *d)
{
    uint64_t base;
    uint16_t used;
    int i, n = 64;

    vbr_start(d, 0);
    base = vbr_pages(d, n * 256, VBR_PAGE);
    for (i = 0; i < n; i++) {
        uint32_t pfns[256];
        VbrSeg seg;
        int j;

        for (j = 0; j < 256; j++) {
            pfns[j] = (base >> VBR_PAGE_SHIFT) + j * n + i;
        }
        seg = vbr_pfns(d, pfns, 256);
        vbr_add(d, VBR_INFLATE, &seg, 1);
    }
    vbr_notify(d, VBR_INFLATE);
    do {
        used = vbr_used(d, VBR_INFLATE);
        g_assert(used == 0 || used == n);
    } while (!used);
    vbr_take(d, VBR_INFLATE, n);
    vbr_assert_counter(d, "batches", 1);
    vbr_assert_counter(d, "ranges", 1);
    vbr_assert_counter(d, "inflated-bytes", n * 256 * VBR_PAGE);
}

/*
 * More than one batch holds, in one buffer: nothing is lost at the seams.
 * The pages come @count / @pages times over.
 */
static void check_long_buffer(VbrDev *d, size_t count, size_t pages)
{
    g_autofree uint32_t *pfns = g_new(uint32_t, count);
    uint64_t base;
    size_t i;

    vbr_start(d, 0);
    base = vbr_pages(d, pages, VBR_PAGE);
    vbr_fill(d, base, pages, 0x31);
    for (i = 0; i < count; i++) {
        pfns[i] = (base >> VBR_PAGE_SHIFT) + i % pages;
    }
    vbr_send(d, VBR_INFLATE, pfns, count);
    vbr_assert_gone(d, base, pages);
}

static void test_exact_bound(VbrDev *d)
{
    check_long_buffer(d, BATCH_PFNS, 64);
    vbr_assert_counter(d, "ranges", 1);
    vbr_assert_counter(d, "inflated-bytes", 64 * VBR_PAGE);
}

static void test_past_bound(VbrDev *d)
{
    check_long_buffer(d, BATCH_PFNS + 1, 64);
    g_assert_cmpuint(vbr_counter(d, "ranges"), >=, 2);
}

static void test_far_past_bound(VbrDev *d)
{
    check_long_buffer(d, 10 * BATCH_PFNS + 17, 64);
    g_assert_cmpuint(vbr_counter(d, "inflated-bytes"), >=, 64 * VBR_PAGE);
}

/* A PFN that lies across the bound, cut into two descriptors there. */
static void test_cut_at_bound(VbrDev *d)
{
    g_autofree uint32_t *pfns = g_new(uint32_t, BATCH_PFNS + 1);
    uint64_t base;
    VbrSeg segs[2];
    size_t i;

    vbr_start(d, 0);
    base = vbr_pages(d, 2, VBR_PAGE);
    vbr_fill(d, base, 2, 0x41);
    for (i = 0; i < BATCH_PFNS; i++) {
        pfns[i] = base >> VBR_PAGE_SHIFT;
    }
    pfns[BATCH_PFNS] = (base >> VBR_PAGE_SHIFT) + 1;
    segs[0] = vbr_pfns(d, pfns, BATCH_PFNS + 1);
    segs[1] = segs[0];
    segs[0].len -= 3;
    segs[1].addr += segs[0].len;
    segs[1].len = 3;
    vbr_add(d, VBR_INFLATE, segs, 2);
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, 1);
    vbr_assert_gone(d, base, 2);
    vbr_assert_counter(d, "ignored-trailing-bytes", 0);
}

/* Both queues at once: all comes back, no page of the one in the other. */
static void test_two_queues(VbrDev *d)
{
    size_t n = 64, i;
    uint64_t in, out;

    vbr_start(d, 0);
    in = vbr_pages(d, n, VBR_PAGE);
    out = vbr_pages(d, n, VBR_PAGE);
    vbr_fill(d, in, n, 0x61);
    vbr_fill(d, out, n, 0x62);
    for (i = 0; i < n; i++) {
        uint32_t pfn = (in >> VBR_PAGE_SHIFT) + i;
        VbrSeg seg = vbr_pfns(d, &pfn, 1);

        vbr_add(d, VBR_INFLATE, &seg, 1);
        pfn = (out >> VBR_PAGE_SHIFT) + i;
        seg = vbr_pfns(d, &pfn, 1);
        vbr_add(d, VBR_DEFLATE, &seg, 1);
    }
    vbr_notify(d, VBR_DEFLATE);
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, n);
    vbr_take(d, VBR_DEFLATE, n);
    vbr_assert_gone(d, in, n);
    vbr_assert_kept(d, out, n, 0x62);
    vbr_assert_counter(d, "inflated-bytes", n * VBR_PAGE);
    vbr_assert_counter(d, "deflated-bytes", n * VBR_PAGE);
}

/* The ring wraps round many times. */
static void test_wrap(VbrDev *d)
{
    uint64_t base;
    int i;

    vbr_start(d, 0);
    base = vbr_pages(d, 8, VBR_PAGE);
    for (i = 0; i < 1000; i++) {
        vbr_send_range(d, VBR_INFLATE, base, 8);
    }
    vbr_assert_counter(d, "inflated-bytes", 1000 * 8 * VBR_PAGE);
    vbr_assert_counter(d, "batches", 1000);
}

const VbrCase vbr_batch_cases[] = {
    { "full-queue", test_full_queue },
    { "many-buffers", test_many_buffers },
    { "together", test_together },
    { "exact-bound", test_exact_bound },
    { "past-bound", test_past_bound },
    { "far-past-bound", test_far_past_bound },
    { "cut-at-bound", test_cut_at_bound },
    { "two-queues", test_two_queues },
    { "wrap", test_wrap },
    { }
};
