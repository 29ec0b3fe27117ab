/*
 * virtio-balloon-rs: memory in the balloon that could not be given back
 *
 * While somebody inhibits discards, and when a migration brought it, such
 * memory stays. The library knows which it is; here is when it goes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "virtio-balloon-rs.h"

/*
 * Nobody says when discards are allowed again: a snapshot is over, a device
 * that pinned memory is gone. What is asked is cheap, and only while it
 * matters.
 */
#define ASK_AGAIN_MS 1000

/* Sees to it that what is owed is looked at: at once, or in a while. */
static void watch(VirtIOBalloonRs *s, bool at_once)
{
    uint64_t bytes = 0;
    bool known = !vbr_failed(s, vbr_owed_bytes(s->device, &bytes));

    if (VIRTIO_DEVICE(s)->broken || (known && !bytes)) {
        timer_del(s->owed_timer);
    } else if (known && at_once) {
        qemu_bh_schedule(s->bh);
    } else if (!timer_pending(s->owed_timer)) {
        timer_mod(s->owed_timer,
                  qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + ASK_AGAIN_MS);
    }
}

void vbr_owed_watch(VirtIOBalloonRs *s, VbrInhibit inhibit)
{
    /* What came while something is forbidden and could go, has gone. */
    watch(s, inhibit == VBR_INHIBIT_NO);
}

void vbr_owed_turn(VirtIOBalloonRs *s, VbrInhibit inhibit)
{
    bool done = true;

    if (VIRTIO_DEVICE(s)->broken) {
        return;
    }
    /* What the library refuses, or has to leave, it is asked for again. */
    vbr_failed(s, vbr_owed_discard(s->device, inhibit, &done));
    if (done) {
        watch(s, false);
    } else {
        qemu_bh_schedule(s->bh);
    }
}

/* A stopped machine looks when it goes on. */
static void ask_again(void *opaque)
{
    VirtIOBalloonRs *s = opaque;

    qemu_bh_schedule(s->bh);
}

void vbr_owed_init(VirtIOBalloonRs *s)
{
    /* Those who inhibit discards do so in the host's time. */
    s->owed_timer = timer_new_ms(QEMU_CLOCK_REALTIME, ask_again, s);
}

void vbr_owed_cleanup(VirtIOBalloonRs *s)
{
    timer_free(s->owed_timer);
    s->owed_timer = NULL;
}
