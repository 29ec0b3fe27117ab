/*
 * virtio-balloon-rs: the statistics queue
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-cases.h"
#include "vbr-probe.h"

#define STAT_SIZE 10
#define UNSET UINT64_MAX

typedef struct Stat {
    uint16_t tag;
    uint64_t val;
} Stat;

static const char *const names[] = {
    "stat-swap-in", "stat-swap-out", "stat-major-faults",
    "stat-minor-faults", "stat-free-memory", "stat-total-memory",
    "stat-available-memory", "stat-disk-caches", "stat-htlb-pgalloc",
    "stat-htlb-pgfail", "stat-oom-kills", "stat-alloc-stalls",
    "stat-async-scans", "stat-direct-scans", "stat-async-reclaims",
    "stat-direct-reclaims",
};

static VbrSeg stats_payload(VbrDev *d, const Stat *stats, unsigned int n)
{
    bool be = !vbr_is_modern(d) && qtest_big_endian(d->qts);
    VbrSeg seg = { .len = n * STAT_SIZE };
    g_autofree uint8_t *buf = g_malloc(seg.len);
    unsigned int i;

    for (i = 0; i < n; i++) {
        if (be) {
            stw_be_p(buf + i * STAT_SIZE, stats[i].tag);
            stq_be_p(buf + i * STAT_SIZE + 2, stats[i].val);
        } else {
            stw_le_p(buf + i * STAT_SIZE, stats[i].tag);
            stq_le_p(buf + i * STAT_SIZE + 2, stats[i].val);
        }
    }
    seg.addr = guest_alloc(d->alloc, seg.len);
    qtest_bufwrite(d->qts, seg.addr, buf, seg.len);
    return seg;
}

static void stats_offer(VbrDev *d, const VbrSeg *segs, unsigned int n)
{
    vbr_add(d, VBR_STATS, segs, n);
    vbr_notify(d, VBR_STATS);
    vbr_settle(d);
}

static void stats_send(VbrDev *d, const Stat *stats, unsigned int n)
{
    VbrSeg seg = stats_payload(d, stats, n);

    stats_offer(d, &seg, 1);
}

/* One period of the polling timer: the held buffer comes back. */
static void stats_tick(VbrDev *d)
{
    qtest_clock_step(d->qts, NANOSECONDS_PER_SECOND + 1);
    vbr_take(d, VBR_STATS, 1);
}

/*
 * A legacy driver's first buffer is there before it has any values, so
 * the device ignores them: get it out of the way.
 */
static void stats_prime(VbrDev *d)
{
    static const Stat junk = { VIRTIO_BALLOON_S_MEMTOT, 0xbadbad };

    if (!vbr_is_modern(d)) {
        stats_send(d, &junk, 1);
        g_assert_cmphex(vbr_stat(d, "stat-total-memory"), ==, UNSET);
        stats_tick(d);
    }
}

static void stats_start(VbrDev *d)
{
    vbr_start(d, 0);
    vbr_poll_stats(d, 1);
    stats_prime(d);
}

static void assert_all_unset(VbrDev *d)
{
    int i;

    g_assert_cmpuint(vbr_stats_count(d), ==, VIRTIO_BALLOON_S_NR);
    for (i = 0; i < VIRTIO_BALLOON_S_NR; i++) {
        g_assert_cmphex(vbr_stat(d, names[i]), ==, UNSET);
    }
}

static void test_before(VbrDev *d)
{
    assert_all_unset(d);
    g_assert_cmpint(vbr_stats_age(d), ==, 0);
    vbr_start(d, 0);
    assert_all_unset(d);
}

/* The buffer is kept until the timer asks for new values. */
static void test_held(VbrDev *d)
{
    static const Stat one = { VIRTIO_BALLOON_S_MEMFREE, 12345 };
    static const Stat two = { VIRTIO_BALLOON_S_MEMFREE, 67890 };

    stats_start(d);
    stats_send(d, &one, 1);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
    g_assert_cmpuint(vbr_stat(d, "stat-free-memory"), ==, 12345);
    g_assert_cmphex(vbr_stat(d, "stat-total-memory"), ==, UNSET);
    g_assert_cmpint(vbr_stats_age(d), >, 0);
    stats_tick(d);
    stats_send(d, &two, 1);
    g_assert_cmpuint(vbr_stat(d, "stat-free-memory"), ==, 67890);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
}

/* Without polling nobody asks, and the buffer stays where it is. */
static void test_no_polling(VbrDev *d)
{
    static const Stat one = { VIRTIO_BALLOON_S_MEMFREE, 1 };

    vbr_start(d, 0);
    stats_send(d, &one, 1);
    qtest_clock_step(d->qts, 100 * NANOSECONDS_PER_SECOND);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);

    /* Turned on, then off: asked once, and not again. */
    vbr_poll_stats(d, 1);
    stats_tick(d);
    vbr_poll_stats(d, 0);
    stats_send(d, &one, 1);
    qtest_clock_step(d->qts, 100 * NANOSECONDS_PER_SECOND);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
}

