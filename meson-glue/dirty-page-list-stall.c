/*
 * For tests: a vCPU that has set a page's dirty bit and is slow to write to it
 *
 * In builds for tests only. TCG sets the bit first, then has its TLB remember
 * that it need not look at it again, and writes to the page at last. What
 * somebody else does in between decides whether that write, or the next one, is
 * noticed. The property x-stall-page names a page; the vCPU that notes it next
 * stands still there until somebody cleared its bit, and
 *
 * - waits for the vCPU, which comes behind resetting its TLB; or
 * - was the main loop, on behalf of a migration that runs: until the migration
 *   thread sent the page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/thread.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "exec/target_page.h"
#include "hw/core/cpu.h"
#include "system/cpus.h"
#include "system/tcg.h"
#include "dirty-page-list.h"
#ifdef VBR_QEMU_10_0
#include "exec/ram_addr.h"
#define physical_memory_get_dirty_flag cpu_physical_memory_get_dirty_flag
#else
#include "system/physmem.h"
#include "system/ram_addr.h"
#endif

#define NO_PAGE UINT64_MAX
#define LOOK_US 1000
/* A page is read as soon as its bit is clear; this is long behind that. */
#define SENT_US (100 * 1000)

static struct {
    uint64_t page;
    bool stalled;
    /* The main loop synchronized last, and not the migration thread. */
    bool main_loop;
} stall = { .page = NO_PAGE };

/* The migration thread has it still before it. Called with RCU held. */
static bool is_to_be_sent(uint64_t page)
{
    RAMBlock *block = dirty_ram_block(page, NULL);

    return block && block->bmap &&
           test_bit(page - (block->offset >> qemu_target_page_bits()),
                    block->bmap);
}

static bool is_over(uint64_t page)
{
    if (physical_memory_get_dirty_flag(page << qemu_target_page_bits(),
                                       DIRTY_MEMORY_MIGRATION)) {
        return false;
    }
    if (!qatomic_read(&stall.main_loop)) {
        return !cpu_work_list_empty(current_cpu);
    }
    if (is_to_be_sent(page)) {
        return false;
    }
    g_usleep(SENT_US);
    return true;
}

void dirty_stall_noted(uint64_t first, unsigned long bits)
{
    uint64_t page = qatomic_read(&stall.page);

    if (page < first || page - first >= BITS_PER_LONG ||
        !(bits >> (page - first) & 1) || !current_cpu || !tcg_enabled() ||
        qatomic_xchg(&stall.stalled, true)) {
        return;
    }
    while (!is_over(page)) {
        g_usleep(LOOK_US);
    }
    qatomic_set(&stall.page, NO_PAGE);
    qatomic_set(&stall.stalled, false);
}

void dirty_stall_synchronizes(void)
{
    qatomic_set(&stall.main_loop, qemu_get_thread_id() == getpid());
}

static void get_page(Object *obj, Visitor *v, const char *name, void *opaque,
                     Error **errp)
{
    uint64_t page = qatomic_read(&stall.page);

    visit_type_uint64(v, name, &page, errp);
}

static void set_page(Object *obj, Visitor *v, const char *name, void *opaque,
                     Error **errp)
{
    uint64_t page;

    if (visit_type_uint64(v, name, &page, errp)) {
        qatomic_set(&stall.main_loop, false);
        qatomic_set(&stall.page, page);
    }
}

static bool get_stalled(Object *obj, Error **errp)
{
    return qatomic_read(&stall.stalled);
}

void dirty_stall_props_init(ObjectClass *oc)
{
    object_class_property_add(oc, "x-stall-page", "uint64", get_page, set_page,
                              NULL, NULL);
    object_class_property_add_bool(oc, "x-stalled", get_stalled, NULL);
}
