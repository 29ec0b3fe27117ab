/*
 * virtio-balloon-rs: guest memory in host pages of 2 MiB
 *
 * Such a page can be given back only as a whole, and the guest names it in
 * parts of 4 KiB.  With MUST_TELL_HOST the parts may come over any number
 * of requests; without it only what one request covers counts.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-hugetlb.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vm.h"

#define HUGE (2 * MiB)
#define PARTS (HUGE / VBR_PAGE)
#define RAM (128 * MiB)
#define HUGE_ARGS "-M pc,memory-backend=ram -m 128M -object " \
    "memory-backend-memfd,id=ram,size=128M,hugetlb=on,hugetlbsize=2M " \
    "-device " VBR_PCI "," VBR_SLOT_ARG ",free-page-reporting=on "
/* The same guest on a host with pages of 4 KiB. */
#define SMALL_ARGS "-M pc,memory-backend=ram -m 128M -object " \
    "memory-backend-ram,id=ram,size=128M " \
    "-device " VBR_PCI "," VBR_SLOT_ARG ",free-page-reporting=on "
#define NO_MTH (1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST)

/* Enough free huge pages for the guest; skips the test if there are not. */
static bool reserve(void)
{
    return vbr_hugetlb_reserve(HUGE, RAM / HUGE);
}

static VbrVm *huge_machine(uint64_t refuse)
{
    VbrVm *vm;

    if (!reserve()) {
        return NULL;
    }
    vm = vbr_pc(HUGE_ARGS);
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, refuse);
    return vm;
}

static void huge_free(VbrVm *vm)
{
    vbr_vm_free(vm);
    vbr_hugetlb_release();
}

static uint64_t filled(VbrDev *d, unsigned int n)
{
    uint64_t base = vbr_pages(d, n * PARTS, HUGE);

    vbr_fill(d, base, n * PARTS, 0xd1);
    return base;
}

static void shuffle(uint32_t *v, size_t n)
{
    size_t i;

    for (i = n - 1; i > 0; i--) {
        size_t j = g_test_rand_int_range(0, i + 1);
        uint32_t other = v[j];

        v[j] = v[i];
        v[i] = other;
    }
}

/* Three host pages at once, their parts in any order, 64 to a buffer. */
static void test_all_parts(void)
{
    VbrVm *vm = huge_machine(0);
    uint32_t pfns[3 * PARTS];
    uint64_t base;
    unsigned int i;

    if (!vm) {
        return;
    }
    base = filled(&vm->d, 4);
    for (i = 0; i < 3 * PARTS; i++) {
        pfns[i] = (base >> VBR_PAGE_SHIFT) + i;
    }
    shuffle(pfns, 3 * PARTS);
    for (i = 0; i < 3 * PARTS; i += 64) {
        vbr_send(&vm->d, VBR_INFLATE, pfns + i, 64);
    }
    vbr_assert_gone(&vm->d, base, 3 * PARTS);
    vbr_assert_kept(&vm->d, base + 3 * HUGE, PARTS, 0xd1);
    vbr_assert_counter(&vm->d, "discarded-bytes", 3 * HUGE);
    vbr_assert_counter(&vm->d, "partial-page-bytes", 0);
    huge_free(vm);
}

/* One part missing: nothing goes.  It comes: all goes. */
static void test_last_part(void)
{
    VbrVm *vm = huge_machine(0);
    uint64_t base;

    if (!vm) {
        return;
    }
    base = filled(&vm->d, 1);
    vbr_send_range(&vm->d, VBR_INFLATE, base, PARTS - 1);
    /* It does not wait for a time: it stays until the last part comes. */
    vbr_assert_counter(&vm->d, "held-bytes", 0);
    vbr_assert_kept(&vm->d, base, PARTS, 0xd1);
    vbr_assert_counter(&vm->d, "discards", 0);
    vbr_send_range(&vm->d, VBR_INFLATE, base + HUGE - VBR_PAGE, 1);
    vbr_assert_gone(&vm->d, base, PARTS);
    vbr_assert_counter(&vm->d, "discards", 1);
    huge_free(vm);
}

/*
 * Inflate A, deflate A, inflate the rest: A is in use again, so the host
 * page must stay.
 */
