/*
 * dirty-page-list: it has every page that was written to, or says that it has
 * not
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-dirty.h"
#include "vbr-guest.h"
#include "vbr-hint.h"
#include "vbr-stream.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"

#define SHARED "-object memory-backend-memfd,id=shared,size=1M"

/* What cannot migrate, and what QEMU says of it. */
typedef struct Blocker {
    const char *name;
    const char *device;
    const char *says;
} Blocker;

static const Blocker blockers[] = {
    /* A blocker of migration. */
    { "blocker", "'driver': 'ivshmem-plain', 'memdev': 'shared', "
                 "'master': 'off'", "peer mode" },
    /* A device whose state cannot be saved. */
    { "unmigratable", "'driver': 'nvme', 'serial': '1'",
      "non-migratable device" },
};

static void add(QTestState *qts, const Blocker *b)
{
    g_autofree char *json = g_strdup_printf("{ %s, 'id': 'x' }", b->device);
    QObject *device = qobject_from_json(json, NULL);

    qtest_qmp_assert_success(qts, "{ 'execute': 'device_add', "
                             "'arguments': %p }", device);
}

static void assert_refused_start(QTestState *qts, const Blocker *b)
{
    g_autofree char *said = vbr_dirty_refused(qts, "start");

    g_assert_nonnull(strstr(said, b->says));
    g_assert_nonnull(strstr(said, "dirty page list"));
}

/* Nobody knows what such a device writes to: no list is started. */
static void check_there_first(const void *data)
{
    const Blocker *b = data;
    VbrVm *vm = vbr_pc(SHARED " " VBR_DL ",max-dirty=256");

    add(vm->qts, b);
    assert_refused_start(vm->qts, b);
    g_assert(!vbr_dirty_is(vm->qts, "active"));
    vbr_assert_dirty_refused(vm->qts, "fetch", "never started");
    vbr_vm_free(vm);
}

/* A list that is started says from then on that pages may be missing. */
static void check_plugged(const void *data)
{
    const Blocker *b = data;
    VbrVm *vm = vbr_dirty_pc(SHARED, "max-dirty=256,no-dups=on");
    QTestState *qts = vm->qts;

    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "pc.ram 100000+1000 @100000");
    add(qts, b);
    g_assert(vbr_dirty_is(qts, "overflow"));
    vbr_assert_dirty_refused(qts, "fetch", b->says);
    vbr_assert_dirty_refused(qts, "fetch", VBR_DL_EOVERFLOW);
    vbr_dirty_do(qts, "reset");
    vbr_dirty_do(qts, "stop");
    vbr_assert_dirty_refused(qts, "fetch", b->says);
    assert_refused_start(qts, b);
    vbr_vm_free(vm);
}

/* It was not started when the device came: there is nothing to be said. */
static void test_plugged_while_stopped(void)
{
    VbrVm *vm = vbr_dirty_pc(SHARED, "max-dirty=256");

    vbr_dirty_write(vm->qts, 1 * MiB, 1, VBR_PAGE, 1);
    vbr_dirty_do(vm->qts, "stop");
    add(vm->qts, &blockers[0]);
    vbr_assert_fetch(vm->qts, "pc.ram 100000+1000 @100000");
    vbr_vm_free(vm);
}

/* What goes to the log of trace events, a line for each. */
static size_t traced(const char *log, const char *event)
{
    g_autofree char *text = NULL;
    size_t count = 0;
    const char *at;

    g_assert(g_file_get_contents(log, &text, NULL, NULL));
    for (at = text; (at = strstr(at, event)); at++) {
        count++;
    }
    return count;
}

/*
 * KVM of arm64 tells some writes only when it hears that the guest is stopped.
 */
static void test_last_stage(void)
{
    g_autofree char *log = vbr_stream_name();
    g_autofree char *args = g_strdup_printf(
        "-trace dirty_page_list_fetch -D %s", log);
    VbrVm *vm = vbr_dirty_pc(args, "max-dirty=256");
    QTestState *qts = vm->qts;

    vbr_assert_fetch(qts, "");
    g_assert_cmpuint(traced(log, "guest stopped: 0"), ==, 1);
    g_assert_cmpuint(traced(log, "guest stopped: 1"), ==, 0);
    qtest_qmp_assert_success(qts, "{ 'execute': 'stop' }");
    vbr_assert_fetch(qts, "");
    g_assert_cmpuint(traced(log, "guest stopped: 0"), ==, 1);
    g_assert_cmpuint(traced(log, "guest stopped: 1"), ==, 1);
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
    vbr_assert_fetch(qts, "");
    g_assert_cmpuint(traced(log, "guest stopped: 0"), ==, 2);
    vbr_vm_free(vm);
    unlink(log);
}

/*
 * What an answer had no room for comes without another look. But one that has
 * nothing, or comes when the guest was stopped meanwhile, is not left at that.
 */
