/*
 * virtio-balloon-rs: the library's account of what a migration leaves out
 *
 * And what the library sees of QEMU's bitmaps for it. The account is under the
 * migration's bitmap lock; of the other locks each function says what it needs.
 * Called by the migration thread, and by the main loop where that synchronizes.
 * It outlives the device, as what was left out does.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "exec/target_page.h"
#include "migration/misc.h"
#include "dirty-page-list.h"
#include "virtio-balloon-rs.h"
#ifdef VBR_QEMU_10_0
#include "exec/ram_addr.h"
#else
#include "system/physmem.h"
#include "system/ram_addr.h"
#endif
#include "trace.h"

/* Under the bitmap lock only. */
static VbrRam *account;

VbrRam *vbr_account(void)
{
    return account;
}

int64_t vbr_account_change(const VbrDirtyChange *change)
{
    return (int64_t)change->set - (int64_t)change->cleared;
}

/* The library's view of QEMU's bitmaps. Called with the bitmap lock held. */

static bool is_migrated(const RAMBlock *candidate)
{
    RAMBlock *block;

    RAMBLOCK_FOREACH(block) {
        if (block == candidate) {
            return block->bmap && !migrate_ram_is_ignored(block);
        }
    }
    return false;
}

static bool vbr_view(void *opaque, void *candidate, VbrRamView *out)
{
    RAMBlock *block = candidate;

    QEMU_BUILD_BUG_ON(sizeof(unsigned long) != sizeof(uint64_t));
    RCU_READ_LOCK_GUARD();
    if (!is_migrated(block)) {
        return false;
    }
    *out = (VbrRamView) {
        .dirty = (uint64_t *)block->bmap,
        .pages = block->used_length >> qemu_target_page_bits(),
        .unarmed = (uint64_t *)block->clear_bmap,
        .chunk_shift = block->clear_bmap_shift,
    };
    return true;
}

static bool vbr_find(void *opaque, const void *host, void **block,
                     uint64_t *offset)
{
    ram_addr_t where;
    RAMBlock *found = qemu_ram_block_from_host((void *)host, false, &where);

    if (!found) {
        return false;
    }
    *block = found;
    *offset = where;
    return true;
}

static void vbr_arm(void *opaque, void *candidate, uint64_t first,
                    uint64_t count, bool whole_chunk)
{
    RAMBlock *block = candidate;
    unsigned int bits = qemu_target_page_bits();

    memory_region_clear_dirty_bitmap(block->mr, first << bits, count << bits);
    if (whole_chunk) {
        /* Not before: a page that is sent relies on its chunk being armed. */
        clear_bmap_test_and_clear(block, first);
    }
}

static const VbrRamOps ram_ops = {
    .view = vbr_view,
    .find = vbr_find,
    .arm = vbr_arm,
};

/* Without an account, the library leaves nothing out. */
bool vbr_account_new(void)
{
    account = NULL;
    return vbr_ram_new(&ram_ops, qemu_target_page_bits(),
                       &account) == VBR_STATUS_OK;
}

/*
 * The library ran into a bug of its own and does not know any more what was
 * left out: everything is sent again.
 */
void vbr_account_send_all(VbrDirtyChange *change)
{
    RAMBlock *block;

    vbr_ram_free(account);
    vbr_account_new();
    RAMBLOCK_FOREACH(block) {
        change->set += dirty_ram_send_all_of(block);
    }
}

/*
 * Slice by slice, without the migration lock: the guest, its queue and a
 * synchronization that comes in between go on.
 */
bool vbr_account_arm(VbrArm which)
{
    VbrStatus status = VBR_STATUS_OK;
    int64_t began = qemu_clock_get_us(QEMU_CLOCK_REALTIME);
    unsigned int slices = 0;
    RAMBlock *block;

    vbr_migration_unlock();
    WITH_RCU_READ_LOCK_GUARD() {
        RAMBLOCK_FOREACH(block) {
            bool more = true;

            while (more) {
                more = false;
                if (status == VBR_STATUS_OK && ram_skip_lock()) {
                    status = vbr_ram_arm(account, block, which, &more);
                    ram_skip_unlock(0);
                }
                more &= status == VBR_STATUS_OK;
                slices += more;
            }
        }
    }
    vbr_migration_lock();
    trace_virtio_balloon_rs_arm(slices,
                                qemu_clock_get_us(QEMU_CLOCK_REALTIME) - began);
    return status == VBR_STATUS_OK;
}

bool vbr_account_trust(uint64_t epoch)
{
    VbrStatus status = VBR_STATUS_OK;

    if (ram_skip_lock()) {
        status = vbr_ram_trust(account, epoch);
        ram_skip_unlock(0);
    }
    return status == VBR_STATUS_OK;
}

void vbr_account_postcopy(void)
{
    RAMBlock *block;

    RCU_READ_LOCK_GUARD();
    RAMBLOCK_FOREACH(block) {
        uint64_t set = 0;
        bool more = true;

        while (more && ram_skip_lock()) {
            VbrDirtyChange change = {};

            more = false;
            if (vbr_ram_postcopy(account, block, &change, &more) !=
                VBR_STATUS_OK) {
                /* It is not known any more what was left out: all is sent. */
                change.set += dirty_ram_send_all_of(block);
            }
            set += change.set;
            ram_skip_unlock(vbr_account_change(&change));
        }
        trace_virtio_balloon_rs_postcopy(block->idstr, set);
    }
}

bool vbr_account_is_left_out(RAMBlock *block, unsigned long page)
{
    return vbr_ram_is_left_out(account, block, page);
}
