/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Inflated memory that waits for its neighbours, so that huge pages go as a whole. */

#include <errno.h>

#include "check.h"
#include "host.h"
#include "themes.h"

#define INFLATE VBR_QUEUE_KIND_INFLATE
#define DEFLATE VBR_QUEUE_KIND_DEFLATE
#define HALF (HUGE_PAGE / 2)
/* On a border of huge pages. */
#define START (4 * MIB)

static struct host *holding(uint64_t hold_bytes, uint64_t negotiated)
{
    const struct VbrOptions options = { .features = ALL_FEATURES, .hold_bytes = hold_bytes };

    return host_with(&options, negotiated);
}

/* Whose guest told, and has filled the first pages from START on. */
static struct host *filled(void)
{
    struct host *host = holding(8 * MIB, ALL_FEATURES);

    guest_fill(host, START, 4 * HUGE_PAGE);
    return host;
}

static uint64_t held(const struct host *host)
{
    uint64_t bytes = 12345;

    CHECK_OK(vbr_held_bytes(host->device, &bytes));
    CHECK_EQ(host_counters(host).held_bytes, bytes);
    return bytes;
}

static bool flush_slice(struct host *host, enum VbrFlush flush, enum VbrInhibit inhibit)
{
    bool done = flush == VBR_FLUSH_AGED;

    CHECK_OK(vbr_held_flush(host->device, flush, inhibit, &done));
    return done;
}

static unsigned flush(struct host *host, enum VbrFlush which)
{
    unsigned slices = 1;

    while (!flush_slice(host, which, VBR_INHIBIT_NO)) {
        CHECK(++slices < 1000);
    }
    return slices;
}

/* The ragged ends of a request wait; what completes a huge page has the whole of it go in one call. */
static void ends_wait_for_their_neighbours(void)
{
    struct host *host = filled();

    inflate(host, START + HALF, 3 * HUGE_PAGE);
    CHECK_EQ(host->discard_count, 1);
    CHECK_EQ(host->discards[0].offset, START + HUGE_PAGE);
    CHECK_EQ(host->discards[0].bytes, 2 * HUGE_PAGE);
    CHECK_EQ(held(host), 2 * HALF);
    CHECK(guest_kept(host, START, HUGE_PAGE));
    CHECK(guest_kept(host, START + 3 * HUGE_PAGE, HUGE_PAGE));
    CHECK_EQ(host_counters(host).ballooned_bytes, 3 * HUGE_PAGE);

    inflate(host, START, HALF);
    CHECK_EQ(host->discard_count, 2);
    CHECK_EQ(host->discards[1].offset, START);
    CHECK_EQ(host->discards[1].bytes, HUGE_PAGE);
    CHECK_EQ(held(host), HALF);
    inflate(host, START + 3 * HUGE_PAGE + HALF, HALF);
    CHECK_EQ(host->discard_count, 3);
    CHECK_EQ(held(host), 0);
    CHECK(guest_gone(host, START, 4 * HUGE_PAGE));
    CHECK_EQ(host_counters(host).discarded_bytes, 4 * HUGE_PAGE);
    CHECK_EQ(flush(host, VBR_FLUSH_ALL), 1);
    CHECK_EQ(host->discard_count, 3);
    host_free(host);
}

/* Pages in any order, with others in between: one call for the huge page, by the last of them. */
static void a_huge_page_in_any_order(uint64_t step)
{
    struct host *host = filled();

    for (uint64_t i = 0; i < 512; i++) {
        CHECK_EQ(host->discard_count, 0);
        CHECK_EQ(held(host), i * PAGE + (i > 300 ? PAGE : 0));
        inflate(host, START + i * step % 512 * PAGE, PAGE);
        if (i == 300) {
            inflate(host, START + 2 * HUGE_PAGE, PAGE);
        }
    }
    CHECK_EQ(host->discard_count, 1);
    CHECK_EQ(host->discards[0].bytes, HUGE_PAGE);
    CHECK_EQ(held(host), PAGE);
    CHECK(guest_kept(host, START + HUGE_PAGE, 3 * HUGE_PAGE));
    CHECK(guest_gone(host, START, HUGE_PAGE));
    host_free(host);
}

