/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Which pages a request means, and what becomes of their content. */

#include <stdlib.h>

#include "check.h"
#include "host.h"
#include "themes.h"

#define INFLATE VBR_QUEUE_KIND_INFLATE
#define DEFLATE VBR_QUEUE_KIND_DEFLATE

static void neighbours_are_untouched(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, 4 * MIB, 3 * MIB);
    inflate(host, 5 * MIB, 1 * MIB);
    CHECK(guest_kept(host, 4 * MIB, 1 * MIB));
    CHECK(guest_gone(host, 5 * MIB, 1 * MIB));
    CHECK(guest_kept(host, 6 * MIB, 1 * MIB));
    CHECK_EQ(host->discard_count, 1);

    /* Deflated pages are the guest's again, and stay. */
    deflate(host, 5 * MIB, 1 * MIB);
    guest_fill(host, 5 * MIB, 1 * MIB);
    inflate(host, 6 * MIB, 1 * MIB);
    CHECK(guest_kept(host, 4 * MIB, 2 * MIB));
    CHECK_EQ(host_counters(host).ballooned_bytes, 1 * MIB);
    host_free(host);
}

/* Any order and duplicates make one range, one discard, and count once. */
static void order_does_not_matter(void)
{
    struct host *host = host_new(ALL_FEATURES);
    uint32_t pfns[300];

    for (uint32_t i = 0; i < 300; i++) {
        pfns[i] = 1024 + i * 37 % 256;
    }
    guest_fill(host, 4 * MIB, 1 * MIB);
    CHECK_OK(request(host, INFLATE, pfns, 300));
    run_batch(host);
    CHECK(guest_gone(host, 4 * MIB, 1 * MIB));
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.ranges, 1);
    CHECK_EQ(counters.discards, 1);
    CHECK_EQ(counters.inflated_bytes, 1 * MIB);
    CHECK_EQ(counters.discarded_bytes, 1 * MIB);
    host_free(host);
}

/* Ranges end where sections do: each block gets only its own. */
static void ranges_are_cut_at_sections(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, 0, LOW_HOLE);
    guest_fill(host, LOW_HOLE_END, PAGE);
    inflate(host, 0, LOW_HOLE_END + PAGE);
    CHECK(guest_gone(host, 0, LOW_HOLE));
    CHECK(guest_gone(host, LOW_HOLE_END, PAGE));
    CHECK_EQ(host_counters(host).ignored_bad_pfns, (LOW_HOLE_END - LOW_HOLE) / PAGE);
    CHECK_EQ(host->discard_count, 2);
    CHECK_EQ(host->discards[1].offset, LOW_HOLE_END);

    host_forget(host);
    inflate(host, TOLD_GPA, TOLD_BYTES);
    CHECK_EQ(host->discard_count, 2);
    CHECK_EQ(host->discards[0].offset, TOLD_HALF);
    CHECK_EQ(host->discards[1].offset, 0);
    CHECK_EQ(host->discards[0].block, TOLD);
    host_free(host);
}

static void bad_pfns_are_counted(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint32_t pfns[] = { NOWHERE / PAGE, UINT32_MAX, LOW_BYTES / PAGE, 0xa0, 5, 0xa0 };

    guest_fill(host, 5 * PAGE, PAGE);
    CHECK_OK(request(host, INFLATE, pfns, 6));
    run_batch(host);
    CHECK(guest_gone(host, 5 * PAGE, PAGE));
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.ignored_bad_pfns, 4);
    CHECK_EQ(counters.inflated_bytes, PAGE);
    CHECK_EQ(counters.ballooned_bytes, PAGE);
    CHECK_OK(request(host, DEFLATE, pfns, 6));
    run_batch(host);
    counters = host_counters(host);
    CHECK_EQ(counters.ignored_bad_pfns, 8);
    CHECK_EQ(counters.deflated_bytes, PAGE);
    CHECK_EQ(counters.ballooned_bytes, 0);
    host_free(host);
}

