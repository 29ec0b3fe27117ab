/*
 * The guest's driver of a virtio-mem device
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_VMEM_H
#define VBR_VMEM_H

#include "vbr-vm.h"
#include "standard-headers/linux/virtio_mem.h"

/* The blocks of devices with block-size=2M. */
#define VBR_VMEM_BLOCK (2 * MiB)

/*
 * Where the memory of the device with this id begins, by its property: "addr"
 * of a DIMM, "memaddr" of a virtio device.
 */
uint64_t vbr_memory_address(VbrVm *vm, const char *id, const char *property);
/*
 * Starts the driver of the device in this slot and has it send a request, that
 * has to be granted: to plug or unplug @blocks blocks from @addr on.
 */
void vbr_vmem_request(VbrVm *vm, int slot, uint16_t type, uint64_t addr,
                      uint16_t blocks);

#endif
