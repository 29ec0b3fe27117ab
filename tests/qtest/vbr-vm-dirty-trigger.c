/*
 * dirty-page-list: so many dirty pages that the machine is paused
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-dirty.h"
#include "vbr-hint.h"
#include "qobject/qdict.h"

#define K16 "max-dirty=256,dirty-trigger=16"
#define AT_16 "DIRTY_PAGE_LIST_TRIGGER dl0=16 STOP "

static void cont(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
}

static void stop(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'stop' }");
}

/* @pages pages that were not written to before. */
static void write_more(QTestState *qts, size_t pages)
{
    static uint64_t next = 1 * MiB;

    if (next + pages * 2 * VBR_PAGE > 100 * MiB) {
        next = 1 * MiB;
    }
    vbr_dirty_write(qts, next, pages, 2 * VBR_PAGE, 1);
    next += pages * 2 * VBR_PAGE;
}

static void fetch_all(QTestState *qts, size_t pages)
{
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 0, NULL), ==, pages);
}

/* Cycle after cycle: K pages, pause, fetch, reset, on. */
static void check_cycles(const char *props)
{
    VbrVm *vm = vbr_dirty_pc("", props);
    QTestState *qts = vm->qts;
    GString *events = vbr_dirty_events(qts);
    int i;

    for (i = 1; i <= 3; i++) {
        write_more(qts, 15);
        /* What is dirty already does not count again. */
        vbr_dirty_write(qts, 110 * MiB, 1, VBR_PAGE, 1);
        vbr_dirty_write(qts, 110 * MiB, 1, VBR_PAGE, 2);
        vbr_dirty_await(qts, "dirty-trigger");
        vbr_assert_events(qts, events, AT_16);
        vbr_assert_dirty(qts, "triggers", i);
        vbr_assert_dirty(qts, "dirty-index", 16 * i);
        vbr_assert_dirty(qts, "reset-index", 16 * (i - 1));
        fetch_all(qts, 16);
        vbr_dirty_do(qts, "reset");
        vbr_assert_events(qts, events, "");
        vbr_assert_status(qts, "dirty-trigger");
        cont(qts);
        vbr_assert_events(qts, events, "RESUME ");
        vbr_assert_status(qts, "running");
    }
    vbr_vm_free(vm);
    g_string_free(events, true);
}

static void test_cycles(void)
{
    check_cycles(K16);
    check_cycles(K16 ",no-dups=on");
}

/* One less than that is nothing, with all that does not count. */
static void test_below(void)
{
    VbrVm *vm = vbr_dirty_pc("", K16);
    QTestState *qts = vm->qts;
    GString *events = vbr_dirty_events(qts);

    write_more(qts, 15);
    vbr_assert_events(qts, events, "");
    /* Fetched or not, they are pages since the last reset. */
    fetch_all(qts, 15);
    vbr_assert_events(qts, events, "");
    vbr_dirty_do(qts, "reset");
    write_more(qts, 15);
    vbr_assert_events(qts, events, "");
    /* A reset without a fetch is none. */
    vbr_dirty_do(qts, "reset");
    vbr_assert_events(qts, events, "");
    fetch_all(qts, 15);
    write_more(qts, 1);
    vbr_dirty_await(qts, "dirty-trigger");
    vbr_assert_events(qts, events, AT_16);
    vbr_vm_free(vm);
    g_string_free(events, true);
}

