// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A balloon driver that speaks what no mainline driver does: ranges and chunks
 * instead of single pages, and answers to a host that asks which pages are
 * free. It is for tests: it can also be told to misbehave. The formats are
 * those of the 2016 and 2017 patch series; wire.h has them.
 *
 * - main.c     the device: features, queues, coming and going
 * - params.c   what is chosen and counted, under /sys/module/vbr_founding/parameters
 * - balloon.c  the size: pages in, pages out
 * - gather.c   pages become messages (message.c); bitmap.c gathers them
 * - move.c     the kernel moves pages of the balloon
 * - request.c  the host asks for free memory, walk.c finds it
 * - fault.c    misbehaviour
 * - stats.c    a few statistics
 */
#include "vbr.h"

/* No alias of the device: it is loaded by name only, instead of the stock driver. */
static const struct virtio_device_id ids[] = {
	{ VIRTIO_ID_BALLOON, VIRTIO_DEV_ANY_ID },
	{ 0, 0 },
};

static const unsigned int features[] = {
	VIRTIO_BALLOON_F_MUST_TELL_HOST,
	VIRTIO_BALLOON_F_STATS_VQ,
	VBR_F_OLD_PAYLOAD,
	VBR_F_OLD_REQUEST,
	VBR_F_PAGE_RANGE,
	VBR_F_HOST_REQUEST,
	VBR_F_CHUNKS,
	VBR_F_MISC,
};

static unsigned int form_bit(enum vbr_form form)
{
	if (vbr_wants_old_bits())
		return VBR_F_OLD_PAYLOAD;
	return form == VBR_RANGES ? VBR_F_PAGE_RANGE : VBR_F_CHUNKS;
}

static unsigned int source_bit(enum vbr_source source)
{
	if (vbr_wants_old_bits())
		return VBR_F_OLD_REQUEST;
	return source == VBR_HOST_REQUEST ? VBR_F_HOST_REQUEST : VBR_F_MISC;
}

/* Of what both sides know, only what was asked for is accepted. */
static int validate(struct virtio_device *vdev)
{
	enum vbr_form form = vbr_wanted_form();
	enum vbr_source source = vbr_wanted_source();
	u64 wanted = BIT_ULL(VIRTIO_BALLOON_F_MUST_TELL_HOST) |
		     BIT_ULL(VIRTIO_BALLOON_F_STATS_VQ);
	unsigned int i;

	if (!vbr_wants_must_tell_host())
		wanted &= ~BIT_ULL(VIRTIO_BALLOON_F_MUST_TELL_HOST);
	if (!vbr_wants_stats())
		wanted &= ~BIT_ULL(VIRTIO_BALLOON_F_STATS_VQ);
	if (form != VBR_CLASSIC)
		wanted |= BIT_ULL(form_bit(form));
	if (source != VBR_NO_SOURCE)
		wanted |= BIT_ULL(source_bit(source));
	for (i = 0; i < ARRAY_SIZE(features); i++)
		if (!(wanted & BIT_ULL(features[i])))
			__virtio_clear_bit(vdev, features[i]);
	/* Pages are named by their guest addresses, never by those of an IOMMU. */
	__virtio_clear_bit(vdev, VIRTIO_F_ACCESS_PLATFORM);
	return 0;
}

static void choose(struct vbr *vb)
{
	struct virtio_device *vdev = vb->vdev;

	vb->form = vbr_wanted_form();
	if (vb->form != VBR_CLASSIC &&
	    !virtio_has_feature(vdev, form_bit(vb->form))) {
		dev_warn(&vdev->dev, "the device has single pages only\n");
		vb->form = VBR_CLASSIC;
	}
	vb->source = vbr_wanted_source();
	if (vb->source != VBR_NO_SOURCE &&
	    !virtio_has_feature(vdev, source_bit(vb->source))) {
		dev_warn(&vdev->dev, "the device does not ask for free pages\n");
		vb->source = VBR_NO_SOURCE;
	}
}

static void acked(struct virtqueue *vq)
{
	struct vbr *vb = vq->vdev->priv;

	wake_up(&vb->acked);
}

static void stats_asked(struct virtqueue *vq)
{
	struct vbr *vb = vq->vdev->priv;

	if (!READ_ONCE(vb->stopping))
		queue_work(system_freezable_wq, &vb->stats_work);
}

static void asked(struct virtqueue *vq)
{
	struct vbr *vb = vq->vdev->priv;

	wake_up(&vb->acked);
	vbr_asked_wake(vb);
}

/* For queues of which we only need that they stand before ours. */
static void unused(struct virtqueue *vq __always_unused)
{
}

#define QUEUES_MOST	7

static int find_queues(struct virtio_device *vdev, unsigned int n,
		       struct virtqueue *vqs[], vq_callback_t *callbacks[],
		       const char * const names[])
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
	struct virtqueue_info info[QUEUES_MOST] = {};
	unsigned int i;

	for (i = 0; i < n; i++) {
		info[i].name = names[i];
		info[i].callback = callbacks[i];
	}
	return virtio_find_vqs(vdev, n, vqs, info, NULL);
#else
	return virtio_find_vqs(vdev, n, vqs, callbacks, names, NULL);
#endif
}

/* The first 64 bits, which a transport is asked for in another way since 6.17. */
static u64 offered_features(struct virtio_device *vdev)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
	/* Two are written; the constant that says so has had several names. */
	u64 features[8];

	virtio_get_features(vdev, features);
	return features[0];
