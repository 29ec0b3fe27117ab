/*
 * virtio-balloon-rs: free pages by request, the request and misc queues of the
 * founding protocols
 *
 * The guest provides a buffer, which is held until a migration asks; it goes
 * back with the request in it, and the answer comes in messages. All in the
 * main loop, in slices, as the free page hint queue.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

/*
 * How much is taken at a time: a range takes some ten nanoseconds, a descriptor
 * a few hundred, so the main loop is kept half a millisecond for each queue.
 */
#define BYTES_AT_A_TIME (256 * KiB)
#define DESCRIPTORS_AT_A_TIME 1024
/* Where RAM lies in many pieces, a range takes longer. */
#define TURN_NS (250 * SCALE_US)
/* Bytes of a message handed to the library at a time. */
#define PART 4096

static const VbrQueueKind kinds[VBR_REQUEST_QUEUES] = {
    VBR_QUEUE_KIND_HOST_REQUEST, VBR_QUEUE_KIND_MISC,
};

static const VbrFreePageSource sources[VBR_REQUEST_QUEUES] = {
    VBR_FREE_PAGE_SOURCE_HOST_REQUEST, VBR_FREE_PAGE_SOURCE_MISC_QUEUE,
};

/* One of the two queues, for the length of a call. */
typedef struct Queue {
    VirtIOBalloonRs *s;
    VirtQueue *vq;
    VbrRequestQueue *state;
    VbrFreePageSource source;
    unsigned int life;
} Queue;

static bool get_queue(VirtIOBalloonRs *s, unsigned int i, Queue *q)
{
    *q = (Queue) {
        .s = s,
        .vq = s->vq[kinds[i]],
        .state = &s->requests[i],
        .source = sources[i],
        .life = s->life,
    };
    return q->vq;
}

/*
 * These take the element from its place before they do anything with it, so
 * that nobody finds it there a second time, whatever that leads to.
 */
static void push(Queue *q, VirtQueueElement **place, size_t len)
{
    g_autofree VirtQueueElement *elem = g_steal_pointer(place);

    virtqueue_push(q->vq, elem, len);
}

static void unpop(Queue *q, VirtQueueElement **place)
{
    g_autofree VirtQueueElement *elem = g_steal_pointer(place);

    virtqueue_unpop(q->vq, elem, 0);
}

static void drop_element(Queue *q, VirtQueueElement **place)
{
    g_autofree VirtQueueElement *elem = g_steal_pointer(place);

    if (elem) {
        virtqueue_detach_element(q->vq, elem, 0);
    }
}


/* Puts the request into the buffer, if there is one now; says whether. */
static bool send_request(Queue *q)
{
    uint8_t request[VBR_REQUEST_MAX_BYTES];
    VirtQueueElement *elem = q->state->buffer;
    VbrStatus status;
    size_t len = 0;

    if (!elem) {
        return false;
    }
    vbr_migration_lock();
    status = vbr_request_take(q->s->hints, q->source, request, &len);
    vbr_migration_unlock();
    if (status != VBR_STATUS_OK || !len) {
        return false;
    }
    iov_from_buf(elem->in_sg, elem->in_num, 0, request, len);
    /* A driver drops a buffer with any other length, and provides no other. */
    push(q, &q->state->buffer, len);
    trace_virtio_balloon_rs_request_send(q->source, len);
    return true;
}

/* Takes over a buffer for a request; says whether it went back. */
static bool receive_buffer(Queue *q, VirtQueueElement *elem)
{
    size_t len = iov_size(elem->in_sg, elem->in_num);
    VbrStatus status;
    bool hold = false;

    vbr_migration_lock();
    status = vbr_request_buffer(q->s->hints, q->s->device, q->source, len,
                                q->state->buffer, &hold);
    /* The migration thread may wait for one. */
    vbr_migration_wake();
    vbr_migration_unlock();
    vbr_failed(q->s, status);
    trace_virtio_balloon_rs_request_buffer(q->source, len, hold);
    if (hold) {
        q->state->buffer = elem;
        q->state->popped_since = 0;
        /* One may be due already, if the machine was stopped in between. */
        return send_request(q);
    }
    push(q, &elem, 0);
    return true;
}

