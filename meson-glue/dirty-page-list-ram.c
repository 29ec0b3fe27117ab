/*
 * dirty-page-list: what it has to do with QEMU's bitmaps
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * DIRTY_MEMORY_MIGRATION says which pages are dirty; the list says where to
 * look. Whoever sets a bit there that was clear notes the page:
 *
 *   A bit is set => the page is on each list that is active, and not fetched
 *   yet, or that list has overflowed.
 *
 * A page is fetched first and its bit cleared then. Who finds the bit set in
 * between does not note the page, but wrote to it before the bit was cleared,
 * and so before anybody reads the page.
 *
 * A vCPU of TCG writes only after it looked at the bit, and its TLB remembers
 * that it need not look again. So three things come in this order: the bit is
 * cleared, the TLBs are reset, and the vCPUs are waited for. A reset before the
 * bit is cleared would be in vain: the vCPU looks again, finds the bit still
 * set, and its TLB remembers that. A vCPU that looked before the bit was
 * cleared, and writes only now, is waited for before anybody reads the page
 * (memory_global_after_dirty_log_sync). For a migration the TLBs are reset
 * before the bitmap lock is released; its thread waits before it sends pages.
 *
 * A consumer of the list clears bits that a migration needs, too. The library
 * notes such a page on the migration's list before, and what is on that list is
 * dirty for the migration, whatever the bit says.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/main-loop.h"
#include "qemu/rcu.h"
#include "exec/target_page.h"
#include "hw/core/cpu.h"
#include "migration/misc.h"
#include "system/cpus.h"
#include "system/runstate.h"
#include "system/tcg.h"
#include "dirty-page-list.h"
#ifdef VBR_QEMU_10_0
#include "exec/ram_addr.h"
#define physical_memory_dirty_bits_cleared \
    cpu_physical_memory_dirty_bits_cleared
#else
#include "system/physmem.h"
#include "system/ram_addr.h"
#endif
#include "trace.h"

/* Pages that a migration takes from the list at a time. */
#define SYNC_BATCH 4096
static struct {
    /*
     * A VbrDirtyList, which QEMU's atomics do not take because nobody here
     * knows what is in it. Read under RCU, changed under the big lock.
     */
    void *list;
    DirtyPageListCounters *counters;
    /* The library ran into a bug of its own. */
    bool broken;
} d;

/* The vCPU that pages are noted for. */
static size_t writer(void)
{
    if (current_cpu && tcg_enabled()) {
        return current_cpu->cpu_index;
    }
    return dirty_ring_publishing();
}

static void dirty_list_note(uint64_t page, unsigned long bits)
{
    VbrDirtyList *list = qatomic_rcu_read(&d.list);
    bool trigger = false;

    if (!vbr_dirty_is_active(list)) {
        return;
    }
    /* If it fails the list is broken, and whoever reads it is told. */
    if (vbr_dirty_note(list, writer(), page, bits,
                       &trigger) == VBR_STATUS_OK && trigger) {
        dirty_pause();
    }
    if (unlikely(dirty_pause_is_owed())) {
        /*
         * The main loop may take its time: this vCPU writes no further page. It
         * goes on when the machine was paused and goes on.
         */
        cpu_stop_current();
    }
    dirty_stall_noted(page, bits);
}

static bool dirty_list_harvest(int cpu_index, uint64_t addr)
{
    return vbr_dirty_is_active(d.list) && dirty_ring_harvest(cpu_index, addr);
}

RAMBlock *dirty_ram_block(uint64_t page, RAMBlock *hint)
{
    ram_addr_t addr = page << qemu_target_page_bits();
    RAMBlock *block;

    if (hint && addr - hint->offset < hint->used_length) {
        return hint;
    }
    RAMBLOCK_FOREACH(block) {
        if (addr - block->offset < block->used_length) {
            return block;
        }
    }
    /* It was unplugged. */
    return NULL;
}

void dirty_ram_read_ahead(unsigned int client, uint64_t page)
{
    DirtyMemoryBlocks *map = qatomic_rcu_read(&ram_list.dirty_memory[client]);

    __builtin_prefetch(&map->blocks[page / DIRTY_MEMORY_BLOCK_SIZE]
                                   [BIT_WORD(page % DIRTY_MEMORY_BLOCK_SIZE)],
                       1);
}

static uint64_t end_of(const RAMBlock *block)
{
    return (block->offset + block->used_length) >> qemu_target_page_bits();
}

