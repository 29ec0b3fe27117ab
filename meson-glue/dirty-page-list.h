/*
 * dirty-page-list: the pages that a guest writes to, as a list
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef DIRTY_PAGE_LIST_H
#define DIRTY_PAGE_LIST_H

#include "exec/cpu-common.h"
#include "hw/qdev-core.h"
#include "hw/resettable.h"
#include "qapi/qapi-types-migration.h"
#include "qom/object.h"
#include "vbr-compat.h"
#include "virtio_balloon_rs.h"

#define TYPE_DIRTY_PAGE_LIST "dirty-page-list"
OBJECT_DECLARE_SIMPLE_TYPE(DirtyPageList, DIRTY_PAGE_LIST)

/* Changed under the big lock only. */
typedef struct DirtyPageListCounters {
    /* A migration's synchronizations from the list, and from all bitmaps. */
    uint64_t list_syncs;
    uint64_t scan_syncs;
    /* How often the machine was paused. */
    uint64_t triggers;
} DirtyPageListCounters;

struct DirtyPageList {
    Object parent_obj;
    ResettableState reset_state;

    uint64_t max_dirty;
    uint64_t dirty_trigger;
    bool no_dups;

    VbrDirtyList *list;
    DirtyPageListCounters counters;
    VMChangeStateEntry *vmstate;
    QEMUTimer *poll;
    /* Writes are logged for it. */
    bool tracking;
    /* The dirty trigger was not reached since it was armed. */
    bool armed;
    /* The last fetch did not take all that was on the list. */
    bool more;
    /*
     * Why pages may be missing, other than for want of room; NULL: no reason.
     */
    Error *lost;
};

/* The object (dirty-page-list.c). */

/* Where the list is; all 0 if the library broke. Under the big lock. */
VbrDirtyIndices dirty_list_indices(DirtyPageList *dl);

/* Its properties (dirty-page-list-props.c). */

void dirty_list_props_init(ObjectClass *oc);

/* What QMP is answered (dirty-page-list-answer.c). */

/* Pages in ascending order. */
DirtyPages *dirty_pages_answer(const uint64_t *pages, size_t count, bool gfns);
/* What the library's answer means for the user; true if it was OK. */
bool dirty_list_check(VbrStatus status, Error **errp);

/* The pause for the dirty trigger (dirty-page-list-pause.c). */

void dirty_pause_init(void);
/* Pauses the machine, or as soon as it runs. Any thread. */
void dirty_pause(void);
/* Any thread. */
bool dirty_pause_is_owed(void);
/* The trigger does not hold any more. */
void dirty_pause_forget(void);
/*
 * A list is started or stopped: a pause that is owed for the one before is not.
 */
void dirty_pause_want(bool want);

/* What has to do with RAM (dirty-page-list-ram.c). */

/*
 * Has all bits told that become set from here on, though there is no list yet
 * to note them on. The big lock is released in here, so a migration may
 * synchronize: it must not find a list before all are told.
 */
void dirty_ram_init(void);
/*
 * From here on pages are noted on @list; NULL: on none. Of KVM's dirty rings up
 * to @most_harvested entries are taken at a time, the rest through bitmaps.
 */
void dirty_ram_use(VbrDirtyList *list, size_t most_harvested,
                   DirtyPageListCounters *counters);
/* Makes all of RAM clean, so that each write from here on is noted. */
void dirty_ram_clean_all(void);
/* The same for pages in ascending order, before they are handed out. */
void dirty_ram_clean(const uint64_t *pages, size_t count);
/*
 * Moves those of @pages whose RAM is still there to the front; returns how many
 * they are. The others are clean then.
 */
size_t dirty_ram_forget_unplugged(uint64_t *pages, size_t count);
/* Called with RCU held. */
RAMBlock *dirty_ram_block(uint64_t page, RAMBlock *hint);
/*
 * The bits of so many pages are fetched from memory at the same time. Listed
 * pages lie anywhere, and otherwise each would wait for those before it.
 */
#define DIRTY_RAM_AHEAD 32
/* Called with RCU held. */
void dirty_ram_read_ahead(unsigned int client, uint64_t page);

/* A block of which all is sent (dirty-page-list-send-all.c). */

/*
 * Has a migration send all of @block; the number of pages that it would not.
 * Called with the bitmap lock and RCU held.
 */
uint64_t dirty_ram_send_all_of(RAMBlock *block);

/* For tests: a vCPU that is slow (dirty-page-list-stall.c). */

#ifdef VBR_INJECT
void dirty_stall_props_init(ObjectClass *oc);
/* Bits became set, and their pages are noted. Called with RCU held. */
void dirty_stall_noted(uint64_t first, unsigned long bits);
/* A migration's synchronization begins. */
void dirty_stall_synchronizes(void);
#else
static inline void dirty_stall_props_init(ObjectClass *oc)
{
}

static inline void dirty_stall_noted(uint64_t first, unsigned long bits)
{
}

static inline void dirty_stall_synchronizes(void)
{
}
#endif

/* KVM's dirty rings (dirty-page-list-ring.c). */

void dirty_ring_init(void);
/* So many entries are taken at a time. Under the big lock. */
void dirty_ring_limit(size_t most_harvested);
/* Takes an entry; false if there is no room. Under the lock of KVM's slots. */
bool dirty_ring_harvest(int cpu_index, uint64_t addr);
/* Sets the bits of what was taken. Under the lock of KVM's slots. */
void dirty_ring_publish(void);
/* The vCPU whose pages this thread publishes; SIZE_MAX: it publishes none. */
size_t dirty_ring_publishing(void);

#endif
