// SPDX-License-Identifier: GPL-2.0-or-later
//! What is done to the bitmaps.

use crate::data::Data;
use crate::sets::Set;
use criterion::{BatchSize, Bencher};
use std::hint::black_box;

/// A search over sparse data that has no better way looks at a thousand places.
const SEARCHES: usize = 1 << 12;
/// How many indices are found one from the other.
const STEPS: u64 = 1 << 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Makes a set of single indices.
    Add,
    /// Makes a set of ranges.
    AddRanges,
    /// Takes single indices out of a set.
    Clear,
    /// Takes all ranges out of a set.
    ClearRanges,
    /// Whether an index is in the set; half of those asked for are.
    Contains,
    /// The next index in the set from some place on.
    FindNext,
    /// The indices in the set, each found from the one before: the set may change in between.
    FindOn,
    /// All indices in the set by an iterator.
    Iterate,
    /// All runs of neighbouring indices.
    Runs,
    /// The number of indices in the set.
    Count,
}

impl Operation {
    pub(crate) const ALL: [Operation; 10] = [
        Operation::Add,
        Operation::AddRanges,
        Operation::Clear,
        Operation::ClearRanges,
        Operation::Contains,
        Operation::FindNext,
        Operation::FindOn,
        Operation::Iterate,
        Operation::Runs,
        Operation::Count,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Add => "add",
            Operation::AddRanges => "add ranges",
            Operation::Clear => "clear",
            Operation::ClearRanges => "clear ranges",
            Operation::Contains => "contains",
            Operation::FindNext => "find_next",
            Operation::FindOn => "find_next, on and on",
            Operation::Iterate => "iterate",
            Operation::Runs => "runs",
            Operation::Count => "count",
        }
    }

    /// What the time is given for.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Operation::AddRanges | Operation::ClearRanges => "range",
            Operation::Runs => "run",
            Operation::Count => "call",
            _ => "index",
        }
    }

    /// How many of those there are.
    pub(crate) fn units(self, data: &Data) -> u64 {
        match self {
            Operation::Add | Operation::Clear => data.singles.len() as u64,
            Operation::AddRanges | Operation::ClearRanges | Operation::Runs => {
                data.ranges.len() as u64
            }
            Operation::Contains => data.probes.len() as u64,
            Operation::FindNext => SEARCHES as u64,
            Operation::FindOn => STEPS.min(indices(data)),
            Operation::Iterate => indices(data),
            Operation::Count => 1,
        }
    }

    /// Whether it is another thing to do it with `data` than with data that is measured, too.
    pub(crate) fn is_for(self, data: &Data) -> bool {
        match self {
            Operation::Add | Operation::Clear => true,
            Operation::AddRanges | Operation::ClearRanges => data.has_ranges(),
            // The order in which a set was made does not matter any more.
            _ => data.has_ranges() || data.is_ascending(),
        }
    }

    pub(crate) fn run<S: Set>(self, bencher: &mut Bencher<'_>, data: &Data) {
        // A set comes back from what is measured, so that its end is not.
        let each = BatchSize::PerIteration;
        match self {
            Operation::Add | Operation::AddRanges => {
                let add = |()| self.change(S::new(data.universe()), data);
                bencher.iter_batched(|| (), add, each);
            }
            Operation::Clear | Operation::ClearRanges => {
                let clear = |set| self.change::<S>(set, data);
                bencher.iter_batched(|| full(data), clear, each);
            }
            _ => {
                let set = full::<S>(data);
                bencher.iter(|| self.ask(black_box(&set), data));
            }
        }
    }

    fn change<S: Set>(self, mut set: S, data: &Data) -> S {
        let singles = data.singles.iter().copied();
        let ranges = data.ranges.iter().cloned();
        match self {
            Operation::Add => singles.for_each(|index| set.add(index)),
            Operation::Clear => singles.for_each(|index| set.clear(index)),
            Operation::AddRanges => ranges.for_each(|range| set.add_range(range)),
            _ => ranges.for_each(|range| set.clear_range(range)),
        }
        set
    }

    /// Some number in which all answers take part.
    pub(crate) fn ask<S: Set>(self, set: &S, data: &Data) -> u64 {
        let mut answer = 0;
        match self {
            Operation::Contains => {
                let hits = data.probes.iter().filter(|&&index| set.contains(index));
                answer = hits.count() as u64;
            }
            Operation::FindNext => {
                for &from in &data.probes[..SEARCHES] {
                    answer ^= set.find_next(from).unwrap_or_default();
                }
            }
            Operation::FindOn => {
                let mut from = 0;
                for _ in 0..self.units(data) {
                    let found = set.find_next(from).unwrap_or_default();
                    answer ^= found;
                    from = found as u32 + 1;
                }
            }
            Operation::Iterate => set.for_each(|index| answer ^= index),
            Operation::Runs => {
                set.for_each_run(|run| answer ^= run.start ^ run.end.rotate_left(32))
            }
            _ => answer = set.count(),
        }
        answer
    }
}

fn indices(data: &Data) -> u64 {
    data.ranges.iter().map(|range| range.len() as u64).sum()
}

/// A set that holds all of `data`.
pub(crate) fn full<S: Set>(data: &Data) -> S {
    let mut set = S::new(data.universe());
    data.ranges
        .iter()
        .cloned()
        .for_each(|range| set.add_range(range));
    set
}
