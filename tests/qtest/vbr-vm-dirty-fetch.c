/*
 * dirty-page-list: what is on the list
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-dirty.h"

#define PLAIN "max-dirty=256"
#define NO_DUPS "max-dirty=256,no-dups=on"

/* Both kinds of lists, with as much room as it takes. */
static void test_exact(void)
{
    static const char *const props[] = {
        "max-dirty=1024", "max-dirty=1024,no-dups=on",
    };
    int i;

    for (i = 0; i < ARRAY_SIZE(props); i++) {
        VbrVm *vm = vbr_dirty_pc("", props[i]);
        QTestState *qts = vm->qts;
        uint8_t byte;

        vbr_assert_fetch(qts, "");
        /* From one page into the next; the first and the last of all RAM. */
        qtest_writel(qts, 0x7ffffe, 0x01020304);
        qtest_writeb(qts, 0x7ffffff, 1);
        qtest_writeb(qts, 0, 1);
        /* In a row, but not in this order. */
        vbr_dirty_write(qts, 0x202fff, 3, -VBR_PAGE, 1);
        /* 64 pages at a time are noted in two parts, if they begin here. */
        qtest_memset(qts, 0x4005000, 1, 64 * VBR_PAGE);
        vbr_assert_fetch(qts, "pc.ram 0+1000 @0, "
                         "pc.ram 200000+3000 @200000, "
                         "pc.ram 7ff000+2000 @7ff000, "
                         "pc.ram 4005000+40000 @4005000, "
                         "pc.ram 7fff000+1000 @7fff000");
        vbr_assert_fetch(qts, "");
        /* Who only reads writes nothing. */
        qtest_memread(qts, 0x200800, &byte, 1);
        vbr_assert_fetch(qts, "");
        /* The same bytes again are a write. */
        qtest_writeb(qts, 0x200fff, 1);
        vbr_assert_fetch(qts, "pc.ram 200000+1000 @200000");
        vbr_vm_free(vm);
    }
}

/* Written again before the fetch: once. After it: again. */
static void check_again(const char *props)
{
    VbrVm *vm = vbr_dirty_pc("", props);
    QTestState *qts = vm->qts;
    uint64_t before;
    int i;

    /* Far more often than there is room for. */
    for (i = 0; i < 1000; i++) {
        qtest_writel(qts, 0x300000, i);
        qtest_writel(qts, 0x500800, i);
    }
    vbr_assert_dirty(qts, "dirty-index", 2);
    vbr_assert_fetch(qts, "pc.ram 300000+1000 @300000, "
                     "pc.ram 500000+1000 @500000");
    for (i = 0; i < 1000; i++) {
        qtest_writel(qts, 0x500000, i);
        vbr_assert_fetch(qts, "pc.ram 500000+1000 @500000");
    }
    vbr_assert_fetch(qts, "");
    g_assert(!vbr_dirty_is(qts, "overflow"));

    /* One write to three pages, the middle one of which is dirty already. */
    before = vbr_dirty_get(qts, "dirty-index");
    qtest_writeb(qts, 0x301000, 1);
    qtest_memset(qts, 0x300000, 1, 3 * VBR_PAGE);
    vbr_assert_dirty(qts, "dirty-index", before + 3);
    vbr_assert_fetch(qts, "pc.ram 300000+3000 @300000");
    vbr_vm_free(vm);
}

static void test_again(void)
{
    check_again(PLAIN);
    check_again(NO_DUPS);
}

static void check_batches(const char *props)
{
    VbrVm *vm = vbr_dirty_pc("", props);
    QTestState *qts = vm->qts;
    GHashTable *pages = vbr_dirty_pages();
    g_autofree char *first = NULL, *second = NULL;

    vbr_dirty_write(qts, 1 * MiB, 10, VBR_PAGE, 1);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 3, pages), ==, 10);
    vbr_assert_pages(pages, 1 * MiB, 10, VBR_PAGE);

    pages = vbr_dirty_pages();
    vbr_dirty_write(qts, 2 * MiB, 256, 2 * VBR_PAGE, 1);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 1, pages), ==, 256);
    vbr_assert_pages(pages, 2 * MiB, 256, 2 * VBR_PAGE);

    /* A page that the first part had is dirty again before the second. */
    vbr_dirty_write(qts, 1 * MiB, 2, VBR_PAGE, 1);
    first = vbr_dirty_fetch(qts, 1);
    g_assert_cmpstr(first, ==, "pc.ram 100000+1000 @100000");
    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 2);
    second = vbr_dirty_fetch(qts, 2);
    g_assert_cmpstr(second, ==, "pc.ram 100000+2000 @100000");
    vbr_assert_fetch(qts, "");
    vbr_vm_free(vm);
}

