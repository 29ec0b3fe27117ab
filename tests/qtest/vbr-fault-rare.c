/*
 * Faults of functions that take a machine, or a moment, of their own
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-fault.h"
#include "vbr-probe.h"
#include "vbr-vmem.h"

#ifdef VBR_INJECT

#define PLUG "vbr_memory_plug"
#define UNPLUG "vbr_memory_unplug"
#define CANCEL "vbr_batch_cancel"
#define FREE "vbr_ram_free"

/* The slot of the virtio-mem device, and how many of its blocks are plugged. */
#define VMEM_SLOT 7
#define BLOCKS 4

/* Free memory; so many pages of it, no two side by side, take many slices. */
#define FREE_PFN (2 * MiB / VBR_PAGE)
#define OTHER_FREE_PFN (44 * MiB / VBR_PAGE)
#define SCATTERED 4096
/* Attempts to stop the machine in the middle of such a batch. */
#define ATTEMPTS 50

static void assert_recovers(VbrVm *vm)
{
    vbr_fault_restart(vm);
    g_assert(!vbr_is_broken(&vm->d));
    vbr_assert_works(&vm->d);
}

/*
 * After the driver began anew, what virtio-mem has unplugged is no RAM, and
 * what it has plugged is, also where the library was not told at once.
 */
static void check_parts(bool plugs, const char *how, bool breaks)
{
    VbrVm *vm = vbr_pc(VBR_FAULT_LIST " -m 64M,slots=2,maxmem=1G "
                       "-object memory-backend-ram,id=back,size=64M "
                       "-device virtio-mem-pci,id=mem,memdev=back,addr=07.0,"
                       "requested-size=32M,block-size=2M "
                       "-device " VBR_PCI "," VBR_SLOT_ARG
                       ",free-page-hint=on,free-page-reporting=on");
    uint64_t addr = vbr_memory_address(vm, "mem", "memaddr");
    const size_t pages = BLOCKS * VBR_VMEM_BLOCK / VBR_PAGE;
    VbrDev *d = &vm->d;

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    if (!plugs) {
        vbr_vmem_request(vm, VMEM_SLOT, VIRTIO_MEM_REQ_PLUG, addr, BLOCKS);
    }
    vbr_fault_set(vm, plugs ? PLUG : UNPLUG, how);
    vbr_vmem_request(vm, VMEM_SLOT,
                     plugs ? VIRTIO_MEM_REQ_PLUG : VIRTIO_MEM_REQ_UNPLUG, addr,
                     BLOCKS);
    g_assert(!vbr_fault_pending(vm));
    g_assert(vbr_is_broken(d) == breaks);
    assert_recovers(vm);
    if (plugs) {
        vbr_fill(d, addr, pages, 0x6b);
        vbr_send_range(d, VBR_INFLATE, addr, pages);
        vbr_assert_gone(d, addr, pages);
    } else {
        vbr_send_range(d, VBR_INFLATE, addr, pages);
        vbr_assert_counter(d, "ignored-bad-pfns", pages);
    }
    vbr_vm_free(vm);
}

static VbrSeg scattered(VbrDev *d)
{
    g_autofree uint32_t *pfns = g_new(uint32_t, SCATTERED);
    size_t i;

    for (i = 0; i < SCATTERED; i++) {
        size_t at = i * 2039 % SCATTERED;

        pfns[i] = at < SCATTERED / 2 ? FREE_PFN + 2 * at
                                     : OTHER_FREE_PFN + 2 * at - SCATTERED;
    }
    return vbr_pfns(d, pfns, SCATTERED);
}

/* A machine that stops takes back what is left of a batch. */
static void check_cancel(const char *how, bool breaks)
{
    VbrVm *vm = vbr_fault_machine(true);
    VbrDev *d = &vm->d;
    int i;

    vbr_fill(d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    vbr_fault_set(vm, CANCEL, how);
    for (i = 0; i < ATTEMPTS && vbr_fault_pending(vm); i++) {
        VbrSeg seg = scattered(d);

        vbr_add(d, VBR_INFLATE, &seg, 1);
        vbr_notify(d, VBR_INFLATE);
        qtest_qmp_assert_success(vm->qts, "{ 'execute': 'stop' }");
        qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
        vbr_settle(d);
        g_assert(breaks || !vbr_is_broken(d));
        vbr_fault_restart(vm);
    }
    g_assert(!vbr_fault_pending(vm));
    assert_recovers(vm);
    vbr_assert_filled(d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    vbr_vm_free(vm);
}

/* The account of what is left out broke, and breaks again as it is freed. */
static void check_free(const char *how)
{
    VbrVm *vm = vbr_fault_machine(true), *to;

    vbr_fill(&vm->d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    vbr_fault_set_both(vm, "vbr_ram_synced", "panic", FREE, how);
    to = vbr_fault_move(vm);
    g_assert(!vbr_fault_pending(vm));
    g_assert_nonnull(to);
    vbr_assert_filled(&to->d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    assert_recovers(to);
    vbr_fault_return(vm, to);
    assert_recovers(vm);
    vbr_vm_free(vm);
}

void vbr_fault_rare(const char *how, bool breaks, GHashTable *failed)
{
    static const char *const functions[] = { PLUG, UNPLUG, CANCEL, FREE };
    size_t i;

    check_parts(true, how, breaks);
    check_parts(false, how, breaks);
    check_cancel(how, breaks);
    check_free(how);
    for (i = 0; i < ARRAY_SIZE(functions); i++) {
        g_hash_table_add(failed, (void *)functions[i]);
    }
}

#endif
