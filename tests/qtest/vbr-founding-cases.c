/*
 * virtio-balloon-rs: inflate and deflate by ranges and by chunks
 *
 * Historical feature bits, because a legacy driver sees no others. The messages
 * are little endian for it, too.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-cases.h"
#include "vbr-message.h"
#include "vbr-probe.h"

#define NPAGES 16
#define BYTES (NPAGES * VBR_PAGE)

/* Filled pages, with one more on either side of what is returned. */
static uint64_t filled_pages(VbrDev *d, size_t n)
{
    uint64_t base = vbr_pages(d, n + 2, VBR_PAGE);

    vbr_fill(d, base, n + 2, 0x6b);
    return base + VBR_PAGE;
}

static void assert_only(VbrDev *d, uint64_t base, size_t n)
{
    vbr_assert_kept(d, base - VBR_PAGE, 1, 0x6b);
    vbr_assert_kept(d, base + n * VBR_PAGE, 1, 0x6b);
    vbr_assert_gone(d, base, n);
}

static void test_one(VbrDev *d)
{
    uint64_t base;

    vbr_founding_start(d);
    base = filled_pages(d, 1);
    vbr_send_one(d, VBR_INFLATE, base, 1);
    assert_only(d, base, 1);
    base = filled_pages(d, NPAGES);
    vbr_send_one(d, VBR_INFLATE, base, NPAGES);
    assert_only(d, base, NPAGES);
    vbr_assert_counter(d, "inflated-bytes", BYTES + VBR_PAGE);
    vbr_assert_counter(d, "discarded-bytes", BYTES + VBR_PAGE);
    vbr_assert_counter(d, "ballooned-bytes", BYTES + VBR_PAGE);
    vbr_assert_counter(d, "ranges", 2);
    vbr_assert_counter(d, "discards", 2);
    vbr_assert_counter(d, "batches", 2);
    vbr_assert_counter(d, "requests", 2);
    vbr_assert_malformed(d, 0, 0, "");
}

/* In any order, and some of it twice: one piece of memory is one range. */
static void test_merged(VbrDev *d)
{
    uint64_t base;

    vbr_founding_start(d);
    base = filled_pages(d, 4 * NPAGES);
    {
        const VbrRange ranges[] = {
            { base + 3 * BYTES, BYTES },
            { base, 2 * BYTES },
            { base + BYTES, BYTES },
            { base + 2 * BYTES, BYTES },
            { base, VBR_PAGE },
        };

        vbr_send_message(d, VBR_INFLATE,
                         vbr_ranges(d, ranges, ARRAY_SIZE(ranges)));
    }
    assert_only(d, base, 4 * NPAGES);
    vbr_assert_counter(d, "ranges", 1);
    vbr_assert_counter(d, "discards", 1);
    vbr_assert_counter(d, "discarded-bytes", 4 * BYTES);
    vbr_assert_counter(d, "ballooned-bytes", 4 * BYTES);
    vbr_assert_malformed(d, 0, 0, "");
}

/* 64 messages behind one notification, each for every second page. */
static void test_many(VbrDev *d)
{
    const unsigned int n = 64;
    uint64_t base;
    unsigned int i;

    vbr_founding_start(d);
    base = filled_pages(d, 2 * n);
    for (i = 0; i < n; i++) {
        const VbrRange range = { base + 2 * i * VBR_PAGE, VBR_PAGE };
        g_autoptr(GByteArray) msg = vbr_ranges(d, &range, 1);
        VbrSeg seg = vbr_message(d, msg);

        vbr_add(d, VBR_INFLATE, &seg, 1);
    }
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, n);
    for (i = 0; i < n; i++) {
        vbr_assert_gone(d, base + 2 * i * VBR_PAGE, 1);
        vbr_assert_kept(d, base + (2 * i + 1) * VBR_PAGE, 1, 0x6b);
    }
    vbr_assert_counter(d, "requests", n);
    vbr_assert_counter(d, "inflated-bytes", n * VBR_PAGE);
    vbr_assert_malformed(d, 0, 0, "");
}

