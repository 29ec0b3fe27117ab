/*
 * virtio-balloon-rs: the statistics queue and its polling timer
 *
 * The driver gives one buffer, with its statistics in it. It is held until new
 * ones are wanted, and then returned to ask for them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "qemu/timer.h"
#include "hw/virtio/virtio-access.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

static void arm_timer(VirtIOBalloonRs *s, int64_t seconds)
{
    timer_mod(s->stats_timer,
              qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL) + seconds * 1000);
}

void vbr_stats_rearm(VirtIOBalloonRs *s)
{
    if (s->stats_poll_interval) {
        arm_timer(s, s->stats_poll_interval);
    }
}

static void return_buffer(VirtIOBalloonRs *s)
{
    VirtQueue *vq = s->vq[VBR_QUEUE_KIND_STATS];

    virtqueue_push(vq, s->stats_elem, 0);
    virtio_notify(VIRTIO_DEVICE(s), vq);
    g_free(s->stats_elem);
    s->stats_elem = NULL;
}

/* Reads @elem, which takes the place of a buffer held before. */
static void receive(VirtIOBalloonRs *s, VirtQueueElement *elem)
{
    uint8_t payload[VBR_STATS_MAX_BYTES];
    VbrStatsBuffer buffer = {
        .payload = payload,
        .payload_len = iov_to_buf(elem->out_sg, elem->out_num, 0, payload,
                                  sizeof(payload)),
        .len = iov_size(elem->out_sg, elem->out_num),
        .big_endian = virtio_access_is_big_endian(VIRTIO_DEVICE(s)),
        .writable = elem->in_num,
        .held = s->stats_elem,
        .now = g_get_real_time() / G_USEC_PER_SEC,
    };

    trace_virtio_balloon_rs_stats_receive(buffer.len, buffer.held);
    if (s->stats_elem) {
        return_buffer(s);
    }
    s->stats_elem = elem;
    vbr_failed(s, vbr_stats_receive(s->device, &buffer));
    vbr_stats_rearm(s);
}

void vbr_stats_handle_output(VirtIODevice *vdev, VirtQueue *vq)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(vdev);

    /* A driver sends one buffer; what a ring can hold bounds any other. */
    for (int i = 0; i < VIRTQUEUE_MAX_SIZE && !vdev->broken; i++) {
        VirtQueueElement *elem = virtqueue_pop(vq, sizeof(*elem));

        if (!elem) {
            return;
        }
        receive(s, elem);
    }
}

static void poll_timer(void *opaque)
{
    VirtIOBalloonRs *s = opaque;

    trace_virtio_balloon_rs_stats_poll(s->stats_elem);
    if (s->stats_elem) {
        /* The timer is armed again when the statistics come. */
        return_buffer(s);
    } else {
        arm_timer(s, s->stats_poll_interval);
    }
}

/* After a migration the buffer is the driver's no more but not held either. */
void vbr_stats_resume(VirtIOBalloonRs *s)
{
    VirtQueue *vq = s->vq[VBR_QUEUE_KIND_STATS];

    if (!s->stats_elem && virtqueue_rewind(vq, 1)) {
        vbr_stats_handle_output(VIRTIO_DEVICE(s), vq);
    }
}

void vbr_stats_drop(VirtIOBalloonRs *s)
{
    if (s->stats_elem) {
        virtqueue_detach_element(s->vq[VBR_QUEUE_KIND_STATS], s->stats_elem,
                                 0);
        g_free(s->stats_elem);
        s->stats_elem = NULL;
    }
}

void vbr_stats_set_interval(VirtIOBalloonRs *s, int64_t seconds)
{
    bool was_off = !s->stats_poll_interval;

    if (seconds == s->stats_poll_interval) {
        return;
    }
    s->stats_poll_interval = seconds;
    if (!seconds) {
        timer_free(s->stats_timer);
        s->stats_timer = NULL;
        return;
    }
    if (was_off) {
        s->stats_timer = timer_new_ms(QEMU_CLOCK_VIRTUAL, poll_timer, s);
    }
    /* Someone who turns polling on wants to see statistics now. */
    arm_timer(s, was_off ? 0 : seconds);
}
