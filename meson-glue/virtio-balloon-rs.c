/*
 * virtio-balloon device with its logic in Rust: the QEMU object
 *
 * This side of the device holds no policy: it hands what the guest, the user
 * and a migration stream say to the library and carries out the answer.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qapi/qapi-events-machine.h"
#include "qapi/qapi-types-machine.h"
#include "hw/boards.h"
#include "hw/mem/memory-device.h"
#include "migration/vmstate.h"
#include "system/balloon.h"
#include "system/replay.h"
#include "system/runstate.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

uint64_t vbr_ram_size(void)
{
    g_autoptr(MemoryDeviceInfoList) devices = qmp_memory_device_list();
    uint64_t bytes = MACHINE(qdev_get_machine())->ram_size;

    for (MemoryDeviceInfoList *item = devices; item; item = item->next) {
        switch (item->value->type) {
        case MEMORY_DEVICE_INFO_KIND_DIMM:
            bytes += item->value->u.dimm.data->size;
            break;
        case MEMORY_DEVICE_INFO_KIND_VIRTIO_MEM:
            bytes += item->value->u.virtio_mem.data->size;
            break;
        default:
            /* Not the guest's main memory. */
            break;
        }
    }
    return bytes;
}

/* The target stays, and what it leaves to the balloon is another number. */
static void ram_changed(void *opaque)
{
    VirtIOBalloonRs *s = opaque;
    uint64_t ram = vbr_ram_size();
    bool changed = false;

    if (VIRTIO_DEVICE(s)->broken) {
        return;
    }
    if (!vbr_failed(s, vbr_ram_set(s->device, ram, &changed)) && changed) {
        trace_virtio_balloon_rs_ram(ram);
        if (VIRTIO_DEVICE(s)->vm_running) {
            vbr_notify_config(s);
        } else {
            /* What is loaded next may overwrite the interrupt. */
            s->config_due = true;
        }
    }
}

/* What the guest has left, as query-balloon and BALLOON_CHANGE say it. */
static uint64_t guest_bytes(VirtIOBalloonRs *s)
{
    uint64_t ram = vbr_ram_size();
    uint64_t ballooned = 0;

    if (vbr_failed(s, vbr_actual_get(s->device, ram, &ballooned))) {
        return ram;
    }
    return ram - ballooned;
}

void vbr_announce_actual(VirtIOBalloonRs *s)
{
    uint64_t bytes = guest_bytes(s);

    trace_virtio_balloon_rs_actual(vbr_ram_size() - bytes);
    qapi_event_send_balloon_change(bytes);
}

static void vbr_get_config(VirtIODevice *vdev, uint8_t *config)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(vdev);

    if (s->missed & VBR_MISSED_CONFIG) {
        /* What the driver wrote is nowhere but here. */
        return;
    }
    vbr_failed(s, vbr_config_read(s->device, vbr_hint_shown_id(s), config,
                                  vdev->config_len));
}

void vbr_tell_config(VirtIOBalloonRs *s, const uint8_t *config)
{
    size_t len = VIRTIO_DEVICE(s)->config_len;
    bool changed = false;
    /* What comes next could undo it. */
    VbrStatus status = s->missed
        ? VBR_STATUS_BUSY : vbr_config_write(s->device, config, len, &changed);

    /* Without the value that it fills free pages with, reports cost these. */
    vbr_must(s, status, VBR_MISSED_CONFIG);
    if (changed) {
        vbr_announce_actual(s);
    }
}

static void vbr_set_config(VirtIODevice *vdev, const uint8_t *config)
{
    vbr_tell_config(VIRTIO_BALLOON_RS(vdev), config);
}

static uint64_t vbr_get_features(VirtIODevice *vdev, uint64_t features,
                                 Error **errp)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(vdev);

    features |= s->offered;
    virtio_add_feature(&features, VIRTIO_BALLOON_F_STATS_VQ);
    return features;
}

/* Called when the driver says that it has accepted what it wants. */
static int vbr_validate_features(VirtIODevice *vdev)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(vdev);
    bool accepted = false;

    if (vbr_failed(s, vbr_device_can_accept(s->device, vdev->guest_features,
                                            &accepted))) {
        return -EINVAL;
    }
    return accepted ? 0 : -EINVAL;
}

static void vbr_set_features(VirtIODevice *vdev, uint64_t features)
{
    vbr_tell_features(VIRTIO_BALLOON_RS(vdev), features);
}