/* Two descriptors, cut anywhere, and a descriptor for each byte. */
static void test_split(VbrDev *d)
{
    VbrRange ranges[2];
    g_autoptr(GByteArray) msg = NULL;
    size_t at[64], i;

    vbr_founding_start(d);
    ranges[0] = (VbrRange) { filled_pages(d, 3), 3 * VBR_PAGE };
    ranges[1] = (VbrRange) { filled_pages(d, 2), 2 * VBR_PAGE };
    msg = vbr_ranges(d, ranges, 2);
    g_assert_cmpuint(msg->len, <, ARRAY_SIZE(at));
    for (i = 1; i <= msg->len; i++) {
        at[i - 1] = i;
    }
    for (i = 1; i < msg->len; i++) {
        vbr_fill(d, ranges[0].addr, 3, 0x6b);
        vbr_fill(d, ranges[1].addr, 2, 0x6b);
        vbr_send_cut(d, VBR_INFLATE, msg, at + i - 1, 1);
        assert_only(d, ranges[0].addr, 3);
        assert_only(d, ranges[1].addr, 2);
    }
    vbr_fill(d, ranges[0].addr, 3, 0x6b);
    vbr_fill(d, ranges[1].addr, 2, 0x6b);
    vbr_send_cut(d, VBR_INFLATE, msg, at, msg->len - 1);
    assert_only(d, ranges[0].addr, 3);
    assert_only(d, ranges[1].addr, 2);
    vbr_assert_malformed(d, 0, 0, "");
}

/* A page that is taken out and used keeps what the guest wrote. */
static void test_deflate(VbrDev *d)
{
    uint64_t base;

    vbr_founding_start(d);
    base = filled_pages(d, NPAGES);
    vbr_send_one(d, VBR_INFLATE, base, NPAGES);
    vbr_send_one(d, VBR_DEFLATE, base, NPAGES);
    vbr_fill(d, base, NPAGES, 0x77);
    vbr_settle(d);
    vbr_assert_kept(d, base, NPAGES, 0x77);
    vbr_assert_counter(d, "deflated-bytes", BYTES);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_assert_counter(d, "discarded-bytes", BYTES);
    vbr_assert_counter(d, "requests", 2);
}

/* A driver of this kind sends pages again that are in the balloon already. */
static void test_again(VbrDev *d)
{
    uint64_t base;
    int i;

    vbr_founding_start(d);
    g_assert(vbr_has(d, VIRTIO_BALLOON_F_MUST_TELL_HOST));
    base = filled_pages(d, NPAGES);
    for (i = 0; i < 4; i++) {
        vbr_send_one(d, VBR_INFLATE, base, NPAGES / 2 + i);
        vbr_assert_counter(d, "ballooned-bytes", (NPAGES / 2 + i) * VBR_PAGE);
    }
    vbr_assert_gone(d, base, NPAGES / 2 + 3);
    vbr_assert_kept(d, base + (NPAGES / 2 + 3) * VBR_PAGE,
                    NPAGES / 2 - 3, 0x6b);
    vbr_send_one(d, VBR_DEFLATE, base, NPAGES);
    vbr_assert_counter(d, "ballooned-bytes", 0);
}

/* A page that the guest's compaction moves: the new one in, the old one out. */
static void test_moved_page(VbrDev *d)
{
    uint64_t old, new;

    vbr_founding_start(d);
    old = filled_pages(d, 1);
    new = filled_pages(d, 1);
    vbr_send_one(d, VBR_INFLATE, old, 1);
    vbr_send_one(d, VBR_INFLATE, new, 1);
    vbr_send_one(d, VBR_DEFLATE, old, 1);
    vbr_fill(d, old, 1, 0x55);
    vbr_settle(d);
    assert_only(d, new, 1);
    vbr_assert_kept(d, old - VBR_PAGE, 1, 0x6b);
    vbr_assert_kept(d, old, 1, 0x55);
    vbr_assert_counter(d, "ballooned-bytes", VBR_PAGE);
}

/*
 * Longer than what is read at a time. One of the ranges, in its long form,
 * lies across that border, wherever a header puts it.
 */
