/*
 * virtio-balloon-rs: what a migration stream carries
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "hw/boards.h"
#include "migration/vmstate.h"
#include "virtio-balloon-rs.h"

void vbr_pages_forget(VirtIOBalloonRs *s)
{
    g_free(s->pages.coded);
    s->pages = (VbrPagesState) {};
}

/* A broken device is saved as one, for a driver that resets it there. */
static VbrStatus save_state(VirtIOBalloonRs *s)
{
    VirtIODevice *vdev = VIRTIO_DEVICE(s);
    bool legacy = !virtio_vdev_has_feature(vdev, VIRTIO_F_VERSION_1);
    VbrStatus status = vbr_state_save(s->device, s->stats_poll_interval,
                                      &s->state);

    if (vbr_failed(s, status) && status == VBR_STATUS_BROKEN) {
        s->state = (VbrState) {};
        status = vbr_state_save_broken(s->device, vdev->guest_features, legacy,
                                       s->stats_poll_interval, &s->state);
    }
    return status;
}

/* Hints that are lost know less than they say. */
static VbrStatus save_hints(VirtIOBalloonRs *s)
{
    VbrStatus status = VBR_STATUS_BROKEN;

    vbr_migration_lock();
    if (!s->hints_lost) {
        status = vbr_hints_save(s->hints, &s->hint_record);
    }
    if (status == VBR_STATUS_BROKEN) {
        status = vbr_hints_save_broken(s->hints, &s->hint_record);
    }
    vbr_migration_unlock();
    return status;
}

static int vbr_pre_save(void *opaque)
{
    VirtIOBalloonRs *s = opaque;
    VbrStatus status;

    vbr_queues_give_back(s);
    vbr_requests_give_back(s);
    s->state = (VbrState) {};
    status = vbr_catch_up(s) ? save_state(s) : VBR_STATUS_BUSY;
    if (status == VBR_STATUS_OK) {
        status = save_hints(s);
    }
    if (status != VBR_STATUS_OK) {
        error_report("virtio-balloon-rs: %s", vbr_status_str(status));
        return status == VBR_STATUS_BUSY ? -EBUSY : -EINVAL;
    }
    return 0;
}

static int vbr_pre_load(void *opaque)
{
    VirtIOBalloonRs *s = opaque;

    s->state = (VbrState) {};
    s->hint_record_loaded = false;
    vbr_pages_forget(s);
    return 0;
}

static VbrStatus load_state(VirtIOBalloonRs *s, uint64_t max_ram)
{
    const VbrSavedPages pages = {
        .coded = s->pages.coded,
        .len = s->pages.len,
        .complete = s->pages.complete,
    };
    VbrStatus status = vbr_state_load(s->device, &s->state,
                                      s->pages.loaded ? &pages : NULL,
                                      max_ram);

    vbr_pages_forget(s);
    return status;
}

static VbrStatus load_hints(VirtIOBalloonRs *s)
{
    VbrStatus status = VBR_STATUS_OK;

    if (s->hint_record_loaded) {
        vbr_migration_lock();
        status = vbr_hints_load(s->hints, &s->hint_record);
        vbr_migration_unlock();
    }
    return status;
}

int vbr_post_load(VirtIODevice *vdev)
{
    VirtIOBalloonRs *s = VIRTIO_BALLOON_RS(vdev);
    uint64_t max_ram = MACHINE(qdev_get_machine())->maxram_size;
    bool changed;
    VbrStatus status = VBR_STATUS_BUSY;

    if (vbr_catch_up(s)) {
        status = vbr_ram_set(s->device, vbr_ram_size(), &changed);
    }
    if (status == VBR_STATUS_OK) {
        status = load_state(s, max_ram);
        /* Where the source had more or less RAM, the guest is to be told. */
        qemu_bh_schedule(s->ram_bh);
    }
    if (status == VBR_STATUS_OK) {
        status = load_hints(s);
    }
    if (status != VBR_STATUS_OK) {
        error_report("virtio-balloon-rs: %s", vbr_status_str(status));
        return -EINVAL;
    }
    /* What was set on this side has precedence over what comes along. */
    if (s->state.has_stats && !s->stats_poll_interval) {
        vbr_stats_set_interval(s, s->state.stats_polling_interval);
    }
    vbr_stats_rearm(s);
    if (s->state.actual) {
        /* The reset before has announced that nothing is in the balloon. */
        vbr_announce_actual(s);
    }
    return 0;
}

