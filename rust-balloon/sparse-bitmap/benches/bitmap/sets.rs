// SPDX-License-Identifier: GPL-2.0-or-later
//! The three bitmaps, each used as its users would use it.

use fixedbitset::FixedBitSet;
use roaring::RoaringBitmap;
use sparse_bitmap::SparseBitmap;
use std::ops::Range;

/// What roaring keeps for each container beside its values, in bytes.
const ROARING_CONTAINER: usize = 32;

/// What is measured of a set of indices.
pub(crate) trait Set {
    /// Its name in the table.
    const NAME: &'static str;

    fn new(universe: u32) -> Self;
    fn add(&mut self, index: u32);
    fn add_range(&mut self, range: Range<u32>);
    fn clear(&mut self, index: u32);
    fn clear_range(&mut self, range: Range<u32>);
    fn contains(&self, index: u32) -> bool;
    /// The first index in the set that is not below `from`.
    fn find_next(&self, from: u32) -> Option<u64>;
    /// Visits each index in ascending order.
    fn for_each(&self, visit: impl FnMut(u64));
    /// Visits each run of neighbouring indices in ascending order.
    fn for_each_run(&self, visit: impl FnMut(Range<u64>));
    fn count(&self) -> u64;
    /// Bytes that the set takes.
    fn memory(&self) -> usize;
}

impl Set for SparseBitmap {
    const NAME: &'static str = "ours";

    fn new(universe: u32) -> Self {
        SparseBitmap::new(universe.into())
    }

    fn add(&mut self, index: u32) {
        self.insert_range(index.into()..u64::from(index) + 1);
    }

    fn add_range(&mut self, range: Range<u32>) {
        self.insert_range(range.start.into()..range.end.into());
    }

    fn clear(&mut self, index: u32) {
        self.remove_range(index.into()..u64::from(index) + 1);
    }

    fn clear_range(&mut self, range: Range<u32>) {
        self.remove_range(range.start.into()..range.end.into());
    }

    fn contains(&self, index: u32) -> bool {
        self.contains_range(index.into()..u64::from(index) + 1)
    }

    fn find_next(&self, from: u32) -> Option<u64> {
        self.next_index(from.into())
    }

    fn for_each(&self, visit: impl FnMut(u64)) {
        self.iter().for_each(visit);
    }

    fn for_each_run(&self, visit: impl FnMut(Range<u64>)) {
        self.runs().for_each(visit);
    }

    fn count(&self) -> u64 {
        self.len()
    }

    fn memory(&self) -> usize {
        self.memory_bytes()
    }
}

impl Set for FixedBitSet {
    const NAME: &'static str = "fixedbitset";

    fn new(universe: u32) -> Self {
        FixedBitSet::with_capacity(universe as usize)
    }

    fn add(&mut self, index: u32) {
        self.insert(index as usize);
    }

    fn add_range(&mut self, range: Range<u32>) {
        self.insert_range(range.start as usize..range.end as usize);
    }

    fn clear(&mut self, index: u32) {
        self.remove(index as usize);
    }

    fn clear_range(&mut self, range: Range<u32>) {
        self.remove_range(range.start as usize..range.end as usize);
    }

    fn contains(&self, index: u32) -> bool {
        FixedBitSet::contains(self, index as usize)
    }

    // Its iterators begin at 0 only.
    fn find_next(&self, from: u32) -> Option<u64> {
        let mut rest = from as usize..self.len();
        let found = rest.find(|&index| FixedBitSet::contains(self, index));
        found.map(|index| index as u64)
    }

    fn for_each(&self, mut visit: impl FnMut(u64)) {
        self.ones().for_each(|index| visit(index as u64));
    }

    fn for_each_run(&self, mut visit: impl FnMut(Range<u64>)) {
        let mut run = 0..0;
        for index in self.ones().map(|index| index as u64) {
            if index != run.end {
                if !run.is_empty() {
                    visit(run);
                }
                run = index..index;
            }
            run.end = index + 1;
        }
        if !run.is_empty() {
            visit(run);
        }
    }

    fn count(&self) -> u64 {
        self.count_ones(..) as u64
    }

    fn memory(&self) -> usize {
        size_of::<Self>() + size_of_val(self.as_slice())
    }
}

impl Set for RoaringBitmap {
    const NAME: &'static str = "roaring";

    fn new(_universe: u32) -> Self {
        RoaringBitmap::new()
    }

    fn add(&mut self, index: u32) {
        self.insert(index);
    }

    fn add_range(&mut self, range: Range<u32>) {
        self.insert_range(range);
    }

    fn clear(&mut self, index: u32) {
        self.remove(index);
    }

    fn clear_range(&mut self, range: Range<u32>) {
        self.remove_range(range);
    }

    fn contains(&self, index: u32) -> bool {
        RoaringBitmap::contains(self, index)
    }

    fn find_next(&self, from: u32) -> Option<u64> {
        self.range(from..).next().map(u64::from)
    }

    fn for_each(&self, mut visit: impl FnMut(u64)) {
        self.iter().for_each(|index| visit(index.into()));
    }

    fn for_each_run(&self, mut visit: impl FnMut(Range<u64>)) {
        let mut rest = self.iter();
        while let Some(run) = rest.next_range() {
            visit(u64::from(*run.start())..u64::from(*run.end()) + 1);
        }
    }

    fn count(&self) -> u64 {
        self.len()
    }

    fn memory(&self) -> usize {
        // Its figures of bytes take a value of an array for four bytes, which is two, and the bits
        // of a bitmap for bytes.
        let all = self.statistics();
        let arrays = all.n_bytes_array_containers / 2;
        let bitmaps = u64::from(all.n_bitset_containers) * (u64::from(u16::MAX) + 1) / 8;
        let values = (arrays + bitmaps + all.n_bytes_run_containers) as usize;
        size_of::<Self>() + all.n_containers as usize * ROARING_CONTAINER + values
    }
}
