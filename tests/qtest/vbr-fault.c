/*
 * A device whose library is made to fail, and the work that it does
 *
 * None of this asserts that the work is done: the device may be broken from
 * any point on. What is asserted is that QEMU answers, and that what was begun
 * ends.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-fault.h"
#include "vbr-hint.h"
#include "vbr-message.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"

#ifdef VBR_INJECT

#define HINT_PROPS \
    "free-page-hint=on,free-page-reporting=on,free-page-hint-window=50"
#define REQUEST_PROPS VBR_RANGE_OPTS ",free-page-hint-window=50"
#define LIST "/objects/" VBR_DL_ID

/* Looks at what takes part in a migration, each some milliseconds long. */
#define LOOKS 50

bool vbr_try(QTestState *qts, const char *fmt, ...)
{
    va_list ap;
    QDict *rsp;
    bool done;

    va_start(ap, fmt);
    rsp = qtest_vqmp(qts, fmt, ap);
    va_end(ap);
    done = qdict_haskey(rsp, "return");
    if (!done) {
        QDict *error = qdict_get_qdict(rsp, "error");

        /* Whatever is refused is refused with a reason. */
        g_assert_cmpstr(qdict_get_str(error, "desc"), !=, "");
    }
    qobject_unref(rsp);
    return done;
}

void vbr_fault_set(VbrVm *vm, const char *function, const char *how)
{
    g_autofree char *fault = function
        ? g_strdup_printf("%s:1:%s", function, how) : g_strdup("");

    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'qom-set', 'arguments': "
                             "{ 'path': %s, 'property': 'x-inject', "
                             "'value': %s } }", LIST, fault);
}

bool vbr_fault_pending(VbrVm *vm)
{
    g_autofree char *pending = NULL;
    QDict *rsp = qtest_qmp(vm->qts, "{ 'execute': 'qom-get', 'arguments': "
                           "{ 'path': %s, 'property': 'x-inject' } }", LIST);

    pending = g_strdup(qdict_get_str(rsp, "return"));
    qobject_unref(rsp);
    return *pending;
}

VbrVm *vbr_fault_machine(bool hints)
{
    g_autofree char *image = vbr_stream_name();
    VbrVm *vm = vbr_pc(VBR_FAULT_LIST " -device " VBR_PCI "," VBR_SLOT_ARG
                       ",%s", hints ? HINT_PROPS : REQUEST_PROPS);

    vbr_snapshot_disk(vm->qts, image);
    /* QEMU has it open. */
    unlink(image);
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    return vm;
}

void vbr_fault_new_list(VbrVm *vm)
{
    vbr_try(vm->qts, "{ 'execute': 'dirty-page-list-stop', "
            "'arguments': { 'id': '" VBR_DL_ID "' } }");
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'object-del', "
                             "'arguments': { 'id': '" VBR_DL_ID "' } }");
    while (!vbr_try(vm->qts, "{ 'execute': 'object-add', 'arguments': { "
                    "'qom-type': 'dirty-page-list', 'id': '" VBR_DL_ID
                    "', 'max-dirty': 4096 } }")) {
        continue;
    }
}

static bool has_hints(VbrVm *vm)
{
    return vm->d.offered & (1ull << VIRTIO_BALLOON_F_FREE_PAGE_HINT);
}

/* As vbr_start(), but the device may be broken before it is done. */
static void start(VbrVm *vm, bool hints)
{
    const uint64_t refuse = QVIRTIO_F_BAD_FEATURE |
                            (1ull << VIRTIO_RING_F_EVENT_IDX);
    uint8_t status = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    VbrDev *d = &vm->d;
    QVirtioDevice *vdev = d->vdev;
    unsigned int i;

    vdev->bus->set_status(vdev, 0);
    vdev->bus->set_status(vdev, status);
    d->offered = qvirtio_get_features(vdev);
    vdev->features = d->offered & ~refuse;
    vdev->features_negotiated = true;
    vdev->bus->set_features(vdev, vdev->features);
    status |= VIRTIO_CONFIG_S_FEATURES_OK;
    vdev->bus->set_status(vdev, status);
    for (i = 0; i < VBR_NQUEUES; i++) {
        bool is_there = i <= VBR_STATS ||
            (hints ? i == VBR_HINT || i == VBR_REPORT : i == VBR_REQUEST);

        if (d->ring[i].vq) {
            qvirtqueue_cleanup(vdev->bus, d->ring[i].vq, d->alloc);
        }
        d->ring[i] = (VbrRing) {};
        if (is_there) {
            d->ring[i].vq = qvirtqueue_setup(vdev, d->alloc,
                                             vbr_queue_index(d, i));
        }
    }
    vdev->bus->set_status(vdev, status | VIRTIO_CONFIG_S_DRIVER_OK);
    vbr_settle(d);
}

