/*
 * virtio-balloon-rs: requests, and guests and users that make trouble
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-request.h"

#define AREA VBR_AREA
#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

/* The register of a PC's hotplug controller that ejects a slot. */
#define EJECT 0xae08

/* Where a long answer lies, the same part again and again. */
#define STORE (64 * MiB)
#define PART (8 * MiB)
#define NPARTS 127
#define NAMED 128

static void offer_long(VbrDev *d, uint64_t id, unsigned int parts)
{
    uint64_t words[8192];
    VbrSeg segs[NPARTS + 1];
    uint64_t i;

    for (i = 0; i < ARRAY_SIZE(words); i++) {
        words[i] = cpu_to_le64((AREA + 2 * (i % NAMED) * VBR_PAGE) | 1);
    }
    for (i = 0; i < PART; i += sizeof(words)) {
        qtest_bufwrite(d->qts, STORE + i, words, sizeof(words));
    }
    segs[0] = (VbrSeg) { .addr = STORE - VBR_PAGE, .len = 8 };
    vbr_w32(d, segs[0].addr, (uint32_t)id << 16);
    vbr_w32(d, segs[0].addr + 4, parts * PART);
    for (i = 1; i <= parts; i++) {
        segs[i] = (VbrSeg) { .addr = STORE, .len = PART };
    }
    vbr_add(d, VBR_REQUEST, segs, parts + 1);
    vbr_notify(d, VBR_REQUEST);
}

/* An answer of nearly a GiB: QMP answers, too, and a reset is the end of it. */
static void test_long(void)
{
    VbrVm *vm = vbr_ask_machine(&vbr_asks[0], "-m 512M");
    VbrDev *d = &vm->d;
    VbrWait wait = { "hints" };
    int i;

    offer_long(d, vbr_request_begin(d, VBR_REQUEST), NPARTS);
    for (i = 0; i < 20; i++) {
        g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 512 * MiB);
        g_assert_cmpuint(vbr_used(d, VBR_REQUEST), ==, 0);
    }
    while (!vbr_counter(d, "hinted-bytes")) {
        vbr_wait(&wait);
    }
    vbr_restart(d, 0);
    vbr_settle(d);
    vbr_hint_complete(d);
    g_assert(!vbr_is_broken(d));
    vbr_vm_free(vm);
}

/* More ranges than are kept until they are taken: some may be refused. */
static void test_flood(void)
{
    const uint64_t ranges = PART / 8;
    VbrVm *vm = vbr_ask_machine(&vbr_asks[0], "-m 512M");
    VbrDev *d = &vm->d;
    uint64_t id;

    vbr_fill(d, AREA, 2 * NAMED, 0x6a);
    id = vbr_request_begin(d, VBR_REQUEST);
    offer_long(d, id, 1);
    vbr_take(d, VBR_REQUEST, 1);
    vbr_assert_counter(d, "hinted-bytes", ranges * VBR_PAGE);
    vbr_hint_wait(d, "hint-left-out-bytes", NAMED * VBR_PAGE);
    vbr_request_answer(d, VBR_REQUEST, id, true, 0, 0);
    vbr_hint_complete(d);
    vbr_assert_counter(d, "hint-left-out-bytes", NAMED * VBR_PAGE);
    g_assert_cmpuint(vbr_counter(d, "refused-hint-overflow-bytes"), <,
                     ranges * VBR_PAGE);
    vbr_assert_malformed(d, 0, 0, "");
    vbr_vm_free(vm);
}

/* A driver that knows only the interface of its time: bits, queue and words. */
static void test_legacy(void)
{
#define LEGACY "," VBR_HISTORICAL ",disable-modern=on,disable-legacy=off"
    static const VbrAsk asks[] = {
        { "", "host-request=on" LEGACY, VBR_REQUEST, VBR_BITS_RANGE },
        { "", "misc-queue=on" LEGACY, VBR_MISC, VBR_BITS_CHUNKS },
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(asks); i++) {
        const VbrAsk *a = &asks[i];
        VbrVm *vm = vbr_ask_machine(a, "");
        VbrDev *d = &vm->d;
        uint64_t id;

        g_assert(!vbr_is_modern(d));
        vbr_fill(d, AREA, NPAGES, 0x6b);
        id = vbr_request_begin(d, a->q);
        vbr_request_answer(d, a->q, id, true, AREA, NPAGES);
        vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
        vbr_hint_complete(d);
        vbr_assert_malformed(d, 0, 0, "");
        vbr_vm_free(vm);
    }
}