/* QEMU's C device never offers the feature, and could not load what follows. */
static bool told(void *opaque)
{
    return vbr_accepted(opaque, VIRTIO_BALLOON_F_MUST_TELL_HOST);
}

static int pages_pre_save(void *opaque)
{
    VirtIOBalloonRs *s = opaque;
    size_t used = 0;

    vbr_pages_forget(s);
    /* Zeroed memory of this size is not there before it is written to. */
    s->pages.coded = g_malloc0(VBR_STATE_MAX_PAGES_BYTES);
    if (vbr_failed(s, vbr_state_save_pages(s->device, s->pages.coded,
                                           VBR_STATE_MAX_PAGES_BYTES, &used,
                                           &s->pages.complete))) {
        /* Saved with nothing, and as incomplete: that is true of any set. */
        used = 0;
        s->pages.complete = false;
    }
    s->pages.len = used;
    return 0;
}

static int pages_post_save(void *opaque)
{
    vbr_pages_forget(opaque);
    return 0;
}

/* A stream may hold this more than once; the last counts. */
static int pages_pre_load(void *opaque)
{
    vbr_pages_forget(opaque);
    return 0;
}

/* Asked before so many bytes are allocated. */
static bool pages_fit(void *opaque, int version_id)
{
    VirtIOBalloonRs *s = opaque;
    bool fit = s->pages.len <= VBR_STATE_MAX_PAGES_BYTES;

    if (!fit) {
        error_report("virtio-balloon-rs: %s",
                     vbr_status_str(VBR_STATUS_STATE_PAGES_SIZE));
    }
    return fit;
}

static int pages_post_load(void *opaque, int version_id)
{
    VirtIOBalloonRs *s = opaque;

    s->pages.loaded = true;
    return 0;
}

static const VMStateDescription vmstate_pages = {
    .name = "virtio-balloon-device/pages",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = told,
    .pre_save = pages_pre_save,
    .post_save = pages_post_save,
    .pre_load = pages_pre_load,
    .post_load = pages_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_BOOL(pages.complete, VirtIOBalloonRs),
        VMSTATE_UINT32(pages.len, VirtIOBalloonRs),
        VMSTATE_VALIDATE("pages.len is small enough", pages_fit),
        VMSTATE_VBUFFER_ALLOC_UINT32(pages.coded, VirtIOBalloonRs, 1, NULL,
                                     pages.len),
        VMSTATE_END_OF_LIST()
    }
};

static bool hints_needed(void *opaque)
{
    return vbr_accepted(opaque, VIRTIO_BALLOON_F_FREE_PAGE_HINT);
}

static int hints_post_load(void *opaque, int version_id)
{
    VirtIOBalloonRs *s = opaque;

    s->hint_record_loaded = true;
    return 0;
}

static bool poison_needed(void *opaque)
{
    return vbr_accepted(opaque, VIRTIO_BALLOON_F_PAGE_POISON);
}

static int stats_post_load(void *opaque, int version_id)
{
    VirtIOBalloonRs *s = opaque;

    s->state.has_stats = true;
    return 0;
}

static const VMStateDescription vmstate_free_page_hint = {
    .name = "virtio-balloon-device/free-page-report",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = hints_needed,
    .post_load = hints_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(hint_record.cmd_id, VirtIOBalloonRs),
        VMSTATE_UINT32(hint_record.status, VirtIOBalloonRs),
        VMSTATE_END_OF_LIST()
    }
};

