/*
 * virtio-balloon-rs: all cases over virtio-mmio, on a microvm
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-cases.h"
#include "vbr-vm.h"

static void run_case(const void *data)
{
    const VbrCase *c = data;
    VbrVm *vm = vbr_microvm(c->opts);

    vm->d.arg = c->arg;
    c->run(&vm->d);
    vbr_vm_free(vm);
}

static void add_cases(const char *theme, const VbrCase *c)
{
    for (; c->name; c++) {
        g_autofree char *name = g_strdup_printf("virtio-balloon-rs/mmio/%s/%s",
                                                theme, c->name);

        qtest_add_data_func(name, c, run_case);
    }
}

void vbr_add_mmio_tests(void)
{
    const VbrTheme *t;

    if (!qtest_has_machine("microvm")) {
        return;
    }
    add_cases("features", vbr_feature_cases());
    for (t = vbr_themes; t->name; t++) {
        add_cases(t->name, t->cases);
    }
}
