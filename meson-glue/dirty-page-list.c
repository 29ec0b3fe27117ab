/*
 * dirty-page-list: the pages that a guest writes to, as a list
 *
 * The object, and its commands of QMP.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/rcu.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-migration.h"
#include "qapi/qapi-events-migration.h"
#include "migration/blocker.h"
#include "migration/colo.h"
#include "migration/misc.h"
#include "migration/vmstate.h"
#include "qom/object_interfaces.h"
#include "system/reset.h"
#include "system/runstate.h"
#include "system/tcg.h"
#include "dirty-page-list.h"
#include "trace.h"

/* The most pages that are handed out at a time. */
#define MAX_PAGES 65536
/* As many take some ten milliseconds at worst, all of them half a second. */
#define DEFAULT_PAGES 8192
/*
 * So many pages of RAM that was unplugged are passed over for one answer: 1
 * GiB, which takes a tenth of a second if they are taken off the list one by
 * one.
 */
#define MAX_FORGOTTEN 262144
/* More vCPUs than any machine has; those beyond would share a list. */
#define MAX_VCPUS 4096
/*
 * An accelerator that does not say at once what was written to is asked so
 * often for the dirty trigger, and takes at most a tenth of the time.
 */
#define POLL_MS 10
#define POLL_SHARE 10

OBJECT_DEFINE_SIMPLE_TYPE_WITH_INTERFACES(DirtyPageList, dirty_page_list,
                                          DIRTY_PAGE_LIST, OBJECT,
                                          { TYPE_USER_CREATABLE },
                                          { TYPE_RESETTABLE_INTERFACE }, { })

/* There is one at most. */
static DirtyPageList *the_list;

VbrDirtyIndices dirty_list_indices(DirtyPageList *dl)
{
    VbrDirtyIndices indices = {};

    if (vbr_dirty_indices(dl->list, &indices) != VBR_STATUS_OK) {
        /* It is broken: nothing is noted, and whoever fetches is told so. */
        return (VbrDirtyIndices) {};
    }
    return indices;
}

static DirtyPageList *find(const char *id, Error **errp)
{
    Object *obj = object_resolve_path_component(object_get_objects_root(), id);
    DirtyPageList *dl = (DirtyPageList *)
        object_dynamic_cast(obj, TYPE_DIRTY_PAGE_LIST);

    if (!dl) {
        error_setg(errp, "there is no dirty-page-list with the id '%s'", id);
    }
    return dl;
}

/* The dirty trigger. */

static void poll_again(DirtyPageList *dl, int64_t took_ms)
{
    timer_mod(dl->poll, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) +
              MAX(POLL_MS, took_ms * POLL_SHARE));
}

static void poll(void *opaque)
{
    int64_t began = qemu_clock_get_ms(QEMU_CLOCK_REALTIME);

    memory_global_dirty_log_sync(false);
    poll_again(opaque, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) - began);
}

/* Only TCG says at once what was written to. */
static void update_poll(DirtyPageList *dl, bool running)
{
    if (running && dl->armed && !tcg_enabled() &&
        dirty_list_indices(dl).active) {
        poll_again(dl, 0);
    } else {
        timer_del(dl->poll);
    }
}

static void vm_state_changed(void *opaque, bool running, RunState state)
{
    DirtyPageList *dl = opaque;

    if (state == RUN_STATE_DIRTY_TRIGGER) {
        VbrDirtyIndices at = dirty_list_indices(dl);
        const char *id = object_get_canonical_path_component(OBJECT(dl));

        dl->armed = false;
        dl->counters.triggers++;
        qapi_event_send_dirty_page_list_trigger(id, at.dirty_index -
                                                at.reset_index);
    }
    if (!running) {
        /* Some writes are only told now: see synchronize(). */
        dl->more = false;
    }
    update_poll(dl, running);
}

/* What makes the list incomplete other than that it has no room. */

static void forget_lost(DirtyPageList *dl)
{
    error_free(dl->lost);
    dl->lost = NULL;
}

static void lose(DirtyPageList *dl, const Error *reason)
{
    /* The first reason is told; what came later came too late anyway. */
    if (dl->tracking && !dl->lost) {
        dl->lost = error_copy(reason);
        trace_dirty_page_list_lost(error_get_pretty(reason));
    }
}

static void log_lost(const Error *reason)
{
    if (the_list) {
        lose(the_list, reason);
    }
}

static bool check_lost(DirtyPageList *dl, Error **errp)
{
    if (dl->lost) {
        error_setg_errno(errp, EOVERFLOW, "pages may be missing on the dirty "
                         "page list, any page can be dirty; stop and start it "
                         "when no migration runs: %s",
                         error_get_pretty(dl->lost));
    }
    return !dl->lost;
}

