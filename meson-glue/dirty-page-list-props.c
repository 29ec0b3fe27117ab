/*
 * dirty-page-list: its properties
 *
 * Options that are set before the object is complete, and what the list tells
 * of itself. All of it is called with the big lock held, by QMP's commands
 * qom-get and qom-set and where the object is made, in the main loop.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qapi/visitor.h"
#include "dirty-page-list.h"
#include "vbr-inject.h"

static void get_option(Object *obj, Visitor *v, const char *name, void *opaque,
                       Error **errp)
{
    DirtyPageList *dl = DIRTY_PAGE_LIST(obj);
    uint64_t value = dl->dirty_trigger;

    if (!strcmp(name, "max-dirty")) {
        value = dl->list ? dirty_list_indices(dl).max_dirty : dl->max_dirty;
    }
    visit_type_uint64(v, name, &value, errp);
}

static void set_option(Object *obj, Visitor *v, const char *name, void *opaque,
                       Error **errp)
{
    DirtyPageList *dl = DIRTY_PAGE_LIST(obj);
    uint64_t value;

    if (!visit_type_uint64(v, name, &value, errp)) {
        return;
    }
    if (dl->list) {
        error_setg(errp, "%s cannot be changed; delete the object and add it "
                   "again", name);
    } else if (!strcmp(name, "max-dirty")) {
        dl->max_dirty = value;
    } else {
        dl->dirty_trigger = value;
    }
}

static bool get_no_dups(Object *obj, Error **errp)
{
    return DIRTY_PAGE_LIST(obj)->no_dups;
}

static void set_no_dups(Object *obj, bool value, Error **errp)
{
    DirtyPageList *dl = DIRTY_PAGE_LIST(obj);

    if (dl->list) {
        error_setg(errp, "no-dups cannot be changed; delete the object and add "
                   "it again");
        return;
    }
    dl->no_dups = value;
}

static bool get_active(Object *obj, Error **errp)
{
    return dirty_list_indices(DIRTY_PAGE_LIST(obj)).active;
}

static bool get_overflow(Object *obj, Error **errp)
{
    DirtyPageList *dl = DIRTY_PAGE_LIST(obj);

    return dirty_list_indices(dl).overflow || dl->lost;
}

static uint64_t count_of(DirtyPageList *dl, const char *name)
{
    VbrDirtyIndices at = dirty_list_indices(dl);
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {
        { "dirty-index", at.dirty_index },
        { "fetch-index", at.fetch_index },
        { "reset-index", at.reset_index },
        { "overflows", at.overflows },
        { "triggers", dl->counters.triggers },
        { "list-syncs", dl->counters.list_syncs },
        { "scan-syncs", dl->counters.scan_syncs },
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(counts); i++) {
        if (!strcmp(counts[i].name, name)) {
            return counts[i].value;
        }
    }
    g_assert_not_reached();
}

static void get_count(Object *obj, Visitor *v, const char *name, void *opaque,
                      Error **errp)
{
    uint64_t value = count_of(DIRTY_PAGE_LIST(obj), name);

    visit_type_uint64(v, name, &value, errp);
}

void dirty_list_props_init(ObjectClass *oc)
{
    static const struct {
        const char *name;
        const char *description;
    } counts[] = {
        { "dirty-index", "pages that were listed since the start" },
        { "fetch-index", "pages of those that were taken off the list" },
        { "reset-index", "pages of those that are dealt with" },
        { "overflows", "how often there was no room on the list" },
        { "triggers", "how often the guest was paused for dirty-trigger" },
        { "list-syncs", "synchronizations of a migration from the list" },
        { "scan-syncs", "synchronizations of a migration from all bitmaps" },
    };
    int i;

    object_class_property_add(oc, "max-dirty", "uint64", get_option, set_option,
                              NULL, NULL);
    object_class_property_set_description(oc, "max-dirty",
        "pages that each vCPU's list has room for");
    object_class_property_add(oc, "dirty-trigger", "uint64", get_option,
                              set_option, NULL, NULL);
    object_class_property_set_description(oc, "dirty-trigger",
        "at how many pages the guest is paused; 0: never");
    object_class_property_add_bool(oc, "no-dups", get_no_dups, set_no_dups);
    object_class_property_set_description(oc, "no-dups",
        "list a page once until it is taken off the list");
    object_class_property_add_bool(oc, "active", get_active, NULL);
    object_class_property_set_description(oc, "active",
        "whether pages are listed");
    object_class_property_add_bool(oc, "overflow", get_overflow, NULL);
    object_class_property_set_description(oc, "overflow",
        "whether there was no room; without no-dups pages are missing then");
#ifdef VBR_INJECT
    object_class_property_add_str(oc, "x-inject", vbr_get_inject,
                                  vbr_put_inject);
    object_class_property_add_str(oc, "x-inject-used", vbr_get_inject_used,
                                  NULL);
#endif
    dirty_stall_props_init(oc);
    for (i = 0; i < ARRAY_SIZE(counts); i++) {
        object_class_property_add(oc, counts[i].name, "uint64", get_count, NULL,
                                  NULL, NULL);
        object_class_property_set_description(oc, counts[i].name,
                                              counts[i].description);
    }
}
