// SPDX-License-Identifier: GPL-2.0-or-later
//! The sets of indices that are measured.

use std::ops::Range;

/// Operations on single indices take no more of them: a large set is not measured longer than a
/// small one.
const MAX_SINGLES: usize = 1 << 20;
/// How many places a set is asked about.
const PROBES: usize = 1 << 17;
/// One index in so many is in a sparse set, and missing in a dense one.
const GAP: u32 = 1000;
/// The indices of a block, and from one block to the next. 512 pages of 4 KiB are a huge page.
const BLOCK: u32 = 512;
const BLOCK_STEP: u32 = 4096;

/// A set of indices, in the order in which they come.
pub(crate) struct Data {
    /// What it is like.
    pub(crate) name: &'static str,
    /// Indices lie below this power of two.
    pub(crate) universe_log2: u32,
    /// All of it.
    pub(crate) ranges: Vec<Range<u32>>,
    /// As much of the front of `ranges` as is worked on index by index.
    pub(crate) singles: Vec<u32>,
    /// Places all over the universe, half of them in the set.
    pub(crate) probes: Vec<u32>,
}

impl Data {
    fn new(name: &'static str, universe_log2: u32, ranges: Vec<Range<u32>>) -> Data {
        let singles = ranges.iter().cloned().flatten().take(MAX_SINGLES).collect();
        let mut random = Random(0x5eed);
        let probes = (0..PROBES).map(|number| match number % 2 {
            0 => random.below(1 << universe_log2),
            _ => {
                let range = &ranges[random.below(ranges.len() as u32) as usize];
                range.start + random.below(range.end - range.start)
            }
        });
        Data {
            name,
            universe_log2,
            probes: probes.collect(),
            singles,
            ranges,
        }
    }

    /// Its name and the universe, for people.
    pub(crate) fn title(&self) -> String {
        format!("{} 2^{}", self.name, self.universe_log2)
    }

    /// The same, for a directory.
    pub(crate) fn dir(&self) -> String {
        let name: String = self.name.split([',', ' ']).collect();
        format!("{name}-{}", self.universe_log2)
    }

    /// Indices lie below this.
    pub(crate) fn universe(&self) -> u32 {
        1 << self.universe_log2
    }

    /// Whether its ranges are more than single indices.
    pub(crate) fn has_ranges(&self) -> bool {
        self.ranges[0].len() > 1
    }

    /// Whether it comes in ascending order.
    pub(crate) fn is_ascending(&self) -> bool {
        self.ranges
            .windows(2)
            .all(|pair| pair[0].end <= pair[1].start)
    }
}

/// All sets of indices below a power of two.
pub(crate) fn all(universe_log2: u32) -> [Data; 4] {
    let mut random = Random(u64::from(universe_log2));
    let universe = 1 << universe_log2;
    let marks: Vec<u32> = (0..universe / GAP)
        .map(|number| number * GAP + random.below(GAP))
        .collect();
    let starts = [0].into_iter().chain(marks.iter().map(|mark| mark + 1));
    let ends = marks.iter().copied().chain([universe]);
    let dense = starts.zip(ends).map(|(start, end)| start..end);
    let dense = dense.filter(|range| !range.is_empty()).collect();
    let ascending: Vec<_> = marks.iter().map(|&mark| mark..mark + 1).collect();
    let blocks = (0..universe / BLOCK_STEP).map(|number| number * BLOCK_STEP);
    let blocks = blocks.map(|start| start..start + BLOCK).collect();
    [
        Data::new("dense", universe_log2, dense),
        Data::new("sparse", universe_log2, ascending.clone()),
        Data::new(
            "sparse, shuffled",
            universe_log2,
            random.shuffled(ascending),
        ),
        Data::new("blocks, shuffled", universe_log2, random.shuffled(blocks)),
    ]
}

/// Numbers that are the same in each run (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u32) -> u32 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u32
    }

    fn shuffled<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u32 + 1) as usize);
        }
        items
    }
}
