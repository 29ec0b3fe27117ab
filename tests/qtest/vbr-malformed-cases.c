/*
 * virtio-balloon-rs: messages of ranges and chunks that make no sense
 *
 * What stands before the first bad range counts, the rest of that message is
 * dropped, and the next one is as good as any.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-cases.h"
#include "vbr-message.h"
#include "vbr-probe.h"

#define NPAGES 4
#define BYTES (NPAGES * VBR_PAGE)

/* What lies side by side, of NPAGES each. */
enum { BEFORE, BAD, BEHIND, UNNAMED, LOTS };

#define SHORT "header too short"
#define LENGTH "data length is not that of the message"
#define TOO_MANY "too many chunks"
#define RESERVED "reserved bits are set"
#define CUT "a range is cut short"
#define NO_PAGE "a range is empty"
#define WRAPS "a range overflows"
#define NOT_RAM "a range is not RAM"

/* Beyond all memory, but not so far that its end is beyond all numbers. */
#define BEYOND (1ull << 46)

static uint64_t lots(VbrDev *d)
{
    uint64_t base = vbr_pages(d, LOTS * NPAGES, VBR_PAGE);

    vbr_fill(d, base, LOTS * NPAGES, 0x7a);
    return base;
}

/* Sends @msg, of which the first range counts, or nothing at all. */
static void check_on(VbrDev *d, VbrQueue q, uint64_t base,
                     const GByteArray *msg, bool counts, uint64_t dropped,
                     const char *reason)
{
    const char *counter = q == VBR_INFLATE ? "inflated-bytes"
                                           : "deflated-bytes";
    uint64_t messages = vbr_counter(d, "malformed-messages");
    uint64_t bytes = vbr_counter(d, "ignored-message-bytes");
    uint64_t handled = vbr_counter(d, counter);
    uint64_t requests = vbr_counter(d, "requests");
    size_t gone = counts && q == VBR_INFLATE ? NPAGES : 0;

    vbr_fill(d, base, LOTS * NPAGES, 0x7a);
    vbr_send_cut(d, q, msg, NULL, 0);
    vbr_settle(d);
    vbr_assert_kept(d, base + gone * VBR_PAGE, LOTS * NPAGES - gone, 0x7a);
    if (gone) {
        vbr_assert_gone(d, base, gone);
    }
    vbr_assert_counter(d, counter, handled + (counts ? BYTES : 0));
    vbr_assert_counter(d, "requests", requests + 1);
    vbr_assert_malformed(d, messages + 1, bytes + dropped, reason);
    g_assert(!vbr_is_broken(d));
}

static void check(VbrDev *d, uint64_t base, GByteArray *msg, bool counts,
                  uint64_t dropped, const char *reason)
{
    uint64_t bad;

    check_on(d, VBR_INFLATE, base, msg, counts, dropped, reason);
    check_on(d, VBR_DEFLATE, base, msg, counts, dropped, reason);
    g_byte_array_unref(msg);

    /* Nothing of it stays behind: the next message is a good one. */
    bad = vbr_counter(d, "malformed-messages");
    vbr_fill(d, base, LOTS * NPAGES, 0x7a);
    vbr_send_one(d, VBR_INFLATE, base + BEHIND * BYTES, NPAGES);
    vbr_assert_kept(d, base, BEHIND * NPAGES, 0x7a);
    vbr_assert_kept(d, base + UNNAMED * BYTES, NPAGES, 0x7a);
    vbr_assert_gone(d, base + BEHIND * BYTES, NPAGES);
    vbr_send_one(d, VBR_DEFLATE, base, LOTS * NPAGES);
    vbr_assert_counter(d, "malformed-messages", bad);
}

/* resp_hdr that says @data_len, before @len bytes of good words. */
static GByteArray *words_but(uint64_t base, uint32_t data_len, size_t len)
{
    const uint64_t words[] = { base | NPAGES, (base + BYTES) | NPAGES };
    GByteArray *msg = vbr_words(words, 2);

    g_assert_cmpuint(len, <=, msg->len - 8);
    stl_le_p(msg->data + 4, data_len);
    return g_byte_array_set_size(msg, 8 + len);
}