/* How many of the pages are in a row, and in the block. */
static size_t run_of(RAMBlock *block, const uint64_t *pages, size_t count)
{
    uint64_t end = end_of(block);
    size_t n = 1;

    while (n < count && pages[n] == pages[0] + n && pages[n] < end) {
        n++;
    }
    return n;
}

static void clear_bits(uint64_t page, uint64_t count)
{
    DirtyMemoryBlocks *map =
        qatomic_rcu_read(&ram_list.dirty_memory[DIRTY_MEMORY_MIGRATION]);

    while (count) {
        uint64_t offset = page % DIRTY_MEMORY_BLOCK_SIZE;
        uint64_t n = MIN(count, DIRTY_MEMORY_BLOCK_SIZE - offset);
        unsigned long *bits = map->blocks[page / DIRTY_MEMORY_BLOCK_SIZE];

        bitmap_test_and_clear_atomic(bits, offset, n);
        page += n;
        count -= n;
    }
}

/*
 * Makes TCG look again before it writes to these pages, and what is between,
 * after their bits were cleared. Called with RCU held.
 */
static void look_again(const uint64_t *pages, size_t count)
{
    unsigned int bits = qemu_target_page_bits();
    RAMBlock *block = NULL;
    size_t at = 0;

    if (!tcg_enabled()) {
        return;
    }
    while (at < count) {
        size_t n = 1;

        block = dirty_ram_block(pages[at], block);
        if (block) {
            while (at + n < count && pages[at + n] < end_of(block)) {
                n++;
            }
            physical_memory_dirty_bits_cleared(
                pages[at] << bits,
                (pages[at + n - 1] - pages[at] + 1) << bits);
        }
        at += n;
    }
}

static void look_again_everywhere(void)
{
    RAMBlock *block;

    RAMBLOCK_FOREACH(block) {
        if (block->used_length) {
            physical_memory_dirty_bits_cleared(block->offset,
                                               block->used_length);
        }
    }
}

/* KVM's log is of pages of the host. */
static void arm_log(RAMBlock *block, uint64_t start, uint64_t size)
{
    uint64_t host_page = qemu_real_host_page_size();
    uint64_t end = MIN(ROUND_UP(start + size, host_page), block->used_length);

    start = ROUND_DOWN(start, host_page);
    memory_region_clear_dirty_bitmap(block->mr, start, end - start);
}

size_t dirty_ram_forget_unplugged(uint64_t *pages, size_t count)
{
    RAMBlock *block = NULL;
    size_t kept = 0, i;

    RCU_READ_LOCK_GUARD();
    for (i = 0; i < count; i++) {
        block = dirty_ram_block(pages[i], block);
        if (block) {
            pages[kept++] = pages[i];
        } else {
            /* Other RAM may take its place, and be noted then. */
            clear_bits(pages[i], 1);
        }
    }
    return kept;
}

void dirty_ram_clean(const uint64_t *pages, size_t count)
{
    unsigned int bits = qemu_target_page_bits();
    RAMBlock *block = NULL;
    size_t at = 0;

    WITH_RCU_READ_LOCK_GUARD() {
        while (at < count) {
            size_t n = 1;

            block = dirty_ram_block(pages[at], block);
            if (block) {
                n = run_of(block, pages + at, count - at);
                clear_bits(pages[at], n);
                arm_log(block, (pages[at] << bits) - block->offset, n << bits);
            }
            at += n;
        }
        look_again(pages, count);
    }
    trace_dirty_page_list_clean(count);
    memory_global_after_dirty_log_sync();
}

void dirty_ram_clean_all(void)
{
    RAMBlock *block;

    WITH_RCU_READ_LOCK_GUARD() {
        /* Also where there is no RAM now: what is plugged in there is noted. */
        clear_bits(0, ram_list.num_dirty_blocks * DIRTY_MEMORY_BLOCK_SIZE);
        RAMBLOCK_FOREACH(block) {
            if (block->used_length) {
                arm_log(block, 0, block->used_length);
            }
        }
        look_again_everywhere();
    }
    memory_global_after_dirty_log_sync();
}

/* Takes pages in a row off the list. Called with RCU held. */
static uint64_t sync_run(RAMBlock *block, uint64_t page, size_t count)
{
    unsigned int bits = qemu_target_page_bits();
    unsigned long first = page - (block->offset >> bits);
    uint64_t dirty = 0;
    size_t i;

    for (i = 0; i < count; i++) {
        dirty += !test_and_set_bit(first + i, block->bmap);
    }
    clear_bits(page, count);
    if (!block->clear_bmap) {
        arm_log(block, first << bits, count << bits);
    }
    return dirty;
}

