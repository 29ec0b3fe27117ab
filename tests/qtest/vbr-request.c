/*
 * Machines whose guests are asked for unused pages, by either queue
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-request.h"

const VbrAsk vbr_asks[] = {
    { "host-request", "host-request=on", VBR_REQUEST, VBR_BITS_PRIVATE },
    { "misc-queue", "misc-queue=on", VBR_MISC, VBR_BITS_PRIVATE },
    { "host-request-historical", "host-request=on," VBR_HISTORICAL,
      VBR_REQUEST, VBR_BITS_RANGE },
    { "misc-queue-historical", "misc-queue=on," VBR_HISTORICAL,
      VBR_MISC, VBR_BITS_CHUNKS },
    { }
};

VbrVm *vbr_ask_machine(const VbrAsk *a, const char *args)
{
    VbrVm *vm = vbr_pc("%s -device " VBR_PCI "," VBR_SLOT_ARG ",%s", args,
                       a->props);

    vbr_vm_attach(vm, VBR_SLOT);
    vm->d.bits = a->bits;
    vbr_start(&vm->d, 0);
    g_assert_nonnull(vm->d.ring[a->q].vq);
    return vm;
}

VbrPair vbr_ask_pair(const VbrAsk *a)
{
    return vbr_pair_bits("", a->props, 0, a->bits);
}

void vbr_add_asking(const char *name, void (*run)(const void *ask))
{
    const VbrAsk *a;

    for (a = vbr_asks; a->name; a++) {
        g_autofree char *path = g_strdup_printf(
            "virtio-balloon-rs/request/%s/%s", name, a->name);

        qtest_add_data_func(path, a, run);
    }
}