/*
 * Reads on in the message, at most @left bytes and until @end; returns how many
 * it read.
 */
static size_t read_message(Queue *q, size_t left, int64_t end)
{
    VirtQueueElement *elem = q->state->message;
    size_t total = iov_size(elem->out_sg, elem->out_num), read = 0;
    bool last = false;

    do {
        uint8_t payload[PART];
        VbrAnswer part = {
            .payload = payload,
            .total = total,
            .first = !q->state->offset,
        };
        VbrStatus status;

        part.len = iov_to_buf(elem->out_sg, elem->out_num, q->state->offset,
                              payload, sizeof(payload));
        q->state->offset += part.len;
        read += part.len;
        last = part.last = q->state->offset == total;
        vbr_migration_lock();
        status = vbr_request_answer(q->s->hints, q->s->device, q->source,
                                    &part);
        vbr_migration_unlock();
        last |= vbr_failed(q->s, status);
    } while (!last && read < left && get_clock() < end);
    if (last) {
        push(q, &q->state->message, 0);
        /* The migration thread may wait for what was hinted. */
        vbr_migration_wake();
    }
    return read;
}

/* Works on one queue for a slice; says whether the driver is to be notified. */
static bool turn(Queue *q)
{
    unsigned int descriptors = 0;
    bool used = send_request(q), empty = false;
    /* Only now: that may have waited for the migration thread. */
    int64_t end = get_clock() + TURN_NS;
    size_t bytes = 0;

    while (!vbr_turn_is_over(q->s, q->life) && !empty &&
           bytes < BYTES_AT_A_TIME && descriptors < DESCRIPTORS_AT_A_TIME &&
           get_clock() < end) {
        VirtQueueElement *elem;

        if (q->state->message) {
            bytes += read_message(q, BYTES_AT_A_TIME - bytes, end);
            used |= !q->state->message;
            continue;
        }
        elem = vbr_pop(q->s, q->vq, q->life);
        if (!elem) {
            empty = true;
            continue;
        }
        descriptors += elem->in_num + elem->out_num;
        q->state->popped_since++;
        if (elem->out_num) {
            q->state->message = elem;
            q->state->offset = 0;
        } else {
            used |= receive_buffer(q, elem);
        }
    }
    trace_virtio_balloon_rs_request_turn(q->source, descriptors, bytes);
    if (vbr_turn_is_over(q->s, q->life)) {
        return false;
    }
    if (empty) {
        vbr_hints_note_empty(q->s, q->source);
    } else {
        qemu_bh_schedule(q->s->request_bh);
    }
    return used;
}

static void vbr_requests_turn(void *opaque)
{
    VirtIOBalloonRs *s = opaque;
    bool used[VBR_REQUEST_QUEUES] = {};
    unsigned int life = vbr_turn_begin(s);
    Queue q;

    for (unsigned int i = 0; i < VBR_REQUEST_QUEUES; i++) {
        /* While the machine is stopped its memory stays as it is. */
        used[i] = !vbr_turn_is_over(s, life) && !s->missed &&
                  VIRTIO_DEVICE(s)->vm_running && get_queue(s, i, &q) &&
                  turn(&q);
    }
    /* May reset the device, or even unplug it: last. */
    for (unsigned int i = 0; i < VBR_REQUEST_QUEUES; i++) {
        if (used[i] && get_queue(s, i, &q)) {
            vbr_notify(s, q.vq, life);
        }
    }
}

void vbr_requests_kick(VirtIOBalloonRs *s)
{
    if (s->request_bh) {
        qemu_bh_schedule(s->request_bh);
    }
}