/* It goes off once until it is armed again. */
static void test_armed_by_reset(void)
{
    VbrVm *vm = vbr_dirty_pc("", K16);
    QTestState *qts = vm->qts;
    GString *events = vbr_dirty_events(qts);

    write_more(qts, 16);
    vbr_dirty_await(qts, "dirty-trigger");
    cont(qts);
    vbr_assert_events(qts, events, AT_16 "RESUME ");
    write_more(qts, 40);
    vbr_assert_events(qts, events, "");
    fetch_all(qts, 56);
    write_more(qts, 40);
    vbr_assert_events(qts, events, "");
    vbr_assert_status(qts, "running");

    /* Armed: 40 are pending, so this is the page already. */
    vbr_dirty_do(qts, "reset");
    vbr_dirty_await(qts, "dirty-trigger");
    vbr_assert_events(qts, events, "DIRTY_PAGE_LIST_TRIGGER dl0=40 STOP ");
    vbr_assert_dirty(qts, "triggers", 2);

    /* Once more, with a machine that is stopped: when it goes on. */
    vbr_dirty_do(qts, "reset");
    vbr_assert_events(qts, events, "");
    cont(qts);
    vbr_dirty_await(qts, "dirty-trigger");
    vbr_assert_events(qts, events,
                      "RESUME DIRTY_PAGE_LIST_TRIGGER dl0=40 STOP ");

    /* And not if there is no reason any more. */
    vbr_dirty_do(qts, "reset");
    fetch_all(qts, 40);
    vbr_dirty_do(qts, "reset");
    cont(qts);
    vbr_assert_events(qts, events, "RESUME ");
    vbr_assert_status(qts, "running");

    /* Stopped by somebody else, who gets no other state for it. */
    stop(qts);
    write_more(qts, 15);
    vbr_dirty_do(qts, "reset");
    vbr_assert_status(qts, "paused");
    cont(qts);
    vbr_assert_events(qts, events, "STOP RESUME ");
    write_more(qts, 1);
    vbr_dirty_await(qts, "dirty-trigger");
    vbr_assert_events(qts, events, AT_16);
    vbr_vm_free(vm);
    g_string_free(events, true);
}

/* K is reached while the machine is stopped: it pauses when it goes on. */
static void check_while_stopped(const char *args, const char *status)
{
    VbrVm *vm = vbr_dirty_pc(args, K16);
    QTestState *qts = vm->qts;
    GString *events = vbr_dirty_events(qts);

    stop(qts);
    vbr_assert_status(qts, status);
    g_string_truncate(events, 0);
    write_more(qts, 16);
    vbr_assert_events(qts, events, "");
    vbr_assert_status(qts, status);
    cont(qts);
    vbr_dirty_await(qts, "dirty-trigger");
    vbr_assert_events(qts, events, "RESUME " AT_16);
    vbr_assert_dirty(qts, "triggers", 1);
    cont(qts);
    vbr_assert_events(qts, events, "RESUME ");
    vbr_assert_status(qts, "running");
    vbr_vm_free(vm);
    g_string_free(events, true);
}

static void test_while_stopped(void)
{
    check_while_stopped("", "paused");
    check_while_stopped("-S", "prelaunch");
}

/* The smallest, the largest, and more than K at a time. */
static void test_sizes(void)
{
    VbrVm *vm = vbr_dirty_pc("", "max-dirty=256,dirty-trigger=1");
    GString *events = vbr_dirty_events(vm->qts);

    write_more(vm->qts, 1);
    vbr_dirty_await(vm->qts, "dirty-trigger");
    vbr_assert_events(vm->qts, events, "DIRTY_PAGE_LIST_TRIGGER dl0=1 STOP ");
    vbr_vm_free(vm);

    /* All that there is room for, and all of it is there. */
    vm = vbr_dirty_pc("", "max-dirty=256,dirty-trigger=256");
    qtest_qmp_set_event_callback(vm->qts, NULL, NULL);
    write_more(vm->qts, 255);
    vbr_assert_status(vm->qts, "running");
    write_more(vm->qts, 1);
    vbr_dirty_await(vm->qts, "dirty-trigger");
    g_assert(!vbr_dirty_is(vm->qts, "overflow"));
    fetch_all(vm->qts, 256);
    vbr_vm_free(vm);
    g_string_free(events, true);

    /* One write of 100 pages: the machine is paused behind it. */
    vm = vbr_dirty_pc("", K16);
    events = vbr_dirty_events(vm->qts);
    qtest_memset(vm->qts, 16 * MiB, 1, 100 * VBR_PAGE);
    vbr_dirty_await(vm->qts, "dirty-trigger");
    vbr_assert_events(vm->qts, events,
                      "DIRTY_PAGE_LIST_TRIGGER dl0=100 STOP ");
    vbr_assert_fetch(vm->qts, "pc.ram 1000000+64000 @1000000");
    vbr_vm_free(vm);
    g_string_free(events, true);

    /* Never. */
    vm = vbr_dirty_pc("", "max-dirty=256,dirty-trigger=0");
    events = vbr_dirty_events(vm->qts);
    write_more(vm->qts, 300);
    vbr_assert_events(vm->qts, events, "");
    vbr_assert_dirty(vm->qts, "triggers", 0);
    vbr_vm_free(vm);
    g_string_free(events, true);
}

