/*
 * What a device does whose library is made to fail
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

/* What the guest hints at or answers with, and where it writes meanwhile. */
#define FREE_AREA (48 * MiB)
#define FREE_PAGES 64

/* Looks at what takes part in a migration, each some milliseconds long. */
#define LOOKS 100

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

    if (!vbr_fault_has_hints(container_of(d, VbrVm, d))) {
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
    uint16_t inflated = vbr_used(d, VBR_INFLATE);
    uint16_t deflated = vbr_used(d, VBR_DEFLATE);

    offer(d, VBR_INFLATE, range(d, addr, 16));
    /* A guest takes back only what it knows to be in the balloon. */
    if (vbr_used(d, VBR_INFLATE) != inflated) {
        offer(d, VBR_DEFLATE, range(d, addr, 8));
    }
    if (vbr_used(d, VBR_DEFLATE) != deflated) {
        vbr_fill(d, addr, 8, 0x6b);
    }
    if (vbr_fault_has_hints(vm)) {
        offer(d, VBR_REPORT, (VbrSeg) {
            .addr = addr + 8 * VBR_PAGE, .len = 4 * VBR_PAGE, .write = true,
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

    vbr_set_balloon(vm->qts, VBR_FAULT_RAM / 2);
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
    vbr_set_balloon(vm->qts, VBR_FAULT_RAM);
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
    VbrQueue last = vbr_fault_has_hints(vm) ? VBR_HINT : VBR_REQUEST;

    work_batch(vm);
    vbr_vm_reset_only(vm, VBR_DEFLATE);
    vbr_ring_setup(&vm->d, VBR_DEFLATE);
    vbr_vm_reset_only(vm, last);
    vbr_ring_setup(&vm->d, last);
}

static void work_reset(VbrVm *vm)
{
    vbr_fault_restart(vm);
    vbr_fault_system_reset(vm);
}

static void work_stop(VbrVm *vm)
{
    VbrDev *d = &vm->d;
    VbrSeg seg = range(d, vbr_pages(d, 16, VBR_PAGE), 16);

    vbr_add(d, VBR_INFLATE, &seg, 1);
    vbr_notify(d, VBR_INFLATE);
    if (!vbr_fault_has_hints(vm)) {
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

/* Takes back the buffers of the request queue up to one with a request. */
static bool is_asked(VbrDev *d, uint16_t *id)
{
    VbrRing *r = &d->ring[VBR_REQUEST];

    while (vbr_used(d, VBR_REQUEST)) {
        uint64_t elem = r->vq->used + 4 + 8 * (r->seen++ % r->vq->size);

        if (vbr_r32(d, elem + 4) == vbr_request_size(VBR_REQUEST)) {
            uint64_t desc = r->vq->desc + 16 * vbr_r32(d, elem);

            *id = vbr_r16(d, vbr_r32(d, desc) + 8);
            return true;
        }
    }
    return false;
}

/* The guest says what is free, over the queue that it is asked over. */
static void say_free(VbrDev *d, uint32_t last)
{
    bool by_hints = vbr_fault_has_hints(container_of(d, VbrVm, d));
    const VbrRange free = { FREE_AREA, FREE_PAGES * VBR_PAGE };
    int look;

    for (look = 0; look < LOOKS && !is_over(d->qts); look++) {
        uint32_t shown = vbr_hint_shown(d);
        uint16_t id;

        if (by_hints && shown >= VBR_HINT_FIRST_ID && shown != last) {
            offer(d, VBR_HINT, vbr_hint_id_seg(d, shown));
            offer(d, VBR_HINT, vbr_hint_block_seg(free.addr, free.bytes));
            return;
        }
        if (!by_hints && is_asked(d, &id)) {
            offer(d, VBR_REQUEST,
                  vbr_message(d, vbr_answer(VBR_REQUEST, id, true, &free, 1)));
            return;
        }
        g_usleep(2000);
    }
}

/* It takes some of that into use, and goes on writing where it did. */
static void write_meanwhile(VbrVm *vm)
{
    static uint8_t byte;

    byte++;
    vbr_fill(&vm->d, FREE_AREA, FREE_PAGES / 4, byte);
    vbr_fill(&vm->d, VBR_USED_AREA + VBR_USED_PAGES * VBR_PAGE, 4, byte);
}

/* A slow migration with a round of hints, while the guest goes on. */
static void migrate(VbrVm *vm, const char *uri)
{
    VbrDev *d = &vm->d;
    uint32_t last = vbr_hint_shown(d);
    gint64 start = g_get_monotonic_time();

    vbr_fill(d, VBR_USED_AREA, VBR_USED_PAGES, VBR_USED_BYTE);
    offer(d, VBR_INFLATE, range(d, vbr_pages(d, 16, VBR_PAGE), 16));
    if (!vbr_fault_has_hints(vm)) {
        vbr_request_post(d, VBR_REQUEST);
        vbr_settle(d);
    }
    vbr_migrate_speed(vm->qts, VBR_SLOW);
    vbr_migrate(vm->qts, uri);
    say_free(d, last);
    work_batch(vm);
    write_meanwhile(vm);
    vbr_migrate_speed(vm->qts, VBR_FAST);
    while (!is_over(vm->qts)) {
        g_assert_cmpint(g_get_monotonic_time() - start, <, VBR_TIMEOUT_US);
        g_usleep(2000);
    }
}

/* What has arrived is all that the guest had. */
static void assert_arrived(VbrVm *to, VbrVm *from)
{
    g_autofree char *why = NULL;

    if (!vbr_migrate_wait(to->qts, "completed", "failed", &why)) {
        g_test_message("%s", why);
        g_assert_not_reached();
    }
    g_assert(vbr_same_memory(from, to, VBR_FAULT_RAM));
    alloc_destroy(&to->alloc);
    alloc_init(&to->alloc, ALLOC_NO_FLAGS, from->alloc.start, from->alloc.end,
               VBR_PAGE);
    vbr_stream_adopt(to, from);
    qtest_qmp_assert_success(to->qts, "{ 'execute': 'cont' }");
}

VbrVm *vbr_fault_move(VbrVm *vm)
{
    g_autofree char *sock = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("unix:%s", sock);
    g_autofree char *status = NULL;
    VbrVm *to = vbr_fault_destination(vm, uri);

    migrate(vm, uri);
    status = vbr_migrate_status(vm->qts, NULL);
    if (!strcmp(status, "completed")) {
        assert_arrived(to, vm);
    } else {
        vbr_vm_free(to);
        to = NULL;
    }
    unlink(sock);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'cont' }");
    vbr_settle(&vm->d);
    return to;
}

void vbr_fault_return(VbrVm *vm, VbrVm *to)
{
    migrate_allocator(&to->alloc, &vm->alloc);
    vbr_vm_free(to);
}

static void work_migrate(VbrVm *vm)
{
    VbrVm *to = vbr_fault_move(vm);

    if (to) {
        vbr_fault_return(vm, to);
    }
}

static void check_migrate(VbrVm *vm)
{
    g_assert_cmpuint(vbr_counter(&vm->d, "hint-left-out-bytes"), >, 0);
    g_assert_cmpuint(vbr_counter(&vm->d, "ballooned-left-out-bytes"), >, 0);
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

const VbrWork vbr_works[] = {
    { "batch", work_batch },
    { "hold", work_hold },
    { "statistics", work_stats },
    { "user", work_user },
    { "memory", work_memory },
    { "queue-reset", work_queue_reset },
    { "reset", work_reset },
    { "stop", work_stop },
    { "migrate", work_migrate, check_migrate },
    { "save", work_save, .snapshots = true },
    { "load", work_load, .snapshots = true },
    { "fetch", work_fetch },
    { "list", vbr_fault_new_list },
    { "plug", vbr_fault_replug },
    { }
};

#endif