/* Given back already as two parts, and completed: the whole goes, for what is in between may be new. */
static void completed_after_a_flush(void)
{
    struct host *host = filled();

    inflate(host, START, HALF);
    flush(host, VBR_FLUSH_ALL);
    CHECK(guest_gone(host, START, HALF));
    CHECK_EQ(host_counters(host).discarded_bytes, HALF);
    inflate(host, START + HALF, HALF);
    CHECK_EQ(held(host), 0);
    CHECK(guest_gone(host, START, HUGE_PAGE));
    CHECK(guest_kept(host, START + HUGE_PAGE, HUGE_PAGE));
    host_free(host);
}

/* The block has no huge page there, so nothing would be gained. */
static void no_huge_page_around_it(void)
{
    struct host *host = holding(8 * MIB, ALL_FEATURES);

    guest_fill(host, LOW_HOLE_END, 3 * MIB);
    guest_fill(host, 0, LOW_HOLE);
    inflate(host, LOW_HOLE - 2 * PAGE, 2 * PAGE);
    CHECK_EQ(held(host), 0);
    CHECK(guest_gone(host, LOW_HOLE - 2 * PAGE, 2 * PAGE));
    host_forget(host);
    /* From such a part into a huge page, in one call. */
    inflate(host, LOW_HOLE_END + PAGE, 3 * MIB - PAGE);
    CHECK_EQ(host->discard_count, 1);
    CHECK_EQ(held(host), 0);
    CHECK(guest_kept(host, LOW_HOLE_END, PAGE));
    CHECK(guest_gone(host, LOW_HOLE_END + PAGE, 3 * MIB - PAGE));
    host_free(host);
}

static void nothing_is_held(uint64_t hold_bytes, uint64_t negotiated, uint64_t gpa)
{
    struct host *host = holding(hold_bytes, negotiated);

    guest_fill(host, gpa, 8 * PAGE);
    inflate(host, gpa + PAGE, PAGE);
    CHECK_EQ(held(host), 0);
    CHECK_EQ(guest_gone(host, gpa + PAGE, PAGE), gpa != LARGE_GPA);
    CHECK(guest_kept(host, gpa + 2 * PAGE, 6 * PAGE));
    CHECK_EQ(flush(host, VBR_FLUSH_ALL), 1);
    CHECK_EQ(host->discard_count, gpa != LARGE_GPA);
    host_free(host);
}

/* What waits at a flush has gone at the next one of that kind, and not before. */
static void by_age(void)
{
    struct host *host = filled();

    inflate(host, START, PAGE);
    flush(host, VBR_FLUSH_AGED);
    CHECK(guest_kept(host, START, PAGE));
    CHECK_EQ(held(host), PAGE);
    inflate(host, START + 2 * PAGE, PAGE);
    flush(host, VBR_FLUSH_AGED);
    CHECK(guest_gone(host, START, PAGE));
    CHECK(guest_kept(host, START + PAGE, 2 * PAGE));
    CHECK_EQ(held(host), PAGE);
    flush(host, VBR_FLUSH_AGED);
    CHECK(guest_gone(host, START + 2 * PAGE, PAGE));
    CHECK_EQ(held(host), 0);

    /* Old or not, all go. */
    inflate(host, START + 4 * PAGE, PAGE);
    flush(host, VBR_FLUSH_AGED);
    inflate(host, START + 6 * PAGE, PAGE);
    flush(host, VBR_FLUSH_ALL);
    CHECK_EQ(held(host), 0);
    CHECK(guest_gone(host, START + 4 * PAGE, PAGE));
    CHECK(guest_kept(host, START + 5 * PAGE, PAGE));
    CHECK(guest_gone(host, START + 6 * PAGE, PAGE));
    host_free(host);
}