static void byte_orders(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint8_t bytes[] = { 0, 0, 0x10, 0x02 };
    struct VbrPart part = { .payload = bytes, .len = 4, .last = true, .descriptors = 1 };

    guest_fill(host, 0x1002 * PAGE, PAGE);
    CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
    run_batch(host);
    /* As little-endian that is page 0x02100000, which is not there. */
    CHECK(guest_kept(host, 0x1002 * PAGE, PAGE));
    CHECK_EQ(host_counters(host).ignored_bad_pfns, 1);
    part.big_endian = true;
    CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
    run_batch(host);
    CHECK(guest_gone(host, 0x1002 * PAGE, PAGE));
    CHECK_EQ(host_counters(host).ignored_bad_pfns, 1);
    host_free(host);
}

static void trailing_bytes_are_not_read(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, 4 * MIB, 2 * PAGE);
    for (size_t extra = 1; extra < 4; extra++) {
        /* As long as it says, so that a read past the end is found. */
        uint8_t *payload = calloc(1, 4 + extra);
        CHECK(payload != NULL);
        payload[1] = 4;
        payload[4] = 1;
        const struct VbrPart part = {
            .payload = payload, .len = 4 + extra, .last = true, .descriptors = 1
        };
        CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
        free(payload);
        run_batch(host);
    }
    CHECK(guest_gone(host, 4 * MIB, PAGE));
    CHECK(guest_kept(host, 4 * MIB + PAGE, PAGE));
    CHECK_EQ(host_counters(host).ignored_trailing_bytes, 1 + 2 + 3);
    CHECK_EQ(host_counters(host).inflated_bytes, 3 * PAGE);
    host_free(host);
}

static void requests_in_parts(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint8_t first[] = { 0, 4, 0, 0 }, second[] = { 2, 4, 0, 0 };
    struct VbrPart part = { .payload = first, .len = 4, .descriptors = 99, .writable = 99 };

    guest_fill(host, 4 * MIB, 3 * PAGE);
    CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
    part.payload = second;
    CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
    /* The last part may be empty, and is the one whose numbers count. */
    part = (struct VbrPart){ .last = true, .descriptors = 3, .writable = 2 };
    CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
    run_batch(host);
    CHECK(guest_gone(host, 4 * MIB, PAGE));
    CHECK(guest_kept(host, 4 * MIB + PAGE, PAGE));
    CHECK(guest_gone(host, 4 * MIB + 2 * PAGE, PAGE));
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.ignored_writable_buffers, 2);
    CHECK_EQ(counters.ranges, 2);
    host_free(host);
}

/* Only those sections that ask for it are told of pages that will be used again. */
static void populate_where_it_is_wanted(void)
{
    struct host *host = host_new(0);
    bool done;

    deflate(host, 4 * MIB, 1 * MIB);
    CHECK_EQ(host->populate_count, 0);
    deflate(host, TOLD_GPA, 1 * MIB);
    CHECK_EQ(host->populate_count, 1);
    CHECK_EQ(host->populates[0].block, TOLD);
    CHECK_EQ(host->populates[0].offset, TOLD_HALF);
    CHECK_EQ(host->populates[0].bytes, 1 * MIB);
    CHECK_EQ(host->discard_count, 0);
    /* Whoever pins the memory has its pages already. */
    CHECK_OK(request_range(host, DEFLATE, TOLD_GPA, 1 * MIB));
    CHECK_OK(vbr_batch_run(host->device, VBR_INHIBIT_PINNED, &done));
    CHECK_EQ(host->populate_count, 1);
    CHECK_EQ(host_counters(host).deflated_bytes, 3 * MIB);
    host_free(host);
}

void theme_pages(void)
{
    neighbours_are_untouched();
    order_does_not_matter();
    ranges_are_cut_at_sections();
    bad_pfns_are_counted();
    byte_orders();
    trailing_bytes_are_not_read();
    requests_in_parts();
    populate_where_it_is_wanted();
}
