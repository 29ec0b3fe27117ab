// SPDX-License-Identifier: GPL-2.0-or-later
/* A few statistics: one buffer goes to and fro. */
#include "vbr.h"

static void set(struct vbr *vb, unsigned int i, u16 tag, u64 value)
{
	vb->stats[i].tag = cpu_to_virtio16(vb->vdev, tag);
	vb->stats[i].val = cpu_to_virtio64(vb->vdev, value);
}

static int send(struct vbr *vb)
{
	struct scatterlist sg;
	struct sysinfo info;
	int err;

	si_meminfo(&info);
	set(vb, 0, VIRTIO_BALLOON_S_MEMFREE, (u64)info.freeram << PAGE_SHIFT);
	set(vb, 1, VIRTIO_BALLOON_S_MEMTOT, (u64)info.totalram << PAGE_SHIFT);
	set(vb, 2, VIRTIO_BALLOON_S_AVAIL, (u64)si_mem_available() << PAGE_SHIFT);
	sg_init_one(&sg, vb->stats, sizeof(vb->stats));
	err = virtqueue_add_outbuf(vb->stats_vq, &sg, 1, vb, GFP_KERNEL);
	if (!err && !virtqueue_kick(vb->stats_vq))
		err = -EIO;
	return err;
}

/* The device has taken the last ones when it asks for the next. */
void vbr_stats_func(struct work_struct *work)
{
	struct vbr *vb = container_of(work, struct vbr, stats_work);
	unsigned int len;

	if (!READ_ONCE(vb->stopping) && virtqueue_get_buf(vb->stats_vq, &len))
		send(vb);
}

int vbr_stats_start(struct vbr *vb)
{
	return vb->stats_vq ? send(vb) : 0;
}