static void test_deflated_part(void)
{
    VbrVm *vm = huge_machine(0);
    uint64_t base;
    int i;

    if (!vm) {
        return;
    }
    base = filled(&vm->d, 1);
    for (i = 0; i < PARTS; i += 37) {
        uint64_t a = base + i * VBR_PAGE;

        vbr_send_range(&vm->d, VBR_INFLATE, a, 1);
        vbr_send_range(&vm->d, VBR_DEFLATE, a, 1);
        vbr_fill(&vm->d, a, 1, 0x3b);
        if (i) {
            vbr_send_range(&vm->d, VBR_INFLATE, base, i);
        }
        vbr_send_range(&vm->d, VBR_INFLATE, a + VBR_PAGE, PARTS - i - 1);
        vbr_settle(&vm->d);
        vbr_assert_kept(&vm->d, a, 1, 0x3b);
        vbr_assert_counter(&vm->d, "discards", 0);
        vbr_send_range(&vm->d, VBR_DEFLATE, base, PARTS);
        vbr_fill(&vm->d, base, PARTS, 0xd1);
    }
    huge_free(vm);
}

/* The last missing part comes after another was moved away. */
static void test_moved_part(void)
{
    VbrVm *vm = huge_machine(0);
    uint64_t base;

    if (!vm) {
        return;
    }
    base = filled(&vm->d, 2);
    /* All but the first part of the one, one part of the other. */
    vbr_send_range(&vm->d, VBR_INFLATE, base + VBR_PAGE, PARTS - 1);
    /* Guest compaction: a new page in, an old one out. */
    vbr_send_range(&vm->d, VBR_INFLATE, base + HUGE, 1);
    vbr_send_range(&vm->d, VBR_DEFLATE, base + VBR_PAGE, 1);
    vbr_fill(&vm->d, base + VBR_PAGE, 1, 0x3b);
    vbr_send_range(&vm->d, VBR_INFLATE, base, 1);
    vbr_settle(&vm->d);
    vbr_assert_kept(&vm->d, base + VBR_PAGE, 1, 0x3b);
    vbr_assert_counter(&vm->d, "discards", 0);
    huge_free(vm);
}

/* After a reset the guest owns all its memory: what was is forgotten. */
static void check_reset_forgets(bool system)
{
    VbrVm *vm = huge_machine(0);
    uint64_t base;

    if (!vm) {
        return;
    }
    base = filled(&vm->d, 1);
    vbr_send_range(&vm->d, VBR_INFLATE, base, PARTS / 2);
    if (system) {
        vbr_system_reset(&vm->d);
    }
    vbr_restart(&vm->d, 0);
    vbr_send_range(&vm->d, VBR_INFLATE, base + HUGE / 2, PARTS / 2);
    vbr_settle(&vm->d);
    vbr_assert_kept(&vm->d, base, PARTS / 2, 0xd1);
    vbr_assert_counter(&vm->d, "discards", 0);
    huge_free(vm);
}

static void test_reset_forgets(void)
{
    check_reset_forgets(false);
}

static void test_system_reset_forgets(void)
{
    check_reset_forgets(true);
}

/*
 * A snapshot takes the guest back to before it inflated: its pages are in
 * use again, and the device may not count them as given.
 */
static void test_snapshot_forgets(void)
{
    g_autofree char *image = vbr_stream_name();
    VbrVm *vm = huge_machine(0);
    uint64_t base;

    if (!vm) {
        return;
    }
    vbr_snapshot_disk(vm->qts, image);
    base = filled(&vm->d, 1);
    vbr_snapshot(vm->qts, "savevm");
    vbr_send_range(&vm->d, VBR_INFLATE, base, PARTS / 2);
    vm->d.ring[VBR_INFLATE] = (VbrRing) { .vq = vm->d.ring[VBR_INFLATE].vq };
    vbr_snapshot(vm->qts, "loadvm");
    vbr_send_range(&vm->d, VBR_INFLATE, base + HUGE / 2, PARTS / 2);
    vbr_settle(&vm->d);
    vbr_assert_kept(&vm->d, base, PARTS, 0xd1);
    vbr_assert_counter(&vm->d, "discards", 0);
    huge_free(vm);
    unlink(image);
}

