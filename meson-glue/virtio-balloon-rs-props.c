/*
 * virtio-balloon-rs: what can be read and set at run time, through QOM
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "migration/misc.h"
#include "vbr-inject.h"
#include "virtio-balloon-rs.h"

/* By tag; management software relies on the names. */
static const char *const stat_names[VBR_STATS] = {
    [VIRTIO_BALLOON_S_SWAP_IN] = "stat-swap-in",
    [VIRTIO_BALLOON_S_SWAP_OUT] = "stat-swap-out",
    [VIRTIO_BALLOON_S_MAJFLT] = "stat-major-faults",
    [VIRTIO_BALLOON_S_MINFLT] = "stat-minor-faults",
    [VIRTIO_BALLOON_S_MEMFREE] = "stat-free-memory",
    [VIRTIO_BALLOON_S_MEMTOT] = "stat-total-memory",
    [VIRTIO_BALLOON_S_AVAIL] = "stat-available-memory",
    [VIRTIO_BALLOON_S_CACHES] = "stat-disk-caches",
    [VIRTIO_BALLOON_S_HTLB_PGALLOC] = "stat-htlb-pgalloc",
    [VIRTIO_BALLOON_S_HTLB_PGFAIL] = "stat-htlb-pgfail",
    [VIRTIO_BALLOON_S_OOM_KILL] = "stat-oom-kills",
    [VIRTIO_BALLOON_S_ALLOC_STALL] = "stat-alloc-stalls",
    [VIRTIO_BALLOON_S_ASYNC_SCAN] = "stat-async-scans",
    [VIRTIO_BALLOON_S_DIRECT_SCAN] = "stat-direct-scans",
    [VIRTIO_BALLOON_S_ASYNC_RECLAIM] = "stat-async-reclaims",
    [VIRTIO_BALLOON_S_DIRECT_RECLAIM] = "stat-direct-reclaims",
};
QEMU_BUILD_BUG_ON(VIRTIO_BALLOON_S_NR != VBR_STATS);

bool vbr_props_hint_view(VirtIOBalloonRs *s, VbrHintView *view, Error **errp)
{
    bool seen;

    *view = (VbrHintView) { .window_ms = s->hint_window };
    if (!s->hints) {
        return true;
    }
    vbr_migration_lock();
    seen = vbr_hint_view(s, view);
    vbr_migration_unlock();
    if (!seen) {
        error_setg(errp, "free page hints are broken");
    }
    return seen;
}

static char *get_hint_state(Object *obj, Error **errp)
{
    static const char *const names[] = {
        [VBR_HINT_STATE_OFF] = "off",
        [VBR_HINT_STATE_STOP] = "stop",
        [VBR_HINT_STATE_ARMING] = "arming",
        [VBR_HINT_STATE_REQUESTED] = "requested",
        [VBR_HINT_STATE_STARTED] = "started",
        [VBR_HINT_STATE_DONE] = "done",
    };
    VbrHintView view;

    return vbr_props_hint_view(VIRTIO_BALLOON_RS(obj), &view, errp)
           ? g_strdup(names[view.state]) : NULL;
}

static char *get_free_page_source(Object *obj, Error **errp)
{
    static const char *const names[] = {
        [VBR_FREE_PAGE_SOURCE_NONE] = "none",
        [VBR_FREE_PAGE_SOURCE_FREE_PAGE_HINT] = "free-page-hint",
        [VBR_FREE_PAGE_SOURCE_HOST_REQUEST] = "host-request",
        [VBR_FREE_PAGE_SOURCE_MISC_QUEUE] = "misc-queue",
    };
    VbrHintView view;

    return vbr_props_hint_view(VIRTIO_BALLOON_RS(obj), &view, errp)
           ? g_strdup(names[view.source]) : NULL;
}

static char *get_malformed_reason(Object *obj, Error **errp)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);

    return g_strdup(s->device ? vbr_device_malformed_str(s->device) : "");
}

/* The choices of a property, and the one that is made. */
static int choose(VirtIOBalloonRs *s, const char *name, const char *value,
                  const char *const choices[2], Error **errp)
{
    if (s->device) {
        error_setg(errp, "%s can be set only before the device is realized",
                   name);
        return -1;
    }
    for (int i = 0; i < 2; i++) {
        if (g_str_equal(value, choices[i])) {
            return i;
        }
    }
    error_setg(errp, "%s must be '%s' or '%s'", name, choices[0], choices[1]);
    return -1;
}

