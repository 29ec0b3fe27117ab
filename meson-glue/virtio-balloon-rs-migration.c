/*
 * virtio-balloon-rs: what live migration leaves out
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Hints come in under the lock below, from the queue. They are taken under this
 * lock and the migration's bitmap lock: by the migration thread before a pass
 * over RAM, and by whoever synchronizes the dirty bitmap before that, so that
 * none is taken behind a synchronization that it came before. The locks are
 * taken in the order: big lock, this lock, bitmap lock.
 *
 * With KVM's dirty ring a synchronization drops the big lock while it waits for
 * the vCPUs, so the one of the throttle's timer can lie within the migration
 * thread's. Hints come in in the main loop only, which is in the timer then: so
 * none comes between the two, and the queue must not move to another thread.
 *
 * A synchronization leaves work behind that grows with the guest's memory. The
 * migration thread does it step by step, before anything is decided by the
 * number of dirty pages, before the next pass, and before the last one. Each
 * step is done with the big lock held: deflates are handled under it, so it is
 * known what is in the balloon.
 *
 * All of this outlives the device: what was left out has to be dealt with also
 * when the device is gone.
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "migration/misc.h"
#include "system/runstate.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

static struct {
    bool initialized;
    QemuMutex lock;
    QemuCond wake;
    /* Under both the big lock and this one to change. */
    VirtIOBalloonRs *s;
    /* The migration is over, the next synchronization begins another one. */
    bool over;
    /* The last synchronization left something to do. */
    bool unsettled;
    VbrSkipCounters counters;
    /* The first pass is held back. */
    bool waiting;
    /* What was left out when the first pass began. */
    uint64_t wait_bytes;
} m;

void vbr_migration_lock(void)
{
    qemu_mutex_lock(&m.lock);
}

void vbr_migration_unlock(void)
{
    qemu_mutex_unlock(&m.lock);
}

void vbr_migration_wake(void)
{
    qemu_cond_broadcast(&m.wake);
}

void vbr_migration_counters(VbrSkipCounters *counters, uint64_t *wait_bytes)
{
    if (!m.initialized) {
        return;
    }
    vbr_migration_lock();
    *counters = m.counters;
    *wait_bytes = m.wait_bytes;
    vbr_migration_unlock();
}

/*
 * A mutex of the host is not fair: who waits for one of the locks gets it
 * between two steps only if it is free for a while.
 */
#define PAUSE_US 500

/* So often hints are taken before a pass, however fast they come. */
#define MAX_TAKES 64

/* All of these but the callbacks of RAMSkipOps are called with m.lock held. */

static bool view(VbrHintView *out)
{
    *out = (VbrHintView) {};
    return m.s && vbr_hint_view(m.s, out);
}

/* Called with the bitmap lock held. What is not known stays as it was. */
static bool count_up(void)
{
    return vbr_ram_counters(vbr_account(), &m.counters) == VBR_STATUS_OK;
}

/* Leaves out what the guest hinted; says whether parts are to be armed. */
static bool take_hints(void)
{
    VbrDirtyChange change = {};
    bool wanted = false, taken;

    /* The blocks that are looked up have to stay until they were dealt with. */
    RCU_READ_LOCK_GUARD();
    if (m.s && ram_skip_lock()) {
        /* If it broke, the next synchronization has everything sent. */
        taken = vbr_ram_leave_out_hinted(vbr_account(), m.s->hints, &change,
                                         &wanted) == VBR_STATUS_OK;
        wanted &= taken;
        count_up();
        ram_skip_unlock(vbr_account_change(&change));
        trace_virtio_balloon_rs_hint_taken(change.cleared, wanted);
    }
    return wanted;
}

/* Arms the log, and only then asks the guest. */
static void ask(const VbrHintView *hints)
{
    VbrStatus status = VBR_STATUS_OK;
    bool asked = false;

    if (!hints->can_ask) {
        return;
    }
    if (vbr_account_arm(VBR_ARM_ALL) && vbr_account_trust(0) && m.s) {
        status = vbr_hints_request(m.s->hints, hints->wanted, &asked);
    }
    asked &= status == VBR_STATUS_OK;
    /* The guest is told from the main loop: this is not under its lock. */
    if (asked && hints->source == VBR_FREE_PAGE_SOURCE_FREE_PAGE_HINT) {
        qemu_bh_schedule(m.s->config_bh);
    } else if (m.s) {
        /*
         * To send the request; or because what was posted before has to be out
         * of the queue first.
         */
        vbr_hints_kick(m.s);
        vbr_requests_kick(m.s);
    }
    trace_virtio_balloon_rs_hint_round(hints->wanted, asked);
}

