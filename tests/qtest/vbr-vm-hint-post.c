/*
 * virtio-balloon-rs: hints and the balloon in a migration that ends as postcopy
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-hint.h"
#include "vbr-pair.h"
#include "vbr-probe.h"
#include "vbr-stream.h"

#define AREA (96 * MiB)
#define NPAGES 512
#define BYTES (NPAGES * VBR_PAGE)

#define OLD 0x63
#define NEW 0x64

static bool can_postcopy(VbrPair *p)
{
    QDict *rsp = qtest_qmp(p->to->qts, "{ 'execute': "
                           "'migrate-set-capabilities', 'arguments': "
                           "{ 'capabilities': [ { 'capability': "
                           "'postcopy-ram', 'state': true } ] } }");
    bool can = qdict_haskey(rsp, "return");

    qobject_unref(rsp);
    if (can) {
        vbr_migrate_capability(p->from->qts, "postcopy-ram");
    } else {
        g_test_skip("no postcopy on this host");
        vbr_pair_free(p);
    }
    return can;
}

/* The guest runs on at the destination, most of its memory is still missing. */
static void switch_over(VbrPair *p)
{
    qtest_qmp_assert_success(p->from->qts,
                             "{ 'execute': 'migrate-start-postcopy' }");
    vbr_migrate_until(p->from->qts, "postcopy-active");
    qtest_qmp_eventwait(p->to->qts, "RESUME");
    vbr_stream_adopt(p->to, p->from);
}

static void finish(VbrPair *p)
{
    vbr_migrate_speed(p->from->qts, VBR_FAST);
    vbr_migrate_until(p->from->qts, "completed");
    vbr_migrate_until(p->to->qts, "completed");
}

/*
 * Hinted pages that are read, written, or written in part before all is done,
 * and such that are not: nobody waits for ever, and nothing is lost.
 */
static void check_hints(const void *data)
{
    const char *preempt = data;
    VbrPair p = vbr_pair("", VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;
    uint8_t byte;

    if (!can_postcopy(&p)) {
        return;
    }
    if (preempt) {
        vbr_pair_capability(&p, preempt);
    }
    vbr_fill(d, AREA, 4 * NPAGES, OLD);
    vbr_pair_move(&p);
    vbr_hint_id(d, vbr_hint_wait_round(d, 0));
    vbr_hint_pages(d, AREA, 3 * NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", 3 * BYTES);
    vbr_fill(d, AREA, 16, NEW);
    switch_over(&p);
    d = &p.to->d;
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);

    /* Written before the switch, never hinted, hinted. */
    vbr_assert_filled(d, AREA, 16, NEW);
    vbr_assert_filled(d, AREA + 3 * BYTES, 16, OLD);
    byte = qtest_readb(d->qts, AREA + BYTES);
    g_assert(byte == 0 || byte == OLD);
    qtest_memset(d->qts, AREA + BYTES, NEW, 3 * VBR_PAGE + 1);
    vbr_fill(d, AREA + 2 * BYTES + 8 * VBR_PAGE, 8, NEW);
    vbr_assert_filled(d, AREA + BYTES, 3, NEW);
    finish(&p);

    vbr_assert_filled(d, AREA, 16, NEW);
    vbr_assert_filled(d, AREA + BYTES, 3, NEW);
    g_assert_cmphex(qtest_readb(d->qts, AREA + BYTES + 3 * VBR_PAGE), ==,
                    NEW);
    vbr_assert_filled(d, AREA + 2 * BYTES + 8 * VBR_PAGE, 8, NEW);
    vbr_assert_filled(d, AREA + 3 * BYTES, NPAGES, OLD);
    byte = qtest_readb(d->qts, AREA + 2 * BYTES + 100 * VBR_PAGE);
    g_assert(byte == 0 || byte == OLD);
    vbr_assert_works(d);
    vbr_pair_free(&p);
}

static void test_hints(void)
{
    check_hints(NULL);
}

static void test_preempt(void)
{
    check_hints("postcopy-preempt");
}

/* Ballooned pages that the guest takes back at the destination. */
static void test_balloon(void)
{
    VbrPair p = vbr_pair("", VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;

    if (!can_postcopy(&p)) {
        return;
    }
    vbr_fill(d, AREA, 3 * NPAGES, OLD);
    vbr_send_range(d, VBR_INFLATE, AREA, NPAGES);
    vbr_send_range(d, VBR_INFLATE, AREA + BYTES, NPAGES);
    vbr_pair_move(&p);
    vbr_hint_wait_round(d, 0);
    vbr_assert_counter(d, "ballooned-left-out-bytes", 2 * BYTES);
    switch_over(&p);
    d = &p.to->d;
    vbr_send_range(d, VBR_DEFLATE, AREA, NPAGES);
    vbr_fill(d, AREA, NPAGES, NEW);
    vbr_assert_filled(d, AREA + 2 * BYTES, NPAGES, OLD);
    finish(&p);
    vbr_assert_filled(d, AREA, NPAGES, NEW);
    vbr_send_range(d, VBR_DEFLATE, AREA + BYTES, NPAGES);
    qtest_readb(d->qts, AREA + BYTES);
    vbr_fill(d, AREA + BYTES, NPAGES, NEW);
    vbr_assert_filled(d, AREA + BYTES, NPAGES, NEW);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_assert_works(d);
    vbr_pair_free(&p);
}

/* What nobody asks for does not arrive. */
static void test_absent(void)
{
    VbrPair p = vbr_pair("", VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;

    if (!can_postcopy(&p)) {
        return;
    }
    vbr_fill(d, AREA, 2 * NPAGES, OLD);
    vbr_pair_move(&p);
    vbr_hint_id(d, vbr_hint_wait_round(d, 0));
    vbr_hint_pages(d, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    switch_over(&p);
    finish(&p);
    d = &p.to->d;
    vbr_assert_filled(d, AREA, NPAGES, 0);
    vbr_assert_filled(d, AREA + BYTES, NPAGES, OLD);
    vbr_pair_free(&p);
}

void vbr_add_hint_post_tests(void)
{
    qtest_add_func("virtio-balloon-rs/postcopy/hints", test_hints);
    qtest_add_func("virtio-balloon-rs/postcopy/preempt", test_preempt);
    qtest_add_func("virtio-balloon-rs/postcopy/balloon", test_balloon);
    qtest_add_func("virtio-balloon-rs/postcopy/absent", test_absent);
}
