/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Dirty pages as a list: for a consumer, and for the migration beside it. */

#include <pthread.h>
#include <string.h>

#include "check.h"
#include "themes.h"

#define ROOM 256
#define OTHER ((size_t)-1)

static const struct VbrDirtyOptions plain = {
    .version = VBR_DIRTY_VERSION, .max_dirty = 200, .vcpus = 2
};
static const struct VbrDirtyOptions once = {
    .version = VBR_DIRTY_VERSION, .no_dups = true, .max_dirty = 200, .vcpus = 2
};

static struct VbrDirtyList *list_new(const struct VbrDirtyOptions *options)
{
    struct VbrDirtyList *list = NULL;

    CHECK_OK(vbr_dirty_new(options, &list));
    CHECK(list != NULL);
    return list;
}

static struct VbrDirtyList *list_started(const struct VbrDirtyOptions *options)
{
    struct VbrDirtyList *list = list_new(options);

    CHECK_OK(vbr_dirty_start(list));
    return list;
}

static bool note(struct VbrDirtyList *list, size_t vcpu, uint64_t page, uint64_t bits)
{
    bool trigger = true;

    CHECK_OK(vbr_dirty_note(list, vcpu, page, bits, &trigger));
    return trigger;
}

static struct VbrDirtyIndices indices(struct VbrDirtyList *list)
{
    struct VbrDirtyIndices indices;

    CHECK_OK(vbr_dirty_indices(list, &indices));
    return indices;
}

typedef enum VbrStatus fetch_fn(const struct VbrDirtyList *list, uint64_t *pages, size_t most,
                                size_t *count);

/* The pages that `fetch` hands out in one batch are these. */
static void expect(fetch_fn *fetch, struct VbrDirtyList *list, const uint64_t *pages, size_t count)
{
    uint64_t out[8 * ROOM];
    size_t got = 77;

    CHECK_OK(fetch(list, out, sizeof(out) / sizeof(out[0]), &got));
    CHECK_EQ(got, count);
    CHECK(count == 0 || memcmp(out, pages, count * sizeof(out[0])) == 0);
}

/* `fetch` answers with an error, and leaves its outputs alone. */
static void refuses(fetch_fn *fetch, struct VbrDirtyList *list, enum VbrStatus expected)
{
    uint64_t page = 55;
    size_t count = 77;

    CHECK_STATUS(fetch(list, &page, 1, &count), expected);
    CHECK_EQ(page, 55);
    CHECK_EQ(count, 77);
}

static void a_list_that_cannot_be_is_refused(void)
{
    static const struct {
        struct VbrDirtyOptions options;
        enum VbrStatus status;
    } rows[] = {
        { { 0, false, 256, 0, 1 }, VBR_STATUS_DIRTY_LIST_VERSION },
        { { 2, false, 256, 0, 1 }, VBR_STATUS_DIRTY_LIST_VERSION },
        { { 1, false, 0, 0, 1 }, VBR_STATUS_DIRTY_LIST_ZERO },
        { { 1, true, (UINT64_C(1) << 30) + 1, 0, 1 }, VBR_STATUS_DIRTY_LIST_SIZE },
        { { 1, true, SIZE_MAX, 0, 1 }, VBR_STATUS_DIRTY_LIST_SIZE },
        { { 1, true, 200, 257, 1 }, VBR_STATUS_DIRTY_LIST_TRIGGER },
        { { 1, true, 200, 256, SIZE_MAX }, VBR_STATUS_DIRTY_LIST_MEMORY },
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct VbrDirtyList *list = NULL;
        CHECK_STATUS(vbr_dirty_new(&rows[i].options, &list), rows[i].status);
        CHECK(list == NULL);
    }
}

static void there_is_one(void)
{
    struct VbrDirtyList *list = list_new(&plain), *other = NULL;

    /* However often somebody asks. */
    for (int i = 0; i < 3; i++) {
        CHECK_STATUS(vbr_dirty_new(&once, &other), VBR_STATUS_DIRTY_LIST_TWICE);
        CHECK(other == NULL);
        CHECK_STATUS(vbr_dirty_new(&(struct VbrDirtyOptions){ .version = 1 }, &other),
                     VBR_STATUS_DIRTY_LIST_ZERO);
    }
    CHECK_OK(vbr_dirty_free(list, false));
    list = list_started(&once);
    CHECK_STATUS(vbr_dirty_free(list, false), VBR_STATUS_DIRTY_LIST_ACTIVE);
    CHECK_STATUS(vbr_dirty_new(&once, &other), VBR_STATUS_DIRTY_LIST_TWICE);
    CHECK_OK(vbr_dirty_free(list, true));
    /* Of a migration, too. */
    bool listed = true;
    list = list_new(&once);
    CHECK_OK(vbr_dirty_sync_begin(list, &listed));
    CHECK_STATUS(vbr_dirty_free(list, false), VBR_STATUS_DIRTY_LIST_ACTIVE);
    CHECK_OK(vbr_dirty_sync_end(list));
    CHECK_OK(vbr_dirty_free(list, false));
    CHECK_OK(vbr_dirty_free(NULL, false));
    CHECK_OK(vbr_dirty_free(NULL, true));
}

