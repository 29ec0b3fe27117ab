/*
 * The host's pool of huge pages
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef VBR_HUGETLB_H
#define VBR_HUGETLB_H

/*
 * Sees to it that @n pages of so many bytes are free. Skips the test, with the
 * reason, and returns false if that cannot be had.
 */
bool vbr_hugetlb_reserve(uint64_t page_size, uint64_t n);
/* Makes the pool as large as it was before. */
void vbr_hugetlb_release(void);
uint64_t vbr_hugetlb_free(uint64_t page_size);

#endif
