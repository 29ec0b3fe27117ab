/*
 * dirty-page-list: the object, its options and its errors
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-dirty.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"

#define PATH "/objects/" VBR_DL_ID

static const char *const zeros[] = {
    "dirty-index", "fetch-index", "reset-index", "overflows", "triggers",
    "list-syncs", "scan-syncs",
};

/* The object as it is before anybody used it. */
static void assert_new(QTestState *qts, uint64_t max_dirty, bool no_dups,
                       uint64_t trigger)
{
    int i;

    vbr_assert_dirty(qts, "max-dirty", max_dirty);
    vbr_assert_dirty(qts, "dirty-trigger", trigger);
    g_assert(vbr_dirty_is(qts, "no-dups") == no_dups);
    g_assert(!vbr_dirty_is(qts, "active"));
    g_assert(!vbr_dirty_is(qts, "overflow"));
    for (i = 0; i < ARRAY_SIZE(zeros); i++) {
        vbr_assert_dirty(qts, zeros[i], 0);
    }
}

static const struct {
    const char *props;
    uint64_t max_dirty;
    bool no_dups;
    uint64_t trigger;
} accepted[] = {
    { "max-dirty=1", 256 },
    { "max-dirty=256", 256 },
    { "max-dirty=257", 512 },
    { "max-dirty=0x1000,no-dups=on", 4096, true },
    { "max-dirty=1000,no-dups=off,dirty-trigger=1", 1024, false, 1 },
    /* Larger than what was asked for, and not than what there is. */
    { "max-dirty=1,dirty-trigger=256", 256, false, 256 },
    { "max-dirty=300,no-dups=on,dirty-trigger=0", 512, true, 0 },
};

static void test_command_line(void)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(accepted); i++) {
        VbrVm *vm = vbr_pc(VBR_DL ",%s", accepted[i].props);

        assert_new(vm->qts, accepted[i].max_dirty, accepted[i].no_dups,
                   accepted[i].trigger);
        vbr_vm_free(vm);
    }
}


static const struct {
    const char *props;
    const char *json;
    const char *says[2];
} refused[] = {
    { "", "", { "max-dirty", "" } },
    { "no-dups=on", "'no-dups': true", { "max-dirty", "" } },
    { "max-dirty=0", "'max-dirty': 0", { "max-dirty", VBR_DL_EINVAL } },
    { "max-dirty=1073741825", "'max-dirty': 1073741825",
      { "max-dirty", VBR_DL_EINVAL } },
    { "max-dirty=18446744073709551615", "'max-dirty': 18446744073709551615",
      { "max-dirty", VBR_DL_EINVAL } },
    { "max-dirty=18446744073709551616", "'max-dirty': 18446744073709551616",
      { "max-dirty", "" } },
    { "max-dirty=many", "'max-dirty': 'many'", { "max-dirty", "" } },
    { "max-dirty=256,dirty-trigger=257",
      "'max-dirty': 256, 'dirty-trigger': 257",
      { "dirty-trigger", VBR_DL_EINVAL } },
    { "max-dirty=257,dirty-trigger=513",
      "'max-dirty': 257, 'dirty-trigger': 513",
      { "dirty-trigger", VBR_DL_EINVAL } },
    { "max-dirty=1,dirty-trigger=18446744073709551615",
      "'max-dirty': 1, 'dirty-trigger': 18446744073709551615",
      { "dirty-trigger", VBR_DL_EINVAL } },
    { "max-dirty=1,no-dups=perhaps", "'max-dirty': 1, 'no-dups': 'perhaps'",
      { "no-dups", "" } },
    { "max-dirty=1,vcpus=1", "'max-dirty': 1, 'vcpus': 1", { "vcpus", "" } },
    /* What is only there to be read. */
    { "max-dirty=1,active=on", "'max-dirty': 1, 'active': true",
      { "active", "" } },
};