#else
	return vdev->config->get_features(vdev);
#endif
}

/*
 * The number of the queue that the host asks on. With the old bits it is
 * always the fourth. Otherwise the queues of what the device *offers* come in
 * this order, whether we accept it or not.
 */
static unsigned int asked_queue(struct vbr *vb)
{
	static const unsigned int before[] = {
		VIRTIO_BALLOON_F_FREE_PAGE_HINT, VIRTIO_BALLOON_F_REPORTING,
		VBR_F_HOST_REQUEST,
	};
	u64 offered = offered_features(vb->vdev);
	unsigned int i, number = 3;

	if (vbr_wants_old_bits())
		return number;
	for (i = 0; i < ARRAY_SIZE(before); i++) {
		if (before[i] == source_bit(vb->source))
			break;
		if (offered & BIT_ULL(before[i]))
			number++;
	}
	return number;
}

/* Linux numbers queues without gaps, so all up to the last one get a name. */
static int init_queues(struct vbr *vb)
{
	static const char * const names[QUEUES_MOST] = {
		"inflate", "deflate", "stats", "third", "fourth", "fifth", "sixth",
	};
	vq_callback_t *callbacks[QUEUES_MOST] = {
		acked, acked, unused, unused, unused, unused, unused,
	};
	struct virtqueue *vqs[QUEUES_MOST];
	bool has_stats = virtio_has_feature(vb->vdev, VIRTIO_BALLOON_F_STATS_VQ);
	unsigned int n = has_stats ? 3 : 2;
	int err;

	if (has_stats)
		callbacks[2] = stats_asked;
	if (vb->source != VBR_NO_SOURCE) {
		n = asked_queue(vb) + 1;
		callbacks[n - 1] = asked;
	}
	err = find_queues(vb->vdev, n, vqs, callbacks, names);
	if (err)
		return err;
	vb->inflate_vq = vqs[0];
	vb->deflate_vq = vqs[1];
	vb->stats_vq = has_stats ? vqs[2] : NULL;
	vb->asked_vq = vb->source != VBR_NO_SOURCE ? vqs[n - 1] : NULL;
	return 0;
}

static int probe(struct virtio_device *vdev)
{
	struct vbr *vb;
	int err;

	if (!vdev->config->get)
		return -EINVAL;
	vb = kzalloc(sizeof(*vb), GFP_KERNEL);
	if (!vb)
		return -ENOMEM;
	vdev->priv = vb;
	vb->vdev = vdev;
	init_waitqueue_head(&vb->acked);
	mutex_init(&vb->lock);
	INIT_DELAYED_WORK(&vb->size_work, vbr_size_func);
	INIT_WORK(&vb->stats_work, vbr_stats_func);
	vbr_move_init(vb);
	choose(vb);
	err = vbr_gather_init(vb);
	if (!err)
		err = vbr_asked_init(vb, vb->source);
	if (!err)
		err = init_queues(vb);
	if (err)
		goto fail;

	virtio_device_ready(vdev);
	err = vbr_stats_start(vb);
	if (!err)
		err = vbr_asked_start(vb, vb->asked_vq);
	if (err)
		goto fail_queues;
	vbr_set_in_force(vb);
	queue_delayed_work(system_freezable_wq, &vb->size_work, 0);
	return 0;

fail_queues:
	WRITE_ONCE(vb->stopping, true);
	virtio_reset_device(vdev);
	cancel_work_sync(&vb->stats_work);
	vbr_asked_stop(vb);
	vdev->config->del_vqs(vdev);
fail:
	vbr_asked_cleanup(vb);
	vbr_gather_cleanup(vb);
	kfree(vb);
	return err;
}

static void remove(struct virtio_device *vdev)
{
	struct vbr *vb = vdev->priv;

	WRITE_ONCE(vb->stopping, true);
	wake_up(&vb->acked);
	cancel_delayed_work_sync(&vb->size_work);
	cancel_work_sync(&vb->stats_work);
	vbr_asked_stop(vb);
	/* This ends with the device's reset, so that no queue calls us again. */
	vbr_give_back_all(vb);
	/* A callback or a size's change may have come in between. */
	cancel_delayed_work_sync(&vb->size_work);
	cancel_work_sync(&vb->stats_work);
	vbr_asked_stop(vb);
	vdev->config->del_vqs(vdev);
	vbr_asked_cleanup(vb);
	vbr_gather_cleanup(vb);
	/* Who moved our last page may still be about to leave the lock. */
	synchronize_rcu();
	kfree(vb);
}

static void config_changed(struct virtio_device *vdev)
{
	struct vbr *vb = vdev->priv;

	if (!READ_ONCE(vb->stopping))
		mod_delayed_work(system_freezable_wq, &vb->size_work, 0);
}

static struct virtio_driver vbr_driver = {
	.driver.name = "vbr_founding",
	.driver.owner = THIS_MODULE,
	.id_table = ids,
	.feature_table = features,
	.feature_table_size = ARRAY_SIZE(features),
	.validate = validate,
	.probe = probe,
	.remove = remove,
	.config_changed = config_changed,
};
module_virtio_driver(vbr_driver);

MODULE_DESCRIPTION("virtio balloon driver with page ranges, chunks and host requests");
MODULE_LICENSE("GPL");
