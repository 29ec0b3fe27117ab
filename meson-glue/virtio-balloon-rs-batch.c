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

/* Requests that were taken from the device: who has them ends them. */
typedef struct Requests {
    VirtQueue *vq;
    unsigned int count;
    VirtQueueElement *elem[VBR_BATCH_MAX_REQUESTS];
} Requests;

/*
 * Takes the first @count held requests. They are not the device's any more
 * before anything is done with them, so whatever that leads to, nobody finds
 * them there a second time.
 */
static void take_held(VirtIOBalloonRs *s, unsigned int count, Requests *taken)
{
    taken->vq = vbr_queues_batch_vq(s);
    taken->count = count;
    memcpy(taken->elem, s->held, count * sizeof(s->held[0]));
    s->n_held -= count;
    memmove(s->held, s->held + count, s->n_held * sizeof(s->held[0]));
    if (!s->n_held) {
        s->partial = false;
    }
}

static void take_batch(VirtIOBalloonRs *s, Requests *taken)
{
    take_held(s, s->n_held, taken);
    s->working = false;
    qemu_bh_cancel(s->bh);
}

/* Without a notification. */
static void answer(Requests *taken)
{
    RCU_READ_LOCK_GUARD();
    for (unsigned int i = 0; i < taken->count; i++) {
        virtqueue_fill(taken->vq, taken->elem[i], 0, i);
        g_free(taken->elem[i]);
    }
    virtqueue_flush(taken->vq, taken->count);
}

void vbr_queues_drop(VirtIOBalloonRs *s)
{
    Requests taken;

    if (s->n_held) {
        trace_virtio_balloon_rs_drop(s->batch_queue, s->n_held);
    }
    take_batch(s, &taken);
    for (unsigned int i = 0; i < taken.count; i++) {
        virtqueue_detach_element(taken.vq, taken.elem[i], 0);
        g_free(taken.elem[i]);
    }
}

/*
 * Gives the batch up and answers its requests. Returns the queue that the
 * driver is to be notified of; NULL if there is none, or the device broke.
 */
VirtQueue *vbr_queues_give_up(VirtIOBalloonRs *s)
{
    Requests taken;

    /*
     * Before the requests are answered: a page whose deflate was acknowledged
     * is the guest's, and must not be taken for one in the balloon.
     */
    if (vbr_undone(s, vbr_batch_abandon(s->device)) || !s->n_held) {
        return NULL;
    }
    take_batch(s, &taken);
    answer(&taken);
    return taken.vq;
}

/*
 * The library forgets the batch and the requests go back to their ring, to be
 * popped again when the machine goes on, here or where it migrated to.
 *
 * A packed ring cannot take back a request of several descriptors. A batch
 * with such a request is given up instead and answered: what was not
 * discarded yet stays with the guest's machine. Returns its queue then, for
 * the driver to be notified.
 */
static VirtQueue *give_back(VirtIOBalloonRs *s)
{
    bool packed = virtio_vdev_has_feature(VIRTIO_DEVICE(s),
                                          VIRTIO_F_RING_PACKED);
    bool possible = true;
    Requests taken;

    if (!s->n_held) {
        return NULL;
    }
    for (unsigned int i = 0; i < s->n_held; i++) {
        possible &= !packed || s->held[i]->ndescs == 1;
    }
    if (!possible) {
        return vbr_queues_give_up(s);
    }
    trace_virtio_balloon_rs_give_back(s->batch_queue, s->n_held);
    if (vbr_undone(s, vbr_batch_cancel(s->device))) {
        return NULL;
    }
    take_batch(s, &taken);
    for (unsigned int i = taken.count; i > 0; i--) {
        virtqueue_unpop(taken.vq, taken.elem[i - 1], 0);
        g_free(taken.elem[i - 1]);
    }
    s->kicked |= 1u << s->batch_queue;
    return NULL;
}

void vbr_queues_give_back(VirtIOBalloonRs *s)
{
    VirtQueue *answered = give_back(s);

    if (answered) {
        vbr_notify(s, answered);
    }
}

/*
 * The driver takes back what is in this queue and was not answered. Some of it
 * may have been worked on, also before the machine was stopped, and the driver
 * uses those pages from now on: the library forgets what is in the balloon.
 */
void vbr_queues_reset(VirtIOBalloonRs *s, VirtQueue *vq)
{
    VirtQueue *answered = NULL;

    if (s->n_held && vq == vbr_queues_batch_vq(s)) {
        vbr_queues_drop(s);
    } else {
        answered = give_back(s);
    }
    vbr_undone(s, vbr_batch_abandon(s->device));
    vbr_queues_kick(s);
    if (answered) {
        vbr_notify(s, answered);
    }
}

/*
 * Answers the batch; a request that goes on in the next one stays. Says whether
 * the driver is to be notified.
 */
bool vbr_queues_complete(VirtIOBalloonRs *s)
{
    unsigned int count = s->n_held - s->partial;
    Requests taken;

    s->working = false;
    take_held(s, count, &taken);
    if (count) {
        answer(&taken);
    }
    return count;
}

void vbr_queues_drop_broken(VirtIOBalloonRs *s)
{
    if (s->n_held) {
        vbr_queues_drop(s);
        vbr_undone(s, vbr_batch_abandon(s->device));
    }
}
