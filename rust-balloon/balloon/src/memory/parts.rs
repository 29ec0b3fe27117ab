// SPDX-License-Identifier: GPL-2.0-or-later
//! What is there of guest RAM, some of which comes in parts.

use std::collections::BTreeMap;
use std::ops::Range;

/// The 4 KiB pages that are there, as runs.
///
/// What is asked for is looked up among the runs: a guest can ask in each entry of a message
/// whether a range of any length is there, and nobody may have to look at all of that range.
///
/// # Invariants
///
/// No run is empty, and no two overlap or touch.
#[derive(Default)]
pub(super) struct Parts {
    /// The end of each run by its start.
    runs: BTreeMap<u64, u64>,
}

impl Parts {
    pub(super) fn add(&mut self, pages: Range<u64>) {
        if pages.is_empty() {
            return;
        }
        let Range { mut start, mut end } = pages;
        if let Some((&before, &past)) = self.runs.range(..start).next_back()
            && past >= start
        {
            start = before;
            end = end.max(past);
        }
        while let Some((&first, &past)) = self.runs.range(start..=end).next() {
            self.runs.remove(&first);
            end = end.max(past);
        }
        self.runs.insert(start, end);
    }

    pub(super) fn clear(&mut self, pages: Range<u64>) {
        if pages.is_empty() {
            return;
        }
        if let Some((&before, &past)) = self.runs.range(..pages.start).next_back()
            && past > pages.start
        {
            self.runs.insert(before, pages.start);
            self.keep_behind(&pages, past);
        }
        while let Some((&first, &past)) = self.runs.range(pages.clone()).next() {
            self.runs.remove(&first);
            self.keep_behind(&pages, past);
        }
    }

    /// A run that ended at `past` loses `pages`, and has to keep what lies behind them.
    fn keep_behind(&mut self, pages: &Range<u64>, past: u64) {
        if past > pages.end {
            self.runs.insert(pages.end, past);
        }
    }

    /// Whether the first of `pages`, which are not none, is there, and up to where all others of
    /// them are as it is.
    pub(super) fn front(&self, pages: Range<u64>) -> (bool, u64) {
        let here = self.runs.range(..=pages.start).next_back();
        if let Some((_, &past)) = here
            && past > pages.start
        {
            return (true, past.min(pages.end));
        }
        let next = self.runs.range(pages.clone()).next();
        (false, next.map_or(pages.end, |(&first, _)| first))
    }

    pub(super) fn contains_all(&self, pages: Range<u64>) -> bool {
        pages.is_empty() || self.front(pages.clone()) == (true, pages.end)
    }

    /// In how many runs they are.
    pub(super) fn runs(&self) -> usize {
        self.runs.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// They are added, or cleared.
    fn steps() -> impl Strategy<Value = Vec<(bool, Range<u64>)>> {
        let pages = (0..64u64, 0..20u64).prop_map(|(start, len)| start..start + len);
        prop::collection::vec((any::<bool>(), pages), 0..40)
    }

    proptest! {
        #[test]
        fn runs_are_as_a_set_of_pages(steps in steps(), asked in (0..90u64, 1..20u64)) {
            let mut parts = Parts::default();
            let mut pages = BTreeSet::new();
            for (is_there, range) in steps {
                if is_there {
                    parts.add(range.clone());
                    pages.extend(range);
                } else {
                    parts.clear(range.clone());
                    pages.retain(|page| !range.contains(page));
                }
                let borders = (0..100).filter(|&page| {
                    pages.contains(&page) && (page == 0 || !pages.contains(&(page - 1)))
                });
                prop_assert_eq!(parts.runs(), borders.count());
            }
            let asked = asked.0..asked.0 + asked.1;
            let first = pages.contains(&asked.start);
            let other = asked.clone().find(|page| pages.contains(page) != first);
            prop_assert_eq!(parts.front(asked.clone()), (first, other.unwrap_or(asked.end)));
            let all = asked.clone().all(|page| pages.contains(&page));
            prop_assert_eq!(parts.contains_all(asked), all);
        }
    }
}
