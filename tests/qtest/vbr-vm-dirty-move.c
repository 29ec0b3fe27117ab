/*
 * dirty-page-list: beside a migration, and for it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-calm.h"
#include "vbr-dirty.h"
#include "vbr-hint.h"
#include "vbr-stream.h"
#include "qobject/qdict.h"

#define RAM (32 * MiB)
/* What is not zero from the start. */
#define FULL (8 * MiB)

typedef struct Move {
    VbrVm *from;
    VbrVm *to;
    char *uri;
} Move;

/* Two machines; the first has a list with these properties (NULL: none). */
static Move machines(const char *args, const char *props)
{
    g_autofree char *sock = vbr_stream_name();
    Move m = {
        .from = vbr_pc("-m 32M %s %s%s", args, props ? VBR_DL "," : "",
                       props ?: ""),
        .to = vbr_pc("-m 32M -incoming defer"),
        .uri = g_strdup_printf("unix:%s", sock),
    };

    qtest_memset(m.from->qts, 0, 0x11, FULL);
    return m;
}

static void start_moving(Move *m)
{
    qtest_qmp_assert_success(m->to->qts, "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s } }", m->uri);
    vbr_migrate_capability(m->from->qts, "pause-before-switchover");
    /* No pass but one that leaves next to nothing is the last one. */
    qtest_qmp_assert_success(m->from->qts, "{ 'execute': "
                             "'migrate-set-parameters', 'arguments': "
                             "{ 'downtime-limit': 1 } }");
    vbr_migrate(m->from->qts, m->uri);
}

/*
 * All has been sent; the bitmap is synchronized once more when the migration
 * goes on. What is written now is sent for no other reason than that.
 */
static void before_the_last_sync(Move *m)
{
    vbr_migrate_speed(m->from->qts, VBR_FAST);
    vbr_migrate_until(m->from->qts, "pre-switchover");
}

static void arrive(Move *m)
{
    qtest_qmp_assert_success(m->from->qts, "{ 'execute': 'migrate-continue', "
                             "'arguments': { 'state': 'pre-switchover' } }");
    vbr_migrate_until(m->from->qts, "completed");
    vbr_migrate_until(m->to->qts, "completed");
    g_assert(vbr_same_memory(m->from, m->to, RAM));
}

static void end(Move *m)
{
    vbr_vm_free(m->from);
    vbr_vm_free(m->to);
    unlink(m->uri + strlen("unix:"));
    g_free(m->uri);
}

static uint64_t syncs(QTestState *qts)
{
    QDict *ret = qtest_qmp_assert_success_ref(
        qts, "{ 'execute': 'query-migrate' }");
    uint64_t count = qdict_get_int(qdict_get_qdict(ret, "ram"),
                                   "dirty-sync-count");

    qobject_unref(ret);
    return count;
}

/* The first synchronization of a migration looks at all, the others do not. */
static void assert_listed(QTestState *qts)
{
    vbr_assert_dirty(qts, "scan-syncs", 1);
    g_assert_cmpuint(vbr_dirty_get(qts, "list-syncs"), >=, 1);
    vbr_assert_dirty(qts, "list-syncs", syncs(qts) - 1);
}

/* Nobody fetches; the migration has the list for itself. */
static void check_for_itself(bool start)
{
    Move m = machines("", "max-dirty=4096");
    QTestState *qts = m.from->qts;

    if (start) {
        vbr_dirty_do(qts, "start");
    }
    start_moving(&m);
    before_the_last_sync(&m);
    vbr_dirty_write(qts, 1 * MiB, 500, 2 * VBR_PAGE, 0x22);
    vbr_dirty_write(qts, 16 * MiB, 500, 3 * VBR_PAGE, 0x22);
    arrive(&m);
    assert_listed(qts);
    if (start) {
        /* The migration cleared the bits of these, and yet they are here. */
        g_assert_cmpuint(vbr_dirty_fetch_all(qts, 300, NULL), ==, 1000);
    } else {
        vbr_assert_dirty_refused(qts, "fetch", "start");
        vbr_assert_dirty(qts, "dirty-index", 0);
    }
    end(&m);
}

static void test_for_itself(void)
{
    check_for_itself(false);
    check_for_itself(true);
}

