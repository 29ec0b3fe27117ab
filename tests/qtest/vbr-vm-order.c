/*
 * virtio-balloon-rs: queues whose buffers are used in order
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-vm.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "standard-headers/linux/virtio_pci.h"

#ifndef VIRTIO_F_IN_ORDER
#define VIRTIO_F_IN_ORDER 35
#endif

static bool has_property(QTestState *qts, const char *type, const char *name)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'device-list-properties', "
                           "'arguments': { 'typename': %s } }", type);
    QListEntry *e;
    bool found = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        QDict *info = qobject_to(QDict, qlist_entry_obj(e));

        found |= !strcmp(qdict_get_str(info, "name"), name);
    }
    qobject_unref(rsp);
    return found;
}

/* NULL, and the test skipped, if this QEMU cannot do it. */
static VbrVm *in_order_machine(void)
{
    VbrVm *vm = vbr_pc(" ");
    bool can = has_property(vm->qts, VBR_PCI, "in_order");

    vbr_vm_free(vm);
    if (!can) {
        g_test_skip("this QEMU has no property in_order");
        return NULL;
    }
    return vbr_pc_balloon("in_order=on,free-page-reporting=on,"
                          "free-page-hint=on");
}

/* What a driver does that wants more descriptors than the device offers. */
static void make_larger(VbrVm *vm, VbrQueue q, uint16_t size)
{
    uint64_t common = vm->pci->common_cfg_offset;
    QPCIDevice *pdev = vm->pci->pdev;

    vm->d.offered = qvirtio_get_features(vm->d.vdev);
    qpci_io_writew(pdev, vm->pci->bar,
                   common + offsetof(struct virtio_pci_common_cfg,
                                     queue_select),
                   vbr_queue_index(&vm->d, q));
    qpci_io_writew(pdev, vm->pci->bar,
                   common + offsetof(struct virtio_pci_common_cfg, queue_size),
                   size);
}

/*
 * A whole ring in one kick, a few times over: all of it is answered. The ring
 * is as large as the device offers, or has so many descriptors.
 */
static void check_full(VbrQueue q, uint16_t larger, VbrSeg (*request)(VbrDev *))
{
    VbrVm *vm = in_order_machine();
    unsigned int size, round, i;

    if (!vm) {
        return;
    }
    if (larger) {
        make_larger(vm, q, larger);
    }
    vbr_start(&vm->d, 0);
    g_assert(vbr_has(&vm->d, VIRTIO_F_IN_ORDER));
    size = vm->d.ring[q].vq->size;
    g_assert(!larger || size == larger);
    for (round = 0; round < 3; round++) {
        for (i = 0; i < size; i++) {
            VbrSeg seg = request(&vm->d);

            vbr_add(&vm->d, q, &seg, 1);
        }
        vbr_notify(&vm->d, q);
        vbr_take(&vm->d, q, size);
        vbr_settle(&vm->d);
        g_assert_cmpuint(vbr_used(&vm->d, q), ==, 0);
        /* A ring that is not at its start is no other matter. */
        vbr_assert_works(&vm->d);
    }
    g_assert(!vbr_is_broken(&vm->d));
    vbr_vm_free(vm);
}

static VbrSeg one_pfn(VbrDev *d)
{
    const uint32_t pfn = vbr_pages(d, 1, VBR_PAGE) >> VBR_PAGE_SHIFT;

    return vbr_pfns(d, &pfn, 1);
}

static VbrSeg one_page(VbrDev *d)
{
    return (VbrSeg) {
        .addr = vbr_pages(d, 1, VBR_PAGE), .len = VBR_PAGE, .write = true,
    };
}

static void test_inflate(void)
{
    check_full(VBR_INFLATE, 0, one_pfn);
}

static void test_deflate(void)
{
    check_full(VBR_DEFLATE, 0, one_pfn);
}

static void test_report(void)
{
    check_full(VBR_REPORT, 0, one_page);
}

/* With a sanitizer of addresses, what QEMU writes behind its arrays is seen. */
static void test_larger(void)
{
    check_full(VBR_REPORT, 256, one_page);
}

static void test_hint(void)
{
    check_full(VBR_HINT, 0, one_page);
}

void vbr_add_order_tests(void)
{
    qtest_add_func("virtio-balloon-rs/in-order/inflate", test_inflate);
    qtest_add_func("virtio-balloon-rs/in-order/deflate", test_deflate);
    qtest_add_func("virtio-balloon-rs/in-order/report", test_report);
    qtest_add_func("virtio-balloon-rs/in-order/hint", test_hint);
    qtest_add_func("virtio-balloon-rs/in-order/larger", test_larger);
}