static const VMStateDescription vmstate_page_poison = {
    .name = "virtio-balloon-device/page-poison",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = poison_needed,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(state.poison_val, VirtIOBalloonRs),
        VMSTATE_END_OF_LIST()
    }
};

static const VMStateDescription vmstate_stats = {
    .name = "virtio-balloon-device/stats",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = told,
    .post_load = stats_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64_ARRAY(state.stats, VirtIOBalloonRs, VBR_STATS),
        VMSTATE_INT64(state.stats_last_update, VirtIOBalloonRs),
        VMSTATE_INT64(state.stats_polling_interval, VirtIOBalloonRs),
        VMSTATE_END_OF_LIST()
    }
};

/* Where the number of pages to inflate does not say it. */
static bool target_needed(void *opaque)
{
    VirtIOBalloonRs *s = opaque;

    return told(s) && s->state.has_target;
}

static int target_post_load(void *opaque, int version_id)
{
    VirtIOBalloonRs *s = opaque;

    s->state.has_target = true;
    return 0;
}

/* How much the host wants the guest to have, whatever memory comes and goes. */
static const VMStateDescription vmstate_target = {
    .name = "virtio-balloon-device/target",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = target_needed,
    .post_load = target_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64(state.target, VirtIOBalloonRs),
        VMSTATE_END_OF_LIST()
    }
};

static bool founding_needed(void *opaque)
{
    VirtIOBalloonRs *s = opaque;

    return s->state.founding;
}

/* Before virtio looks at the bits, which say less, or nothing. */
static int founding_post_load(void *opaque, int version_id)
{
    static const struct {
        unsigned int bit;
        const char *name;
    } protocols[] = {
        { 60, "page-range" }, { 61, "host-request" },
        { 62, "balloon-chunks" }, { 63, "misc-queue" },
    };
    VirtIOBalloonRs *s = opaque;

    for (size_t i = 0; i < G_N_ELEMENTS(protocols); i++) {
        uint64_t mask = 1ull << protocols[i].bit;

        if (s->state.founding & ~s->host_features & mask) {
            error_report("virtio-balloon-rs: the stream's driver uses %s, "
                         "which is off here", protocols[i].name);
            return -EINVAL;
        }
    }
    return 0;
}

/*
 * What the driver's feature bits stand for: with historical bits, the other end
 * may take them for something else. A device without these protocols does not
 * know this and refuses.
 */
static const VMStateDescription vmstate_founding = {
    .name = "virtio-balloon-device/founding",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = founding_needed,
    .post_load = founding_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT64(state.founding, VirtIOBalloonRs),
        VMSTATE_END_OF_LIST()
    }
};

static bool request_needed(void *opaque)
{
    VirtIOBalloonRs *s = opaque;

    /* Where hints were accepted, nothing is asked by request. */
    return s->state.founding & (1ull << 61 | 1ull << 63) && !hints_needed(s);
}

/* The last request for free pages, and whether its answer is still to come. */
static const VMStateDescription vmstate_request = {
    .name = "virtio-balloon-device/request",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = request_needed,
    .post_load = hints_post_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(hint_record.cmd_id, VirtIOBalloonRs),
        VMSTATE_UINT32(hint_record.status, VirtIOBalloonRs),
        VMSTATE_END_OF_LIST()
    }
};

/* The names are those of QEMU's C device: each can load the other's stream. */
const VMStateDescription vmstate_vbr_device = {
    .name = "virtio-balloon-device",
    .version_id = 1,
    .minimum_version_id = 1,
    .pre_save = vbr_pre_save,
    .pre_load = vbr_pre_load,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(state.num_pages, VirtIOBalloonRs),
        VMSTATE_UINT32(state.actual, VirtIOBalloonRs),
        VMSTATE_END_OF_LIST()
    },
    .subsections = (const VMStateDescription * const []) {
        &vmstate_free_page_hint,
        &vmstate_page_poison,
        &vmstate_stats,
        &vmstate_pages,
        &vmstate_target,
        &vmstate_founding,
        &vmstate_request,
        NULL
    }
};
