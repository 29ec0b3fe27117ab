// SPDX-License-Identifier: GPL-2.0-or-later
/* Messages on the inflate and deflate queues: gather pages, form, send, wait. */
#include "vbr.h"

/* How often a wait looks whether the device is still there. */
#define LOOK_EVERY	HZ
/* How many looks the device is given when the driver goes. */
#define LAST_LOOKS	3

int vbr_message_init(struct vbr_message *message, size_t header, size_t room)
{
	message->bytes = kmalloc(room, GFP_KERNEL);
	message->room = room;
	message->header = header;
	message->data = 0;
	return message->bytes ? 0 : -ENOMEM;
}

void vbr_message_cleanup(struct vbr_message *message)
{
	kfree(message->bytes);
	memset(message, 0, sizeof(*message));
}

/* Room for @bytes more, or NULL. What it returns need not be aligned. */
static u8 *append(struct vbr_message *message, size_t bytes)
{
	size_t used = message->header + message->data;

	if (message->room - used < bytes)
		return NULL;
	message->data += bytes;
	return message->bytes + used;
}

/* Adds a range in its short or long form; false when the message is full. */
bool vbr_put_range(struct vbr_message *message, unsigned long unit,
		   unsigned long units)
{
	bool is_short = units <= VBR_SHORT_MOST;
	u64 word = (u64)unit << VBR_LENGTH_BITS;
	u8 *at = append(message, is_short ? 8 : 16);

	if (!at)
		return false;
	put_unaligned_le64(is_short ? word | units : word, at);
	if (!is_short)
		put_unaligned_le64(units, at + 8);
	return true;
}

/* Adds a chunk; false when the message is full. */
bool vbr_put_chunk(struct vbr_message *message, unsigned long unit,
		   unsigned long units)
{
	u8 *at;

	if (message->data >= VBR_CHUNKS_MOST * sizeof(struct vbr_chunk))
		return false;
	at = append(message, sizeof(struct vbr_chunk));
	if (!at)
		return false;
	put_unaligned_le64((u64)unit << VBR_CHUNK_SHIFT, at);
	put_unaligned_le64((u64)units << VBR_CHUNK_SHIFT, at + 8);
	return true;
}

/* Waits until the one message on @vq comes back. */
static int wait_acked(struct vbr *vb, struct virtqueue *vq)
{
	unsigned int len, looks = 0;

	while (!wait_event_timeout(vb->acked, virtqueue_get_buf(vq, &len),
				   LOOK_EVERY)) {
		if (virtqueue_is_broken(vq) ||
		    (READ_ONCE(vb->stopping) && ++looks >= LAST_LOOKS)) {
			WRITE_ONCE(vb->lost, true);
			return -EIO;
		}
	}
	return 0;
}

/*
 * Sends what @message holds as one chain and waits for its return. Without
 * data a header that stands apart goes alone: a descriptor is never empty.
 */
int vbr_send(struct vbr *vb, struct virtqueue *vq, struct vbr_message *message,
	     bool header_apart)
{
	struct scatterlist sg[2];
	unsigned int n = 1;
	int err;

	if (READ_ONCE(vb->lost))
		return -EIO;
	if (header_apart && message->data) {
		n = 2;
		sg_init_table(sg, n);
		sg_set_buf(&sg[0], message->bytes, message->header);
		sg_set_buf(&sg[1], message->bytes + message->header,
			   message->data);
	} else {
		sg_init_one(sg, message->bytes, message->header + message->data);
	}
	/* The queue is empty: there is room, with or without an indirect table. */
	err = virtqueue_add_outbuf(vq, sg, n, message, GFP_NOWAIT | __GFP_NOWARN);
	if (!err && !virtqueue_kick(vq))
		err = -EIO;
	if (err) {
		WRITE_ONCE(vb->lost, true);
		return err;
	}
	return wait_acked(vb, vq);
}

static void form_header(struct vbr *vb)
{
	struct vbr_message *message = &vb->message;

	if (vb->protocol == VBR_RANGES) {
		struct vbr_resp_hdr *hdr = (void *)message->bytes;

		memset(hdr, 0, sizeof(*hdr));
		hdr->data_len = cpu_to_le32(message->data);
	} else if (vb->protocol == VBR_CHUNKS) {
		struct vbr_chunk_hdr *hdr = (void *)message->bytes;

		hdr->count = cpu_to_le32(message->data / sizeof(struct vbr_chunk));
	}
}

/* Sends what the message has gathered, if anything. */
static int send_gathered(struct vbr *vb, struct virtqueue *vq)
{
	bool inflate = vq == vb->inflate_vq;
	int err;

	if (!vb->message.data)
		return 0;
	form_header(vb);
	err = vbr_send(vb, vq, &vb->message, vb->protocol == VBR_RANGES);
	vb->message.data = 0;
	vbr_count(inflate ? VBR_INFLATE_MESSAGES : VBR_DEFLATE_MESSAGES, 1);
	return err;
}

