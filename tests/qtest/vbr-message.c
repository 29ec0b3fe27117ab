/*
 * The messages of the founding series: page ranges and chunks, in both
 * directions
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "vbr-hint.h"
#include "vbr-message.h"
#include "vbr-probe.h"

/* The longest run that the short form of a word can say. */
#define SHORT_MAX 4095

#define FLAG_DONE 1

void vbr_put(GByteArray *msg, uint64_t val, unsigned int bytes)
{
    uint8_t le[8];

    stq_le_p(le, val);
    g_byte_array_append(msg, le, bytes);
}

GByteArray *vbr_bytes(const void *bytes, size_t len)
{
    GByteArray *msg = g_byte_array_new();

    return g_byte_array_append(msg, bytes, len);
}

GByteArray *vbr_answer_words(uint16_t id, bool done, const uint64_t *words,
                             size_t n)
{
    GByteArray *msg = g_byte_array_new();
    size_t i;

    vbr_put(msg, 0, 1);
    vbr_put(msg, done ? FLAG_DONE : 0, 1);
    vbr_put(msg, id, 2);
    vbr_put(msg, n * 8, 4);
    for (i = 0; i < n; i++) {
        vbr_put(msg, words[i], 8);
    }
    return msg;
}

GByteArray *vbr_words(const uint64_t *words, size_t n)
{
    return vbr_answer_words(0, false, words, n);
}

static void put_chunks(GByteArray *msg, const VbrRange *chunks, size_t n)
{
    size_t i;

    vbr_put(msg, n, 4);
    for (i = 0; i < n; i++) {
        vbr_put(msg, chunks[i].addr, 8);
        vbr_put(msg, chunks[i].bytes, 8);
    }
}

GByteArray *vbr_chunks(const VbrRange *chunks, size_t n)
{
    GByteArray *msg = g_byte_array_new();

    put_chunks(msg, chunks, n);
    return msg;
}

GByteArray *vbr_answer_chunks(bool done, const VbrRange *chunks, size_t n)
{
    GByteArray *msg = g_byte_array_new();

    vbr_put(msg, 0, 2);
    vbr_put(msg, done ? FLAG_DONE : 0, 2);
    put_chunks(msg, chunks, n);
    return msg;
}

static uint64_t *words_of(const VbrRange *ranges, size_t n, size_t *count)
{
    uint64_t *words = g_new(uint64_t, 2 * n + 1);
    size_t i;

    *count = 0;
    for (i = 0; i < n; i++) {
        uint64_t pages = ranges[i].bytes / VBR_PAGE;

        if (pages <= SHORT_MAX) {
            words[(*count)++] = ranges[i].addr | pages;
        } else {
            words[(*count)++] = ranges[i].addr;
            words[(*count)++] = pages;
        }
    }
    return words;
}

bool vbr_speaks_words(VbrDev *d)
{
    return d->bits == VBR_BITS_PRIVATE ? vbr_has(d, VBR_F_PAGE_RANGE)
                                       : d->bits == VBR_BITS_RANGE;
}

GByteArray *vbr_ranges(VbrDev *d, const VbrRange *ranges, size_t n)
{
    g_autofree uint64_t *words = NULL;
    size_t count;

    if (!vbr_speaks_words(d)) {
        return vbr_chunks(ranges, n);
    }
    words = words_of(ranges, n, &count);
    return vbr_words(words, count);
}

GByteArray *vbr_answer(VbrQueue q, uint64_t id, bool done,
                       const VbrRange *ranges, size_t n)
{
    g_autofree uint64_t *words = NULL;
    size_t count;

    if (q == VBR_MISC) {
        return vbr_answer_chunks(done, ranges, n);
    }
    words = words_of(ranges, n, &count);
    return vbr_answer_words(id, done, words, count);
}

VbrSeg vbr_message(VbrDev *d, const GByteArray *msg)
{
    VbrSeg seg = { .len = msg->len };

    seg.addr = guest_alloc(d->alloc, seg.len);
    qtest_bufwrite(d->qts, seg.addr, msg->data, seg.len);
    return seg;
}

void vbr_send_message(VbrDev *d, VbrQueue q, GByteArray *msg)
{
    VbrSeg seg = vbr_message(d, msg);

    vbr_add(d, q, &seg, 1);
    vbr_notify(d, q);
    vbr_take(d, q, 1);
    guest_free(d->alloc, seg.addr);
    g_byte_array_unref(msg);
}

