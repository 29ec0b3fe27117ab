/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a migration leaves out. */

#include <string.h>

#include "check.h"
#include "host.h"
#include "themes.h"

/* Chunks of 64 pages; the last one of each block has one page. */
enum { PAGES = 193, WORDS = 4, CHUNKS = 4 };

struct bitmaps {
    struct host *host;
    uint64_t dirty[WORDS];
    uint64_t unarmed[1];
    unsigned armed;
};

/* The low block is migrated, the others are not. */
static bool on_view(void *opaque, void *block, struct VbrRamView *out)
{
    struct bitmaps *bitmaps = opaque;

    if (block != &bitmaps->host->blocks[LOW]) {
        return false;
    }
    *out = (struct VbrRamView){ bitmaps->dirty, PAGES, bitmaps->unarmed, 6 };
    return true;
}

static bool on_find(void *opaque, const void *host, void **block, uint64_t *offset)
{
    struct bitmaps *bitmaps = opaque;

    for (int i = 0; i < BLOCKS; i++) {
        struct block *candidate = &bitmaps->host->blocks[i];
        const uint64_t at = (uintptr_t)host - (uintptr_t)candidate->base;
        if (at < candidate->bytes) {
            *block = candidate;
            *offset = at;
            return true;
        }
    }
    return false;
}

static void on_arm(void *opaque, void *block, uint64_t first, uint64_t count, bool whole_chunk)
{
    struct bitmaps *bitmaps = opaque;

    CHECK(block == &bitmaps->host->blocks[LOW]);
    CHECK_EQ(first % 64, 0);
    CHECK_EQ(count, first == 192 ? 1 : 64);
    CHECK(whole_chunk);
    CHECK(bitmaps->unarmed[0] & (UINT64_C(1) << first / 64));
    bitmaps->unarmed[0] &= ~(UINT64_C(1) << first / 64);
    bitmaps->armed++;
}

struct migration {
    struct bitmaps bitmaps;
    struct VbrRam *ram;
    struct VbrHints *hints;
    /* What the library said of the number of dirty pages, and what it should be. */
    uint64_t dirty;
};

static uint64_t dirty_bits(const struct migration *m)
{
    uint64_t count = 0;

    for (int page = 0; page < WORDS * 64; page++) {
        count += m->bitmaps.dirty[page / 64] >> page % 64 & 1;
    }
    return count;
}

static void changed(struct migration *m, struct VbrDirtyChange change)
{
    m->dirty += change.set - change.cleared;
    CHECK_EQ(m->dirty, dirty_bits(m));
}

static void sync_all(struct migration *m)
{
    bool ignored, more = true;
    struct VbrDirtyChange change = { 0, 0 };

    CHECK_OK(vbr_hints_event(m->hints, VBR_HINT_EVENT_BEFORE_SYNC, &ignored));
    m->bitmaps.unarmed[0] = 0xf;
    CHECK_OK(vbr_ram_synced(m->ram));
    CHECK_OK(vbr_ram_sweep(m->ram, m->bitmaps.host->device, &change, &more));
    CHECK(!more);
    changed(m, change);
    CHECK_OK(vbr_hints_event(m->hints, VBR_HINT_EVENT_AFTER_SYNC, &ignored));
}

static void start(struct migration *m)
{
    struct VbrRamOps ops = { &m->bitmaps, on_view, on_find, on_arm };

    memset(m, 0, sizeof(*m));
    m->bitmaps.host = host_new(MUST_TELL_HOST);
    memset(m->bitmaps.dirty, 0xff, 3 * 8);
    m->bitmaps.dirty[3] = 1;
    m->dirty = PAGES;
    CHECK_OK(vbr_ram_new(&ops, 12, &m->ram));
    CHECK_OK(vbr_hints_new(&m->hints));
    CHECK(!hints_accept(m->hints, FREE_PAGE_HINT));
    CHECK_OK(vbr_ram_begin(m->ram));
}

static void end(struct migration *m)
{
    host_free(m->bitmaps.host);
    vbr_ram_free(m->ram);
    vbr_hints_free(m->hints);
}

static struct VbrSkipCounters counters(const struct migration *m)
{
    struct VbrSkipCounters counters;

    CHECK_OK(vbr_ram_counters(m->ram, &counters));
    return counters;
}

static void arm(struct migration *m, enum VbrArm which)
{
    bool more = true;

    while (more) {
        CHECK_OK(vbr_ram_arm(m->ram, &m->bitmaps.host->blocks[LOW], which, &more));
    }
}

static void open_round(struct migration *m)
{
    struct VbrHintView view;
    uint8_t id[4];
    bool flag;

    CHECK_OK(vbr_ram_trust(m->ram, 0));
    CHECK_OK(vbr_hints_view(m->hints, &view));
    for (int i = 0; i < 2; i++) {
        bool changed;

        CHECK_OK(vbr_hints_request(m->hints, view.wanted, &flag));
        CHECK(!flag);
        CHECK_OK(vbr_hints_event(m->hints, VBR_HINT_EVENT_QUEUE_EMPTY,
                                 &changed));
    }
    CHECK_OK(vbr_hints_request(m->hints, view.wanted, &flag));
    CHECK(flag);
    CHECK_OK(vbr_hints_view(m->hints, &view));
    for (int i = 0; i < 4; i++) {
        id[i] = (uint8_t)(view.shown_id >> 8 * i);
    }
    CHECK_OK(vbr_hints_receive_id(m->hints, id, 4, false, &flag));
}

static void hint(struct migration *m, int block, uint64_t offset, uint64_t bytes)
{
    struct host *host = m->bitmaps.host;

    CHECK_OK(vbr_hints_receive(m->hints, host->device, host->blocks[block].base + offset, bytes));
}

