/*
 * A device whose library is made to fail, and the work that it does
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_FAULT_H
#define VBR_FAULT_H

#include "vbr-dirty.h"
#include "vbr-vm.h"

/* A kind of work; whatever fails in it, it comes to its end. */
typedef struct VbrWork {
    const char *name;
    void (*run)(VbrVm *vm);
    /* What came of it where nothing failed; may be NULL. */
    void (*check)(VbrVm *vm);
    bool snapshots;
} VbrWork;

/* Where guest memory is that the guest uses, and what is in it. */
#define VBR_USED_AREA (40 * MiB)
#define VBR_USED_PAGES 16
#define VBR_USED_BYTE 0x3d

extern const VbrWork vbr_works[];

/* Little: all of it is sent, and compared, hundreds of times. */
#define VBR_FAULT_RAM (64 * MiB)
#define VBR_FAULT_RAM_ARG "-m 64M"

/* Where faults are asked for, and a list for the work with it. */
#define VBR_FAULT_LIST VBR_DL ",max-dirty=4096"

/* Machines with all queues that go together, hints or requests. */
VbrVm *vbr_fault_machine(bool hints);
bool vbr_fault_has_hints(VbrVm *vm);
/* Where such a machine can move to; it stands still at first. */
VbrVm *vbr_fault_destination(VbrVm *vm, const char *uri);
/* The next use of a function fails like this; NULL: none does. */
void vbr_fault_set(VbrVm *vm, const char *function, const char *how);
/* The same for a later use, counted from 1. */
void vbr_fault_set_use(VbrVm *vm, const char *function, unsigned int use,
                       const char *how);
/* The first use of each of two functions. */
void vbr_fault_set_both(VbrVm *vm, const char *function, const char *how,
                        const char *other, const char *other_how);
/* Whether one of them is still to come. */
bool vbr_fault_pending(VbrVm *vm);
/*
 * Adds the names of all functions that were called since it was set, with how
 * often they were where the name is new.
 */
void vbr_fault_add_used(VbrVm *vm, GHashTable *uses);
/* A command that may fail; says whether it did. */
bool vbr_try(QTestState *qts, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* A new dirty page list, whatever state the last one is in. */
void vbr_fault_new_list(VbrVm *vm);
/* Plugs a balloon of such a machine in; says whether it is realized. */
bool vbr_fault_plug(VbrVm *vm, bool hints);
/* Resets the device, or the machine, and starts the device. */
void vbr_fault_restart(VbrVm *vm);
void vbr_fault_system_reset(VbrVm *vm);
/*
 * Takes the balloon away and plugs another one in, until that is realized and
 * its driver has started.
 */
void vbr_fault_replug(VbrVm *vm);
/*
 * Moves the machine to another one, which has the same memory then. Both go on,
 * the driver in the other one. NULL if the migration failed.
 */
VbrVm *vbr_fault_move(VbrVm *vm);
/*
 * What the driver fills free pages with stays in them, and what it takes back
 * by a reset of its queue is sent, also if the library refuses, like @how, to
 * hear of it.
 */
void vbr_fault_missed_poison(const char *how);
void vbr_fault_missed_balloon(const char *how);
/*
 * What no work does: virtio-mem plugs or unplugs; a machine stops in the middle
 * of a batch; what broke is freed. @breaks: such a fault breaks the device. Adds
 * the functions to @failed.
 */
void vbr_fault_rare(const char *how, bool breaks, GHashTable *failed);
/* Gives that one up: the driver goes on in @vm, with what it has allocated. */
void vbr_fault_return(VbrVm *vm, VbrVm *to);

#endif
