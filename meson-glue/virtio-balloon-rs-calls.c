/*
 * virtio-balloon-rs: what a call into the library came to, and how the driver
 * is told
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

/* Levels of the library's log. */
enum { VBR_LOG_ERROR = 1, VBR_LOG_WARNING, VBR_LOG_INFO, VBR_LOG_DEBUG };

static void log_text(int level, const char *text)
{
    switch (level) {
    case VBR_LOG_ERROR:
        error_report("virtio-balloon-rs: %s", text);
        break;
    case VBR_LOG_WARNING:
        warn_report("virtio-balloon-rs: %s", text);
        break;
    default:
        /* A guest can cause these at will: only for those who ask. */
        qemu_log_mask(LOG_GUEST_ERROR, "virtio-balloon-rs: %s\n", text);
        break;
    }
}

void vbr_log_init(void)
{
    if (vbr_log_set(log_text, VBR_LOG_DEBUG) != VBR_STATUS_OK) {
        warn_report("virtio-balloon-rs: what the library logs is not seen");
    }
}

/*
 * As virtio_error() does, but the driver is told at the top of the main loop:
 * that can reset the device, or unplug it, and here somebody works with it.
 */
static void break_device(VirtIOBalloonRs *s, VbrStatus status)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);

    if (!vdev->broken) {
        error_report("virtio-balloon-rs: %s", vbr_status_str(status));
        vdev->broken = true;
        if (virtio_vdev_has_feature(vdev, VIRTIO_F_VERSION_1)) {
            vdev->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
            qemu_bh_schedule(s->config_bh);
        }
    }
    /* The next reset tells it all anew. */
    s->missed = 0;
    vbr_queues_drop(s);
}

bool vbr_failed(VirtIOBalloonRs *s, VbrStatus status)
{
    if (status == VBR_STATUS_BROKEN) {
        break_device(s, status);
    } else if (status != VBR_STATUS_OK) {
        /* Nothing was done, and the device is as good as before. */
        trace_virtio_balloon_rs_refused(vbr_status_str(status));
    }
    return status != VBR_STATUS_OK;
}

typedef struct Kept {
    Object *transport;
    Object *device;
} Kept;

static void unref_kept(void *opaque)
{
    Kept *kept = opaque;

    VIRTIO_BALLOON_RS(kept->device)->kept = false;
    /* On PCI and CCW the device is a part of its transport: it goes first. */
    object_unref(kept->device);
    object_unref(kept->transport);
    g_free(kept);
}

/*
 * A notification is a write to an address that the guest chose, which may be
 * this very device, or the port that it is plugged into: it can be reset by it,
 * or unplugged. So everything is in its final state before, and nothing of the
 * device is looked at afterwards. But QEMU does, on its way back: it clears the
 * mark that the device is at work. So its memory stays for this turn of the
 * main loop.
 *
 * A ring, too, can lie on registers, where an answer is written, and QEMU itself
 * notifies the driver when it finds a ring bad, in the middle of taking a
 * request. So whoever takes or answers requests keeps the device before, and
 * asks behind that whether it is still the one that it was.
 */
static void keep_for_this_turn(VirtIOBalloonRs *s)
{
    Kept *kept;

    if (s->kept) {
        return;
    }
    s->kept = true;
    kept = g_new(Kept, 1);
    kept->transport = OBJECT(qdev_get_parent_bus(DEVICE(s))->parent);
    kept->device = OBJECT(s);
    object_ref(kept->transport);
    object_ref(kept->device);
    aio_bh_schedule_oneshot(qemu_get_aio_context(), unref_kept, kept);
}

unsigned int vbr_turn_begin(VirtIOBalloonRs *s)
{
    keep_for_this_turn(s);
    return s->life;
}

bool vbr_was_reset(VirtIOBalloonRs *s, unsigned int life)
{
    return s->life != life;
}

bool vbr_turn_is_over(VirtIOBalloonRs *s, unsigned int life)
{
    return vbr_was_reset(s, life) || VIRTIO_DEVICE(s)->broken;
}

VirtQueueElement *vbr_pop(VirtIOBalloonRs *s, VirtQueue *vq, unsigned int life)
{
    /* What was done before may have touched a ring, too: not a deleted one. */
    return vbr_turn_is_over(s, life)
           ? NULL : virtqueue_pop(vq, sizeof(VirtQueueElement));
}

void vbr_notify(VirtIOBalloonRs *s, VirtQueue *vq, unsigned int life)
{
    if (!vbr_was_reset(s, life)) {
        virtio_notify(VIRTIO_DEVICE(s), vq);
    }
}

void vbr_notify_config(VirtIOBalloonRs *s)
{
    keep_for_this_turn(s);
    virtio_notify_config(VIRTIO_DEVICE(s));
}

void vbr_guarded(VirtIOBalloonRs *s, void (*fn)(VirtIOBalloonRs *s))
{
    DeviceState *transport = qdev_get_parent_bus(DEVICE(s))->parent;
    bool *engaged = &transport->mem_reentrancy_guard.engaged_in_io;
    bool was_engaged = *engaged;

    *engaged = true;
    fn(s);
    *engaged = was_engaged;
}
