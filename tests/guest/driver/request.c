// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The host asks which memory is free, and is answered in as many messages as
 * it takes: on the request queue with ranges, on the misc queue with chunks.
 *
 * A buffer lies with the host, which returns it to ask. The answer comes from
 * a work item, one message at a time, and then the host gets a new buffer.
 */
#include "vbr.h"

/* Buffers in a row that a host may return without a word. */
#define REFUSALS_MOST	8

struct vbr_asked {
	struct vbr *vb;
	struct virtqueue *vq;
	struct work_struct work;
	enum vbr_source source;

	/* Written by the host. The spare one goes there only as a fault. */
	u8 buffer[2 * sizeof(struct vbr_req_hdr)] __aligned(8);
	u8 spare[sizeof(struct vbr_req_hdr)] __aligned(8);
	bool came;		/* the buffer is back and was not looked at */
	unsigned int came_with;	/* the bytes that the host wrote */
	unsigned int refusals;

	u64 id;
	struct vbr_message answer, bad;
	struct vbr_walk walk;
};

static bool is_misc(const struct vbr_asked *asked)
{
	return asked->source == VBR_MISC;
}

static unsigned int question_size(const struct vbr_asked *asked)
{
	return is_misc(asked) ? sizeof(struct vbr_misc_hdr) :
				sizeof(struct vbr_req_hdr);
}

static int post(struct vbr_asked *asked, void *buffer, unsigned int size)
{
	struct scatterlist sg;
	int err;

	memset(buffer, 0xff, size);
	sg_init_one(&sg, buffer, size);
	err = virtqueue_add_inbuf(asked->vq, &sg, 1, buffer, GFP_KERNEL);
	if (!err && !virtqueue_kick(asked->vq))
		err = -EIO;
	return err;
}

/* Gives the host a buffer for its next request. */
static int post_buffer(struct vbr_asked *asked)
{
	unsigned int size = question_size(asked);
	int err;

	asked->came = false;
	if (vbr_fault_take(VBR_BUFFER_SHORT))
		size /= 2;
	else if (vbr_fault_take(VBR_BUFFER_LONG))
		size *= 2;
	err = post(asked, asked->buffer, size);
	if (!err && vbr_fault_take(VBR_BUFFER_TWICE))
		err = post(asked, asked->spare, question_size(asked));
	return err;
}

/* A buffer has come back; the spare one is not looked at. */
void vbr_asked_came(struct vbr *vb, void *buffer, unsigned int len)
{
	struct vbr_asked *asked = vb->asked;

	if (!asked || buffer != asked->buffer)
		return;
	asked->came = true;
	asked->came_with = len;
}

static void put_header(struct vbr_asked *asked, u64 id, bool done)
{
	u8 *bytes = asked->answer.bytes;

	memset(bytes, 0, asked->answer.header);
	if (is_misc(asked)) {
		put_unaligned_le16(VBR_CMD_UNUSED_PAGES, bytes);
		put_unaligned_le16(done ? VBR_MISC_COMPLETE : 0, bytes + 2);
	} else {
		bytes[0] = VBR_CMD_UNUSED_PAGES;
		bytes[1] = done ? VBR_FLAG_DONE : VBR_FLAG_CONT;
		put_unaligned_le16(id, bytes + 2);
	}
	vbr_put_right_length(&asked->answer);
}

static int send_message(struct vbr_asked *asked, u64 id, bool done)
{
	struct vbr *vb = asked->vb;
	unsigned int delay = vbr_answer_delay();
	int err = 0;

	if (delay)
		wait_event_timeout(vb->acked, READ_ONCE(vb->stopping),
				   msecs_to_jiffies(delay));
	if (READ_ONCE(vb->stopping))
		return -ESHUTDOWN;
	put_header(asked, id, done);
	if (vbr_spoil(&asked->bad, &asked->answer, VBR_ON_ANSWER))
		err = vbr_send(vb, asked->vq, &asked->bad);
	if (!err)
		err = vbr_send(vb, asked->vq, &asked->answer);
	asked->answer.data = 0;
	vbr_count(VBR_ANSWER_MESSAGES, 1);
	return err;
}

/* Adds a free block; what is full is sent. */
bool vbr_asked_put(struct vbr_asked *asked, unsigned long pfn,
		   unsigned int order)
{
	unsigned long unit = pfn * VBR_UNITS_PER_PAGE;
	unsigned long units = VBR_UNITS_PER_PAGE << order;

	while (!vbr_put(&asked->answer, unit, units))
		if (send_message(asked, asked->id, false))
			return false;
	vbr_count(VBR_ANSWER_BLOCKS, 1);
	vbr_count(VBR_ANSWER_PAGES, 1UL << order);
	return true;
}

static void grow(struct vbr_message *message, size_t room)
{
	u8 *bytes = kmalloc(room, GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);

	if (!bytes)
		return;
	kfree(message->bytes);
	message->bytes = bytes;
	message->room = room;
}

/*
 * Sees to it that a list of so many blocks fits: what was gathered leaves
 * first, then the buffer grows. A longer list takes more messages.
 */