/* Devices that cannot migrate and say so in what they would save. */
static void device_realized(DeviceListener *listener, DeviceState *dev)
{
    const VMStateDescription *vmsd = qdev_get_vmsd(dev);

    if (vmsd && vmsd->unmigratable) {
        g_autoptr(Error) reason = NULL;

        error_setg(&reason, "State blocked by non-migratable device '%s'",
                   vmsd->name);
        log_lost(reason);
    }
}

/* Commands */

static void stop(DirtyPageList *dl, Error **errp)
{
    if (dl->tracking) {
        VbrStatus status = vbr_dirty_stop(dl->list);

        /* A list that is broken notes nothing. */
        if (status != VBR_STATUS_BROKEN && !dirty_list_check(status, errp)) {
            return;
        }
        dl->tracking = false;
        memory_global_dirty_log_stop(GLOBAL_DIRTY_LIST);
        update_poll(dl, false);
        dirty_pause_want(false);
    }
}

void qmp_dirty_page_list_start(const char *id, Error **errp)
{
    DirtyPageList *dl = find(id, errp);

    if (!dl) {
        return;
    }
    if (dirty_list_indices(dl).active) {
        dirty_list_check(VBR_STATUS_DIRTY_LIST_ACTIVE, errp);
        return;
    }
    if (migration_is_running() || runstate_check(RUN_STATE_INMIGRATE) ||
        migration_incoming_in_colo_state()) {
        /* It needs the bits that would be cleared below. */
        error_setg_errno(errp, EBUSY, "a migration is running; start the dirty "
                         "page list before it or after it");
        return;
    }
    if (migration_mode_is_blocked(MIG_MODE_NORMAL, errp)) {
        /* Whatever blocks it may write to memory that nobody logs. */
        error_prepend(errp, "pages would be missing on the dirty page list: ");
        return;
    }
    if (!memory_global_dirty_log_start(GLOBAL_DIRTY_LIST, errp)) {
        return;
    }
    forget_lost(dl);
    /* From here on what is lost is told. */
    dl->tracking = true;
    /* What KVM knows already need not be listed. */
    memory_global_dirty_log_sync(false);
    dirty_pause_want(true);
    if (!dirty_list_check(vbr_dirty_start(dl->list), errp)) {
        stop(dl, NULL);
        return;
    }
    dl->armed = dl->dirty_trigger;
    dl->more = false;
    /* A page whose bit is set would not be noted. */
    dirty_ram_clean_all();
    update_poll(dl, runstate_is_running());
}

void qmp_dirty_page_list_stop(const char *id, Error **errp)
{
    DirtyPageList *dl = find(id, errp);

    if (dl) {
        stop(dl, errp);
    }
}

void qmp_dirty_page_list_reset(const char *id, Error **errp)
{
    DirtyPageList *dl = find(id, errp);
    bool trigger = false;

    if (!dl || !dirty_list_check(vbr_dirty_reset(dl->list, &trigger), errp)) {
        return;
    }
    dl->armed = dl->dirty_trigger;
    update_poll(dl, runstate_is_running());
    if (trigger) {
        dirty_pause();
    } else {
        dirty_pause_forget();
    }
}

/*
 * Some writes are only told when the guest stands still: of arm64's interrupt
 * controller, which KVM keeps out of the dirty rings, and writes when the vCPUs
 * were stopped.
 */
static void synchronize(void)
{
    bool last_stage = !runstate_is_running();

    trace_dirty_page_list_fetch(last_stage);
    memory_global_dirty_log_sync(last_stage);
}

static bool take_listed(DirtyPageList *dl, uint64_t *pages, size_t most,
                        size_t *count, Error **errp)
{
    if (!check_lost(dl, errp) ||
        !dirty_list_check(vbr_dirty_fetch(dl->list, pages, most, count),
                          errp)) {
        return false;
    }
    dl->more = *count == most;
    return true;
}

/*
 * Pages off the list, in @pages; false with an error. Those that the last
 * answer had no room for need no synchronization. But nobody is told that
 * nothing is dirty without one.
 */
static bool take(DirtyPageList *dl, uint64_t *pages, size_t most, size_t *count,
                 Error **errp)
{
    if (dl->more) {
        if (!take_listed(dl, pages, most, count, errp)) {
            return false;
        }
        if (*count) {
            return true;
        }
    }
    if (dl->tracking) {
        synchronize();
    }
    return take_listed(dl, pages, most, count, errp);
}

/*
 * The same, without those whose RAM was unplugged. *@count is 0 only if nothing
 * is dirty.
 */
static bool take_plugged(DirtyPageList *dl, uint64_t *pages, size_t most,
                         size_t *count, Error **errp)
{
    size_t taken, forgotten = 0;

    do {
        if (forgotten >= MAX_FORGOTTEN) {
            error_setg_errno(errp, EAGAIN, "memory was unplugged, and so many "
                             "of its pages are on the dirty page list that "
                             "no others were found yet; fetch again");
            return false;
        }
        if (!take(dl, pages, most, &taken, errp)) {
            return false;
        }
        *count = dirty_ram_forget_unplugged(pages, taken);
        forgotten += taken - *count;
    } while (taken && !*count);
    return true;
}

