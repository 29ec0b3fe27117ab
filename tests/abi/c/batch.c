/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a batch takes, and whose it is. */

#include <stdlib.h>

#include "check.h"
#include "host.h"
#include "themes.h"

#define INFLATE VBR_QUEUE_KIND_INFLATE
#define DEFLATE VBR_QUEUE_KIND_DEFLATE
#define STATS VBR_QUEUE_KIND_STATS
#define REPORTS VBR_QUEUE_KIND_REPORTING

static enum VbrStatus empty_request(struct host *host, enum VbrQueueKind queue,
                                    size_t descriptors)
{
    const struct VbrPart part = { .last = true, .descriptors = descriptors };

    return vbr_batch_add(host->device, queue, &part);
}

static void full_of_requests(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint32_t pfn = 1024;

    for (int i = 0; i < VBR_BATCH_MAX_REQUESTS; i++) {
        CHECK(room(host, INFLATE) != 0);
        CHECK_OK(request(host, INFLATE, &pfn, 1));
    }
    CHECK_EQ(room(host, INFLATE), 0);
    CHECK_STATUS(request(host, INFLATE, &pfn, 1), VBR_STATUS_INVALID_ARGUMENT);
    run_batch(host);
    CHECK(room(host, INFLATE) != 0);
    CHECK_EQ(host_counters(host).inflated_bytes, PAGE);
    CHECK_EQ(host_counters(host).batches, 1);
    host_free(host);
}

static void full_of_pages(void)
{
    struct host *host = host_new(ALL_FEATURES);
    size_t bytes = room(host, INFLATE);
    uint8_t *payload = calloc(1, bytes + 4);
    struct VbrPart part = { .payload = payload, .len = bytes + 4, .last = true };

    CHECK(payload != NULL);
    CHECK_STATUS(vbr_batch_add(host->device, INFLATE, &part), VBR_STATUS_INVALID_ARGUMENT);
    part.len = bytes - 4;
    part.last = false;
    CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
    CHECK_EQ(room(host, INFLATE), 4);
    part.len = 8;
    CHECK_STATUS(vbr_batch_add(host->device, INFLATE, &part), VBR_STATUS_INVALID_ARGUMENT);
    part.len = 4;
    part.last = true;
    CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
    CHECK_EQ(room(host, INFLATE), 0);
    run_batch(host);
    CHECK_EQ(host_counters(host).inflated_bytes, PAGE);
    CHECK_EQ(room(host, INFLATE), bytes);
    free(payload);
    host_free(host);
}

static void full_of_descriptors(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const struct VbrReported segment = { guest_at(host, 4 * MIB), PAGE };

    CHECK_OK(empty_request(host, DEFLATE, 1023));
    CHECK(room(host, DEFLATE) != 0);
    CHECK_OK(empty_request(host, DEFLATE, 1));
    CHECK_EQ(room(host, DEFLATE), 0);
    run_batch(host);

    /* Segments of the wrong way cost as much to map. */
    CHECK_OK(vbr_batch_add_report(host->device, &segment, 1, 1022));
    CHECK(room(host, REPORTS) != 0);
    CHECK_OK(vbr_batch_add_report(host->device, &segment, 1, 0));
    CHECK_EQ(room(host, REPORTS), 0);
    run_batch(host);
    CHECK(room(host, REPORTS) != 0);
    host_free(host);
}

/* A batch belongs to the queue that opened it, and to no new request once it is in work. */
static void one_queue_at_a_time(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint32_t pfn = 1024;
    bool done;

    CHECK_STATUS(request(host, STATS, &pfn, 1), VBR_STATUS_INVALID_ARGUMENT);
    CHECK_STATUS(request(host, REPORTS, &pfn, 1), VBR_STATUS_INVALID_ARGUMENT);
    CHECK_OK(request(host, INFLATE, &pfn, 1));
    CHECK_EQ(room(host, DEFLATE), 0);
    CHECK_EQ(room(host, REPORTS), 0);
    CHECK_STATUS(request(host, DEFLATE, &pfn, 1), VBR_STATUS_BATCH_IN_WORK);
    CHECK_STATUS(report(host, 4 * MIB, PAGE), VBR_STATUS_BATCH_IN_WORK);
    run_batch(host);

    /* Every second page, so that a slice does not do. */
    for (uint64_t at = 2 * MIB; at < 8 * MIB; at += 2 * PAGE) {
        const uint32_t next = (uint32_t)(at / PAGE);
        struct VbrPart part = { .payload = (const uint8_t *)&next, .len = 4 };
        CHECK_OK(vbr_batch_add(host->device, INFLATE, &part));
    }
    CHECK_OK(empty_request(host, INFLATE, 1));
    CHECK_OK(vbr_batch_run(host->device, VBR_INHIBIT_NO, &done));
    CHECK(!done);
    CHECK_EQ(room(host, INFLATE), 0);
    CHECK_STATUS(request(host, INFLATE, &pfn, 1), VBR_STATUS_BATCH_IN_WORK);
    CHECK_STATUS(request(host, DEFLATE, &pfn, 1), VBR_STATUS_BATCH_IN_WORK);
    run_batch(host);
    CHECK_OK(request(host, DEFLATE, &pfn, 1));
    run_batch(host);
    host_free(host);
}

static void nothing_to_do_is_done(void)
{
    struct host *host = host_new(ALL_FEATURES);
    bool done = false;

    CHECK_OK(vbr_batch_run(host->device, VBR_INHIBIT_NO, &done));
    CHECK(done);
    CHECK_EQ(host_counters(host).batches, 0);
    CHECK_OK(vbr_batch_cancel(host->device));
    CHECK_OK(vbr_batch_abandon(host->device));
    CHECK_OK(empty_request(host, INFLATE, 1));
    CHECK_EQ(run_batch(host), 1);
    CHECK_EQ(host_counters(host).batches, 1);
    CHECK_EQ(host->discard_count, 0);
    host_free(host);
}

static void a_reset_drops_the_batch(void)
{
    struct host *host = host_new(ALL_FEATURES);
    bool changed = true;

    guest_fill(host, 4 * MIB, 2 * MIB);
    inflate(host, 4 * MIB, 1 * MIB);
    guest_fill(host, 4 * MIB, 1 * MIB);
    CHECK_OK(request_range(host, INFLATE, 5 * MIB, 1 * MIB));
    CHECK_OK(vbr_device_reset(host->device, &changed));
    CHECK(!changed);
    CHECK_EQ(run_batch(host), 1);
    CHECK(guest_kept(host, 4 * MIB, 2 * MIB));
    CHECK_OK(vbr_device_set_features(host->device, ALL_FEATURES, false));
    CHECK_EQ(host_counters(host).ballooned_bytes, 0);
    CHECK_EQ(host_counters(host).inflated_bytes, 1 * MIB);
    host_free(host);
}

void theme_batch(void)
{
    full_of_requests();
    full_of_pages();
    full_of_descriptors();
    one_queue_at_a_time();
    nothing_to_do_is_done();
    a_reset_drops_the_batch();
}
