/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Saving and loading. */

#include <string.h>

#include "check.h"
#include "host.h"
#include "themes.h"

static struct VbrState state_of(const struct host *host, int64_t interval)
{
    struct VbrState state;

    CHECK_OK(vbr_state_save(host->device, interval, &state));
    return state;
}

static struct host *used_host(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint8_t image[16] = { [4] = 3, [12] = 5 };
    const uint8_t entry[10] = { 4, 0, 77 };
    const struct VbrStatsBuffer buffer = {
        .payload = entry, .payload_len = 10, .len = 10, .now = 1234
    };
    uint32_t pages;
    bool changed;

    CHECK_OK(vbr_target_set(host->device, RAM / 2, RAM, &pages));
    CHECK_OK(vbr_config_write(host->device, image, sizeof(image), &changed));
    CHECK_OK(vbr_stats_receive(host->device, &buffer));
    return host;
}

static void what_was_saved_loads(void)
{
    struct host *from = used_host();
    struct host *to = host_new(ALL_FEATURES);
    const struct VbrState saved = state_of(from, 10);
    struct VbrStats stats;

    CHECK_EQ(saved.num_pages, RAM / 2 / PAGE);
    CHECK_EQ(saved.actual, 3);
    CHECK_EQ(saved.poison_val, 5);
    CHECK(saved.has_stats);
    CHECK_EQ(saved.stats[4], 77);
    CHECK_EQ(saved.stats[5], UINT64_MAX);
    CHECK_EQ(saved.stats_last_update, 1234);
    CHECK_EQ(saved.stats_polling_interval, 10);

    CHECK_OK(vbr_state_load(to->device, &saved, RAM));
    const struct VbrState loaded = state_of(to, 10);
    CHECK_EQ(loaded.num_pages, saved.num_pages);
    CHECK_EQ(loaded.actual, saved.actual);
    CHECK_EQ(loaded.poison_val, saved.poison_val);
    CHECK_EQ(memcmp(loaded.stats, saved.stats, sizeof(saved.stats)), 0);
    CHECK_EQ(loaded.stats_last_update, saved.stats_last_update);
    CHECK_OK(vbr_stats_get(to->device, &stats));
    CHECK_EQ(stats.values[4], 77);

    /* A stream has no set of pages, so after it the guest's own number is what is known. */
    CHECK_EQ(host_counters(to).ballooned_bytes, 3 * PAGE);
    inflate(to, 4 * MIB, PAGE);
    CHECK_EQ(host_counters(to).ballooned_bytes, 3 * PAGE);
    host_free(from);
    host_free(to);
}

/* The guest goes on from the stream: its large pages, in part inflated before, are not complete. */
static void pages_from_before_are_not_known(void)
{
    struct host *host = host_new(MUST_TELL_HOST);
    const struct VbrState state = { .actual = 511 };

    CHECK_OK(vbr_state_load(host->device, &state, RAM));
    guest_fill(host, LARGE_GPA, HUGE_PAGE);
    inflate(host, LARGE_GPA + HUGE_PAGE - PAGE, PAGE);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    host_free(host);
}

static void from_a_device_that_saves_no_stats(void)
{
    struct host *host = used_host();
    struct VbrState state = { .num_pages = 7, .stats_polling_interval = -1 };

    CHECK_OK(vbr_state_load(host->device, &state, RAM));
    state = state_of(host, 0);
    CHECK_EQ(state.num_pages, 7);
    CHECK_EQ(state.stats[4], 77);
    CHECK_EQ(state.stats_last_update, 1234);
    host_free(host);
}

static void refused(struct VbrState state, enum VbrStatus status)
{
    struct host *host = used_host();

    CHECK_STATUS(vbr_state_load(host->device, &state, RAM), status);
    /* Nothing has changed. */
    const struct VbrState after = state_of(host, 0);
    CHECK_EQ(after.num_pages, RAM / 2 / PAGE);
    CHECK_EQ(after.actual, 3);
    CHECK_EQ(after.poison_val, 5);
    CHECK_EQ(after.stats[4], 77);
    CHECK_EQ(after.stats_last_update, 1234);
    host_free(host);
}

static void what_cannot_be_is_refused(void)
{
    const struct VbrState sound = { .num_pages = RAM / PAGE, .actual = UINT32_MAX,
                                    .has_stats = true, .stats_polling_interval = UINT32_MAX };
    struct host *host = host_new(ALL_FEATURES);
    struct VbrState bad = sound;

    /* At the edge of what can be; `actual` is the guest's own number and may be any. */
    CHECK_OK(vbr_state_load(host->device, &sound, RAM));
    host_free(host);

    bad.num_pages++;
    refused(bad, VBR_STATUS_STATE_TARGET);
    bad = sound;
    bad.stats_polling_interval++;
    refused(bad, VBR_STATUS_STATE_STATS);
    bad.stats_polling_interval = -1;
    refused(bad, VBR_STATUS_STATE_STATS);
    bad.stats_polling_interval = INT64_MIN;
    refused(bad, VBR_STATUS_STATE_STATS);
    bad = sound;
    bad.stats_last_update = -1;
    refused(bad, VBR_STATUS_STATE_STATS);
}

void theme_state(void)
{
    what_was_saved_loads();
    pages_from_before_are_not_known();
    from_a_device_that_saves_no_stats();
    what_cannot_be_is_refused();
}
