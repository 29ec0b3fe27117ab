/*
 * virtio-balloon-rs: what the library did not listen to
 *
 * A call is refused in the middle of another one, or for an argument that makes
 * no sense. Most of what was asked for is then not done, and that is all. Where
 * the guest's memory hangs on it the device stands still until the library
 * knows: it is told again before anything else, from what QEMU knows.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

void vbr_must(VirtIOBalloonRs *s, VbrStatus status, VbrMissed what)
{
    if (vbr_failed(s, status) && status != VBR_STATUS_BROKEN) {
        s->missed |= what;
        trace_virtio_balloon_rs_missed(s->missed);
        qemu_bh_schedule(s->bh);
    }
}

void vbr_tell_features(VirtIOBalloonRs *s, uint64_t features)
{
    bool legacy = !virtio_has_feature(features, VIRTIO_F_VERSION_1);
    bool changed = false;
    VbrStatus status = s->missed
        ? VBR_STATUS_BUSY
        : vbr_device_set_features(s->device, features, legacy);

    trace_virtio_balloon_rs_features(features, legacy);
    /* Work by others than the guest's rules could cost it memory. */
    vbr_must(s, status, VBR_MISSED_FEATURES);
    if (status != VBR_STATUS_OK) {
        return;
    }
    vbr_migration_lock();
    status = vbr_hints_negotiated(s->hints, s->device, &changed);
    vbr_migration_unlock();
    if (status == VBR_STATUS_OK && changed) {
        vbr_notify_config(s);
    }
}

/* In the order in which it would have been told. */
static void tell(VirtIOBalloonRs *s, uint32_t missed)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);

    if (missed & VBR_MISSED_RESET) {
        vbr_tell_reset(s);
    }
    if (missed & (VBR_MISSED_MEMORY | VBR_MISSED_BATCH)) {
        /* Which pages are in the balloon it has missed as well. */
        vbr_must(s, vbr_batch_abandon(s->device), VBR_MISSED_BATCH);
    }
    if (missed & VBR_MISSED_MEMORY) {
        vbr_memory_tell_anew(s);
    }
    if (missed & VBR_MISSED_FEATURES) {
        vbr_tell_features(s, vdev->guest_features);
    }
    if (missed & VBR_MISSED_CONFIG) {
        vbr_tell_config(s, vdev->config);
        /* What it has read meanwhile was not the newest. */
        qemu_bh_schedule(s->config_bh);
    }
}

bool vbr_catch_up(VirtIOBalloonRs *s)
{
    unsigned int life;
    uint32_t missed;

    if (!s->missed) {
        return true;
    }
    life = vbr_turn_begin(s);
    /* What it was told of the batch was before. */
    vbr_queues_give_back(s);
    if (vbr_turn_is_over(s, life)) {
        return false;
    }
    missed = s->missed;
    s->missed = 0;
    tell(s, missed);
    trace_virtio_balloon_rs_caught_up(missed, s->missed);
    vbr_queues_kick(s);
    vbr_hints_kick(s);
    vbr_requests_kick(s);
    return !s->missed;
}
