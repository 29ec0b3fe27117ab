/*
 * For tests: the property that has a call into the library fail
 *
 * In builds for tests only, on each object that uses the library.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_INJECT_H
#define VBR_INJECT_H

#ifdef VBR_INJECT
#include "qapi/error.h"
#include "qom/object.h"
#include "virtio_balloon_rs.h"

static inline char *vbr_get_inject(Object *obj, Error **errp)
{
    return g_strdup(vbr_inject_pending() ? "pending" : "");
}

static inline char *vbr_get_inject_used(Object *obj, Error **errp)
{
    char names[8192] = "";

    if (vbr_inject_used(names, sizeof(names)) != VBR_STATUS_OK) {
        error_setg(errp, "there is no room for the names");
        return NULL;
    }
    return g_strdup(names);
}

static inline void vbr_put_inject(Object *obj, const char *value, Error **errp)
{
    if (vbr_inject_set(value) != VBR_STATUS_OK) {
        error_setg(errp, "'%s' is no fault", value);
    }
}
#endif

#endif
