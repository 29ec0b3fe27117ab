/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Changes of the map of guest memory. */

#include <string.h>

#include "check.h"
#include "host.h"
#include "themes.h"

#define INFLATE VBR_QUEUE_KIND_INFLATE

/* Where host_new puts the section of large pages. */
enum { LARGE_SECTION = 2 };

static void set_memory(struct host *host, size_t count)
{
    CHECK_OK(vbr_device_set_memory(host->device, host->sections, count));
}

/*
 * The map from before is not true any more either: nothing is discarded, nothing is in the
 * balloon.
 */
static void is_refused(struct host *host, const struct VbrSection *sections, size_t count)
{
    set_memory(host, SECTIONS);
    guest_fill(host, 4 * MIB, PAGE);
    inflate(host, 4 * MIB, PAGE);
    CHECK(guest_gone(host, 4 * MIB, PAGE));
    CHECK_STATUS(vbr_device_set_memory(host->device, sections, count),
                 VBR_STATUS_INVALID_ARGUMENT);
    CHECK_EQ(host_counters(host).ballooned_bytes, 0);
    guest_fill(host, 4 * MIB, PAGE);
    inflate(host, 4 * MIB, PAGE);
    CHECK(guest_kept(host, 4 * MIB, PAGE));
}

static void a_map_that_cannot_be_is_refused(void)
{
    struct host *host = host_new(ALL_FEATURES);
    struct VbrSection bad[2];

#define BAD(field, value)                                                      \
    memcpy(bad, host->sections, sizeof(bad));                                  \
    bad[1].field = (value);                                                    \
    is_refused(host, bad, 2)

    BAD(bytes, 0);
    BAD(page_size, 0);
    BAD(page_size, 2048);
    BAD(page_size, 3 * PAGE);
    BAD(gpa, UINT64_MAX - PAGE);
    BAD(offset, UINT64_MAX - PAGE);
    BAD(host, (void *)(UINTPTR_MAX - PAGE));
    BAD(gpa, bad[0].gpa);
    BAD(gpa, bad[0].gpa + PAGE);
#undef BAD

    is_refused(host, NULL, 1);
    is_refused(host, (const struct VbrSection *)((const char *)host->sections + 1), 1);
    is_refused(host, host->sections, SIZE_MAX);
    set_memory(host, SECTIONS);
    inflate(host, 4 * MIB, PAGE);
    CHECK(guest_gone(host, 4 * MIB, PAGE));
    host_free(host);
}

/* Pages that go with their memory are not in the balloon any more; the others are. */
static void lost_pages_are_forgotten(void)
{
    struct host *host = host_new(MUST_TELL_HOST);

    inflate(host, LARGE_GPA, HUGE_PAGE - PAGE);
    inflate(host, 4 * MIB, 1 * MIB);
    set_memory(host, LARGE_SECTION);
    CHECK_EQ(host_counters(host).ballooned_bytes, 0);
    set_memory(host, SECTIONS);
    CHECK_EQ(host_counters(host).ballooned_bytes, 0);
    guest_fill(host, LARGE_GPA, HUGE_PAGE);
    inflate(host, LARGE_GPA + HUGE_PAGE - PAGE, PAGE);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    host_free(host);
}

static void the_same_map_loses_nothing(void)
{
    struct host *host = host_new(MUST_TELL_HOST);
    struct VbrSection last = host->sections[SECTIONS - 1];

    inflate(host, LARGE_GPA, HUGE_PAGE - PAGE);
    inflate(host, LOW_SEAM - 1 * MIB, 2 * MIB);
    set_memory(host, SECTIONS);
    CHECK_EQ(host_counters(host).ballooned_bytes, 2 * MIB + HUGE_PAGE - PAGE);
    /* The same memory in one section less is the same memory. */
    CHECK_EQ(last.gpa, LOW_SEAM);
    host->sections[SECTIONS - 2].bytes += last.bytes;
    set_memory(host, SECTIONS - 1);
    CHECK_EQ(host_counters(host).ballooned_bytes, 2 * MIB + HUGE_PAGE - PAGE);
    guest_fill(host, LARGE_GPA, HUGE_PAGE);
    inflate(host, LARGE_GPA + HUGE_PAGE - PAGE, PAGE);
    CHECK(guest_gone(host, LARGE_GPA, HUGE_PAGE));
    host_free(host);
}

/* Another block, or another part of it, behind an address: what was ballooned is not there now. */
static void moved_memory_is_forgotten(void)
{
    struct host *host = host_new(MUST_TELL_HOST);
    struct VbrSection *section = &host->sections[LARGE_SECTION];

    inflate(host, LARGE_GPA, HUGE_PAGE - PAGE);
    section->bytes = LARGE_BYTES / 2;
    section->offset += HUGE_PAGE;
    section->host = host->blocks[LARGE].base + HUGE_PAGE;
    set_memory(host, SECTIONS);
    CHECK_EQ(host_counters(host).ballooned_bytes, 0);
    guest_fill(host, LARGE_GPA, HUGE_PAGE);
    inflate(host, LARGE_GPA + HUGE_PAGE - PAGE, PAGE);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    inflate(host, LARGE_GPA, HUGE_PAGE);
    CHECK(guest_gone(host, LARGE_GPA, HUGE_PAGE));
    CHECK_EQ(host->discard_count, 1);
    CHECK_EQ(host->discards[0].offset, HUGE_PAGE);
    host_free(host);
}