/* Adds a run of units to the message; a full message is sent first. */
static int put_run(struct vbr *vb, struct virtqueue *vq, unsigned long unit,
		   unsigned long units)
{
	bool ranges = vb->protocol == VBR_RANGES;
	bool inflate = vq == vb->inflate_vq;
	int err;

	vbr_count(inflate ? VBR_INFLATE_RUNS : VBR_DEFLATE_RUNS, 1);
	while (!(ranges ? vbr_put_range(&vb->message, unit, units) :
			  vbr_put_chunk(&vb->message, unit, units))) {
		err = send_gathered(vb, vq);
		if (err)
			return err;
	}
	return 0;
}

/* The bits that were gathered become runs, in ascending order. */
static int put_gathered(struct vbr *vb, struct virtqueue *vq)
{
	unsigned long from = vbr_bitmap_find_first(&vb->gathered), to;
	int err = 0;

	while (!err && from < vbr_bitmap_end(&vb->gathered)) {
		to = vbr_bitmap_find_next_zero(&vb->gathered, from);
		err = put_run(vb, vq, from * VBR_UNITS_PER_PAGE,
			      (to - from) * VBR_UNITS_PER_PAGE);
		from = vbr_bitmap_find_next(&vb->gathered, to);
	}
	vbr_bitmap_clear(&vb->gathered);
	return err;
}

/* Sends all that was gathered. Afterwards nothing is, error or not. */
int vbr_flush(struct vbr *vb, struct virtqueue *vq)
{
	int err = 0;

	if (vb->protocol != VBR_CLASSIC && !vbr_bitmap_empty(&vb->gathered))
		err = put_gathered(vb, vq);
	if (!err)
		err = send_gathered(vb, vq);
	vb->message.data = 0;
	return err;
}

static int gather_classic(struct vbr *vb, struct virtqueue *vq,
			  const struct page *page)
{
	unsigned long unit = vbr_unit(page), i;
	int err = 0;

	for (i = 0; i < VBR_UNITS_PER_PAGE; i++) {
		__virtio32 *at = (void *)append(&vb->message, sizeof(*at));

		*at = cpu_to_virtio32(vb->vdev, unit + i);
	}
	if (vb->message.data >= VBR_CLASSIC_MOST * sizeof(__virtio32))
		err = send_gathered(vb, vq);
	return err;
}

/* Memory was plugged in: makes the bitmap, which is empty, longer. */
static int lengthen(struct vbr *vb, unsigned long pfn)
{
	struct vbr_bitmap longer;
	int err = vbr_bitmap_init(&longer, roundup_pow_of_two(pfn + 1));

	if (err)
		return err;
	vbr_bitmap_cleanup(&vb->gathered);
	vb->gathered = longer;
	return 0;
}

/*
 * Adds a page to what the next flush sends, which it does itself when there is
 * no room. All pages until then are for the same queue.
 */
int vbr_gather(struct vbr *vb, struct virtqueue *vq, struct page *page)
{
	unsigned long pfn = page_to_pfn(page);
	int err;

	if (vb->protocol == VBR_CLASSIC)
		return gather_classic(vb, vq, page);
	if (!vbr_bitmap_add(&vb->gathered, pfn))
		return 0;
	err = vbr_flush(vb, vq);
	if (err)
		return err;
	if (pfn >= vbr_bitmap_end(&vb->gathered))
		lengthen(vb, pfn);
	if (!vbr_bitmap_add(&vb->gathered, pfn))
		return 0;
	/* No memory for a page of bits: this one goes alone. */
	return put_run(vb, vq, vbr_unit(page), VBR_UNITS_PER_PAGE);
}

/* The first page frame behind all memory. */
static unsigned long end_of_memory(void)
{
	unsigned long end = 0;
	int nid;

	for_each_online_node(nid)
		end = max(end, pgdat_end_pfn(NODE_DATA(nid)));
	return end;
}

static size_t header_size(enum vbr_protocol protocol)
{
	switch (protocol) {
	case VBR_RANGES:
		return sizeof(struct vbr_resp_hdr);
	case VBR_CHUNKS:
		return sizeof(struct vbr_chunk_hdr);
	default:
		return 0;
	}
}

int vbr_gather_init(struct vbr *vb)
{
	int err = vbr_message_init(&vb->message, header_size(vb->protocol),
				   VBR_ROOM);

	if (!err && vb->protocol != VBR_CLASSIC)
		err = vbr_bitmap_init(&vb->gathered, end_of_memory());
	return err;
}

void vbr_gather_cleanup(struct vbr *vb)
{
	vbr_bitmap_cleanup(&vb->gathered);
	vbr_message_cleanup(&vb->message);
}