/* And the other way round: what was given before is given again. */
static void test_snapshot_remembers(void)
{
    g_autofree char *image = vbr_stream_name();
    VbrVm *vm = huge_machine(0);
    VbrRing rings[VBR_NQUEUES];
    uint64_t base;

    if (!vm) {
        return;
    }
    vbr_snapshot_disk(vm->qts, image);
    base = filled(&vm->d, 2);
    vbr_send_range(&vm->d, VBR_INFLATE, base, PARTS / 2);
    vbr_snapshot(vm->qts, "savevm");
    memcpy(rings, vm->d.ring, sizeof(rings));
    vbr_send_range(&vm->d, VBR_DEFLATE, base, PARTS / 2);
    vbr_fill(&vm->d, base, PARTS / 2, 0x3b);
    vbr_send_range(&vm->d, VBR_INFLATE, base + HUGE, PARTS / 2);
    memcpy(vm->d.ring, rings, sizeof(rings));
    vbr_snapshot(vm->qts, "loadvm");
    vbr_assert_counter(&vm->d, "ballooned-bytes", HUGE / 2);
    vbr_send_range(&vm->d, VBR_INFLATE, base + HUGE / 2, PARTS / 2);
    vbr_assert_gone(&vm->d, base, PARTS);
    vbr_send_range(&vm->d, VBR_INFLATE, base + HUGE + HUGE / 2, PARTS / 2);
    vbr_settle(&vm->d);
    vbr_assert_kept(&vm->d, base + HUGE, PARTS, 0xd1);
    vbr_assert_counter(&vm->d, "discards", 1);
    huge_free(vm);
    unlink(image);
}

/* Parts that were given away on another host count here. */
static void test_migrated_parts(void)
{
    g_autofree char *file = vbr_stream_name();
    VbrVm *from, *to;
    uint64_t base;

    if (!reserve()) {
        return;
    }
    from = vbr_pc(SMALL_ARGS);
    vbr_vm_attach(from, VBR_SLOT);
    vbr_start(&from->d, 0);
    base = filled(&from->d, 2);
    vbr_send_range(&from->d, VBR_INFLATE, base, PARTS - 1);
    vbr_send_range(&from->d, VBR_DEFLATE, base + VBR_PAGE, 1);
    vbr_fill(&from->d, base + VBR_PAGE, 1, 0x3b);
    vbr_send_range(&from->d, VBR_INFLATE, base + HUGE, PARTS / 2);
    vbr_stream_save(from->qts, file);

    to = vbr_pc(HUGE_ARGS "-incoming defer");
    g_assert(vbr_stream_load(to->qts, file, NULL));
    unlink(file);
    vbr_stream_adopt(to, from);
    vbr_vm_free(from);

    /* All but one, which the guest took back over there. */
    vbr_send_range(&to->d, VBR_INFLATE, base + HUGE - VBR_PAGE, 1);
    vbr_settle(&to->d);
    vbr_assert_kept(&to->d, base + VBR_PAGE, 1, 0x3b);
    vbr_assert_counter(&to->d, "discards", 0);
    vbr_send_range(&to->d, VBR_INFLATE, base + VBR_PAGE, 1);
    vbr_assert_gone(&to->d, base, PARTS);
    vbr_assert_kept(&to->d, base + HUGE + HUGE / 2, PARTS / 2, 0xd1);
    vbr_send_range(&to->d, VBR_INFLATE, base + HUGE + HUGE / 2, PARTS / 2);
    vbr_assert_gone(&to->d, base + HUGE, PARTS);
    vbr_assert_counter(&to->d, "discarded-bytes", 2 * HUGE);
    huge_free(to);
}

/* A guest that does not promise to tell: one request, all or nothing. */
static void test_one_request(void)
{
    VbrVm *vm = huge_machine(NO_MTH);
    uint64_t base;

    if (!vm) {
        return;
    }
    base = filled(&vm->d, 2);
    vbr_send_range(&vm->d, VBR_INFLATE, base, PARTS);
    vbr_assert_gone(&vm->d, base, PARTS);
    vbr_assert_kept(&vm->d, base + HUGE, PARTS, 0xd1);
    vbr_assert_counter(&vm->d, "partial-page-bytes", 0);
    huge_free(vm);
}

static void test_two_requests(void)
{
    VbrVm *vm = huge_machine(NO_MTH);
    uint64_t base;

    if (!vm) {
        return;
    }
    base = filled(&vm->d, 1);
    vbr_send_range(&vm->d, VBR_INFLATE, base, PARTS / 2);
    vbr_send_range(&vm->d, VBR_INFLATE, base + HUGE / 2, PARTS / 2);
    vbr_settle(&vm->d);
    vbr_assert_kept(&vm->d, base, PARTS, 0xd1);
    vbr_assert_counter(&vm->d, "discards", 0);
    vbr_assert_counter(&vm->d, "partial-page-bytes", HUGE);
    huge_free(vm);
}

