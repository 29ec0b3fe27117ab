/*
 * virtio-balloon-rs: odd and hostile payloads on inflate and deflate
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-cases.h"
#include "vbr-probe.h"

#define NPAGES 16

static uint64_t filled_pages(VbrDev *d, size_t n)
{
    uint64_t base = vbr_pages(d, n, VBR_PAGE);

    vbr_fill(d, base, n, 0x5a);
    return base;
}

static VbrSeg pfns_of(VbrDev *d, uint64_t base, size_t n)
{
    g_autofree uint32_t *pfns = g_new(uint32_t, n);
    size_t i;

    for (i = 0; i < n; i++) {
        pfns[i] = (base >> VBR_PAGE_SHIFT) + i;
    }
    return vbr_pfns(d, pfns, n);
}

static void send_segs(VbrDev *d, VbrQueue q, const VbrSeg *segs,
                      unsigned int n)
{
    vbr_add(d, q, segs, n);
    vbr_notify(d, q);
    vbr_take(d, q, 1);
}

/* Cuts a payload into descriptors of @step bytes. */
static unsigned int cut(VbrSeg *out, VbrSeg seg, uint32_t step)
{
    unsigned int n = 0;

    while (seg.len) {
        uint32_t len = MIN(step, seg.len);

        out[n++] = (VbrSeg) { .addr = seg.addr, .len = len };
        seg.addr += len;
        seg.len -= len;
    }
    return n;
}

/* Every cut but 4 has PFNs that lie in two descriptors, or in four. */
static void test_split(VbrDev *d)
{
    static const uint32_t steps[] = { 1, 2, 3, 4, 5, 7, 63 };
    VbrSeg segs[NPAGES * 4];
    int i;

    vbr_start(d, 0);
    for (i = 0; i < ARRAY_SIZE(steps); i++) {
        uint64_t base = filled_pages(d, NPAGES + 1);
        unsigned int n = cut(segs, pfns_of(d, base, NPAGES), steps[i]);

        send_segs(d, VBR_INFLATE, segs, n);
        vbr_assert_kept(d, base + NPAGES * VBR_PAGE, 1, 0x5a);
        vbr_assert_gone(d, base, NPAGES);
    }
    vbr_assert_counter(d, "ignored-trailing-bytes", 0);
    vbr_assert_counter(d, "ignored-bad-pfns", 0);
}

static void test_indirect(VbrDev *d)
{
    VbrSeg segs[NPAGES * 4];
    uint64_t base;
    unsigned int n;

    vbr_start(d, 0);
    base = filled_pages(d, NPAGES);
    n = cut(segs, pfns_of(d, base, NPAGES), 1);
    vbr_add_indirect(d, VBR_INFLATE, segs, n);
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, 1);
    vbr_assert_gone(d, base, NPAGES);
}

/* One to three bytes after the last whole PFN. */
static void test_trailing(VbrDev *d)
{
    uint32_t extra;

    vbr_start(d, 0);
    for (extra = 1; extra <= 3; extra++) {
        uint64_t base = filled_pages(d, NPAGES + 1);
        VbrSeg seg = pfns_of(d, base, NPAGES + 1);

        seg.len -= 4 - extra;
        send_segs(d, VBR_INFLATE, &seg, 1);
        vbr_assert_kept(d, base + NPAGES * VBR_PAGE, 1, 0x5a);
        vbr_assert_gone(d, base, NPAGES);
    }
    vbr_assert_counter(d, "ignored-trailing-bytes", 1 + 2 + 3);
    vbr_assert_counter(d, "inflated-bytes", 3 * NPAGES * VBR_PAGE);
}

/* What is left of one buffer is not the start of the next one's PFN. */
static void test_trailing_alone(VbrDev *d)
{
    uint64_t base;
    VbrSeg seg;

    vbr_start(d, 0);
    base = filled_pages(d, NPAGES);
    seg = pfns_of(d, base, 1);
    seg.len = 2;
    vbr_add(d, VBR_INFLATE, &seg, 1);
    seg = pfns_of(d, base, NPAGES);
    vbr_add(d, VBR_INFLATE, &seg, 1);
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, 2);
    vbr_assert_gone(d, base, NPAGES);
    vbr_assert_counter(d, "ignored-trailing-bytes", 2);
    vbr_assert_counter(d, "ignored-bad-pfns", 0);
}

/* A buffer for the device to write in says nothing about pages. */
static void check_writable(VbrDev *d, VbrQueue q)
{
    uint64_t base;
    VbrSeg seg[2];

    vbr_start(d, 0);
    base = filled_pages(d, NPAGES);
    seg[0] = pfns_of(d, base, NPAGES);
    seg[0].write = true;
    send_segs(d, q, seg, 1);
    vbr_assert_kept(d, base, NPAGES, 0x5a);
    vbr_assert_counter(d, "ignored-writable-buffers", 1);

    /* Readable, then writable: the readable part counts. */
    seg[1] = seg[0];
    seg[0] = pfns_of(d, base, 1);
    send_segs(d, q, seg, 2);
    vbr_assert_counter(d, "ignored-writable-buffers", 2);
    vbr_assert_kept(d, base + VBR_PAGE, NPAGES - 1, 0x5a);
    if (q == VBR_INFLATE) {
        vbr_assert_gone(d, base, 1);
    }
}

static void test_writable(VbrDev *d)
{
    check_writable(d, VBR_INFLATE);
}

