/*
 * Machines for the tests that qgraph cannot express
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "tests/qtest/libqos/malloc-pc.h"
#include "tests/qtest/libqos/pci-pc.h"
#include "vbr-vm.h"
#include "vbr-probe.h"

/* As many as there are with the second interrupt controller of microvm. */
#define MICROVM_MMIO_BASE 0xfeb00000
#define MICROVM_MMIO_SIZE 512
#define MICROVM_TRANSPORTS 24
#define MICROVM_RAM (128 * MiB)
#define VIRTIO_ID_BALLOON 5

/* The registers of a modern PCI device for the reset of one queue. */
#define QUEUE_SELECT 22
#define QUEUE_RESET 58

VbrVm *vbr_pc(const char *fmt, ...)
{
    g_autofree char *args = NULL;
    VbrVm *vm = g_new0(VbrVm, 1);
    va_list ap;

    va_start(ap, fmt);
    args = g_strdup_vprintf(fmt, ap);
    va_end(ap);

    vm->qts = qtest_initf("-nodefaults %s%s",
                          strstr(args, "-M ") ? "" : "-M pc ", args);
    pc_alloc_init(&vm->alloc, vm->qts, ALLOC_NO_FLAGS);
    vm->bus = qpci_new_pc(vm->qts, &vm->alloc);
    vm->d.qts = vm->qts;
    vm->d.alloc = &vm->alloc;
    return vm;
}

VbrVm *vbr_pc_balloon(const char *props)
{
    VbrVm *vm = vbr_pc("-device " VBR_PCI "," VBR_SLOT_ARG "%s%s",
                       props ? "," : "", props ?: "");

    vbr_vm_attach(vm, VBR_SLOT);
    return vm;
}

void vbr_vm_find(VbrVm *vm, int slot)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(slot, 0) };

    if (vm->pci) {
        g_free(vm->pci->pdev);
        g_free(vm->pci);
    }
    vm->pci = virtio_pci_new(vm->bus, &addr);
    g_assert_nonnull(vm->pci);
    vm->d = (VbrDev) {
        .qts = vm->qts,
        .alloc = &vm->alloc,
        .pci = vm->pci,
        .vdev = &vm->pci->vdev,
    };
}

void vbr_vm_attach(VbrVm *vm, int slot)
{
    vbr_vm_find(vm, slot);
    qvirtio_pci_device_enable(vm->pci);
    qvirtio_start_device(vm->d.vdev);
}

/* microvm wants firmware even if no CPU is to run it. */
static char *empty_firmware(void)
{
    static const char zeroes[64 * KiB];
    g_autoptr(GError) err = NULL;
    char *name = NULL;
    int fd = g_file_open_tmp(NULL, &name, &err);

    g_assert_no_error(err);
    g_assert_cmpint(write(fd, zeroes, sizeof(zeroes)), ==, sizeof(zeroes));
    close(fd);
    return name;
}

static uint64_t microvm_balloon(QTestState *qts)
{
    int i;

    for (i = 0; i < MICROVM_TRANSPORTS; i++) {
        uint64_t addr = MICROVM_MMIO_BASE + i * MICROVM_MMIO_SIZE;

        if (qtest_readl(qts, addr + QVIRTIO_MMIO_DEVICE_ID) ==
            VIRTIO_ID_BALLOON) {
            return addr;
        }
    }
    g_assert_not_reached();
}

VbrVm *vbr_microvm(const char *props)
{
    g_autofree char *firmware = empty_firmware();
    VbrVm *vm = g_new0(VbrVm, 1);

    vm->qts = qtest_initf("-M microvm -nodefaults -m 128M -bios %s "
                          "-device " VBR_MMIO ",id=" VBR_ID "%s%s",
                          firmware, props ? "," : "", props ?: "");
    unlink(firmware);
    alloc_init(&vm->alloc, 0, 1 * MiB, MICROVM_RAM, VBR_PAGE);
    qvirtio_mmio_init_device(&vm->mmio, vm->qts, microvm_balloon(vm->qts),
                             VBR_PAGE);
    vm->d = (VbrDev) {
        .qts = vm->qts,
        .alloc = &vm->alloc,
        .vdev = &vm->mmio.vdev,
    };
    qvirtio_start_device(vm->d.vdev);
    return vm;
}