/* What a QEMU says that ends because of these arguments. */
static char *ends_with(const char *args)
{
    /* Should they be welcome, the last one is not. */
    g_autofree char *line = g_strdup_printf(
        "%s -M none -nodefaults -display none %s -device no-such-device",
        getenv("QTEST_QEMU_BINARY"), args);
    g_autoptr(GError) err = NULL;
    char *said;
    int status;

    g_spawn_command_line_sync(line, NULL, &said, &status, &err);
    g_assert_no_error(err);
    g_assert(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 1);
    return said;
}

static void test_command_line_refused(void)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(refused); i++) {
        g_autofree char *args = g_strdup_printf(VBR_DL "%s%s",
                                                *refused[i].props ? "," : "",
                                                refused[i].props);
        g_autofree char *said = ends_with(args);

        g_test_message("%s", said);
        g_assert_null(strstr(said, "no-such-device"));
        g_assert_nonnull(strstr(said, refused[i].says[0]));
        g_assert_nonnull(strstr(said, refused[i].says[1]));
    }
    vbr_assert_says(ends_with(VBR_DL ",max-dirty=1 -object "
                              "dirty-page-list,id=other,max-dirty=1"),
                    VBR_DL_EBUSY);
}

static void send_add(QTestState *qts, const char *id, const char *props)
{
    g_autofree char *json = g_strdup_printf(
        "{ 'qom-type': 'dirty-page-list', 'id': '%s'%s%s }", id,
        *props ? ", " : "", props);

    qtest_qmp_send(qts, "{ 'execute': 'object-add', 'arguments': %p }",
                   qobject_from_json(json, &error_abort));
}

static QDict *object_add(QTestState *qts, const char *id, const char *props)
{
    send_add(qts, id, props);
    return qtest_qmp_receive(qts);
}

