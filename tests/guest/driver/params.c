// SPDX-License-Identifier: GPL-2.0-or-later
/* Module parameters: what the driver should speak, and what it has done. */
#include "vbr.h"

static int choice_set(const char *text, const struct kernel_param *kp)
{
	struct vbr_choice *choice = kp->arg;
	int i = __sysfs_match_string(choice->names, choice->n, text);

	if (i < 0)
		return i;
	WRITE_ONCE(choice->value, i);
	return 0;
}

static int choice_get(char *buffer, const struct kernel_param *kp)
{
	const struct vbr_choice *choice = kp->arg;

	return scnprintf(buffer, PAGE_SIZE, "%s\n",
			 choice->names[READ_ONCE(choice->value)]);
}

const struct kernel_param_ops vbr_choice_ops = {
	.set = choice_set,
	.get = choice_get,
};

/* These may be written, too; they count when the driver is bound the next time. */
static const char * const form_names[] = { "classic", "ranges", "chunks" };
static struct vbr_choice protocol = { form_names, ARRAY_SIZE(form_names), 0 };
module_param_cb(protocol, &vbr_choice_ops, &protocol, 0644);
MODULE_PARM_DESC(protocol, "classic, ranges or chunks");

static const char * const source_names[] = { "none", "host-request", "misc" };
static struct vbr_choice source = { source_names, ARRAY_SIZE(source_names), 0 };
module_param_cb(free_pages, &vbr_choice_ops, &source, 0644);
MODULE_PARM_DESC(free_pages, "none, host-request or misc");

static const char * const bits_names[] = { "private", "historical" };
static struct vbr_choice feature_bits = { bits_names, ARRAY_SIZE(bits_names), 0 };
module_param_cb(feature_bits, &vbr_choice_ops, &feature_bits, 0644);
MODULE_PARM_DESC(feature_bits, "private (60 to 63) or historical (3 and 4)");

static bool must_tell_host = true;
module_param(must_tell_host, bool, 0644);
MODULE_PARM_DESC(must_tell_host, "accept MUST_TELL_HOST where it is offered");

static bool stats = true;
module_param(stats, bool, 0644);
MODULE_PARM_DESC(stats, "accept the statistics queue where it is offered");

/* More pages make longer runs; meanwhile they are in no one's use. */
#define BATCH_MOST	BIT(18)
static unsigned int batch = 1U << 15;
module_param(batch, uint, 0644);
MODULE_PARM_DESC(batch, "pages that ranges and chunks are gathered from");

/* Small ones make many messages of one answer. They count at the next bind. */
static unsigned int room = VBR_ROOM;
module_param(room, uint, 0644);
MODULE_PARM_DESC(room, "bytes of a message to begin with");

static unsigned int room_most = VBR_ROOM_MOST;
module_param(room_most, uint, 0644);
MODULE_PARM_DESC(room_most, "bytes that a message of an answer may grow to");

/* Leaves time for something to happen in the middle of an answer. */
#define DELAY_MOST	60000U
static unsigned int answer_delay;
module_param(answer_delay, uint, 0644);
MODULE_PARM_DESC(answer_delay, "milliseconds to wait before each message of an answer");

static atomic64_t counts[VBR_N_COUNTS];
static const char * const count_names[VBR_N_COUNTS] = {
	[VBR_INFLATE_MESSAGES] = "inflate-messages",
	[VBR_INFLATE_RUNS] = "inflate-runs",
	[VBR_INFLATE_PAGES] = "inflate-pages",
	[VBR_DEFLATE_MESSAGES] = "deflate-messages",
	[VBR_DEFLATE_RUNS] = "deflate-runs",
	[VBR_DEFLATE_PAGES] = "deflate-pages",
	[VBR_MOVED_PAGES] = "moved-pages",
	[VBR_REQUESTS] = "requests",
	[VBR_BAD_REQUESTS] = "bad-requests",
	[VBR_ANSWERED] = "answered",
	[VBR_ANSWER_MESSAGES] = "answer-messages",
	[VBR_ANSWER_BLOCKS] = "answer-blocks",
	[VBR_ANSWER_PAGES] = "answer-pages",
	[VBR_LOST_PLACES] = "lost-places",
	[VBR_LOCK_NS_MOST] = "lock-ns-most",
	[VBR_FAULTS] = "faults",
};

void vbr_count(enum vbr_count which, u64 by)
{
	atomic64_add(by, &counts[which]);
}

/* For one writer. */
void vbr_count_most(enum vbr_count which, u64 value)
{
	if (value > (u64)atomic64_read(&counts[which]))
		atomic64_set(&counts[which], value);
}

static int counts_get(char *buffer,
		      const struct kernel_param *kp __always_unused)
{
	int i, at = 0;

	for (i = 0; i < VBR_N_COUNTS; i++)
		at += scnprintf(buffer + at, PAGE_SIZE - at, "%s %lld\n",
				count_names[i],
				(long long)atomic64_read(&counts[i]));
	return at;
}

static const struct kernel_param_ops counts_ops = { .get = counts_get };
module_param_cb(counts, &counts_ops, NULL, 0444);
MODULE_PARM_DESC(counts, "a name and a number a line");

static char in_force[128];
module_param_string(in_force, in_force, sizeof(in_force), 0444);
MODULE_PARM_DESC(in_force, "what was agreed with the device");

/* What the device did not offer is not in force. */
void vbr_set_in_force(const struct vbr *vb)
{
	snprintf(in_force, sizeof(in_force),
		 "protocol=%s free_pages=%s must_tell_host=%d stats=%d",
		 form_names[vb->form], source_names[vb->source],
		 virtio_has_feature(vb->vdev, VIRTIO_BALLOON_F_MUST_TELL_HOST),
		 !!vb->stats_vq);
}

enum vbr_form vbr_wanted_form(void)
{
	return READ_ONCE(protocol.value);
}

enum vbr_source vbr_wanted_source(void)
{
	return READ_ONCE(source.value);
}

bool vbr_wants_must_tell_host(void)
{
	return must_tell_host;
}

bool vbr_wants_stats(void)
{
	return stats;
}

bool vbr_wants_old_bits(void)
{
	return READ_ONCE(feature_bits.value) == 1;
}

unsigned int vbr_batch(void)
{
	return clamp_t(unsigned int, READ_ONCE(batch), 1, BATCH_MOST);
}

/* A message of single pages must fit. */
size_t vbr_room(void)
{
	return clamp_t(size_t, READ_ONCE(room),
		       VBR_CLASSIC_MOST * sizeof(__virtio32), VBR_ROOM_MOST);
}

size_t vbr_room_most(void)
{
	return clamp_t(size_t, READ_ONCE(room_most), vbr_room(), VBR_ROOM_MOST);
}

unsigned int vbr_answer_delay(void)
{
	return min(READ_ONCE(answer_delay), DELAY_MOST);
}
