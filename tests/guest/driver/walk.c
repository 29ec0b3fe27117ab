// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The lists of free memory, from the largest blocks to single pages.
 *
 * A zone is locked while its lists are looked at, with interrupts off, but
 * never for more than VBR_WALK_MOST blocks. In between the lists may change:
 * the walk goes on behind the last block that is still where it was. It may
 * miss blocks or name some twice, and both do no harm: a block that is named
 * was free at that moment, and that is all that is promised.
 */
#include "vbr.h"

/* Blocks that are tried as the place to go on from, the last ones first. */
#define PLACES_MOST	64

static bool is_free(struct page *page, struct zone *zone, unsigned int order)
{
	return PageBuddy(page) && page_private(page) == order &&
	       page_zone(page) == zone;
}

/* With the zone locked: where to go on in a list of this order. */
static struct list_head *place(struct vbr_walk *walk, struct zone *zone,
			       unsigned int order, struct list_head *head)
{
	unsigned int i, tries = 0;

	for (i = walk->n; i > 0 && tries < PLACES_MOST; i--, tries++) {
		/* Memory may have been unplugged meanwhile. */
		struct page *page = pfn_to_online_page(walk->pfns[i - 1]);

		if (page && is_free(page, zone, order))
			return page->buddy_list.next;
	}
	if (walk->n)
		vbr_count(VBR_LOST_PLACES, 1);
	return head->next;
}

/* A block may have gone to the list of another type: any list's head ends the walk. */
static bool is_head(const struct free_area *area, const struct list_head *at)
{
	return at >= &area->free_list[0] && at < &area->free_list[MIGRATE_TYPES];
}

/* Takes down the next blocks of a list. */
static void look(struct vbr_walk *walk, struct zone *zone, unsigned int order,
		 unsigned int type)
{
	struct free_area *area = &zone->free_area[order];
	struct list_head *at;
	unsigned long flags;
	unsigned int n = 0;
	u64 begun, took;

	spin_lock_irqsave(&zone->lock, flags);
	begun = ktime_get_mono_fast_ns();
	at = place(walk, zone, order, &area->free_list[type]);
	while (!is_head(area, at) && n < VBR_WALK_MOST) {
		walk->pfns[n++] = page_to_pfn(list_entry(at, struct page,
							 buddy_list));
		at = at->next;
	}
	walk->n = n;
	walk->more = !is_head(area, at);
	took = ktime_get_mono_fast_ns() - begun;
	spin_unlock_irqrestore(&zone->lock, flags);
	vbr_count_most(VBR_LOCK_NS_MOST, took);
}

static bool walk_list(struct vbr_walk *walk, struct vbr_asked *asked,
		      struct zone *zone, unsigned int order, unsigned int type)
{
	unsigned long budget, i;

	/* A list whose blocks come back behind us has no end of its own. */
	budget = 2 * READ_ONCE(zone->free_area[order].nr_free) + VBR_WALK_MOST;
	walk->n = 0;
	do {
		look(walk, zone, order, type);
		for (i = 0; i < walk->n; i++)
			if (!vbr_asked_put(asked, walk->pfns[i], order))
				return false;
		budget -= min_t(unsigned long, budget, walk->n);
		cond_resched();
	} while (walk->more && budget);
	return true;
}

static bool walk_zone(struct vbr_walk *walk, struct vbr_asked *asked,
		      struct zone *zone, unsigned int order)
{
	unsigned int type;

	if (!populated_zone(zone))
		return true;
	if (!vbr_asked_make_room(asked, READ_ONCE(zone->free_area[order].nr_free)))
		return false;
	for (type = 0; type < MIGRATE_TYPES; type++)
		if (!walk_list(walk, asked, zone, order, type))
			return false;
	return true;
}

/* Puts all free memory into answers; false when they cannot be sent. */
bool vbr_walk_all(struct vbr_walk *walk, struct vbr_asked *asked)
{
	int order, nid, i;

	for (order = ARRAY_SIZE(((struct zone *)NULL)->free_area) - 1;
	     order >= 0; order--)
		for_each_online_node(nid)
			for (i = 0; i < MAX_NR_ZONES; i++)
				if (!walk_zone(walk, asked,
					       &NODE_DATA(nid)->node_zones[i],
					       order))
					return false;
	return true;
}
