/*
 * virtio-balloon-rs: huge pages that are given back as a whole
 *
 * A guest inflates in pieces that are smaller than a huge page of the host and
 * begin anywhere. They wait for each other, so that no huge page is split.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-calm.h"
#include "vbr-hugetlb.h"
#include "vbr-probe.h"
#include "qobject/qdict.h"

#define HUGE (2 * MiB)
#define PARTS 512
#define PATTERN 0x7c
#define AREA_HUGE 6

#define MEMFD "-M pc,memory-backend=ram -m 128M -object " \
    "memory-backend-memfd,id=ram,size=128M,share="

typedef struct Piece {
    unsigned int at;
    unsigned int pages;
} Piece;

/* Pieces that make whole huge pages, one after the other. */
typedef struct Pieces {
    const char *name;
    unsigned int huge;
    Piece pieces[64];       /* up to one without pages */
} Pieces;

static const Pieces all_pieces[] = {
    { "upward", 1, { { 0, 256 }, { 256, 256 } } },
    { "downward", 1, { { 256, 256 }, { 0, 256 } } },
    { "around", 1, { { 100, 1 }, { 101, 411 }, { 0, 100 } } },
    { "crosswise", 2, { { 0, 256 }, { 768, 256 }, { 256, 256 },
                        { 512, 256 } } },
    { "over-the-border", 2, { { 256, 512 }, { 0, 256 }, { 768, 256 } } },
    { "with-whole-ones", 4, { { 100, 1800 }, { 1900, 148 }, { 0, 100 } } },
    /* As a Linux guest does: 1 MiB at a time, from somewhere downward. */
    { "megabytes", 4, { { 1920, 128 }, { 1664, 256 }, { 1408, 256 },
                        { 1152, 256 }, { 896, 256 }, { 640, 256 },
                        { 384, 256 }, { 128, 256 }, { 0, 128 } } },
};

/* A machine whose memory is in huge pages, if the host has some. */
static VbrVm *huge_machine(const char *props)
{
    VbrVm *vm;

    vbr_allow_huge_pages();
    vm = vbr_hold_machine("", props, 0);
    vbr_keep_small_pages();
    return vm;
}

static uint64_t huge_bytes(VbrDev *d, uint64_t addr)
{
    return vbr_smaps(d, addr, "AnonHugePages:");
}

/*
 * Filled huge pages, with one on either side; 0, and the test is skipped, if
 * the host has given them in small ones.
 */
static uint64_t filled(VbrDev *d)
{
    uint64_t base = vbr_pages(d, (AREA_HUGE + 2) * PARTS, HUGE) + HUGE;
    uint64_t before;

    /* Where a request is written is huge from now on, too. */
    vbr_send_range(d, VBR_DEFLATE, base, 4 * PARTS);
    before = huge_bytes(d, base);
    vbr_fill(d, base - HUGE, (AREA_HUGE + 2) * PARTS, PATTERN);
    if (huge_bytes(d, base) - before != (AREA_HUGE + 2) * HUGE) {
        g_test_skip("this host has no transparent huge pages for us, see "
                    "/sys/kernel/mm/transparent_hugepage/enabled");
        return 0;
    }
    return base;
}

static void send_pieces(VbrDev *d, uint64_t base, const Pieces *p)
{
    int i;

    for (i = 0; p->pieces[i].pages; i++) {
        vbr_send_range(d, VBR_INFLATE, base + p->pieces[i].at * VBR_PAGE,
                       p->pieces[i].pages);
    }
}

static void assert_neighbours(VbrDev *d, uint64_t base, unsigned int huge)
{
    vbr_assert_kept(d, base - HUGE, PARTS, PATTERN);
    vbr_assert_kept(d, base + huge * HUGE, (AREA_HUGE + 1 - huge) * PARTS,
                    PATTERN);
}