/* An old part and a new one make a huge page. */
static void completed_over_ages(void)
{
    struct host *host = filled();

    inflate(host, START, HALF);
    flush(host, VBR_FLUSH_AGED);
    inflate(host, START + HALF, HALF);
    CHECK_EQ(host->discard_count, 1);
    CHECK_EQ(host->discards[0].bytes, HUGE_PAGE);
    CHECK_EQ(held(host), 0);
    host_free(host);
}

/* However often a page is inflated, it waits no longer. */
static void inflated_time_and_again(void)
{
    struct host *host = filled();

    inflate(host, START, PAGE);
    flush(host, VBR_FLUSH_AGED);
    inflate(host, START, PAGE);
    flush(host, VBR_FLUSH_AGED);
    CHECK(guest_gone(host, START, PAGE));
    flush(host, VBR_FLUSH_AGED);
    CHECK_EQ(held(host), 0);
    host_free(host);
}

static void more_than_may_be_held(void)
{
    struct host *host = holding(16 * PAGE, ALL_FEATURES);

    guest_fill(host, START, HUGE_PAGE);
    for (uint64_t i = 0; i < 16; i++) {
        inflate(host, START + 2 * i * PAGE, PAGE);
    }
    CHECK_EQ(held(host), 16 * PAGE);
    CHECK_EQ(host->discard_count, 0);
    /* All of it, in a call or two. */
    inflate(host, START + HALF, PAGE);
    CHECK_EQ(held(host), 0);
    CHECK_EQ(host->discard_count, 17);
    CHECK_EQ(host->discard_calls, 1);
    for (uint64_t i = 0; i < 16; i++) {
        CHECK(guest_gone(host, START + 2 * i * PAGE, PAGE));
        CHECK(guest_kept(host, START + (2 * i + 1) * PAGE, PAGE));
    }
    inflate(host, START + HALF + 2 * PAGE, PAGE);
    CHECK_EQ(held(host), PAGE);
    host_free(host);
}

enum { RAGGED = 8192 };

/* Nor within a batch, be it as long as it likes: somebody may ask at any time for all to go at once. */
static void never_more_than_that(void)
{
    struct host *host = holding(16 * PAGE, ALL_FEATURES);
    static uint32_t pfns[RAGGED];
    bool done = false;

    /* A page is missing of each huge page. */
    for (size_t i = 0; i < RAGGED; i++) {
        pfns[i] = (uint32_t)(START / PAGE + i + i / 511);
    }
    CHECK_OK(request(host, INFLATE, pfns, RAGGED));
    while (!done) {
        CHECK_OK(vbr_batch_run(host->device, VBR_INHIBIT_NO, &done));
        CHECK(held(host) <= 16 * PAGE + 2 * HUGE_PAGE);
    }
    CHECK(held(host) <= 16 * PAGE);
    host_free(host);
}

/* A huge page that is complete does not count. */
static void whole_pages_are_not_too_much(void)
{
    struct host *host = holding(16 * PAGE, ALL_FEATURES);

    guest_fill(host, START, 2 * HUGE_PAGE);
    inflate(host, START, HUGE_PAGE + PAGE);
    CHECK_EQ(held(host), PAGE);
    CHECK(guest_kept(host, START + HUGE_PAGE, HUGE_PAGE));
    host_free(host);
}

/* What the guest has again before the flush is not given back, whichever age it had. */
static void cancelled(void (*by)(struct host *host), enum VbrFlush age)
{
    struct host *host = filled();

    inflate(host, START, HUGE_PAGE - PAGE);
    if (age == VBR_FLUSH_AGED) {
        flush(host, age);
    }
    CHECK_EQ(held(host), HUGE_PAGE - PAGE);
    by(host);
    CHECK_EQ(held(host), 0);
    flush(host, VBR_FLUSH_ALL);
    CHECK(guest_kept(host, START, HUGE_PAGE));
    CHECK_EQ(host->discard_count, 0);
    /* Nor completed by what is missing. */
    inflate(host, START + HUGE_PAGE - PAGE, PAGE);
    flush(host, VBR_FLUSH_ALL);
    CHECK(guest_kept(host, START, HUGE_PAGE - PAGE));
    host_free(host);
}

