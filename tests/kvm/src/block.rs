// SPDX-License-Identifier: GPL-2.0-or-later
//! A block of the machine's RAM, as QEMU has it: its pages have numbers of their own,
//! wherever the guest sees them, and a bit each that says that they are dirty.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::PAGE;
use crate::memory::{Backing, Memory};

/// A block of RAM.
#[derive(Debug)]
pub struct Block {
    first: u64,
    memory: Arc<Memory>,
    dirty: Box<[AtomicU64]>,
}

impl Block {
    /// A block with these pages, a multiple of 64. No page is dirty.
    ///
    /// # Errors
    /// When the host has no room, and another number of pages.
    pub fn new(pages: Range<u64>) -> io::Result<Arc<Block>> {
        let (first, count) = (pages.start, pages.end - pages.start);
        if !count.is_multiple_of(64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Arc::new(Block {
            first,
            memory: Arc::new(Memory::new(count * PAGE, Backing::Small)?),
            dirty: (0..count / 64).map(|_| AtomicU64::new(0)).collect(),
        }))
    }

    /// Its memory.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The numbers of its pages.
    pub fn pages(&self) -> Range<u64> {
        self.first..self.first + self.memory.len() / PAGE
    }

    /// Sets the bits of pages: bit 0 of word `word` of `bits` is the first one of 64.
    /// Gives those that were not set.
    pub(crate) fn set_dirty(&self, word: usize, bits: u64) -> u64 {
        bits & !self.dirty[word].fetch_or(bits, Ordering::SeqCst)
    }

    /// Clears the bit of the page with this number.
    pub(crate) fn clear(&self, page: u64) {
        let offset = page - self.first;
        let word = &self.dirty[(offset / 64) as usize];
        word.fetch_and(!(1 << (offset % 64)), Ordering::SeqCst);
    }

    /// Clears all bits.
    pub(crate) fn clear_all(&self) {
        let clear = |word: &AtomicU64| word.store(0, Ordering::SeqCst);
        self.dirty.iter().for_each(clear);
    }

    /// Clears all bits; gives the pages whose bits were set.
    pub(crate) fn take_all(&self) -> Vec<u64> {
        let mut pages = Vec::new();
        for (first, word) in self.pages().step_by(64).zip(&self.dirty) {
            let bits = word.swap(0, Ordering::SeqCst);
            pages.extend(
                (0..64)
                    .filter(|bit| bits & (1 << bit) != 0)
                    .map(|bit| first + bit),
            );
        }
        pages
    }
}
