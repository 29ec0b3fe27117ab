/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Free pages that the guest reports, named by where the host has them. */

#include <stdint.h>

#include "check.h"
#include "host.h"
#include "themes.h"

static void reported_memory_is_discarded(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, 4 * MIB, 4 * MIB);
    CHECK_OK(report(host, 5 * MIB, 2 * MIB));
    CHECK(guest_kept(host, 4 * MIB, 4 * MIB));
    run_batch(host);
    CHECK(guest_kept(host, 4 * MIB, 1 * MIB));
    CHECK(guest_gone(host, 5 * MIB, 2 * MIB));
    CHECK(guest_kept(host, 7 * MIB, 1 * MIB));
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.reported_bytes, 2 * MIB);
    CHECK_EQ(counters.discarded_bytes, 2 * MIB);
    CHECK_EQ(counters.ballooned_bytes, 0);
    CHECK_EQ(counters.inflated_bytes, 0);
    host_free(host);
}

/* Edges that do not fill a page are cut off inward, and counted. */
static void edges_are_left_alone(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, 4 * MIB, 4 * PAGE);
    CHECK_OK(report(host, 4 * MIB + 100, 3 * PAGE));
    run_batch(host);
    CHECK(guest_kept(host, 4 * MIB, PAGE));
    CHECK(guest_gone(host, 4 * MIB + PAGE, 2 * PAGE));
    CHECK(guest_kept(host, 4 * MIB + 3 * PAGE, PAGE));
    CHECK_EQ(host_counters(host).ignored_report_unaligned_bytes, PAGE);
    CHECK_EQ(host_counters(host).reported_bytes, 3 * PAGE);
    CHECK_OK(report(host, 4 * MIB + 1, PAGE - 1));
    run_batch(host);
    CHECK(guest_kept(host, 4 * MIB, PAGE));
    CHECK_EQ(host_counters(host).ignored_report_unaligned_bytes, 2 * PAGE - 1);

    /* The page size is the block's. */
    guest_fill(host, LARGE_GPA, 3 * HUGE_PAGE);
    CHECK_OK(report(host, LARGE_GPA + PAGE, 2 * HUGE_PAGE));
    run_batch(host);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    CHECK(guest_gone(host, LARGE_GPA + HUGE_PAGE, HUGE_PAGE));
    CHECK(guest_kept(host, LARGE_GPA + 2 * HUGE_PAGE, HUGE_PAGE));
    CHECK_EQ(host_counters(host).ignored_report_unaligned_bytes, 2 * PAGE - 1 + HUGE_PAGE);
    host_free(host);
}

/* A segment may be more than one section to the guest; the parts need not stand side by side. */
static void across_sections(void)
{
    struct host *host = host_new(ALL_FEATURES);
    uint8_t *middle = host->blocks[TOLD].base + TOLD_HALF;
    const struct VbrReported segment = { middle - PAGE, 3 * PAGE };

    guest_fill(host, LOW_SEAM - 2 * PAGE, 4 * PAGE);
    CHECK_OK(report(host, LOW_SEAM - PAGE, 2 * PAGE));
    run_batch(host);
    CHECK(guest_kept(host, LOW_SEAM - 2 * PAGE, PAGE));
    CHECK(guest_gone(host, LOW_SEAM - PAGE, 2 * PAGE));
    CHECK(guest_kept(host, LOW_SEAM + PAGE, PAGE));
    CHECK_EQ(host_counters(host).ranges, 1);

    guest_fill(host, TOLD_GPA, TOLD_BYTES);
    CHECK_OK(vbr_batch_add_report(host->device, &segment, 1, 0));
    run_batch(host);
    CHECK(guest_gone(host, TOLD_GPA, 2 * PAGE));
    CHECK(guest_kept(host, TOLD_GPA + 2 * PAGE, TOLD_BYTES - 3 * PAGE));
    CHECK(guest_gone(host, TOLD_GPA + TOLD_BYTES - PAGE, PAGE));
    CHECK_EQ(host_counters(host).reported_bytes, 5 * PAGE);
    CHECK_EQ(host_counters(host).ignored_report_bytes, 0);
    host_free(host);
}

