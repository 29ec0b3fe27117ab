/*
 * virtio-balloon-rs: inflated memory that is held back for a while
 *
 * What a request leaves of a huge page waits for its neighbours, a bounded time
 * and up to a bounded size. A guest that takes it back finds what it left
 * there.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-calm.h"
#include "vbr-probe.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "standard-headers/linux/pci_regs.h"

#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)
#define PATTERN 0x6b
#define NO_MTH (1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST)

/* For tests that wait until it would be over. */
#define SHORT_MS 200
#define SHORT "inflate-hold-ms=200"

/*
 * Filled pages, with one on either side that is not for the balloon; in a part
 * of memory where huge pages can be.
 */
static uint64_t filled(VbrDev *d)
{
    uint64_t base = vbr_pages(d, NPAGES + 2, 2 * MiB) + VBR_PAGE;

    vbr_fill(d, base - VBR_PAGE, NPAGES + 2, PATTERN);
    return base;
}

static void assert_only_these_gone(VbrDev *d, uint64_t base)
{
    vbr_assert_gone(d, base, NPAGES);
    vbr_assert_kept(d, base - VBR_PAGE, 1, PATTERN);
    vbr_assert_kept(d, base + BYTES, 1, PATTERN);
}

/* Held back until the machine stops. */
static bool stop(const void *data)
{
    VbrCalm calm = vbr_calm_begin();
    VbrVm *vm = vbr_hold_machine("", VBR_LONG, 0);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d), held;
    size_t before, after;
    bool calmly;

    vbr_calm_start_clock(&calm);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    held = vbr_counter(d, "held-bytes");
    before = vbr_resident(d, base, NPAGES);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'stop' }");
    after = vbr_resident(d, base, NPAGES);
    calmly = vbr_calm_lasted(&calm, VBR_LONG_MS);
    g_assert_cmpuint(after, ==, 0);
    if (calmly) {
        g_assert_cmpuint(held, ==, BYTES);
        g_assert_cmpuint(before, ==, NPAGES);
    }
    vbr_assert_counter(d, "held-bytes", 0);
    assert_only_these_gone(d, base);
    vbr_vm_free(vm);
    return calmly;
}

static void test_stop(void)
{
    vbr_calmly(stop, NULL);
}

/* Reads each property that there is. */
static void read_all(VbrDev *d)
{
    QDict *rsp = qtest_qmp(d->qts, "{ 'execute': 'qom-list', 'arguments': "
                           "{ 'path': %s } }", VBR_PATH);
    const QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), entry) {
        QDict *property = qobject_to(QDict, qlist_entry_obj(entry));

        /* One that can only be written answers with an error. */
        qobject_unref(qtest_qmp(d->qts, "{ 'execute': 'qom-get', "
                                "'arguments': { 'path': %s, 'property': %s } }",
                                VBR_PATH, qdict_get_str(property, "name")));
    }
    qobject_unref(rsp);
}

/* Whoever asks what is in the balloon, or for all there is, changes nothing. */
static bool looked_at(const void *data)
{
    VbrCalm calm = vbr_calm_begin();
    VbrVm *vm = vbr_hold_machine("", VBR_LONG, 0);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d), held;
    size_t resident;
    bool calmly;

    vbr_calm_start_clock(&calm);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    g_assert_cmpint(vbr_query_balloon(d->qts), ==, 128 * MiB);
    read_all(d);
    held = vbr_counter(d, "held-bytes");
    resident = vbr_resident(d, base, NPAGES);
    calmly = vbr_calm_lasted(&calm, VBR_LONG_MS);
    if (calmly) {
        g_assert_cmpuint(held, ==, BYTES);
        g_assert_cmpuint(resident, ==, NPAGES);
    }
    vbr_assert_counter(d, "ballooned-bytes", BYTES);
    assert_only_these_gone(d, base);
    vbr_vm_free(vm);
    return calmly;
}

static void test_looked_at(void)
{
    vbr_calmly(looked_at, NULL);
}