static void test_last_stage_behind_a_full_answer(void)
{
    g_autofree char *log = vbr_stream_name();
    g_autofree char *args = g_strdup_printf(
        "-trace dirty_page_list_fetch -D %s", log);
    VbrVm *vm = vbr_dirty_pc(args, "max-dirty=256");
    QTestState *qts = vm->qts;

    vbr_dirty_write(qts, 1 * MiB, 3, VBR_PAGE, 1);
    vbr_assert_text(vbr_dirty_fetch(qts, 1), "pc.ram 100000+1000 @100000");
    vbr_assert_text(vbr_dirty_fetch(qts, 1), "pc.ram 101000+1000 @101000");
    g_assert_cmpuint(traced(log, "guest stopped: 0"), ==, 1);
    qtest_qmp_assert_success(qts, "{ 'execute': 'stop' }");
    vbr_assert_text(vbr_dirty_fetch(qts, 2), "pc.ram 102000+1000 @102000");
    g_assert_cmpuint(traced(log, "guest stopped: 1"), ==, 1);
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");

    vbr_dirty_write(qts, 1 * MiB, 2, VBR_PAGE, 1);
    vbr_assert_text(vbr_dirty_fetch(qts, 2), "pc.ram 100000+2000 @100000");
    g_assert_cmpuint(traced(log, "guest stopped: 0"), ==, 2);
    vbr_assert_fetch(qts, "");
    g_assert_cmpuint(traced(log, "guest stopped: 0"), ==, 3);
    vbr_vm_free(vm);
    unlink(log);
}

/*
 * TCG: the RAM of the guest is not the first block. Its TLBs were reset for
 * other addresses than its own, with an assertion if these were none.
 */
static void check_second_block(const char *list)
{
    g_autofree char *sock = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("unix:%s", sock);
    VbrVm *from = vbr_pc("-accel tcg -S -m 16M %s -object "
                         "memory-backend-ram,id=first,size=2M", list);
    VbrVm *to = vbr_pc("-accel tcg -S -m 16M -incoming defer");
    QTestState *qts = from->qts;

    qtest_qmp_assert_success(to->qts, "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s } }", uri);
    vbr_migrate_capability(qts, "pause-before-switchover");
    vbr_migrate(qts, uri);
    vbr_migrate_until(qts, "pre-switchover");
    vbr_dirty_write(qts, 1 * MiB, 100, VBR_PAGE, 1);
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-continue', "
                             "'arguments': { 'state': 'pre-switchover' } }");
    vbr_migrate_until(qts, "completed");
    vbr_migrate_until(to->qts, "completed");
    g_assert(vbr_same_memory(from, to, 16 * MiB));
    vbr_vm_free(from);
    vbr_vm_free(to);
    unlink(sock);
}

static void test_second_block(void)
{
    if (!vbr_has_tcg()) {
        return;
    }
    check_second_block("");
    check_second_block(VBR_DL ",max-dirty=256");
    /* The list has no room, so all bits are looked at. */
    check_second_block(VBR_DL ",max-dirty=1");
}

/*
 * Auto-converge: a timer of QEMU, once in five seconds, would have the bits
 * cleared while the migration thread sends pages. TCG's processors, which may
 * be about to write to those, are not waited for then.
 */
static void test_throttled(void)
{
    g_autofree char *firmware = NULL;
    uint8_t byte = 1;
    VbrWait wait = { "three passes, and one that lasts" };
    uint64_t count;
    VbrVm *vm;

    if (!vbr_has_tcg()) {
        return;
    }
    firmware = vbr_guest_writer();
    vm = vbr_pc("-accel tcg -m 128M -bios %s " VBR_DL ",max-dirty=256",
                firmware);
    qtest_memset(vm->qts, 1 * MiB, byte, 100 * MiB);
    vbr_migrate_capability(vm->qts, "auto-converge");
    qtest_qmp_assert_success(vm->qts, "{ 'execute': "
                             "'migrate-set-parameters', 'arguments': "
                             "{ 'downtime-limit': 1 } }");
    vbr_migrate_speed(vm->qts, 100 * MiB);
    vbr_migrate(vm->qts, VBR_NOWHERE);
    /* There is always more to be sent than would do for the last pass. */
    while (vbr_migrate_syncs(vm->qts) < 3) {
        qtest_memset(vm->qts, 1 * MiB, ++byte, 100 * MiB);
        vbr_wait(&wait);
    }
    /* A pass that lasts. */
    vbr_migrate_speed(vm->qts, VBR_SLOW);
    qtest_memset(vm->qts, 1 * MiB, ++byte, 100 * MiB);
    do {
        count = vbr_migrate_syncs(vm->qts);
        g_usleep(2 * G_USEC_PER_SEC);
        vbr_wait(&wait);
    } while (vbr_migrate_syncs(vm->qts) != count);
    g_usleep(11 * G_USEC_PER_SEC);
    g_assert_cmpuint(vbr_migrate_syncs(vm->qts), ==, count);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'migrate_cancel' }");
    vbr_migrate_until(vm->qts, "cancelled");
    vbr_vm_free(vm);
    unlink(firmware);
}

void vbr_add_dirty_whole_tests(void)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(blockers); i++) {
        g_autofree char *first = g_strdup_printf(
            "virtio-balloon-rs/dirty-whole/%s-first", blockers[i].name);
        g_autofree char *plugged = g_strdup_printf(
            "virtio-balloon-rs/dirty-whole/%s-plugged", blockers[i].name);

        qtest_add_data_func(first, &blockers[i], check_there_first);
        qtest_add_data_func(plugged, &blockers[i], check_plugged);
    }
    qtest_add_func("virtio-balloon-rs/dirty-whole/plugged-while-stopped",
                   test_plugged_while_stopped);
    qtest_add_func("virtio-balloon-rs/dirty-whole/last-stage", test_last_stage);
    qtest_add_func("virtio-balloon-rs/dirty-whole/last-stage-behind-full",
                   test_last_stage_behind_a_full_answer);
    qtest_add_func("virtio-balloon-rs/dirty-whole/second-block",
                   test_second_block);
    qtest_add_func("virtio-balloon-rs/dirty-whole/throttled", test_throttled);
}
