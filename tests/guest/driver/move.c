// SPDX-License-Identifier: GPL-2.0-or-later
/* The kernel moves pages of the balloon when it compacts memory. */
#include "vbr.h"

#if defined(CONFIG_BALLOON_COMPACTION) || defined(CONFIG_BALLOON_MIGRATION)

#ifndef VBR_KERNEL_MOVES

/*
 * An isolated page is in no list, so that only its marks go. The kernel's own
 * helper for this has changed its name within stable series.
 */
static void unmark(struct page *page)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
	balloon_page_finalize(page);
#else
	__ClearPageMovable(page);
	set_page_private(page, 0);
	__ClearPageOffline(page);
#endif
}

#endif

/*
 * @newpage takes the place of @page in the kernel's lists, and the balloon's
 * reference to @page goes.
 */
static void replace(struct balloon_dev_info *info __maybe_unused,
		    struct page *newpage __maybe_unused,
		    struct page *page __maybe_unused)
{
#ifndef VBR_KERNEL_MOVES
	unsigned long flags;

	get_page(newpage);
	spin_lock_irqsave(&info->pages_lock, flags);
	balloon_page_insert(info, newpage);
	info->isolated_pages--;
	__count_vm_event(BALLOON_MIGRATE);
	unmark(page);
	spin_unlock_irqrestore(&info->pages_lock, flags);
	put_page(page);
#endif
}

static int tell_page(struct vbr *vb, struct virtqueue *vq, struct page *page)
{
	int err = vbr_gather(vb, vq, page);

	return err ? err : vbr_flush(vb, vq);
}

/*
 * @page becomes @newpage. The device has acknowledged that the new page is in
 * the balloon before it hears that the old one is not, and that before the old
 * page is free: at no time does it have a page that the guest uses. Both
 * messages leave before this returns, whatever the protocol.
 */
static int move(struct balloon_dev_info *info, struct page *newpage,
		struct page *page, enum migrate_mode mode __always_unused)
{
	struct vbr *vb = container_of(info, struct vbr, info);
	int err;

	/* Both pages are locked: whoever waits for them may hold our lock. */
	if (!mutex_trylock(&vb->lock))
		return -EAGAIN;
	if (READ_ONCE(vb->stopping) || READ_ONCE(vb->lost)) {
		mutex_unlock(&vb->lock);
		return -EAGAIN;
	}
	err = tell_page(vb, vb->inflate_vq, newpage);
	if (!err)
		err = tell_page(vb, vb->deflate_vq, page);

	adjust_managed_page_count(newpage, -1);
	if (err) {
		/* The device is lost, and has both until it is reset. */
		get_page(page);
		vb->held = page;
	} else {
		vbr_count(VBR_MOVED_PAGES, 1);
		adjust_managed_page_count(page, 1);
	}
	replace(info, newpage, page);
	mutex_unlock(&vb->lock);
	return 0;
}

void vbr_move_init(struct vbr *vb)
{
	balloon_devinfo_init(&vb->info);
	vb->info.migratepage = move;
}

#else

void vbr_move_init(struct vbr *vb)
{
	balloon_devinfo_init(&vb->info);
}

#endif
