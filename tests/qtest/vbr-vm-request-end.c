/*
 * virtio-balloon-rs: requests that come one after the other, or to no good end
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "vbr-request.h"
#include "vbr-stream.h"

#define AREA VBR_AREA
#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

static int64_t passes(VbrDev *d)
{
    QDict *ret = qtest_qmp_assert_success_ref(
        d->qts, "{ 'execute': 'query-migrate' }");
    int64_t n = qdict_get_int(qdict_get_qdict(ret, "ram"),
                              "dirty-sync-count");

    qobject_unref(ret);
    return n;
}

/* The next pass begins, and with it all that was asked before is late. */
static void next_pass(VbrDev *d)
{
    int64_t last = passes(d);
    VbrWait wait = { "the next pass" };

    vbr_hint_next_pass(d);
    while (passes(d) == last) {
        vbr_wait(&wait);
    }
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_settle(d);
}

/* DONE, and another buffer: the next round can be asked for. */
static void test_next_round(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t first, second, buffer;

    vbr_fill(d, AREA, 2 * NPAGES, 0x61);
    first = vbr_request_begin(d, a->q);
    vbr_request_answer(d, a->q, first, true, AREA, 2 * NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", 2 * BYTES);
    buffer = vbr_request_post(d, a->q);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, a->q), ==, 0);

    /* Written since: dirty, and to be left out if it is unused again. */
    vbr_fill(d, AREA, NPAGES, 0x62);
    next_pass(d);
    second = vbr_request_take(d, a->q, buffer);
    vbr_assert_counter(d, "hint-rounds", 2);
    if (a->q == VBR_REQUEST) {
        g_assert_cmphex(second & 0xffff, !=, first & 0xffff);
    }
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_request_answer(d, a->q, second, true, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", 2 * BYTES);
    vbr_hint_complete(d);
    vbr_vm_free(vm);
}

/* An answer that is not at its end holds back the next request. */
static void test_in_flight(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t first, second, buffer, hinted;

    vbr_fill(d, AREA, 2 * NPAGES, 0x63);
    first = vbr_request_begin(d, a->q);
    vbr_request_answer(d, a->q, first, false, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    buffer = vbr_request_post(d, a->q);
    vbr_fill(d, AREA, NPAGES, 0x64);
    next_pass(d);
    g_assert_cmpuint(vbr_used(d, a->q), ==, 0);
    vbr_assert_counter(d, "hint-rounds", 1);

    /* The rest of it is too late, up to DONE. */
    hinted = vbr_counter(d, "hinted-bytes");
    vbr_request_answer(d, a->q, first, false, AREA, NPAGES);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, a->q), ==, 0);
    vbr_request_answer(d, a->q, first, true, AREA, NPAGES);
    second = vbr_request_take(d, a->q, buffer);
    vbr_assert_counter(d, "hinted-bytes", hinted);
    vbr_assert_counter(d, "hint-left-out-bytes", 0);
    vbr_assert_counter(d, "hint-rounds", 2);
    vbr_request_answer(d, a->q, second, true, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    vbr_vm_free(vm);
}

