/*
 * dirty-page-list: the pause for the dirty trigger
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "dirty-page-list.h"
#include "trace.h"

/* The trigger is reached, and the machine was not paused for it. */
static bool owed;
/* A list is started. Under the big lock. */
static bool wanted;
static QEMUBH *pause_bh;

/*
 * vCPUs that found the pause owed have stopped themselves, or are about to.
 * Once all have stopped, none is about to any more, and all can go on. The
 * vCPUs of a machine that does not run go on when the machine does.
 */
static void forget(void)
{
    if (!qatomic_xchg(&owed, false) || !runstate_is_running()) {
        return;
    }
    pause_all_vcpus();
    resume_all_vcpus();
}

/*
 * In the main loop, at its top: not in the middle of what a device does, and no
 * other command that stops or continues the machine comes in between.
 */
static void pause_machine(void *opaque)
{
    if (!wanted) {
        /* A vCPU was about to note a page when the list was stopped. */
        forget();
    } else if (qatomic_read(&owed)) {
        trace_dirty_page_list_pause();
        vm_stop(RUN_STATE_DIRTY_TRIGGER);
    }
}

/*
 * If it does not run it is paused when it goes on. A request for a vmstop would
 * be forgotten then.
 */
static void vm_state_changed(void *opaque, bool running, RunState state)
{
    if (state == RUN_STATE_DIRTY_TRIGGER) {
        qatomic_set(&owed, false);
    } else if (running && qatomic_read(&owed)) {
        qemu_bh_schedule(pause_bh);
    }
}

void dirty_pause_init(void)
{
    pause_bh = aio_bh_new(iohandler_get_aio_context(), pause_machine, NULL);
    qemu_add_vm_change_state_handler(vm_state_changed, NULL);
}

void dirty_pause(void)
{
    qatomic_set(&owed, true);
    qemu_bh_schedule(pause_bh);
}

bool dirty_pause_is_owed(void)
{
    return qatomic_read(&owed);
}

void dirty_pause_want(bool want)
{
    wanted = want;
    forget();
}

/* A vCPU that runs may have stopped already: the machine is paused. */
void dirty_pause_forget(void)
{
    if (!runstate_is_live(runstate_get())) {
        qatomic_set(&owed, false);
    }
}
