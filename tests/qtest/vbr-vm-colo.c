/*
 * virtio-balloon-rs: COLO, which looks for dirty pages without the big lock
 *
 * The main loop answers questions about the balloon meanwhile. Nothing of it is
 * left out of a checkpoint by a device that cannot be asked.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "vbr-hint.h"
#include "vbr-pair.h"
#include "vbr-probe.h"
#include "vbr-stream.h"

/* Every second page of it is in the balloon, which takes long to look at. */
#define AREA (128 * MiB)
#define NPAGES 32768
#define MOST_CHECKPOINTS 50

static bool can_colo(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'migrate-set-capabilities', "
                           "'arguments': { 'capabilities': [ { 'capability': "
                           "'x-colo', 'state': true } ] } }");
    bool can = qdict_haskey(rsp, "return");

    qobject_unref(rsp);
    return can;
}

static size_t checkpoints(const char *log)
{
    g_autofree char *text = NULL;
    size_t count = 0;
    const char *at;

    g_assert(g_file_get_contents(log, &text, NULL, NULL));
    for (at = text; (at = strstr(at, "run' => 'stop'")); at++) {
        count++;
    }
    return count;
}

static char *log_of(const char *base, QTestState *qts)
{
    return g_strdup_printf("%s-%d", base, (int)qtest_pid(qts));
}

static void test_colo(void)
{
    g_autofree char *base = vbr_stream_name();
    /* QEMU puts its process number there. */
    g_autofree char *args = g_strdup_printf(
        "-m 512M -trace colo_vm_state_change -D %s-%%d", base);
    VbrPair p = vbr_pair(args, VBR_HINT_OPTS, 0);
    g_autofree char *log = log_of(base, p.from->qts);
    g_autofree char *other_log = log_of(base, p.to->qts);
    QTestState *qts = p.from->qts;
    VbrDev *d = &p.from->d;
    g_autofree uint32_t *pfns = g_new(uint32_t, NPAGES);
    int i;

    if (!can_colo(qts)) {
        g_test_skip("this QEMU has no COLO");
        goto end;
    }
    g_assert(can_colo(p.to->qts));
    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-set-parameters', "
                             "'arguments': { 'x-checkpoint-delay': 20 } }");
    for (i = 0; i < NPAGES; i++) {
        pfns[i] = (AREA >> VBR_PAGE_SHIFT) + 2 * i;
    }
    vbr_send(d, VBR_INFLATE, pfns, NPAGES);
    qtest_qmp_assert_success(p.to->qts, "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s } }", p.uri);
    vbr_migrate(qts, p.uri);
    vbr_migrate_until(qts, "colo");
    while (checkpoints(log) < MOST_CHECKPOINTS) {
        for (i = 0; i < 100; i++) {
            vbr_query_balloon(qts);
            vbr_counter(d, "held-bytes");
        }
        qtest_memset(qts, AREA + VBR_PAGE, i, VBR_PAGE);
        g_assert(!vbr_is_broken(d));
    }
    qtest_qmp_assert_success(qts, "{ 'execute': 'x-colo-lost-heartbeat' }");
    vbr_migrate_until(qts, "completed");
    vbr_assert_works(d);
end:
    vbr_pair_free(&p);
    unlink(log);
    unlink(other_log);
}

void vbr_add_colo_tests(void)
{
    qtest_add_func("virtio-balloon-rs/colo", test_colo);
}
