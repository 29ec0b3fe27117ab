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

    CHECK_OK(vbr_state_load(to->device, &saved, NULL, RAM));
    const struct VbrState loaded = state_of(to, 10);
    CHECK_EQ(loaded.num_pages, saved.num_pages);
    CHECK_EQ(loaded.actual, saved.actual);
    CHECK_EQ(loaded.poison_val, saved.poison_val);
    CHECK_EQ(memcmp(loaded.stats, saved.stats, sizeof(saved.stats)), 0);
    CHECK_EQ(loaded.stats_last_update, saved.stats_last_update);
    CHECK_OK(vbr_stats_get(to->device, &stats));
    CHECK_EQ(stats.values[4], 77);

    /* Without the set of pages the guest's own number is what is known. */
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

    CHECK_OK(vbr_state_load(host->device, &state, NULL, RAM));
    guest_fill(host, LARGE_GPA, HUGE_PAGE);
    inflate(host, LARGE_GPA + HUGE_PAGE - PAGE, PAGE);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    host_free(host);
}

static void from_a_device_that_saves_no_stats(void)
{
    struct host *host = used_host();
    struct VbrState state = { .num_pages = 7, .stats_polling_interval = -1 };

    CHECK_OK(vbr_state_load(host->device, &state, NULL, RAM));
    state = state_of(host, 0);
    CHECK_EQ(state.num_pages, 7);
    CHECK_EQ(state.stats[4], 77);
    CHECK_EQ(state.stats_last_update, 1234);
    host_free(host);
}