static void add(QTestState *qts, const char *props)
{
    QDict *rsp = object_add(qts, VBR_DL_ID, props);

    g_assert(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
}

static void send_del(QTestState *qts)
{
    qtest_qmp_send(qts, "{ 'execute': 'object-del', 'arguments': "
                   "{ 'id': '" VBR_DL_ID "' } }");
}

static void receive_success(QTestState *qts)
{
    QDict *rsp = qtest_qmp_receive(qts);

    g_assert(qdict_haskey(rsp, "return"));
    qobject_unref(rsp);
}

static void del(QTestState *qts)
{
    send_del(qts);
    receive_success(qts);
}

/* What is refused leaves nothing behind. */
static void test_add_refused(void)
{
    VbrVm *vm = vbr_pc(" ");
    int i;

    for (i = 0; i < ARRAY_SIZE(refused); i++) {
        g_autofree char *said = vbr_dirty_error(
            object_add(vm->qts, VBR_DL_ID, refused[i].json));

        g_test_message("%s", said);
        g_assert_nonnull(strstr(said, refused[i].says[0]));
        g_assert_nonnull(strstr(said, refused[i].says[1]));
        g_free(vbr_dirty_refused(vm->qts, "start"));
        add(vm->qts, "'max-dirty': 300, 'dirty-trigger': 512");
        assert_new(vm->qts, 512, false, 512);
        del(vm->qts);
    }
    vbr_vm_free(vm);
}

/* The largest list there is; whether there is memory for it is the host's. */
static void test_largest(void)
{
    VbrVm *vm = vbr_pc(" ");
    QDict *rsp = object_add(vm->qts, VBR_DL_ID, "'max-dirty': 1073741824");

    if (qdict_haskey(rsp, "error")) {
        vbr_assert_says(vbr_dirty_error(rsp), "Cannot allocate memory");
        add(vm->qts, "'max-dirty': 1");
    } else {
        qobject_unref(rsp);
        assert_new(vm->qts, 1073741824, false, 0);
    }
    vbr_dirty_do(vm->qts, "start");
    vbr_dirty_write(vm->qts, 1 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_fetch(vm->qts, "pc.ram 100000+1000 @100000");
    vbr_vm_free(vm);
}

static const char *const commands[] = { "start", "stop", "fetch", "reset" };

static void assert_unknown(QTestState *qts, const char *id)
{
    int i;

    for (i = 0; i < ARRAY_SIZE(commands); i++) {
        g_autofree char *name = g_strdup_printf("dirty-page-list-%s",
                                                commands[i]);
        QDict *rsp = qtest_qmp(qts, "{ 'execute': %s, "
                               "'arguments': { 'id': %s } }", name, id);

        vbr_assert_says(vbr_dirty_error(rsp), id);
        rsp = qtest_qmp(qts, "{ 'execute': %s }", name);
        vbr_assert_says(vbr_dirty_error(rsp), "id");
    }
}

/* A second one is refused, however often, and the first one goes on. */
static void test_second(void)
{
    VbrVm *vm = vbr_dirty_pc("", "max-dirty=256");
    int i;

    for (i = 0; i < 3; i++) {
        vbr_assert_says(vbr_dirty_error(object_add(vm->qts, "other",
                                                   "'max-dirty': 1")),
                        VBR_DL_EBUSY);
        vbr_dirty_write(vm->qts, 1 * MiB, 1, VBR_PAGE, 1);
        vbr_assert_fetch(vm->qts, "pc.ram 100000+1000 @100000");
    }
    vbr_dirty_do(vm->qts, "stop");
    del(vm->qts);
    assert_unknown(vm->qts, VBR_DL_ID);
    /* The place is free for one, and for no more than that. */
    add(vm->qts, "'max-dirty': 1");
    for (i = 0; i < 2; i++) {
        vbr_assert_says(vbr_dirty_error(object_add(vm->qts, "other",
                                                   "'max-dirty': 1")),
                        VBR_DL_EBUSY);
    }
    vbr_dirty_do(vm->qts, "start");
    vbr_dirty_do(vm->qts, "stop");
    vbr_dirty_do(vm->qts, "stop");
    vbr_vm_free(vm);
}

static void test_unknown(void)
{
    VbrVm *vm = vbr_dirty_pc("-object iothread,id=io0", "max-dirty=1");

    assert_unknown(vm->qts, "dl1");
    assert_unknown(vm->qts, "");
    /* What is no list, and what is a path and no id. */
    assert_unknown(vm->qts, "io0");
    assert_unknown(vm->qts, PATH);
    vbr_dirty_do(vm->qts, "stop");
    del(vm->qts);
    assert_unknown(vm->qts, VBR_DL_ID);
    vbr_vm_free(vm);
}

/* Commands in a state that is not for them. */
static void test_order(void)
{
    VbrVm *vm = vbr_pc(VBR_DL ",max-dirty=256");

    vbr_assert_dirty_refused(vm->qts, "fetch", "start");
    vbr_assert_dirty_refused(vm->qts, "reset", "start");
    /* That it does not list is what is asked for. */
    vbr_dirty_do(vm->qts, "stop");
    vbr_assert_dirty_refused(vm->qts, "fetch", "start");

    vbr_dirty_do(vm->qts, "start");
    g_assert(vbr_dirty_is(vm->qts, "active"));
    vbr_assert_dirty_refused(vm->qts, "start", VBR_DL_EBUSY);
    /* It was not started anew. */
    vbr_dirty_write(vm->qts, 1 * MiB, 2, VBR_PAGE, 1);
    vbr_assert_dirty_refused(vm->qts, "start", VBR_DL_EBUSY);
    vbr_assert_fetch(vm->qts, "pc.ram 100000+2000 @100000");

    vbr_dirty_do(vm->qts, "stop");
    g_assert(!vbr_dirty_is(vm->qts, "active"));
    vbr_dirty_do(vm->qts, "stop");
    vbr_assert_fetch(vm->qts, "");
    vbr_dirty_do(vm->qts, "reset");
    vbr_dirty_do(vm->qts, "start");
    vbr_vm_free(vm);
}

static void test_max_pages(void)
{
    static const char *const wrong[] = {
        "0", "65537", "4294967295", "4294967296", "-1", "'1'",
    };
    VbrVm *vm = vbr_dirty_pc("", "max-dirty=256");
    int i;

    vbr_dirty_write(vm->qts, 1 * MiB, 2, VBR_PAGE, 1);
    for (i = 0; i < ARRAY_SIZE(wrong); i++) {
        g_autofree char *json = g_strdup_printf(
            "{ 'id': '" VBR_DL_ID "', 'max-pages': %s }", wrong[i]);
        g_autofree char *said = vbr_dirty_error(
            qtest_qmp(vm->qts, "{ 'execute': 'dirty-page-list-fetch', "
                      "'arguments': %p }",
                      qobject_from_json(json, &error_abort)));

        g_assert_nonnull(strstr(said, "max-pages"));
        if (i < 3) {
            g_assert_nonnull(strstr(said, VBR_DL_EINVAL));
        }
    }
    /* None of them took anything. */
    vbr_assert_text(vbr_dirty_fetch(vm->qts, 1), "pc.ram 100000+1000 @100000");
    vbr_assert_text(vbr_dirty_fetch(vm->qts, 65535),
                    "pc.ram 101000+1000 @101000");
    vbr_vm_free(vm);
}

static void test_delete(void)
{
    VbrVm *vm = vbr_dirty_pc("", "max-dirty=256");
    QTestState *qts = vm->qts;
    int i;

    send_del(qts);
    vbr_assert_says(vbr_dirty_error(qtest_qmp_receive(qts)), "in use");
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "pc.ram 100000+1000 @100000");
    for (i = 0; i < 50; i++) {
        vbr_dirty_do(qts, "stop");
        /* The next one is welcome at once. */
        send_del(qts);
        send_add(qts, VBR_DL_ID, i % 2 ? "'max-dirty': 300"
                                       : "'max-dirty': 1, 'no-dups': true");
        receive_success(qts);
        receive_success(qts);
        assert_new(qts, i % 2 ? 512 : 256, i % 2 == 0, 0);
        if (i % 3) {
            vbr_dirty_do(qts, "start");
            vbr_dirty_write(qts, i * MiB, 1, VBR_PAGE, 1);
            vbr_assert_dirty(qts, "dirty-index", 1);
        }
    }
    vbr_vm_free(vm);
}

/* It ends with its machine, whatever it is doing. */
static void test_quit(void)
{
    VbrVm *vm = vbr_dirty_pc("", "max-dirty=256,no-dups=on,dirty-trigger=5");

    vbr_dirty_write(vm->qts, 1 * MiB, 1000, VBR_PAGE, 1);
    vbr_dirty_await(vm->qts, "dirty-trigger");
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'quit' }");
    qtest_wait_qemu(vm->qts);
    vbr_vm_free(vm);
}