static void plugged_memory_is_known(void)
{
    struct host *host = host_new(ALL_FEATURES);

    set_memory(host, LARGE_SECTION);
    guest_fill(host, LARGE_GPA, HUGE_PAGE);
    inflate(host, LARGE_GPA, HUGE_PAGE);
    CHECK(guest_kept(host, LARGE_GPA, HUGE_PAGE));
    CHECK_EQ(host_counters(host).ignored_bad_pfns, 512);
    CHECK_EQ(host_counters(host).ballooned_bytes, 0);
    set_memory(host, SECTIONS);
    inflate(host, LARGE_GPA, HUGE_PAGE);
    CHECK(guest_gone(host, LARGE_GPA, HUGE_PAGE));
    host_free(host);
}

/* Memory goes between two slices: the rest of the batch no longer reaches it. */
static void memory_goes_in_the_middle_of_a_batch(void)
{
    struct host *host = host_new(ALL_FEATURES);
    bool done = true;

    guest_fill(host, 4 * MIB, 40 * MIB);
    CHECK_OK(request_range(host, INFLATE, 4 * MIB, 40 * MIB));
    CHECK_OK(vbr_batch_run(host->device, VBR_INHIBIT_NO, &done));
    CHECK(!done);
    uint64_t gone = host_counters(host).discarded_bytes;
    set_memory(host, LARGE_SECTION);
    run_batch(host);
    CHECK(guest_gone(host, 4 * MIB, gone));
    CHECK(guest_kept(host, 4 * MIB + gone, 40 * MIB - gone));
    CHECK_EQ(host_counters(host).ignored_bad_pfns, (40 * MIB - gone) / PAGE);
    CHECK_EQ(host_counters(host).ballooned_bytes, 0);
    host_free(host);
}

/* A large page that two sections share is never known to be the balloon's as a whole. */
static void shared_large_pages_stay(void)
{
    struct host *host = host_new(MUST_TELL_HOST);
    struct VbrSection *section = &host->sections[LARGE_SECTION];

    section->bytes = HUGE_PAGE + HUGE_PAGE / 2;
    set_memory(host, SECTIONS);
    guest_fill(host, LARGE_GPA, section->bytes);
    inflate(host, LARGE_GPA, section->bytes);
    CHECK(guest_gone(host, LARGE_GPA, HUGE_PAGE));
    CHECK(guest_kept(host, LARGE_GPA + HUGE_PAGE, HUGE_PAGE / 2));
    CHECK_EQ(host_counters(host).ballooned_bytes, section->bytes);
    host_free(host);
}

static bool takes_a_page(struct host *host)
{
    guest_fill(host, 4 * MIB, PAGE);
    inflate(host, 4 * MIB, PAGE);
    return guest_gone(host, 4 * MIB, PAGE);
}

static void what_is_not_the_guests_stays(void)
{
    struct host *host = host_new(ALL_FEATURES);
    struct VbrSection all[SECTIONS];

#define NOT_RAM(field, value)                                                  \
    memcpy(all, host->sections, sizeof(all));                                  \
    for (size_t i = 0; i < SECTIONS; i++) {                                    \
        all[i].field = (value);                                                \
    }                                                                          \
    CHECK_OK(vbr_device_set_memory(host->device, all, SECTIONS));              \
    CHECK(!takes_a_page(host))

    set_memory(host, SECTIONS);
    CHECK(takes_a_page(host));
    NOT_RAM(owner, VBR_OWNER_OTHER);
    NOT_RAM(read_only, true);
    NOT_RAM(nonvolatile, true);
    CHECK_EQ(host_counters(host).inhibited_bytes, 0);
    NOT_RAM(guest_memfd, true);
    /* It is RAM, and in the balloon, but stays. */
    CHECK_EQ(host_counters(host).inhibited_bytes, PAGE);
    CHECK_EQ(host_counters(host).ballooned_bytes, PAGE);
    /* Nobody said that a part of it is there. */
    NOT_RAM(owner, VBR_OWNER_VIRTIO_MEM);
#undef NOT_RAM
    CHECK_OK(vbr_memory_plug(host->device, 4 * MIB, PAGE));
    CHECK(takes_a_page(host));
    CHECK_EQ(host_counters(host).ballooned_bytes, PAGE);
    CHECK_OK(vbr_memory_unplug(host->device, 4 * MIB, PAGE));
    CHECK_EQ(host_counters(host).ballooned_bytes, 0);
    CHECK(!takes_a_page(host));
    host_free(host);
}

void theme_memory(void)
{
    what_is_not_the_guests_stays();
    a_map_that_cannot_be_is_refused();
    lost_pages_are_forgotten();
    the_same_map_loses_nothing();
    moved_memory_is_forgotten();
    plugged_memory_is_known();
    memory_goes_in_the_middle_of_a_batch();
    shared_large_pages_stay();
}