static void started_and_stopped(void)
{
    struct VbrDirtyList *list = list_new(&plain);
    bool trigger = true;

    CHECK(!vbr_dirty_is_active(list));
    CHECK(!vbr_dirty_is_active(NULL));
    refuses(vbr_dirty_fetch, list, VBR_STATUS_DIRTY_LIST_INACTIVE);
    CHECK_STATUS(vbr_dirty_reset(list, &trigger), VBR_STATUS_DIRTY_LIST_INACTIVE);
    CHECK(trigger);
    CHECK_EQ(indices(list).max_dirty, ROOM);
    CHECK(!indices(list).active);
    CHECK(!note(list, 0, 1, 1));

    CHECK_OK(vbr_dirty_start(list));
    CHECK(vbr_dirty_is_active(list) && indices(list).active);
    CHECK_STATUS(vbr_dirty_start(list), VBR_STATUS_DIRTY_LIST_ACTIVE);
    expect(vbr_dirty_fetch, list, NULL, 0);
    note(list, 0, 2, 1);
    CHECK_OK(vbr_dirty_stop(list));
    CHECK_OK(vbr_dirty_stop(list));
    CHECK(!vbr_dirty_is_active(list) && !indices(list).active);
    note(list, 0, 3, 1);
    expect(vbr_dirty_fetch, list, (uint64_t[]){ 2 }, 1);
    CHECK_OK(vbr_dirty_free(list, false));
}

static void pages_and_indices(void)
{
    struct VbrDirtyList *list = list_started(&plain);
    const uint64_t far = UINT64_C(1) << 40;
    uint64_t out[3];
    size_t count = 0;
    bool trigger = true;

    note(list, 1, far - 64, UINT64_C(1) << 63 | 1);
    note(list, 0, 7, 0x5);
    note(list, OTHER, 9, 1);
    CHECK_OK(vbr_dirty_fetch(list, out, 0, &count));
    CHECK_EQ(count, 0);
    expect(vbr_dirty_fetch, list, (uint64_t[]){ 7, 9, far - 64, far - 1 }, 4);
    struct VbrDirtyIndices at = indices(list);
    CHECK_EQ(at.dirty_index, 5);
    CHECK_EQ(at.fetch_index, 5);
    CHECK_EQ(at.reset_index, 0);
    CHECK_OK(vbr_dirty_reset(list, &trigger));
    CHECK(!trigger);
    CHECK_EQ(indices(list).reset_index, 5);
    CHECK_OK(vbr_dirty_free(list, true));
}

/* Room is written to only as far as the count says, however often a page was noted. */
static void nothing_is_written_behind_the_pages(void)
{
    struct VbrDirtyList *list = list_started(&plain);
    uint64_t out[6] = { 55, 55, 55, 55, 55, 55 };
    size_t count = 0;

    for (int i = 0; i < 3; i++) {
        note(list, 0, 7, 1);
        note(list, 1, 4, 1);
    }
    CHECK_OK(vbr_dirty_fetch(list, out, 6, &count));
    CHECK_EQ(count, 2);
    CHECK_EQ(out[0], 4);
    CHECK_EQ(out[1], 7);
    for (int i = 2; i < 6; i++) {
        CHECK_EQ(out[i], 55);
    }
    CHECK_STATUS(vbr_dirty_fetch(list, out, SIZE_MAX, &count), VBR_STATUS_INVALID_ARGUMENT);
    CHECK_OK(vbr_dirty_free(list, true));
}

static void overflow(void)
{
    struct VbrDirtyList *list = list_started(&plain);
    uint64_t pages[ROOM + 64];

    for (uint64_t page = 0; page < ROOM + 64; page += 64) {
        note(list, 0, page, UINT64_MAX);
    }
    CHECK(indices(list).overflow);
    CHECK_EQ(indices(list).overflows, 1);
    refuses(vbr_dirty_fetch, list, VBR_STATUS_DIRTY_LIST_OVERFLOW);
    CHECK_OK(vbr_dirty_stop(list));
    refuses(vbr_dirty_fetch, list, VBR_STATUS_DIRTY_LIST_OVERFLOW);
    CHECK_OK(vbr_dirty_start(list));
    CHECK(!indices(list).overflow);
    expect(vbr_dirty_fetch, list, NULL, 0);
    CHECK_OK(vbr_dirty_free(list, true));

    /* With marks nothing is missing. */
    list = list_started(&once);
    for (uint64_t page = 0; page < ROOM + 64; page++) {
        pages[page] = page;
        note(list, 0, page & ~UINT64_C(63), UINT64_MAX);
    }
    CHECK(indices(list).overflow);
    CHECK_EQ(indices(list).dirty_index, ROOM + 64);
    expect(vbr_dirty_fetch, list, pages, ROOM + 64);
    CHECK(!indices(list).overflow);
    CHECK_EQ(indices(list).overflows, 1);
    /* But for a page that cannot be. */
    note(list, 0, UINT64_C(1) << 40, 1);
    refuses(vbr_dirty_fetch, list, VBR_STATUS_DIRTY_LIST_OVERFLOW);
    CHECK_OK(vbr_dirty_free(list, true));
}

