// SPDX-License-Identifier: GPL-2.0-or-later
/* Messages: their forms, and how one is sent and waited for. */
#include "vbr.h"

/* How often a wait looks whether the device is still there. */
#define LOOK_EVERY	HZ
/* How many looks the device is given when the driver goes. */
#define LAST_LOOKS	3

int vbr_message_init(struct vbr_message *message, enum vbr_form form,
		     size_t header, size_t room)
{
	message->form = form;
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
u8 *vbr_append(struct vbr_message *message, size_t bytes)
{
	size_t used = message->header + message->data;

	if (message->room - used < bytes)
		return NULL;
	message->data += bytes;
	return message->bytes + used;
}

/* A range in its short or long form. */
static bool put_range(struct vbr_message *message, unsigned long unit,
		      unsigned long units)
{
	bool is_short = units <= VBR_SHORT_MOST;
	u64 word = (u64)unit << VBR_LENGTH_BITS;
	u8 *at = vbr_append(message, is_short ? 8 : 16);

	if (!at)
		return false;
	put_unaligned_le64(is_short ? word | units : word, at);
	if (!is_short)
		put_unaligned_le64(units, at + 8);
	return true;
}

static bool put_chunk(struct vbr_message *message, unsigned long unit,
		      unsigned long units)
{
	u8 *at;

	if (message->data >= VBR_CHUNKS_MOST * sizeof(struct vbr_chunk))
		return false;
	at = vbr_append(message, sizeof(struct vbr_chunk));
	if (!at)
		return false;
	put_unaligned_le64((u64)unit << VBR_CHUNK_SHIFT, at);
	put_unaligned_le64((u64)units << VBR_CHUNK_SHIFT, at + 8);
	return true;
}

/* Adds a run of memory; false when the message is full, and then unchanged. */
bool vbr_put(struct vbr_message *message, unsigned long unit,
	     unsigned long units)
{
	if (message->form == VBR_RANGES)
		return put_range(message, unit, units);
	return put_chunk(message, unit, units);
}

/* Writes into the header how much follows. */
void vbr_put_length(struct vbr_message *message, u32 length)
{
	if (message->header >= sizeof(length))
		put_unaligned_le32(length, message->bytes + message->header -
					   sizeof(length));
}

void vbr_put_right_length(struct vbr_message *message)
{
	size_t unit = message->form == VBR_CHUNKS ? sizeof(struct vbr_chunk) : 1;

	vbr_put_length(message, message->data / unit);
}

/* Whether @message came back; what else did is a request of the host. */
static bool came_back(struct vbr *vb, struct virtqueue *vq,
		      const struct vbr_message *message)
{
	unsigned int len;
	void *buffer;

	while ((buffer = virtqueue_get_buf(vq, &len)) != NULL) {
		if (buffer == message)
			return true;
		vbr_asked_came(vb, buffer, len);
	}
	return false;
}

/* Waits until the one message on @vq comes back. */
static int wait_acked(struct vbr *vb, struct virtqueue *vq,
		      const struct vbr_message *message)
{
	unsigned int looks = 0;

	while (!wait_event_timeout(vb->acked, came_back(vb, vq, message),
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
 * data the header of ranges goes alone: a descriptor is never empty.
 */
int vbr_send(struct vbr *vb, struct virtqueue *vq, struct vbr_message *message)
{
	struct scatterlist sg[2];
	unsigned int n = 1;
	int err;

	if (READ_ONCE(vb->lost))
		return -EIO;
	if (message->form == VBR_RANGES && message->data) {
		n = 2;
		sg_init_table(sg, n);
		sg_set_buf(&sg[0], message->bytes, message->header);
		sg_set_buf(&sg[1], message->bytes + message->header,
			   message->data);
	} else {
		sg_init_one(sg, message->bytes, message->header + message->data);
	}
	/* The queue is all but empty: there is room without an indirect table, too. */
	err = virtqueue_add_outbuf(vq, sg, n, message, GFP_NOWAIT | __GFP_NOWARN);
	if (!err && !virtqueue_kick(vq))
		err = -EIO;
	if (err) {
		WRITE_ONCE(vb->lost, true);
		return err;
	}
	return wait_acked(vb, vq, message);
}