static void test_range_header(VbrDev *d)
{
    uint64_t base;
    size_t len;

    vbr_founding_start(d);
    base = lots(d);
    for (len = 1; len < 8; len++) {
        GByteArray *msg = words_but(base, 16, 16);

        check(d, base, g_byte_array_set_size(msg, len), false, len, SHORT);
    }
    check(d, base, words_but(base, 8, 16), false, 24, LENGTH);
    check(d, base, words_but(base, 0, 16), false, 24, LENGTH);
    check(d, base, words_but(base, 24, 16), false, 24, LENGTH);
    check(d, base, words_but(base, 16, 8), false, 16, LENGTH);
    check(d, base, words_but(base, 16, 0), false, 8, LENGTH);
    check(d, base, words_but(base, UINT32_MAX, 16), false, 24, LENGTH);
    check(d, base, words_but(base, 0x80000010, 16), false, 24, LENGTH);
    /* True, but no words. */
    check(d, base, words_but(base, 12, 12), false, 20, LENGTH);
    check(d, base, words_but(base, 15, 15), false, 23, LENGTH);
    check(d, base, words_but(base, 1, 1), false, 9, LENGTH);
}

/* A good range, then words that are not, then what would be a good one. */
static GByteArray *bad_words(uint64_t base, const uint64_t *bad, size_t n)
{
    const uint64_t good = base | NPAGES;
    const uint64_t behind = (base + BEHIND * BYTES) | NPAGES;
    GByteArray *msg = vbr_words(&good, 1);
    size_t i;

    for (i = 0; i < n; i++) {
        vbr_put(msg, bad[i], 8);
    }
    vbr_put(msg, behind, 8);
    stl_le_p(msg->data + 4, msg->len - 8);
    return msg;
}

#define CHECK_WORDS(d, base, reason, ...) do { \
    const uint64_t bad_[] = { __VA_ARGS__ }; \
    check(d, base, bad_words(base, bad_, ARRAY_SIZE(bad_)), true, \
          8 * ARRAY_SIZE(bad_) + 8, reason); \
} while (0)

static void test_range_words(VbrDev *d)
{
    uint64_t base, bad;

    vbr_founding_start(d);
    base = lots(d);
    bad = base + BAD * BYTES;

    CHECK_WORDS(d, base, NO_PAGE, bad, 0);
    CHECK_WORDS(d, base, NO_PAGE, 0, 0);
    CHECK_WORDS(d, base, WRAPS, bad, UINT64_MAX);
    CHECK_WORDS(d, base, WRAPS, bad, 1ull << 52);
    CHECK_WORDS(d, base, WRAPS, bad, (1ull << 52) + NPAGES);
    CHECK_WORDS(d, base, WRAPS, bad, 1ull << 63);
    CHECK_WORDS(d, base, WRAPS, UINT64_MAX);
    CHECK_WORDS(d, base, NOT_RAM, BEYOND | 1);
    CHECK_WORDS(d, base, NOT_RAM, BEYOND | 4095);
    CHECK_WORDS(d, base, NOT_RAM, BEYOND, 4096);
    /* It begins in RAM. */
    CHECK_WORDS(d, base, NOT_RAM, bad, BEYOND / VBR_PAGE);
    /* A 32-bit sum would be a page in use. */
    CHECK_WORDS(d, base, NOT_RAM, (bad + BEYOND) | NPAGES);
}

/* A long form without its second word is the end of the message. */
static void test_range_cut(VbrDev *d)
{
    uint64_t base, words[2];

    vbr_founding_start(d);
    base = lots(d);
    words[0] = base | NPAGES;
    words[1] = base + BAD * BYTES;
    check(d, base, vbr_words(words, 2), true, 8, CUT);
    check(d, base, vbr_words(words + 1, 1), false, 8, CUT);
}

/*
 * A driver that takes the short form for 4096 pages writes pfn | 1, and a long
 * form: without a second word, or with the next range for its length.
 */
static void test_off_by_one(VbrDev *d)
{
    uint64_t base, wrong;

    vbr_founding_start(d);
    base = lots(d);
    wrong = (base + BAD * BYTES) | 4096;
    check(d, base, vbr_words(&wrong, 1), false, 8, CUT);
    {
        const uint64_t words[] = {
            base | NPAGES, wrong, (base + BEHIND * BYTES) | NPAGES,
        };

        check(d, base, vbr_words(words, 3), true, 16, NOT_RAM);
    }
}

