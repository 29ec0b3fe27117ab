/*
 * virtio-balloon-rs: discards that must not happen now, and who says so
 *
 * Memory pinned by VFIO needs hardware and is not tried here; the two
 * kinds of migration that forbid discards are.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qobject/qdict.h"
#include "vbr-probe.h"
#include "vbr-stream.h"
#include "vbr-vm.h"

#define NPAGES 16
#define NO_MTH (1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST)

static void limit_bandwidth(QTestState *qts, int64_t bytes)
{
    qtest_qmp_assert_success(qts, "{ 'execute': "
                             "'migrate-set-parameters', 'arguments': "
                             "{ 'max-bandwidth': %" PRId64 ", "
                             "'max-postcopy-bandwidth': %" PRId64 " } }",
                             bytes, bytes);
}

static void assert_inhibited(VbrDev *d, const char *why)
{
    g_autofree char *text = vbr_string(d, "discard-inhibited");

    g_assert_cmpstr(text, ==, why);
}

static bool can_do(QTestState *qts, const char *capability)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': "
                           "'migrate-set-capabilities', 'arguments': "
                           "{ 'capabilities': [ { 'capability': %s, "
                           "'state': true } ] } }", capability);
    bool ok = qdict_haskey(rsp, "return");

    qobject_unref(rsp);
    return ok;
}

/* The guest shrinks, the host keeps the memory, and this can be seen. */
static void assert_keeps(VbrDev *d, uint64_t base)
{
    uint64_t before = vbr_counter(d, "inhibited-bytes");

    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    vbr_assert_counter(d, "inhibited-bytes", before + NPAGES * VBR_PAGE);
    vbr_assert_kept(d, base, NPAGES, 0x2f);
    vbr_assert_counter(d, "discards", 0);
    vbr_assert_counter(d, "discard-errors", 0);
}

/*
 * What could not be given back is, when that is allowed again: without a word
 * of the guest if it said that it tells before it takes pages back, else never.
 */
static void test_background_snapshot(const void *refuse)
{
    g_autofree char *file = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("file:%s", file);
    VbrVm *vm = vbr_pc_balloon(NULL);
    VbrDev *d = &vm->d;
    uint64_t base;

    vbr_start(d, refuse ? NO_MTH : 0);
    assert_inhibited(d, "no");
    base = vbr_pages(d, NPAGES, VBR_PAGE);
    if (!can_do(vm->qts, "background-snapshot")) {
        g_test_skip("no userfaultfd write protection on this host");
        vbr_vm_free(vm);
        return;
    }
    /* Enough content that it cannot be done at once. */
    vbr_fill(d, 32 * MiB, 64 * MiB / VBR_PAGE, 0x19);
    vbr_fill(d, base, NPAGES, 0x2f);
    limit_bandwidth(vm->qts, 1 * MiB);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'migrate', "
                             "'arguments': { 'uri': %s } }", uri);
    g_assert(vbr_migrate_wait(vm->qts, "active", "failed", NULL));
    assert_inhibited(d, "background snapshot");
    assert_keeps(d, base);

    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'migrate_cancel' }");
    g_assert(vbr_migrate_wait(vm->qts, "cancelled", "failed", NULL));
    assert_inhibited(d, "no");
    if (refuse) {
        vbr_assert_counter(d, "owed-bytes", 0);
        vbr_assert_works(d);
        vbr_assert_kept(d, base, NPAGES, 0x2f);
    } else {
        vbr_wait_owed(d);
        vbr_assert_gone(d, base, NPAGES);
        vbr_assert_counter(d, "discards", 1);
        vbr_assert_works(d);
    }
    vbr_vm_free(vm);
    unlink(file);
}