/* No huge page but those that are gone, and each of these in one go. */
static bool whole(const void *data)
{
    const Pieces *p = data;
    VbrCalm calm = vbr_calm_begin();
    VbrVm *vm = huge_machine(VBR_LONG);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d), before, held;
    size_t resident;
    bool calmly = true;

    if (base) {
        before = huge_bytes(d, base);
        vbr_calm_start_clock(&calm);
        send_pieces(d, base, p);
        resident = vbr_resident(d, base, p->huge * PARTS);
        held = vbr_counter(d, "held-bytes");
        calmly = vbr_calm_lasted(&calm, VBR_LONG_MS);
        if (calmly) {
            g_assert_cmpuint(resident, ==, 0);
            g_assert_cmpuint(held, ==, 0);
            g_assert_cmpuint(before - huge_bytes(d, base), ==,
                             p->huge * HUGE);
            g_assert_cmpuint(vbr_counter(d, "discards"), <=, p->huge);
        }
        vbr_assert_gone(d, base, p->huge * PARTS);
        assert_neighbours(d, base, p->huge);
        vbr_assert_counter(d, "ballooned-bytes", p->huge * HUGE);
    }
    vbr_vm_free(vm);
    return calmly;
}

static void test_whole(const void *data)
{
    vbr_calmly(whole, data);
}

/* Back before its time is over: the huge page was never split. */
static bool back_in_time(const void *data)
{
    VbrCalm calm = vbr_calm_begin();
    VbrVm *vm = huge_machine(VBR_LONG);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d), before;
    bool calmly = true;

    if (base) {
        before = huge_bytes(d, base);
        vbr_calm_start_clock(&calm);
        vbr_send_range(d, VBR_INFLATE, base, PARTS / 2);
        vbr_send_range(d, VBR_DEFLATE, base, PARTS / 2);
        calmly = vbr_calm_lasted(&calm, VBR_LONG_MS);
        if (calmly) {
            vbr_wait_held(d);
            g_assert_cmpuint(huge_bytes(d, base), ==, before);
            vbr_assert_kept(d, base, PARTS, PATTERN);
        }
    }
    vbr_vm_free(vm);
    return calmly;
}

static void test_back_in_time(void)
{
    vbr_calmly(back_in_time, NULL);
}

/* Nothing comes to complete it: its part is given back all the same. */
static void test_alone(void)
{
    VbrVm *vm = huge_machine(NULL);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d), before;

    if (base) {
        before = huge_bytes(d, base);
        vbr_send_range(d, VBR_INFLATE, base, PARTS / 2);
        vbr_hold_wait_gone(d, base, PARTS / 2);
        /* Whoever gathers small pages on the host may have been there. */
        g_assert_cmpuint(before - huge_bytes(d, base), <=, HUGE);
        vbr_assert_kept(d, base + HUGE / 2, PARTS / 2, PATTERN);
        assert_neighbours(d, base, 1);
    }
    vbr_vm_free(vm);
}

/* Memory of a file has no huge pages here, but waits in the same way. */
static bool memfd(const void *data)
{
    VbrCalm calm = vbr_calm_begin();
    VbrVm *vm = vbr_hold_machine(data, VBR_LONG, 0);
    VbrDev *d = &vm->d;
    uint64_t base = vbr_pages(d, 3 * PARTS, HUGE);
    size_t half, whole;
    bool calmly;

    vbr_fill(d, base, 3 * PARTS, PATTERN);
    vbr_calm_start_clock(&calm);
    vbr_send_range(d, VBR_INFLATE, base + HUGE + HUGE / 2, PARTS / 2);
    half = vbr_resident(d, base + HUGE, PARTS);
    vbr_send_range(d, VBR_INFLATE, base + HUGE, PARTS / 2);
    whole = vbr_resident(d, base + HUGE, PARTS);
    calmly = vbr_calm_lasted(&calm, VBR_LONG_MS);
    if (calmly) {
        g_assert_cmpuint(half, ==, PARTS);
        g_assert_cmpuint(whole, ==, 0);
        vbr_assert_counter(d, "discards", 1);
    }
    vbr_assert_gone(d, base + HUGE, PARTS);
    vbr_assert_kept(d, base, PARTS, PATTERN);
    vbr_assert_kept(d, base + 2 * HUGE, PARTS, PATTERN);
    vbr_vm_free(vm);
    return calmly;
}

