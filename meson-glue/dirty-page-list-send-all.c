/*
 * dirty-page-list: a migration sends all of a block
 *
 * For when it is not known any more which of its pages are dirty, or were left
 * out. Called with the bitmap lock of the migration and RCU held, by the
 * migration thread, or by the main loop where that synchronizes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "exec/target_page.h"
#include "migration/misc.h"
#include "dirty-page-list.h"
#ifdef VBR_QEMU_10_0
#include "exec/ram_addr.h"
#else
#include "system/ram_addr.h"
#endif

/* What virtio-mem has not plugged is not there to be read. */
static void clear_part(const MemoryRegionSection *section)
{
    unsigned int bits = qemu_target_page_bits();

    bitmap_clear(section->mr->ram_block->bmap,
                 section->offset_within_region >> bits,
                 int128_get64(section->size) >> bits);
}

/* QEMU 10.1 lets it fail. */
#ifdef VBR_QEMU_10_0
static void send_no_part(MemoryRegionSection *section, void *opaque)
{
    clear_part(section);
}
#else
static int send_no_part(MemoryRegionSection *section, void *opaque)
{
    clear_part(section);
    return 0;
}
#endif

static void send_no_unplugged(RAMBlock *block)
{
    RamDiscardManager *rdm = memory_region_get_ram_discard_manager(block->mr);
    MemoryRegionSection all = {
        .mr = block->mr,
        .size = int128_make64(qemu_ram_get_used_length(block)),
    };

    if (rdm) {
        ram_discard_manager_replay_discarded(rdm, &all, send_no_part, NULL);
    }
}

uint64_t dirty_ram_send_all_of(RAMBlock *block)
{
    unsigned long pages = block->used_length >> qemu_target_page_bits();
    uint64_t before;

    if (!block->bmap || migrate_ram_is_ignored(block)) {
        return 0;
    }
    before = bitmap_count_one(block->bmap, pages);
    bitmap_set(block->bmap, 0, pages);
    send_no_unplugged(block);
    return bitmap_count_one(block->bmap, pages) - before;
}
