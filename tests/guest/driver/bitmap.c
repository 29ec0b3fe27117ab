// SPDX-License-Identifier: GPL-2.0-or-later
/* The set of bits of bitmap.h. */
#include "bitmap.h"

#define LEAF_BITS	(PAGE_SIZE * BITS_PER_BYTE)

/*
 * It is filled while the guest may be short of memory. Whoever adds a bit can
 * do without, so nothing is reclaimed for it.
 */
#define LEAF_GFP	(GFP_NOWAIT | __GFP_NOWARN | __GFP_ZERO)

static void forget(struct vbr_bitmap *map)
{
	map->low = map->n_leaves;
	map->high = 0;
}

/* An empty set that holds bits from 0 to @bits - 1, at least. */
int vbr_bitmap_init(struct vbr_bitmap *map, unsigned long bits)
{
	map->n_leaves = DIV_ROUND_UP(bits, LEAF_BITS);
	map->leaves = kvcalloc(map->n_leaves, sizeof(*map->leaves), GFP_KERNEL);
	if (!map->leaves)
		return -ENOMEM;
	forget(map);
	return 0;
}

/* Frees all; what is left is all zero, and may be cleaned up again. */
void vbr_bitmap_cleanup(struct vbr_bitmap *map)
{
	unsigned long i;

	for (i = 0; map->leaves && i < map->n_leaves; i++)
		free_page((unsigned long)map->leaves[i]);
	kvfree(map->leaves);
	memset(map, 0, sizeof(*map));
}

/* The first number that can be no bit of the set; what is searched in vain. */
unsigned long vbr_bitmap_end(const struct vbr_bitmap *map)
{
	return map->n_leaves * LEAF_BITS;
}

/* -ERANGE past the end, -ENOMEM without memory; then nothing has changed. */
int vbr_bitmap_add(struct vbr_bitmap *map, unsigned long bit)
{
	unsigned long leaf = bit / LEAF_BITS;

	if (leaf >= map->n_leaves)
		return -ERANGE;
	if (!map->leaves[leaf])
		map->leaves[leaf] = (unsigned long *)__get_free_page(LEAF_GFP);
	if (!map->leaves[leaf])
		return -ENOMEM;
	__set_bit(bit % LEAF_BITS, map->leaves[leaf]);
	map->low = min(map->low, leaf);
	map->high = max(map->high, leaf + 1);
	return 0;
}

/* Takes out all bits; their memory is kept, a page for 32768 of them. */
void vbr_bitmap_clear(struct vbr_bitmap *map)
{
	unsigned long i;

	for (i = map->low; i < map->high; i++)
		if (map->leaves[i])
			memset(map->leaves[i], 0, PAGE_SIZE);
	forget(map);
}

/* The lowest bit of the set, or its end. */
unsigned long vbr_bitmap_find_first(const struct vbr_bitmap *map)
{
	return vbr_bitmap_find_next(map, 0);
}

/* The lowest bit that is at least @from, or the end. */
unsigned long vbr_bitmap_find_next(const struct vbr_bitmap *map,
				   unsigned long from)
{
	unsigned long leaf = from / LEAF_BITS, in_leaf = from % LEAF_BITS, bit;

	if (leaf < map->low) {
		leaf = map->low;
		in_leaf = 0;
	}
	for (; leaf < map->high; leaf++, in_leaf = 0) {
		if (!map->leaves[leaf])
			continue;
		bit = find_next_bit(map->leaves[leaf], LEAF_BITS, in_leaf);
		if (bit < LEAF_BITS)
			return leaf * LEAF_BITS + bit;
	}
	return vbr_bitmap_end(map);
}

/* The lowest number from @from on that is not in the set, or the end. */
unsigned long vbr_bitmap_find_next_zero(const struct vbr_bitmap *map,
					unsigned long from)
{
	unsigned long leaf = from / LEAF_BITS, in_leaf = from % LEAF_BITS, bit;

	for (; leaf < map->n_leaves; leaf++, in_leaf = 0) {
		if (!map->leaves[leaf])
			return leaf * LEAF_BITS + in_leaf;
		bit = find_next_zero_bit(map->leaves[leaf], LEAF_BITS, in_leaf);
		if (bit < LEAF_BITS)
			return leaf * LEAF_BITS + bit;
	}
	return vbr_bitmap_end(map);
}
