// SPDX-License-Identifier: GPL-2.0-or-later
//! The addresses of a batch, made into sorted disjoint ranges.

use crate::page::{GpaRange, PAGE_SIZE};
use sparse_bitmap::masks;

/// From how many ranges on, and up to how many pages from the first to the last, a bit for each page puts
/// them in order sooner than a sort: 4 KiB for 128 MiB, all of which is looked at.
const MIN_FOR_BITMAP: usize = 512;
const MAX_PAGES_FOR_BITMAP: u64 = 1 << 20;

const WORD_BITS: u64 = u64::BITS as u64;

/// Gathers ranges in any order, overlapping or twice, and gives them back sorted and merged.
///
/// Drivers list neighbouring pages one after the other, upward or downward, so most pages join the
/// range before them and never reach the sort.
#[derive(Default)]
pub(crate) struct Runs {
    ranges: Vec<GpaRange>,
    /// A bit for each page, while ranges are put in order by it.
    words: Vec<u64>,
}

impl Runs {
    /// Adds a range.
    #[inline]
    pub(crate) fn push(&mut self, range: GpaRange) {
        if let Some(last) = self.ranges.last_mut()
            && last.try_merge(range)
        {
            return;
        }
        self.ranges.push(range);
    }

    /// Sorts the ranges and merges all that overlap or touch. Afterwards they ascend, none touches
    /// the next, and together they cover exactly the addresses that were added. Returns how many
    /// had to be sorted.
    pub(crate) fn merge(&mut self) -> usize {
        let is_sorted = self.ranges.is_sorted_by_key(|range| range.start());
        let sorted = if is_sorted { 0 } else { self.ranges.len() };
        if !is_sorted {
            if let Some(pages) = self.pages_for_bitmap() {
                self.gather(pages);
                return sorted;
            }
            self.ranges.sort_unstable_by_key(|range| range.start());
        }
        self.ranges.dedup_by(|next, kept| kept.try_merge(*next));
        sorted
    }

    /// The pages from the first to the last, if a bitmap of them is the way to go. Only whole pages fit
    /// into one.
    fn pages_for_bitmap(&self) -> Option<std::ops::Range<u64>> {
        if self.ranges.len() < MIN_FOR_BITMAP {
            return None;
        }
        let (mut first, mut last, mut bits, mut sum) = (u64::MAX, 0, 0, 0u64);
        for range in &self.ranges {
            sum = sum.saturating_add(range.pages());
            first = first.min(range.start().0);
            last = last.max(range.end().0);
            bits |= range.start().0 | range.end().0;
        }
        let pages = first / PAGE_SIZE..last / PAGE_SIZE;
        // Ranges that overlap can be many more pages in all than there are from the first to the last.
        let most = sum.max(pages.end - pages.start);
        let fits = bits.is_multiple_of(PAGE_SIZE) && most <= MAX_PAGES_FOR_BITMAP;
        fits.then_some(pages)
    }

    fn gather(&mut self, pages: std::ops::Range<u64>) {
        let count = pages.end - pages.start;
        self.words.clear();
        // One more, in which the last run ends.
        self.words.resize((count / WORD_BITS + 1) as usize, 0);
        for range in self.ranges.drain(..) {
            let (first, end) = range.page_indices();
            for (word, mask) in masks(first - pages.start..end - pages.start) {
                self.words[word] |= mask;
            }
        }
        let (mut start, mut last) = (None, 0);
        for (number, &word) in self.words.iter().enumerate() {
            // Ones where a bit is another one than that below it: a run starts or ends.
            let mut edges = word ^ (word << 1 | last);
            last = word >> (WORD_BITS - 1);
            while edges != 0 {
                let at =
                    pages.start + number as u64 * WORD_BITS + u64::from(edges.trailing_zeros());
                edges &= edges - 1;
                start = match start {
                    None => Some(at),
                    Some(start) => {
                        self.ranges.extend(GpaRange::of_page_indices(start..at));
                        None
                    }
                };
            }
        }
    }

    /// The ranges, in the order that [`Runs::merge`] left them in.
    pub(crate) fn as_slice(&self) -> &[GpaRange] {
        &self.ranges
    }

    /// Forgets the ranges and keeps the memory for the next batch.
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{Gpa, PAGE_SIZE, Pfn};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn page(pfn: u32) -> GpaRange {
        GpaRange::with_len(Pfn(pfn).gpa(), PAGE_SIZE).unwrap()
    }