static void trigger(void)
{
    struct VbrDirtyOptions options = once;
    bool flag = false;

    options.dirty_trigger = 3;
    struct VbrDirtyList *list = list_started(&options);
    CHECK(!note(list, 0, 1, 1));
    CHECK(!note(list, 1, 1, 1));
    CHECK(note(list, OTHER, 1, 7));
    CHECK(!note(list, 0, 10, 1));
    /* Not fetched, so they count again. */
    CHECK_OK(vbr_dirty_reset(list, &flag));
    CHECK(flag);
    expect(vbr_dirty_fetch, list, (uint64_t[]){ 1, 2, 3, 10 }, 4);
    CHECK_OK(vbr_dirty_reset(list, &flag));
    CHECK(!flag);
    CHECK(!note(list, 0, 1, 3));
    CHECK(note(list, 0, 3, 1));
    CHECK_OK(vbr_dirty_free(list, true));
}

static void synchronized(void)
{
    struct VbrDirtyList *list = list_started(&once);
    bool listed = true;

    refuses(vbr_dirty_sync_fetch, list, VBR_STATUS_DIRTY_LIST_INACTIVE);
    note(list, 0, 1, 1);
    CHECK_OK(vbr_dirty_sync_begin(list, &listed));
    CHECK(!listed);
    expect(vbr_dirty_sync_fetch, list, NULL, 0);
    note(list, 0, 2, 3);
    /* The consumer's caller clears bits that the migration has not seen. */
    expect(vbr_dirty_fetch, list, (uint64_t[]){ 1, 2, 3 }, 3);
    CHECK_OK(vbr_dirty_sync_begin(list, &listed));
    CHECK(listed);
    expect(vbr_dirty_sync_fetch, list, (uint64_t[]){ 1, 2, 3 }, 3);
    note(list, 0, 4, 1);
    expect(vbr_dirty_sync_fetch, list, NULL, 0);
    CHECK_OK(vbr_dirty_sync_begin(list, &listed));
    expect(vbr_dirty_sync_fetch, list, (uint64_t[]){ 4 }, 1);
    CHECK_OK(vbr_dirty_stop(list));
    CHECK(vbr_dirty_is_active(list));
    /* A page that cannot be: the bitmaps are looked at once. */
    note(list, 0, UINT64_MAX, 1);
    CHECK_OK(vbr_dirty_sync_begin(list, &listed));
    CHECK(!listed);
    CHECK_OK(vbr_dirty_sync_begin(list, &listed));
    CHECK(listed);
    CHECK_OK(vbr_dirty_sync_end(list));
    CHECK(!vbr_dirty_is_active(list));
    refuses(vbr_dirty_sync_fetch, list, VBR_STATUS_DIRTY_LIST_INACTIVE);
    CHECK_OK(vbr_dirty_free(list, false));
}

#define THREADS 4
#define PAGES_EACH 5000

struct writer {
    pthread_t thread;
    struct VbrDirtyList *list;
    size_t vcpu;
};

static void *write_pages(void *data)
{
    struct writer *writer = data;

    for (uint64_t i = 0; i < PAGES_EACH; i++) {
        note(writer->list, writer->vcpu, i * THREADS + writer->vcpu, 1);
    }
    return NULL;
}

/* Two of them are virtual CPUs, two share the machine's ring; all are here while pages are fetched. */
static void threads(void)
{
    struct VbrDirtyList *list = list_started(&once);
    struct writer writers[THREADS];
    static uint8_t seen[THREADS * PAGES_EACH];
    uint64_t out[100];
    size_t count, all = 0;

    for (size_t i = 0; i < THREADS; i++) {
        writers[i] = (struct writer){ .list = list, .vcpu = i };
        CHECK_EQ(pthread_create(&writers[i].thread, NULL, write_pages, &writers[i]), 0);
    }
    while (all < THREADS * PAGES_EACH) {
        CHECK_OK(vbr_dirty_fetch(list, out, 100, &count));
        for (size_t i = 0; i < count; i++) {
            CHECK(out[i] < THREADS * PAGES_EACH);
            CHECK_EQ(seen[out[i]]++, 0);
        }
        all += count;
    }
    for (size_t i = 0; i < THREADS; i++) {
        CHECK_EQ(pthread_join(writers[i].thread, NULL), 0);
    }
    expect(vbr_dirty_fetch, list, NULL, 0);
    CHECK_OK(vbr_dirty_free(list, true));
}

void theme_dirty(void)
{
    a_list_that_cannot_be_is_refused();
    there_is_one();
    started_and_stopped();
    pages_and_indices();
    nothing_is_written_behind_the_pages();
    overflow();
    trigger();
    synchronized();
    threads();
}
