/*
 * dirty-page-list: what VFIO's devices write, also those that come later
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-dirty.h"
#include "vbr-stream.h"
#include "vbr-vfio.h"

#define NO_LOG "the log of its writes was not started"

static void plug(QTestState *qts, int device)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'device_add', 'arguments': { "
                             "'driver': 'vfio-pci', 'id': 'late', "
                             "'rombar': 0, 'sysfsdev': %s } }",
                             vbr_vfio_path(device));
}

/* A list that is started while the first device is there. */
static VbrVm *machine(void)
{
    g_autofree char *args = g_strdup_printf(
        "-device vfio-pci,rombar=0,sysfsdev=%s", vbr_vfio_path(0));
    VbrVm *vm = vbr_dirty_pc(args, "max-dirty=256");

    g_assert(vbr_vfio_log(0).on);
    vbr_assert_fetch(vm->qts, "");
    return vm;
}

static bool migrate(QTestState *qts, char **why)
{
    g_autofree char *file = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("file:%s", file);
    bool done;

    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate', 'arguments': "
                             "{ 'uri': %s } }", uri);
    done = vbr_migrate_wait(qts, "completed", "failed", why);
    unlink(file);
    return done;
}

static void assert_logged(int device, int starts)
{
    g_assert(vbr_vfio_log(device).on);
    g_assert_cmpint(vbr_vfio_log(device).starts, ==, starts);
}

/*
 * The second device joins the first one's container, where no log is started.
 * The list says so, and a migration that follows misses nothing.
 */
static void check_migrate(void)
{
    VbrVm *vm = machine();
    QTestState *qts = vm->qts;
    int before;

    plug(qts, 1);
    g_assert(!vbr_vfio_log(1).on);
    g_assert(vbr_dirty_is(qts, "overflow"));
    vbr_assert_dirty_refused(qts, "fetch", NO_LOG);
    before = vbr_vfio_log(0).reports;

    g_assert(migrate(qts, NULL));
    assert_logged(0, 1);
    assert_logged(1, 1);
    g_assert_cmpint(vbr_vfio_log(0).reports, >, before);
    g_assert_cmpint(vbr_vfio_log(1).reports, >, 0);
    /* What came before is missing all the same. */
    vbr_assert_dirty_refused(qts, "fetch", NO_LOG);
    vbr_vm_free(vm);
}

/* A list that is started anew has all, also while the guest stands still. */
static void check_start(void)
{
    VbrVm *vm = machine();
    QTestState *qts = vm->qts;
    int before;

    qtest_qmp_assert_success(qts, "{ 'execute': 'stop' }");
    plug(qts, 1);
    vbr_assert_dirty_refused(qts, "fetch", NO_LOG);
    vbr_dirty_do(qts, "stop");
    vbr_dirty_do(qts, "start");
    assert_logged(0, 1);
    assert_logged(1, 1);
    before = vbr_vfio_log(1).reports;
    vbr_assert_fetch(qts, "");
    g_assert_cmpint(vbr_vfio_log(1).reports, >, before);
    vbr_vm_free(vm);
}

/* Nothing begins without a log that it needs, and nobody's else is ended. */
static void check_refused(void)
{
    VbrVm *vm = machine();
    QTestState *qts = vm->qts;
    g_autofree char *why = NULL;

    vbr_vfio_refuse_log(1);
    plug(qts, 1);
    g_assert(!migrate(qts, &why));
    g_assert_nonnull(strstr(why, "Failed to start DMA logging"));
    g_assert_cmpint(vbr_vfio_log(1).starts, ==, 1);
    vbr_assert_dirty_refused(qts, "fetch", NO_LOG);
    g_assert(vbr_dirty_is(qts, "active"));

    qtest_qmp_assert_success(qts, "{ 'execute': 'stop' }");
    vbr_dirty_do(qts, "stop");
    vbr_assert_dirty_refused(qts, "start", "Failed to start DMA logging");
    vbr_assert_dirty_refused(qts, "start", "Failed to start DMA logging");
    g_assert(!vbr_dirty_is(qts, "active"));
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
    vbr_assert_dirty_refused(qts, "start", "Failed to start DMA logging");
    vbr_vm_free(vm);
}

/* One whose log cannot be started takes none away from others. */
static void check_apart(void)
{
    VbrVm *vm = machine();
    QTestState *qts = vm->qts;
    g_autofree char *why = NULL;

    vbr_vfio_keep_apart();
    vbr_vfio_refuse_log(1);
    plug(qts, 1);
    vbr_assert_dirty_refused(qts, "fetch", NO_LOG);
    g_assert(!migrate(qts, &why));
    g_assert_nonnull(strstr(why, "Failed to start DMA logging"));
    g_assert_cmpint(vbr_vfio_log(1).starts, ==, 1);
    assert_logged(0, 1);

    /* Nobody needs it when the list ended, however that came. */
    qtest_qmp_assert_success(qts, "{ 'execute': 'stop' }");
    vbr_dirty_do(qts, "stop");
    vbr_assert_dirty_refused(qts, "start", "Failed to start DMA logging");
    assert_logged(0, 1);
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
    g_assert(!vbr_vfio_log(0).on);
    vbr_vm_free(vm);
}

/* In a process of its own: whose system calls are filtered is so for good. */
static void with_vfio(const void *data)
{
    void (*check)(void) = data;

    if (!g_test_subprocess()) {
        g_test_trap_subprocess(NULL, 0, 0);
        g_test_trap_assert_passed();
    } else if (vbr_vfio_start()) {
        check();
        vbr_vfio_stop();
    }
}

void vbr_add_dirty_vfio_tests(void)
{
    if (!qtest_has_device("vfio-pci")) {
        return;
    }
    qtest_add_data_func("virtio-balloon-rs/dirty-vfio/migrate", check_migrate,
                        with_vfio);
    qtest_add_data_func("virtio-balloon-rs/dirty-vfio/start", check_start,
                        with_vfio);
    qtest_add_data_func("virtio-balloon-rs/dirty-vfio/refused", check_refused,
                        with_vfio);
    qtest_add_data_func("virtio-balloon-rs/dirty-vfio/apart", check_apart,
                        with_vfio);
}
