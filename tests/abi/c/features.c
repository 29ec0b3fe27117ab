/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Feature bits of both numberings, which of them go together, and how reports are given back. */

#include <string.h>

#include "check.h"
#include "host.h"
#include "themes.h"

#define FIRST (PAGE_RANGE | HOST_REQUEST)
#define SECOND (BALLOON_CHUNKS | MISC_QUEUE)
#define HISTORICAL VBR_NUMBERING_HISTORICAL
#define PRIVATE VBR_NUMBERING_PRIVATE

/* What making a device with these features comes to; one that is made is freed. */
static enum VbrStatus make(enum VbrNumbering numbering, uint64_t features)
{
    const struct VbrOptions options = { .features = features, .numbering = numbering };
    const struct VbrHostOps ops = { NULL, NULL, NULL, NULL, NULL };
    struct VbrDevice *device = NULL;
    enum VbrStatus status = vbr_device_new(&options, &ops, &device);

    CHECK_EQ(device != NULL, status == VBR_STATUS_OK);
    vbr_device_free(device);
    return status;
}

static void a_bit_means_one_thing(void)
{
    CHECK_OK(make(PRIVATE, ~UINT64_C(0)));
    CHECK_OK(make(HISTORICAL, STATS_VQ | FREE_PAGE_HINT | PAGE_POISON | REPORTING));
    CHECK_OK(make(HISTORICAL, FIRST | REPORTING | MUST_TELL_HOST));
    CHECK_OK(make(HISTORICAL, SECOND | REPORTING));
    const uint64_t founding[] = { PAGE_RANGE, HOST_REQUEST, BALLOON_CHUNKS, MISC_QUEUE };
    for (int i = 0; i < 4; i++) {
        CHECK_STATUS(make(HISTORICAL, founding[i] | FREE_PAGE_HINT),
                     VBR_STATUS_FOUNDING_AND_TODAY);
        CHECK_STATUS(make(HISTORICAL, founding[i] | PAGE_POISON), VBR_STATUS_FOUNDING_AND_TODAY);
    }
    CHECK_STATUS(make(HISTORICAL, PAGE_RANGE | BALLOON_CHUNKS), VBR_STATUS_FOUNDING_GENERATIONS);
    CHECK_STATUS(make(HISTORICAL, PAGE_RANGE | MISC_QUEUE), VBR_STATUS_FOUNDING_GENERATIONS);
    CHECK_STATUS(make(HISTORICAL, HOST_REQUEST | BALLOON_CHUNKS),
                 VBR_STATUS_FOUNDING_GENERATIONS);
    /* The user is told which properties to change. */
    CHECK(strstr(vbr_status_str(VBR_STATUS_FOUNDING_AND_TODAY), "page-poison") != NULL);
    CHECK(strstr(vbr_status_str(VBR_STATUS_FOUNDING_GENERATIONS), "misc-queue") != NULL);
}

static struct host *offering(enum VbrNumbering numbering, uint64_t features)
{
    const struct VbrOptions options = { .features = features, .numbering = numbering };

    return host_with(&options, 0);
}

static uint64_t offered(const struct host *host)
{
    uint64_t features = 7;

    CHECK_OK(vbr_device_features(host->device, &features));
    return features;
}

static bool can_accept(const struct host *host, uint64_t features)
{
    bool accepted = false;

    CHECK_OK(vbr_device_can_accept(host->device, features, &accepted));
    return accepted;
}

static void offered_bits(void)
{
    const struct {
        enum VbrNumbering numbering;
        uint64_t features, bits;
    } cases[] = {
        { PRIVATE, FIRST | SECOND | STATS_VQ, UINT64_C(0xf000000000000002) },
        { HISTORICAL, FIRST | STATS_VQ, 0x1a },
        { HISTORICAL, BALLOON_CHUNKS | REPORTING | STATS_VQ, 0x2a },
        { HISTORICAL, MISC_QUEUE | MUST_TELL_HOST | STATS_VQ, 0x13 },
        { HISTORICAL, PAGE_POISON | STATS_VQ, 0x12 },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct host *host = offering(cases[i].numbering, cases[i].features);
        CHECK_EQ(offered(host), cases[i].bits);
        host_free(host);
    }
}

