// SPDX-License-Identifier: GPL-2.0-or-later
//! Which pages are owed to the reader of a list.

use super::Error;
use super::sync::{AtomicU64, Ordering, filled, zeroed};
use std::sync::OnceLock;

/// Pages that can be told apart are below this: 2^40, for guest memory of up to 2^52 bytes.
pub const PAGES: u64 = if cfg!(loom) { 256 } else { 1 << 40 };

/// Words of a chunk, which takes 4 KiB and stands for 128 MiB of guest memory. With loom, which
/// makes everything anew for each order that it tries, all is small.
const CHUNK_WORDS: usize = if cfg!(loom) { 2 } else { 512 };
const CHUNK_PAGES: u64 = CHUNK_WORDS as u64 * 64;
/// Chunks of a table, which stands for 1 TiB.
const TABLE_CHUNKS: usize = if cfg!(loom) { 2 } else { 1 << 13 };
const TABLE_PAGES: u64 = TABLE_CHUNKS as u64 * CHUNK_PAGES;
const TABLES: usize = (PAGES / TABLE_PAGES) as usize;

type Chunk = Box<[AtomicU64]>;
type Table = Box<[OnceLock<Chunk>]>;

/// A sparse bitmap that threads change together. Memory that is plugged in later has its place
/// already.
pub(super) struct Marks {
    tables: Box<[OnceLock<Table>]>,
}

/// What `place` holds; made first if it is empty. Of two that make it at the same time one is kept.
fn get_or_make<T>(
    place: &OnceLock<T>,
    make: impl FnOnce() -> Result<T, Error>,
) -> Result<&T, Error> {
    if let Some(there) = place.get() {
        return Ok(there);
    }
    let _lost = place.set(make()?);
    place.get().ok_or(Error::Memory)
}

fn chunk_of(page: u64) -> usize {
    (page / CHUNK_PAGES) as usize % TABLE_CHUNKS
}

fn word_of(page: u64) -> usize {
    (page / 64) as usize % CHUNK_WORDS
}

impl Marks {
    /// # Errors
    ///
    /// [`Error::Memory`]
    pub(super) fn new() -> Result<Marks, Error> {
        let tables = filled(TABLES, OnceLock::new)?;
        Ok(Marks { tables })
    }

    /// The word of `page`, which is below [`PAGES`].
    fn make_word(&self, page: u64) -> Result<&AtomicU64, Error> {
        let table = &self.tables[(page / TABLE_PAGES) as usize];
        let table = get_or_make(table, || filled(TABLE_CHUNKS, OnceLock::new))?;
        let chunk = get_or_make(&table[chunk_of(page)], || zeroed(CHUNK_WORDS))?;
        Ok(&chunk[word_of(page)])
    }

    /// The same; none if nothing around it ever had a mark.
    fn word(&self, page: u64) -> Option<&AtomicU64> {
        let table = self.tables.get((page / TABLE_PAGES) as usize)?.get()?;
        Some(&table[chunk_of(page)].get()?[word_of(page)])
    }

    /// Marks `page` + i for each bit i of `bits`; returns the bits of those that had no mark. All
    /// are below [`PAGES`].
    ///
    /// # Errors
    ///
    /// [`Error::Memory`]; nothing is marked then.
    pub(super) fn set(&self, page: u64, bits: u64) -> Result<u64, Error> {
        let shift = page % 64;
        let low = bits << shift;
        let high = if shift == 0 { 0 } else { bits >> (64 - shift) };
        // Both words before either is changed.
        let low_word = (low != 0).then(|| self.make_word(page)).transpose()?;
        let high_word = (high != 0).then(|| self.make_word(page + 64)).transpose()?;
        let set = |word: &AtomicU64, bits| bits & !word.fetch_or(bits, Ordering::AcqRel);
        let new_low = low_word.map_or(0, |word| set(word, low)) >> shift;
        let new_high = high_word.map_or(0, |word| set(word, high) << (64 - shift));
        Ok(new_low | new_high)
    }

    /// Takes the marks of `pages`, which are sorted, from them; moves those that had one to the
    /// front and returns how many.
    pub(super) fn take(&self, pages: &mut [u64]) -> usize {
        let (mut next, mut kept) = (0, 0);
        while next < pages.len() {
            let (first, bits) = word_at(pages, &mut next);
            let word = self.word(first);
            let mut had = word.map_or(0, |word| word.fetch_and(!bits, Ordering::AcqRel) & bits);
            while had != 0 {
                pages[kept] = first + u64::from(had.trailing_zeros());
                kept += 1;
                had &= had - 1;
            }
        }
        kept
    }

    /// Takes marks of `pages`, which are sorted, from them, where there are any; returns how many
    /// pages there are.
    pub(super) fn forget(&self, pages: &[u64]) -> usize {
        let mut next = 0;
        while next < pages.len() {
            let (first, bits) = word_at(pages, &mut next);
            if let Some(word) = self.word(first) {
                word.fetch_and(!bits, Ordering::AcqRel);
            }
        }
        pages.len()
    }

    /// Fills `out` with pages that have a mark, in order, from `from` on; returns how many, and
    /// where to go on, if there may be more.
    pub(super) fn find(&self, from: u64, out: &mut [u64]) -> (usize, Option<u64>) {
        let mut count = 0;
        let mut page = from;
        while page < PAGES {
            let Some(table) = self.tables[(page / TABLE_PAGES) as usize].get() else {
                page = (page / TABLE_PAGES + 1) * TABLE_PAGES;
                continue;
            };
            let Some(chunk) = table[chunk_of(page)].get() else {
                page = (page / CHUNK_PAGES + 1) * CHUNK_PAGES;
                continue;
            };
            for word in &chunk[word_of(page)..] {
                let mut bits = word.load(Ordering::Relaxed) & (u64::MAX << (page % 64));
                while bits != 0 {
                    let found = page / 64 * 64 + u64::from(bits.trailing_zeros());
                    let Some(place) = out.get_mut(count) else {
                        return (count, Some(found));
                    };
                    *place = found;
                    count += 1;
                    bits &= bits - 1;
                }
                page = (page / 64 + 1) * 64;
            }
        }
        (count, None)
    }

    /// Takes all marks away.
    pub(super) fn clear(&self) {
        let tables = self.tables.iter().filter_map(OnceLock::get);
        let chunks = tables.flat_map(|table| table.iter().filter_map(OnceLock::get));
        for word in chunks.flat_map(|chunk| chunk.iter()) {
            if word.load(Ordering::Relaxed) != 0 {
                word.swap(0, Ordering::Relaxed);
            }
        }
    }
}

/// The pages from `next` on that lie in the same 64 as the first, as a bitmap, with the first of
/// those 64; `next` moves past them. `pages` are sorted.
pub(super) fn word_at(pages: &[u64], next: &mut usize) -> (u64, u64) {
    let first = pages[*next] / 64 * 64;
    let mut bits = 0;
    while let Some(page) = pages.get(*next).filter(|page| *page / 64 * 64 == first) {
        bits |= 1 << (page % 64);
        *next += 1;
    }
    (first, bits)
}
