/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The configuration space (virtio 1.3, 5.5.4), the target and what the guest says of it. */

#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "host.h"
#include "themes.h"

static size_t size_for(uint64_t features, bool qemu_4_0)
{
    struct host *host = calloc(1, sizeof(*host));
    const struct VbrOptions options = { .features = features, .qemu_4_0_config_size = qemu_4_0 };
    const struct VbrHostOps ops = host_ops(host);
    struct VbrDevice *device = NULL;
    size_t size = 0;

    CHECK_OK(vbr_device_new(&options, &ops, &device));
    CHECK_OK(vbr_config_size(device, &size));
    vbr_device_free(device);
    free(host);
    return size;
}

static void sizes(void)
{
    CHECK_EQ(size_for(STATS_VQ | REPORTING | MUST_TELL_HOST, false), 8);
    CHECK_EQ(size_for(STATS_VQ, true), 16);
    CHECK_EQ(size_for(STATS_VQ | FREE_PAGE_HINT, false), 12);
    CHECK_EQ(size_for(STATS_VQ | PAGE_POISON, false), 16);
    CHECK_EQ(size_for(STATS_VQ | PAGE_POISON, true), 16);
}

static uint32_t field(const struct host *host, size_t offset)
{
    uint8_t image[16];

    CHECK_OK(vbr_config_read(host->device, 0, image, sizeof(image)));
    return (uint32_t)image[offset] | (uint32_t)image[offset + 1] << 8 |
           (uint32_t)image[offset + 2] << 16 | (uint32_t)image[offset + 3] << 24;
}

static bool write_config(struct host *host, const void *image, size_t len)
{
    bool changed;

    CHECK_OK(vbr_config_write(host->device, image, len, &changed));
    return changed;
}

static void reads_of_any_length(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint8_t written[16] = { [4] = 1, 2, 3, 4, [12] = 5, 6, 7, 8 };
    uint32_t pages;

    CHECK_OK(vbr_target_set(host->device, 0, 0x01020304 * PAGE, &pages));
    CHECK_EQ(pages, 0x01020304);
    write_config(host, written, sizeof(written));
    const uint8_t expected[20] = { 4, 3, 2, 1, 1, 2, 3, 4, 0xd0, 0xc0, 0xb0, 0xa0,
                                   5, 6, 7, 8 };
    for (size_t len = 0; len <= sizeof(expected); len++) {
        /* Of exactly that length, so that a byte too many is found. */
        uint8_t *image = malloc(len + (len == 0));
        CHECK(image != NULL);
        memset(image, 0x55, len);
        CHECK_OK(vbr_config_read(host->device, 0xa0b0c0d0, image, len));
        CHECK_EQ(memcmp(image, expected, len), 0);
        free(image);
    }
    host_free(host);
}

static void drivers_write_their_fields_only(void)
{
    struct host *host = host_new(ALL_FEATURES);
    uint8_t image[16];
    uint32_t pages;

    CHECK_OK(vbr_target_set(host->device, RAM - 7 * PAGE, RAM, &pages));
    CHECK_EQ(pages, 7);
    memset(image, 0xff, sizeof(image));
    CHECK(write_config(host, image, sizeof(image)));
    CHECK_EQ(field(host, 0), 7);
    CHECK_EQ(field(host, 4), UINT32_MAX);
    CHECK_EQ(field(host, 8), 0);
    CHECK_EQ(field(host, 12), UINT32_MAX);
    CHECK(!write_config(host, image, sizeof(image)));
    host_free(host);
}

