/*
 * dirty-page-list: what QMP is answered
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "qapi/error.h"
#include "exec/target_page.h"
#include "dirty-page-list.h"
#ifdef VBR_QEMU_10_0
#include "exec/address-spaces.h"
#include "exec/ram_addr.h"
#else
#include "system/address-spaces.h"
#include "system/ram_addr.h"
#endif

/* Where guest RAM is, in the order of RAM addresses. */

typedef struct Mapped {
    ram_addr_t start;
    ram_addr_t size;
    hwaddr gpa;
} Mapped;

static bool add_mapped(Int128 start, Int128 len, const MemoryRegion *mr,
                       hwaddr offset, void *opaque)
{
    MemoryRegion *region = (MemoryRegion *)mr;
    Mapped mapped = { .gpa = int128_get64(start), .size = int128_get64(len) };

    if (memory_region_is_ram(region) && region->ram_block) {
        mapped.start = region->ram_block->offset + offset;
        g_array_append_val(opaque, mapped);
    }
    return false;
}

static gint compare_mapped(gconstpointer a, gconstpointer b)
{
    const Mapped *left = a, *right = b;

    if (left->start != right->start) {
        return left->start < right->start ? -1 : 1;
    }
    return left->gpa < right->gpa ? -1 : left->gpa > right->gpa;
}

/* Called with RCU held. */
static GArray *map_of_ram(void)
{
    GArray *map = g_array_new(false, false, sizeof(Mapped));

    flatview_for_each_range(address_space_to_flatview(&address_space_memory),
                            add_mapped, map);
    g_array_sort(map, compare_mapped);
    return map;
}

/* The answer to a fetch. */

typedef struct Answer {
    DirtyPages *pages;
    DirtyPageRangeList **range_tail;
    uint64List **gfn_tail;
    DirtyPageRange *last;
    bool gfns;
} Answer;

/* A block that is not plugged in yet goes by the name of its memory region. */
static const char *name_of(const RAMBlock *block)
{
    return *block->idstr ? block->idstr : memory_region_name(block->mr);
}

static bool joins(const DirtyPageRange *range, const RAMBlock *block,
                  uint64_t offset, const hwaddr *gpa)
{
    return range && !strcmp(range->block, name_of(block)) &&
           range->offset + range->size == offset &&
           range->has_gpa == !!gpa &&
           (!gpa || range->gpa + range->size == *gpa);
}

static void add_page(Answer *answer, const RAMBlock *block, uint64_t offset,
                     const hwaddr *gpa)
{
    uint64_t size = qemu_target_page_size();

    if (answer->gfns && gpa) {
        QAPI_LIST_APPEND(answer->gfn_tail, *gpa / size);
        return;
    }
    if (joins(answer->last, block, offset, gpa)) {
        answer->last->size += size;
        return;
    }
    answer->last = g_new0(DirtyPageRange, 1);
    answer->last->block = g_strdup(name_of(block));
    answer->last->offset = offset;
    answer->last->size = size;
    if (gpa) {
        answer->last->has_gpa = true;
        answer->last->gpa = *gpa;
    }
    QAPI_LIST_APPEND(answer->range_tail, answer->last);
}

static void add_pages(Answer *answer, const uint64_t *pages, size_t count)
{
    g_autoptr(GArray) map = NULL;
    RAMBlock *block = NULL;
    guint m = 0;
    size_t i;

    RCU_READ_LOCK_GUARD();
    map = map_of_ram();
    for (i = 0; i < count; i++) {
        ram_addr_t addr = pages[i] << qemu_target_page_bits();
        const Mapped *mapped = NULL;
        hwaddr gpa;

        /* Both are in ascending order; a part may be mapped twice. */
        while (m < map->len) {
            mapped = &g_array_index(map, Mapped, m);
            if (addr < mapped->start || addr - mapped->start < mapped->size) {
                break;
            }
            m++;
        }
        block = dirty_ram_block(pages[i], block);
        if (!block) {
            continue;
        }
        if (m < map->len && addr >= mapped->start) {
            gpa = mapped->gpa + (addr - mapped->start);
            add_page(answer, block, addr - block->offset, &gpa);
        } else {
            add_page(answer, block, addr - block->offset, NULL);
        }
    }
}

DirtyPages *dirty_pages_answer(const uint64_t *pages, size_t count, bool gfns)
{
    Answer answer = { .pages = g_new0(DirtyPages, 1), .gfns = gfns };

    answer.range_tail = &answer.pages->ranges;
    answer.gfn_tail = &answer.pages->gfns;
    answer.pages->has_gfns = gfns;
    add_pages(&answer, pages, count);
    return answer.pages;
}

bool dirty_list_check(VbrStatus status, Error **errp)
{
    static const struct {
        VbrStatus status;
        int code;
        const char *text;
    } answers[] = {
        { VBR_STATUS_DIRTY_LIST_ZERO, EINVAL,
          "max-dirty must be at least 1" },
        { VBR_STATUS_DIRTY_LIST_SIZE, EINVAL,
          "max-dirty must be at most 1073741824" },
        { VBR_STATUS_DIRTY_LIST_TRIGGER, EINVAL,
          "dirty-trigger must not be larger than max-dirty" },
        { VBR_STATUS_DIRTY_LIST_MEMORY, ENOMEM,
          "no memory for a dirty page list" },
        { VBR_STATUS_DIRTY_LIST_TWICE, EBUSY,
          "there is a dirty-page-list already, and only one is possible" },
        { VBR_STATUS_DIRTY_LIST_ACTIVE, EBUSY,
          "the dirty page list was started already; stop it first" },
        { VBR_STATUS_DIRTY_LIST_INACTIVE, EINVAL,
          "the dirty page list was never started; start it first" },
        { VBR_STATUS_DIRTY_LIST_OVERFLOW, EOVERFLOW,
          "pages are missing on the dirty page list, any page can be dirty; "
          "stop and start it when no migration runs; no-dups=on or a larger "
          "max-dirty avoids this" },
    };
    int i;

    if (status == VBR_STATUS_OK) {
        return true;
    }
    for (i = 0; i < ARRAY_SIZE(answers); i++) {
        if (answers[i].status == status) {
            error_setg_errno(errp, answers[i].code, "%s", answers[i].text);
            return false;
        }
    }
    error_setg_errno(errp, EIO, "the dirty page list does not work any more; "
                     "delete the object and add it again");
    return false;
}
