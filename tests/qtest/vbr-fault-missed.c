/*
 * A library that does not listen when it is told what memory hangs on
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-fault.h"
#include "vbr-hint.h"
#include "vbr-probe.h"
#include "vbr-stream.h"

#ifdef VBR_INJECT

#define AREA (52 * MiB)
#define NPAGES 64
#define POISON offsetof(struct virtio_balloon_config, poison_val)

void vbr_fault_missed_poison(const char *how)
{
    VbrVm *vm = vbr_fault_machine(true);
    VbrDev *d = &vm->d;
    const VbrSeg seg = { AREA, NPAGES * VBR_PAGE, true };

    vbr_fill(d, AREA, NPAGES, 0x6b);
    vbr_fault_set(vm, "vbr_config_write", how);
    vbr_config_write(d, POISON, 4, 0x6b6b6b6b);
    g_assert(!vbr_fault_pending(vm));
    vbr_add(d, VBR_REPORT, &seg, 1);
    vbr_notify(d, VBR_REPORT);
    vbr_take(d, VBR_REPORT, 1);
    vbr_assert_kept(d, AREA, NPAGES, 0x6b);
    g_assert_cmphex(vbr_config_read(d, POISON), ==, 0x6b6b6b6b);
    vbr_vm_free(vm);
}

void vbr_fault_missed_balloon(const char *how)
{
    g_autofree char *sock = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("unix:%s", sock);
    VbrVm *vm = vbr_fault_machine(true), *to = vbr_fault_destination(vm, uri);
    VbrDev *d = &vm->d;

    vbr_send_range(d, VBR_INFLATE, AREA, NPAGES);
    /* So that the library cannot be told at once. */
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'stop' }");
    vbr_fault_set(vm, "vbr_batch_abandon", how);
    vbr_vm_reset_only(vm, VBR_INFLATE);
    g_assert(!vbr_fault_pending(vm));
    g_assert(!vbr_is_broken(d));
    vbr_fill(d, AREA, NPAGES, 0x6b);
    vbr_migrate(vm->qts, uri);
    vbr_migrate_until(vm->qts, "completed");
    vbr_migrate_until(to->qts, "completed");
    g_assert(vbr_same_memory(vm, to, VBR_FAULT_RAM));
    unlink(sock);
    vbr_vm_free(to);
    vbr_vm_free(vm);
}

#endif
