/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inflate and deflate requests that hold ranges or chunks, in parts of any length. */

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "host.h"
#include "message.h"
#include "themes.h"

#define INFLATE VBR_QUEUE_KIND_INFLATE
#define DEFLATE VBR_QUEUE_KIND_DEFLATE

static struct host *speaking(uint64_t negotiated)
{
    const struct VbrOptions options = {
        .features = ALL_FEATURES | PAGE_RANGE | BALLOON_CHUNKS
    };

    return host_with(&options, negotiated);
}

/* Adds a message in parts of `cut` bytes, each in memory of exactly that length. */
static void add(struct host *host, enum VbrQueueKind queue, const struct message *message,
                size_t cut)
{
    for (size_t at = 0; at == 0 || at < message->len;) {
        const size_t len = cut < message->len - at ? cut : message->len - at;
        uint8_t *payload = malloc(len + (len == 0));
        CHECK(payload != NULL);
        memcpy(payload, message->bytes + at, len);
        at += len;
        const struct VbrPart part = {
            .payload = payload, .len = len, .total = message->len, .last = at == message->len,
            .descriptors = 2
        };
        CHECK_OK(vbr_batch_add(host->device, queue, &part));
        free(payload);
        if (part.last) {
            return;
        }
    }
}

static const size_t cuts[] = { 1, 3, 4, 5, 7, 8, 12, 16, 24, 4096 };

static void a_message_does_what_it_says(const struct host *host, uint64_t pages)
{
    CHECK(guest_kept(host, 4 * MIB, PAGE));
    CHECK(guest_gone(host, 4 * MIB + PAGE, pages * PAGE));
    CHECK(guest_kept(host, 4 * MIB + (pages + 1) * PAGE, PAGE));
    CHECK(guest_gone(host, 24 * MIB, PAGE));
    CHECK_EQ(host_counters(host).inflated_bytes, (pages + 1) * PAGE);
    CHECK_EQ(host_counters(host).ballooned_bytes, (pages + 1) * PAGE);
    CHECK_EQ(host_counters(host).malformed_messages, 0);
    CHECK_EQ(host_counters(host).requests, 1);
    CHECK_EQ(host_counters(host).ranges, 2);
    CHECK_EQ(vbr_device_malformed_str(host->device)[0], 0);
}

static void ranges_and_chunks(void)
{
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        /* The short form with all its bits set, and the long form. */
        for (uint64_t pages = 4095; pages <= 4096; pages++) {
            struct host *host = speaking(MUST_TELL_HOST | PAGE_RANGE);
            struct message message = { .len = 0 };
            const uint64_t first = 4 * MIB / PAGE + 1;

            guest_fill(host, 4 * MIB, 21 * MIB);
            words(&message, 0, 0, 0);
            if (pages == 4095) {
                word(&message, first << 12 | pages);
            } else {
                word(&message, first << 12);
                word(&message, pages);
            }
            word(&message, 24 * MIB | 1);
            add(host, INFLATE, &message, cuts[i]);
            run_batch(host);
            a_message_does_what_it_says(host, pages);
            add(host, DEFLATE, &message, cuts[i]);
            run_batch(host);
            CHECK_EQ(host_counters(host).ballooned_bytes, 0);
            host_free(host);

            host = speaking(MUST_TELL_HOST | BALLOON_CHUNKS);
            message.len = 0;
            guest_fill(host, 4 * MIB, 21 * MIB);
            chunks(&message);
            chunk(&message, 4 * MIB + PAGE, pages * PAGE);
            chunk(&message, 24 * MIB, PAGE);
            add(host, INFLATE, &message, cuts[i]);
            run_batch(host);
            a_message_does_what_it_says(host, pages);
            add(host, DEFLATE, &message, cuts[i]);
            run_batch(host);
            CHECK_EQ(host_counters(host).ballooned_bytes, 0);
            host_free(host);
        }
    }
}

