/*
 * virtio-balloon-rs: what the host is advised to do with reported pages
 *
 * Pages that may be freed stay where they are until the host is short of
 * memory, so they are looked for among those that the host calls lazily freed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-probe.h"
#include "vbr-vm.h"

#define NPAGES 512
#define BYTES (NPAGES * VBR_PAGE)
#define POISON offsetof(struct virtio_balloon_config, poison_val)
#define NO_POISON (1ull << VIRTIO_BALLOON_F_PAGE_POISON)

#define BALLOON " -device " VBR_PCI "," VBR_SLOT_ARG ",free-page-reporting=on"
#define FREE BALLOON ",free-page-reporting-advice=free"
#define MEMFD " -M pc,memory-backend=ram -m 128M -object " \
    "memory-backend-memfd,id=ram,size=128M"

static VbrVm *machine(const char *args, uint64_t refuse)
{
    VbrVm *vm = vbr_pc("%s", args);

    vbr_vm_attach(vm, VBR_SLOT);
    vbr_start(&vm->d, refuse);
    return vm;
}

static void assert_in_force(VbrDev *d, const char *advice)
{
    g_autofree char *text = vbr_string(d,
                                       "free-page-reporting-advice-in-force");

    g_test_message("%s", text);
    g_assert(g_str_has_prefix(text, advice));
}

/* What the host may take from this QEMU when it needs it. */
static uint64_t lazily_freed(VbrDev *d)
{
    g_autofree char *name = g_strdup_printf("/proc/%d/smaps_rollup",
                                            (int)qtest_pid(d->qts));
    g_autofree char *text = NULL;
    const char *at;

    g_assert(g_file_get_contents(name, &text, NULL, NULL));
    at = strstr(text, "LazyFree:");
    g_assert_nonnull(at);
    return g_ascii_strtoull(at + strlen("LazyFree:"), NULL, 10) * KiB;
}

static void report(VbrDev *d, uint64_t addr, uint32_t len)
{
    const VbrSeg seg = { addr, len, true };

    vbr_add(d, VBR_REPORT, &seg, 1);
    vbr_notify(d, VBR_REPORT);
    vbr_take(d, VBR_REPORT, 1);
}

static uint64_t filled(VbrDev *d)
{
    uint64_t base = vbr_pages(d, NPAGES + 2, VBR_PAGE) + VBR_PAGE;

    vbr_fill(d, base - VBR_PAGE, NPAGES + 2, 0x4c);
    return base;
}

static void assert_neighbours(VbrDev *d, uint64_t base)
{
    vbr_assert_kept(d, base - VBR_PAGE, 1, 0x4c);
    vbr_assert_kept(d, base + BYTES, 1, 0x4c);
}

/* The host notes the last few pages when there are more of them. */
static void assert_lazily_freed(VbrDev *d, uint64_t bytes)
{
    uint64_t seen = lazily_freed(d);

    g_assert_cmpuint(seen, <=, bytes);
    g_assert_cmpuint(seen, >=, bytes - 64 * VBR_PAGE);
}

static void check_discard(const char *args, uint64_t refuse)
{
    VbrVm *vm = machine(args, refuse);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d);

    assert_in_force(d, "discard");
    report(d, base, BYTES);
    assert_in_force(d, "discard");
    g_assert_cmpuint(lazily_freed(d), ==, 0);
    vbr_assert_gone(d, base, NPAGES);
    assert_neighbours(d, base);
    vbr_assert_counter(d, "discarded-bytes", BYTES);
    vbr_vm_free(vm);
}

static void test_default(void)
{
    check_discard(BALLOON, NO_POISON);
    check_discard(BALLOON ",free-page-reporting-advice=discard", NO_POISON);
}

/* Freeing is for private anonymous memory only. */
static void test_memfd(void)
{
    check_discard(MEMFD ",share=on" FREE, NO_POISON);
    check_discard(MEMFD ",share=off" FREE, NO_POISON);
}

static void test_free(void)
{
    VbrVm *vm = machine(FREE, NO_POISON);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d);

    assert_in_force(d, "free");
    g_assert_cmpuint(lazily_freed(d), ==, 0);
    report(d, base, BYTES);
    assert_in_force(d, "free");
    assert_lazily_freed(d, BYTES);
    vbr_assert_counter(d, "reported-bytes", BYTES);
    vbr_assert_counter(d, "discarded-bytes", BYTES);
    vbr_assert_counter(d, "discard-errors", 0);
    assert_neighbours(d, base);

    /* Used again, it stays, and not to be freed. */
    vbr_fill(d, base, NPAGES / 2, 0x4d);
    assert_lazily_freed(d, BYTES / 2);
    vbr_assert_filled(d, base, NPAGES / 2, 0x4d);
    /* The balloon's own pages are discarded, as ever. */
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    vbr_assert_gone(d, base, NPAGES);
    assert_neighbours(d, base);
    vbr_vm_free(vm);
}

/* A guest that poisons its free pages reads nothing else from them. */
static void test_poison(void)
{
    VbrVm *vm = machine(FREE, 0);
    VbrDev *d = &vm->d;
    uint64_t base = filled(d);

    g_assert(vbr_has(d, VIRTIO_BALLOON_F_PAGE_POISON));
    vbr_config_write(d, POISON, 4, 0x4c4c4c4c);
    assert_in_force(d, "discard");
    report(d, base, BYTES);
    vbr_assert_kept(d, base, NPAGES, 0x4c);
    g_assert_cmpuint(lazily_freed(d), ==, 0);
    vbr_assert_counter(d, "ignored-report-poison-bytes", BYTES);

    /* Zeroes are what a page holds that the host took, or still holds. */
    vbr_config_write(d, POISON, 4, 0);
    assert_in_force(d, "free");
    vbr_fill(d, base, NPAGES, 0);
    report(d, base, BYTES);
    vbr_assert_counter(d, "ignored-report-poison-bytes", BYTES);
    assert_lazily_freed(d, BYTES);
    vbr_assert_filled(d, base, NPAGES, 0);
    assert_neighbours(d, base);
    vbr_vm_free(vm);
}

void vbr_add_advice_tests(void)
{
    qtest_add_func("virtio-balloon-rs/advice/default", test_default);
    qtest_add_func("virtio-balloon-rs/advice/memfd", test_memfd);
    qtest_add_func("virtio-balloon-rs/advice/free", test_free);
    qtest_add_func("virtio-balloon-rs/advice/poison", test_poison);
}
