/*
 * virtio-balloon-rs: rounds of free page hints that end in other ways
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

/* A driver that knows nothing of hints is not asked, nor waited for. */
static void test_refused(VbrDev *d)
{
    vbr_start(d, 1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    vbr_hint_assert_state(d, "off");
    vbr_migrate_speed(d->qts, VBR_FAST);
    vbr_migrate(d->qts, VBR_NOWHERE);
    vbr_migrate_until(d->qts, "completed");
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_STOP);
    vbr_hint_assert_state(d, "off");
    vbr_assert_counter(d, "hint-rounds", 0);
    vbr_assert_counter(d, "hint-wait-ms", 0);
}

/* A guest that never answers holds nothing up for good. */
static void test_silent(VbrDev *d)
{
    vbr_start(d, 0);
    vbr_migrate_speed(d->qts, VBR_FAST);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'qom-set', 'arguments': "
                             "{ 'path': '" VBR_PATH "', 'property': "
                             "'free-page-hint-window', "
                             "'value': 4294967295 } }");
    vbr_migrate(d->qts, VBR_NOWHERE);
    vbr_migrate_until(d->qts, "completed");
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
    g_assert_cmpuint(vbr_counter(d, "hint-wait-ms"), >, 0);
    vbr_assert_counter(d, "hint-wait-bytes", 0);
    vbr_assert_counter(d, "hinted-bytes", 0);
}

/* One that answers and then says nothing more does neither. */
static void test_stuck(VbrDev *d)
{
    uint32_t id;

    vbr_start(d, 0);
    id = vbr_hint_begin(d);
    vbr_hint_id(d, id);
    vbr_hint_complete(d);
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
}

/* Cancelled: DONE; tried again: an id that was never seen before. */
static void test_cancel(VbrDev *d)
{
    uint32_t seen = 0;
    uint64_t area;
    int i;

    vbr_start(d, 0);
    area = vbr_hint_area(d, 2 * NPAGES);
    for (i = 0; i < 4; i++) {
        uint32_t id = vbr_hint_begin(d);

        g_assert_cmphex(id, >, seen);
        /* What was left out of the one before is not known any more. */
        vbr_assert_counter(d, "hint-left-out-bytes", 0);
        if (i) {
            /* And this guest never said STOP. */
            vbr_hint_id(d, seen);
            vbr_assert_counter(d, "ignored-hint-ids", i);
        }
        seen = id;
        vbr_hint_id(d, id);
        vbr_hint_pages(d, area, NPAGES);
        vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
        vbr_hint_cancel(d);
        g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
        vbr_hint_assert_state(d, "done");
        vbr_hint_pages(d, area, NPAGES);
        vbr_assert_counter(d, "late-hint-bytes", (i + 1) * BYTES);
    }
    vbr_assert_counter(d, "hint-rounds", 4);
    vbr_assert_counter(d, "hinted-bytes", 4 * BYTES);
    g_assert(!vbr_is_broken(d));
}

/* Two in a row that complete, the guest running again in between. */
static void test_again(VbrDev *d)
{
    uint64_t area;
    int i;

    vbr_start(d, 0);
    area = vbr_hint_area(d, NPAGES);
    for (i = 0; i < 2; i++) {
        vbr_hint_open(d);
        vbr_hint_pages(d, area, NPAGES - i);
        vbr_hint_wait(d, "hint-left-out-bytes", BYTES - i * VBR_PAGE);
        vbr_hint_complete(d);
        g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
        qtest_qmp_assert_success(d->qts, "{ 'execute': 'cont' }");
        vbr_hint_id(d, VBR_HINT_STOP);
        vbr_hint_assert_state(d, "done");
        vbr_assert_counter(d, "hint-left-out-bytes", BYTES - i * VBR_PAGE);
    }
}

/* While the machine is stopped, hints wait; then they are looked at. */
static void test_stopped_inside(VbrDev *d)
{
    VbrSeg seg;

    vbr_start(d, 0);
    seg = vbr_hint_block_seg(vbr_hint_area(d, NPAGES), BYTES);
    vbr_hint_open(d);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'stop' }");
    vbr_add(d, VBR_HINT, &seg, 1);
    vbr_notify(d, VBR_HINT);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_HINT), ==, 0);
    vbr_assert_counter(d, "hinted-bytes", 0);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'cont' }");
    vbr_take(d, VBR_HINT, 1);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
}

/* Started with the guest stopped: it cannot answer, and is told DONE. */
static void test_stopped_before(VbrDev *d)
{
    vbr_start(d, 0);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'stop' }");
    vbr_migrate_speed(d->qts, VBR_FAST);
    vbr_migrate(d->qts, VBR_NOWHERE);
    vbr_migrate_until(d->qts, "completed");
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
    vbr_assert_counter(d, "hint-rounds", 0);
    vbr_assert_counter(d, "hint-wait-ms", 0);
}

