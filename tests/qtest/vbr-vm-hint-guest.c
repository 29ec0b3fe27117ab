/*
 * virtio-balloon-rs: hints at memory of all kinds, on a PC
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "standard-headers/linux/virtio_pci.h"
#include "vbr-hint.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vm.h"

#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

#define HIGH (96 * MiB)
#define APIC_MSI 0xfee00000
#define IO_APIC 0xfec00000
/* The end of low memory; behind it is the window of a display. */
#define HOLE (640 * KiB)
/* Where nothing is, and where nothing can be. */
#define NOTHING (3ull * GiB)
#define BEYOND (1ull << 46)

#define DISPLAY "-device VGA,addr=05.0,vgamem_mb=16"
#define DISPLAY_BYTES (16 * MiB)

#define BALLOON "-device " VBR_PCI "," VBR_SLOT_ARG "," VBR_HINT_OPTS

static VbrVm *machine(const char *args)
{
    VbrVm *vm = vbr_pc("%s " BALLOON, args);

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    return vm;
}

/* One page of a device, or of nothing, beside RAM, in an open round. */
static void check_no_ram(VbrVm *vm, uint64_t addr)
{
    VbrDev *d = &vm->d;
    uint64_t refused;

    vbr_hint_open(d);
    refused = vbr_counter(d, "refused-hint-not-ram-bytes");
    vbr_hint_block(d, addr, VBR_PAGE);
    vbr_hint_pages(d, HIGH, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_assert_counter(d, "refused-hint-not-ram-bytes", refused + VBR_PAGE);
    vbr_hint_cancel(d);
    g_assert(!vbr_is_broken(d));
}

static void test_no_ram(void)
{
    VbrVm *vm = machine("");
    uint64_t bar = vm->pci->bar.addr;

    g_assert_cmphex(bar, >, 128 * MiB);
    check_no_ram(vm, bar & ~(VBR_PAGE - 1));
    check_no_ram(vm, APIC_MSI);
    check_no_ram(vm, IO_APIC);
    check_no_ram(vm, NOTHING);
    check_no_ram(vm, BEYOND);
    /* RAM ends here. */
    check_no_ram(vm, 128 * MiB);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

/* From RAM into what is none. */
static void check_edge(uint64_t ram_end)
{
    VbrVm *vm = machine(DISPLAY);
    VbrDev *d = &vm->d;

    vbr_hint_open(d);
    vbr_hint_block(d, ram_end - 2 * VBR_PAGE, 3 * VBR_PAGE);
    vbr_hint_wait(d, "refused-hint-not-ram-bytes", VBR_PAGE);
    vbr_hint_pages(d, HIGH, NPAGES);
    vbr_hint_complete(d);
    g_assert_cmpuint(vbr_counter(d, "hint-left-out-bytes"), >=, BYTES);
    g_assert(!vbr_is_broken(d));
    vbr_vm_free(vm);
}

static void test_edge(void)
{
    check_edge(HOLE);
    check_edge(128 * MiB);
}

/*
 * More of what is no RAM than QEMU maps at a time: it breaks the device. The
 * migration goes on with what was left out before.
 */
static void test_too_much(void)
{
    VbrVm *vm = machine("");
    VbrDev *d = &vm->d;
    VbrSeg seg = vbr_hint_block_seg(NOTHING, 4 * MiB);
    VbrWait wait = { "the device to break" };

    vbr_hint_open(d);
    vbr_hint_pages(d, HIGH, NPAGES);
    vbr_hint_wait(d, "hint-left-out-bytes", BYTES);
    vbr_add(d, VBR_HINT, &seg, 1);
    vbr_notify(d, VBR_HINT);
    while (!vbr_is_broken(d)) {
        vbr_wait(&wait);
    }
    vbr_hint_complete(d);
    vbr_assert_counter(d, "hint-left-out-bytes", BYTES);
    vbr_vm_free(vm);
}

/* The memory of a display, filled, so that it takes its time to be sent. */
static uint64_t display_memory(VbrVm *vm)
{
    QPCIDevice *vga = qpci_device_find(vm->bus, QPCI_DEVFN(5, 0));
    QPCIBar vram;

    g_assert_nonnull(vga);
    vram = qpci_iomap(vga, 0, NULL);
    qpci_device_enable(vga);
    qtest_memset(vm->qts, vram.addr, 0x3b, DISPLAY_BYTES);
    g_free(vga);
    return vram.addr;
}

/* Memory of the display is RAM that migrates, but not the guest's own. */
static void test_display(void)
{
    VbrVm *vm = machine(DISPLAY);
    VbrDev *d = &vm->d;
    uint64_t vram = display_memory(vm);

    vbr_hint_open(d);
    vbr_hint_block(d, vram, BYTES);
    vbr_hint_pages(d, HIGH, NPAGES);
    vbr_hint_complete(d);
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
    g_assert(!vbr_is_broken(d));
    vbr_vm_free(vm);
}

/* A ring where its elements cannot be: in the device's own registers. */
static void test_ring_in_registers(void)
{
    VbrVm *vm = machine("");
    VbrDev *d = &vm->d;
    QVirtQueue *vq = d->ring[VBR_HINT].vq;
    uint64_t common = vm->pci->bar.addr + vm->pci->common_cfg_offset;
    const QVirtQueue was = *vq;

    vbr_hint_open(d);
    /* Used elements are written over the queue's own description. */
    qvirtio_reset(d->vdev);
    qvirtio_start_device(d->vdev);
    qvirtio_set_features(d->vdev, d->vdev->features);
    vq->used = common;
    d->vdev->bus->queue_select(d->vdev, vq->index);
    qpci_io_writeq(vm->pci->pdev, vm->pci->bar, vm->pci->common_cfg_offset +
                   offsetof(struct virtio_pci_common_cfg, queue_desc_lo),
                   was.desc);
    qpci_io_writeq(vm->pci->pdev, vm->pci->bar, vm->pci->common_cfg_offset +
                   offsetof(struct virtio_pci_common_cfg, queue_avail_lo),
                   was.avail);
    qpci_io_writeq(vm->pci->pdev, vm->pci->bar, vm->pci->common_cfg_offset +
                   offsetof(struct virtio_pci_common_cfg, queue_used_lo),
                   common);
    qpci_io_writew(vm->pci->pdev, vm->pci->bar, vm->pci->common_cfg_offset +
                   offsetof(struct virtio_pci_common_cfg, queue_enable), 1);
    d->vdev->bus->set_status(d->vdev, VIRTIO_CONFIG_S_ACKNOWLEDGE |
                             VIRTIO_CONFIG_S_DRIVER |
                             VIRTIO_CONFIG_S_FEATURES_OK |
                             VIRTIO_CONFIG_S_DRIVER_OK);
    vbr_w16(d, was.avail + 2, 40);
    vbr_notify(d, VBR_HINT);
    vbr_settle(d);
    /* Whatever came of that: the migration ends, and a reset helps. */
    vbr_hint_complete(d);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
    vbr_system_reset(d);
    *vq = was;
    vbr_restart(d, 0);
    vbr_assert_works(d);
    vbr_vm_free(vm);
}

/* RAM that both sides share is not migrated, and has no bits to clear. */
static void test_ignore_shared(void)
{
    g_autofree char *file = vbr_stream_name();
    g_autofree char *args = g_strdup_printf(
        "-object memory-backend-file,id=ram,share=on,size=128M,mem-path=%s "
        "-M pc,memory-backend=ram " DISPLAY, file);
    VbrVm *vm = machine(args);
    VbrDev *d = &vm->d;

    vbr_migrate_capability(vm->qts, "x-ignore-shared");
    vbr_fill(d, HIGH, NPAGES, 0x2a);
    /* All that is to be sent. */
    display_memory(vm);
    vbr_hint_open(d);
    vbr_hint_pages(d, HIGH, NPAGES);
    vbr_hint_wait(d, "refused-hint-not-migrated-bytes", BYTES);
    vbr_hint_complete(d);
    vbr_assert_counter(d, "hint-left-out-bytes", 0);
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
    vbr_assert_filled(d, HIGH, NPAGES, 0x2a);
    vbr_vm_free(vm);
    unlink(file);
}

static void assert_inhibited(VbrDev *d, const char *why)
{
    g_autofree char *text = vbr_string(d, "free-page-hint-inhibited");

    g_assert_cmpstr(text, ==, why);
}

/* A snapshot is of a moment that a hint comes too late for. */
static void test_background_snapshot(void)
{
    g_autofree char *file = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("file:%s", file);
    VbrVm *vm = machine("");
    VbrDev *d = &vm->d;
    QDict *rsp;
    bool can;

    rsp = qtest_qmp(vm->qts, "{ 'execute': 'migrate-set-capabilities', "
                    "'arguments': { 'capabilities': [ { 'capability': "
                    "'background-snapshot', 'state': true } ] } }");
    can = qdict_haskey(rsp, "return");
    qobject_unref(rsp);
    if (!can) {
        g_test_skip("no userfaultfd write protection on this host");
        vbr_vm_free(vm);
        return;
    }
    vbr_fill(d, 32 * MiB, 64 * MiB / VBR_PAGE, 0x19);
    assert_inhibited(d, "no");
    vbr_migrate_speed(vm->qts, 1 * MiB);
    vbr_migrate(vm->qts, uri);
    vbr_migrate_until(vm->qts, "active");
    assert_inhibited(d, "background snapshot");
    g_assert_cmphex(vbr_hint_shown(d), <=, VBR_HINT_DONE);
    vbr_hint_pages(d, HIGH, NPAGES);
    vbr_assert_counter(d, "late-hint-bytes", BYTES);
    vbr_migrate_speed(vm->qts, VBR_FAST);
    vbr_migrate_until(vm->qts, "completed");
    assert_inhibited(d, "no");
    vbr_assert_counter(d, "hint-rounds", 0);
    vbr_vm_free(vm);
    unlink(file);
}

/* A queue that is reset in an open round is set up anew, and goes on. */
static void test_queue_reset(void)
{
    VbrVm *vm = machine("");
    VbrDev *d = &vm->d;
    int i;

    if (!vbr_has(d, VIRTIO_F_RING_RESET)) {
        g_test_skip("this QEMU resets no single queues");
        vbr_vm_free(vm);
        return;
    }
    vbr_hint_open(d);
    for (i = 0; i < 10; i++) {
        VbrSeg seg = vbr_hint_block_seg(HIGH + 8 * MiB, BYTES);

        vbr_add(d, VBR_HINT, &seg, 1);
        vbr_notify(d, VBR_HINT);
        vbr_vm_reset_queue(vm, VBR_HINT);
        vbr_settle(d);
        g_assert_cmpuint(vbr_used(d, VBR_HINT), ==, 0);
        vbr_hint_pages(d, HIGH, NPAGES);
    }
    vbr_hint_complete(d);
    g_assert_cmphex(vbr_hint_shown(d), ==, VBR_HINT_DONE);
    g_assert(!vbr_is_broken(d));
    vbr_vm_free(vm);
}

/* Far more hints than are kept until they are taken: some may be refused. */
static void test_flood(void)
{
    const unsigned int parts = 1000, requests = 40;
    VbrVm *vm = machine("");
    VbrDev *d = &vm->d;
    g_autofree VbrSeg *segs = g_new(VbrSeg, parts);
    uint16_t head;
    unsigned int i;

    vbr_hint_open(d);
    for (i = 0; i < parts; i++) {
        segs[i] = vbr_hint_block_seg(HIGH + 2 * i * VBR_PAGE, VBR_PAGE);
    }
    head = vbr_add_indirect(d, VBR_HINT, segs, parts);
    for (i = 1; i < requests; i++) {
        VbrRing *r = &d->ring[VBR_HINT];

        /* The same table again and again. */
        vbr_w16(d, r->vq->avail + 4 + 2 * (r->avail % r->vq->size), head);
        vbr_w16(d, r->vq->avail + 2, ++r->avail);
    }
    vbr_notify(d, VBR_HINT);
    vbr_take(d, VBR_HINT, requests);
    vbr_assert_counter(d, "hinted-bytes", requests * parts * VBR_PAGE);
    vbr_hint_wait(d, "hint-left-out-bytes", parts * VBR_PAGE);
    vbr_hint_complete(d);
    g_assert_cmpuint(vbr_counter(d, "refused-hint-overflow-bytes"), <=,
                     (requests - 1) * parts * VBR_PAGE);
    vbr_vm_free(vm);
}

void vbr_add_hint_guest_tests(void)
{
    qtest_add_func("virtio-balloon-rs/hint/no-ram", test_no_ram);
    qtest_add_func("virtio-balloon-rs/hint/edge", test_edge);
    qtest_add_func("virtio-balloon-rs/hint/too-much", test_too_much);
    qtest_add_func("virtio-balloon-rs/hint/display", test_display);
    qtest_add_func("virtio-balloon-rs/hint/ring-in-registers",
                   test_ring_in_registers);
    qtest_add_func("virtio-balloon-rs/hint/ignore-shared",
                   test_ignore_shared);
    qtest_add_func("virtio-balloon-rs/hint/background-snapshot",
                   test_background_snapshot);
    qtest_add_func("virtio-balloon-rs/hint/queue-reset", test_queue_reset);
    qtest_add_func("virtio-balloon-rs/hint/flood", test_flood);
}