static void assert_fixed(QTestState *qts, const char *name, const char *value)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'qom-set', 'arguments': "
                           "{ 'path': '" PATH "', 'property': %s, "
                           "'value': %p } }", name,
                           qobject_from_json(value, &error_abort));

    /* It says which one, or that this is not permitted. */
    g_free(vbr_dirty_error(rsp));
}

static void test_fixed(void)
{
    VbrVm *vm = vbr_pc(VBR_DL ",max-dirty=300,no-dups=on,dirty-trigger=7");
    int started, i;

    for (started = 0; started < 2; started++) {
        assert_fixed(vm->qts, "max-dirty", "1000");
        assert_fixed(vm->qts, "no-dups", "false");
        assert_fixed(vm->qts, "dirty-trigger", "0");
        assert_fixed(vm->qts, "active", "true");
        assert_fixed(vm->qts, "overflow", "true");
        for (i = 0; i < ARRAY_SIZE(zeros); i++) {
            assert_fixed(vm->qts, zeros[i], "5");
        }
        if (!started) {
            assert_new(vm->qts, 512, true, 7);
            vbr_dirty_do(vm->qts, "start");
        }
    }
    vbr_dirty_do(vm->qts, "stop");
    assert_new(vm->qts, 512, true, 7);
    vbr_vm_free(vm);
}