/* Nobody asks, and nothing else happens: it goes when its time is over. */
static void check_deadline(const char *props)
{
    VbrVm *vm = vbr_hold_machine("", props, 0);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d);
    int i;

    for (i = 0; i < 3; i++) {
        vbr_fill(d, base, NPAGES, PATTERN);
        vbr_send_range(d, VBR_INFLATE, base, NPAGES);
        vbr_hold_wait_gone(d, base, NPAGES);
        vbr_assert_counter(d, "held-bytes", 0);
        assert_only_these_gone(d, base);
        vbr_send_range(d, VBR_DEFLATE, base, NPAGES);
    }
    vbr_vm_free(vm);
}

static void test_deadline(void)
{
    check_deadline(NULL);
    check_deadline("inflate-hold-ms=1");
    check_deadline(VBR_LONG);
}

/* A machine that was stopped goes on: what comes then goes in its time, too. */
static void test_deadline_after_stop(void)
{
    VbrVm *vm = vbr_hold_machine("", NULL, 0);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d), other = filled(d);

    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'stop' }");
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'cont' }");
    vbr_send_range(d, VBR_INFLATE, other, NPAGES);
    vbr_hold_wait_gone(d, other, NPAGES);
    assert_only_these_gone(d, base);
    assert_only_these_gone(d, other);
    vbr_vm_free(vm);
}

/* The guest has the pages back: by whatever way. */
typedef struct TakenBack {
    const char *name;
    void (*back)(VbrVm *vm, uint64_t base);
} TakenBack;

static void back_by_deflate(VbrVm *vm, uint64_t base)
{
    vbr_send_range(&vm->d, VBR_DEFLATE, base, NPAGES);
}

static void back_by_reset(VbrVm *vm, uint64_t base)
{
    vbr_restart(&vm->d, 0);
}

static void back_by_system_reset(VbrVm *vm, uint64_t base)
{
    vbr_system_reset(&vm->d);
    vbr_restart(&vm->d, 0);
}

static void back_by_queue_reset(VbrVm *vm, uint64_t base)
{
    vbr_vm_reset_queue(vm, VBR_INFLATE);
}

static void back_by_other_queue_reset(VbrVm *vm, uint64_t base)
{
    vbr_vm_reset_queue(vm, VBR_DEFLATE);
}

static bool taken_back(const void *data)
{
    const TakenBack *taken = data;
    VbrCalm calm = vbr_calm_begin();
    VbrVm *vm = vbr_hold_machine("", SHORT, 0);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d);
    bool calmly;

    vbr_calm_start_clock(&calm);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    taken->back(vm, base);
    calmly = vbr_calm_lasted(&calm, SHORT_MS);
    if (calmly) {
        vbr_assert_counter(d, "held-bytes", 0);
        g_usleep(3 * SHORT_MS * 1000);
        vbr_assert_kept(d, base - VBR_PAGE, NPAGES + 2, PATTERN);
        /* It works on as if nothing had been. */
        vbr_send_range(d, VBR_INFLATE, base, NPAGES);
        assert_only_these_gone(d, base);
    }
    vbr_vm_free(vm);
    return calmly;
}

static void test_taken_back(const void *data)
{
    const TakenBack *taken = data;

    if (taken->back == back_by_queue_reset ||
        taken->back == back_by_other_queue_reset) {
        VbrVm *vm = vbr_hold_machine("", NULL, 0);
        bool can = vbr_has(&vm->d, VIRTIO_F_RING_RESET);

        vbr_vm_free(vm);
        if (!can) {
            g_test_skip("this device cannot reset a single queue");
            return;
        }
    }
    vbr_calmly(taken_back, data);
}

static const TakenBack taken_backs[] = {
    { "deflate", back_by_deflate },
    { "reset", back_by_reset },
    { "system-reset", back_by_system_reset },
    { "queue-reset", back_by_queue_reset },
    { "other-queue-reset", back_by_other_queue_reset },
};

/*
 * kexec: the bus is taken from the device, without a word to it, and the next
 * kernel uses all of memory.
 */
