// SPDX-License-Identifier: GPL-2.0-or-later
//! A migration's bitmaps of one small block. What changes in them is counted as the library says.

use std::ops::Range;

use balloon::memory::BlockId;
use balloon::migration::bitmaps::{BlockView, DirtyBitmaps};
use balloon::migration::skips::DirtyChange;

/// The block that is migrated, and its size.
pub(crate) const BLOCK: usize = 7;
pub(crate) const BYTES: u64 = PAGES << 12;
const PAGES: u64 = 1 << 14;
/// log2 of the pages in a chunk.
const CHUNK_SHIFT: u32 = 9;

pub(crate) struct Bitmaps {
    dirty: Vec<u64>,
    unarmed: Vec<u64>,
    count: i64,
}

impl Bitmaps {
    pub(crate) fn new() -> Bitmaps {
        Bitmaps {
            dirty: vec![u64::MAX; PAGES as usize / 64],
            unarmed: vec![u64::MAX],
            count: PAGES as i64,
        }
    }

    /// Sets the bits of `word` that `bits` has; the log is to be armed anew.
    pub(crate) fn dirty(&mut self, word: u8, bits: u64) {
        self.dirty[usize::from(word)] |= bits;
        self.unarmed.fill(u64::MAX);
        self.count = self.bits();
    }

    /// Takes note of what the library says that it changed.
    pub(crate) fn count(&mut self, change: DirtyChange) {
        self.count += change.set as i64 - change.cleared as i64;
        assert_eq!(self.count, self.bits(), "dirty pages are counted wrong");
    }

    fn bits(&self) -> i64 {
        self.dirty.iter().map(|w| i64::from(w.count_ones())).sum()
    }
}

impl DirtyBitmaps for Bitmaps {
    fn view(&mut self, id: BlockId) -> Option<BlockView<'_>> {
        (id.0 == BLOCK).then_some(BlockView {
            dirty: &mut self.dirty,
            pages: PAGES,
            unarmed: &self.unarmed,
            chunk_shift: CHUNK_SHIFT,
        })
    }

    fn find(&mut self, host: usize) -> Option<(BlockId, u64)> {
        let block = (host >> 54).checked_sub(1)?;
        Some((BlockId(block), host as u64 & ((1 << 54) - 1)))
    }

    fn arm(&mut self, _: BlockId, pages: Range<u64>, whole_chunk: bool) {
        assert!(pages.start < pages.end && pages.end <= PAGES);
        if whole_chunk {
            self.unarmed[0] &= !(1 << (pages.start >> CHUNK_SHIFT));
        }
    }
}