static void test_writable_deflate(VbrDev *d)
{
    check_writable(d, VBR_DEFLATE);
}

static bool is_x86(void)
{
    return !strcmp(qtest_get_arch(), "x86_64") ||
           !strcmp(qtest_get_arch(), "i386");
}

/*
 * Pages that are no RAM: far beyond it, and on x86 the interrupt
 * controllers (MMIO) and the firmware at its place below 4 GiB, which is
 * ROM on a PC and RAM on a microvm.
 */
static size_t bad_pfns(VbrDev *d, uint32_t *pfns)
{
    size_t n = 0;

    pfns[n++] = 0xffffffff;
    pfns[n++] = 0xfffffff0;
    pfns[n++] = 0x80000000;
    if (is_x86()) {
        pfns[n++] = 0xfec00;
        pfns[n++] = 0xfee00;
    }
    if (is_x86() && d->pci) {
        pfns[n++] = 0xffff0;
        pfns[n++] = 0xfffff;
    }
    return n;
}

/* Bad ones among good ones: those are counted, these are still done. */
static void check_bad_pfns(VbrDev *d, VbrQueue q)
{
    uint32_t pfns[64];
    uint64_t base;
    size_t bad, i;

    vbr_start(d, 0);
    base = filled_pages(d, NPAGES);
    bad = bad_pfns(d, pfns);
    for (i = 0; i < NPAGES; i++) {
        pfns[bad + i] = (base >> VBR_PAGE_SHIFT) + i;
    }
    vbr_send(d, q, pfns, bad + NPAGES);
    vbr_assert_counter(d, "ignored-bad-pfns", bad);
    if (q == VBR_INFLATE) {
        vbr_assert_counter(d, "inflated-bytes", NPAGES * VBR_PAGE);
        vbr_assert_gone(d, base, NPAGES);
    } else {
        vbr_assert_counter(d, "deflated-bytes", NPAGES * VBR_PAGE);
        vbr_assert_kept(d, base, NPAGES, 0x5a);
    }
    vbr_assert_counter(d, "discard-errors", 0);
    g_assert(!vbr_is_broken(d));
}

static void test_bad(VbrDev *d)
{
    check_bad_pfns(d, VBR_INFLATE);
}

static void test_bad_deflate(VbrDev *d)
{
    check_bad_pfns(d, VBR_DEFLATE);
}

/*
 * A run of PFNs from the last pages of RAM into nothing.  It is one range
 * for the guest; the device has to cut it where RAM ends.
 */
static void test_across_end(VbrDev *d)
{
    uint64_t top, size = vbr_query_balloon(d->qts);

    if (!is_x86() || size > 2 * GiB) {
        g_test_skip("the end of RAM is known for small x86 machines only");
        return;
    }
    vbr_start(d, 0);
    top = size - NPAGES * VBR_PAGE;
    vbr_fill(d, top, NPAGES, 0x5a);
    vbr_send_range(d, VBR_INFLATE, top + VBR_PAGE, 2 * NPAGES);
    vbr_assert_kept(d, top, 1, 0x5a);
    vbr_assert_gone(d, top + VBR_PAGE, NPAGES - 1);
    vbr_assert_counter(d, "inflated-bytes", (NPAGES - 1) * VBR_PAGE);
    vbr_assert_counter(d, "ignored-bad-pfns", NPAGES + 1);
}

/*
 * A guest that balloons its own rings takes them away from itself and
 * from the device in the middle of the work.  What it gets is its own
 * fault; QEMU goes on, and a reset puts everything right.
 */
static void check_ring(VbrDev *d, uint64_t addr, size_t pages)
{
    uint64_t base;
    VbrSeg seg = pfns_of(d, addr, pages);

    vbr_add(d, VBR_INFLATE, &seg, 1);
    vbr_notify(d, VBR_INFLATE);
    vbr_settle(d);
    vbr_restart(d, 0);
    base = filled_pages(d, NPAGES);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    vbr_assert_gone(d, base, NPAGES);
    g_assert(!vbr_is_broken(d));
}

static void test_ring(VbrDev *d)
{
    vbr_start(d, 0);
    check_ring(d, d->ring[VBR_INFLATE].vq->desc, 3);
    check_ring(d, d->ring[VBR_DEFLATE].vq->desc, 3);
    check_ring(d, d->ring[VBR_STATS].vq->desc, 3);
    check_ring(d, QEMU_ALIGN_DOWN(d->ring[VBR_INFLATE].vq->used, VBR_PAGE), 1);
}

/* The page that holds the payload itself. */
static void test_payload(VbrDev *d)
{
    VbrSeg seg;
    uint64_t page;

    vbr_start(d, 0);
    page = filled_pages(d, 1);
    seg = pfns_of(d, page, 1);
    vbr_w32(d, page, page >> VBR_PAGE_SHIFT);
    seg.addr = page;
    send_segs(d, VBR_INFLATE, &seg, 1);
    vbr_assert_gone(d, page, 1);
}

const VbrCase vbr_input_cases[] = {
    { "split", test_split },
    { "indirect", test_indirect },
    { "trailing", test_trailing },
    { "trailing-alone", test_trailing_alone },
    { "writable", test_writable },
    { "writable-deflate", test_writable_deflate },
    { "bad-pfns", test_bad },
    { "bad-pfns-deflate", test_bad_deflate },
    { "across-end-of-ram", test_across_end },
    { "ring", test_ring },
    { "payload", test_payload },
    { }
};
