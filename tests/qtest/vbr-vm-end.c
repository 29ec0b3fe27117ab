/*
 * virtio-balloon-rs: QEMU ends, with a driver that has started
 *
 * What the device asks then must still be there: a build with a sanitizer, or
 * valgrind, sees it if not.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-vm.h"

/* With memory in the balloon that waits for its neighbours. */
static VbrVm *busy_machine(void)
{
    VbrVm *vm = vbr_pc_balloon("free-page-hint=on,inflate-hold-ms=1000");

    vbr_start(&vm->d, 0);
    vbr_send_range(&vm->d, VBR_INFLATE, vbr_pages(&vm->d, 3, VBR_PAGE), 3);
    return vm;
}

static void test_signal(void)
{
    vbr_vm_free(busy_machine());
}

static void test_quit(void)
{
    VbrVm *vm = busy_machine();

    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'quit' }");
    qtest_wait_qemu(vm->qts);
    vbr_vm_free(vm);
}

void vbr_add_end_tests(void)
{
    qtest_add_func("virtio-balloon-rs/end/signal", test_signal);
    qtest_add_func("virtio-balloon-rs/end/quit", test_quit);
}