static void test_all_tags(VbrDev *d)
{
    Stat stats[VIRTIO_BALLOON_S_NR];
    int i;

    stats_start(d);
    /* Any order, and values that need all 64 bits. */
    for (i = 0; i < VIRTIO_BALLOON_S_NR; i++) {
        stats[i].tag = VIRTIO_BALLOON_S_NR - 1 - i;
        stats[i].val = 0xf000000000000000ull + stats[i].tag;
    }
    stats_send(d, stats, VIRTIO_BALLOON_S_NR);
    for (i = 0; i < VIRTIO_BALLOON_S_NR; i++) {
        g_assert_cmphex(vbr_stat(d, names[i]), ==, 0xf000000000000000ull + i);
    }
    vbr_assert_counter(d, "ignored-stats", 0);
}

/* What a later buffer leaves out is not reported any more. */
static void test_stale(VbrDev *d)
{
    static const Stat both[] = {
        { VIRTIO_BALLOON_S_MEMFREE, 5 }, { VIRTIO_BALLOON_S_MEMTOT, 6 },
    };

    stats_start(d);
    stats_send(d, both, 2);
    stats_tick(d);
    stats_send(d, both, 1);
    g_assert_cmpuint(vbr_stat(d, "stat-free-memory"), ==, 5);
    g_assert_cmphex(vbr_stat(d, "stat-total-memory"), ==, UNSET);
}

static void test_unknown_tag(VbrDev *d)
{
    static const Stat stats[] = {
        { VIRTIO_BALLOON_S_NR, 1 }, { VIRTIO_BALLOON_S_CACHES, 7 },
        { 0xffff, 2 }, { 0x1000, 3 },
    };

    stats_start(d);
    stats_send(d, stats, ARRAY_SIZE(stats));
    g_assert_cmpuint(vbr_stat(d, "stat-disk-caches"), ==, 7);
    g_assert_cmpuint(vbr_stats_count(d), ==, VIRTIO_BALLOON_S_NR);
    vbr_assert_counter(d, "ignored-stats", 3);
}

/* An entry that is cut short says nothing; the ones before it do. */
static void test_short(VbrDev *d)
{
    static const Stat stats[] = {
        { VIRTIO_BALLOON_S_MEMFREE, 8 }, { VIRTIO_BALLOON_S_MEMTOT, 9 },
    };
    uint32_t cut;

    stats_start(d);
    for (cut = 1; cut < STAT_SIZE; cut++) {
        VbrSeg seg = stats_payload(d, stats, 2);

        seg.len -= cut;
        stats_offer(d, &seg, 1);
        g_assert_cmpuint(vbr_stat(d, "stat-free-memory"), ==, 8);
        g_assert_cmphex(vbr_stat(d, "stat-total-memory"), ==, UNSET);
        vbr_assert_counter(d, "ignored-stats", cut);
        stats_tick(d);
    }
}

static void test_split(VbrDev *d)
{
    static const Stat stats[] = {
        { VIRTIO_BALLOON_S_MEMFREE, 0x0102030405060708 },
        { VIRTIO_BALLOON_S_MEMTOT, 0x1112131415161718 },
    };
    VbrSeg segs[2 * STAT_SIZE], seg;
    int i;

    stats_start(d);
    seg = stats_payload(d, stats, 2);
    for (i = 0; i < seg.len; i++) {
        segs[i] = (VbrSeg) { .addr = seg.addr + i, .len = 1 };
    }
    stats_offer(d, segs, seg.len);
    g_assert_cmphex(vbr_stat(d, "stat-free-memory"), ==, 0x0102030405060708);
    g_assert_cmphex(vbr_stat(d, "stat-total-memory"), ==, 0x1112131415161718);
}

/* A driver may have one buffer out; of two, one comes back at once. */
static void test_two_buffers(VbrDev *d)
{
    static const Stat one = { VIRTIO_BALLOON_S_MEMFREE, 1 };
    static const Stat two = { VIRTIO_BALLOON_S_MEMFREE, 2 };

    stats_start(d);
    stats_send(d, &one, 1);
    stats_send(d, &two, 1);
    vbr_take(d, VBR_STATS, 1);
    vbr_assert_counter(d, "ignored-stats-buffers", 1);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
    stats_tick(d);
}