static const char *const numberings[] = {
    [VBR_NUMBERING_PRIVATE] = "private",
    [VBR_NUMBERING_HISTORICAL] = "historical",
};

static char *get_numbering(Object *obj, Error **errp)
{
    return g_strdup(numberings[VIRTIO_BALLOON_RS(obj)->numbering]);
}

static void set_numbering(Object *obj, const char *value, Error **errp)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);
    int chosen = choose(s, "founding-feature-bits", value, numberings, errp);

    if (chosen >= 0) {
        s->numbering = chosen;
    }
}

static const char *const advices[] = {
    [VBR_ADVICE_DISCARD] = "discard",
    [VBR_ADVICE_FREE] = "free",
};

static char *get_advice(Object *obj, Error **errp)
{
    return g_strdup(advices[VIRTIO_BALLOON_RS(obj)->reporting_advice]);
}

static void set_advice(Object *obj, const char *value, Error **errp)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);
    int chosen = choose(s, "free-page-reporting-advice", value, advices, errp);

    if (chosen >= 0) {
        s->reporting_advice = chosen;
    }
}

static char *get_advice_in_force(Object *obj, Error **errp)
{
    static const char *const names[] = {
        [VBR_ADVICE_IN_FORCE_DISCARD] = "discard",
        [VBR_ADVICE_IN_FORCE_FREE] = "free",
        [VBR_ADVICE_IN_FORCE_FREE_IN_PART] =
            "free where memory is private and anonymous, else discard",
        [VBR_ADVICE_IN_FORCE_NOT_LAZY] =
            "discard: no memory is private and anonymous",
        [VBR_ADVICE_IN_FORCE_POISONED] =
            "discard: nothing is given back while the guest fills free pages",
        [VBR_ADVICE_IN_FORCE_REFUSED] =
            "discard: the host refuses to free memory later",
    };
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);
    VbrAdviceInForce advice = VBR_ADVICE_IN_FORCE_DISCARD;

    if (s->device &&
        vbr_failed(s, vbr_device_reporting_advice(s->device, &advice))) {
        error_setg(errp, "the balloon does not say");
        return NULL;
    }
    return g_strdup(names[advice]);
}

static char *get_hint_inhibited(Object *obj, Error **errp)
{
    return g_strdup(vbr_background_snapshot(VIRTIO_BALLOON_RS(obj))
                    ? "background snapshot" : "no");
}

static void get_hint_window(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    visit_type_uint32(v, name, &VIRTIO_BALLOON_RS(obj)->hint_window, errp);
}

static void set_hint_window(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);

    if (visit_type_uint32(v, name, &s->hint_window, errp) && s->hints) {
        VbrStatus status;

        vbr_migration_lock();
        status = vbr_hints_set_window(s->hints, s->hint_window);
        vbr_migration_unlock();
        if (status != VBR_STATUS_OK) {
            error_setg(errp, "%s", vbr_status_str(status));
        }
    }
}

static void get_target(Object *obj, Visitor *v, const char *name,
                       void *opaque, Error **errp)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);
    uint64_t target = UINT64_MAX;

    if (s->device) {
        VbrStatus status = vbr_target_get(s->device, &target);

        if (vbr_failed(s, status)) {
            error_setg(errp, "%s", vbr_status_str(status));
            return;
        }
    }
    visit_type_uint64(v, name, &target, errp);
}

static char *get_discard_inhibited(Object *obj, Error **errp)
{
    return g_strdup(vbr_inhibit_str(vbr_inhibit(VIRTIO_BALLOON_RS(obj))));
}

static bool visit_stat_values(Visitor *v, VbrStats *stats, Error **errp)
{
    for (int i = 0; i < VBR_STATS; i++) {
        if (!visit_type_uint64(v, stat_names[i], &stats->values[i], errp)) {
            return false;
        }
    }
    return visit_check_struct(v, errp);
}

static bool visit_stats(Visitor *v, VbrStats *stats, Error **errp)
{
    bool ok;

    if (!visit_type_int64(v, "last-update", &stats->last_update, errp) ||
        !visit_start_struct(v, "stats", NULL, 0, errp)) {
        return false;
    }
    ok = visit_stat_values(v, stats, errp);
    visit_end_struct(v, NULL);
    return ok && visit_check_struct(v, errp);
}