static bool bus_lost(const void *data)
{
    VbrCalm calm = vbr_calm_begin();
    VbrVm *vm = vbr_hold_machine("", SHORT, 0);
    VbrDev *d = &vm->d;
    QPCIDevice *pci = vm->pci->pdev;
    uint64_t base = filled(d);
    uint16_t command = qpci_config_readw(pci, PCI_COMMAND);
    bool calmly;

    vbr_calm_start_clock(&calm);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    qpci_config_writew(pci, PCI_COMMAND, command & ~PCI_COMMAND_MASTER);
    calmly = vbr_calm_lasted(&calm, SHORT_MS);
    if (calmly) {
        vbr_assert_counter(d, "held-bytes", 0);
        g_usleep(3 * SHORT_MS * 1000);
        vbr_assert_kept(d, base - VBR_PAGE, NPAGES + 2, PATTERN);
        qpci_config_writew(pci, PCI_COMMAND, command);
        vbr_restart(d, 0);
        vbr_send_range(d, VBR_INFLATE, base, NPAGES);
        assert_only_these_gone(d, base);
    }
    vbr_vm_free(vm);
    return calmly;
}

static void test_bus_lost(void)
{
    vbr_calmly(bus_lost, NULL);
}

/* Some of the pages are taken back, and only these stay. */
static bool some_taken_back(const void *data)
{
    VbrCalm calm = vbr_calm_begin();
    VbrVm *vm = vbr_hold_machine("", SHORT, 0);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d), mine = base + 5 * VBR_PAGE;
    bool calmly;

    vbr_calm_start_clock(&calm);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    vbr_send_range(d, VBR_DEFLATE, mine, 2);
    calmly = vbr_calm_lasted(&calm, SHORT_MS);
    if (calmly) {
        vbr_hold_wait_gone(d, base, 5);
        vbr_hold_wait_gone(d, base + 7 * VBR_PAGE, NPAGES - 7);
        vbr_assert_kept(d, mine, 2, PATTERN);
        vbr_assert_gone(d, base, 5);
        vbr_assert_gone(d, base + 7 * VBR_PAGE, NPAGES - 7);
    }
    vbr_vm_free(vm);
    return calmly;
}

static void test_some_taken_back(void)
{
    vbr_calmly(some_taken_back, NULL);
}

/* One page more than may wait: all of it goes, though nobody asks. */
static bool too_much(const void *data)
{
    VbrCalm calm = vbr_calm_begin();
    VbrVm *vm = vbr_hold_machine("", VBR_LONG ",inflate-hold-bytes=64K", 0);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d), other = filled(d);
    size_t before, after;
    bool calmly;

    vbr_calm_start_clock(&calm);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    before = vbr_resident(d, base, NPAGES);
    vbr_send_range(d, VBR_INFLATE, other, 1);
    after = vbr_resident(d, base, NPAGES) + vbr_resident(d, other, 1);
    calmly = vbr_calm_lasted(&calm, VBR_LONG_MS);
    if (calmly) {
        g_assert_cmpuint(before, ==, NPAGES);
        g_assert_cmpuint(after, ==, 0);
    }
    assert_only_these_gone(d, base);
    vbr_assert_kept(d, other + VBR_PAGE, NPAGES, PATTERN);
    vbr_vm_free(vm);
    return calmly;
}

static void test_too_much(void)
{
    vbr_calmly(too_much, NULL);
}

/*
 * The same pages time and again, some of them taken back in between: nothing
 * waits for ever.
 */
static void test_time_and_again(void)
{
    VbrVm *vm = vbr_hold_machine("", "inflate-hold-bytes=256K", 0);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d);
    int i;

    for (i = 0; i < 200; i++) {
        vbr_send_range(d, VBR_INFLATE, base, NPAGES);
        vbr_send_range(d, VBR_INFLATE, base + i % 8 * VBR_PAGE, 8);
        if (i % 3 == 0) {
            vbr_send_range(d, VBR_DEFLATE, base, 8);
            vbr_fill(d, base, 8, PATTERN);
        }
    }
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    vbr_hold_wait_gone(d, base, NPAGES);
    vbr_assert_counter(d, "held-bytes", 0);
    vbr_assert_counter(d, "ballooned-bytes", BYTES);
    assert_only_these_gone(d, base);
    vbr_vm_free(vm);
}