bool vbr_accepted(VirtIOBalloonRs *s, unsigned int bit)
{
    /* Offered: by its historical bits, a founding protocol has others' bits. */
    return virtio_has_feature(s->host_features, bit) &&
           virtio_vdev_has_feature(VIRTIO_DEVICE(s), bit);
}

/*
 * There is no driver any more, and all of memory may be used by somebody who
 * knows nothing of this device: all that it said is forgotten.
 */
static void forget_driver(VirtIOBalloonRs *s)
{
    /* Nobody is told of it: an interrupt now could unplug the device. */
    vbr_migration_lock();
    vbr_hint_event(s, VBR_HINT_EVENT_RESET);
    vbr_migration_unlock();
    vbr_queues_drop(s);
    vbr_requests_drop(s);
    s->kicked = 0;
    s->flush_due = false;
    vbr_stats_drop(s);
}

static void handle_status(VirtIOBalloonRs *s, uint8_t status)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);

    if (vdev->status & VIRTIO_CONFIG_S_DRIVER_OK &&
        !(status & VIRTIO_CONFIG_S_DRIVER_OK)) {
        /*
         * Not always a reset: kexec just takes the bus from PCI devices. The
         * next kernel need not have a driver for this one.
         */
        forget_driver(s);
        vbr_must(s, vbr_batch_abandon(s->device), VBR_MISSED_BATCH);
    } else if (runstate_check(RUN_STATE_SHUTDOWN)) {
        /* QEMU ends: of migration, which is asked below, there is no more. */
        return;
    } else if (!vdev->vm_running) {
        vbr_hold_flush(s);
        vbr_queues_give_back(s);
        vbr_requests_give_back(s);
    } else if (virtio_device_started(vdev, status)) {
        vbr_queues_kick(s);
        vbr_hints_kick(s);
        vbr_requests_kick(s);
        /*
         * The source's interrupt may have been too late for its state, and so
         * may the word that the device broke.
         */
        if (s->hint_record_loaded || s->config_due || vdev->broken) {
            s->hint_record_loaded = false;
            s->config_due = false;
            qemu_bh_schedule(s->config_bh);
        }
        /* Last: it may notify the driver. */
        vbr_stats_resume(s);
    }
}

/* QEMU 10.1 lets set_status fail. */
#ifdef VBR_QEMU_10_0
static void vbr_set_status(VirtIODevice *vdev, uint8_t status)
{
    handle_status(VIRTIO_BALLOON_RS(vdev), status);
}
#else
static int vbr_set_status(VirtIODevice *vdev, uint8_t status)
{
    handle_status(VIRTIO_BALLOON_RS(vdev), status);
    return 0;
}
#endif

/* Tells the library; one that is broken is told when that is mended. */
static void vbr_machine_was_reset(VirtIOBalloonRs *s)
{
    s->machine_reset_due = vbr_failed(s, vbr_machine_reset(s->device));
}

void vbr_tell_reset(VirtIOBalloonRs *s)
{
    bool changed = false;
    VbrStatus status = vbr_device_reset(s->device, &changed);

    if (status == VBR_STATUS_BROKEN) {
        /* The next one mends what broke in the middle of this. */
        status = vbr_device_reset(s->device, &changed);
    }
    vbr_must(s, status, VBR_MISSED_RESET);
    if (s->machine_reset_due) {
        vbr_machine_was_reset(s);
    }
    /* The sets of pages were emptied; their memory goes bit by bit. */
    qemu_bh_schedule(s->bh);
    /* A library that broke, seen or not, has forgotten both. */
    vbr_memory_tell(s);
    vbr_parts_tell(s);
    if (changed) {
        vbr_announce_actual(s);
    }
}

static void vbr_reset(VirtIODevice *vdev)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(vdev);

    trace_virtio_balloon_rs_reset();
    s->life++;
    s->missed = 0;
    forget_driver(s);
    vbr_tell_reset(s);
}

static void vbr_queue_reset(VirtIODevice *vdev, uint32_t queue_index)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(vdev);
    VirtQueue *vq = virtio_get_queue(vdev, queue_index);

    if (vq == s->vq[VBR_QUEUE_KIND_STATS]) {
        vbr_stats_drop(s);
    } else if (vq == s->vq[VBR_QUEUE_KIND_HOST_REQUEST] ||
               vq == s->vq[VBR_QUEUE_KIND_MISC]) {
        vbr_requests_reset(s, vq);
    } else if (vq != s->vq[VBR_QUEUE_KIND_HINT]) {
        vbr_queues_reset(s, vq);
    }
}