/* On these queues nothing else in the header means anything. */
static void test_range_fields(VbrDev *d)
{
    uint64_t base;
    GByteArray *msg;

    vbr_founding_start(d);
    base = lots(d);
    msg = words_but(base, 8, 8);
    msg->data[0] = 9;
    msg->data[1] = 0xff;
    stw_le_p(msg->data + 2, 0x1234);
    vbr_send_message(d, VBR_INFLATE, msg);
    vbr_assert_gone(d, base, NPAGES);
    vbr_assert_kept(d, base + BYTES, NPAGES, 0x7a);

    /* Nor is it wrong to say nothing. */
    vbr_send_message(d, VBR_INFLATE, words_but(base, 0, 0));
    vbr_assert_malformed(d, 0, 0, "");
}

/* @count in the header, and @len bytes of good chunks. */
static GByteArray *chunks_but(uint64_t base, uint32_t count, size_t len)
{
    const VbrRange chunks[] = { { base, BYTES }, { base + BYTES, BYTES } };
    GByteArray *msg = vbr_chunks(chunks, 2);

    stl_le_p(msg->data, count);
    return g_byte_array_set_size(msg, 4 + len);
}

static void test_chunk_header(VbrDev *d)
{
    uint64_t base;
    size_t len;

    vbr_founding_start(d);
    base = lots(d);
    for (len = 1; len < 4; len++) {
        GByteArray *msg = chunks_but(base, 2, 32);

        check(d, base, g_byte_array_set_size(msg, len), false, len, SHORT);
    }
    check(d, base, chunks_but(base, 1, 32), false, 36, LENGTH);
    check(d, base, chunks_but(base, 0, 32), false, 36, LENGTH);
    check(d, base, chunks_but(base, 3, 32), false, 36, LENGTH);
    check(d, base, chunks_but(base, 2, 31), false, 35, LENGTH);
    check(d, base, chunks_but(base, 2, 16), false, 20, LENGTH);
    check(d, base, chunks_but(base, 2, 0), false, 4, LENGTH);
    check(d, base, chunks_but(base, 1, 17), false, 21, LENGTH);
    /* Times 16 this is 32 in 32 bits. */
    {
        GByteArray *msg = chunks_but(base, 0x10000002, 32);

        vbr_fill(d, base, LOTS * NPAGES, 0x7a);
        vbr_send_message(d, VBR_INFLATE, msg);
        vbr_assert_kept(d, base, LOTS * NPAGES, 0x7a);
    }
}

/* 4096 chunks are as many as there may be, all of them good ones. */
static GByteArray *long_message(uint64_t base, uint32_t count)
{
    GByteArray *msg = g_byte_array_new();
    uint32_t i;

    vbr_put(msg, count, 4);
    for (i = 0; i < count; i++) {
        vbr_put(msg, base + (i + 1 < count ? 0 : BYTES), 8);
        vbr_put(msg, BYTES, 8);
    }
    return msg;
}

static void test_chunk_count(VbrDev *d)
{
    uint64_t base;

    vbr_founding_start(d);
    base = lots(d);
    vbr_send_message(d, VBR_INFLATE, long_message(base, 4096));
    vbr_assert_gone(d, base, 2 * NPAGES);
    vbr_assert_kept(d, base + 2 * BYTES, 2 * NPAGES, 0x7a);
    vbr_assert_malformed(d, 0, 0, "");
    check(d, base, long_message(base, 4097), false, 4 + 16 * 4097, TOO_MANY);
    check(d, base, long_message(base, 8192), false, 4 + 16 * 8192, TOO_MANY);
    /* None at all is no mistake. */
    vbr_send_message(d, VBR_INFLATE, vbr_chunks(NULL, 0));
    vbr_assert_counter(d, "malformed-messages", 4);
}

static void check_chunk(VbrDev *d, uint64_t base, uint64_t bad,
                        uint64_t size, const char *reason)
{
    const VbrRange chunks[] = {
        { base, BYTES }, { bad, size }, { base + BEHIND * BYTES, BYTES },
    };

    check(d, base, vbr_chunks(chunks, 3), true, 32, reason);
}

static void test_chunk_values(VbrDev *d)
{
    uint64_t base, bad;
    int bit;

    vbr_founding_start(d);
    base = lots(d);
    bad = base + BAD * BYTES;
    for (bit = 0; bit < VBR_PAGE_SHIFT; bit++) {
        check_chunk(d, base, bad | (1ull << bit), BYTES, RESERVED);
        check_chunk(d, base, bad, BYTES | (1ull << bit), RESERVED);
    }
    check_chunk(d, base, bad, 0, NO_PAGE);
    check_chunk(d, base, 0, 0, NO_PAGE);
    check_chunk(d, base, bad, -VBR_PAGE, WRAPS);
    check_chunk(d, base, -VBR_PAGE, 2 * VBR_PAGE, WRAPS);
    check_chunk(d, base, BEYOND, VBR_PAGE, NOT_RAM);
    check_chunk(d, base, bad + BEYOND, BYTES, NOT_RAM);
    /* It begins in RAM. */
    check_chunk(d, base, bad, BEYOND, NOT_RAM);
}

