/*
 * dirty-page-list: what is taken out of KVM's dirty rings
 *
 * An entry of a ring waits here until KVM protects its page again, and only
 * then is its bit set in QEMU's bitmaps. Entries are taken and published by the
 * thread that empties the rings, KVM's reaper or one that synchronizes, under
 * the lock of KVM's slots.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/rcu.h"
#include "exec/target_page.h"
#include "dirty-page-list.h"
#ifdef VBR_QEMU_10_0
#include "exec/ram_addr.h"
#define physical_memory_set_dirty_lebitmap \
    cpu_physical_memory_set_dirty_lebitmap
#else
#include "system/physmem.h"
#include "system/ram_addr.h"
#endif

typedef struct Harvested {
    int cpu_index;
    uint64_t addr;
} Harvested;

static struct {
    /* Under the lock of KVM's slots: what is not protected again yet. */
    GArray *harvest;
    size_t most_harvested;
} r;

#define NO_VCPU SIZE_MAX

/* The vCPU whose pages this thread publishes. */
static __thread size_t publishing = NO_VCPU;

size_t dirty_ring_publishing(void)
{
    return publishing;
}

void dirty_ring_init(void)
{
    r.harvest = g_array_new(false, false, sizeof(Harvested));
}

void dirty_ring_limit(size_t most_harvested)
{
    r.most_harvested = most_harvested;
}

bool dirty_ring_harvest(int cpu_index, uint64_t addr)
{
    Harvested harvested = { .cpu_index = cpu_index, .addr = addr };

    if (r.harvest->len >= r.most_harvested) {
        return false;
    }
    g_array_append_val(r.harvest, harvested);
    return true;
}

static void read_ahead_harvested(guint from, guint to)
{
    unsigned int bits = qemu_target_page_bits();
    guint i;

    for (i = from; i < to; i++) {
        uint64_t page = g_array_index(r.harvest, Harvested, i).addr >> bits;

        dirty_ram_read_ahead(DIRTY_MEMORY_VGA, page);
        dirty_ram_read_ahead(DIRTY_MEMORY_MIGRATION, page);
    }
}

/*
 * The pages are protected again: a later write makes another entry in the ring.
 * Had the bits been set before, a migration could have sent such a page, and
 * the guest could have written to it after that without anybody knowing.
 */
void dirty_ring_publish(void)
{
    unsigned long one = leul_to_cpu(1);
    guint i;

    RCU_READ_LOCK_GUARD();
    for (i = 0; i < r.harvest->len; i++) {
        Harvested *page = &g_array_index(r.harvest, Harvested, i);

        if (i % DIRTY_RAM_AHEAD == 0) {
            read_ahead_harvested(i, MIN(i + DIRTY_RAM_AHEAD, r.harvest->len));
        }
        publishing = page->cpu_index;
        physical_memory_set_dirty_lebitmap(&one, page->addr, 1);
    }
    publishing = NO_VCPU;
    g_array_set_size(r.harvest, 0);
}