/* Gone as soon as the guest has its answer. */
static void check_at_once(const char *props, uint64_t refuse)
{
    VbrVm *vm = vbr_hold_machine("", props, refuse);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d);

    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    g_assert_cmpuint(vbr_resident(d, base, NPAGES), ==, 0);
    vbr_assert_counter(d, "held-bytes", 0);
    assert_only_these_gone(d, base);
    vbr_vm_free(vm);
}

/* A page may be in use again once it was answered: it cannot wait. */
static void test_untold(void)
{
    check_at_once(VBR_LONG, NO_MTH);
    check_at_once(VBR_LONG ",must-tell-host=off", 0);
}

static void test_off(void)
{
    check_at_once("inflate-hold-ms=0", 0);
    check_at_once(VBR_LONG ",inflate-hold-bytes=0", 0);
}

static void check_refused(const char *name, uint64_t val)
{
    VbrVm *vm = vbr_pc(" ");
    g_autofree char *text = NULL;
    QDict *args = qdict_new();

    qdict_put_str(args, "driver", VBR_PCI);
    qdict_put_int(args, name, val);
    text = vbr_qmp_error(qtest_qmp(vm->qts, "{ 'execute': 'device_add', "
                                   "'arguments': %p }", args));
    g_test_message("%s", text);
    g_assert_nonnull(strstr(text, "inflate-hold-ms can be at most 1000"));
    g_assert_nonnull(strstr(text, "inflate-hold-bytes at most 64 MiB"));
    /* Nothing of it is left, and the largest that may be is welcome. */
    qtest_qmp_device_add(vm->qts, VBR_PCI, VBR_ID,
                         "{'addr': '04.0', 'inflate-hold-ms': 1000, "
                         "'inflate-hold-bytes': 67108864}");
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

static void test_refused(void)
{
    check_refused("inflate-hold-ms", 1001);
    check_refused("inflate-hold-ms", UINT32_MAX);
    check_refused("inflate-hold-bytes", 64 * MiB + 1);
}

/* Taken away with memory that waits, plugged again: no timer fires late. */
static void test_unplug(void)
{
    VbrVm *vm = vbr_pc(" ");
    int i;

    for (i = 0; i < 5; i++) {
        uint64_t base;

        qtest_qmp_device_add(vm->qts, VBR_PCI, VBR_ID, "{'addr': '04.0'}");
        vbr_vm_attach(vm, VBR_SLOT);
        vbr_start(&vm->d, 0);
        base = filled(&vm->d);
        vbr_send_range(&vm->d, VBR_INFLATE, base, NPAGES);
        qtest_qmp_device_del_send(vm->qts, VBR_ID);
        qtest_system_reset_nowait(vm->qts);
        qtest_qmp_eventwait(vm->qts, "DEVICE_DELETED");
        g_usleep(50000);
        qtest_system_reset(vm->qts);
    }
    vbr_vm_free(vm);
}

void vbr_add_hold_tests(void)
{
    int i;

    qtest_add_func("virtio-balloon-rs/hold/until/stop", test_stop);
    qtest_add_func("virtio-balloon-rs/hold/looked-at", test_looked_at);
    for (i = 0; i < ARRAY_SIZE(taken_backs); i++) {
        g_autofree char *name = g_strdup_printf(
            "virtio-balloon-rs/hold/back/%s", taken_backs[i].name);

        qtest_add_data_func(name, &taken_backs[i], test_taken_back);
    }
    qtest_add_func("virtio-balloon-rs/hold/back/some", test_some_taken_back);
    qtest_add_func("virtio-balloon-rs/hold/back/bus-lost", test_bus_lost);
    qtest_add_func("virtio-balloon-rs/hold/deadline", test_deadline);
    qtest_add_func("virtio-balloon-rs/hold/deadline-after-stop",
                   test_deadline_after_stop);
    qtest_add_func("virtio-balloon-rs/hold/too-much", test_too_much);
    qtest_add_func("virtio-balloon-rs/hold/time-and-again",
                   test_time_and_again);
    qtest_add_func("virtio-balloon-rs/hold/untold", test_untold);
    qtest_add_func("virtio-balloon-rs/hold/off", test_off);
    qtest_add_func("virtio-balloon-rs/hold/refused", test_refused);
    qtest_add_func("virtio-balloon-rs/hold/unplug", test_unplug);
}
