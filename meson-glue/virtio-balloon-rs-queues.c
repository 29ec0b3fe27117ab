/*
 * virtio-balloon-rs: the inflate, deflate and reporting queues
 *
 * Requests are popped into a batch, the library works on the batch slice by
 * slice, and when it is done its requests are answered together. There is one
 * batch at a time, for all three queues.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "hw/virtio/virtio-access.h"
#include "migration/misc.h"
#include "system/runstate.h"
#include "system/runstate-action.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

/*
 * No part of the work begins in a turn of the main loop that has gone on for so
 * long. An answer of the monitor takes several turns. The library's slices are
 * cut by an estimate that is high where huge pages are given back: a turn is
 * good for more than one then.
 */
#define TURN_NS (250 * SCALE_US)

/* Bytes of payload handed to the library at a time; a multiple of a PFN's. */
#define PAYLOAD_CHUNK 4096

static VbrInhibit inhibit_of_backends(VirtIOBalloonRs *s)
{
    if (s->beside_vhost_user == ON_OFF_AUTO_ON ||
        !vbr_vhost_user_is_there()) {
        return VBR_INHIBIT_NO;
    } else if (s->beside_vhost_user == ON_OFF_AUTO_OFF) {
        return VBR_INHIBIT_VHOST_USER;
    }
    return s->large_pages ? VBR_INHIBIT_VHOST_USER_LARGE_PAGES
                          : VBR_INHIBIT_NO;
}

bool vbr_background_snapshot(VirtIOBalloonRs *s)
{
    /* QEMU frees its migration first, and runs other things for a while. */
    return !s->qemu_ends && migration_in_bg_snapshot();
}

VbrInhibit vbr_inhibit(VirtIOBalloonRs *s)
{
    if (migration_in_incoming_postcopy()) {
        return VBR_INHIBIT_INCOMING_POSTCOPY;
    }
    if (vbr_background_snapshot(s)) {
        return VBR_INHIBIT_BACKGROUND_SNAPSHOT;
    }
    return ram_block_discard_is_disabled() ? VBR_INHIBIT_PINNED
                                           : inhibit_of_backends(s);
}

const char *vbr_inhibit_str(VbrInhibit inhibit)
{
    switch (inhibit) {
    case VBR_INHIBIT_NO:
        return "no";
    case VBR_INHIBIT_PINNED:
        return "vfio or another user of memory pins it";
    case VBR_INHIBIT_INCOMING_POSTCOPY:
        return "incoming postcopy";
    case VBR_INHIBIT_BACKGROUND_SNAPSHOT:
        return "background snapshot";
    case VBR_INHIBIT_VHOST_USER:
        return "a vhost-user device is there";
    case VBR_INHIBIT_VHOST_USER_LARGE_PAGES:
        return "a vhost-user device is there, for pages larger than the "
               "host's";
    }
    g_assert_not_reached();
}

/* Adds what the batch takes of the newest held request. */
static VbrStatus add_request(VirtIOBalloonRs *s, size_t room)
{
    VirtQueueElement *elem = s->held[s->n_held - 1];
    size_t total = iov_size(elem->out_sg, elem->out_num);
    uint8_t payload[PAYLOAD_CHUNK];
    VbrPart part = {
        .payload = payload,
        .total = total,
        .big_endian = virtio_access_is_big_endian(VIRTIO_DEVICE(s)),
        .descriptors = elem->out_num + elem->in_num,
        .writable = elem->in_num,
    };
    VbrStatus status;

    part.len = iov_to_buf(elem->out_sg, elem->out_num, s->partial_offset,
                          payload, MIN(room, sizeof(payload)));
    part.last = s->partial_offset + part.len == total;
    status = vbr_batch_add(s->device, s->batch_queue, &part);
    /* What was not taken is offered again, and not answered before. */
    if (status == VBR_STATUS_OK) {
        s->partial_offset += part.len;
        s->partial = !part.last;
    }
    return status;
}

