/*
 * virtio-balloon-rs: requests of hostile size, and what others see of them
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-vm.h"

static VbrVm *big_machine(void)
{
    VbrVm *vm = vbr_pc("-m 2G -device " VBR_PCI "," VBR_SLOT_ARG);

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, 0);
    return vm;
}

/*
 * One descriptor of 1 GiB is 256 Mi PFNs, all of them 0 here.  No clock is
 * asked: QMP answers, and answers again, while the request is not done.
 */
static void check_answers(VbrQueue q)
{
    VbrVm *vm = big_machine();
    VbrSeg seg = { .addr = 512 * MiB, .len = 1 * GiB };
    VbrWait wait = { "another batch" };
    uint64_t batches;
    int i;

    vbr_add(&vm->d, q, &seg, 1);
    vbr_notify(&vm->d, q);
    for (i = 0; i < 20; i++) {
        g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 2 * GiB);
        g_assert_cmpuint(vbr_used(&vm->d, q), ==, 0);
    }
    /* And it is not just sitting there. */
    batches = vbr_counter(&vm->d, "batches");
    do {
        vbr_wait(&wait);
    } while (vbr_counter(&vm->d, "batches") == batches);

    vbr_restart(&vm->d, 0);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

static void test_inflate_answers(void)
{
    check_answers(VBR_INFLATE);
}

static void test_deflate_answers(void)
{
    check_answers(VBR_DEFLATE);
}

/* A whole queue of long requests is no other matter. */
static void test_many_long(void)
{
    VbrVm *vm = big_machine();
    VbrSeg seg = { .addr = 512 * MiB, .len = 256 * MiB };
    int i;

    for (i = 0; i < 128; i++) {
        vbr_add(&vm->d, VBR_INFLATE, &seg, 1);
    }
    vbr_notify(&vm->d, VBR_INFLATE);
    for (i = 0; i < 20; i++) {
        g_assert_cmpint(vbr_query_balloon(vm->qts), ==, 2 * GiB);
        g_assert_cmpuint(vbr_used(&vm->d, VBR_INFLATE), <, 128);
    }
    vbr_restart(&vm->d, 0);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

/* Long statistics: many entries with tags that nobody knows. */
static void test_long_stats(void)
{
    VbrVm *vm = big_machine();
    VbrSeg seg = { .addr = 512 * MiB, .len = 1 * GiB };

    qtest_memset(vm->qts, seg.addr, 0xff, 1 * MiB);
    vbr_add(&vm->d, VBR_STATS, &seg, 1);
    vbr_notify(&vm->d, VBR_STATS);
    vbr_settle(&vm->d);
    vbr_assert_works(&vm->d);
    vbr_vm_free(vm);
}

/* A long request is done in the end, with all of its pages. */
static void test_completes(void)
{
    VbrVm *vm = big_machine();
    VbrDev *d = &vm->d;
    uint64_t base = 64 * MiB, payload = 512 * MiB;
    const uint32_t last = (base + 15 * VBR_PAGE) >> VBR_PAGE_SHIFT;
    VbrSeg seg = { .addr = payload, .len = 32 * MiB };
    int i;

    vbr_fill(d, base, 16, 0x18);
    for (i = 0; i < 16; i++) {
        /* One at each of 16 places all over the payload. */
        vbr_w32(d, payload + (i + 1) * 2 * MiB - 4,
                (base >> VBR_PAGE_SHIFT) + i);
    }
    g_assert_cmphex(vbr_r32(d, payload + seg.len - 4), ==, last);
    vbr_add(d, VBR_INFLATE, &seg, 1);
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, 1);
    vbr_assert_gone(d, base, 16);
    vbr_vm_free(vm);
}

/* A queue is reset in the middle of its request; the others go on. */
static void test_queue_reset(void)
{
    VbrVm *vm = big_machine();
    VbrDev *d = &vm->d;
    VbrSeg seg = { .addr = 512 * MiB, .len = 1 * GiB };
    VbrSeg stats = { .addr = 64 * MiB, .len = 10 };
    uint64_t batches;

    if (!vbr_has(d, VIRTIO_F_RING_RESET)) {
        g_test_skip("this QEMU resets no single queues");
        vbr_vm_free(vm);
        return;
    }
    vbr_poll_stats(d, 1);
    vbr_add(d, VBR_STATS, &stats, 1);
    vbr_notify(d, VBR_STATS);
    vbr_add(d, VBR_INFLATE, &seg, 1);
    vbr_notify(d, VBR_INFLATE);
    vbr_vm_reset_queue(vm, VBR_INFLATE);
    vbr_settle(d);
    batches = vbr_counter(d, "batches");
    vbr_settle(d);
    vbr_assert_counter(d, "batches", batches);
    g_assert_cmpuint(vbr_used(d, VBR_INFLATE), ==, 0);
    vbr_assert_works(d);

    /* The statistics buffer was held all the while. */
    qtest_clock_step(vm->qts, 2 * NANOSECONDS_PER_SECOND);
    vbr_take(d, VBR_STATS, 1);
    vbr_add(d, VBR_STATS, &stats, 1);
    vbr_notify(d, VBR_STATS);
    vbr_vm_reset_queue(vm, VBR_STATS);
    qtest_clock_step(vm->qts, 5 * NANOSECONDS_PER_SECOND);
    g_assert_cmpuint(vbr_used(d, VBR_STATS), ==, 0);
    vbr_assert_works(d);
    vbr_vm_free(vm);
}

static unsigned int count_lines(const char *file, const char *with)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    unsigned int n = 0, i;

    g_assert(g_file_get_contents(file, &text, NULL, NULL));
    lines = g_strsplit(text, "\n", -1);
    for (i = 0; lines[i]; i++) {
        n += !!strstr(lines[i], with);
    }
    return n;
}

/* One interrupt for a batch, however many buffers it has. */
static void test_one_notification(void)
{
    g_autofree char *log = g_strdup_printf("%s/vbr-trace-%d", g_get_tmp_dir(),
                                           getpid());
    VbrVm *vm = vbr_pc("-trace virtio_notify -trace virtio_balloon_rs_* "
                       "-D %s -device " VBR_PCI "," VBR_SLOT_ARG, log);
    VbrDev *d = &vm->d;
    unsigned int before, i;
    uint64_t base;

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    base = vbr_pages(d, 64, VBR_PAGE);
    before = count_lines(log, "virtio_notify ");
    for (i = 0; i < 64; i++) {
        uint32_t pfn = (base >> VBR_PAGE_SHIFT) + i;
        VbrSeg seg = vbr_pfns(d, &pfn, 1);

        vbr_add(d, VBR_INFLATE, &seg, 1);
    }
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, 64);
    vbr_settle(d);
    g_assert_cmpuint(count_lines(log, "virtio_notify ") - before, ==, 1);
    g_assert_cmpuint(count_lines(log, "virtio_balloon_rs_"), >, 0);
    vbr_vm_free(vm);
    unlink(log);
}

void vbr_add_load_tests(void)
{
    qtest_add_func("virtio-balloon-rs/load/inflate-answers",
                   test_inflate_answers);
    qtest_add_func("virtio-balloon-rs/load/deflate-answers",
                   test_deflate_answers);
    qtest_add_func("virtio-balloon-rs/load/many-long", test_many_long);
    qtest_add_func("virtio-balloon-rs/load/long-stats", test_long_stats);
    qtest_add_func("virtio-balloon-rs/load/completes", test_completes);
    qtest_add_func("virtio-balloon-rs/load/queue-reset", test_queue_reset);
    qtest_add_func("virtio-balloon-rs/load/one-notification",
                   test_one_notification);
}
