/*
 * dirty-page-list: with each accelerator, and with snapshots
 *
 * Processors do not run: what is written is written from outside, as by
 * devices.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/ioctl.h>
#include <linux/kvm.h>
#include "vbr-dirty.h"
#include "vbr-hint.h"
#include "vbr-stream.h"
#include "qobject/qdict.h"

#define RAM (16 * MiB)

typedef struct Accel {
    const char *name;
    const char *args;
    bool kvm;
    bool ring;
} Accel;

static const Accel accels[] = {
    { "tcg", "-accel tcg" },
    { "kvm-log", "-accel kvm", .kvm = true },
    { "kvm-ring", "-accel kvm,dirty-ring-size=4096", .kvm = true,
      .ring = true },
};

/* Why this host cannot; NULL: it can. */
static const char *lacks(const Accel *a)
{
    const char *why = NULL;
    int kvm, vm;

    if (!a->kvm) {
        return qtest_has_accel("tcg") ? NULL : "this QEMU has no TCG";
    }
    if (!qtest_has_accel("kvm")) {
        return "this QEMU has no KVM";
    }
    kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        return "/dev/kvm cannot be opened";
    }
    vm = ioctl(kvm, KVM_CREATE_VM, 0);
    if (vm < 0) {
        why = "/dev/kvm makes no machines";
    } else {
        if (a->ring &&
            ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_DIRTY_LOG_RING) <= 0 &&
            ioctl(vm, KVM_CHECK_EXTENSION,
                  KVM_CAP_DIRTY_LOG_RING_ACQ_REL) <= 0) {
            why = "this host's KVM has no dirty ring";
        }
        close(vm);
    }
    close(kvm);
    return why;
}

static VbrVm *machine(const Accel *a, const char *more)
{
    VbrVm *vm = vbr_pc("-m 16M %s -S %s", a->args, more);
    QDict *ret = qtest_qmp_assert_success_ref(vm->qts,
                                              "{ 'execute': 'query-kvm' }");

    /* It did not fall back to another one. */
    g_assert(qdict_get_bool(ret, "enabled") == a->kvm);
    qobject_unref(ret);
    return vm;
}

static void check_accel(const void *data)
{
    const Accel *a = data;
    g_autofree char *sock = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("unix:%s", sock);
    GHashTable *pages = vbr_dirty_pages();
    VbrVm *from, *to;
    QTestState *qts;

    if (lacks(a)) {
        g_test_skip(lacks(a));
        return;
    }
    from = machine(a, VBR_DL ",max-dirty=256,no-dups=on");
    to = machine(a, "-incoming defer");
    qts = from->qts;

    vbr_dirty_do(qts, "start");
    vbr_assert_fetch(qts, "");
    vbr_dirty_write(qts, 1 * MiB, 10, 2 * VBR_PAGE, 1);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 4, pages), ==, 10);
    vbr_assert_pages(pages, 1 * MiB, 10, 2 * VBR_PAGE);
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 2);
    vbr_assert_fetch(qts, "pc.ram 100000+1000 @100000");
    vbr_assert_fetch(qts, "");

    qtest_qmp_assert_success(to->qts, "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s } }", uri);
    vbr_migrate_capability(qts, "pause-before-switchover");
    vbr_migrate(qts, uri);
    vbr_migrate_until(qts, "pre-switchover");
    pages = vbr_dirty_pages();
    vbr_dirty_write(qts, 2 * MiB, 1000, 2 * VBR_PAGE, 3);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 300, pages), ==, 1000);
    vbr_assert_pages(pages, 2 * MiB, 1000, 2 * VBR_PAGE);
    vbr_dirty_write(qts, 2 * MiB, 20, VBR_PAGE, 4);
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-continue', "
                             "'arguments': { 'state': 'pre-switchover' } }");
    vbr_migrate_until(qts, "completed");
    vbr_migrate_until(to->qts, "completed");
    g_assert(vbr_same_memory(from, to, RAM));
    vbr_assert_fetch(qts, "pc.ram 200000+14000 @200000");
    vbr_dirty_do(qts, "stop");
    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 2);
    vbr_assert_fetch(qts, "pc.ram 100000+1000 @100000");
    vbr_vm_free(from);
    vbr_vm_free(to);
    unlink(sock);
}

/* Snapshots */

static VbrVm *snapshot_machine(const char *more, const char *image)
{
    VbrVm *vm = vbr_pc("-m 16M %s", more);

    vbr_snapshot_disk(vm->qts, image);
    return vm;
}

