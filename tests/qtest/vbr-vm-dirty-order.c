/*
 * dirty-page-list, TCG: what is done between a dirty bit that is set and the
 * write behind it
 *
 * The processor is made to stand still there, see dirty-page-list-stall.c,
 * which is in builds for tests only.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-dirty.h"
#include "vbr-guest.h"
#include "vbr-hint.h"
#include "vbr-stream.h"

#ifdef VBR_INJECT

#define LIST VBR_DL ",max-dirty=256"
#define COUNTER "pc.ram 60000+1000 @60000"
/* What makes a pass of the migration last, and for how long: 20 seconds. */
#define BALLAST (1 * MiB)
#define BALLAST_SIZE (40 * MiB)
#define SLOW (2 * MiB)

/* The guest is about to count, and has set the bit of the page already. */
static void stall(VbrVm *vm)
{
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'qom-set', 'arguments': "
                             "{ 'path': '/objects/" VBR_DL_ID "', 'property': "
                             "'x-stall-page', 'value': %" PRIu64 " } }",
                             (uint64_t)(VBR_COUNTER_ADDR / VBR_PAGE));
    vbr_count_one(vm);
    while (!vbr_dirty_is(vm->qts, "x-stalled")) {
        g_usleep(1000);
    }
}

static void assert_fetched(VbrVm *vm)
{
    g_autofree char *pages = vbr_dirty_fetch(vm->qts, 0);

    if (!strstr(pages, COUNTER)) {
        g_error("%s is not among %s", COUNTER, pages);
    }
}

/*
 * The page is fetched in between. Who fetched it is answered only when it is
 * written to, and the next write is noticed.
 */
static void test_fetched(void)
{
    VbrVm *vm;

    if (!vbr_has_tcg()) {
        return;
    }
    vm = vbr_counter_pc(LIST);
    vbr_count_one(vm);
    vbr_counted(vm, 1);
    vbr_dirty_do(vm->qts, "start");
    stall(vm);
    assert_fetched(vm);
    g_assert_cmphex(qtest_readb(vm->qts, VBR_COUNTER_ADDR), ==, 2);
    vbr_count_one(vm);
    vbr_counted(vm, 3);
    assert_fetched(vm);
    vbr_vm_free(vm);
}

/*
 * A migration with auto-converge: where a timer cleared the bit in the middle
 * of a pass, the migration thread would send the page before it is written to.
 */
static void check_throttled(const char *list)
{
    g_autofree char *sock = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("unix:%s", sock);
    VbrVm *from = vbr_counter_pc(list);
    VbrVm *to = vbr_counter_pc("-S -incoming defer");
    QTestState *qts = from->qts;
    VbrWait wait = { "three synchronizations" };
    uint8_t byte = 1;

    vbr_count_one(from);
    vbr_counted(from, 1);
    qtest_memset(qts, BALLAST, byte, BALLAST_SIZE);
    vbr_migrate_capability(qts, "auto-converge");
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-parameters', "
                             "'arguments': { 'downtime-limit': 1 } }");
    qtest_qmp_assert_success(to->qts, "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s } }", uri);
    vbr_migrate_speed(qts, 100 * MiB);
    vbr_migrate(qts, uri);
    while (vbr_migrate_syncs(qts) < 3) {
        qtest_memset(qts, BALLAST, ++byte, BALLAST_SIZE);
        vbr_wait(&wait);
    }
    /* The pass that begins has all of that to send. */
    vbr_migrate_speed(qts, SLOW);
    stall(from);
    vbr_counted(from, 2);
    vbr_migrate_speed(qts, VBR_FAST);
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-parameters', "
                             "'arguments': { 'downtime-limit': 2000 } }");
    vbr_migrate_until(qts, "completed");
    vbr_migrate_until(to->qts, "completed");
    g_assert(vbr_same_memory(from, to, 64 * MiB));
    vbr_vm_free(from);
    vbr_vm_free(to);
    unlink(sock);
}

static void test_throttled(void)
{
    if (!vbr_has_tcg()) {
        return;
    }
    check_throttled(LIST);
    /* The list has no room, so all bits are looked at. */
    check_throttled(VBR_DL ",max-dirty=1");
}

void vbr_add_dirty_order_tests(void)
{
    qtest_add_func("virtio-balloon-rs/dirty-order/fetched", test_fetched);
    qtest_add_func("virtio-balloon-rs/dirty-order/throttled", test_throttled);
}

#else

/* Only a build for tests can have a processor stand still. */
void vbr_add_dirty_order_tests(void)
{
}

#endif
