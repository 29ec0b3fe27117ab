// SPDX-License-Identifier: GPL-2.0-or-later
//! The addresses of a batch, made into sorted disjoint ranges.

use crate::page::GpaRange;

/// Gathers ranges in any order, overlapping or twice, and gives them back sorted and merged.
///
/// Drivers list neighbouring pages one after the other, upward or downward, so most pages join the
/// range before them and never reach the sort.
#[derive(Default)]
pub struct Runs {
    ranges: Vec<GpaRange>,
}

impl Runs {
    /// Adds a range.
    #[inline]
    pub fn push(&mut self, range: GpaRange) {
        if let Some(last) = self.ranges.last_mut()
            && last.try_merge(range)
        {
            return;
        }
        self.ranges.push(range);
    }

    /// Sorts the ranges and merges all that overlap or touch. Afterwards they ascend, none touches
    /// the next, and together they cover exactly the addresses that were added.
    pub fn merge(&mut self) {
        let sorted = self.ranges.is_sorted_by_key(|range| range.start());
        if !sorted {
            self.ranges.sort_unstable_by_key(|range| range.start());
        }
        self.ranges.dedup_by(|next, kept| kept.try_merge(*next));
    }

    /// The ranges, in the order that [`Runs::merge`] left them in.
    pub fn as_slice(&self) -> &[GpaRange] {
        &self.ranges
    }

    /// Forgets the ranges and keeps the memory for the next batch.
    pub fn clear(&mut self) {
        self.ranges.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::{Gpa, PAGE_SIZE, Pfn};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn merged(pfns: impl IntoIterator<Item = u32>) -> Vec<(u64, u64)> {
        let mut runs = Runs::default();
        for pfn in pfns {
            runs.push(GpaRange::page(Pfn(pfn)));
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

    #[test]
    fn the_highest_page_is_kept() {
        let mut runs = Runs::default();
        runs.push(GpaRange::page(Pfn(u32::MAX)));
        runs.merge();
        assert_eq!(runs.as_slice()[0].bytes(), PAGE_SIZE);
    }
}