/*
 * The user wanted the device to go before, and the guest lets it go in the
 * middle of things. Another one is welcome then.
 */
static void check_unplug(const VbrAsk *a, bool asked, bool answering)
{
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    uint64_t buffer = 0, id;

    qtest_qmp_device_del_send(vm->qts, VBR_ID);
    if (asked) {
        buffer = vbr_request_post(d, a->q);
    }
    vbr_hint_ballast(d);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_migrate(d->qts, VBR_NOWHERE);
    if (asked) {
        id = vbr_request_take(d, a->q, buffer);
        if (answering) {
            vbr_request_answer(d, a->q, id, false, AREA, NPAGES);
        }
    }
    vbr_request_post(d, a->q);
    qtest_outl(vm->qts, EJECT, 1 << VBR_SLOT);
    qtest_qmp_eventwait(vm->qts, "DEVICE_DELETED");
    vbr_migrate_speed(d->qts, VBR_FAST);
    vbr_migrate_until(d->qts, "completed");

    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
    qtest_qmp_device_add(vm->qts, VBR_PCI, VBR_ID,
                         "{ 'addr': '04.0', %s: true }",
                         a->q == VBR_MISC ? "misc-queue" : "host-request");
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    id = vbr_request_begin(d, a->q);
    vbr_request_answer(d, a->q, id, true, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    vbr_vm_free(vm);
}

static void test_unplug(void)
{
    int i;

    for (i = 0; i < 2; i++) {
        g_assert_cmpuint(vbr_asks[i].bits, ==, VBR_BITS_PRIVATE);
        check_unplug(&vbr_asks[i], false, false);
        check_unplug(&vbr_asks[i], true, false);
        check_unplug(&vbr_asks[i], true, true);
    }
}

/*
 * The guest aims the queue's notification at the device's own status: with the
 * request, and with each answer, it is reset, or shielded from that.
 */
static void test_reset_by_notification(const void *ask)
{
    const VbrAsk *a = ask;
    VbrVm *vm = vbr_ask_machine(a, "");
    VbrDev *d = &vm->d;
    QPCIDevice *pdev = vm->pci->pdev;
    uint64_t target, entry, i;

    target = vm->pci->bar.addr + vm->pci->common_cfg_offset + 20;
    qpci_msix_enable(pdev);
    entry = pdev->msix_table_off;
    qpci_io_writel(pdev, pdev->msix_table_bar, entry, target);
    qpci_io_writel(pdev, pdev->msix_table_bar, entry + 4, target >> 32);
    qpci_io_writel(pdev, pdev->msix_table_bar, entry + 8, 0);
    qpci_io_writel(pdev, pdev->msix_table_bar, entry + 12, 0);
    vbr_restart(d, 0);
    vm->pci->msix_ops->set_queue_vector(vm->pci, vbr_queue_index(d, a->q), 0);
    vbr_request_post(d, a->q);
    for (i = 0; i < 4; i++) {
        const VbrRange range = { AREA, BYTES };
        g_autoptr(GByteArray) msg = vbr_answer(a->q, i, i & 1, &range, 1);
        VbrSeg seg = vbr_message(d, msg);

        vbr_add(d, a->q, &seg, 1);
        vbr_notify(d, a->q);
        vbr_settle(d);
    }
    vbr_hint_ballast(d);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_migrate(d->qts, VBR_NOWHERE);
    vbr_migrate_until(d->qts, "active");
    vbr_settle(d);
    vbr_migrate_speed(d->qts, VBR_FAST);
    vbr_migrate_until(d->qts, "completed");
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
    vbr_restart(d, 0);
    vbr_assert_works(d);
    vbr_vm_free(vm);
}

void vbr_add_request_odd_tests(void)
{
    qtest_add_func("virtio-balloon-rs/request/long", test_long);
    qtest_add_func("virtio-balloon-rs/request/flood", test_flood);
    qtest_add_func("virtio-balloon-rs/request/legacy", test_legacy);
    qtest_add_func("virtio-balloon-rs/request/unplug", test_unplug);
    vbr_add_asking("reset-by-notification", test_reset_by_notification);
}