void vbr_fault_replug(VbrVm *vm)
{
    bool hints = has_hints(vm), plugged = false;

    qtest_qmp_device_del_send(vm->qts, VBR_ID);
    qtest_system_reset_nowait(vm->qts);
    qtest_qmp_eventwait(vm->qts, "DEVICE_DELETED");
    while (!plugged) {
        plugged = hints
            ? vbr_try(vm->qts, "{ 'execute': 'device_add', 'arguments': { "
                      "'driver': '" VBR_PCI "', 'id': '" VBR_ID "', "
                      "'addr': '04.0', 'free-page-hint': true, "
                      "'free-page-reporting': true, "
                      "'free-page-hint-window': 50 } }")
            : vbr_try(vm->qts, "{ 'execute': 'device_add', 'arguments': { "
                      "'driver': '" VBR_PCI "', 'id': '" VBR_ID "', "
                      "'addr': '04.0', 'host-request': true, "
                      "'page-range': true, 'free-page-hint-window': 50 } }");
    }
    vbr_vm_find(vm, VBR_SLOT);
    qvirtio_pci_device_enable(vm->pci);
    start(vm, hints);
}

/* Offers a request, and does not wait for the answer. */
static void offer(VbrDev *d, VbrQueue q, VbrSeg seg)
{
    vbr_add(d, q, &seg, 1);
    vbr_notify(d, q);
    vbr_settle(d);
}

static VbrSeg range(VbrDev *d, uint64_t addr, size_t pages)
{
    const VbrRange all = { addr, pages * VBR_PAGE };
    g_autofree uint32_t *pfns = g_new(uint32_t, pages);
    size_t i;

    if (!has_hints(container_of(d, VbrVm, d))) {
        return vbr_message(d, vbr_ranges(d, &all, 1));
    }
    for (i = 0; i < pages; i++) {
        pfns[i] = (addr >> VBR_PAGE_SHIFT) + i;
    }
    return vbr_pfns(d, pfns, pages);
}

static void work_batch(VbrVm *vm)
{
    VbrDev *d = &vm->d;
    uint64_t addr = vbr_pages(d, 16, VBR_PAGE);

    offer(d, VBR_INFLATE, range(d, addr, 16));
    offer(d, VBR_DEFLATE, range(d, addr, 8));
    if (has_hints(vm)) {
        offer(d, VBR_REPORT, (VbrSeg) {
            .addr = addr, .len = 4 * VBR_PAGE, .write = true,
        });
    }
}

/* The host waits for what is held in its own time, or asks for it. */
static void work_hold(VbrVm *vm)
{
    VbrDev *d = &vm->d;
    int i;

    for (i = 0; i < 2; i++) {
        offer(d, VBR_INFLATE, range(d, vbr_pages(d, 3, VBR_PAGE), 3));
        g_usleep(i * 40 * 1000);
        vbr_settle(d);
        vbr_query_balloon(d->qts);
    }
}

static void work_stats(VbrVm *vm)
{
    VbrDev *d = &vm->d;
    VbrSeg seg = { .addr = guest_alloc(d->alloc, 10), .len = 10 };

    vbr_poll_stats(d, 1);
    offer(d, VBR_STATS, seg);
    qtest_clock_step(d->qts, 2 * NANOSECONDS_PER_SECOND);
    vbr_settle(d);
    vbr_poll_stats(d, 0);
}

/* All that the user can ask for, and what the driver sees of it. */
static void work_user(VbrVm *vm)
{
    QDict *rsp = qtest_qmp(vm->qts, "{ 'execute': 'qom-list', "
                           "'arguments': { 'path': %s } }", VBR_PATH);
    QListEntry *e;

    vbr_set_balloon(vm->qts, 100 * MiB);
    vbr_set_actual(&vm->d, 16);
    vbr_config_read(&vm->d, 0);
    vbr_query_balloon(vm->qts);
    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        QDict *property = qobject_to(QDict, qlist_entry_obj(e));

        vbr_try(vm->qts, "{ 'execute': 'qom-get', 'arguments': "
                "{ 'path': %s, 'property': %s } }", VBR_PATH,
                qdict_get_str(property, "name"));
    }
    qobject_unref(rsp);
    vbr_try(vm->qts, "{ 'execute': 'qom-set', 'arguments': { 'path': %s, "
            "'property': 'free-page-hint-window', 'value': 50 } }", VBR_PATH);
    vbr_set_actual(&vm->d, 0);
    vbr_set_balloon(vm->qts, 128 * MiB);
}

/* RAM comes and goes. */
static void work_memory(VbrVm *vm)
{
    uint32_t before;

    /* What is read where ROM is mapped, from 0xc0000 on. */
    qtest_outl(vm->qts, 0xcf8, 0x80000058);
    before = qtest_inl(vm->qts, 0xcfc);
    qtest_outl(vm->qts, 0xcfc, before ^ 0x33330000);
    vbr_settle(&vm->d);
    qtest_outl(vm->qts, 0xcfc, before);
    vbr_settle(&vm->d);
}

static void work_queue_reset(VbrVm *vm)
{
    VbrQueue last = has_hints(vm) ? VBR_HINT : VBR_REQUEST;

    work_batch(vm);
    vbr_vm_reset_queue(vm, VBR_DEFLATE);
    vbr_vm_reset_queue(vm, last);
}

