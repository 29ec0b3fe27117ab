/* SPDX-License-Identifier: GPL-2.0-or-later */

#define _GNU_SOURCE

#include "host.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "check.h"

static int block_number(const struct host *host, const void *block)
{
    for (int i = 0; i < BLOCKS; i++) {
        if (block == &host->blocks[i]) {
            return i;
        }
    }
    CHECK(!"a callback got a block that is not in the map of memory");
    return 0;
}

static void note(const struct host *host, struct record *records, size_t *count,
                 const void *block, uint64_t offset, uint64_t bytes)
{
    int number = block_number(host, block);

    CHECK(bytes != 0);
    CHECK(offset < host->blocks[number].bytes);
    CHECK(bytes <= host->blocks[number].bytes - offset);
    CHECK(*count < MAX_RECORDS);
    records[(*count)++] = (struct record){ number, offset, bytes };
}

static int discard(struct host *host, const struct block *target, struct VbrBlockSpan span)
{
    note(host, host->discards, &host->discard_count, target, span.offset, span.bytes);
    CHECK_EQ(span.offset % target->page_size, 0);
    CHECK_EQ(span.bytes % target->page_size, 0);
    if (host->inside != NULL) {
        host->inside(host);
    }
    if (host->discard_answer != 0 &&
        (host->refused_offset == 0 || host->refused_offset == span.offset)) {
        return host->discard_answer;
    }
    CHECK_EQ(madvise(target->base + span.offset, span.bytes, MADV_DONTNEED), 0);
    return 0;
}

static int give_back(void *opaque, void *block, const struct VbrBlockSpan *spans, size_t count,
                     size_t *done)
{
    struct host *host = opaque;
    int answer = 0;

    CHECK(count > 0 && count <= VBR_MAX_SPANS);
    host->discard_calls++;
    for (*done = 0; *done < count && answer == 0; *done += answer == 0) {
        answer = discard(host, block, spans[*done]);
    }
    return answer;
}

static int on_discard(void *opaque, void *block, const struct VbrBlockSpan *spans, size_t count,
                      size_t *done)
{
    CHECK(block_number(opaque, block) != LOW);
    return give_back(opaque, block, spans, count, done);
}

static int on_drop_private(void *opaque, void *block, const struct VbrBlockSpan *spans,
                           size_t count, size_t *done)
{
    CHECK_EQ(block_number(opaque, block), LOW);
    return give_back(opaque, block, spans, count, done);
}

/* What the host may do at any time, it does at once. */
static int on_free(void *opaque, void *block, const struct VbrBlockSpan *spans, size_t count,
                   size_t *done)
{
    struct host *host = opaque;
    const struct block *target = block;

    CHECK(count > 0 && count <= VBR_MAX_SPANS);
    for (*done = 0; *done < count; ++*done) {
        const struct VbrBlockSpan span = spans[*done];

        note(host, host->frees, &host->free_count, block, span.offset, span.bytes);
        CHECK_EQ(block_number(host, block), LOW);
        CHECK_EQ((span.offset | span.bytes) % target->page_size, 0);
        if (host->discard_answer != 0) {
            return host->discard_answer;
        }
        CHECK_EQ(madvise(target->base + span.offset, span.bytes, MADV_DONTNEED), 0);
    }
    return 0;
}

static void on_populate(void *opaque, void *block, const struct VbrBlockSpan *spans, size_t count)
{
    struct host *host = opaque;

    CHECK(count > 0 && count <= VBR_MAX_SPANS);
    for (size_t i = 0; i < count; i++) {
        note(host, host->populates, &host->populate_count, block, spans[i].offset, spans[i].bytes);
        CHECK_EQ((spans[i].offset | spans[i].bytes) % PAGE, 0);
        if (host->inside != NULL) {
            host->inside(host);
        }
    }
}

struct VbrHostOps host_ops(struct host *host)
{
    return (struct VbrHostOps){ host, on_discard, on_drop_private, on_free, on_populate };
}

