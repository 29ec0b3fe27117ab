/*
 * virtio-balloon-rs: the transitional and the modern-only PCI device, and
 * sleep
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-vm.h"

/* The power management block of the PIIX4, at its usual places. */
#define PIIX4_PM_CONFIG 0x80000b00
#define PIIX4_PMBA 0x40
#define PIIX4_PMREGMISC 0x80
#define PM_BASE 0x600
#define PM1_CNT 4
#define PM1_SLEEP_S3 (1 << 13 | 1 << 10)

/*
 * libqos takes the modern interface whenever there is one.  A driver from
 * before it does not know better than to use the old registers: borrow
 * them from a device that has only those.
 */
static void use_legacy(VbrVm *vm)
{
    QPCIAddress addr = { .devfn = QPCI_DEVFN(5, 0) };
    QVirtioPCIDevice *legacy = virtio_pci_new(vm->bus, &addr);

    g_assert_nonnull(legacy);
    vm->pci->vdev.bus = legacy->vdev.bus;
    vm->pci->msix_ops = legacy->msix_ops;
    vm->pci->bar_idx = 0;
    vm->pci->common_cfg_offset = 0;
    vm->pci->device_cfg_offset = 0;
    g_free(legacy->pdev);
    g_free(legacy);
}

static void check_transitional(const char *type)
{
    VbrVm *vm = vbr_pc("-device %s," VBR_SLOT_ARG " -device virtio-rng-pci,"
                       "addr=05.0,disable-modern=on,disable-legacy=off",
                       type);
    VbrDev *d = &vm->d;

    vbr_vm_find(vm, VBR_SLOT);
    g_assert_cmphex(qpci_config_readw(vm->pci->pdev, 2), ==, 0x1002);
    use_legacy(vm);
    qvirtio_pci_device_enable(vm->pci);
    qvirtio_start_device(d->vdev);
    vbr_start(d, 0);
    g_assert(!vbr_is_modern(d));
    vbr_assert_works(d);
    vbr_set_actual(d, 5);
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==,
                    128 * MiB - 5 * VBR_PAGE);
    vbr_vm_free(vm);
}

/* The same device under its own name, and as the plain one on this bus. */
static void test_transitional(void)
{
    check_transitional(VBR_PCI "-transitional");
    check_transitional(VBR_PCI);
}

/* And with a driver that does know the modern interface. */
static void test_transitional_modern(void)
{
    VbrVm *vm = vbr_pc("-device " VBR_PCI "-transitional," VBR_SLOT_ARG);

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    g_assert(vbr_is_modern(&vm->d));
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

static void test_non_transitional(void)
{
    VbrVm *vm = vbr_pc("-device " VBR_PCI "-non-transitional," VBR_SLOT_ARG);

    vbr_vm_attach(vm, VBR_SLOT);
    g_assert_cmphex(qpci_config_readw(vm->pci->pdev, 2), ==, 0x1045);
    vbr_start(&vm->d, 0);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

static void enter_s3(QTestState *qts)
{
    qtest_outl(qts, 0xcf8, PIIX4_PM_CONFIG | PIIX4_PMBA);
    qtest_outl(qts, 0xcfc, PM_BASE | 1);
    qtest_outl(qts, 0xcf8, PIIX4_PM_CONFIG | PIIX4_PMREGMISC);
    qtest_outb(qts, 0xcfc, 1);
    qtest_outw(qts, PM_BASE + PM1_CNT, PM1_SLEEP_S3);
    qtest_qmp_eventwait(qts, "SUSPEND");
}

/*
 * Sleep and wake-up: the devices are reset, the statistics are not, and
 * the driver can start again.
 */
static void test_wakeup(void)
{
    VbrVm *vm = vbr_pc("-device " VBR_PCI "," VBR_SLOT_ARG);
    VbrDev *d = &vm->d;
    static const uint8_t stat[10] = { VIRTIO_BALLOON_S_MEMFREE, 0, 42 };
    VbrSeg seg = { .len = sizeof(stat) };

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    seg.addr = guest_alloc(d->alloc, seg.len);
    qtest_memwrite(d->qts, seg.addr, stat, seg.len);
    vbr_add(d, VBR_STATS, &seg, 1);
    vbr_notify(d, VBR_STATS);
    vbr_settle(d);
    g_assert_cmpuint(vbr_stat(d, "stat-free-memory"), ==, 42);

    enter_s3(vm->qts);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'system_wakeup' }");
    qtest_qmp_eventwait(vm->qts, "WAKEUP");
    g_assert_cmpuint(vbr_stat(d, "stat-free-memory"), ==, 42);
    g_assert_cmpint(vbr_stats_age(d), >, 0);

    qvirtio_pci_device_enable(vm->pci);
    vbr_restart(d, 0);
    vbr_assert_works(d);
    qtest_system_reset(vm->qts);
    g_assert_cmphex(vbr_stat(d, "stat-free-memory"), ==, UINT64_MAX);
    vbr_vm_free(vm);
}

void vbr_add_legacy_tests(void)
{
    if (qtest_has_device("virtio-rng-pci")) {
        qtest_add_func("virtio-balloon-rs/pci/transitional",
                       test_transitional);
    }
    qtest_add_func("virtio-balloon-rs/pci/transitional-modern",
                   test_transitional_modern);
    qtest_add_func("virtio-balloon-rs/pci/non-transitional",
                   test_non_transitional);
    qtest_add_func("virtio-balloon-rs/pci/wakeup", test_wakeup);
}
