/*
 * Machines with memory of each kind that a guest could name to its balloon
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_KINDS_H
#define VBR_KINDS_H

#include "vbr-vm.h"

/* What the guest writes there, and what a template's file holds. */
#define VBR_GUEST_BYTE 0x5a
#define VBR_FILE_BYTE 0x33

/* How much is given away at once, unless host pages are larger. */
#define VBR_SMALL_UNIT (64 * KiB)

typedef struct VbrKind VbrKind;

/* Four units of memory of a kind, of which the middle two are given away. */
typedef struct VbrPlace {
    const VbrKind *kind;
    VbrVm *vm;
    uint64_t addr;              /* guest physical */
    uint64_t offset;            /* the same in the file behind it */
    uint64_t unit;              /* bytes */
    /* As another process sees it; NULL if nobody else can. */
    uint8_t *other;
    int fd;                     /* the file behind it, or -1 */
    char *stream;               /* where a migration went, if one did */
} VbrPlace;

const VbrKind *vbr_kind_find(const char *name);
/* Another kind at each call, from 0 on, then NULL. */
const char *vbr_kind_name(unsigned int i);
/*
 * A machine with such memory and a balloon with these properties, whose driver
 * works, or NULL if the test is skipped.
 */
VbrPlace *vbr_place(const VbrKind *kind, const char *props);
/* Whether QEMU may lock all of its memory; if not the test is skipped. */
bool vbr_can_lock(void);
/* The same for a QEMU that was to do so; sanitizers leave that out. */
bool vbr_has_locked(VbrVm *vm);
/* Plugs or unplugs the part of virtio-mem that is plugged in such a place. */
void vbr_kind_replug(VbrPlace *p, bool plug);
/*
 * Makes each page that is given away one that is found again, says how many of
 * them @stream has, and makes them like all others; they have to be here yet.
 */
void vbr_place_mark(VbrPlace *p);
/* Whether QEMU sends such memory at all. */
bool vbr_place_migrates(VbrPlace *p);
size_t vbr_place_marks_sent(VbrPlace *p);
void vbr_place_unmark(VbrPlace *p);
void vbr_place_free(VbrPlace *p);

#endif
