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

/* What memory is named in. */
enum vbr_form { VBR_CLASSIC, VBR_RANGES, VBR_CHUNKS };
/* How the host asks for free pages: not, or on which queue. */
enum vbr_source { VBR_NO_SOURCE, VBR_HOST_REQUEST, VBR_MISC };

/*
 * A header and what follows it. Ranges and chunks have a header, and its last
 * four bytes say how much follows: in bytes, or in chunks.
 */
struct vbr_message {
	enum vbr_form form;
	u8 *bytes;
	size_t room;
	size_t header;	/* bytes of the header */
	size_t data;	/* bytes in use behind it */
};

struct vbr_asked;

struct vbr {
	struct virtio_device *vdev;
	enum vbr_form form;
	enum vbr_source source;
	struct virtqueue *inflate_vq, *deflate_vq, *stats_vq, *asked_vq;

	/* Woken by every queue; who waits looks into its own. */
	wait_queue_head_t acked;
	struct delayed_work size_work;
	struct work_struct stats_work;
	struct vbr_asked *asked;	/* NULL if the host does not ask */

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
	struct vbr_message message, bad;

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
	VBR_REQUESTS,
	VBR_BAD_REQUESTS,
	VBR_ANSWERED,
	VBR_ANSWER_MESSAGES,
	VBR_ANSWER_BLOCKS,
	VBR_ANSWER_PAGES,
	VBR_LOST_PLACES,
	VBR_LOCK_NS_MOST,
	VBR_FAULTS,
	VBR_N_COUNTS
};

void vbr_count(enum vbr_count which, u64 by);
void vbr_count_most(enum vbr_count which, u64 value);
enum vbr_form vbr_wanted_form(void);
enum vbr_source vbr_wanted_source(void);
bool vbr_wants_must_tell_host(void);
bool vbr_wants_stats(void);
bool vbr_wants_old_bits(void);
unsigned int vbr_batch(void);
size_t vbr_room(void);
size_t vbr_room_most(void);
unsigned int vbr_answer_delay(void);
void vbr_set_in_force(const struct vbr *vb);

/* A parameter that is one of some names; others are refused. */
struct vbr_choice {
	const char * const *names;
	int n;
	int value;
};

extern const struct kernel_param_ops vbr_choice_ops;

/* fault.c */
enum vbr_fault {
	VBR_NO_FAULT,
	/* Of any message's form. */
	VBR_LENGTH_LONG,
	VBR_LENGTH_SHORT,
	VBR_LENGTH_ODD,
	VBR_HEADER_SHORT,
	VBR_HEADER_ONLY,
	VBR_HUGE_COUNT,
	VBR_PAST_RAM,
	VBR_OVERFLOW,
	VBR_EMPTY_RANGE,
	VBR_CUT_SHORT,
	VBR_OFF_BY_ONE,
	VBR_RESERVED_BASE,
	VBR_RESERVED_SIZE,
	VBR_TOO_MANY,
	/* Of answers only. */
	VBR_UNKNOWN_COMMAND,
	VBR_UNKNOWN_FLAG,
	VBR_STALE_ID,
	VBR_NO_ANSWER,
	VBR_NO_ANSWER_BUT_BUFFER,
	VBR_LATE_ANSWER,
	/* Of the buffer for the next request. */
	VBR_BUFFER_SHORT,
	VBR_BUFFER_LONG,
	VBR_BUFFER_TWICE,
	VBR_N_FAULTS
};

enum vbr_where { VBR_ON_INFLATE, VBR_ON_DEFLATE, VBR_ON_ANSWER };

/* A message that is spoiled is at most so long, and 4097 chunks fit. */
#define VBR_BAD_ROOM	(SZ_64K + SZ_1K)

bool vbr_fault_take(enum vbr_fault fault);
bool vbr_spoil(struct vbr_message *bad, const struct vbr_message *good,
	       enum vbr_where where);

/* balloon.c */
void vbr_size_func(struct work_struct *work);
void vbr_give_back_all(struct vbr *vb);
void vbr_write_actual(struct vbr *vb);

/* message.c */
int vbr_message_init(struct vbr_message *message, enum vbr_form form,
		     size_t header, size_t room);
void vbr_message_cleanup(struct vbr_message *message);
u8 *vbr_append(struct vbr_message *message, size_t bytes);
bool vbr_put(struct vbr_message *message, unsigned long unit,
	     unsigned long units);
void vbr_put_length(struct vbr_message *message, u32 length);
void vbr_put_right_length(struct vbr_message *message);
int vbr_send(struct vbr *vb, struct virtqueue *vq, struct vbr_message *message);

/* gather.c */
int vbr_gather_init(struct vbr *vb);
void vbr_gather_cleanup(struct vbr *vb);
int vbr_gather(struct vbr *vb, struct virtqueue *vq, struct page *page);
int vbr_flush(struct vbr *vb, struct virtqueue *vq);
unsigned long vbr_end_of_memory(void);

/* request.c */
int vbr_asked_init(struct vbr *vb, enum vbr_source source);
int vbr_asked_start(struct vbr *vb, struct virtqueue *vq);
void vbr_asked_wake(struct vbr *vb);
void vbr_asked_stop(struct vbr *vb);
void vbr_asked_cleanup(struct vbr *vb);
void vbr_asked_came(struct vbr *vb, void *buffer, unsigned int len);
bool vbr_asked_put(struct vbr_asked *asked, unsigned long pfn,
		   unsigned int order);
bool vbr_asked_make_room(struct vbr_asked *asked, unsigned long blocks);

/* walk.c */
/* How many blocks are looked at while a zone is locked. */
#define VBR_WALK_MOST	512

struct vbr_walk {
	unsigned long pfns[VBR_WALK_MOST];
	unsigned int n;
	bool more;
};

bool vbr_walk_all(struct vbr_walk *walk, struct vbr_asked *asked);

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