static void test_batches(void)
{
    check_batches(PLAIN);
    check_batches(NO_DUPS);
}

/* The longest answers, of those who say how long, and of those who do not. */
static void test_most(void)
{
    VbrVm *vm = vbr_dirty_pc("-m 512M", "max-dirty=80000");
    QTestState *qts = vm->qts;

    qtest_memset(qts, 16 * MiB, 1, (65536 + 8192 + 4) * VBR_PAGE);
    vbr_assert_dirty(qts, "dirty-index", 65536 + 8192 + 4);
    vbr_assert_text(vbr_dirty_fetch(qts, 65536),
                    "pc.ram 1000000+10000000 @1000000");
    vbr_assert_dirty(qts, "fetch-index", 65536);
    vbr_assert_fetch(qts, "pc.ram 11000000+2000000 @11000000");
    vbr_assert_dirty(qts, "fetch-index", 65536 + VBR_DL_DEFAULT);
    vbr_assert_fetch(qts, "pc.ram 13000000+4000 @13000000");
    vbr_assert_fetch(qts, "");
    vbr_vm_free(vm);
}

static void test_gfns(void)
{
    VbrVm *vm = vbr_dirty_pc("", PLAIN);
    QTestState *qts = vm->qts;

    vbr_assert_text(vbr_dirty_fetch_gfns(qts, 0), "gfns");
    vbr_dirty_write(qts, 1 * MiB, 3, VBR_PAGE, 1);
    vbr_dirty_write(qts, 0, 1, VBR_PAGE, 1);
    vbr_dirty_write(qts, 64 * MiB, 2, 4 * VBR_PAGE, 1);
    vbr_assert_text(vbr_dirty_fetch_gfns(qts, 0),
                    "gfns 0 100 101 102 4000 4004");
    vbr_dirty_write(qts, 1 * MiB, 3, VBR_PAGE, 1);
    vbr_assert_text(vbr_dirty_fetch_gfns(qts, 2), "gfns 100 101");
    vbr_assert_fetch(qts, "pc.ram 102000+1000 @102000");
    vbr_vm_free(vm);
}

static void check_stop(const char *props)
{
    VbrVm *vm = vbr_dirty_pc("", props);
    QTestState *qts = vm->qts;

    vbr_dirty_write(qts, 1 * MiB, 4, VBR_PAGE, 1);
    vbr_dirty_do(qts, "stop");
    vbr_dirty_write(qts, 2 * MiB, 4, VBR_PAGE, 1);
    vbr_assert_text(vbr_dirty_fetch(qts, 1), "pc.ram 100000+1000 @100000");
    vbr_assert_fetch(qts, "pc.ram 101000+3000 @101000");
    vbr_dirty_write(qts, 1 * MiB, 4, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "");

    /* Started again: none of that, and each write from here on. */
    vbr_dirty_do(qts, "start");
    vbr_assert_fetch(qts, "");
    vbr_dirty_write(qts, 1 * MiB, 2, VBR_PAGE, 1);
    vbr_dirty_write(qts, 2 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "pc.ram 100000+2000 @100000, "
                     "pc.ram 200000+1000 @200000");

    /* What was not fetched is forgotten at the next start. */
    vbr_dirty_write(qts, 3 * MiB, 4, VBR_PAGE, 1);
    vbr_dirty_do(qts, "stop");
    vbr_dirty_do(qts, "start");
    vbr_assert_fetch(qts, "");
    vbr_dirty_write(qts, 3 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "pc.ram 300000+1000 @300000");
    vbr_vm_free(vm);
}

static void test_stop(void)
{
    check_stop(PLAIN);
    check_stop(NO_DUPS);
}

