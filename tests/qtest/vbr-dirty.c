/*
 * Tests of the dirty page list
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-dirty.h"
#include "vbr-stream.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"

VbrVm *vbr_dirty_pc(const char *args, const char *props)
{
    VbrVm *vm = vbr_pc("%s " VBR_DL ",%s", args, props);

    vbr_dirty_do(vm->qts, "start");
    return vm;
}

static QDict *command(QTestState *qts, const char *name)
{
    g_autofree char *full = g_strdup_printf("dirty-page-list-%s", name);

    return qtest_qmp(qts, "{ 'execute': %s, 'arguments': { 'id': %s } }",
                     full, VBR_DL_ID);
}

void vbr_dirty_do(QTestState *qts, const char *name)
{
    QDict *rsp = command(qts, name);

    if (qdict_haskey(rsp, "error")) {
        g_test_message("%s: %s", name,
                       qdict_get_str(qdict_get_qdict(rsp, "error"), "desc"));
    }
    g_assert(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
}

char *vbr_dirty_error(QDict *rsp)
{
    QDict *error;
    char *text;

    g_assert(qdict_haskey(rsp, "error"));
    error = qdict_get_qdict(rsp, "error");
    g_assert_cmpstr(qdict_get_str(error, "class"), ==, "GenericError");
    text = g_strdup(qdict_get_str(error, "desc"));
    qobject_unref(rsp);
    return text;
}

char *vbr_dirty_refused(QTestState *qts, const char *name)
{
    return vbr_dirty_error(command(qts, name));
}

void vbr_assert_says(char *said, const char *text)
{
    if (!strstr(said, text)) {
        g_test_message("'%s' does not say '%s'", said, text);
        g_test_fail();
    }
    g_free(said);
}

static QObject *property(QTestState *qts, const char *name, QDict **rsp)
{
    *rsp = qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': "
                     "{ 'path': '/objects/" VBR_DL_ID "', 'property': %s } }",
                     name);
    g_assert(qdict_haskey(*rsp, "return"));
    return qdict_get(*rsp, "return");
}

uint64_t vbr_dirty_get(QTestState *qts, const char *name)
{
    QDict *rsp;
    QNum *num = qobject_to(QNum, property(qts, name, &rsp));
    uint64_t value;

    g_assert_nonnull(num);
    g_assert(qnum_get_try_uint(num, &value));
    qobject_unref(rsp);
    return value;
}

bool vbr_dirty_is(QTestState *qts, const char *name)
{
    QDict *rsp;
    bool is;

    property(qts, name, &rsp);
    is = qdict_get_bool(rsp, "return");
    qobject_unref(rsp);
    return is;
}

void vbr_dirty_write(QTestState *qts, uint64_t gpa, size_t pages,
                     uint64_t step, uint8_t byte)
{
    size_t i;

    for (i = 0; i < pages; i++) {
        qtest_writeb(qts, gpa + i * step, byte);
    }
}

static QDict *fetch(QTestState *qts, unsigned int most, bool gfns)
{
    QDict *args = qdict_new();

    qdict_put_str(args, "id", VBR_DL_ID);
    if (most) {
        qdict_put_int(args, "max-pages", most);
    }
    if (gfns) {
        qdict_put_bool(args, "gfns", true);
    }
    return qtest_qmp_assert_success_ref(qts,
        "{ 'execute': 'dirty-page-list-fetch', 'arguments': %p }", args);
}

static uint64_t number(const QDict *dict, const char *name)
{
    uint64_t value;

    g_assert(qnum_get_try_uint(qobject_to(QNum, qdict_get(dict, name)),
                               &value));
    return value;
}

static void add_range(GString *text, const QDict *range)
{
    g_assert_cmpstr(qdict_get_str(range, "block"), !=, "");
    g_string_append_printf(text, "%s%s %" PRIx64 "+%" PRIx64,
                           text->len ? ", " : "", qdict_get_str(range, "block"),
                           number(range, "offset"), number(range, "size"));
    if (qdict_haskey(range, "gpa")) {
        g_string_append_printf(text, " @%" PRIx64, number(range, "gpa"));
    }
}

static char *as_text(QDict *answer)
{
    GString *text = g_string_new(NULL);
    const QListEntry *e;

    g_assert(qdict_haskey(answer, "ranges"));
    QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "ranges"), e) {
        add_range(text, qobject_to(QDict, qlist_entry_obj(e)));
    }
    if (qdict_haskey(answer, "gfns")) {
        g_string_append_printf(text, "%sgfns", text->len ? " " : "");
        QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "gfns"), e) {
            uint64_t gfn;

            g_assert(qnum_get_try_uint(qobject_to(QNum, qlist_entry_obj(e)),
                                       &gfn));
            g_string_append_printf(text, " %" PRIx64, gfn);
        }
    }
    qobject_unref(answer);
    return g_string_free(text, false);
}

char *vbr_dirty_fetch(QTestState *qts, unsigned int most)
{
    return as_text(fetch(qts, most, false));
}

char *vbr_dirty_fetch_gfns(QTestState *qts, unsigned int most)
{
    return as_text(fetch(qts, most, true));
}

void vbr_assert_text(char *fetched, const char *want)
{
    g_assert_cmpstr(fetched, ==, want);
    g_free(fetched);
}

GHashTable *vbr_dirty_pages(void)
{
    return g_hash_table_new(NULL, NULL);
}

static size_t add_pages(GHashTable *pages, const QDict *range, uint64_t *next)
{
    uint64_t gpa = number(range, "gpa"), size = number(range, "size");
    uint64_t end = gpa + size;

    g_assert_cmpstr(qdict_get_str(range, "block"), ==, "pc.ram");
    g_assert_cmphex(gpa, ==, number(range, "offset"));
    g_assert_cmpuint(size, >, 0);
    g_assert_cmpuint((gpa | size) % VBR_PAGE, ==, 0);
    g_assert_cmphex(gpa, >=, *next);
    for (*next = end; pages && gpa < end; gpa += VBR_PAGE) {
        gpointer key = GUINT_TO_POINTER(gpa / VBR_PAGE);
        guint count = GPOINTER_TO_UINT(g_hash_table_lookup(pages, key));

        g_hash_table_insert(pages, key, GUINT_TO_POINTER(count + 1));
    }
    return size / VBR_PAGE;
}

size_t vbr_dirty_fetch_all(QTestState *qts, unsigned int most,
                           GHashTable *pages)
{
    size_t total = 0, count;

    do {
        QDict *answer = fetch(qts, most, false);
        const QListEntry *e;
        uint64_t next = 0;

        count = 0;
        QLIST_FOREACH_ENTRY(qdict_get_qlist(answer, "ranges"), e) {
            count += add_pages(pages, qobject_to(QDict, qlist_entry_obj(e)),
                               &next);
        }
        g_assert_cmpuint(count, <=, most ?: VBR_DL_DEFAULT);
        qobject_unref(answer);
        total += count;
    } while (count);
    return total;
}

void vbr_assert_pages(GHashTable *pages, uint64_t gpa, size_t count,
                      uint64_t step)
{
    size_t i;

    for (i = 0; i < count; i++) {
        gpointer key = GUINT_TO_POINTER((gpa + i * step) / VBR_PAGE);

        g_assert_cmpuint(GPOINTER_TO_UINT(g_hash_table_lookup(pages, key)),
                         ==, 1);
    }
    g_assert_cmpuint(g_hash_table_size(pages), ==, count);
    g_hash_table_destroy(pages);
}

char *vbr_dirty_status(QTestState *qts)
{
    QDict *ret = qtest_qmp_assert_success_ref(qts,
                                              "{ 'execute': 'query-status' }");
    char *status = g_strdup(qdict_get_str(ret, "status"));

    g_assert(qdict_get_bool(ret, "running") == !strcmp(status, "running"));
    qobject_unref(ret);
    return status;
}

void vbr_dirty_await(QTestState *qts, const char *want)
{
    VbrWait wait = { want };

    for (;;) {
        g_autofree char *status = vbr_dirty_status(qts);

        if (!strcmp(status, want)) {
            return;
        }
        vbr_wait(&wait);
    }
}

static bool write_down(QTestState *qts, const char *name, QDict *event,
                       void *opaque)
{
    GString *events = opaque;

    g_string_append_printf(events, "%s ", name);
    if (!strcmp(name, "DIRTY_PAGE_LIST_TRIGGER")) {
        QDict *data = qdict_get_qdict(event, "data");

        g_string_append_printf(events, "%s=%" PRIu64 " ",
                               qdict_get_str(data, "id"),
                               number(data, "pages"));
    }
    return true;
}

GString *vbr_dirty_events(QTestState *qts)
{
    GString *events = g_string_new(NULL);

    qtest_qmp_set_event_callback(qts, write_down, events);
    return events;
}

void vbr_assert_events(QTestState *qts, GString *events, const char *want)
{
    int i;

    /*
     * Whoever asks for a pause is heard by the main loop's next turn at the
     * latest, and there was one between two answers.
     */
    for (i = 0; i < 3; i++) {
        qtest_qmp_assert_success(qts, "{ 'execute': 'query-status' }");
    }
    g_assert_cmpstr(events->str, ==, want);
    g_string_truncate(events, 0);
}

static char *memory(VbrVm *vm, uint64_t size)
{
    g_autofree char *file = vbr_stream_name();
    g_autoptr(GError) err = NULL;
    char *bytes;
    gsize len;

    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'pmemsave', 'arguments': "
                             "{ 'val': 0, 'size': %" PRIu64 ", "
                             "'filename': %s } }", size, file);
    g_file_get_contents(file, &bytes, &len, &err);
    g_assert_no_error(err);
    unlink(file);
    g_assert_cmpuint(len, ==, size);
    return bytes;
}

bool vbr_same_memory(VbrVm *a, VbrVm *b, uint64_t size)
{
    g_autofree char *left = memory(a, size), *right = memory(b, size);
    uint64_t at, differ = 0;

    for (at = 0; at < size; at += VBR_PAGE) {
        if (memcmp(left + at, right + at, VBR_PAGE)) {
            if (!differ++) {
                g_test_message("the page at %" PRIx64 " differs", at);
            }
        }
    }
    if (differ) {
        g_test_message("%" PRIu64 " pages differ", differ);
    }
    return !differ;
}
