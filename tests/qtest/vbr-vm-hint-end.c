/*
 * virtio-balloon-rs: rounds of hints that end with a destination or a device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tests/qtest/libqos/pci-pc.h"
#include "vbr-hint.h"
#include "vbr-pair.h"
#include "vbr-probe.h"
#include "vbr-stream.h"

#define AREA (96 * MiB)
#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

#define BALLOON "-device " VBR_PCI "," VBR_SLOT_ARG "," VBR_HINT_OPTS
#define THREADED "-object iothread,id=io " BALLOON ",iothread=io"

/* The register of a PC's hotplug controller that ejects a slot. */
#define EJECT 0xae08

/* The destination goes away: DONE, and the guest, which stays, can be moved. */
static void test_failed(void)
{
    VbrPair p = vbr_pair("", VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;
    uint32_t id;

    vbr_fill(d, AREA, NPAGES, 0x71);
    vbr_pair_move(&p);
    id = vbr_hint_wait_round(d, 0);
    vbr_hint_id(d, id);
    vbr_hint_pages(d, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_vm_free(p.to);
    vbr_migrate_until(p.from->qts, "failed");
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
    vbr_hint_assert_state(d, "done");
    vbr_assert_kept(d, AREA, NPAGES, 0x71);
    vbr_hint_pages(d, AREA, NPAGES);
    vbr_assert_counter(d, "late-hint-bytes", BYTES);
    unlink(p.uri + strlen("unix:"));

    /* The next one takes all that is not hinted again. */
    p.to = vbr_pc(BALLOON " -incoming defer");
    vbr_pair_move(&p);
    g_assert_cmphex(vbr_hint_wait_round(d, 0), >, id);
    vbr_pair_arrive(&p);
    vbr_assert_kept(&p.to->d, AREA, NPAGES, 0x71);
    vbr_pair_free(&p);
}

/*
 * A cancelled one and another one: what the first left out is not left out of
 * the second.
 */
static void test_cancelled(void)
{
    VbrPair p = vbr_pair("", VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;
    uint32_t id;

    vbr_fill(d, AREA, NPAGES, 0x72);
    id = vbr_hint_open(d);
    vbr_hint_pages(d, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_cancel(d);
    vbr_pair_move(&p);
    g_assert_cmphex(vbr_hint_wait_round(d, id), >, id);
    vbr_pair_arrive(&p);
    vbr_assert_counter(d, "hint-left-out-bytes", 0);
    vbr_assert_kept(&p.to->d, AREA, NPAGES, 0x72);
    vbr_pair_free(&p);
}

/* On to a third machine: an id that the guest has not seen, and hints count. */
static void test_onward(void)
{
    VbrPair p = vbr_pair("", VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;
    VbrVm *third;
    uint32_t id;

    vbr_fill(d, AREA, 2 * NPAGES, 0x73);
    vbr_pair_move(&p);
    id = vbr_hint_wait_round(d, 0);
    vbr_hint_id(d, id);
    vbr_hint_pages(d, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_pair_arrive(&p);
    vbr_vm_free(p.from);
    unlink(p.uri + strlen("unix:"));

    p.from = p.to;
    d = &p.from->d;
    third = vbr_pc(BALLOON " -incoming defer");
    p.to = third;
    vbr_fill(d, AREA, NPAGES, 0x74);
    vbr_pair_move(&p);
    g_assert_cmphex(vbr_hint_wait_round(d, 0), >, id);
    /* Late by a whole machine. */
    vbr_hint_id(d, id);
    vbr_assert_counter(d, "ignored-hint-ids", 1);
    id = vbr_hint_shown(d);
    vbr_hint_id(d, id);
    vbr_hint_pages(d, AREA + BYTES, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_pair_arrive(&p);
    vbr_assert_filled(&p.to->d, AREA, NPAGES, 0x74);
    vbr_assert_filled(&p.to->d, AREA + BYTES, NPAGES, 0);
    vbr_assert_works(&p.to->d);
    vbr_pair_free(&p);
}

/* What the guest said while it was moved is answered where it arrives. */
static void test_in_ring(void)
{
    VbrPair p = vbr_pair("", VBR_HINT_OPTS, 0);
    VbrDev *d = &p.from->d;
    VbrSeg id, block = vbr_hint_block_seg(AREA, BYTES);
    int i;

    vbr_fill(d, AREA, NPAGES, 0x75);
    vbr_pair_move(&p);
    id = vbr_hint_id_seg(d, vbr_hint_wait_round(d, 0));
    qtest_qmp_assert_success(p.from->qts, "{ 'execute': 'stop' }");
    vbr_add(d, VBR_HINT, &id, 1);
    for (i = 0; i < 500; i++) {
        vbr_add(d, VBR_HINT, &block, 1);
    }
    vbr_notify(d, VBR_HINT);
    vbr_pair_arrive(&p);
    d = &p.to->d;
    qtest_qmp_assert_success(p.to->qts, "{ 'execute': 'cont' }");
    vbr_take(d, VBR_HINT, 501);
    vbr_assert_counter(d, "late-hint-bytes", 500 * BYTES);
    vbr_assert_counter(d, "ignored-hint-ids", 1);
    vbr_assert_kept(d, AREA, NPAGES, 0x75);
    vbr_pair_free(&p);
}

/* Nothing is unplugged while a migration runs; the user is told so. */
static void test_unplug_refused(void)
{
    VbrVm *vm = vbr_pc_balloon(VBR_HINT_OPTS);
    g_autofree char *text = NULL;

    vbr_start(&vm->d, 0);
    vbr_hint_open(&vm->d);
    text = vbr_qmp_error(qtest_qmp(vm->qts, "{ 'execute': 'device_del', "
                                   "'arguments': { 'id': '" VBR_ID "' } }"));
    g_assert_nonnull(strstr(text, "migrating"));
    vbr_hint_assert_state(&vm->d, "started");
    vbr_hint_complete(&vm->d);
    g_assert_cmphex(vbr_hint_shown(&vm->d), ==, VBR_HINT_DONE);
    vbr_vm_free(vm);
}

static QDict *balloon_of(QTestState *qts)
{
    return qtest_qmp(qts, "{ 'execute': 'query-balloon' }");
}

/*
 * But what the user asked for before, the guest can do meanwhile: the device
 * goes in the middle of a round, of requests, or of the log's arming.
 */
static void check_unplug(const char *args, bool open, bool offered)
{
    VbrVm *vm = vbr_pc("%s", args);
    VbrDev *d = &vm->d;
    g_autofree char *text = NULL;
    int i;

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    qtest_qmp_device_del_send(vm->qts, VBR_ID);
    vbr_hint_ballast(d);
    vbr_migrate_speed(vm->qts, VBR_SLOW);
    vbr_migrate(vm->qts, VBR_NOWHERE);
    if (open) {
        vbr_hint_id(d, vbr_hint_wait_round(d, 0));
        vbr_hint_pages(d, AREA, NPAGES);
    }
    for (i = 0; offered && i < 1000; i++) {
        VbrSeg seg = vbr_hint_block_seg(AREA + 2 * i * VBR_PAGE, VBR_PAGE);

        vbr_add(d, VBR_HINT, &seg, 1);
    }
    if (offered) {
        vbr_notify(d, VBR_HINT);
    }
    qtest_outl(vm->qts, EJECT, 1 << VBR_SLOT);
    qtest_qmp_eventwait(vm->qts, "DEVICE_DELETED");
    text = vbr_qmp_error(balloon_of(vm->qts));
    vbr_hint_complete(d);

    /* And another one is welcome, hints and all. */
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
    qtest_qmp_device_add(vm->qts, VBR_PCI, VBR_ID,
                         "{ 'addr': '04.0', 'free-page-hint': true }");
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    vbr_hint_open(d);
    vbr_hint_pages(d, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_complete(d);
    vbr_vm_free(vm);
}

static void test_unplug(void)
{
    int i;

    for (i = 0; i < 8; i++) {
        check_unplug(i & 4 ? THREADED : BALLOON, i & 1, i & 2);
    }
}

/* Plugged in when the migration has begun: not part of it. */
static void test_plug_refused(void)
{
    VbrVm *vm = vbr_pc(" ");
    g_autofree char *text = NULL;

    vbr_hint_ballast(&vm->d);
    vbr_migrate_speed(vm->qts, VBR_SLOW);
    vbr_migrate(vm->qts, VBR_NOWHERE);
    vbr_migrate_until(vm->qts, "active");
    text = vbr_qmp_error(qtest_qmp(vm->qts, "{ 'execute': 'device_add', "
                                   "'arguments': { 'driver': '" VBR_PCI "', "
                                   "'free-page-hint': true } }"));
    g_assert_nonnull(strstr(text, "migrating"));
    vbr_migrate_speed(vm->qts, VBR_FAST);
    vbr_migrate_until(vm->qts, "completed");
    vbr_vm_free(vm);
}

/* A user who deletes the iothread does not take it from the device. */
static void test_iothread(void)
{
    VbrVm *vm = vbr_pc(THREADED);
    VbrDev *d = &vm->d;

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'object-del', "
                             "'arguments': { 'id': 'io' } }");
    vbr_hint_open(d);
    vbr_hint_pages(d, AREA, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_hint_cancel(d);
    qpci_unplug_acpi_device_test(vm->qts, VBR_ID, VBR_SLOT);
    vbr_settle(d);
    vbr_vm_free(vm);
}

/*
 * The guest aims the notification of a new id, and of DONE, at the device's own
 * status: it is reset then, or shielded from that.
 */
static void test_reset_by_notification(void)
{
    VbrVm *vm = vbr_pc(BALLOON);
    VbrDev *d = &vm->d;
    QPCIDevice *pdev;
    uint64_t target, entry;

    vbr_vm_attach(vm, VBR_SLOT);
    pdev = vm->pci->pdev;
    target = vm->pci->bar.addr + vm->pci->common_cfg_offset + 20;
    qpci_msix_enable(pdev);
    entry = pdev->msix_table_off;
    qpci_io_writel(pdev, pdev->msix_table_bar, entry, target);
    qpci_io_writel(pdev, pdev->msix_table_bar, entry + 4, target >> 32);
    qpci_io_writel(pdev, pdev->msix_table_bar, entry + 8, 0);
    qpci_io_writel(pdev, pdev->msix_table_bar, entry + 12, 0);
    vbr_start(d, 0);
    vm->pci->msix_ops->set_config_vector(vm->pci, 0);
    vbr_hint_ballast(d);
    vbr_migrate_speed(vm->qts, VBR_SLOW);
    vbr_migrate(vm->qts, VBR_NOWHERE);
    vbr_hint_wait(d, "hint-rounds", 1);
    vbr_settle(d);
    vbr_hint_complete(d);
    g_assert_cmphex(vbr_hint_shown(d), <=, VBR_HINT_DONE);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
    vbr_restart(d, 0);
    vbr_assert_works(d);
    vbr_vm_free(vm);
}

void vbr_add_hint_end_tests(void)
{
    qtest_add_func("virtio-balloon-rs/hint/failed", test_failed);
    qtest_add_func("virtio-balloon-rs/hint/cancelled", test_cancelled);
    qtest_add_func("virtio-balloon-rs/hint/onward", test_onward);
    qtest_add_func("virtio-balloon-rs/hint/in-ring", test_in_ring);
    qtest_add_func("virtio-balloon-rs/hint/unplug-refused",
                   test_unplug_refused);
    qtest_add_func("virtio-balloon-rs/hint/unplug", test_unplug);
    qtest_add_func("virtio-balloon-rs/hint/plug-refused", test_plug_refused);
    qtest_add_func("virtio-balloon-rs/hint/iothread", test_iothread);
    qtest_add_func("virtio-balloon-rs/hint/reset-by-notification",
                   test_reset_by_notification);
}