/* One page more on either side: these belong to others, which stay. */
static void test_neighbours(void)
{
    VbrVm *vm = huge_machine(0);
    uint64_t base;

    if (!vm) {
        return;
    }
    base = filled(&vm->d, 3);
    vbr_send_range(&vm->d, VBR_INFLATE, base + HUGE - VBR_PAGE, PARTS + 2);
    vbr_assert_kept(&vm->d, base, PARTS, 0xd1);
    vbr_assert_gone(&vm->d, base + HUGE, PARTS);
    vbr_assert_kept(&vm->d, base + 2 * HUGE, PARTS, 0xd1);
    vbr_assert_counter(&vm->d, "discarded-bytes", HUGE);
    huge_free(vm);
}

/* A report is cut inward to host pages. */
static void test_report(void)
{
    VbrVm *vm = huge_machine(0);
    uint64_t base;
    VbrSeg seg;

    if (!vm) {
        return;
    }
    base = filled(&vm->d, 3);
    seg = (VbrSeg) {
        .addr = base + HUGE / 2, .len = 2 * HUGE, .write = true,
    };
    vbr_add(&vm->d, VBR_REPORT, &seg, 1);
    vbr_notify(&vm->d, VBR_REPORT);
    vbr_take(&vm->d, VBR_REPORT, 1);
    vbr_assert_kept(&vm->d, base, PARTS, 0xd1);
    vbr_assert_gone(&vm->d, base + HUGE, PARTS);
    vbr_assert_kept(&vm->d, base + 2 * HUGE, PARTS, 0xd1);
    vbr_assert_counter(&vm->d, "ignored-report-unaligned-bytes", HUGE);
    huge_free(vm);
}

/* Freed later is not for such pages: they are discarded. */
static void test_advice(void)
{
    g_autofree char *in_force = NULL;
    VbrVm *vm;
    uint64_t base;
    VbrSeg seg;

    if (!reserve()) {
        return;
    }
    vm = vbr_pc(HUGE_ARGS "-global " VBR_MMIO
                ".free-page-reporting-advice=free");
    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    in_force = vbr_string(&vm->d, "free-page-reporting-advice-in-force");
    g_assert(g_str_has_prefix(in_force, "discard"));
    base = filled(&vm->d, 2);
    seg = (VbrSeg) { base, HUGE, true };
    vbr_add(&vm->d, VBR_REPORT, &seg, 1);
    vbr_notify(&vm->d, VBR_REPORT);
    vbr_take(&vm->d, VBR_REPORT, 1);
    vbr_assert_gone(&vm->d, base, PARTS);
    vbr_assert_kept(&vm->d, base + HUGE, PARTS, 0xd1);
    vbr_assert_counter(&vm->d, "discard-errors", 0);
    huge_free(vm);
}

void vbr_add_huge_tests(void)
{
    qtest_add_func("virtio-balloon-rs/huge/all-parts", test_all_parts);
    qtest_add_func("virtio-balloon-rs/huge/last-part", test_last_part);
    qtest_add_func("virtio-balloon-rs/huge/deflated-part",
                   test_deflated_part);
    qtest_add_func("virtio-balloon-rs/huge/moved-part", test_moved_part);
    qtest_add_func("virtio-balloon-rs/huge/reset-forgets",
                   test_reset_forgets);
    qtest_add_func("virtio-balloon-rs/huge/system-reset-forgets",
                   test_system_reset_forgets);
    qtest_add_func("virtio-balloon-rs/huge/snapshot-forgets",
                   test_snapshot_forgets);
    qtest_add_func("virtio-balloon-rs/huge/snapshot-remembers",
                   test_snapshot_remembers);
    qtest_add_func("virtio-balloon-rs/huge/migrated-parts",
                   test_migrated_parts);
    qtest_add_func("virtio-balloon-rs/huge/one-request", test_one_request);
    qtest_add_func("virtio-balloon-rs/huge/two-requests", test_two_requests);
    qtest_add_func("virtio-balloon-rs/huge/neighbours", test_neighbours);
    qtest_add_func("virtio-balloon-rs/huge/report", test_report);
    qtest_add_func("virtio-balloon-rs/huge/advice", test_advice);
}
