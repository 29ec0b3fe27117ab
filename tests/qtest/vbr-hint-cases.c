/*
 * virtio-balloon-rs: rounds of free page hints
 *
 * Each case migrates to nowhere, so slowly that the pages it hints at are not
 * sent before it is done with them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-cases.h"
#include "vbr-hint.h"
#include "vbr-probe.h"

#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

/* Nobody asked: whatever comes is given back, and nothing else happens. */
static void test_unasked(VbrDev *d)
{
    uint64_t area;

    vbr_start(d, 0);
    g_assert(vbr_has(d, VIRTIO_BALLOON_F_FREE_PAGE_HINT));
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_STOP);
    vbr_hint_assert_state(d, "stop");
    area = vbr_pages(d, NPAGES, VBR_PAGE);
    vbr_fill(d, area, NPAGES, 0x51);

    vbr_hint_pages(d, area, NPAGES);
    vbr_assert_counter(d, "late-hint-bytes", BYTES);
    vbr_hint_id(d, VBR_HINT_FIRST_ID);
    vbr_assert_counter(d, "ignored-hint-ids", 1);
    vbr_hint_pages(d, area, NPAGES);
    vbr_hint_id(d, VBR_HINT_STOP);
    vbr_assert_counter(d, "late-hint-bytes", 2 * BYTES);
    vbr_assert_counter(d, "ignored-hint-ids", 1);
    vbr_assert_counter(d, "hinted-bytes", 0);
    vbr_assert_counter(d, "hint-rounds", 0);
    vbr_hint_assert_state(d, "stop");
    /* A hint is no reason to take the memory away. */
    vbr_assert_kept(d, area, NPAGES, 0x51);
    g_assert(!vbr_is_broken(d));
}

/* From the id to DONE, as the specification has it. */
static void test_round(VbrDev *d)
{
    uint64_t area;
    uint32_t id;

    vbr_start(d, 0);
    area = vbr_hint_area(d, 4 * NPAGES);
    vbr_fill(d, area, 4 * NPAGES, 0x52);
    id = vbr_hint_begin(d);
    qvirtio_wait_config_isr(d->vdev, VBR_TIMEOUT_US);
    vbr_hint_assert_state(d, "requested");
    vbr_assert_counter(d, "hint-rounds", 1);

    /* Before the id, in the round, and behind STOP. */
    vbr_hint_pages(d, area, NPAGES);
    vbr_assert_counter(d, "late-hint-bytes", BYTES);
    vbr_hint_id(d, id);
    vbr_hint_assert_state(d, "started");
    g_assert_cmphex(vbr_hint_shown(d), ==, id);
    vbr_hint_pages(d, area + BYTES, NPAGES);
    vbr_hint_pages(d, area + 2 * BYTES, NPAGES);
    vbr_assert_counter(d, "hinted-bytes", 2 * BYTES);
    vbr_hint_id(d, VBR_HINT_STOP);
    vbr_hint_assert_state(d, "stop");
    vbr_hint_pages(d, area + 3 * BYTES, NPAGES);
    vbr_assert_counter(d, "late-hint-bytes", 2 * BYTES);
    vbr_hint_wait(d, "hint-left-out-bytes", 2 * BYTES);

    vbr_hint_complete(d);
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
    qvirtio_wait_config_isr(d->vdev, VBR_TIMEOUT_US);
    vbr_hint_assert_state(d, "done");
    vbr_assert_counter(d, "hint-left-out-bytes", 2 * BYTES);
    vbr_assert_counter(d, "hinted-bytes", 2 * BYTES);
    vbr_assert_counter(d, "refused-hint-unprotected-bytes", 0);
    vbr_assert_counter(d, "ignored-hint-ids", 0);
    vbr_assert_kept(d, area, 4 * NPAGES, 0x52);

    /* DONE is DONE, when the guest runs again, too. */
    vbr_add(d, VBR_HINT, &(VbrSeg) { area, BYTES, true }, 1);
    vbr_notify(d, VBR_HINT);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_HINT), ==, 0);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'cont' }");
    vbr_take(d, VBR_HINT, 1);
    vbr_assert_counter(d, "late-hint-bytes", 3 * BYTES);
    g_assert(!vbr_is_broken(d));
}

