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

/*
 * Segments handled for a kick. Mapping one costs about 100 ns; a driver uses
 * one for its only buffer.
 */
#define MAX_SEGMENTS 1024

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

/*
 * Returns a buffer that is not held any more. This may reset the device, or
 * unplug it, so it comes last.
 */
static void return_buffer(VirtIOBalloonRs *s, VirtQueueElement *elem)
{
    VirtQueue *vq = s->vq[VBR_QUEUE_KIND_STATS];
    unsigned int life = vbr_turn_begin(s);

    virtqueue_push(vq, elem, 0);
    g_free(elem);
    vbr_notify(s, vq, life);
}

/* Reads @elem, which takes the place of a buffer held before. */
static void receive(VirtIOBalloonRs *s, VirtQueueElement *elem)
{
    VirtQueueElement *last = s->stats_elem;
    uint8_t payload[VBR_STATS_MAX_BYTES];
    VbrStatsBuffer buffer = {
        .payload = payload,
        .payload_len = iov_to_buf(elem->out_sg, elem->out_num, 0, payload,
                                  sizeof(payload)),
        .len = iov_size(elem->out_sg, elem->out_num),
        .big_endian = virtio_access_is_big_endian(VIRTIO_DEVICE(s)),
        .writable = elem->in_num,
        .held = last,
        .now = g_get_real_time() / G_USEC_PER_SEC,
    };

    trace_virtio_balloon_rs_stats_receive(buffer.len, buffer.held);
    s->stats_elem = elem;
    vbr_failed(s, vbr_stats_receive(s->device, &buffer));
    vbr_stats_rearm(s);
    if (last) {
        return_buffer(s, last);
    }
}

void vbr_stats_handle_output(VirtIODevice *vdev, VirtQueue *vq)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(vdev);
    unsigned int life = vbr_turn_begin(s);

    /* Others than the one buffer of a driver wait for the next kick. */
    for (unsigned int segments = 0; segments < MAX_SEGMENTS;) {
        VirtQueueElement *elem = vbr_pop(s, vq, life);

        if (!elem) {
            return;
        }
        segments += elem->out_num + elem->in_num;
        receive(s, elem);
    }
}

static void ask_for_statistics(void *opaque)
{
    VirtIOBalloonRs *s = opaque;
    VirtQueueElement *elem = s->stats_elem;

    trace_virtio_balloon_rs_stats_poll(elem);
    if (elem) {
        /* The timer is armed again when the statistics come. */
        s->stats_elem = NULL;
        return_buffer(s, elem);
    } else {
        arm_timer(s, s->stats_poll_interval);
    }
}

/*
 * After a migration the buffer is the driver's no more but not held either. A
 * packed ring counts its descriptors, of which nothing says how many it has,
 * but no other buffer of this queue is in use.
 */
void vbr_stats_resume(VirtIOBalloonRs *s)
{
    VirtQueue *vq = s->vq[VBR_QUEUE_KIND_STATS];

    if (!s->stats_elem) {
        while (virtqueue_rewind(vq, 1)) {
            continue;
        }
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
    if (!s->stats_timer) {
        /* Not realized: polling begins then. */
        return;
    }
    if (!seconds) {
        timer_del(s->stats_timer);
        return;
    }
    /* Someone who turns polling on wants to see statistics now. */
    arm_timer(s, was_off ? 0 : seconds);
}

void vbr_stats_init(VirtIOBalloonRs *s)
{
    s->stats_timer = timer_new_ms(QEMU_CLOCK_VIRTUAL, ask_for_statistics, s);
    vbr_stats_rearm(s);
}

void vbr_stats_cleanup(VirtIOBalloonRs *s)
{
    vbr_stats_drop(s);
    timer_free(s->stats_timer);
    s->stats_timer = NULL;
}