static void assert_unknown(QTestState *qts)
{
    g_assert(vbr_dirty_is(qts, "overflow"));
    vbr_assert_dirty_refused(qts, "fetch", VBR_DL_EOVERFLOW);
    vbr_dirty_write(qts, 3 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_dirty_refused(qts, "fetch", VBR_DL_EOVERFLOW);
    vbr_dirty_do(qts, "reset");
    vbr_assert_dirty_refused(qts, "fetch", VBR_DL_EOVERFLOW);
    vbr_dirty_do(qts, "stop");
    vbr_assert_dirty_refused(qts, "fetch", VBR_DL_EOVERFLOW);
    vbr_dirty_do(qts, "start");
    g_assert(!vbr_dirty_is(qts, "overflow"));
    vbr_assert_fetch(qts, "");
    vbr_dirty_write(qts, 3 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "pc.ram 300000+1000 @300000");
}

/* All of memory changed, and the list does not know where. */
static void check_loaded(const char *props, const char *args, bool stop)
{
    g_autofree char *image = vbr_stream_name();
    g_autofree char *more = g_strdup_printf("%s " VBR_DL ",%s", args, props);
    VbrVm *vm = snapshot_machine(more, image);
    QTestState *qts = vm->qts;

    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, 1 * MiB, 3, VBR_PAGE, 1);
    vbr_snapshot(qts, "savevm");
    /* Who only saves changes nothing. */
    vbr_assert_fetch(qts, "pc.ram 100000+3000 @100000");
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 2);
    vbr_assert_fetch(qts, "pc.ram 100000+1000 @100000");
    vbr_dirty_write(qts, 2 * MiB, 3, VBR_PAGE, 1);
    if (stop) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'stop' }");
    }
    vbr_snapshot(qts, "loadvm");
    g_assert_cmphex(qtest_readb(qts, 1 * MiB), ==, 1);
    assert_unknown(qts);
    vbr_vm_free(vm);
    unlink(image);
}

static void test_loaded(void)
{
    check_loaded("max-dirty=256", "", false);
    check_loaded("max-dirty=256,no-dups=on", "", false);
}

static void test_loaded_stopped(void)
{
    check_loaded("max-dirty=256", "", true);
    check_loaded("max-dirty=256,no-dups=on", "-S", false);
}

/* The same in the state that the trigger brings. */
static void test_loaded_trigger(void)
{
    g_autofree char *image = vbr_stream_name();
    VbrVm *vm = snapshot_machine(VBR_DL ",max-dirty=256,dirty-trigger=4",
                                 image);
    QTestState *qts = vm->qts;

    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, 1 * MiB, 4, VBR_PAGE, 1);
    vbr_dirty_await(qts, "dirty-trigger");
    vbr_snapshot(qts, "savevm");
    vbr_assert_status(qts, "dirty-trigger");
    vbr_assert_fetch(qts, "pc.ram 100000+4000 @100000");
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 2);
    vbr_snapshot(qts, "loadvm");
    vbr_assert_status(qts, "dirty-trigger");
    assert_unknown(qts);
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
    vbr_assert_status(qts, "running");
    vbr_vm_free(vm);
    unlink(image);
}

/* Nobody listed when it was loaded: nothing is amiss. */
static void test_loaded_before(void)
{
    g_autofree char *image = vbr_stream_name();
    VbrVm *vm = snapshot_machine(VBR_DL ",max-dirty=256", image);
    QTestState *qts = vm->qts;

    vbr_snapshot(qts, "savevm");
    vbr_snapshot(qts, "loadvm");
    g_assert(!vbr_dirty_is(qts, "overflow"));
    vbr_assert_dirty_refused(qts, "fetch", "start");
    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, 3 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "pc.ram 300000+1000 @300000");
    vbr_vm_free(vm);
    unlink(image);
}

void vbr_add_dirty_accel_tests(void)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(accels); i++) {
        g_autofree char *name = g_strdup_printf(
            "virtio-balloon-rs/dirty-accel/%s", accels[i].name);

        qtest_add_data_func(name, &accels[i], check_accel);
    }
    qtest_add_func("virtio-balloon-rs/dirty-snapshot/loaded", test_loaded);
    qtest_add_func("virtio-balloon-rs/dirty-snapshot/loaded-stopped",
                   test_loaded_stopped);
    qtest_add_func("virtio-balloon-rs/dirty-snapshot/loaded-trigger",
                   test_loaded_trigger);
    qtest_add_func("virtio-balloon-rs/dirty-snapshot/loaded-before",
                   test_loaded_before);
}