/* What a consumer takes off its list, the migration sends all the same. */
static void check_fetched(const char *props)
{
    Move m = machines("", props);
    QTestState *qts = m.from->qts;
    GHashTable *pages = vbr_dirty_pages();

    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, 4 * MiB, 8, VBR_PAGE, 0x21);
    start_moving(&m);
    before_the_last_sync(&m);
    /* Written before all was sent, and not fetched yet. */
    vbr_assert_text(vbr_dirty_fetch(qts, 6), "pc.ram 400000+6000 @400000");
    vbr_dirty_write(qts, 16 * MiB, 100, 2 * VBR_PAGE, 0x22);
    vbr_dirty_write(qts, 1 * MiB, 100, 2 * VBR_PAGE, 0x22);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 70, NULL), ==, 202);
    /* Some of them again. */
    vbr_dirty_write(qts, 1 * MiB, 10, 2 * VBR_PAGE, 0x23);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 4, pages), ==, 10);
    vbr_assert_pages(pages, 1 * MiB, 10, 2 * VBR_PAGE);
    /* Nobody fetches these before they are sent. */
    vbr_dirty_write(qts, 1 * MiB, 3, VBR_PAGE, 0x24);
    vbr_dirty_write(qts, 24 * MiB, 2, VBR_PAGE, 0x24);
    vbr_dirty_do(qts, "reset");
    arrive(&m);
    assert_listed(qts);
    vbr_assert_fetch(qts, "pc.ram 100000+3000 @100000, "
                     "pc.ram 1800000+2000 @1800000");
    end(&m);
}

static void test_fetched(void)
{
    check_fetched("max-dirty=4096");
    check_fetched("max-dirty=4096,no-dups=on");
}

/* Far more than the list has room for, between two synchronizations. */
static void check_overflow(const char *props, bool start, bool no_dups)
{
    const size_t many = 3000, few = 200;
    Move m = machines("", props);
    QTestState *qts = m.from->qts;

    if (start) {
        vbr_dirty_do(qts, "start");
    }
    start_moving(&m);
    before_the_last_sync(&m);
    vbr_dirty_write(qts, 1 * MiB, many, 2 * VBR_PAGE, 0x32);
    if (start && no_dups) {
        g_assert_cmpuint(vbr_dirty_fetch_all(qts, 700, NULL), ==, many);
        vbr_dirty_write(qts, 1 * MiB, few, 2 * VBR_PAGE, 0x33);
    } else if (start) {
        vbr_assert_dirty_refused(qts, "fetch", VBR_DL_EOVERFLOW);
        vbr_dirty_write(qts, 1 * MiB, few, 2 * VBR_PAGE, 0x33);
        vbr_assert_dirty_refused(qts, "fetch", VBR_DL_EOVERFLOW);
    }
    arrive(&m);
    g_assert_cmpuint(vbr_dirty_get(qts, "list-syncs") +
                     vbr_dirty_get(qts, "scan-syncs"), ==, syncs(qts));
    if (start && no_dups) {
        g_assert_cmpuint(vbr_dirty_fetch_all(qts, 700, NULL), ==, few);
    }
    end(&m);
}

static void test_overflow(void)
{
    check_overflow("max-dirty=256", false, false);
    check_overflow("max-dirty=256", true, false);
    check_overflow("max-dirty=256,no-dups=on", true, true);
}

typedef struct Rounds {
    const char *props;
    bool fetch;
} Rounds;

/*
 * Waits for the next synchronization, and has the pass that begins with it last
 * until there is more to be sent. False if the machine has been moved first.
 */
static bool next_round(QTestState *qts, uint64_t seen)
{
    VbrWait wait = { "a synchronization" };

    vbr_migrate_speed(qts, 16 * MiB);
    while (syncs(qts) == seen) {
        g_autofree char *status = vbr_migrate_status(qts, NULL);

        if (strcmp(status, "active")) {
            return false;
        }
        vbr_wait(&wait);
    }
    vbr_migrate_speed(qts, VBR_SLOW);
    return true;
}

/*
 * A machine that runs and writes, round after round, and somebody fetches.
 * Whether there were rounds; where the host is slow, the migration may have
 * sent all before there was more.
 */
static bool rounds_are_complete(const void *data)
{
    const Rounds *r = data;
    Move m = machines("", r->props);
    QTestState *qts = m.from->qts;
    int round, came = 0;

    vbr_dirty_do(qts, "start");
    vbr_migrate_speed(qts, VBR_SLOW);
    start_moving(&m);
    vbr_migrate_until(qts, "active");
    for (round = 0; round < 6; round++) {
        uint64_t seen = syncs(qts);

        vbr_dirty_write(qts, round * VBR_PAGE, 800, 5 * VBR_PAGE,
                        0x40 + round);
        if (r->fetch) {
            /* Some before the synchronization, and some behind it. */
            g_free(vbr_dirty_fetch(qts, 500));
        }
        came += next_round(qts, seen);
    }
    g_test_message("%d of %d rounds came", came, round);
    before_the_last_sync(&m);
    vbr_dirty_write(qts, 2 * MiB, 300, 2 * VBR_PAGE, 0x51);
    if (r->fetch) {
        g_free(vbr_dirty_fetch(qts, 100));
    }
    arrive(&m);
    g_assert_cmpuint(vbr_dirty_get(qts, "list-syncs") +
                     vbr_dirty_get(qts, "scan-syncs"), ==, syncs(qts));
    end(&m);
    return came > 1;
}