/* Stopped, and never resumed before it completes. */
static void test_stopped_to_the_end(VbrDev *d)
{
    vbr_start(d, 0);
    vbr_hint_open(d);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'stop' }");
    vbr_hint_complete(d);
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
}

/* The driver goes away in the middle of a round; another one comes. */
static void check_reset(VbrDev *d, bool of_machine)
{
    uint64_t area;
    uint32_t id;

    vbr_start(d, 0);
    area = vbr_hint_area(d, 3 * NPAGES);
    id = vbr_hint_open(d);
    vbr_hint_pages(d, area, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    if (of_machine) {
        vbr_system_reset(d);
    } else {
        qvirtio_reset(d->vdev);
    }
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_STOP);
    vbr_hint_assert_state(d, "off");

    vbr_restart(d, 0);
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_STOP);
    vbr_hint_assert_state(d, "stop");
    /* The round was that of the other driver. */
    vbr_hint_id(d, id);
    vbr_hint_pages(d, area + BYTES, NPAGES);
    vbr_assert_counter(d, "ignored-hint-ids", 1);
    vbr_assert_counter(d, "late-hint-bytes", BYTES);
    vbr_assert_counter(d, "hinted-bytes", BYTES);
    vbr_hint_complete(d);
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
    g_assert(!vbr_is_broken(d));
}

static void test_reset(VbrDev *d)
{
    check_reset(d, false);
}

static void test_system_reset(VbrDev *d)
{
    check_reset(d, true);
}

/* The next driver wants no hints. */
static void test_reset_refused(VbrDev *d)
{
    vbr_start(d, 0);
    vbr_hint_open(d);
    vbr_restart(d, 1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT);
    vbr_hint_assert_state(d, "off");
    vbr_hint_complete(d);
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_STOP);
    vbr_hint_assert_state(d, "off");
}

/* Hints that were offered, but that nobody told the device of. */
static void test_reset_before_notify(VbrDev *d)
{
    VbrSeg seg;
    int i;

    vbr_start(d, 0);
    vbr_hint_open(d);
    for (i = 0; i < 300; i++) {
        seg = vbr_hint_block_seg(vbr_pages(d, 1, VBR_PAGE), VBR_PAGE);
        vbr_add(d, VBR_HINT, &seg, 1);
    }
    vbr_notify(d, VBR_HINT);
    vbr_restart(d, 0);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_HINT), ==, 0);
    vbr_hint_complete(d);
    g_assert(!vbr_is_broken(d));
}

/* What QEMU itself does not let pass; the migration is none the worse. */
static void check_broken(VbrDev *d, VbrSeg seg)
{
    VbrWait wait = { "the device to break" };

    vbr_hint_open(d);
    vbr_add(d, VBR_HINT, &seg, 1);
    vbr_notify(d, VBR_HINT);
    while (!vbr_is_broken(d)) {
        vbr_wait(&wait);
    }
    vbr_hint_complete(d);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'cont' }");
    vbr_system_reset(d);
    vbr_restart(d, 0);
    vbr_hint_assert_state(d, "stop");
    vbr_hint_open(d);
    vbr_hint_complete(d);
    g_assert(!vbr_is_broken(d));
}

static void test_empty_id(VbrDev *d)
{
    vbr_start(d, 0);
    check_broken(d, (VbrSeg) { .addr = vbr_pages(d, 1, VBR_PAGE) });
}

static void test_empty_block(VbrDev *d)
{
    vbr_start(d, 0);
    check_broken(d, vbr_hint_block_seg(vbr_pages(d, 1, VBR_PAGE), 0));
}

const VbrCase vbr_hint_end_cases[] = {
    { "refused", test_refused, VBR_HINT_OPTS },
    { "silent", test_silent, VBR_HINT_OPTS },
    { "stuck", test_stuck, VBR_HINT_OPTS },
    { "cancel", test_cancel, VBR_HINT_OPTS },
    { "again", test_again, VBR_HINT_OPTS },
    { "stopped-inside", test_stopped_inside, VBR_HINT_OPTS },
    { "stopped-before", test_stopped_before, VBR_HINT_OPTS },
    { "stopped-to-the-end", test_stopped_to_the_end, VBR_HINT_OPTS },
    { "reset", test_reset, VBR_HINT_OPTS },
    { "system-reset", test_system_reset, VBR_HINT_OPTS },
    { "reset-refused", test_reset_refused, VBR_HINT_OPTS },
    { "reset-offered", test_reset_before_notify, VBR_HINT_OPTS },
    { "empty-id", test_empty_id, VBR_HINT_OPTS },
    { "empty-block", test_empty_block, VBR_HINT_OPTS },
    { }
};
