/*
 * What a virtio-balloon-rs device did, as seen from outside the guest
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/prctl.h>
#include "vbr-probe.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "qobject/qstring.h"

#define PAGEMAP_PRESENT (1ull << 63)
#define PAGEMAP_SWAPPED (1ull << 62)

static QDict *vbr_qom_get(VbrDev *d, const char *name)
{
    QDict *rsp = qtest_qmp(d->qts,
                           "{ 'execute': 'qom-get', 'arguments': "
                           "{ 'path': %s, 'property': %s } }",
                           VBR_PATH, name);

    if (!qdict_haskey(rsp, "return")) {
        g_test_message("no property '%s'", name);
    }
    g_assert(qdict_haskey(rsp, "return"));
    return rsp;
}

static uint64_t vbr_dict_uint(const QDict *dict, const char *name)
{
    QNum *num = qobject_to(QNum, qdict_get(dict, name));
    uint64_t val;

    g_assert_nonnull(num);
    g_assert(qnum_get_try_uint(num, &val));
    return val;
}

/* Whether there is no such device, or one without this property. */
static bool is_not_found(const QDict *rsp)
{
    const QDict *error = qdict_get_qdict(rsp, "error");

    g_assert_nonnull(error);
    return strstr(qdict_get_str(error, "desc"), "not found");
}

/* Waits until a property is 0. Another balloon, or none, has nothing of it. */
static void vbr_wait_zero(VbrDev *d, const char *name)
{
    VbrWait wait = { name };

    for (;;) {
        QDict *rsp = qtest_qmp(d->qts, "{ 'execute': 'qom-get', 'arguments': "
                               "{ 'path': %s, 'property': %s } }", VBR_PATH,
                               name);
        bool is_zero = qdict_haskey(rsp, "return")
                       ? !vbr_dict_uint(rsp, "return") : is_not_found(rsp);

        qobject_unref(rsp);
        if (is_zero) {
            return;
        }
        vbr_wait(&wait);
    }
}

void vbr_wait_held(VbrDev *d)
{
    vbr_wait_zero(d, "held-bytes");
}

void vbr_wait_owed(VbrDev *d)
{
    vbr_wait_zero(d, "owed-bytes");
}

uint64_t vbr_counter(VbrDev *d, const char *name)
{
    QDict *rsp;
    uint64_t val;

    if (!g_str_equal(name, "held-bytes")) {
        vbr_wait_held(d);
    }
    rsp = vbr_qom_get(d, name);
    val = vbr_dict_uint(rsp, "return");

    qobject_unref(rsp);
    return val;
}

char *vbr_string(VbrDev *d, const char *name)
{
    QDict *rsp = vbr_qom_get(d, name);
    char *val = g_strdup(qdict_get_str(rsp, "return"));

    qobject_unref(rsp);
    return val;
}

uint64_t vbr_stat(VbrDev *d, const char *name)
{
    QDict *rsp = vbr_qom_get(d, "guest-stats");
    QDict *all = qdict_get_qdict(rsp, "return");
    uint64_t val = vbr_dict_uint(qdict_get_qdict(all, "stats"), name);

    qobject_unref(rsp);
    return val;
}

int64_t vbr_stats_age(VbrDev *d)
{
    QDict *rsp = vbr_qom_get(d, "guest-stats");
    int64_t val = qdict_get_int(qdict_get_qdict(rsp, "return"), "last-update");

    qobject_unref(rsp);
    return val;
}

unsigned int vbr_stats_count(VbrDev *d)
{
    QDict *rsp = vbr_qom_get(d, "guest-stats");
    QDict *all = qdict_get_qdict(rsp, "return");
    unsigned int n = qdict_size(qdict_get_qdict(all, "stats"));

    qobject_unref(rsp);
    return n;
}

void vbr_poll_stats(VbrDev *d, int64_t secs)
{
    qtest_qmp_assert_success(d->qts,
                             "{ 'execute': 'qom-set', 'arguments': "
                             "{ 'path': %s, 'property': "
                             "'guest-stats-polling-interval', "
                             "'value': %" PRId64 " } }", VBR_PATH, secs);
}

int64_t vbr_query_balloon(QTestState *qts)
{
    QDict *ret = qtest_qmp_assert_success_ref(qts,
                                              "{ 'execute': 'query-balloon' }");
    int64_t actual = qdict_get_int(ret, "actual");

    qobject_unref(ret);
    return actual;
}

void vbr_set_balloon(QTestState *qts, uint64_t size)
{
    qtest_qmp_assert_success(qts,
                             "{ 'execute': 'balloon', 'arguments': "
                             "{ 'value': %" PRId64 " } }", (int64_t)size);
}

char *vbr_qmp_error(QDict *rsp)
{
    char *desc;

    g_assert(qdict_haskey(rsp, "error"));
    desc = g_strdup(qdict_get_str(qdict_get_qdict(rsp, "error"), "desc"));
    qobject_unref(rsp);
    return desc;
}

static bool vbr_path_is_broken(VbrDev *d, const char *path)
{
    QDict *ret = qtest_qmp_assert_success_ref(d->qts,
                                              "{ 'execute': "
                                              "'x-query-virtio-status', "
                                              "'arguments': { 'path': %s } }",
                                              path);
    bool broken = qdict_get_bool(ret, "broken");

    qobject_unref(ret);
    return broken;
}

