/*
 * virtio-balloon-rs: the polling timer of a device that is not there yet
 *
 * The interval is a property like any other, so it can be set on a device
 * that is refused in the end.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vm.h"
#include "qobject/qdict.h"

#define INTERVAL "guest-stats-polling-interval"
#define POLLED "virtio_balloon_rs_stats_poll "

/* A machine that writes each run of the timer to a file. */
static VbrVm *traced_machine(const char *log, const char *args)
{
    return vbr_pc("-trace virtio_balloon_rs_stats_poll -D %s %s", log, args);
}

static bool has_polled(VbrVm *vm, const char *log)
{
    g_autofree char *text = NULL;
    int i;

    for (i = 0; i < 5; i++) {
        qtest_clock_step(vm->qts, NANOSECONDS_PER_SECOND);
    }
    vbr_settle(&vm->d);
    g_assert(g_file_get_contents(log, &text, NULL, NULL));
    return strstr(text, POLLED);
}

/*
 * Adds a device with an interval of a second and a property that is on, or
 * is no such value; returns why QEMU refuses it.
 */
static char *refused(QTestState *qts, const char *property, bool valid)
{
    QDict *args = qdict_new();

    qdict_put_str(args, "driver", VBR_PCI);
    qdict_put_str(args, "id", "other");
    qdict_put_int(args, INTERVAL, 1);
    if (valid) {
        qdict_put_bool(args, property, true);
    } else {
        qdict_put_str(args, property, "bad");
    }
    return vbr_qmp_error(qtest_qmp(qts, "{ 'execute': 'device_add', "
                                   "'arguments': %p }", args));
}

/*
 * A device that was refused has no timer that could run after it.  That the
 * trace would show it is seen with one that was not refused.
 */
static void test_refused(void)
{
    g_autofree char *log = vbr_stream_name();
    VbrVm *vm = traced_machine(log, "");
    int i;

    for (i = 0; i < 10; i++) {
        g_autofree char *bad = refused(vm->qts, "page-poison", false);
        g_autofree char *late = refused(vm->qts, "iommu_platform", true);

        g_assert_nonnull(strstr(bad, "'page-poison'"));
        /* The bus says so when the device itself is realized. */
        g_assert_nonnull(strstr(late, "IOMMU_PLATFORM"));
    }
    g_assert(!has_polled(vm, log));
    qtest_qmp_device_add(vm->qts, VBR_PCI, VBR_ID,
                         "{ 'addr': '04.0', '" INTERVAL "': 1 }");
    g_assert(has_polled(vm, log));
    vbr_vm_free(vm);
    unlink(log);
}

/* One refused after the interval was set, because there is one already. */
static void test_refused_second(void)
{
    g_autofree char *log = vbr_stream_name();
    VbrVm *vm = traced_machine(log, "-device " VBR_PCI "," VBR_SLOT_ARG);
    g_autofree char *why = refused(vm->qts, "page-poison", true);

    g_assert_nonnull(strstr(why, "one balloon"));
    g_assert(!has_polled(vm, log));
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
    unlink(log);
}

/*
 * An interval from the command line is as good as one that is set later:
 * the timer runs before there is a driver, and returns what that gives.
 */
static void test_command_line(void)
{
    g_autofree char *log = vbr_stream_name();
    VbrVm *vm = traced_machine(log, "-device " VBR_PCI "," VBR_SLOT_ARG
                               "," INTERVAL "=2");
    VbrDev *d = &vm->d;
    int i;

    g_assert(has_polled(vm, log));
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_assert_counter(d, INTERVAL, 2);
    vbr_start(d, 0);
    for (i = 0; i < 3; i++) {
        VbrSeg seg = { .addr = guest_alloc(d->alloc, 10), .len = 10 };

        vbr_add(d, VBR_STATS, &seg, 1);
        vbr_notify(d, VBR_STATS);
        vbr_settle(d);
        qtest_clock_step(d->qts, NANOSECONDS_PER_SECOND);
        g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
        qtest_clock_step(d->qts, 2 * NANOSECONDS_PER_SECOND);
        vbr_take(d, VBR_STATS, 1);
    }
    vbr_vm_free(vm);
    unlink(log);
}

void vbr_add_timer_tests(void)
{
    qtest_add_func("virtio-balloon-rs/timer/refused", test_refused);
    qtest_add_func("virtio-balloon-rs/timer/refused-second",
                   test_refused_second);
    qtest_add_func("virtio-balloon-rs/timer/command-line",
                   test_command_line);
}