static void get_guest_stats(Object *obj, Visitor *v, const char *name,
                            void *opaque, Error **errp)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);
    VbrStats stats = {};

    if (!s->device || vbr_stats_get(s->device, &stats) != VBR_STATUS_OK) {
        /* Not realized, or broken: nothing was reported, all bits are set. */
        memset(stats.values, 0xff, sizeof(stats.values));
    }
    if (visit_start_struct(v, name, NULL, 0, errp)) {
        visit_stats(v, &stats, errp);
        visit_end_struct(v, NULL);
    }
}

static void get_polling_interval(Object *obj, Visitor *v, const char *name,
                                 void *opaque, Error **errp)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);

    visit_type_int64(v, name, &s->stats_poll_interval, errp);
}

static void set_polling_interval(Object *obj, Visitor *v, const char *name,
                                 void *opaque, Error **errp)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(obj);
    int64_t seconds;

    if (!visit_type_int64(v, name, &seconds, errp)) {
        return;
    }
    /* The words of QEMU's C device, which scripts know. */
    if (seconds < 0) {
        error_setg(errp, "timer value must be greater than zero");
        return;
    }
    if (seconds > UINT32_MAX) {
        error_setg(errp, "timer value is too big");
        return;
    }
    vbr_stats_set_interval(s, seconds);
}

static const struct {
    const char *name;
    char *(*get)(Object *obj, Error **errp);
    void (*set)(Object *obj, const char *value, Error **errp);
    const char *description;
} strings[] = {
#ifdef VBR_INJECT
    { "x-inject", vbr_get_inject, vbr_put_inject,
      "for tests: the call of the library that fails, and how" },
#endif
    { "free-page-hint-state", get_hint_state, NULL,
      "where the round of hints is" },
    { "free-page-hint-inhibited", get_hint_inhibited, NULL,
      "why no hints are asked for, or \"no\"" },
    { "free-page-source", get_free_page_source, NULL,
      "the queue over which a migration asks for free pages" },
    { "discard-inhibited", get_discard_inhibited, NULL,
      "why memory is not given back, or \"no\"" },
    { "malformed-message-reason", get_malformed_reason, NULL,
      "why the last message that was not used in full was not" },
    { "founding-feature-bits", get_numbering, set_numbering,
      "the feature bits of founding protocols: private or historical" },
    { "free-page-reporting-advice", get_advice, set_advice,
      "discard reported memory at once, or free it when the host needs it" },
    { "free-page-reporting-advice-in-force", get_advice_in_force, NULL,
      "what is done with reported memory" },
};

void vbr_props_init(VirtIOBalloonRs *s)
{
    Object *obj = OBJECT(s);

    object_property_add(obj, "guest-stats", "guest statistics",
                        get_guest_stats, NULL, NULL, NULL);
    object_property_add(obj, "guest-stats-polling-interval", "int",
                        get_polling_interval, set_polling_interval, NULL,
                        NULL);
    object_property_set_description(obj, "guest-stats-polling-interval",
                                    "seconds between polls, 0 for none");
    object_property_add(obj, "target-bytes", "uint64", get_target, NULL, NULL,
                        NULL);
    object_property_set_description(obj, "target-bytes",
                                    "bytes of RAM that the guest is asked to "
                                    "keep, all ones for all of it");
    vbr_counters_init(s);
    object_property_add(obj, "free-page-hint-window", "uint32",
                        get_hint_window, set_hint_window, NULL, NULL);
    object_property_set_description(obj, "free-page-hint-window",
                                    "milliseconds that a migration's first "
                                    "pass may wait for hints");
    for (size_t i = 0; i < G_N_ELEMENTS(strings); i++) {
        object_property_add_str(obj, strings[i].name, strings[i].get,
                                strings[i].set);
        object_property_set_description(obj, strings[i].name,
                                        strings[i].description);
    }
}

void vbr_props_alias(Object *proxy, VirtIOBalloonRs *device)
{
    static const char *const others[] = {
        "guest-stats", "guest-stats-polling-interval", "target-bytes",
        "free-page-hint-window",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(others); i++) {
        object_property_add_alias(proxy, others[i], OBJECT(device), others[i]);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(strings); i++) {
        object_property_add_alias(proxy, strings[i].name, OBJECT(device),
                                  strings[i].name);
    }
    vbr_counters_alias(proxy, device);
}
