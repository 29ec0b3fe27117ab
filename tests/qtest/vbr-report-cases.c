/*
 * virtio-balloon-rs: free page reporting
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-cases.h"
#include "vbr-probe.h"

#define OPTS "free-page-reporting=on"
#define POISON offsetof(struct virtio_balloon_config, poison_val)
#define NPAGES 32

static void report(VbrDev *d, const VbrSeg *segs, unsigned int n)
{
    vbr_add(d, VBR_REPORT, segs, n);
    vbr_notify(d, VBR_REPORT);
    vbr_take(d, VBR_REPORT, 1);
}

static VbrSeg seg_of(uint64_t addr, uint32_t len)
{
    return (VbrSeg) { .addr = addr, .len = len, .write = true };
}

/* Filled pages, with one more on either side of what is returned. */
static uint64_t filled_pages(VbrDev *d, size_t n)
{
    uint64_t base = vbr_pages(d, n + 2, VBR_PAGE);

    vbr_fill(d, base, n + 2, 0x6b);
    return base + VBR_PAGE;
}

static void assert_neighbours(VbrDev *d, uint64_t base, size_t n)
{
    vbr_assert_kept(d, base - VBR_PAGE, 1, 0x6b);
    vbr_assert_kept(d, base + n * VBR_PAGE, 1, 0x6b);
}

static void test_basic(VbrDev *d)
{
    uint64_t base;
    VbrSeg seg;

    vbr_start(d, 0);
    base = filled_pages(d, NPAGES);
    seg = seg_of(base, NPAGES * VBR_PAGE);
    report(d, &seg, 1);
    assert_neighbours(d, base, NPAGES);
    vbr_assert_gone(d, base, NPAGES);
    vbr_assert_counter(d, "reported-bytes", NPAGES * VBR_PAGE);
    vbr_assert_counter(d, "discarded-bytes", NPAGES * VBR_PAGE);
    vbr_assert_counter(d, "inflated-bytes", 0);
    vbr_assert_counter(d, "ballooned-bytes", 0);
}

/* Inward at both ends: a page that is reported in part stays. */
static void test_unaligned(VbrDev *d)
{
    uint64_t base;
    VbrSeg seg;

    vbr_start(d, 0);
    base = filled_pages(d, NPAGES);
    seg = seg_of(base + 100, NPAGES * VBR_PAGE - 100 - 200);
    report(d, &seg, 1);
    vbr_assert_kept(d, base, 1, 0x6b);
    vbr_assert_kept(d, base + (NPAGES - 1) * VBR_PAGE, 1, 0x6b);
    vbr_assert_gone(d, base + VBR_PAGE, NPAGES - 2);
    vbr_assert_counter(d, "ignored-report-unaligned-bytes",
                       2 * VBR_PAGE - 100 - 200);
    vbr_assert_counter(d, "discarded-bytes", (NPAGES - 2) * VBR_PAGE);
}

/* Less than a page, and parts of two pages with no whole one in it. */
static void test_too_small(VbrDev *d)
{
    uint64_t base;
    VbrSeg seg;

    vbr_start(d, 0);
    base = filled_pages(d, 2);
    seg = seg_of(base + 16, 64);
    report(d, &seg, 1);
    seg = seg_of(base + 1, 2 * VBR_PAGE - 2);
    report(d, &seg, 1);
    vbr_assert_kept(d, base, 2, 0x6b);
    vbr_assert_counter(d, "ignored-report-unaligned-bytes",
                       64 + 2 * VBR_PAGE - 2);
    vbr_assert_counter(d, "discards", 0);
}

/* As many descriptors as a Linux driver sends, apart and out of order. */
static void test_32_descriptors(VbrDev *d)
{
    VbrSeg segs[32];
    uint64_t base;
    int i;

    vbr_start(d, 0);
    g_assert_cmpuint(d->ring[VBR_REPORT].vq->size, >=, 32);
    base = filled_pages(d, 64);
    for (i = 0; i < 32; i++) {
        segs[i] = seg_of(base + (62 - 2 * i) * VBR_PAGE, VBR_PAGE);
    }
    report(d, segs, 32);
    for (i = 0; i < 32; i++) {
        vbr_assert_gone(d, base + 2 * i * VBR_PAGE, 1);
        vbr_assert_kept(d, base + (2 * i + 1) * VBR_PAGE, 1, 0x6b);
    }
    vbr_assert_counter(d, "reported-bytes", 32 * VBR_PAGE);
    vbr_assert_counter(d, "discards", 32);
}

/* Side by side they are one range. */
static void test_merged(VbrDev *d)
{
    VbrSeg segs[32];
    uint64_t base;
    int i;

    vbr_start(d, 0);
    base = filled_pages(d, 32);
    for (i = 0; i < 32; i++) {
        segs[i] = seg_of(base + i * VBR_PAGE, VBR_PAGE);
    }
    report(d, segs, 32);
    assert_neighbours(d, base, 32);
    vbr_assert_gone(d, base, 32);
    vbr_assert_counter(d, "ranges", 1);
}

/* A buffer that the device may only read is no report. */
static void test_readable(VbrDev *d)
{
    uint64_t base;
    VbrSeg seg;

    vbr_start(d, 0);
    base = filled_pages(d, NPAGES);
    seg = seg_of(base, NPAGES * VBR_PAGE);
    seg.write = false;
    report(d, &seg, 1);
    vbr_assert_kept(d, base, NPAGES, 0x6b);
    vbr_assert_counter(d, "ignored-readable-buffers", 1);
    vbr_assert_counter(d, "reported-bytes", 0);
}