static void ranges_and_chunks_are_not_accepted_together(void)
{
    struct host *host = offering(PRIVATE, FIRST | SECOND | STATS_VQ);

    CHECK(can_accept(host, 0));
    CHECK(can_accept(host, FIRST));
    CHECK(can_accept(host, SECOND));
    CHECK(can_accept(host, HOST_REQUEST | MISC_QUEUE));
    CHECK(!can_accept(host, PAGE_RANGE | BALLOON_CHUNKS));
    CHECK(!can_accept(host, ~UINT64_C(0)));
    host_free(host);
    /* By its historical bit one of them is accepted only. */
    host = offering(HISTORICAL, FIRST | STATS_VQ);
    CHECK(can_accept(host, ~UINT64_C(0)));
    host_free(host);
}

static enum VbrFreePageSource source_of(struct host *host, uint64_t accepted, bool legacy)
{
    struct VbrHints *hints = NULL;
    struct VbrHintView view;
    bool changed = true;

    CHECK_OK(vbr_hints_new(&hints));
    CHECK_OK(vbr_device_set_features(host->device, accepted, legacy));
    CHECK_OK(vbr_hints_negotiated(hints, host->device, &changed));
    CHECK(!changed);
    CHECK_OK(vbr_hints_view(hints, &view));
    vbr_hints_free(hints);
    return view.source;
}

static enum VbrFreePageSource source(struct host *host, uint64_t accepted)
{
    return source_of(host, accepted, false);
}

/* Also which bits count at all: those that are offered, by the numbers that they are offered by. */
static void where_the_guest_is_asked(void)
{
    const uint64_t today = FREE_PAGE_HINT | STATS_VQ;
    struct host *host = offering(PRIVATE, today | FIRST | SECOND);

    CHECK_EQ(source(host, FIRST | SECOND | today), VBR_FREE_PAGE_SOURCE_FREE_PAGE_HINT);
    CHECK_EQ(source(host, FIRST | SECOND), VBR_FREE_PAGE_SOURCE_HOST_REQUEST);
    CHECK_EQ(source(host, SECOND), VBR_FREE_PAGE_SOURCE_MISC_QUEUE);
    CHECK_EQ(source(host, PAGE_RANGE), VBR_FREE_PAGE_SOURCE_NONE);
    /* A legacy driver has no such bits, unless they are those of old. */
    CHECK_EQ(source_of(host, FIRST, true), VBR_FREE_PAGE_SOURCE_NONE);
    host_free(host);
    host = offering(PRIVATE, today);
    CHECK_EQ(source(host, FIRST | SECOND), VBR_FREE_PAGE_SOURCE_NONE);
    host_free(host);
    host = offering(HISTORICAL, FIRST | STATS_VQ);
    CHECK_EQ(source(host, 1 << 4), VBR_FREE_PAGE_SOURCE_HOST_REQUEST);
    CHECK_EQ(source_of(host, 1 << 4, true), VBR_FREE_PAGE_SOURCE_HOST_REQUEST);
    CHECK_EQ(source(host, 1 << 3), VBR_FREE_PAGE_SOURCE_NONE);
    CHECK_EQ(source(host, FIRST), VBR_FREE_PAGE_SOURCE_NONE);
    host_free(host);
    host = offering(HISTORICAL, SECOND | STATS_VQ);
    CHECK_EQ(source(host, 1 << 4), VBR_FREE_PAGE_SOURCE_MISC_QUEUE);
    host_free(host);
}

/* The same bit means one thing here and another there: the stream says which. */
static void streams_say_what_is_spoken(void)
{
    struct host *from = offering(HISTORICAL, FIRST | STATS_VQ);
    struct host *ranges = offering(HISTORICAL, FIRST | STATS_VQ);
    struct host *chunks = offering(HISTORICAL, SECOND | STATS_VQ);
    struct VbrState state;

    CHECK_OK(vbr_device_set_features(from->device, 3 << 3, false));
    CHECK_OK(vbr_device_set_features(ranges->device, 3 << 3, false));
    CHECK_OK(vbr_device_set_features(chunks->device, 3 << 3, false));
    CHECK_OK(vbr_state_save(from->device, 0, &state));
    CHECK_EQ(state.founding, FIRST);
    CHECK_OK(vbr_state_load(ranges->device, &state, NULL, RAM));
    CHECK_STATUS(vbr_state_load(chunks->device, &state, NULL, RAM), VBR_STATUS_STATE_FOUNDING);
    host_free(from);
    host_free(ranges);
    host_free(chunks);
}

static enum VbrAdviceInForce in_force(const struct host *host)
{
    enum VbrAdviceInForce advice;

    CHECK_OK(vbr_device_reporting_advice(host->device, &advice));
    return advice;
}

