/*
 * virtio-balloon-rs: inflate and deflate, memory content and residency
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "vbr-cases.h"
#include "vbr-probe.h"

#define RANGE_PAGES 64

/*
 * Three areas side by side, all filled: what is between @before and @after
 * is for the balloon.  Returns the address of the middle.
 */
static uint64_t fill_three(VbrDev *d)
{
    uint64_t base = vbr_pages(d, 3 * RANGE_PAGES, VBR_PAGE);

    vbr_fill(d, base, 3 * RANGE_PAGES, 0xa5);
    g_assert_cmpuint(vbr_resident(d, base, 3 * RANGE_PAGES), ==,
                     3 * RANGE_PAGES);
    return base + RANGE_PAGES * VBR_PAGE;
}

static void assert_only_middle_gone(VbrDev *d, uint64_t middle)
{
    uint64_t len = RANGE_PAGES * VBR_PAGE;

    vbr_assert_kept(d, middle - len, RANGE_PAGES, 0xa5);
    vbr_assert_kept(d, middle + len, RANGE_PAGES, 0xa5);
    vbr_assert_gone(d, middle, RANGE_PAGES);
}

static void test_basic(VbrDev *d)
{
    uint64_t middle, size = RANGE_PAGES * VBR_PAGE;

    vbr_start(d, 0);
    middle = fill_three(d);
    vbr_send_range(d, VBR_INFLATE, middle, RANGE_PAGES);
    assert_only_middle_gone(d, middle);
    vbr_assert_counter(d, "inflated-bytes", size);
    vbr_assert_counter(d, "discarded-bytes", size);
    vbr_assert_counter(d, "ranges", 1);
    vbr_assert_counter(d, "discards", 1);
    vbr_assert_counter(d, "batches", 1);
    vbr_assert_counter(d, "discard-errors", 0);
    vbr_assert_counter(d, "deflated-bytes", 0);
}

/* Sends the pages of a range in the order that @pfns names. */
static void check_order(VbrDev *d, void (*order)(uint32_t *pfns, size_t *n))
{
    uint32_t pfns[2 * RANGE_PAGES];
    uint64_t middle;
    size_t n = RANGE_PAGES, i;

    vbr_start(d, 0);
    middle = fill_three(d);
    for (i = 0; i < RANGE_PAGES; i++) {
        pfns[i] = (middle >> VBR_PAGE_SHIFT) + i;
    }
    order(pfns, &n);
    vbr_send(d, VBR_INFLATE, pfns, n);
    assert_only_middle_gone(d, middle);
    vbr_assert_counter(d, "inflated-bytes", RANGE_PAGES * VBR_PAGE);
    vbr_assert_counter(d, "discarded-bytes", RANGE_PAGES * VBR_PAGE);
    vbr_assert_counter(d, "ranges", 1);
    vbr_assert_counter(d, "discards", 1);
}

static void order_descending(uint32_t *pfns, size_t *n)
{
    size_t i;

    for (i = 0; i < *n / 2; i++) {
        uint32_t last = pfns[*n - 1 - i];

        pfns[*n - 1 - i] = pfns[i];
        pfns[i] = last;
    }
}

static void order_random(uint32_t *pfns, size_t *n)
{
    size_t i;

    for (i = *n - 1; i > 0; i--) {
        size_t j = g_test_rand_int_range(0, i + 1);
        uint32_t other = pfns[j];

        pfns[j] = pfns[i];
        pfns[i] = other;
    }
}

static void order_duplicates(uint32_t *pfns, size_t *n)
{
    memcpy(pfns + *n, pfns, *n * sizeof(*pfns));
    *n *= 2;
    order_random(pfns, n);
}

static void test_descending(VbrDev *d)
{
    check_order(d, order_descending);
}

static void test_random(VbrDev *d)
{
    check_order(d, order_random);
}

static void test_duplicates(VbrDev *d)
{
    check_order(d, order_duplicates);
}

/* Every second page: nothing to merge, and nothing between is touched. */
static void test_every_second(VbrDev *d)
{
    uint32_t pfns[RANGE_PAGES];
    uint64_t base;
    int i;

    vbr_start(d, 0);
    base = vbr_pages(d, 2 * RANGE_PAGES, VBR_PAGE);
    vbr_fill(d, base, 2 * RANGE_PAGES, 0x3c);
    for (i = 0; i < RANGE_PAGES; i++) {
        pfns[i] = (base >> VBR_PAGE_SHIFT) + 2 * i;
    }
    vbr_send(d, VBR_INFLATE, pfns, RANGE_PAGES);
    for (i = 0; i < RANGE_PAGES; i++) {
        vbr_assert_gone(d, base + 2 * i * VBR_PAGE, 1);
        vbr_assert_kept(d, base + (2 * i + 1) * VBR_PAGE, 1, 0x3c);
    }
    vbr_assert_counter(d, "ranges", RANGE_PAGES);
    vbr_assert_counter(d, "discarded-bytes", RANGE_PAGES * VBR_PAGE);
}