static void balloon_target(void *opaque, ram_addr_t target)
{
    VirtIOBalloonRs *s = opaque;
    uint64_t ram = vbr_ram_size();
    uint32_t num_pages;

    if (!vbr_failed(s, vbr_target_set(s->device, target, ram, &num_pages))) {
        trace_virtio_balloon_rs_target(target, ram, num_pages);
        vbr_notify_config(s);
    }
}

static void balloon_status(void *opaque, BalloonInfo *info)
{
    info->actual = guest_bytes(opaque);
}

static const VMStateDescription vmstate_virtio_balloon_rs = {
    .name = "virtio-balloon",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_VIRTIO_DEVICE,
        VMSTATE_END_OF_LIST()
    },
};

static void vbr_device_realize(DeviceState *dev, Error **errp)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(dev);
    const VbrOptions options = {
        .features = s->host_features,
        .numbering = s->numbering,
        .reporting_advice = s->reporting_advice,
        /* When a page goes is not the same again in a replay. */
        .hold_bytes = s->hold_ms && replay_mode == REPLAY_MODE_NONE
                      ? s->hold_bytes : 0,
        .qemu_4_0_config_size = s->qemu_4_0_config_size,
    };
    const VbrHostOps ops = vbr_host_ops(s);
    VbrQueueSpec queues[VBR_MAX_QUEUES];
    size_t config_size, n_queues;
    VbrStatus status;

#if !defined(TARGET_I386) && !defined(TARGET_S390X)
    if (s->numbering == VBR_NUMBERING_HISTORICAL &&
        s->host_features & (1ull << 61 | 1ull << 63)) {
        /* Answers count pages of the guest, whose size nobody says. */
        error_setg(errp, "host-request and misc-queue cannot be used with "
                   "founding-feature-bits=historical by guests that may have "
                   "pages of another size than 4 KiB: set them to off");
        return;
    }
#endif
    if (s->hold_ms > VBR_MAX_HOLD_MS || s->hold_bytes > VBR_MAX_HOLD_BYTES) {
        error_setg(errp, "inflate-hold-ms can be at most %d, and "
                   "inflate-hold-bytes at most %d MiB: what waits is not free "
                   "for others", VBR_MAX_HOLD_MS,
                   (int)(VBR_MAX_HOLD_BYTES / MiB));
        return;
    }
    if (s->iothread) {
        warn_report("%s: iothread has no effect: free page hints need no "
                    "thread of their own here", TYPE_VIRTIO_BALLOON_RS);
    }
    status = vbr_device_new(&options, &ops, &s->device);
    if (status == VBR_STATUS_OK) {
        status = vbr_config_size(s->device, &config_size);
    }
    if (status == VBR_STATUS_OK) {
        status = vbr_device_features(s->device, &s->offered);
    }
    if (status == VBR_STATUS_OK) {
        status = vbr_options_queues(&options, queues, &n_queues);
    }
    if (status == VBR_STATUS_OK) {
        status = vbr_hints_new(&s->hints);
    }
    if (status != VBR_STATUS_OK) {
        error_setg(errp, "virtio-balloon-rs: %s", vbr_status_str(status));
        goto free_device;
    }
    if (qemu_add_balloon_handler(balloon_target, balloon_status, s) < 0) {
        error_setg(errp, "Only one balloon device is supported; "
                   "remove the other one first");
        goto free_device;
    }

    virtio_init(vdev, VIRTIO_ID_BALLOON, config_size);
    s->ram_bh = virtio_bh_new_guarded(dev, ram_changed, s);
    vbr_queues_init(s, queues, n_queues);
    vbr_hold_init(s);
    vbr_owed_init(s);
    vbr_hints_init(s);
    vbr_requests_init(s);
    vbr_stats_init(s);
    vbr_memory_init(s);
    vbr_migration_init(s);
    return;

free_device:
    vbr_hints_free(s->hints);
    s->hints = NULL;
    vbr_device_free(s->device);
    s->device = NULL;
}

static void vbr_device_unrealize(DeviceState *dev)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(dev);
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(dev);

    s->life++;
    qemu_remove_balloon_handler(s);
    vbr_migration_cleanup(s);
    vbr_stats_cleanup(s);
    vbr_memory_cleanup(s);
    qemu_bh_delete(s->ram_bh);
    s->ram_bh = NULL;
    vbr_requests_cleanup(s);
    vbr_owed_cleanup(s);
    vbr_hold_cleanup(s);
    vbr_queues_cleanup(s);
    vbr_hints_cleanup(s);
    vbr_pages_forget(s);
    vbr_device_free(s->device);
    s->device = NULL;
    virtio_cleanup(vdev);
}

