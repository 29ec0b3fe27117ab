/*
 * virtio-balloon-rs: memory that comes in parts
 *
 * A virtio-mem device shows the guest one piece of memory, of which it plugs
 * and unplugs parts. The library is told of each part, before the guest gets it
 * and before it is told that it went.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "virtio-balloon-rs.h"
#include "trace.h"

/* One for each such piece; watched from the commit that told of it on. */
typedef struct VbrParts {
    RamDiscardListener rdl;
    VirtIOBalloonRs *s;
    MemoryRegionSection *section;
    bool watched;
    bool ends;
    QLIST_ENTRY(VbrParts) next;
} VbrParts;

static RamDiscardManager *manager_of(VbrParts *parts)
{
    return memory_region_get_ram_discard_manager(parts->section->mr);
}

static int plug(VbrParts *parts, MemoryRegionSection *part)
{
    VirtIOBalloonRs *s = parts->s;

    trace_virtio_balloon_rs_plug(part->offset_within_address_space,
                                 int128_get64(part->size));
    vbr_failed(s, vbr_memory_plug(s->device, part->offset_within_address_space,
                                  int128_get64(part->size)));
    qemu_bh_schedule(s->ram_bh);
    return 0;
}

static int notify_populate(RamDiscardListener *rdl, MemoryRegionSection *part)
{
    return plug(container_of(rdl, VbrParts, rdl), part);
}

static void notify_discard(RamDiscardListener *rdl, MemoryRegionSection *part)
{
    VbrParts *parts = container_of(rdl, VbrParts, rdl);
    VirtIOBalloonRs *s = parts->s;

    if (parts->ends) {
        /*
         * Said of all of the piece, as it is watched no more. What of it went,
         * and what is seen in other pieces from now on, the library finds by
         * the new map.
         */
        return;
    }
    trace_virtio_balloon_rs_unplug(part->offset_within_address_space,
                                   int128_get64(part->size));
    /* What is plugged in its place would count as given. */
    vbr_must(s, vbr_memory_unplug(s->device, part->offset_within_address_space,
                                  int128_get64(part->size)),
             VBR_MISSED_MEMORY);
    qemu_bh_schedule(s->ram_bh);
}

void vbr_parts_add(VirtIOBalloonRs *s, MemoryRegionSection *section)
{
    VbrParts *parts;

    if (!vbr_is_virtio_mem(section->mr)) {
        return;
    }
    parts = g_new0(VbrParts, 1);
    parts->s = s;
    parts->section = memory_region_section_new_copy(section);
    ram_discard_listener_init(&parts->rdl, notify_populate, notify_discard,
                              true);
    QLIST_INSERT_HEAD(&s->parts, parts, next);
}

static void forget(VbrParts *parts)
{
    if (parts->watched) {
        parts->ends = true;
        ram_discard_manager_unregister_listener(manager_of(parts),
                                                &parts->rdl);
    }
    QLIST_REMOVE(parts, next);
    memory_region_section_free_copy(parts->section);
    g_free(parts);
}

void vbr_parts_del(VirtIOBalloonRs *s, MemoryRegionSection *section)
{
    VbrParts *parts;

    QLIST_FOREACH(parts, &s->parts, next) {
        if (parts->section->mr == section->mr &&
            parts->section->offset_within_address_space ==
            section->offset_within_address_space) {
            forget(parts);
            return;
        }
    }
}

void vbr_parts_watch(VirtIOBalloonRs *s)
{
    VbrParts *parts;

    QLIST_FOREACH(parts, &s->parts, next) {
        if (!parts->watched) {
            parts->watched = true;
            /* Tells at once what is there already. */
            ram_discard_manager_register_listener(manager_of(parts),
                                                  &parts->rdl, parts->section);
        }
    }
}

static int replay(MemoryRegionSection *part, void *opaque)
{
    return plug(opaque, part);
}

void vbr_parts_tell(VirtIOBalloonRs *s)
{
    VbrParts *parts;

    QLIST_FOREACH(parts, &s->parts, next) {
        ram_discard_manager_replay_populated(manager_of(parts),
                                             parts->section, replay, parts);
    }
}