void vbr_requests_handle_output(VirtIODevice *vdev, VirtQueue *vq)
{
    vbr_requests_kick(VIRTIO_BALLOON_RS(vdev));
}

static bool can_unpop(Queue *q, VirtQueueElement *elem)
{
    return elem->ndescs == 1 ||
           !virtio_vdev_has_feature(VIRTIO_DEVICE(q->s),
                                    VIRTIO_F_RING_PACKED);
}

/*
 * What is held goes back to its ring, to be popped again when the machine goes
 * on. A message that was read in part is read again then: to name a page twice
 * does no harm, and where the machine migrated to nobody asked for it. What
 * cannot go back is returned to the driver.
 */
static void give_back(Queue *q)
{
    VirtQueueElement *message = q->state->message, *buffer = q->state->buffer;
    VbrStatus given_up = VBR_STATUS_OK, lost;

    if (message && can_unpop(q, message)) {
        unpop(q, &q->state->message);
        q->state->popped_since--;
    }
    if (buffer && !q->state->popped_since && can_unpop(q, buffer)) {
        unpop(q, &q->state->buffer);
    }
    message = q->state->message;
    /* Left only by a driver that has sent messages behind its buffer. */
    buffer = q->state->buffer;
    vbr_migration_lock();
    if (message) {
        given_up = vbr_request_give_up_answer(q->s->hints, q->s->device);
    }
    lost = vbr_request_lost(q->s->hints, q->source);
    vbr_migration_unlock();
    vbr_failed(q->s, given_up);
    vbr_failed(q->s, lost);
    /* Last: to answer can reset the device, or unplug it. That drops them. */
    if (message) {
        push(q, &q->state->message, 0);
    }
    if (buffer && !vbr_was_reset(q->s, q->life)) {
        push(q, &q->state->buffer, 0);
    }
    if (!vbr_was_reset(q->s, q->life)) {
        *q->state = (VbrRequestQueue) {};
    }
    if (message || buffer) {
        vbr_notify(q->s, q->vq, q->life);
    }
}

void vbr_requests_give_back(VirtIOBalloonRs *s)
{
    unsigned int life = vbr_turn_begin(s);

    for (unsigned int i = 0; i < VBR_REQUEST_QUEUES; i++) {
        Queue q;

        if (!vbr_was_reset(s, life) && get_queue(s, i, &q)) {
            give_back(&q);
        }
    }
}

static void drop(Queue *q)
{
    drop_element(q, &q->state->message);
    drop_element(q, &q->state->buffer);
    *q->state = (VbrRequestQueue) {};
}

void vbr_requests_drop(VirtIOBalloonRs *s)
{
    for (unsigned int i = 0; i < VBR_REQUEST_QUEUES; i++) {
        Queue q;

        if (get_queue(s, i, &q)) {
            drop(&q);
        }
    }
}

void vbr_requests_reset(VirtIOBalloonRs *s, VirtQueue *vq)
{
    for (unsigned int i = 0; i < VBR_REQUEST_QUEUES; i++) {
        Queue q;

        if (get_queue(s, i, &q) && q.vq == vq) {
            VbrStatus status;

            drop(&q);
            vbr_migration_lock();
            status = vbr_request_queue_reset(s->hints, q.source);
            vbr_migration_unlock();
            vbr_failed(s, status);
        }
    }
}

void vbr_requests_init(VirtIOBalloonRs *s)
{
    if (s->vq[VBR_QUEUE_KIND_HOST_REQUEST] || s->vq[VBR_QUEUE_KIND_MISC]) {
        s->request_bh = virtio_bh_new_guarded(DEVICE(s), vbr_requests_turn, s);
    }
}

/* Behind vbr_migration_cleanup, and before the queues go. */
void vbr_requests_cleanup(VirtIOBalloonRs *s)
{
    vbr_requests_drop(s);
    if (s->request_bh) {
        qemu_bh_delete(s->request_bh);
        s->request_bh = NULL;
    }
}