static void reports_are_given_back_as_advised(void)
{
    const struct VbrOptions options = {
        .features = ALL_FEATURES, .reporting_advice = VBR_ADVICE_FREE
    };
    struct host *host = host_with(&options, ALL_FEATURES);
    const uint8_t poison[16] = { [12] = 0xaa }, none[16] = { 0 };
    bool changed;

    CHECK_EQ(in_force(host), VBR_ADVICE_IN_FORCE_FREE_IN_PART);
    guest_fill(host, 4 * MIB, 1 * MIB);
    guest_fill(host, LARGE_GPA, HUGE_PAGE);
    CHECK_OK(report(host, 4 * MIB, 1 * MIB));
    CHECK_OK(report(host, LARGE_GPA, HUGE_PAGE));
    run_batch(host);
    CHECK_EQ(host->free_count, 1);
    CHECK_EQ(host->frees[0].block, LOW);
    CHECK_EQ(host->frees[0].offset, 4 * MIB);
    CHECK_EQ(host->frees[0].bytes, 1 * MIB);
    CHECK_EQ(host->discard_count, 1);
    CHECK_EQ(host->discards[0].block, LARGE);
    CHECK_EQ(host_counters(host).discarded_bytes, 1 * MIB + HUGE_PAGE);
    CHECK_EQ(host_counters(host).discards, 2);
    /* Ballooned pages are discarded: the guest does not want them back soon. */
    host_forget(host);
    inflate(host, 8 * MIB, 1 * MIB);
    CHECK_EQ(host->free_count, 0);
    CHECK_EQ(host->discard_count, 1);

    /* A page that the host took late would be zeros where the guest wants something else. */
    host_forget(host);
    CHECK_OK(vbr_config_write(host->device, poison, sizeof(poison), &changed));
    CHECK_EQ(in_force(host), VBR_ADVICE_IN_FORCE_POISONED);
    CHECK_OK(report(host, 4 * MIB, 1 * MIB));
    run_batch(host);
    CHECK_EQ(host->free_count + host->discard_count, 0);
    CHECK_OK(vbr_config_write(host->device, none, sizeof(none), &changed));

    CHECK_OK(vbr_device_set_memory(host->device, &host->sections[3], 3));
    CHECK_EQ(in_force(host), VBR_ADVICE_IN_FORCE_FREE);
    CHECK_OK(vbr_device_set_memory(host->device, host->sections, 3));
    CHECK_EQ(in_force(host), VBR_ADVICE_IN_FORCE_NOT_LAZY);
    CHECK_OK(vbr_device_set_memory(host->device, NULL, 0));
    CHECK_EQ(in_force(host), VBR_ADVICE_IN_FORCE_NOT_LAZY);
    host_free(host);
}

static void without_the_advice_nothing_is_freed_late(void)
{
    struct host *host = host_new(ALL_FEATURES);

    CHECK_EQ(in_force(host), VBR_ADVICE_IN_FORCE_DISCARD);
    CHECK_OK(report(host, 4 * MIB, 1 * MIB));
    run_batch(host);
    CHECK_EQ(host->free_count, 0);
    CHECK_EQ(host->discard_count, 1);
    host_free(host);
}

/*
 * A host that refuses is left in peace after a while, whichever way it was asked: with frees, and
 * then with the discards that are tried in their place.
 */
static void frees_that_fail(void)
{
    const struct VbrOptions options = {
        .features = ALL_FEATURES, .reporting_advice = VBR_ADVICE_FREE
    };
    struct host *host = host_with(&options, ALL_FEATURES);

    host->discard_answer = -12;
    for (uint64_t i = 0; i < 50; i++) {
        CHECK_OK(report(host, 4 * MIB + i * PAGE, PAGE));
        run_batch(host);
    }
    CHECK_EQ(host->free_count, 16);
    CHECK_EQ(in_force(host), VBR_ADVICE_IN_FORCE_REFUSED);
    CHECK_EQ(host_counters(host).free_errors, 16);
    CHECK_EQ(host_counters(host).discard_errors, 34);
    CHECK_EQ(host_counters(host).discarded_bytes, 0);
    host_free(host);
}

void theme_features(void)
{
    a_bit_means_one_thing();
    offered_bits();
    ranges_and_chunks_are_not_accepted_together();
    where_the_guest_is_asked();
    streams_say_what_is_spoken();
    reports_are_given_back_as_advised();
    without_the_advice_nothing_is_freed_late();
    frees_that_fail();
}