/* Nor is anything asked without a buffer to ask with. */
static void test_buffer_later(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t id, buffer;

    vbr_fill(d, AREA, 2 * NPAGES, 0x65);
    id = vbr_request_begin(d, a->q);
    vbr_request_answer(d, a->q, id, true, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_fill(d, AREA, NPAGES, 0x66);
    next_pass(d);
    vbr_assert_counter(d, "hint-rounds", 1);
    buffer = vbr_request_post(d, a->q);
    id = vbr_request_take(d, a->q, buffer);
    vbr_assert_counter(d, "hint-rounds", 2);
    vbr_request_answer(d, a->q, id, true, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    vbr_vm_free(vm);
}

/* Cancelled while the guest answers: it finishes, and can be asked again. */
static void test_cancelled(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t first, second, buffer;

    vbr_fill(d, AREA, 2 * NPAGES, 0x67);
    first = vbr_request_begin(d, a->q);
    vbr_request_answer(d, a->q, first, false, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_cancel(d);
    vbr_hint_assert_state(d, "done");
    vbr_request_answer(d, a->q, first, false, AREA, NPAGES);
    vbr_assert_counter(d, "hinted-bytes", BYTES);
    buffer = vbr_request_post(d, a->q);

    vbr_hint_ballast(d);
    vbr_migrate(d->qts, VBR_NOWHERE);
    vbr_hint_wait(d, "hint-left-out-bytes", 0);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, a->q), ==, 0);
    vbr_request_answer(d, a->q, first, true, AREA, NPAGES);
    second = vbr_request_take(d, a->q, buffer);
    vbr_assert_counter(d, "hinted-bytes", BYTES);
    vbr_request_answer(d, a->q, second, true, AREA + BYTES, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    vbr_vm_free(vm);
}

enum { DRIVER, MACHINE, QUEUE };

/*
 * The driver goes away in the middle of its answer, or before it. Nothing of
 * what it might have said counts for the next driver.
 */
static void check_reset(const VbrAsk *a, int what, bool answering)
{
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t first, second, hinted;

    vbr_fill(d, AREA, 3 * NPAGES, 0x68);
    first = vbr_request_begin(d, a->q);
    if (answering) {
        vbr_request_answer(d, a->q, first, false, AREA, NPAGES);
    }
    switch (what) {
    case MACHINE:
        vbr_system_reset(d);
        /* fall through */
    case DRIVER:
        vbr_restart(d, 0);
        break;
    case QUEUE:
        vbr_vm_reset_queue(vm, a->q);
        break;
    }
    hinted = vbr_counter(d, "hinted-bytes");
    vbr_request_answer(d, a->q, first, false, AREA + BYTES, NPAGES);
    vbr_assert_counter(d, "hinted-bytes", hinted);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, a->q), ==, 0);
    vbr_hint_complete(d);
    vbr_assert_kept(d, AREA, 3 * NPAGES, 0x68);

    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
    second = vbr_request_begin(d, a->q);
    if (a->q == VBR_REQUEST) {
        g_assert_cmphex(second & 0xffff, !=, first & 0xffff);
    }
    vbr_request_answer(d, a->q, second, true, AREA + BYTES, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    g_assert(!vbr_is_broken(d));
    vbr_vm_free(vm);
}

static void test_reset(const void *ask)
{
    check_reset(ask, DRIVER, false);
    check_reset(ask, DRIVER, true);
    check_reset(ask, MACHINE, false);
    check_reset(ask, MACHINE, true);
}

static void test_queue_reset(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "");
    bool can = vbr_has(&vm->d, VIRTIO_F_RING_RESET);

    vbr_vm_free(vm);
    if (!can) {
        g_test_skip("this QEMU resets no single queues");
        return;
    }
    check_reset(a, QUEUE, false);
    check_reset(a, QUEUE, true);
}

/* A buffer that was held when the driver or its queue went away is gone. */
static void test_held(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t old = vbr_request_post(d, a->q), buffer, id;

    vbr_restart(d, 0);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, a->q), ==, 0);
    if (vbr_has(d, VIRTIO_F_RING_RESET)) {
        vbr_request_post(d, a->q);
        vbr_vm_reset_queue(vm, a->q);
        vbr_settle(d);
        g_assert_cmpuint(vbr_used(d, a->q), ==, 0);
    }
    buffer = vbr_request_post(d, a->q);
    vbr_assert_counter(d, "ignored-request-buffers", 0);
    vbr_fill(d, AREA, NPAGES, 0x69);
    vbr_hint_ballast(d);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_migrate(d->qts, VBR_NOWHERE);
    id = vbr_request_take(d, a->q, buffer);
    g_assert_cmphex(qtest_readb(d->qts, old), ==, 0xee);
    vbr_request_answer(d, a->q, id, true, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    vbr_vm_free(vm);
}

/* Taken back from a snapshot, a buffer that was held is held again. */
static void test_snapshot(const void *ask)
{
    const VbrAsk *a = ask;
    g_autofree char *image = vbr_stream_name();
    VbrVm *vm = vbr_pc("-m 64M -device " VBR_PCI "," VBR_SLOT_ARG ",%s",
                       a->props);
    VbrDev *d = &vm->d;
    uint64_t buffer;
    int i;

    vbr_snapshot_disk(vm->qts, image);
    vbr_vm_attach(vm, VBR_SLOT);
    d->bits = a->bits;
    vbr_start(d, 0);
    buffer = vbr_request_post(d, a->q);
    for (i = 0; i < 5; i++) {
        vbr_snapshot(vm->qts, "savevm");
        if (i & 1) {
            qvirtio_reset(d->vdev);
            d->vdev->features_negotiated = true;
        }
        vbr_snapshot(vm->qts, "loadvm");
        vbr_settle(d);
        g_assert_cmpuint(vbr_used(d, a->q), ==, 0);
    }
    vbr_assert_counter(d, "ignored-request-buffers", 0);
    vbr_hint_ballast(d);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_migrate(d->qts, VBR_NOWHERE);
    vbr_request_take(d, a->q, buffer);
    vbr_hint_cancel(d);
    vbr_vm_free(vm);
    unlink(image);
}

void vbr_add_request_end_tests(void)
{
    vbr_add_asking("next-round", test_next_round);
    vbr_add_asking("in-flight", test_in_flight);
    vbr_add_asking("buffer-later", test_buffer_later);
    vbr_add_asking("cancelled", test_cancelled);
    vbr_add_asking("reset", test_reset);
    vbr_add_asking("queue-reset", test_queue_reset);
    vbr_add_asking("held", test_held);
    vbr_add_asking("snapshot", test_snapshot);
}