static bool take(struct migration *m)
{
    struct VbrDirtyChange change = { 5, 5 };
    bool wanted = true;

    CHECK_OK(vbr_ram_leave_out_hinted(m->ram, m->hints, &change, &wanted));
    changed(m, change);
    return wanted;
}

static void hinted_pages(void)
{
    struct migration m;

    start(&m);
    sync_all(&m);
    arm(&m, VBR_ARM_ALL);
    CHECK_EQ(m.bitmaps.armed, CHUNKS);
    open_round(&m);
    hint(&m, LOW, PAGE / 2, 2 * PAGE);
    hint(&m, LOW, 60 * PAGE, 10 * PAGE);
    /* The hole in guest RAM, where the block has pages that are migrated. */
    hint(&m, LOW, LOW_HOLE + 8 * PAGE, 10 * PAGE);
    /* Guest RAM behind the pages that are migrated. */
    hint(&m, LOW, LOW_HOLE_END, 7 * PAGE);
    hint(&m, TOLD, 0, 3 * PAGE);
    CHECK(!take(&m));
    CHECK_EQ(dirty_bits(&m), PAGES - 1 - 10);
    CHECK_EQ(m.bitmaps.dirty[0], ~(UINT64_C(2) | UINT64_C(0xf) << 60));
    CHECK_EQ(counters(&m).hint_left_out_bytes, 11 * PAGE);
    CHECK_EQ(counters(&m).refused_partial_page_bytes, PAGE);
    CHECK_EQ(counters(&m).refused_not_ram_bytes, 7 * PAGE);
    CHECK_EQ(counters(&m).refused_not_migrated_bytes, 3 * PAGE);
    CHECK(!vbr_ram_is_left_out(m.ram, &m.bitmaps.host->blocks[LOW], 1));

    /* A page of them was written. */
    m.bitmaps.dirty[0] |= 2;
    m.dirty++;
    sync_all(&m);
    CHECK_EQ(counters(&m).hint_left_out_bytes, 10 * PAGE);

    struct VbrDirtyChange change = { 0, 0 };
    bool more = true;
    CHECK_OK(vbr_ram_postcopy(m.ram, &m.bitmaps.host->blocks[LOW], &change, &more));
    CHECK(!more);
    changed(&m, change);
    CHECK_EQ(dirty_bits(&m), PAGES);
    /* What is announced as zero was left out. */
    CHECK_EQ(counters(&m).hint_left_out_bytes, 10 * PAGE);
    CHECK(!vbr_ram_is_left_out(m.ram, &m.bitmaps.host->blocks[LOW], 1));
    CHECK(vbr_ram_is_left_out(m.ram, &m.bitmaps.host->blocks[LOW], 60));
    CHECK(vbr_ram_is_left_out(m.ram, &m.bitmaps.host->blocks[LOW], 69));
    CHECK(!vbr_ram_is_left_out(m.ram, &m.bitmaps.host->blocks[LOW], 192));
    CHECK(!vbr_ram_is_left_out(m.ram, &m.bitmaps.host->blocks[LOW], 193));
    CHECK(!vbr_ram_is_left_out(m.ram, &m.bitmaps.host->blocks[LOW], UINT64_MAX - 1));
    CHECK(!vbr_ram_is_left_out(m.ram, &m.bitmaps.host->blocks[TOLD], 60));
    CHECK_OK(vbr_ram_begin(m.ram));
    CHECK(!vbr_ram_is_left_out(m.ram, &m.bitmaps.host->blocks[LOW], 60));
    end(&m);
}

/* Hints into a part whose log was not armed have it armed, for those that are posted later. */
static void armed_late(void)
{
    struct migration m;
    struct VbrHintView view;
    bool changed_id;

    start(&m);
    sync_all(&m);
    open_round(&m);
    hint(&m, LOW, 0, PAGE);
    CHECK(take(&m));
    CHECK_EQ(counters(&m).refused_unprotected_bytes, PAGE);
    arm(&m, VBR_ARM_WANTED);
    CHECK_EQ(m.bitmaps.armed, 1);
    CHECK_OK(vbr_hints_view(m.hints, &view));
    CHECK_OK(vbr_ram_trust(m.ram, view.epoch));
    /* It may have been posted before, although the queue is said to be empty now. */
    CHECK_OK(vbr_hints_event(m.hints, VBR_HINT_EVENT_QUEUE_EMPTY, &changed_id));
    hint(&m, LOW, PAGE, PAGE);
    take(&m);
    CHECK_EQ(dirty_bits(&m), PAGES);
    CHECK_OK(vbr_hints_event(m.hints, VBR_HINT_EVENT_QUEUE_EMPTY, &changed_id));
    hint(&m, LOW, 2 * PAGE, PAGE);
    CHECK(!take(&m));
    CHECK_EQ(m.bitmaps.dirty[0], ~UINT64_C(4));
    end(&m);
}

static void ballooned_pages(void)
{
    struct migration m;

    start(&m);
    inflate(m.bitmaps.host, 3 * PAGE, 2 * PAGE);
    inflate(m.bitmaps.host, LARGE_GPA, PAGE);
    sync_all(&m);
    CHECK_EQ(m.bitmaps.dirty[0], ~UINT64_C(0x18));
    CHECK_EQ(counters(&m).ballooned_left_out_bytes, 2 * PAGE);
    deflate(m.bitmaps.host, 3 * PAGE, PAGE);
    CHECK_EQ(m.bitmaps.dirty[0], ~UINT64_C(0x18));
    sync_all(&m);
    CHECK_EQ(m.bitmaps.dirty[0], ~UINT64_C(0x10));
    end(&m);
}

void theme_ram(void)
{
    hinted_pages();
    armed_late();
    ballooned_pages();
}