static void work_reset(VbrVm *vm)
{
    bool hints = has_hints(vm);

    start(vm, hints);
    vbr_system_reset(&vm->d);
    start(vm, hints);
}

static void work_stop(VbrVm *vm)
{
    VbrDev *d = &vm->d;
    VbrSeg seg = range(d, vbr_pages(d, 16, VBR_PAGE), 16);

    vbr_add(d, VBR_INFLATE, &seg, 1);
    vbr_notify(d, VBR_INFLATE);
    if (!has_hints(vm)) {
        vbr_request_post(d, VBR_REQUEST);
    }
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'stop' }");
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
    vbr_settle(d);
}

static bool is_over(QTestState *qts)
{
    static const char *const ends[] = { "completed", "failed", "cancelled" };
    g_autofree char *why = NULL;
    g_autofree char *status = vbr_migrate_status(qts, &why);
    size_t i;

    for (i = 0; i < ARRAY_SIZE(ends); i++) {
        if (!strcmp(status, ends[i])) {
            /* One that fails says why. */
            g_assert(strcmp(status, "failed") || (why && *why));
            return true;
        }
    }
    return false;
}

/* The guest hints at free memory, over the queue that it is asked over. */
static void hint(VbrDev *d, uint32_t last)
{
    bool by_hints = has_hints(container_of(d, VbrVm, d));
    uint64_t addr = 96 * MiB;
    int look;

    for (look = 0; look < LOOKS && !is_over(d->qts); look++) {
        if (by_hints && vbr_hint_shown(d) != last) {
            offer(d, VBR_HINT, vbr_hint_id_seg(d, vbr_hint_shown(d)));
            offer(d, VBR_HINT, vbr_hint_block_seg(addr, 64 * VBR_PAGE));
            return;
        }
        if (!by_hints && vbr_used(d, VBR_REQUEST)) {
            const VbrRange free = { addr, 64 * VBR_PAGE };

            offer(d, VBR_REQUEST,
                  vbr_message(d, vbr_answer(VBR_REQUEST, 0, true, &free, 1)));
            return;
        }
        g_usleep(2000);
    }
}

/* A migration with a round of hints, and the list beside it. */
static void work_migrate(VbrVm *vm)
{
    VbrDev *d = &vm->d;
    uint32_t last = vbr_hint_shown(d);
    gint64 start;

    vbr_fill(d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    offer(d, VBR_INFLATE, range(d, vbr_pages(d, 16, VBR_PAGE), 16));
    if (!has_hints(vm)) {
        vbr_request_post(d, VBR_REQUEST);
        vbr_settle(d);
    }
    vbr_migrate_speed(vm->qts, VBR_SLOW);
    vbr_migrate(vm->qts, VBR_NOWHERE);
    hint(d, last);
    vbr_migrate_speed(vm->qts, VBR_FAST);
    for (start = g_get_monotonic_time(); !is_over(vm->qts);) {
        g_assert_cmpint(g_get_monotonic_time() - start, <, VBR_TIMEOUT_US);
        g_usleep(2000);
    }
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
    vbr_settle(d);
}

static void work_save(VbrVm *vm)
{
    g_autofree char *said = NULL;

    vbr_settle(&vm->d);
    said = qtest_hmp(vm->qts, "savevm vbr");
    g_test_message("savevm: %s", said);
    vbr_settle(&vm->d);
}

/* What was saved is that of this machine; where it is refused it is reset. */
static void work_load(VbrVm *vm)
{
    g_autofree char *said = qtest_hmp(vm->qts, "loadvm vbr");

    g_test_message("loadvm: %s", said);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
    vbr_system_reset(&vm->d);
}

static void work_fetch(VbrVm *vm)
{
    static const char *const commands[] = {
        "start", "fetch", "reset", "fetch", "stop",
    };
    size_t i;

    for (i = 0; i < ARRAY_SIZE(commands); i++) {
        g_autofree char *command = g_strdup_printf("dirty-page-list-%s",
                                                   commands[i]);

        vbr_try(vm->qts, "{ 'execute': %s, 'arguments': { 'id': '" VBR_DL_ID
                "' } }", command);
        vbr_fill(&vm->d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    }
}

static void work_list(VbrVm *vm)
{
    vbr_fault_new_list(vm);
}

static void work_plug(VbrVm *vm)
{
    vbr_fault_replug(vm);
}

const VbrWork vbr_works[] = {
    { "batch", work_batch },
    { "hold", work_hold },
    { "statistics", work_stats },
    { "user", work_user },
    { "memory", work_memory },
    { "queue-reset", work_queue_reset },
    { "reset", work_reset },
    { "stop", work_stop },
    { "migrate", work_migrate },
    { "save", work_save },
    { "load", work_load },
    { "fetch", work_fetch },
    { "list", work_list },
    { "plug", work_plug },
    { }
};

#endif