/* The same with a machine that is stopped at the list's start or end. */
static void test_stopped_machine(void)
{
    VbrVm *vm = vbr_dirty_pc("-S", PLAIN);
    QTestState *qts = vm->qts;

    vbr_dirty_write(qts, 1 * MiB, 1, VBR_PAGE, 1);
    vbr_dirty_do(qts, "stop");
    vbr_dirty_write(qts, 2 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "pc.ram 100000+1000 @100000");
    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, 2 * MiB, 2, VBR_PAGE, 1);
    qtest_qmp_assert_success(qts, "{ 'execute': 'cont' }");
    vbr_dirty_write(qts, 3 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "pc.ram 200000+2000 @200000, "
                     "pc.ram 300000+1000 @300000");
    vbr_dirty_do(qts, "stop");
    vbr_dirty_write(qts, 3 * MiB, 1, VBR_PAGE, 1);
    qtest_qmp_assert_success(qts, "{ 'execute': 'stop' }");
    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, 3 * MiB, 1, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "pc.ram 300000+1000 @300000");
    vbr_vm_free(vm);
}

static void assert_overflown(QTestState *qts)
{
    g_assert(vbr_dirty_is(qts, "overflow"));
    g_assert_cmpuint(vbr_dirty_get(qts, "overflows"), >=, 1);
    vbr_assert_dirty_refused(qts, "fetch", VBR_DL_EOVERFLOW);
    /* What there is to do. */
    vbr_assert_dirty_refused(qts, "fetch", "start");
}

/* Pages are missing then, and nobody is told otherwise. */
static void test_overflow(void)
{
    VbrVm *vm = vbr_dirty_pc("", PLAIN);
    QTestState *qts = vm->qts;
    GHashTable *pages = vbr_dirty_pages();

    /* Exactly full. */
    vbr_dirty_write(qts, 1 * MiB, 256, 2 * VBR_PAGE, 1);
    g_assert(!vbr_dirty_is(qts, "overflow"));
    vbr_assert_dirty(qts, "overflows", 0);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 100, pages), ==, 256);
    vbr_assert_pages(pages, 1 * MiB, 256, 2 * VBR_PAGE);

    vbr_dirty_write(qts, 1 * MiB, 257, 2 * VBR_PAGE, 1);
    assert_overflown(qts);
    vbr_dirty_write(qts, 8 * MiB, 1, VBR_PAGE, 1);
    assert_overflown(qts);
    g_assert(vbr_dirty_is(qts, "active"));
    vbr_dirty_do(qts, "stop");
    assert_overflown(qts);

    vbr_dirty_do(qts, "start");
    g_assert(!vbr_dirty_is(qts, "overflow"));
    vbr_assert_fetch(qts, "");
    pages = vbr_dirty_pages();
    vbr_dirty_write(qts, 1 * MiB, 256, 2 * VBR_PAGE, 1);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 0, pages), ==, 256);
    vbr_assert_pages(pages, 1 * MiB, 256, 2 * VBR_PAGE);

    /* One write that is larger than the list. */
    qtest_memset(qts, 8 * MiB, 1, 300 * VBR_PAGE);
    assert_overflown(qts);
    vbr_vm_free(vm);
}

/* With no-dups=on there is a bitmap behind the list: nothing is lost. */
static void test_sweep(void)
{
    const size_t many = 5000, some = 1000;
    VbrVm *vm = vbr_dirty_pc("", NO_DUPS);
    QTestState *qts = vm->qts;
    GHashTable *pages = vbr_dirty_pages();

    vbr_dirty_write(qts, 1 * MiB, many, 3 * VBR_PAGE, 1);
    g_assert(vbr_dirty_is(qts, "overflow"));
    g_assert_cmpuint(vbr_dirty_get(qts, "overflows"), >=, 1);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, some, pages), ==, many);
    vbr_assert_pages(pages, 1 * MiB, many, 3 * VBR_PAGE);
    /* All was found. */
    g_assert(!vbr_dirty_is(qts, "overflow"));
    vbr_assert_dirty(qts, "dirty-index", many);
    vbr_assert_dirty(qts, "fetch-index", many);

    /* The list works as before. */
    vbr_dirty_write(qts, 1 * MiB, 2, VBR_PAGE, 1);
    vbr_assert_fetch(qts, "pc.ram 100000+2000 @100000");

    /* In one piece, more than an answer has. */
    pages = vbr_dirty_pages();
    qtest_memset(qts, 32 * MiB, 1, many * VBR_PAGE);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, some, pages), ==, many);
    vbr_assert_pages(pages, 32 * MiB, many, VBR_PAGE);
    vbr_vm_free(vm);
}

