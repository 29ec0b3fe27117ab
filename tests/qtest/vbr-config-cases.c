/*
 * virtio-balloon-rs: configuration space, targets and events
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-cases.h"
#include "vbr-probe.h"
#include "qobject/qdict.h"

#define NUM_PAGES offsetof(struct virtio_balloon_config, num_pages)
#define ACTUAL offsetof(struct virtio_balloon_config, actual)
#define POISON offsetof(struct virtio_balloon_config, poison_val)

static void assert_actual(VbrDev *d, int64_t ram, uint32_t pages)
{
    g_assert_cmphex(vbr_config_read(d, ACTUAL), ==, pages);
    g_assert_cmpint(vbr_query_balloon(d->qts), ==,
                    ram - (int64_t)(pages * VBR_PAGE));
}

/*
 * Whatever the size of the accesses, the value is the sum of its bytes,
 * and writing some bytes leaves the others as they were.
 */
static void test_partial_writes(VbrDev *d)
{
    int64_t ram;

    vbr_start(d, 0);
    ram = vbr_query_balloon(d->qts);

    vbr_config_write(d, ACTUAL, 4, 0x1234);
    assert_actual(d, ram, 0x1234);
    vbr_config_write(d, ACTUAL, 1, 0x78);
    assert_actual(d, ram, 0x1278);
    vbr_config_write(d, ACTUAL + 1, 1, 0x56);
    assert_actual(d, ram, 0x5678);
    vbr_config_write(d, ACTUAL, 2, 0x0102);
    assert_actual(d, ram, 0x0102);
    vbr_config_write(d, ACTUAL + 2, 2, 0);
    assert_actual(d, ram, 0x0102);
    vbr_config_write(d, ACTUAL + 3, 1, 0);
    assert_actual(d, ram, 0x0102);
}

/* Neighbours of a partial write: poison_val is not touched by actual. */
static void test_poison_kept(VbrDev *d)
{
    vbr_start(d, 0);
    g_assert(vbr_has(d, VIRTIO_BALLOON_F_PAGE_POISON));
    vbr_config_write(d, POISON, 4, 0xaabbccdd);
    vbr_config_write(d, ACTUAL, 2, 0x11);
    g_assert_cmphex(vbr_config_read(d, POISON), ==, 0xaabbccdd);
    vbr_config_write(d, POISON + 1, 1, 0x00);
    g_assert_cmphex(vbr_config_read(d, POISON), ==, 0xaabb00dd);
    vbr_config_write(d, POISON + 2, 2, 0x0000);
    g_assert_cmphex(vbr_config_read(d, POISON), ==, 0x000000dd);
    g_assert_cmphex(vbr_config_read(d, ACTUAL), ==, 0x11);
    vbr_restart(d, 0);
    g_assert_cmphex(vbr_config_read(d, POISON), ==, 0);
}

/* poison_val counts only when the feature was accepted. */
static void test_poison_refused(VbrDev *d)
{
    vbr_start(d, 1ull << VIRTIO_BALLOON_F_PAGE_POISON);
    vbr_config_write(d, POISON, 4, 0xaabbccdd);
    g_assert_cmphex(vbr_config_read(d, POISON), ==, 0);
}

/* The target is the host's: a driver that writes there changes nothing. */
static void test_target_read_only(VbrDev *d)
{
    uint32_t target;

    vbr_start(d, 0);
    vbr_set_balloon(d->qts, 64 * MiB);
    target = vbr_config_read(d, NUM_PAGES);
    g_assert_cmphex(target, !=, 0);
    vbr_config_write(d, NUM_PAGES, 4, 0x42);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, target);
}

static void test_target(VbrDev *d)
{
    int64_t ram;

    vbr_start(d, 0);
    ram = vbr_query_balloon(d->qts);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, 0);
    vbr_set_balloon(d->qts, ram / 2);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, ram / 2 / VBR_PAGE);
    /* Asking for more than there is gives the guest all there is. */
    vbr_set_balloon(d->qts, ram * 8);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, 0);
    vbr_set_balloon(d->qts, INT64_MAX);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, 0);
    vbr_set_balloon(d->qts, 1);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, (ram - 1) / VBR_PAGE);
    /* A target is a wish: nothing has happened in the guest. */
    g_assert_cmpint(vbr_query_balloon(d->qts), ==, ram);
}

static void test_target_interrupt(VbrDev *d)
{
    vbr_start(d, 0);
    vbr_set_balloon(d->qts, 64 * MiB);
    qvirtio_wait_config_isr(d->vdev, VBR_TIMEOUT_US);
}

static void test_target_bad(VbrDev *d)
{
    static const int64_t bad[] = { 0, -1, INT64_MIN };
    int i;

    vbr_start(d, 0);
    for (i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *text = vbr_qmp_error(
            qtest_qmp(d->qts, "{ 'execute': 'balloon', 'arguments': "
                      "{ 'value': %" PRId64 " } }", bad[i]));

        g_assert_cmpstr(text, !=, "");
    }
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, 0);
}

static int64_t wait_balloon_change(QTestState *qts)
{
    QDict *event = qtest_qmp_eventwait_ref(qts, "BALLOON_CHANGE");
    int64_t actual = qdict_get_int(qdict_get_qdict(event, "data"), "actual");

    qobject_unref(event);
    return actual;
}

static void test_event(VbrDev *d)
{
    int64_t ram;

    vbr_start(d, 0);
    ram = vbr_query_balloon(d->qts);
    vbr_set_actual(d, 256);
    g_assert_cmpint(wait_balloon_change(d->qts), ==, ram - 256 * VBR_PAGE);
}

/* A guest cannot make the host believe in a negative size. */
static void test_actual_huge(VbrDev *d)
{
    int64_t ram;

    vbr_start(d, 0);
    ram = vbr_query_balloon(d->qts);
    vbr_set_actual(d, UINT32_MAX);
    g_assert_cmpint(vbr_query_balloon(d->qts), ==, 0);
    g_assert_cmpint(wait_balloon_change(d->qts), ==, 0);
    vbr_set_actual(d, ram / VBR_PAGE);
    g_assert_cmpint(vbr_query_balloon(d->qts), ==, 0);
    vbr_set_actual(d, ram / VBR_PAGE - 1);
    g_assert_cmpint(vbr_query_balloon(d->qts), ==, VBR_PAGE);
    vbr_set_actual(d, 0);
    g_assert_cmpint(vbr_query_balloon(d->qts), ==, ram);
}

/* After a reset the balloon is empty, and the target is as it was. */
static void test_reset(VbrDev *d)
{
    int64_t ram;

    vbr_start(d, 0);
    ram = vbr_query_balloon(d->qts);
    vbr_set_balloon(d->qts, ram / 2);
    vbr_set_actual(d, 77);
    vbr_restart(d, 0);
    g_assert_cmphex(vbr_config_read(d, ACTUAL), ==, 0);
    g_assert_cmphex(vbr_config_read(d, NUM_PAGES), ==, ram / 2 / VBR_PAGE);
    g_assert_cmpint(vbr_query_balloon(d->qts), ==, ram);
}

const VbrCase vbr_config_cases[] = {
    { "partial-writes", test_partial_writes },
    { "poison-kept", test_poison_kept },
    { "poison-refused", test_poison_refused },
    { "target-read-only", test_target_read_only },
    { "target", test_target },
    { "target-interrupt", test_target_interrupt },
    { "target-bad", test_target_bad },
    { "event", test_event },
    { "actual-huge", test_actual_huge },
    { "reset", test_reset },
    { }
};