/* There is no room for pages, and yet they are dirty and count. */
static void test_overflown(void)
{
    VbrVm *vm = vbr_dirty_pc("", K16 ",no-dups=on");
    QTestState *qts = vm->qts;
    GString *events = vbr_dirty_events(qts);

    write_more(qts, 16);
    vbr_dirty_await(qts, "dirty-trigger");
    cont(qts);
    write_more(qts, 600);
    vbr_assert_events(qts, events, AT_16 "RESUME ");
    g_assert(vbr_dirty_is(qts, "overflow"));
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 100, NULL), ==, 616);
    vbr_dirty_do(qts, "reset");
    write_more(qts, 15);
    vbr_assert_events(qts, events, "");
    write_more(qts, 1);
    vbr_dirty_await(qts, "dirty-trigger");
    vbr_assert_events(qts, events, AT_16);
    vbr_vm_free(vm);
    g_string_free(events, true);
}

/* A list that was stopped pauses nothing; a new start counts from 0. */
static void test_list_stopped(void)
{
    VbrVm *vm = vbr_dirty_pc("", K16);
    QTestState *qts = vm->qts;
    GString *events = vbr_dirty_events(qts);

    write_more(qts, 15);
    vbr_dirty_do(qts, "stop");
    write_more(qts, 20);
    vbr_assert_events(qts, events, "");
    vbr_dirty_do(qts, "start");
    write_more(qts, 15);
    vbr_assert_events(qts, events, "");
    write_more(qts, 1);
    vbr_dirty_await(qts, "dirty-trigger");
    vbr_assert_events(qts, events, AT_16);

    /* Paused, the list is stopped and started, and the machine goes on. */
    vbr_dirty_do(qts, "reset");
    vbr_dirty_do(qts, "stop");
    vbr_assert_status(qts, "dirty-trigger");
    vbr_dirty_do(qts, "start");
    cont(qts);
    vbr_assert_events(qts, events, "RESUME ");
    write_more(qts, 15);
    vbr_assert_events(qts, events, "");
    write_more(qts, 1);
    vbr_dirty_await(qts, "dirty-trigger");
    vbr_assert_events(qts, events, AT_16);

    /* The same without a new start: nobody lists any more. */
    vbr_dirty_do(qts, "reset");
    vbr_dirty_do(qts, "stop");
    cont(qts);
    vbr_assert_events(qts, events, "RESUME ");
    vbr_assert_status(qts, "running");

    /* And without the object, with a pause that is owed. */
    vbr_dirty_do(qts, "start");
    write_more(qts, 16);
    vbr_dirty_await(qts, "dirty-trigger");
    vbr_assert_events(qts, events, AT_16);
    vbr_dirty_do(qts, "reset");
    vbr_dirty_do(qts, "stop");
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del', 'arguments': "
                             "{ 'id': '" VBR_DL_ID "' } }");
    vbr_assert_status(qts, "dirty-trigger");
    cont(qts);
    vbr_assert_events(qts, events, "RESUME ");
    vbr_assert_status(qts, "running");
    vbr_vm_free(vm);
    g_string_free(events, true);
}