/* For a guest so large that not all of its log was armed before. */
static void arm_wanted(void)
{
    VbrHintView hints;

    if (vbr_account_arm(VBR_ARM_WANTED) && view(&hints)) {
        vbr_account_trust(hints.epoch);
    }
}

/* How long to wait for hints, in milliseconds. */
static uint64_t hold_ms(uint64_t bandwidth)
{
    uint64_t now = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
    uint64_t wait = 0;

    if (m.s && runstate_is_running() &&
        vbr_hints_hold(m.s->hints, now, m.counters.hint_left_out_bytes,
                       bandwidth, &wait) != VBR_STATUS_OK) {
        wait = 0;
    }
    return wait;
}

/*
 * Does a step of what the last synchronization left to do. Called with the big
 * lock held, too: deflates are handled under it, so the set of pages in the
 * balloon is that of this moment. Without a device, or with one that is broken
 * or missed something, there is none, and all pages are sent that were left out
 * for it.
 */
static void settle_step(void)
{
    bool known = m.s && !VIRTIO_DEVICE(m.s)->broken && !m.s->missed;
    VbrDirtyChange change = {};
    bool more = false;

    m.unsettled = false;
    RCU_READ_LOCK_GUARD();
    if (!ram_skip_lock()) {
        return;
    }
    if (vbr_ram_sweep(vbr_account(), known ? m.s->device : NULL, &change,
                      &more) != VBR_STATUS_OK) {
        vbr_account_send_all(&change);
        more = false;
    }
    m.unsettled = more;
    count_up();
    ram_skip_unlock(vbr_account_change(&change));
}

/*
 * Called by whoever synchronized or is to send next. The big lock is held where
 * the guest stands still: nobody is let in between then. COLO's checkpoints
 * come without it, see skips.rs.
 */
static void vbr_settle(void)
{
    bool more = true, locked = bql_locked();

    while (more) {
        vbr_migration_lock();
        more = m.unsettled;
        vbr_migration_unlock();
        if (more) {
            BQL_LOCK_GUARD();
            vbr_migration_lock();
            settle_step();
            more = m.unsettled;
            vbr_migration_unlock();
        }
        if (more && !locked) {
            g_usleep(PAUSE_US);
        }
    }
}

/* Takes the hints that came; those of a large guest can be many. */
static void take_all_hints(VbrHintView *hints)
{
    bool wanted = false;

    for (int i = 0; i < MAX_TAKES && hints->has_pending; i++) {
        if (i) {
            vbr_migration_unlock();
            g_usleep(PAUSE_US);
            vbr_migration_lock();
        }
        wanted |= take_hints();
        view(hints);
    }
    if (wanted && hints->source == VBR_FREE_PAGE_SOURCE_FREE_PAGE_HINT) {
        arm_wanted();
    }
}

/* Waits for hints a little, if that pays; says whether to call it again. */
static bool vbr_before_pass(uint64_t bandwidth)
{
    VbrHintView hints;
    uint64_t wait;

    vbr_settle();
    vbr_migration_lock();
    if (view(&hints) && hints.state == VBR_HINT_STATE_ARMING) {
        ask(&hints);
    } else {
        take_all_hints(&hints);
    }
    wait = hold_ms(bandwidth);
    if (wait) {
        m.waiting = true;
        qemu_cond_timedwait(&m.wake, &m.lock, wait);
    } else if (m.waiting) {
        m.waiting = false;
        m.wait_bytes = m.counters.hint_left_out_bytes;
        view(&hints);
        trace_virtio_balloon_rs_hold(hints.counters.wait_ms, m.wait_bytes);
    }
    vbr_migration_unlock();
    return wait;
}