static void outside_of_guest_memory(void)
{
    struct host *host = host_new(ALL_FEATURES);
    int mine = 7;
    uint8_t *low = host->blocks[LOW].base;
    const struct VbrReported segments[] = {
        { &mine, sizeof(mine) },
        { NULL, 4096 },
        { low + LOW_HOLE, PAGE },
        { low + LOW_HOLE - PAGE, 3 * PAGE },
    };

    guest_fill(host, LOW_HOLE - 2 * PAGE, 2 * PAGE);
    for (size_t i = 0; i < 4; i++) {
        CHECK_OK(vbr_batch_add_report(host->device, &segments[i], 1, 0));
    }
    run_batch(host);
    CHECK_EQ(mine, 7);
    CHECK(guest_kept(host, LOW_HOLE - 2 * PAGE, PAGE));
    CHECK(guest_gone(host, LOW_HOLE - PAGE, PAGE));
    CHECK_EQ(host_counters(host).ignored_report_bytes, sizeof(mine) + 4096 + 3 * PAGE);
    CHECK_EQ(host_counters(host).reported_bytes, PAGE);
    host_free(host);
}

/* Lengths that cannot be do not wrap around into guest memory. */
static void lengths_that_cannot_be(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const struct VbrReported segments[] = {
        { host->blocks[LARGE].base, 0 },
        { NULL, 0 },
        { (void *)UINTPTR_MAX, UINT64_MAX },
    };

    guest_fill(host, LARGE_GPA, HUGE_PAGE);
    CHECK_OK(vbr_batch_add_report(host->device, segments, 3, 0));
    run_batch(host);
    CHECK_EQ(host->discard_count, 0);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    CHECK_EQ(host_counters(host).ignored_report_bytes, UINT64_MAX);
    CHECK_EQ(host_counters(host).reported_bytes, 0);
    host_free(host);
}

static void poisoned_pages_are_kept(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint8_t poison[16] = { [12] = 0xaa }, none[16] = { 0 };
    bool changed;

    guest_fill(host, 4 * MIB, 1 * MIB);
    CHECK_OK(vbr_config_write(host->device, poison, sizeof(poison), &changed));
    CHECK_OK(report(host, 4 * MIB, 1 * MIB));
    run_batch(host);
    CHECK(guest_kept(host, 4 * MIB, 1 * MIB));
    CHECK_EQ(host_counters(host).ignored_report_poison_bytes, 1 * MIB);
    CHECK_EQ(host_counters(host).reported_bytes, 1 * MIB);
    /* Inflated pages are another matter: the guest does not look at them. */
    inflate(host, 4 * MIB, MIB / 2);
    CHECK(guest_gone(host, 4 * MIB, MIB / 2));
    CHECK_OK(vbr_config_write(host->device, none, sizeof(none), &changed));
    CHECK_OK(report(host, 4 * MIB, 1 * MIB));
    run_batch(host);
    CHECK(guest_gone(host, 4 * MIB, 1 * MIB));
    CHECK_EQ(host_counters(host).ignored_report_poison_bytes, 1 * MIB);
    host_free(host);
}

static void poison_of_a_driver_that_did_not_negotiate_it(void)
{
    struct host *host = host_new(REPORTING);
    const uint8_t poison[16] = { [12] = 0xaa };
    bool changed;

    guest_fill(host, 4 * MIB, 1 * MIB);
    CHECK_OK(vbr_config_write(host->device, poison, sizeof(poison), &changed));
    CHECK_OK(report(host, 4 * MIB, 1 * MIB));
    run_batch(host);
    CHECK(guest_gone(host, 4 * MIB, 1 * MIB));
    host_free(host);
}

/* Segments of one batch are merged, whatever their order; readable ones are counted only. */
static void segments_are_merged(void)
{
    struct host *host = host_new(ALL_FEATURES);
    struct VbrReported segments[32];

    guest_fill(host, 4 * MIB, 32 * PAGE);
    for (size_t i = 0; i < 32; i++) {
        segments[i] = (struct VbrReported){
            guest_at(host, 4 * MIB + i * 11 % 32 * PAGE), PAGE
        };
    }
    CHECK_OK(vbr_batch_add_report(host->device, segments, 32, 3));
    run_batch(host);
    CHECK(guest_gone(host, 4 * MIB, 32 * PAGE));
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.ranges, 1);
    CHECK_EQ(counters.discards, 1);
    CHECK_EQ(counters.ignored_readable_buffers, 3);
    host_free(host);
}

void theme_reports(void)
{
    reported_memory_is_discarded();
    edges_are_left_alone();
    across_sections();
    outside_of_guest_memory();
    lengths_that_cannot_be();
    poisoned_pages_are_kept();
    poison_of_a_driver_that_did_not_negotiate_it();
    segments_are_merged();
}