/* What else can be done with a machine in this state. */
static void test_state(void)
{
    VbrVm *vm = vbr_dirty_pc("", K16);
    QTestState *qts = vm->qts;
    g_autofree char *hmp = NULL;

    write_more(qts, 16);
    vbr_dirty_await(qts, "dirty-trigger");
    hmp = qtest_hmp(qts, "info status");
    g_assert_nonnull(strstr(hmp, "dirty-trigger"));
    stop(qts);
    vbr_assert_status(qts, "dirty-trigger");
    cont(qts);
    vbr_assert_status(qts, "running");
    vbr_dirty_do(qts, "reset");
    vbr_dirty_await(qts, "dirty-trigger");
    qtest_qmp_assert_success(qts, "{ 'execute': 'system_reset' }");
    vbr_dirty_await(qts, "prelaunch");
    cont(qts);
    vbr_assert_status(qts, "running");
    vbr_vm_free(vm);
}

/* A guest that sleeps, and whose devices do not. */
static void test_suspended(void)
{
    const uint16_t pm_base = 0x600;
    VbrVm *vm = vbr_dirty_pc("", K16);
    QTestState *qts = vm->qts;
    QPCIDevice *pm = qpci_device_find(vm->bus, QPCI_DEVFN(1, 3));

    g_assert_nonnull(pm);
    qpci_config_writel(pm, 0x40, pm_base | 1);
    qpci_config_writeb(pm, 0x80, 1);
    /* SLP_EN, and S3 as its type. */
    qtest_outw(qts, pm_base + 4, 1 << 13 | 1 << 10);
    vbr_dirty_await(qts, "suspended");
    write_more(qts, 16);
    vbr_dirty_await(qts, "dirty-trigger");
    cont(qts);
    vbr_dirty_await(qts, "suspended");
    g_free(pm);
    vbr_vm_free(vm);
}

/* A snapshot that is written while the machine is paused. */
static void test_background_snapshot(void)
{
    VbrVm *vm = vbr_dirty_pc("-m 16M", K16);
    QTestState *qts = vm->qts;
    QDict *rsp;

    rsp = qtest_qmp(qts, "{ 'execute': 'migrate-set-capabilities', "
                    "'arguments': { 'capabilities': [ { 'capability': "
                    "'background-snapshot', 'state': true } ] } }");
    if (qdict_haskey(rsp, "error")) {
        g_test_skip("this host cannot write-protect memory in user space");
    } else {
        write_more(qts, 16);
        vbr_dirty_await(qts, "dirty-trigger");
        vbr_migrate(qts, VBR_NOWHERE);
        vbr_migrate_until(qts, "completed");
        vbr_dirty_await(qts, "dirty-trigger");
        cont(qts);
        vbr_assert_status(qts, "running");
    }
    qobject_unref(rsp);
    vbr_vm_free(vm);
}

void vbr_add_dirty_trigger_tests(void)
{
    qtest_add_func("virtio-balloon-rs/dirty-trigger/cycles", test_cycles);
    qtest_add_func("virtio-balloon-rs/dirty-trigger/below", test_below);
    qtest_add_func("virtio-balloon-rs/dirty-trigger/armed-by-reset",
                   test_armed_by_reset);
    qtest_add_func("virtio-balloon-rs/dirty-trigger/while-stopped",
                   test_while_stopped);
    qtest_add_func("virtio-balloon-rs/dirty-trigger/sizes", test_sizes);
    qtest_add_func("virtio-balloon-rs/dirty-trigger/overflown",
                   test_overflown);
    qtest_add_func("virtio-balloon-rs/dirty-trigger/list-stopped",
                   test_list_stopped);
    qtest_add_func("virtio-balloon-rs/dirty-trigger/state", test_state);
    qtest_add_func("virtio-balloon-rs/dirty-trigger/suspended",
                   test_suspended);
    qtest_add_func("virtio-balloon-rs/dirty-trigger/background-snapshot",
                   test_background_snapshot);
}