/* Pages must keep a poison that a discard would replace by zeroes. */
static void test_poison(VbrDev *d)
{
    uint64_t base;
    VbrSeg seg;

    vbr_start(d, 0);
    base = filled_pages(d, NPAGES);
    seg = seg_of(base, NPAGES * VBR_PAGE);
    vbr_config_write(d, POISON, 4, 0x6b6b6b6b);
    report(d, &seg, 1);
    vbr_assert_kept(d, base, NPAGES, 0x6b);
    vbr_assert_counter(d, "ignored-report-poison-bytes", NPAGES * VBR_PAGE);
    vbr_assert_counter(d, "discards", 0);

    /* The content does not count when the guest clears its free pages. */
    vbr_config_write(d, POISON, 4, 0);
    report(d, &seg, 1);
    vbr_assert_gone(d, base, NPAGES);

    /* The balloon's own pages are not free pages: poison is no reason. */
    vbr_fill(d, base, NPAGES, 0x6b);
    vbr_config_write(d, POISON, 4, 0x6b6b6b6b);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    vbr_assert_gone(d, base, NPAGES);
}

/* poison_val without the feature is nothing. */
static void test_poison_refused(VbrDev *d)
{
    uint64_t base;
    VbrSeg seg;

    vbr_start(d, 1ull << VIRTIO_BALLOON_F_PAGE_POISON);
    base = filled_pages(d, NPAGES);
    seg = seg_of(base, NPAGES * VBR_PAGE);
    vbr_config_write(d, POISON, 4, 0x6b6b6b6b);
    report(d, &seg, 1);
    vbr_assert_gone(d, base, NPAGES);
}

static bool small_x86(VbrDev *d, uint64_t size)
{
    return !strcmp(qtest_get_arch(), "x86_64") && size <= 2 * GiB;
}

/*
 * From the last page of RAM into the page after it, which is nothing.
 * QEMU maps that with a bounce buffer; the device has to see that it is
 * no guest memory.  The page inside RAM counts.
 */
static void test_past_end(VbrDev *d)
{
    uint64_t size = vbr_query_balloon(d->qts);
    VbrSeg seg;

    if (!small_x86(d, size)) {
        g_test_skip("the end of RAM is known for small x86 machines only");
        return;
    }
    vbr_start(d, 0);
    vbr_fill(d, size - 2 * VBR_PAGE, 2, 0x6b);
    seg = seg_of(size - VBR_PAGE, 2 * VBR_PAGE);
    report(d, &seg, 1);
    vbr_assert_kept(d, size - 2 * VBR_PAGE, 1, 0x6b);
    vbr_assert_gone(d, size - VBR_PAGE, 1);
    vbr_assert_counter(d, "ignored-report-bytes", VBR_PAGE);
    vbr_assert_counter(d, "reported-bytes", VBR_PAGE);
    g_assert(!vbr_is_broken(d));
}

/* Nothing at all behind the address. */
static void test_outside(VbrDev *d)
{
    uint64_t size = vbr_query_balloon(d->qts), base;
    VbrSeg seg;

    if (!small_x86(d, size)) {
        g_test_skip("the end of RAM is known for small x86 machines only");
        return;
    }
    vbr_start(d, 0);
    seg = seg_of(size + 16 * MiB, VBR_PAGE);
    report(d, &seg, 1);
    vbr_assert_counter(d, "ignored-report-bytes", VBR_PAGE);
    vbr_assert_counter(d, "reported-bytes", 0);

    /* More than can be bounced: the device is broken, QEMU is not. */
    seg = seg_of(size + 16 * MiB, 1 * MiB);
    vbr_add(d, VBR_REPORT, &seg, 1);
    vbr_notify(d, VBR_REPORT);
    vbr_settle(d);
    vbr_restart(d, 0);
    g_assert(!vbr_is_broken(d));
    base = filled_pages(d, NPAGES);
    seg = seg_of(base, NPAGES * VBR_PAGE);
    report(d, &seg, 1);
    vbr_assert_gone(d, base, NPAGES);
}

/* The feature was not accepted: the queue is dead. */
static void test_refused(VbrDev *d)
{
    uint64_t base;
    VbrSeg seg;

    vbr_start(d, 1ull << VIRTIO_BALLOON_F_REPORTING);
    base = filled_pages(d, NPAGES);
    seg = seg_of(base, NPAGES * VBR_PAGE);
    vbr_add(d, VBR_REPORT, &seg, 1);
    vbr_notify(d, VBR_REPORT);
    vbr_settle(d);
    vbr_assert_counter(d, "discard-errors", 0);
}

const VbrCase vbr_report_cases[] = {
    { "basic", test_basic, OPTS },
    { "unaligned", test_unaligned, OPTS },
    { "too-small", test_too_small, OPTS },
    { "32-descriptors", test_32_descriptors, OPTS },
    { "merged", test_merged, OPTS },
    { "readable", test_readable, OPTS },
    { "poison", test_poison, OPTS },
    { "poison-refused", test_poison_refused, OPTS },
    { "past-end", test_past_end, OPTS },
    { "outside", test_outside, OPTS },
    { "refused", test_refused, OPTS },
    { }
};
