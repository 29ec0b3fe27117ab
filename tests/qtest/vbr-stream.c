/*
 * Saving a machine to a file and loading it into another
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "vbr-stream.h"

char *vbr_stream_name(void)
{
    static unsigned int n;

    return g_strdup_printf("%s/vbr-stream-%d-%u", g_get_tmp_dir(), getpid(),
                           n++);
}

void vbr_stream_stop(QTestState *qts)
{
    qtest_qmp_assert_success(qts, "{ 'execute': 'stop' }");
}

char *vbr_migrate_status(QTestState *qts, char **why)
{
    QDict *ret = qtest_qmp_assert_success_ref(qts,
                                              "{ 'execute': 'query-migrate' }");
    char *status = g_strdup(qdict_get_try_str(ret, "status") ?: "none");

    if (why && qdict_haskey(ret, "error-desc")) {
        g_free(*why);
        *why = g_strdup(qdict_get_str(ret, "error-desc"));
    }
    qobject_unref(ret);
    return status;
}

bool vbr_migrate_wait(QTestState *qts, const char *good, const char *bad,
                      char **why)
{
    VbrWait wait = { good };

    for (;;) {
        g_autofree char *status = vbr_migrate_status(qts, why);

        if (!strcmp(status, good)) {
            return true;
        }
        if (!strcmp(status, bad)) {
            return false;
        }
        vbr_wait(&wait);
    }
}

void vbr_stream_save(QTestState *qts, const char *file)
{
    g_autofree char *uri = g_strdup_printf("file:%s", file);
    g_autofree char *why = NULL;

    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate', 'arguments': "
                             "{ 'uri': %s } }", uri);
    if (!vbr_migrate_wait(qts, "completed", "failed", &why)) {
        g_test_message("%s", why);
        g_assert_not_reached();
    }
}

bool vbr_stream_load(QTestState *qts, const char *file, char **why)
{
    g_autofree char *uri = g_strdup_printf("file:%s", file);

    qtest_qmp_assert_success(qts, "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s, "
                             "'exit-on-error': false } }", uri);
    return vbr_migrate_wait(qts, "completed", "failed", why);
}

void vbr_stream_adopt(VbrVm *to, const VbrVm *from)
{
    int i;

    vbr_vm_find(to, from->pci->pdev->devfn >> 3);
    /* What the driver knows of the device came with the machine. */
    to->pci->bar = from->pci->bar;
    to->pci->vdev.features = from->pci->vdev.features;
    to->pci->vdev.features_negotiated = true;
    to->d.offered = from->d.offered;
    to->d.bits = from->d.bits;
    for (i = 0; i < VBR_NQUEUES; i++) {
        to->d.ring[i] = from->d.ring[i];
    }
    migrate_allocator((QGuestAllocator *)&from->alloc, &to->alloc);
}

static bool job_is_done(QTestState *qts)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-jobs' }");
    const QListEntry *e = qlist_first(qdict_get_qlist(rsp, "return"));
    QDict *job = qobject_to(QDict, qlist_entry_obj(e));
    bool done = !strcmp(qdict_get_str(job, "status"), "concluded");

    g_assert(!qdict_haskey(job, "error"));
    qobject_unref(rsp);
    return done;
}

void vbr_snapshot_disk(QTestState *qts, const char *file)
{
    int fd = open(file, O_CREAT | O_RDWR, 0600);
    VbrWait wait = { "the disk to be made" };

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    qtest_qmp_assert_success(qts, "{ 'execute': 'blockdev-add', "
                             "'arguments': { 'driver': 'file', "
                             "'node-name': 'file', 'filename': %s } }", file);
    qtest_qmp_assert_success(qts, "{ 'execute': 'blockdev-create', "
                             "'arguments': { 'job-id': 'create', "
                             "'options': { 'driver': 'qcow2', "
                             "'file': 'file', 'size': 67108864 } } }");
    while (!job_is_done(qts)) {
        vbr_wait(&wait);
    }
    qtest_qmp_assert_success(qts, "{ 'execute': 'job-dismiss', "
                             "'arguments': { 'id': 'create' } }");
    qtest_qmp_assert_success(qts, "{ 'execute': 'blockdev-add', "
                             "'arguments': { 'driver': 'qcow2', "
                             "'node-name': 'disk', 'file': 'file' } }");
}

void vbr_snapshot(QTestState *qts, const char *hmp)
{
    g_autofree char *out = qtest_hmp(qts, "%s vbr", hmp);

    g_assert_cmpstr(out, ==, "");
}

size_t vbr_stream_find(const uint8_t *data, size_t size, const char *what)
{
    const uint8_t *at = memmem(data, size, what, strlen(what));

    g_assert_nonnull(at);
    return at - data;
}