static void add_block(struct host *host, int number, uint64_t bytes, uint64_t page_size)
{
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    CHECK(base != MAP_FAILED);
    host->blocks[number] = (struct block){ base, bytes, page_size };
}

static struct VbrSection section(struct host *host, int number, uint64_t gpa, uint64_t bytes,
                                 uint64_t offset)
{
    struct block *block = &host->blocks[number];

    return (struct VbrSection){
        .gpa = gpa,
        .bytes = bytes,
        .block = block,
        .offset = offset,
        .page_size = block->page_size,
        .host = block->base + offset,
        .host_page_size = PAGE,
        .owner = VBR_OWNER_MACHINE,
        .file = number == TOLD ? VBR_BACKING_FILE_SOME : VBR_BACKING_FILE_NONE,
        .shared = number != LOW,
    };
}

static void add_memory(struct host *host)
{
    add_block(host, LOW, LOW_BYTES, PAGE);
    add_block(host, LARGE, LARGE_BYTES, HUGE_PAGE);
    add_block(host, TOLD, TOLD_BYTES, PAGE);
    const struct VbrSection sections[SECTIONS] = {
        section(host, TOLD, TOLD_GPA, TOLD_HALF, TOLD_HALF),
        section(host, TOLD, TOLD_GPA + TOLD_HALF, TOLD_HALF, 0),
        section(host, LARGE, LARGE_GPA, LARGE_BYTES, 0),
        section(host, LOW, 0, LOW_HOLE, 0),
        section(host, LOW, LOW_HOLE_END, LOW_SEAM - LOW_HOLE_END, LOW_HOLE_END),
        section(host, LOW, LOW_SEAM, LOW_BYTES - LOW_SEAM, LOW_SEAM),
    };
    memcpy(host->sections, sections, sizeof(sections));
}

struct host *host_new(uint64_t negotiated)
{
    const struct VbrOptions options = { .features = ALL_FEATURES };

    return host_with(&options, negotiated);
}

struct host *host_with(const struct VbrOptions *options, uint64_t negotiated)
{
    struct host *host = calloc(1, sizeof(*host));

    CHECK(host != NULL);
    add_memory(host);
    const struct VbrHostOps ops = host_ops(host);
    CHECK_OK(vbr_device_new(options, &ops, &host->device));
    CHECK_OK(vbr_device_set_memory(host->device, host->sections, SECTIONS));
    CHECK_OK(vbr_device_set_features(host->device, negotiated, false));
    return host;
}

void host_free(struct host *host)
{
    vbr_device_free(host->device);
    for (int i = 0; i < BLOCKS; i++) {
        CHECK_EQ(munmap(host->blocks[i].base, host->blocks[i].bytes), 0);
    }
    free(host);
}

struct VbrCounters host_counters(const struct host *host)
{
    struct VbrCounters counters;

    CHECK_OK(vbr_device_counters(host->device, RAM, &counters));
    return counters;
}

void host_forget(struct host *host)
{
    host->discard_count = 0;
    host->discard_calls = 0;
    host->free_count = 0;
    host->populate_count = 0;
}

uint8_t *guest_at(const struct host *host, uint64_t gpa)
{
    for (int i = 0; i < SECTIONS; i++) {
        const struct VbrSection *section = &host->sections[i];
        if (gpa >= section->gpa && gpa - section->gpa < section->bytes) {
            const struct block *block = section->block;
            return block->base + section->offset + (gpa - section->gpa);
        }
    }
    CHECK(!"the guest address is RAM");
    return NULL;
}

/* What guest_fill puts into a page; never 0. */
static uint8_t mark(uint64_t gpa)
{
    return (uint8_t)(gpa / PAGE * 14 + 1) | 1;
}

