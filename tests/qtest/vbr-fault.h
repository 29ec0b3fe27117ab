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
} VbrWork;

/* Where guest memory is that the guest uses, and what is in it. */
#define VBR_USED_AREA (64 * MiB)
#define VBR_USED_PAGES 16
#define VBR_USED_BYTE 0x3d

extern const VbrWork vbr_works[];

/* Where faults are asked for, and a list for the work with it. */
#define VBR_FAULT_LIST VBR_DL ",max-dirty=4096"

/* Machines with all queues that go together, hints or requests. */
VbrVm *vbr_fault_machine(bool hints);
/* The next use of a function fails like this; NULL: none does. */
void vbr_fault_set(VbrVm *vm, const char *function, const char *how);
/* Whether that is still to come. */
bool vbr_fault_pending(VbrVm *vm);
/* A command that may fail; says whether it did. */
bool vbr_try(QTestState *qts, const char *fmt, ...) G_GNUC_PRINTF(2, 3);
/* A new dirty page list, whatever state the last one is in. */
void vbr_fault_new_list(VbrVm *vm);
/* Takes the balloon away and plugs another one in, until that is realized. */
void vbr_fault_replug(VbrVm *vm);

#endif