static void test_rounds(void)
{
    static const Rounds all[] = {
        { "max-dirty=32768", true },
        { "max-dirty=32768", false },
        { "max-dirty=256,no-dups=on", true },
    };

    for (int i = 0; i < ARRAY_SIZE(all); i++) {
        vbr_calmly(rounds_are_complete, &all[i]);
    }
}

/* What may be done while a migration runs, and what may not. */
static void test_commands(void)
{
    Move m = machines("", "max-dirty=4096");
    QTestState *qts = m.from->qts;
    QDict *rsp;

    start_moving(&m);
    before_the_last_sync(&m);
    vbr_assert_dirty_refused(qts, "start", "migration");
    g_assert(!vbr_dirty_is(qts, "active"));
    rsp = qtest_qmp(qts, "{ 'execute': 'object-del', 'arguments': "
                    "{ 'id': '" VBR_DL_ID "' } }");
    vbr_assert_says(vbr_dirty_error(rsp), "in use");
    vbr_dirty_write(qts, 1 * MiB, 20, VBR_PAGE, 0x61);
    /* The other one waits for it. */
    rsp = qtest_qmp(m.to->qts, "{ 'execute': 'object-add', 'arguments': "
                    "{ 'qom-type': 'dirty-page-list', 'id': '" VBR_DL_ID "', "
                    "'max-dirty': 256 } }");
    g_assert(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
    vbr_assert_dirty_refused(m.to->qts, "start", "migration");
    arrive(&m);

    /* It is over, for both of them. */
    vbr_dirty_do(m.to->qts, "start");
    vbr_dirty_write(m.to->qts, 1 * MiB, 2, VBR_PAGE, 0x62);
    vbr_assert_fetch(m.to->qts, "pc.ram 100000+2000 @100000");
    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, 1 * MiB, 2, VBR_PAGE, 0x62);
    vbr_assert_fetch(qts, "pc.ram 100000+2000 @100000");
    vbr_dirty_do(qts, "stop");
    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del', 'arguments': "
                             "{ 'id': '" VBR_DL_ID "' } }");
    end(&m);
}

/* The list is stopped in the middle; the migration does not need it to run. */
static void test_stop(void)
{
    Move m = machines("", "max-dirty=4096");
    QTestState *qts = m.from->qts;

    vbr_dirty_do(qts, "start");
    start_moving(&m);
    before_the_last_sync(&m);
    vbr_dirty_write(qts, 1 * MiB, 20, VBR_PAGE, 0x71);
    g_free(vbr_dirty_fetch(qts, 10));
    vbr_dirty_do(qts, "stop");
    vbr_assert_dirty_refused(qts, "start", "migration");
    vbr_dirty_write(qts, 2 * MiB, 20, VBR_PAGE, 0x71);
    vbr_assert_fetch(qts, "pc.ram 10a000+a000 @10a000");
    arrive(&m);
    assert_listed(qts);
    vbr_assert_fetch(qts, "");
    end(&m);
}

/* A migration that comes to nothing, and another one. */
static void test_cancel(void)
{
    Move m = machines("", "max-dirty=4096");
    QTestState *qts = m.from->qts;
    GHashTable *pages = vbr_dirty_pages();

    vbr_dirty_do(qts, "start");
    vbr_migrate_capability(qts, "pause-before-switchover");
    vbr_migrate(qts, VBR_NOWHERE);
    vbr_migrate_until(qts, "pre-switchover");
    vbr_dirty_write(qts, 1 * MiB, 20, VBR_PAGE, 0x81);
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate_cancel' }");
    vbr_migrate_until(qts, "cancelled");
    vbr_dirty_await(qts, "running");
    vbr_dirty_write(qts, 1 * MiB + 10 * VBR_PAGE, 20, VBR_PAGE, 0x82);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 0, pages), ==, 30);
    vbr_assert_pages(pages, 1 * MiB, 30, VBR_PAGE);
    vbr_assert_dirty(qts, "scan-syncs", 1);

    start_moving(&m);
    before_the_last_sync(&m);
    vbr_dirty_write(qts, 1 * MiB, 20, VBR_PAGE, 0x83);
    arrive(&m);
    /* Each of them looked at all of memory once. */
    vbr_assert_dirty(qts, "scan-syncs", 2);
    vbr_assert_fetch(qts, "pc.ram 100000+14000 @100000");
    end(&m);
}