bool vbr_asked_make_room(struct vbr_asked *asked, unsigned long blocks)
{
	struct vbr_message *answer = &asked->answer;
	size_t each = is_misc(asked) ? sizeof(struct vbr_chunk) : sizeof(__le64);
	size_t room;

	blocks = min_t(unsigned long, blocks, vbr_room_most() / each);
	room = answer->header + blocks * each;
	if (room + answer->data <= answer->room)
		return true;
	if (answer->data && send_message(asked, asked->id, false))
		return false;
	room = min_t(size_t, roundup_pow_of_two(room), vbr_room_most());
	if (room > answer->room)
		grow(answer, room);
	return true;
}

/* Memory that the guest uses, its kernel's too: a host must not take this. */
static int send_used_memory(struct vbr_asked *asked, u64 id)
{
	const unsigned long from = SZ_1M >> VBR_UNIT_SHIFT;
	unsigned long to = min_t(unsigned long, SZ_512M >> VBR_UNIT_SHIFT,
				 vbr_end_of_memory() * VBR_UNITS_PER_PAGE);

	asked->answer.data = 0;
	vbr_put(&asked->answer, from, to - from);
	return send_message(asked, id, false);
}

static int answer(struct vbr_asked *asked)
{
	int err;

	asked->answer.data = 0;
	/* The misc queue has no ids. */
	if (!is_misc(asked) && vbr_fault_take(VBR_STALE_ID)) {
		err = send_used_memory(asked, asked->id - 1);
		if (err)
			return err;
	}
	if (!vbr_walk_all(&asked->walk, asked))
		return -EIO;
	err = send_message(asked, asked->id, true);
	if (!err && vbr_fault_take(VBR_LATE_ANSWER))
		err = send_used_memory(asked, asked->id);
	if (!err)
		vbr_count(VBR_ANSWERED, 1);
	return err;
}

/* Looks at the buffer that came back; whether the host gets another one. */
static bool serve(struct vbr_asked *asked)
{
	/* Nothing is asked: it is returned when the machine stops, for example. */
	if (!asked->came_with && asked->refusals++ < REFUSALS_MOST)
		return true;
	if (asked->came_with != question_size(asked)) {
		/* As in the series: whoever breaks the protocol gets no more. */
		vbr_count(VBR_BAD_REQUESTS, 1);
		return false;
	}
	asked->refusals = 0;
	vbr_count(VBR_REQUESTS, 1);
	if (get_unaligned_le16(asked->buffer) != VBR_CMD_UNUSED_PAGES) {
		vbr_count(VBR_BAD_REQUESTS, 1);
		return true;
	}
	asked->id = is_misc(asked) ? 0 : get_unaligned_le64(asked->buffer + 8);
	if (vbr_fault_take(VBR_NO_ANSWER))
		return false;
	if (vbr_fault_take(VBR_NO_ANSWER_BUT_BUFFER))
		return true;
	return !answer(asked);
}

static void asked_func(struct work_struct *work)
{
	struct vbr_asked *asked = container_of(work, struct vbr_asked, work);
	unsigned int len;
	void *buffer;

	while (!READ_ONCE(asked->vb->stopping)) {
		if (!asked->came) {
			buffer = virtqueue_get_buf(asked->vq, &len);
			if (!buffer)
				return;
			vbr_asked_came(asked->vb, buffer, len);
			continue;
		}
		asked->came = false;
		if (serve(asked) && post_buffer(asked))
			return;
	}
}

int vbr_asked_init(struct vbr *vb, enum vbr_source source)
{
	struct vbr_asked *asked;
	enum vbr_form form = VBR_RANGES;
	size_t header = sizeof(struct vbr_resp_hdr);
	int err;

	if (source == VBR_NO_SOURCE)
		return 0;
	asked = kzalloc(sizeof(*asked), GFP_KERNEL);
	if (!asked)
		return -ENOMEM;
	vb->asked = asked;
	asked->vb = vb;
	asked->source = source;
	INIT_WORK(&asked->work, asked_func);
	if (source == VBR_MISC) {
		form = VBR_CHUNKS;
		header = sizeof(struct vbr_misc_hdr) + sizeof(struct vbr_chunk_hdr);
	}
	err = vbr_message_init(&asked->answer, form, header, vbr_room());
	if (!err)
		err = vbr_message_init(&asked->bad, form, header, VBR_BAD_ROOM);
	return err;
}

int vbr_asked_start(struct vbr *vb, struct virtqueue *vq)
{
	if (!vb->asked)
		return 0;
	vb->asked->vq = vq;
	return post_buffer(vb->asked);
}

/* From the queue's callback: a message came back, or a request came. */
void vbr_asked_wake(struct vbr *vb)
{
	if (vb->asked && !READ_ONCE(vb->stopping))
		queue_work(system_freezable_wq, &vb->asked->work);
}

void vbr_asked_stop(struct vbr *vb)
{
	if (vb->asked)
		cancel_work_sync(&vb->asked->work);
}

void vbr_asked_cleanup(struct vbr *vb)
{
	if (!vb->asked)
		return;
	vbr_message_cleanup(&vb->asked->bad);
	vbr_message_cleanup(&vb->asked->answer);
	kfree(vb->asked);
	vb->asked = NULL;
}