static void assert_indices(QTestState *qts, uint64_t dirty, uint64_t fetched,
                           uint64_t reset)
{
    vbr_assert_dirty(qts, "dirty-index", dirty);
    vbr_assert_dirty(qts, "fetch-index", fetched);
    vbr_assert_dirty(qts, "reset-index", reset);
}

static void check_indices(const char *props)
{
    VbrVm *vm = vbr_dirty_pc("", props);
    QTestState *qts = vm->qts;

    assert_indices(qts, 0, 0, 0);
    vbr_dirty_write(qts, 1 * MiB, 5, 2 * VBR_PAGE, 1);
    assert_indices(qts, 5, 0, 0);
    vbr_dirty_do(qts, "reset");
    assert_indices(qts, 5, 0, 0);
    g_free(vbr_dirty_fetch(qts, 2));
    assert_indices(qts, 5, 2, 0);
    vbr_dirty_write(qts, 2 * MiB, 3, VBR_PAGE, 1);
    assert_indices(qts, 8, 2, 0);
    vbr_dirty_do(qts, "reset");
    assert_indices(qts, 8, 2, 2);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 0, NULL), ==, 6);
    assert_indices(qts, 8, 8, 2);
    vbr_assert_fetch(qts, "");
    assert_indices(qts, 8, 8, 2);
    vbr_dirty_write(qts, 2 * MiB, 1, VBR_PAGE, 1);
    vbr_dirty_do(qts, "stop");
    assert_indices(qts, 9, 8, 2);
    vbr_dirty_do(qts, "reset");
    assert_indices(qts, 9, 8, 8);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 0, NULL), ==, 1);
    assert_indices(qts, 9, 9, 8);
    /* They count from the start. */
    vbr_dirty_do(qts, "start");
    assert_indices(qts, 0, 0, 0);
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    assert_indices(qts, 1, 0, 0);
    vbr_vm_free(vm);
}

static void test_indices(void)
{
    check_indices("max-dirty=256");
    check_indices("max-dirty=256,no-dups=on");
}

/* A user sees that it is there, and that it is for users. */
static void test_listed(void)
{
    VbrVm *vm = vbr_pc(" ");
    QDict *rsp = qtest_qmp(vm->qts, "{ 'execute': 'qom-list-types', "
                           "'arguments': { 'implements': 'user-creatable' } }");
    const QListEntry *e;
    bool found = false;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        QDict *type = qobject_to(QDict, qlist_entry_obj(e));

        found |= !strcmp(qdict_get_str(type, "name"), "dirty-page-list");
    }
    g_assert(found);
    qobject_unref(rsp);
    vbr_vm_free(vm);
}

void vbr_add_dirty_tests(void)
{
    qtest_add_func("virtio-balloon-rs/dirty/command-line", test_command_line);
    qtest_add_func("virtio-balloon-rs/dirty/command-line-refused",
                   test_command_line_refused);
    qtest_add_func("virtio-balloon-rs/dirty/add-refused", test_add_refused);
    qtest_add_func("virtio-balloon-rs/dirty/largest", test_largest);
    qtest_add_func("virtio-balloon-rs/dirty/second", test_second);
    qtest_add_func("virtio-balloon-rs/dirty/unknown", test_unknown);
    qtest_add_func("virtio-balloon-rs/dirty/order", test_order);
    qtest_add_func("virtio-balloon-rs/dirty/max-pages", test_max_pages);
    qtest_add_func("virtio-balloon-rs/dirty/delete", test_delete);
    qtest_add_func("virtio-balloon-rs/dirty/quit", test_quit);
    qtest_add_func("virtio-balloon-rs/dirty/fixed", test_fixed);
    qtest_add_func("virtio-balloon-rs/dirty/indices", test_indices);
    qtest_add_func("virtio-balloon-rs/dirty/listed", test_listed);
}
