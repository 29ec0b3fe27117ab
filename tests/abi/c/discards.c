/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Discards that fail, are inhibited, or that the host cannot do. */

#include <errno.h>
#include <limits.h>

#include "check.h"
#include "host.h"
#include "themes.h"

#define INFLATE VBR_QUEUE_KIND_INFLATE

/* A failed discard costs the host its gain and nobody anything else. */
static void failures_are_counted(int answer)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint32_t pfns[] = { 1024, 1026, 1028 };

    guest_fill(host, 4 * MIB, 8 * PAGE);
    host->discard_answer = answer;
    CHECK_OK(request(host, INFLATE, pfns, 3));
    run_batch(host);
    CHECK(guest_kept(host, 4 * MIB, 8 * PAGE));
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.discards, 3);
    CHECK_EQ(counters.discard_errors, 3);
    CHECK_EQ(counters.discarded_bytes, 0);
    CHECK_EQ(counters.inflated_bytes, 3 * PAGE);
    CHECK_EQ(counters.ballooned_bytes, 3 * PAGE);

    host->discard_answer = 0;
    CHECK_OK(request(host, INFLATE, pfns, 3));
    run_batch(host);
    CHECK(guest_gone(host, 4 * MIB, PAGE));
    CHECK_EQ(host_counters(host).discard_errors, 3);
    CHECK_EQ(host_counters(host).discarded_bytes, 3 * PAGE);
    host_free(host);
}

static size_t asked(struct host *host, uint64_t pages)
{
    host_forget(host);
    for (uint64_t i = 0; i < pages; i++) {
        inflate(host, 4 * MIB + i * PAGE, PAGE);
    }
    return host->discard_count;
}

/* A host that refuses time after time is asked no more until the machine is reset. */
static void refusals_come_to_an_end(void)
{
    struct host *host = host_new(ALL_FEATURES);
    bool changed;

    host->discard_answer = -EPERM;
    CHECK_EQ(asked(host, 15), 15);
    /* A single success and the count begins again. */
    host->discard_answer = 0;
    CHECK_EQ(asked(host, 1), 1);
    host->discard_answer = -EPERM;
    CHECK_EQ(asked(host, 40), 16);
    CHECK_EQ(host_counters(host).discards, 15 + 1 + 16);
    CHECK_EQ(host_counters(host).discard_errors, 15 + 40);
    CHECK_EQ(host_counters(host).discarded_bytes, PAGE);

    /* Neither the same memory again nor a driver's reset makes it asked again. */
    CHECK_OK(vbr_device_set_memory(host->device, host->sections, SECTIONS));
    CHECK_EQ(asked(host, 1), 0);
    CHECK_OK(vbr_device_reset(host->device, &changed));
    CHECK_EQ(asked(host, 1), 0);
    CHECK_OK(vbr_machine_reset(host->device));
    CHECK_EQ(asked(host, 20), 16);
    CHECK_OK(vbr_machine_reset(host->device));
    host->discard_answer = 0;
    guest_fill(host, 4 * MIB, 20 * PAGE);
    CHECK_EQ(asked(host, 20), 20);
    CHECK(guest_gone(host, 4 * MIB, 20 * PAGE));
    host_free(host);
}

/* One in two of so many pages, in one request: each is a span of its own. */
static void inflate_scattered(struct host *host, uint64_t gpa, size_t pages)
{
    uint32_t pfns[512];

    CHECK(pages <= sizeof(pfns) / sizeof(pfns[0]));
    for (size_t i = 0; i < pages; i++) {
        pfns[i] = (uint32_t)(gpa / PAGE + 2 * i);
    }
    CHECK_OK(request(host, INFLATE, pfns, pages));
    run_batch(host);
}

static void many_spans_are_one_call(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, 4 * MIB, 200 * PAGE);
    inflate_scattered(host, 4 * MIB, 100);
    CHECK_EQ(host->discard_calls, 1);
    CHECK_EQ(host->discard_count, 100);
    CHECK_EQ(host_counters(host).discards, 100);
    for (uint64_t i = 0; i < 200; i += 2) {
        CHECK(guest_gone(host, 4 * MIB + i * PAGE, PAGE));
        CHECK(guest_kept(host, 4 * MIB + (i + 1) * PAGE, PAGE));
    }
    /* Two blocks are two calls. */
    host_forget(host);
    CHECK_OK(request(host, INFLATE, (const uint32_t[]){ TOLD_GPA / PAGE, 1024 }, 2));
    run_batch(host);
    CHECK_EQ(host->discard_calls, 2);
    host_free(host);
}

/* A host that refuses one span is asked for those behind it, and for none before it again. */
static void one_span_is_refused(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, 4 * MIB, 20 * PAGE);
    host->discard_answer = -EINVAL;
    host->refused_offset = 4 * MIB + 6 * PAGE;
    inflate_scattered(host, 4 * MIB, 10);
    CHECK_EQ(host->discard_calls, 2);
    CHECK_EQ(host->discard_count, 10);
    for (uint64_t i = 0; i < 10; i++) {
        CHECK_EQ(host->discards[i].offset, 4 * MIB + 2 * i * PAGE);
        CHECK_EQ(guest_kept(host, 4 * MIB + 2 * i * PAGE, PAGE), i == 3);
        CHECK(guest_kept(host, 4 * MIB + (2 * i + 1) * PAGE, PAGE));
    }
    CHECK_EQ(host_counters(host).discards, 10);
    CHECK_EQ(host_counters(host).discard_errors, 1);
    CHECK_EQ(host_counters(host).discarded_bytes, 9 * PAGE);
    host_free(host);
}

