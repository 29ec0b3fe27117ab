/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The driver's state, and what its files offer each other. */
#ifndef VBR_H
#define VBR_H

#include "bitmap.h"
#include "linux.h"
#include "wire.h"

/* As the stock driver: a message of single page numbers has at most these. */
#define VBR_CLASSIC_MOST	256
/* Bytes of a message to start with; those of answers grow up to the second. */
#define VBR_ROOM	SZ_32K
#define VBR_ROOM_MOST	SZ_256K

enum vbr_protocol { VBR_CLASSIC, VBR_RANGES, VBR_CHUNKS };
enum vbr_source { VBR_NO_SOURCE, VBR_HOST_REQUEST, VBR_MISC };

/* A header and what follows it; how they are told apart the sender knows. */
struct vbr_message {
	u8 *bytes;
	size_t room;
	size_t header;	/* bytes that are kept for the header */
	size_t data;	/* bytes in use behind it */
};

struct vbr {
	struct virtio_device *vdev;
	enum vbr_protocol protocol;
	enum vbr_source source;
	struct virtqueue *inflate_vq, *deflate_vq, *stats_vq, *request_vq;

	/* Woken by every queue; who waits looks into its own. */
	wait_queue_head_t acked;
	struct delayed_work size_work;
	struct work_struct stats_work;

	/* Set once, when the driver goes: no new work, no endless waiting. */
	bool stopping;
	/* The device did not answer: what is out there is not ours any more. */
	bool lost;

	/*
	 * What follows: the pages of the balloon, the inflate and the deflate
	 * queue. Whoever moves a page only tries to take it, as the moved page
	 * is locked.
	 */
	struct mutex lock;
	struct balloon_dev_info info;
	unsigned long pages;
	struct page *held;	/* not told to be out of the balloon; one at most */
	struct vbr_bitmap gathered;
	struct vbr_message message;

	struct virtio_balloon_stat stats[3];
};

/* params.c */
enum vbr_count {
	VBR_INFLATE_MESSAGES,
	VBR_INFLATE_RUNS,
	VBR_INFLATE_PAGES,
	VBR_DEFLATE_MESSAGES,
	VBR_DEFLATE_RUNS,
	VBR_DEFLATE_PAGES,
	VBR_MOVED_PAGES,
	VBR_N_COUNTS
};

void vbr_count(enum vbr_count which, u64 by);
enum vbr_protocol vbr_wanted_protocol(void);
enum vbr_source vbr_wanted_source(void);
bool vbr_wants_must_tell_host(void);
bool vbr_wants_stats(void);
bool vbr_wants_old_bits(void);
unsigned int vbr_batch(void);
void vbr_set_in_force(const struct vbr *vb);

/* balloon.c */
void vbr_size_func(struct work_struct *work);
void vbr_give_back_all(struct vbr *vb);
void vbr_write_actual(struct vbr *vb);

/* message.c */
int vbr_message_init(struct vbr_message *message, size_t header, size_t room);
void vbr_message_cleanup(struct vbr_message *message);
bool vbr_put_range(struct vbr_message *message, unsigned long unit,
		   unsigned long units);
bool vbr_put_chunk(struct vbr_message *message, unsigned long unit,
		   unsigned long units);
int vbr_send(struct vbr *vb, struct virtqueue *vq, struct vbr_message *message,
	     bool header_apart);
int vbr_gather_init(struct vbr *vb);
void vbr_gather_cleanup(struct vbr *vb);
int vbr_gather(struct vbr *vb, struct virtqueue *vq, struct page *page);
int vbr_flush(struct vbr *vb, struct virtqueue *vq);

/* move.c */
void vbr_move_init(struct vbr *vb);

/* stats.c */
void vbr_stats_func(struct work_struct *work);
int vbr_stats_start(struct vbr *vb);

static inline unsigned long vbr_unit(const struct page *page)
{
	return page_to_pfn(page) << (PAGE_SHIFT - VBR_UNIT_SHIFT);
}

#endif