void vbr_vm_reset_only(VbrVm *vm, VbrQueue q)
{
    QVirtioPCIDevice *pci = vm->pci;
    uint64_t cfg = pci->common_cfg_offset;
    uint16_t index = vbr_queue_index(&vm->d, q);

    qpci_io_writew(pci->pdev, pci->bar, cfg + QUEUE_SELECT, index);
    qpci_io_writew(pci->pdev, pci->bar, cfg + QUEUE_RESET, 1);
    g_assert_cmpuint(qpci_io_readw(pci->pdev, pci->bar, cfg + QUEUE_RESET),
                     ==, 0);
}

void vbr_vm_reset_queue(VbrVm *vm, VbrQueue q)
{
    uint16_t index = vbr_queue_index(&vm->d, q);

    vbr_vm_reset_only(vm, q);
    qvirtqueue_cleanup(vm->d.vdev->bus, vm->d.ring[q].vq, vm->d.alloc);
    vm->d.ring[q] = (VbrRing) {
        .vq = qvirtqueue_setup(vm->d.vdev, vm->d.alloc, index),
    };
}

void vbr_vm_free(VbrVm *vm)
{
    qtest_quit(vm->qts);
    if (vm->pci) {
        g_free(vm->pci->pdev);
        g_free(vm->pci);
    }
    if (vm->bus) {
        qpci_free_pc(vm->bus);
    }
    alloc_destroy(&vm->alloc);
    g_free(vm);
}

void vbr_assert_works(VbrDev *d)
{
    const int n = 16;
    uint64_t base = vbr_pages(d, n + 1, VBR_PAGE);

    vbr_fill(d, base, n + 1, 0x4e);
    vbr_send_range(d, VBR_INFLATE, base, n);
    vbr_assert_kept(d, base + n * VBR_PAGE, 1, 0x4e);
    vbr_assert_gone(d, base, n);
    vbr_send_range(d, VBR_DEFLATE, base, n);
}

static void skip_all(void)
{
    g_test_skip("these tests are for the machines of x86");
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    if (strcmp(qtest_get_arch(), "x86_64")) {
        qtest_add_func("virtio-balloon-rs", skip_all);
        return g_test_run();
    }
    if (!qtest_has_device(VBR_PCI)) {
        g_test_message("no " VBR_PCI " in this QEMU");
        return 1;
    }
    vbr_keep_small_pages();
    vbr_add_mmio_tests();
    vbr_add_realize_tests();
    vbr_add_load_tests();
    vbr_add_huge_tests();
    vbr_add_migrate_tests();
    vbr_add_set_tests();
    vbr_add_memory_tests();
    vbr_add_target_tests();
    vbr_add_inhibit_tests();
    vbr_add_vhost_user_tests();
    vbr_add_legacy_tests();
    vbr_add_notify_tests();
    vbr_add_bad_ring_tests();
    vbr_add_order_tests();
    vbr_add_packed_tests();
    vbr_add_timer_tests();
    vbr_add_config_tests();
    vbr_add_hint_tests();
    vbr_add_hint_guest_tests();
    vbr_add_hint_end_tests();
    vbr_add_hint_post_tests();
    vbr_add_hint_state_tests();
    vbr_add_skip_tests();
    vbr_add_founding_tests();
    vbr_add_range_tests();
    vbr_add_request_tests();
    vbr_add_request_end_tests();
    vbr_add_request_odd_tests();
    vbr_add_request_move_tests();
    vbr_add_advice_tests();
    vbr_add_hold_tests();
    vbr_add_hold_huge_tests();
    vbr_add_hold_ram_tests();
    vbr_add_dirty_tests();
    vbr_add_dirty_fetch_tests();
    vbr_add_dirty_blocks_tests();
    vbr_add_dirty_trigger_tests();
    vbr_add_dirty_move_tests();
    vbr_add_dirty_accel_tests();
    vbr_add_end_tests();
    vbr_add_fault_tests();
    vbr_add_dirty_whole_tests();
    vbr_add_dirty_order_tests();
    vbr_add_colo_tests();
    vbr_add_dirty_vfio_tests();
    vbr_add_kinds_tests();
    return g_test_run();
}