    fn merged(pfns: impl IntoIterator<Item = u32>) -> Vec<(u64, u64)> {
        let mut runs = Runs::default();
        for pfn in pfns {
            runs.push(page(pfn));
        }
        runs.merge();
        runs.as_slice()
            .iter()
            .map(|range| range.page_indices())
            .collect()
    }

    #[test]
    fn every_order_gives_one_range() {
        assert_eq!(merged(0..100), [(0, 100)]);
        assert_eq!(merged((0..100).rev()), [(0, 100)]);
        assert_eq!(merged((0..100).map(|i| i * 37 % 100)), [(0, 100)]);
        assert_eq!(merged([5, 5, 5, 4, 5]), [(4, 6)]);
    }

    #[test]
    fn a_batch_may_be_empty() {
        assert_eq!(merged([]), []);
    }

    proptest! {
        /// Sorted, no duplicate, none lost, none added, nothing left to merge.
        #[test]
        fn runs_are_the_set_of_pages(
            pfns in prop::collection::vec(prop_oneof![0..200u32, any::<u32>()], 0..500)
        ) {
            let runs = merged(pfns.iter().copied());
            let pages: Vec<u64> = runs.iter().flat_map(|&(first, end)| first..end).collect();
            let model: BTreeSet<u64> = pfns.into_iter().map(u64::from).collect();
            prop_assert_eq!(pages, model.into_iter().collect::<Vec<_>>());
            prop_assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }

        /// The same for ranges of bytes.
        #[test]
        fn runs_are_the_set_of_bytes(
            ranges in prop::collection::vec((0..500u64, 1..40u64), 0..60)
        ) {
            let mut runs = Runs::default();
            let mut model = BTreeSet::new();
            for (start, len) in ranges {
                runs.push(GpaRange::with_len(Gpa(start), len).unwrap());
                model.extend(start..start + len);
            }
            runs.merge();
            let bytes: Vec<u64> =
                runs.as_slice().iter().flat_map(|r| r.start().0..r.end().0).collect();
            prop_assert_eq!(bytes, model.into_iter().collect::<Vec<_>>());
            prop_assert!(runs.as_slice().windows(2).all(|pair| pair[0].end() < pair[1].start()));
        }
    }

    /// As many as make it worth a bitmap, and a few that overlap.
    #[test]
    fn many_in_any_order_are_the_same_by_bitmap_and_by_sort() {
        let many = MIN_FOR_BITMAP as u64 * 2;
        for stride in [3, 7 * MAX_PAGES_FOR_BITMAP / many] {
            let pages = (0..many).map(|i| 5 + i * 389 % many * stride);
            let mut runs = Runs::default();
            for page in pages.clone() {
                runs.push(GpaRange::of_page_indices(page..page + 1 + page % 5).unwrap());
            }
            assert_eq!(runs.pages_for_bitmap().is_some(), stride == 3);
            runs.merge();
            let merged: Vec<u64> = runs
                .as_slice()
                .iter()
                .flat_map(|run| run.page_indices().0..run.page_indices().1)
                .collect();
            let model: BTreeSet<u64> = pages.flat_map(|page| page..page + 1 + page % 5).collect();
            assert_eq!(merged, model.into_iter().collect::<Vec<_>>());
            let apart = |pair: &[GpaRange]| pair[0].end() < pair[1].start();
            assert!(runs.as_slice().windows(2).all(apart));
        }
    }

    /// Each of them would have all of its bits set, one after the other.
    #[test]
    fn ranges_that_overlap_are_sorted() {
        let half = MAX_PAGES_FOR_BITMAP / 2;
        let mut runs = Runs::default();
        for i in 0..MIN_FOR_BITMAP as u64 {
            let first = i % 2 * half;
            runs.push(GpaRange::of_page_indices(first..first + half - 1).unwrap());
        }
        assert_eq!(runs.pages_for_bitmap(), None);
        runs.merge();
        assert_eq!(runs.as_slice().len(), 2);
    }

    #[test]
    fn the_highest_page_is_kept() {
        let mut runs = Runs::default();
        runs.push(page(u32::MAX));
        runs.merge();
        assert_eq!(runs.as_slice()[0].bytes(), PAGE_SIZE);
    }
}
