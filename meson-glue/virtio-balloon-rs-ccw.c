/*
 * virtio-balloon-rs on the channel subsystem of s390x
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/module.h"
#include "hw/s390x/virtio-ccw.h"
#include "virtio-balloon-rs.h"

#define TYPE_VIRTIO_BALLOON_RS_CCW "virtio-balloon-rs-ccw"
OBJECT_DECLARE_SIMPLE_TYPE(VirtIOBalloonRsCcw, VIRTIO_BALLOON_RS_CCW)

struct VirtIOBalloonRsCcw {
    VirtioCcwDevice parent_obj;
    VirtIOBalloonRs vdev;
};

static const Property virtio_balloon_rs_ccw_properties[] = {
    DEFINE_PROP_BIT("ioeventfd", VirtioCcwDevice, flags,
                    VIRTIO_CCW_FLAG_USE_IOEVENTFD_BIT, true),
    DEFINE_PROP_UINT32("max_revision", VirtioCcwDevice, max_rev,
                       VIRTIO_CCW_MAX_REV),
};

static void virtio_balloon_rs_ccw_realize(VirtioCcwDevice *proxy, Error **errp)
{
    VirtIOBalloonRsCcw *ccw = VIRTIO_BALLOON_RS_CCW(proxy);

    qdev_realize(DEVICE(&ccw->vdev), BUS(&proxy->bus), errp);
}

static void virtio_balloon_rs_ccw_instance_init(Object *obj)
{
    VirtIOBalloonRsCcw *ccw = VIRTIO_BALLOON_RS_CCW(obj);

    virtio_instance_init_common(obj, &ccw->vdev, sizeof(ccw->vdev),
                                TYPE_VIRTIO_BALLOON_RS);
    vbr_props_alias(obj, &ccw->vdev);
}

static void virtio_balloon_rs_ccw_class_init(ObjectClass *klass,
                                             VBR_CLASS_DATA *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    VIRTIO_CCW_DEVICE_CLASS(klass)->realize = virtio_balloon_rs_ccw_realize;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    device_class_set_props(dc, virtio_balloon_rs_ccw_properties);
}

static const TypeInfo virtio_balloon_rs_ccw_info = {
    .name = TYPE_VIRTIO_BALLOON_RS_CCW,
    .parent = TYPE_VIRTIO_CCW_DEVICE,
    .instance_size = sizeof(VirtIOBalloonRsCcw),
    .instance_init = virtio_balloon_rs_ccw_instance_init,
    .class_init = virtio_balloon_rs_ccw_class_init,
};

static void virtio_balloon_rs_ccw_register_types(void)
{
    type_register_static(&virtio_balloon_rs_ccw_info);
}

type_init(virtio_balloon_rs_ccw_register_types)