static VbrStatus add_report(VirtIOBalloonRs *s)
{
    VirtQueueElement *elem = s->held[s->n_held - 1];
    g_autofree VbrReported *segments = g_new(VbrReported, elem->in_num);
    VbrStatus status;

    for (unsigned int i = 0; i < elem->in_num; i++) {
        segments[i] = (VbrReported) {
            .host = elem->in_sg[i].iov_base,
            .bytes = elem->in_sg[i].iov_len,
        };
    }
    status = vbr_batch_add_report(s->device, segments, elem->in_num,
                                  elem->out_num);
    s->partial = status != VBR_STATUS_OK;
    return status;
}

/* Pops requests until the batch is full or the queue is empty. */
static VbrStatus gather(VirtIOBalloonRs *s, unsigned int life)
{
    for (;;) {
        size_t room;
        VbrStatus status = vbr_batch_room(s->device, s->batch_queue, &room);

        if (status != VBR_STATUS_OK || !room) {
            return status;
        }
        if (!s->partial) {
            VirtQueueElement *elem = vbr_pop(s, vbr_queues_batch_vq(s), life);

            if (!elem) {
                return VBR_STATUS_OK;
            }
            s->held[s->n_held++] = elem;
            s->partial = true;
            s->partial_offset = 0;
        }
        status = s->batch_queue == VBR_QUEUE_KIND_REPORTING
                 ? add_report(s) : add_request(s, room);
        if (status != VBR_STATUS_OK) {
            return status;
        }
    }
}

/* Turns to the next queue, after the last batch's, that may hold requests. */
static bool next_queue(VirtIOBalloonRs *s)
{
    unsigned int last = s->batch_queue;

    for (unsigned int i = 1; i <= VBR_MAX_QUEUES; i++) {
        s->batch_queue = (last + i) % VBR_MAX_QUEUES;
        if (s->kicked & (1u << s->batch_queue)) {
            return true;
        }
    }
    return false;
}

/*
 * The library did not do what it was asked for the batch. In the middle of
 * another call it will later; a batch that it does not take is given up.
 */
static void not_taken(VirtIOBalloonRs *s, VbrStatus status)
{
    if (vbr_failed(s, status) && !VIRTIO_DEVICE(s)->broken) {
        /* For this batch, or what else waits. */
        qemu_bh_schedule(s->bh);
        if (status != VBR_STATUS_BUSY) {
            vbr_queues_give_up(s);
        }
    }
}

/*
 * Gathers a batch, from the request that the last one left or a new queue. Ends
 * also when the turn is over.
 */
static VbrStatus next_batch(VirtIOBalloonRs *s, unsigned int life, bool *found)
{
    *found = false;
    do {
        VbrStatus status;

        /* What was taken from a queue before the library was busy stays its. */
        if (!s->n_held && !next_queue(s)) {
            return VBR_STATUS_OK;
        }
        status = gather(s, life);
        if (status != VBR_STATUS_OK || vbr_turn_is_over(s, life)) {
            return status;
        }
        if (!s->n_held || virtio_queue_empty(vbr_queues_batch_vq(s))) {
            s->kicked &= ~(1u << s->batch_queue);
        }
    } while (!s->n_held);
    trace_virtio_balloon_rs_batch(s->batch_queue, s->n_held);
    *found = true;
    return VBR_STATUS_OK;
}

