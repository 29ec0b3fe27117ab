/*
 * virtio-balloon-rs: rings that take the device away
 *
 * QEMU tells the driver of a bad ring at once, in the middle of taking a
 * request. Here that is a write to the hotplug controller of the bridge that
 * the device is behind, which takes the device away before the call returns.
 * The same comes of a ring of answers that lies on this controller.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-vm.h"
#include "standard-headers/linux/pci_regs.h"
#include "standard-headers/linux/virtio_pci.h"

#define BRIDGE_SLOT 5
/* Device 1 on bus 1, as a slot of which the number of the bus is a part. */
#define SLOT_BEHIND ((1 << 5) | 1)
/* What the bridge passes on. */
#define WINDOW 0xe0100000
#define WINDOW_LIMIT 0xe0f00000
/* Its controller's command: slot 1 and both of its lamps off. */
#define SHPC_COMMAND 0x14
/* The commands for slot 1, and the first that is sure to leave it off. */
#define SLOT_1_COMMANDS 0x100
#define SLOT_1_IS_OFF 0x10c
/* Where the index of a used ring is: answers count it up, through these. */
#define USED_INDEX 2
/* A ring of this size fits into the controller's registers. */
#define SMALL_RING 8
#define SHPC_SLOT_1_OFF 0x013f
#define VECTOR 0

/* A bridge, set up as firmware does; returns where its controller is. */
static uint64_t set_up_bridge(VbrVm *vm)
{
    QPCIDevice *bridge = qpci_device_find(vm->bus, QPCI_DEVFN(BRIDGE_SLOT, 0));
    uint64_t shpc;

    g_assert_nonnull(bridge);
    shpc = qpci_iomap(bridge, 0, NULL).addr;
    qpci_config_writeb(bridge, PCI_PRIMARY_BUS, 0);
    qpci_config_writeb(bridge, PCI_SECONDARY_BUS, 1);
    qpci_config_writeb(bridge, PCI_SUBORDINATE_BUS, 1);
    qpci_config_writew(bridge, PCI_MEMORY_BASE, WINDOW >> 16);
    qpci_config_writew(bridge, PCI_MEMORY_LIMIT, WINDOW_LIMIT >> 16);
    qpci_device_enable(bridge);
    g_free(bridge);
    vm->bus->mmio_alloc_ptr = WINDOW;
    return shpc;
}

/* A machine with a device behind a bridge, whose controller is at @shpc. */
static VbrVm *machine_behind_bridge(const char *props, uint64_t *shpc)
{
    VbrVm *vm = vbr_pc("-global "
                       "PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off "
                       "-device pci-bridge,id=bridge,chassis_nr=1,shpc=on,"
                       "addr=05.0 "
                       "-device " VBR_PCI ",id=" VBR_ID ",bus=bridge,addr=01.0,"
                       "disable-legacy=on,%s", props);

    *shpc = set_up_bridge(vm);
    vbr_vm_attach(vm, SLOT_BEHIND);
    return vm;
}

/* A started device that is gone when its configuration is said to change. */
static VbrVm *armed_machine(const char *props)
{
    uint64_t shpc, entry;
    VbrVm *vm = machine_behind_bridge(props, &shpc);
    QPCIDevice *pdev = vm->pci->pdev;

    qpci_msix_enable(pdev);
    entry = pdev->msix_table_off + VECTOR * PCI_MSIX_ENTRY_SIZE;
    qpci_io_writel(pdev, pdev->msix_table_bar,
                   entry + PCI_MSIX_ENTRY_LOWER_ADDR, shpc + SHPC_COMMAND);
    qpci_io_writel(pdev, pdev->msix_table_bar,
                   entry + PCI_MSIX_ENTRY_UPPER_ADDR, 0);
    qpci_io_writel(pdev, pdev->msix_table_bar,
                   entry + PCI_MSIX_ENTRY_DATA, SHPC_SLOT_1_OFF);
    qpci_io_writel(pdev, pdev->msix_table_bar,
                   entry + PCI_MSIX_ENTRY_VECTOR_CTRL, 0);
    vbr_start(&vm->d, 0);
    vm->pci->msix_ops->set_config_vector(vm->pci, VECTOR);
    return vm;
}

static VbrSeg good_request(VbrDev *d, VbrQueue q)
{
    static const uint32_t pfns[] = { 0x3000, 0x3001, 0x3002, 0x3003 };

    if (q == VBR_INFLATE || q == VBR_DEFLATE || q == VBR_STATS) {
        return vbr_pfns(d, pfns, ARRAY_SIZE(pfns));
    }
    return (VbrSeg) {
        .addr = vbr_pages(d, 1, VBR_PAGE),
        .len = VBR_PAGE,
        .write = true,
    };
}