static void by_deflate(struct host *host)
{
    deflate(host, START, HUGE_PAGE - PAGE);
}

static void by_reset(struct host *host)
{
    bool changed;

    CHECK_OK(vbr_device_reset(host->device, &changed));
    CHECK_OK(vbr_device_set_features(host->device, ALL_FEATURES, false));
}

static void by_features(struct host *host)
{
    CHECK_OK(vbr_device_set_features(host->device, ALL_FEATURES & ~MUST_TELL_HOST, false));
    CHECK_OK(vbr_device_set_features(host->device, ALL_FEATURES, false));
}

static void by_abandon(struct host *host)
{
    CHECK_OK(vbr_batch_abandon(host->device));
}

/* The low block goes and comes back, as when memory is unplugged. */
static void by_memory(struct host *host)
{
    CHECK_OK(vbr_device_set_memory(host->device, host->sections, 2));
    CHECK_OK(vbr_device_set_memory(host->device, host->sections, SECTIONS));
}

static void by_load(struct host *host)
{
    CHECK_OK(vbr_state_load(host->device, &(struct VbrState){ .actual = 0 }, NULL, RAM));
}

static void a_deflate_cancels_its_own(void)
{
    struct host *host = filled();

    inflate(host, START, HALF);
    deflate(host, START + 7 * PAGE, 3 * PAGE);
    CHECK_EQ(held(host), HALF - 3 * PAGE);
    flush(host, VBR_FLUSH_ALL);
    CHECK(guest_gone(host, START, 7 * PAGE));
    CHECK(guest_kept(host, START + 7 * PAGE, 3 * PAGE));
    CHECK(guest_gone(host, START + 10 * PAGE, HALF - 10 * PAGE));
    host_free(host);
}

/* A batch that comes again leaves what earlier ones left. */
static void a_cancelled_batch_cancels_nothing(void)
{
    struct host *host = filled();

    inflate(host, START, PAGE);
    CHECK_OK(request_range(host, INFLATE, START + 4 * PAGE, PAGE));
    CHECK_OK(vbr_batch_cancel(host->device));
    CHECK_EQ(held(host), PAGE);
    flush(host, VBR_FLUSH_ALL);
    CHECK(guest_gone(host, START, PAGE));
    CHECK(guest_kept(host, START + PAGE, HUGE_PAGE - PAGE));
    host_free(host);
}

/* While discards are inhibited, nothing of it is given back, and it is not tried later. */
static void inhibited(enum VbrInhibit inhibit)
{
    struct host *host = filled();

    inflate(host, START, HALF);
    CHECK(flush_slice(host, VBR_FLUSH_ALL, inhibit));
    CHECK_EQ(held(host), 0);
    CHECK_EQ(host_counters(host).inhibited_bytes, HALF);
    flush(host, VBR_FLUSH_ALL);
    CHECK_EQ(host->discard_count, 0);
    CHECK(guest_kept(host, START, HUGE_PAGE));
    host_free(host);
}

/* The host refuses a place among those that waited: the others go, and nothing waits any more. */
static void refused(void)
{
    struct host *host = filled();

    for (uint64_t i = 0; i < 10; i++) {
        inflate(host, START + 2 * i * PAGE, PAGE);
    }
    host->discard_answer = -ENOMEM;
    host->refused_offset = START + 8 * PAGE;
    flush(host, VBR_FLUSH_ALL);
    CHECK_EQ(held(host), 0);
    CHECK_EQ(host->discard_calls, 2);
    CHECK_EQ(host_counters(host).discard_errors, 1);
    CHECK_EQ(host_counters(host).discarded_bytes, 9 * PAGE);
    for (uint64_t i = 0; i < 10; i++) {
        CHECK_EQ(guest_kept(host, START + 2 * i * PAGE, PAGE), i == 4);
    }
    flush(host, VBR_FLUSH_ALL);
    CHECK_EQ(host->discard_calls, 2);
    host_free(host);
}