/* One slice of work, so that nobody waits for the main loop for long. */
static void vbr_queues_turn(void *opaque)
{
    VirtIOBalloonRs *s = opaque;
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    int64_t end = get_clock() + TURN_NS;
    unsigned int life;
    /* A batch that is in work goes on for one slice at least. */
    bool more = true, done = false;
    VbrInhibit inhibit;
    VbrStatus status;

    /* Of a machine that ends nobody wants memory back any more. */
    if (!vdev->vm_running || s->qemu_ends) {
        return;
    }
    if (vdev->broken) {
        vbr_queues_drop_broken(s);
        return;
    }
    if (!vbr_catch_up(s)) {
        return;
    }
    life = vbr_turn_begin(s);
    inhibit = vbr_inhibit(s);
    if (vbr_hold_turn(s, inhibit)) {
        qemu_bh_schedule(s->bh);
        return;
    }
    if (!s->working) {
        bool found = false;

        status = next_batch(s, life, &found);
        if (vbr_turn_is_over(s, life)) {
            /* The ring turned out bad while the batch was gathered. */
            if (s->device && vdev->broken) {
                vbr_queues_drop_broken(s);
            }
            return;
        }
        if (status != VBR_STATUS_OK) {
            not_taken(s, status);
            return;
        }
        s->working = found;
        if (!found) {
            /* Between batches only: those are what the guest waits for. */
            vbr_owed_turn(s, inhibit);
            return;
        }
        more = get_clock() < end;
    }
    while (more && !done) {
        status = vbr_batch_run(s->device, inhibit, &done);
        if (status != VBR_STATUS_OK) {
            not_taken(s, status);
            return;
        }
        more = get_clock() < end;
    }
    trace_virtio_balloon_rs_slice(s->batch_queue, vbr_inhibit_str(inhibit),
                                  done);
    vbr_hold_watch(s);
    vbr_owed_watch(s, inhibit);
    if (!done || s->partial || s->kicked) {
        qemu_bh_schedule(s->bh);
    }
    /* Last: to answer can reset the device, or unplug it. */
    if (done) {
        vbr_queues_complete(s, life);
    }
}

static void vbr_queues_turn_guarded(VirtIOBalloonRs *s)
{
    vbr_queues_turn(s);
}

static void vbr_queues_handle_output(VirtIODevice *vdev, VirtQueue *vq)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(vdev);

    for (unsigned int i = 0; i < VBR_MAX_QUEUES; i++) {
        if (s->vq[i] == vq) {
            s->kicked |= 1u << i;
        }
    }
    if (!s->working && !s->partial) {
        vbr_guarded(s, vbr_queues_turn_guarded);
    }
}

static bool is_batched(VbrQueueKind kind)
{
    return kind == VBR_QUEUE_KIND_INFLATE || kind == VBR_QUEUE_KIND_DEFLATE ||
           kind == VBR_QUEUE_KIND_REPORTING;
}

void vbr_queues_kick(VirtIOBalloonRs *s)
{
    for (unsigned int i = 0; i < VBR_MAX_QUEUES; i++) {
        if (s->vq[i] && is_batched(i)) {
            s->kicked |= 1u << i;
        }
    }
    qemu_bh_schedule(s->bh);
}

/* The device asks nothing more of what QEMU frees first. */
static void qemu_ends(Notifier *notifier, void *cause)
{
    VirtIOBalloonRs *s = container_of(notifier, VirtIOBalloonRs,
                                      shutdown_notifier);

    s->qemu_ends = shutdown_action != SHUTDOWN_ACTION_PAUSE;
}

void vbr_queues_init(VirtIOBalloonRs *s, const VbrQueueSpec *queues,
                     size_t count)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);

    for (size_t i = 0; i < count; i++) {
        VirtIOHandleOutput handler = vbr_requests_handle_output;

        if (is_batched(queues[i].kind)) {
            handler = vbr_queues_handle_output;
        } else if (queues[i].kind == VBR_QUEUE_KIND_STATS) {
            handler = vbr_stats_handle_output;
        } else if (queues[i].kind == VBR_QUEUE_KIND_HINT) {
            handler = vbr_hints_handle_output;
        }
        s->vq[queues[i].kind] = virtio_add_queue(vdev, queues[i].size,
                                                 handler);
    }
    s->bh = virtio_bh_new_guarded(DEVICE(s), vbr_queues_turn, s);
    s->shutdown_notifier.notify = qemu_ends;
    qemu_register_shutdown_notifier(&s->shutdown_notifier);
}

void vbr_queues_cleanup(VirtIOBalloonRs *s)
{
    notifier_remove(&s->shutdown_notifier);
    vbr_queues_drop(s);
    qemu_bh_delete(s->bh);
    s->bh = NULL;
    for (unsigned int i = 0; i < VBR_MAX_QUEUES; i++) {
        if (s->vq[i]) {
            virtio_delete_queue(s->vq[i]);
            s->vq[i] = NULL;
        }
    }
}
