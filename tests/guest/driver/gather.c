// SPDX-License-Identifier: GPL-2.0-or-later
/* Pages of the balloon become messages on the inflate and deflate queues. */
#include "vbr.h"

/* Sends what the message has gathered, if anything. */
static int send_gathered(struct vbr *vb, struct virtqueue *vq)
{
	bool inflate = vq == vb->inflate_vq;
	int err = 0;

	if (!vb->message.data)
		return 0;
	vbr_put_right_length(&vb->message);
	if (vbr_spoil(&vb->bad, &vb->message,
		      inflate ? VBR_ON_INFLATE : VBR_ON_DEFLATE)) {
		/*
		 * The host does without the pages of a spoiled inflate. Before
		 * a page is used again it must have heard so, whatever else.
		 */
		err = vbr_send(vb, vq, &vb->bad);
		if (!err && !inflate)
			err = vbr_send(vb, vq, &vb->message);
	} else {
		err = vbr_send(vb, vq, &vb->message);
	}
	vb->message.data = 0;
	vbr_count(inflate ? VBR_INFLATE_MESSAGES : VBR_DEFLATE_MESSAGES, 1);
	return err;
}

/* Adds a run of units to the message; a full message is sent first. */
static int put_run(struct vbr *vb, struct virtqueue *vq, unsigned long unit,
		   unsigned long units)
{
	bool inflate = vq == vb->inflate_vq;
	int err;

	vbr_count(inflate ? VBR_INFLATE_RUNS : VBR_DEFLATE_RUNS, 1);
	while (!vbr_put(&vb->message, unit, units)) {
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

	if (vb->form != VBR_CLASSIC && !vbr_bitmap_empty(&vb->gathered))
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
		__virtio32 *at = (void *)vbr_append(&vb->message, sizeof(*at));

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

	if (vb->form == VBR_CLASSIC)
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
unsigned long vbr_end_of_memory(void)
{
	unsigned long end = 0;
	int nid;

	for_each_online_node(nid)
		end = max(end, pgdat_end_pfn(NODE_DATA(nid)));
	return end;
}

static size_t header_size(enum vbr_form form)
{
	switch (form) {
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
	size_t header = header_size(vb->form);
	int err = vbr_message_init(&vb->message, vb->form, header, vbr_room());

	if (!err)
		err = vbr_message_init(&vb->bad, vb->form, header, VBR_BAD_ROOM);
	if (!err && vb->form != VBR_CLASSIC)
		err = vbr_bitmap_init(&vb->gathered, vbr_end_of_memory());
	return err;
}

void vbr_gather_cleanup(struct vbr *vb)
{
	vbr_bitmap_cleanup(&vb->gathered);
	vbr_message_cleanup(&vb->bad);
	vbr_message_cleanup(&vb->message);
}