/* The message as it is, in parts: its front counts, the rest is counted, and why is said. */
static void is_left_out(uint64_t negotiated, const struct message *message, uint64_t bytes,
                        const char *reason)
{
    for (size_t i = 0; i < sizeof(cuts) / sizeof(cuts[0]); i++) {
        struct host *host = speaking(negotiated);
        const uint64_t pages = bytes == message->len ? 0 : 1;

        guest_fill(host, 0, LOW_HOLE);
        guest_fill(host, 4 * MIB, 4 * MIB);
        add(host, INFLATE, message, cuts[i]);
        run_batch(host);
        CHECK_EQ(host_counters(host).malformed_messages, 1);
        CHECK_EQ(host_counters(host).ignored_message_bytes, bytes);
        CHECK_EQ(host_counters(host).inflated_bytes, pages * PAGE);
        CHECK_EQ(host_counters(host).requests, 1);
        CHECK_EQ(host_counters(host).ignored_bad_pfns, 0);
        CHECK_EQ(strcmp(vbr_device_malformed_str(host->device), reason), 0);
        CHECK(guest_kept(host, 0, LOW_HOLE));
        CHECK_EQ(guest_gone(host, 4 * MIB, PAGE), pages);
        CHECK(guest_kept(host, 4 * MIB + PAGE, 4 * MIB - PAGE));
        /* The next one is read as if nothing had been. */
        struct message good = { .len = 0 };
        if (negotiated & PAGE_RANGE) {
            words(&good, 0, 0, 0);
            word(&good, 6 * MIB | 1);
        } else {
            chunks(&good);
            chunk(&good, 6 * MIB, PAGE);
        }
        add(host, INFLATE, &good, cuts[i]);
        run_batch(host);
        CHECK(guest_gone(host, 6 * MIB, PAGE));
        CHECK_EQ(host_counters(host).malformed_messages, 1);
        CHECK_EQ(strcmp(vbr_device_malformed_str(host->device), reason), 0);
        host_free(host);
    }
}

static void malformed_ranges(void)
{
    const struct {
        uint64_t words[2];
        const char *reason;
    } bad[] = {
        { { 5 * MIB, 0 }, "a range is empty" },
        { { 5 * MIB, UINT64_MAX }, "a range overflows" },
        { { UINT64_MAX << 12, 2 }, "a range overflows" },
        { { NOWHERE | 1, 5 * MIB | 1 }, "a range is not RAM" },
        /* One page too many before the hole of a PC. */
        { { LOW_HOLE - PAGE, 2 }, "a range is not RAM" },
        { { (LOW_BYTES - PAGE) | 2, 5 * MIB | 1 }, "a range is not RAM" },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct message message = { .len = 0 };
        words(&message, 0, 0, 0);
        word(&message, 4 * MIB | 1);
        word(&message, bad[i].words[0]);
        word(&message, bad[i].words[1]);
        word(&message, 5 * MIB | 1);
        is_left_out(PAGE_RANGE, &message, 24, bad[i].reason);
    }
    struct message cut = { .len = 0 };
    words(&cut, 0, 0, 0);
    word(&cut, 4 * MIB | 1);
    word(&cut, 5 * MIB);
    is_left_out(PAGE_RANGE, &cut, 8, "a range is cut short");
    for (size_t len = 0; len < 8; len++) {
        const struct message message = { .len = len };
        is_left_out(PAGE_RANGE, &message, len, "header too short");
    }
    const uint32_t lengths[] = { 0, 7, 15, 17, 24, UINT32_MAX };
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        struct message message = { .len = 0 };
        words(&message, 0, 0, 0);
        word(&message, 4 * MIB | 1);
        word(&message, 5 * MIB | 1);
        put(&message, 4, lengths[i], 4);
        is_left_out(PAGE_RANGE, &message, 24, "data length is not that of the message");
    }
}

static void malformed_chunks(void)
{
    const struct {
        uint64_t base, size;
        const char *reason;
    } bad[] = {
        { 5 * MIB | 1, PAGE, "reserved bits are set" },
        { 5 * MIB, PAGE | 0x800, "reserved bits are set" },
        { 5 * MIB, 0, "a range is empty" },
        { 5 * MIB, UINT64_MAX << 12, "a range overflows" },
        { NOWHERE, PAGE, "a range is not RAM" },
        { LOW_HOLE - PAGE, 2 * PAGE, "a range is not RAM" },
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct message message = { .len = 0 };
        chunks(&message);
        chunk(&message, 4 * MIB, PAGE);
        chunk(&message, bad[i].base, bad[i].size);
        chunk(&message, 5 * MIB, PAGE);
        is_left_out(BALLOON_CHUNKS, &message, 32, bad[i].reason);
    }
    const struct message no_header = { .len = 3 };
    is_left_out(BALLOON_CHUNKS, &no_header, 3, "header too short");
    const uint32_t counts[] = { 0, 1, 3, 4096 };
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct message message = { .len = 0 };
        chunks(&message);
        chunk(&message, 4 * MIB, PAGE);
        chunk(&message, 5 * MIB, PAGE);
        put(&message, 0, counts[i], 4);
        is_left_out(BALLOON_CHUNKS, &message, 36, "data length is not that of the message");
    }
    struct message message = { .len = 0 };
    chunks(&message);
    chunk(&message, 4 * MIB, PAGE);
    put(&message, 0, 4097, 4);
    is_left_out(BALLOON_CHUNKS, &message, 20, "too many chunks");
}

