/*
 * virtio-balloon-rs: the free page hint queue
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "hw/virtio/virtio-access.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

/*
 * Descriptors taken at a time, and up to a whole request (1024) more: one takes
 * a few hundred nanoseconds, so the main loop is kept less than a millisecond.
 */
#define DESCRIPTORS_AT_A_TIME 1024

bool vbr_hint_event(VirtIOBalloonRs *s, VbrHintEvent event)
{
    VbrStatus status;
    bool changed = false;

    status = vbr_hints_event(s->hints, event, &changed);
    if (status != VBR_STATUS_OK && event == VBR_HINT_EVENT_RESET) {
        /* The next one mends what broke in the middle of this. */
        status = vbr_hints_event(s->hints, event, &changed);
    }
    /*
     * Hints that did not hear of a synchronization could be taken for newer
     * than it, and what the guest wrote in between would be lost.
     */
    if (status != VBR_STATUS_OK) {
        s->hints_lost = true;
    } else if (event == VBR_HINT_EVENT_RESET) {
        s->hints_lost = false;
    }
    trace_virtio_balloon_rs_hint_event(event, changed);
    return status == VBR_STATUS_OK && changed;
}

bool vbr_hint_view(VirtIOBalloonRs *s, VbrHintView *view)
{
    *view = (VbrHintView) {};
    return !s->hints_lost && vbr_hints_view(s->hints, view) == VBR_STATUS_OK;
}

void vbr_hint_event_notify(VirtIOBalloonRs *s, VbrHintEvent event)
{
    bool changed;

    vbr_migration_lock();
    changed = vbr_hint_event(s, event);
    vbr_migration_unlock();
    if (changed) {
        vbr_notify_config(s);
    }
}

uint32_t vbr_hint_shown_id(VirtIOBalloonRs *s)
{
    VbrHintView view;
    bool seen;

    vbr_migration_lock();
    seen = vbr_hint_view(s, &view);
    vbr_migration_unlock();
    /* If the library broke, the guest may at least have its pages back. */
    return seen ? view.shown_id : VIRTIO_BALLOON_CMD_ID_DONE;
}

/* Takes over one request; says whether the guest sees another command now. */
static bool receive(VirtIOBalloonRs *s, VirtQueueElement *elem)
{
    VbrStatus status = VBR_STATUS_OK;
    uint8_t id[8];
    bool changed = false;

    vbr_migration_lock();
    if (elem->out_num) {
        size_t len = iov_to_buf(elem->out_sg, elem->out_num, 0, id,
                                sizeof(id));

        status = vbr_hints_receive_id(
            s->hints, id, len, virtio_access_is_big_endian(VIRTIO_DEVICE(s)),
            &changed);
        s->hints_lost |= status != VBR_STATUS_OK;
    }
    /* What is not taken is sent, as if there were no hint. */
    for (unsigned int i = 0; status == VBR_STATUS_OK && i < elem->in_num; i++) {
        status = vbr_hints_receive(s->hints, s->device,
                                   elem->in_sg[i].iov_base,
                                   elem->in_sg[i].iov_len);
    }
    vbr_migration_unlock();
    return status == VBR_STATUS_OK && changed;
}

/* The migration thread may wait for this before it has the guest asked. */
void vbr_hints_note_empty(VirtIOBalloonRs *s, VbrFreePageSource source)
{
    VbrHintView view;

    vbr_migration_lock();
    if (vbr_hint_view(s, &view) && view.source == source) {
        vbr_hint_event(s, VBR_HINT_EVENT_QUEUE_EMPTY);
        if (view.state == VBR_HINT_STATE_ARMING) {
            vbr_migration_wake();
        }
    }
    vbr_migration_unlock();
}

/*
 * Takes what is in the queue, but not too much at a time.
 *
 * In the main loop, also when there is an iothread: a ring can lie wherever the
 * guest likes, and what is not RAM is read and written under the big lock. An
 * iothread that waits for it while the main loop waits for the iothread, as it
 * does to reset a disk, would be the end of the machine. There is little to do
 * here; what takes time is done by the migration thread.
 */
static void vbr_hints_turn(void *opaque)
{
    VirtIOBalloonRs *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    VirtQueue *vq = s->vq[VBR_QUEUE_KIND_HINT];
    unsigned int life = vbr_turn_begin(s), descriptors = 0;
    bool changed = false;

    if (s->missed) {
        return;
    }
    /* While the machine is stopped its memory stays as it is. */
    while (vdev->vm_running && descriptors < DESCRIPTORS_AT_A_TIME) {
        VirtQueueElement *elem = vbr_pop(s, vq, life);

        if (!elem) {
            break;
        }
        changed |= receive(s, elem);
        descriptors += elem->in_num + elem->out_num;
        virtqueue_push(vq, elem, 0);
        g_free(elem);
    }
    trace_virtio_balloon_rs_hint_requests(descriptors);
    if (vbr_turn_is_over(s, life)) {
        /* Hints that came before count, and the migration thread may wait. */
        if (changed) {
            vbr_migration_wake();
        }
        return;
    }
    if (descriptors >= DESCRIPTORS_AT_A_TIME) {
        qemu_bh_schedule(s->hint_bh);
    } else if (vdev->vm_running) {
        vbr_hints_note_empty(s, VBR_FREE_PAGE_SOURCE_FREE_PAGE_HINT);
    }
    /* May reset the device, or even unplug it: last. */
    if (changed) {
        vbr_migration_wake();
        vbr_notify_config(s);
    }
    if (descriptors) {
        vbr_notify(s, vq, life);
    }
}

void vbr_hints_kick(VirtIOBalloonRs *s)
{
    if (s->hint_bh) {
        qemu_bh_schedule(s->hint_bh);
    }
}

void vbr_hints_handle_output(VirtIODevice *vdev, VirtQueue *vq)
{
    vbr_hints_kick(VIRTIO_BALLOON_RS(vdev));
}

static void vbr_hints_notify_config(void *opaque)
{
    VirtIOBalloonRs *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);

    /* What broke while the driver wrote the status was overwritten by that. */
    if (vdev->broken && vdev->status & VIRTIO_CONFIG_S_DRIVER_OK &&
        virtio_vdev_has_feature(vdev, VIRTIO_F_VERSION_1)) {
        vdev->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    }
    vbr_notify_config(s);
}

void vbr_hints_init(VirtIOBalloonRs *s)
{
    if (vbr_hints_set_window(s->hints, s->hint_window) != VBR_STATUS_OK) {
        warn_report("free-page-hint-window could not be set");
    }
    s->config_bh = virtio_bh_new_guarded(DEVICE(s), vbr_hints_notify_config,
                                         s);
    if (s->vq[VBR_QUEUE_KIND_HINT]) {
        s->hint_bh = virtio_bh_new_guarded(DEVICE(s), vbr_hints_turn, s);
    }
}

/* Behind vbr_migration_cleanup: nobody else uses the hints any more. */
void vbr_hints_cleanup(VirtIOBalloonRs *s)
{
    if (s->hint_bh) {
        qemu_bh_delete(s->hint_bh);
        s->hint_bh = NULL;
    }
    qemu_bh_delete(s->config_bh);
    s->config_bh = NULL;
    vbr_hints_free(s->hints);
    s->hints = NULL;
}