/* A page that is given back and used keeps what the guest wrote. */
static void test_deflate(VbrDev *d)
{
    uint64_t middle, size = RANGE_PAGES * VBR_PAGE, discards;

    vbr_start(d, 0);
    middle = fill_three(d);
    vbr_send_range(d, VBR_INFLATE, middle, RANGE_PAGES);
    discards = vbr_counter(d, "discards");
    vbr_send_range(d, VBR_DEFLATE, middle, RANGE_PAGES);
    vbr_fill(d, middle, RANGE_PAGES, 0x77);
    vbr_settle(d);
    vbr_assert_kept(d, middle, RANGE_PAGES, 0x77);
    vbr_assert_counter(d, "deflated-bytes", size);
    vbr_assert_counter(d, "discards", discards);
    vbr_assert_counter(d, "discarded-bytes", size);
}

/* Deflating pages that were never inflated takes nothing away. */
static void test_deflate_only(VbrDev *d)
{
    uint64_t base;

    vbr_start(d, 0);
    base = vbr_pages(d, RANGE_PAGES, VBR_PAGE);
    vbr_fill(d, base, RANGE_PAGES, 0x11);
    vbr_send_range(d, VBR_DEFLATE, base, RANGE_PAGES);
    vbr_assert_kept(d, base, RANGE_PAGES, 0x11);
    vbr_assert_counter(d, "discards", 0);
    vbr_assert_counter(d, "inflated-bytes", 0);
}

/* Over and over: the second inflate of a range discards it again. */
static void test_again(VbrDev *d)
{
    uint64_t base;
    int i;

    vbr_start(d, 0);
    base = vbr_pages(d, RANGE_PAGES, VBR_PAGE);
    for (i = 0; i < 5; i++) {
        vbr_fill(d, base, RANGE_PAGES, 0x40 + i);
        vbr_send_range(d, VBR_INFLATE, base, RANGE_PAGES);
        vbr_assert_gone(d, base, RANGE_PAGES);
        vbr_send_range(d, VBR_DEFLATE, base, RANGE_PAGES);
    }
    vbr_assert_counter(d, "inflated-bytes", 5 * RANGE_PAGES * VBR_PAGE);
    vbr_assert_counter(d, "deflated-bytes", 5 * RANGE_PAGES * VBR_PAGE);
}

/* With MUST_TELL_HOST the balloon is a set of pages, whatever "actual" is. */
static void test_ballooned(VbrDev *d)
{
    uint64_t base;

    vbr_start(d, 0);
    g_assert(vbr_has(d, VIRTIO_BALLOON_F_MUST_TELL_HOST));
    base = vbr_pages(d, RANGE_PAGES, VBR_PAGE);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_send_range(d, VBR_INFLATE, base, RANGE_PAGES);
    vbr_send_range(d, VBR_INFLATE, base, RANGE_PAGES);
    vbr_assert_counter(d, "ballooned-bytes", RANGE_PAGES * VBR_PAGE);
    vbr_send_range(d, VBR_DEFLATE, base, RANGE_PAGES / 2);
    vbr_assert_counter(d, "ballooned-bytes", RANGE_PAGES / 2 * VBR_PAGE);
    vbr_restart(d, 0);
    vbr_assert_counter(d, "ballooned-bytes", 0);
}

/* Without it the guest's word is all there is, up to the size of RAM. */
static void test_ballooned_by_actual(VbrDev *d)
{
    vbr_start(d, 1ull << VIRTIO_BALLOON_F_MUST_TELL_HOST);
    vbr_set_actual(d, 100);
    vbr_assert_counter(d, "ballooned-bytes", 100 * VBR_PAGE);
    vbr_set_actual(d, UINT32_MAX);
    g_assert_cmpuint(vbr_counter(d, "ballooned-bytes"), <, 1ull << 40);
}

/* The page moved by compaction: the new page in, then the old page out. */
static void test_migrated_page(VbrDev *d)
{
    uint64_t old, new;

    vbr_start(d, 0);
    old = vbr_pages(d, 1, VBR_PAGE);
    new = vbr_pages(d, 1, VBR_PAGE);
    vbr_send_range(d, VBR_INFLATE, old, 1);
    vbr_fill(d, new, 1, 0x99);
    vbr_send_range(d, VBR_INFLATE, new, 1);
    vbr_send_range(d, VBR_DEFLATE, old, 1);
    vbr_fill(d, old, 1, 0x55);
    vbr_settle(d);
    vbr_assert_gone(d, new, 1);
    vbr_assert_kept(d, old, 1, 0x55);
}

const VbrCase vbr_inflate_cases[] = {
    { "basic", test_basic },
    { "descending", test_descending },
    { "random", test_random },
    { "duplicates", test_duplicates },
    { "every-second", test_every_second },
    { "again", test_again },
    { "stock-features", test_basic, "must-tell-host=off" },
    { "ballooned", test_ballooned },
    { "ballooned-by-actual", test_ballooned_by_actual },
    { "migrated-page", test_migrated_page },
    { "deflate", test_deflate },
    { "deflate-only", test_deflate_only },
    { }
};