/* A message that is given up in the middle leaves nothing behind for the next one. */
static void given_up_in_the_middle(void)
{
    for (int how = 0; how < 4; how++) {
        struct host *host = speaking(MUST_TELL_HOST | PAGE_RANGE);
        struct message message = { .len = 0 };
        bool changed;

        guest_fill(host, 4 * MIB, 2 * MIB);
        words(&message, 0, 0, 0);
        word(&message, 4 * MIB);
        word(&message, 3);
        const struct VbrPart part = {
            .payload = message.bytes, .len = 19, .total = message.len
        };
        CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
        if (how == 0) {
            CHECK_OK(vbr_batch_cancel(host->device));
        } else if (how == 1) {
            CHECK_OK(vbr_batch_abandon(host->device));
        } else if (how == 2) {
            CHECK_OK(vbr_device_reset(host->device, &changed));
        }
        if (how == 3) {
            CHECK_OK(vbr_batch_cancel(host->device));
        }
        if (how >= 2) {
            CHECK_OK(vbr_device_set_features(host->device, MUST_TELL_HOST | PAGE_RANGE, false));
        }
        add(host, INFLATE, &message, 4096);
        run_batch(host);
        CHECK_EQ(host_counters(host).malformed_messages, 0);
        CHECK_EQ(host_counters(host).inflated_bytes, 3 * PAGE);
        CHECK(guest_gone(host, 4 * MIB, 3 * PAGE));
        CHECK(guest_kept(host, 4 * MIB + 3 * PAGE, MIB));
        host_free(host);
    }
}

/*
 * A guest that wrote a part of its deflate wrong uses all of what it meant: a large page in which
 * it has memory again is not complete, whatever comes into the balloon next.
 */
static void a_deflate_in_part(void)
{
    const uint64_t page = LARGE_GPA + HUGE_PAGE;
    /* The rest of the deflate: a range that is not all RAM, and two that are no range. */
    const uint64_t rests[] = { NOWHERE | 8, LARGE_GPA + LARGE_BYTES - PAGE + 2, 0 };

    for (size_t i = 0; i < sizeof(rests) / sizeof(rests[0]); i++) {
        struct host *host = speaking(MUST_TELL_HOST | PAGE_RANGE);
        struct message message = { .len = 0 };

        guest_fill(host, page, HUGE_PAGE);
        words(&message, 0, 0, 0);
        word(&message, page | 511);
        add(host, INFLATE, &message, 4096);
        run_batch(host);

        message.len = 0;
        words(&message, 0, 0, 0);
        word(&message, rests[i]);
        /* This is behind the wrong place, and meant. */
        word(&message, page | 5);
        add(host, DEFLATE, &message, 4096);
        run_batch(host);
        CHECK_EQ(host_counters(host).malformed_messages, 1);
        guest_fill(host, page, 5 * PAGE);

        message.len = 0;
        words(&message, 0, 0, 0);
        word(&message, (page + 511 * PAGE) | 1);
        add(host, INFLATE, &message, 4096);
        run_batch(host);
        CHECK(guest_kept(host, page, 5 * PAGE));
        CHECK_EQ(host->discard_count, 0);
        host_free(host);
    }
}

/* What is left out takes room as well: a guest cannot have its host read on and on. */
static void nonsense_fills_the_batch(void)
{
    struct host *host = speaking(PAGE_RANGE);
    static uint8_t zeros[4096];
    struct VbrPart part = { .payload = zeros, .len = sizeof(zeros), .total = UINT64_C(1) << 40 };
    unsigned batches = 0;

    for (int i = 0; i < 1024; i++) {
        if (room(host, INFLATE) < sizeof(zeros)) {
            run_batch(host);
            batches++;
        }
        CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
    }
    CHECK(batches >= 16);
    part = (struct VbrPart){ .total = part.total, .last = true };
    run_batch(host);
    CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
    run_batch(host);
    CHECK_EQ(host_counters(host).malformed_messages, 1);
    CHECK_EQ(host_counters(host).discards, 0);
    host_free(host);
}

void theme_messages(void)
{
    ranges_and_chunks();
    malformed_ranges();
    malformed_chunks();
    given_up_in_the_middle();
    a_deflate_in_part();
    nonsense_fills_the_batch();
}
