/*
 * virtio-balloon-rs: coming, going, and being refused
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-vm.h"
#include "qobject/qdict.h"

#define STOCK "virtio-balloon-pci"

/* device_add that has to fail; returns what QEMU says. */
static char *refused(QTestState *qts, const char *driver, const char *prop,
                     bool value)
{
    QDict *args = qdict_new();

    qdict_put_str(args, "driver", driver);
    qdict_put_str(args, "id", "other");
    if (prop) {
        qdict_put_bool(args, prop, value);
    }
    return vbr_qmp_error(qtest_qmp(qts, "{ 'execute': 'device_add', "
                                   "'arguments': %p }", args));
}

static void assert_no_balloon(QTestState *qts)
{
    g_autofree char *text = vbr_qmp_error(
        qtest_qmp(qts, "{ 'execute': 'query-balloon' }"));

    g_assert_cmpstr(text, !=, "");
}

static void test_second(void)
{
    VbrVm *vm = vbr_pc_balloon(NULL);
    g_autofree char *text = NULL;

    vbr_start(&vm->d, 0);
    text = refused(vm->qts, VBR_PCI, NULL, false);
    g_test_message("%s", text);
    g_assert_nonnull(strstr(text, "balloon"));
    g_assert_cmpint(vbr_query_balloon(vm->qts), >, 0);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

static void test_stock_after(void)
{
    VbrVm *vm = vbr_pc_balloon(NULL);
    g_autofree char *text = NULL;

    vbr_start(&vm->d, 0);
    text = refused(vm->qts, STOCK, NULL, false);
    g_assert_nonnull(strstr(text, "balloon"));
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

static void test_stock_before(void)
{
    VbrVm *vm = vbr_pc("-device " STOCK);
    g_autofree char *text = refused(vm->qts, VBR_PCI, NULL, false);

    g_assert_nonnull(strstr(text, "balloon"));
    g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 128 * MiB);
    vbr_vm_free(vm);
}

/*
 * A device that was refused leaves nothing behind: no balloon answers for
 * it, and the next one is welcome.  This one is refused by its bus when it was
 * realized already.
 */
static void test_phantom(void)
{
    VbrVm *vm = vbr_pc(" ");
    int i;

    assert_no_balloon(vm->qts);
    for (i = 0; i < 3; i++) {
        g_autofree char *text = refused(vm->qts, VBR_PCI, "iommu_platform",
                                        true);

        g_test_message("%s", text);
        g_assert_nonnull(strstr(text, "IOMMU_PLATFORM"));
        assert_no_balloon(vm->qts);
    }
    qtest_qmp_device_add(vm->qts, VBR_PCI, VBR_ID, "{'addr': '04.0'}");
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

/* A device that was asked to go goes at the next reset of the machine. */
static void unplug(VbrVm *vm)
{
    qtest_qmp_device_del_send(vm->qts, VBR_ID);
    qtest_system_reset_nowait(vm->qts);
    qtest_qmp_eventwait(vm->qts, "DEVICE_DELETED");
    assert_no_balloon(vm->qts);
}

static void plug(VbrVm *vm)
{
    qtest_qmp_device_add(vm->qts, VBR_PCI, VBR_ID, "{'addr': '04.0'}");
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
}

/* Plugged while the machine runs, taken away, plugged again. */
static void test_replug(void)
{
    VbrVm *vm = vbr_pc(" ");
    int i;

    for (i = 0; i < 5; i++) {
        plug(vm);
        vbr_assert_counter(&vm->d, "batches", 0);
        vbr_poll_stats(&vm->d, 1);
        vbr_assert_works(&vm->d);
        unplug(vm);
        /* A timer that outlived its device would fire now. */
        qtest_clock_step(vm->qts, 5 * NANOSECONDS_PER_SECOND);
        /* And one that is still known would be reset now. */
        qtest_system_reset(vm->qts);
    }
    vbr_vm_free(vm);
}

/* Taken away by the guest's own hand, at the hotplug controller. */
static void test_eject(void)
{
    VbrVm *vm = vbr_pc(" ");
    int i;

    for (i = 0; i < 3; i++) {
        plug(vm);
        vbr_assert_works(&vm->d);
        qpci_unplug_acpi_device_test(vm->qts, VBR_ID, VBR_SLOT);
        assert_no_balloon(vm->qts);
        qtest_system_reset(vm->qts);
    }
    vbr_vm_free(vm);
}

static void start_big_request(VbrDev *d)
{
    VbrSeg seg = { .len = 64 * MiB };

    seg.addr = guest_alloc(d->alloc, seg.len);
    vbr_add(d, VBR_INFLATE, &seg, 1);
    vbr_notify(d, VBR_INFLATE);
    g_assert_cmpuint(vbr_used(d, VBR_INFLATE), ==, 0);
}

/* Taken away while it is in the middle of a long request. */
static void test_unplug_in_request(void)
{
    VbrVm *vm = vbr_pc(" ");
    int i;

    for (i = 0; i < 3; i++) {
        VbrSeg seg = { .addr = 1 * MiB, .len = 10 };

        plug(vm);
        vbr_poll_stats(&vm->d, 1);
        vbr_add(&vm->d, VBR_STATS, &seg, 1);
        vbr_notify(&vm->d, VBR_STATS);
        start_big_request(&vm->d);
        /* Ejecting does not reset the device first, as a reset would. */
        qpci_unplug_acpi_device_test(vm->qts, VBR_ID, VBR_SLOT);
        assert_no_balloon(vm->qts);
        vbr_settle(&vm->d);
        qtest_clock_step(vm->qts, 5 * NANOSECONDS_PER_SECOND);
        alloc_destroy(&vm->alloc);
        alloc_init(&vm->alloc, 0, 1 * MiB, 128 * MiB, VBR_PAGE);
    }
    plug(vm);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

static char *qom_type(QTestState *qts, const char *path)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': "
                           "{ 'path': %s, 'property': 'type' } }", path);
    char *type = g_strdup(qdict_get_str(rsp, "return"));

    qobject_unref(rsp);
    return type;
}

/* The short name picks the PCI device on a PCI machine. */
static void test_alias(void)
{
    VbrVm *vm = vbr_pc("-device " VBR_TYPE "," VBR_SLOT_ARG);
    g_autofree char *type = qom_type(vm->qts, VBR_PATH);

    g_assert_cmpstr(type, ==, VBR_PCI);
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

static void assert_same(VbrVm *vm, const char *property)
{
    QDict *proxy, *backend;

    proxy = qtest_qmp(vm->qts, "{ 'execute': 'qom-get', 'arguments': "
                      "{ 'path': %s, 'property': %s } }",
                      VBR_PATH, property);
    backend = qtest_qmp(vm->qts, "{ 'execute': 'qom-get', 'arguments': "
                        "{ 'path': %s, 'property': %s } }",
                        VBR_PATH "/virtio-backend", property);
    g_assert(qdict_haskey(proxy, "return"));
    g_assert(qdict_haskey(backend, "return"));
    g_assert(qobject_is_equal(qdict_get(proxy, "return"),
                              qdict_get(backend, "return")));
    qobject_unref(proxy);
    qobject_unref(backend);
}

/*
 * Free page hints need an iothread with QEMU's C device only: accepted, and
 * said.
 */
static void test_iothread(void)
{
    VbrVm *vm = vbr_pc("-object iothread,id=io");
    g_autofree char *said = qtest_hmp(vm->qts, "device_add " VBR_PCI ","
                                      VBR_SLOT_ARG ",iothread=io,"
                                      "free-page-hint=on");
    QDict *rsp = qtest_qmp(vm->qts, "{ 'execute': 'qom-get', 'arguments': "
                           "{ 'path': %s, 'property': 'iothread' } }",
                           VBR_PATH);

    g_assert_nonnull(strstr(said, "iothread has no effect"));
    g_assert_cmpstr(qdict_get_str(rsp, "return"), ==, "/objects/io");
    qobject_unref(rsp);
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    g_assert(vbr_has(&vm->d, VIRTIO_BALLOON_F_FREE_PAGE_HINT));
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

/* All that can be asked is there on the device and on its proxy. */
static void test_properties(void)
{
    static const char *const names[] = {
        "guest-stats", "guest-stats-polling-interval",
        "ballooned-bytes", "inflated-bytes", "deflated-bytes",
        "reported-bytes", "discarded-bytes", "ranges", "discards", "batches",
        "discard-errors", "free-errors", "ignored-bad-pfns",
        "ignored-trailing-bytes",
        "ignored-writable-buffers", "ignored-readable-buffers",
        "ignored-report-bytes", "ignored-report-unaligned-bytes",
        "ignored-report-poison-bytes", "ignored-stats",
        "ignored-stats-buffers", "partial-page-bytes", "inhibited-bytes",
        "discard-inhibited", "free-page-hint-state",
        "free-page-hint-inhibited", "free-page-hint-window", "hint-rounds",
        "hinted-bytes", "hint-left-out-bytes", "ballooned-left-out-bytes",
        "late-hint-bytes", "refused-hint-not-ram-bytes",
        "refused-hint-not-migrated-bytes", "refused-hint-partial-page-bytes",
        "refused-hint-unprotected-bytes", "refused-hint-overflow-bytes",
        "ignored-hint-ids", "hint-wait-ms",
        "hint-wait-bytes", "free-page-source", "requests",
        "malformed-messages", "ignored-message-bytes",
        "malformed-message-reason", "ignored-request-buffers",
        "founding-feature-bits", "free-page-reporting-advice",
        "free-page-reporting-advice-in-force",
    };
    VbrVm *vm = vbr_pc_balloon(NULL);
    int i;

    vbr_start(&vm->d, 0);
    vbr_assert_works(&vm->d);
    for (i = 0; i < ARRAY_SIZE(names); i++) {
        g_test_message("%s", names[i]);
        assert_same(vm, names[i]);
    }
    vbr_vm_free(vm);
}

/* Counters are for reading. */
static void test_read_only(void)
{
    VbrVm *vm = vbr_pc_balloon(NULL);
    g_autofree char *text = vbr_qmp_error(
        qtest_qmp(vm->qts, "{ 'execute': 'qom-set', 'arguments': { 'path': "
                  "'" VBR_PATH "', 'property': 'inflated-bytes', "
                  "'value': 1 } }"));

    g_assert_cmpstr(text, !=, "");
    vbr_vm_free(vm);
}

void vbr_add_realize_tests(void)
{
    qtest_add_func("virtio-balloon-rs/realize/second", test_second);
    qtest_add_func("virtio-balloon-rs/realize/stock-after", test_stock_after);
    qtest_add_func("virtio-balloon-rs/realize/stock-before",
                   test_stock_before);
    qtest_add_func("virtio-balloon-rs/realize/phantom", test_phantom);
    qtest_add_func("virtio-balloon-rs/realize/alias", test_alias);
    qtest_add_func("virtio-balloon-rs/realize/iothread", test_iothread);
    qtest_add_func("virtio-balloon-rs/realize/properties", test_properties);
    qtest_add_func("virtio-balloon-rs/realize/read-only", test_read_only);
    qtest_add_func("virtio-balloon-rs/hotplug/replug", test_replug);
    qtest_add_func("virtio-balloon-rs/hotplug/eject", test_eject);
    qtest_add_func("virtio-balloon-rs/hotplug/unplug-in-request",
                   test_unplug_in_request);
}