bool vbr_is_broken(VbrDev *d)
{
    QDict *rsp = qtest_qmp(d->qts, "{ 'execute': 'x-query-virtio' }");
    QListEntry *e;
    bool found = false, broken = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        QDict *info = qobject_to(QDict, qlist_entry_obj(e));
        const char *path = qdict_get_str(info, "path");

        if (g_str_has_prefix(path, VBR_PATH)) {
            found = true;
            broken = vbr_path_is_broken(d, path);
        }
    }
    qobject_unref(rsp);
    g_assert(found);
    return broken;
}

static uint64_t vbr_host_address(VbrDev *d, uint64_t addr)
{
    g_autofree char *text = qtest_hmp(d->qts, "gpa2hva 0x%" PRIx64, addr);
    char *is = strstr(text, ") is ");

    g_assert_nonnull(is);
    return g_ascii_strtoull(is + strlen(") is "), NULL, 16);
}

void vbr_keep_small_pages(void)
{
    /* Survives fork and execve. */
    g_assert_cmpint(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), ==, 0);
}

void vbr_allow_huge_pages(void)
{
    g_assert_cmpint(prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0), ==, 0);
}

uint64_t vbr_smaps(VbrDev *d, uint64_t addr, const char *field)
{
    uint64_t hva = vbr_host_address(d, addr), from, to;
    g_autofree char *name = g_strdup_printf("/proc/%d/smaps",
                                            (int)qtest_pid(d->qts));
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    bool inside = false;
    int i;

    g_assert(g_file_get_contents(name, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", 0);
    for (i = 0; lines[i]; i++) {
        if (sscanf(lines[i], "%" SCNx64 "-%" SCNx64 " ", &from, &to) == 2) {
            inside = hva >= from && hva < to;
        } else if (inside && g_str_has_prefix(lines[i], field)) {
            return g_ascii_strtoull(lines[i] + strlen(field) + 1, NULL, 10) *
                   KiB;
        }
    }
    g_assert_not_reached();
}

size_t vbr_resident(VbrDev *d, uint64_t addr, size_t pages)
{
    uint64_t hva = vbr_host_address(d, addr);
    size_t host_page = qemu_real_host_page_size();
    g_autofree char *name = g_strdup_printf("/proc/%d/pagemap",
                                            (int)qtest_pid(d->qts));
    g_autofree uint64_t *map = g_new(uint64_t, pages);
    size_t i, n = 0;
    int fd = open(name, O_RDONLY);

    g_assert_cmpint(fd, >=, 0);
    /* The tests work in pages of 4 KiB, and so must the host. */
    g_assert_cmpuint(host_page, ==, VBR_PAGE);
    g_assert_cmpint(pread(fd, map, pages * sizeof(*map),
                          hva / host_page * sizeof(*map)),
                    ==, pages * sizeof(*map));
    close(fd);
    for (i = 0; i < pages; i++) {
        n += !!(map[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED));
    }
    return n;
}

void vbr_fill(VbrDev *d, uint64_t addr, size_t pages, uint8_t byte)
{
    qtest_memset(d->qts, addr, byte, pages * VBR_PAGE);
}

void vbr_assert_filled(VbrDev *d, uint64_t addr, size_t pages, uint8_t byte)
{
    size_t size = pages * VBR_PAGE, i;
    g_autofree uint8_t *buf = g_malloc(size);

    qtest_bufread(d->qts, addr, buf, size);
    for (i = 0; i < size; i++) {
        if (buf[i] != byte) {
            g_test_message("byte 0x%zx of the range at 0x%" PRIx64, i, addr);
        }
        g_assert_cmphex(buf[i], ==, byte);
    }
}

void vbr_assert_gone(VbrDev *d, uint64_t addr, size_t pages)
{
    vbr_wait_held(d);
    g_assert_cmpuint(vbr_resident(d, addr, pages), ==, 0);
    vbr_assert_filled(d, addr, pages, 0);
}

void vbr_assert_kept(VbrDev *d, uint64_t addr, size_t pages, uint8_t byte)
{
    vbr_wait_held(d);
    g_assert_cmpuint(vbr_resident(d, addr, pages), ==, pages);
    vbr_assert_filled(d, addr, pages, byte);
}

static bool is_qemu_10_0(QTestState *qts)
{
    QDict *version = qtest_qmp_assert_success_ref(
        qts, "{'execute': 'query-version'}");
    QDict *qemu = qdict_get_qdict(version, "qemu");
    bool is = qdict_get_int(qemu, "major") == 10 &&
              qdict_get_int(qemu, "minor") == 0;

    qobject_unref(version);
    return is;
}

/*
 * virtio-mmio tells the largest size of all queues, or that there is none. The
 * later stable releases of QEMU 10.0 give every queue of any device that size.
 */
void vbr_assert_queue_size(VbrDev *d, uint16_t index, uint16_t size)
{
    uint16_t seen;

    d->vdev->bus->queue_select(d->vdev, index);
    seen = d->vdev->bus->get_queue_size(d->vdev);
    if (size && (!d->pci || (seen != size && is_qemu_10_0(d->qts)))) {
        size = 1024;
    }
    g_assert_cmpuint(seen, ==, size);
}