/* Statistics outlive a driver, and a wake-up, but not a reset machine. */
static void vbr_reset_enter(Object *obj, ResetType type)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);

    if (type != RESET_TYPE_WAKEUP && s->device) {
        vbr_machine_was_reset(s);
    }
}

static void vbr_instance_init(Object *obj)
{
    VIRTIO_BALLOON_RS(obj)->hint_window = VBR_DEFAULT_WINDOW_MS;
    vbr_props_init(VIRTIO_BALLOON_RS(obj));
}

static const Property vbr_properties[] = {
    DEFINE_PROP_BIT64("must-tell-host", VirtIOBalloonRs, host_features,
                      VIRTIO_BALLOON_F_MUST_TELL_HOST, true),
    DEFINE_PROP_BIT64("deflate-on-oom", VirtIOBalloonRs, host_features,
                      VIRTIO_BALLOON_F_DEFLATE_ON_OOM, false),
    DEFINE_PROP_BIT64("free-page-hint", VirtIOBalloonRs, host_features,
                      VIRTIO_BALLOON_F_FREE_PAGE_HINT, false),
    DEFINE_PROP_BIT64("page-poison", VirtIOBalloonRs, host_features,
                      VIRTIO_BALLOON_F_PAGE_POISON, true),
    DEFINE_PROP_BIT64("free-page-reporting", VirtIOBalloonRs, host_features,
                      VIRTIO_BALLOON_F_REPORTING, false),
    /* The founding protocols: no driver in Linux speaks them. */
    DEFINE_PROP_BIT64("page-range", VirtIOBalloonRs, host_features, 60, false),
    DEFINE_PROP_BIT64("host-request", VirtIOBalloonRs, host_features, 61,
                      false),
    DEFINE_PROP_BIT64("balloon-chunks", VirtIOBalloonRs, host_features, 62,
                      false),
    DEFINE_PROP_BIT64("misc-queue", VirtIOBalloonRs, host_features, 63, false),
    /* Whether memory is given back where a vhost-user backend may pin it. */
    DEFINE_PROP_ON_OFF_AUTO("discard-beside-vhost-user", VirtIOBalloonRs,
                            beside_vhost_user, ON_OFF_AUTO_AUTO),
    /* How long inflated memory waits for its neighbours, and how much. */
    DEFINE_PROP_UINT32("inflate-hold-ms", VirtIOBalloonRs, hold_ms, 20),
    DEFINE_PROP_SIZE("inflate-hold-bytes", VirtIOBalloonRs, hold_bytes,
                     4 * MiB),
    /* The configuration space was larger in QEMU 4.0 than before and since. */
    DEFINE_PROP_BOOL("qemu-4-0-config-size", VirtIOBalloonRs,
                     qemu_4_0_config_size, false),
    DEFINE_PROP_LINK("iothread", VirtIOBalloonRs, iothread, TYPE_IOTHREAD,
                     IOThread *),
};

static void vbr_class_init(ObjectClass *klass, VBR_CLASS_DATA *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);
    VirtioDeviceClass *vdc = VIRTIO_DEVICE_CLASS(klass);
    ResettableClass *rc = RESETTABLE_CLASS(klass);

    vbr_log_init();
    device_class_set_props(dc, vbr_properties);
    dc->vmsd = &vmstate_virtio_balloon_rs;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
    vdc->realize = vbr_device_realize;
    vdc->unrealize = vbr_device_unrealize;
    vdc->reset = vbr_reset;
    vdc->queue_reset = vbr_queue_reset;
    vdc->get_config = vbr_get_config;
    vdc->set_config = vbr_set_config;
    vdc->get_features = vbr_get_features;
    vdc->set_features = vbr_set_features;
    vdc->validate_features = vbr_validate_features;
    vdc->set_status = vbr_set_status;
    vdc->vmsd = &vmstate_vbr_device;
    vdc->post_load = vbr_post_load;
    rc->phases.enter = vbr_reset_enter;
}

static const TypeInfo virtio_balloon_rs_info = {
    .name = TYPE_VIRTIO_BALLOON_RS,
    .parent = TYPE_VIRTIO_DEVICE,
    .instance_size = sizeof(VirtIOBalloonRs),
    .instance_init = vbr_instance_init,
    .class_init = vbr_class_init,
};

static void virtio_balloon_rs_register_types(void)
{
    type_register_static(&virtio_balloon_rs_info);
}

type_init(virtio_balloon_rs_register_types)