void guest_fill(const struct host *host, uint64_t gpa, uint64_t bytes)
{
    for (uint64_t at = gpa; at < gpa + bytes; at += PAGE) {
        memset(guest_at(host, at), mark(at), PAGE);
    }
}

static bool all_pages(const struct host *host, uint64_t gpa, uint64_t bytes, bool kept)
{
    uint8_t expected[PAGE];

    for (uint64_t at = gpa; at < gpa + bytes; at += PAGE) {
        memset(expected, kept ? mark(at) : 0, PAGE);
        if (memcmp(guest_at(host, at), expected, PAGE) != 0) {
            return false;
        }
    }
    return true;
}

bool guest_kept(const struct host *host, uint64_t gpa, uint64_t bytes)
{
    return all_pages(host, gpa, bytes, true);
}

bool guest_gone(const struct host *host, uint64_t gpa, uint64_t bytes)
{
    return all_pages(host, gpa, bytes, false);
}

enum VbrStatus request(struct host *host, enum VbrQueueKind queue, const uint32_t *pfns,
                       size_t count)
{
    /* malloc and not an array, so that a byte read too many is found. */
    uint8_t *payload = malloc(count * 4 + 1);

    CHECK(payload != NULL);
    for (size_t i = 0; i < count; i++) {
        for (size_t byte = 0; byte < 4; byte++) {
            payload[i * 4 + byte] = (uint8_t)(pfns[i] >> (8 * byte));
        }
    }
    const struct VbrPart part = {
        .payload = payload, .len = count * 4, .total = count * 4, .last = true, .descriptors = 1
    };
    enum VbrStatus status = vbr_batch_add(host->device, queue, &part);
    free(payload);
    return status;
}

enum VbrStatus request_range(struct host *host, enum VbrQueueKind queue, uint64_t gpa,
                             uint64_t bytes)
{
    size_t count = bytes / PAGE;
    uint32_t *pfns = malloc(count * sizeof(*pfns) + 1);

    CHECK(pfns != NULL);
    for (size_t i = 0; i < count; i++) {
        pfns[i] = (uint32_t)(gpa / PAGE + i);
    }
    enum VbrStatus status = request(host, queue, pfns, count);
    free(pfns);
    return status;
}

unsigned run_batch(struct host *host)
{
    bool done = false;
    unsigned slices = 0;

    while (!done) {
        CHECK_OK(vbr_batch_run(host->device, VBR_INHIBIT_NO, &done));
        slices++;
        CHECK(slices < 100000);
    }
    return slices;
}

void inflate(struct host *host, uint64_t gpa, uint64_t bytes)
{
    CHECK_OK(request_range(host, VBR_QUEUE_KIND_INFLATE, gpa, bytes));
    run_batch(host);
}

void deflate(struct host *host, uint64_t gpa, uint64_t bytes)
{
    CHECK_OK(request_range(host, VBR_QUEUE_KIND_DEFLATE, gpa, bytes));
    run_batch(host);
}

enum VbrStatus report(struct host *host, uint64_t gpa, uint64_t bytes)
{
    const struct VbrReported segment = { guest_at(host, gpa), bytes };

    return vbr_batch_add_report(host->device, &segment, 1, 0);
}

size_t room(const struct host *host, enum VbrQueueKind queue)
{
    size_t bytes = 12345;

    CHECK_OK(vbr_batch_room(host->device, queue, &bytes));
    return bytes;
}

bool hints_accept(struct VbrHints *hints, uint64_t negotiated)
{
    const struct VbrOptions options = { .features = ~UINT64_C(0) };
    const struct VbrHostOps ops = { NULL, NULL, NULL, NULL, NULL };
    struct VbrDevice *device = NULL;
    bool changed;

    CHECK_OK(vbr_device_new(&options, &ops, &device));
    CHECK_OK(vbr_device_set_features(device, negotiated, false));
    CHECK_OK(vbr_hints_negotiated(hints, device, &changed));
    vbr_device_free(device);
    return changed;
}
