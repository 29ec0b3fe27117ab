/*
 * The guest's side of free page hints, and the migrations that ask for them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "vbr-hint.h"
#include "vbr-probe.h"

#define CMD_ID offsetof(struct virtio_balloon_config, free_page_hint_cmd_id)

/*
 * What lies between the start of memory and the pages that are hinted, and has
 * to be sent before them.
 */
#define BALLAST (32 * MiB)

void vbr_migrate_speed(QTestState *qts, int64_t bytes_per_second)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-parameters', "
                             "'arguments': { 'max-bandwidth': %" PRId64 ", "
                             "'max-postcopy-bandwidth': %" PRId64 " } }",
                             bytes_per_second, bytes_per_second);
}

void vbr_migrate_capability(QTestState *qts, const char *name)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-capabilities', "
                             "'arguments': { 'capabilities': [ "
                             "{ 'capability': %s, 'state': true } ] } }",
                             name);
}

void vbr_migrate(QTestState *qts, const char *uri)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate', 'arguments': "
                             "{ 'uri': %s } }", uri);
}

void vbr_migrate_until(QTestState *qts, const char *status)
{
    VbrWait wait = { status };

    for (;;) {
        QDict *ret = qtest_qmp_assert_success_ref(
            qts, "{ 'execute': 'query-migrate' }");
        bool is = !strcmp(qdict_get_try_str(ret, "status") ?: "", status);

        qobject_unref(ret);
        if (is) {
            return;
        }
        vbr_wait(&wait);
    }
}

uint64_t vbr_migrate_syncs(QTestState *qts)
{
    QDict *ret = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-migrate' }");
    uint64_t count = 0;

    if (qdict_haskey(ret, "ram")) {
        count = qdict_get_int(qdict_get_qdict(ret, "ram"), "dirty-sync-count");
    }
    qobject_unref(ret);
    return count;
}

uint32_t vbr_hint_shown(VbrDev *d)
{
    uint32_t last = vbr_config_read(d, CMD_ID), now;

    /* Some transports read byte by byte, and the id may change meanwhile. */
    while ((now = vbr_config_read(d, CMD_ID)) != last) {
        last = now;
    }
    return now;
}

uint32_t vbr_hint_wait_round(VbrDev *d, uint32_t last)
{
    VbrWait wait = { "a round of hints" };

    for (;;) {
        uint32_t id = vbr_hint_shown(d);

        if (id != VBR_HINT_STOP && id != VBR_HINT_DONE && id != last) {
            g_assert_cmphex(id, >=, VBR_HINT_FIRST_ID);
            return id;
        }
        vbr_wait(&wait);
    }
}

void vbr_hint_assert_state(VbrDev *d, const char *state)
{
    g_autofree char *is = vbr_string(d, "free-page-hint-state");

    if (strcmp(is, state)) {
        g_test_message("shown 0x%x, rounds %" PRIu64 ", ids ignored %" PRIu64,
                       vbr_hint_shown(d), vbr_counter(d, "hint-rounds"),
                       vbr_counter(d, "ignored-hint-ids"));
    }
    g_assert_cmpstr(is, ==, state);
}

void vbr_hint_wait(VbrDev *d, const char *counter, uint64_t value)
{
    gint64 start = g_get_monotonic_time();

    while (vbr_counter(d, counter) != value) {
        if (g_get_monotonic_time() - start > VBR_TIMEOUT_US) {
            g_test_message("%s", counter);
            vbr_assert_counter(d, counter, value);
        }
        g_usleep(2000);
    }
}

static void request(VbrDev *d, const VbrSeg *seg)
{
    vbr_add(d, VBR_HINT, seg, 1);
    vbr_notify(d, VBR_HINT);
    vbr_take(d, VBR_HINT, 1);
}

void vbr_hint_bytes(VbrDev *d, const void *bytes, size_t len)
{
    VbrSeg seg = { .addr = guest_alloc(d->alloc, 64), .len = len };

    qtest_memwrite(d->qts, seg.addr, bytes, len);
    request(d, &seg);
    guest_free(d->alloc, seg.addr);
}