void vbr_send_cut(VbrDev *d, VbrQueue q, const GByteArray *msg,
                  const size_t *at, size_t n)
{
    g_autofree VbrSeg *segs = g_new(VbrSeg, n + 1);
    size_t from = 0, i;

    for (i = 0; i <= n; i++) {
        size_t to = i < n ? at[i] : msg->len;

        segs[i] = (VbrSeg) { .len = to - from };
        segs[i].addr = guest_alloc(d->alloc, segs[i].len);
        qtest_bufwrite(d->qts, segs[i].addr, msg->data + from, to - from);
        from = to;
    }
    vbr_add(d, q, segs, n + 1);
    vbr_notify(d, q);
    vbr_take(d, q, 1);
    for (i = 0; i <= n; i++) {
        guest_free(d->alloc, segs[i].addr);
    }
}

void vbr_send_one(VbrDev *d, VbrQueue q, uint64_t addr, size_t pages)
{
    const VbrRange range = { addr, pages * VBR_PAGE };

    vbr_send_message(d, q, vbr_ranges(d, &range, 1));
}

unsigned int vbr_founding_bit(VbrDev *d, unsigned int private_bit)
{
    if (d->bits == VBR_BITS_PRIVATE) {
        return private_bit;
    }
    switch (private_bit) {
    case VBR_F_PAGE_RANGE:
    case VBR_F_BALLOON_CHUNKS:
        return 3;
    default:
        return 4;
    }
}

void vbr_founding_start(VbrDev *d)
{
    d->bits = d->arg;
    vbr_start(d, 0);
    g_assert(vbr_has(d, vbr_founding_bit(d, VBR_F_PAGE_RANGE)) ||
             vbr_has(d, vbr_founding_bit(d, VBR_F_BALLOON_CHUNKS)));
}

uint32_t vbr_request_size(VbrQueue q)
{
    return q == VBR_MISC ? 4 : 16;
}

uint64_t vbr_request_post(VbrDev *d, VbrQueue q)
{
    VbrSeg seg = { .len = vbr_request_size(q), .write = true };

    seg.addr = guest_alloc(d->alloc, 64);
    qtest_memset(d->qts, seg.addr, 0xee, 64);
    vbr_add(d, q, &seg, 1);
    vbr_notify(d, q);
    return seg.addr;
}

uint64_t vbr_request_take(VbrDev *d, VbrQueue q, uint64_t buffer)
{
    const uint32_t size = vbr_request_size(q);
    /* The command, and what is reserved or the flags: all of it 0. */
    const uint32_t id_at = MIN(size, 8);
    uint8_t bytes[64];
    uint64_t id = 0;
    uint32_t i;

    vbr_take_len(d, q, size);
    qtest_memread(d->qts, buffer, bytes, sizeof(bytes));
    for (i = 0; i < id_at; i++) {
        g_assert_cmphex(bytes[i], ==, 0);
    }
    if (id_at < size) {
        id = ldq_le_p(bytes + id_at);
    }
    for (i = size; i < sizeof(bytes); i++) {
        g_assert_cmphex(bytes[i], ==, 0xee);
    }
    guest_free(d->alloc, buffer);
    return id;
}

void vbr_request_answer(VbrDev *d, VbrQueue q, uint64_t id, bool done,
                        uint64_t addr, size_t pages)
{
    const VbrRange range = { addr, pages * VBR_PAGE };

    vbr_send_message(d, q, vbr_answer(q, id, done, &range, pages ? 1 : 0));
}

uint64_t vbr_request_begin(VbrDev *d, VbrQueue q)
{
    uint64_t buffer = vbr_request_post(d, q);

    vbr_settle(d);
    g_assert_cmpuint(vbr_used(d, q), ==, 0);
    vbr_hint_ballast(d);
    vbr_migrate_speed(d->qts, VBR_SLOW);
    vbr_migrate(d->qts, VBR_NOWHERE);
    return vbr_request_take(d, q, buffer);
}

void vbr_assert_malformed(VbrDev *d, uint64_t messages, uint64_t bytes,
                          const char *reason)
{
    g_autofree char *text = vbr_string(d, "malformed-message-reason");

    g_assert_cmpstr(text, ==, reason);
    vbr_assert_counter(d, "malformed-messages", messages);
    vbr_assert_counter(d, "ignored-message-bytes", bytes);
}
