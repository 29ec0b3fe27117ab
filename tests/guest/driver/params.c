// SPDX-License-Identifier: GPL-2.0-or-later
/* Module parameters: what the driver should speak, and what it has done. */
#include "vbr.h"

static char *protocol = "classic";
module_param(protocol, charp, 0444);
MODULE_PARM_DESC(protocol, "classic, ranges or chunks");

static char *source = "none";
module_param_named(free_pages, source, charp, 0444);
MODULE_PARM_DESC(free_pages, "none, host-request or misc");

static char *feature_bits = "private";
module_param(feature_bits, charp, 0444);
MODULE_PARM_DESC(feature_bits, "private (60 to 63) or historical (3 and 4)");

static bool must_tell_host = true;
module_param(must_tell_host, bool, 0444);
MODULE_PARM_DESC(must_tell_host, "accept MUST_TELL_HOST where it is offered");

static bool stats = true;
module_param(stats, bool, 0444);
MODULE_PARM_DESC(stats, "accept the statistics queue where it is offered");

/* More pages make longer runs; meanwhile they are in no one's use. */
#define BATCH_MOST	(1U << 18)
static unsigned int batch = 1U << 15;
module_param(batch, uint, 0644);
MODULE_PARM_DESC(batch, "pages that ranges and chunks are gathered from");

static atomic64_t counts[VBR_N_COUNTS];
static const char * const count_names[VBR_N_COUNTS] = {
	[VBR_INFLATE_MESSAGES] = "inflate-messages",
	[VBR_INFLATE_RUNS] = "inflate-runs",
	[VBR_INFLATE_PAGES] = "inflate-pages",
	[VBR_DEFLATE_MESSAGES] = "deflate-messages",
	[VBR_DEFLATE_RUNS] = "deflate-runs",
	[VBR_DEFLATE_PAGES] = "deflate-pages",
	[VBR_MOVED_PAGES] = "moved-pages",
};

void vbr_count(enum vbr_count which, u64 by)
{
	atomic64_add(by, &counts[which]);
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

static const char * const protocol_names[] = { "classic", "ranges", "chunks" };
static const char * const source_names[] = { "none", "host-request", "misc" };
static char in_force[128];
module_param_string(in_force, in_force, sizeof(in_force), 0444);
MODULE_PARM_DESC(in_force, "what was agreed with the device");

/* What the device did not offer is not in force. */
void vbr_set_in_force(const struct vbr *vb)
{
	snprintf(in_force, sizeof(in_force),
		 "protocol=%s free_pages=%s must_tell_host=%d stats=%d",
		 protocol_names[vb->protocol], source_names[vb->source],
		 virtio_has_feature(vb->vdev, VIRTIO_BALLOON_F_MUST_TELL_HOST),
		 !!vb->stats_vq);
}

/* The index of @name, or 0, which is what does least. */
static int choice(const char * const names[], size_t n, const char *name)
{
	int i = match_string(names, n, name);

	if (i < 0)
		pr_warn("vbr_founding: no such choice: %s\n", name);
	return max(i, 0);
}

enum vbr_protocol vbr_wanted_protocol(void)
{
	return choice(protocol_names, ARRAY_SIZE(protocol_names), protocol);
}

enum vbr_source vbr_wanted_source(void)
{
	return choice(source_names, ARRAY_SIZE(source_names), source);
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
	return !strcmp(feature_bits, "historical");
}

unsigned int vbr_batch(void)
{
	return clamp(READ_ONCE(batch), 1U, BATCH_MOST);
}
