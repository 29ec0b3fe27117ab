/*
 * The guest's driver of a virtio-mem device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "vbr-vmem.h"

#define RESPONSE_OFFSET (VBR_PAGE / 2)
/* No response of the device. */
#define NOT_ANSWERED 0xffff

uint64_t vbr_memory_address(VbrVm *vm, const char *id, const char *property)
{
    g_autofree char *path = g_strdup_printf("/machine/peripheral/%s", id);
    QDict *rsp = qtest_qmp(vm->qts, "{ 'execute': 'qom-get', 'arguments': "
                           "{ 'path': %s, 'property': %s } }", path, property);
    uint64_t addr = qdict_get_int(rsp, "return");

    qobject_unref(rsp);
    return addr;
}

static QVirtQueue *start(VbrVm *vm, QVirtioPCIDevice *pci)
{
    const uint64_t accept = 1ull << VIRTIO_F_VERSION_1 |
                            1ull << VIRTIO_MEM_F_UNPLUGGED_INACCESSIBLE;
    QVirtioDevice *vdev = &pci->vdev;
    QVirtQueue *vq;

    qvirtio_pci_device_enable(pci);
    qvirtio_start_device(vdev);
    qvirtio_set_features(vdev, qvirtio_get_features(vdev) & accept);
    vq = qvirtqueue_setup(vdev, &vm->alloc, 0);
    qvirtio_set_driver_ok(vdev);
    return vq;
}

void vbr_vmem_request(VbrVm *vm, int slot, uint16_t type, uint64_t addr,
                      uint16_t blocks)
{
    QPCIAddress at = { .devfn = QPCI_DEVFN(slot, 0) };
    QVirtioPCIDevice *pci = virtio_pci_new(vm->bus, &at);
    QVirtioDevice *vdev = &pci->vdev;
    QVirtQueue *vq = start(vm, pci);
    uint64_t req = guest_alloc(&vm->alloc, VBR_PAGE);
    uint64_t resp = req + RESPONSE_OFFSET;
    uint32_t head;

    qtest_memset(vm->qts, req, 0, RESPONSE_OFFSET);
    qtest_writew(vm->qts, req, type);
    qtest_writeq(vm->qts, req + offsetof(struct virtio_mem_req, u.plug.addr),
                 addr);
    qtest_writew(vm->qts,
                 req + offsetof(struct virtio_mem_req, u.plug.nb_blocks),
                 blocks);
    qtest_writew(vm->qts, resp, NOT_ANSWERED);
    head = qvirtqueue_add(vm->qts, vq, req, sizeof(struct virtio_mem_req),
                          false, true);
    qvirtqueue_add(vm->qts, vq, resp, sizeof(struct virtio_mem_resp), true,
                   false);
    qvirtqueue_kick(vm->qts, vdev, vq, head);
    qvirtio_wait_used_elem(vm->qts, vdev, vq, head, NULL, VBR_TIMEOUT_US);
    g_assert_cmphex(qtest_readw(vm->qts, resp), ==, VIRTIO_MEM_RESP_ACK);
    qvirtqueue_cleanup(vdev->bus, vq, &vm->alloc);
    g_free(pci->pdev);
    g_free(pci);
}