/* Only the id that is shown opens a round. */
static void test_wrong_id(VbrDev *d)
{
    uint64_t area;
    uint32_t id;
    int i;

    vbr_start(d, 0);
    area = vbr_hint_area(d, NPAGES);
    id = vbr_hint_begin(d);
    for (i = 0; i < 6; i++) {
        const uint32_t wrong[] = {
            id + 1, id - 1, VBR_HINT_DONE, 2, UINT32_MAX, bswap32(id),
        };

        vbr_hint_id(d, wrong[i]);
        vbr_assert_counter(d, "ignored-hint-ids", i + 1);
        vbr_hint_assert_state(d, "requested");
        vbr_hint_pages(d, area, NPAGES);
        vbr_assert_counter(d, "late-hint-bytes", (i + 1) * BYTES);
    }
    vbr_assert_counter(d, "hinted-bytes", 0);
    /* The right one is as good as it was. */
    vbr_hint_id(d, id);
    vbr_hint_pages(d, area, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
}

/* In a round that is open: what follows does not belong to it. */
static void test_wrong_id_inside(VbrDev *d)
{
    uint64_t area;
    uint32_t id;

    vbr_start(d, 0);
    area = vbr_hint_area(d, 2 * NPAGES);
    id = vbr_hint_open(d);
    vbr_hint_pages(d, area, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_id(d, id + 1);
    vbr_assert_counter(d, "ignored-hint-ids", 1);
    vbr_hint_pages(d, area + BYTES, NPAGES);
    vbr_assert_counter(d, "late-hint-bytes", BYTES);
    vbr_hint_complete(d);
    vbr_assert_counter(d, "hint-left-out-bytes", BYTES);
}

/* An id is 4 bytes long. */
static void test_length(VbrDev *d)
{
    static const size_t lengths[] = { 1, 2, 3, 5, 8, 40 };
    uint8_t bytes[40] = { };
    uint64_t area;
    uint32_t id;
    int i;

    vbr_start(d, 0);
    area = vbr_hint_area(d, NPAGES);
    id = vbr_hint_begin(d);
    if (!vbr_is_modern(d) && qtest_big_endian(d->qts)) {
        stl_be_p(bytes, id);
    } else {
        stl_le_p(bytes, id);
    }
    for (i = 0; i < ARRAY_SIZE(lengths); i++) {
        vbr_hint_bytes(d, bytes, lengths[i]);
        vbr_assert_counter(d, "ignored-hint-ids", i + 1);
        vbr_hint_assert_state(d, "requested");
    }
    /* In two parts it is as long. */
    {
        VbrSeg one = vbr_hint_id_seg(d, id);
        VbrSeg two[] = { { one.addr, 3 }, { one.addr + 3, 1 } };

        vbr_add(d, VBR_HINT, two, 2);
        vbr_notify(d, VBR_HINT);
        vbr_take(d, VBR_HINT, 1);
    }
    vbr_hint_assert_state(d, "started");
    vbr_hint_pages(d, area, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    /* Nor is this a STOP; but nor does what follows count. */
    memset(bytes, 0, sizeof(bytes));
    vbr_hint_bytes(d, bytes, 2);
    vbr_assert_counter(d, "ignored-hint-ids", ARRAY_SIZE(lengths) + 1);
    vbr_hint_pages(d, area, NPAGES);
    vbr_assert_counter(d, "late-hint-bytes", BYTES);
    vbr_hint_complete(d);
    g_assert(!vbr_is_broken(d));
}

/* Saying the id once more changes nothing. */
static void test_id_twice(VbrDev *d)
{
    uint64_t area;
    uint32_t id;

    vbr_start(d, 0);
    area = vbr_hint_area(d, 2 * NPAGES);
    id = vbr_hint_open(d);
    vbr_hint_pages(d, area, NPAGES);
    vbr_hint_id(d, id);
    vbr_hint_assert_state(d, "started");
    vbr_hint_pages(d, area + BYTES, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", 2 * BYTES);
    vbr_assert_counter(d, "ignored-hint-ids", 0);
    vbr_hint_complete(d);
}

/* An id is read before the blocks of the same request. */
static void test_together(VbrDev *d)
{
    VbrSeg segs[3];
    uint64_t area;

    vbr_start(d, 0);
    area = vbr_hint_area(d, 4 * NPAGES);
    segs[0] = vbr_hint_id_seg(d, vbr_hint_begin(d));
    segs[1] = vbr_hint_block_seg(area, BYTES);
    segs[2] = vbr_hint_block_seg(area + 2 * BYTES, BYTES);
    vbr_add(d, VBR_HINT, segs, 3);
    vbr_notify(d, VBR_HINT);
    vbr_take(d, VBR_HINT, 1);
    vbr_assert_counter(d, "hinted-bytes", 2 * BYTES);

    segs[0] = vbr_hint_id_seg(d, VBR_HINT_STOP);
    segs[1] = vbr_hint_block_seg(area + BYTES, BYTES);
    vbr_add(d, VBR_HINT, segs, 2);
    vbr_notify(d, VBR_HINT);
    vbr_take(d, VBR_HINT, 1);
    vbr_assert_counter(d, "hinted-bytes", 2 * BYTES);
    vbr_assert_counter(d, "late-hint-bytes", BYTES);
    vbr_hint_wait(d, "hint-left-out-bytes", 2 * BYTES);
    vbr_hint_complete(d);
}

/* A whole ring in one notification, each second page of an area. */
static void test_whole_ring(VbrDev *d)
{
    unsigned int size, i;
    uint64_t area;
    VbrSeg seg;

    vbr_start(d, 0);
    size = d->ring[VBR_HINT].vq->size;
    g_assert_cmpuint(size, ==, 1024);
    area = vbr_hint_area(d, 2 * size);
    seg = vbr_hint_id_seg(d, vbr_hint_begin(d));
    vbr_add(d, VBR_HINT, &seg, 1);
    for (i = 1; i < size - 1; i++) {
        seg = vbr_hint_block_seg(area + 2 * i * VBR_PAGE, VBR_PAGE);
        vbr_add(d, VBR_HINT, &seg, 1);
    }
    seg = vbr_hint_id_seg(d, VBR_HINT_STOP);
    vbr_add(d, VBR_HINT, &seg, 1);
    vbr_notify(d, VBR_HINT);
    vbr_take(d, VBR_HINT, size);
    vbr_hint_assert_state(d, "stop");
    vbr_assert_counter(d, "hinted-bytes", (size - 2) * VBR_PAGE);
    vbr_hint_wait(d, "hint-left-out-bytes", (size - 2) * VBR_PAGE);
    vbr_hint_complete(d);
    vbr_assert_counter(d, "hint-left-out-bytes", (size - 2) * VBR_PAGE);
    vbr_assert_counter(d, "refused-hint-overflow-bytes", 0);
}

/* Inward at both ends: a page that is hinted in part is sent. */
static void test_unaligned(VbrDev *d)
{
    uint64_t area;

    vbr_start(d, 0);
    area = vbr_hint_area(d, 2 * NPAGES);
    vbr_hint_open(d);
    vbr_hint_block(d, area + 100, BYTES - 300);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES - 2 * VBR_PAGE);
    vbr_assert_counter(d, "hinted-bytes", BYTES - 300);
    vbr_assert_counter(d, "refused-hint-partial-page-bytes",
                       2 * VBR_PAGE - 300);
    /* Less than a page, and parts of two with no whole one in it. */
    vbr_hint_block(d, area + BYTES, 1);
    vbr_hint_block(d, area + BYTES + 5 * VBR_PAGE + 1, 2 * VBR_PAGE - 2);
    vbr_hint_wait(d, "refused-hint-partial-page-bytes",
                  4 * VBR_PAGE - 300 - 1);
    vbr_assert_counter(d, "hint-left-out-bytes", BYTES - 2 * VBR_PAGE);
    vbr_hint_complete(d);
}

/* The same pages again and again, whole and in part: they count once. */
static void test_overlap(VbrDev *d)
{
    uint64_t area;
    int i;

    vbr_start(d, 0);
    area = vbr_hint_area(d, 2 * NPAGES);
    vbr_hint_open(d);
    for (i = 0; i < 8; i++) {
        vbr_hint_pages(d, area + (8 - i) * VBR_PAGE, NPAGES);
        vbr_hint_pages(d, area + i * VBR_PAGE, NPAGES);
    }
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES + 8 * VBR_PAGE);
    vbr_hint_pages(d, area, NPAGES);
    vbr_hint_complete(d);
    vbr_assert_counter(d, "hinted-bytes", 17 * BYTES);
    vbr_assert_counter(d, "hint-left-out-bytes", BYTES + 8 * VBR_PAGE);
}

const VbrCase vbr_hint_cases[] = {
    { "unasked", test_unasked, VBR_HINT_OPTS },
    { "round", test_round, VBR_HINT_OPTS },
    { "wrong-id", test_wrong_id, VBR_HINT_OPTS },
    { "wrong-id-inside", test_wrong_id_inside, VBR_HINT_OPTS },
    { "length", test_length, VBR_HINT_OPTS },
    { "id-twice", test_id_twice, VBR_HINT_OPTS },
    { "together", test_together, VBR_HINT_OPTS },
    { "whole-ring", test_whole_ring, VBR_HINT_OPTS },
    { "unaligned", test_unaligned, VBR_HINT_OPTS },
    { "overlap", test_overlap, VBR_HINT_OPTS },
    { }
};
