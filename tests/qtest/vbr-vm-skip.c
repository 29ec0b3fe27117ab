/*
 * virtio-balloon-rs: pages in the balloon stay out of a migration
 *
 * A guest that writes to a page in the balloon breaks its word. The tests do so
 * to see whether the page is sent.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-hint.h"
#include "vbr-pair.h"
#include "vbr-probe.h"
#include "vbr-stream.h"

#define AREA (96 * MiB)
/* A whole huge page, so that no neighbour brings it to the destination. */
#define NPAGES 512
#define BYTES (NPAGES * VBR_PAGE)
#define FEW 16

#define OLD 0x65
#define NEW 0x66

/* Two runs in the balloon, of which the second is written. */
static VbrPair ballooned_pair(const char *props, uint64_t refuse)
{
    VbrPair p = vbr_pair("", props, refuse);
    VbrDev *d = &p.from->d;

    vbr_fill(d, AREA, 3 * NPAGES, OLD);
    vbr_send_range(d, VBR_INFLATE, AREA, NPAGES);
    vbr_send_range(d, VBR_INFLATE, AREA + BYTES, NPAGES);
    vbr_fill(d, AREA + BYTES, NPAGES, OLD);
    return p;
}

/* With hints or without, with the guest running or stopped. */
static void check_left_out(const char *props, bool running)
{
    VbrPair p = ballooned_pair(props, 0);
    VbrDev *d = &p.from->d;

    if (!running) {
        qtest_qmp_assert_success(p.from->qts, "{ 'execute': 'stop' }");
    }
    vbr_pair_move(&p);
    vbr_pair_arrive(&p);
    vbr_assert_counter(d, "ballooned-left-out-bytes", 2 * BYTES);
    d = &p.to->d;
    g_assert_cmpuint(vbr_resident(d, AREA, 2 * NPAGES), ==, 0);
    vbr_assert_filled(d, AREA + BYTES, FEW, 0);
    vbr_assert_kept(d, AREA + 2 * BYTES, FEW, OLD);
    /* It is known there what is in the balloon. */
    vbr_assert_counter(d, "ballooned-bytes", 2 * BYTES);
    if (!running) {
        qtest_qmp_assert_success(p.to->qts, "{ 'execute': 'cont' }");
    }
    vbr_send_range(d, VBR_DEFLATE, AREA, NPAGES);
    vbr_assert_counter(d, "ballooned-bytes", BYTES);
    vbr_assert_works(d);
    vbr_pair_free(&p);
}

static void test_left_out(void)
{
    check_left_out(NULL, true);
    check_left_out(NULL, false);
    check_left_out(VBR_HINT_OPTS, true);
    check_left_out(VBR_HINT_OPTS, false);
}

/* On with it: the destination leaves them out when it is moved in turn. */
static void test_onward(void)
{
    VbrPair p = ballooned_pair(NULL, 0);

    vbr_pair_move(&p);
    vbr_pair_arrive(&p);
    vbr_vm_free(p.from);
    unlink(p.uri + strlen("unix:"));
    p.from = p.to;
    p.to = vbr_pc("-device " VBR_PCI "," VBR_SLOT_ARG " -incoming defer");
    vbr_fill(&p.from->d, AREA, NPAGES, NEW);
    vbr_pair_move(&p);
    vbr_pair_arrive(&p);
    vbr_assert_counter(&p.from->d, "ballooned-left-out-bytes", 2 * BYTES);
    g_assert_cmpuint(vbr_resident(&p.to->d, AREA, 2 * NPAGES), ==, 0);
    vbr_assert_filled(&p.to->d, AREA + 2 * BYTES, FEW, OLD);
    vbr_pair_free(&p);
}

/* Without its word the guest may use them at any time: all are sent. */
static void test_not_told(void)
{
    VbrPair p = ballooned_pair(VBR_HINT_OPTS,
                               1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST);

    vbr_pair_move(&p);
    vbr_pair_arrive(&p);
    vbr_assert_counter(&p.from->d, "ballooned-left-out-bytes", 0);
    vbr_assert_filled(&p.to->d, AREA + BYTES, FEW, OLD);
    vbr_pair_free(&p);
}

/* Taken out of the balloon while the migration runs, written or not. */
static void test_deflate(void)
{
    VbrPair p = ballooned_pair(VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;

    vbr_pair_move(&p);
    vbr_hint_wait_round(d, 0);
    vbr_send_range(d, VBR_DEFLATE, AREA, NPAGES);
    vbr_fill(d, AREA, NPAGES / 2, NEW);
    vbr_send_range(d, VBR_DEFLATE, AREA + BYTES, NPAGES / 2);
    vbr_pair_arrive(&p);
    vbr_assert_counter(d, "ballooned-left-out-bytes", BYTES / 2);
    d = &p.to->d;
    vbr_assert_filled(d, AREA, FEW, NEW);
    vbr_assert_filled(d, AREA + BYTES / 2, FEW, 0);
    vbr_assert_filled(d, AREA + BYTES, FEW, OLD);
    vbr_assert_filled(d, AREA + BYTES + BYTES / 2, FEW, 0);
    vbr_assert_counter(d, "ballooned-bytes", BYTES / 2);
    vbr_pair_free(&p);
}

/* Out of the balloon, used, and into it again: empty, whatever it held. */
static void test_inflate(void)
{
    VbrPair p = vbr_pair("", VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;

    vbr_fill(d, AREA, 2 * NPAGES, OLD);
    vbr_pair_move(&p);
    vbr_hint_wait_round(d, 0);
    vbr_send_range(d, VBR_INFLATE, AREA, NPAGES);
    vbr_send_range(d, VBR_DEFLATE, AREA, FEW);
    vbr_fill(d, AREA, FEW, NEW);
    vbr_pair_arrive(&p);
    d = &p.to->d;
    vbr_assert_filled(d, AREA, FEW, NEW);
    vbr_assert_filled(d, AREA + BYTES, FEW, OLD);
    vbr_assert_counter(d, "ballooned-bytes", BYTES - FEW * VBR_PAGE);
    vbr_send_range(d, VBR_DEFLATE, AREA + FEW * VBR_PAGE, NPAGES - FEW);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_pair_free(&p);
}

/* A reset gives the guest all of its memory back, in the middle of it, too. */
static void check_reset(bool of_machine)
{
    VbrPair p = ballooned_pair(VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;

    vbr_pair_move(&p);
    vbr_hint_wait_round(d, 0);
    vbr_assert_counter(d, "ballooned-left-out-bytes", 2 * BYTES);
    if (of_machine) {
        vbr_system_reset(d);
    }
    vbr_restart(d, 0);
    vbr_pair_arrive(&p);
    vbr_assert_counter(d, "ballooned-left-out-bytes", 0);
    d = &p.to->d;
    vbr_assert_filled(d, AREA + BYTES, FEW, OLD);
    vbr_assert_filled(d, AREA + 2 * BYTES - FEW * VBR_PAGE, 2 * FEW, OLD);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_pair_free(&p);
}

static void test_reset(void)
{
    check_reset(false);
    check_reset(true);
}

void vbr_add_skip_tests(void)
{
    qtest_add_func("virtio-balloon-rs/skip/left-out", test_left_out);
    qtest_add_func("virtio-balloon-rs/skip/onward", test_onward);
    qtest_add_func("virtio-balloon-rs/skip/not-told", test_not_told);
    qtest_add_func("virtio-balloon-rs/skip/deflate", test_deflate);
    qtest_add_func("virtio-balloon-rs/skip/inflate", test_inflate);
    qtest_add_func("virtio-balloon-rs/skip/reset", test_reset);
}
