/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One call at a time: neither a callback nor another thread gets in. */

#include <pthread.h>
#include <stdlib.h>

#include "calls.h"
#include "check.h"
#include "host.h"
#include "themes.h"

static unsigned entered;

static void call_back(struct host *host)
{
    entered++;
    expect_of_all_calls(host->device, VBR_STATUS_BUSY);
    /* Refused as well; the device is used further below. */
    vbr_device_free(host->device);
}

static void *call_from_thread(void *data)
{
    struct host *host = data;

    expect_of_all_calls(host->device, VBR_STATUS_BUSY);
    return NULL;
}

static void call_back_in_a_thread(struct host *host)
{
    pthread_t thread;

    entered++;
    CHECK_EQ(pthread_create(&thread, NULL, call_from_thread, host), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
}

static void nobody_gets_in(void (*inside)(struct host *host))
{
    struct host *host = host_new(ALL_FEATURES);

    guest_fill(host, TOLD_GPA, TOLD_HALF);
    entered = 0;
    host->inside = inside;
    inflate(host, TOLD_GPA, TOLD_HALF);
    CHECK_EQ(entered, 1);
    CHECK_EQ(host->discard_count, 1);
    deflate(host, TOLD_GPA, TOLD_HALF);
    CHECK_EQ(entered, 2);
    CHECK_EQ(host->populate_count, 1);
    host->inside = NULL;

    /* The refused calls left nothing behind: the batch went on as if they had not been made. */
    CHECK(guest_gone(host, TOLD_GPA, TOLD_HALF));
    struct VbrCounters counters = host_counters(host);
    CHECK_EQ(counters.inflated_bytes, TOLD_HALF);
    CHECK_EQ(counters.deflated_bytes, TOLD_HALF);
    CHECK_EQ(counters.discarded_bytes, TOLD_HALF);
    CHECK_EQ(counters.batches, 2);
    CHECK_EQ(counters.ballooned_bytes, 0);
    host_free(host);
}

/* From another thread, but one after the other, a device may be used. */
static void *use(void *data)
{
    struct host *host = data;

    inflate(host, 2 * MIB, 1 * MIB);
    return NULL;
}

static void devices_may_move_between_threads(void)
{
    struct host *host = host_new(ALL_FEATURES);
    pthread_t thread;

    guest_fill(host, 2 * MIB, 2 * MIB);
    CHECK_EQ(pthread_create(&thread, NULL, use, host), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    inflate(host, 3 * MIB, 1 * MIB);
    CHECK(guest_gone(host, 2 * MIB, 2 * MIB));
    CHECK_EQ(host_counters(host).ballooned_bytes, 2 * MIB);
    host_free(host);
}

static struct host *other;

static void use_other(struct host *host)
{
    (void)host;
    inflate(other, 2 * MIB, 1 * MIB);
}

/* Another device than the one that is busy can be used from a callback. */
static void devices_do_not_share(void)
{
    struct host *host = host_new(ALL_FEATURES);

    other = host_new(ALL_FEATURES);
    guest_fill(other, 2 * MIB, 1 * MIB);
    host->inside = use_other;
    inflate(host, 2 * MIB, 1 * MIB);
    CHECK(guest_gone(other, 2 * MIB, 1 * MIB));
    host_free(other);
    host_free(host);
}

void theme_busy(void)
{
    nobody_gets_in(call_back);
    nobody_gets_in(call_back_in_a_thread);
    devices_may_move_between_threads();
    devices_do_not_share();
}
