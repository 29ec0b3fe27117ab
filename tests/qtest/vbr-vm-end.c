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

/*
 * QEMU waits for its exports before it stops the machine, and runs what is due
 * meanwhile: a batch goes on, and the monitor answers.
 */
static void test_export(void)
{
    enum { PAGES = 4096, REQUESTS = 4 };
    VbrVm *vm = vbr_pc("-object memory-backend-memfd,id=ram,size=128M "
                       "-machine memory-backend=ram "
                       "-device " VBR_PCI "," VBR_SLOT_ARG);
    g_autofree char *path = g_strdup_printf("%s/vbr-end-%d", g_get_tmp_dir(),
                                            getpid());
    uint64_t first;

    vbr_vm_attach(vm, VBR_SLOT);
    qtest_qmp_assert_success(
        vm->qts, "{ 'execute': 'blockdev-add', 'arguments': "
        "{ 'driver': 'null-co', 'node-name': 'disk', 'size': 1048576 } }");
    qtest_qmp_assert_success(
        vm->qts, "{ 'execute': 'nbd-server-start', 'arguments': { 'addr': "
        "{ 'type': 'unix', 'data': { 'path': %s } } } }", path);
    qtest_qmp_assert_success(
        vm->qts, "{ 'execute': 'block-export-add', 'arguments': "
        "{ 'id': 'export', 'type': 'nbd', 'node-name': 'disk' } }");
    vbr_start(&vm->d, 0);
    first = vbr_pages(&vm->d, PAGES * REQUESTS, VBR_PAGE);
    first >>= VBR_PAGE_SHIFT;
    /* A hole for each page: far more than a turn of the main loop does. */
    for (unsigned int i = 0; i < REQUESTS; i++) {
        g_autofree uint32_t *pfns = g_new(uint32_t, PAGES / 2);
        VbrSeg seg;

        for (unsigned int k = 0; k < PAGES / 2; k++) {
            pfns[k] = first + i * PAGES + 2 * k;
        }
        seg = vbr_pfns(&vm->d, pfns, PAGES / 2);
        vbr_add(&vm->d, VBR_INFLATE, &seg, 1);
    }
    vbr_notify(&vm->d, VBR_INFLATE);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'quit' }");
    qtest_wait_qemu(vm->qts);
    vbr_vm_free(vm);
    unlink(path);
}

void vbr_add_end_tests(void)
{
    qtest_add_func("virtio-balloon-rs/end/signal", test_signal);
    qtest_add_func("virtio-balloon-rs/end/quit", test_quit);
    qtest_add_func("virtio-balloon-rs/end/export", test_export);
}
