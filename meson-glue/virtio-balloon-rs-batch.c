/*
 * virtio-balloon-rs: the requests of a batch, popped and not answered yet
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

VirtQueue *vbr_queues_batch_vq(VirtIOBalloonRs *s)
{
    return s->vq[s->batch_queue];
}

/* Nothing is held any more of which the driver is still owed an answer. */
static void end_batch(VirtIOBalloonRs *s)
{
    s->n_held = 0;
    s->partial = false;
    s->working = false;
}

/*
 * Answers the first @count requests, without a notification; they are held no
 * more then. Says whether the turn goes on.
 *
 * A ring can lie on registers of another device, and what is written there can
 * reset this one, or unplug it. That drops what is held, while the rings are
 * still there. So a request leaves its place before it is answered, to be found
 * by nobody else, and behind each the turn may be over.
 */
static bool answer(VirtIOBalloonRs *s, unsigned int count, unsigned int life)
{
    VirtQueue *vq = vbr_queues_batch_vq(s);

    RCU_READ_LOCK_GUARD();
    for (unsigned int i = 0; i < count; i++) {
        g_autofree VirtQueueElement *elem = g_steal_pointer(&s->held[i]);

        virtqueue_fill(vq, elem, 0, i);
        if (vbr_turn_is_over(s, life)) {
            return false;
        }
    }
    s->n_held -= count;
    memmove(s->held, s->held + count, s->n_held * sizeof(s->held[0]));
    virtqueue_flush(vq, count);
    return !vbr_turn_is_over(s, life);
}

void vbr_queues_drop(VirtIOBalloonRs *s)
{
    VirtQueue *vq = vbr_queues_batch_vq(s);
    unsigned int count = s->n_held;

    if (count) {
        trace_virtio_balloon_rs_drop(s->batch_queue, count);
    }
    end_batch(s);
    for (unsigned int i = 0; i < count; i++) {
        g_autofree VirtQueueElement *elem = g_steal_pointer(&s->held[i]);

        if (elem) {
            virtqueue_detach_element(vq, elem, 0);
        }
    }
}

void vbr_queues_give_up(VirtIOBalloonRs *s)
{
    unsigned int life = vbr_turn_begin(s);
    VirtQueue *vq = vbr_queues_batch_vq(s);

    /*
     * Before the requests are answered: a page whose deflate was acknowledged
     * is the guest's, and must not be taken for one in the balloon.
     */
    vbr_must(s, vbr_batch_abandon(s->device), VBR_MISSED_BATCH);
    if (!s->n_held) {
        return;
    }
    if (answer(s, s->n_held, life)) {
        end_batch(s);
        vbr_notify(s, vq, life);
    }
}

/*
 * The library forgets the batch and the requests go back to their ring, to be
 * popped again when the machine goes on, here or where it migrated to.
 *
 * A packed ring cannot take back a request of several descriptors. A batch
 * with such a request is given up instead and answered: what was not
 * discarded yet stays with the guest's machine.
 */
void vbr_queues_give_back(VirtIOBalloonRs *s)
{
    VirtQueue *vq = vbr_queues_batch_vq(s);
    bool packed = virtio_vdev_has_feature(VIRTIO_DEVICE(s),
                                          VIRTIO_F_RING_PACKED);
    bool possible = true;
    unsigned int count = s->n_held;

    if (!count) {
        return;
    }
    for (unsigned int i = 0; i < count; i++) {
        possible &= !packed || s->held[i]->ndescs == 1;
    }
    if (!possible) {
        vbr_queues_give_up(s);
        return;
    }
    trace_virtio_balloon_rs_give_back(s->batch_queue, count);
    vbr_must(s, vbr_batch_cancel(s->device), VBR_MISSED_BATCH);
    /* A device that broke has dropped them. */
    count = s->n_held;
    end_batch(s);
    for (unsigned int i = count; i > 0; i--) {
        g_autofree VirtQueueElement *elem = g_steal_pointer(&s->held[i - 1]);

        virtqueue_unpop(vq, elem, 0);
    }
    s->kicked |= 1u << s->batch_queue;
}

/*
 * The driver takes back what is in this queue and was not answered. Some of it
 * may have been worked on, also before the machine was stopped, and the driver
 * uses those pages from now on: the library forgets what is in the balloon.
 */
void vbr_queues_reset(VirtIOBalloonRs *s, VirtQueue *vq)
{
    unsigned int life = vbr_turn_begin(s);

    if (s->n_held && vq == vbr_queues_batch_vq(s)) {
        vbr_queues_drop(s);
    } else {
        vbr_queues_give_back(s);
    }
    /* A device that was reset by that has forgotten all, and may be gone. */
    if (!vbr_was_reset(s, life)) {
        vbr_must(s, vbr_batch_abandon(s->device), VBR_MISSED_BATCH);
        vbr_queues_kick(s);
    }
}

void vbr_queues_complete(VirtIOBalloonRs *s, unsigned int life)
{
    VirtQueue *vq = vbr_queues_batch_vq(s);
    unsigned int count = s->n_held - s->partial;

    if (!count) {
        s->working = false;
    } else if (answer(s, count, life)) {
        s->working = false;
        vbr_notify(s, vq, life);
    } else if (!vbr_was_reset(s, life)) {
        vbr_queues_drop_broken(s);
    }
}

void vbr_queues_drop_broken(VirtIOBalloonRs *s)
{
    if (s->n_held) {
        vbr_queues_drop(s);
        vbr_must(s, vbr_batch_abandon(s->device), VBR_MISSED_BATCH);
    }
}