/* A buffer for the device to write in says nothing. */
static void test_writable(VbrDev *d)
{
    g_autoptr(GByteArray) msg = NULL;
    uint64_t base;
    VbrSeg segs[2];

    vbr_founding_start(d);
    base = lots(d);
    msg = vbr_ranges(d, &(VbrRange) { base, BYTES }, 1);
    segs[0] = vbr_message(d, msg);
    segs[1] = (VbrSeg) { base + BYTES, BYTES, true };
    vbr_add(d, VBR_INFLATE, segs + 1, 1);
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, 1);
    vbr_assert_counter(d, "ignored-writable-buffers", 1);
    vbr_assert_kept(d, base, LOTS * NPAGES, 0x7a);
    /* Behind a message it takes nothing from that. */
    vbr_add(d, VBR_INFLATE, segs, 2);
    vbr_notify(d, VBR_INFLATE);
    vbr_take(d, VBR_INFLATE, 1);
    vbr_assert_counter(d, "ignored-writable-buffers", 2);
    vbr_assert_kept(d, base + BYTES, (LOTS - 1) * NPAGES, 0x7a);
    vbr_assert_gone(d, base, NPAGES);
    g_assert(!vbr_is_broken(d));
}

/*
 * The guest uses what it meant by a deflate, also what stands behind the bad
 * range: a huge page that holds some of that is not complete.
 */
static void test_deflate_in_part(VbrDev *d)
{
    const size_t huge = 2 * MiB / VBR_PAGE;
    uint64_t base;
    VbrRange ranges[2];

    vbr_founding_start(d);
    base = vbr_pages(d, huge, 2 * MiB);
    ranges[0] = (VbrRange) { BEYOND, VBR_PAGE };
    ranges[1] = (VbrRange) { base, BYTES };
    vbr_fill(d, base, huge, 0x7a);
    vbr_send_one(d, VBR_INFLATE, base, huge - 1);
    vbr_assert_counter(d, "ballooned-bytes", (huge - 1) * VBR_PAGE);

    vbr_send_message(d, VBR_DEFLATE, vbr_ranges(d, ranges, 2));
    vbr_assert_malformed(d, 1, vbr_speaks_words(d) ? 16 : 32, NOT_RAM);
    vbr_assert_counter(d, "ballooned-bytes", 0);
    vbr_assert_counter(d, "held-bytes", 0);
    vbr_fill(d, base, NPAGES, 0x6b);
    vbr_send_one(d, VBR_INFLATE, base + (huge - 1) * VBR_PAGE, 1);
    vbr_settle(d);
    vbr_assert_kept(d, base, NPAGES, 0x6b);
}

#define RANGE VBR_RANGE_OPTS "," VBR_HISTORICAL
#define CHUNKS VBR_CHUNKS_OPTS "," VBR_HISTORICAL

const VbrCase vbr_bad_range_cases[] = {
    { "header", test_range_header, RANGE, VBR_BITS_RANGE },
    { "words", test_range_words, RANGE, VBR_BITS_RANGE },
    { "cut", test_range_cut, RANGE, VBR_BITS_RANGE },
    { "off-by-one", test_off_by_one, RANGE, VBR_BITS_RANGE },
    { "fields", test_range_fields, RANGE, VBR_BITS_RANGE },
    { "writable", test_writable, RANGE, VBR_BITS_RANGE },
    { "deflate-in-part", test_deflate_in_part, RANGE, VBR_BITS_RANGE },
    { }
};

const VbrCase vbr_bad_chunk_cases[] = {
    { "header", test_chunk_header, CHUNKS, VBR_BITS_CHUNKS },
    { "count", test_chunk_count, CHUNKS, VBR_BITS_CHUNKS },
    { "values", test_chunk_values, CHUNKS, VBR_BITS_CHUNKS },
    { "writable", test_writable, CHUNKS, VBR_BITS_CHUNKS },
    { "deflate-in-part", test_deflate_in_part, CHUNKS, VBR_BITS_CHUNKS },
    { }
};