/* @n requests, and one that has no bytes, which is not allowed. */
static void check(const char *props, VbrQueue q, unsigned int n)
{
    VbrVm *vm = armed_machine(props);
    VbrDev *d = &vm->d;
    VbrSeg empty = { .addr = vbr_pages(d, 1, VBR_PAGE) };
    unsigned int i;

    g_assert_nonnull(d->ring[q].vq);
    for (i = 0; i < n; i++) {
        VbrSeg seg = good_request(d, q);

        vbr_add(d, q, &seg, 1);
    }
    vbr_add(d, q, &empty, 1);
    /* So that it is said when it is gone. */
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'device_del', "
                             "'arguments': { 'id': '" VBR_ID "' } }");
    vbr_notify(d, q);
    qtest_qmp_eventwait(vm->qts, "DEVICE_DELETED");
    vbr_settle(d);
    vbr_vm_free(vm);
}

static const char *props_for(VbrQueue q)
{
    return q == VBR_REQUEST ? "host-request=on"
                            : "free-page-reporting=on,free-page-hint=on";
}

static void test_queue(const void *opaque)
{
    VbrQueue q = GPOINTER_TO_UINT(opaque);
    const char *props = props_for(q);

    check(props, q, 0);
    check(props, q, 1);
    check(props, q, 20);
}

/* Fit for @addr, and empty. */
static void place_used_ring(VbrVm *vm, VbrQueue q, uint64_t addr)
{
    QVirtioPCIDevice *pci = vm->pci;
    uint64_t common = pci->common_cfg_offset;

    qpci_io_writew(pci->pdev, pci->bar, common + VIRTIO_PCI_COMMON_Q_SELECT,
                   vbr_queue_index(&vm->d, q));
    vm->d.ring[q].vq->size = SMALL_RING;
    qpci_io_writew(pci->pdev, pci->bar, common + VIRTIO_PCI_COMMON_Q_SIZE,
                   SMALL_RING);
    qpci_io_writel(pci->pdev, pci->bar, common + VIRTIO_PCI_COMMON_Q_USEDLO,
                   addr);
    qpci_io_writel(pci->pdev, pci->bar, common + VIRTIO_PCI_COMMON_Q_USEDHI,
                   addr >> 32);
    qpci_io_writew(pci->pdev, pci->bar, common + VIRTIO_PCI_COMMON_Q_ENABLE, 1);
}

/* The queue's requests are there, again and again, up to this many. */
static void make_available(VbrDev *d, VbrQueue q, uint16_t count)
{
    vbr_w16(d, d->ring[q].vq->avail + 2, count);
    vbr_notify(d, q);
}

/*
 * Has @n requests answered at a time until the device is gone. With @by_timer
 * the last answer is what the timer asks for statistics with.
 */
static void check_answers(VbrQueue q, unsigned int n, bool by_timer)
{
    uint64_t shpc;
    VbrVm *vm = machine_behind_bridge(props_for(q), &shpc);
    VbrDev *d = &vm->d;
    unsigned int i;

    vbr_start(d, 0);
    place_used_ring(vm, q, shpc + SHPC_COMMAND - USED_INDEX);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'device_del', "
                             "'arguments': { 'id': '" VBR_ID "' } }");
    for (i = 0; i < SMALL_RING; i++) {
        VbrSeg seg = good_request(d, q);

        vbr_add(d, q, &seg, 1);
    }
    for (i = SMALL_RING; i <= SLOT_1_COMMANDS; i += SMALL_RING) {
        make_available(d, q, i);
    }
    /* A buffer of statistics is answered when the next one comes. */
    i = SLOT_1_COMMANDS;
    while (i < (by_timer ? SLOT_1_IS_OFF : SHPC_SLOT_1_OFF + n)) {
        i += by_timer ? 1 : n;
        make_available(d, q, i);
    }
    if (by_timer) {
        qtest_qmp_assert_success(vm->qts, "{ 'execute': 'qom-set', "
                                 "'arguments': { 'path': '" VBR_PATH "', "
                                 "'property': 'guest-stats-polling-interval', "
                                 "'value': 1 } }");
        qtest_clock_step(vm->qts, 1);
    }
    qtest_qmp_eventwait(vm->qts, "DEVICE_DELETED");
    vbr_settle(d);
    vbr_vm_free(vm);
}

static void test_answers(const void *opaque)
{
    VbrQueue q = GPOINTER_TO_UINT(opaque);

    check_answers(q, 1, false);
    /* Of three at a time the last also makes the command above. */
    check_answers(q, 3, false);
}

static void test_statistics_timer(void)
{
    check_answers(VBR_STATS, 1, true);
}

void vbr_add_bad_ring_tests(void)
{
    static const struct {
        const char *name;
        VbrQueue q;
    } queues[] = {
        { "inflate", VBR_INFLATE },
        { "deflate", VBR_DEFLATE },
        { "report", VBR_REPORT },
        { "stats", VBR_STATS },
        { "hint", VBR_HINT },
        { "request", VBR_REQUEST },
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(queues); i++) {
        g_autofree char *name = g_strdup_printf("virtio-balloon-rs/bad-ring/%s",
                                                queues[i].name);

        g_autofree char *used = g_strdup_printf("virtio-balloon-rs/used-ring/%s",
                                                queues[i].name);

        qtest_add_data_func(name, GUINT_TO_POINTER(queues[i].q), test_queue);
        qtest_add_data_func(used, GUINT_TO_POINTER(queues[i].q), test_answers);
    }
    qtest_add_func("virtio-balloon-rs/used-ring/stats-timer",
                   test_statistics_timer);
}