/* Refusals come to an end within one request, too. */
static void all_spans_are_refused(void)
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, 4 * MIB, 80 * PAGE);
    host->discard_answer = -EPERM;
    inflate_scattered(host, 4 * MIB, 40);
    CHECK_EQ(host->discard_calls, 16);
    CHECK_EQ(host->discard_count, 16);
    CHECK_EQ(host_counters(host).discards, 16);
    CHECK_EQ(host_counters(host).discard_errors, 40);
    CHECK(guest_kept(host, 4 * MIB, 80 * PAGE));
    host_free(host);
}

static unsigned lies;

static int lie(void *opaque, void *block, const struct VbrBlockSpan *spans, size_t count,
               size_t *done)
{
    (void)opaque, (void)block, (void)spans;
    CHECK(count > 0);
    CHECK(++lies < 100);
    *done = count + 1000;
    return -EIO;
}

/* More done than was asked for, and yet refused: nothing breaks, and an error is an error. */
static void a_callback_that_counts_wrongly(void)
{
    struct host *host = host_new(0);
    const struct VbrOptions options = { .features = ALL_FEATURES };
    const struct VbrHostOps ops = { NULL, lie, lie, NULL, NULL };
    struct VbrDevice *honest = host->device;

    CHECK_OK(vbr_device_new(&options, &ops, &host->device));
    CHECK_OK(vbr_device_set_memory(host->device, host->sections, SECTIONS));
    inflate_scattered(host, 4 * MIB, 10);
    CHECK_EQ(host_counters(host).discards, 10);
    CHECK_EQ(host_counters(host).discard_errors, 1);
    CHECK_EQ(lies, 1);
    vbr_device_free(host->device);
    host->device = honest;
    host_free(host);
}

static void inhibited(enum VbrInhibit inhibit)
{
    struct host *host = host_new(ALL_FEATURES);
    bool done = false;

    guest_fill(host, 4 * MIB, 1 * MIB);
    CHECK_OK(request_range(host, INFLATE, 4 * MIB, 1 * MIB));
    CHECK_OK(vbr_batch_run(host->device, inhibit, &done));
    CHECK(done);
    CHECK_OK(report(host, 4 * MIB, 1 * MIB));
    CHECK_OK(vbr_batch_run(host->device, inhibit, &done));
    CHECK(done);
    CHECK(guest_kept(host, 4 * MIB, 1 * MIB));
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.inhibited_bytes, 2 * MIB);
    CHECK_EQ(counters.discards, 0);
    CHECK_EQ(counters.ballooned_bytes, 1 * MIB);
    CHECK_EQ(counters.reported_bytes, 1 * MIB);

    inflate(host, 4 * MIB, 1 * MIB);
    CHECK(guest_gone(host, 4 * MIB, 1 * MIB));
    CHECK_EQ(host_counters(host).inhibited_bytes, 2 * MIB);
    host_free(host);
}

/* Discards may be inhibited in the middle of a batch: from the next slice on. */
static void inhibited_from_now_on(void)
{
    struct host *host = host_new(ALL_FEATURES);
    bool done = true;

    guest_fill(host, 4 * MIB, 24 * MIB);
    CHECK_OK(request_range(host, INFLATE, 4 * MIB, 24 * MIB));
    CHECK_OK(vbr_batch_run(host->device, VBR_INHIBIT_NO, &done));
    CHECK(!done);
    while (!done) {
        CHECK_OK(vbr_batch_run(host->device, VBR_INHIBIT_BACKGROUND_SNAPSHOT, &done));
    }
    struct VbrCounters counters = host_counters(host);
    CHECK(counters.discarded_bytes > 0 && counters.inhibited_bytes > 0);
    CHECK_EQ(counters.discarded_bytes + counters.inhibited_bytes, 24 * MIB);
    CHECK(guest_gone(host, 4 * MIB, counters.discarded_bytes));
    CHECK(guest_kept(host, 4 * MIB + counters.discarded_bytes, counters.inhibited_bytes));
    host_free(host);
}

/* A host that gives no callbacks gets none; the device works all the same. */
static void callbacks_may_be_missing(void)
{
    struct host *host = host_new(0);
    const struct VbrOptions options = { .features = ALL_FEATURES };
    const struct VbrHostOps none = { NULL, NULL, NULL, NULL, NULL };
    struct VbrDevice *with_callbacks = host->device;

    CHECK_OK(vbr_device_new(&options, &none, &host->device));
    CHECK_OK(vbr_device_set_memory(host->device, host->sections, SECTIONS));
    guest_fill(host, TOLD_GPA, 1 * MIB);
    inflate(host, TOLD_GPA, 1 * MIB);
    deflate(host, TOLD_GPA, 1 * MIB);
    CHECK(guest_kept(host, TOLD_GPA, 1 * MIB));
    CHECK_EQ(host_counters(host).discard_errors, 1);
    CHECK_EQ(host_counters(host).deflated_bytes, 1 * MIB);
    vbr_device_free(host->device);
    host->device = with_callbacks;
    host_free(host);
}

void theme_discards(void)
{
    failures_are_counted(-ENOMEM);
    failures_are_counted(-EINVAL);
    /* Not what was agreed, but no reason to take a failure for a success. */
    failures_are_counted(1);
    failures_are_counted(INT_MIN);
    refusals_come_to_an_end();
    many_spans_are_one_call();
    one_span_is_refused();
    all_spans_are_refused();
    a_callback_that_counts_wrongly();
    inhibited(VBR_INHIBIT_PINNED);
    inhibited(VBR_INHIBIT_INCOMING_POSTCOPY);
    inhibited(VBR_INHIBIT_BACKGROUND_SNAPSHOT);
    inhibited_from_now_on();
    callbacks_may_be_missing();
}