/* Called with the big lock held and the guest stopped. */
static void vbr_postcopy(void)
{
    vbr_settle();
    vbr_account_postcopy();
}

static const RAMSkipOps skip_ops = {
    .settle = vbr_settle,
    .before_pass = vbr_before_pass,
    .postcopy = vbr_postcopy,
    .is_left_out = vbr_account_is_left_out,
};

static void before_sync(void)
{
    VbrHintView hints;

    if (view(&hints) && hints.has_pending) {
        take_hints();
    }
}

static void begin(void)
{
    m.over = false;
    m.waiting = false;
    m.wait_bytes = 0;
}

static void after_sync(void)
{
    VbrDirtyChange change = {};
    VbrStatus status = VBR_STATUS_OK;

    RCU_READ_LOCK_GUARD();
    if (!ram_skip_lock()) {
        return;
    }
    if (m.over) {
        status = vbr_ram_begin(vbr_account());
        begin();
    }
    if (status == VBR_STATUS_OK) {
        status = vbr_ram_synced(vbr_account());
    }
    if (status != VBR_STATUS_OK) {
        vbr_account_send_all(&change);
    }
    ram_skip_unlock(vbr_account_change(&change));
    m.unsettled = true;
    if (bql_locked()) {
        settle_step();
    }
    trace_virtio_balloon_rs_synced(m.counters.hint_left_out_bytes,
                                   m.counters.ballooned_left_out_bytes);
}

static void finished(void)
{
    if (ram_skip_lock()) {
        count_up();
        ram_skip_unlock(0);
    }
    m.over = true;
    m.unsettled = false;
}

/* Tells the hints, and says whether the guest sees another command. */
static bool tell_hints(PrecopyNotifyReason reason)
{
    switch (reason) {
    case PRECOPY_NOTIFY_BEFORE_BITMAP_SYNC:
        before_sync();
        return m.s && vbr_hint_event(m.s, VBR_HINT_EVENT_BEFORE_SYNC);
    case PRECOPY_NOTIFY_AFTER_BITMAP_SYNC:
        after_sync();
        return m.s && vbr_hint_event(m.s, VIRTIO_DEVICE(m.s)->vm_running
                                          ? VBR_HINT_EVENT_AFTER_SYNC
                                          : VBR_HINT_EVENT_AFTER_SYNC_STOPPED);
    case PRECOPY_NOTIFY_CLEANUP:
        finished();
        return m.s && vbr_hint_event(m.s, VBR_HINT_EVENT_FINISHED);
    default:
        return false;
    }
}

/*
 * Called with the big lock held, by the migration thread or the main loop; by
 * COLO's checkpoints without it. The device is the big lock's: without it only
 * the hints hear of what happens, which are the migration lock's.
 */
static int vbr_precopy_notify(NotifierWithReturn *notifier, void *data,
                              Error **errp)
{
    PrecopyNotifyData *precopy = data;
    bool locked = bql_locked(), changed;

    if (locked && m.s && precopy->reason == PRECOPY_NOTIFY_BEFORE_BITMAP_SYNC) {
        vbr_hold_flush(m.s);
    }
    vbr_migration_lock();
    changed = tell_hints(precopy->reason);
    if (changed && !locked) {
        qemu_bh_schedule(m.s->config_bh);
    }
    vbr_migration_unlock();
    /* At once: the interrupt has to be part of the state that is saved. */
    if (changed && locked) {
        vbr_notify_config(m.s);
    }
    return 0;
}

void vbr_migration_init(VirtIOBalloonRs *s)
{
    static NotifierWithReturn notifier = { .notify = vbr_precopy_notify };

    if (!m.initialized) {
        m.initialized = true;
        vbr_account_new();
        m.over = true;
        qemu_mutex_init(&m.lock);
        qemu_cond_init(&m.wake);
        precopy_add_notifier(&notifier);
        ram_skip_register(&skip_ops);
    }
    vbr_migration_lock();
    m.s = s;
    vbr_migration_unlock();
}

void vbr_migration_cleanup(VirtIOBalloonRs *s)
{
    vbr_migration_lock();
    m.s = NULL;
    vbr_migration_wake();
    vbr_migration_unlock();
}
