// SPDX-License-Identifier: GPL-2.0-or-later
//! The migration's dirty bitmaps, as the host lends them.

use crate::memory::BlockId;
use std::ops::Range;

/// The dirty bitmap of one RAM block. All numbers count target pages of that block.
pub struct BlockView<'a> {
    /// A bit for each page that is still to be sent.
    pub dirty: &'a mut [u64],
    /// How many pages the block has. `dirty` holds at least as many bits.
    pub pages: u64,
    /// A bit for each chunk of the block whose dirty log is not armed: a write there need not be
    /// noticed. Empty where the log is always armed.
    pub unarmed: &'a [u64],
    /// log2 of the number of pages in a chunk.
    pub chunk_shift: u32,
}

impl BlockView<'_> {
    /// Whether the dirty log of `chunk` is armed.
    pub fn is_armed(&self, chunk: usize) -> bool {
        let word = self.unarmed.get(chunk / 64).copied().unwrap_or(0);
        word & (1 << (chunk % 64)) == 0
    }

    /// The pages of a word of `dirty` whose log is armed, as its bits.
    pub fn armed_pages(&self, word: usize) -> u64 {
        let first = word as u64 * 64;
        let is_armed = |page: u64| self.is_armed((page >> self.chunk_shift) as usize);
        if self.chunk_shift >= 6 {
            return if is_armed(first) { u64::MAX } else { 0 };
        }
        let pages = 1 << self.chunk_shift;
        let armed = (0..64).step_by(pages).filter(|&at| is_armed(first + at));
        armed.fold(0, |bits, at| bits | ((1 << pages) - 1) << at)
    }

    /// The pages of `chunk`; empty past the end of the block.
    pub fn chunk_pages(&self, chunk: usize) -> Range<u64> {
        let start = (chunk as u64) << self.chunk_shift;
        start.min(self.pages)..start.saturating_add(1 << self.chunk_shift).min(self.pages)
    }

    /// How many chunks the block has.
    pub fn chunks(&self) -> usize {
        self.pages.div_ceil(1 << self.chunk_shift) as usize
    }
}

/// The dirty bitmaps of all RAM blocks that are migrated. Whoever holds one holds the migration's
/// bitmap lock: nobody else looks at the bitmaps meanwhile.
pub trait DirtyBitmaps {
    /// The bitmap of `block`; `None` when the block is not migrated, or there is no such block.
    fn view(&mut self, block: BlockId) -> Option<BlockView<'_>>;

    /// The block that the host address lies in, and where in the block, in bytes.
    fn find(&mut self, host: usize) -> Option<(BlockId, u64)>;

    /// Arms the dirty log for `pages` of `block`: every write from now on will be seen by the next
    /// synchronization. With the last pages of a chunk, `whole_chunk` marks all of it as armed.
    fn arm(&mut self, block: BlockId, pages: Range<u64>, whole_chunk: bool);
}