DirtyPages *qmp_dirty_page_list_fetch(const char *id, bool has_max_pages,
                                      uint32_t max_pages, bool has_gfns,
                                      bool gfns, Error **errp)
{
    g_autofree uint64_t *pages = NULL;
    DirtyPageList *dl = find(id, errp);
    uint32_t most = has_max_pages ? max_pages : DEFAULT_PAGES;
    size_t count = 0;

    if (!dl) {
        return NULL;
    }
    if (!most || most > MAX_PAGES) {
        error_setg_errno(errp, EINVAL, "max-pages must be from 1 to %d",
                         MAX_PAGES);
        return NULL;
    }
    pages = g_new(uint64_t, most);
    if (!take_plugged(dl, pages, most, &count, errp)) {
        return NULL;
    }
    if (count && dl->tracking) {
        dirty_ram_clean(pages, count);
    }
    return dirty_pages_answer(pages, count, has_gfns && gfns);
}

/* The object */

static void dirty_page_list_complete(UserCreatable *uc, Error **errp)
{
    DirtyPageList *dl = DIRTY_PAGE_LIST(uc);
    VbrDirtyOptions options = {
        .version = VBR_DIRTY_VERSION,
        .max_dirty = dl->max_dirty,
        .no_dups = dl->no_dups,
        .dirty_trigger = dl->dirty_trigger,
        .vcpus = MAX_VCPUS,
    };
    static DeviceListener listener;
    VbrStatus status;

    dirty_ram_init();
    status = vbr_dirty_new(&options, &dl->list);
    if (status == VBR_STATUS_DIRTY_LIST_TWICE && !the_list) {
        /* Its predecessor is about to be freed. */
        drain_call_rcu();
        status = vbr_dirty_new(&options, &dl->list);
    }
    if (!dirty_list_check(status, errp)) {
        /* It may be there if the library broke when it was made. */
        if (vbr_dirty_free(dl->list, true) != VBR_STATUS_OK) {
            warn_report("a dirty page list could not be freed");
        }
        dl->list = NULL;
        return;
    }
    dirty_ram_use(dl->list, dirty_list_indices(dl).max_dirty, &dl->counters);
    the_list = dl;
    dl->poll = timer_new_ms(QEMU_CLOCK_REALTIME, poll, dl);
    dl->vmstate = qemu_add_vm_change_state_handler(vm_state_changed, dl);
    qemu_register_resettable(OBJECT(dl));
    if (!listener.realize) {
        listener.realize = device_realized;
        device_listener_register(&listener);
        migration_log_watch(log_lost);
    }
}

/* A migration may be about to look at the list. */
static bool dirty_page_list_can_be_deleted(UserCreatable *uc)
{
    return !dirty_list_indices(DIRTY_PAGE_LIST(uc)).active &&
           !migration_is_running();
}

typedef struct Ended {
    struct rcu_head rcu;
    VbrDirtyList *list;
} Ended;

static void free_ended(Ended *ended)
{
    if (vbr_dirty_free(ended->list, true) != VBR_STATUS_OK) {
        warn_report("a dirty page list could not be freed");
    }
    g_free(ended);
}

static void dirty_page_list_init(Object *obj)
{
}

static void dirty_page_list_finalize(Object *obj)
{
    DirtyPageList *dl = DIRTY_PAGE_LIST(obj);
    Ended *ended;

    if (!dl->list) {
        return;
    }
    stop(dl, NULL);
    qemu_unregister_resettable(obj);
    the_list = NULL;
    dirty_ram_use(NULL, 0, NULL);
    qemu_del_vm_change_state_handler(dl->vmstate);
    timer_free(dl->poll);
    forget_lost(dl);
    /* A vCPU may be noting a page. */
    ended = g_new0(Ended, 1);
    ended->list = dl->list;
    call_rcu(ended, free_ended, rcu);
}

static ResettableState *get_reset_state(Object *obj)
{
    return &DIRTY_PAGE_LIST(obj)->reset_state;
}

/* A snapshot brings memory past all logs, whatever the run state is. */
static void dirty_page_list_reset_hold(Object *obj, ResetType type)
{
    if (type == RESET_TYPE_SNAPSHOT_LOAD) {
        g_autoptr(Error) reason = NULL;

        error_setg(&reason, "a snapshot was loaded");
        lose(DIRTY_PAGE_LIST(obj), reason);
    }
}

static void dirty_page_list_class_init(ObjectClass *oc, VBR_CLASS_DATA *data)
{
    UserCreatableClass *ucc = USER_CREATABLE_CLASS(oc);
    ResettableClass *rc = RESETTABLE_CLASS(oc);

    ucc->complete = dirty_page_list_complete;
    ucc->can_be_deleted = dirty_page_list_can_be_deleted;
    rc->get_state = get_reset_state;
    rc->phases.hold = dirty_page_list_reset_hold;
    dirty_list_props_init(oc);
}
