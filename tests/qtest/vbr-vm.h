/*
 * Machines for the tests that qgraph cannot express
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_VM_H
#define VBR_VM_H

#include "vbr-driver.h"
#include "tests/qtest/libqos/pci.h"
#include "tests/qtest/libqos/virtio-mmio.h"

#define VBR_SLOT 4
#define VBR_SLOT_ARG "addr=04.0,id=" VBR_ID

typedef struct VbrVm {
    QTestState *qts;
    QGuestAllocator alloc;
    QPCIBus *bus;               /* NULL: microvm */
    QVirtioPCIDevice *pci;
    QVirtioMMIODevice mmio;
    VbrDev d;
} VbrVm;

/* A "pc" without default devices. */
VbrVm *vbr_pc(const char *fmt, ...) G_GNUC_PRINTF(1, 2);
/* The same with a balloon in its slot, found and reset. */
VbrVm *vbr_pc_balloon(const char *props);
/* A microvm with a balloon on virtio-mmio, found and reset. */
VbrVm *vbr_microvm(const char *props);
/* Finds the balloon that sits in a slot, without touching it. */
void vbr_vm_find(VbrVm *vm, int slot);
/* Finds it and brings it up to the point where a driver starts. */
void vbr_vm_attach(VbrVm *vm, int slot);
/* Resets one queue of a modern PCI device. */
void vbr_vm_reset_only(VbrVm *vm, VbrQueue q);
/* The same, and sets it up on a fresh ring. */
void vbr_vm_reset_queue(VbrVm *vm, VbrQueue q);
void vbr_vm_free(VbrVm *vm);

/* Asserts that pages given to the device are gone, and no others. */
void vbr_assert_works(VbrDev *d);

/* Each file registers its own tests. */
void vbr_add_mmio_tests(void);
void vbr_add_realize_tests(void);
void vbr_add_load_tests(void);
void vbr_add_huge_tests(void);
void vbr_add_migrate_tests(void);
void vbr_add_set_tests(void);
void vbr_add_memory_tests(void);
void vbr_add_target_tests(void);
void vbr_add_inhibit_tests(void);
void vbr_add_vhost_user_tests(void);
void vbr_add_legacy_tests(void);
void vbr_add_notify_tests(void);
void vbr_add_bad_ring_tests(void);
void vbr_add_order_tests(void);
void vbr_add_packed_tests(void);
void vbr_add_timer_tests(void);
void vbr_add_config_tests(void);
void vbr_add_hint_tests(void);
void vbr_add_hint_guest_tests(void);
void vbr_add_hint_end_tests(void);
void vbr_add_hint_post_tests(void);
void vbr_add_hint_state_tests(void);
void vbr_add_skip_tests(void);
void vbr_add_founding_tests(void);
void vbr_add_range_tests(void);
void vbr_add_request_tests(void);
void vbr_add_request_end_tests(void);
void vbr_add_request_odd_tests(void);
void vbr_add_request_move_tests(void);
void vbr_add_advice_tests(void);
void vbr_add_hold_tests(void);
void vbr_add_hold_huge_tests(void);
void vbr_add_hold_ram_tests(void);
void vbr_add_dirty_tests(void);
void vbr_add_dirty_fetch_tests(void);
void vbr_add_dirty_blocks_tests(void);
void vbr_add_dirty_trigger_tests(void);
void vbr_add_dirty_move_tests(void);
void vbr_add_dirty_accel_tests(void);
void vbr_add_end_tests(void);
void vbr_add_fault_tests(void);
void vbr_add_dirty_whole_tests(void);
void vbr_add_dirty_order_tests(void);
void vbr_add_colo_tests(void);
void vbr_add_dirty_vfio_tests(void);
void vbr_add_kinds_tests(void);

#endif
