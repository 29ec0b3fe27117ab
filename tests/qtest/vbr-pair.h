/*
 * A machine that moves to another one while it runs
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_PAIR_H
#define VBR_PAIR_H

#include "vbr-vm.h"

typedef struct VbrPair {
    VbrVm *from;
    VbrVm *to;
    char *uri;
} VbrPair;

/*
 * Two machines with these arguments of QEMU and properties of the balloon; the
 * driver of the first has started.
 */
VbrPair vbr_pair(const char *args, const char *props, uint64_t refuse);
/* The same for a device with these feature bits of the founding series. */
VbrPair vbr_pair_bits(const char *args, const char *props, uint64_t refuse,
                      VbrBits bits);
void vbr_pair_capability(VbrPair *p, const char *name);
/* Starts the migration; as slow as it is, it stays in its first pass. */
void vbr_pair_move(VbrPair *p);
/* Lets it complete; the driver goes on in the second machine. */
void vbr_pair_arrive(VbrPair *p);
void vbr_pair_free(VbrPair *p);

#endif
