/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Batches that take several slices, and what becomes of those that are given up in between. */

#include "check.h"
#include "host.h"
#include "themes.h"

#define INFLATE VBR_QUEUE_KIND_INFLATE
#define DEFLATE VBR_QUEUE_KIND_DEFLATE

/* A range that is too much for one slice. */
#define START (4 * MIB)
#define MUCH (40 * MIB)

static void one_slice(struct host *host)
{
    bool done = true;

    CHECK_OK(vbr_batch_run(host->device, VBR_INHIBIT_NO, &done));
    CHECK(!done);
}

/* Every second page of a range, in as few requests as can be. */
static void request_scattered(struct host *host, enum VbrQueueKind queue, uint64_t gpa,
                              uint64_t bytes)
{
    uint32_t pfns[256];
    size_t count = 0;

    for (uint64_t at = gpa; at < gpa + bytes; at += 2 * PAGE) {
        pfns[count++] = (uint32_t)(at / PAGE);
        if (count == 256) {
            CHECK_OK(request(host, queue, pfns, count));
            count = 0;
        }
    }
    CHECK_EQ(count, 0);
}

static void slices_make_the_whole(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, START, MUCH);
    CHECK_OK(request_range(host, INFLATE, START, MUCH));
    CHECK(run_batch(host) > 1);
    CHECK(guest_gone(host, START, MUCH));
    /* Slices end between huge pages, so that the host need not split one. */
    for (size_t i = 0; i + 1 < host->discard_count; i++) {
        uint64_t end = host->discards[i].offset + host->discards[i].bytes;
        CHECK(end % HUGE_PAGE == 0 || end == LOW_SEAM);
    }
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.inflated_bytes, MUCH);
    CHECK_EQ(counters.discarded_bytes, MUCH);
    CHECK_EQ(counters.discards, host->discard_count);
    CHECK_EQ(counters.ranges, 1);
    CHECK_EQ(counters.batches, 1);
    host_free(host);
}

/* Pages far apart cost a call each; the bound is on the work, not on the pages. */
static void slices_of_scattered_pages(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, START, 16 * MIB);
    request_scattered(host, INFLATE, START, 16 * MIB);
    CHECK(run_batch(host) > 3);
    for (uint64_t at = START; at < START + 16 * MIB; at += 2 * PAGE) {
        CHECK(guest_gone(host, at, PAGE));
        CHECK(guest_kept(host, at + PAGE, PAGE));
    }
    CHECK_EQ(host_counters(host).ranges, 16 * MIB / PAGE / 2);
    CHECK_EQ(host_counters(host).discarded_bytes, 8 * MIB);
    /* The same for addresses of nothing, which cost less. */
    request_scattered(host, DEFLATE, NOWHERE, 128 * MIB);
    CHECK(run_batch(host) > 1);
    CHECK_EQ(host_counters(host).ignored_bad_pfns, 128 * MIB / PAGE / 2);
    host_free(host);
}

/* After a cancel the requests come again, and come to the same. */
static void cancelled_work_is_done_again(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, START, MUCH);
    CHECK_OK(request_range(host, INFLATE, START, MUCH));
    one_slice(host);
    CHECK_OK(vbr_batch_cancel(host->device));
    CHECK_EQ(host_counters(host).batches, 0);
    CHECK(guest_gone(host, START, MIB));
    CHECK(guest_kept(host, START + MUCH - MIB, MIB));
    CHECK_EQ(run_batch(host), 1);
    CHECK(guest_kept(host, START + MUCH - MIB, MIB));
    inflate(host, START, MUCH);
    CHECK(guest_gone(host, START, MUCH));
    CHECK_EQ(host_counters(host).ballooned_bytes, MUCH);
    CHECK_EQ(host_counters(host).batches, 1);
    host_free(host);
}

static void abandoned_inflating_discards_no_more(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, START, MUCH);
    CHECK_OK(request_range(host, INFLATE, START, MUCH));
    one_slice(host);
    CHECK_OK(vbr_batch_abandon(host->device));
    CHECK_EQ(run_batch(host), 1);
    CHECK(guest_kept(host, START + MUCH - MIB, MIB));
    host_free(host);
}

/*
 * A deflate that was not carried out and yet acknowledged: the guest uses all of its pages, so none
 * may count as ballooned when another request completes the large page that they are in.
 */
static void abandoned_deflating_forgets(void)
{
    struct host *host = host_new(ALL_FEATURES);

    inflate(host, LARGE_GPA, HUGE_PAGE - PAGE);
    CHECK_EQ(host->discard_count, 0);
    CHECK_OK(request_range(host, DEFLATE, LARGE_GPA, HUGE_PAGE - PAGE));
    CHECK_OK(vbr_batch_abandon(host->device));
    guest_fill(host, LARGE_GPA, HUGE_PAGE);
    inflate(host, LARGE_GPA + HUGE_PAGE - PAGE, PAGE);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    CHECK_EQ(host->discard_count, 0);
    host_free(host);
}

/* A cancelled deflate comes again before the guest uses the pages: nothing needs to be forgotten. */
static void cancelled_deflating_comes_again(void)
{
    struct host *host = host_new(ALL_FEATURES);

    inflate(host, LARGE_GPA, HUGE_PAGE);
    host_forget(host);
    CHECK_OK(request_range(host, DEFLATE, LARGE_GPA, PAGE));
    CHECK_OK(vbr_batch_cancel(host->device));
    CHECK_EQ(host_counters(host).ballooned_bytes, HUGE_PAGE);
    deflate(host, LARGE_GPA, PAGE);
    guest_fill(host, LARGE_GPA, PAGE);
    inflate(host, LARGE_GPA + PAGE, PAGE);
    CHECK(guest_kept(host, LARGE_GPA, PAGE));
    CHECK_EQ(host_counters(host).ballooned_bytes, HUGE_PAGE - PAGE);
    CHECK_EQ(host->discard_count, 0);
    host_free(host);
}

void theme_slices(void)
{
    slices_make_the_whole();
    slices_of_scattered_pages();
    cancelled_work_is_done_again();
    abandoned_inflating_discards_no_more();
    abandoned_deflating_forgets();
    cancelled_deflating_comes_again();
}
