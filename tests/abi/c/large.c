/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Backing pages of 2 MiB: discarded as a whole or not at all. */

#include "check.h"
#include "host.h"
#include "themes.h"

#define INFLATE VBR_QUEUE_KIND_INFLATE
#define HALF (HUGE_PAGE / 2)

static void inflate_a_deflate_a_inflate_b(uint64_t features)
{
    struct host *host = host_new(features);

    inflate(host, LARGE_GPA, HALF);
    deflate(host, LARGE_GPA, HALF);
    /* The guest uses A from here on. */
    guest_fill(host, LARGE_GPA, HALF);
    inflate(host, LARGE_GPA + HALF, HALF);
    CHECK(guest_kept(host, LARGE_GPA, HALF));
    CHECK_EQ(host->discard_count, 0);
    host_free(host);
}

/* With MUST_TELL_HOST a page is complete over any number of requests, in any order. */
static void told_pages_complete_over_requests(void)
{
    struct host *host = host_new(MUST_TELL_HOST);

    guest_fill(host, LARGE_GPA, 3 * HUGE_PAGE);
    for (uint64_t i = 0; i < 512; i++) {
        CHECK_EQ(host->discard_count, 0);
        inflate(host, LARGE_GPA + HUGE_PAGE + i * 211 % 512 * PAGE, PAGE);
    }
    CHECK_EQ(host->discard_count, 1);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    CHECK(guest_gone(host, LARGE_GPA + HUGE_PAGE, HUGE_PAGE));
    CHECK(guest_kept(host, LARGE_GPA + 2 * HUGE_PAGE, HUGE_PAGE));
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.ballooned_bytes, HUGE_PAGE);
    CHECK_EQ(counters.discarded_bytes, HUGE_PAGE);
    CHECK_EQ(counters.partial_page_bytes, 0);
    host_free(host);
}

/* One request that begins and ends within a page: the whole pages go, neighbours together. */
static void a_range_over_pages(uint64_t features, uint64_t partial)
{
    struct host *host = host_new(features);

    guest_fill(host, LARGE_GPA, 5 * HUGE_PAGE);
    inflate(host, LARGE_GPA + HALF, 4 * HUGE_PAGE);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    CHECK(guest_gone(host, LARGE_GPA + HUGE_PAGE, 3 * HUGE_PAGE));
    CHECK(guest_kept(host, LARGE_GPA + 4 * HUGE_PAGE, HUGE_PAGE));
    CHECK_EQ(host->discard_count, 1);
    CHECK_EQ(host_counters(host).partial_page_bytes, partial);
    host_free(host);
}

/* Without MUST_TELL_HOST the guest may use an acknowledged page at any time, unannounced. */
static void untold_pages_need_one_request(void)
{
    struct host *host = host_new(0);
    const uint32_t pfn = 1024;

    inflate(host, LARGE_GPA, HALF);
    guest_fill(host, LARGE_GPA, HALF);
    inflate(host, LARGE_GPA + HALF, HALF);
    CHECK(guest_kept(host, LARGE_GPA, HALF));
    CHECK_EQ(host->discard_count, 0);
    CHECK_EQ(host_counters(host).partial_page_bytes, HUGE_PAGE);
    inflate(host, LARGE_GPA, HUGE_PAGE);
    CHECK(guest_gone(host, LARGE_GPA, HUGE_PAGE));

    /* So each request is a batch of its own. */
    CHECK_OK(request(host, INFLATE, &pfn, 1));
    CHECK_EQ(room(host, INFLATE), 0);
    run_batch(host);
    CHECK_OK(request(host, VBR_QUEUE_KIND_DEFLATE, &pfn, 1));
    CHECK(room(host, VBR_QUEUE_KIND_DEFLATE) != 0);
    run_batch(host);
    host_free(host);
}

/* What is forgotten does not complete a page later. */
static void forgetting(void (*forget)(struct host *host))
{
    struct host *host = host_new(MUST_TELL_HOST);

    inflate(host, LARGE_GPA, HUGE_PAGE - PAGE);
    forget(host);
    guest_fill(host, LARGE_GPA, HUGE_PAGE);
    inflate(host, LARGE_GPA + HUGE_PAGE - PAGE, PAGE);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    CHECK_EQ(host->discard_count, 0);
    inflate(host, LARGE_GPA, HUGE_PAGE - PAGE);
    CHECK(guest_gone(host, LARGE_GPA, HUGE_PAGE));
    host_free(host);
}

static void by_deflate(struct host *host)
{
    deflate(host, LARGE_GPA + 5 * PAGE, PAGE);
}

static void by_reset(struct host *host)
{
    bool changed;

    CHECK_OK(vbr_device_reset(host->device, &changed));
    CHECK_OK(vbr_device_set_features(host->device, MUST_TELL_HOST, false));
}

static void by_features(struct host *host)
{
    CHECK_OK(vbr_device_set_features(host->device, 0, false));
    CHECK_OK(vbr_device_set_features(host->device, MUST_TELL_HOST, false));
}

static void by_deflate_among_others(struct host *host)
{
    deflate(host, LARGE_GPA - 4 * PAGE, 8 * PAGE);
}

/* A deflated page that comes back completes its backing page again. */
static void complete_again(void)
{
    struct host *host = host_new(MUST_TELL_HOST);

    inflate(host, LARGE_GPA, HUGE_PAGE);
    deflate(host, LARGE_GPA + HALF, PAGE);
    guest_fill(host, LARGE_GPA + HALF, PAGE);
    CHECK_EQ(host->discard_count, 1);
    CHECK_EQ(host_counters(host).ballooned_bytes, HUGE_PAGE - PAGE);
    inflate(host, LARGE_GPA + HALF, PAGE);
    CHECK(guest_gone(host, LARGE_GPA, HUGE_PAGE));
    CHECK_EQ(host->discard_count, 2);
    host_free(host);
}

void theme_large(void)
{
    inflate_a_deflate_a_inflate_b(MUST_TELL_HOST);
    inflate_a_deflate_a_inflate_b(0);
    told_pages_complete_over_requests();
    a_range_over_pages(MUST_TELL_HOST, 0);
    a_range_over_pages(0, HUGE_PAGE);
    untold_pages_need_one_request();
    forgetting(by_deflate);
    forgetting(by_reset);
    forgetting(by_features);
    forgetting(by_deflate_among_others);
    complete_again();
}