/* Fields that a write does not reach, wholly or in part, keep what they have. */
static void partial_writes(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint8_t full[16] = { [4] = 1, 2, 3, 4, [12] = 5, 6, 7, 8 };
    const uint8_t other[16] = { 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9 };

    CHECK(write_config(host, full, sizeof(full)));
    CHECK(!write_config(host, NULL, 0));
    CHECK(!write_config(host, other, 4));
    CHECK_EQ(field(host, 4), 0x04030201);
    CHECK(write_config(host, other, 5));
    CHECK_EQ(field(host, 4), 0x04030209);
    CHECK(write_config(host, other, 7));
    CHECK_EQ(field(host, 4), 0x04090909);
    CHECK(write_config(host, other, 8));
    CHECK_EQ(field(host, 4), 0x09090909);
    CHECK_EQ(field(host, 12), 0x08070605);
    CHECK(!write_config(host, other, 13));
    CHECK_EQ(field(host, 12), 0x08070609);
    /* Longer than the space is: the rest is nothing. */
    uint8_t longer[64];
    memset(longer, 1, sizeof(longer));
    CHECK(write_config(host, longer, sizeof(longer)));
    CHECK_EQ(field(host, 4), 0x01010101);
    host_free(host);
}

static void poison_needs_its_feature(void)
{
    struct host *host = host_new(STATS_VQ);
    const uint8_t image[16] = { [12] = 5 };

    CHECK(!write_config(host, image, sizeof(image)));
    CHECK_EQ(field(host, 12), 0);
    host_free(host);
}

static uint32_t target(struct host *host, uint64_t keep, uint64_t ram)
{
    uint32_t pages = 99;

    CHECK_OK(vbr_target_set(host->device, keep, ram, &pages));
    CHECK_EQ(field(host, 0), pages);
    return pages;
}

static void targets_are_clamped(void)
{
    struct host *host = host_new(ALL_FEATURES);

    CHECK_EQ(target(host, RAM / 2, RAM), RAM / 2 / PAGE);
    CHECK_EQ(target(host, RAM, RAM), 0);
    CHECK_EQ(target(host, UINT64_MAX, RAM), 0);
    CHECK_EQ(target(host, 0, RAM), RAM / PAGE);
    CHECK_EQ(target(host, RAM - PAGE + 1, RAM), 0);
    CHECK_EQ(target(host, 0, UINT64_MAX), UINT32_MAX);
    CHECK_EQ(target(host, MIB, (UINT64_C(17) << 40)), UINT32_MAX);
    host_free(host);
}

static void actual_is_clamped(void)
{
    struct host *host = host_new(STATS_VQ);
    uint8_t image[8] = { [4] = 3 };
    uint64_t bytes;

    CHECK(write_config(host, image, sizeof(image)));
    CHECK_OK(vbr_actual_get(host->device, RAM, &bytes));
    CHECK_EQ(bytes, 3 * PAGE);
    CHECK_EQ(host_counters(host).ballooned_bytes, 3 * PAGE);
    memset(image, 0xff, sizeof(image));
    CHECK(write_config(host, image, sizeof(image)));
    CHECK_OK(vbr_actual_get(host->device, RAM, &bytes));
    CHECK_EQ(bytes, RAM);
    CHECK_EQ(host_counters(host).ballooned_bytes, RAM);
    CHECK_OK(vbr_actual_get(host->device, UINT64_MAX, &bytes));
    CHECK_EQ(bytes, UINT32_MAX * PAGE);
    CHECK_OK(vbr_actual_get(host->device, 0, &bytes));
    CHECK_EQ(bytes, 0);
    host_free(host);
}

static void a_reset_keeps_the_target_only(void)
{
    struct host *host = host_new(ALL_FEATURES);
    const uint8_t image[16] = { [4] = 3, [12] = 5 };
    bool changed = false;

    target(host, RAM / 2, RAM);
    write_config(host, image, sizeof(image));
    CHECK_OK(vbr_device_reset(host->device, &changed));
    CHECK(changed);
    CHECK_EQ(field(host, 0), RAM / 2 / PAGE);
    CHECK_EQ(field(host, 4), 0);
    CHECK_EQ(field(host, 12), 0);
    CHECK_OK(vbr_device_reset(host->device, &changed));
    CHECK(!changed);
    host_free(host);
}

void theme_config(void)
{
    sizes();
    reads_of_any_length();
    drivers_write_their_fields_only();
    partial_writes();
    poison_needs_its_feature();
    targets_are_clamped();
    actual_is_clamped();
    a_reset_keeps_the_target_only();
}
