/*
 * virtio-balloon-rs: the set of ballooned pages in a migration stream
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "migration/vmstate.h"
#include "virtio-balloon-rs.h"

void vbr_pages_forget(VirtIOBalloonRs *s)
{
    g_free(s->pages.coded);
    s->pages = (VbrPagesState) {};
}

VbrStatus vbr_pages_load(VirtIOBalloonRs *s, uint64_t max_ram)
{
    const VbrSavedPages pages = {
        .coded = s->pages.coded,
        .len = s->pages.len,
        .complete = s->pages.complete,
    };
    VbrStatus status = vbr_state_load(s->device, &s->state,
                                      s->pages.loaded ? &pages : NULL,
                                      max_ram);

    s->loaded_left = status == VBR_STATUS_OK && s->pages.loaded;
    vbr_pages_forget(s);
    return status;
}

/* QEMU's C device never offers the feature and could not load this. */
static bool pages_needed(void *opaque)
{
    return virtio_vdev_has_feature(opaque, VIRTIO_BALLOON_F_MUST_TELL_HOST);
}

static int pages_pre_save(void *opaque)
{
    VirtIOBalloonRs *s = opaque;
    size_t used = 0;

    vbr_pages_forget(s);
    /* Zeroed memory of this size is not there before it is written to. */
    s->pages.coded = g_malloc0(VBR_STATE_MAX_PAGES_BYTES);
    /* A device that is broken is saved with nothing. */
    vbr_state_save_pages(s->device, s->pages.coded, VBR_STATE_MAX_PAGES_BYTES,
                         &used, &s->pages.complete);
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

const VMStateDescription vmstate_vbr_pages = {
    .name = "virtio-balloon-device/pages",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = pages_needed,
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
