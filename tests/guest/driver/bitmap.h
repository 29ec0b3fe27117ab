/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A set of bits, sparse, with an end. It knows nothing about pages.
 *
 * Nothing here sleeps except to allocate, and nothing locks.
 */
#ifndef VBR_BITMAP_H
#define VBR_BITMAP_H

#include "linux.h"

struct vbr_bitmap {
	unsigned long **leaves;	/* each a page of bits, or NULL */
	unsigned long n_leaves;
	unsigned long low, high;	/* leaves with bits: low <= leaf < high */
};

int vbr_bitmap_init(struct vbr_bitmap *map, unsigned long bits);
void vbr_bitmap_cleanup(struct vbr_bitmap *map);
int vbr_bitmap_add(struct vbr_bitmap *map, unsigned long bit);
void vbr_bitmap_clear(struct vbr_bitmap *map);
unsigned long vbr_bitmap_end(const struct vbr_bitmap *map);
unsigned long vbr_bitmap_find_first(const struct vbr_bitmap *map);
unsigned long vbr_bitmap_find_next(const struct vbr_bitmap *map,
				   unsigned long from);
unsigned long vbr_bitmap_find_next_zero(const struct vbr_bitmap *map,
					unsigned long from);

static inline bool vbr_bitmap_empty(const struct vbr_bitmap *map)
{
	return map->low >= map->high;
}

#endif