static void read_ahead_listed(const uint64_t *pages, size_t count)
{
    unsigned int bits = qemu_target_page_bits();
    RAMBlock *block = NULL;
    size_t i;

    for (i = 0; i < count; i++) {
        block = dirty_ram_block(pages[i], block);
        if (block && block->bmap) {
            unsigned long page = pages[i] - (block->offset >> bits);

            dirty_ram_read_ahead(DIRTY_MEMORY_MIGRATION, pages[i]);
            __builtin_prefetch(block->bmap + BIT_WORD(page), 1);
        }
    }
}

static uint64_t sync_batch(const uint64_t *pages, size_t count)
{
    RAMBlock *block = NULL;
    uint64_t dirty = 0;
    size_t at = 0, ahead = 0;

    while (at < count) {
        size_t n = 1;

        if (at >= ahead) {
            ahead = MIN(at + DIRTY_RAM_AHEAD, count);
            read_ahead_listed(pages + at, ahead - at);
        }

        block = dirty_ram_block(pages[at], block);
        if (block && block->bmap && !migrate_ram_is_ignored(block)) {
            n = run_of(block, pages + at, count - at);
            dirty += sync_run(block, pages[at], n);
        }
        at += n;
    }
    look_again(pages, count);
    return dirty;
}

/* What is on the list, and whether that is all. Called with RCU held. */
static VbrStatus sync_list(VbrDirtyList *list, uint64_t *dirty, bool *all)
{
    static uint64_t pages[SYNC_BATCH];
    VbrStatus status = vbr_dirty_sync_begin(list, all);
    size_t count = 0;

    while (status == VBR_STATUS_OK) {
        status = vbr_dirty_sync_fetch(list, pages, SYNC_BATCH, &count);
        if (status != VBR_STATUS_OK || !count) {
            break;
        }
        *dirty += sync_batch(pages, count);
    }
    return status;
}

/*
 * As a scan does, for a bit a GiB: the log is armed again before any page is
 * sent. Whoever left pages out relies on that, too, whatever was written to.
 */
static void arm_before_sending(void)
{
    RAMBlock *block;

    RAMBLOCK_FOREACH(block) {
        if (block->clear_bmap && !migrate_ram_is_ignored(block)) {
            clear_bmap_set(block, 0,
                           block->used_length >> qemu_target_page_bits());
        }
    }
}

static bool dirty_list_sync(uint64_t *dirty)
{
    RAMBlock *block;
    bool all = false;

    dirty_stall_synchronizes();
    if (!d.list || d.broken) {
        return false;
    }
    if (sync_list(d.list, dirty, &all) != VBR_STATUS_OK) {
        /* It is not known any more what a consumer took off: all is sent. */
        d.broken = true;
        all = false;
        RAMBLOCK_FOREACH(block) {
            *dirty += dirty_ram_send_all_of(block);
        }
    }
    if (all) {
        arm_before_sending();
    }
    d.counters->list_syncs += all;
    d.counters->scan_syncs += !all;
    trace_dirty_page_list_sync(all, *dirty);
    return all;
}

static const RAMDirtyListOps ops = {
    .note = dirty_list_note,
    .harvest = dirty_list_harvest,
    .publish = dirty_ring_publish,
    .sync = dirty_list_sync,
};

/* Called with the big lock held, by the migration thread or the main loop. */
static int dirty_ram_precopy_notify(NotifierWithReturn *notifier, void *data,
                                    Error **errp)
{
    PrecopyNotifyData *precopy = data;

    if (d.list && precopy->reason == PRECOPY_NOTIFY_CLEANUP) {
        d.broken |= vbr_dirty_sync_end(d.list) != VBR_STATUS_OK;
    }
    return 0;
}

void dirty_ram_init(void)
{
    static NotifierWithReturn notifier = { .notify = dirty_ram_precopy_notify };

    if (!ram_dirty_list_ops) {
        dirty_ring_init();
        dirty_pause_init();
        precopy_add_notifier(&notifier);
        qatomic_set(&ram_dirty_list_ops, &ops);
        /*
         * Who found that there was nobody to tell and sets its bit only later
         * is done with that. It must not be after a start, of the consumer or
         * of a migration.
         */
        drain_call_rcu();
    }
}

void dirty_ram_use(VbrDirtyList *list, size_t most_harvested,
                   DirtyPageListCounters *counters)
{
    d.broken = false;
    d.counters = counters;
    dirty_ring_limit(most_harvested);
    qatomic_rcu_set(&d.list, list);
}
