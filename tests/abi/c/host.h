/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A host with guest memory of its own, and the requests that a guest makes. */

#ifndef HOST_H
#define HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "virtio_balloon_rs.h"

/* Feature bits; virtio 1.3, 5.5.3. */
#define MUST_TELL_HOST (UINT64_C(1) << 0)
#define STATS_VQ (UINT64_C(1) << 1)
#define DEFLATE_ON_OOM (UINT64_C(1) << 2)
#define FREE_PAGE_HINT (UINT64_C(1) << 3)
#define PAGE_POISON (UINT64_C(1) << 4)
#define REPORTING (UINT64_C(1) << 5)
/* The founding protocols, by their private numbers. */
#define PAGE_RANGE (UINT64_C(1) << 60)
#define HOST_REQUEST (UINT64_C(1) << 61)
#define BALLOON_CHUNKS (UINT64_C(1) << 62)
#define MISC_QUEUE (UINT64_C(1) << 63)
/* Those that most tests offer. */
#define ALL_FEATURES (MUST_TELL_HOST | STATS_VQ | DEFLATE_ON_OOM | PAGE_POISON | REPORTING)

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define HUGE_PAGE (2 * MIB)

/*
 * Guest memory. The low block has the hole that a PC has, and ends in two sections that touch. The
 * second block claims pages of 2 MiB. Only the low one can be freed lazily. The third wants to know of pages that will be used again, and
 * its halves stand in guest memory the other way round than in the host's.
 */
#define LOW_BYTES (64 * MIB)
#define LOW_HOLE UINT64_C(0xa0000)
#define LOW_HOLE_END (1 * MIB)
#define LOW_SEAM (32 * MIB)
#define LARGE_GPA (128 * MIB)
#define LARGE_BYTES (16 * MIB)
#define TOLD_GPA (256 * MIB)
#define TOLD_HALF (2 * MIB)
#define TOLD_BYTES (2 * TOLD_HALF)
#define RAM (LOW_BYTES + LARGE_BYTES + TOLD_BYTES)
/* An address of nothing. */
#define NOWHERE (512 * MIB)

enum { LOW, LARGE, TOLD, BLOCKS };
enum { SECTIONS = 6, MAX_RECORDS = 4096 };

struct block {
    uint8_t *base;
    uint64_t bytes;
    uint64_t page_size;
};

/* What a callback was asked for. */
struct record {
    int block;
    uint64_t offset;
    uint64_t bytes;
};

struct host {
    struct VbrDevice *device;
    struct block blocks[BLOCKS];
    struct VbrSection sections[SECTIONS];
    struct record discards[MAX_RECORDS];
    size_t discard_count;
    struct record frees[MAX_RECORDS];
    size_t free_count;
    struct record populates[MAX_RECORDS];
    size_t populate_count;
    /* How often discards were asked for, with any number of spans. */
    size_t discard_calls;
    /* If not 0, discards do nothing and answer this; those at one offset only, if that is not 0. */
    int discard_answer;
    uint64_t refused_offset;
    /* If not NULL, called from each callback. */
    void (*inside)(struct host *host);
};

/* A host with a device that offers ALL_FEATURES, of which the driver took `negotiated`. */
struct host *host_new(uint64_t negotiated);
/* The same with a device made with these options. */
struct host *host_with(const struct VbrOptions *options, uint64_t negotiated);
void host_free(struct host *host);
struct VbrHostOps host_ops(struct host *host);
struct VbrCounters host_counters(const struct host *host);
/* Forgets which callbacks were called. */
void host_forget(struct host *host);

uint8_t *guest_at(const struct host *host, uint64_t gpa);
/* Fills guest memory with bytes that are not 0 and differ from page to page. */
void guest_fill(const struct host *host, uint64_t gpa, uint64_t bytes);
/* Whether it still holds what guest_fill wrote; whether it was discarded. */
bool guest_kept(const struct host *host, uint64_t gpa, uint64_t bytes);
bool guest_gone(const struct host *host, uint64_t gpa, uint64_t bytes);

/* Adds one request with so many PFNs, in little-endian, and all its descriptors in the right way. */
enum VbrStatus request(struct host *host, enum VbrQueueKind queue, const uint32_t *pfns,
                       size_t count);
/* The same for the pages of a range. */
enum VbrStatus request_range(struct host *host, enum VbrQueueKind queue, uint64_t gpa,
                             uint64_t bytes);
/* Runs the batch to its end and says how many slices that took. */
unsigned run_batch(struct host *host);
void inflate(struct host *host, uint64_t gpa, uint64_t bytes);
void deflate(struct host *host, uint64_t gpa, uint64_t bytes);
/* Reports the memory at `gpa` as one segment, without running the batch. */
enum VbrStatus report(struct host *host, uint64_t gpa, uint64_t bytes);
/* A driver that took these features, by their private numbers; says whether it sees another command. */
bool hints_accept(struct VbrHints *hints, uint64_t negotiated);
size_t room(const struct host *host, enum VbrQueueKind queue);

#endif