static void test_memfd(void)
{
    vbr_calmly(memfd, MEMFD "on");
    vbr_calmly(memfd, MEMFD "off");
}

static uint64_t dimm_address(VbrVm *vm)
{
    QDict *rsp = qtest_qmp(vm->qts, "{ 'execute': 'qom-get', 'arguments': "
                           "{ 'path': '/machine/peripheral/dimm', "
                           "'property': 'addr' } }");
    uint64_t addr = qdict_get_int(rsp, "return");

    qobject_unref(rsp);
    return addr;
}

/*
 * A module of memory in a single page of the host, given away in eight
 * requests, or nine: the last page of all comes alone.
 */
static void test_module(const void *data)
{
    const uint64_t size = *(const uint64_t *)data;
    const size_t n = size / VBR_PAGE / 8;
    uint64_t addr, last, have;
    VbrVm *vm;
    VbrDev *d;
    int i;

    if (!vbr_hugetlb_reserve(size, 1)) {
        return;
    }
    have = vbr_hugetlb_free(size);
    vm = vbr_pc("-m 128M,slots=1,maxmem=4G -object memory-backend-memfd,id=mem,"
                "size=%" PRIu64 ",hugetlb=on,hugetlbsize=%" PRIu64
                " -device pc-dimm,id=dimm,memdev=mem -device " VBR_PCI ","
                VBR_SLOT_ARG, size, size);
    vbr_vm_attach(vm, VBR_SLOT);
    d = &vm->d;
    vbr_start(d, 0);
    addr = dimm_address(vm);
    last = addr + size - VBR_PAGE;
    g_assert_cmphex(addr % size, ==, 0);
    vbr_fill(d, addr, 1, PATTERN);
    vbr_fill(d, last, 1, PATTERN);
    g_assert_cmpuint(vbr_hugetlb_free(size), ==, have - 1);

    for (i = 0; i < 8; i++) {
        vbr_send_range(d, VBR_INFLATE, addr + i * n * VBR_PAGE, n - (i == 7));
    }
    vbr_assert_counter(d, "held-bytes", 0);
    vbr_assert_kept(d, addr, 1, PATTERN);
    vbr_assert_kept(d, last, 1, PATTERN);
    g_assert_cmpuint(vbr_hugetlb_free(size), ==, have - 1);

    vbr_send_range(d, VBR_INFLATE, last, 1);
    g_assert_cmpuint(vbr_hugetlb_free(size), ==, have);
    vbr_assert_counter(d, "discards", 1);
    vbr_assert_counter(d, "discarded-bytes", size);
    vbr_assert_gone(d, last, 1);
    vbr_assert_filled(d, addr, 1, 0);
    vbr_vm_free(vm);
    vbr_hugetlb_release();
}

void vbr_add_hold_huge_tests(void)
{
    static const uint64_t two_megabytes = 2 * MiB, gigabyte = GiB;
    int i;

    for (i = 0; i < ARRAY_SIZE(all_pieces); i++) {
        g_autofree char *name = g_strdup_printf(
            "virtio-balloon-rs/hold-huge/%s", all_pieces[i].name);

        qtest_add_data_func(name, &all_pieces[i], test_whole);
    }
    qtest_add_func("virtio-balloon-rs/hold-huge/back-in-time",
                   test_back_in_time);
    qtest_add_func("virtio-balloon-rs/hold-huge/alone", test_alone);
    qtest_add_func("virtio-balloon-rs/hold-huge/memfd", test_memfd);
    qtest_add_data_func("virtio-balloon-rs/hold-huge/module-2M",
                        &two_megabytes, test_module);
    qtest_add_data_func("virtio-balloon-rs/hold-huge/module-1G", &gigabyte,
                        test_module);
}
