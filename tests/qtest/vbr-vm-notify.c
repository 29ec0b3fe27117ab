/*
 * virtio-balloon-rs: a guest that aims notifications at the device itself
 *
 * An MSI-X message is a write to an address that the guest chose.  Here it
 * is the device's own status register, and the data is 0: to be told that
 * its requests are done resets the device, in the middle of telling.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-vm.h"
#include "standard-headers/linux/pci_regs.h"
#include "standard-headers/linux/virtio_pci.h"

#define STATUS offsetof(struct virtio_pci_common_cfg, device_status)
#define VECTOR 0
/* Memory used after it was freed does not always show the first time. */
#define ROUNDS 8
/*
 * A buffer that is unmapped twice takes a reference from the guest's RAM;
 * there are a few dozen of these to lose.
 */
#define STATS_ROUNDS 100
/* More PFNs than a batch takes. */
#define MANY_PFNS 65536

/* A started device, and a vector that resets it. */
static VbrVm *armed_machine(void)
{
    VbrVm *vm = vbr_pc_balloon("free-page-reporting=on,free-page-hint=on");
    QPCIDevice *pdev = vm->pci->pdev;
    uint64_t target = vm->pci->bar.addr + vm->pci->common_cfg_offset + STATUS;
    uint64_t entry;

    qpci_msix_enable(pdev);
    entry = pdev->msix_table_off + VECTOR * PCI_MSIX_ENTRY_SIZE;
    qpci_io_writel(pdev, pdev->msix_table_bar,
                   entry + PCI_MSIX_ENTRY_LOWER_ADDR, target);
    qpci_io_writel(pdev, pdev->msix_table_bar,
                   entry + PCI_MSIX_ENTRY_UPPER_ADDR, target >> 32);
    qpci_io_writel(pdev, pdev->msix_table_bar,
                   entry + PCI_MSIX_ENTRY_DATA, 0);
    qpci_io_writel(pdev, pdev->msix_table_bar,
                   entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    vbr_start(&vm->d, 0);
    return vm;
}

/* From now on this queue's notifications reset the device. */
static void aim(VbrVm *vm, VbrQueue q)
{
    vm->pci->msix_ops->set_queue_vector(vm->pci, vbr_queue_index(&vm->d, q),
                                      VECTOR);
}

/* The reset has come, QEMU is well, and so is the device once started. */
static void assert_reset_and_restart(VbrDev *d)
{
    VbrWait wait = { "the reset" };

    while (d->vdev->bus->get_status(d->vdev)) {
        vbr_settle(d);
        vbr_wait(&wait);
    }
    vbr_settle(d);
    /* No vector is set any more: the reset took that away, too. */
    vbr_restart(d, 0);
    vbr_assert_works(d);
}

/*
 * Requests are done while the device is shielded from its own writes, so this
 * reset need not come. QEMU and the device are well either way.
 */
static void settle_and_restart(VbrDev *d)
{
    vbr_settle(d);
    vbr_restart(d, 0);
    vbr_assert_works(d);
}

static VbrSeg request(VbrDev *d, VbrQueue q)
{
    static const uint32_t pfns[] = { 0x3000, 0x3001, 0x3002, 0x3003 };

    if (q == VBR_REPORT || q == VBR_HINT) {
        return (VbrSeg) {
            .addr = vbr_pages(d, 4, VBR_PAGE),
            .len = 4 * VBR_PAGE,
            .write = true,
        };
    }
    return vbr_pfns(d, pfns, ARRAY_SIZE(pfns));
}

/* @n requests in one batch. */
static void check_batch(VbrQueue q, unsigned int n)
{
    VbrVm *vm = armed_machine();
    unsigned int round, i;

    for (round = 0; round < ROUNDS; round++) {
        aim(vm, q);
        for (i = 0; i < n; i++) {
            VbrSeg seg = request(&vm->d, q);

            vbr_add(&vm->d, q, &seg, 1);
        }
        vbr_notify(&vm->d, q);
        /* The answers are there before the notification is; of a turn's. */
        vbr_take(&vm->d, q, n > 256 ? 1 : n);
        settle_and_restart(&vm->d);
    }
    vbr_vm_free(vm);
}

static void test_inflate(void)
{
    check_batch(VBR_INFLATE, 1);
    check_batch(VBR_INFLATE, 20);
}

static void test_deflate(void)
{
    check_batch(VBR_DEFLATE, 1);
}

static void test_report(void)
{
    check_batch(VBR_REPORT, 3);
}

/* Also more of them than are taken at a time. */
static void test_hint(void)
{
    check_batch(VBR_HINT, 3);
    check_batch(VBR_HINT, 300);
}

/*
 * The batch ends within a request; telling of the other one resets the device,
 * or does not.
 */
static void test_partial(void)
{
    VbrVm *vm = armed_machine();
    VbrDev *d = &vm->d;
    VbrSeg big = { .len = MANY_PFNS * sizeof(uint32_t) };
    int round;

    big.addr = guest_alloc(d->alloc, big.len);
    for (round = 0; round < ROUNDS; round++) {
        VbrSeg small = request(d, VBR_INFLATE);

        aim(vm, VBR_INFLATE);
        vbr_add(d, VBR_INFLATE, &small, 1);
        vbr_add(d, VBR_INFLATE, &big, 1);
        vbr_notify(d, VBR_INFLATE);
        vbr_take(d, VBR_INFLATE, 1);
        settle_and_restart(d);
    }
    vbr_vm_free(vm);
}

static void offer_stats(VbrDev *d)
{
    VbrSeg seg = { .addr = guest_alloc(d->alloc, 10), .len = 10 };

    vbr_add(d, VBR_STATS, &seg, 1);
    vbr_notify(d, VBR_STATS);
    vbr_settle(d);
}

/* The restarted device has no buffer of the time before, and polls. */
static void assert_stats_work(VbrDev *d)
{
    offer_stats(d);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
    qtest_clock_step(d->qts, 2 * NANOSECONDS_PER_SECOND);
    vbr_take(d, VBR_STATS, 1);
    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
}

/* The polling timer returns the buffer. */
static void test_stats_timer(void)
{
    VbrVm *vm = armed_machine();
    VbrDev *d = &vm->d;
    int round;

    vbr_poll_stats(d, 1);
    for (round = 0; round < STATS_ROUNDS; round++) {
        offer_stats(d);
        aim(vm, VBR_STATS);
        qtest_clock_step(d->qts, 2 * NANOSECONDS_PER_SECOND);
        vbr_take(d, VBR_STATS, 1);
        assert_reset_and_restart(d);
        assert_stats_work(d);
    }
    vbr_vm_free(vm);
}

/* A second buffer makes the device return the first. */
static void test_stats_second(void)
{
    VbrVm *vm = armed_machine();
    VbrDev *d = &vm->d;
    int round;

    vbr_poll_stats(d, 1);
    for (round = 0; round < STATS_ROUNDS; round++) {
        offer_stats(d);
        aim(vm, VBR_STATS);
        offer_stats(d);
        vbr_take(d, VBR_STATS, 1);
        assert_reset_and_restart(d);
        assert_stats_work(d);
    }
    vbr_vm_free(vm);
}

void vbr_add_notify_tests(void)
{
    qtest_add_func("virtio-balloon-rs/notify/inflate", test_inflate);
    qtest_add_func("virtio-balloon-rs/notify/deflate", test_deflate);
    qtest_add_func("virtio-balloon-rs/notify/report", test_report);
    qtest_add_func("virtio-balloon-rs/notify/hint", test_hint);
    qtest_add_func("virtio-balloon-rs/notify/partial", test_partial);
    qtest_add_func("virtio-balloon-rs/notify/stats-timer", test_stats_timer);
    qtest_add_func("virtio-balloon-rs/notify/stats-second",
                   test_stats_second);
}
