// SPDX-License-Identifier: GPL-2.0-or-later
//! Large guests, and the bitmaps of their migration.

use std::ops::Range;

use balloon::memory::{Backing, BlockId, MemoryMap, Section};
use balloon::migration::bitmaps::{BlockView, DirtyBitmaps};
use balloon::migration::skips::Skips;
use balloon::page::GpaRange;
use balloon::pageset::PAGE_LIMIT;
use sparse_bitmap::SparseBitmap;

/// Pages of 4 KiB in a GiB.
pub(crate) const GIB: u64 = 1 << 18;
/// Guests of 64 GiB and of 1 TiB, in GiB.
pub(crate) const SIZES: [u64; 2] = [64, 1024];
/// The host address of the first byte.
pub(crate) const HOST: usize = 1 << 46;
/// The only block, and where the guest sees it.
pub(crate) const BLOCK: BlockId = BlockId(7);
/// log2 of the pages in a chunk: QEMU's default.
const CHUNK_SHIFT: u32 = 18;

/// The word of this number, of a set of pages.
pub(crate) type Word = fn(u64) -> u64;

/// The sets of pages, as a word of each 64, that cost most in one way or another.
pub(crate) const WORST: [(&str, Word); 5] = [
    ("every second page", |_| 0x5555_5555_5555_5555),
    ("one page of 64", |_| 1),
    ("random pages", random),
    ("a page in each 128 MiB", |word| {
        u64::from(word.is_multiple_of(512))
    }),
    ("all pages", |_| u64::MAX),
];

/// Bits that nobody could guess.
pub(crate) fn random(number: u64) -> u64 {
    let mixed = (number ^ number >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// The migration of a guest, all of whose pages are dirty.
pub(crate) struct Guest {
    pub(crate) dirty: Vec<u64>,
    unarmed: Vec<u64>,
    pages: u64,
    pub(crate) looked_up: u64,
    /// Its block is not migrated any more.
    pub(crate) is_gone: bool,
}

impl Guest {
    pub(crate) fn new(gib: u64) -> Guest {
        let pages = gib * GIB;
        Guest {
            dirty: vec![u64::MAX; (pages / 64) as usize],
            unarmed: vec![u64::MAX; (pages >> CHUNK_SHIFT).div_ceil(64) as usize],
            pages,
            looked_up: 0,
            is_gone: false,
        }
    }

    pub(crate) fn words(&self) -> u64 {
        self.pages / 64
    }

    /// The guest sees its pages from page `first` on.
    pub(crate) fn memory(&self, first: u64) -> MemoryMap {
        let section = Section {
            gpa: GpaRange::of_page_indices(first..first + self.pages).expect("pages"),
            block: BLOCK,
            offset: 0,
            page_size: 4096,
            host: HOST,
            backing: Backing::default(),
        };
        MemoryMap::new(vec![section]).expect("a map")
    }

    /// A balloon of the pages that `word` says, moved by `first` pages.
    pub(crate) fn balloon(&self, first: u64, word: impl Fn(u64) -> u64) -> SparseBitmap {
        let mut pages = SparseBitmap::new(PAGE_LIMIT);
        let shift = first % 64;
        for number in 0..self.words() {
            let at = ((first / 64) + number) as usize;
            let bits = word(number);
            pages.insert_word(at, bits << shift);
            if shift != 0 {
                pages.insert_word(at + 1, bits >> (64 - shift));
            }
        }
        pages
    }

    /// The bitmap was synchronized: the log is to be armed anew.
    pub(crate) fn synced(&mut self, skips: &mut Skips) {
        self.unarmed.fill(u64::MAX);
        skips.synced();
    }
}

impl DirtyBitmaps for Guest {
    fn view(&mut self, block: BlockId) -> Option<BlockView<'_>> {
        self.looked_up += 1;
        (block == BLOCK && !self.is_gone).then_some(BlockView {
            dirty: &mut self.dirty,
            pages: self.pages,
            unarmed: &self.unarmed,
            chunk_shift: CHUNK_SHIFT,
        })
    }

    fn find(&mut self, host: usize) -> Option<(BlockId, u64)> {
        self.looked_up += 1;
        let offset = host.checked_sub(HOST)? as u64;
        (offset < self.pages << 12).then_some((BLOCK, offset))
    }

    fn arm(&mut self, _: BlockId, pages: Range<u64>, whole_chunk: bool) {
        let chunk = pages.start >> CHUNK_SHIFT;
        if whole_chunk {
            self.unarmed[(chunk / 64) as usize] &= !(1 << (chunk % 64));
        }
    }
}