/* Pages are written, new ones and old ones, while the sweep is under way. */
static void test_sweep_writes(void)
{
    const uint64_t step = 5 * VBR_PAGE;
    VbrVm *vm = vbr_dirty_pc("", NO_DUPS);
    QTestState *qts = vm->qts;
    GHashTable *taken = vbr_dirty_pages();
    size_t i, n = 2000, lost = 0;
    int round;

    for (round = 0; round < 10; round++) {
        g_autofree char *part = NULL;

        vbr_dirty_write(qts, 1 * MiB + round * VBR_PAGE / 2, n, step, round);
        part = vbr_dirty_fetch(qts, 700);
        g_assert_cmpstr(part, !=, "");
    }
    /* What was written last is what is asked for: each is owed once. */
    vbr_dirty_write(qts, 1 * MiB, n, step, 0xee);
    vbr_dirty_fetch_all(qts, 300, taken);
    for (i = 0; i < n; i++) {
        gpointer key = GUINT_TO_POINTER((1 * MiB + i * step) / VBR_PAGE);

        lost += GPOINTER_TO_UINT(g_hash_table_lookup(taken, key)) != 1;
    }
    g_assert_cmpuint(lost, ==, 0);
    g_hash_table_destroy(taken);
    vbr_assert_fetch(qts, "");
    g_assert(!vbr_dirty_is(qts, "overflow"));
    vbr_assert_dirty(qts, "dirty-index", vbr_dirty_get(qts, "fetch-index"));

    /* Stopped in the middle of it: the rest can still be fetched. */
    taken = vbr_dirty_pages();
    vbr_dirty_write(qts, 1 * MiB, n, step, 1);
    vbr_dirty_do(qts, "stop");
    vbr_dirty_write(qts, 64 * MiB, 4, step, 1);
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 300, taken), ==, n);
    vbr_assert_pages(taken, 1 * MiB, n, step);
    /* Not fetched at all: forgotten. */
    vbr_dirty_do(qts, "start");
    vbr_dirty_write(qts, 1 * MiB, n, step, 1);
    vbr_dirty_do(qts, "stop");
    vbr_dirty_do(qts, "start");
    g_assert(!vbr_dirty_is(qts, "overflow"));
    vbr_assert_fetch(qts, "");
    vbr_dirty_write(qts, 1 * MiB, 1, step, 1);
    vbr_assert_fetch(qts, "pc.ram 100000+1000 @100000");
    vbr_vm_free(vm);
}

/* A reset of the machine is no end of the list. */
static void test_system_reset(void)
{
    VbrVm *vm = vbr_dirty_pc("", NO_DUPS);
    QTestState *qts = vm->qts;
    GHashTable *pages;

    vbr_dirty_write(qts, 1 * MiB, 3, VBR_PAGE, 1);
    qtest_system_reset(qts);
    vbr_dirty_write(qts, 2 * MiB, 3, VBR_PAGE, 1);
    pages = vbr_dirty_pages();
    g_assert_cmpuint(vbr_dirty_fetch_all(qts, 0, pages), >=, 6);
    g_assert(g_hash_table_contains(pages, GUINT_TO_POINTER(0x101)));
    g_assert(g_hash_table_contains(pages, GUINT_TO_POINTER(0x202)));
    g_hash_table_destroy(pages);
    vbr_vm_free(vm);
}

void vbr_add_dirty_fetch_tests(void)
{
    qtest_add_func("virtio-balloon-rs/dirty/exact", test_exact);
    qtest_add_func("virtio-balloon-rs/dirty/again", test_again);
    qtest_add_func("virtio-balloon-rs/dirty/batches", test_batches);
    qtest_add_func("virtio-balloon-rs/dirty/most", test_most);
    qtest_add_func("virtio-balloon-rs/dirty/gfns", test_gfns);
    qtest_add_func("virtio-balloon-rs/dirty/stop", test_stop);
    qtest_add_func("virtio-balloon-rs/dirty/stopped-machine",
                   test_stopped_machine);
    qtest_add_func("virtio-balloon-rs/dirty/overflow", test_overflow);
    qtest_add_func("virtio-balloon-rs/dirty/sweep", test_sweep);
    qtest_add_func("virtio-balloon-rs/dirty/sweep-writes", test_sweep_writes);
    qtest_add_func("virtio-balloon-rs/dirty/system-reset", test_system_reset);
}