VbrSeg vbr_hint_id_seg(VbrDev *d, uint32_t id)
{
    VbrSeg seg = {
        .addr = guest_alloc(d->alloc, sizeof(id)), .len = sizeof(id),
    };

    vbr_w32(d, seg.addr, id);
    return seg;
}

VbrSeg vbr_hint_block_seg(uint64_t addr, uint32_t len)
{
    return (VbrSeg) { .addr = addr, .len = len, .write = true };
}

void vbr_hint_id(VbrDev *d, uint32_t id)
{
    VbrSeg seg = vbr_hint_id_seg(d, id);

    request(d, &seg);
    guest_free(d->alloc, seg.addr);
}

void vbr_hint_block(VbrDev *d, uint64_t addr, uint32_t len)
{
    VbrSeg seg = vbr_hint_block_seg(addr, len);

    request(d, &seg);
}

void vbr_hint_pages(VbrDev *d, uint64_t addr, size_t pages)
{
    vbr_hint_block(d, addr, pages * VBR_PAGE);
}

uint64_t vbr_hint_area(VbrDev *d, size_t pages)
{
    uint64_t gap = guest_alloc(d->alloc, BALLAST);
    uint64_t area = vbr_pages(d, pages, VBR_PAGE);

    g_assert_cmphex(area, >, gap);
    guest_free(d->alloc, gap);
    return area;
}

void vbr_hint_ballast(VbrDev *d)
{
    uint64_t addr = guest_alloc(d->alloc, BALLAST);

    vbr_fill(d, addr, BALLAST / VBR_PAGE, 0x5a);
    guest_free(d->alloc, addr);
}

static uint32_t begin_to(VbrDev *d, const char *uri)
{
    uint32_t last = vbr_hint_shown(d);

    vbr_hint_ballast(d);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_migrate(d->qts, uri);
    return vbr_hint_wait_round(d, last);
}

uint32_t vbr_hint_begin(VbrDev *d)
{
    return begin_to(d, VBR_NOWHERE);
}

uint32_t vbr_hint_open_to(VbrDev *d, const char *uri)
{
    uint32_t id = begin_to(d, uri);

    vbr_hint_id(d, id);
    vbr_hint_assert_state(d, "started");
    return id;
}

uint32_t vbr_hint_open(VbrDev *d)
{
    return vbr_hint_open_to(d, VBR_NOWHERE);
}

void vbr_hint_complete(VbrDev *d)
{
    vbr_migrate_speed(d->qts, VBR_FAST);
    vbr_migrate_until(d->qts, "completed");
}

void vbr_hint_cancel(VbrDev *d)
{
    qtest_qmp_assert_success(d->qts, "{ 'execute': 'migrate_cancel' }");
    vbr_migrate_until(d->qts, "cancelled");
}

/* How far the migration's first pass has come. */
static uint64_t passed_bytes(QTestState *qts)
{
    QDict *ret = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-migrate' }");
    QDict *ram = qdict_get_qdict(ret, "ram");
    uint64_t passed = qdict_get_int(ram, "total") -
                      qdict_get_int(ram, "remaining");

    qobject_unref(ret);
    return passed;
}

/* On a machine whose RAM begins at 0. */
void vbr_hint_next_pass(VbrDev *d)
{
    const size_t pages = 24 * MiB / VBR_PAGE;
    uint64_t busy = guest_alloc(d->alloc, pages * VBR_PAGE);
    VbrWait wait = { "the first pass to come far enough" };

    /* No pass but one without dirty pages is the last one. */
    qtest_qmp_assert_success(d->qts, "{ 'execute': "
                             "'migrate-set-parameters', 'arguments': "
                             "{ 'downtime-limit': 1 } }");
    vbr_migrate_speed(d->qts, 8 * MiB);
    while (passed_bytes(d->qts) < busy + pages * VBR_PAGE) {
        vbr_wait(&wait);
    }
    /* Now the next pass has work for longer than this test needs. */
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_fill(d, busy, pages, 0x99);
    vbr_migrate_speed(d->qts, 8 * MiB);
}

uint32_t vbr_hint_next_round(VbrDev *d, uint32_t last)
{
    uint32_t id;

    vbr_hint_next_pass(d);
    id = vbr_hint_wait_round(d, last);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    return id;
}
