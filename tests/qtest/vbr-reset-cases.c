/*
 * virtio-balloon-rs: resets, stops and panics at awkward moments
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-cases.h"
#include "vbr-probe.h"

#define NPAGES 16

/* So long a payload of zeroes that it takes the device many turns. */
#define BIG_PAYLOAD (64 * MiB)

/* The device works: pages given to it are gone, and no others. */
static void assert_works(VbrDev *d)
{
    uint64_t base = vbr_pages(d, NPAGES + 1, VBR_PAGE);

    vbr_fill(d, base, NPAGES + 1, 0x2d);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    vbr_assert_kept(d, base + NPAGES * VBR_PAGE, 1, 0x2d);
    vbr_assert_gone(d, base, NPAGES);
    g_assert(!vbr_is_broken(d));
}

static void offer_stats(VbrDev *d)
{
    VbrSeg seg = { .addr = vbr_pages(d, 1, VBR_PAGE), .len = 10 };

    vbr_add(d, VBR_STATS, &seg, 1);
    vbr_notify(d, VBR_STATS);
}

/* 200 resets, by the driver and of the machine, with a timer running. */
static void test_many(VbrDev *d)
{
    int i;

    vbr_start(d, 0);
    vbr_poll_stats(d, 1);
    for (i = 0; i < 200; i++) {
        VbrSeg seg = { .addr = 1 * MiB, .len = 4096 };

        offer_stats(d);
        vbr_add(d, VBR_INFLATE, &seg, 1);
        vbr_notify(d, VBR_INFLATE);
        if (i % 3 == 0) {
            qtest_clock_step(d->qts, NANOSECONDS_PER_SECOND);
        }
        if (i % 2) {
            qvirtio_reset(d->vdev);
        } else {
            vbr_system_reset(d);
        }
        vbr_restart(d, 0);
    }
    assert_works(d);
}

/* PFN 0, very often: RAM on every machine that has RAM at 0. */
static void start_big_request(VbrDev *d)
{
    VbrSeg seg = { .len = BIG_PAYLOAD };

    seg.addr = guest_alloc(d->alloc, BIG_PAYLOAD);
    vbr_add(d, VBR_INFLATE, &seg, 1);
    vbr_notify(d, VBR_INFLATE);
    g_assert_cmpuint(vbr_used(d, VBR_INFLATE), ==, 0);
}

static void test_reset_in_request(VbrDev *d)
{
    uint64_t batches;

    vbr_start(d, 0);
    start_big_request(d);
    vbr_restart(d, 0);
    batches = vbr_counter(d, "batches");
    vbr_settle(d);
    /* What was held is dropped: no more work, nothing on the new ring. */
    vbr_assert_counter(d, "batches", batches);
    g_assert_cmpuint(vbr_used(d, VBR_INFLATE), ==, 0);
    assert_works(d);
}

static void test_system_reset_in_request(VbrDev *d)
{
    vbr_start(d, 0);
    start_big_request(d);
    vbr_system_reset(d);
    vbr_settle(d);
    vbr_restart(d, 0);
    assert_works(d);
}

/* Nothing is done while the machine is stopped; after cont it is. */
static void test_stop_in_request(VbrDev *d)
{
    uint64_t batches;

    vbr_start(d, 0);
    start_big_request(d);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'stop' }");
    batches = vbr_counter(d, "batches");
    vbr_settle(d);
    vbr_assert_counter(d, "batches", batches);
    g_assert_cmpuint(vbr_used(d, VBR_INFLATE), ==, 0);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'cont' }");
    vbr_take(d, VBR_INFLATE, 1);
    assert_works(d);
}

/* A buffer that is offered while the machine is stopped waits for cont. */
static void test_kick_while_stopped(VbrDev *d)
{
    uint32_t pfn;
    uint64_t base;
    VbrSeg seg;

    vbr_start(d, 0);
    base = vbr_pages(d, 1, VBR_PAGE);
    vbr_fill(d, base, 1, 0x3f);
    pfn = base >> VBR_PAGE_SHIFT;
    seg = vbr_pfns(d, &pfn, 1);
    vbr_add(d, VBR_INFLATE, &seg, 1);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'stop' }");
    vbr_notify(d, VBR_INFLATE);
    vbr_settle(d);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'cont' }");
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, 1);
    vbr_assert_gone(d, base, 1);
}

const VbrCase vbr_reset_cases[] = {
    { "many", test_many },
    { "in-request", test_reset_in_request },
    { "system-in-request", test_system_reset_in_request },
    { "stop-in-request", test_stop_in_request },
    { "kick-while-stopped", test_kick_while_stopped },
    { }
};