/* So much that a flush takes several slices; the guest takes pages back between two of them. */
static void a_flush_in_slices(void)
{
    struct host *host = holding(8 * MIB, ALL_FEATURES);
    const uint64_t pages = 4096;

    guest_fill(host, START, pages * PAGE);
    for (uint64_t i = 0; i < pages; i += 2) {
        inflate(host, START + i * PAGE, PAGE);
    }
    CHECK_EQ(held(host), pages / 2 * PAGE);
    CHECK(!flush_slice(host, VBR_FLUSH_ALL, VBR_INHIBIT_NO));
    CHECK(held(host) < pages / 2 * PAGE);
    CHECK_EQ(host_counters(host).discarded_bytes + held(host), pages / 2 * PAGE);

    CHECK_EQ(host->discards[0].offset, START);
    deflate(host, START + pages * PAGE - 64 * PAGE, 64 * PAGE);
    CHECK(flush(host, VBR_FLUSH_ALL) > 1);
    CHECK_EQ(held(host), 0);
    for (uint64_t i = 0; i < pages; i++) {
        const bool gone = i % 2 == 0 && i < pages - 64;

        CHECK_EQ(guest_gone(host, START + i * PAGE, PAGE), gone);
    }
    host_free(host);
}

enum { AMID = 20000 };

/* Between the slices of a deflate: what is done of it stays. */
static void a_flush_amid_a_deflate(void)
{
    struct host *host = filled();
    static uint32_t pfns[AMID];
    bool done = true;

    inflate(host, START, HALF);
    for (size_t i = 0; i < AMID; i++) {
        pfns[i] = (uint32_t)(i < HALF / PAGE ? START / PAGE + i : NOWHERE / PAGE + 2 * i);
    }
    CHECK_OK(request(host, DEFLATE, pfns, AMID));
    CHECK_OK(vbr_batch_run(host->device, VBR_INHIBIT_NO, &done));
    CHECK(!done);
    flush(host, VBR_FLUSH_ALL);
    CHECK(guest_kept(host, START, HALF));
    CHECK_EQ(host->discard_count, 0);
    run_batch(host);
    host_free(host);
}

void theme_held(void)
{
    ends_wait_for_their_neighbours();
    a_huge_page_in_any_order(1);
    a_huge_page_in_any_order(511);
    a_huge_page_in_any_order(211);
    completed_after_a_flush();
    no_huge_page_around_it();
    nothing_is_held(0, ALL_FEATURES, START);
    nothing_is_held(PAGE - 1, ALL_FEATURES, START);
    nothing_is_held(8 * MIB, ALL_FEATURES & ~MUST_TELL_HOST, START);
    nothing_is_held(8 * MIB, ALL_FEATURES, LARGE_GPA);
    by_age();
    completed_over_ages();
    inflated_time_and_again();
    more_than_may_be_held();
    never_more_than_that();
    whole_pages_are_not_too_much();
    void (*const cancels[])(struct host *host) = {
        by_deflate, by_reset, by_features, by_abandon, by_memory, by_load,
    };
    for (size_t i = 0; i < sizeof(cancels) / sizeof(cancels[0]); i++) {
        cancelled(cancels[i], VBR_FLUSH_ALL);
        cancelled(cancels[i], VBR_FLUSH_AGED);
    }
    a_deflate_cancels_its_own();
    a_cancelled_batch_cancels_nothing();
    inhibited(VBR_INHIBIT_PINNED);
    inhibited(VBR_INHIBIT_INCOMING_POSTCOPY);
    inhibited(VBR_INHIBIT_BACKGROUND_SNAPSHOT);
    refused();
    a_flush_in_slices();
    a_flush_amid_a_deflate();
}
