/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Statistics (virtio 1.3, 5.5.6.3): entries of a 16-bit tag and a 64-bit value. */

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "host.h"
#include "themes.h"

enum { ENTRY = 10 };

static void put(uint8_t *entry, uint16_t tag, uint64_t value, bool big_endian)
{
    for (int i = 0; i < 2; i++) {
        entry[big_endian ? 1 - i : i] = (uint8_t)(tag >> (8 * i));
    }
    for (int i = 0; i < 8; i++) {
        entry[2 + (big_endian ? 7 - i : i)] = (uint8_t)(value >> (8 * i));
    }
}

/* Receives a copy of exactly that length, so that a read past the end is found. */
static void receive(struct host *host, const uint8_t *bytes, size_t len, int64_t now)
{
    uint8_t *copy = malloc(len + (len == 0));
    const struct VbrStatsBuffer buffer = {
        .payload = copy, .payload_len = len, .len = len, .now = now
    };

    CHECK(copy != NULL);
    memcpy(copy, bytes, len);
    CHECK_OK(vbr_stats_receive(host->device, &buffer));
    free(copy);
}

static struct VbrStats stats_of(const struct host *host)
{
    struct VbrStats stats;

    CHECK_OK(vbr_stats_get(host->device, &stats));
    return stats;
}

static void nothing_was_reported(const struct host *host)
{
    struct VbrStats stats = stats_of(host);

    for (int tag = 0; tag < VBR_STATS; tag++) {
        CHECK_EQ(stats.values[tag], UINT64_MAX);
    }
    CHECK_EQ(stats.last_update, 0);
}

static void every_tag_in_any_order(bool big_endian)
{
    struct host *host = host_new(STATS_VQ);
    uint8_t bytes[VBR_STATS * ENTRY];
    const struct VbrStatsBuffer buffer = {
        .payload = bytes, .payload_len = sizeof(bytes), .len = sizeof(bytes),
        .big_endian = big_endian, .now = 5
    };

    nothing_was_reported(host);
    for (uint16_t i = 0; i < VBR_STATS; i++) {
        put(bytes + i * ENTRY, 15 - i, UINT64_C(0x0102030405060700) + i, big_endian);
    }
    CHECK_OK(vbr_stats_receive(host->device, &buffer));
    struct VbrStats stats = stats_of(host);
    for (int tag = 0; tag < VBR_STATS; tag++) {
        CHECK_EQ(stats.values[tag], UINT64_C(0x010203040506070f) - (uint64_t)tag);
    }
    CHECK_EQ(stats.last_update, 5);
    CHECK_EQ(host_counters(host).ignored_stats, 0);
    host_free(host);
}

static void only_the_last_buffer_counts(void)
{
    struct host *host = host_new(STATS_VQ);
    uint8_t bytes[2 * ENTRY];

    put(bytes, 4, 10, false);
    put(bytes + ENTRY, 4, 11, false);
    receive(host, bytes, sizeof(bytes), 5);
    CHECK_EQ(stats_of(host).values[4], 11);
    put(bytes, 5, 12, false);
    receive(host, bytes, ENTRY, 6);
    CHECK_EQ(stats_of(host).values[4], UINT64_MAX);
    CHECK_EQ(stats_of(host).values[5], 12);
    CHECK_EQ(stats_of(host).last_update, 6);
    receive(host, bytes, 0, 7);
    CHECK_EQ(stats_of(host).values[5], UINT64_MAX);
    CHECK_EQ(stats_of(host).last_update, 7);
    host_free(host);
}

static void what_is_not_understood_is_counted(void)
{
    struct host *host = host_new(STATS_VQ);
    uint8_t bytes[4 * ENTRY];

    put(bytes, 16, 1, false);
    put(bytes + ENTRY, 15, 2, false);
    put(bytes + 2 * ENTRY, 0xffff, 3, false);
    put(bytes + 3 * ENTRY, 3, 4, false);
    receive(host, bytes, sizeof(bytes) - 1, 5);
    CHECK_EQ(stats_of(host).values[15], 2);
    CHECK_EQ(stats_of(host).values[3], UINT64_MAX);
    CHECK_EQ(host_counters(host).ignored_stats, 3);
    host_free(host);
}

/* However long a buffer is, only so much of it is read. */
static void a_buffer_that_is_too_long(void)
{
    struct host *host = host_new(STATS_VQ);
    uint8_t *bytes = malloc(VBR_STATS_MAX_BYTES);
    struct VbrStatsBuffer buffer = {
        .payload = bytes, .payload_len = VBR_STATS_MAX_BYTES,
        .len = VBR_STATS_MAX_BYTES + 3 * ENTRY + 1, .now = 5
    };

    CHECK(bytes != NULL);
    for (int i = 0; i < VBR_STATS_MAX_BYTES / ENTRY; i++) {
        put(bytes + i * ENTRY, 3, (uint64_t)i, false);
    }
    CHECK_OK(vbr_stats_receive(host->device, &buffer));
    CHECK_EQ(stats_of(host).values[3], VBR_STATS_MAX_BYTES / ENTRY - 1);
    CHECK_EQ(host_counters(host).ignored_stats, 4);
    /* A length that cannot be is counted as well as can be. */
    buffer.len = SIZE_MAX;
    CHECK_OK(vbr_stats_receive(host->device, &buffer));
    buffer.len = 0;
    CHECK_OK(vbr_stats_receive(host->device, &buffer));
    free(bytes);
    host_free(host);
}

static void wrong_segments_are_counted(void)
{
    struct host *host = host_new(STATS_VQ);
    const struct VbrStatsBuffer buffer = { .writable = 2, .held = true, .now = 5 };

    CHECK_OK(vbr_stats_receive(host->device, &buffer));
    CHECK_OK(vbr_stats_receive(host->device, &buffer));
    CHECK_EQ(host_counters(host).ignored_writable_buffers, 4);
    CHECK_EQ(host_counters(host).ignored_stats_buffers, 2);
    host_free(host);
}

/* The first buffer of a legacy driver is only there to be given back. */
static void a_legacy_driver_begins_with_nothing(void)
{
    struct host *host = host_new(0);
    uint8_t bytes[ENTRY];

    put(bytes, 4, 10, false);
    CHECK_OK(vbr_device_set_features(host->device, STATS_VQ, true));
    receive(host, bytes, sizeof(bytes), 5);
    nothing_was_reported(host);
    receive(host, bytes, sizeof(bytes), 6);
    CHECK_EQ(stats_of(host).values[4], 10);
    host_free(host);
}

static void resets(void)
{
    struct host *host = host_new(STATS_VQ);
    uint8_t bytes[ENTRY];
    bool changed;

    put(bytes, 4, 10, false);
    receive(host, bytes, sizeof(bytes), 5);
    /* A driver that starts anew does not make the numbers wrong; a new machine does. */
    CHECK_OK(vbr_device_reset(host->device, &changed));
    CHECK_EQ(stats_of(host).values[4], 10);
    CHECK_OK(vbr_machine_reset(host->device));
    nothing_was_reported(host);
    host_free(host);
}

void theme_stats(void)
{
    every_tag_in_any_order(false);
    every_tag_in_any_order(true);
    only_the_last_buffer_counts();
    what_is_not_understood_is_counted();
    a_buffer_that_is_too_long();
    wrong_segments_are_counted();
    a_legacy_driver_begins_with_nothing();
    resets();
}