/* A balloon that grows by a lot meanwhile, and shrinks again a little. */
static void test_large(void)
{
    const uint64_t base = 128 * MiB + VBR_PAGE, n = 257 * MiB / VBR_PAGE;
    const uint64_t mine = base + 100 * MiB;
    g_autofree char *file = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("file:%s", file);
    VbrVm *vm = vbr_pc("-m 512M -device " VBR_PCI "," VBR_SLOT_ARG);
    VbrDev *d = &vm->d;

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(d, 0);
    if (!can_do(vm->qts, "background-snapshot")) {
        g_test_skip("no userfaultfd write protection on this host");
        vbr_vm_free(vm);
        return;
    }
    vbr_fill(d, base - VBR_PAGE, n + 2, 0x2f);
    limit_bandwidth(vm->qts, 1 * MiB);
    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'migrate', "
                             "'arguments': { 'uri': %s } }", uri);
    g_assert(vbr_migrate_wait(vm->qts, "active", "failed", NULL));
    vbr_send_range(d, VBR_INFLATE, base, n);
    vbr_assert_counter(d, "owed-bytes", n * VBR_PAGE);
    g_assert_cmpuint(vbr_resident(d, base, n), ==, n);
    vbr_send_range(d, VBR_DEFLATE, mine, NPAGES);
    vbr_assert_counter(d, "owed-bytes", (n - NPAGES) * VBR_PAGE);

    qtest_qmp_assert_success(vm->qts, "{ 'execute': 'migrate_cancel' }");
    g_assert(vbr_migrate_wait(vm->qts, "cancelled", "failed", NULL));
    vbr_wait_owed(d);
    g_assert_cmpuint(vbr_resident(d, base, n), ==, NPAGES);
    vbr_assert_kept(d, base - VBR_PAGE, 1, 0x2f);
    vbr_assert_kept(d, mine, NPAGES, 0x2f);
    vbr_assert_kept(d, base + n * VBR_PAGE, 1, 0x2f);
    vbr_assert_filled(d, mine + NPAGES * VBR_PAGE, 1, 0);
    vbr_assert_counter(d, "discarded-bytes", (n - NPAGES) * VBR_PAGE);
    vbr_assert_counter(d, "discard-errors", 0);
    vbr_vm_free(vm);
    unlink(file);
}

static void test_postcopy(void)
{
    g_autofree char *sock = vbr_stream_name();
    g_autofree char *uri = g_strdup_printf("unix:%s", sock);
    VbrVm *from = vbr_pc_balloon(NULL);
    VbrVm *to = vbr_pc("-device " VBR_PCI "," VBR_SLOT_ARG
                       " -incoming defer");
    const uint64_t base = 96 * MiB, ballooned = 100 * MiB;

    vbr_start(&from->d, 0);
    vbr_send_range(&from->d, VBR_INFLATE, ballooned, NPAGES);
    if (!can_do(from->qts, "postcopy-ram") ||
        !can_do(to->qts, "postcopy-ram")) {
        g_test_skip("no postcopy on this host");
        vbr_vm_free(from);
        vbr_vm_free(to);
        return;
    }
    vbr_fill(&from->d, 32 * MiB, 64 * MiB / VBR_PAGE, 0x19);
    vbr_fill(&from->d, base, NPAGES, 0x2f);
    limit_bandwidth(from->qts, 1 * MiB);
    qtest_qmp_assert_success(to->qts, "{ 'execute': 'migrate-incoming', "
                             "'arguments': { 'uri': %s } }", uri);
    qtest_qmp_assert_success(from->qts, "{ 'execute': 'migrate', "
                             "'arguments': { 'uri': %s } }", uri);
    g_assert(vbr_migrate_wait(from->qts, "active", "failed", NULL));
    qtest_qmp_assert_success(from->qts,
                             "{ 'execute': 'migrate-start-postcopy' }");
    g_assert(vbr_migrate_wait(from->qts, "postcopy-active", "failed", NULL));
    qtest_qmp_eventwait(to->qts, "RESUME");

    vbr_stream_adopt(to, from);
    assert_inhibited(&to->d, "incoming postcopy");
    /* Reading brings the pages over; then they are there to be lost. */
    vbr_assert_filled(&to->d, base, NPAGES, 0x2f);
    assert_keeps(&to->d, base);
    /* Memory for pages that are in the balloon, however it got there. */
    vbr_fill(&to->d, ballooned, NPAGES, 0x2f);

    limit_bandwidth(from->qts, 1 * GiB);
    g_assert(vbr_migrate_wait(from->qts, "completed", "failed", NULL));
    g_assert(vbr_migrate_wait(to->qts, "completed", "failed", NULL));
    assert_inhibited(&to->d, "no");
    vbr_wait_owed(&to->d);
    vbr_assert_gone(&to->d, ballooned, NPAGES);
    /* What was inflated while it arrived, too. */
    vbr_assert_gone(&to->d, base, NPAGES);
    vbr_assert_works(&to->d);
    vbr_vm_free(from);
    vbr_vm_free(to);
}

void vbr_add_inhibit_tests(void)
{
    qtest_add_data_func("virtio-balloon-rs/inhibit/background-snapshot", NULL,
                        test_background_snapshot);
    qtest_add_data_func("virtio-balloon-rs/inhibit/background-snapshot-untold",
                        "", test_background_snapshot);
    qtest_add_func("virtio-balloon-rs/inhibit/large", test_large);
    qtest_add_func("virtio-balloon-rs/inhibit/postcopy", test_postcopy);
}
