/*
 * virtio-balloon-rs: inflated memory that waits for its neighbours
 *
 * The library holds the ragged ends of requests back, so that whole huge pages
 * are discarded; here is when it has to stop waiting.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

/* The kernel's account of the time that programs waited for memory. */
#define MEMORY_PRESSURE "/proc/pressure/memory"

/* Whether anybody on the host had to wait for memory since this was asked. */
static bool memory_is_short(VirtIOBalloonRs *s)
{
    char text[128] = "";
    uint64_t stalled = 0;
    bool more;

    if (s->pressure_fd < 0 ||
        pread(s->pressure_fd, text, sizeof(text) - 1, 0) <= 0 ||
        sscanf(text, "some avg10=%*f avg60=%*f avg300=%*f total=%" SCNu64,
               &stalled) != 1) {
        return false;
    }
    more = stalled != s->stalled_us;
    s->stalled_us = stalled;
    return more;
}

/* Sees to it that nothing is held for long. */
void vbr_hold_watch(VirtIOBalloonRs *s)
{
    uint64_t bytes = 0;
    bool known;

    if (s->flush_due || timer_pending(s->hold_timer)) {
        return;
    }
    known = !vbr_failed(s, vbr_held_bytes(s->device, &bytes));
    /* Where the library does not say it now, it is asked again. */
    if (VIRTIO_DEVICE(s)->broken || (known && !bytes)) {
        return;
    }
    /* From now on is what counts. */
    memory_is_short(s);
    /* What is held waits for two of these at most. */
    timer_mod(s->hold_timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
                             MAX(s->hold_ms / 2, 1));
}

/* Gives back for a slice what is due; says whether there is more. */
bool vbr_hold_turn(VirtIOBalloonRs *s, VbrInhibit inhibit)
{
    bool done = true;

    if (s->flush_due) {
        /* What the library refuses it is asked for again some time later. */
        vbr_failed(s, vbr_held_flush(s->device, s->flush, inhibit, &done));
        s->flush_due = !done;
        vbr_hold_watch(s);
    }
    return !done;
}

/*
 * Gives all back that is held, at once: unless the user allows more, there is
 * never more of it than takes a millisecond, or three in shared memory. What
 * the library does not give back now it does later, unless it is broken, or
 * missed something: then it stays with the guest's machine.
 */
void vbr_hold_flush(VirtIOBalloonRs *s)
{
    VbrInhibit inhibit = vbr_inhibit(s);
    bool done = false;

    while (!done) {
        if (VIRTIO_DEVICE(s)->broken || s->missed ||
            vbr_failed(s, vbr_held_flush(s->device, VBR_FLUSH_ALL, inhibit,
                                         &done))) {
            return;
        }
    }
    s->flush_due = false;
    timer_del(s->hold_timer);
    vbr_owed_watch(s, inhibit);
}

static void deadline(void *opaque)
{
    VirtIOBalloonRs *s = opaque;

    s->flush_due = true;
    s->flush = memory_is_short(s) ? VBR_FLUSH_ALL : VBR_FLUSH_AGED;
    qemu_bh_schedule(s->bh);
}

void vbr_hold_init(VirtIOBalloonRs *s)
{
    s->pressure_fd = qemu_open_old(MEMORY_PRESSURE, O_RDONLY);
    memory_is_short(s);
    /* The host waits for its memory in its own time. */
    s->hold_timer = timer_new_ms(QEMU_CLOCK_REALTIME, deadline, s);
}

void vbr_hold_cleanup(VirtIOBalloonRs *s)
{
    s->flush_due = false;
    timer_free(s->hold_timer);
    s->hold_timer = NULL;
    if (s->pressure_fd >= 0) {
        qemu_close(s->pressure_fd);
    }
}