/* A machine that is paused for its dirty pages arrives as such. */
static void test_trigger(void)
{
    Move m = machines("", "max-dirty=4096,dirty-trigger=16");
    QTestState *qts = m.from->qts;
    GString *events = vbr_dirty_events(qts);

    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, 1 * MiB, 16, VBR_PAGE, 0x91);
    vbr_dirty_await(qts, "dirty-trigger");
    /* One that comes to nothing leaves it so. */
    vbr_migrate_capability(qts, "pause-before-switchover");
    vbr_migrate(qts, VBR_NOWHERE);
    vbr_migrate_until(qts, "pre-switchover");
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate_cancel' }");
    vbr_migrate_until(qts, "cancelled");
    vbr_dirty_await(qts, "dirty-trigger");

    start_moving(&m);
    before_the_last_sync(&m);
    vbr_dirty_write(qts, 1 * MiB, 16, VBR_PAGE, 0x92);
    arrive(&m);
    vbr_dirty_await(m.to->qts, "dirty-trigger");
    qtest_qmp_assert_success(m.to->qts, "{ 'execute': 'cont' }");
    vbr_assert_status(m.to->qts, "running");
    vbr_assert_status(qts, "postmigrate");
    vbr_assert_events(qts, events, "DIRTY_PAGE_LIST_TRIGGER dl0=16 STOP ");
    end(&m);
    g_string_free(events, true);
}

/* It goes off in the middle of a migration, which goes on. */
static void test_trigger_moving(void)
{
    Move m = machines("", "max-dirty=4096,dirty-trigger=16");
    QTestState *qts = m.from->qts;

    vbr_dirty_do(qts, "start");
    vbr_migrate_speed(qts, VBR_SLOW);
    start_moving(&m);
    vbr_migrate_until(qts, "active");
    vbr_dirty_write(qts, 1 * MiB, 16, VBR_PAGE, 0x93);
    vbr_dirty_await(qts, "dirty-trigger");
    before_the_last_sync(&m);
    vbr_assert_fetch(qts, "pc.ram 100000+10000 @100000");
    vbr_dirty_do(qts, "reset");
    arrive(&m);
    vbr_dirty_await(m.to->qts, "dirty-trigger");
    end(&m);
}

/* How often @event is in the trace of a migration. */
static unsigned int traced(const char *props, const char *event)
{
    g_autofree char *log = vbr_stream_name(), *text = NULL;
    g_autofree char *args = g_strdup_printf("-D %s -trace %s", log, event);
    Move m = machines(args, props);
    const char *at;
    unsigned int count = 0;

    start_moving(&m);
    before_the_last_sync(&m);
    vbr_dirty_write(m.from->qts, 1 * MiB, 100, 2 * VBR_PAGE, 0xa1);
    arrive(&m);
    end(&m);
    g_assert(g_file_get_contents(log, &text, NULL, NULL));
    unlink(log);
    for (at = text; (at = strstr(at, event)); at++) {
        count++;
    }
    return count;
}

/* Without the object a migration knows nothing of it. */
static void test_absent(void)
{
#ifdef CONFIG_TRACE_LOG
    g_assert_cmpuint(traced("max-dirty=4096", "dirty_page_list_sync"), >=, 2);
    g_assert_cmpuint(traced(NULL, "migration_bitmap_sync_start"), >=, 2);
    g_assert_cmpuint(traced(NULL, "dirty_page_list_sync"), ==, 0);
#else
    g_test_skip("this QEMU writes no trace to its log");
#endif
}

void vbr_add_dirty_move_tests(void)
{
    qtest_add_func("virtio-balloon-rs/dirty-move/for-itself", test_for_itself);
    qtest_add_func("virtio-balloon-rs/dirty-move/fetched", test_fetched);
    qtest_add_func("virtio-balloon-rs/dirty-move/overflow", test_overflow);
    qtest_add_func("virtio-balloon-rs/dirty-move/rounds", test_rounds);
    qtest_add_func("virtio-balloon-rs/dirty-move/commands", test_commands);
    qtest_add_func("virtio-balloon-rs/dirty-move/stop", test_stop);
    qtest_add_func("virtio-balloon-rs/dirty-move/cancel", test_cancel);
    qtest_add_func("virtio-balloon-rs/dirty-move/trigger", test_trigger);
    qtest_add_func("virtio-balloon-rs/dirty-move/trigger-moving",
                   test_trigger_moving);
    qtest_add_func("virtio-balloon-rs/dirty-move/absent", test_absent);
}
