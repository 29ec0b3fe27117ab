/*
 * The messages of the founding series: page ranges and chunks, in both
 * directions
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_MESSAGE_H
#define VBR_MESSAGE_H

#include "vbr-driver.h"

/* The devices that speak one series, with private and historical bits. */
#define VBR_RANGE_OPTS "page-range=on,host-request=on"
#define VBR_CHUNKS_OPTS "balloon-chunks=on,misc-queue=on"
#define VBR_HISTORICAL "page-poison=off,founding-feature-bits=historical"

/* Guest memory, in whole pages. */
typedef struct VbrRange {
    uint64_t addr;
    uint64_t bytes;
} VbrRange;

/* The bytes of a message; all of them little endian, whatever the guest is. */
void vbr_put(GByteArray *msg, uint64_t val, unsigned int bytes);
GByteArray *vbr_bytes(const void *bytes, size_t len);

/* resp_hdr and words, as they are given. */
GByteArray *vbr_words(const uint64_t *words, size_t n);
GByteArray *vbr_answer_words(uint16_t id, bool done, const uint64_t *words,
                             size_t n);
/* page_chunk_hdr and chunks, as they are given. */
GByteArray *vbr_chunks(const VbrRange *chunks, size_t n);
GByteArray *vbr_answer_chunks(bool done, const VbrRange *chunks, size_t n);
/* Whether inflate and deflate are in words, not in chunks. */
bool vbr_speaks_words(VbrDev *d);
/*
 * The same ranges in the format of a queue: inflate or deflate in that of the
 * series which the driver accepted, or an answer to request @id.
 */
GByteArray *vbr_ranges(VbrDev *d, const VbrRange *ranges, size_t n);
GByteArray *vbr_answer(VbrQueue q, uint64_t id, bool done,
                       const VbrRange *ranges, size_t n);

/* A message in guest memory. */
VbrSeg vbr_message(VbrDev *d, const GByteArray *msg);
/* Sends it in one descriptor, and frees it. */
void vbr_send_message(VbrDev *d, VbrQueue q, GByteArray *msg);
/* Sends it in descriptors that end at these offsets, and at its end. */
void vbr_send_cut(VbrDev *d, VbrQueue q, const GByteArray *msg,
                  const size_t *at, size_t n);
/* One range, for those who need no more. */
void vbr_send_one(VbrDev *d, VbrQueue q, uint64_t addr, size_t pages);

/* The case's numbering, then vbr_start; the driver speaks ranges or chunks. */
void vbr_founding_start(VbrDev *d);
/* Where this device has a feature of the private bits. */
unsigned int vbr_founding_bit(VbrDev *d, unsigned int private_bit);
#define vbr_founding_mask(d, feature) \
    (1ull << vbr_founding_bit(d, feature))

/* How long a request is: 16 bytes, or 4 in the misc queue. */
uint32_t vbr_request_size(VbrQueue q);
/* Gives the device a buffer to ask with; returns where that is. */
uint64_t vbr_request_post(VbrDev *d, VbrQueue q);
/* Takes that buffer back, with a request in it, whose id is returned. */
uint64_t vbr_request_take(VbrDev *d, VbrQueue q, uint64_t buffer);
/* Answers with one range, or none. */
void vbr_request_answer(VbrDev *d, VbrQueue q, uint64_t id, bool done,
                        uint64_t addr, size_t pages);
/* Starts a slow migration to nowhere and returns the id of its request. */
uint64_t vbr_request_begin(VbrDev *d, VbrQueue q);

/* What is said of messages of which something was dropped. */
void vbr_assert_malformed(VbrDev *d, uint64_t messages, uint64_t bytes,
                          const char *reason);

#endif