static void refused(struct VbrState state, enum VbrStatus status)
{
    struct host *host = used_host();

    CHECK_STATUS(vbr_state_load(host->device, &state, NULL, RAM), status);
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
    CHECK_OK(vbr_state_load(host->device, &sound, NULL, RAM));
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

/* The set of pages in the balloon, as a stream takes it along. */
struct coded {
    uint8_t bytes[64];
    struct VbrSavedPages pages;
};

static void save_pages(const struct host *host, struct coded *coded, size_t room)
{
    memset(coded->bytes, 0xee, sizeof(coded->bytes));
    CHECK_OK(vbr_state_save_pages(host->device, coded->bytes, room, &coded->pages.len,
                                  &coded->pages.complete));
    coded->pages.coded = coded->bytes;
    CHECK(coded->pages.len <= room);
    for (size_t i = coded->pages.len; i < sizeof(coded->bytes); i++) {
        CHECK_EQ(coded->bytes[i], 0xee);
    }
}

/* A large page of which a part was inflated here is complete with the rest of it there. */
static void pages_come_along(void)
{
    struct host *from = host_new(MUST_TELL_HOST);
    struct host *to = host_new(MUST_TELL_HOST);
    const struct VbrState state = { .actual = 9 };
    struct coded coded;

    inflate(from, 4 * MIB, 3 * PAGE);
    inflate(from, LARGE_GPA, HUGE_PAGE - PAGE);
    deflate(from, LARGE_GPA + PAGE, PAGE);
    save_pages(from, &coded, sizeof(coded.bytes));
    CHECK(coded.pages.complete);
    guest_fill(to, LARGE_GPA, 2 * HUGE_PAGE);
    CHECK_OK(vbr_state_load(to->device, &state, &coded.pages, RAM));
    CHECK_EQ(host_counters(to).ballooned_bytes, HUGE_PAGE + PAGE);

    inflate(to, LARGE_GPA + HUGE_PAGE - PAGE, PAGE);
    /* One page is still the guest's. */
    CHECK_EQ(to->discard_count, 0);
    inflate(to, LARGE_GPA + PAGE, PAGE);
    CHECK(guest_gone(to, LARGE_GPA, HUGE_PAGE));
    CHECK(guest_kept(to, LARGE_GPA + HUGE_PAGE, HUGE_PAGE));
    deflate(to, 4 * MIB, PAGE);
    CHECK_EQ(host_counters(to).ballooned_bytes, HUGE_PAGE + 2 * PAGE);
    host_free(from);
    host_free(to);
}

/* Where there is no room for all of it, the first runs come along, and it is said that more was. */
static void a_cut_set(void)
{
    struct host *from = host_new(MUST_TELL_HOST);
    struct host *to = host_new(MUST_TELL_HOST);
    const struct VbrState state = { .actual = 9 };
    struct coded coded;

    inflate(from, 4 * PAGE, PAGE);
    inflate(from, 8 * PAGE, PAGE);
    for (size_t room = 0; room <= 4; room++) {
        save_pages(from, &coded, room);
        CHECK_EQ(coded.pages.len, room / 2 * 2);
        CHECK_EQ(coded.pages.complete, room == 4);
        CHECK_OK(vbr_state_load(to->device, &state, &coded.pages, RAM));
        CHECK_EQ(host_counters(to).ballooned_bytes, room == 4 ? 2 * PAGE : 9 * PAGE);
    }
    host_free(from);
    host_free(to);
}

/* What came along of pages in the balloon goes back to the host, unless it may not. */
static void what_came_is_discarded(void)
{
    struct host *host = host_new(MUST_TELL_HOST);
    const struct VbrState state = { .actual = 9 };
    const struct VbrSavedPages pages = { .coded = (const uint8_t[]){ 5, 3 }, .len = 2 };
    bool done = false;

    CHECK_OK(vbr_state_load(host->device, &state, &pages, RAM));
    guest_fill(host, 4 * PAGE, 5 * PAGE);
    CHECK_OK(vbr_owed_discard(host->device, VBR_INHIBIT_INCOMING_POSTCOPY, &done));
    CHECK(done);
    CHECK(guest_kept(host, 4 * PAGE, 5 * PAGE));
    CHECK_EQ(host_counters(host).owed_bytes, 3 * PAGE);
    for (done = false; !done;) {
        CHECK_OK(vbr_owed_discard(host->device, VBR_INHIBIT_NO, &done));
    }
    CHECK(guest_kept(host, 4 * PAGE, PAGE));
    CHECK(guest_gone(host, 5 * PAGE, 3 * PAGE));
    CHECK(guest_kept(host, 8 * PAGE, PAGE));
    CHECK_EQ(host->discard_count, 1);
    host_free(host);
}

static void pages_refused(struct host *host, const struct VbrSavedPages *pages,
                          enum VbrStatus status)
{
    const struct VbrState state = { .num_pages = 1, .actual = 1 };

    CHECK_STATUS(vbr_state_load(host->device, &state, pages, RAM), status);
    const struct VbrState after = state_of(host, 0);
    CHECK_EQ(after.num_pages, RAM / 2 / PAGE);
    CHECK_EQ(after.actual, 3);
}

static void bytes_refused(const uint8_t *bytes, size_t len, enum VbrStatus status)
{
    struct host *host = used_host();
    const struct VbrSavedPages pages = { .coded = bytes, .len = len, .complete = true };

    inflate(host, 4 * MIB, 5 * PAGE);
    pages_refused(host, &pages, status);
    CHECK_EQ(host_counters(host).ballooned_bytes, 5 * PAGE);
    host_free(host);
}

static void pages_that_cannot_be_are_refused(void)
{
    static const uint8_t zeros[VBR_STATE_MAX_PAGES_BYTES + 1];
    const struct VbrSavedPages one = { .coded = (const uint8_t[]){ 5, 1 }, .len = 2 };
    struct host *host = used_host();

    bytes_refused((const uint8_t[]){ 5, 1, 0x80 }, 3, VBR_STATUS_STATE_PAGES_CUT);
    bytes_refused((const uint8_t[]){ 5, 1, 3 }, 3, VBR_STATUS_STATE_PAGES_CUT);
    bytes_refused((const uint8_t[]){ 0x85, 0, 1 }, 3, VBR_STATUS_STATE_PAGES_NUMBER);
    bytes_refused((const uint8_t[]){ 5, 0 }, 2, VBR_STATUS_STATE_PAGES_RUN);
    bytes_refused((const uint8_t[]){ 5, 1, 0, 1 }, 4, VBR_STATUS_STATE_PAGES_RUN);
    bytes_refused((const uint8_t[]){ 1, 0x80, 0x80, 0x80, 0x80, 0x10 }, 6,
                  VBR_STATUS_STATE_PAGES_LIMIT);
    bytes_refused(zeros, sizeof(zeros), VBR_STATUS_STATE_PAGES_SIZE);
    bytes_refused(zeros, sizeof(zeros) - 1, VBR_STATUS_STATE_PAGES_RUN);

    /* A guest that did not promise to tell uses pages of the set unannounced. */
    CHECK_OK(vbr_device_set_features(host->device, ALL_FEATURES & ~MUST_TELL_HOST, false));
    pages_refused(host, &one, VBR_STATUS_STATE_PAGES_UNTOLD);
    CHECK_OK(vbr_device_set_features(host->device, ALL_FEATURES, false));
    CHECK_OK(vbr_state_load(host->device, &(struct VbrState){ .actual = 1 }, &one, RAM));
    host_free(host);
}

void theme_state(void)
{
    pages_come_along();
    a_cut_set();
    what_came_is_discarded();
    pages_that_cannot_be_are_refused();
    what_was_saved_loads();
    pages_from_before_are_not_known();
    from_a_device_that_saves_no_stats();
    what_cannot_be_is_refused();
}
