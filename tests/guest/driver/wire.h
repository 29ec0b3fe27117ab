/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the founding protocols put on the wire: always little-endian, in units of 4 KiB. */
#ifndef VBR_WIRE_H
#define VBR_WIRE_H

#include "linux.h"

#define VBR_UNIT_SHIFT	VIRTIO_BALLOON_PFN_SHIFT
#define VBR_UNITS_PER_PAGE	(1UL << (PAGE_SHIFT - VBR_UNIT_SHIFT))

/* Feature bits beside those of the standard. */
#define VBR_F_PAGE_RANGE	60
#define VBR_F_HOST_REQUEST	61
#define VBR_F_CHUNKS		62
#define VBR_F_MISC		63
/* Those of the series, which the standard has given to others since. */
#define VBR_F_OLD_PAYLOAD	3	/* page ranges or chunks */
#define VBR_F_OLD_REQUEST	4	/* host requests or the misc queue */

/* Ranges: the length stands in the low bits, or alone in the next word. */
#define VBR_LENGTH_BITS	12
#define VBR_SHORT_MOST	((1UL << VBR_LENGTH_BITS) - 1)

#define VBR_CMD_UNUSED_PAGES	0
#define VBR_FLAG_CONT	0
#define VBR_FLAG_DONE	1

/* Before words: on the inflate and deflate queues only data_len means something. */
struct vbr_resp_hdr {
	__u8 cmd;
	__u8 flag;
	__le16 id;
	__le32 data_len;
} __packed;

/* A question of the host. */
struct vbr_req_hdr {
	__le16 cmd;
	__le16 reserved[3];
	__le64 param;
} __packed;

/* Before chunks: how many. */
struct vbr_chunk_hdr {
	__le32 count;
} __packed;

/* Both in units of 4 KiB, above 12 bits that are reserved. */
struct vbr_chunk {
	__le64 base;
	__le64 size;
} __packed;

#define VBR_CHUNK_SHIFT	12
#define VBR_CHUNKS_MOST	4096

#define VBR_MISC_COMPLETE	1

/* A question of the host, and what its answers begin with. */
struct vbr_misc_hdr {
	__le16 cmd;
	__le16 flags;
} __packed;

#endif
