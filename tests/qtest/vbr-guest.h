/*
 * Guests of a few instructions, for TCG
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_GUEST_H
#define VBR_GUEST_H

#include "vbr-vm.h"

/* Skips the test if this QEMU has no TCG. */
bool vbr_has_tcg(void);

/* A file, to be removed, with firmware for -bios that starts with this code. */
char *vbr_guest_firmware(const uint8_t *code, size_t len);

/* A guest that writes to these pages, one after the other, over and over. */
#define VBR_WRITER_AREA (64 * KiB)
#define VBR_WRITER_PAGES 112
char *vbr_guest_writer(void);

/*
 * A guest that stands still, and writes to this address at each NMI: it counts
 * there. The machine has to be one of vbr_counter_pc().
 */
#define VBR_COUNTER_ADDR (384 * KiB)
VbrVm *vbr_counter_pc(const char *args);
void vbr_count_one(VbrVm *vm);
/* Waits until the guest has counted so far. */
void vbr_counted(VbrVm *vm, uint8_t count);

#endif
