// SPDX-License-Identifier: GPL-2.0-or-later
/* The balloon's size: pages go in and out until the target is reached. */
#include "vbr.h"

/* When the guest had no page left to give, until it is tried again. */
#define RETRY_AFTER	(HZ / 5)

/* Pages between this size and the target; above 0: to put into the balloon. */
static s64 towards_target(struct vbr *vb)
{
	s64 target;
	u32 units;

	virtio_cread_le(vb->vdev, struct virtio_balloon_config, num_pages,
			&units);
	target = units / VBR_UNITS_PER_PAGE;
	return target - (s64)READ_ONCE(vb->pages);
}

void vbr_write_actual(struct vbr *vb)
{
	u32 units = READ_ONCE(vb->pages) * VBR_UNITS_PER_PAGE;

	virtio_cwrite_le(vb->vdev, struct virtio_balloon_config, actual,
			 &units);
}

/* Puts at most @want pages into the balloon and tells; how many it got. */
static unsigned long fill(struct vbr *vb, unsigned long want)
{
	unsigned long got = 0;
	struct page *page, *next;
	LIST_HEAD(pages);

	while (got < want && !READ_ONCE(vb->stopping)) {
		page = balloon_page_alloc();
		if (!page)
			break;
		list_add(&page->lru, &pages);
		got++;
		cond_resched();
	}
	if (!got)
		return 0;

	mutex_lock(&vb->lock);
	/* In the balloon they are at once; no one frees or moves them meanwhile. */
	list_for_each_entry_safe(page, next, &pages, lru) {
		list_del(&page->lru);
		balloon_page_enqueue(&vb->info, page);
		adjust_managed_page_count(page, -1);
		vb->pages++;
		/* If the device is lost, its pages stay until the driver goes. */
		vbr_gather(vb, vb->inflate_vq, page);
	}
	vbr_flush(vb, vb->inflate_vq);
	vbr_count(VBR_INFLATE_PAGES, got);
	mutex_unlock(&vb->lock);
	return got;
}

static void release(struct vbr *vb, struct list_head *pages)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, pages, lru) {
		list_del(&page->lru);
		adjust_managed_page_count(page, 1);
		put_page(page);
		vb->pages--;
	}
}

/*
 * Takes at most @want pages out of the balloon. They are told and acknowledged
 * before they are free; if that fails they stay in the balloon.
 */
static unsigned long leak(struct vbr *vb, unsigned long want)
{
	unsigned long got;
	struct page *page;
	LIST_HEAD(pages);
	int err = 0;

	mutex_lock(&vb->lock);
	got = balloon_page_list_dequeue(&vb->info, &pages,
					min(want, vb->pages));
	list_for_each_entry(page, &pages, lru) {
		err = vbr_gather(vb, vb->deflate_vq, page);
		if (err)
			break;
	}
	if (!err)
		err = vbr_flush(vb, vb->deflate_vq);
	if (err) {
		balloon_page_list_enqueue(&vb->info, &pages);
		got = 0;
	} else {
		vbr_count(VBR_DEFLATE_PAGES, got);
		release(vb, &pages);
	}
	mutex_unlock(&vb->lock);
	return got;
}

/* Goes one batch towards the target, and comes again if it is not there. */
void vbr_size_func(struct work_struct *work)
{
	struct vbr *vb = container_of(to_delayed_work(work), struct vbr,
				      size_work);
	unsigned long batch = vbr_batch(), got = 0;
	s64 diff = towards_target(vb);

	if (!diff || READ_ONCE(vb->stopping) || READ_ONCE(vb->lost))
		return;
	if (vb->form == VBR_CLASSIC)
		batch = VBR_CLASSIC_MOST / VBR_UNITS_PER_PAGE;
	if (diff > 0)
		got = fill(vb, min_t(u64, diff, batch));
	else
		got = leak(vb, min_t(u64, -diff, batch));
	vbr_write_actual(vb);
	if (towards_target(vb))
		queue_delayed_work(system_freezable_wq, &vb->size_work,
				   got ? 0 : RETRY_AFTER);
}

/*
 * Empties the balloon when the driver goes. A device that does not answer is
 * reset first: then it knows of no page, and all are free to use.
 */
void vbr_give_back_all(struct vbr *vb)
{
	LIST_HEAD(pages);

	while (READ_ONCE(vb->pages) && !READ_ONCE(vb->lost))
		if (!leak(vb, vbr_batch()) && !READ_ONCE(vb->lost))
			msleep(20);	/* the rest is being moved */
	if (!READ_ONCE(vb->lost))
		vbr_write_actual(vb);
	virtio_reset_device(vb->vdev);
	while (READ_ONCE(vb->pages)) {
		mutex_lock(&vb->lock);
		balloon_page_list_dequeue(&vb->info, &pages, vb->pages);
		release(vb, &pages);
		mutex_unlock(&vb->lock);
		if (vb->pages)
			msleep(20);
	}
	if (vb->held) {
		adjust_managed_page_count(vb->held, 1);
		put_page(vb->held);
	}
}