static void test_border(VbrDev *d)
{
    const size_t most = 520;
    g_autofree VbrRange *ranges = g_new(VbrRange, most);
    uint64_t filler, area, last;
    bool words;
    size_t first, before, i;

    vbr_founding_start(d);
    words = vbr_speaks_words(d);
    first = words ? 4096 / 8 - 3 : 4096 / 16 - 2;
    filler = filled_pages(d, 1);
    area = filled_pages(d, NPAGES);
    last = filled_pages(d, 1);
    for (before = first; before < first + 6; before++) {
        g_autoptr(GByteArray) msg = NULL;

        vbr_fill(d, area, NPAGES, 0x6b);
        vbr_fill(d, last, 1, 0x6b);
        for (i = 0; i < before; i++) {
            ranges[i] = (VbrRange) { filler, VBR_PAGE };
        }
        ranges[before] = (VbrRange) { area, BYTES };
        ranges[before + 1] = (VbrRange) { last, VBR_PAGE };
        msg = vbr_ranges(d, ranges, before + 2);
        if (words) {
            /* The long form, although the short one would do. */
            const uint64_t form[] = {
                cpu_to_le64(area), cpu_to_le64(NPAGES),
                cpu_to_le64(last | 1),
            };

            g_byte_array_set_size(msg, 8 + 8 * before);
            g_byte_array_append(msg, (const uint8_t *)form, sizeof(form));
            stl_le_p(msg->data + 4, msg->len - 8);
        }
        g_assert_cmpuint(msg->len, >, 4096);
        vbr_send_message(d, VBR_INFLATE, g_steal_pointer(&msg));
        assert_only(d, filler, 1);
        assert_only(d, area, NPAGES);
        assert_only(d, last, 1);
    }
    vbr_assert_malformed(d, 0, 0, "");
}

/* A driver that accepts none of it is a driver of today. */
static void test_classic(VbrDev *d)
{
    uint64_t base;

    d->bits = d->arg;
    vbr_start(d, vbr_founding_mask(d, VBR_F_PAGE_RANGE) |
                 vbr_founding_mask(d, VBR_F_BALLOON_CHUNKS));
    base = filled_pages(d, NPAGES);
    vbr_send_range(d, VBR_INFLATE, base, NPAGES);
    assert_only(d, base, NPAGES);
    vbr_send_range(d, VBR_DEFLATE, base, NPAGES);
    vbr_assert_counter(d, "deflated-bytes", BYTES);
    vbr_assert_counter(d, "requests", 2);
    vbr_assert_malformed(d, 0, 0, "");

    /* The next driver is another one. */
    vbr_restart(d, 0);
    base = filled_pages(d, NPAGES);
    vbr_send_one(d, VBR_INFLATE, base, NPAGES);
    assert_only(d, base, NPAGES);
}

/* A reset gives all of it back to the guest. */
static void test_reset(VbrDev *d)
{
    uint64_t base;

    vbr_founding_start(d);
    base = filled_pages(d, NPAGES);
    vbr_send_one(d, VBR_INFLATE, base, NPAGES);
    vbr_restart(d, 0);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_fill(d, base, NPAGES, 0x31);
    vbr_settle(d);
    vbr_assert_kept(d, base, NPAGES, 0x31);
    vbr_send_one(d, VBR_INFLATE, base, NPAGES);
    assert_only(d, base, NPAGES);
}

#define RANGE VBR_RANGE_OPTS "," VBR_HISTORICAL
#define CHUNKS VBR_CHUNKS_OPTS "," VBR_HISTORICAL

const VbrCase vbr_range_cases[] = {
    { "one", test_one, RANGE, VBR_BITS_RANGE },
    { "merged", test_merged, RANGE, VBR_BITS_RANGE },
    { "many", test_many, RANGE, VBR_BITS_RANGE },
    { "split", test_split, RANGE, VBR_BITS_RANGE },
    { "deflate", test_deflate, RANGE, VBR_BITS_RANGE },
    { "again", test_again, RANGE, VBR_BITS_RANGE },
    { "moved-page", test_moved_page, RANGE, VBR_BITS_RANGE },
    { "border", test_border, RANGE, VBR_BITS_RANGE },
    { "classic", test_classic, RANGE, VBR_BITS_RANGE },
    { "reset", test_reset, RANGE, VBR_BITS_RANGE },
    { }
};

const VbrCase vbr_chunk_cases[] = {
    { "one", test_one, CHUNKS, VBR_BITS_CHUNKS },
    { "merged", test_merged, CHUNKS, VBR_BITS_CHUNKS },
    { "many", test_many, CHUNKS, VBR_BITS_CHUNKS },
    { "split", test_split, CHUNKS, VBR_BITS_CHUNKS },
    { "deflate", test_deflate, CHUNKS, VBR_BITS_CHUNKS },
    { "again", test_again, CHUNKS, VBR_BITS_CHUNKS },
    { "moved-page", test_moved_page, CHUNKS, VBR_BITS_CHUNKS },
    { "border", test_border, CHUNKS, VBR_BITS_CHUNKS },
    { "classic", test_classic, CHUNKS, VBR_BITS_CHUNKS },
    { "reset", test_reset, CHUNKS, VBR_BITS_CHUNKS },
    { }
};
