/*
 * virtio-balloon-rs on the PCI bus
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "hw/virtio/virtio-pci.h"
#include "virtio-balloon-rs.h"

#define TYPE_VIRTIO_BALLOON_RS_PCI "virtio-balloon-rs-pci-base"
OBJECT_DECLARE_SIMPLE_TYPE(VirtIOBalloonRsPCI, VIRTIO_BALLOON_RS_PCI)

struct VirtIOBalloonRsPCI {
    VirtIOPCIProxy parent_obj;
    VirtIOBalloonRs vdev;
};

static const Property virtio_balloon_rs_pci_properties[] = {
    DEFINE_PROP_BIT("ioeventfd", VirtIOPCIProxy, flags,
                    VIRTIO_PCI_FLAG_USE_IOEVENTFD_BIT, true),
    DEFINE_PROP_UINT32("vectors", VirtIOPCIProxy, nvectors,
                       DEV_NVECTORS_UNSPECIFIED),
};

static void virtio_balloon_rs_pci_realize(VirtIOPCIProxy *proxy, Error **errp)
{
    VirtIOBalloonRsPCI *pci = VIRTIO_BALLOON_RS_PCI(proxy);

    if (proxy->nvectors == DEV_NVECTORS_UNSPECIFIED) {
        /* One for changes of the configuration, one for all queues. */
        proxy->nvectors = 2;
    }
    proxy->class_code = PCI_CLASS_OTHERS;
    qdev_realize(DEVICE(&pci->vdev), BUS(&proxy->bus), errp);
}

static void virtio_balloon_rs_pci_instance_init(Object *obj)
{
    VirtIOBalloonRsPCI *pci = VIRTIO_BALLOON_RS_PCI(obj);

    virtio_instance_init_common(obj, &pci->vdev, sizeof(pci->vdev),
                                TYPE_VIRTIO_BALLOON_RS);
    vbr_props_alias(obj, &pci->vdev);
}

static void virtio_balloon_rs_pci_class_init(ObjectClass *klass,
                                             VBR_CLASS_DATA *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    PCIDeviceClass *pc = PCI_DEVICE_CLASS(klass);

    VIRTIO_PCI_CLASS(klass)->realize = virtio_balloon_rs_pci_realize;
    pc->vendor_id = PCI_VENDOR_ID_REDHAT_QUMRANET;
    pc->device_id = PCI_DEVICE_ID_VIRTIO_BALLOON;
    pc->revision = VIRTIO_PCI_ABI_VERSION;
    pc->class_id = PCI_CLASS_OTHERS;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    device_class_set_props(dc, virtio_balloon_rs_pci_properties);
}

static const VirtioPCIDeviceTypeInfo virtio_balloon_rs_pci_info = {
    .base_name = TYPE_VIRTIO_BALLOON_RS_PCI,
    .generic_name = "virtio-balloon-rs-pci",
    .transitional_name = "virtio-balloon-rs-pci-transitional",
    .non_transitional_name = "virtio-balloon-rs-pci-non-transitional",
    .instance_size = sizeof(VirtIOBalloonRsPCI),
    .instance_init = virtio_balloon_rs_pci_instance_init,
    .class_init = virtio_balloon_rs_pci_class_init,
};

static void virtio_balloon_rs_pci_register_types(void)
{
    virtio_pci_types_register(&virtio_balloon_rs_pci_info);
}

type_init(virtio_balloon_rs_pci_register_types)