/* A whole queue of them at once must not be taken in one endless go. */
static void test_many_buffers(VbrDev *d)
{
    static const Stat one = { VIRTIO_BALLOON_S_MEMFREE, 1 };
    int i, n = 100;

    stats_start(d);
    for (i = 0; i < n; i++) {
        VbrSeg seg = stats_payload(d, &one, 1);

        vbr_add(d, VBR_STATS, &seg, 1);
    }
    vbr_notify(d, VBR_STATS);
    vbr_take(d, VBR_STATS, n - 1);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
    stats_tick(d);
}

static void test_writable(VbrDev *d)
{
    static const Stat one = { VIRTIO_BALLOON_S_MEMFREE, 77 };
    VbrSeg segs[2];

    stats_start(d);
    segs[0] = stats_payload(d, &one, 1);
    segs[1] = stats_payload(d, &one, 1);
    segs[1].write = true;
    stats_offer(d, segs, 2);
    g_assert_cmpuint(vbr_stat(d, "stat-free-memory"), ==, 77);
    vbr_assert_counter(d, "ignored-writable-buffers", 1);
    stats_tick(d);
}

/* A system reset forgets the values, and the buffer that was held. */
static void test_system_reset(VbrDev *d)
{
    static const Stat one = { VIRTIO_BALLOON_S_MEMFREE, 42 };

    stats_start(d);
    stats_send(d, &one, 1);
    g_assert_cmpuint(vbr_stat(d, "stat-free-memory"), ==, 42);
    qtest_system_reset(d->qts);
    assert_all_unset(d);
    g_assert_cmpint(vbr_stats_age(d), ==, 0);
}

/* A driver that resets the device gets no buffer of its past life. */
static void test_device_reset(VbrDev *d)
{
    static const Stat one = { VIRTIO_BALLOON_S_MEMFREE, 42 };

    stats_start(d);
    stats_send(d, &one, 1);
    vbr_restart(d, 0);
    qtest_clock_step(d->qts, 10 * NANOSECONDS_PER_SECOND);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
    stats_prime(d);
    stats_send(d, &one, 1);
    stats_tick(d);
}

/* On stop the held buffer goes back to the ring, and is taken at cont. */
static void test_stop_cont(VbrDev *d)
{
    static const Stat one = { VIRTIO_BALLOON_S_MEMFREE, 42 };
    int i;

    stats_start(d);
    stats_send(d, &one, 1);
    for (i = 0; i < 20; i++) {
        qtest_qmp_assert_success(d->qts, "{ 'execute': 'stop' }");
        qtest_qmp_assert_success(d->qts, "{ 'execute': 'cont' }");
    }
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
    g_assert_cmpuint(vbr_stat(d, "stat-free-memory"), ==, 42);
    stats_tick(d);
    vbr_assert_counter(d, "ignored-stats-buffers", 0);
}

static void test_interval(VbrDev *d)
{
    /* In the words of QEMU's C device, which scripts know. */
    static const struct {
        int64_t seconds;
        const char *says;
    } bad[] = {
        { -1, "timer value must be greater than zero" },
        { INT64_MIN, "timer value must be greater than zero" },
        { UINT32_MAX + 1ll, "timer value is too big" },
        { INT64_MAX, "timer value is too big" },
    };
    int i;

    vbr_start(d, 0);
    for (i = 0; i < ARRAY_SIZE(bad); i++) {
        g_autofree char *text = vbr_qmp_error(
            qtest_qmp(d->qts, "{ 'execute': 'qom-set', 'arguments': "
                      "{ 'path': %s, 'property': "
                      "'guest-stats-polling-interval', "
                      "'value': %" PRId64 " } }",
                      VBR_PATH, bad[i].seconds));

        g_assert_cmpstr(text, ==, bad[i].says);
        vbr_assert_counter(d, "guest-stats-polling-interval", 0);
    }
    vbr_poll_stats(d, UINT32_MAX);
    vbr_assert_counter(d, "guest-stats-polling-interval", UINT32_MAX);
    vbr_poll_stats(d, 3);
    vbr_assert_counter(d, "guest-stats-polling-interval", 3);
    vbr_poll_stats(d, 0);
    vbr_assert_counter(d, "guest-stats-polling-interval", 0);
}

const VbrCase vbr_stats_cases[] = {
    { "before", test_before },
    { "held", test_held },
    { "no-polling", test_no_polling },
    { "all-tags", test_all_tags },
    { "stale", test_stale },
    { "unknown-tag", test_unknown_tag },
    { "short", test_short },
    { "split", test_split },
    { "two-buffers", test_two_buffers },
    { "many-buffers", test_many_buffers },
    { "writable", test_writable },
    { "system-reset", test_system_reset },
    { "device-reset", test_device_reset },
    { "stop-cont", test_stop_cont },
    { "interval", test_interval },
    { }
};
